# SPDX-License-Identifier: Apache-2.0
"""Loss and metrics against NumPy: padding does not count."""

import keras
import numpy as np
import pytest

from keras_seq.training import Perplexity, TokenAccuracy, masked_crossentropy

RNG = np.random.default_rng(0)
TARGETS = np.array([[4, 5, 3, 0], [2, 3, 0, 0]])
LOGITS = RNG.normal(size=(2, 4, 6)).astype("float32")
IS_TOKEN = TARGETS != 0


def test_loss_is_the_mean_over_tokens():
    log_probabilities = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_probabilities, TARGETS[..., None], -1)[..., 0]
    expected = -chosen[IS_TOKEN].mean()
    np.testing.assert_allclose(masked_crossentropy()(TARGETS, LOGITS), expected, rtol=1e-5)


@pytest.mark.parametrize("time", [4, 2])  # with as many steps as sequences, (batch,) also fits the axis time
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_weights_of_sequences_multiply_the_losses_of_their_tokens(time, label_smoothing):
    targets, logits, weights = TARGETS[:, :time], LOGITS[:, :time], np.array([0.5, 2.0])
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    smoothed = (1 - label_smoothing) * np.eye(6)[targets] + label_smoothing / 6
    losses = -(smoothed * log_probabilities).sum(-1) * (targets != 0)
    expected = (losses * weights[:, None]).sum() / (targets != 0).sum()
    loss = masked_crossentropy(label_smoothing)
    for given in (weights, weights.tolist(), weights[:, None], np.repeat(weights[:, None], time, axis=1)):
        np.testing.assert_allclose(loss(targets, logits, sample_weight=given), expected, rtol=1e-5)


def test_accuracy_is_the_mean_over_tokens():
    metric = TokenAccuracy()
    metric.update_state(TARGETS, LOGITS)
    np.testing.assert_allclose(metric.result(), (LOGITS.argmax(-1) == TARGETS)[IS_TOKEN].mean(), rtol=1e-6)


def test_accuracy_with_sample_weights():
    metric = TokenAccuracy()
    metric.update_state(TARGETS, LOGITS, sample_weight=np.array([1.0, 0.0]))
    np.testing.assert_allclose(metric.result(), (LOGITS.argmax(-1) == TARGETS)[0][IS_TOKEN[0]].mean(), rtol=1e-6)


def test_padding_changes_neither_loss_nor_accuracy():
    padded, more_logits = np.pad(TARGETS, [(0, 1), (0, 3)]), np.pad(LOGITS, [(0, 1), (0, 3), (0, 0)], mode="edge")
    np.testing.assert_allclose(
        masked_crossentropy()(padded, more_logits), masked_crossentropy()(TARGETS, LOGITS), rtol=1e-6
    )
    plain, more = TokenAccuracy(), TokenAccuracy()
    plain.update_state(TARGETS, LOGITS)
    more.update_state(padded, more_logits)
    assert plain.result() == more.result()


def token_losses(logits, targets):
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log_probabilities, targets[..., None], -1)[..., 0]


@pytest.mark.parametrize("weights", [None, np.array([0.5, 2.0]), np.arange(8.0).reshape(2, 4)])
def test_perplexity_is_the_exponential_of_the_mean_over_tokens(weights):
    metric = Perplexity()
    metric.update_state(TARGETS, LOGITS, sample_weight=weights)
    factors = IS_TOKEN * np.ones(TARGETS.shape) if weights is None else IS_TOKEN * weights.reshape(2, -1)
    expected = np.exp((token_losses(LOGITS, TARGETS) * factors).sum() / factors.sum())
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-5)
    metric.reset_state()
    assert metric.result() == 1


def test_all_tokens_count_equally_in_batches_of_unequal_widths():
    """With Keras's own mean, the tokens of a batch twice as wide would count half."""
    narrow_targets, narrow_logits = np.array([[4], [3]]), RNG.normal(size=(2, 1, 6)).astype("float32")
    accuracy, perplexity = TokenAccuracy(), Perplexity()
    for metric in (accuracy, perplexity):
        metric.update_state(TARGETS, LOGITS)
        metric.update_state(narrow_targets, narrow_logits)
    batches = [(TARGETS, LOGITS, IS_TOKEN), (narrow_targets, narrow_logits, np.ones((2, 1), bool))]
    losses = np.concatenate([token_losses(logits, targets)[is_token] for targets, logits, is_token in batches])
    is_correct = np.concatenate([(logits.argmax(-1) == targets)[is_token] for targets, logits, is_token in batches])
    np.testing.assert_allclose(accuracy.result(), is_correct.mean(), rtol=1e-6)
    np.testing.assert_allclose(perplexity.result(), np.exp(losses.mean()), rtol=1e-5)


@pytest.mark.parametrize("metric", [Perplexity("p", "float64"), TokenAccuracy("a", "float64")])
def test_config_round_trip(metric):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(copy) is type(metric)
    assert (copy.name, copy.dtype) == (metric.name, "float64")
    for each in (metric, copy):
        each.update_state(TARGETS, LOGITS)
    assert copy.result() == metric.result()


def test_metrics_without_tokens_are_not_nan():
    for metric, expected in ((Perplexity(), 1), (TokenAccuracy(), 0)):
        metric.update_state(TARGETS, LOGITS, sample_weight=np.zeros(2))
        metric.update_state(np.zeros((0, 4), int), np.zeros((0, 4, 6), "float32"))
        assert metric.result() == expected

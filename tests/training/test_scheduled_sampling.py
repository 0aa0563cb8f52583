# SPDX-License-Identifier: Apache-2.0
"""Scheduled sampling: its random draws, predictions and mixed inputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import MODES

from keras_seq.training import ExponentialGrowth, InverseSigmoidGrowth, ScheduledSampling

VOCABULARY = 9


def tokens_of(batch, time, seed=0):
    """Decoder inputs that begin with [START]; the first half of the batch ends with padding."""
    tokens = np.random.default_rng(seed).integers(3, VOCABULARY, (batch, time))
    tokens[:, 0] = 2
    tokens[: batch // 2, time // 2 :] = 0
    return tokens


def assert_binomial(count, trials, probability):
    assert abs(count - trials * probability) < 5 * np.sqrt(trials * probability * (1 - probability))


@pytest.mark.parametrize(
    ("probability", "step", "expected"),
    [
        (0.3, 0, 0.3),
        (keras.optimizers.schedules.PolynomialDecay(0.0, 100, 0.5), 50, 0.25),
        (InverseSigmoidGrowth(100), 500, 1 - 100 / (100 + np.exp(5))),
    ],
)
def test_inputs_are_replaced_with_the_probability_of_the_training_step(probability, step, expected):
    tokens = tokens_of(200, 40)
    replaced = np.asarray(ScheduledSampling(probability, seed=1).draw(tokens, tf.Variable(step)).replaced)
    replaceable = (tokens != 0) & (np.arange(40) > 0)
    assert not replaced[~replaceable].any()
    assert_binomial(replaced.sum(), replaceable.sum(), expected)
    # Neighbours in time and in the batch are independent.
    for pairs in (replaced[100:, 1:-1] & replaced[100:, 2:], replaced[100:-1, 1:] & replaced[101:, 1:]):
        assert_binomial(pairs.sum(), pairs.size, expected**2)


def test_probabilities_0_and_1_replace_none_and_all():
    tokens = tokens_of(8, 6)
    assert not np.asarray(ScheduledSampling(0).draw(tokens, 0).replaced).any()
    replaced = np.asarray(ScheduledSampling(1.0).draw(tokens, 0).replaced)
    np.testing.assert_array_equal(replaced, (tokens != 0) & (np.arange(6) > 0))


def test_every_call_draws_anew_and_a_seed_reproduces_the_draws():
    sampling = ScheduledSampling(0.5, seed=3)
    tokens = tokens_of(8, 20)
    first, second = (sampling.draw(tokens, 0) for _ in range(2))
    again = ScheduledSampling.from_config(sampling.get_config()).draw(tokens, 0)
    for a, b, c in zip(first, second, again, strict=True):
        assert np.any(np.asarray(a) != np.asarray(b))
        np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_samples_follow_the_softmax_without_padding_and_start(dtype):
    count = 20_000
    logits = tf.cast([3.0, -1.0, 4.0, 0.5, 2.0, 2.0, -30.0, 1.0, 0.0], dtype)
    probabilities = np.exp(np.array(tf.cast(logits, "float64")))
    probabilities[[0, 2]] = 0
    probabilities /= probabilities.sum()
    sampling, tokens = ScheduledSampling(1.0, seed=2), np.full((1, count + 1), 5)
    mixed = sampling.mix_parallel(tokens, tf.tile(logits[None, None], (1, count + 1, 1)), sampling.draw(tokens, 0))
    for token, counted in enumerate(np.bincount(np.asarray(mixed)[0, 1:], minlength=VOCABULARY)):
        assert_binomial(counted, count, max(probabilities[token], 1e-6))


def test_highest_level_stays_within_the_vocabulary():
    """Rounding can make the sum of the probabilities lower than the highest level."""
    sampling, tokens = ScheduledSampling(1.0), np.full((1, 2), 5)
    draws = sampling.draw(tokens, 0)._replace(levels=np.full((1, 2), np.nextafter(np.float32(1), np.float32(0))))
    logits = np.random.default_rng(0).normal(size=(1, 2, 5003)).astype("float32")
    assert 0 < np.asarray(sampling.mix_parallel(tokens, logits, draws))[0, 1] < 5003


def test_parallel_feeds_the_prediction_of_a_step_to_the_next():
    rng = np.random.default_rng(1)
    tokens, logits = tokens_of(6, 10), rng.normal(size=(6, 10, VOCABULARY)).astype("float32")
    logits[:, ::2, 0] = logits[:, 1::2, 2] = 9.0  # the most likely, but never predicted
    sampling = ScheduledSampling(0.5, sample="argmax", seed=1)
    draws = sampling.draw(tokens, 0)
    allowed = [1, *range(3, VOCABULARY)]
    predictions = np.array(allowed)[logits[:, :, allowed].argmax(-1)]
    expected = tokens.copy()
    for row, t in zip(*np.nonzero(np.asarray(draws.replaced)), strict=True):
        expected[row, t] = predictions[row, t - 1]
    assert np.any(expected != tokens)
    mixed = sampling.mix_parallel(tokens, logits, draws)
    assert mixed.dtype == tokens.dtype
    np.testing.assert_array_equal(mixed, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sample", ["argmax", "categorical"])
def test_sequential_predicts_from_the_mixed_inputs(mode, sample):
    """Against a Python loop. A prediction depends on all tokens that were fed before it."""
    table = np.random.default_rng(2).normal(size=(VOCABULARY, VOCABULARY)).astype("float32")
    tokens = tokens_of(6, 10).astype("int32")
    sampling = ScheduledSampling(0.6, "sequential", sample, seed=1)
    draws = sampling.draw(tokens, 0)

    def step(tokens, state):
        (total,) = state
        total = total / 2 + tf.gather(tf.constant(table), tokens)
        return total, [total], None

    def mix(tokens):
        return sampling.mix_sequential(tokens, step, [tf.zeros((6, VOCABULARY))], draws)

    mixed = (mix if mode == "eager" else tf.function(mix, jit_compile=mode == "jit"))(tf.constant(tokens))

    allowed = [1, *range(3, VOCABULARY)]
    expected = tokens.copy()
    for row in range(6):
        total = np.zeros(VOCABULARY)
        for t in range(9):
            total = total / 2 + table[expected[row, t]]
            weights = np.exp(total[allowed])
            index = np.searchsorted(np.cumsum(weights) / weights.sum(), float(draws.levels[row, t]))
            if draws.replaced[row, t + 1]:
                expected[row, t + 1] = allowed[weights.argmax() if sample == "argmax" else index]
    assert np.any(expected != tokens)
    np.testing.assert_array_equal(mixed, expected)


def test_schedules_follow_their_equations():
    steps = np.array([0, 1, 10, 1000, 5000, 10**7])
    for k in (1, 50.5, 2000):
        with np.errstate(over="ignore"):
            expected = 1 - k / (k + np.exp(steps / k))
        np.testing.assert_allclose(InverseSigmoidGrowth(k)(steps), expected, rtol=1e-4, atol=1e-6)
    for k in (0.5, 0.9999, 0.9999999):
        np.testing.assert_allclose(ExponentialGrowth(k)(steps), 1 - k ** steps.astype("float64"), rtol=1e-5)


@pytest.mark.parametrize(
    "probability",
    [
        0.25,
        InverseSigmoidGrowth(10),
        ExponentialGrowth(0.9),
        keras.optimizers.schedules.PolynomialDecay(0.0, 10, 0.5),
    ],
)
def test_configuration_round_trip(probability):
    sampling = ScheduledSampling(probability, "sequential", "argmax", 5)
    config = keras.saving.serialize_keras_object(sampling)
    copy = keras.saving.deserialize_keras_object(config)
    assert keras.saving.serialize_keras_object(copy) == config
    assert (copy.mode, copy.sample, copy.seed) == ("sequential", "argmax", 5)
    if callable(probability):
        assert float(copy.probability(7)) == float(probability(7)) > 0
    else:
        assert copy.probability == probability


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan"), "linear", None, [0.5], lambda step: 0.5])
def test_invalid_probabilities(probability):
    with pytest.raises(ValueError, match=r"`probability` must be a number in \[0, 1\] or .*LearningRateSchedule"):
        ScheduledSampling(probability)


@pytest.mark.parametrize("option", ["mode", "sample"])
def test_unknown_options(option):
    with pytest.raises(ValueError, match=rf"`{option}` must be one of .* Received: 'both'"):
        ScheduledSampling(0.5, **{option: "both"})


@pytest.mark.parametrize("k", [0.5, float("nan"), "1000", None])
def test_inverse_sigmoid_growth_with_invalid_k(k):
    with pytest.raises(ValueError, match="`k` must be a number of at least 1"):
        InverseSigmoidGrowth(k)


@pytest.mark.parametrize("k", [0, 1, 1.5, "0.9"])
def test_exponential_growth_with_invalid_k(k):
    with pytest.raises(ValueError, match=r"`k` must be a number in \(0, 1\)"):
        ExponentialGrowth(k)

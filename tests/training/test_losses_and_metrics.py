# SPDX-License-Identifier: Apache-2.0
"""Loss and accuracy leave out padding: against NumPy."""

import numpy as np

from keras_seq.training import TokenAccuracy, masked_crossentropy

RNG = np.random.default_rng(0)
TARGETS = np.array([[4, 5, 3, 0], [2, 3, 0, 0]])
LOGITS = RNG.normal(size=(2, 4, 6)).astype("float32")
KEPT = TARGETS != 0


def test_loss_is_the_mean_over_tokens():
    log_probabilities = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_probabilities, TARGETS[..., None], -1)[..., 0]
    expected = -chosen[KEPT].mean()
    np.testing.assert_allclose(masked_crossentropy()(TARGETS, LOGITS), expected, rtol=1e-5)


def test_accuracy_counts_tokens():
    metric = TokenAccuracy()
    metric.update_state(TARGETS, LOGITS)
    np.testing.assert_allclose(metric.result(), (LOGITS.argmax(-1) == TARGETS)[KEPT].mean(), rtol=1e-6)


def test_accuracy_weighs_sequences():
    metric = TokenAccuracy()
    metric.update_state(TARGETS, LOGITS, sample_weight=np.array([1.0, 0.0]))
    np.testing.assert_allclose(metric.result(), (LOGITS.argmax(-1) == TARGETS)[0][KEPT[0]].mean(), rtol=1e-6)


def test_padding_changes_neither():
    padded, more_logits = np.pad(TARGETS, [(0, 1), (0, 3)]), np.pad(LOGITS, [(0, 1), (0, 3), (0, 0)], mode="edge")
    np.testing.assert_allclose(
        masked_crossentropy()(padded, more_logits), masked_crossentropy()(TARGETS, LOGITS), rtol=1e-6
    )
    plain, more = TokenAccuracy(), TokenAccuracy()
    plain.update_state(TARGETS, LOGITS)
    more.update_state(padded, more_logits)
    assert plain.result() == more.result()

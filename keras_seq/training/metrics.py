# SPDX-License-Identifier: Apache-2.0
"""Metrics of token sequences."""

import keras
from keras import ops

from keras_seq.data.vocabulary import PAD_ID


@keras.saving.register_keras_serializable("keras_seq")
class TokenAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """The share of tokens, padding left out, whose likeliest prediction is right (teacher-forced).

    Every token counts the same, whatever batch it is in; with sample weights, as much as its weight. Keras passes
    sample weights to the `weighted_metrics` of `compile`, not to its `metrics`.

    Args:
        name: of the metric.
        dtype: of its sums and its result. Sums of half precision saturate after some thousand tokens.

    Call arguments of `update_state`:
        y_true: token ids (batch, time); 0 is padding.
        y_pred: logits (batch, time, vocabulary).
        sample_weight: (batch,) or (batch, time), or None.

    Example:
        >>> import numpy as np
        >>> metric = TokenAccuracy()
        >>> metric.update_state(np.array([[1, 2, 0]]), np.eye(3)[[[1, 1, 1]]])
        >>> float(metric.result())
        0.5
    """

    def __init__(self, name="token_accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        # Flat: Keras would average over the time axis first, and so count the tokens of a wide batch less.
        weights = ops.reshape(_token_weights(y_true, sample_weight, self.dtype), (-1,))
        y_true, y_pred = ops.reshape(y_true, (-1,)), ops.reshape(y_pred, (-1, y_pred.shape[-1]))
        super().update_state(y_true, y_pred, sample_weight=weights)


@keras.saving.register_keras_serializable("keras_seq")
class Perplexity(keras.metrics.Mean):
    """The exponential of the mean cross-entropy of a token, padding left out (teacher-forced).

    The mean is over all tokens since the last reset, whatever batch they are in; the result is 1 where there is none.
    With sample weights it is the weighted mean. Keras passes sample weights to the `weighted_metrics` of `compile`, not
    to its `metrics`.

    Args:
        name: of the metric.
        dtype: of its sums and its result. Sums of half precision saturate after some thousand tokens.

    Call arguments of `update_state`:
        y_true: token ids (batch, time); 0 is padding.
        y_pred: logits (batch, time, vocabulary).
        sample_weight: (batch,) or (batch, time), or None.

    Example:
        >>> import numpy as np
        >>> metric = Perplexity()
        >>> metric.update_state(np.array([[4, 5, 0]]), np.zeros((1, 3, 8)))
        >>> round(float(metric.result()), 4)
        8.0
    """

    def __init__(self, name="perplexity", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        logits = ops.cast(y_pred, self.dtype)
        losses = ops.sparse_categorical_crossentropy(y_true, logits, from_logits=True)  # (batch, time)
        weights = _token_weights(y_true, sample_weight, self.dtype)
        super().update_state(ops.reshape(losses, (-1,)), sample_weight=ops.reshape(weights, (-1,)))

    def result(self):
        return ops.exp(super().result())


def _token_weights(y_true, sample_weight, dtype):
    """Weights (batch, time), 0 for padding."""
    kept = ops.cast(ops.not_equal(y_true, PAD_ID), dtype)
    if sample_weight is None:
        return kept
    sample_weight = ops.cast(sample_weight, dtype)
    return kept * (sample_weight if len(sample_weight.shape) > 1 else sample_weight[:, None])

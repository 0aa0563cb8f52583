# SPDX-License-Identifier: Apache-2.0
"""Metrics for token sequences."""

import math

import keras
from keras import ops

from keras_seq.data.vocabulary import PAD_ID
from keras_seq.training.token_scores import TokenScores


@keras.saving.register_keras_serializable("keras_seq")
class TokenAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """Fraction of tokens for which the most likely prediction is correct (teacher-forced). Padding does not count.

    All tokens count equally, whatever their batch, or by their sample weights if there are any. Keras passes sample
    weights to the `weighted_metrics` of `compile`, not to its `metrics`.

    Args:
        name: name of the metric.
        dtype: dtype of its sums and its result. In half precision, sums saturate after some thousand tokens.

    Call arguments:
        y_true: token ids (batch, time), 0 = padding.
        y_pred: logits (batch, time, vocabulary).
        sample_weight: weights (batch,) or (batch, time), or None.

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
        # Keras averages over the time axis first, so tokens of a wide batch would count less. Hence the flat shapes.
        weights = ops.reshape(_token_weights(y_true, sample_weight, self.dtype), (-1,))
        if isinstance(y_pred, TokenScores):
            matches = ops.reshape(_matches(y_true, y_pred), (-1,))
            keras.metrics.Mean.update_state(self, ops.cast(matches, self.dtype), sample_weight=weights)
            return
        y_true, y_pred = ops.reshape(y_true, (-1,)), ops.reshape(y_pred, (-1, y_pred.shape[-1]))
        super().update_state(y_true, y_pred, sample_weight=weights)


@keras.saving.register_keras_serializable("keras_seq")
class SequenceAccuracy(keras.metrics.Mean):
    """Fraction of sequences of which all tokens are predicted correctly (teacher-forced). Padding does not count.

    Each prediction reads the true tokens before it, so this is the fraction of targets that greedy search finds.
    Sequences of padding only do not count. Keras passes sample weights to the `weighted_metrics` of `compile`, not to
    its `metrics`.

    Args:
        name: name of the metric.
        dtype: dtype of its sums and its result. In half precision, sums saturate after some thousand sequences.

    Call arguments:
        y_true: token ids (batch, time), 0 = padding.
        y_pred: logits (batch, time, vocabulary).
        sample_weight: weights (batch,) or (batch, time), or None. The weight of a sequence is the mean of those of its
            tokens.

    Example:
        >>> import numpy as np
        >>> metric = SequenceAccuracy()
        >>> metric.update_state(np.array([[1, 2, 0], [1, 1, 0]]), np.eye(3)[[[1, 1, 1], [1, 1, 2]]])
        >>> float(metric.result())
        0.5
    """

    def __init__(self, name="sequence_accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        is_token = ops.not_equal(y_true, PAD_ID)
        lengths = ops.sum(ops.cast(is_token, self.dtype), axis=1)
        weights = ops.sum(_token_weights(y_true, sample_weight, self.dtype), axis=1) / ops.maximum(lengths, 1)
        is_correct = ops.all(ops.logical_or(_matches(y_true, y_pred), ops.logical_not(is_token)), axis=1)
        super().update_state(ops.cast(is_correct, self.dtype), sample_weight=weights)


class _TokenCrossentropy(keras.metrics.Mean):
    """Mean cross-entropy of the tokens, in nats."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        if isinstance(y_pred, TokenScores):
            losses = ops.cast(y_pred.losses, self.dtype)
        else:
            logits = ops.cast(y_pred, self.dtype)
            losses = ops.sparse_categorical_crossentropy(y_true, logits, from_logits=True)  # (batch, time)
        weights = _token_weights(y_true, sample_weight, self.dtype)
        super().update_state(ops.reshape(losses, (-1,)), sample_weight=ops.reshape(weights, (-1,)))


@keras.saving.register_keras_serializable("keras_seq")
class Perplexity(_TokenCrossentropy):
    """Exponential of the mean cross-entropy of the tokens (teacher-forced). Padding does not count.

    The mean is over all tokens since the last reset, whatever their batch, weighted by their sample weights if there
    are any. Without any token the result is 1. Keras passes sample weights to the `weighted_metrics` of `compile`, not
    to its `metrics`.

    Args:
        name: name of the metric.
        dtype: dtype of its sums and its result. In half precision, sums saturate after some thousand tokens.

    Call arguments:
        y_true: token ids (batch, time), 0 = padding.
        y_pred: logits (batch, time, vocabulary).
        sample_weight: weights (batch,) or (batch, time), or None.

    Example:
        >>> import numpy as np
        >>> metric = Perplexity()
        >>> metric.update_state(np.array([[4, 5, 0]]), np.zeros((1, 3, 8)))
        >>> round(float(metric.result()), 4)
        8.0
    """

    def __init__(self, name="perplexity", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def result(self):
        return ops.exp(super().result())


@keras.saving.register_keras_serializable("keras_seq")
class BitsPerToken(_TokenCrossentropy):
    """Mean cross-entropy of the tokens in bits (teacher-forced): bits per character if tokens are characters.

    It is the binary logarithm of `Perplexity`. Padding does not count.

    The mean is over all tokens since the last reset, whatever their batch, weighted by their sample weights if there
    are any. Without any token the result is 0. Keras passes sample weights to the `weighted_metrics` of `compile`, not
    to its `metrics`.

    Args:
        name: name of the metric.
        dtype: dtype of its sums and its result. In half precision, sums saturate after some thousand tokens.

    Call arguments:
        y_true: token ids (batch, time), 0 = padding.
        y_pred: logits (batch, time, vocabulary).
        sample_weight: weights (batch,) or (batch, time), or None.

    Example:
        >>> import numpy as np
        >>> metric = BitsPerToken()
        >>> metric.update_state(np.array([[4, 5, 0]]), np.zeros((1, 3, 8)))
        >>> round(float(metric.result()), 4)
        3.0
    """

    def __init__(self, name="bits_per_token", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def result(self):
        return super().result() / math.log(2)


_READ_SCORES = (TokenAccuracy, SequenceAccuracy, Perplexity, BitsPerToken)


def reads_scores(metric):
    """Whether a metric takes `TokenScores` in the place of logits. One that derives from ours may need the logits."""
    return type(metric) in _READ_SCORES


def _matches(y_true, y_pred):
    """Returns which predictions are correct, (batch, time)."""
    predictions = y_pred.predictions if isinstance(y_pred, TokenScores) else ops.argmax(y_pred, axis=-1)
    return ops.equal(ops.cast(y_true, "int32"), ops.cast(predictions, "int32"))


def _token_weights(y_true, sample_weight, dtype):
    """Returns weights (batch, time), 0 for padding."""
    is_token = ops.cast(ops.not_equal(y_true, PAD_ID), dtype)
    if sample_weight is None:
        return is_token
    sample_weight = ops.cast(sample_weight, dtype)
    return is_token * (sample_weight if len(sample_weight.shape) > 1 else sample_weight[:, None])

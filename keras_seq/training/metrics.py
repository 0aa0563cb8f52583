# SPDX-License-Identifier: Apache-2.0
"""Metrics of token sequences."""

import keras
from keras import ops

from keras_seq.data.vocabulary import PAD_ID


@keras.saving.register_keras_serializable("keras_seq")
class TokenAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """The share of tokens, padding left out, whose likeliest prediction is right (teacher-forced).

    Args:
        name: of the metric.
        dtype: of its result.

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
        kept = ops.cast(ops.not_equal(y_true, PAD_ID), self.dtype)
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, self.dtype)
            kept = kept * (sample_weight if len(sample_weight.shape) > 1 else sample_weight[:, None])
        super().update_state(y_true, y_pred, sample_weight=kept)

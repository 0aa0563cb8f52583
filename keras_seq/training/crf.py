# SPDX-License-Identifier: Apache-2.0
"""The loss and the metric of a conditional random field."""

import keras
from keras import ops

from keras_seq._private_api import set_mask
from keras_seq.ops.crf import crf_decode, crf_log_likelihood, crf_mask


@keras.saving.register_keras_serializable("keras_seq")
class CRFLoss(keras.losses.Loss):
    """The negative log-likelihood of tag sequences, for a model that ends in `keras_seq.layers.CRF`.

    The loss of a step is `-log p(y_t | y_{t-1})`; their sum is the loss of the sequence, `-log p(y)`. By default the
    result is the mean over all unmasked steps, as in `keras_seq.training.masked_crossentropy`. For sums over sequences
    use `reduction="sum"`.

    Sample weights (batch,) multiply the loss of each sequence, sample weights (batch, time) that of each step.

    Args:
        reduction: see `keras.losses.Loss`.
        name: name of the loss.
        dtype: dtype of the sums; by default `keras.config.floatx()`.

    Call arguments:
        y_true: the true tags, integers (batch, time). Those of masked steps do not matter. A tag that does not exist
            makes the loss NaN.
        y_pred: the result of `keras_seq.layers.CRF`, (batch, time, tags, tags).

    Example:
        >>> import numpy as np, keras_seq
        >>> y_pred = keras_seq.layers.CRF(4, kernel_initializer="zeros")(np.ones((2, 3, 8)))
        >>> bool(np.isclose(CRFLoss()(np.zeros((2, 3)), y_pred), np.log(4)))
        True
    """

    def __init__(self, reduction="sum_over_batch_size", name="crf_loss", dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def __call__(self, y_true, y_pred, sample_weight=None):
        return super().__call__(y_true, y_pred, _expand(sample_weight))

    def call(self, y_true, y_pred):
        losses = -crf_log_likelihood(y_pred, _squeeze(y_true, y_pred))
        set_mask(losses, crf_mask(y_pred))
        return losses

    def get_config(self):
        return {**super().get_config(), "dtype": self.dtype}


@keras.saving.register_keras_serializable("keras_seq")
class CRFAccuracy(keras.metrics.Mean):
    """The fraction of the most likely tags that are right, for a model that ends in `keras_seq.layers.CRF`.

    Masked steps do not count. The sequence is found by `keras_seq.ops.crf_decode`, which takes two loops over time.

    Args:
        name: name of the metric.
        dtype: dtype of its sums and its result.

    Call arguments:
        y_true: the true tags, integers (batch, time).
        y_pred: the result of `keras_seq.layers.CRF`, (batch, time, tags, tags).
        sample_weight: weights (batch,) or (batch, time), or None.

    Example:
        >>> import numpy as np, keras_seq
        >>> scores = 9.0 * np.eye(4)[[[0, 1, 2], [3, 3, 3]]]
        >>> metric = CRFAccuracy()
        >>> metric.update_state(np.array([[0, 1, 1], [3, 3, 0]]), keras_seq.layers.CRF(4, use_kernel=False)(scores))
        >>> round(float(metric.result()), 4)
        0.6667
    """

    def __init__(self, name="crf_accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        tags, _ = crf_decode(y_pred)
        weights = ops.cast(crf_mask(y_pred), self.dtype)
        if sample_weight is not None:
            weights = weights * ops.cast(_expand(sample_weight), self.dtype)
        matches = ops.equal(ops.cast(_squeeze(y_true, y_pred), "int32"), tags)
        # Keras averages over the time axis first, so tags of a wide batch would count less. Hence the flat shapes.
        flat = ops.reshape(ops.cast(matches, self.dtype), (-1,))
        super().update_state(flat, sample_weight=ops.reshape(ops.broadcast_to(weights, ops.shape(matches)), (-1,)))


def _expand(sample_weight):
    """Returns sample weights with a time axis, which Keras does not add where there is a mask."""
    if sample_weight is None:
        return None
    sample_weight = ops.convert_to_tensor(sample_weight)
    return sample_weight[:, None] if len(sample_weight.shape) == 1 else sample_weight


def _squeeze(y_true, y_pred):
    """Returns tags (batch, time) after checking them; Keras gives some (batch, time, 1)."""
    y_true = ops.convert_to_tensor(y_true)
    if len(y_pred.shape) != 4 or y_pred.shape[-1] != y_pred.shape[-2]:
        raise ValueError(
            "`y_pred` must be the result of `keras_seq.layers.CRF`, of shape (batch, time, tags, tags). "
            f"Received: shape {tuple(y_pred.shape)}"
        )
    if len(y_true.shape) == 3 and y_true.shape[-1] == 1:
        y_true = ops.squeeze(y_true, axis=-1)
    if len(y_true.shape) != 2:
        raise ValueError(f"`y_true` must be integers (batch, time). Received: shape {tuple(y_true.shape)}")
    return y_true

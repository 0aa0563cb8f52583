# SPDX-License-Identifier: Apache-2.0
"""Losses for token sequences."""

import keras
from keras import ops

from keras_seq._private_api import get_mask, set_mask
from keras_seq.data.vocabulary import PAD_ID


def masked_crossentropy(label_smoothing=0.0):
    """Creates the cross-entropy loss, averaged over all tokens of a batch except padding.

    Args:
        label_smoothing: number s in [0, 1). The loss compares the predictions with (1 - s) times the one-hot target
            plus s / vocabulary, as in `keras.losses.CategoricalCrossentropy` (Szegedy et al. 2016).

    Returns:
        A `MaskedCrossentropy`.

    Example:
        >>> import numpy as np
        >>> targets, logits = np.array([[4, 5, 0]]), np.zeros((1, 3, 8), "float32")
        >>> bool(np.isclose(masked_crossentropy()(targets, logits), np.log(8)))
        True
    """
    return MaskedCrossentropy(label_smoothing)


@keras.saving.register_keras_serializable("keras_seq")
class MaskedCrossentropy(keras.losses.Loss):
    """Cross-entropy, averaged over all tokens of a batch except padding.

    Sample weights (batch, time) multiply the losses of the tokens. As in all losses of Keras, the sum is divided by the
    number of tokens, not by the sum of their weights.

    In `fit` and `evaluate` of a `Seq2Seq` or `LanguageModel` with metrics of keras_seq, the logits are computed for
    some tokens at a time, so that memory does not grow with vocabulary times tokens; see
    `keras_seq.ops.readout_crossentropy`.

    Args:
        label_smoothing: see `masked_crossentropy`.
        reduction, name, dtype: see `keras.losses.Loss`.

    Call arguments:
        y_true: token ids (batch, time), 0 = padding.
        y_pred: logits (batch, time, vocabulary).
        sample_weight: weights (batch,) or (batch, time), or None.

    Raises:
        ValueError: if `label_smoothing` is not in [0, 1).

    Example:
        >>> import numpy as np
        >>> targets, logits = np.array([[1, 0]]), np.array([[[-9, 9.0], [0, 0]]])
        >>> [round(float(MaskedCrossentropy(s)(targets, logits)), 3) for s in (0, 0.1)]
        [0.0, 0.9]
    """

    def __init__(self, label_smoothing=0.0, reduction="sum_over_batch_size", name="masked_crossentropy", dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.label_smoothing = check_smoothing(label_smoothing)

    def __call__(self, y_true, y_pred, sample_weight=None):
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight)
            if len(sample_weight.shape) == 1:
                # Keras multiplies weights with the mask of the padding as they are: (batch,) would meet the axis time.
                sample_weight = sample_weight[:, None]
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true, y_pred):
        losses = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True, ignore_class=PAD_ID)
        if not self.label_smoothing:
            return losses
        is_token = get_mask(losses)
        log_probabilities = ops.log_softmax(ops.where(is_token[..., None], y_pred, 0))
        uniform = ops.where(is_token, -ops.mean(log_probabilities, axis=-1), 0)
        losses = (1 - self.label_smoothing) * losses + self.label_smoothing * uniform
        set_mask(losses, is_token)
        return losses

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing, "dtype": self.dtype}


@keras.saving.register_keras_serializable("keras_seq")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of probabilities and integer classes, with label smoothing.

    `keras.losses.CategoricalCrossentropy`, which has label smoothing, takes one-hot targets only.

    Args:
        label_smoothing: see `masked_crossentropy`.
        reduction, name, dtype: see `keras.losses.Loss`.

    Call arguments:
        y_true: integers (batch,) or (batch, 1).
        y_pred: probabilities (batch, classes).
        sample_weight: weights (batch,), or None.

    Raises:
        ValueError: if `label_smoothing` is not in [0, 1).

    Example:
        >>> import numpy as np
        >>> bool(np.isclose(SmoothedCrossentropy(0.2)(np.array([1]), np.array([[0.5, 0.5]])), np.log(2)))
        True
    """

    def __init__(self, label_smoothing=0.0, reduction="sum_over_batch_size", name="smoothed_crossentropy", dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.label_smoothing = check_smoothing(label_smoothing)

    def call(self, y_true, y_pred):
        classes = ops.shape(y_pred)[-1]
        targets = ops.one_hot(ops.reshape(ops.cast(y_true, "int32"), (-1,)), classes, dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(targets, y_pred, label_smoothing=self.label_smoothing)

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing, "dtype": self.dtype}


def resolve_loss(loss, label_smoothing):
    """Returns the loss that `compile` of a model is given; "auto" stands for `masked_crossentropy(label_smoothing)`."""
    if isinstance(loss, str) and loss == "auto":
        return masked_crossentropy(label_smoothing)
    if label_smoothing:
        raise ValueError(
            '`label_smoothing` must be 0 unless `loss` is "auto". Pass it to '
            f"`keras_seq.training.masked_crossentropy` instead. Received: {label_smoothing} with loss={loss!r}"
        )
    return loss


def check_smoothing(label_smoothing):
    """Returns the argument `label_smoothing`, or raises a ValueError."""
    if isinstance(label_smoothing, bool) or not isinstance(label_smoothing, (int, float)):
        raise ValueError(f"`label_smoothing` must be a number in [0, 1). Received: {label_smoothing!r}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"`label_smoothing` must be in [0, 1). Received: {label_smoothing}")
    return float(label_smoothing)

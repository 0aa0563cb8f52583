# SPDX-License-Identifier: Apache-2.0
"""Ragged inputs, which become dense tensors that carry a mask."""

import keras

from keras_seq._private_api import get_mask, set_mask


class RaggedInputMixin:
    """Lets a layer take a `tf.RaggedTensor` (batch, None, features) as its first argument, `sequences`.

    The layer receives a dense tensor with a mask that keeps the steps of each row, and returns dense tensors. A ragged
    mask, for example from an `Embedding` with `mask_zero=True`, can mask some of these steps.
    """

    def __call__(self, *args, **kwargs):
        if args and _is_ragged(args[0]):
            args = list(args)
            mask = args.pop(2) if len(args) > 2 else kwargs.pop("mask", None)
            if mask is not None and not _is_ragged(mask):
                raise ValueError(
                    "`mask` must be None or ragged if `sequences` are ragged, because their row lengths define the "
                    f"mask. Received: a dense mask of shape {tuple(mask.shape)}"
                )
            args[0] = _to_dense(args[0], mask)
        return super().__call__(*args, **kwargs)


def _is_ragged(tensor):
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(tensor, tf.RaggedTensor)


def _to_dense(ragged, mask=None):
    """Converts ragged sequences to a dense tensor with its mask attached."""
    import tensorflow as tf

    if ragged.ragged_rank != 1 or ragged.shape.rank != 3:
        raise ValueError(
            "Ragged `sequences` must have shape (batch, None, features) and be ragged in time only. "
            f"Received: shape {ragged.shape} with ragged_rank={ragged.ragged_rank}"
        )
    mask = get_mask(ragged) if mask is None else mask
    dense = ragged.to_tensor()
    if mask is None:
        mask = tf.sequence_mask(ragged.row_lengths(), tf.shape(dense)[1])
    set_mask(dense, mask.to_tensor(False) if _is_ragged(mask) else mask)
    return dense

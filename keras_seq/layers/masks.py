# SPDX-License-Identifier: Apache-2.0
"""Ragged inputs, which become dense tensors that carry a mask."""

import keras

from keras_seq._private_api import get_mask, set_mask


class RaggedInputMixin:
    """A layer whose first argument, sequences, may be a `tf.RaggedTensor` (batch, None, features).

    The layer gets a dense tensor with a mask that keeps the steps there are, and returns dense tensors. A ragged mask,
    as from an `Embedding` with `mask_zero=True`, leaves out some of these steps.
    """

    def __call__(self, *args, **kwargs):
        if args and _is_ragged(args[0]):
            args = list(args)
            mask = args.pop(2) if len(args) > 2 else kwargs.pop("mask", None)
            if mask is not None and not _is_ragged(mask):
                raise ValueError(
                    "`mask` must be None or ragged for ragged `sequences`, whose row lengths say what is masked. "
                    f"Received: a mask of shape {tuple(mask.shape)}"
                )
            args[0] = _densify(args[0], mask)
        return super().__call__(*args, **kwargs)


def _is_ragged(sequences):
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(sequences, tf.RaggedTensor)


def _densify(ragged, mask=None):
    """Ragged sequences as a dense tensor that carries its mask."""
    import tensorflow as tf

    if ragged.ragged_rank != 1 or ragged.shape.rank != 3:
        raise ValueError(
            f"Ragged `sequences` must be (batch, None, features), ragged in time alone. Received: {ragged.shape} with "
            f"ragged_rank={ragged.ragged_rank}"
        )
    mask = get_mask(ragged) if mask is None else mask
    dense = ragged.to_tensor()
    if mask is None:
        mask = tf.sequence_mask(ragged.row_lengths(), tf.shape(dense)[1])
    set_mask(dense, mask.to_tensor(False) if _is_ragged(mask) else mask)
    return dense

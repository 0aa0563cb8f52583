# SPDX-License-Identifier: Apache-2.0
"""The masks that Keras attaches to tensors.

A tracer of JAX takes no attributes: Keras keeps its mask elsewhere, and has no public functions for it.
"""

from keras.src.backend import get_keras_mask, set_keras_mask


def carried_mask(tensor):
    """The mask that a tensor carries, as from an `Embedding` with `mask_zero=True`, or None.

    Keras hands it to a layer only where the tensor is the only one in the call, or where the layer has an argument
    `<name>_mask`.
    """
    return get_keras_mask(tensor)


def carry_mask(tensor, mask):
    """Attach a mask to a tensor, for the next layer."""
    set_keras_mask(tensor, mask)

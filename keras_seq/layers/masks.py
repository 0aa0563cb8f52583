# SPDX-License-Identifier: Apache-2.0
"""The masks that Keras attaches to tensors."""

from keras.src.backend import get_keras_mask


def carried_mask(tensor):
    """The mask that a tensor carries, as from an `Embedding` with `mask_zero=True`, or None.

    Keras hands it to a layer only where the tensor is the only one in the call, or where the layer has an argument
    `<name>_mask`. A tracer of JAX takes no attributes: Keras keeps its mask elsewhere, and has no public function for it.
    """
    return get_keras_mask(tensor)

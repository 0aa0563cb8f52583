# SPDX-License-Identifier: Apache-2.0
"""Layer normalization of the outputs of recurrent layers."""

import keras


def make_layer_norms(layer_norm, count, dtype=None):
    """Returns a list of layers, each of which normalizes the outputs of a recurrent layer (Ba, Kiros & Hinton 2016).

    Args:
        layer_norm: the argument of a model, a boolean. If False, the list is empty.
        count: number of recurrent layers.
        dtype: dtype policy.
    """
    if not isinstance(layer_norm, bool):
        raise ValueError(f"`layer_norm` must be True or False. Received: {layer_norm!r}")
    return [keras.layers.LayerNormalization(dtype=dtype) for _ in range(count * layer_norm)]

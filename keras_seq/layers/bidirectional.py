# SPDX-License-Identifier: Apache-2.0
"""A recurrent layer in both directions."""

import keras


@keras.saving.register_keras_serializable("keras_seq")
class Bidirectional(keras.layers.Bidirectional):
    """Run a recurrent layer forward and a copy of it backward (Schuster & Paliwal 1997).

    Args:
        layer: a recurrent layer, of ours or of Keras.
        merge_mode: "concat" (default), "sum", "mul", "ave", or None for a tuple of both.
        weights: initial weights, forward then backward.
        backward_layer: the layer for the other direction, with `go_backwards=True`; a copy of `layer` by default.

    Call arguments:
        sequences: (batch, time, features).
        initial_state: list of states, forward then backward.
        mask: (batch, time) booleans, True = keep.
        training: whether to apply dropout.

    Returns:
        As the layer's, merged. Steps of both directions are aligned with the input. With `return_state` the states
        follow, forward then backward.

    Example:
        >>> import numpy as np, keras_seq
        >>> layer = Bidirectional(keras_seq.layers.GRU(4, return_sequences=True))
        >>> layer(np.ones((2, 5, 3))).shape
        TensorShape([2, 5, 8])
    """

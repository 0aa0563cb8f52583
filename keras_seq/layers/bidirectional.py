# SPDX-License-Identifier: Apache-2.0
"""A recurrent layer in both directions."""

import keras
from keras import ops

from keras_seq.layers.recurrent import RecurrentLayer
from keras_seq.ops.recurrence import run as run_recurrences

_MERGE = {
    "concat": lambda y, y_reversed: ops.concatenate([y, y_reversed], axis=-1),
    "sum": lambda y, y_reversed: y + y_reversed,
    "ave": lambda y, y_reversed: (y + y_reversed) / 2,
    "mul": lambda y, y_reversed: y * y_reversed,
}


@keras.saving.register_keras_serializable("keras_seq")
class Bidirectional(keras.layers.Bidirectional):
    """Run a recurrent layer forward and a copy of it backward (Schuster & Paliwal 1997).

    Where both are ours and alike, native kernels run them side by side, one on each half of the cores.

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

    def call(self, sequences, initial_state=None, mask=None, training=None):
        if not self._alike():
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        both = self.forward_layer, self.backward_layer
        half = 0 if initial_state is None else len(initial_state) // 2
        states = (initial_state[:half], initial_state[half:]) if half else (None, None)
        started = [layer.start(sequences, state, training) for layer, state in zip(both, states, strict=True)]
        results = run_recurrences(started, **self.forward_layer.run_options(mask, training))
        (y, *state), (y_reversed, *state_reversed) = (
            layer.finish(*result) if self.return_state else (layer.finish(*result),)
            for layer, result in zip(both, results, strict=True)
        )
        if self.return_sequences:
            y_reversed = ops.flip(y_reversed, axis=1)
        outputs = (y, y_reversed) if self.merge_mode is None else (_MERGE[self.merge_mode](y, y_reversed),)
        if self.return_state:
            return (*outputs, *state, *state_reversed)
        return outputs if self.merge_mode is None else outputs[0]

    def _alike(self):
        """Whether one call can run both layers, which then do nothing but recur."""
        both = self.forward_layer, self.backward_layer
        if not all(isinstance(layer, RecurrentLayer) and layer.activity_regularizer is None for layer in both):
            return False
        first, second = ((layer.cell.equations, layer.run_options(None, True)) for layer in both)
        return first == second

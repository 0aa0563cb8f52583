# SPDX-License-Identifier: Apache-2.0
"""A recurrent layer that runs in both directions."""

import keras
from keras import ops, tree

from keras_seq._private_api import get_mask
from keras_seq.layers.masks import RaggedInputMixin
from keras_seq.layers.rnn import RNN, first_mask, run_layers
from keras_seq.ops.random import with_child_seeds

_MERGE = {
    "concat": lambda y, y_reversed: ops.concatenate([y, y_reversed], axis=-1),
    "sum": lambda y, y_reversed: y + y_reversed,
    "ave": lambda y, y_reversed: (y + y_reversed) / 2,
    "mul": lambda y, y_reversed: y * y_reversed,
}


@keras.saving.register_keras_serializable("keras_seq")
class Bidirectional(RaggedInputMixin, keras.layers.Bidirectional):
    """Runs a recurrent layer forward and a copy of it backward (Schuster & Paliwal 1997).

    If both are layers of keras_seq with the same options, one call of the native kernels runs both directions side by
    side.

    Args:
        layer: recurrent layer of keras_seq or Keras.
        merge_mode: how to combine the outputs: "concat" (default), "sum", "mul", "ave", or None for a tuple of both.
        weights: list of initial weights, forward then backward.
        backward_layer: layer for the backward direction, with `go_backwards=True`. By default a copy of `layer` whose
            seeds, for masks and initializers, are derived from those of `layer`.

    Call arguments:
        sequences: tensor (batch, time, features), or a `tf.RaggedTensor`, which is converted to a dense tensor with a
            mask.
        initial_state: list of states, forward then backward.
        mask: booleans (batch, time), True = keep. With `return_sequences`, the output of a masked step is
            zero, as in Keras.
        training: whether to apply dropout.

    Returns:
        The merged outputs. Both directions are aligned with the steps of the input. With `return_state`, the states
        follow, forward then backward.

    Example:
        >>> import numpy as np, keras_seq
        >>> layer = Bidirectional(keras_seq.layers.GRU(4, return_sequences=True))
        >>> layer(np.ones((2, 5, 3))).shape
        TensorShape([2, 5, 8])
    """

    def __init__(self, layer, merge_mode="concat", weights=None, backward_layer=None, **kwargs):
        if backward_layer is None and isinstance(layer, keras.layers.Layer):
            # Keras's copy would have the same seeds, and so the same masks and seeded initial weights.
            config = with_child_seeds(keras.saving.serialize_keras_object(layer), "backward")
            name = f"backward_{layer.name.removeprefix('backward_')}"
            config["config"] |= {"go_backwards": True, "name": name}
            backward_layer = keras.saving.deserialize_keras_object(config)
        super().__init__(layer, merge_mode, weights, backward_layer, **kwargs)
        self.supports_masking = True  # no longer set by Keras 3.16

    def call(self, sequences, initial_state=None, mask=None, training=None):
        mask = get_mask(sequences) if mask is None else mask
        if not self._can_run_in_one_call():
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        both = [self.forward_layer, self.backward_layer]
        half = 0 if initial_state is None else len(initial_state) // 2
        states = [initial_state[:half], initial_state[half:]] if half else [None, None]
        (y, *state), (y_reversed, *state_reversed) = (
            result if self.return_state else (result,)
            for result in run_layers(both, sequences, states, mask, training, time_order=True)
        )
        if self.return_sequences and self.forward_layer.go_backwards:  # Keras keeps the order of the forward layer
            y, y_reversed = (ops.flip(outputs, axis=1) for outputs in (y, y_reversed))
        outputs = (y, y_reversed) if self.merge_mode is None else (_MERGE[self.merge_mode](y, y_reversed),)
        if self.return_state:
            return (*outputs, *state, *state_reversed)
        return outputs if self.merge_mode is None else outputs[0]

    def reset_state(self, states=None):
        """Resets the states of stateful layers to zeros, or to the list `states`, forward then backward."""
        if states is None:
            return super().reset_state()
        half = len(states) // 2
        self.forward_layer.reset_state(states[:half])
        self.backward_layer.reset_state(states[half:])
        return None

    def compute_mask(self, sequences, mask=None):
        masks = [first_mask(mask) if self.return_sequences else None] * (2 if self.merge_mode is None else 1)
        if self.return_state:
            masks += [None] * 2 * len(tree.flatten(self.forward_layer.state_size))
        return masks if len(masks) > 1 else masks[0]

    def _can_run_in_one_call(self):
        """Whether one call can run both directions: same equations and options, and nothing to do beside them."""
        both = self.forward_layer, self.backward_layer
        if not all(isinstance(layer, RNN) and layer.activity_regularizer is None for layer in both):
            return False
        cells = [layer.recurrent_cells() for layer in both]
        if None in cells:
            return False
        forward, backward = ([cell.equations for cell in direction] for direction in cells)
        return forward == backward and both[0].run_options(None, True) == both[1].run_options(None, True)

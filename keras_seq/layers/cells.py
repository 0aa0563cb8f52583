# SPDX-License-Identifier: Apache-2.0
"""Recurrent cells: variables and one step. Arguments, weights and defaults are those of Keras."""

import keras
from keras import ops

from keras_seq.ops import cell_math
from keras_seq.ops.cell_math import RecurrentWeights


class RecurrentCell:
    """What our cells share: Keras holds arguments and variables, `cell_math` the equations.

    A subclass names its equations.
    """

    # One dropout mask for all gates, drawn once a sequence. Keras draws one a gate.
    dropout_mask_count = None

    @property
    def equations(self):
        """The recurrence of `cell_math` with this cell's activations."""
        raise NotImplementedError

    def split_bias(self):
        """The bias of the input product and that of the recurrent product, or None."""
        return self.equations.split_bias(self.bias)

    def draw_dropout_masks(self, inputs, training):
        """Fresh masks for inputs (batch, features) and recurrent product (batch, units), or None where not dropped.

        At inference nothing is drawn, so the seed stands still.
        """
        if not training:
            return None, None
        return self._draw(inputs, inputs.shape[-1], self.dropout), self._draw(
            inputs, self.units, self.recurrent_dropout
        )

    def _draw(self, inputs, features, rate):
        if not rate:
            return None
        ones = ops.ones((ops.shape(inputs)[0], features), dtype=self.compute_dtype)
        return keras.random.dropout(ones, rate, seed=self.seed_generator)

    def call(self, inputs, states, training=False):
        state = tuple(states) if isinstance(states, (list, tuple)) else (states,)
        input_mask = self.get_dropout_mask(inputs) if training and self.dropout else None
        if input_mask is not None:
            inputs = inputs * input_mask
        recurrent_mask = None
        if training and self.recurrent_dropout:
            recurrent_mask = self.get_recurrent_dropout_mask(state[0])
        bias, recurrent_bias = self.split_bias()
        projected = ops.matmul(inputs, self.kernel)
        if bias is not None:
            projected = projected + bias
        weights = RecurrentWeights(ops.convert_to_tensor(self.recurrent_kernel), recurrent_bias, recurrent_mask)
        state, _, _ = self.equations.step(projected, state, self.equations.prepare(weights))
        return state[0], list(state) if isinstance(states, (list, tuple)) else state[0]


@keras.saving.register_keras_serializable("keras_seq")
class SimpleRNNCell(RecurrentCell, keras.layers.SimpleRNNCell):
    """One step of the vanilla recurrence (Elman 1990): `h' = f(x W + h U + b)`.

    Args:
        units: size of the state.
        **kwargs: those of `keras.layers.SimpleRNNCell`. `dropout` and `recurrent_dropout` draw one mask a sequence.

    Call arguments:
        inputs: (batch, features).
        states: h (batch, units), or a list of it.
        training: whether to apply dropout.

    Returns:
        The output h' (batch, units), and the new state as it was given: a tensor or a list.

    Example:
        >>> import numpy as np
        >>> cell = SimpleRNNCell(4)
        >>> output, [state] = cell(np.ones((2, 3)), [np.zeros((2, 4))])
        >>> output.shape
        TensorShape([2, 4])
    """

    @property
    def equations(self):
        return cell_math.SimpleRNN(self.activation)


@keras.saving.register_keras_serializable("keras_seq")
class GRUCell(RecurrentCell, keras.layers.GRUCell):
    """One step of a gated recurrent unit (Cho et al. 2014).

    `z = s(x W_z + h U_z + b_z)`, `r = s(x W_r + h U_r + b_r)`, `g = f(x W_g + b_g + r (h U_g + c_g))` with
    `reset_after`, else `g = f(x W_g + (r h) U_g + b_g)`, and `h' = z h + (1 - z) g`.

    Args:
        units: size of the state.
        **kwargs: those of `keras.layers.GRUCell`. `dropout` and `recurrent_dropout` draw one mask a sequence, for
            all gates together.

    Call arguments:
        inputs: (batch, features).
        states: h (batch, units), or a list of it.
        training: whether to apply dropout.

    Returns:
        The output h' (batch, units), and the new state as it was given: a tensor or a list.

    Example:
        >>> import numpy as np
        >>> cell = GRUCell(4)
        >>> output, [state] = cell(np.ones((2, 3)), [np.zeros((2, 4))])
        >>> output.shape
        TensorShape([2, 4])
    """

    @property
    def equations(self):
        return cell_math.GRU(self.activation, self.recurrent_activation, self.reset_after)


@keras.saving.register_keras_serializable("keras_seq")
class LSTMCell(RecurrentCell, keras.layers.LSTMCell):
    """One step of long short-term memory (Hochreiter & Schmidhuber 1997).

    `i, f, g, o = split(x W + h U + b)`, `c' = s(f) c + s(i) f(g)`, `h' = s(o) f(c')`.

    Args:
        units: size of the state.
        **kwargs: those of `keras.layers.LSTMCell`. `dropout` and `recurrent_dropout` draw one mask a sequence, for
            all gates together.

    Call arguments:
        inputs: (batch, features).
        states: list of h and c, each (batch, units).
        training: whether to apply dropout.

    Returns:
        The output h' (batch, units), and the list of h' and c'.

    Example:
        >>> import numpy as np
        >>> cell = LSTMCell(4)
        >>> output, [h, c] = cell(np.ones((2, 3)), [np.zeros((2, 4)), np.zeros((2, 4))])
        >>> output.shape
        TensorShape([2, 4])
    """

    @property
    def equations(self):
        return cell_math.LSTM(self.activation, self.recurrent_activation)


CELLS = {"rnn": SimpleRNNCell, "gru": GRUCell, "lstm": LSTMCell}


def make_cell(name, units, **kwargs):
    """The cell called "rnn", "gru" or "lstm"."""
    if name not in CELLS:
        raise ValueError(f"`cell` must be one of {sorted(CELLS)}. Received: {name!r}")
    return CELLS[name](units, **kwargs)

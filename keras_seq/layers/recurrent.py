# SPDX-License-Identifier: Apache-2.0
"""SimpleRNN, GRU and LSTM as Keras layers: variables and arguments here, time in `keras_seq.ops`."""

import keras
from keras import ops

from keras_seq.layers.cells import GRUCell, LSTMCell, SimpleRNNCell
from keras_seq.ops.implementation import check_implementation, choose_implementation
from keras_seq.ops.recurrence import Recurrence
from keras_seq.ops.recurrence import run as run_recurrences


def _of_cell(name):
    return property(lambda self: getattr(self.cell, name), doc=f"The `{name}` of the cell.")


class RecurrentLayer(keras.layers.RNN):
    """What our recurrent layers share: a cell of ours, run over time by `keras_seq.ops.recurrence`.

    Args:
        cell: a `RecurrentCell`, which holds the variables.
        implementation: "auto", "native" or "xla"; Keras's integers 1 and 2 mean "auto".
        recompute: whether a gradient runs the forward pass again instead of keeping what it needs of it.
        **kwargs: those of `keras.layers.RNN`.
    """

    units = _of_cell("units")
    activation = _of_cell("activation")
    use_bias = _of_cell("use_bias")
    kernel_initializer = _of_cell("kernel_initializer")
    recurrent_initializer = _of_cell("recurrent_initializer")
    bias_initializer = _of_cell("bias_initializer")
    kernel_regularizer = _of_cell("kernel_regularizer")
    recurrent_regularizer = _of_cell("recurrent_regularizer")
    bias_regularizer = _of_cell("bias_regularizer")
    kernel_constraint = _of_cell("kernel_constraint")
    recurrent_constraint = _of_cell("recurrent_constraint")
    bias_constraint = _of_cell("bias_constraint")
    dropout = _of_cell("dropout")
    recurrent_dropout = _of_cell("recurrent_dropout")
    seed = _of_cell("seed")

    def __init__(self, cell, *, implementation="auto", recompute=False, use_cudnn="auto", **kwargs):
        super().__init__(cell, **kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.implementation = check_implementation(implementation)
        self.recompute = recompute
        self.use_cudnn = use_cudnn  # Keras's; here XLA serves the GPU and the argument changes nothing

    def choose_implementation(self):
        """The implementation that runs, and why: a `Choice` of `keras_seq.ops.implementation`."""
        return choose_implementation(self.implementation, self.cell.equations, self.compute_dtype)

    def call(self, sequences, initial_state=None, mask=None, training=False):
        started = self.start(sequences, initial_state, training)
        [result] = run_recurrences([started], **self.run_options(mask, training))
        return self.finish(*result)

    def start(self, sequences, initial_state, training):
        """What is to be run over the sequences: a `Recurrence` of `keras_seq.ops`."""
        if self.unroll and sequences.shape[1] is None:
            raise ValueError(
                "`unroll=True` needs a static number of time steps. Received: sequences of shape "
                f"{tuple(sequences.shape)}; give `keras.Input` a full shape, or set `unroll=False`."
            )
        cell = self.cell
        input_mask, recurrent_mask = cell.draw_dropout_masks(sequences, training)
        if input_mask is not None:
            sequences = sequences * ops.expand_dims(input_mask, axis=1)
        return Recurrence(
            cell.equations,
            sequences,
            cell.kernel,
            cell.recurrent_kernel,
            cell.bias,
            initial_state=self._starting_state(sequences, initial_state),
            recurrent_dropout_mask=recurrent_mask,
            reverse=self.go_backwards,
        )

    def run_options(self, mask, training):
        """How it is to be run."""
        return {
            "mask": mask[0] if isinstance(mask, (list, tuple)) else mask,
            "zero_output_for_mask": self.zero_output_for_mask,
            "unroll": self.unroll,
            "recompute": self.recompute or not training,  # at inference a gradient is the exception
            "implementation": self.implementation,
        }

    def finish(self, outputs, state):
        """What the layer returns of the outputs of all steps and the final state."""
        if self.stateful:
            for variable, value in zip(self.states, state, strict=True):
                variable.assign(value)
        # Keras's outputs are in the order of computation.
        if self.return_sequences:
            output = ops.flip(outputs, axis=1) if self.go_backwards else outputs
        else:
            output = outputs[:, 0 if self.go_backwards else -1]
        return (output, *state) if self.return_state else output

    def _starting_state(self, sequences, initial_state):
        """The initial state as a list of tensors, or None for zeros."""
        if self.stateful:
            expected, received = self._expected_batch_size, sequences.shape[0]
            if expected is not None and received is not None and expected != received:
                raise ValueError(
                    f"A stateful layer built for batches of {expected} sequences received {received}: `sequences` "
                    f"of shape {tuple(sequences.shape)}."
                )
            if initial_state is None:
                initial_state = self.states
        if initial_state is None:
            return None
        if not isinstance(initial_state, (list, tuple)):
            initial_state = [initial_state]
        return [ops.convert_to_tensor(state, dtype=self.compute_dtype) for state in initial_state]

    def compute_mask(self, sequences, mask=None):
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        output_mask = mask if self.return_sequences else None
        return [output_mask, *(None for _ in self.state_size)] if self.return_state else output_mask

    def get_config(self):
        config = super().get_config()
        del config["cell"]
        cell_config = self.cell.get_config()
        del cell_config["name"], cell_config["trainable"], cell_config["dtype"]
        regularizer = keras.regularizers.serialize(self.activity_regularizer)
        own = {
            "activity_regularizer": regularizer,
            "implementation": self.implementation,
            "recompute": self.recompute,
            "use_cudnn": self.use_cudnn,
        }
        return {**config, **cell_config, **own}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("keras_seq")
class SimpleRNN(RecurrentLayer):
    """The vanilla recurrence (Elman 1990): `h_t = f(x_t W + h_{t-1} U + b)`.

    Args:
        units: size of the state and of the output.
        activation: f. Default `"tanh"`.
        use_bias, *_initializer, *_regularizer, *_constraint: as of `keras.layers.SimpleRNN`.
        dropout: fraction of the input features to drop, one mask a sequence.
        recurrent_dropout: fraction of the previous output's units to drop in the recurrent product, one mask a
            sequence for all gates (Gal & Ghahramani 2016).
        return_sequences: whether to return the output of every step or of the last alone.
        return_state: whether to return the final state too.
        go_backwards: whether to run from the last step to the first, and return outputs in that order.
        stateful: whether the final state of a batch starts the next one.
        unroll: whether to lay out the steps instead of looping.
        seed: of the dropout masks.
        zero_output_for_mask: whether a masked step's output is zero; by default it repeats the last one.
        implementation: "auto", "native" or "xla" (`keras_seq.explain` tells which runs).
        recompute: whether a gradient runs the forward pass again instead of keeping what it needs of it: less memory,
            more time.

    Call arguments:
        sequences: (batch, time, features).
        initial_state: h (batch, units), or a list of it; zeros by default.
        mask: (batch, time) booleans, True = keep. A masked step leaves the state as it was.
        training: whether to apply dropout.

    Returns:
        (batch, units), or (batch, time, units) with `return_sequences`; with `return_state` a tuple of it and the
        final state h.

    Raises:
        ValueError: for an argument that cannot be: the message names it.
        NotImplementedError: if `implementation="native"` cannot be had.

    Example:
        >>> import numpy as np
        >>> layer = SimpleRNN(4, return_sequences=True)
        >>> layer(np.ones((2, 5, 3))).shape
        TensorShape([2, 5, 4])
    """

    def __init__(
        self,
        units,
        activation="tanh",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        seed=None,
        **kwargs,
    ):
        cell = SimpleRNNCell(
            units,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            dtype=kwargs.get("dtype"),
            trainable=kwargs.get("trainable", True),
            name="simple_rnn_cell",
        )
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )


@keras.saving.register_keras_serializable("keras_seq")
class GRU(RecurrentLayer):
    """The gated recurrent unit (Cho et al. 2014).

    `z_t = s(x_t W_z + h_{t-1} U_z + b_z)`, `r_t = s(x_t W_r + h_{t-1} U_r + b_r)`,
    `g_t = f(x_t W_g + b_g + r_t (h_{t-1} U_g + c_g))` with `reset_after`, else
    `g_t = f(x_t W_g + (r_t h_{t-1}) U_g + b_g)`, and `h_t = z_t h_{t-1} + (1 - z_t) g_t`.

    Args:
        units: size of the state and of the output.
        activation: f, activation of the candidate. Default `"tanh"`.
        recurrent_activation: activation of the gates. Default `"sigmoid"`.
        use_bias, *_initializer, *_regularizer, *_constraint: as of `keras.layers.GRU`.
        dropout: fraction of the input features to drop, one mask a sequence.
        recurrent_dropout: fraction of the previous output's units to drop in the recurrent product, one mask a
            sequence for all gates (Gal & Ghahramani 2016).
        reset_after: whether the reset gate acts after the recurrent product, as in cuDNN.
        return_sequences: whether to return the output of every step or of the last alone.
        return_state: whether to return the final state too.
        go_backwards: whether to run from the last step to the first, and return outputs in that order.
        stateful: whether the final state of a batch starts the next one.
        unroll: whether to lay out the steps instead of looping.
        seed: of the dropout masks.
        zero_output_for_mask: whether a masked step's output is zero; by default it repeats the last one.
        implementation: "auto", "native" or "xla" (`keras_seq.explain` tells which runs).
        recompute: whether a gradient runs the forward pass again instead of keeping what it needs of it: less memory,
            more time.

    Call arguments:
        sequences: (batch, time, features).
        initial_state: h (batch, units), or a list of it; zeros by default.
        mask: (batch, time) booleans, True = keep. A masked step leaves the state as it was.
        training: whether to apply dropout.

    Returns:
        (batch, units), or (batch, time, units) with `return_sequences`; with `return_state` a tuple of it and the
        final state h.

    Raises:
        ValueError: for an argument that cannot be: the message names it.
        NotImplementedError: if `implementation="native"` cannot be had.

    Example:
        >>> import numpy as np
        >>> layer = GRU(4, return_sequences=True)
        >>> layer(np.ones((2, 5, 3))).shape
        TensorShape([2, 5, 4])
    """

    recurrent_activation = _of_cell("recurrent_activation")
    reset_after = _of_cell("reset_after")

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        reset_after=True,
        **kwargs,
    ):
        cell = GRUCell(
            units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            reset_after=reset_after,
            dtype=kwargs.get("dtype"),
            trainable=kwargs.get("trainable", True),
            name="gru_cell",
        )
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )


@keras.saving.register_keras_serializable("keras_seq")
class LSTM(RecurrentLayer):
    """Long short-term memory (Hochreiter & Schmidhuber 1997).

    `i, f, g, o = split(x_t W + h_{t-1} U + b)`, `c_t = s(f) c_{t-1} + s(i) f(g)`, `h_t = s(o) f(c_t)`.

    Args:
        units: size of the state and of the output.
        activation: f, activation of candidate and output. Default `"tanh"`.
        recurrent_activation: activation of the gates. Default `"sigmoid"`.
        use_bias, *_initializer, *_regularizer, *_constraint: as of `keras.layers.LSTM`.
        dropout: fraction of the input features to drop, one mask a sequence.
        recurrent_dropout: fraction of the previous output's units to drop in the recurrent product, one mask a
            sequence for all gates (Gal & Ghahramani 2016).
        unit_forget_bias: whether the forget gate's bias starts at 1 (Jozefowicz et al. 2015).
        return_sequences: whether to return the output of every step or of the last alone.
        return_state: whether to return the final state too.
        go_backwards: whether to run from the last step to the first, and return outputs in that order.
        stateful: whether the final state of a batch starts the next one.
        unroll: whether to lay out the steps instead of looping.
        seed: of the dropout masks.
        zero_output_for_mask: whether a masked step's output is zero; by default it repeats the last one.
        implementation: "auto", "native" or "xla" (`keras_seq.explain` tells which runs).
        recompute: whether a gradient runs the forward pass again instead of keeping what it needs of it: less memory,
            more time.

    Call arguments:
        sequences: (batch, time, features).
        initial_state: list of h and c, each (batch, units); zeros by default.
        mask: (batch, time) booleans, True = keep. A masked step leaves the state as it was.
        training: whether to apply dropout.

    Returns:
        (batch, units), or (batch, time, units) with `return_sequences`; with `return_state` a tuple of it and the
        final state h, c.

    Raises:
        ValueError: for an argument that cannot be: the message names it.
        NotImplementedError: if `implementation="native"` cannot be had.

    Example:
        >>> import numpy as np
        >>> layer = LSTM(4, return_sequences=True)
        >>> layer(np.ones((2, 5, 3))).shape
        TensorShape([2, 5, 4])
    """

    recurrent_activation = _of_cell("recurrent_activation")
    unit_forget_bias = _of_cell("unit_forget_bias")

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        unit_forget_bias=True,
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        **kwargs,
    ):
        cell = LSTMCell(
            units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            unit_forget_bias=unit_forget_bias,
            dtype=kwargs.get("dtype"),
            trainable=kwargs.get("trainable", True),
            name="lstm_cell",
        )
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )


LAYERS = {"rnn": SimpleRNN, "gru": GRU, "lstm": LSTM}


def make_layer(name, units, **kwargs):
    """The layer called "rnn", "gru" or "lstm"."""
    if name not in LAYERS:
        raise ValueError(f"`cell` must be one of {sorted(LAYERS)}. Received: {name!r}")
    return LAYERS[name](units, **kwargs)

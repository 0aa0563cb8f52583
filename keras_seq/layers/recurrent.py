# SPDX-License-Identifier: Apache-2.0
"""SimpleRNN, GRU and LSTM: an `RNN` over cells of one kind, with the arguments of layer and cell in one constructor."""

import keras

from keras_seq.layers.cells import INITIALIZERS, GRUCell, LSTMCell, SimpleRNNCell
from keras_seq.layers.rnn import RNN
from keras_seq.ops.random import check_rate, child_initializer, child_seed


def _of_cell(name):
    return property(lambda self: getattr(self.first_cell(), name), doc=f"The `{name}` of the cell.")


class RecurrentLayer(RNN):
    """What our named layers share: arguments that go to the cells by name, and stacks of cells.

    A subclass names the kind of its cells.

    Args:
        num_layers: how many cells stand on one another; of several, states come one entry a cell.
        output_dropout: fraction of the output features to drop; masks as `dropout_mode` has them.
        dropout_mode: how all masks stand in time; `RecurrentCell` of `keras_seq.layers.cells` says more.
        **arguments: those of the cell, and of `RNN`.
    """

    cell_type = None
    cell_name = None

    def __init_subclass__(cls):
        if "cell_type" in vars(cls):  # else a user's subclass
            for name in cls.cell_type.argument_names():
                setattr(cls, name, _of_cell(name))

    def __init__(self, *, num_layers=1, output_dropout=0.0, **arguments):
        if num_layers < 1:
            raise ValueError(f"`num_layers` must be at least 1. Received: {num_layers}")
        of_cell = {n: arguments.pop(n) for n in self.cell_type.argument_names() if n in arguments}
        of_cell |= {name: arguments[name] for name in ("dtype", "trainable") if name in arguments}
        cells = [self.cell_type(**of_cell, name=self.cell_name)]
        for i in range(1, num_layers):
            of_cell |= _children_of(cells[0], "cell", i)
            cells.append(self.cell_type(**of_cell, name=f"{self.cell_name}_{i}"))
        super().__init__(cells if num_layers > 1 else cells[0], **arguments)
        self.num_layers = num_layers
        self.output_dropout = check_rate("output_dropout", output_dropout)

    def first_cell(self):
        """The cell, or the first one of a stack. A method, because Keras saves what attributes hold."""
        return self.recurrent_cells()[0]

    def collect_results(self, outputs, states, training, time_order=False):
        if training:
            mask = self.recurrent_cells()[-1].draw_mask(self.output_dropout, *keras.ops.shape(outputs))
            outputs = outputs if mask is None else outputs * mask
        return super().collect_results(outputs, states, training, time_order)

    def get_config(self):
        config = super().get_config()
        del config["cell"]
        names = self.cell_type.argument_names()
        of_cell = {name: value for name, value in self.first_cell().get_config().items() if name in names}
        own = {name: getattr(self, name) for name in ("num_layers", "output_dropout")}
        return {**config, **of_cell, **own}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class GatedLayer(RecurrentLayer):
    """What `GRU` and `LSTM` share: Keras's `use_cudnn`."""

    def __init__(self, *, use_cudnn="auto", **arguments):
        if use_cudnn not in ("auto", True, False):
            raise ValueError(f"`use_cudnn` must be 'auto', True or False. Received: {use_cudnn!r}")
        super().__init__(**arguments)
        self.use_cudnn = use_cudnn

    def call_features(self, cell):
        return cell.call_features(self.unroll, self.use_cudnn)

    def run_options(self, mask, training):
        return {**super().run_options(mask, training), "use_cudnn": self.use_cudnn}

    def get_config(self):
        return {**super().get_config(), "use_cudnn": self.use_cudnn}


def _children_of(cell, *path):
    """The arguments with which another cell draws masks and weights of its own."""
    initializers = {name: child_initializer(getattr(cell, name), *path) for name in INITIALIZERS.values()}
    return {"seed": child_seed(cell.seed, *path), **initializers}


def _given(arguments):
    """The arguments of a constructor, from its `locals()`."""
    own = {name: value for name, value in arguments.items() if name not in ("self", "__class__", "kwargs")}
    return own | arguments["kwargs"]


@keras.saving.register_keras_serializable("keras_seq")
class SimpleRNN(RecurrentLayer):
    """The vanilla recurrence (Elman 1990): `h_t = f(x_t W + h_{t-1} U + b)`.

    Arguments and weights are those of `keras.layers.SimpleRNN`; those that Keras does not have are by keyword only.

    Args:
        units: size of the state and of the output.
        activation: f. Default `"tanh"`.
        use_bias, *_initializer, *_regularizer, *_constraint: as of `keras.layers.SimpleRNN`.
        dropout: fraction of the input features to drop; with `num_layers`, of those of every cell.
        recurrent_dropout: fraction of the previous output's units to drop in the recurrent product, one mask for all
            gates (Gal & Ghahramani 2016). Stays on native kernels, as the other dropouts do.
        return_sequences: whether to return the output of every step or of the last alone.
        return_state: whether to return the final state too.
        go_backwards: whether to run from the last step to the first, and return outputs in that order.
        stateful: whether the final state of a batch starts the next one, until `reset_state()`.
        unroll: whether to lay out the steps instead of looping.
        seed: of the masks. With `num_layers` each cell draws its own numbers.
        zero_output_for_mask: whether a masked step's output is zero; by default it repeats the last one.
        output_dropout: fraction of the output features to drop, with `num_layers` of the last cell. Final
            states are not dropped.
        dropout_mode: "variational" draws the masks of inputs, outputs and recurrent connections once a sequence;
            "locked" those of inputs and outputs, and wants a `recurrent_dropout` of 0; "naive" draws one a step.
        recurrent_weight_dropout: fraction of the recurrent kernel's entries to drop, one mask a batch (DropConnect in
            AWD-LSTM, Merity et al. 2018).
        zoneout: probability m that a unit keeps its state in a step, `s_t = m s_{t-1} + (1 - m) s~_t`; at inference
            every unit moves by the expectation (Krueger et al. 2017).
        num_layers: how many cells stand on one another.
        residual: whether each cell but the first adds its input to its output (Wu et al. 2016).
        initial_state_initializer: of a learned initial state, which starts every sequence; None starts from zeros.
        implementation: "auto", "native", "cudnn" or "xla" (`keras_seq.explain` tells which runs).
        recompute: whether a gradient runs the forward pass again instead of keeping what it needs of it: less memory,
            more time.

    Call arguments:
        sequences: (batch, time, features). A `tf.RaggedTensor` counts as `ragged.to_tensor()`, with a mask that keeps
            the steps of each row; sequences that are returned are dense, and carry that mask.
        initial_state: h (batch, units), or a list of it; with `num_layers` a list of these, one a cell. Zeros by
            default.
        mask: (batch, time) booleans, True = keep, of any pattern. A masked step leaves the state as it was. The mask
            that `sequences` carry, as from an Embedding, counts where none is given.
        training: whether to drop.

    Returns:
        (batch, units), or (batch, time, units) with `return_sequences`; with `return_state` a tuple of it and the
        final state h, with `num_layers` one list a cell.

    Raises:
        ValueError: for an argument that cannot be: the message names it.
        NotImplementedError: if `implementation="native"` or `"cudnn"` cannot be had.

    Example:
        >>> import numpy as np
        >>> layer = SimpleRNN(4, return_sequences=True)
        >>> layer(np.ones((2, 5, 3))).shape
        TensorShape([2, 5, 4])
    """

    cell_type = SimpleRNNCell
    cell_name = "simple_rnn_cell"

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
        super().__init__(**_given(locals()))


@keras.saving.register_keras_serializable("keras_seq")
class GRU(GatedLayer):
    """The gated recurrent unit (Cho et al. 2014).

    `z_t = s(x_t W_z + h_{t-1} U_z + b_z)`, `r_t = s(x_t W_r + h_{t-1} U_r + b_r)`,
    `g_t = f(x_t W_g + b_g + r_t (h_{t-1} U_g + c_g))` with `reset_after`, else
    `g_t = f(x_t W_g + (r_t h_{t-1}) U_g + b_g)`, and `h_t = z_t h_{t-1} + (1 - z_t) g_t`. With `layer_norm` each
    product with W or U is normalised before a bias is added.

    Args:
        units: size of the state and of the output.
        activation: f, activation of the candidate. Default `"tanh"`.
        recurrent_activation: activation of the gates. Default `"sigmoid"`.
        use_bias, *_initializer, *_regularizer, *_constraint: as of `keras.layers.GRU`.
        dropout: fraction of the input features to drop; with `num_layers`, of those of every cell.
        recurrent_dropout: fraction of the previous output's units to drop in the recurrent product, one mask for all
            gates (Gal & Ghahramani 2016). Stays on native kernels, as the other dropouts do.
        reset_after: whether the reset gate acts after the recurrent product, as in cuDNN.
        return_sequences: whether to return the output of every step or of the last alone.
        return_state: whether to return the final state too.
        go_backwards: whether to run from the last step to the first, and return outputs in that order.
        stateful: whether the final state of a batch starts the next one, until `reset_state()`.
        unroll: whether to lay out the steps instead of looping.
        seed: of the masks. With `num_layers` each cell draws its own numbers.
        zero_output_for_mask: whether a masked step's output is zero; by default it repeats the last one.
        output_dropout: fraction of the output features to drop, with `num_layers` of the last cell. Final
            states are not dropped.
        dropout_mode: "variational" draws the masks of inputs, outputs and recurrent connections once a sequence;
            "locked" those of inputs and outputs, and wants a `recurrent_dropout` of 0; "naive" draws one a step.
        recurrent_weight_dropout: fraction of the recurrent kernel's entries to drop, one mask a batch (DropConnect in
            AWD-LSTM, Merity et al. 2018).
        zoneout: probability m that a unit keeps its state in a step, `s_t = m s_{t-1} + (1 - m) s~_t`; at inference
            every unit moves by the expectation (Krueger et al. 2017).
        layer_norm: whether to normalise the products, z and r together and the candidate by itself, input and recurrent
            product apart, each entry with a gain (Ba et al. 2016). It adds 0.001 to the variance, as
            `keras.layers.LayerNormalization` does. Runs on xla.
        num_layers: how many cells stand on one another.
        residual: whether each cell but the first adds its input to its output (Wu et al. 2016).
        initial_state_initializer: of a learned initial state, which starts every sequence; None starts from zeros.
        implementation: "auto", "native", "cudnn" or "xla" (`keras_seq.explain` tells which runs).
        recompute: whether a gradient runs the forward pass again instead of keeping what it needs of it: less memory,
            more time.
        use_cudnn: False keeps `implementation="auto"` off cuDNN. Keras's `"auto"` and True leave it the choice.

    Call arguments:
        sequences: (batch, time, features). A `tf.RaggedTensor` counts as `ragged.to_tensor()`, with a mask that keeps
            the steps of each row; sequences that are returned are dense, and carry that mask.
        initial_state: h (batch, units), or a list of it; with `num_layers` a list of these, one a cell. Zeros by
            default.
        mask: (batch, time) booleans, True = keep, of any pattern. A masked step leaves the state as it was. The mask
            that `sequences` carry, as from an Embedding, counts where none is given.
        training: whether to drop.

    Returns:
        (batch, units), or (batch, time, units) with `return_sequences`; with `return_state` a tuple of it and the
        final state h, with `num_layers` one list a cell.

    Raises:
        ValueError: for an argument that cannot be: the message names it.
        NotImplementedError: if `implementation="native"` or `"cudnn"` cannot be had.

    Example:
        >>> import numpy as np
        >>> layer = GRU(4, return_sequences=True)
        >>> layer(np.ones((2, 5, 3))).shape
        TensorShape([2, 5, 4])
    """

    cell_type = GRUCell
    cell_name = "gru_cell"

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
        use_cudnn="auto",
        **kwargs,
    ):
        super().__init__(**_given(locals()))


@keras.saving.register_keras_serializable("keras_seq")
class LSTM(GatedLayer):
    """Long short-term memory (Hochreiter & Schmidhuber 1997).

    `i, f, g, o = split(x_t W + h_{t-1} U + b)`, `c_t = s(f) c_{t-1} + s(i) f(g)`, `h_t = s(o) f(c_t)`. With all its
    extensions, N for layer normalisation: `i, f, g, o = split(N(x_t W) + N(h_{t-1} U) + b)`,
    `c_t = s(f + p_f c_{t-1}) c_{t-1} + s(i + p_i c_{t-1}) f(g)`, `h_t = (s(o + p_o c_t) f(N(c_t))) P`.

    Args:
        units: size of the state and of the output.
        activation: f, activation of candidate and output. Default `"tanh"`.
        recurrent_activation: activation of the gates. Default `"sigmoid"`.
        use_bias, *_initializer, *_regularizer, *_constraint: as of `keras.layers.LSTM`.
        dropout: fraction of the input features to drop; with `num_layers`, of those of every cell.
        recurrent_dropout: fraction of the previous output's units to drop in the recurrent product, one mask for all
            gates (Gal & Ghahramani 2016). Stays on native kernels, as the other dropouts do.
        unit_forget_bias: whether the forget gate's bias starts at 1 (Jozefowicz et al. 2015).
        return_sequences: whether to return the output of every step or of the last alone.
        return_state: whether to return the final state too.
        go_backwards: whether to run from the last step to the first, and return outputs in that order.
        stateful: whether the final state of a batch starts the next one, until `reset_state()`.
        unroll: whether to lay out the steps instead of looping.
        seed: of the masks. With `num_layers` each cell draws its own numbers.
        zero_output_for_mask: whether a masked step's output is zero; by default it repeats the last one.
        output_dropout: fraction of the output features to drop, with `num_layers` of the last cell. Final
            states are not dropped.
        dropout_mode: "variational" draws the masks of inputs, outputs and recurrent connections once a sequence;
            "locked" those of inputs and outputs, and wants a `recurrent_dropout` of 0; "naive" draws one a step.
        recurrent_weight_dropout: fraction of the recurrent kernel's entries to drop, one mask a batch (DropConnect in
            AWD-LSTM, Merity et al. 2018).
        zoneout: probability m that a unit keeps its state in a step, `s_t = m s_{t-1} + (1 - m) s~_t`; at inference
            every unit moves by the expectation (Krueger et al. 2017). A number, or a list of those of h and c.
        peephole: whether the gates see the cell state, i and f that before the step, o that after it, each unit its
            own (Gers & Schmidhuber 2000). The weights start at zero. Runs on xla.
        projection_units: size p of h, where it is a projection of the output (Sak et al. 2014). Runs on xla.
        layer_norm: whether to normalise both products, with a gain for each entry, and c' before the output, with gain
            and shift (Ba et al. 2016). It adds 0.001 to the variance, as `keras.layers.LayerNormalization` does. Runs
            on xla.
        num_layers: how many cells stand on one another.
        residual: whether each cell but the first adds its input to its output (Wu et al. 2016).
        initial_state_initializer: of a learned initial state, which starts every sequence; None starts from zeros.
        implementation: "auto", "native", "cudnn" or "xla" (`keras_seq.explain` tells which runs).
        recompute: whether a gradient runs the forward pass again instead of keeping what it needs of it: less memory,
            more time.
        use_cudnn: False keeps `implementation="auto"` off cuDNN. Keras's `"auto"` and True leave it the choice.

    Call arguments:
        sequences: (batch, time, features). A `tf.RaggedTensor` counts as `ragged.to_tensor()`, with a mask that keeps
            the steps of each row; sequences that are returned are dense, and carry that mask.
        initial_state: list of h (batch, units or p) and c (batch, units); with `num_layers` a list of these, one a
            cell. Zeros by default.
        mask: (batch, time) booleans, True = keep, of any pattern. A masked step leaves the state as it was. The mask
            that `sequences` carry, as from an Embedding, counts where none is given.
        training: whether to drop.

    Returns:
        (batch, units or p), or (batch, time, units or p) with `return_sequences`; with `return_state` a tuple of it and
        the final state h, c, with `num_layers` one list a cell.

    Raises:
        ValueError: for an argument that cannot be: the message names it.
        NotImplementedError: if `implementation="native"` or `"cudnn"` cannot be had.

    Example:
        >>> import numpy as np
        >>> layer = LSTM(4, return_sequences=True)
        >>> layer(np.ones((2, 5, 3))).shape
        TensorShape([2, 5, 4])
    """

    cell_type = LSTMCell
    cell_name = "lstm_cell"

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
        use_cudnn="auto",
        **kwargs,
    ):
        super().__init__(**_given(locals()))


LAYERS = {"rnn": SimpleRNN, "gru": GRU, "lstm": LSTM}


def make_layer(name, units, **kwargs):
    """The layer called "rnn", "gru" or "lstm"."""
    if name not in LAYERS:
        raise ValueError(f"`cell` must be one of {sorted(LAYERS)}. Received: {name!r}")
    return LAYERS[name](units, **kwargs)

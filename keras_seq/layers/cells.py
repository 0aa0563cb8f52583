# SPDX-License-Identifier: Apache-2.0
"""Recurrent cells: variables, dropout masks and one step. Arguments, weights and defaults are Keras's, and more."""

import inspect
from typing import NamedTuple

import keras
from keras import ops

from keras_seq.ops.cudnn import CallFeatures
from keras_seq.ops.equations.cell import zone_out
from keras_seq.ops.equations.gru import GRUEquations, LayerNormGRUEquations
from keras_seq.ops.equations.lstm import ExtendedLSTMEquations, LSTMEquations
from keras_seq.ops.equations.protocol import RecurrentWeights, StepMasks
from keras_seq.ops.equations.simple_rnn import SimpleRNNEquations
from keras_seq.ops.random import check_rate, child_initializer, draw_same_numbers, dropout_mask
from keras_seq.ops.recurrent_call import RecurrentCall

DROPOUT_MODES = ("variational", "locked", "naive")

# The weights of Keras's cells, in the order in which they are made, and the attributes that hold their initializers.
INITIALIZERS = {
    "kernel": "kernel_initializer",
    "recurrent_kernel": "recurrent_initializer",
    "bias": "bias_initializer",
}


class Masks(NamedTuple):
    """What is drawn for one run of a cell over whole sequences; None where nothing is."""

    inputs: object = None  # (batch, 1 or time, features), scaled
    recurrent: object = None  # (batch, units) or (batch, time, units), scaled
    recurrent_kernel: object = None  # of the kernel's shape, scaled
    zoneout: object = None  # list, one a state, of None or (batch, [time,] units): the share of the old state


class RecurrentCell:
    """What our cells share: Keras holds arguments and variables, `cell_equations` the equations.

    A subclass names its equations.

    Args:
        *args, **kwargs: those of the cell of Keras.
        zoneout: probability that a unit keeps its state in a step, drawn for each step; at inference every unit moves
            by the expectation (Krueger et al. 2017). A number, or a list with one for each state.
        recurrent_weight_dropout: fraction of the recurrent kernel's entries to drop, one mask for the whole batch and
            all steps (DropConnect, as in the AWD-LSTM of Merity et al. 2018).
        dropout_mode: how masks stand in time: "variational" and "locked" draw one a sequence, "naive" one a step.
            "locked" leaves the recurrent connections alone.
    """

    _input_mask = _recurrent_mask = _kernel_mask = None  # see `get_dropout_mask`

    def __init__(self, *args, zoneout=0.0, recurrent_weight_dropout=0.0, dropout_mode="variational", **kwargs):
        super().__init__(*args, **kwargs)
        self.zoneout = list(zoneout) if isinstance(zoneout, (list, tuple)) else zoneout
        states = len(self._sizes())
        if len(self._zoneout_rates()) != states:
            raise ValueError(f"`zoneout` must be a number or a list of {states}, one a state. Received: {zoneout}")
        rates = [("zoneout", rate) for rate in self._zoneout_rates()]
        for name, rate in [("dropout", self.dropout), ("recurrent_dropout", self.recurrent_dropout), *rates]:
            check_rate(name, rate)
        self.recurrent_weight_dropout = check_rate("recurrent_weight_dropout", recurrent_weight_dropout)
        if dropout_mode not in DROPOUT_MODES:
            raise ValueError(f"`dropout_mode` must be one of {DROPOUT_MODES}. Received: {dropout_mode!r}")
        if dropout_mode == "locked" and self.recurrent_dropout:
            raise ValueError(
                "`recurrent_dropout` must be 0 with `dropout_mode='locked'`, which drops inputs and outputs alone. "
                f"Received: {self.recurrent_dropout}"
            )
        self.dropout_mode = dropout_mode

    @classmethod
    def argument_names(cls):
        """The names of the constructor's arguments, without those that every Keras layer has."""
        kinds = [kind for kind in cls.__mro__ if not issubclass(keras.layers.Layer, kind) and "__init__" in vars(kind)]
        parameters = [p for kind in kinds for p in inspect.signature(kind.__init__).parameters.values()]
        return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}

    @property
    def equations(self):
        """The recurrence of `cell_equations` with this cell's arguments."""
        raise NotImplementedError

    def call_features(self, unroll=False, use_cudnn=True):
        """What a training step asks for that cuDNN may not have: `CallFeatures` of `keras_seq.ops.cudnn`."""
        return CallFeatures(
            no_bias=not self.use_bias,
            recurrent_dropout=self.recurrent_dropout > 0,
            zoneout=any(self._zoneout_rates()),
            unroll=unroll,
            use_cudnn=bool(use_cudnn),
        )

    def split_bias(self):
        """The bias of the input product and that of the recurrent product, or None."""
        return self.equations.split_bias(self.bias)

    def extra_weight_shapes(self):
        """The weights that Keras's cell does not have: a dict of name to (shape, initializer)."""
        return {}

    def extra_weights(self):
        """Those weights by name, or None."""
        return {name: getattr(self, name) for name in self.extra_weight_shapes()} or None

    def build(self, input_shape):
        super().build(input_shape)
        for name, (shape, initializer) in self.extra_weight_shapes().items():
            if not isinstance(initializer, str):
                initializer = child_initializer(initializer, name)
            setattr(self, name, self.add_weight(shape=shape, initializer=initializer, name=name))

    def add_weight(self, shape=None, initializer=None, *args, name=None, **kwargs):
        if name in INITIALIZERS and initializer is getattr(self, INITIALIZERS[name]):
            initializer = self.independent_initializer(name)
        return super().add_weight(shape, initializer, *args, name=name, **kwargs)

    def separate_initializers(self, others, label):
        """Give a cell that is not built copies of the initializers it shares with other cells of its stack."""
        for name in () if self.built else INITIALIZERS.values():
            initializer = getattr(self, name)
            if any(draw_same_numbers(initializer, getattr(other, name)) for other in others):
                setattr(self, name, child_initializer(initializer, label))

    def independent_initializer(self, name):
        """The initializer of one of Keras's weights, or its child where a weight before it draws the same numbers."""
        initializer, names = getattr(self, INITIALIZERS[name]), list(INITIALIZERS)
        earlier = [getattr(self, INITIALIZERS[other]) for other in names[: names.index(name)]]
        repeats = any(draw_same_numbers(initializer, other) for other in earlier)
        return child_initializer(initializer, name) if repeats else initializer

    def recurrent_call(self, sequences, initial_state=None, *, reverse=False, training=False):
        """Draw masks, and return the `RecurrentCall` of this cell over whole sequences.

        Args:
            sequences: (batch, time, features).
            initial_state: list of (batch, units), or None for zeros.
            reverse: whether to run from the last step to the first.
            training: whether to drop.
        """
        masks = self.draw_masks(sequences, training)
        return RecurrentCall(
            self.equations,
            sequences if masks.inputs is None else sequences * masks.inputs,
            self.kernel,
            self.recurrent_kernel if masks.recurrent_kernel is None else self.recurrent_kernel * masks.recurrent_kernel,
            self.bias,
            initial_state=initial_state,
            recurrent_dropout_mask=masks.recurrent,
            zoneout_masks=masks.zoneout,
            extra_weights=self.extra_weights(),
            reverse=reverse,
        )

    def draw_masks(self, sequences, training):
        """Fresh `Masks` for sequences (batch, time, features). At inference nothing is drawn: the seed stands still."""
        batch, time, features = ops.shape(sequences)
        rates, sizes = self._zoneout_rates(), self._sizes()
        if not training:
            shares = [
                ops.full((batch, size), rate, self.compute_dtype) if rate else None
                for rate, size in zip(rates, sizes, strict=True)
            ]
            return Masks(zoneout=shares if any(rates) else None)
        # Drawn in the order of a loop of Keras, so that a seed gives the same masks step by step.
        inputs = self.draw_mask(self.dropout, batch, time, features)
        recurrent = self.draw_mask(self.recurrent_dropout, batch, time, sizes[0])
        if recurrent is not None and self.dropout_mode != "naive":
            recurrent = recurrent[:, 0]
        kernel = self._draw_kernel_mask()
        shares = [self._draw_zoneout((batch, time, size), rate) for rate, size in zip(rates, sizes, strict=True)]
        return Masks(inputs, recurrent, kernel, shares if any(rates) else None)

    def draw_mask(self, rate, batch, time, features):
        """A mask that stands in time as `dropout_mode` has it, (batch, 1 or time, features); None for a rate of 0."""
        steps = time if self.dropout_mode == "naive" else 1
        return self._draw((batch, steps, features), rate)

    def _draw(self, shape, rate):
        return dropout_mask(shape, rate, self.seed_generator, self.compute_dtype) if rate else None

    def _draw_kernel_mask(self):
        shape = self.output_size, self.equations.gates * self.units
        return self._draw(shape, self.recurrent_weight_dropout)

    def _draw_zoneout(self, shape, rate):
        """1 where a unit keeps its state, with probability `rate`, else 0."""
        if not rate:
            return None
        return 1 - dropout_mask(shape, rate, self.seed_generator, self.compute_dtype, scale=False)

    def _zoneout_rates(self):
        return self.zoneout if isinstance(self.zoneout, list) else [self.zoneout] * len(self._sizes())

    def _sizes(self):
        return self.state_size if isinstance(self.state_size, (list, tuple)) else [self.state_size]

    def call(self, inputs, states, training=False, context=None):
        state = tuple(states) if isinstance(states, (list, tuple)) else (states,)
        masks = self._step_masks(inputs, state, training)
        kernel = ops.convert_to_tensor(self.recurrent_kernel)
        if masks.recurrent_kernel is not None:
            kernel = kernel * masks.recurrent_kernel
        equations, (bias, recurrent_bias) = self.equations, self.split_bias()
        weights = RecurrentWeights(kernel, recurrent_bias, self.extra_weights())
        inputs = inputs if masks.inputs is None else inputs * masks.inputs
        inputs = inputs if context is None else ops.concatenate([inputs, context], axis=-1)
        product = equations.project(weights, inputs, self.kernel, bias)
        step = equations.step(equations.prepare(weights), StepMasks(masks.recurrent), product, state)
        state = zone_out(masks.zoneout, state, step.state)
        return state[0], list(state) if isinstance(states, (list, tuple)) else state[0]

    def _step_masks(self, inputs, state, training):
        """`Masks` of one step."""
        if not training:
            return Masks(zoneout=[rate or None for rate in self._zoneout_rates()])
        kept = self._input_mask, self._recurrent_mask, self._kernel_mask
        fresh = (
            lambda: self._draw(ops.shape(inputs), self.dropout),
            lambda: self._draw(ops.shape(state[0]), self.recurrent_dropout),
            self._draw_kernel_mask,
        )
        masks = [draw() if mask is None else mask for mask, draw in zip(kept, fresh, strict=True)]
        shares = [self._draw_zoneout(ops.shape(s), rate) for s, rate in zip(state, self._zoneout_rates(), strict=True)]
        return Masks(*masks, shares)

    # `keras.layers.RNN` asks for the masks that last a sequence before its loop and resets them after it. Between the
    # two, and only there, the cell keeps them: a call by itself draws anew, and nothing leaks from graph to graph.

    def get_dropout_mask(self, step_input):
        if self.dropout_mode != "naive":
            self._input_mask = self._draw(ops.shape(step_input), self.dropout)
        return self._input_mask

    def get_recurrent_dropout_mask(self, step_input):
        if self.dropout_mode != "naive":
            self._recurrent_mask = self._draw(ops.shape(step_input), self.recurrent_dropout)
        self._kernel_mask = self._draw_kernel_mask()
        return self._recurrent_mask

    def reset_dropout_mask(self):
        self._input_mask = None

    def reset_recurrent_dropout_mask(self):
        self._recurrent_mask = self._kernel_mask = None

    def get_config(self):
        own = ("zoneout", "recurrent_weight_dropout", "dropout_mode")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


@keras.saving.register_keras_serializable("keras_seq")
class SimpleRNNCell(RecurrentCell, keras.layers.SimpleRNNCell):
    """One step of the vanilla recurrence (Elman 1990): `h' = f(x W + h U + b)`.

    Args:
        units: size of the state.
        **kwargs: those of `keras.layers.SimpleRNNCell`; `zoneout`, `recurrent_weight_dropout` and `dropout_mode` as of
            `keras_seq.layers.SimpleRNN`.

    Call arguments:
        inputs: (batch, features).
        states: h (batch, units), or a list of it.
        training: whether to apply dropout.
        context: (batch, any) or None, further features of the inputs, from an attention, which are never dropped.

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
        return SimpleRNNEquations(self.activation)


@keras.saving.register_keras_serializable("keras_seq")
class GRUCell(RecurrentCell, keras.layers.GRUCell):
    """One step of a gated recurrent unit (Cho et al. 2014).

    `z = s(x W_z + h U_z + b_z)`, `r = s(x W_r + h U_r + b_r)`, `g = f(x W_g + b_g + r (h U_g + c_g))` with
    `reset_after`, else `g = f(x W_g + (r h) U_g + b_g)`, and `h' = z h + (1 - z) g`.

    Args:
        units: size of the state.
        **kwargs: those of `keras.layers.GRUCell`; `zoneout`, `recurrent_weight_dropout`, `dropout_mode` and
            `layer_norm` as of `keras_seq.layers.GRU`. Masks are the same for all gates.

    Call arguments:
        inputs: (batch, features).
        states: h (batch, units), or a list of it.
        training: whether to apply dropout.
        context: (batch, any) or None, further features of the inputs, from an attention, which are never dropped.

    Returns:
        The output h' (batch, units), and the new state as it was given: a tensor or a list.

    Example:
        >>> import numpy as np
        >>> cell = GRUCell(4)
        >>> output, [state] = cell(np.ones((2, 3)), [np.zeros((2, 4))])
        >>> output.shape
        TensorShape([2, 4])
    """

    def __init__(self, *args, layer_norm=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.layer_norm = layer_norm

    @property
    def equations(self):
        kind = LayerNormGRUEquations if self.layer_norm else GRUEquations
        return kind(self.activation, self.recurrent_activation, self.reset_after)

    def extra_weight_shapes(self):
        shape = (3 * self.units,)
        return {f"{name}_gamma": (shape, "ones") for name in ("input", "recurrent") if self.layer_norm}

    def get_config(self):
        return {**super().get_config(), "layer_norm": self.layer_norm}


@keras.saving.register_keras_serializable("keras_seq")
class LSTMCell(RecurrentCell, keras.layers.LSTMCell):
    """One step of long short-term memory (Hochreiter & Schmidhuber 1997).

    `i, f, g, o = split(x W + h U + b)`, `c' = s(f) c + s(i) f(g)`, `h' = s(o) f(c')`.

    Args:
        units: size of the state.
        **kwargs: those of `keras.layers.LSTMCell`; `zoneout`, `recurrent_weight_dropout`, `dropout_mode`, `peephole`,
            `projection_units` and `layer_norm` as of
            `keras_seq.layers.LSTM`. Masks are the same for all gates.

    Call arguments:
        inputs: (batch, features).
        states: list of h and c, each (batch, units).
        training: whether to apply dropout.
        context: (batch, any) or None, further features of the inputs, from an attention, which are never dropped.

    Returns:
        The output h' (batch, units), and the list of h' and c'.

    Example:
        >>> import numpy as np
        >>> cell = LSTMCell(4)
        >>> output, [h, c] = cell(np.ones((2, 3)), [np.zeros((2, 4)), np.zeros((2, 4))])
        >>> output.shape
        TensorShape([2, 4])
    """

    def __init__(self, *args, peephole=False, projection_units=None, layer_norm=False, **kwargs):
        if projection_units is not None and projection_units <= 0:
            raise ValueError(f"`projection_units` must be positive or None. Received: {projection_units}")
        super().__init__(*args, **kwargs)
        self.peephole = peephole
        self.projection_units = projection_units
        self.layer_norm = layer_norm
        self.output_size = projection_units or self.units
        self.state_size = [self.output_size, self.units]

    @property
    def equations(self):
        functions = self.activation, self.recurrent_activation
        if not (self.peephole or self.projection_units or self.layer_norm):
            return LSTMEquations(*functions)
        return ExtendedLSTMEquations(*functions, self.peephole, self.projection_units, self.layer_norm)

    def extra_weight_shapes(self):
        units, shapes = self.units, {}
        if self.peephole:
            shapes["peephole_kernel"] = (3, units), "zeros"  # gates i, f, o; zeros: it starts as a plain LSTM
        if self.projection_units:
            shapes["projection_kernel"] = (units, self.projection_units), self.kernel_initializer
        if self.layer_norm:
            shapes |= {f"{name}_gamma": ((4 * units,), "ones") for name in ("input", "recurrent")}
            shapes |= {"state_gamma": ((units,), "ones"), "state_beta": ((units,), "zeros")}
        return shapes

    def add_weight(self, shape=None, initializer=None, *args, name=None, **kwargs):
        if name == "recurrent_kernel" and self.projection_units:  # which Keras's `build` makes for `units`
            shape = (self.projection_units, shape[1])
        if name == "bias" and self.unit_forget_bias:  # Keras's `build` hides `bias_initializer` in a function
            initializer = _with_forget_bias(self.independent_initializer(name), self.units)
        return super().add_weight(shape, initializer, *args, name=name, **kwargs)

    def get_config(self):
        own = {name: getattr(self, name) for name in ("peephole", "projection_units", "layer_norm")}
        return {**super().get_config(), **own}


def _with_forget_bias(initializer, units):
    """The initializer of a bias that is 1 for the forget gate: the gates are i, f, g, o, drawn as Keras draws them."""

    def initialize(shape, dtype=None):
        parts = initializer((units,), dtype=dtype), ops.ones((units,), dtype), initializer((2 * units,), dtype=dtype)
        return ops.concatenate(parts)

    return initialize


CELLS = {"rnn": SimpleRNNCell, "gru": GRUCell, "lstm": LSTMCell}


def make_cell(name, units, **kwargs):
    """The cell called "rnn", "gru" or "lstm"."""
    if name not in CELLS:
        raise ValueError(f"`cell` must be one of {sorted(CELLS)}. Received: {name!r}")
    return CELLS[name](units, **kwargs)

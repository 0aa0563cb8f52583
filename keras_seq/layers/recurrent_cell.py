# SPDX-License-Identifier: Apache-2.0
"""`RecurrentCell`, the base class of all cells: dropout masks, zoneout, initial weights, and the step itself."""

from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from keras_seq.ops.cudnn import CallFeatures
from keras_seq.ops.equations.cell import zone_out
from keras_seq.ops.equations.protocol import RecurrentWeights, StepMasks
from keras_seq.ops.random import RandomMask, check_rate, child_initializer, draw_same_numbers, dropout_mask
from keras_seq.ops.recurrent_call import RecurrentCall

DROPOUT_MODES = ("variational", "locked", "naive")

# The weights of a Keras cell, in the order in which `build` makes them, and the arguments with their initializers.
INITIALIZER_ARGUMENTS = {
    "kernel": "kernel_initializer",
    "recurrent_kernel": "recurrent_initializer",
    "bias": "bias_initializer",
}


class DropoutMasks(NamedTuple):
    """The masks of one call of a cell. A field is None where nothing is dropped.

    Entries of the first three are 0 or 1 / (1 - rate). Shapes are those of a call over whole sequences.
    """

    input_mask: object = None  # multiplies the inputs: (batch, 1 or time, features)
    recurrent_dropout_mask: object = None  # multiplies the previous h: (batch, units) or (batch, time, units)
    recurrent_kernel_mask: object = None  # multiplies the recurrent kernel, and has its shape
    zoneout_masks: list | None = (
        None  # for each state the share of it that a step keeps, (batch, [time,] units), or None
    )


class RecurrentCell:
    """Base class of the cells of keras_seq.

    A cell derives from this class and from a cell of Keras, which holds the arguments and the variables. This class
    draws the dropout masks, applies zoneout, and computes a step with the cell equations (see
    `keras_seq.ops.equations`) that the subclass returns as `equations`.

    Args:
        units: size of the state.
        zoneout: probability that a unit keeps its state in a step, drawn anew for each step; a number, or a list with
            one number for each state. Inference uses the expected value (Krueger et al. 2017).
        recurrent_weight_dropout: fraction of the recurrent kernel's entries to drop. The whole batch and all steps
            share one mask (DropConnect, as in the AWD-LSTM of Merity et al. 2018).
        dropout_mode: whether all steps of a sequence share a dropout mask ("variational", "locked") or each step has
            its own ("naive"). "locked" drops nothing in the recurrent connections.
        **kwargs: the other arguments of the cell of Keras.
    """

    # The masks that all steps of Keras's own loop share: see `get_dropout_mask`.
    _input_mask = _recurrent_dropout_mask = _recurrent_kernel_mask = None

    def __init__(self, units, *, zoneout=0.0, recurrent_weight_dropout=0.0, dropout_mode="variational", **kwargs):
        super().__init__(units, **kwargs)
        self.zoneout = list(zoneout) if isinstance(zoneout, (list, tuple)) else zoneout
        states = len(self._state_sizes())
        if len(self._zoneout_rates()) != states:
            raise ValueError(
                f"`zoneout` must be a number or a list of {states}, one for each state. Received: {zoneout}"
            )
        rates = [("zoneout", rate) for rate in self._zoneout_rates()]
        for name, rate in [("dropout", self.dropout), ("recurrent_dropout", self.recurrent_dropout), *rates]:
            check_rate(name, rate)
        self.recurrent_weight_dropout = check_rate("recurrent_weight_dropout", recurrent_weight_dropout)
        if dropout_mode not in DROPOUT_MODES:
            raise ValueError(f"`dropout_mode` must be one of {DROPOUT_MODES}. Received: {dropout_mode!r}")
        if dropout_mode == "locked" and self.recurrent_dropout:
            raise ValueError(
                "`recurrent_dropout` must be 0 with `dropout_mode='locked'`, which drops only inputs and outputs. "
                f"Received: {self.recurrent_dropout}"
            )
        self.dropout_mode = dropout_mode

    @property
    def equations(self):
        """The cell equations of this cell, with its activations."""
        raise NotImplementedError

    def call_features(self, unroll: bool = False, use_cudnn: bool | str = True) -> CallFeatures:
        """Return what a training step uses that cuDNN may not support."""
        return CallFeatures(
            no_bias=not self.use_bias,
            recurrent_dropout=self.recurrent_dropout > 0,
            zoneout=any(self._zoneout_rates()),
            unroll=unroll,
            use_cudnn=bool(use_cudnn),
        )

    def split_bias(self):
        """The bias of the input product and the bias of the recurrent product; None for one that is not there."""
        return self.equations.split_bias(self.bias)

    def extra_weight_shapes(self) -> dict[str, tuple]:
        """Name the weights that Keras's cell does not have: a dict from name to (shape, initializer)."""
        return {}

    def extra_weights(self) -> dict | None:
        """The extra weights by name; None without any."""
        return {name: getattr(self, name) for name in self.extra_weight_shapes()} or None

    def build(self, input_shape):
        super().build(input_shape)
        for name, (shape, initializer) in self.extra_weight_shapes().items():
            if not isinstance(initializer, str):
                initializer = child_initializer(initializer, name)
            setattr(self, name, self.add_weight(shape=shape, initializer=initializer, name=name))

    def add_weight(self, shape=None, initializer=None, *args, name=None, **kwargs):
        if name in INITIALIZER_ARGUMENTS and initializer is getattr(self, INITIALIZER_ARGUMENTS[name]):
            initializer = self.get_weight_initializer(name)
        return super().add_weight(shape, initializer, *args, name=name, **kwargs)

    def get_weight_initializer(self, name: str) -> Callable:
        """Return the initializer of a weight of Keras's cell.

        If it would draw the same numbers as for an earlier weight of this cell, it is a copy with another seed.
        """
        argument, names = INITIALIZER_ARGUMENTS[name], list(INITIALIZER_ARGUMENTS)
        initializer = getattr(self, argument)
        earlier = [getattr(self, INITIALIZER_ARGUMENTS[other]) for other in names[: names.index(name)]]
        repeats = any(draw_same_numbers(initializer, other) for other in earlier)
        return child_initializer(initializer, name) if repeats else initializer

    def copy_shared_initializers(self, earlier_cells: list["RecurrentCell"], label: str):
        """Replace initializers that would give this cell the same numbers as earlier cells of its stack.

        Args:
            earlier_cells: the cells below this one.
            label: name of this cell, from which the seeds of the copies derive.
        """
        if self.built:
            return
        for argument in INITIALIZER_ARGUMENTS.values():
            initializer = getattr(self, argument)
            if any(draw_same_numbers(initializer, getattr(other, argument)) for other in earlier_cells):
                setattr(self, argument, child_initializer(initializer, label))

    def recurrent_call(self, sequences, initial_state=None, *, reverse=False, training=False):
        """Draw masks, and return the `RecurrentCall` of this cell over whole sequences.

        Args:
            sequences: (batch, time, features).
            initial_state: list of (batch, units), or None for zeros.
            reverse: whether to run from the last step to the first.
            training: whether to apply dropout.
        """
        masks = self._choose_dropout_masks(sequences, training)
        recurrent_kernel = self.recurrent_kernel
        if masks.recurrent_kernel_mask is not None:
            recurrent_kernel = masks.recurrent_kernel_mask.drop(ops.convert_to_tensor(recurrent_kernel))
        return RecurrentCall(
            self.equations,
            sequences if masks.input_mask is None else sequences * masks.input_mask,
            self.kernel,
            recurrent_kernel,
            self.bias,
            initial_state=initial_state,
            recurrent_dropout_mask=masks.recurrent_dropout_mask,
            zoneout_masks=masks.zoneout_masks,
            extra_weights=self.extra_weights(),
            reverse=reverse,
        )

    def draw_dropout_masks(self, sequences, training: bool) -> DropoutMasks:
        """Draw the masks of a call over sequences (batch, time, features).

        Inference draws no numbers and leaves the seed as it is; its zoneout masks are the rates.
        """
        masks = self._choose_dropout_masks(sequences, training)
        return masks._replace(recurrent_kernel_mask=self._as_dropout_mask(masks.recurrent_kernel_mask))

    def _choose_dropout_masks(self, sequences, training):
        """Draw the masks of a call; that of the recurrent kernel is a `RandomMask`."""
        batch, time, features = ops.shape(sequences)
        rates, sizes = self._zoneout_rates(), self._state_sizes()
        if not training:
            zoneout_masks = [
                ops.full((batch, size), rate, self.compute_dtype) if rate else None
                for rate, size in zip(rates, sizes, strict=True)
            ]
            return DropoutMasks(zoneout_masks=zoneout_masks if any(rates) else None)
        # The order is that of Keras's loop, so that a seed gives the same masks step by step.
        input_mask = self.draw_feature_mask(self.dropout, batch, time, features)
        recurrent_dropout_mask = self.draw_feature_mask(self.recurrent_dropout, batch, time, sizes[0])
        if recurrent_dropout_mask is not None and self.dropout_mode != "naive":
            recurrent_dropout_mask = recurrent_dropout_mask[:, 0]
        recurrent_kernel_mask = self._choose_recurrent_kernel_mask()
        zoneout_masks = [
            self._draw_zoneout_mask((batch, time, size), rate) for rate, size in zip(rates, sizes, strict=True)
        ]
        zoneout_masks = zoneout_masks if any(rates) else None
        return DropoutMasks(input_mask, recurrent_dropout_mask, recurrent_kernel_mask, zoneout_masks)

    def draw_feature_mask(self, rate: float, batch, time, features):
        """Draw a mask (batch, time, features), with one step where all steps share it; None at a rate of 0."""
        steps = time if self.dropout_mode == "naive" else 1
        return self._draw_mask((batch, steps, features), rate)

    def _draw_mask(self, shape, rate):
        return dropout_mask(shape, rate, self.seed_generator, self.compute_dtype) if rate else None

    def _draw_recurrent_kernel_mask(self):
        return self._as_dropout_mask(self._choose_recurrent_kernel_mask())

    def _choose_recurrent_kernel_mask(self):
        shape, rate = (self.output_size, self.equations.gates * self.units), self.recurrent_weight_dropout
        return RandomMask(shape, rate, self.seed_generator) if rate else None

    def _as_dropout_mask(self, recurrent_kernel_mask):
        kept = 1 / (1 - self.recurrent_weight_dropout)
        return None if recurrent_kernel_mask is None else recurrent_kernel_mask.as_tensor(0.0, kept, self.compute_dtype)

    def _draw_zoneout_mask(self, shape, rate):
        """Draw 1 where a unit keeps its state, with probability `rate`, else 0; None at a rate of 0."""
        if not rate:
            return None
        return RandomMask(shape, rate, self.seed_generator).as_tensor(1.0, 0.0, self.compute_dtype)

    def _zoneout_rates(self) -> list[float]:
        return self.zoneout if isinstance(self.zoneout, list) else [self.zoneout] * len(self._state_sizes())

    def _state_sizes(self) -> list[int]:
        return self.state_size if isinstance(self.state_size, (list, tuple)) else [self.state_size]

    def call(self, inputs, states, training=False, context=None):
        state = tuple(states) if isinstance(states, (list, tuple)) else (states,)
        masks = self._draw_step_masks(inputs, state, training)
        kernel = ops.convert_to_tensor(self.recurrent_kernel)
        if masks.recurrent_kernel_mask is not None:
            kernel = kernel * masks.recurrent_kernel_mask
        equations, (bias, recurrent_bias) = self.equations, self.split_bias()
        weights = RecurrentWeights(kernel, recurrent_bias, self.extra_weights())
        inputs = inputs if masks.input_mask is None else inputs * masks.input_mask
        inputs = inputs if context is None else ops.concatenate([inputs, context], axis=-1)
        product = equations.input_product(weights, inputs, self.kernel, bias)
        step = equations.step(equations.prepare(weights), StepMasks(masks.recurrent_dropout_mask), product, state)
        state = zone_out(masks.zoneout_masks, state, step.state)
        return state[0], list(state) if isinstance(states, (list, tuple)) else state[0]

    def _draw_step_masks(self, inputs, state, training):
        """Draw the masks of one step, except those that all steps share."""
        rates = self._zoneout_rates()
        if not training:
            return DropoutMasks(zoneout_masks=[rate or None for rate in rates])
        input_mask, recurrent_dropout_mask = self._input_mask, self._recurrent_dropout_mask
        recurrent_kernel_mask = self._recurrent_kernel_mask
        if input_mask is None:
            input_mask = self._draw_mask(ops.shape(inputs), self.dropout)
        if recurrent_dropout_mask is None:
            recurrent_dropout_mask = self._draw_mask(ops.shape(state[0]), self.recurrent_dropout)
        if recurrent_kernel_mask is None:
            recurrent_kernel_mask = self._draw_recurrent_kernel_mask()
        zoneout_masks = [self._draw_zoneout_mask(ops.shape(s), rate) for s, rate in zip(state, rates, strict=True)]
        return DropoutMasks(input_mask, recurrent_dropout_mask, recurrent_kernel_mask, zoneout_masks)

    # `keras.layers.RNN` draws the masks that all steps share before its loop and resets them after it. The cell keeps
    # them only in between: a cell that is called by itself draws new ones, and no mask leaks from one graph to another.

    def get_dropout_mask(self, step_input):
        if self.dropout_mode != "naive":
            self._input_mask = self._draw_mask(ops.shape(step_input), self.dropout)
        return self._input_mask

    def get_recurrent_dropout_mask(self, step_input):
        if self.dropout_mode != "naive":
            self._recurrent_dropout_mask = self._draw_mask(ops.shape(step_input), self.recurrent_dropout)
        self._recurrent_kernel_mask = self._draw_recurrent_kernel_mask()
        return self._recurrent_dropout_mask

    def reset_dropout_mask(self):
        self._input_mask = None

    def reset_recurrent_dropout_mask(self):
        self._recurrent_dropout_mask = self._recurrent_kernel_mask = None

    def get_config(self):
        arguments = {
            "zoneout": self.zoneout,
            "recurrent_weight_dropout": self.recurrent_weight_dropout,
            "dropout_mode": self.dropout_mode,
        }
        return {**super().get_config(), **arguments}


def has_cell_equations(cell) -> bool:
    """Whether the equations of a cell run instead of its `call`. If a subclass overrides `call`, that must run."""
    return isinstance(cell, RecurrentCell) and type(cell).call is RecurrentCell.call

# SPDX-License-Identifier: Apache-2.0
"""RNN: any cell over time; cells of ours by `keras_seq.ops`, other cells by Keras."""

import keras
from keras import ops, tree

from keras_seq.layers.attention_cell import AttentionCell
from keras_seq.layers.foreign_cell import reset_masks
from keras_seq.layers.masks import RaggedInputMixin, get_mask
from keras_seq.layers.recurrent_cell import RecurrentCell
from keras_seq.ops.implementation import Choice, can_compile, check_implementation, choose_implementation
from keras_seq.ops.random import child_initializer
from keras_seq.ops.recurrence import run as run_recurrences


@keras.saving.register_keras_serializable("keras_seq")
class RNN(RaggedInputMixin, keras.layers.RNN):
    """A cell, or a stack of cells, over time.

    Cells of `keras_seq`, alone or in `keras.layers.StackedRNNCells`, run as the layers of `keras_seq` do, on native
    kernels where there are; an `AttentionCell` runs as an `AttentionDecoder` does; any other cell runs as in
    `keras.layers.RNN`.

    Args:
        cell: a cell, or a list of cells, which makes a stack of them.
        return_sequences: whether to return the output of every step or of the last alone.
        return_state: whether to return the final state too.
        go_backwards: whether to run from the last step to the first, and return outputs in that order.
        stateful: whether the final state of a batch starts the next one.
        unroll: whether to lay out the steps instead of looping.
        zero_output_for_mask: whether a masked step's output is zero; by default it repeats the last one.
        residual: whether each cell of a stack but the first adds its input to its output (Wu et al. 2016).
        initial_state_initializer: of a learned initial state, the same for every sequence; None starts from zeros.
        implementation: "auto", "native", "cudnn" or "xla" (`keras_seq.explain` tells which runs); Keras's integers 0,
            1 and 2 mean "auto".
        recompute: whether a gradient runs the forward pass again instead of keeping what it needs of it: less memory,
            more time.

    Call arguments:
        sequences: (batch, time, features). A `tf.RaggedTensor` counts as its dense form with a mask.
        initial_state: the state as `get_initial_state` has it, a list; zeros or the learned state by default.
        mask: (batch, time) booleans, True = keep. A masked step leaves the state as it was. Without it, that of
            `sequences` counts, also where an initial state is given.
        training: whether to apply dropout.
        memory: (batch, source, features), what an `AttentionCell` looks at; no other cell takes one.
        memory_mask: (batch, source) booleans, True = keep. Without it, the mask that `memory` carries counts.

    Returns:
        (batch, units), or (batch, time, units) with `return_sequences`; with `return_state` a tuple of it and the
        final states: of a stack one entry a cell; of an `AttentionCell` those of its cell, then those of its attention.

    Raises:
        ValueError: for an argument that cannot be: the message names it.
        NotImplementedError: if `implementation="native"` or `"cudnn"` cannot be had.

    Example:
        >>> import numpy as np, keras_seq
        >>> cells = [keras_seq.layers.LSTMCell(4), keras_seq.layers.GRUCell(3)]
        >>> RNN(cells, return_sequences=True)(np.ones((2, 5, 3))).shape
        TensorShape([2, 5, 3])
    """

    def __init__(
        self,
        cell,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        zero_output_for_mask=False,
        *,
        residual=False,
        initial_state_initializer=None,
        implementation="auto",
        recompute=False,
        **kwargs,
    ):
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            zero_output_for_mask=zero_output_for_mask,
            **kwargs,
        )
        self.supports_masking = True  # which Keras 3.16 no longer says of its own
        if self.recurrent_cells() is not None:
            self.input_spec = keras.layers.InputSpec(ndim=3)
        self.residual = residual
        self.initial_state_initializer = keras.initializers.get(initial_state_initializer)
        self.implementation = check_implementation(implementation)
        self.supports_jit = can_compile(implementation)
        self.recompute = recompute
        sizes = {getattr(c, "output_size", None) for c in self.recurrent_cells() or [None]}
        if residual and (None in sizes or len(sizes) > 1):
            raise ValueError(f"`residual=True` needs cells of keras_seq, of one size. Received: cell={cell}")
        if stateful and self.initial_state_initializer is not None:
            raise ValueError(
                "`initial_state_initializer` and `stateful=True` exclude each other: no gradient reaches an initial "
                "state through the batches after the first."
            )
        if stateful and isinstance(self.cell, AttentionCell):
            raise ValueError("`stateful=True` excludes an `AttentionCell`, whose memory is another for each batch.")
        self.watch = None  # a function that stands between a probe of zeros and its use: see `keras_seq.diagnostics`

    def recurrent_cells(self):
        """The cells where all are of keras_seq, else None. A method, because Keras saves what attributes hold."""
        cells = self.cell.cells if isinstance(self.cell, keras.layers.StackedRNNCells) else [self.cell]
        # Where a subclass has another `call`, that is what must run.
        ours = (isinstance(cell, RecurrentCell) and type(cell).call is RecurrentCell.call for cell in cells)
        return list(cells) if all(ours) else None

    def choose_implementation(self):
        """The implementation that runs, and why: a `Choice` of `keras_seq.ops.implementation`."""
        if isinstance(self.cell, AttentionCell):
            return self.cell.choice(self.implementation)
        if self.recurrent_cells() is None:
            return choose_implementation(self.implementation, self.cell, self.compute_dtype)
        choices = [
            choose_implementation(self.implementation, cell.equations, self.compute_dtype, self.extras(cell))
            for cell in self.recurrent_cells()
        ]
        return Choice(*("; ".join(dict.fromkeys(parts)) for parts in zip(*choices, strict=True)))

    def extras(self, cell):
        """What the layer asks of a cell that cuDNN may not have: `CallFeatures` of `keras_seq.ops.cudnn`."""
        return cell.extras(self.unroll)

    def build(self, sequences_shape, initial_state_shape=None, memory_shape=None):
        self._check_memory(memory_shape)
        if isinstance(self.cell, AttentionCell) and not self.cell.built:
            self.cell.build((sequences_shape[0], sequences_shape[-1]), memory_shape=memory_shape)
            self.cell.built = True
        for i, cell in enumerate(self.recurrent_cells() or ()):
            cell.copy_shared_initializers(self.recurrent_cells()[:i], f"cell_{i}")
        super().build(sequences_shape, initial_state_shape)
        if self.initial_state_initializer is not None:
            self.learned_state = [
                self.add_weight((size,), child_initializer(self.initial_state_initializer, name), name=name)
                for name, size in ((f"initial_state_{i}", n) for i, n in enumerate(tree.flatten(self.state_size)))
            ]

    def get_initial_state(self, batch_size):
        state = super().get_initial_state(batch_size)
        if self.initial_state_initializer is None:
            return state
        learned = [
            ops.broadcast_to(ops.cast(vector, zeros.dtype), ops.shape(zeros))
            for vector, zeros in zip(self.learned_state, tree.flatten(state), strict=True)
        ]
        return tree.pack_sequence_as(state, learned)

    def reset_state(self, states=None):
        """Set the state of a stateful layer to zeros, or to `states`, arrays in the structure of `self.states`."""
        if states is not None and self.states is None:
            raise ValueError("`reset_state(states=...)` needs a stateful layer that is built.")
        if self.states is not None:
            self._keep_state(tree.map_structure(ops.zeros_like, self.states) if states is None else states)

    def _keep_state(self, states):
        kept, given = tree.flatten(self.states), tree.flatten(states)
        if len(kept) != len(given):
            raise ValueError(f"`states` must be a list of {len(kept)} arrays. Received: {len(given)}")
        for variable, value in zip(kept, given, strict=True):
            variable.assign(value)

    def _check_memory(self, memory):
        """Whether a memory, or its shape, is there where it must be."""
        if isinstance(self.cell, AttentionCell) and memory is None:
            raise ValueError("`memory` must be given to a layer with an `AttentionCell`. Received: None")
        if memory is not None and not isinstance(self.cell, AttentionCell):
            raise ValueError(f"`memory` is for a layer with an `AttentionCell`. Received: cell={self.cell}")

    def call(self, sequences, initial_state=None, mask=None, training=False, memory=None, memory_mask=None):
        self._check_memory(memory)
        mask = get_mask(sequences) if mask is None else mask
        if isinstance(self.cell, AttentionCell):
            return self._attend(sequences, initial_state, mask, training, memory, memory_mask)
        if self.recurrent_cells() is None:
            return self._run_foreign_cell(sequences, initial_state, first_mask(mask), training)
        return run_side_by_side([self], sequences, [initial_state], mask, training)[0]

    def _run_foreign_cell(self, sequences, initial_state, mask, training):
        """What the layer returns with a cell that is not of keras_seq, by Keras's loop."""
        self.choose_implementation()  # raises where the request cannot be met
        empty = sequences.shape[1] == 0
        if empty:  # Keras's loop wants a step, and passes over a masked one
            sequences = ops.pad(sequences, [[0, 0], [0, 1], *[[0, 0]] * (len(sequences.shape) - 2)])
            mask = ops.zeros(ops.shape(sequences)[:2], "bool")
        try:
            results = super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        finally:  # else a call that fails would leave the masks of its graph to the next one
            reset_masks(self.cell)
        if not (empty and self.return_sequences):
            return results
        return (results[0][:, :0], *results[1:]) if self.return_state else results[:, :0]

    def _attend(self, sequences, initial_state, mask, training, memory, memory_mask):
        """What the layer returns with an `AttentionCell`, for which a run backwards is one over reversed sequences."""
        self._check_unroll(sequences)
        if initial_state is None and self.initial_state_initializer is not None:
            initial_state = self.get_initial_state(ops.shape(sequences)[0])
        options = self.run_options(mask, training)
        if self.go_backwards:
            sequences = ops.flip(sequences, axis=1)
            options["mask"] = None if options["mask"] is None else ops.flip(options["mask"], axis=1)
        outputs, states, _ = self.cell.run(
            sequences, memory, initial_state, memory_mask=memory_mask, training=training, **options
        )
        outputs = ops.flip(outputs, axis=1) if self.go_backwards else outputs
        return self.finish(outputs, [states], training)

    def run_options(self, mask, training):
        """How the recurrences are to be run."""
        return {
            "mask": first_mask(mask),
            "zero_output_for_mask": self.zero_output_for_mask,
            "unroll": self.unroll,
            "recompute": self.recompute or not training,  # at inference a gradient is the exception
            "implementation": self.implementation,
        }

    def _check_unroll(self, sequences):
        if self.unroll and sequences.shape[1] is None:
            raise ValueError(
                "`unroll=True` needs a static number of time steps. Received: sequences of shape "
                f"{tuple(sequences.shape)}; give `keras.Input` a full shape, or set `unroll=False`."
            )

    def starting_states(self, sequences, initial_state):
        """The initial state of each cell, a list of tensors or None for zeros."""
        self._check_unroll(sequences)
        if self.stateful:
            expected, received = self._expected_batch_size, sequences.shape[0]
            if expected is not None and received is not None and expected != received:
                raise ValueError(
                    f"A stateful layer built for batches of {expected} sequences received {received}: `sequences` "
                    f"of shape {tuple(sequences.shape)}."
                )
            if initial_state is None:
                initial_state = self.states
        elif initial_state is None and self.initial_state_initializer is not None:
            initial_state = self.get_initial_state(ops.shape(sequences)[0])
        cells = self.recurrent_cells()
        if initial_state is None:
            return [None] * len(cells)
        if not isinstance(initial_state, (list, tuple)):
            initial_state = [initial_state]
        if not isinstance(self.cell, keras.layers.StackedRNNCells):
            initial_state = [initial_state]
        if len(initial_state) != len(cells):
            raise ValueError(
                f"`initial_state` must be a list of {len(cells)}, one entry a cell. Received: {len(initial_state)}"
            )
        return [
            [ops.convert_to_tensor(s, dtype=self.compute_dtype) for s in (state if tree.is_nested(state) else [state])]
            for state in initial_state
        ]

    def start(self, cell, sequences, state, training):
        """One cell over sequences: a `RecurrentCall` of `keras_seq.ops`."""
        recurrence = cell.over(sequences, state, reverse=self.go_backwards, training=training)
        if self.watch is None:
            return recurrence
        batch, time, _ = ops.shape(sequences)
        return recurrence._replace(probe=self.watch(ops.zeros((batch, time, cell.output_size), self.compute_dtype)))

    def finish(self, outputs, states, training, in_time=False):
        """What the layer returns of the outputs of all steps and the final states of all cells.

        With `in_time` a sequence stays in the order of time, also where the layer goes backwards.
        """
        # As Keras has it, a list for each cell; of a stack of one cell that list alone.
        states = [list(state) for state in states] if len(states) > 1 else list(states[0])
        if self.stateful:
            self._keep_state(states)
        # Keras's outputs are in the order of computation.
        if self.return_sequences:
            output = ops.flip(outputs, axis=1) if self.go_backwards and not in_time else outputs
        else:
            output = last_output(outputs, self.go_backwards)
        return (output, *states) if self.return_state else output

    def compute_output_shape(self, sequences_shape, initial_state_shape=None, memory_shape=None):
        shapes = super().compute_output_shape(sequences_shape, initial_state_shape)
        if not (self.return_state and isinstance(self.cell, AttentionCell)):
            return shapes
        return *shapes, *self.cell.attention_state_shapes((sequences_shape[0], *memory_shape[1:]))

    def compute_mask(self, sequences, mask=None):
        output_mask = first_mask(mask) if self.return_sequences else None
        if not self.return_state:
            return output_mask
        of_attention = self.cell.attention_states if isinstance(self.cell, AttentionCell) else 0
        return [output_mask, *[None] * (len(tree.flatten(self.state_size)) + of_attention)]

    def get_config(self):
        own = {
            "residual": self.residual,
            "initial_state_initializer": keras.initializers.serialize(self.initial_state_initializer),
            "implementation": self.implementation,
            "recompute": self.recompute,
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
        }
        return {**super().get_config(), **own}


def run_side_by_side(layers, sequences, initial_states, mask, training, in_time=False):
    """Run layers with cells of ours over the same sequences.

    Cells of one depth run in one call, which native kernels serve at the same time where they are alike.

    Args:
        layers: list of `RNN`, with equally many cells and equal `run_options`.
        sequences: (batch, time, features).
        initial_states: what each layer was given.
        mask: (batch, time) booleans, or None.
        training: whether to drop.
        in_time: whether sequences are returned in the order of time, also by a layer that goes backwards.

    Returns:
        What each layer returns.
    """
    options = layers[0].run_options(mask, training)
    starts = [layer.starting_states(sequences, state) for layer, state in zip(layers, initial_states, strict=True)]
    outputs, states = [sequences] * len(layers), [[] for _ in layers]
    for depth, cells in enumerate(zip(*(layer.recurrent_cells() for layer in layers), strict=True)):
        started = [
            layer.start(cell, inputs, start[depth], training)
            for layer, cell, inputs, start in zip(layers, cells, outputs, starts, strict=True)
        ]
        for i, (output, state) in enumerate(run_recurrences(started, **options)):
            outputs[i] = output + outputs[i] if depth and layers[i].residual else output
            states[i].append(state)
    return [layer.finish(*result, training, in_time) for layer, *result in zip(layers, outputs, states, strict=True)]


def last_output(outputs, reverse=False):
    """The output (batch, size) of the step that came last, of outputs (batch, time, size).

    Without any step it is zero, as that of a sequence whose steps are all masked.
    """
    if outputs.shape[1]:
        return outputs[:, 0 if reverse else -1]
    return ops.sum(outputs[:, :1] if reverse else outputs[:, -1:], axis=1)  # of one step, or of none


def first_mask(mask):
    """The mask of the sequences, where Keras gives one for each tensor."""
    return mask[0] if isinstance(mask, (list, tuple)) else mask

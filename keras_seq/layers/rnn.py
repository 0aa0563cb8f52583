# SPDX-License-Identifier: Apache-2.0
"""RNN: any cell over time. `keras_seq.ops` runs cells of keras_seq, Keras runs foreign cells."""

import keras
from keras import ops, tree

from keras_seq._private_api import get_mask
from keras_seq.layers.attention_cell import AttentionCell
from keras_seq.layers.foreign_cell import reset_all_dropout_masks
from keras_seq.layers.masks import RaggedInputMixin
from keras_seq.layers.recurrent_cell import has_cell_equations
from keras_seq.ops.implementation import Choice, can_compile, check_implementation, choose_implementation
from keras_seq.ops.random import child_initializer
from keras_seq.ops.recurrence import run_recurrences


@keras.saving.register_keras_serializable("keras_seq")
class RNN(RaggedInputMixin, keras.layers.RNN):
    """Runs a cell, or a stack of cells, over time.

    Cells of keras_seq, alone or in `keras.layers.StackedRNNCells`, run on the same implementations as the layers of
    keras_seq. An `AttentionCell` runs as in `AttentionDecoder`. A foreign cell runs as in
    `keras.layers.RNN`.

    Args:
        cell: a cell, or a list of cells, which makes a stack.
        return_sequences: whether to return the output of every step instead of the last output.
        return_state: whether to return the final state too.
        go_backwards: whether to run from the last step to the first, and return outputs in that order.
        stateful: whether each batch starts from the final state of the batch before.
        unroll: whether to write out the steps instead of looping.
        zero_output_for_mask: whether the output of a masked step is zero. By default it repeats the output before.
        residual: whether each cell of a stack but the first adds its input to its output (Wu et al. 2016).
        initial_state_initializer: initializer of a learned initial state, which all sequences share. By default
            sequences start from zeros.
        implementation: "auto", "native", "cudnn" or "xla". `keras_seq.explain` tells which one runs. Keras's legacy
            integers 0, 1 and 2 mean "auto".
        recompute: whether the backward pass runs the forward pass again instead of keeping its residuals: less memory,
            more time.

    Call arguments:
        sequences: (batch, time, features). A `tf.RaggedTensor` is converted to a dense tensor with a mask.
        initial_state: a list of states in the structure of `get_initial_state`. By default zeros, or the learned state.
        mask: (batch, time) booleans, True = keep. A masked step leaves the state as it was. By default the mask that
            `sequences` carries.
        training: whether to run in training mode, with dropout and random zoneout.
        memory: (batch, source, features), the memory of an `AttentionCell`. No other cell takes one.
        memory_mask: (batch, source) booleans, True = keep. By default the mask that `memory` carries.

    Returns:
        (batch, units), or (batch, time, units) with `return_sequences`. With `return_state` a tuple of it and the final
        states: for a stack one entry for each cell; for an `AttentionCell` the states of its cell, then those of its
        attention.

    Raises:
        ValueError: if an argument is invalid; the message names it.
        NotImplementedError: if `implementation` is "native" or "cudnn" and cannot run.

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
        self.supports_masking = True  # Keras 3.16 no longer sets it
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
            raise ValueError("`stateful=True` excludes an `AttentionCell`, because each batch has its own memory.")
        self.probe_hook = None  # gets the probe of each cell before it runs: see `keras_seq.diagnostics`

    def recurrent_cells(self):
        """Return the cells if all are of keras_seq, else None. A method, because Keras saves layers in attributes."""
        cells = self.cell.cells if isinstance(self.cell, keras.layers.StackedRNNCells) else [self.cell]
        return list(cells) if all(has_cell_equations(cell) for cell in cells) else None

    def choose_implementation(self):
        """Return the implementation that runs, and why: a `Choice` of `keras_seq.ops.implementation`."""
        if isinstance(self.cell, AttentionCell):
            return self.cell.implementation_for(self.implementation)
        if self.recurrent_cells() is None:
            return choose_implementation(self.implementation, self.cell, self.compute_dtype)
        choices = [
            choose_implementation(self.implementation, cell.equations, self.compute_dtype, self.call_features(cell))
            for cell in self.recurrent_cells()
        ]
        return Choice(*("; ".join(dict.fromkeys(parts)) for parts in zip(*choices, strict=True)))

    def call_features(self, cell):
        """Return what a training step of a cell uses that cuDNN may not have: `CallFeatures`."""
        return cell.call_features(self.unroll)

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
        """Check that a memory, or its shape, is given if and only if the cell attends."""
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
        return run_layers([self], sequences, [initial_state], mask, training)[0]

    def _run_foreign_cell(self, sequences, initial_state, mask, training):
        """Run a foreign cell in Keras's loop."""
        self.choose_implementation()  # raises if the requested one cannot run
        empty = sequences.shape[1] == 0
        if empty:  # Keras's loop needs a step; it skips this one, which is masked
            sequences = ops.pad(sequences, [[0, 0], [0, 1], *[[0, 0]] * (len(sequences.shape) - 2)])
            mask = ops.zeros(ops.shape(sequences)[:2], "bool")
        try:
            results = super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        finally:  # a call that fails must not leave masks of its graph to the next call
            reset_all_dropout_masks(self.cell)
        if not (empty and self.return_sequences):
            return results
        return (results[0][:, :0], *results[1:]) if self.return_state else results[:, :0]

    def _attend(self, sequences, initial_state, mask, training, memory, memory_mask):
        """Run an `AttentionCell`. To go backwards it runs over reversed sequences."""
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
        return self.collect_results(outputs, [states], training)

    def run_options(self, mask, training):
        """Return the options of `run_recurrences`."""
        return {
            "mask": first_mask(mask),
            "zero_output_for_mask": self.zero_output_for_mask,
            "unroll": self.unroll,
            "recompute": self.recompute or not training,  # at inference gradients are rare
            "implementation": self.implementation,
        }

    def _check_unroll(self, sequences):
        if self.unroll and sequences.shape[1] is None:
            raise ValueError(
                "`unroll=True` needs a static number of time steps. Received: sequences of shape "
                f"{tuple(sequences.shape)}; give `keras.Input` a full shape, or set `unroll=False`."
            )

    def resolve_initial_states(self, sequences, initial_state):
        """Return the initial state of each cell, a list of tensors or None for zeros."""
        self._check_unroll(sequences)
        if self.stateful:
            expected, received = tree.flatten(self.states)[0].shape[0], sequences.shape[0]
            if received is not None and expected != received:
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
                f"`initial_state` must be a list of {len(cells)}, one for each cell. Received: {len(initial_state)}"
            )
        return [
            [ops.convert_to_tensor(s, dtype=self.compute_dtype) for s in (state if tree.is_nested(state) else [state])]
            for state in initial_state
        ]

    def add_probe(self, call):
        """Return a `RecurrentCall` with a probe, which `probe_hook` gets first."""
        batch, time, _ = ops.shape(call.inputs)
        probe = ops.zeros((batch, time, call.state_sizes[0]), self.compute_dtype)
        return call._replace(probe=self.probe_hook(probe))

    def collect_results(self, outputs, states, training, time_order=False):
        """Return what the layer returns, from the outputs of all steps and the final states of all cells.

        Sequences come in the order of computation, as in Keras, or with `time_order` in the order of time.
        """
        # As in Keras: a list for each cell of a stack; for a single cell, that list itself.
        states = [list(state) for state in states] if len(states) > 1 else list(states[0])
        if self.stateful:
            self._keep_state(states)
        if self.return_sequences:
            output = ops.flip(outputs, axis=1) if self.go_backwards and not time_order else outputs
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


def run_layers(layers, sequences, initial_states, mask, training, time_order=False):
    """Run layers with cells of keras_seq over the same sequences.

    The cells at one depth run in one call. If their shapes are equal, native kernels run them side by side.

    Args:
        layers: list of `RNN`, with equally many cells and equal `run_options`.
        sequences: (batch, time, features).
        initial_states: the `initial_state` of each layer's call.
        mask: (batch, time) booleans, or None.
        training: whether to apply dropout.
        time_order: whether layers that go backwards return sequences in the order of time.

    Returns:
        A list of what each layer returns.
    """
    options = layers[0].run_options(mask, training)
    states = [layer.resolve_initial_states(sequences, s) for layer, s in zip(layers, initial_states, strict=True)]
    outputs, final_states = [sequences] * len(layers), [[] for _ in layers]
    for depth, cells in enumerate(zip(*(layer.recurrent_cells() for layer in layers), strict=True)):
        calls = []
        for layer, cell, inputs, state in zip(layers, cells, outputs, states, strict=True):
            call = cell.recurrent_call(inputs, state[depth], reverse=layer.go_backwards, training=training)
            calls.append(call if layer.probe_hook is None else layer.add_probe(call))
        for i, (output, final_state) in enumerate(run_recurrences(calls, **options)):
            outputs[i] = output + outputs[i] if depth and layers[i].residual else output
            final_states[i].append(final_state)
    results = zip(layers, outputs, final_states, strict=True)
    return [layer.collect_results(*result, training, time_order) for layer, *result in results]


def last_output(outputs, reverse=False):
    """Return the output (batch, size) of the step that ran last, from outputs (batch, time, size).

    If there are no steps it is zero, as for a sequence whose steps are all masked.
    """
    if outputs.shape[1]:
        return outputs[:, 0 if reverse else -1]
    return ops.sum(outputs[:, :1] if reverse else outputs[:, -1:], axis=1)  # one step or none


def flat_cells(layer):
    """Return the cells of a recurrent layer, one or those of its stack, foreign ones included."""
    return list(layer.cell.cells) if type(layer.cell) is keras.layers.StackedRNNCells else [layer.cell]


def first_mask(mask):
    """Return the mask of the sequences from what Keras passes: a mask, or a list with one for each tensor."""
    return mask[0] if isinstance(mask, (list, tuple)) else mask

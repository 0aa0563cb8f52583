# SPDX-License-Identifier: Apache-2.0
"""A cell that attends to a memory: step by step, and over whole sequences the fastest way there is."""

import keras
from keras import ops, tree

from keras_seq.layers.attention import AttentionMechanism
from keras_seq.layers.cells import RecurrentCell
from keras_seq.layers.foreign_cell import ForeignCell, call_cell, reset_masks
from keras_seq.ops.attention_math import AdditiveAttention, AnyAttention
from keras_seq.ops.implementation import choose_implementation
from keras_seq.ops.recurrence import Recurrence, hide_masked, run, run_attending


class AttentiveLayer(keras.layers.Layer):
    """What `AttentionCell` and `AttentionDecoder` share: a `cell`, an `attention`, and the order in which they run.

    With input feeding `context_t = attend(h_{t-1})`, `h_t = cell([x_t, context_t])` and the output is h_t (Bahdanau et
    al. 2015). Without, `h_t = cell(x_t)`, `context_t = attend(h_t)` and the output is `[h_t, context_t]` (Luong et al.
    2015): the cell does not know where it looked.

    States are a flat list, those of the cell, then those of the attention.
    """

    def __init__(self, cell, attention, input_feeding=True, **kwargs):
        super().__init__(**kwargs)
        if not callable(cell) or not hasattr(cell, "state_size"):
            raise ValueError(f"`cell` must be a recurrent cell, with a `state_size`. Received: {cell!r}")
        if not isinstance(attention, AttentionMechanism):
            raise ValueError(f"`attention` must be an attention layer of keras_seq. Received: {attention!r}")
        self.cell = cell
        self.attention = attention
        self.input_feeding = input_feeding

    @property
    def state_size(self):
        """The sizes of the cell's states, a flat list. Those of the attention are of the memory's length."""
        return tree.flatten(self.cell.state_size)

    @property
    def cell_output_size(self):
        """The size of the cell's output h."""
        return getattr(self.cell, "output_size", None) or self.state_size[0]

    def build_parts(self, features, memory_shape):
        """Build cell and attention for inputs of so many features."""
        if memory_shape is None or len(memory_shape) != 3:
            raise ValueError(f"`memory` must be (batch, source, features). Received: shape {memory_shape}")
        if not self.cell.built:  # parts are when they come from the config of a built layer, or are shared
            self.cell.build((memory_shape[0], features + memory_shape[-1] * self.input_feeding))
        if not self.attention.built:
            asks = self.state_size[0] if self.input_feeding else self.cell_output_size
            self.attention.build([(memory_shape[0], None, asks), memory_shape])

    def project_memory(self, memory):
        """The keys of a memory (batch, source, features), which every step reads: to be computed once."""
        return self.attention.project_memory(memory)

    def fresh_states(self, batch_size, memory=None):
        """What a sequence starts from: a flat list of tensors, without a memory those of the cell alone."""
        if hasattr(self.cell, "get_initial_state"):
            states = tree.flatten(self.cell.get_initial_state(batch_size=batch_size))
        else:
            states = [ops.zeros((batch_size, size), self.compute_dtype) for size in self.state_size]
        return states if memory is None else [*states, *self.attention.get_initial_state(memory)]

    def take_step(self, inputs, states, memory, keys=None, memory_mask=None, training=False):
        """One step.

        Args:
            inputs: (batch, features).
            states: list of tensors, those of the cell, then those of the attention.
            memory: (batch, source, features).
            keys: `project_memory(memory)`, computed here if None. Where they are given, memory and keys must be finite
                also where they are masked: `hide_masked` sees to that once for all steps.
            memory_mask: (batch, source) booleans, True = keep.
            training: whether it is training.

        Returns:
            `(output, states, weights)`: (batch, output size), a list of tensors, and (batch, source).
        """
        if keys is None:
            memory = hide_masked(memory, memory_mask)
            keys = self.project_memory(memory)
        # In a search this is not within a `__call__`, which would cast.
        inputs, memory, keys = (ops.cast(x, self.compute_dtype) for x in (inputs, memory, keys))
        states = [ops.cast(state, self.compute_dtype) for state in tree.flatten(states)]
        state, attention_state = self._split(states, memory)
        drawn = self.attention.draw(ops.shape(memory)[:2]) if training else None
        if self.input_feeding:
            context, weights, attention_state = self.attention.attend(
                state[0], memory, keys, memory_mask, attention_state, drawn, training
            )
            output, state = call_cell(self.cell, ops.concatenate([inputs, context], axis=-1), state, training)
        else:
            output, state = call_cell(self.cell, inputs, state, training)
            context, weights, attention_state = self.attention.attend(
                output, memory, keys, memory_mask, attention_state, drawn, training
            )
            output = ops.concatenate([output, context], axis=-1)
        return output, [*state, *attention_state], weights

    def run(self, sequences, memory, initial_state=None, mask=None, memory_mask=None, training=False, **options):
        """All steps of sequences.

        Args:
            sequences: (batch, time, features).
            memory: (batch, source, features).
            initial_state: list of tensors: all states, or those of the cell alone; `fresh_states` if None.
            mask: (batch, time) booleans, True = keep, or None.
            memory_mask: (batch, source) booleans, True = keep, or None.
            training: whether it is training.
            **options: `zero_output_for_mask`, `unroll`, `recompute`, `implementation` as of `ops.lstm`.

        Returns:
            `(outputs, states, weights)`: (batch, time, output size), a list of tensors, and (batch, time, source).
        """
        self.choice(options.get("implementation", "auto"))  # raises where the request cannot be met
        memory = hide_masked(memory, memory_mask)
        state, attention_state = initial_state, self.attention.get_initial_state(memory)
        if isinstance(initial_state, (list, tuple)):
            flat = tree.flatten(initial_state)
            if len(flat) == len(self.state_size) + self.attention.states:
                state, attention_state = self._split(flat, memory)
        seen = memory, self.project_memory(memory), memory_mask
        attend = self._attend_before if self.input_feeding else self._attend_after
        try:
            return attend(sequences, seen, state, attention_state, training, mask=mask, **options)
        finally:  # else a run that fails would leave the masks of its graph to the next one
            if not self._is_ours():
                reset_masks(self.cell)

    def _attend_before(self, sequences, seen, state, attention_state, training, **options):
        """Input feeding: each step attends, then goes on."""
        memory, attention = seen[0], self.attention
        recurrence = self._over(sequences, state, memory.shape[-1], training)
        if self._is_ours() and attention.is_additive:
            recurring = AdditiveAttention(recurrence.cell)
            options |= {"query_kernel": attention.query_kernel, "score_vector": attention.score_vector(memory)}
        else:
            recurring = self._attending(recurrence, training)
            drawn = attention.draw((*ops.shape(sequences)[:2], ops.shape(memory)[1])) if training else None
            options |= {"attention_state": attention_state, "drawn": drawn}
        outputs, state, weights = run_attending(recurrence, recurring, *seen, **options)
        return outputs, self._own_states(recurrence, state), weights

    def _attend_after(self, sequences, seen, state, attention_state, training, *, mask, **options):
        """No input feeding: the cell makes all steps, then all attend."""
        recurrence = self._over(sequences, state, 0, training)
        [(outputs, state)] = run([recurrence], mask=mask, **options)
        contexts, weights, attention_state = self.attention.attend_over_time(
            outputs, *seen, attention_state, mask, training, options.get("unroll", False)
        )
        if mask is not None:
            visible = ops.cast(mask, "bool")[:, :, None]
            weights = ops.where(visible, weights, 0)
            contexts = ops.where(visible, contexts, 0) if options.get("zero_output_for_mask") else contexts
        outputs = ops.concatenate([outputs, contexts], axis=-1)
        return outputs, [*self._own_states(recurrence, state), *attention_state], weights

    def _over(self, sequences, state, context_units, training):
        """The cell over sequences: a `Recurrence`, whose inputs lack the context."""
        if self._is_ours():
            return self.cell.over(sequences, state, training=training)
        batch = ops.shape(sequences)[0]
        if state is None:
            state = self.fresh_states(batch)
        state = tree.flatten(state)
        self._split(state, None)
        state = [ops.convert_to_tensor(s, self.compute_dtype) for s in state]
        inputs = ops.zeros((batch, sequences.shape[-1] + context_units), self.compute_dtype)
        cell = ForeignCell(self.cell, inputs, state, training)
        output = ops.zeros((batch, self.cell_output_size), self.compute_dtype)
        return Recurrence(cell, sequences, initial_state=(output, *state))

    def _own_states(self, recurrence, state):
        """The states without the output, which leads those of a foreign cell."""
        return list(state[1:] if isinstance(recurrence.cell, ForeignCell) else state)

    def _attending(self, recurrence, training):
        def attend(query, memory, keys, memory_mask, state, drawn):
            return self.attention.attend(query, memory, keys, memory_mask, state, drawn, training)

        foreign = isinstance(recurrence.cell, ForeignCell)
        width = recurrence.inputs.shape[-1] if foreign else recurrence.kernel.shape[-1]
        return AnyAttention(recurrence.cell, attend, self.attention.states, width, query=int(foreign))

    def _has_equations(self):
        """Whether `keras_seq.ops` has the cell's equations; a subclass may have another `call`, which must run then."""
        return isinstance(self.cell, RecurrentCell) and type(self.cell).call is RecurrentCell.call

    def _is_ours(self):
        """Whether `keras_seq.ops` runs the cell, with its context added to projected inputs."""
        # Normalisation is of the whole product, that of inputs and context.
        return self._has_equations() and not (self.input_feeding and getattr(self.cell, "layer_norm", False))

    def choice(self, implementation):
        """The implementation that `run` takes, and why: a `Choice`."""
        cell = self.cell.equations if self._has_equations() else self.cell
        if self._is_ours() and self.input_feeding:
            cell = AdditiveAttention(cell) if self.attention.is_additive else AnyAttention(cell, None, 0, 0)
        choice = choose_implementation(implementation, cell, self.compute_dtype)
        return choice if self.input_feeding else choice._replace(reason=f"{choice.reason}; then all steps attend")

    def _split(self, flat, memory):
        """The states of the cell, and those of the attention, where there is a memory."""
        cells = len(self.state_size)
        expected = cells if memory is None else cells + self.attention.states
        if len(flat) != expected:
            of_attention = f" and {self.attention.states} of the attention" if expected > cells else ""
            raise ValueError(
                f"`states` must be a list of {expected}: {cells} of the cell{of_attention}. Received: {len(flat)}"
            )
        return flat[:cells], tuple(flat[cells:])


@keras.saving.register_keras_serializable("keras_seq")
class AttentionCell(AttentiveLayer):
    """Any recurrent cell that looks at a memory in every step, by any attention.

    With input feeding `context_t = attend(h_{t-1})`, `h_t = cell([x_t, context_t])` and the output is h_t (Bahdanau,
    Cho & Bengio 2015). Without, `h_t = cell(x_t)`, `context_t = attend(h_t)` and the output is `[h_t, context_t]`
    (Luong, Pham & Manning 2015; a `Dense(activation="tanh")` makes their attentional vector of it).

    `keras_seq.layers.RNN` runs it over sequences: `RNN(AttentionCell(...))(sequences, memory=..., memory_mask=...)`,
    with the numbers of `AttentionDecoder`, and projects the memory once.

    Args:
        cell: a cell of keras_seq, of Keras, or your own, or a `keras.layers.StackedRNNCells`. With input feeding the
            first of its states is the h that asks.
        attention: an attention layer of keras_seq.
        input_feeding: whether the context is an input of the cell.
        **kwargs: those of `keras.layers.Layer`.

    Call arguments:
        inputs: (batch, features).
        states: list of tensors, those of the cell, then those of the attention: `get_initial_state(memory=memory)` at
            first.
        memory: (batch, source, memory features).
        keys: `project_memory(memory)`, computed once for all steps; computed in the call if None.
        memory_mask: (batch, source) booleans, True = keep. Where all is masked, the context is zero.
        return_attention_scores: whether to return the weights too.
        training: whether it is training.

    Returns:
        The output (batch, size) and the list of new states; with `return_attention_scores` also the weights (batch,
        source).

    Raises:
        ValueError: for an argument that cannot be: the message names it.

    Example:
        >>> import numpy as np, keras_seq
        >>> cell = AttentionCell(keras_seq.layers.GRUCell(4), keras_seq.layers.BahdanauAttention(3))
        >>> memory = np.ones((2, 6, 5), "float32")
        >>> output, states = cell(np.ones((2, 3)), cell.get_initial_state(memory=memory), memory)
        >>> sequences = keras_seq.layers.RNN(cell, return_sequences=True)(np.ones((2, 7, 3)), memory=memory)
        >>> output.shape, sequences.shape
        (TensorShape([2, 4]), TensorShape([2, 7, 4]))
    """

    @property
    def output_size(self):
        """The size of the output, once it is built."""
        return self.cell_output_size + self._context_units

    _context_units = 0

    def build(self, inputs_shape, states_shape=None, memory_shape=None):
        self.build_parts(inputs_shape[-1], memory_shape)
        if not self.input_feeding:
            self._context_units = memory_shape[-1]

    def get_initial_state(self, batch_size=None, memory=None):
        """A list of states for so many sequences, or for a memory, without which there are those of the cell alone."""
        if memory is not None:
            memory = ops.convert_to_tensor(memory, self.compute_dtype)
            batch_size = ops.shape(memory)[0]
        if batch_size is None:
            raise ValueError("`get_initial_state` needs `memory`, or a `batch_size` for the states of the cell alone.")
        return self.fresh_states(batch_size, memory)

    def call(self, inputs, states, memory, keys=None, memory_mask=None, return_attention_scores=False, training=False):
        output, states, weights = self.take_step(inputs, states, memory, keys, memory_mask, training)
        return (output, states, weights) if return_attention_scores else (output, states)

    def get_config(self):
        return {
            **super().get_config(),
            "cell": keras.saving.serialize_keras_object(self.cell),
            "attention": keras.saving.serialize_keras_object(self.attention),
            "input_feeding": self.input_feeding,
        }

    @classmethod
    def from_config(cls, config):
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("cell", "attention")}
        return cls(**{**config, **parts})

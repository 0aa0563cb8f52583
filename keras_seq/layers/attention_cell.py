# SPDX-License-Identifier: Apache-2.0
"""A cell that attends to a memory: step by step, and over whole sequences the fastest way there is."""

import keras
from keras import ops, tree

from keras_seq.layers.attention.mechanism import AttentionMechanism, check_units
from keras_seq.layers.foreign_cell import ForeignCellEquations, call_cell, reset_masks
from keras_seq.layers.recurrent_cell import RecurrentCell
from keras_seq.ops.attention_equations import AdditiveAttentionEquations, AnyAttentionEquations, InputFeedingEquations
from keras_seq.ops.cudnn import NO_FEATURES
from keras_seq.ops.implementation import choose_implementation
from keras_seq.ops.recurrence import RecurrentCall, as_bool_mask, run, run_attending, zero_masked_positions

ORDERS = ("before", "after")


class AttentiveLayer(keras.layers.Layer):
    """What `AttentionCell` and `AttentionDecoder` share: a `cell`, an `attention`, and the order in which they run.

    States are a flat list: those of the cell, then those of the attention. With `attend="after"` and input feeding the
    first state of the attention is what it feeds to the next step, (batch, `attentional_units` or memory features).
    """

    def __init__(
        self,
        cell,
        attention,
        input_feeding=True,
        *,
        attend=None,
        attentional_units=None,
        attentional_activation="tanh",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not callable(cell) or not hasattr(cell, "state_size"):
            raise ValueError(f"`cell` must be a recurrent cell, with a `state_size`. Received: {cell!r}")
        if not isinstance(attention, AttentionMechanism):
            raise ValueError(f"`attention` must be an attention layer of keras_seq. Received: {attention!r}")
        self.cell = cell
        self.attention = attention
        self.input_feeding = input_feeding
        self.attend = ("before" if input_feeding else "after") if attend is None else attend
        self._check_order()
        if attentional_units is not None:
            check_units(attentional_units, "attentional_units")
            if self.attend == "before":
                raise ValueError(
                    f"`attentional_units` needs `attend='after'`. Received: {attentional_units} with attend='before'"
                )
        self.attentional_units = attentional_units
        self.attentional_activation = keras.activations.get(attentional_activation)

    def _check_order(self):
        if self.attend not in ORDERS:
            raise ValueError(f"`attend` must be one of {ORDERS}. Received: {self.attend!r}")
        if self.attend == "before" and not self.input_feeding:
            raise ValueError(
                "`attend='before'` needs `input_feeding=True`: the context serves the cell. Received: False"
            )

    @property
    def _feeds_next(self):
        """Whether a step feeds what it saw to the next one, which is then a state."""
        return self.attend == "after" and self.input_feeding

    def _fed_units(self, memory_features):
        """How many features enter the cell beside the inputs."""
        return (self.attentional_units or memory_features) * bool(self.input_feeding)

    def _output_units(self, memory_features):
        """The size of the output."""
        if self.attend == "before":
            return self.cell_output_size
        return self.attentional_units or self.cell_output_size + memory_features

    @property
    def state_size(self):
        """The sizes of the cell's states, a flat list. Those of the attention depend on the memory."""
        return tree.flatten(self.cell.state_size)

    @property
    def attention_states(self):
        """How many states of the attention follow those of the cell."""
        return self._feeds_next + self.attention.states

    def attention_state_shapes(self, memory_shape):
        """The shapes of these states, for a memory (batch, source, features)."""
        batch, source, features = memory_shape
        fed = [(batch, self._fed_units(features))] if self._feeds_next else []
        return [*fed, *[(batch, source)] * self.attention.states]

    def initial_attention_state(self, memory):
        """What these states start from: a tuple of tensors."""
        own = self.attention.get_initial_state(memory)
        if not self._feeds_next:
            return own
        return ops.zeros((ops.shape(memory)[0], self._fed_units(memory.shape[-1])), memory.dtype), *own

    @property
    def cell_output_size(self):
        """The size of the cell's output h."""
        return getattr(self.cell, "output_size", None) or self.state_size[0]

    def build_parts(self, features, memory_shape):
        """Build cell and attention for inputs of so many features."""
        if memory_shape is None or len(memory_shape) != 3:
            raise ValueError(f"`memory` must be (batch, source, features). Received: shape {memory_shape}")
        if not self.cell.built:  # parts are when they come from the config of a built layer, or are shared
            self.cell.build((memory_shape[0], features + self._fed_units(memory_shape[-1])))
        if not self.attention.built:
            asks = self.state_size[0] if self.attend == "before" else self.cell_output_size
            self.attention.build([(memory_shape[0], None, asks), memory_shape])
        if self.attentional_units is not None:
            shape = self.cell_output_size + memory_shape[-1], self.attentional_units
            self.attentional_kernel = self.add_weight(shape, "glorot_uniform", name="attentional_kernel")

    def project_memory(self, memory):
        """The keys of a memory (batch, source, features), which every step reads: to be computed once."""
        return self.attention.project_memory(memory)

    def fresh_states(self, batch_size, memory=None):
        """What a sequence starts from: a flat list of tensors, without a memory those of the cell alone."""
        if hasattr(self.cell, "get_initial_state"):
            states = tree.flatten(self.cell.get_initial_state(batch_size=batch_size))
        else:
            states = [ops.zeros((batch_size, size), self.compute_dtype) for size in self.state_size]
        return states if memory is None else [*states, *self.initial_attention_state(memory)]

    def take_step(self, inputs, states, memory, keys=None, memory_mask=None, training=False):
        """One step.

        Args:
            inputs: (batch, features).
            states: list of tensors, those of the cell, then those of the attention.
            memory: (batch, source, features).
            keys: `project_memory(memory)`, computed here if None. Where they are given, memory and keys must be finite
                also where they are masked: `zero_masked_positions` sees to that once for all steps.
            memory_mask: (batch, source) booleans, True = keep.
            training: whether it is training.

        Returns:
            `(output, states, weights)`: (batch, output size), a list of tensors, and (batch, source).
        """
        if keys is None:
            memory = zero_masked_positions(memory, memory_mask)
            keys = self.project_memory(memory)
        # In a search this is not within a `__call__`, which would cast.
        inputs, memory, keys = (ops.cast(x, self.compute_dtype) for x in (inputs, memory, keys))
        states = [ops.cast(state, self.compute_dtype) for state in tree.flatten(states)]
        state, attention_state = self._split(states, memory)
        drawn = self.attention.draw(ops.shape(memory)[:2]) if training else None
        if self.attend == "before":
            context, weights, attention_state = self.attention.attend(
                state[0], memory, keys, memory_mask, attention_state, drawn, training
            )
            output, state = call_cell(self.cell, inputs, state, training, context)
            return output, [*state, *attention_state], weights
        fed = None
        if self._feeds_next:
            fed, *attention_state = attention_state
        output, state = call_cell(self.cell, inputs, state, training, fed)
        output, weights, attention_state = self._look(
            output, memory, keys, memory_mask, attention_state, drawn, training
        )
        if self._feeds_next:
            attention_state = self._fed_of(output, memory), *attention_state
        return output, [*state, *attention_state], weights

    def _look(self, query, memory, keys, memory_mask, state, drawn, training):
        """As `attention.attend`, with the output of a step in the place of the context."""
        context, weights, state = self.attention.attend(query, memory, keys, memory_mask, state, drawn, training)
        return self._output(query, context), weights, state

    def _output(self, hidden, context):
        """The output of one step or of all: `[h, context]`, or the attentional vector that is made of it."""
        joined = ops.concatenate([hidden, context], axis=-1)
        if self.attentional_units is None:
            return joined
        kernel = ops.cast(self.attentional_kernel, joined.dtype)  # in a search Keras does not cast it
        return self.attentional_activation(ops.matmul(joined, kernel))

    def _fed_of(self, output, memory):
        """The part of an output that the next step reads."""
        return output[..., output.shape[-1] - self._fed_units(memory.shape[-1]) :]

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
        mask, memory_mask = as_bool_mask(mask), as_bool_mask(memory_mask)
        memory = zero_masked_positions(memory, memory_mask)
        state, attention_state = initial_state, self.initial_attention_state(memory)
        if isinstance(initial_state, (list, tuple)):
            flat = tree.flatten(initial_state)
            if len(flat) == len(self.state_size) + self.attention_states:
                state, attention_state = self._split(flat, memory)
        seen = memory, self.project_memory(memory), memory_mask
        if self._feeds_next:
            attend = self._attend_and_feed
        else:
            attend = self._attend_before if self.attend == "before" else self._attend_after
        try:
            return attend(sequences, seen, state, attention_state, training, mask=mask, **options)
        finally:  # else a run that fails would leave the masks of its graph to the next one
            if not self._is_ours():
                reset_masks(self.cell)

    def _attend_before(self, sequences, seen, state, attention_state, training, **options):
        """Each step attends, then the cell reads what it saw."""
        memory, attention = seen[0], self.attention
        recurrence = self._over(sequences, state, memory.shape[-1], training)
        if self._is_ours() and attention.is_additive:
            recurring = AdditiveAttentionEquations(recurrence.cell)
            options |= {"query_kernel": attention.query_kernel, "score_vector": attention.score_vector(memory)}
        else:
            recurring = self._attending(recurrence, training)
            drawn = self._draw(sequences, memory, training)
            options |= {"attention_state": attention_state, "drawn": drawn}
        outputs, state, weights = run_attending(recurrence, recurring, *seen, **options)
        return outputs, self._own_states(recurrence, state), weights

    def _attend_and_feed(self, sequences, seen, state, attention_state, training, **options):
        """Each step of the cell attends, and the next one reads the output."""
        memory = seen[0]
        fed, *attention_state = attention_state
        recurrence = self._over(sequences, state, fed.shape[-1], training)
        unseen = self._output_units(memory.shape[-1]) - fed.shape[-1]  # h, which the next step has as its state
        output = ops.concatenate([ops.zeros((ops.shape(fed)[0], unseen), fed.dtype), fed], axis=-1)
        options |= {"attention_state": (output, *attention_state), "drawn": self._draw(sequences, memory, training)}
        recurring = self._attending(recurrence, training, fed.shape[-1])
        outputs, (output, *state), weights = run_attending(recurrence, recurring, *seen, **options)
        state = self._own_states(recurrence, state)
        cells = len(self.state_size)
        return outputs, [*state[:cells], self._fed_of(output, memory), *state[cells:]], weights

    def _attend_after(self, sequences, seen, state, attention_state, training, *, mask, **options):
        """No input feeding: the cell makes all steps, then all attend."""
        recurrence = self._over(sequences, state, 0, training)
        [(outputs, state)] = run([recurrence], mask=mask, **options)
        contexts, weights, attention_state = self.attention.attend_over_time(
            outputs, *seen, attention_state, mask, training, options.get("unroll", False)
        )
        outputs = self._output(outputs, contexts)
        if mask is not None:
            visible = ops.cast(mask, "bool")[:, :, None]
            weights = ops.where(visible, weights, 0)
            begun = ops.cumsum(ops.cast(visible, "int32"), axis=1) > 0  # before that Keras's outputs are zero
            outputs = ops.where(visible if options.get("zero_output_for_mask") else begun, outputs, 0)
        return outputs, [*self._own_states(recurrence, state), *attention_state], weights

    def _draw(self, sequences, memory, training):
        """What the attention draws for all steps."""
        return self.attention.draw((*ops.shape(sequences)[:2], ops.shape(memory)[1])) if training else None

    def _over(self, sequences, state, fed_units, training):
        """The cell over sequences: a `RecurrentCall`, whose inputs lack what is fed to it."""
        if self._is_ours():
            return self.cell.over(sequences, state, training=training)
        batch = ops.shape(sequences)[0]
        if state is None:
            state = self.fresh_states(batch)
        state = tree.flatten(state)
        self._split(state, None)
        state = [ops.convert_to_tensor(s, self.compute_dtype) for s in state]
        inputs = ops.zeros((batch, sequences.shape[-1]), self.compute_dtype)
        cell = ForeignCellEquations(self.cell, inputs, state, training, fed_units)
        output = ops.zeros((batch, self.cell_output_size), self.compute_dtype)
        return RecurrentCall(cell, sequences, initial_state=(output, *state))

    def _own_states(self, recurrence, state):
        """The states without the output, which leads those of a foreign cell."""
        return list(state[1:] if isinstance(recurrence.cell, ForeignCellEquations) else state)

    def _attending(self, recurrence, training, fed=None):
        """The recurrence that attends: before the cell, or after it where so many features of the output are fed."""
        look = self.attention.attend if fed is None else self._look

        def attend(query, memory, keys, memory_mask, state, drawn):
            return look(query, memory, keys, memory_mask, state, drawn, training)

        foreign = isinstance(recurrence.cell, ForeignCellEquations)
        width = recurrence.inputs.shape[-1] if foreign else recurrence.kernel.shape[-1]
        if fed is not None:
            return InputFeedingEquations(recurrence.cell, attend, self.attention.states, width, fed)
        return AnyAttentionEquations(recurrence.cell, attend, self.attention.states, width, query=int(foreign))

    def _has_equations(self):
        """Whether `keras_seq.ops` has the cell's equations; a subclass may have another `call`, which must run then."""
        return isinstance(self.cell, RecurrentCell) and type(self.cell).call is RecurrentCell.call

    def _is_ours(self):
        """Whether `keras_seq.ops` runs the cell, with its context added to projected inputs."""
        # Normalisation is of the whole product, that of inputs and what is fed.
        return self._has_equations() and not (self.input_feeding and getattr(self.cell, "layer_norm", False))

    def choice(self, implementation):
        """The implementation that `run` takes, and why: a `Choice`."""
        cell, extras = (self.cell.equations, self.cell.extras()) if self._has_equations() else (self.cell, NO_FEATURES)
        if self._is_ours() and self._feeds_next:
            cell = InputFeedingEquations(cell, None, 0, 0, 0)
        elif self._is_ours() and self.attend == "before":
            cell = (
                AdditiveAttentionEquations(cell)
                if self.attention.is_additive
                else AnyAttentionEquations(cell, None, 0, 0)
            )
        choice = choose_implementation(implementation, cell, self.compute_dtype, extras)
        return choice if self.input_feeding else choice._replace(reason=f"{choice.reason}; then all steps attend")

    def _split(self, flat, memory):
        """The states of the cell, and those of the attention, where there is a memory."""
        cells = len(self.state_size)
        expected = cells if memory is None else cells + self.attention_states
        if len(flat) != expected:
            of_attention = f" and {self.attention_states} of the attention" if expected > cells else ""
            raise ValueError(
                f"`states` must be a list of {expected}: {cells} of the cell{of_attention}. Received: {len(flat)}"
            )
        return flat[:cells], tuple(flat[cells:])

    def order_config(self):
        """The arguments that say in which order cell and attention run."""
        return {
            "input_feeding": self.input_feeding,
            "attend": self.attend,
            "attentional_units": self.attentional_units,
            "attentional_activation": keras.activations.serialize(self.attentional_activation),
        }


@keras.saving.register_keras_serializable("keras_seq")
class AttentionCell(AttentiveLayer):
    """Any recurrent cell that looks at a memory in every step, by any attention.

    With `attend="before"` (Bahdanau, Cho & Bengio 2015) the last output asks, and the cell reads the context:
    `context_t = attend(h_{t-1})`, `h_t = cell([x_t, context_t])`; the output is h_t.

    With `attend="after"` (Luong, Pham & Manning 2015) the new output asks: `h_t = cell([x_t, o_{t-1}])`,
    `context_t = attend(h_t)`, and the output is the attentional vector `o_t = tanh([h_t, context_t] W)`, which the next
    step reads; at first it is zero. Without `attentional_units` the next step reads the context alone, and the output
    is `[h_t, context_t]`. With `input_feeding=False` the cell reads x alone.

    `attend="after"` is the order of TensorFlow Addons: `AttentionWrapper(cell, mechanism, attention_layer_size=n)` is
    `AttentionCell(cell, attention, attend="after", attentional_units=n, attentional_activation=None)`.

    `keras_seq.layers.RNN` runs it over sequences: `RNN(AttentionCell(...))(sequences, memory=..., memory_mask=...)`,
    with the numbers of `AttentionDecoder`, and projects the memory once.

    Args:
        cell: a cell of keras_seq, of Keras, or your own, or a `keras.layers.StackedRNNCells`. With `attend="before"`
            the first of its states is the h that asks. The `dropout` of a cell of keras_seq drops x alone, never what
            the attention feeds; what another cell drops is up to its `call`, whose input is `[x, fed]`.
        attention: an attention layer of keras_seq.
        input_feeding: whether the cell reads what the attention saw.
        attend: "before" or "after" the cell; "before" by default, and "after" with `input_feeding=False`.
        attentional_units: size of the attentional vector, with `attend="after"`; None for none.
        attentional_activation: of the attentional vector; "tanh" by default, None for a linear one.
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
        return self._output_units(self._memory_units)

    _memory_units = 0

    def build(self, inputs_shape, states_shape=None, memory_shape=None):
        self.build_parts(inputs_shape[-1], memory_shape)
        self._memory_units = memory_shape[-1]

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
            **self.order_config(),
        }

    @classmethod
    def from_config(cls, config):
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("cell", "attention")}
        return cls(**{**config, **parts})

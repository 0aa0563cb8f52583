# SPDX-License-Identifier: Apache-2.0
"""A cell that attends to a memory: step by step, and over whole sequences in the fastest way there is."""

import keras
from keras import ops, tree

from keras_seq.layers.attention.mechanism import AttentionMechanism, check_units
from keras_seq.layers.foreign_cell import ForeignCellEquations, call_cell, reset_all_dropout_masks
from keras_seq.layers.recurrent_cell import has_cell_equations
from keras_seq.ops.attention_recurrence import run_attention_recurrence
from keras_seq.ops.cudnn import NO_FEATURES
from keras_seq.ops.equations.attention import (
    AdditiveAttentionEquations,
    AnyAttentionEquations,
    InputFeedingEquations,
)
from keras_seq.ops.equations.cell import activation_name
from keras_seq.ops.implementation import Choice, choose_implementation, why_not_native
from keras_seq.ops.masks import as_bool_mask, has_started, zero_masked_positions
from keras_seq.ops.recurrence import run_recurrences
from keras_seq.ops.recurrent_call import RecurrentCall

ORDERS = ("before", "after")


class AttentiveLayer(keras.layers.Layer):
    """What `AttentionCell` and `AttentionDecoder` share: a `cell`, an `attention`, and the order in which they run.

    States are a flat list: those of the cell, then those of the attention. With `attend="after"` and input feeding the
    first state of the attention is what the next step reads, (batch, `attentional_units` or memory features).
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
                "`attend='before'` needs `input_feeding=True`: the cell reads the context. Received: False"
            )

    @property
    def feeds_next_step(self):
        """Whether the next step reads the output of attention, which is then a state."""
        return self.attend == "after" and self.input_feeding

    def fed_units(self, memory_features):
        """Return how many features enter the cell beside the inputs."""
        return (self.attentional_units or memory_features) * bool(self.input_feeding)

    def _output_units(self, memory_features):
        """Return the size of the output."""
        if self.attend == "before":
            return self.cell_output_size
        return self.attentional_units or self.cell_output_size + memory_features

    @property
    def state_size(self):
        """The sizes of the cell's states, a flat list. The sizes of the attention's states depend on the memory."""
        return tree.flatten(self.cell.state_size)

    @property
    def attention_states(self):
        """How many states of the attention follow those of the cell."""
        return self.feeds_next_step + self.attention.states

    def attention_state_shapes(self, memory_shape):
        """Return the shapes of the attention's states, for a memory (batch, source, features)."""
        batch, source, features = memory_shape
        fed = [(batch, self.fed_units(features))] if self.feeds_next_step else []
        return [*fed, *[(batch, source)] * self.attention.states]

    def initial_attention_state(self, memory):
        """Return the initial states of the attention, a tuple of tensors."""
        own = self.attention.get_initial_state(memory)
        if not self.feeds_next_step:
            return own
        return ops.zeros((ops.shape(memory)[0], self.fed_units(memory.shape[-1])), memory.dtype), *own

    @property
    def cell_output_size(self):
        """The size of the cell's output h."""
        return getattr(self.cell, "output_size", None) or self.state_size[0]

    def build_parts(self, features, memory_shape):
        """Build cell and attention, for inputs with this number of features."""
        if memory_shape is None or len(memory_shape) != 3:
            raise ValueError(f"`memory` must be (batch, source, features). Received: shape {memory_shape}")
        if not self.cell.built:  # it is if it is shared, or comes from the config of a built layer
            self.cell.build((memory_shape[0], features + self.fed_units(memory_shape[-1])))
        if not self.attention.built:
            query_units = self.state_size[0] if self.attend == "before" else self.cell_output_size
            self.attention.build([(memory_shape[0], None, query_units), memory_shape])
        if self.attentional_units is not None:
            shape = self.cell_output_size + memory_shape[-1], self.attentional_units
            self.attentional_kernel = self.add_weight(shape, "glorot_uniform", name="attentional_kernel")

    def project_memory(self, memory):
        """Return the keys of a memory (batch, source, features). Compute them once: every step reads them."""
        return self.attention.project_memory(memory)

    def initial_states(self, batch_size, memory=None):
        """Return the initial states, a flat list of tensors; without a memory only those of the cell."""
        if hasattr(self.cell, "get_initial_state"):
            states = tree.flatten(self.cell.get_initial_state(batch_size=batch_size))
        else:
            states = [ops.zeros((batch_size, size), self.compute_dtype) for size in self.state_size]
        return states if memory is None else [*states, *self.initial_attention_state(memory)]

    def step(self, inputs, states, memory, keys=None, memory_mask=None, training=False):
        """Runs one step, as a search does.

        Args:
            inputs: (batch, features).
            states: list of tensors, the states of the cell, then those of the attention.
            memory: (batch, source, features).
            keys: `project_memory(memory)`, or None to compute them here. If given, memory and keys must be finite even
                where they are masked.
            memory_mask: (batch, source) booleans, True = keep.
            training: whether to apply dropout.

        Returns:
            `(output, states, attention_weights)`: (batch, output size), a list of tensors, and (batch, source).
        """
        if keys is None:
            memory = zero_masked_positions(memory, memory_mask)
            keys = self.project_memory(memory)
        # Keras casts only within `__call__`, and a search calls this method outside of it.
        inputs, memory, keys = (ops.cast(x, self.compute_dtype) for x in (inputs, memory, keys))
        states = [ops.cast(state, self.compute_dtype) for state in tree.flatten(states)]
        state, attention_state = self._split_states(states, memory)
        noise = self.attention.draw_noise(ops.shape(memory)[:2]) if training else None
        if self.attend == "before":
            context, weights, attention_state = self.attention.attend(
                state[0], memory, keys, memory_mask, attention_state, noise, training
            )
            output, state = call_cell(self.cell, inputs, state, training, context)
            return output, [*state, *attention_state], weights
        fed = None
        if self.feeds_next_step:
            fed, *attention_state = attention_state
        output, state = call_cell(self.cell, inputs, state, training, fed)
        output, weights, attention_state = self._attend_and_combine(
            output, memory, keys, memory_mask, attention_state, noise, training
        )
        if self.feeds_next_step:
            attention_state = self._fed_part(output, memory), *attention_state
        return output, [*state, *attention_state], weights

    def _attend_and_combine(self, query, memory, keys, memory_mask, state, noise, training):
        """Attend as `attention.attend` does, and return the output of the step in the place of the context."""
        context, weights, state = self.attention.attend(query, memory, keys, memory_mask, state, noise, training)
        return self._combine(query, context), weights, state

    def _combine(self, hidden, context):
        """Return the output of one step or of all: `[h, context]`, or the attentional vector."""
        joined = ops.concatenate([hidden, context], axis=-1)
        if self.attentional_units is None:
            return joined
        kernel = ops.cast(self.attentional_kernel, joined.dtype)  # Keras does not cast it in a search
        return self.attentional_activation(ops.matmul(joined, kernel))

    def _fed_part(self, output, memory):
        """Return the part of an output that the next step reads."""
        return output[..., output.shape[-1] - self.fed_units(memory.shape[-1]) :]

    def run(self, sequences, memory, initial_state=None, mask=None, memory_mask=None, training=False, **options):
        """Runs all steps of sequences.

        Args:
            sequences: (batch, time, features).
            memory: (batch, source, features).
            initial_state: list of tensors, all states or only those of the cell. By default `initial_states`.
            mask: (batch, time) booleans, True = keep, or None.
            memory_mask: (batch, source) booleans, True = keep, or None.
            training: whether to apply dropout.
            **options: `zero_output_for_mask`, `unroll`, `recompute`, `implementation`; see `keras_seq.ops.lstm`.

        Returns:
            `(outputs, states, attention_weights)`: (batch, time, output size), a list of tensors, and (batch, time,
            source).
        """
        mask, memory_mask = as_bool_mask(mask), as_bool_mask(memory_mask)
        memory = zero_masked_positions(memory, memory_mask)
        state, attention_state = initial_state, self.initial_attention_state(memory)
        if isinstance(initial_state, (list, tuple)):
            flat = tree.flatten(initial_state)
            if len(flat) == len(self.state_size) + self.attention_states:
                state, attention_state = self._split_states(flat, memory)
        attended = memory, self.project_memory(memory), memory_mask
        if self.feeds_next_step:
            run = self._run_input_feeding
        else:
            run = self._run_attention_first if self.attend == "before" else self._run_cell_first
        try:
            return run(sequences, attended, state, attention_state, training, mask=mask, **options)
        finally:  # a run that fails must not leave masks of its graph to the next one
            if not self._runs_equations():
                reset_all_dropout_masks(self.cell)

    def _run_attention_first(self, sequences, attended, state, attention_state, training, **options):
        """Attend in each step; the cell reads the context."""
        memory, attention = attended[0], self.attention
        call = self._recurrent_call(sequences, state, memory.shape[-1], training)
        score = self._fused_score()
        options |= attention.fused_weights(memory) if score else {}
        if score == "additive" and not attention.states:
            equations = AdditiveAttentionEquations(call.equations)
        else:
            foreign = isinstance(call.equations, ForeignCellEquations)
            attend = self._attend_function(self.attention.attend, training)
            equations = AnyAttentionEquations(
                call.equations, attend, attention.states, query_state=int(foreign), **self._fused(training)
            )
            options |= {"attention_state": attention_state, "noise": self._draw_noise(sequences, memory, training)}
        outputs, state, weights = run_attention_recurrence(call, equations, *attended, **options)
        return outputs, self._without_output(call, state), weights

    def _run_input_feeding(self, sequences, attended, state, attention_state, training, **options):
        """Attend after each step of the cell; the next step reads the output."""
        memory = attended[0]
        fed, *attention_state = attention_state
        call = self._recurrent_call(sequences, state, fed.shape[-1], training)
        hidden_units = self._output_units(memory.shape[-1]) - fed.shape[-1]  # the next step reads h from its state
        output = ops.concatenate([ops.zeros((ops.shape(fed)[0], hidden_units), fed.dtype), fed], axis=-1)
        equations = self._input_feeding_equations(
            call.equations, self._attend_function(self._attend_and_combine, training), fed.shape[-1], training
        )
        if self._fused_score():
            options |= self.attention.fused_weights(memory)
            options["attentional_kernel"] = self.attentional_kernel if self.attentional_units else None
        outputs, (output, *state), weights = run_attention_recurrence(
            call,
            equations,
            *attended,
            attention_state=(output, *attention_state),
            noise=self._draw_noise(sequences, memory, training),
            **options,
        )
        state = self._without_output(call, state)
        cell_states = len(self.state_size)
        return outputs, [*state[:cell_states], self._fed_part(output, memory), *state[cell_states:]], weights

    def _run_cell_first(self, sequences, attended, state, attention_state, training, *, mask, **options):
        """Without input feeding, run the cell over all steps, then attend in all steps at once."""
        call = self._recurrent_call(sequences, state, 0, training)
        [(outputs, state)] = run_recurrences([call], mask=mask, **options)
        contexts, weights, attention_state = self.attention.attend_over_time(
            outputs, *attended, attention_state, mask, training, options.get("unroll", False)
        )
        outputs = self._combine(outputs, contexts)
        if mask is not None:
            weights = ops.where(ops.expand_dims(mask, axis=-1), weights, 0)
            visible = mask if options.get("zero_output_for_mask") else has_started(mask)
            outputs = ops.where(ops.expand_dims(visible, axis=-1), outputs, 0)
        return outputs, [*self._without_output(call, state), *attention_state], weights

    def _draw_noise(self, sequences, memory, training):
        """Draw the noise of the attention for all steps."""
        return self.attention.draw_noise((*ops.shape(sequences)[:2], ops.shape(memory)[1])) if training else None

    def _recurrent_call(self, sequences, state, fed_units, training):
        """Return the `RecurrentCall` of the cell over sequences, without what is fed to it."""
        if self._runs_equations():
            return self.cell.recurrent_call(sequences, state, training=training)
        batch = ops.shape(sequences)[0]
        state = tree.flatten(self.initial_states(batch) if state is None else state)
        self._split_states(state, None)
        state = [ops.convert_to_tensor(s, self.compute_dtype) for s in state]
        inputs = ops.zeros((batch, sequences.shape[-1]), self.compute_dtype)
        equations = ForeignCellEquations(self.cell, inputs, state, training, fed_units)
        output = ops.zeros((batch, self.cell_output_size), self.compute_dtype)
        return RecurrentCall(equations, sequences, initial_state=(output, *state))

    def _without_output(self, call, state):
        """Drop the output, which comes before the states of a foreign cell."""
        return list(state[1:] if isinstance(call.equations, ForeignCellEquations) else state)

    def _attend_function(self, attend, training):
        """Return the `attend` that attention equations call."""

        def attend_in_step(query, memory, keys, memory_mask, state, noise):
            return attend(query, memory, keys, memory_mask, state, noise, training)

        return attend_in_step

    def reads_context_products(self):
        """Whether the context of each step enters the cell by a product alone, as that of additive attention does."""
        return self.attend == "before" and self._fused_score() == "additive" and not self.attention.states

    def _fused_score(self):
        """Return the energies that the ops compute themselves, or None."""
        return self.attention.fused_score if self._runs_equations() else None

    def _fused(self, training):
        """Return what equations tell the ops of the attention."""
        return {"fused_score": self._fused_score(), "fused_weighting": self.attention.fused_weighting(training)}

    def _input_feeding_equations(self, equations, attend, fed_units, training):
        """Return the equations of `attend="after"` with input feeding around those of a cell."""
        name = activation_name(self.attentional_activation) if self.attentional_units else "linear"
        return InputFeedingEquations(
            equations, attend, self.attention.states, fed_units, **self._fused(training), activation=name
        )

    def _runs_equations(self):
        """Whether the cell equations run, with the product of the context added to the input product."""
        return has_cell_equations(self.cell)

    def implementation_for(self, implementation, in_search=False):
        """Return what runs with this argument `implementation`, over sequences or in a search, and why: a `Choice`."""
        equations, features = self.cell, NO_FEATURES
        if has_cell_equations(self.cell):
            equations, features = self.cell.equations, self.cell.call_features()
        if self.input_feeding and self._runs_equations():
            equations = self.step_equations()
        choice = choose_implementation(implementation, equations, self.compute_dtype, features)
        if in_search:
            why_not = choice.implementation == "native" and why_not_native(self.step_equations(), self.compute_dtype)
            return Choice("xla", why_not) if why_not else choice
        return choice if self.input_feeding else choice._replace(reason=f"{choice.reason}; then all steps attend")

    def step_equations(self):
        """Return the attention equations that the native kernels run. xla runs only additive ones before the cell."""
        equations = self.cell.equations
        if self.attend == "after":
            return self._input_feeding_equations(equations, None, 0, False)
        if self.reads_context_products():
            return AdditiveAttentionEquations(equations)
        return AnyAttentionEquations(equations, None, self.attention.states, **self._fused(False))

    def step_weights(self, memory):
        """Return the weights of attention for the native kernels by name, in the dtype of the memory."""
        weights = self.attention.fused_weights(memory)
        if self.attentional_units:
            weights["attentional_kernel"] = self.attentional_kernel
        return {name: ops.cast(weight, memory.dtype) for name, weight in weights.items()}

    def _split_states(self, flat, memory):
        """Split a flat list into the states of the cell and, with a memory, those of the attention."""
        cells = len(self.state_size)
        expected = cells if memory is None else cells + self.attention_states
        if len(flat) != expected:
            of_attention = f" and {self.attention_states} of the attention" if expected > cells else ""
            raise ValueError(
                f"`states` must be a list of {expected}: {cells} of the cell{of_attention}. Received: {len(flat)}"
            )
        return flat[:cells], tuple(flat[cells:])

    def order_config(self):
        """Return the arguments for the order in which cell and attention run."""
        return {
            "input_feeding": self.input_feeding,
            "attend": self.attend,
            "attentional_units": self.attentional_units,
            "attentional_activation": keras.activations.serialize(self.attentional_activation),
        }


@keras.saving.register_keras_serializable("keras_seq")
class AttentionCell(AttentiveLayer):
    """Wraps any recurrent cell so that it attends to a memory in every step.

    With `attend="before"` (Bahdanau, Cho & Bengio 2015) the previous output is the query, and the cell reads the
    context: `context_t = attend(h_{t-1})`, `h_t = cell([x_t, context_t])`. The output is h_t.

    With `attend="after"` (Luong, Pham & Manning 2015) the new output of the cell is the query:
    `h_t = cell([x_t, o_{t-1}])`, `context_t = attend(h_t)`. The output is the attentional vector
    `o_t = tanh([h_t, context_t] W)`, which the next step reads; the first step reads zeros. Without
    `attentional_units` the output is `[h_t, context_t]`, and the next step reads the context only. With
    `input_feeding=False` the cell reads x only.

    `attend="after"` is the order of TensorFlow Addons: `AttentionWrapper(cell, mechanism, attention_layer_size=n)` is
    `AttentionCell(cell, attention, attend="after", attentional_units=n, attentional_activation=None)`.

    `keras_seq.layers.RNN` runs the cell over sequences and projects the memory once:
    `RNN(AttentionCell(...))(sequences, memory=..., memory_mask=...)`. The results are those of `AttentionDecoder`.

    Args:
        cell: a cell of keras_seq, of Keras, or your own, or a `keras.layers.StackedRNNCells`. With `attend="before"`
            its first state is the query. The `dropout` of a cell of keras_seq drops features of x, never of what the
            attention feeds. A foreign cell applies its own dropout, to all of its input `[x, fed]`.
        attention: an attention layer of keras_seq.
        input_feeding: whether the cell reads the output of the attention.
        attend: "before" or "after" the cell. By default "before", and "after" with `input_feeding=False`.
        attentional_units: size of the attentional vector, with `attend="after"`. By default None: the output is
            `[h, context]`.
        attentional_activation: activation of the attentional vector; None for a linear one.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: (batch, features).
        states: list of tensors, the states of the cell, then those of the attention. The first step takes
            `get_initial_state(memory=memory)`.
        memory: (batch, source, memory features).
        keys: `project_memory(memory)`, so that all steps share it. By default the call computes it.
        memory_mask: (batch, source) booleans, True = keep. Where all positions are masked, the context is zero.
        return_attention_scores: whether to return the attention weights too.
        training: whether to apply dropout.

    Returns:
        The output (batch, size) and the list of new states. With `return_attention_scores` also the attention weights
        (batch, source).

    Raises:
        ValueError: if an argument is invalid; the message names it.

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
        """Returns a list of initial states. Without a memory these are the states of the cell only."""
        if memory is not None:
            memory = ops.convert_to_tensor(memory, self.compute_dtype)
            batch_size = ops.shape(memory)[0]
        if batch_size is None:
            raise ValueError("`get_initial_state` needs `memory`, or `batch_size` for the states of the cell only.")
        return self.initial_states(batch_size, memory)

    def call(self, inputs, states, memory, keys=None, memory_mask=None, return_attention_scores=False, training=False):
        output, states, weights = self.step(inputs, states, memory, keys, memory_mask, training)
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

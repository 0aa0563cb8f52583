# SPDX-License-Identifier: Apache-2.0
"""What all attentions share: Keras's calling convention, contexts, and steps that depend on the one before."""

import keras
from keras import ops

from keras_seq.ops.attention import masked_softmax, weighted_sum
from keras_seq.ops.masks import as_bool_mask, zero_masked_positions
from keras_seq.ops.random import child_initializer
from keras_seq.ops.time_loop import time_loop


class AttentionMechanism(keras.layers.Layer):
    """An attention: energies of query and keys, weights of the energies, and a context, the weighted sum of the memory.

    A subclass makes its weights in `make_weights` and has `energies`. It has `project_memory` if keys are more than the
    memory, and `weigh` if its weights are more than a softmax of the energies. One whose steps depend on the one before
    says how many `states` it has, from which `get_initial_state` starts and which `weigh` moves on.

    Args:
        **kwargs: those of `keras.layers.Layer`.

    Call arguments:
        inputs: list of query (batch, time, features), value (batch, source, features) and, optionally, key (batch,
            source, features); the key is the value by default.
        mask: list of query mask (batch, time) and value mask (batch, source), True = keep, either may be None.
            Masked steps of the query give zeros; masked positions of the value get no weight.
        return_attention_scores: whether to return the weights a too.
        training: whether it is training: that matters to `MonotonicAttention`.

    Returns:
        Contexts (batch, time, value features), with `return_attention_scores` and a (batch, time, source).
    """

    states = 0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        _check_shapes(input_shape)
        self.make_weights(input_shape[0][-1], input_shape[-1][-1])

    def make_weights(self, query_units, key_units):
        """Make the weights for queries and keys of so many features."""

    def add_kernel(self, shape, name):
        """A weight that the `kernel_initializer` of a subclass draws, independently of its other weights."""
        return self.add_weight(shape, child_initializer(self.kernel_initializer, name), name=name)

    def read(self, weight, data):
        """A weight in the dtype of the data it meets.

        Keras casts weights within `__call__` alone, to the dtype of the outermost layer. A search steps outside it.
        """
        return ops.cast(weight, data.dtype)

    def project_memory(self, memory):
        """The keys (batch, source, any) of a memory (batch, source, features): computed once, read in every step."""
        return memory

    @property
    def is_additive(self):
        """Whether it is the softmax of `score_vector(query) . tanh(keys + query query_kernel)`: ops run that, fused."""
        return False

    def computes_as(self, kind):
        """Whether a subclass of `kind` has left its equations as they are."""
        return all(getattr(type(self), name) is getattr(kind, name) for name in ("energies", "weigh", "attend"))

    def get_initial_state(self, memory):
        """What the first step starts from: a tuple of `states` tensors, each (batch, source)."""
        return ()

    def draw(self, shape):
        """Random numbers of a shape (batch, [time,] source) for `weigh` in training, or None."""
        return None

    def energies(self, query, keys, state):
        """How well each position answers a query: (batch, [time,] features) -> (batch, [time,] source).

        Args:
            query: (batch, features), or (batch, time, features) if the attention has no states.
            keys: of `project_memory`.
            state: tuple of tensors.
        """
        raise NotImplementedError

    def weigh(self, energies, mask, state, drawn=None, training=False):
        """The weights (batch, [time,] source) of energies, and the state after the step.

        Args:
            energies: (batch, [time,] source).
            mask: (batch, [1,] source), 1 = keep, or None.
            state: tuple of tensors.
            drawn: what `draw` gave for this step, or None.
            training: whether it is training.
        """
        return masked_softmax(energies, mask), state

    def attend(self, query, memory, keys, memory_mask=None, state=(), drawn=None, training=False):
        """Look at a memory: one step, or all steps at once if the attention has no states.

        Args:
            query: (batch, features), or (batch, time, features).
            memory: (batch, source, features).
            keys: `project_memory(memory)`.
            memory_mask: (batch, source), True or 1 = keep.
            state: tuple of tensors, `get_initial_state(memory)` at first.
            drawn: `draw((batch, [time,] source))` in training, or None.
            training: whether it is training.

        Returns:
            `(context, weights, state)`: (batch, [time,] features), (batch, [time,] source), a tuple of tensors.
        """
        energies = self.energies(query, keys, state)
        if memory_mask is not None:
            memory_mask = ops.cast(as_bool_mask(memory_mask), energies.dtype)
            memory_mask = memory_mask if len(energies.shape) == 2 else memory_mask[:, None]
        weights, state = self.weigh(energies, memory_mask, state, drawn, training)
        return weighted_sum(weights, memory), weights, state

    def attend_over_time(
        self, queries, memory, keys, memory_mask=None, state=None, mask=None, training=False, unroll=False
    ):
        """Look at a memory in each of many steps, at once if the attention has no states.

        Args:
            queries: (batch, time, features).
            memory, keys, memory_mask, training: as of `attend`.
            state: as of `attend`; `get_initial_state(memory)` if None.
            mask: (batch, time) booleans, True = keep. A masked step leaves the state as it was, and repeats context and
                weights of the step before; before the first one they are zero.
            unroll: whether to lay out the steps instead of looping.

        Returns:
            `(contexts, weights, state)`: (batch, time, features), (batch, time, source), a tuple of tensors.
        """
        state = self.get_initial_state(memory) if state is None else tuple(state)
        mask = as_bool_mask(mask)
        batch, time, _ = ops.shape(queries)
        source = ops.shape(memory)[1]
        drawn = self.draw((batch, time, source)) if training else None
        if not self.states:
            contexts, weights, _ = self.attend(queries, memory, keys, memory_mask, (), drawn, training)
            if mask is not None:
                begun = ops.cumsum(ops.cast(mask, "int32"), axis=1)[:, :, None] > 0
                contexts, weights = (ops.where(begun, x, 0) for x in (contexts, weights))
            return contexts, weights, ()

        sequences = {
            "query": queries,
            "drawn": drawn,
            "mask": None if mask is None else mask[:, :, None],
        }
        sequences = {name: ops.transpose(x, (1, 0, 2)) for name, x in sequences.items() if x is not None}

        def step(carry, slices):
            new = self.attend(
                slices["query"], memory, keys, memory_mask, carry[2], slices.get("drawn"), training
            )  # context, weights, state
            if mask is not None:
                new = keras.tree.map_structure(lambda n, o: ops.where(slices["mask"], n, o), new, carry)
            return new, new[:2]

        before = ops.zeros((batch, memory.shape[-1]), memory.dtype), ops.zeros((batch, source), memory.dtype), state
        (*_, state), results = time_loop(step, before, sequences, unroll=unroll)
        contexts, weights = (ops.transpose(x, (1, 0, 2)) for x in results)
        return contexts, weights, state

    def call(self, inputs, mask=None, return_attention_scores=False, training=False):
        _check_shapes([tuple(x.shape) for x in inputs])
        query, value, key = (*inputs, inputs[1]) if len(inputs) == 2 else inputs
        query_mask, value_mask = (mask[0], mask[1]) if mask is not None else (None, None)
        value, key = (zero_masked_positions(x, value_mask) for x in (value, key))
        contexts, weights, _ = self.attend_over_time(
            query, value, self.project_memory(key), value_mask, mask=query_mask, training=training
        )
        if query_mask is not None:
            contexts, weights = (ops.where(query_mask[:, :, None], x, 0) for x in (contexts, weights))
        return (contexts, weights) if return_attention_scores else contexts

    def compute_mask(self, inputs, mask=None):
        return mask[0] if mask is not None else None

    def compute_output_spec(self, inputs, mask=None, return_attention_scores=False, training=False):
        query, value = inputs[:2]
        context = keras.KerasTensor((*query.shape[:2], value.shape[-1]), dtype=self.compute_dtype)
        if not return_attention_scores:
            return context
        return context, keras.KerasTensor((*query.shape[:2], value.shape[1]), dtype=self.compute_dtype)


def _check_shapes(shapes):
    is_list = all(isinstance(shape, (list, tuple)) for shape in shapes)
    if not is_list or len(shapes) not in (2, 3) or any(len(shape) != 3 for shape in shapes):
        raise ValueError(
            "`inputs` must be [query, value] or [query, value, key], each of shape (batch, time, features). Received: "
            f"{'shapes ' + ', '.join(map(str, shapes)) if is_list else f'one tensor of shape {tuple(shapes)}'}"
        )


def per_step(query, x):
    """A tensor (batch, ...) that serves every query: as it is for one step, (batch, 1, ...) for all at once."""
    return x if len(query.shape) == 2 else ops.expand_dims(x, axis=1)


def check_units(units, name="units"):
    """Return the size of a space, once it is one."""
    if not isinstance(units, int) or units <= 0:
        raise ValueError(f"`{name}` must be a positive integer. Received: {units!r}")
    return units

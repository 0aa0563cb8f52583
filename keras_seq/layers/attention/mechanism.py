# SPDX-License-Identifier: Apache-2.0
"""The base class of all attention layers: Keras's call, contexts, and steps that depend on the previous one."""

import keras
from keras import ops

from keras_seq.ops.attention import masked_softmax, weighted_sum
from keras_seq.ops.masks import as_bool_mask, zero_masked_positions
from keras_seq.ops.random import child_initializer
from keras_seq.ops.time_loop import time_loop


class AttentionMechanism(keras.layers.Layer):
    """Base class of attention layers.

    An attention computes energies from query and keys, attention weights from the energies, and the context, which is
    the sum of the memory by attention weights.

    A subclass creates its variables in `make_weights` and implements `energies`. It overrides `project_memory` if keys
    differ from the memory, and `compute_weights` if attention weights are not a plain softmax of the energies. If a
    step depends on the previous one, it sets `states`, the number of tensors that a step hands to the next;
    `get_initial_state` returns the first ones and `compute_weights` updates them. If it uses noise in training, it
    overrides `draw_noise`.

    Args:
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: list of query (batch, time, features), value (batch, source, features) and, optionally, key (batch,
            source, features). The key defaults to the value.
        mask: list of query mask (batch, time) and value mask (batch, source), True = keep; either may be None. The
            output is zero at masked steps of the query; masked positions of the value get no weight.
        return_attention_scores: whether to also return the attention weights.
        training: whether to run in training mode. Only `MonotonicAttention` depends on it.

    Returns:
        Contexts (batch, time, value features). With `return_attention_scores`, also the attention weights (batch,
        time, source).
    """

    states = 0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        _check_shapes(input_shape)
        self.make_weights(input_shape[0][-1], input_shape[-1][-1])

    def make_weights(self, query_units, key_units):
        """Creates the variables, for queries and keys with these numbers of features."""

    def add_kernel(self, shape, name):
        """Adds a weight drawn by `self.kernel_initializer`, independently of the layer's other weights."""
        return self.add_weight(shape, child_initializer(self.kernel_initializer, name), name=name)

    def cast_weight(self, weight, data):
        """Casts a weight to the dtype of the data that it is combined with.

        Keras casts weights only within `__call__`, to the dtype of the outermost layer. A search runs outside it.
        """
        return ops.cast(weight, data.dtype)

    def project_memory(self, memory):
        """Returns the keys (batch, source, any) of a memory (batch, source, features).

        They are computed once and read in every step.
        """
        return memory

    @property
    def fused_score(self):
        """The energies that the ops compute themselves, with `fused_weighting`; None for any others.

        "additive" is `v . tanh(keys + query W_q)`, with coverage `v . tanh(keys + query W_q + w_c coverage)`, and "dot"
        is `keys . query`.
        """
        return None

    def fused_weighting(self, training):
        """Returns how the ops compute attention weights from these energies: "softmax", "monotonic" or "hard"."""
        return "softmax"

    def fused_weights(self, data):
        """Returns the weights of the energies of `fused_score` as arguments of `run_attention_recurrence`.

        The score vector is in the dtype of `data`.
        """
        return {}

    def has_equations_of(self, kind):
        """Whether this layer's class inherits the equations of the class `kind` unchanged."""
        methods = ("energies", "compute_weights", "attend")
        return all(getattr(type(self), name) is getattr(kind, name) for name in methods)

    def get_initial_state(self, memory):
        """Returns the state before the first step: a tuple of `states` tensors (batch, source)."""
        return ()

    def draw_noise(self, shape):
        """Returns the noise for `compute_weights` in training, of shape (batch, [time,] source), or None."""
        return None

    def energies(self, query, keys, state):
        """Returns the energies (batch, [time,] source), the scores before the softmax.

        Args:
            query: tensor (batch, features), or (batch, time, features) if the attention has no states.
            keys: the result of `project_memory`.
            state: tuple of tensors.
        """
        raise NotImplementedError

    def compute_weights(self, energies, mask, state, noise=None, training=False):
        """Returns the attention weights (batch, [time,] source), and the state after the step.

        Args:
            energies: tensor (batch, [time,] source).
            mask: tensor (batch, [1,] source), 1 = keep, or None.
            state: tuple of tensors.
            noise: the result of `draw_noise` for this step, or None.
            training: whether to run in training mode.
        """
        return masked_softmax(energies, mask), state

    def attend(self, query, memory, keys, memory_mask=None, state=(), noise=None, training=False):
        """Attends to a memory in one step, or in all steps at once if the attention has no states.

        Args:
            query: tensor (batch, features) or (batch, time, features).
            memory: tensor (batch, source, features).
            keys: `project_memory(memory)`.
            memory_mask: tensor (batch, source), True or 1 = keep, or None.
            state: tuple of tensors; `get_initial_state(memory)` in the first step.
            noise: `draw_noise((batch, [time,] source))` in training, else None.
            training: whether to run in training mode.

        Returns:
            `(context, weights, state)`: (batch, [time,] features), (batch, [time,] source) and a tuple of tensors.
        """
        energies = self.energies(query, keys, state)
        if len(energies.shape) != len(query.shape):
            raise ValueError(
                f"`energies` of {type(self).__name__} must return a tensor (batch, [time,] source), of the rank of the "
                f"query. Received: shape {tuple(energies.shape)} for a query of shape {tuple(query.shape)}"
            )
        if memory_mask is not None:
            memory_mask = ops.cast(as_bool_mask(memory_mask), energies.dtype)
            memory_mask = memory_mask if len(energies.shape) == 2 else memory_mask[:, None]
        weights, state = self.compute_weights(energies, memory_mask, state, noise, training)
        return weighted_sum(weights, memory), weights, state

    def attend_over_time(
        self, queries, memory, keys, memory_mask=None, state=None, mask=None, training=False, unroll=False
    ):
        """Attends to a memory in every step of a sequence: all at once if the attention has no states, else in a loop.

        Args:
            queries: tensor (batch, time, features).
            memory, keys, memory_mask, training: see `attend`.
            state: see `attend`; None for `get_initial_state(memory)`.
            mask: booleans (batch, time), True = keep. A masked step leaves the state unchanged and repeats context and
                weights of the previous step. Before the first unmasked step they are zero.
            unroll: whether to unroll the loop.

        Returns:
            `(contexts, weights, state)`: (batch, time, features), (batch, time, source) and a tuple of tensors.
        """
        state = self.get_initial_state(memory) if state is None else tuple(state)
        mask = as_bool_mask(mask)
        batch, time, _ = ops.shape(queries)
        source = ops.shape(memory)[1]
        noise = self.draw_noise((batch, time, source)) if training else None
        if not self.states:
            contexts, weights, _ = self.attend(queries, memory, keys, memory_mask, (), noise, training)
            if mask is not None:
                has_started = ops.expand_dims(ops.cumsum(ops.cast(mask, "int32"), axis=1) > 0, axis=-1)
                contexts, weights = (ops.where(has_started, x, 0) for x in (contexts, weights))
            return contexts, weights, ()

        sequences = {
            "query": queries,
            "noise": noise,
            "mask": None if mask is None else ops.expand_dims(mask, axis=-1),
        }
        sequences = {name: ops.transpose(x, (1, 0, 2)) for name, x in sequences.items() if x is not None}

        def step(carry, slices):
            results = self.attend(
                slices["query"], memory, keys, memory_mask, carry[2], slices.get("noise"), training
            )  # context, weights, state
            if mask is not None:
                results = keras.tree.map_structure(lambda new, old: ops.where(slices["mask"], new, old), results, carry)
            return results, results[:2]

        initial = ops.zeros((batch, memory.shape[-1]), memory.dtype), ops.zeros((batch, source), memory.dtype), state
        (*_, state), results = time_loop(step, initial, sequences, unroll=unroll)
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
            contexts, weights = (ops.where(ops.expand_dims(query_mask, axis=-1), x, 0) for x in (contexts, weights))
        return (contexts, weights) if return_attention_scores else contexts

    def compute_mask(self, inputs, mask=None):
        return mask[0] if mask is not None else None

    def compute_output_shape(self, input_shape):
        return *input_shape[0][:-1], input_shape[1][-1]

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


def expand_time_axis(x, query):
    """Returns a tensor (batch, ...) as it is if the query is one step, else as (batch, 1, ...)."""
    return x if len(query.shape) == 2 else ops.expand_dims(x, axis=1)


def check_units(units, name="units"):
    """Returns `units` if it is a positive integer, and raises a ValueError about the argument `name` otherwise."""
    if not isinstance(units, int) or units <= 0:
        raise ValueError(f"`{name}` must be a positive integer. Received: {units!r}")
    return units

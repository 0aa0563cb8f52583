# SPDX-License-Identifier: Apache-2.0
"""Attention: where in a memory to look."""

import keras
from keras import ops

from keras_seq.ops.attention_math import additive_energies, masked_softmax


@keras.saving.register_keras_serializable("keras_seq")
class BahdanauAttention(keras.layers.Layer):
    """Additive attention with its own projections (Bahdanau, Cho & Bengio 2015).

    `e_ts = v . tanh(q_t W_q + k_s W_k)`, `a_t = softmax_s(e_t)`, `context_t = sum_s a_ts value_s`.

    The memory is an argument of every call, never state of the layer; `project_memory` computes its projected keys
    once for many calls.

    Args:
        units: size of the space in which query and key are added.
        kernel_initializer: of W_q, W_k and v.
        **kwargs: those of `keras.layers.Layer`.

    Call arguments:
        inputs: list of query (batch, time, features), value (batch, source, features) and, optionally, key (batch,
            source, features); the key is the value by default.
        mask: list of query mask (batch, time) and value mask (batch, source), True = keep, either may be None.
            Masked steps of the query give zero contexts; masked positions of the value get no weight.
        return_attention_scores: whether to return the weights a too.
        training: accepted as Keras's attention layers do; nothing depends on it.

    Returns:
        Contexts (batch, time, value features), with `return_attention_scores` and a (batch, time, source), which
        sums to 1 over the unmasked positions; where all are masked, weights and context are zero.

    Example:
        >>> import numpy as np
        >>> query, value = np.ones((2, 3, 8)), np.ones((2, 5, 6))
        >>> context, weights = BahdanauAttention(4)([query, value], return_attention_scores=True)
        >>> context.shape, weights.shape
        (TensorShape([2, 3, 6]), TensorShape([2, 3, 5]))
    """

    def __init__(self, units, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        if not isinstance(units, int) or units <= 0:
            raise ValueError(f"`units` must be a positive integer. Received: {units!r}")
        self.units = units
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        if len(input_shape) not in (2, 3):
            raise ValueError(f"`inputs` must be [query, value] or [query, value, key]. Received: {len(input_shape)}")
        query_units, key_units = input_shape[0][-1], input_shape[-1][-1]
        initializer = self.kernel_initializer
        self.query_kernel = self.add_weight((query_units, self.units), initializer, name="query_kernel")
        self.key_kernel = self.add_weight((key_units, self.units), initializer, name="key_kernel")
        # Drawn as the column of a matrix, so that its scale follows from its length.
        self.score_kernel = self.add_weight((self.units, 1), initializer, name="score_kernel")

    @property
    def score_vector(self):
        """v, (units,)."""
        return self.score_kernel[:, 0]

    def project_memory(self, memory):
        """The keys (batch, source, units) of a memory (batch, source, features)."""
        return ops.matmul(memory, self.key_kernel)

    def call(self, inputs, mask=None, return_attention_scores=False, training=False):
        query, value, key = (*inputs, inputs[1]) if len(inputs) == 2 else inputs
        query_mask, value_mask = (mask[0], mask[1]) if mask is not None else (None, None)
        if value_mask is not None:
            value_mask = ops.cast(value_mask, value.dtype)[:, None, :]
        energies, _ = additive_energies(
            ops.matmul(query, self.query_kernel), self.project_memory(key)[:, None], self.score_vector
        )  # (batch, time, source)
        weights = masked_softmax(energies, value_mask)
        context = ops.matmul(weights, value)  # (batch, time, features)
        if query_mask is not None:
            context = ops.where(query_mask[:, :, None], context, ops.zeros_like(context))
        return (context, weights) if return_attention_scores else context

    def compute_mask(self, inputs, mask=None):
        return mask[0] if mask is not None else None

    def compute_output_spec(self, inputs, mask=None, return_attention_scores=False, training=False):
        query, value = inputs[:2]
        context = keras.KerasTensor((*query.shape[:2], value.shape[-1]), dtype=self.compute_dtype)
        if not return_attention_scores:
            return context
        return context, keras.KerasTensor((*query.shape[:2], value.shape[1]), dtype=self.compute_dtype)

    def get_config(self):
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), "units": self.units, "kernel_initializer": initializer}

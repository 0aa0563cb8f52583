# SPDX-License-Identifier: Apache-2.0
"""Additive attention."""

import keras
from keras import ops

from keras_seq.layers.attention.mechanism import AttentionMechanism, check_units, expand_time_axis
from keras_seq.ops.attention import additive_energies


@keras.saving.register_keras_serializable("keras_seq")
class BahdanauAttention(AttentionMechanism):
    """Additive attention, with learned projections of query and key (Bahdanau, Cho & Bengio 2015).

    `e_ts = v . tanh(q_t W_q + k_s W_k)`, `a_t = softmax_s(e_t)`, `context_t = sum_s a_ts value_s`. With `normalize`
    (Salimans & Kingma 2016), `e_ts = g v / |v| . tanh(q_t W_q + k_s W_k + b)`. With `coverage` (See, Liu & Manning
    2017), `e_ts = v . tanh(q_t W_q + k_s W_k + w_c c_ts)`, where the coverage `c_ts = sum_{i < t} a_is` is the sum of
    the attention weights of position s in earlier steps; the paper's coverage loss is not added. You can combine both.

    The memory is an argument of every call, not a state of the layer. `project_memory` computes its keys once for many
    calls.

    Args:
        units: size of the projected query and key.
        normalize: whether to normalize v to a learned length g, initially sqrt(1 / units), and to add a bias b.
        coverage: whether the energies depend on the coverage. Steps then run one after the other.
        kernel_initializer: initializer of W_q, W_k, v and w_c.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: list of query (batch, time, features), value (batch, source, features) and, optionally, key (batch,
            source, features). The key defaults to the value.
        mask: list of query mask (batch, time) and value mask (batch, source), True = keep; either may be None. The
            output is zero at masked steps of the query; masked positions of the value get no weight.
        return_attention_scores: whether to also return the attention weights a.
        training: accepted for consistency with Keras's attention layers; it has no effect.

    Returns:
        Contexts (batch, time, value features). With `return_attention_scores`, also the attention weights (batch,
        time, source). They sum to 1 over the unmasked positions; if all are masked, weights and context are zero.

    Raises:
        ValueError: if an argument is invalid. The message names it.

    Example:
        >>> import numpy as np
        >>> query, value = np.ones((2, 3, 8)), np.ones((2, 5, 6))
        >>> context, weights = BahdanauAttention(4)([query, value], return_attention_scores=True)
        >>> context.shape, weights.shape
        (TensorShape([2, 3, 6]), TensorShape([2, 3, 5]))
    """

    def __init__(self, units, normalize=False, coverage=False, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.units = check_units(units)
        self.normalize = normalize
        self.coverage = coverage
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    @property
    def states(self):
        """The number of tensors that a step hands to the next: 1 with `coverage`, else 0."""
        return int(self.coverage)

    @property
    def fused_score(self):
        return "additive" if self.has_equations_of(BahdanauAttention) else None

    def fused_weights(self, data):
        weights = {"query_kernel": self.query_kernel, "score_vector": self.score_vector(data)}
        return weights | ({"coverage_kernel": self.coverage_kernel[0]} if self.coverage else {})

    def make_weights(self, query_units, key_units):
        self.query_kernel = self.add_kernel((query_units, self.units), "query_kernel")
        self.key_kernel = self.add_kernel((key_units, self.units), "key_kernel")
        # A column of a matrix, so that the initializer scales it by its length.
        self.score_kernel = self.add_kernel((self.units, 1), "score_kernel")
        if self.normalize:
            length = keras.initializers.Constant(self.units**-0.5)
            self.score_length = self.add_weight((), length, name="score_length")
            self.bias = self.add_weight((self.units,), "zeros", name="bias")
        if self.coverage:
            self.coverage_kernel = self.add_kernel((1, self.units), "coverage_kernel")

    def score_vector(self, data):
        """Returns v, or `g v / |v|` with `normalize`: (units,), in the dtype of `data`."""
        vector = ops.reshape(self.cast_weight(self.score_kernel, data), (-1,))
        if not self.normalize:
            return vector
        return self.cast_weight(self.score_length, data) * vector * ops.rsqrt(ops.sum(vector * vector))

    def project_memory(self, memory):
        """Returns the keys (batch, source, units) of a memory (batch, source, features)."""
        keys = ops.matmul(memory, self.cast_weight(self.key_kernel, memory))
        return keys + self.cast_weight(self.bias, keys) if self.normalize else keys

    def get_initial_state(self, memory):
        return (ops.zeros(ops.shape(memory)[:2], memory.dtype),) if self.coverage else ()

    def energies(self, query, keys, state):
        if self.coverage:
            keys = keys + ops.expand_dims(state[0], axis=-1) * self.cast_weight(self.coverage_kernel, keys)
        query = ops.matmul(query, self.cast_weight(self.query_kernel, query))
        return additive_energies(query, expand_time_axis(keys, query), self.score_vector(query))[0]

    def compute_weights(self, energies, mask, state, noise=None, training=False):
        weights, _ = super().compute_weights(energies, mask, state, noise, training)
        return weights, tuple(coverage + weights for coverage in state)

    def get_config(self):
        config = {name: getattr(self, name) for name in ("units", "normalize", "coverage")}
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), **config, "kernel_initializer": initializer}

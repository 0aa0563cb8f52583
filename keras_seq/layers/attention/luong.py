# SPDX-License-Identifier: Apache-2.0
"""Multiplicative attention."""

import math
import numbers

import keras
from keras import ops

from keras_seq.layers.attention.mechanism import AttentionMechanism, check_units, per_step
from keras_seq.ops.attention import additive_energies

SCORES = ("dot", "general", "concat")


@keras.saving.register_keras_serializable("keras_seq")
class LuongAttention(AttentionMechanism):
    """Attention with the scores of Luong, Pham & Manning (2015).

    `e_ts = c score(q_t, k_s)`, `a_t = softmax_s(e_t)`, `context_t = sum_s a_ts value_s`. "dot": `q . k`. "general":
    `q . k W`. "concat": `v . tanh([q, k] W)`, the additive score. c is 1, or as `scale` has it.

    The memory is an argument of every call, never state of the layer; `project_memory` computes its projected keys
    once for many calls.

    Args:
        score: "dot", whose query and key must be of one size, "general" or "concat".
        units: of "concat", the columns of W; None otherwise.
        scale: True for a learned c, which starts at 1; a number for a constant c, as 1 / sqrt(size) of Vaswani et al.
            (2017).
        kernel_initializer: of W and v.
        **kwargs: those of `keras.layers.Layer`.

    Call arguments:
        inputs: list of query (batch, time, features), value (batch, source, features) and, optionally, key (batch,
            source, features); the key is the value by default.
        mask: list of query mask (batch, time) and value mask (batch, source), True = keep, either may be None.
            Masked steps of the query give zeros; masked positions of the value get no weight.
        return_attention_scores: whether to return the weights a too.
        training: accepted as Keras's attention layers do; nothing depends on it.

    Returns:
        Contexts (batch, time, value features), with `return_attention_scores` and a (batch, time, source), which
        sums to 1 over the unmasked positions; where all are masked, weights and context are zero.

    Raises:
        ValueError: for an argument that cannot be: the message names it.

    Example:
        >>> import numpy as np
        >>> query, value = np.ones((2, 3, 8)), np.ones((2, 5, 6))
        >>> context, weights = LuongAttention("general")([query, value], return_attention_scores=True)
        >>> context.shape, weights.shape
        (TensorShape([2, 3, 6]), TensorShape([2, 3, 5]))
    """

    def __init__(self, score="dot", units=None, scale=False, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        if score not in SCORES:
            raise ValueError(f"`score` must be one of {SCORES}. Received: {score!r}")
        if score == "concat":
            check_units(units)
        elif units is not None:
            raise ValueError(
                f"`units` is for `score='concat'` alone; with score={score!r} it is None. Received: {units!r}"
            )
        if not isinstance(scale, numbers.Real) or not math.isfinite(scale):
            raise ValueError(f"`scale` must be a boolean or a finite number. Received: {scale!r}")
        self.score = score
        self.units = units
        self.scale = scale
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    @property
    def is_additive(self):
        return self.score == "concat" and self.computes_as(LuongAttention)

    def make_weights(self, query_units, key_units):
        if self.score == "dot" and query_units != key_units:
            raise ValueError(
                "`score='dot'` needs query and key of one size; `score='general'` does not. "
                f"Received: a query of {query_units} features, a key of {key_units}"
            )
        if self.score == "general":
            self.key_kernel = self.add_kernel((key_units, query_units), "key_kernel")
        if self.score == "concat":
            self.query_kernel = self.add_kernel((query_units, self.units), "query_kernel")
            self.key_kernel = self.add_kernel((key_units, self.units), "key_kernel")
            # Drawn as the column of a matrix, so that its scale follows from its length.
            self.score_kernel = self.add_kernel((self.units, 1), "score_kernel")
        if self.scale is True:
            self.learned_scale = self.add_weight((), "ones", name="scale")

    def score_vector(self, data):
        """`c v` of "concat", (units,), in the dtype of data."""
        return self._scaled(self.read(self.score_kernel, data)[:, 0])

    def project_memory(self, memory):
        """The keys (batch, source, query features or units) of a memory (batch, source, features).

        Of "dot" and "general" they are scaled.
        """
        keys = memory if self.score == "dot" else ops.matmul(memory, self.read(self.key_kernel, memory))
        return keys if self.score == "concat" else self._scaled(keys)

    def _scaled(self, x):
        if self.scale is False:
            return x
        return x * (self.read(self.learned_scale, x) if self.scale is True else self.scale)

    def energies(self, query, keys, state):
        if self.score == "concat":
            query = ops.matmul(query, self.read(self.query_kernel, query))
            return additive_energies(query, per_step(query, keys), self.score_vector(query))[0]
        if len(query.shape) == 3:
            return ops.matmul(query, ops.transpose(keys, (0, 2, 1)))
        return ops.sum(ops.multiply(keys, ops.expand_dims(query, axis=1)), axis=-1)  # as in `attend`

    def get_config(self):
        own = {name: getattr(self, name) for name in ("score", "units", "scale")}
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), **own, "kernel_initializer": initializer}

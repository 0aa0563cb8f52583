# SPDX-License-Identifier: Apache-2.0
"""Multiplicative attention."""

import math
import numbers

import keras
from keras import ops

from keras_seq.layers.attention.mechanism import AttentionMechanism, check_units, expand_time_axis
from keras_seq.ops.attention import additive_energies

SCORES = ("dot", "general", "concat")


@keras.saving.register_keras_serializable("keras_seq")
class LuongAttention(AttentionMechanism):
    """Attention with the scores of Luong, Pham & Manning (2015).

    `e_ts = c score(q_t, k_s)`, `a_t = softmax_s(e_t)`, `context_t = sum_s a_ts value_s`. The score is `q . k` for
    "dot", `q . k W` for "general" and the additive `v . tanh([q, k] W)` for "concat". c is 1 unless `scale` is given.

    The memory is an argument of every call, not a state of the layer. `project_memory` computes its keys once for many
    calls.

    Args:
        score: "dot", "general" or "concat". "dot" needs query and key of the same size.
        units: number of columns of W for "concat"; None otherwise.
        scale: True for a learned c, initially 1; a number for a constant c, such as 1 / sqrt(size) (Vaswani et al.
            2017).
        kernel_initializer: initializer of W and v.
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
        >>> context, weights = LuongAttention("general")([query, value], return_attention_scores=True)
        >>> context.shape, weights.shape
        (TensorShape([2, 3, 6]), TensorShape([2, 3, 5]))
    """

    def __init__(self, score="dot", units=None, scale=False, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        if score not in SCORES:
            raise ValueError(f"`score` must be one of {SCORES}. Received: {score!r}")
        if score == "concat" and units is None:
            raise ValueError("`units` must be given with `score='concat'`. Received: None")
        if score == "concat":
            check_units(units)
        elif units is not None:
            raise ValueError(
                f"`units` must be None unless `score='concat'`. Received: units={units!r}, score={score!r}"
            )
        if not isinstance(scale, numbers.Real) or not math.isfinite(scale):
            raise ValueError(f"`scale` must be a boolean or a finite number. Received: {scale!r}")
        self.score = score
        self.units = units
        self.scale = scale
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    @property
    def fused_score(self):
        if not self.has_equations_of(LuongAttention):
            return None
        return "additive" if self.score == "concat" else "dot"  # the keys of "general" are products with W

    def fused_weights(self, data):
        if self.score != "concat":
            return {}
        return {"query_kernel": self.query_kernel, "score_vector": self.score_vector(data)}

    def make_weights(self, query_units, key_units):
        if self.score == "dot" and query_units != key_units:
            raise ValueError(
                "`score='dot'` needs query and key of the same size; `score='general'` does not. "
                f"Received: a query of {query_units} features and a key of {key_units}"
            )
        if self.score == "general":
            self.key_kernel = self.add_kernel((key_units, query_units), "key_kernel")
        if self.score == "concat":
            self.query_kernel = self.add_kernel((query_units, self.units), "query_kernel")
            self.key_kernel = self.add_kernel((key_units, self.units), "key_kernel")
            # A column of a matrix, so that the initializer scales it by its length.
            self.score_kernel = self.add_kernel((self.units, 1), "score_kernel")
        if self.scale is True:
            self.learned_scale = self.add_weight((), "ones", name="scale")

    def score_vector(self, data):
        """Returns `c v` for "concat": (units,), in the dtype of `data`."""
        return self._scale(ops.reshape(self.cast_weight(self.score_kernel, data), (-1,)))

    def project_memory(self, memory):
        """Returns the keys (batch, source, query features or units) of a memory (batch, source, features).

        For "dot" and "general" they are already multiplied by c.
        """
        keys = memory if self.score == "dot" else ops.matmul(memory, self.cast_weight(self.key_kernel, memory))
        return keys if self.score == "concat" else self._scale(keys)

    def _scale(self, x):
        if self.scale is False:
            return x
        return x * (self.cast_weight(self.learned_scale, x) if self.scale is True else self.scale)

    def energies(self, query, keys, state):
        if self.score == "concat":
            query = ops.matmul(query, self.cast_weight(self.query_kernel, query))
            return additive_energies(query, expand_time_axis(keys, query), self.score_vector(query))[0]
        if len(query.shape) == 3:
            return ops.matmul(query, ops.transpose(keys, (0, 2, 1)))
        # For one step this is faster than a matrix product: see `weighted_sum`.
        return ops.sum(ops.multiply(keys, ops.expand_dims(query, axis=1)), axis=-1)

    def get_config(self):
        config = {name: getattr(self, name) for name in ("score", "units", "scale")}
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), **config, "kernel_initializer": initializer}

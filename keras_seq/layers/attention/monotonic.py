# SPDX-License-Identifier: Apache-2.0
"""Monotonic attention."""

import math
import numbers

import keras
from keras import ops

from keras_seq.layers.attention.bahdanau import BahdanauAttention
from keras_seq.ops.attention import first_stop, monotonic_weights


@keras.saving.register_keras_serializable("keras_seq")
class MonotonicAttention(BahdanauAttention):
    """Attention that moves through the memory from left to right only (Raffel et al. 2017).

    Each step starts at the position where the previous step stopped. It visits one position after the other and stops
    at position s with probability `p_ts = sigmoid(e_ts)`, `e_ts = g v / |v| . tanh(q_t W_q + k_s W_k + b) + r`. The
    context is the memory at the position where it stops. Training uses the expected attention weights,
    `a_ts = p_ts sum_{k <= s} a_{t-1,k} prod_{k <= l < s} (1 - p_tl)`. Inference stops at the first position with
    p > 1/2, which may be the one where the step starts.

    Attention weights sum to at most 1. The rest is the probability of having passed the end of the memory; from there
    the attention does not return. At inference one weight is 1, or all weights and the context are zero.

    Args:
        units: size of the projected query and key.
        noise_std: standard deviation of the normal noise added to e in training. It pushes e away from 0, where
            training and inference differ. Raise it where a model that trains well fails at inference.
        score_bias_init: initial value of r. The lower it is, the further the first expected weights reach.
        kernel_initializer: initializer of W_q, W_k and v.
        seed: random seed of the noise.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: list of query (batch, time, features), value (batch, source, features) and, optionally, key (batch,
            source, features). The key defaults to the value.
        mask: list of query mask (batch, time) and value mask (batch, source), True = keep; either may be None. At
            masked steps of the query the output is zero and the position stays; masked positions of the value are
            skipped.
        return_attention_scores: whether to also return the attention weights a.
        training: whether to use expected attention weights, with noise, instead of hard decisions.

    Returns:
        Contexts (batch, time, value features). With `return_attention_scores`, also the attention weights (batch,
        time, source).

    Raises:
        ValueError: if an argument is invalid. The message names it.

    Example:
        >>> import numpy as np
        >>> query, value = np.ones((2, 3, 8)), np.ones((2, 5, 6))
        >>> context, weights = MonotonicAttention(4)([query, value], return_attention_scores=True, training=True)
        >>> context.shape, weights.shape
        (TensorShape([2, 3, 6]), TensorShape([2, 3, 5]))
    """

    states = 1

    def __init__(
        self, units, noise_std=1.0, score_bias_init=-1.0, kernel_initializer="glorot_uniform", seed=None, **kwargs
    ):
        super().__init__(units, normalize=True, kernel_initializer=kernel_initializer, **kwargs)
        if not isinstance(noise_std, numbers.Real) or not 0 <= noise_std < math.inf:
            raise ValueError(f"`noise_std` must be a finite number of at least 0. Received: {noise_std!r}")
        if not isinstance(score_bias_init, numbers.Real) or not math.isfinite(score_bias_init):
            raise ValueError(f"`score_bias_init` must be a finite number. Received: {score_bias_init!r}")
        self.noise_std = noise_std
        self.score_bias_init = score_bias_init
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if noise_std else None

    def make_weights(self, query_units, key_units):
        super().make_weights(query_units, key_units)
        initializer = keras.initializers.Constant(self.score_bias_init)
        self.score_bias = self.add_weight((), initializer, name="score_bias")

    @property
    def fused_score(self):
        return "additive" if self.has_equations_of(MonotonicAttention) else None

    def fused_weighting(self, training):
        return "monotonic" if training else "hard"

    def fused_weights(self, data):
        return super().fused_weights(data) | {"score_bias": self.score_bias}

    def get_initial_state(self, memory):
        """Returns attention weights of 1 at the first position."""
        batch, source = ops.shape(memory)[:2]
        first = ops.cast(ops.arange(source) == 0, memory.dtype)
        return (ops.broadcast_to(first, (batch, source)),)

    def draw_noise(self, shape):
        if not self.noise_std:
            return None
        return keras.random.normal(shape, stddev=self.noise_std, dtype=self.compute_dtype, seed=self.seed_generator)

    def energies(self, query, keys, state):
        energies = super().energies(query, keys, state)
        return energies + self.cast_weight(self.score_bias, energies)

    def compute_weights(self, energies, mask, state, noise=None, training=False):
        if not training:
            weights = first_stop(energies, *state, mask)
        else:
            weights = monotonic_weights(energies if noise is None else ops.add(energies, noise), *state, mask)
        return weights, (weights,)

    def get_config(self):
        config = super().get_config()
        del config["normalize"], config["coverage"]
        return {**config, **{name: getattr(self, name) for name in ("noise_std", "score_bias_init", "seed")}}

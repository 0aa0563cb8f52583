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
    """Attention that reads a memory from left to right and never turns back (Raffel et al. 2017).

    From where it stopped before, it looks at one position after the other and stops at each with probability
    `p_ts = sigmoid(e_ts)`, `e_ts = g v / |v| . tanh(q_t W_q + k_s W_k + b) + r`. The context is what it stopped at. In
    training it is the expectation of that, `a_ts = p_ts sum_{k <= s} a_{t-1,k} prod_{k <= l < s} (1 - p_tl)`; at
    inference it stops wherever p > 1/2, at once if p is so where it stands.

    Weights sum to 1 or less: what is missing is the probability that it ran off the end of the memory, whence it does
    not return. At inference they are 1 at one position, or all zero, and so is the context.

    Args:
        units: size of the space in which query and key are added.
        noise_std: standard deviation of the normal noise that training adds to e, which makes the layer move it away
            from 0, where training and inference differ.
        score_bias_init: what r starts from; the lower, the further the first expectations reach.
        kernel_initializer: of W_q, W_k and v.
        seed: of the noise.
        **kwargs: those of `keras.layers.Layer`.

    Call arguments:
        inputs: list of query (batch, time, features), value (batch, source, features) and, optionally, key (batch,
            source, features); the key is the value by default.
        mask: list of query mask (batch, time) and value mask (batch, source), True = keep, either may be None.
            Masked steps of the query give zeros and move nothing; masked positions of the value are passed by.
        return_attention_scores: whether to return the weights a too.
        training: whether to return expectations, with noise, in the place of hard decisions.

    Returns:
        Contexts (batch, time, value features), with `return_attention_scores` and a (batch, time, source).

    Raises:
        ValueError: for an argument that cannot be: the message names it.

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
            raise ValueError(f"`noise_std` must be a number at least 0. Received: {noise_std!r}")
        if not isinstance(score_bias_init, numbers.Real) or not math.isfinite(score_bias_init):
            raise ValueError(f"`score_bias_init` must be a finite number. Received: {score_bias_init!r}")
        self.noise_std = noise_std
        self.score_bias_init = score_bias_init
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if noise_std else None

    def make_weights(self, query_units, key_units):
        super().make_weights(query_units, key_units)
        start = keras.initializers.Constant(self.score_bias_init)
        self.score_bias = self.add_weight((), start, name="score_bias")

    def get_initial_state(self, memory):
        """The weights of a step before the first one, at the first position."""
        batch, source = ops.shape(memory)[:2]
        first = ops.cast(ops.arange(source) == 0, memory.dtype)
        return (ops.broadcast_to(first, (batch, source)),)

    def draw(self, shape):
        if not self.noise_std:
            return None
        return keras.random.normal(shape, stddev=self.noise_std, dtype=self.compute_dtype, seed=self.seed_generator)

    def energies(self, query, keys, state):
        energies = super().energies(query, keys, state)
        return energies + self.read(self.score_bias, energies)

    def weigh(self, energies, mask, state, drawn=None, training=False):
        if not training:
            weights = first_stop(energies, *state, mask)
        else:
            weights = monotonic_weights(energies if drawn is None else ops.add(energies, drawn), *state, mask)
        return weights, (weights,)

    def get_config(self):
        config = super().get_config()
        del config["normalize"], config["coverage"]
        return {**config, **{name: getattr(self, name) for name in ("noise_std", "score_bias_init", "seed")}}

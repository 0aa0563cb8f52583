# SPDX-License-Identifier: Apache-2.0
"""Token dropout of a decoder's inputs."""

import keras
from keras import ops

from keras_seq.data.vocabulary import PAD_ID, START_ID, UNKNOWN_ID
from keras_seq.ops.random import check_rate, dropout_mask


class TokenDropout(keras.layers.Layer):
    """Replaces tokens by `[UNK]` in training, each independently (Bowman et al. 2016, "word dropout").

    `[START]` and padding stay.

    Args:
        rate: probability of `[UNK]`, in [0, 1).
        seed: random seed of the draws.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        tokens: integers (batch, time).
        training: whether to replace tokens.

    Returns:
        Integers (batch, time).
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate = check_rate("token_dropout", rate)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def draw(self, tokens):
        """Draws which of the tokens become `[UNK]`, booleans (batch, time)."""
        kept = dropout_mask(ops.shape(tokens), self.rate, self.seed_generator, "bool", scale=False)
        replaceable = ops.logical_and(tokens != PAD_ID, tokens != START_ID)
        return ops.logical_and(replaceable, ops.logical_not(kept))

    def call(self, tokens, training=False):
        return ops.where(self.draw(tokens), ops.cast(UNKNOWN_ID, tokens.dtype), tokens) if training else tokens

    def compute_output_shape(self, tokens_shape):
        return tokens_shape

# SPDX-License-Identifier: Apache-2.0
"""Random sampling from the most likely tokens."""

import keras

from keras_seq._lazy_tensorflow import tf
from keras_seq.decoding.checks import check_count
from keras_seq.decoding.random_sampler import RandomSampler, draw_index


@keras.saving.register_keras_serializable("keras_seq")
class TopKSampler(RandomSampler):
    """Draws each token from the `k` most likely ones (Fan, Lewis & Dauphin 2018).

    By name: `sampler="top_k"`. Of tokens that are equally likely, those with lower ids are kept.

    Args:
        k: number of tokens to keep at each step.
        temperature, seed: see `RandomSampler`.

    Raises:
        ValueError: if `k` is not a positive integer, or as in `RandomSampler`.
    """

    def __init__(self, k=5, temperature=1.0, seed=None):
        super().__init__(temperature, seed)
        self.k = check_count("k", k)

    def draw(self, logits, uniform):
        best, tokens = top_k(logits, self.k)
        return tf.gather(tokens, draw_index(tf.exp(best), uniform), batch_dims=1)

    def get_config(self):
        return {"k": self.k, **super().get_config()}


def top_k(values, k):
    """Returns the `k` greatest values of each row and their indices, or all if there are fewer, in descending order."""
    size = values.shape[-1]
    return tf.math.top_k(values, tf.minimum(k, tf.shape(values)[-1]) if size is None else min(k, size))

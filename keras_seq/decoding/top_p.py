# SPDX-License-Identifier: Apache-2.0
"""Random sampling from the tokens that make up most of the probability."""

import keras

from keras_seq._lazy_tensorflow import tf
from keras_seq.decoding.checks import check_count, check_number
from keras_seq.decoding.random_sampler import RandomSampler, draw_index
from keras_seq.decoding.top_k import top_k


@keras.saving.register_keras_serializable("keras_seq")
class TopPSampler(RandomSampler):
    """Nucleus sampling: draws each token from the most likely ones that together reach a probability of `p`.

    See Holtzman et al. 2020. By name: `sampler="top_p"`. At each step the smallest such set is kept, at least one
    token. The temperature changes the probabilities before.

    Args:
        p: probability to reach, greater than 0 and at most 1.
        k: if set, at most `k` tokens are kept. With a large vocabulary this is faster, because only they are sorted.
        temperature, seed: see `RandomSampler`.

    Raises:
        ValueError: if `p` is not in (0, 1], if `k` is not a positive integer or None, or as in `RandomSampler`.
    """

    def __init__(self, p=0.9, k=None, temperature=1.0, seed=None):
        super().__init__(temperature, seed)
        self.p = check_number("p", p, lambda value: 0 < value <= 1, "a number greater than 0 and at most 1")
        self.k = None if k is None else check_count("k", k)

    def draw(self, logits, uniform):
        size = logits.shape[-1]
        best, tokens = top_k(logits, self.k or (tf.shape(logits)[-1] if size is None else size))
        weights = tf.exp(best)
        if self.p < 1:
            total = tf.reduce_sum(tf.exp(logits), axis=-1, keepdims=True)
            # What reaches p but for rounding reaches it.
            is_kept = tf.cumsum(weights, axis=-1, exclusive=True) < (self.p * (1 - 1e-6)) * total
            weights = tf.where(is_kept, weights, 0.0)
        return tf.gather(tokens, draw_index(weights, uniform), batch_dims=1)

    def get_config(self):
        return {"p": self.p, "k": self.k, **super().get_config()}

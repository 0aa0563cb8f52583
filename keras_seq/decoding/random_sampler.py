# SPDX-License-Identifier: Apache-2.0
"""Random sampling from the model's distribution."""

import functools

import keras

from keras_seq._lazy_tensorflow import tf
from keras_seq.decoding import noise
from keras_seq.decoding.checks import check_number, check_seed
from keras_seq.decoding.sampler import Sampler


@keras.saving.register_keras_serializable("keras_seq")
class RandomSampler(Sampler):
    """Draws each token from the model's distribution, `softmax(log_probabilities / temperature)`.

    By name: `sampler="random"`. What is drawn for a source depends on the seed and on the position of the source in the
    inputs, not on the rest of its batch.

    Args:
        temperature: a positive number. Below 1 likely tokens become more likely, above 1 less.
        seed: an integer from 0 to 2^31 - 1, or None for a random one. Each search without a seed of its own takes the
            next one of a `keras.random.SeedGenerator`, as Keras's layers do: repeated calls differ, and repeat in the
            next run.

    Raises:
        ValueError: if `temperature` is not a number from 1e-30 to 1e30, or `seed` is another.

    Example:
        >>> sampler = RandomSampler(temperature=0.7, seed=1)
        >>> sampler.get_config()
        {'temperature': 0.7, 'seed': 1}
    """

    def __init__(self, temperature=1.0, seed=None):
        self.temperature = check_number(
            "temperature", temperature, lambda value: 1e-30 <= value <= 1e30, "a positive number (1e-30 to 1e30)"
        )
        self.seed = None if seed is None else check_seed(seed)

    @functools.cached_property
    def seed_generator(self):
        # Made when it is needed: TensorFlow keeps 20 kB for each variable that was ever made.
        return keras.random.SeedGenerator(self.seed)

    def next_seed(self):
        words = tf.bitcast(tf.cast(self.seed_generator.next(), tf.int64), tf.int32)  # (2, 2)
        return tf.bitwise.bitwise_xor(words[:, 0], words[:, 1])

    def initial_state(self, positions, seed, memory_mask):
        return noise.hash_keys(seed, positions)

    def choose(self, log_probabilities, state, step):
        # The maximum becomes 0 before the division, so that no temperature makes it infinite.
        best = tf.reduce_max(log_probabilities, axis=-1, keepdims=True)
        return self.draw((log_probabilities - best) / self.temperature, noise.uniform(state, step))

    def draw(self, logits, uniform):
        """Returns a token for each row, drawn from `softmax(logits)`.

        Args:
            logits: float32 (rows, vocabulary), of which the greatest is 0.
            uniform: float32 (rows,), random numbers in (0, 1).
        """
        return draw_index(tf.exp(logits), uniform)

    def get_config(self):
        return {"temperature": self.temperature, "seed": self.seed}


def draw_index(weights, uniform):
    """Returns for each row an index, drawn in proportion to the weights, int32 (rows,). No weight of 0 is ever drawn.

    It is the first whose cumulative weight exceeds `uniform` times the total.

    Args:
        weights: float32 (rows, n), of which at least one is positive.
        uniform: float32 (rows,), random numbers in (0, 1).
    """
    # XLA sums in another order, so the cumulative weight may grow or shrink, by rounding, where a weight is 0.
    cumulative = tf.where(weights > 0, tf.cumsum(weights, axis=-1), 0.0)
    total = tf.reduce_max(cumulative, axis=-1)
    is_reached = cumulative > (uniform * total)[:, None]
    return tf.argmax(tf.cast(is_reached, tf.float32), axis=-1, output_type=tf.int32)

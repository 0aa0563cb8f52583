# SPDX-License-Identifier: Apache-2.0
"""Greedy search."""

import keras

from keras_seq._lazy_tensorflow import tf
from keras_seq.decoding.sampler import Sampler


@keras.saving.register_keras_serializable("keras_seq")
class GreedySampler(Sampler):
    """Greedy search: takes the most likely token at each step, of several the one with the lowest id.

    By name: `sampler="greedy"`.

    Example:
        >>> sampler = GreedySampler()
        >>> sampler.num_beams
        1
    """

    def choose(self, log_probabilities, state, step):
        return tf.argmax(log_probabilities, axis=-1, output_type=tf.int32)

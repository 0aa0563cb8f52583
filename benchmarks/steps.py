# SPDX-License-Identifier: Apache-2.0
"""The contenders of the decoding benchmark: steps of `AttentionDecoder` in one compiled loop, for a batch of one."""

import functools
from typing import NamedTuple

from contest import Contender

STEPS = 200  # of a run
FEATURES = 128


class Search(NamedTuple):
    units: int
    source: int

    def __str__(self):
        return f"{STEPS} decoding steps {tuple(self)}"


def search(cell, jit_compile, case):
    import tensorflow as tf

    import keras_seq

    decoder = keras_seq.layers.AttentionDecoder(case.units, cell=cell)
    inputs = tf.random.normal((1, FEATURES))
    memory = tf.random.normal((1, case.source, 2 * case.units))
    decoder(inputs[:, None], memory)

    @tf.function(jit_compile=jit_compile)
    def run():
        keys = decoder.project_memory(memory)

        def step(t, *states):
            _, states, _ = decoder.step(inputs, list(states), memory, keys)
            return t + 1, *states

        return tf.while_loop(lambda t, *_: t < STEPS, step, (0, *decoder.get_initial_state(memory)))

    return lambda: run()[1].numpy()


CONTENDERS = [
    Contender(f"{cell}{'-jit' * jit}", functools.partial(search, cell, jit), process="search")
    for cell in ("lstm", "gru")
    for jit in (False, True)
]
LEGEND = "In a tf.while_loop of a TensorFlow graph; -jit: under jit_compile=True."

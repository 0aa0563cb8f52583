# SPDX-License-Identifier: Apache-2.0
"""Attention on the native kernels against the xla implementation: results, and gradients of all arguments and weights.

The xla implementation itself is compared with NumPy in `test_attention.py` and `test_attention_order.py`.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import MODES, assert_close, needs_kernels, run_with_gradients

from keras_seq import layers

pytestmark = needs_kernels
TOLERANCES = {"float64": 1e-11, "float32": 3e-5, "bfloat16": 3e-2}
SCORES = {
    "dot": lambda **o: layers.LuongAttention("dot", scale=0.3, **o),  # the memory is as wide as h
    "general": lambda **o: layers.LuongAttention("general", scale=True, **o),
    "concat": lambda **o: layers.LuongAttention("concat", 5, scale=True, **o),
}
ORDERS = {"before": {}}
CELLS = {
    "lstm": lambda units, **o: layers.LSTMCell(units, **o),
    "gru": lambda units, **o: layers.GRUCell(units, **o),
    "gru, reset before": lambda units, **o: layers.GRUCell(units, reset_after=False, **o),
    "mgu": lambda units, **o: layers.MGUCell(units, **o),
    "rnn": lambda units, **o: layers.SimpleRNNCell(units, **o),
}


class Call:
    """A random call of an `AttentionDecoder`: its decoder, arguments and masks."""

    def __init__(self, seed, score, order="before", cell="lstm", dtype="float64", sizes=None):
        rng = np.random.default_rng(seed)
        batch, time, source, features, units = sizes or [int(rng.integers(1, n)) for n in (5, 7, 9, 6, 20)]
        memory_units = units if score == "dot" else int(rng.integers(1, 9))
        rates = {"recurrent_dropout": 0.3, "zoneout": 0.2, "seed": seed} if rng.random() < 0.4 else {}
        self.training = bool(rates)
        policy = "float32" if dtype == "bfloat16" else dtype
        self.decoder = layers.AttentionDecoder(
            units, CELLS[cell](units, **rates, dtype=policy), SCORES[score](dtype=policy), return_state=True,
            dtype=policy, **ORDERS[order],
        )  # fmt: skip
        self.decoder.build((batch, time, features), (batch, source, memory_units))
        for weight in self.decoder.trainable_variables:
            weight.assign(rng.normal(size=weight.shape) * (weight.shape[0] if len(weight.shape) else 1) ** -0.5)
        shapes = [(batch, time, features), (batch, source, memory_units)]
        if rng.random() < 0.6:
            shapes += [(batch, size) for size in self.decoder.state_size]
            shapes += self.decoder.attention_state_shapes(shapes[1])
        self.arguments = [rng.normal(size=shape).astype(policy) for shape in shapes]
        self.options = {"mask": None, "memory_mask": None}
        if rng.random() < 0.6:
            self.options["mask"] = tf.constant(rng.random((batch, time)) < 0.7)
        if rng.random() < 0.6:
            keep = rng.random((batch, source)) < 0.7
            keep[0] = rng.random() < 0.5  # a row that is all visible or all masked
            self.options["memory_mask"] = tf.constant(keep)
        self.run_options = {
            "zero_output_for_mask": bool(rng.random() < 0.3), "recompute": bool(rng.random() < 0.3)
        }  # fmt: skip

    def results(self, implementation, mode="graph"):
        """Outputs, states and attention weights, and the gradients of all arguments and trainable weights."""

        def run(inputs, memory, *states):
            outputs, states, weights = self.decoder.run(
                inputs, memory, list(states) or None, training=self.training, implementation=implementation,
                **self.options, **self.run_options,
            )  # fmt: skip
            return outputs, *states, weights

        for variable in self.decoder.non_trainable_variables:  # the seeds: both draw the same masks
            variable.assign(tf.zeros_like(variable))
        return run_with_gradients(run, self.arguments, self.decoder.trainable_variables, mode)

    def check(self, dtype, mode="graph"):
        assert_close(self.results("native", mode), self.results("xla"), TOLERANCES[dtype])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("score", ["dot", "general"])
@pytest.mark.parametrize("order", ORDERS)
def test_native_kernels_match_xla(order, score, cell):
    for seed, dtype in enumerate(("float64", "float64", "float32")):
        Call(10 * list(CELLS).index(cell) + seed, score, order, cell, dtype).check(dtype)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", MODES[::2])
def test_other_modes_match_the_graph(mode, order, score):
    Call(3, score, order).check("float64", mode)


@pytest.mark.parametrize("score", ["dot", "concat"])
@pytest.mark.parametrize("order", ORDERS)
def test_several_chunks_of_steps_and_threads(order, score):
    Call(4, score, order, "lstm", "float32", (70, 12, 21, 20, 70)).check("float32")


def test_choice_of_implementation():
    for score in SCORES:
        for order in ORDERS:
            decoder = layers.AttentionDecoder(4, "gru", SCORES[score](), **ORDERS[order])
            assert decoder.choose_implementation() == ("native", "a kernel covers it")

    class Scaled(layers.LuongAttention):
        def energies(self, query, keys, state):
            return 2 * super().energies(query, keys, state)

    assert layers.AttentionDecoder(4, "gru", Scaled("general")).choose_implementation().implementation == "xla"


def test_bfloat16_runs_in_float32_buffers():
    inputs, memory = (keras.random.normal(shape, seed=1) for shape in ((2, 4, 3), (2, 5, 6)))
    for order, options in ORDERS.items():
        decoder, reference = (
            layers.AttentionDecoder(
                6, "gru", layers.LuongAttention("general", dtype=dtype), dtype=dtype, **options, **chosen
            )
            for dtype, chosen in (("bfloat16", {"implementation": "native"}), ("float32", {}))
        )
        reference.build(tuple(inputs.shape), tuple(memory.shape))
        decoder.build(tuple(inputs.shape), tuple(memory.shape))
        decoder.set_weights(reference.get_weights())
        reference.set_weights(decoder.get_weights())  # the same rounded numbers
        rounded = [tf.cast(tf.cast(x, "bfloat16"), "float32") for x in (inputs, memory)]
        actual = run_with_gradients(lambda *x, d=decoder: tf.cast(d(*x), "float32"), rounded)
        assert_close(actual, run_with_gradients(lambda *x, d=reference: d(*x), rounded), TOLERANCES["bfloat16"]), order

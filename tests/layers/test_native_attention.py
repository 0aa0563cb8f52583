# SPDX-License-Identifier: Apache-2.0
"""Attention on the native kernels against the xla implementation: results, and gradients of all arguments and weights.

The xla implementation itself is compared with NumPy in `test_attention.py` and `test_attention_order.py`.
"""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import MODES, assert_close, mostly_slow, needs_kernels, run_with_gradients

from keras_seq import layers

pytestmark = needs_kernels
TOLERANCES = {"float64": 1e-11, "float32": 3e-5, "bfloat16": 3e-2}
SCORES = {
    "dot": lambda **o: layers.LuongAttention("dot", scale=0.3, **o),  # the memory is as wide as h
    "general": lambda **o: layers.LuongAttention("general", scale=True, **o),
    "concat": lambda **o: layers.LuongAttention("concat", 5, scale=True, **o),
    "coverage": lambda **o: layers.BahdanauAttention(5, normalize=True, coverage=True, **o),
    "monotonic": lambda **o: layers.MonotonicAttention(5, seed=1, **o),  # with noise
    "monotonic, hard": lambda **o: layers.MonotonicAttention(5, **o),  # at inference
}
ATTENTIONS = {**SCORES, "bahdanau": lambda **o: layers.BahdanauAttention(5, **o)}  # the last has equations of its own
ORDERS = {
    "before": {},
    "luong": {"attend": "after", "attentional_units": 5},
    "linear": {"attend": "after", "attentional_units": 3, "attentional_activation": None},
    "wrapper": {"attend": "after"},
}
CELLS = {
    "lstm": lambda units, **o: layers.LSTMCell(units, **o),
    "gru": lambda units, **o: layers.GRUCell(units, **o),
    "gru, reset before": lambda units, **o: layers.GRUCell(units, reset_after=False, **o),
    "mgu": lambda units, **o: layers.MGUCell(units, **o),
    "rnn": lambda units, **o: layers.SimpleRNNCell(units, **o),
}
EXTENDED_CELLS = {
    "lstm, layer_norm": lambda units, **o: layers.LSTMCell(units, layer_norm=True, **o),
    "gru, layer_norm": lambda units, **o: layers.GRUCell(units, layer_norm=True, **o),
    "lstm, projection": lambda units, **o: layers.LSTMCell(units + 2, projection_units=units, **o),
    "gru, layer_norm, reset before": lambda units, **o: layers.GRUCell(units, layer_norm=True, reset_after=False, **o),
    "lstm, all": lambda units, **o: layers.LSTMCell(
        units + 15, layer_norm=True, peephole=True, projection_units=units, activation="relu", **o
    ),
}


class Call:
    """A random call of an `AttentionDecoder`: its decoder, arguments and masks."""

    def __init__(self, seed, score, order="before", cell="lstm", dtype="float64", sizes=None):
        rng = np.random.default_rng(seed)
        batch, time, source, features, units = sizes or [int(rng.integers(1, n)) for n in (5, 7, 9, 6, 20)]
        if cell in EXTENDED_CELLS:
            units = max(units, 3)  # two normalized numbers are +-1, whose gradients would be rounding errors
        memory_units = units if score == "dot" else int(rng.integers(1, 9))
        is_hard = score == "monotonic, hard"
        rates = {"recurrent_dropout": 0.3, "zoneout": 0.2, "seed": seed} if rng.random() < 0.4 and not is_hard else {}
        self.training = bool(rates) or score == "monotonic"
        policy = "float32" if dtype == "bfloat16" else dtype
        self.decoder = layers.AttentionDecoder(
            units, (CELLS | EXTENDED_CELLS)[cell](units, **rates, dtype=policy), ATTENTIONS[score](dtype=policy),
            return_state=True, dtype=policy, **ORDERS[order],
        )  # fmt: skip
        self.decoder.build((batch, time, features), (batch, source, memory_units))
        for weight in self.decoder.trainable_variables:
            weight.assign(rng.normal(size=weight.shape) * (weight.shape[0] if len(weight.shape) else 1) ** -0.5)
        shapes = [(batch, time, features), (batch, source, memory_units)]
        if rng.random() < 0.6:
            shapes += [(batch, size) for size in self.decoder.state_size]
            shapes += self.decoder.attention_state_shapes(shapes[1])
        self.arguments = [rng.normal(size=shape).astype(policy) for shape in shapes]
        if score.startswith("monotonic") and len(shapes) > 2:  # the last state are the weights of the step before
            self.arguments[-1] = np.abs(self.arguments[-1]) * (rng.random(shapes[-1]) < 0.6)
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


CASES = [(*case, list(CELLS)[i % len(CELLS)]) for i, case in enumerate(itertools.product(ORDERS, SCORES))]


@pytest.mark.parametrize("case", mostly_slow(range(len(CASES)), every=5))
def test_native_kernels_match_xla(case):
    """Each attention with one of the cells; `custom_ops/tests` has all of them together."""
    order, score, cell = CASES[case]
    Call(case, score, order, cell).check("float64")


EXTENDED = [
    (order, list(SCORES)[i % len(SCORES)], cell)
    for i, (order, cell) in enumerate(itertools.product(ORDERS, EXTENDED_CELLS))
] + [("before", "bahdanau", cell) for cell in EXTENDED_CELLS]


@pytest.mark.parametrize("case", mostly_slow(range(len(EXTENDED)), every=4))
def test_extended_cells_match_xla(case):
    order, score, cell = EXTENDED[case]
    Call(100 + case, score, order, cell).check("float64")


@pytest.mark.slow
@pytest.mark.parametrize("cell", EXTENDED_CELLS)
@pytest.mark.parametrize("order", ["before", "luong"])
def test_extended_cells_in_float32(order, cell):
    # No gradient of this score is one number: of a sum whose terms cancel, as of a scale, little but errors is left.
    Call(1, "concat", order, cell, "float32").check("float32")
    Call(2, "concat", order, cell, "float32", (70, 12, 21, 20, 70)).check("float32")


@pytest.mark.slow
@pytest.mark.parametrize("cell", EXTENDED_CELLS)
def test_extended_cells_compiled_by_xla(cell):
    Call(4, "coverage", "luong", cell).check("float64", "jit")


@pytest.mark.slow
@pytest.mark.parametrize(("order", "score"), [("before", "dot"), ("luong", "concat"), ("wrapper", "coverage")])
def test_float32(order, score):
    Call(1, score, order, dtype="float32").check("float32")
    Call(2, score, order, "lstm", "float32", (70, 12, 21, 20, 70)).check("float32")  # several chunks and threads


@pytest.mark.parametrize("mode", MODES[::2])
@pytest.mark.parametrize(("order", "score"), [("before", "dot"), ("luong", "coverage")])
def test_other_modes(mode, order, score):
    Call(3, score, order).check("float64", mode)


def test_choice_of_implementation():
    for score in SCORES:
        for order in ORDERS.values():
            for cell in ("gru", *(make(4) for make in EXTENDED_CELLS.values())):
                decoder = layers.AttentionDecoder(4, cell, SCORES[score](), **order)
                assert decoder.choose_implementation() == ("native", "a kernel covers it")
    gelu = layers.AttentionDecoder(4, attend="after", attentional_units=2, attentional_activation="gelu")
    assert gelu.choose_implementation() == (
        "xla",
        "there is no native kernel for attentional vectors with the activation gelu",
    )

    class Scaled(layers.LuongAttention):
        def energies(self, query, keys, state):
            return 2 * super().energies(query, keys, state)

    assert layers.AttentionDecoder(4, "gru", Scaled("general")).choose_implementation().implementation == "xla"


@pytest.mark.slow
@pytest.mark.parametrize("order", ["before", "luong", "wrapper"])
def test_bfloat16_runs_in_float32_buffers(order):
    inputs, memory = (keras.random.normal(shape, seed=1) for shape in ((2, 4, 3), (2, 5, 6)))
    decoder, reference = (
        layers.AttentionDecoder(
            6, "gru", layers.LuongAttention("general", dtype=dtype), dtype=dtype, **ORDERS[order], implementation=chosen
        )
        for dtype, chosen in (("mixed_bfloat16", "native"), ("float32", "xla"))
    )
    for layer in (decoder, reference):
        layer.build(tuple(inputs.shape), tuple(memory.shape))
    decoder.set_weights(reference.get_weights())
    rounded = [tf.cast(tf.cast(x, "bfloat16"), "float32") for x in (inputs, memory)]
    actual = run_with_gradients(lambda *x: tf.cast(decoder(*x), "float32"), rounded)
    assert_close(actual, run_with_gradients(lambda *x: reference(*x), rounded), TOLERANCES["bfloat16"])

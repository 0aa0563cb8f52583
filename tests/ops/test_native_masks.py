# SPDX-License-Identifier: Apache-2.0
"""The native ops `DropoutMask` and `Dropout` against the formula of TensorFlow's ops, bit for bit."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import JIT
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from keras_seq.ops import native
from keras_seq.ops import random as masks
from keras_seq.ops.export_mode import exporting

WHY_NOT = native.unavailable()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

SEEDS = st.integers(-(2**63), 2**63 - 1)
RATES = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 1e-7, 0.5, 1 - 1e-7]))
SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)


class Seed:
    """A seed generator that returns one seed."""

    def __init__(self, *seed):
        self.seed = seed

    def next(self):
        return tf.constant(self.seed, "int64")


def as_bytes(tensor):
    return tf.convert_to_tensor(tensor).numpy().tobytes()


def draw_both(function):
    """The results of a function with the native op, and with the formula."""
    with exporting(portable=True):
        expected = function()
    return function(), expected


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SHAPES, RATES, SEEDS, SEEDS, st.sampled_from(["float16", "bfloat16", "float32", "float64"]), st.booleans())
@example((3, 70001), 0.3, -1, 2**63 - 1, "float32", True)  # two threads
@example((0,), 0.5, 0, 0, "float64", False)
@example((), 0.5, 1, 2, "bfloat16", True)
def test_masks_are_those_of_the_formula(shape, rate, first, second, dtype, scale):
    assert native.draws_masks(dtype)
    assume(dtype != "float16" or rate < 0.9999)  # 1/(1 - rate) is infinite, and NaN in the formula times 0
    drawn, expected = draw_both(lambda: masks.dropout_mask(shape, rate, Seed(first, second), dtype, scale))
    assert drawn.dtype == expected.dtype == dtype
    assert drawn.shape == expected.shape == shape
    assert as_bytes(drawn) == as_bytes(expected)
    zoneout = masks.RandomMask(shape, rate, Seed(first, second)).as_tensor(1.0, 0.0, dtype)
    np.testing.assert_array_equal(tf.cast(zoneout, "bool"), tf.cast(drawn, "float64") == 0)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(SHAPES, RATES, SEEDS, st.sampled_from(["bfloat16", "float32", "float64"]))
@example((3, 70001), 0.3, -1, "float32")
@example((3, 70001), 0.3, -1, "float64")
def test_products_and_their_gradients_are_those_of_the_formula(shape, rate, seed, dtype):
    x = np.random.default_rng(1).normal(size=shape)
    x = tf.constant(np.where(x > 2, np.inf, x), dtype)

    def run():
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = masks.RandomMask(shape, rate, Seed(seed, seed)).drop(x)
            first = tape.gradient(y, x, output_gradients=2 * x)
        return y, first, tape.gradient(first, x, output_gradients=x)

    for drawn, expected in zip(*draw_both(run), strict=True):
        assert as_bytes(drawn) == as_bytes(expected)


@pytest.mark.parametrize("jit_compile", JIT)
def test_graphs_and_xla_contain_the_op(jit_compile):
    """Also under XLA, where an op that only a function inside contains is compiled too."""
    generator, twin = keras.random.SeedGenerator(2**31 + 5), keras.random.SeedGenerator(2**31 + 5)

    @tf.function
    def inner(x):
        mask = masks.dropout_mask((keras.ops.shape(x)[0], 5), 0.3, generator)
        return mask, masks.RandomMask(x.shape, 0.3, generator).drop(x)

    @tf.function(jit_compile=jit_compile)
    def outer(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            mask, y = inner(x)
        return mask, y, tape.gradient(y, x, output_gradients=x)

    x = tf.random.normal((41, 5))
    kinds = {operation.type for operation in inner.get_concrete_function(x).graph.get_operations()}
    assert {"KerasSeq>DropoutMask", "KerasSeq>Dropout"} <= kinds
    for _ in range(2):
        with exporting(portable=True):
            expected_mask = masks.dropout_mask((41, 5), 0.3, twin)
            expected = masks.RandomMask((41, 5), 0.3, twin).drop(x)
        for result, wanted in zip(outer(x), (expected_mask, expected, expected), strict=True):
            np.testing.assert_array_equal(result, wanted)


def test_portable_exports_do_not_contain_the_op():
    generator = keras.random.SeedGenerator(1)

    @tf.function
    def function(x):
        return masks.RandomMask((3, 5), 0.3, generator).drop(x) + masks.dropout_mask((3, 5), 0.3, generator)

    with exporting(portable=True):
        graph = function.get_concrete_function(tf.ones((3, 5))).graph
    assert not [operation for operation in graph.get_operations() if operation.type.startswith("KerasSeq")]


@pytest.mark.slow
def test_replicas_draw_the_masks_of_the_formula():
    script = """
import keras, numpy as np, tensorflow as tf
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_seq.ops.export_mode import exporting
from keras_seq.ops.random import RandomMask
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def draw(portable):
    with strategy.scope():
        generator = keras.random.SeedGenerator(1)
    def replica():
        x = tf.ones((40, 50))
        return RandomMask((40, 50), 0.3, generator).drop(x)
    with exporting(portable=portable):
        return np.stack([x.numpy() for x in strategy.run(tf.function(replica)).values])

drawn = draw(False)
np.testing.assert_array_equal(drawn, draw(True))
assert not np.array_equal(drawn[0], drawn[1])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_hostile_calls_raise_errors():
    from keras_seq.ops.native_tensorflow import op_function

    module = tf.load_op_library(str(native.FOLDER / "libkeras_seq_tf.so"))
    good = {"seed": tf.constant([1, 2], "int64"), "values": tf.constant([0.0, 1.0]), "threshold": 5}
    spoiled = [
        {"seed": tf.constant([1], "int64")},
        {"seed": tf.constant(1, "int64")},
        {"seed": tf.constant([1.0, 2.0])},
        {"seed": tf.zeros((0,), "int64")},
        {"values": tf.constant([1.0])},
        {"values": tf.zeros((2, 0))},
        {"values": tf.constant(["a", "b"])},
        {"threshold": -1},
        {"threshold": 2**16},
        {"threshold": 2**40},
    ]
    shapes = [[-1], [2, -3], [[2]], 7, [2**31 - 1] * 4, [2**62], [2**40, 2**40]]
    mask, dropout = op_function(module, "DropoutMask"), op_function(module, "Dropout")
    for run in (lambda function: function(), lambda function: tf.function(function)()):
        for arguments in spoiled:
            with pytest.raises((ValueError, TypeError, tf.errors.OpError)):
                run(lambda arguments=arguments: mask(shape=[2, 3], **{**good, **arguments}))
            with pytest.raises((ValueError, TypeError, tf.errors.OpError)):
                run(lambda arguments=arguments: dropout(inputs=tf.ones((2, 3)), **{**good, **arguments}))
        for shape in shapes:
            with pytest.raises((ValueError, TypeError, tf.errors.OpError)):
                run(lambda shape=shape: mask(shape=tf.constant(shape, "int64"), **good))
        with pytest.raises((ValueError, TypeError, tf.errors.OpError)):
            run(lambda: dropout(inputs=tf.ones((2, 3), "float64"), **good))


@pytest.mark.slow
def test_hostile_calls_under_xla_raise_errors():
    from keras_seq.ops.native_tensorflow import op_function

    mask = op_function(tf.load_op_library(str(native.FOLDER / "libkeras_seq_tf.so")), "DropoutMask")

    @tf.function(jit_compile=True)
    def run(shape, seed, values):
        return mask(shape=shape, seed=seed, values=values, threshold=5)

    def call(shape, seed=(1, 2), values=(0.0, 1.0)):
        return run(tf.constant(shape, "int64"), tf.constant(seed, "int64"), tf.constant(values))

    assert call([2, 3]).shape == (2, 3)
    for arguments in ([[-1]], [[[2]]], [[2**62]], [[2], (1,)], [[2], (1, 2), (1.0,)], [[2], (1, 2), ((0.0, 1.0),)]):
        with pytest.raises((ValueError, tf.errors.OpError)):
            call(*arguments)

# SPDX-License-Identifier: Apache-2.0
"""Random masks: their values, the rates of these, and the independence of their entries."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_seq.ops.random import dropout_mask

SHAPE = (41, 50, 67)  # no size divides by 4, so that the last random word is used in part
RATE = 0.3


def draw_masks(shape=SHAPE, rate=RATE, seed=1, calls=1, **options):
    """The masks of consecutive calls, (calls, *shape): 1 where an entry is kept, 0 where it is dropped."""
    generator = keras.random.SeedGenerator(seed)
    masks = [dropout_mask(shape, rate, generator, scale=False, **options) for _ in range(calls)]
    return np.stack([keras.ops.convert_to_numpy(mask) for mask in masks])


def assert_independent(entries, others, rate=RATE):
    """The covariance of two sets of entries is 0 within 5 standard deviations."""
    deviations = (entries - (1 - rate)) * (others - (1 - rate)) / (rate * (1 - rate))
    assert abs(deviations.mean()) < 5 / deviations.size**0.5


def check_rates():
    for rate in (0.001, 0.1, 0.3, 0.5, 0.9, 0.999):
        kept = draw_masks(rate=rate).astype("float64")
        # A rate is rounded to 16 bits.
        assert abs(kept.mean() - (1 - rate)) < 5 * (rate * (1 - rate) / kept.size) ** 0.5 + 2**-17


def check_values():
    for dtype in ("float64", "float32", "bfloat16", "float16"):
        expected = keras.ops.convert_to_tensor(1 / (1 - RATE), dtype)
        expected = keras.ops.convert_to_numpy(keras.ops.cast(expected, "float64"))
        for scale, value in ((True, expected), (False, 1.0)):
            mask = dropout_mask((9, 100), RATE, keras.random.SeedGenerator(1), dtype, scale=scale)
            expected_dtype = "float32" if (dtype, keras.backend.backend()) == ("float64", "jax") else dtype
            assert keras.backend.standardize_dtype(mask.dtype) == expected_dtype
            values = np.unique(keras.ops.convert_to_numpy(keras.ops.cast(mask, "float64")))
            np.testing.assert_allclose(values, [0, value], rtol=1e-15 if expected_dtype == dtype else 1e-7)
    assert keras.backend.standardize_dtype(dropout_mask((3,), RATE, keras.random.SeedGenerator(1)).dtype) == "float32"


def check_extreme_rates():
    generator = keras.random.SeedGenerator(1)
    np.testing.assert_array_equal(dropout_mask(SHAPE, 0.0, generator), np.ones(SHAPE))
    mask = keras.ops.convert_to_numpy(dropout_mask(SHAPE, 1 - 1e-7, generator))
    assert (mask == 0).mean() > 0.999
    assert np.isfinite(mask).all()


def check_independence_along_each_axis():
    kept = draw_masks()[0]
    for axis in range(kept.ndim):
        for lag in (1, 2, 3, 4, 8, 16, 32):
            ahead, behind = np.split(kept, [lag], axis)[1], np.split(kept, [-lag], axis)[0]
            assert_independent(ahead, behind)


def check_independence_of_calls_and_seeds():
    masks = draw_masks(calls=5)
    for lag in range(1, 5):
        assert_independent(masks[lag:], masks[:-lag])
    flat = masks.reshape(5, -1)  # a mask is not another one shifted either
    for shift in (1, 2, 4, 8):
        assert_independent(flat[1:, shift:], flat[:-1, :-shift])
        assert_independent(flat[1:, :-shift], flat[:-1, shift:])
    seeds = np.concatenate([draw_masks(seed=seed, calls=2) for seed in range(5)])
    for lag in range(1, 6):
        assert_independent(seeds[lag:], seeds[:-lag])


def check_runs_of_entries():
    """The 256 patterns of 8 consecutive entries are equally frequent: chi-square is within 5 standard deviations."""
    patterns = np.packbits(draw_masks((80_000,), 0.5, calls=3).astype(bool))
    counts = np.bincount(patterns, minlength=256)
    expected = patterns.size / 256
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5


def check_seeds():
    np.testing.assert_array_equal(draw_masks(calls=3), draw_masks(calls=3))
    for seed in (2, 2**31 + 1):
        assert not np.array_equal(draw_masks(), draw_masks(seed=seed))
    generator = keras.random.SeedGenerator(1)
    for calls, rate in enumerate((0.0, 0.3, 0.9), 1):  # each call advances the seed by one, whatever it draws
        dropout_mask(SHAPE, rate, generator)
        np.testing.assert_array_equal(generator.state, [1, calls])


def check_shapes():
    for shape in ((), (1,), (0, 3), (3,), (4,), (2, 1, 3), [5, 2]):
        assert draw_masks(shape, calls=2).shape == (2, *shape)


CHECKS = [name for name in list(globals()) if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS)
def test_masks_on_tensorflow(check):
    assert keras.backend.backend() == "tensorflow"
    globals()[check]()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_masks_on_jax():
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("seed", [3, 2**31 + 5, 2**40 + 7])
@pytest.mark.parametrize("shape", [(32, 128), (7, 5, 3), (8, 30, 100)])
def test_eager_mode_graph_and_jit_draw_the_same_masks(shape, seed):
    import tensorflow as tf

    def run(mode):
        generator = keras.random.SeedGenerator(seed)

        def function():
            return dropout_mask(shape, RATE, generator)

        function = function if mode == "eager" else tf.function(function, jit_compile=mode == "jit")
        return np.stack([function() for _ in range(3)])

    eager = run("eager")
    assert not np.array_equal(eager[0], eager[1])
    np.testing.assert_array_equal(run("graph"), eager)
    np.testing.assert_array_equal(run("jit"), eager)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_shapes_may_be_dynamic(jit_compile):
    import tensorflow as tf

    generator, twin = keras.random.SeedGenerator(1), keras.random.SeedGenerator(1)

    @tf.function(jit_compile=jit_compile, input_signature=[tf.TensorSpec((None, None, 6))])
    def run(sequences):
        batch, time, _ = keras.ops.shape(sequences)
        mask = dropout_mask((batch, time, 5), RATE, generator)
        assert mask.shape == (None, None, 5)
        return mask

    for batch, time in ((3, 7), (4, 2)):
        np.testing.assert_array_equal(run(tf.ones((batch, time, 6))), dropout_mask((batch, time, 5), RATE, twin))


if __name__ == "__main__":
    assert keras.backend.backend() == "jax"
    for check in CHECKS:
        globals()[check]()

# SPDX-License-Identifier: Apache-2.0
"""Checks an installation of keras_seq: that the native kernels run, compiled by XLA too, and compute what Keras does.

    python scripts/check_installation.py

Prints which implementation an LSTM runs and why. Exits with 1 if it is not the native one.
"""

import platform
import shutil
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_seq


def train(layer, weights=None, **options):
    """The weights of a small model after two steps of training, and its predictions."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((7, 3)), layer, keras.layers.Dense(1)])
    if weights is not None:
        model.set_weights(weights)
    start = model.get_weights()
    inputs = np.random.default_rng(0).normal(size=(8, 7, 3)).astype("float32")
    model.compile("sgd", "mse", **options)
    model.fit(inputs, inputs[:, 0, :1], epochs=2, verbose=0)
    return start, [*model.get_weights(), model.predict(inputs, verbose=0)]


def main():
    print(f"Python {platform.python_version()}, TensorFlow {tf.__version__}, Keras {keras.__version__}", end=", ")
    print(f"compiler: {shutil.which('g++') or shutil.which('c++') or 'none'}; keras_seq in {keras_seq.__path__[0]}")
    (row,) = keras_seq.explain(keras_seq.layers.LSTM(5), print_fn=None)
    print(f"LSTM: {row.implementation} ({row.reason})")
    weights, expected = train(keras.layers.LSTM(5), jit_compile=False)
    for jit_compile in (False, True):
        _, result = train(keras_seq.layers.LSTM(5), weights, jit_compile=jit_compile)
        for one, other in zip(result, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    print("Training gives the numbers of Keras's LSTM, with jit_compile=False and True.")
    return 0 if row.implementation == "native" else 1


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""What the tests share: how to compare tensors, and how to differentiate a function of tensors."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: no chatter about the CPU

import keras
import numpy as np
import pytest
import tensorflow as tf

# What the kernels compute: cells, each with the attributes of its op, and how many gates a cell has.
KERNEL_CELLS = [
    ("SimpleRNN", {"activation": "tanh"}),
    ("SimpleRNN", {"activation": "relu"}),
    ("SimpleRNN", {"activation": "linear"}),
    ("GRU", {"reset_after": True}),
    ("GRU", {"reset_after": False}),
    ("LSTM", {}),
]
GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}

# XLA takes seconds to compile what TensorFlow traces in a tenth of one: what is compiled runs with `make test-slow`.
JIT = [False, pytest.param(True, marks=pytest.mark.slow)]
MODES = ["eager", "graph", pytest.param("jit", marks=pytest.mark.slow)]


def pytest_runtest_setup(item):
    """Every test starts from one seed: what it draws does not depend on which tests ran before it."""
    keras.utils.set_random_seed(0)


def relative_error(actual, expected):
    """`||a - b|| / ||b||`, and `||a||` where b is zero."""
    actual, expected = (np.asarray(keras.ops.convert_to_numpy(a), "float64") for a in (actual, expected))
    assert actual.shape == expected.shape
    return np.linalg.norm(actual - expected) / (np.linalg.norm(expected) or 1.0)


def assert_close(actual, expected, tolerance):
    """Every tensor of one nested structure is within a relative error of its counterpart in the other."""
    actual, expected = keras.tree.flatten(actual), keras.tree.flatten(expected)
    assert len(actual) == len(expected)
    errors = [relative_error(a, b) for a, b in zip(actual, expected, strict=True)]
    assert max(errors) <= tolerance, f"relative errors of the {len(errors)} tensors: {errors}"


def upstream(output):
    """A gradient that differs from entry to entry, and depends on nothing but the shape."""
    steps = tf.range(1, tf.size(output) + 1)
    return tf.reshape(tf.cos(tf.cast(steps, output.dtype)), tf.shape(output))


def run_with_gradients(function, arguments, variables=(), mode="eager"):
    """The outputs of `function(*arguments)`, and what `upstream` gives the arguments and the variables.

    Args:
        function: of tensors, to a nested structure of tensors.
        arguments: list of arrays.
        variables: of Keras.
        mode: "eager", "graph" or "jit".

    Returns:
        `(outputs, gradients)`, two flat lists; the gradients are those of the arguments, then of the variables.
    """
    variables = [variable.value for variable in variables]

    def run(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            outputs = tf.nest.flatten(function(*arguments))
        targets = [*arguments, *variables]
        gradients = tape.gradient(outputs, targets, [upstream(y) for y in outputs], unconnected_gradients="zero")
        return outputs, gradients

    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "jit")
    return run(*(tf.convert_to_tensor(argument) for argument in arguments))


def automatic(cell):
    """The same equations without their derivative, which automatic differentiation then finds."""
    kind = type(cell)
    return type(kind.__name__, (kind,), {"differentiable": False})(**vars(cell))

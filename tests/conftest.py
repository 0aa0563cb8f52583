# SPDX-License-Identifier: Apache-2.0
"""What the tests share: the lists of cells and modes, comparisons of tensors, gradients of functions of tensors."""

import itertools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: no chatter about the CPU

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_seq import layers
from keras_seq._private_api import forget_custom_gradients
from keras_seq.ops import native
from keras_seq.ops.equations.gru import GRUEquations
from keras_seq.ops.equations.lstm import LSTMEquations
from keras_seq.ops.equations.mgu import MGUEquations
from keras_seq.ops.equations.simple_rnn import SimpleRNNEquations

KINDS = ["SimpleRNN", "GRU", "LSTM"]  # the recurrent layers
# The cell equations of each layer and native op, and of each function of `keras_seq.ops`.
EQUATIONS = {"SimpleRNN": SimpleRNNEquations, "GRU": GRUEquations, "LSTM": LSTMEquations, "MGU": MGUEquations}
FUNCTIONS = {kind: "simple_rnn" if kind == "SimpleRNN" else kind.lower() for kind in EQUATIONS}
CELL_EQUATIONS = {FUNCTIONS[kind]: equations for kind, equations in EQUATIONS.items()}
STATES = {kind: equations.states for kind, equations in EQUATIONS.items()}
GATES = {kind: equations.gates for kind, equations in EQUATIONS.items()}

# The cells that have native kernels, each with the attributes of its op.
KERNEL_CELLS = [
    ("SimpleRNN", {"activation": "tanh"}),
    ("SimpleRNN", {"activation": "relu"}),
    ("SimpleRNN", {"activation": "linear"}),
    ("GRU", {"reset_after": True}),
    ("GRU", {"reset_after": False}),
    ("LSTM", {}),
    ("MGU", {}),
    ("LSTM", {"activation": "relu", "recurrent_activation": "hard_sigmoid"}),
]

# Every way to make a recurrent layer, most of them with 6 units.
RECURRENT_LAYERS = {
    **{kind: lambda kind=kind, **options: getattr(layers, kind)(6, **options) for kind in KINDS},
    "stack": lambda **options: layers.LSTM(6, num_layers=2, **options),
    "RNN": lambda **options: layers.RNN([layers.LSTMCell(6), layers.GRUCell(4)], **options),
    "Bidirectional": lambda **options: layers.Bidirectional(layers.LSTM(6, **options)),
    "cell of Keras": lambda **options: layers.RNN(keras.layers.GRUCell(6), **options),
}

needs_kernels = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
every_implementation = pytest.mark.parametrize("implementation", [pytest.param("native", marks=needs_kernels), "xla"])
every_kind = pytest.mark.parametrize("kind", KINDS)

# XLA takes seconds to compile what TensorFlow traces in a tenth of a second, so compiled cases run in `make test-slow`.
JIT = [False, pytest.param(True, marks=pytest.mark.slow)]
MODES = ["eager", "graph", pytest.param("jit", marks=pytest.mark.slow)]


def mostly_slow(values, every=3):
    """Returns parameters of which one in `every` runs in `make test`, and all of them in `make test-slow`."""
    return [value if i % every == 0 else pytest.param(value, marks=pytest.mark.slow) for i, value in enumerate(values)]


def pytest_runtest_setup(item):
    """Start every test from the same seed, so that its random numbers do not depend on the tests before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module", autouse=True)
def forget_gradients():
    """TensorFlow keeps the gradient of every training step and all that it refers to: gigabytes in all tests."""
    with forget_custom_gradients():
        yield


@pytest.fixture
def set_dtype_policy():
    """A function that sets the global dtype policy until the end of the test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.fixture
def no_forced_implementation(monkeypatch):
    """Run as if `KERAS_SEQ_IMPLEMENTATION` were not set."""
    monkeypatch.delenv("KERAS_SEQ_IMPLEMENTATION", raising=False)


@keras.saving.register_keras_serializable("tests")
class MinimalCell(keras.layers.Layer):
    """A foreign cell with two states of different sizes, and an output of a third size."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size, self.output_size = [units, 1], 2

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")
        self.readout = self.add_weight(shape=(self.units, 2), name="readout")

    def call(self, inputs, states):
        h, count = states
        h = keras.ops.tanh(inputs @ keras.ops.convert_to_tensor(self.kernel) + h / (count + 1))
        return h @ keras.ops.convert_to_tensor(self.readout), [h, count + 1]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def draw(*shape, seed=0):
    """Normally distributed float32 numbers, the same for the same shape and seed."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def draw_states(layer, batch):
    """Initial states for a layer that was called, normally distributed and all different."""
    directions = [layer]
    if isinstance(layer, keras.layers.Bidirectional):
        directions = [layer.forward_layer, layer.backward_layer]
    zeros = [zero for direction in directions for zero in direction.get_initial_state(batch)]
    seeds = itertools.count()
    return keras.tree.map_structure(lambda zero: draw(*zero.shape, seed=next(seeds)), zeros)


def make_cell_equations(function, options):
    """The cell equations of a function of `keras_seq.ops`, with the function's options."""
    activations = {name: keras.activations.get(value) for name, value in options.items() if "activation" in name}
    return CELL_EQUATIONS[function](**(options | activations))


def relative_error(actual, expected):
    """`||actual - expected|| / ||expected||`, or `||actual||` if `expected` is zero."""
    actual, expected = (np.asarray(keras.ops.convert_to_numpy(a), "float64") for a in (actual, expected))
    assert actual.shape == expected.shape
    return np.linalg.norm(actual - expected) / (np.linalg.norm(expected) or 1.0)


def assert_close(actual, expected, tolerance):
    """Every tensor of a nested structure is within a relative error, `tolerance`, of its counterpart."""
    actual, expected = keras.tree.flatten(actual), keras.tree.flatten(expected)
    assert len(actual) == len(expected)
    errors = [relative_error(a, b) for a, b in zip(actual, expected, strict=True)]
    assert max(errors) <= tolerance, f"relative errors of the {len(errors)} tensors: {errors}"


def upstream(output):
    """An upstream gradient that differs from entry to entry and depends only on the shape of the output."""
    steps = tf.range(1, tf.size(output) + 1)
    return tf.reshape(tf.cos(tf.cast(steps, output.dtype)), tf.shape(output))


def run_with_gradients(function, arguments, variables=(), mode="eager"):
    """Compute `function(*arguments)` and the gradients that belong to the upstream gradients `upstream(output)`.

    Args:
        function: takes tensors and returns a nested structure of tensors.
        arguments: list of arrays.
        variables: list of Keras variables.
        mode: "eager", "graph" or "jit".

    Returns:
        `(outputs, gradients)`, two flat lists. The gradients of the arguments come before those of the variables.
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


def without_derivative(equations):
    """The same equations without their derivative, which automatic differentiation then finds."""
    kind = type(equations)
    return type(kind.__name__, (kind,), {"differentiable": False})(**vars(equations))

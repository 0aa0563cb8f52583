# SPDX-License-Identifier: Apache-2.0
"""Sequences without a step, and batches without a sequence.

A sequence without a step is as one whose steps are all masked: in Keras the output is zero, the state where it started.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close, run_with_gradients

from keras_seq import layers
from keras_seq.ops import native

BATCH, FEATURES, UNITS, SOURCE = 2, 3, 4, 5
STATE = np.random.default_rng(0).normal(size=(BATCH, UNITS)).astype("float32")
MEMORY = np.random.default_rng(1).normal(size=(BATCH, SOURCE, UNITS)).astype("float32")
WITH_KERNELS = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
every_implementation = pytest.mark.parametrize("implementation", [pytest.param("native", marks=WITH_KERNELS), "xla"])
MODES = ["eager", "graph", "jit", "dynamic graph", "dynamic jit"]
some_modes = pytest.mark.parametrize(
    "mode", ["eager", "dynamic graph", pytest.param("dynamic jit", marks=pytest.mark.slow)]
)


def run(call, sequences, *others, variables=(), mode="eager"):
    """Outputs and gradients; with shapes that a graph does not know if it is dynamic."""
    if "dynamic" not in mode:
        return run_with_gradients(call, [sequences, *others], variables, mode)

    def differentiate(sequences, *others):
        return run_with_gradients(call, [sequences, *others], variables)

    signature = [tf.TensorSpec((None, None, FEATURES)), *(tf.TensorSpec((None, *x.shape[1:])) for x in others)]
    function = tf.function(differentiate, signature, autograph=False, jit_compile="jit" in mode)
    return function(*(tf.convert_to_tensor(x) for x in (sequences, *others)))


def zeros(*shape):
    return np.zeros(shape, "float32")


@every_implementation
@pytest.mark.parametrize(("kind", "mode"), [*(("LSTM", mode) for mode in MODES), ("Bidirectional", "dynamic graph")])
def test_recurrent_layers(kind, implementation, mode):
    layer = layers.LSTM(UNITS, return_state=True, implementation=implementation)
    theirs = keras.layers.LSTM(UNITS, return_state=True)
    states = [STATE, 2 * STATE]
    if kind == "Bidirectional":
        layer, theirs, states = layers.Bidirectional(layer), keras.layers.Bidirectional(theirs), 2 * states
    layer(zeros(BATCH, 1, FEATURES))

    def call(sequences, *states):
        return layer(sequences, initial_state=list(states))

    outputs, gradients = run(call, zeros(BATCH, 0, FEATURES), *states, variables=layer.trainable_variables, mode=mode)
    masked = theirs(zeros(BATCH, 1, FEATURES), initial_state=states, mask=np.zeros((BATCH, 1), bool))
    assert_close(outputs, masked, 0)
    of_sequences, *of_states = gradients[: 1 + len(states)]
    assert of_sequences.shape == (BATCH, 0, FEATURES)
    assert all(np.any(gradient) for gradient in of_states)  # the final state is the initial one
    assert not any(np.any(gradient) for gradient in gradients[1 + len(states) :])


ATTENTIVE = {
    "decoder": lambda: layers.AttentionDecoder(UNITS, return_state=True),
    "decoder, xla": lambda: layers.AttentionDecoder(UNITS, return_state=True, implementation="xla"),
    "no input feeding": lambda: layers.AttentionDecoder(
        UNITS, "gru", layers.BahdanauAttention(3, coverage=True), False
    ),
    "cell of Keras": lambda: layers.AttentionDecoder(UNITS, keras.layers.GRUCell(UNITS)),
    "RNN": lambda: layers.RNN(
        layers.AttentionCell(layers.GRUCell(UNITS), layers.MonotonicAttention(3, noise_std=0)), return_state=True
    ),
}


@some_modes
@pytest.mark.parametrize("kind", ATTENTIVE)
def test_attentive_layers(kind, mode):
    layer = ATTENTIVE[kind]()
    expected = layer(zeros(BATCH, 1, FEATURES), memory=MEMORY, mask=np.zeros((BATCH, 1), bool))
    expected = [np.array(x)[:, :0] if np.ndim(x) == 3 else x for x in keras.tree.flatten(expected)]  # outputs of steps

    def call(sequences, memory):
        return layer(sequences, memory=memory)

    variables = layer.trainable_variables
    outputs, gradients = run(call, zeros(BATCH, 0, FEATURES), MEMORY, variables=variables, mode=mode)
    assert_close(outputs, expected, 0)
    assert not any(np.any(gradient) for gradient in gradients)


@every_implementation
def test_return_sequences(implementation):
    for layer in (
        layers.GRU(UNITS, return_sequences=True, num_layers=2, implementation=implementation),
        layers.GRU(UNITS, return_sequences=True, unroll=True, go_backwards=True, implementation=implementation),
        layers.RNN(keras.layers.GRUCell(UNITS), return_sequences=True),
    ):
        assert layer(zeros(BATCH, 0, FEATURES)).shape == (BATCH, 0, UNITS)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_cell_of_keras(mode):
    layer = layers.RNN(keras.layers.LSTMCell(UNITS), return_state=True)

    def call(sequences):
        return layer(sequences, initial_state=[STATE, 2 * STATE])

    outputs, _ = run(call, zeros(BATCH, 0, FEATURES), mode=mode)
    assert_close(outputs, [zeros(BATCH, UNITS), STATE, 2 * STATE], 0)


@some_modes
@every_implementation
@pytest.mark.parametrize("time", [0, 3])
def test_no_sequences(time, implementation, mode):
    layer = layers.Bidirectional(layers.GRU(UNITS, implementation=implementation))
    layer(zeros(BATCH, 1, FEATURES))
    variables = layer.trainable_variables
    outputs, gradients = run(layer, zeros(0, time, FEATURES), variables=variables, mode=mode)
    assert outputs[0].shape == (0, 2 * UNITS)
    assert not any(np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("kind", [layers.GRU, layers.LSTM])
def test_gradients_of_nothing_in_a_graph(kind):
    """An empty batch without steps: TensorFlow must not divide by its sizes."""
    layer = kind(4, layer_norm=True)
    layer.build((None, None, 3))

    @tf.function
    def gradients(sequences):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(sequences))
        return tape.gradient(total, layer.trainable_variables)

    assert not any(np.any(gradient) for gradient in gradients(tf.zeros((0, 0, 3))))

# SPDX-License-Identifier: Apache-2.0
"""Steps of a search with a layer, one cell or a stack, equal its call over whole sequences."""

import keras
import numpy as np
import pytest
from conftest import needs_kernels

from keras_seq import layers
from keras_seq.layers.recurrent_layer import resolve_layer
from keras_seq.layers.search_step import choose_search_implementation, start_search

ROWS, TIME, FEATURES, TOKENS = 3, 4, 5, 9
rng = np.random.default_rng(0)
SEQUENCES = rng.normal(size=(ROWS, TIME, FEATURES)).astype("float32")
IDS = rng.integers(0, TOKENS, (ROWS, TIME))
MEMORY = rng.normal(size=(ROWS, 6, 7)).astype("float32")


@keras.saving.register_keras_serializable("test_search_step_of_layers")
class OwnCell(keras.layers.Layer):
    """A cell of a user with states of several sizes, whose `call` takes no `training`."""

    state_size = [4, 2, 3]
    output_size = 4

    def build(self, shape):
        self.kernel = self.add_weight((shape[-1], 4), name="kernel")

    def call(self, inputs, states):
        h, a, b = states
        h = keras.ops.tanh(keras.ops.matmul(inputs, self.kernel) + h + a[:, :1] * b[:, :1])
        return h, [h, a + h[:, :2], b + 1]


LAYERS = {
    "one cell": lambda **k: resolve_layer("gru", 6, **k),
    "stack": lambda **k: resolve_layer("lstm", 6, num_layers=3, **k),
    "residual stack": lambda **k: resolve_layer("mgu", 6, num_layers=3, residual=True, **k),
    "extensions": lambda **k: resolve_layer("lstm", 6, num_layers=2, zoneout=[0.2, 0.4], projection_units=3, **k),
    "layer normalisation": lambda **k: resolve_layer("gru", 6, num_layers=2, layer_norm=True, **k),
    "several kinds": lambda **k: layers.RNN([layers.GRUCell(6), layers.LSTMCell(4), layers.SimpleRNNCell(5)], **k),
    "cell of Keras": lambda **k: resolve_layer(keras.layers.LSTM(6, recurrent_activation="hard_sigmoid"), **k),
    "cells of Keras": lambda **k: resolve_layer(keras.layers.GRUCell(6), num_layers=2, **k),
    "a cell of Keras between": lambda **k: layers.RNN(
        [layers.GRUCell(6), keras.layers.LSTMCell(4), layers.LSTMCell(5)], **k
    ),
    "own cell": lambda **k: resolve_layer(OwnCell(), **k),
    "own cell in a stack": lambda **k: layers.RNN([layers.LSTMCell(6), OwnCell(), layers.MGUCell(3)], **k),
    "attention": lambda **k: layers.AttentionDecoder(6, **k),
    "normalized attention": lambda **k: layers.AttentionDecoder(6, layers.GRUCell(6, layer_norm=True), **k),
    "attention with extensions": lambda **k: layers.AttentionDecoder(
        4, layers.LSTMCell(6, layer_norm=True, projection_units=4, zoneout=[0.2, 0.4]), **k
    ),
    "attention after": lambda **k: layers.AttentionDecoder(6, attention="luong", attend="after", **k),
}
HAS_EMBEDDING = [True, False]


def run_both_ways(name, embedded, dtype="float32", **options):
    """Return the outputs of the layer's call and of its steps, both (rows, time, units)."""
    layer = LAYERS[name](dtype=dtype, **options)
    embedding = keras.layers.Embedding(TOKENS, FEATURES, "normal", dtype=dtype) if embedded else None
    attends = isinstance(layer, layers.AttentionDecoder)
    memory = [MEMORY] if attends else []
    if not attends:
        layer.return_sequences = True
    tokens = IDS if embedded else SEQUENCES
    outputs = layer(embedding(tokens) if embedded else tokens, *memory)
    expected = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    step, tensors = start_search(layer, embedding, *memory)
    state = keras.tree.flatten(layer.get_initial_state(MEMORY if attends else ROWS))
    results = []
    for t in range(TIME):
        output, state, weights = step(keras.ops.convert_to_tensor(tokens[:, t]), state, tensors)
        assert isinstance(state, list)
        assert tuple(weights.shape) == (ROWS, 6 if attends else 0)
        results.append(output)
    return np.array(expected), np.stack(results, axis=1)


@pytest.mark.parametrize("embedded", HAS_EMBEDDING, ids=["tokens", "inputs"])
@pytest.mark.parametrize("name", LAYERS)
def test_steps_equal_one_pass(name, embedded):
    expected, actual = run_both_ways(name, embedded)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("embedded", HAS_EMBEDDING, ids=["tokens", "inputs"])
@pytest.mark.parametrize(
    "name",
    ["residual stack", "extensions", "several kinds", "attention", "normalized attention", "attention with extensions"],
)
def test_steps_equal_one_pass_on_xla(name, embedded):
    expected, actual = run_both_ways(name, embedded, implementation="xla")
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["residual stack", "layer normalisation", "attention"])
def test_steps_in_mixed_precision(name):
    expected, actual = run_both_ways(name, False, "mixed_bfloat16")
    np.testing.assert_allclose(actual.astype("float32"), expected.astype("float32"), atol=2e-2)


def test_steps_of_a_cell_of_keras_in_mixed_precision():
    layer = resolve_layer(LAYERS["a cell of Keras between"](), dtype="mixed_bfloat16")
    _, *state = layer(SEQUENCES)
    output, state, _ = start_search(layer)[0](SEQUENCES[:, 0], keras.tree.flatten(state), {})
    assert {keras.backend.standardize_dtype(x.dtype) for x in [output, *state]} == {"bfloat16"}


@needs_kernels
def test_rows_that_are_not_live_do_not_change_the_others_in_a_stack():
    layer = LAYERS["residual stack"]()
    layer.build((None, None, FEATURES))
    step, _ = start_search(layer)
    state = [rng.normal(size=(ROWS, 6)).astype("float32") for _ in range(3)]
    live = np.array([True, False, True])
    expected, expected_state, _ = step(SEQUENCES[:, 0], state, {})
    actual, actual_state, _ = step(SEQUENCES[:, 0], state, {}, live)
    for x, y in zip([actual, *actual_state], [expected, *expected_state], strict=True):
        np.testing.assert_array_equal(np.array(x)[live], np.array(y)[live])


@needs_kernels
def test_each_cell_of_a_stack_has_its_own_choice():
    assert choose_search_implementation(LAYERS["stack"]()).implementation == "native"
    assert choose_search_implementation(LAYERS["a cell of Keras between"]()).implementation == "native; xla"
    assert choose_search_implementation(LAYERS["stack"](implementation="xla")).implementation == "xla"

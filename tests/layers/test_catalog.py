# SPDX-License-Identifier: Apache-2.0
"""What every public layer must do, one row a layer."""

import inspect

import keras
import numpy as np
import pytest
from conftest import assert_close

from keras_seq import layers

BATCH, TIME, SOURCE, FEATURES, UNITS = 2, 4, 5, 3, 6


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


SEQUENCES, MEMORY = draw(BATCH, TIME, FEATURES), draw(BATCH, SOURCE, UNITS)
STEP, STATE = draw(BATCH, FEATURES), draw(BATCH, UNITS)
INITIALIZERS = {f"{name}_initializer": "he_normal" for name in ("kernel", "recurrent", "bias")}
REGULARIZERS = {f"{name}_regularizer": "l1" for name in ("kernel", "recurrent", "bias")}
CONSTRAINTS = {f"{name}_constraint": "max_norm" for name in ("kernel", "recurrent", "bias")}
CELL = {"units": UNITS, "activation": "relu", "dropout": 0.1, "recurrent_dropout": 0.2, "seed": 7}
CELL |= {"use_bias": False, **INITIALIZERS, **REGULARIZERS, **CONSTRAINTS}
LAYER = {"return_sequences": True, "return_state": True, "go_backwards": True, "zero_output_for_mask": True}
LAYER |= {"unroll": True, "activity_regularizer": "l2", "implementation": "xla", "use_cudnn": False}
GATES = {"recurrent_activation": "hard_sigmoid"}

# The arguments of the constructor, none at its default where that can be, and those of a call.
CATALOG = {
    "AttentionDecoder": (
        {
            "units": UNITS,
            "cell": "gru",
            "attention": lambda: layers.BahdanauAttention(UNITS + 1),
            "dropout": 0.1,
            "recurrent_dropout": 0.2,
            "seed": 7,
            "return_state": True,
            "implementation": "xla",
        },
        (SEQUENCES, MEMORY),
    ),
    "BahdanauAttention": ({"units": UNITS, "kernel_initializer": "he_normal"}, ([SEQUENCES, MEMORY],)),
    "Bidirectional": (
        {"layer": lambda: layers.GRU(UNITS, return_sequences=True, activation="relu"), "merge_mode": "ave"},
        (SEQUENCES,),
    ),
    "GRU": ({**CELL, **LAYER, **GATES, "reset_after": False}, (SEQUENCES,)),
    "GRUCell": ({**CELL, **GATES, "reset_after": False}, (STEP, [STATE])),
    "LSTM": ({**CELL, **LAYER, **GATES, "unit_forget_bias": False}, (SEQUENCES,)),
    "LSTMCell": ({**CELL, **GATES, "unit_forget_bias": False}, (STEP, [STATE, STATE])),
    "LockedDropout": ({"rate": 0.3, "seed": 7}, (SEQUENCES,)),
    "SimpleRNN": ({**CELL, **LAYER}, (SEQUENCES,)),
    "SimpleRNNCell": (CELL, (STEP, [STATE])),
}
every_layer = pytest.mark.parametrize("name", CATALOG)


def make(name):
    arguments = {key: value() if callable(value) else value for key, value in CATALOG[name][0].items()}
    return getattr(layers, name)(**arguments)


def call(layer, name):
    return layer(*CATALOG[name][1])


def symbolic(arguments, *, static=True):
    """Keras inputs in the place of arrays; with `static=False` of unknown length."""

    def as_input(array):
        length = array.shape[1:-1] if static else [None] * (array.ndim - 2)
        return keras.Input((*length, array.shape[-1]))

    return keras.tree.map_structure(as_input, arguments)


def test_every_public_layer_has_a_row():
    assert sorted(CATALOG) == sorted(layers.__all__)


@every_layer
def test_config(name):
    layer = make(name)
    outputs, config = call(layer, name), layer.get_config()
    twin = type(layer).from_config(config)
    assert twin.get_config() == config
    call(twin, name)
    twin.set_weights(layer.get_weights())
    assert_close(call(twin, name), outputs, 0)


@every_layer
def test_every_argument_is_in_the_config(name):
    layer = make(name)
    config, signature = layer.get_config(), inspect.signature(type(layer).__init__)
    if type(layer).__init__.__module__.startswith("keras_seq"):
        positional = {p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD}
        assert positional - {"self"} <= set(config)
    for argument, value in CATALOG[name][0].items():
        if isinstance(value, str) and isinstance(config[argument], dict):  # an object of Keras
            assert config[argument]["class_name"].lower() == value.replace("_", "")
        elif not callable(value):
            assert config[argument] == value


@every_layer
def test_a_model_is_saved_and_loaded(name, tmp_path):
    inputs = symbolic(CATALOG[name][1])
    model = keras.Model(keras.tree.flatten(inputs), make(name)(*inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    arrays = keras.tree.flatten(CATALOG[name][1])
    assert_close(loaded(arrays), model(arrays), 0)
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]


@every_layer
@pytest.mark.parametrize("static", [True, False])
def test_symbolic_shapes_are_real_ones(name, static):
    layer = make(name)
    if not static and getattr(layer, "unroll", False):
        layer.unroll = False
    unknown = {BATCH} if static else {BATCH, TIME, SOURCE}  # sizes that nothing else has
    predicted = keras.tree.flatten(layer(*symbolic(CATALOG[name][1], static=static)))
    for symbol, tensor in zip(predicted, keras.tree.flatten(call(layer, name)), strict=True):
        assert symbol.dtype == keras.backend.standardize_dtype(tensor.dtype)
        assert symbol.shape == tuple(None if size in unknown else size for size in tensor.shape)


@pytest.fixture
def policy():
    """Set the global dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@every_layer
def test_mixed_bfloat16(name, policy):
    exact = make(name)
    expected = call(exact, name)
    policy("mixed_bfloat16")
    layer = make(name)
    call(layer, name)
    layer.set_weights(exact.get_weights())
    outputs = call(layer, name)
    assert {keras.backend.standardize_dtype(x.dtype) for x in keras.tree.flatten(outputs)} == {"bfloat16"}
    assert all(weight.dtype == "float32" for weight in layer.weights)
    assert_close([keras.ops.cast(x, "float32") for x in keras.tree.flatten(outputs)], expected, 3e-2)


@every_layer
def test_xla_stays_on(name):
    layer = make(name)
    call(layer, name)
    assert all(inner.supports_jit for inner in layer._flatten_layers())

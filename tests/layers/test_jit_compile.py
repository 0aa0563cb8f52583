# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers compile under XLA with `jit_compile`, and train as they do without it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close, draw, every_implementation, needs_kernels

import keras_seq
from keras_seq import layers

BATCH, TIME, FEATURES, UNITS, RATE = 5, 4, 3, 6, 0.4
DROPPED = {"dropout": RATE, "recurrent_dropout": RATE, "recurrent_weight_dropout": RATE, "zoneout": RATE, "seed": 7}
EVERYTHING = {**DROPPED, "num_layers": 2, "residual": True, "output_dropout": RATE}

pytestmark = pytest.mark.usefixtures("no_forced_implementation")


LAYERS = {
    "SimpleRNN": lambda: layers.SimpleRNN(UNITS, **EVERYTHING),
    "GRU": lambda: layers.GRU(UNITS, **EVERYTHING),
    "LSTM": lambda: layers.LSTM(UNITS, **EVERYTHING),
    "extended GRU": lambda: layers.GRU(UNITS, layer_norm=True, **DROPPED),
    "extended LSTM": lambda: layers.LSTM(UNITS, peephole=True, projection_units=2, layer_norm=True, **DROPPED),
    "RNN": lambda: layers.RNN([layers.LSTMCell(UNITS, **DROPPED), layers.GRUCell(UNITS)]),
    "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(UNITS, **EVERYTHING)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_allow_jit_compile_where_cudnn_is_available(name, monkeypatch):
    """`keras.layers.LSTM` and `GRU` rule XLA out there (keras#18456; tensorflow#83063, #99385)."""
    monkeypatch.setattr("keras.src.backend.cudnn_ok", lambda *_, **__: True)
    model = keras.Sequential([LAYERS[name](), keras.layers.Dense(1)])
    model(draw(BATCH, TIME, FEATURES))
    assert all(layer.supports_jit for layer in model._flatten_layers())
    model.compile("sgd", "mse", jit_compile=True)
    assert model.jit_compile is True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "implementation"),
    [
        pytest.param(
            lambda: layers.Bidirectional(layers.LSTM(UNITS, recurrent_dropout=RATE, seed=7)),
            "native",
            marks=needs_kernels,
        ),
        (lambda: layers.GRU(UNITS, recurrent_dropout=RATE, seed=7), "xla"),
    ],
    ids=["Bidirectional LSTM, native", "GRU, xla"],
)
def test_fit_with_xla_matches_eager_fit(make, implementation):
    """Batches of different sizes and lengths give the same weights, from the same dropout masks (keras#18456)."""
    sizes = [(BATCH, TIME), (BATCH - 1, TIME + 2)]
    batches = [(draw(*size, FEATURES, seed=i), draw(size[0], 1)) for i, size in enumerate(sizes)]
    signature = tf.TensorSpec((None, None, FEATURES)), tf.TensorSpec((None, 1))
    data = tf.data.Dataset.from_generator(lambda: batches, output_signature=signature)
    trained = []
    for options in ({"jit_compile": True}, {"run_eagerly": True}):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((None, FEATURES)), make(), keras.layers.Dense(1)])
        model.compile("sgd", "mse", **options)
        with keras_seq.ops.use_implementation(implementation):
            model.fit(data, steps_per_epoch=len(sizes), shuffle=False, verbose=0)
        trained.append(model.get_weights())
    assert_close(*trained, 1e-5)


class HostOnly(keras.layers.Layer):
    """The identity, computed by an operation that XLA cannot compile."""

    def call(self, inputs):
        zeros = tf.numpy_function(np.zeros_like, [inputs], inputs.dtype)
        return inputs + tf.stop_gradient(tf.ensure_shape(zeros, inputs.shape))

    def compute_output_shape(self, input_shape):
        return input_shape


@every_implementation
def test_xla_compiles_the_whole_training_step(implementation):
    """XLA refuses an operation in it that it cannot compile; without XLA the step runs (keras#18456)."""
    model = keras.Sequential([layers.LSTM(UNITS), HostOnly(), keras.layers.Dense(1)])
    with keras_seq.ops.use_implementation(implementation):
        for jit in (False, True):
            model.compile("sgd", "mse", jit_compile=jit)
            arguments = draw(BATCH, TIME, FEATURES), draw(BATCH, 1)
            if jit:
                with pytest.raises(tf.errors.InvalidArgumentError, match="unsupported operations"):
                    model.fit(*arguments, verbose=0)
            else:
                model.fit(*arguments, verbose=0)

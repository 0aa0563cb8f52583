# SPDX-License-Identifier: Apache-2.0
"""Models with recurrent layers, exported as a SavedModel and to LiteRT, run without Keras and keras_seq."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close, draw

from keras_seq import layers

TIME, FEATURES, UNITS = 4, 3, 6
# One sequence each: whole, padded on the right, on the left, with gaps, nothing but padding.
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
TOKENS = MASK * np.random.default_rng(0).integers(1, 9, MASK.shape)

pytestmark = pytest.mark.usefixtures("no_forced_implementation")


def make_trained_model(**options):
    """A model of every recurrent layer on padded sequences of tokens, trained for one step."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((TIME,)),
            keras.layers.Embedding(9, FEATURES, mask_zero=True),
            layers.LSTM(UNITS, return_sequences=True, recurrent_dropout=0.4, **options),
            layers.Bidirectional(layers.GRU(UNITS, return_sequences=True, **options)),
            layers.SimpleRNN(UNITS, **options),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    model.fit(TOKENS, draw(len(TOKENS), 1), verbose=0)
    return model


PROGRAM = """
import sys

import numpy as np
import tensorflow as tf

sys.modules["keras"] = sys.modules["keras_seq"] = None  # importing them raises
path, tokens, outputs = sys.argv[1:]
model = tf.saved_model.load(path)
np.save(outputs, model.serve(np.load(tokens)))
"""


@pytest.fixture(scope="module")
def trained_model():
    return make_trained_model()


@pytest.mark.slow
def test_a_saved_model_loads_with_tensorflow_alone(trained_model, tmp_path):
    """It runs in a process without GPU, Keras and keras_seq (tensorflow#77442)."""
    trained_model.export(tmp_path / "model", verbose=False)
    np.save(tmp_path / "tokens.npy", TOKENS.astype("float32"))
    arguments = [tmp_path / name for name in ("model", "tokens.npy", "outputs.npy")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=True, env=environment)
    assert_close(np.load(arguments[-1]), trained_model(TOKENS), 1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:\\s*Warning. tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("unroll", [False, True])
def test_a_litert_model_needs_only_litert_operations(trained_model, tmp_path, unroll):
    """With a loop over time, the input signature must give the batch size (keras#21799)."""
    model, path = make_trained_model(unroll=True) if unroll else trained_model, tmp_path / "model.tflite"
    signature = None if unroll else [keras.InputSpec("float32", TOKENS.shape)]
    model.export(path, format="litert", input_signature=signature, verbose=False)
    interpreter = tf.lite.Interpreter(str(path))  # without TensorFlow operations
    [inputs], [outputs] = interpreter.get_input_details(), interpreter.get_output_details()
    if unroll:
        interpreter.resize_tensor_input(inputs["index"], TOKENS.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(inputs["index"], TOKENS.astype("float32"))
    interpreter.invoke()
    assert_close(interpreter.get_tensor(outputs["index"]), model(TOKENS), 1e-6)

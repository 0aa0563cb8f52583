# SPDX-License-Identifier: Apache-2.0
"""Exports have operations of TensorFlow alone, whatever the layers run elsewhere, or say which others they need."""

import json
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close, draw, needs_kernels

import keras_seq
from keras_seq import layers

pytestmark = pytest.mark.usefixtures("no_forced_implementation")
NATIVE = {"implementation": "native", "return_sequences": True}
LAYERS = {
    "LSTM": lambda: layers.LSTM(4, **NATIVE),
    "stack": lambda: layers.GRU(4, num_layers=2, **NATIVE),
    "Bidirectional": lambda: layers.Bidirectional(layers.GRU(4, **NATIVE)),
    "Bidirectional of Keras": lambda: keras.layers.Bidirectional(layers.SimpleRNN(4, **NATIVE)),
    "cells": lambda: layers.RNN([layers.LSTMCell(4), layers.MGUCell(4)], **NATIVE),
    "RNN of Keras": lambda: keras.layers.RNN(layers.LSTMCell(4), return_sequences=True),
}


def input_gradient(function, inputs):
    """The gradient of the sum of the squares of what a function returns."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(function(inputs) ** 2)
    return tape.gradient(loss, inputs)


@pytest.mark.slow
def test_a_program_that_loads_an_export_can_differentiate_it(tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), *(make() for make in LAYERS.values())])
    keras_seq.export(model, tmp_path / "model")
    inputs = tf.constant(draw(2, 5, 3))
    loaded = tf.saved_model.load(tmp_path / "model")
    assert_close(input_gradient(loaded.serve, inputs), input_gradient(model, inputs), 1e-6)


def operations(path):
    """The names of all operations in a SavedModel."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    return {node.op for function in graph.library.function for node in function.node_def} | {n.op for n in graph.node}


def ours(path):
    return {name for name in operations(path) if name.startswith("KerasSeq")}


def make_nested_model():
    """A model in a model: every layer, then an attention decoder; trained and used for predictions with native ops."""
    x, memory = keras.Input((5, 3)), keras.Input((6, 4))
    outputs = x
    for make in LAYERS.values():
        outputs = make()(outputs)
    outputs = layers.AttentionDecoder(4, "lstm", implementation="native")(outputs, memory=memory)
    inner = keras.Model([x, memory], outputs)
    model = keras.Model([x, memory], keras.layers.Dense(2)(inner([x, memory])))
    model.compile("sgd", "mse")
    arrays = [draw(2, 5, 3), draw(2, 6, 4)]
    model.fit(arrays, draw(2, 5, 2), verbose=0)
    return model, arrays, model.predict(arrays, verbose=0)


LOAD = """
import sys, numpy as np, tensorflow as tf
sys.modules["keras"] = sys.modules["keras_seq"] = None  # importing them raises
arrays = [tf.constant(x) for x in np.load(sys.argv[1] + "/arrays.npz").values()]
models = {name: tf.saved_model.load(sys.argv[1] + "/" + name) for name in sys.argv[2:]}
np.savez(sys.argv[1] + "/outputs.npz", **{name: model.serve(arrays) for name, model in models.items()})
"""


@needs_kernels
@pytest.mark.slow
def test_every_layer_exports_stock_operations_and_runs_with_tensorflow_alone(tmp_path):
    """By Keras's own `export` and `ExportArchive`, and by ours, after calls with native ops."""
    model, arrays, expected = make_nested_model()
    model.export(tmp_path / "keras", verbose=False)
    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = [[tf.TensorSpec((None, *array.shape[1:]), tf.float32) for array in arrays]]
    archive.add_endpoint("serve", model.call, input_signature=signature)
    archive.write_out(tmp_path / "archive", verbose=False)
    keras_seq.export(model, tmp_path / "ours")
    np.savez(tmp_path / "arrays.npz", *arrays)
    names = ["keras", "archive", "ours"]
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path), *names], check=True)
    outputs = np.load(tmp_path / "outputs.npz")
    for name in names:
        assert not ours(tmp_path / name), name
        assert_close(outputs[name], expected, 1e-5)
    assert model.layers[-2].layers[1].choose_implementation().implementation == "native"  # again


class Decorated(keras.Model):
    """A model whose `call` is a `tf.function`, which keeps the operations with which it was traced."""

    def __init__(self):
        super().__init__()
        self.lstm = layers.LSTM(4, implementation="native")

    @tf.function
    def call(self, x):
        return self.lstm(x)


@needs_kernels
@pytest.mark.slow
def test_functions_inside_a_model_that_were_traced_with_native_operations_are_traced_anew(tmp_path):
    model, x = Decorated(), draw(2, 5, 3)
    expected = model(x)
    signature = [tf.TensorSpec((None, 5, 3))]
    traced = tf.function(lambda x: model(x), input_signature=signature, autograph=False).get_concrete_function()
    assert "KerasSeq>LSTM" in str(traced.graph.as_graph_def())
    model.export(tmp_path / "keras", input_signature=signature, verbose=False)
    keras_seq.export(model, tmp_path / "ours", input_signature=signature)
    keras_seq.export(model.lstm, tmp_path / "layer", input_signature=signature)
    for name in ("keras", "ours", "layer"):
        assert not ours(tmp_path / name), name
        loaded = tf.saved_model.load(tmp_path / name)
        assert_close(loaded.serve(x), expected, 1e-5)


LOAD_NATIVE = """
import sys, numpy as np, keras_seq, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
np.save(sys.argv[2], model.serve(tf.constant(np.load(sys.argv[3]))))
keras_seq.load_native_ops()
"""


@needs_kernels
@pytest.mark.slow
def test_a_native_export_says_what_it_needs_and_loads_after_importing_keras_seq(tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), layers.GRU(4)])
    x = draw(2, 5, 3)
    keras_seq.export(model, tmp_path / "native", native=True)
    note = json.loads((tmp_path / "native" / "assets.extra" / "keras_seq.json").read_text())
    assert set(note["operations"]) == ours(tmp_path / "native") == {"KerasSeq>GRU"}
    assert (note["library"]["version"], note["tensorflow"]) == (keras_seq.__version__, tf.__version__)
    np.save(tmp_path / "x.npy", x)
    paths = [tmp_path / name for name in ("native", "y.npy", "x.npy")]
    subprocess.run([sys.executable, "-c", LOAD_NATIVE, *paths], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model(x))  # the same kernels: to the last bit
    alone = "import sys, tensorflow as tf; tf.saved_model.load(sys.argv[1])"
    run = subprocess.run([sys.executable, "-c", alone, paths[0]], capture_output=True, text=True)
    assert run.returncode and "Op type not registered 'KerasSeq>GRU'" in run.stderr


EXPORT_AGAIN = """
import sys, keras, keras_seq
model = keras.Sequential([keras.Input((None, 3)), keras_seq.layers.LSTM(4)])
while True:
    keras_seq.export(model, sys.argv[1])
"""


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_exports_leaves_the_earlier_export(tmp_path):
    model, x = keras.Sequential([keras.Input((None, 3)), layers.LSTM(4)]), draw(2, 5, 3)
    keras_seq.export(model, tmp_path / "model")
    process = subprocess.Popen([sys.executable, "-c", EXPORT_AGAIN, tmp_path / "model"])
    while not any(tmp_path.glob(".*.part/model/*")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)  # while it writes the first time
    process.wait()
    loaded = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.serve(x), loaded.signatures["serving_default"](tf.constant(x))["output_0"])
    assert_close(loaded.serve(x), model(x), 1e-6)
    keras_seq.export(model, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


class TestErrors:
    def test_arguments(self, tmp_path):
        model = keras.Sequential([keras.Input((None, 3)), layers.LSTM(4)])
        for arguments, message in (
            (dict(model="model"), "`model` must be a Keras model or layer. Received: 'model'"),
            (dict(format="pickle"), "`format` must be one of 'tf_saved_model', 'litert', 'onnx'. Received: 'pickle'"),
            (dict(model=layers.LSTM(4)), "`model` must be built"),
            (dict(model=model.layers[0]), "`input_signature` must be given for a layer"),
            (dict(format="onnx", native=True), "`native` must be False for the format 'onnx'"),
        ):
            with pytest.raises(ValueError, match=message):
                keras_seq.export(**{"model": model, "path": tmp_path / "never", **arguments})
        with pytest.raises(TypeError, match="no option 'samplers'"):
            keras_seq.export(model, tmp_path / "never", samplers={})
        assert not any(tmp_path.iterdir())

    def test_a_model_that_cannot_be_traced_leaves_the_earlier_export(self, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "saved_model.pb").write_text("earlier")

        class Failing(keras.layers.Layer):
            def call(self, x):
                raise RuntimeError("mine")

        layer = Failing()
        layer.built = True
        with pytest.raises(RuntimeError, match="mine"):
            keras_seq.export(layer, tmp_path / "model", input_signature=[keras.InputSpec("float32", (None, 3))])
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
        assert (tmp_path / "model" / "saved_model.pb").read_text() == "earlier"

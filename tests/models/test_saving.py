# SPDX-License-Identifier: Apache-2.0
"""Saved models: `.keras` files and SavedModels, loaded in other processes."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq

WORDS = ["cat", "tack", "act", "tact", "", "cattack", "zebra"]
SOUNDS = ["K AE T", "T AE K", "AE K T", "T AE K T", "AH", "K AE T AE K", "Z IY B"]

LOAD_KERAS = """
import sys, keras, keras_seq, numpy as np
model = keras.saving.load_model(sys.argv[1])
assert model.optimizer is not None and model.optimizer.iterations == 2
np.savez(sys.argv[2], **model.generate(sys.argv[3:], return_dict=True))
"""
LOAD_SAVED_MODEL = """
import sys, tensorflow as tf, numpy as np
signatures = tf.saved_model.load(sys.argv[1]).signatures
endpoint = "generate_attention" if "generate_attention" in signatures else "serving_default"
results = signatures[endpoint](inputs=tf.constant(sys.argv[3:]))
assert "keras_seq" not in sys.modules
results = {name: value.numpy() for name, value in results.items()}
np.savez(sys.argv[2], **{**results, "text": results["text"].astype("S")})
"""

LUONG = pytest.param("gru", "luong", marks=pytest.mark.slow)

LOAD_ATTENTIONS = """
import sys, tensorflow as tf, numpy as np
inputs = [np.load(path) for path in sys.argv[3:]]
saved = tf.saved_model.load(sys.argv[1] + "/exported")
exported = saved.serve([tf.constant(x) for x in inputs])
assert "keras_seq" not in sys.modules
import keras, keras_seq
outputs = keras.saving.load_model(sys.argv[1] + "/model.keras")(inputs)
np.savez(sys.argv[2], exported=exported, loaded=outputs)
"""


def make_trained_model(cell="lstm", attention="bahdanau", dropout=0.1):
    keras.utils.set_random_seed(0)
    source = keras_seq.data.text_vectorizer(WORDS[:-1])  # the last word has unknown letters
    target = keras_seq.data.text_vectorizer(SOUNDS, split="whitespace")
    model = keras_seq.Seq2Seq(
        keras_seq.Encoder(source.vocabulary_size(), 8, 12, cell=cell, num_layers=2, dropout=dropout),
        keras_seq.Decoder(target.vocabulary_size(), 8, 16, cell=cell, attention=attention),
        source,
        target,
    )
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(tf.data.Dataset.from_tensor_slices((WORDS, SOUNDS)).batch(4), verbose=0)
    return model


def run_in_new_process(script, path, tmp_path):
    results = tmp_path / "results.npz"
    run = subprocess.run(
        [sys.executable, "-c", script, path, results, *WORDS], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    return dict(np.load(results, allow_pickle=False))


def assert_equal(actual, expected):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        value = np.char.encode(value) if name == "text" else value
        other = np.char.encode(actual[name]) if actual[name].dtype.kind == "U" else actual[name]
        np.testing.assert_array_equal(other, value, err_msg=name)  # to the last bit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "attention"),
    [("lstm", "bahdanau"), pytest.param("gru", None, marks=pytest.mark.slow), LUONG],
)
def test_keras_file_in_a_new_process(cell, attention, tmp_path):
    model = make_trained_model(cell, attention)
    model.save(tmp_path / "model.keras")
    expected = model.generate(WORDS, return_dict=True)
    assert_equal(run_in_new_process(LOAD_KERAS, tmp_path / "model.keras", tmp_path), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "attention"),
    [("gru", "bahdanau"), pytest.param("lstm", None, marks=pytest.mark.slow), LUONG],
)
def test_saved_model_in_a_process_with_only_tensorflow(cell, attention, tmp_path):
    model = make_trained_model(cell, attention)
    model.export(tmp_path / "saved_model")
    with keras_seq.ops.use_implementation("xla"):  # as exported
        decoded = tf.function(model.decode)(tf.constant(WORDS))  # in this order, unlike `generate`
    names = ["text", "log_probabilities", *(["token_ids", "attention_weights"] if attention else [])]
    expected = {name: decoded[name].numpy() for name in names}
    expected["text"] = np.char.decode(expected["text"].astype("S"))
    assert expected["text"].tolist() == model.generate(WORDS)
    assert_equal(run_in_new_process(LOAD_SAVED_MODEL, tmp_path / "saved_model", tmp_path), expected)


@pytest.mark.slow
def test_every_attention_in_a_new_process(tmp_path):
    """In `RNN` and `AttentionDecoder`, in every order, with cells of keras_seq and Keras."""
    layers = keras_seq.layers
    attentions = [
        layers.BahdanauAttention(3),
        layers.BahdanauAttention(3, normalize=True, coverage=True),
        layers.LuongAttention(scale=0.5),
        layers.LuongAttention("general", scale=True),
        layers.LuongAttention("concat", 3),
        layers.MonotonicAttention(3, score_bias_init=0.5),
    ]
    after, fed = {"attend": "after"}, {"attend": "after", "attentional_units": 4}
    orders = [{}, after, {"input_feeding": False}, fed, {"input_feeding": False, "attentional_units": 3}, fed]
    arrays = np.random.default_rng(0).normal(size=(2, 2, 4, 5)).astype("float32")
    inputs, memory = keras.Input((4, 5)), keras.Input((4, 5))
    outputs = []
    for i, attention in enumerate(attentions):
        cell = (layers.LSTMCell if i % 4 < 2 else keras.layers.GRUCell)(5)
        if i % 2:
            layer = layers.RNN(layers.AttentionCell(cell, attention, **orders[i]), return_sequences=True)
        else:
            layer = layers.AttentionDecoder(5, cell, attention, **orders[i])
        outputs.append(layer(inputs, memory=memory))
    model = keras.Model([inputs, memory], keras.layers.Concatenate()(outputs))
    model.save(tmp_path / "model.keras")
    model.export(tmp_path / "exported", verbose=False)
    paths = [tmp_path / f"{i}.npy" for i in range(2)]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    script = [sys.executable, "-c", LOAD_ATTENTIONS, tmp_path, tmp_path / "results.npz", *paths]
    run = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    results = np.load(tmp_path / "results.npz")
    np.testing.assert_array_equal(results["loaded"], model(list(arrays)))
    np.testing.assert_allclose(results["exported"], model(list(arrays)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_saved_model_contains_only_stock_operations(tmp_path):
    make_trained_model().export(tmp_path / "saved_model")
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((tmp_path / "saved_model" / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    used = {node.op for function in graph.library.function for node in function.node_def} | {n.op for n in graph.node}
    functions = {function.signature.name for function in graph.library.function}
    assert used - functions <= set(tf.raw_ops.__dict__)
    assert not any(op.startswith(("KerasSeq", "Xla")) for op in used)


@pytest.mark.slow
def test_export_of_token_ids(tmp_path):
    model = keras_seq.Seq2Seq(keras_seq.Encoder(9, 4, 4), keras_seq.Decoder(9, 4, 4))
    model.export(tmp_path / "ids")
    inputs = np.array([[4, 5, 3], [6, 3, 0]], "int32")
    results = tf.saved_model.load(tmp_path / "ids").signatures["serving_default"](inputs=tf.constant(inputs))
    np.testing.assert_array_equal(results["token_ids"], model.generate(inputs))


@pytest.mark.slow
def test_export_overwrites_only_saved_models(tmp_path):
    model = keras_seq.Seq2Seq(keras_seq.Encoder(9, 4, 4), keras_seq.Decoder(9, 4, 4))
    model.export(tmp_path / "saved_model")
    model.export(tmp_path / "saved_model")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="notes"):
        model.export(tmp_path / "notes")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_training_continues_from_a_file(tmp_path):
    data = tf.data.Dataset.from_tensor_slices((WORDS, SOUNDS)).batch(4)
    model = make_trained_model(attention=None, dropout=0.0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    losses = [m.fit(data, epochs=3, verbose=0).history["loss"] for m in (model, loaded)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)

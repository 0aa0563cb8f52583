# SPDX-License-Identifier: Apache-2.0
"""Models with encoders of all kinds in new processes: `.keras` files and SavedModels; and under XLA and bfloat16."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq

pytestmark = pytest.mark.slow

layers = keras.layers
VECTORIZER = keras_seq.data.text_vectorizer(["abcd"])
WORDS = ["cab", "b", "dad"]
RNG = np.random.default_rng(0)
SOURCES = {
    "cnn": RNG.random((3, 5, 4, 2), "float32"),
    "cnn of several sizes": RNG.random((3, 5, 4, 2), "float32"),
    "series": RNG.normal(size=(3, 6, 2)).astype("float32"),
    "dict": {"image": RNG.random((3, 5, 4, 2), "float32"), "size": np.array([3, 1, 2], "int32")},
}

LOAD_KERAS = """
import sys, keras, keras_seq, numpy as np
model = keras.saving.load_model(sys.argv[1])
sources = dict(np.load(sys.argv[2]))
sources = sources.get("inputs", sources)
np.savez(sys.argv[3], **model.generate(sources, return_dict=True, max_length=5))
"""
LOAD_SAVED_MODEL = """
import sys, tensorflow as tf, numpy as np
signature = tf.saved_model.load(sys.argv[1]).signatures[sys.argv[4]]
results = signature(**{name: tf.constant(values) for name, values in np.load(sys.argv[2]).items()})
assert "keras_seq" not in sys.modules
results = {name: value.numpy() for name, value in results.items()}
np.savez(sys.argv[3], **{**results, "text": results["text"].astype("S")})
"""


def make_encoder(kind):
    if kind == "cnn":
        return keras.Sequential([keras.Input((5, 4, 2)), layers.Conv2D(6, 2), layers.BatchNormalization()])
    if kind == "cnn of several sizes":
        return layers.Conv2D(6, 2)  # no Input: the data decide
    if kind == "series":
        return keras.Sequential([layers.Masking(), keras_seq.layers.GRU(4, return_sequences=True)])
    image, size = keras.Input((5, 4, 2), name="image"), keras.Input((), name="size", dtype="int32")
    state = layers.Dense(3)(layers.CategoryEncoding(4, output_mode="one_hot")(size))
    return keras.Model([image, size], (layers.Conv2D(6, 2)(image), state))


def make_trained_model(kind, attention="bahdanau", dtype=None, **options):
    keras.utils.set_random_seed(0)
    decoder = keras_seq.Decoder(VECTORIZER.vocabulary_size(), 4, 5, cell="gru", attention=attention, dtype=dtype)
    model = keras_seq.Seq2Seq(make_encoder(kind), decoder, target_vectorizer=VECTORIZER)
    model.compile("adam", **options)
    model.fit(SOURCES[kind], WORDS, verbose=0)
    if kind == "cnn of several sizes":
        model.generate(np.ones((1, 7, 8, 2)), max_length=1)
        assert model.source_spec.shape.as_list() == [None, None, None, 2]
    return model


def run_in_new_process(script, tmp_path, path, kind, *arguments):
    sources = SOURCES[kind] if isinstance(SOURCES[kind], dict) else {"inputs": SOURCES[kind]}
    np.savez(tmp_path / "sources.npz", **sources)
    program = [sys.executable, "-c", script, path, tmp_path / "sources.npz", tmp_path / "results.npz", *arguments]
    run = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    return dict(np.load(tmp_path / "results.npz"))


def assert_equal(results, expected):
    assert results.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(results[name], values, err_msg=name)


@pytest.mark.parametrize("kind", SOURCES)
def test_keras_file_in_a_new_process(kind, tmp_path):
    model = make_trained_model(kind)
    model.save(tmp_path / "model.keras")
    expected = model.generate(SOURCES[kind], return_dict=True, max_length=5)
    assert_equal(run_in_new_process(LOAD_KERAS, tmp_path, tmp_path / "model.keras", kind), expected)


@pytest.mark.parametrize(
    ("kind", "attention"), [("cnn of several sizes", "bahdanau"), ("dict", "bahdanau"), ("cnn", None)]
)
def test_saved_model_in_a_process_with_only_tensorflow(kind, attention, tmp_path):
    model = make_trained_model(kind, attention)
    model.export(tmp_path / "saved")
    source = keras.tree.map_structure(tf.constant, SOURCES[kind])
    with keras_seq.ops.use_implementation("xla"):  # as exported
        decoded = tf.function(model.decode)(source)
    expected = {name: value.numpy() for name, value in decoded.items() if name != "scores"}
    expected["text"] = expected["text"].astype("S")
    endpoint = "generate_attention"
    if attention is None:
        endpoint, expected = "serving_default", {name: expected[name] for name in ("text", "log_probabilities")}
    results = run_in_new_process(LOAD_SAVED_MODEL, tmp_path, tmp_path / "saved", kind, endpoint)
    # TensorFlow optimizes the graph of the file in its own way, which may change the last bit of a sum.
    for name in {"attention_weights", "log_probabilities"} & expected.keys():
        np.testing.assert_allclose(results.pop(name), expected.pop(name), rtol=1e-6, atol=1e-7, err_msg=name)
    assert_equal(results, expected)
    beam = run_in_new_process(LOAD_SAVED_MODEL, tmp_path, tmp_path / "saved", kind, "generate_beam")
    assert beam["text"].shape == (3, 5)


def test_an_ensemble_is_saved_and_exported(tmp_path):
    model = keras_seq.Ensemble([make_trained_model("cnn of several sizes"), make_trained_model("cnn", "luong")])
    expected = model.generate(SOURCES["cnn"], return_dict=True, max_length=5)
    model.save(tmp_path / "model.keras")
    assert_equal(run_in_new_process(LOAD_KERAS, tmp_path, tmp_path / "model.keras", "cnn"), expected)
    model.export(tmp_path / "saved")
    results = run_in_new_process(LOAD_SAVED_MODEL, tmp_path, tmp_path / "saved", "cnn", "serving_default")
    assert [text.decode() for text in results["text"]] == model.generate(SOURCES["cnn"])


@pytest.mark.parametrize("kind", SOURCES)
def test_xla_compiles_training_and_decoding(kind):
    losses = []
    for jit_compile in (False, True):
        model = make_trained_model(kind, jit_compile=jit_compile)
        losses.append(model.fit(SOURCES[kind], WORDS, epochs=3, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    # XLA compiles no strings.
    model = keras_seq.Seq2Seq(model.encoder, model.decoder, source_spec=model.source_spec)
    source = keras.tree.map_structure(tf.constant, SOURCES[kind])
    compiled = tf.function(lambda x: model.decode(x, 5, drop_ended=False)["token_ids"], jit_compile=True)
    expected = model.generate(SOURCES[kind], max_length=5, return_dict=True)["token_ids"]
    np.testing.assert_array_equal(compiled(source)[:, : expected.shape[1]], expected)


@pytest.mark.parametrize("kind", SOURCES)
def test_mixed_bfloat16(kind, tmp_path):
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        model = make_trained_model(kind)
        logits = model(model.prepare(SOURCES[kind], WORDS)[0])
        assert logits.dtype == "bfloat16" and np.isfinite(logits.numpy().astype("float32")).all()
        model.save(tmp_path / "model.keras")
    finally:
        keras.config.set_dtype_policy(policy)
    expected = model.generate(SOURCES[kind], return_dict=True, max_length=5)
    assert_equal(run_in_new_process(LOAD_KERAS, tmp_path, tmp_path / "model.keras", kind), expected)

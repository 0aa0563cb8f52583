# SPDX-License-Identifier: Apache-2.0
"""Models with conditioning features trained, compiled by XLA, in bfloat16, tuned, and in new processes."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq

pytestmark = pytest.mark.slow

VECTORIZER = keras_seq.data.text_vectorizer(["abcd"])
SIZE = VECTORIZER.vocabulary_size()
WORDS = ["cab", "b", "dad"]
RNG = np.random.default_rng(0)
SOURCES = {
    "source": np.array(WORDS),
    "language": np.array(["fre", "hun", "eng"]),
    "pos": np.array([7, 12, 9]),
    "style": RNG.normal(size=(3, 2)).astype("float32"),
}
IMAGES = {"source": RNG.random((3, 5, 4, 2), "float32"), "language": SOURCES["language"]}

LOAD_KERAS = """
import sys, keras, keras_seq, numpy as np
model = keras.saving.load_model(sys.argv[1])
np.savez(sys.argv[3], **model.generate(dict(np.load(sys.argv[2])), return_dict=True, max_length=5))
"""
LOAD_SAVED_MODEL = """
import sys, tensorflow as tf, numpy as np
signature = tf.saved_model.load(sys.argv[1]).signatures[sys.argv[4]]
results = signature(**{name: tf.constant(values) for name, values in np.load(sys.argv[2]).items()})
assert "keras_seq" not in sys.modules
results = {name: value.numpy() for name, value in results.items()}
np.savez(sys.argv[3], **{**results, "text": results["text"].astype("S")})
"""


def make_features():
    return {
        "language": keras.layers.StringLookup(vocabulary=["fre", "hun"]),
        "pos": keras.layers.IntegerLookup(vocabulary=[7, 12]),
        "style": 2,
    }


def make_trained_model(sources=SOURCES, jit_compile="auto", attention="bahdanau", epochs=1):
    keras.utils.set_random_seed(0)
    decoder = keras_seq.Decoder(SIZE, 4, 5, attention=attention)
    if sources is SOURCES:
        encoder, vectorizer = keras_seq.Encoder(SIZE, 4, 5, cell="gru"), VECTORIZER
    else:
        encoder, vectorizer = keras.layers.Conv2D(6, 2), None
    features = {name: layer for name, layer in make_features().items() if name in sources}
    model = keras_seq.Seq2Seq(encoder, decoder, vectorizer, VECTORIZER, features=features, features_dim=3)
    model.compile("adam", jit_compile=jit_compile)
    model.fit(sources, WORDS, epochs=epochs, shuffle=False, verbose=0)
    return model


def run_in_new_process(script, tmp_path, path, sources, *arguments):
    np.savez(tmp_path / "sources.npz", **sources)
    program = [sys.executable, "-c", script, path, tmp_path / "sources.npz", tmp_path / "results.npz", *arguments]
    run = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    return dict(np.load(tmp_path / "results.npz"))


def assert_equal(results, expected):
    assert results.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(results[name], values, err_msg=name)


@pytest.mark.parametrize("sources", [SOURCES, IMAGES], ids=["texts", "images"])
class TestNewProcesses:
    def test_keras_file(self, sources, tmp_path):
        model = make_trained_model(sources)
        model.save(tmp_path / "model.keras")
        expected = model.generate(sources, return_dict=True, max_length=5)
        assert_equal(run_in_new_process(LOAD_KERAS, tmp_path, tmp_path / "model.keras", sources), expected)

    def test_saved_model_with_only_tensorflow(self, sources, tmp_path):
        model = make_trained_model(sources)
        model.export(tmp_path / "saved")
        with keras_seq.ops.use_implementation("xla"):  # as exported
            decoded = tf.function(model.decode)({name: tf.constant(values) for name, values in sources.items()})
        expected = {name: value.numpy() for name, value in decoded.items() if name != "scores"}
        expected["text"] = expected["text"].astype("S")
        results = run_in_new_process(LOAD_SAVED_MODEL, tmp_path, tmp_path / "saved", sources, "generate_attention")
        for name in ("attention_weights", "log_probabilities"):
            np.testing.assert_allclose(results.pop(name), expected.pop(name), rtol=1e-6, atol=1e-7, err_msg=name)
        assert_equal(results, expected)
        beam = run_in_new_process(LOAD_SAVED_MODEL, tmp_path, tmp_path / "saved", sources, "generate_beam")
        assert beam["text"].shape == (3, 5)
        none = {name: values[:0] for name, values in sources.items()}
        assert (
            run_in_new_process(LOAD_SAVED_MODEL, tmp_path, tmp_path / "saved", none, "serving_default")["text"].size
            == 0
        )


def test_an_ensemble_in_new_processes(tmp_path):
    model = keras_seq.Ensemble([make_trained_model(), make_trained_model(attention="luong")])
    expected = model.generate(SOURCES, return_dict=True, max_length=5)
    model.save(tmp_path / "model.keras")
    assert_equal(run_in_new_process(LOAD_KERAS, tmp_path, tmp_path / "model.keras", SOURCES), expected)
    model.export(tmp_path / "saved")
    results = run_in_new_process(LOAD_SAVED_MODEL, tmp_path, tmp_path / "saved", SOURCES, "serving_default")
    assert [text.decode() for text in results["text"]] == model.generate(SOURCES)


@pytest.mark.parametrize("sources", [SOURCES, IMAGES], ids=["texts", "images"])
def test_xla_compiles_training_and_decoding(sources):
    models = [make_trained_model(sources, jit_compile, epochs=3) for jit_compile in (False, True)]
    for weight, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-5)
    model = models[0]
    prepared = keras.tree.map_structure(tf.constant, model.prepare(sources, WORDS)[0][0])

    def decode(source):
        start = model.start_search(source)
        hypotheses = keras_seq.decoding.search(
            start.step,
            start.state,
            start.memory,
            start.first_tokens,
            tf.fill([3], 5),
            sampler="greedy",
            end_id=3,
            forbidden_ids=(0, 2),
            memory_mask=start.memory_mask,
            max_steps=5,
            drop_ended=False,
        )
        return hypotheses.token_ids[:, 0]

    compiled = tf.function(decode, jit_compile=True, autograph=False)(prepared).numpy()
    expected = model.generate(sources, max_length=5, return_dict=True)["token_ids"]
    np.testing.assert_array_equal(compiled[:, : expected.shape[1]], expected)


def test_mixed_bfloat16(set_dtype_policy, tmp_path):
    set_dtype_policy("mixed_bfloat16")
    model = make_trained_model()
    set_dtype_policy("float32")
    (inputs, target) = model.prepare(SOURCES, WORDS)
    logits = model(inputs)
    assert logits.dtype == "bfloat16" and model.feature_embedding.weights[0].dtype == "float32"
    results = model.generate(SOURCES, return_dict=True, max_length=5)
    model.save(tmp_path / "model.keras")
    assert_equal(run_in_new_process(LOAD_KERAS, tmp_path, tmp_path / "model.keras", SOURCES), results)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(target, tf.cast(logits, "float32"))
    np.testing.assert_allclose(model.score(SOURCES, WORDS), -np.where(target == 0, 0, losses).sum(1), rtol=1e-2)


def test_tuning():
    keras_tuner = pytest.importorskip("keras_tuner")
    hypermodel = keras_seq.tuning.Seq2SeqHyperModel(
        VECTORIZER, VECTORIZER, units=[4], features=make_features(), features_dim=[5, 7]
    )
    parameters = keras_tuner.HyperParameters()
    hypermodel.build(parameters)
    parameters.values["features_dim"] = 7
    model = hypermodel.build(parameters)
    assert model.feature_embedding.units == 21
    assert np.isfinite(model.fit(SOURCES, WORDS, verbose=0).history["loss"]).all()
    plain = keras_tuner.HyperParameters()
    keras_seq.tuning.Seq2SeqHyperModel(VECTORIZER, VECTORIZER, units=[4]).build(plain)
    assert "features_dim" in parameters.values and "features_dim" not in plain.values


@pytest.mark.parametrize("encoder", ["tokens", "one-hot vectors"])
def test_the_tag_of_a_source_decides_between_two_ciphers(encoder):
    keras.utils.set_random_seed(0)
    letters = "abcdef"
    ciphers = {"first": str.maketrans(letters, "bcdefa"), "second": str.maketrans(letters, "fedcba")}
    words = ["".join(np.random.default_rng(i).choice(list(letters), i % 4 + 1)) for i in range(400)]
    words = sorted(set(words))
    pairs = [(word, tag, word.translate(cipher)) for word in words for tag, cipher in ciphers.items()]
    sources, tags, targets = (list(part) for part in zip(*pairs, strict=True))
    vectorizer = keras_seq.data.text_vectorizer([letters])
    size = vectorizer.vocabulary_size()
    features = {"cipher": keras.layers.StringLookup(vocabulary=["first", "second"])}
    decoder = keras_seq.Decoder(size, 16, 64, cell="gru", seed=0)
    if encoder == "tokens":
        model = keras_seq.Seq2Seq(
            keras_seq.Encoder(size, 16, 32, cell="gru", seed=0), decoder, vectorizer, vectorizer, features=features
        )
        data = {"source": sources, "cipher": tags}
    else:  # only the decoder knows the tag
        onehot = keras.Sequential([keras.layers.Masking(), keras_seq.layers.GRU(32, return_sequences=True)])
        model = keras_seq.Seq2Seq(onehot, decoder, target_vectorizer=vectorizer, features=features)
        eye = np.eye(len(letters), dtype="float32")
        data = {"source": [eye[[letters.index(c) for c in source]] for source in sources], "cipher": tags}
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(data, targets, epochs=60, batch_size=64, verbose=0)
    assert model.generate(data) == targets
    other = {"first": "second", "second": "first"}
    swapped = {**data, "cipher": [other[tag] for tag in tags]}
    expected = [source.translate(ciphers[other[tag]]) for source, tag in zip(sources, tags, strict=True)]
    assert model.generate(swapped, sampler="beam") == expected

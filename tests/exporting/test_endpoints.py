# SPDX-License-Identifier: Apache-2.0
"""The endpoints of exported models that generate, called as a client would that has TensorFlow alone."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import draw

import keras_seq
from keras_seq.decoding import BeamSampler, RandomSampler

pytestmark = [
    pytest.mark.xdist_group("endpoints"),
    pytest.mark.slow,
    pytest.mark.usefixtures("no_forced_implementation"),
]
WORDS = ["abc", "", "eedcba", "a?b"]
VECTORIZER = keras_seq.data.text_vectorizer(["abcde"])
SIZE = VECTORIZER.vocabulary_size()
SCALARS = {"seed", "max_length", "temperature"}  # inputs without the batch


def make_model(vectorizers=(VECTORIZER, VECTORIZER), features=None, **options):
    encoder, decoder = keras_seq.Encoder(SIZE, 4, 8), keras_seq.Decoder(SIZE, 4, 8, **options)
    model = keras_seq.Seq2Seq(encoder, decoder, *vectorizers, features=features)
    for i, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(i).normal(0, 0.7, weight.shape))
    return model


def make_ensemble():
    return keras_seq.Ensemble([make_model(), make_model(attention="luong")])


def make_captioner():
    encoder = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(16, 3)])
    return keras_seq.Seq2Seq(encoder, keras_seq.Decoder(SIZE, 4, 8), target_vectorizer=VECTORIZER)


def make_language_model():
    return keras_seq.LanguageModel(embedding_dim=4, units=8, vectorizer=VECTORIZER, num_layers=2)


IDS = np.array([[4, 5, 3], [6, 3, 0]], "int32")
LOOKUP = keras.layers.StringLookup(vocabulary=["x", "y"])
FEATURES = {"source": WORDS, "language": ["x", "y", "x", "z"], "speed": draw(4, 2)}
DEEP = {"attention": "luong", "copy": True, "num_layers": 2, "readout": "maxout"}
MODELS = {  # how to make a model, and what it reads. An export takes seconds: each model has several kinds of parts
    "deep, with features": (lambda: make_model(features={"language": LOOKUP, "speed": 2}, **DEEP), FEATURES),
    "token ids, states of attention": (lambda: make_model((), attention=keras_seq.layers.MonotonicAttention(3)), IDS),
    "images": (make_captioner, draw(3, 6, 6, 1)),
    "Ensemble": (make_ensemble, WORDS),
    "LanguageModel": (make_language_model, WORDS[:1] + WORDS[2:]),
}


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    """`(model, sources, signatures, inputs)`, the last two those of an export in another process' view."""
    make, sources = MODELS[request.param]
    keras.utils.set_random_seed(1)
    model, path = make(), tmp_path_factory.mktemp("exported") / "model"
    # Other tests call `generate_beam`, and tracing it takes a quarter of the time.
    model.export(path, samplers=None if request.param == "LanguageModel" else {})
    inputs = sources if isinstance(sources, dict) else {"inputs": sources}
    loaded = tf.saved_model.load(path)
    yield model, sources, loaded.signatures, {name: tf.constant(values) for name, values in inputs.items()}


def texts(tensor):
    return [text.decode() for text in tensor.numpy()]


def test_the_default_endpoint_is_lean_and_gives_the_outputs_of_generate(exported):
    model, sources, signatures, inputs = exported
    results, expected = signatures["serving_default"](**inputs), model.generate(sources, return_dict=True)
    output = "token_ids" if model.target_vectorizer is None else "text"
    assert set(results) == {output, "log_probabilities"}
    np.testing.assert_allclose(results["log_probabilities"], expected["log_probabilities"], rtol=1e-4)
    if output == "text":
        assert texts(results["text"]) == model.generate(sources)
    else:
        np.testing.assert_array_equal(results["token_ids"], expected["token_ids"])


def test_a_limit_and_attention(exported):
    model, sources, signatures, inputs = exported
    expected = model.generate(sources, 3, return_dict=True)
    results = signatures["generate_max_length"](**inputs, max_length=tf.constant(3))
    np.testing.assert_array_equal(results["token_ids"], expected["token_ids"])
    assert ("generate_attention" in signatures) == model.has_attention
    if model.has_attention:
        weights = model.generate(sources, return_dict=True)["attention_weights"]
        np.testing.assert_allclose(signatures["generate_attention"](**inputs)["attention_weights"], weights, atol=1e-5)


def test_scores(exported):
    model, sources, signatures, inputs = exported
    if isinstance(model, keras_seq.LanguageModel):
        results, expected = signatures["score"](**inputs), model.score(sources, return_dict=True)
    elif model.target_vectorizer is None:
        targets = np.array([[4, 4, 3], [3, 0, 0]], "int32")
        results = signatures["score"](**inputs, targets=tf.constant(targets))
        expected = model.score(sources, targets, return_dict=True)
        without_end = signatures["score"](**inputs, targets=tf.constant([[4, 4], [0, 0]]))
        np.testing.assert_allclose(without_end["log_probabilities"], expected["log_probabilities"], rtol=1e-5)
    else:
        targets = ["ab", "", "cde", "e"][: len(next(iter(inputs.values())))]
        results = signatures["score"](**inputs, targets=tf.constant(targets))
        expected = model.score(sources, targets, return_dict=True)
    for name, values in expected.items():
        time = values.shape[1] if values.ndim > 1 else None
        actual = results[name].numpy() if time is None else results[name].numpy()[:, :time]
        np.testing.assert_allclose(actual, values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_client_that_searches_itself_finds_the_greedy_outputs(exported):
    model, sources, signatures, inputs = exported
    expected = model.generate(sources, return_dict=True)
    given = {name: value.numpy() for name, value in signatures["encode"](**inputs).items()}
    tokens, limits = given.pop("tokens"), given.pop("limits")
    outputs, sums = [[] for _ in tokens], np.zeros(len(tokens))
    is_live = limits > 0
    while is_live.any():
        results = signatures["step"](tokens=tf.constant(tokens), **{n: tf.constant(x) for n, x in given.items()})
        given |= {name: value.numpy() for name, value in results.items() if name in given}
        log_probabilities = results["log_probabilities"].numpy()
        assert np.all(np.isneginf(log_probabilities[:, [0, 2]]))
        assert ("attention_weights" in results) == model.has_attention
        tokens = log_probabilities.argmax(axis=1).astype("int32")
        for row in np.flatnonzero(is_live):
            outputs[row].append(tokens[row])
            sums[row] += log_probabilities[row, tokens[row]]
            is_live[row] = tokens[row] != 3 and len(outputs[row]) < limits[row]
    assert [[i for i in row if i] for row in expected["token_ids"].tolist()] == outputs
    np.testing.assert_allclose(sums, expected["log_probabilities"], rtol=1e-4)


def test_an_empty_batch_gives_an_empty_batch_at_each_endpoint(exported):
    *_, signatures, _ = exported

    def call(name, size, given=None):
        """Calls an endpoint with an empty batch; other axes of unknown length have this size."""
        arguments = {}
        for key, spec in signatures[name].structured_input_signature[1].items():
            shape = [size if length is None else length for length in spec.shape]
            fill = tf.ones if key == "temperature" else tf.zeros
            arguments[key] = fill(shape if key in SCALARS else [0, *shape[1:]], spec.dtype)
        results = signatures[name](**(arguments if given is None else given))
        assert {key: value.shape[0] for key, value in results.items()} == dict.fromkeys(results, 0), name
        return results

    for size in (0, 1):
        for name in set(signatures) - {"encode", "step"}:
            call(name, size)
        started = call("encode", size)
        call("step", size, {name: value for name, value in started.items() if name != "limits"})


def test_samplers_that_draw_take_a_seed(tmp_path):
    model = make_model()
    samplers = {"n_best": BeamSampler(3, num_return_sequences=2), "warm": RandomSampler(0.8), "any": "top_p"}
    model.export(tmp_path / "model", samplers=samplers)
    loaded = tf.saved_model.load(tmp_path / "model")
    inputs = tf.constant(WORDS)
    beams = loaded.signatures["generate_n_best"](inputs=inputs)
    np.testing.assert_array_equal(
        np.char.decode(beams["text"].numpy().astype("S")),
        model.generate(WORDS, return_dict=True, sampler=samplers["n_best"])["text"],
    )
    for name, sampler in list(samplers.items())[1:]:
        drawn = [
            texts(loaded.signatures[f"generate_{name}"](inputs=inputs, seed=tf.constant([seed, 0]))["text"])
            for seed in (5, 5, 6)
        ]
        assert drawn[0] == drawn[1] == model.generate(WORDS, sampler=sampler, seed=5)
        assert drawn[1] != drawn[2]
    assert "generate_beam" not in loaded.signatures


def test_a_forecaster_gives_point_forecasts_alone(tmp_path):
    model, past = keras_seq.Forecaster(4, 6, output="gaussian"), draw(3, 7, 1)
    expected = model.predict(past, verbose=0)
    model.export(tmp_path / "model", num_samples=5)
    signatures = tf.saved_model.load(tmp_path / "model").signatures
    inputs = {"past": tf.constant(past), "past_mask": tf.ones(past.shape, "bool")}
    inputs = {name: inputs[name] for name in signatures["predict"].structured_input_signature[1]}
    results = signatures["predict"](**inputs)
    assert set(results) == {"mean"}
    np.testing.assert_allclose(results["mean"], expected, rtol=1e-5)
    for name in ("predict", "serving_default", "forecast_samples"):
        extra = {"seed": tf.constant(1)} if name == "forecast_samples" else {}
        empty = signatures[name](**{key: value[:0] for key, value in inputs.items()}, **extra)
        assert {value.shape[0] for value in empty.values()} == {0}


def test_saved_model_cli_runs_an_export(tmp_path):
    """In an environment in which keras and keras_seq cannot be imported."""
    model = make_model()
    model.export(tmp_path / "model")
    for name in ("keras", "keras_seq"):
        (tmp_path / "blocked" / name).mkdir(parents=True)
        (tmp_path / "blocked" / name / "__init__.py").write_text("raise ImportError('blocked')\n")
    command = [
        *(pathlib.Path(sys.executable).with_name("saved_model_cli"), "run", "--dir", tmp_path / "model"),
        *("--tag_set", "serve", "--signature_def", "serving_default", "--input_exprs", "inputs=[b'abc', b'e']"),
        *("--outdir", tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "blocked")}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert [text.decode() for text in np.load(tmp_path / "text.npy", allow_pickle=True)] == model.generate(["abc", "e"])


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"samplers": ["beam"]}, "`samplers` must be a dict"),
            ({"samplers": {"n best": "beam"}}, "letters, digits and underscores.* Received: 'n best'"),
            ({"samplers": {"max_length": "beam"}}, "not be 'max_length', 'attention'. Received: 'max_length'"),
            ({"samplers": {"best": "best"}}, "`sampler` must be a `Sampler` or one of"),
            ({"samplers": {"best": BeamSampler(99)}}, "99"),
        ],
    )
    def test_samplers(self, arguments, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            make_model().export(tmp_path / "never", **arguments)
        assert not any(tmp_path.iterdir())

    def test_a_feature_with_the_name_of_an_input(self, tmp_path):
        with pytest.raises(ValueError, match="name of an input of its signatures"):
            make_model(features={"max_length": 2}).export(tmp_path / "never")


@pytest.mark.parametrize("temperature", [0.0, np.nan])
def test_generate_random_raises_for_a_temperature_that_gives_no_probabilities(temperature):
    """It answered with padding and a probability."""
    model = keras_seq.LanguageModel(9, embedding_dim=4, units=4)
    draw, _ = model.endpoints()["generate_random"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="`temperature` must be a positive number"):
        tf.function(draw)(tf.zeros([1, 0], tf.int32), tf.constant([1, 0]), tf.constant(temperature), tf.constant(3))

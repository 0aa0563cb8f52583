# SPDX-License-Identifier: Apache-2.0
"""Ensembles: what they predict is the average of what their members predict, in every way of asking for it."""

import itertools
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq
from keras_seq.data.vocabulary import END_ID, START_ID
from keras_seq.models import Ensemble

WORDS = ["abc", "", "dda", "b", "cz"]  # "z" is unknown
TARGETS = ["ca", "abcd", "", "dd", "b"]
AVERAGES = ["probabilities", "log_probabilities"]


def make_vectorizer(letters="abcd", **options):
    return keras_seq.data.text_vectorizer([letters], **options)


def make_member(seed, units=4, vectorizer=None, sizes=None, encoder=None, **decoder):
    """A model with random weights, large enough that its probabilities are far from uniform."""
    sizes = [vectorizer.vocabulary_size()] * 2 if sizes is None else sizes
    model = keras_seq.Seq2Seq(
        keras_seq.Encoder(sizes[0], 3, units, **(encoder or {})),
        keras_seq.Decoder(sizes[1], 3, units, **decoder),
        *([] if vectorizer is None else [vectorizer, vectorizer]),
        name="member",  # all the same, as in files of several runs
    )
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


def make_members():
    """Three models that differ in all that members may differ in."""
    vectorizer = make_vectorizer()
    return [
        make_member(1, 5, vectorizer, attend="before"),
        make_member(2, 4, vectorizer, cell="gru", attention="luong", encoder={"cell": "mgu", "num_layers": 2}),
        make_member(3, 6, make_vectorizer(), cell="rnn", attention=None, encoder={"bidirectional": False}),
    ]


@pytest.fixture(scope="module")
def members():
    return make_members()


@pytest.fixture(scope="module")
def ensemble(members):
    return Ensemble(members)


def averaged_log_probabilities(models, source, decoder_inputs, average="probabilities"):
    """The expected prediction (batch, time, vocabulary), in float64 from the members' logits."""
    logits = [np.asarray(model((source, decoder_inputs)), "float64") for model in models]
    probabilities = [np.exp(values - values.max(-1, keepdims=True)) for values in logits]
    probabilities = [values / values.sum(-1, keepdims=True) for values in probabilities]
    mean = np.mean(probabilities, axis=0)
    if average == "log_probabilities":
        mean = np.prod(probabilities, axis=0) ** (1 / len(models))
        mean /= mean.sum(-1, keepdims=True)
    return np.log(mean)


def expected_score(models, word, token_ids, average="probabilities"):
    """The expected log-probability of the tokens of one target."""
    source = models[0].prepare([word], [""])[0][0]
    log_probabilities = averaged_log_probabilities(
        models, source, np.array([[START_ID, *token_ids[:-1]]], "int32"), average
    )
    return sum(log_probabilities[0, t, token] for t, token in enumerate(token_ids))


@pytest.mark.parametrize("average", AVERAGES)
def test_logits_are_the_logarithm_of_the_average(members, average):
    inputs, _ = members[0].prepare(WORDS, TARGETS)
    logits = Ensemble(members, average)(inputs)
    assert logits.dtype == "float32"
    np.testing.assert_allclose(logits, averaged_log_probabilities(members, *inputs, average), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tf.reduce_sum(tf.exp(logits), -1), np.ones(logits.shape[:-1]), rtol=1e-5)


@pytest.mark.parametrize("average", AVERAGES)
def test_probabilities_that_underflow_have_finite_logarithms(average):
    members = [make_member(seed, sizes=(6, 7), attention=None) for seed in range(2)]
    for member in members:
        member.decoder.readout.bias.assign([0, -1000, 5, -500, -2000, 1, 3])
    inputs = np.array([[4, 5, 3]]), np.array([[2, 4]])
    logits = np.stack([np.asarray(model(inputs), "float64") for model in members])
    log_probabilities = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    expected = np.logaddexp.reduce(log_probabilities, axis=0) - np.log(2)
    if average == "log_probabilities":
        mean = log_probabilities.mean(0)
        expected = mean - np.logaddexp.reduce(mean, axis=-1, keepdims=True)
    assert expected.min() < -1000
    np.testing.assert_allclose(Ensemble(members, average)(inputs), expected, rtol=1e-5)


def test_members_of_another_dtype_are_averaged_in_float32(members):
    inputs, _ = members[0].prepare(WORDS, TARGETS)
    half = keras_seq.Seq2Seq(
        keras_seq.Encoder(8, 3, 4, dtype="mixed_bfloat16"),
        keras_seq.Decoder(8, 3, 4, dtype="mixed_bfloat16"),
        members[0].source_vectorizer,
        members[0].target_vectorizer,
    )
    models = [members[0], half]
    assert half(inputs).dtype == "bfloat16"
    logits = Ensemble(models)(inputs)
    assert logits.dtype == "float32"
    np.testing.assert_allclose(logits, averaged_log_probabilities(models, *inputs), rtol=1e-5, atol=1e-5)


def make_sampler(name, **options):
    return type(keras_seq.decoding.get_sampler(name))(**options)


@pytest.mark.parametrize(
    ("name", "options", "index"),
    [
        ("greedy", {}, 2),
        pytest.param("greedy", {}, 1, marks=pytest.mark.slow),
        pytest.param("random", {"temperature": 1.3}, 0, marks=pytest.mark.slow),
        pytest.param("top_k", {"k": 3}, 1, marks=pytest.mark.slow),
        pytest.param("top_p", {"p": 0.8}, 2, marks=pytest.mark.slow),
        pytest.param("beam", {"num_beams": 3, "num_return_sequences": 2}, 0, marks=pytest.mark.slow),
        pytest.param("beam", {"num_beams": 4, "coverage_penalty": 0.5}, 1, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("average", [AVERAGES[0], pytest.param(AVERAGES[1], marks=pytest.mark.slow)])
def test_an_ensemble_of_one_model_generates_what_the_model_does(members, name, options, index, average):
    options = {"sampler": make_sampler(name, **options), "max_length": 6, "return_dict": True, "seed": 3}
    actual = Ensemble([members[index]], average).generate(WORDS, **options)
    expected = members[index].generate(WORDS, **options)
    assert set(actual) == set(expected)
    for name in ("text", "token_ids"):
        np.testing.assert_array_equal(actual[name], expected[name])
    for name in ("log_probabilities", "scores", "attention_weights"):
        np.testing.assert_allclose(actual[name], expected[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("average", [AVERAGES[0], pytest.param(AVERAGES[1], marks=pytest.mark.slow)])
def test_scores_are_sums_of_averaged_log_probabilities(members, average):
    scores = Ensemble(members, average).score(WORDS, TARGETS)
    vectorizer = members[0].target_vectorizer
    expected = [
        expected_score(members, word, [*vectorizer([text])[0].numpy(), END_ID], average)
        for word, text in zip(WORDS, TARGETS, strict=True)
    ]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("processors", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_log_probability_of_an_output_is_its_score(ensemble, members, processors):
    options = {"sampler": make_sampler("beam", num_beams=3, num_return_sequences=2), "max_length": 8}
    if processors:
        options["processors"] = [keras_seq.decoding.MinLength(3, END_ID), keras_seq.decoding.NoRepeatNGram(2)]
    results = ensemble.generate(WORDS, **options, return_dict=True)
    for word, token_ids, log_probabilities in zip(
        WORDS, results["token_ids"], results["log_probabilities"], strict=True
    ):
        expected = [expected_score(members, word, [token for token in ids if token]) for ids in token_ids]
        np.testing.assert_allclose(log_probabilities, expected, atol=1e-5)


def test_a_beam_as_wide_as_the_space_finds_the_most_probable_outputs():
    models = [make_member(seed, sizes=(7, 9), cell=cell) for seed, cell in [(5, "gru"), (6, "lstm")]]
    source, others = np.array([[4, 6, 5, 3]], "int32"), [1, 4, 5, 6, 7, 8]
    # All outputs of at most two tokens, padded.
    token_ids = [[END_ID, 0], *([a, b] for a, b in itertools.product(others, [END_ID, *others]))]
    token_ids = np.array(token_ids, "int32")
    inputs = np.stack([np.full(len(token_ids), START_ID), token_ids[:, 0]], axis=1)
    log_probabilities = averaged_log_probabilities(models, np.repeat(source, len(token_ids), axis=0), inputs)
    chosen = np.take_along_axis(log_probabilities, token_ids[:, :, None], axis=-1)[:, :, 0]
    totals = np.where(token_ids > 0, chosen, 0).sum(-1)
    order = np.argsort(-totals)[:7]
    sampler = make_sampler("beam", num_beams=7, num_return_sequences=7)
    results = Ensemble(models).generate(source, sampler=sampler, max_length=2, return_dict=True)
    np.testing.assert_allclose(results["log_probabilities"][0], totals[order], atol=1e-5)
    np.testing.assert_array_equal(results["token_ids"][0], token_ids[order])


def test_attention_weights_are_the_mean_over_the_members_that_have_attention(members):
    source = members[0].prepare(WORDS, TARGETS)[0][0]
    tokens, is_live = tf.fill([len(WORDS)], START_ID), tf.fill([len(WORDS)], True)

    def first_weights(model):
        step, state, memory, *_ = model.start_search(source, 1)
        return step(tokens, state, memory, is_live)[2]

    expected = np.mean([first_weights(model) for model in members[:2]], axis=0)
    np.testing.assert_allclose(first_weights(Ensemble(members)), expected, rtol=1e-6)
    assert first_weights(Ensemble(members[2:])).shape == (len(WORDS), 0)


def test_weights_are_shared_with_the_members():
    models = [make_member(seed, sizes=(9, 7), attention=None) for seed in range(2)]
    ensemble = Ensemble(models)
    assert {id(weight) for weight in ensemble.weights} == {id(weight) for model in models for weight in model.weights}
    source = np.array([[4, 8, 3]])
    for change in (False, True):
        if change:  # as training does
            for weight in models[1].weights:
                weight.assign(weight * 2)
        results = ensemble.generate(source, max_length=5, return_dict=True)  # compiled the first time
        token_ids = [token for token in results["token_ids"][0] if token]
        inputs = np.array([[START_ID, *token_ids[:-1]]])
        expected = averaged_log_probabilities(models, source, inputs)[0, range(len(token_ids)), token_ids].sum()
        np.testing.assert_allclose(results["log_probabilities"], [expected], atol=1e-5)


def test_evaluate_gives_the_mean_over_tokens(ensemble, members):
    ensemble.compile(metrics=[keras_seq.training.Perplexity()], jit_compile=False)
    vectorizer = members[0].target_vectorizer
    token_ids = [[*vectorizer([text])[0].numpy(), END_ID] for text in TARGETS]
    total = sum(expected_score(members, word, ids) for word, ids in zip(WORDS, token_ids, strict=True))
    expected = -total / sum(map(len, token_ids))
    results = ensemble.evaluate(WORDS, TARGETS, batch_size=2, verbose=0, return_dict=True)
    np.testing.assert_allclose(results["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(results["perplexity"], np.exp(expected), rtol=1e-5)


@pytest.mark.slow
def test_predict_gives_logits(ensemble, members):
    inputs, _ = ensemble.prepare(WORDS, TARGETS)
    expected = averaged_log_probabilities(members, *inputs)
    np.testing.assert_allclose(ensemble.predict(inputs, verbose=0), expected, rtol=1e-5, atol=1e-5)


def test_an_ensemble_does_not_train(ensemble):
    ensemble.compile()
    with pytest.raises(NotImplementedError, match="Train its members"):
        ensemble.fit(WORDS, TARGETS)
    with pytest.raises(NotImplementedError, match="Train its members"):
        ensemble.train_on_batch(WORDS, TARGETS)


def test_explain_lists_the_layers_of_all_members(ensemble, members):
    rows = keras_seq.explain(ensemble, print_fn=None)
    assert rows == [row for model in members for row in keras_seq.explain(model, print_fn=None)]
    assert len(rows) == 4 + 6 + 3  # recurrent layers, and the decoder of each member


def test_a_loaded_ensemble_is_the_same(members, tmp_path):
    ensemble = Ensemble(members, "log_probabilities", name="jury")
    ensemble.compile(sampler=make_sampler("beam", num_beams=2))
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    assert (loaded.name, loaded.average, len(loaded.models)) == ("jury", "log_probabilities", 3)
    assert loaded.sampler.num_beams == 2
    assert loaded.loss.get_config() == ensemble.loss.get_config()
    inputs, _ = ensemble.prepare(WORDS, TARGETS)
    np.testing.assert_array_equal(loaded(inputs), ensemble(inputs))


EXPORTED = """
import sys, numpy as np, tensorflow as tf
signatures = tf.saved_model.load(sys.argv[1]).signatures
inputs = tf.constant(sys.argv[3:])
results = [signatures[name](inputs=inputs) for name in ("generate_attention", "generate_beam")]
assert "keras_seq" not in sys.modules
np.savez(sys.argv[2], *(r[name] for r in results for name in ("token_ids", "log_probabilities")))
"""


@pytest.mark.slow
def test_a_saved_model_in_a_process_with_only_tensorflow(ensemble, tmp_path):
    ensemble.export(tmp_path / "saved_model")
    script = [sys.executable, "-c", EXPORTED, tmp_path / "saved_model", tmp_path / "results.npz", *WORDS]
    run = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    beam = make_sampler("beam", num_beams=5, num_return_sequences=5)
    expected = [ensemble.generate(WORDS, sampler=sampler, return_dict=True) for sampler in ("greedy", beam)]
    actual = np.load(tmp_path / "results.npz")
    for i, name in enumerate(("token_ids", "log_probabilities")):
        np.testing.assert_allclose(actual[f"arr_{i}"], expected[0][name], rtol=1e-5)
        np.testing.assert_allclose(actual[f"arr_{2 + i}"], expected[1][name], rtol=1e-5)


def test_parts_that_members_share_are_saved_once(members, tmp_path):
    vectorizer, encoder = members[0].source_vectorizer, members[0].encoder
    decoder = keras_seq.Decoder(8, 3, 7)
    ensemble = Ensemble([members[0], keras_seq.Seq2Seq(encoder, decoder, vectorizer, vectorizer)])
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    assert loaded.models[0].encoder is loaded.models[1].encoder
    inputs, _ = ensemble.prepare(WORDS, TARGETS)
    np.testing.assert_array_equal(loaded(inputs), ensemble(inputs))


@pytest.mark.slow
def test_members_loaded_from_files_make_an_ensemble(members, tmp_path):
    paths = [tmp_path / f"{i}.keras" for i in range(len(members))]
    for model, path in zip(members, paths, strict=True):
        model.save(path)
    ensemble = Ensemble([keras.saving.load_model(path) for path in paths])
    inputs, _ = ensemble.prepare(WORDS, TARGETS)
    np.testing.assert_array_equal(ensemble(inputs), Ensemble(members)(inputs))


def other_vocabulary(letters, **options):
    return lambda model: make_member(0, vectorizer=make_vectorizer(letters, **options))


@pytest.mark.parametrize(
    ("make_models", "message"),
    [
        (lambda model: [], "a list of at least one `Seq2Seq`. Received: \\[\\]"),
        (lambda model: model, "a list of at least one `Seq2Seq`. Received: <Seq2Seq"),
        (lambda model: "model", "Received: 'model'"),
        (lambda model: [model, model.encoder], "Received: <Encoder.* at index 1"),
        (lambda model: [Ensemble([model])], "Received: <Ensemble.* at index 0"),
        (lambda model: [None], "Received: None at index 0"),
        (
            lambda model: [model, make_member(0, vectorizer=model.source_vectorizer), model],
            "the same model at indices 0 and 2",
        ),
        (
            lambda model: [model, make_member(0, sizes=(8, 8))],
            "same source vocabulary. Received: models 0 and 1, with a `source_vectorizer` and no `source_vectorizer`",
        ),
        (
            lambda model: [model, other_vocabulary("abxd")(model)],
            "models 0 and 1, with the tokens 'd' and 'x' of id 4",
        ),
        (lambda model: [model, other_vocabulary("bcd")(model)], "with 8 and 7 tokens"),
        (
            lambda model: [model, other_vocabulary("abcd", standardize="lower")(model)],
            "with vectorizers with standardize=None and 'lower'",
        ),
    ],
)
def test_models_that_cannot_be_averaged_are_an_error(members, make_models, message):
    with pytest.raises(ValueError, match=f"`models` must .*{message}"):
        Ensemble(make_models(members[0]))


def test_different_target_vocabularies_are_an_error():
    models = [make_member(0, sizes=(9, size)) for size in (7, 7, 8)]
    with pytest.raises(ValueError, match=r"same target vocabulary. Received: models 0 and 2, with .* 7 and 8"):
        Ensemble(models)


def test_an_unknown_average_is_an_error(members):
    with pytest.raises(ValueError, match=r"`average` must be .* Received: 'geometric'"):
        Ensemble(members, average="geometric")

# SPDX-License-Identifier: Apache-2.0
"""The tuners of keras-tuner search `Seq2SeqHyperModel`, and the hyperparameters reach the models."""

import importlib
import subprocess
import sys

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf

from keras_seq import data, layers
from keras_seq.models import Seq2Seq
from keras_seq.training import DecodingReport
from keras_seq.tuning import ChoiceHyperModel, ForecasterHyperModel, LanguageModelHyperModel, Seq2SeqHyperModel

RANGES = {"units": (8, 16), "embedding_dim": (4, 8), "dropout": (0.0, 0.2), "learning_rate": (1e-3, 1e-2)}
STEPS = 5  # in an epoch


@pytest.fixture(scope="module")
def pairs():
    words, pronunciations = data.load_cmudict()["train"]
    indices = np.random.default_rng(0).permutation(len(words))[:200]
    return [words[i] for i in indices], [pronunciations[i] for i in indices]


@pytest.fixture(scope="module")
def vectorizers(pairs):
    words, pronunciations = pairs
    return data.text_vectorizer(words), data.text_vectorizer(pronunciations, split="whitespace")


@pytest.fixture(scope="module")
def datasets(pairs):
    training, held_out = ([column[part] for column in pairs] for part in (slice(160), slice(160, None)))
    return (
        tf.data.Dataset.from_tensor_slices(tuple(training)).batch(160 // STEPS),
        tf.data.Dataset.from_tensor_slices(tuple(held_out)).batch(40),
    )


def searched_values(trial):
    return {name: trial.hyperparameters.get(name) for name in (*RANGES, "cell", "attention")}


def assert_generates(model, pairs):
    outputs = model.generate(pairs[0][:3])
    assert [type(output) for output in outputs] == [str] * 3


@pytest.mark.slow
def test_random_search_finds_and_reloads_the_best_model(vectorizers, datasets, pairs, tmp_path):
    training, held_out = datasets

    def new_tuner():
        return keras_tuner.RandomSearch(
            Seq2SeqHyperModel(*vectorizers, cell=["gru"], **RANGES),
            "val_loss",
            max_trials=2,
            seed=1,
            directory=tmp_path,
        )

    new_tuner().search(training, validation_data=held_out, epochs=2, verbose=0)
    tuner = new_tuner()  # reads the results of the first one from disk
    first, second = tuner.oracle.get_best_trials(2)
    assert searched_values(first) != searched_values(second)
    assert first.score < second.score
    for trial, model in zip((first, second), tuner.get_best_models(2), strict=True):
        assert isinstance(model, Seq2Seq)
        assert model.encoder.units == model.decoder.units == trial.hyperparameters.get("units")
        # get_best_models restores the weights of the best epoch.
        np.testing.assert_allclose(model.evaluate(held_out, verbose=0)[0], trial.score, rtol=1e-5)
        assert_generates(model, pairs)


@pytest.mark.slow
def test_hyperband_resumes_training(vectorizers, datasets, pairs, tmp_path):
    training, held_out = datasets
    tuner = keras_tuner.Hyperband(
        Seq2SeqHyperModel(*vectorizers, cell=["gru"], **RANGES),
        keras_tuner.Objective("val_token_accuracy", "max"),
        max_epochs=2,
        factor=2,
        seed=1,
        directory=tmp_path,
    )
    tuner.search(training, validation_data=held_out, verbose=0)
    trials = tuner.oracle.get_best_trials(10)
    assert [trial.status for trial in trials] == ["COMPLETED"] * 5
    assert len({tuple(searched_values(trial).values()) for trial in trials}) == 4
    (resumed,) = (trial for trial in trials if "tuner/trial_id" in trial.hyperparameters.values)
    # It resumed from the checkpoint of another trial, with the state of Adam: an epoch each.
    assert int(tuner.load_model(resumed).optimizer.iterations) == 2 * STEPS
    (best,) = tuner.get_best_models(1)
    np.testing.assert_allclose(best.evaluate(held_out, verbose=0)[1], trials[0].score, rtol=1e-5)
    assert trials[0].score == max(trial.score for trial in trials)
    assert_generates(best, pairs)


@pytest.mark.slow
def test_search_minimizes_the_error_rate_of_a_decoding_report(vectorizers, datasets, pairs, tmp_path):
    words, pronunciations = pairs
    report = DecodingReport(words[:20], [[pronunciation] for pronunciation in pronunciations[:20]], samples=0)
    tuner = keras_tuner.RandomSearch(
        Seq2SeqHyperModel(*vectorizers, cell=["rnn"], attention=["none"], **RANGES),
        keras_tuner.Objective("val_token_error_rate", "min"),
        max_trials=1,
        directory=tmp_path,
    )
    training, held_out = datasets
    tuner.search(training, validation_data=held_out, epochs=1, callbacks=[report], verbose=0)
    (best,) = tuner.oracle.get_best_trials(1)
    assert best.score > 0


@pytest.mark.parametrize("attention", ["bahdanau", "none"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "simple_rnn"])
def test_hyperparameters_reach_the_model(vectorizers, cell, attention):
    values = {
        "cell": cell,
        "units": 16,
        "embedding_dim": 8,
        "dropout": 0.2,
        "attention": attention,
        "learning_rate": 0.002,
    }
    hp = keras_tuner.HyperParameters()
    for name, value in values.items():
        hp.Fixed(name, value)
    model = Seq2SeqHyperModel(*vectorizers, **RANGES).build(hp)
    for part in (model.encoder, model.decoder):
        assert (part.cell, part.units, part.embedding_dim, part.dropout) == (cell, 16, 8, 0.2)
    assert model.decoder.attention == (None if attention == "none" else attention)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.002)
    assert model.encoder.vocabulary_size == vectorizers[0].vocabulary_size()
    assert model.decoder.vocabulary_size == vectorizers[1].vocabulary_size()


def test_the_default_search_space(vectorizers):
    hp = keras_tuner.HyperParameters()
    Seq2SeqHyperModel(*vectorizers).build(hp)
    space = {parameter.name: parameter for parameter in hp.space}
    fixed = {"num_layers": 1, "bidirectional": True, "tie_embeddings": False, "recurrent_dropout": 0.0}
    fixed |= {"readout": "linear", "layer_norm": False, "token_dropout": 0.0, "label_smoothing": 0.0}
    assert set(space) == {*RANGES, *fixed, "cell", "attention"}
    assert {name: space[name].values for name in fixed} == {name: [value] for name, value in fixed.items()}
    assert space["cell"].values == ["lstm", "gru", "simple_rnn"]
    assert space["attention"].values == ["bahdanau", "none"]
    rate = space["learning_rate"]
    assert (rate.min_value, rate.max_value, rate.sampling) == (1e-4, 1e-2, "log")


def test_single_values_are_fixed(vectorizers):
    hp = keras_tuner.HyperParameters()
    single = {"cell": ["gru"], "units": [8], "embedding_dim": [4], "dropout": [0.1], "attention": ["none"]}
    Seq2SeqHyperModel(*vectorizers, **single, learning_rate=(1e-3, 1e-3)).build(hp)
    samples = {parameter.name: parameter.random_sample() for parameter in hp.space}
    assert {name: samples[name] for name in single} == {name: values[0] for name, values in single.items()}
    assert samples["learning_rate"] == 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cell": "lstm"}, "`cell` must be a list or tuple with at least one value. Received: 'lstm'"),
        ({"units": 64}, "`units` must be a list or tuple"),
        ({"dropout": []}, r"`dropout` must be.*Received: \[\]"),
        ({"learning_rate": 1e-3}, "`learning_rate` must be a list or tuple"),
        ({"learning_rate": [1e-3]}, "`learning_rate` must be two positive numbers"),
        ({"learning_rate": (1e-2, 1e-3)}, "in ascending order. Received"),
        ({"learning_rate": (0, 1e-3)}, "`learning_rate` must be two positive numbers"),
    ],
)
def test_bad_ranges_raise(vectorizers, arguments, message):
    with pytest.raises(ValueError, match=message):
        Seq2SeqHyperModel(*vectorizers, **arguments)


def build_with(hypermodel, **values):
    hp = keras_tuner.HyperParameters()
    for name, value in values.items():
        hp.Fixed(name, value)
    return hypermodel.build(hp)


def test_the_options_of_deep_models_reach_encoder_and_decoder(vectorizers):
    cell = layers.LSTMCell(6, layer_norm=True)
    lists = {
        "cell": ["gru", cell],
        "num_layers": [1, 3],
        "bidirectional": [True, False],
        "tie_embeddings": [True, False],
    }
    hypermodel = Seq2SeqHyperModel(*vectorizers, **RANGES, **lists, recurrent_dropout=[0.0, 0.25])
    model = build_with(hypermodel, num_layers=3, bidirectional=0, tie_embeddings=1, recurrent_dropout=0.25)
    assert (model.encoder.num_layers, model.decoder.num_layers) == (3, 3)
    assert (model.encoder.bidirectional, model.decoder.tie_embeddings) == (False, True)
    assert model.encoder.recurrent_dropout == model.decoder.recurrent_dropout == 0.25
    model = build_with(hypermodel, cell="LSTMCell_1")
    assert model.encoder.cell is model.decoder.cell is cell
    assert model.encoder.units == 6


def test_readout_normalization_token_dropout_and_label_smoothing_reach_the_model(vectorizers):
    lists = {
        "readout": ["linear", "tanh", "maxout"],
        "layer_norm": [False, True],
        "token_dropout": [0.0, 0.1],
        "label_smoothing": [0, 0.2],
    }
    hypermodel = Seq2SeqHyperModel(*vectorizers, **RANGES, **lists)
    model = build_with(hypermodel, readout="maxout", layer_norm=1, token_dropout=0.1, label_smoothing=0.2)
    assert model.encoder.layer_norm is model.decoder.layer_norm is True
    config = model.decoder.get_config()
    assert (config["readout"], config["token_dropout"]) == ("maxout", 0.1)
    assert model.loss.label_smoothing == 0.2
    model = build_with(hypermodel, readout="linear", layer_norm=0, token_dropout=0.0, label_smoothing=0.0)
    assert (model.decoder.deep_readout, model.encoder.layer_norms, model.loss.label_smoothing) == (None, [], 0)


def test_any_encoder(vectorizers):
    cnn = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3)])
    models = [Seq2SeqHyperModel(None, vectorizers[1], **RANGES, encoder=cnn).build(keras_tuner.HyperParameters())]
    models += [build_with(Seq2SeqHyperModel(None, vectorizers[1], **RANGES, encoder=cnn))]
    for model in models:  # each trains a copy
        assert isinstance(model.encoder, keras.Sequential)
        assert model.encoder is not cnn
        for weight, original in zip(model.encoder.get_weights(), cnn.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, original)
        model.fit(np.ones((4, 8, 8, 1)), ["K AE T"] * 4, verbose=0)
    assert np.any(models[0].encoder.get_weights()[0] != cnn.get_weights()[0])

    def make_encoder(hp):
        filters = hp.Choice("filters", [3, 5])
        return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(filters, 3)])

    model = build_with(Seq2SeqHyperModel(None, vectorizers[1], **RANGES, encoder=make_encoder), filters=5)
    assert model.encoder.layers[0].filters == 5


def test_a_source_vectorizer_or_an_encoder_is_needed(vectorizers):
    with pytest.raises(ValueError, match="`source_vectorizer` must be a vectorizer unless `encoder` is given"):
        Seq2SeqHyperModel(None, vectorizers[1])


def test_an_encoder_of_unknown_inputs_needs_a_source_spec(vectorizers):
    encoder = layers.GRU(4, return_sequences=True)  # it has no `keras.Input`
    with pytest.raises(ValueError, match=r"`source_spec` must be given, because the encoder has no `keras\.Input`"):
        Seq2SeqHyperModel(None, vectorizers[1], **RANGES, encoder=encoder).build(keras_tuner.HyperParameters())
    spec = tf.TensorSpec((None, None, 3))
    hypermodel = Seq2SeqHyperModel(None, vectorizers[1], **RANGES, encoder=encoder, source_spec=spec)
    model = hypermodel.build(keras_tuner.HyperParameters())
    history = model.fit(np.ones((2, 5, 3), "float32"), ["K AE T", "T"], verbose=0)
    assert np.isfinite(history.history["loss"][0])


def test_a_model_of_make_model_must_be_built():
    class Unbuilt(ChoiceHyperModel):
        def make_model(self, hp):
            return keras.Sequential([keras.layers.Dense(1)])

    with pytest.raises(ValueError, match="`make_model` must return a model that is built"):
        Unbuilt({}, (1e-3, 1e-2), None, True).build(keras_tuner.HyperParameters())


def test_the_options_of_a_language_model(vectorizers):
    hypermodel = LanguageModelHyperModel(vectorizers[0], units=[8, 16], embedding_dim=[4], num_layers=[1, 2])
    model = build_with(hypermodel, units=16, num_layers=2, dropout=0.2)
    assert (model.units, model.num_layers, model.embedding_dim) == (16, 2, 4)
    assert model.input_dropout == model.hidden_dropout == model.output_dropout == 0.2
    assert model.optimizer.built


def test_the_options_of_a_forecaster():
    inputs = {"past": np.zeros((1, 12, 2)), "static": np.zeros((1, 3))}
    hypermodel = ForecasterHyperModel(4, inputs, units=[8], attention=[None, "bahdanau"], bidirectional=[False, True])
    model = build_with(hypermodel, attention="bahdanau", bidirectional=1, num_layers=2)
    assert (model.horizon, model.attention, model.bidirectional, model.num_layers) == (4, "bahdanau", True, 2)
    assert build_with(hypermodel, attention="none").attention is None
    assert model.optimizer.built


class CustomHyperModel(ChoiceHyperModel):
    def __init__(self, **choices):
        super().__init__(choices)

    def make_model(self, hp, **chosen):
        self.chosen = chosen
        return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])

    def compile_model(self, model, optimizer):
        model.compile(optimizer, "mse")


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([1, 2], [1, 2]),
        ([0, 0.5], [0.0, 0.5]),
        ([True, False], [1, 0]),
        (["a", "b"], ["a", "b"]),
        ([None, "luong"], ["none", "luong"]),
        ([None, 3], ["none", "3"]),
        (["lstm", keras.layers.GRUCell(2), keras.layers.GRUCell(2)], ["lstm", "GRUCell_1", "GRUCell_2"]),
    ],
)
def test_values_of_any_type_can_be_chosen(values, shown):
    for value, label in zip(values, shown, strict=True):
        hp = keras_tuner.HyperParameters()
        hypermodel = CustomHyperModel(option=values)
        hypermodel.build(hp)
        assert hp.space[0].values == shown
        build_with(hypermodel, option=label)
        assert hypermodel.chosen == {"option": value}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LanguageModel", "Forecaster"])
def test_a_search_with_other_models(name, vectorizers, pairs, tmp_path):
    if name == "LanguageModel":
        hypermodel = LanguageModelHyperModel(vectorizers[0], ["gru"], [8], [4], [0.0, 0.2])
        data, held_out = pairs[0][:60], pairs[0][60:80]
        arguments = {"x": data, "validation_data": held_out}
    else:
        windows = np.random.default_rng(0).normal(size=(40, 12, 1)).cumsum(axis=1)
        hypermodel = ForecasterHyperModel(4, windows[:, :8], ["gru"], [8])
        arguments = {"x": windows[:, :8], "y": windows[:, 8:], "validation_split": 0.25}
    tuner = keras_tuner.Hyperband(hypermodel, "val_loss", max_epochs=2, factor=2, seed=1, directory=tmp_path)
    tuner.search(**arguments, verbose=0)
    (best,) = tuner.get_best_models(1)
    assert type(best).__name__ == name
    assert [trial.status for trial in tuner.oracle.get_best_trials(10)].count("COMPLETED") >= 2


def test_without_keras_tuner_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_tuner", None)
    monkeypatch.delitem(sys.modules, "keras_seq.tuning")
    with pytest.raises(ImportError, match=r"pip install 'keras_seq\[tune\]'"):
        importlib.import_module("keras_seq.tuning")


@pytest.mark.slow
def test_the_package_can_be_imported_without_keras_tuner():
    code = "import sys; sys.modules['keras_tuner'] = None; import keras_seq"
    subprocess.run([sys.executable, "-c", code], check=True)

# SPDX-License-Identifier: Apache-2.0
"""The tuners of keras-tuner search `Seq2SeqHyperModel`, and the hyperparameters reach the models."""

import gc
import importlib
import re
import subprocess
import sys
import weakref

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf

from keras_seq import data, layers
from keras_seq.models import Seq2Seq
from keras_seq.training import Adam, DecodingReport
from keras_seq.tuning import (
    ChoiceHyperModel,
    ForecasterHyperModel,
    LanguageModelHyperModel,
    Seq2SeqHyperModel,
    SequenceClassifierHyperModel,
    list_trials,
)

RANGES = {"units": (8, 16), "embedding_dim": (4, 8), "dropout": (0.0, 0.2), "learning_rate": (1e-3, 1e-2)}
STEPS = 5  # in an epoch


@pytest.fixture(scope="module")
def pairs():
    """Words of random letters, and how to spell them."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(3, 9))) for _ in range(200)]
    return words, [" ".join(word.upper()) for word in words]


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


SMALL = {**RANGES, "cell": ["gru"], "attention": [None], "bidirectional": [False]}


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["RandomSearch", "BayesianOptimization"])
def test_a_search_finds_and_reloads_the_best_model(tuner, vectorizers, pairs, tmp_path):
    held_out = tuple(column[160:] for column in pairs)

    def new_tuner():
        hypermodel = Seq2SeqHyperModel(*vectorizers, **SMALL, batch_size=[20, 40], schedule=["cosine"])
        return getattr(keras_tuner, tuner)(hypermodel, "val_loss", max_trials=2, seed=1, directory=tmp_path)

    new_tuner().search(pairs[0][:160], pairs[1][:160], validation_data=held_out, epochs=2, verbose=0)
    tuner = new_tuner()  # reads the results of the first one from disk
    first, second = tuner.oracle.get_best_trials(2)
    assert searched_values(first) != searched_values(second)
    assert first.score < second.score
    rows = list_trials(tuner)
    assert [(row["score"], row["status"], row["error"]) for row in rows] == [
        (trial.score, "COMPLETED", None) for trial in (first, second)
    ]
    for trial, model in zip((first, second), tuner.get_best_models(2), strict=True):
        assert isinstance(model, Seq2Seq)
        assert model.encoder.units == model.decoder.units == trial.hyperparameters.get("units")
        assert int(model.optimizer.iterations) % (160 // trial.hyperparameters.get("batch_size")) == 0
        # get_best_models restores the weights of the best epoch.
        np.testing.assert_allclose(model.evaluate(*held_out, verbose=0)[0], trial.score, rtol=1e-5)
    assert_generates(model, pairs)


@pytest.mark.slow
def test_hyperband_resumes_training(vectorizers, datasets, pairs, tmp_path):
    training, held_out = datasets
    tuner = keras_tuner.Hyperband(
        Seq2SeqHyperModel(*vectorizers, **SMALL),
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
        Seq2SeqHyperModel(*vectorizers, **{**SMALL, "cell": ["rnn"]}),
        keras_tuner.Objective("val_token_error_rate", "min"),
        max_trials=1,
        directory=tmp_path,
    )
    training, held_out = datasets
    tuner.search(training, validation_data=held_out, epochs=1, callbacks=[report], verbose=0)
    (best,) = tuner.oracle.get_best_trials(1)
    assert best.score > 0


@pytest.mark.parametrize(("cell", "attention"), [("lstm", "bahdanau"), ("gru", None)])
def test_hyperparameters_reach_the_model(vectorizers, cell, attention):
    values = {
        "cell": cell,
        "units": 16,
        "embedding_dim": 8,
        "dropout": 0.2,
        "attention": str(attention).lower(),  # keras-tuner cannot hold None
        "learning_rate": 0.002,
    }
    hp = keras_tuner.HyperParameters()
    for name, value in values.items():
        hp.Fixed(name, value)
    model = Seq2SeqHyperModel(*vectorizers, **RANGES).build(hp)
    for part in (model.encoder, model.decoder):
        assert (part.cell, part.units, part.embedding_dim, part.dropout) == (cell, 16, 8, 0.2)
    assert model.decoder.attention == attention
    assert float(model.optimizer.learning_rate) == pytest.approx(0.002)
    assert model.encoder.vocabulary_size == vectorizers[0].vocabulary_size()
    assert model.decoder.vocabulary_size == vectorizers[1].vocabulary_size()


def test_the_default_search_space(vectorizers):
    hp = keras_tuner.HyperParameters()
    Seq2SeqHyperModel(*vectorizers).build(hp)
    space = {parameter.name: parameter for parameter in hp.space}
    fixed = {"num_layers": 1, "bidirectional": True, "tie_embeddings": False, "recurrent_dropout": 0.0}
    fixed |= {"readout": "linear", "layer_norm": False, "token_dropout": 0.0, "label_smoothing": 0.0, "zoneout": 0.0}
    fixed |= {"dropout_mode": "variational", "residual": False, "copy": False, "optimizer": "adam"}
    fixed |= {"schedule": "none", "weight_decay": "none", "global_clipnorm": "none"}
    assert set(space) == {*RANGES, *fixed, "cell", "attention"}
    assert {name: space[name].value for name in fixed} == fixed
    assert space["cell"].values == ["lstm", "gru", "simple_rnn"]
    assert space["attention"].values == ["bahdanau", "none"]
    rate = space["learning_rate"]
    assert (rate.min_value, rate.max_value, rate.sampling) == (1e-4, 1e-2, "log")


def test_single_values_are_fixed(vectorizers):
    hp = keras_tuner.HyperParameters()
    single = {"cell": ["gru"], "units": [8], "embedding_dim": [4], "dropout": [0.1], "attention": ["luong"]}
    Seq2SeqHyperModel(*vectorizers, **single, learning_rate=(1e-3, 1e-3)).build(hp)
    samples = {parameter.name: parameter.random_sample() for parameter in hp.space}
    assert {name: samples[name] for name in single} == {name: values[0] for name, values in single.items()}
    assert samples["learning_rate"] == 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cell": "lstm"}, "`cell` must be a list or tuple with at least one value, a range, or a function"),
        ({"units": 64}, "`units` must be a list or tuple"),
        ({"dropout": []}, r"`dropout` must be.*Received: \[\]"),
        ({"learning_rate": 1e-3}, "`learning_rate` must be a list or tuple"),
        ({"learning_rate": [1e-3]}, "`learning_rate` must be two positive numbers"),
        ({"learning_rate": (1e-2, 1e-3)}, "in ascending order. Received"),
        ({"learning_rate": (0, 1e-3)}, "`learning_rate` must be two positive numbers"),
        ({"attention": ["luong", "none"]}, "`attention` must list None for a model without attention"),
        ({"cell": [None, "none"]}, "`cell` must not list both None and 'none'"),
        ({"optimizer": ["adamm"]}, "`optimizer` must list names of Keras.*Received: 'adamm'"),
        ({"optimizer": [3]}, "`optimizer` must list names of Keras.*Received: 3"),
        ({"schedule": ["step"]}, "`schedule` must list None, 'cosine', .*Received: 'step'"),
        ({"batch_size": 32}, "`batch_size` must be a list or tuple"),
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
    def __init__(self, training=None, **choices):
        super().__init__(choices, **(training or {}))

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
@pytest.mark.parametrize("name", ["LanguageModel", "Forecaster", "Functional"])
def test_a_search_with_other_models(name, vectorizers, pairs, tmp_path):
    if name == "LanguageModel":
        hypermodel = LanguageModelHyperModel(vectorizers[0], ["gru"], [8], [4], [0.0, 0.2], batch_size=[4, 8])
        arguments = {"x": pairs[0][:60], "validation_data": pairs[0][60:80]}
    elif name == "Functional":
        small = {"cell": ["gru"], "units": [8], "embedding_dim": [4], "num_layers": [1], "label_smoothing": [0.1]}
        hypermodel = SequenceClassifierHyperModel(2, vectorizers[0], **small)
        classes = np.array(["e" in word for word in pairs[0][:80]], int)
        arguments = {"x": pairs[0][:60], "y": classes[:60], "validation_data": (pairs[0][60:80], classes[60:])}
    else:
        windows = np.random.default_rng(0).normal(size=(40, 12, 1)).cumsum(axis=1)
        hypermodel = ForecasterHyperModel(4, windows[:, :8], ["gru"], [8], dropout_mode=["naive"], zoneout=[0.0, 0.1])
        arguments = {"x": windows[:, :8], "y": windows[:, 8:], "validation_split": 0.25}
    tuner = keras_tuner.Hyperband(hypermodel, "val_loss", max_epochs=1, factor=2, seed=1, directory=tmp_path)
    tuner.search(**arguments, verbose=0)
    (best,) = tuner.get_best_models(1)
    assert type(best).__name__ == name
    assert [trial.status for trial in tuner.oracle.get_best_trials(10)] == ["COMPLETED"]


def test_without_keras_tuner_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_tuner", None)
    monkeypatch.delitem(sys.modules, "keras_seq.tuning")
    with pytest.raises(ImportError, match=r"pip install 'keras_seq\[tune\]'"):
        importlib.import_module("keras_seq.tuning")


@pytest.mark.slow
def test_the_package_can_be_imported_without_keras_tuner():
    code = "import sys; sys.modules['keras_tuner'] = None; import keras_seq"
    subprocess.run([sys.executable, "-c", code], check=True)


def space_of(hypermodel):
    hp = keras_tuner.HyperParameters()
    hypermodel.build(hp)
    return {parameter.name: parameter for parameter in hp.space}


def test_a_range_is_a_range_of_integers():
    for values in (range(8, 33, 8), range(32, 7, -8)):
        parameter = space_of(CustomHyperModel(units=values))["units"]
        assert (parameter.min_value, parameter.max_value, parameter.step) == (8, 32, 8)
    hypermodel = CustomHyperModel(units=range(8, 30, 8))
    build_with(hypermodel, units=24)
    assert hypermodel.chosen == {"units": 24}
    assert space_of(CustomHyperModel(units=range(8, 9)))["units"].value == 8


def test_a_function_chooses_a_value():
    hypermodel = CustomHyperModel(dropout=lambda hp: hp.Float("rate", 0.0, 0.5, step=0.25) / 2)
    assert space_of(hypermodel)["rate"].max_value == 0.5
    build_with(hypermodel, rate=0.5)
    assert hypermodel.chosen == {"dropout": 0.25}


def test_numbers_that_a_worker_gets_in_single_precision_are_found():
    hypermodel = CustomHyperModel(dropout=[0.0, 0.1, 0.2])
    build_with(hypermodel, dropout=float(np.float32(0.1)))
    assert hypermodel.chosen == {"dropout": 0.1}


def test_optimizers_and_their_options():
    rmsprop = {"optimizer": lambda hp: lambda rate: keras.optimizers.RMSprop(2 * rate)}
    optimizer = build_with(CustomHyperModel(rmsprop), learning_rate=0.5).optimizer
    assert (type(optimizer), float(optimizer.learning_rate)) == (keras.optimizers.RMSprop, 1.0)
    options = {"optimizer": ["adam", "sgd"], "weight_decay": [None, 0.1], "global_clipnorm": [None, 2.0]}
    hypermodel = CustomHyperModel(options)
    optimizer = build_with(hypermodel, optimizer="adam").optimizer
    assert (type(optimizer), optimizer.weight_decay, optimizer.global_clipnorm) == (Adam, None, None)
    optimizer = build_with(hypermodel, optimizer="sgd", weight_decay="0.1", global_clipnorm="2.0").optimizer
    assert (type(optimizer), optimizer.weight_decay, optimizer.global_clipnorm) == (keras.optimizers.SGD, 0.1, 2.0)


X, Y = np.ones((12, 1)), np.ones((12, 1))


class Rates(keras.callbacks.Callback):
    """Notes the learning rate of each step."""

    def on_train_begin(self, logs=None):
        self.rates = []

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))


def fit(hypermodel, *data, **values):
    """Trains a model for two epochs, and returns the learning rate of each step."""
    options = {name: values.pop(name) for name in ("epochs", "initial_epoch") if name in values}
    hp = keras_tuner.HyperParameters()
    for name, value in values.items():
        hp.Fixed(name, value)
    callback = Rates()
    hypermodel.fit(hp, hypermodel.build(hp), *data, callbacks=[callback], verbose=0, **{"epochs": 2, **options})
    return callback.rates


def test_schedules_decay_over_the_epochs_of_a_trial():
    training = {"schedule": [None, "cosine", "linear", "exponential", lambda progress: 1 + progress]}
    hypermodel = CustomHyperModel({**training, "batch_size": [3, 4]})
    progress = np.arange(6) / 6
    expected = {
        "none": np.ones(6),
        "cosine": 0.01 + 0.99 * (1 + np.cos(np.pi * progress)) / 2,
        "linear": 1 - 0.99 * progress,
        "exponential": 0.01**progress,
        "lambda_4": 1 + progress,
    }
    for name, factors in expected.items():
        rates = fit(hypermodel, X, Y, schedule=name, batch_size=4, learning_rate=0.2)
        np.testing.assert_allclose(rates, 0.2 * factors, rtol=1e-5)
    rates = fit(hypermodel, X, Y, schedule="linear", batch_size=3, learning_rate=0.2, initial_epoch=1)
    np.testing.assert_allclose(rates, 0.2 * (1 - 0.99 * np.arange(4, 8) / 8), rtol=1e-5)


def test_data_may_be_a_function_of_the_batch_size():
    pairs = tf.data.Dataset.from_tensor_slices((X, Y))
    assert len(fit(CustomHyperModel({"batch_size": [2, 6]}), pairs.batch, batch_size=6)) == 4


def test_a_trained_model_is_forgotten():
    hypermodel = CustomHyperModel()
    model = build_with(hypermodel)
    weights = weakref.ref(model.trainable_variables[0])
    hypermodel.fit(keras_tuner.HyperParameters(), model, X, Y, validation_data=(X, Y), verbose=0)
    graphs = count_graphs()
    del model
    gc.collect()
    assert weights() is None
    assert count_graphs() < graphs  # those of the training step and the evaluation


def count_graphs():
    return sum(issubclass(type(thing), tf.Graph) for thing in gc.get_objects())  # not `isinstance`: proxies warn


class Fragile(CustomHyperModel):
    """Cannot be built with 13 units, and learns nothing with 7."""

    def make_model(self, hp, units):
        if units == 13:
            raise ValueError("`units` must not be 13.\nMore about that.")
        return super().make_model(hp, units=units)

    def compile_model(self, model, optimizer):
        model.compile(optimizer, "mse" if self.chosen["units"] != 7 else lambda y_true, y_pred: y_pred * np.nan)


@pytest.mark.slow
def test_a_failed_trial_is_shown_and_does_not_stop_the_search(tmp_path, capsys):
    hypermodel = Fragile({"learning_rate": lambda hp: 0.1}, units=[5, 13, 7, 6])
    tuner = keras_tuner.GridSearch(hypermodel, "val_loss", directory=tmp_path)
    tuner.search(X, Y, validation_data=(X, Y), verbose=0)
    output = capsys.readouterr().out
    assert "A model could not be built: ValueError: `units` must not be 13. (with units=13)" in output
    assert re.search(r"Trial \d+ failed: FailedTrialError: `loss` is nan in the first epoch \(with units=7\)", output)
    trials = list_trials(tuner)
    assert {trial["values"]["units"]: trial["status"] for trial in trials} == {
        5: "COMPLETED", 6: "COMPLETED", 7: "FAILED", 13: "FAILED"
    }  # fmt: skip
    assert [trial["status"] for trial in trials[-2:]] == ["FAILED", "FAILED"]
    errors = {trial["values"]["units"]: trial["error"] for trial in trials}
    assert errors[5] is None
    assert errors[13] == "ValueError: `units` must not be 13."
    assert errors[7].endswith("FailedTrialError: `loss` is nan in the first epoch")


def test_the_options_of_a_recurrence_reach_models_that_take_them_from_their_cells(vectorizers):
    options = {"zoneout": [0.1], "dropout_mode": ["naive"], "recurrent_dropout": [0.2], "copy": [False]}
    model = build_with(Seq2SeqHyperModel(*vectorizers, **RANGES, **options), cell="gru", units=16)
    for part in (model.encoder, model.decoder):
        assert (part.units, part.cell.zoneout, part.cell.dropout_mode) == (16, 0.1, "naive")
        assert part.cell.recurrent_dropout == 0.2
    del options["copy"]
    model = build_with(ForecasterHyperModel(2, np.zeros((1, 4, 1)), ["gru"], [16], dropout=[0.3], **options))
    assert (model.cell.units, model.cell.dropout, model.cell.recurrent_dropout) == (16, 0.3, 0.2)
    assert (model.cell.zoneout, model.cell.dropout_mode) == (0.1, "naive")
    with pytest.raises(ValueError, match="`zoneout` and `dropout_mode` need a `cell` given by name"):
        build_with(ForecasterHyperModel(2, np.zeros((1, 4, 1)), [keras.layers.GRUCell(3)], zoneout=[0.1]))


def test_a_decoder_may_copy(vectorizers):
    hypermodel = Seq2SeqHyperModel(vectorizers[0], vectorizers[0], **RANGES, cell=["gru"], copy=[False, True])
    assert build_with(hypermodel, copy=1).decoder.copy is True
    assert build_with(hypermodel, copy=0).decoder.copy is False


def test_classifiers_of_texts_and_of_series(vectorizers, pairs):
    small = {"embedding_dim": [4], "num_layers": [2], "dropout": [0.2], "recurrent_dropout": [0.1]}
    hypermodel = SequenceClassifierHyperModel(3, vectorizers[0], units=[5], cell=["gru"], **small)
    values = {"bidirectional": 1, "pooling": "attention"}
    model = build_with(hypermodel, **values)
    layers_of = [type(layer).__name__ for layer in model.layers]
    assert layers_of.count("Bidirectional") == 2
    assert layers_of[-3:] == ["AttentionPooling", "Dropout", "Dense"]
    texts = tf.constant(pairs[0][:4])
    longest = model(texts)
    np.testing.assert_allclose(model(texts[:1]), longest[:1], atol=1e-6)  # padding changes nothing
    np.testing.assert_allclose(np.sum(longest, axis=1), 1, atol=1e-6)
    hypermodel = SequenceClassifierHyperModel(3, num_features=2, units=[5], **small, layer_norm=[True])
    series = np.random.default_rng(0).normal(size=(2, 6, 2)).astype("float32")
    series[1, 4:] = 0  # padding
    for pooling in ("last", "mean"):
        model = build_with(hypermodel, pooling=pooling, bidirectional=1)
        np.testing.assert_allclose(model(series)[1:], model(series[1:, :4]), atol=1e-6)


def test_bad_classifiers_raise(vectorizers):
    with pytest.raises(ValueError, match="Exactly one of `vectorizer` and `num_features` must be given"):
        SequenceClassifierHyperModel(3)
    with pytest.raises(ValueError, match=r"`pooling` must be one of .*Received: 'max'"):
        build_with(SequenceClassifierHyperModel(3, num_features=2, pooling=["max"]))
    with pytest.raises(ValueError, match="`zoneout` needs a `cell` given by name"):
        build_with(SequenceClassifierHyperModel(3, num_features=2, cell=[keras.layers.GRUCell(3)], zoneout=[0.1]))


def test_values_of_another_search_space_raise():
    with pytest.raises(
        ValueError, match=r"`units` must be one of \[4, 8\] in `hp`. Received: 5, of another search space"
    ):
        build_with(CustomHyperModel(units=[4, 8]), units=5)

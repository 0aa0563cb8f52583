# SPDX-License-Identifier: Apache-2.0
"""The tuners of keras-tuner search the hypermodels, and reload the best model."""

import re

import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from small_hypermodels import PAIRS, RANGES, VECTORIZERS, CustomHyperModel, X, Y

from keras_seq.models import Seq2Seq
from keras_seq.training import DecodingReport
from keras_seq.tuning import (
    ForecasterHyperModel,
    LanguageModelHyperModel,
    Seq2SeqHyperModel,
    SequenceClassifierHyperModel,
    list_trials,
)

SMALL = {**RANGES, "cell": ["gru"], "attention": [None], "bidirectional": [False]}
STEPS = 5  # in an epoch


@pytest.fixture(scope="module")
def datasets():
    training, held_out = ([column[part] for column in PAIRS] for part in (slice(160), slice(160, None)))
    return (
        tf.data.Dataset.from_tensor_slices(tuple(training)).batch(160 // STEPS),
        tf.data.Dataset.from_tensor_slices(tuple(held_out)).batch(40),
    )


def searched_values(trial):
    return {name: trial.hyperparameters.get(name) for name in (*RANGES, "cell", "attention")}


def assert_generates(model):
    outputs = model.generate(PAIRS[0][:3])
    assert [type(output) for output in outputs] == [str] * 3


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["RandomSearch", "BayesianOptimization"])
def test_a_search_finds_and_reloads_the_best_model(tuner, tmp_path):
    held_out = tuple(column[160:] for column in PAIRS)

    def new_tuner():
        hypermodel = Seq2SeqHyperModel(*VECTORIZERS, **SMALL, batch_size=[20, 40], schedule=["cosine"])
        return getattr(keras_tuner, tuner)(hypermodel, "val_loss", max_trials=2, seed=1, directory=tmp_path)

    new_tuner().search(PAIRS[0][:160], PAIRS[1][:160], validation_data=held_out, epochs=2, verbose=0)
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
    assert_generates(model)


@pytest.mark.slow
def test_hyperband_resumes_training(datasets, tmp_path):
    training, held_out = datasets
    tuner = keras_tuner.Hyperband(
        Seq2SeqHyperModel(*VECTORIZERS, **SMALL),
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
    assert_generates(best)


@pytest.mark.slow
def test_search_minimizes_the_error_rate_of_a_decoding_report(datasets, tmp_path):
    words, pronunciations = PAIRS
    report = DecodingReport(words[:20], [[pronunciation] for pronunciation in pronunciations[:20]], samples=0)
    tuner = keras_tuner.RandomSearch(
        Seq2SeqHyperModel(*VECTORIZERS, **{**SMALL, "cell": ["rnn"]}),
        keras_tuner.Objective("val_token_error_rate", "min"),
        max_trials=1,
        directory=tmp_path,
    )
    training, held_out = datasets
    tuner.search(training, validation_data=held_out, epochs=1, callbacks=[report], verbose=0)
    (best,) = tuner.oracle.get_best_trials(1)
    assert best.score > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LanguageModel", "Forecaster", "Functional"])
def test_a_search_with_other_models(name, tmp_path):
    if name == "LanguageModel":
        hypermodel = LanguageModelHyperModel(VECTORIZERS[0], ["gru"], [8], [4], [0.0, 0.2], batch_size=[4, 8])
        arguments = {"x": PAIRS[0][:60], "validation_data": PAIRS[0][60:80]}
    elif name == "Functional":
        small = {"cell": ["gru"], "units": [8], "embedding_dim": [4], "num_layers": [1], "label_smoothing": [0.1]}
        hypermodel = SequenceClassifierHyperModel(2, VECTORIZERS[0], **small)
        classes = np.array(["e" in word for word in PAIRS[0][:80]], int)
        arguments = {"x": PAIRS[0][:60], "y": classes[:60], "validation_data": (PAIRS[0][60:80], classes[60:])}
    else:
        windows = np.random.default_rng(0).normal(size=(40, 12, 1)).cumsum(axis=1)
        hypermodel = ForecasterHyperModel(4, windows[:, :8], ["gru"], [8], dropout_mode=["naive"], zoneout=[0.0, 0.1])
        arguments = {"x": windows[:, :8], "y": windows[:, 8:], "validation_split": 0.25}
    tuner = keras_tuner.Hyperband(hypermodel, "val_loss", max_epochs=1, factor=2, seed=1, directory=tmp_path)
    tuner.search(**arguments, verbose=0)
    (best,) = tuner.get_best_models(1)
    assert type(best).__name__ == name
    assert [trial.status for trial in tuner.oracle.get_best_trials(10)] == ["COMPLETED"]


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

# SPDX-License-Identifier: Apache-2.0
"""`ChoiceHyperModel`: values of any type, optimizers, schedules and batch sizes; the extra that it needs."""

import gc
import importlib
import subprocess
import sys
import weakref

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from small_hypermodels import CustomHyperModel, X, Y, build_with

from keras_seq.training import Adam
from keras_seq.tuning import ChoiceHyperModel


def space_of(hypermodel):
    hp = keras_tuner.HyperParameters()
    hypermodel.build(hp)
    return {parameter.name: parameter for parameter in hp.space}


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


def count_graphs():
    return sum(issubclass(type(thing), tf.Graph) for thing in gc.get_objects())  # not `isinstance`: proxies warn


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


def test_values_of_another_search_space_raise():
    with pytest.raises(
        ValueError, match=r"`units` must be one of \[4, 8\] in `hp`. Received: 5, of another search space"
    ):
        build_with(CustomHyperModel(units=[4, 8]), units=5)


def test_a_model_of_make_model_must_be_built():
    class Unbuilt(ChoiceHyperModel):
        def make_model(self, hp):
            return keras.Sequential([keras.layers.Dense(1)])

    with pytest.raises(ValueError, match="`make_model` must return a model that is built"):
        Unbuilt({}, (1e-3, 1e-2), None, True).build(keras_tuner.HyperParameters())


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


def test_without_keras_tuner_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_tuner", None)
    monkeypatch.delitem(sys.modules, "keras_seq.tuning")
    with pytest.raises(ImportError, match=r"pip install 'keras_seq\[tune\]'"):
        importlib.import_module("keras_seq.tuning")


@pytest.mark.slow
def test_the_package_can_be_imported_without_keras_tuner():
    code = "import sys; sys.modules['keras_tuner'] = None; import keras_seq"
    subprocess.run([sys.executable, "-c", code], check=True)

# SPDX-License-Identifier: Apache-2.0
"""What a forecaster takes: every form of data, and errors for what it does not take."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import draw
from small_forecaster import BATCH, HORIZON, SERIES, TIME, make_inputs, make_model, make_targets

import keras_seq
from keras_seq.models.forecast_inputs import ForecastInputs


@pytest.mark.parametrize(
    ("changes", "weight", "message"),
    [
        ({}, -1.0, "`sample_weight` must be finite and not negative"),
        ({}, np.inf, "`sample_weight` must be finite and not negative"),
        ({"past_mask": np.full((BATCH, TIME), np.nan)}, 1.0, "`past_mask` must be an array of booleans"),
        ({"past_mask": np.full((BATCH, TIME), 255)}, 1.0, "`past_mask` must be an array of booleans"),
    ],
)
def test_a_dataset_is_checked_as_arrays_are(changes, weight, message):
    inputs, weights = {"past": np.zeros((BATCH, TIME, SERIES)), **changes}, np.full(BATCH, weight)
    data = tf.data.Dataset.from_tensors((inputs, make_targets(), weights))
    checks = ForecastInputs(HORIZON)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(checks.data(data)[0])
    with pytest.raises(ValueError, match=message):
        checks.data(inputs, make_targets(), weights)


def test_masked_values_too_large_for_float32_are_no_matter():
    past = np.zeros((1, TIME, SERIES))
    past[0, 2] = 1e300
    mask = np.arange(TIME)[None] != 2
    assert np.array_equal(ForecastInputs(HORIZON).convert({"past": past, "past_mask": mask})["past_mask"], mask)


def test_a_dataset_is_fit_without_a_warning_about_its_order():
    model = make_model("simple_rnn")
    model.compile("sgd")
    history = model.fit(tf.data.Dataset.from_tensors((make_inputs(), make_targets())), verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.x, self.y


FORMS = {
    "arrays": lambda x, y: (x, y),
    "tf.data": lambda x, y: (tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH),),
    "PyDataset": lambda x, y: (Batches(x, y),),
    "generator": lambda x, y: (itertools.repeat((x, y)),),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_trains_alike(form):
    inputs, targets = make_inputs(), make_targets()
    results = []
    for name in dict.fromkeys(["arrays", form]):
        model = make_model()
        model.compile(keras.optimizers.SGD(0.1))
        data = FORMS[name](inputs, targets)
        one = 1 if name == "generator" else None  # number of steps
        options = {"validation_data": (inputs, targets), "shuffle": False, "steps_per_epoch": one, "verbose": 0}
        history = model.fit(*data, **options).history
        predicted = model.predict(data[0], steps=one, verbose=0)
        results.append([history["loss"], history["val_loss"], predicted, *model.get_weights()])
    for values, expected in zip(results[-1], results[0], strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", [pytest.param(f, marks=() if f == "tf.data" else pytest.mark.slow) for f in FORMS])
def test_a_value_that_is_not_finite_is_an_error_in_every_form_of_data(form):
    inputs, targets = make_inputs(), make_targets()
    model = make_model()
    model.compile("sgd")
    kinds = (ValueError, tf.errors.InvalidArgumentError)
    x = {**inputs, "static": np.where(np.arange(2) == 0, np.nan, inputs["static"])}
    with pytest.raises(kinds, match="`static` must be finite"):
        model.fit(*FORMS[form](x, targets), verbose=0)
    with pytest.raises(kinds, match="`y` must be finite where `target_mask` is True"):
        model.evaluate(*FORMS[form](inputs, np.where(targets > 10, np.inf, targets)), verbose=0)
    x = {**inputs, "past": np.full_like(inputs["past"], np.nan)}
    with pytest.raises(kinds, match="`past` must be finite where `past_mask` is True"):
        model.predict(FORMS[form](x, targets)[0], verbose=0)


def without(inputs, name):
    return {key: value for key, value in inputs.items() if key != name}


def test_covariates_need_not_reach_beyond_the_steps_that_are_forecast():
    model, inputs = make_model(), make_inputs()
    expected = model(inputs)[:, :1]
    inputs["future_covariates"] = inputs["future_covariates"][:, :1]
    np.testing.assert_allclose(model.forecast(inputs, 1, quantiles=()).mean, expected, rtol=1e-5)


def test_an_empty_batch_gives_an_empty_forecast():
    forecast = make_model().forecast(make_inputs(0), num_samples=2)
    assert forecast.mean.shape == (0, HORIZON, SERIES)
    assert forecast.quantiles.shape == (0, HORIZON, SERIES, 3)
    assert make_model().predict(make_inputs(0), verbose=0, horizon=2).shape == (0, 2, SERIES)


INPUT_ERRORS = {
    "a missing entry": (lambda x: without(x, "static"), "must be those that the model was built with"),
    "no past": (lambda x: without(x, "past"), "must have the entry 'past'"),
    "an unknown entry": (lambda x: {**x, "mask": x["past_mask"]}, "must have the entry 'past' and may have"),
    "another number of series": (
        lambda x: {**x, "past": x["past"][..., :1], "past_mask": x["past_mask"][..., :1]},
        "Received: {'past': 1,",
    ),
    "an axis too few": (lambda x: {**x, "past": x["past"][..., 0]}, "`past` must have the shape (batch, time, series)"),
    "no steps": (lambda x: {**x, "past": x["past"][:, :0]}, "`past` must have at least one time step"),
    "a mask of another length": (
        lambda x: {**x, "past_mask": x["past_mask"][:, 1:]},
        f"`past_mask` must have the shape ({BATCH}, {TIME}, {SERIES}). Received: ({BATCH}, {TIME - 1}, {SERIES})",
    ),
    "a mask of numbers": (lambda x: {**x, "past_mask": x["past"]}, "`past_mask` must be an array of booleans"),
    "words": (lambda x: {**x, "static": [["a", "b"]] * BATCH}, "`static` must be an array of numbers"),
    "too few covariates": (
        lambda x: {**x, "future_covariates": x["future_covariates"][:, :2]},
        f"`future_covariates` must cover the horizon, {HORIZON} steps. Received: shape ({BATCH}, 2, 1)",
    ),
    "NaN without a mask": (lambda x: without(x, "past_mask"), "`past` must be finite where `past_mask` is True, or"),
}


@pytest.mark.parametrize("case", INPUT_ERRORS)
def test_bad_inputs_give_one_clear_error(case):
    model = make_model()
    change, message = INPUT_ERRORS[case]
    inputs = change(make_inputs())
    calls = [model, model.forecast, lambda x: model.predict(x, verbose=0)]
    for call in calls[1:] if case == "words" else calls:  # Keras itself raises an error for layers called on words
        with pytest.raises(ValueError) as error:
            call(inputs)
        assert message in str(error.value)


ARGUMENT_ERRORS = [
    (lambda m, x, y: keras_seq.Forecaster(0, 4), "`horizon` must be a positive integer. Received: 0"),
    (lambda m, x, y: keras_seq.Forecaster(2, 4, scaling="max"), "`scaling` must be one of"),
    (lambda m, x, y: keras_seq.Forecaster(2, 4, output="normal"), "`output` must be one of"),
    (lambda m, x, y: m.predict(x, horizon=0), "`horizon` must be a positive integer. Received: 0"),
    (lambda m, x, y: m.forecast(x, horizon=-1), "`horizon` must be a positive integer. Received: -1"),
    (lambda m, x, y: m.forecast(x, horizon=9), "`future_covariates` must cover the horizon, 9 steps"),
    (lambda m, x, y: m.forecast(x, num_samples=0), "`num_samples` must be a positive integer. Received: 0"),
    (lambda m, x, y: m.forecast(x, quantiles=(0.5, 1)), "`quantiles` must be numbers in (0, 1). Received: (0.5, 1)"),
    (lambda m, x, y: m.forecast(x, seed=0.5), "`seed` must be an integer or None. Received: 0.5"),
    (lambda m, x, y: m.compile(loss="mse"), "`loss` must be None"),
    (lambda m, x, y: m.compile("adam", "mse"), "`metrics` must be a list, or None. It is the second argument"),
    (lambda m, x, y: m.compile(scheduled_sampling=0.5), "`scheduled_sampling` must be a"),
    (lambda m, x, y: m.fit(x), "`y` must be the targets"),
    (
        lambda m, x, y: m.fit(x, y[:, :2]),
        f"`y` must have the shape ({BATCH}, {HORIZON}, {SERIES}). Received: (5, 2, 2)",
    ),
    (lambda m, x, y: m.fit(x, y[:3]), f"`y` must have the shape ({BATCH}, {HORIZON}, {SERIES}). Received: (3, 3, 2)"),
    (lambda m, x, y: m.fit(x, y, sample_weight=np.ones(3)), "`sample_weight` must have the shape"),
    (lambda m, x, y: m.fit(x, y, sample_weight=-np.ones(BATCH)), "`sample_weight` must be finite and not negative"),
    (lambda m, x, y: m.fit(x, y, sample_weight=np.full(BATCH, np.nan)), "`sample_weight` must be finite and not"),
    (lambda m, x, y: m.fit(x, y, class_weight={0: 1}), "`class_weight` must be None"),
    (lambda m, x, y: m.train_on_batch(x), "`y` must be the targets, (batch, 3, series). Received: None"),
    (lambda m, x, y: m.fit(make_inputs(0), y[:0]), "`x` and `y` must contain at least one sample"),
    (lambda m, x, y: m.fit(x, y + 0j), "`y` must be an array of numbers. Received: values of dtype complex"),
    (
        lambda m, x, y: m.fit(tf.data.Dataset.from_generator(lambda: [(y, y)], output_types=("float32", "float32"))),
        "`past` must have the shape (batch, time, series). Received: <unknown>",
    ),
    (lambda m, x, y: make_model(output="mse").forecast(x), "need an `output` with a distribution"),
]


@pytest.mark.parametrize(("call", "message"), ARGUMENT_ERRORS, ids=range(len(ARGUMENT_ERRORS)))
def test_bad_arguments_give_one_clear_error(call, message):
    model = make_model()
    model.compile("sgd")
    with pytest.raises(ValueError) as error:
        call(model, make_inputs(), make_targets())
    assert message in str(error.value)


def test_a_mask_of_whole_steps_counts_for_all_series():
    inputs = {"past": draw(BATCH, TIME, SERIES)}
    model, mask = make_model(inputs=inputs), np.arange(TIME) % 3 > 0
    mask = np.tile(mask, (BATCH, 1))
    expected = model({**inputs, "past_mask": np.repeat(mask[..., None], SERIES, axis=-1)})
    np.testing.assert_array_equal(model({**inputs, "past_mask": mask}), expected)

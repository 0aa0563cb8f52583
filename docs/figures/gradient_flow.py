# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/gradient_flow.png: gradients through time, of four layers. Needs keras_seq[data,plots]."""

import pathlib

import keras
import numpy as np

from keras_seq.data import load_cmudict
from keras_seq.diagnostics import gradient_flow
from keras_seq.layers import GRU, LSTM, SimpleRNN
from keras_seq.plots import plot_gradient_flow

IMAGES = pathlib.Path(__file__).parents[1] / "images"
LETTERS = 26


def load_windows(steps, count, start=0):
    """Returns windows of letters from the words of CMUdict in random order, and the first letter of each as its target.

    Args:
        steps: number of letters in a window.
        count: number of windows.
        start: index of the first letter of the first window.

    Returns:
        One-hot letters (count, steps, 26) and first letters (count,).
    """
    words = sorted({word for word in load_cmudict()["train"][0] if word.isascii() and word.isalpha()})
    np.random.default_rng(0).shuffle(words)
    letters = np.frombuffer("".join(words).encode(), "uint8") - ord("a")
    windows = letters[start : start + count * steps].reshape(count, steps)
    return np.eye(LETTERS, dtype="float32")[windows], windows[:, 0]


def draw(path):
    """Draws the gradients of networks that remember the first of 50 letters, before and after training."""
    steps, units = 50, 64
    test_batch, test_letters = load_windows(steps, 256), 256 * steps
    large = keras.initializers.Orthogonal(1.5, seed=1)
    layers = {
        "SimpleRNN": lambda: SimpleRNN(units),
        "SimpleRNN, gain 1.5": lambda: SimpleRNN(units, recurrent_initializer=large),
        "GRU": lambda: GRU(units),
        "LSTM": lambda: LSTM(units),
    }
    untrained, trained, recalls = {}, {}, {}
    for name, make_layer in layers.items():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((None, LETTERS)), make_layer(), keras.layers.Dense(LETTERS)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(3e-3, clipnorm=1.0), loss, metrics=["accuracy"])
        untrained[name] = relative_flow(model, test_batch)
        for length, epochs in ((5, 2), (10, 3), (20, 3), (steps, 4)):  # few networks learn from 50 letters at once
            windows = load_windows(length, 10_000, start=test_letters)
            model.fit(*windows, batch_size=128, epochs=epochs, verbose=0)
        trained[name] = relative_flow(model, test_batch)
        recalls[name] = 100 * model.evaluate(*test_batch, verbose=0)[1]
        print(f"{name}: names {recalls[name]:.0f} % of the first letters")
    figure = plot_gradient_flow({"at initialization": untrained, "after training (%: letters recalled)": trained})
    figure.axes[0].set_ylabel(figure.axes[0].get_ylabel() + ", relative to the last step")
    for axes in figure.axes:
        for line in axes.lines:
            line.set_linewidth(2)
    for line in figure.axes[1].lines:
        line.set_label(f"{line.get_label()}: {recalls[line.get_label()]:.0f} %")
    for axes in figure.axes:
        axes.legend(frameon=False, handlelength=3)
    figure.savefig(path, dpi=110)


def relative_flow(model, batch):
    """Returns the gradient norms of a model with one recurrent layer, relative to the last step."""
    (flow,) = gradient_flow(model, batch).values()
    return flow / flow[-1]


if __name__ == "__main__":
    draw(IMAGES / "gradient_flow.png")

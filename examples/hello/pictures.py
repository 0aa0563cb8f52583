# SPDX-License-Identifier: Apache-2.0
"""Pictures of gates over time and of the training."""

import numpy as np
from matplotlib.figure import Figure

import keras_seq


def plot_gates(models, x, letters, path):
    """Draws hidden states and gates of the cells while they read "hell", with the numbers: LSTM left, others right."""
    values = {
        kind: {
            f"{kind}: {name}": value for name, value in keras_seq.diagnostics.gates(model.layers[0], x[None]).items()
        }
        for kind, model in models.items()
    }
    left, right = list(values["lstm"].items()), [*values["gru"].items(), *values["simple_rnn"].items()]
    panels = [panel for pair in zip(left, [*right, None], strict=True) for panel in pair if panel]
    figure = keras_seq.plots.plot_gates(dict(panels), tokens=list(letters))
    for axes, (_, value) in zip(figure.axes, panels, strict=False):
        units = value.shape[-1]
        axes.set_yticks(range(units), range(1, units + 1))
        for (t, unit), number in np.ndenumerate(value[0]):
            color = "white" if abs(number) > 0.7 * max(1, abs(value).max()) else "black"
            axes.text(t, unit, f"{number:.2f}", ha="center", va="center", color=color)
    figure.savefig(path, dpi=120)


def plot_training(histories, word, path):
    """Draws the losses, with a dot where each cell says the word for the first time."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="training steps", ylabel="loss", yscale="log")
    for (kind, (losses, texts)), color in zip(histories.items(), ("#E69F00", "#0072B2", "#009E73"), strict=True):
        first = texts.index(word) if word in texts else None
        label = f"{kind}: says {texts[-1]!r}" + ("" if first is None else f", first after {first} steps")
        axes.plot(losses, color=color, label=label)
        if first is not None:
            axes.plot(first, losses[first], "o", color=color)
    axes.legend()
    figure.savefig(path, dpi=120)

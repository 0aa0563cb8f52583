# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/scheduled_sampling.png: schedules of scheduled sampling. Needs keras_seq[plots]."""

import pathlib

import numpy as np
from keras.optimizers.schedules import PolynomialDecay

from keras_seq.training import ExponentialGrowth, InverseSigmoidGrowth

IMAGES = pathlib.Path(__file__).parents[1] / "images"


def draw(path):
    """Draws the probability that the decoder reads its own prediction, over the steps of a training."""
    from matplotlib.figure import Figure

    steps = np.arange(0, 10_001, 50)
    schedules = {
        "0.25": lambda step: 0.25,
        "PolynomialDecay(0.0, 10_000, end_learning_rate=0.25)": PolynomialDecay(0.0, 10_000, end_learning_rate=0.25),
        "InverseSigmoidGrowth(600)": InverseSigmoidGrowth(600),
        "ExponentialGrowth(0.9997)": ExponentialGrowth(0.9997),
    }
    figure = Figure(figsize=(7.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for (name, schedule), style in zip(schedules.items(), ("-", "--", ":", "-."), strict=True):
        axes.plot(steps, [float(schedule(step)) for step in steps], style, label=name, linewidth=2)
    axes.set(xlabel="training step", ylabel="probability of a prediction as input", xlim=(0, steps[-1]), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(IMAGES / "scheduled_sampling.png")

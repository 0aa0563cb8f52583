# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/dropout.png: which units each `dropout_mode` drops. Needs keras_seq[plots]."""

import pathlib

import numpy as np

from keras_seq.layers import LSTM

IMAGES = pathlib.Path(__file__).parents[1] / "images"


def draw(path):
    """Draws which units a layer drops in each step of a sequence, for each `dropout_mode`."""
    from matplotlib.figure import Figure

    features = units = 12
    steps, rate = 24, 0.4
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    grid = figure.subplots(3, 3, sharex=True, sharey=True)
    for row, mode in zip(grid, ("naive", "locked", "variational"), strict=True):
        recurrent = 0.0 if mode == "locked" else rate
        layer = LSTM(units, dropout=rate, recurrent_dropout=recurrent, output_dropout=rate, dropout_mode=mode, seed=4)
        sequences = np.ones((1, steps, features), "float32")
        masks = layer.cell.draw_dropout_masks(sequences, training=True)
        outputs = layer.cell.draw_feature_mask(layer.output_dropout, 1, steps, units)
        row[0].set_ylabel(mode, fontsize=12, fontweight="bold")
        for axes, mask in zip(row, (masks.input_mask, masks.recurrent_dropout_mask, outputs), strict=True):
            dropped = np.zeros((1, 1, units)) if mask is None else np.asarray(mask).reshape(1, -1, units) == 0
            image = np.broadcast_to(dropped[0].T, (units, steps))
            axes.pcolormesh(image, cmap="Greys", vmin=0, vmax=1.15, edgecolors="0.85", linewidth=0.3)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("0.6")
            if mask is None:
                box = {"facecolor": "white", "edgecolor": "none"}
                axes.text(steps / 2, units / 2, "nothing dropped", ha="center", va="center", color="0.3", bbox=box)
    for axes, title in zip(grid[0], ("inputs", "recurrent connections", "outputs"), strict=True):
        axes.set_title(title, fontsize=12)
    figure.supxlabel("time steps (black: dropped)", fontsize=11)
    figure.supylabel("units", fontsize=11)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(IMAGES / "dropout.png")

# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/masks.png: masks of zoneout, weight dropout and embedding dropout. Needs keras_seq[plots]."""

import pathlib

import keras
import numpy as np

from keras_seq.layers import EmbeddingDropout, LSTMCell

IMAGES = pathlib.Path(__file__).parents[1] / "images"
SENTENCE = ["the", "cat", "saw", "the", "dog", "and", "the", "dog", "saw", "me"]


def show(axes, dropped, title, **labels):
    """Draws a matrix of booleans, True in black."""
    axes.pcolormesh(dropped, cmap="Greys", vmin=0, vmax=1.15, edgecolors="0.85", linewidth=0.3)
    axes.invert_yaxis()
    axes.set(xticks=[], yticks=[], **labels)
    axes.set_title(title, fontsize=12)
    axes.spines[:].set_color("0.6")


def draw(path):
    """Draws the three masks of one sequence in one call."""
    from matplotlib.figure import Figure

    units, steps = 10, 20
    cell = LSTMCell(units, zoneout=[0.3, 0.0], recurrent_weight_dropout=0.4, seed=2)
    cell.build((None, 3))
    masks = cell.draw_dropout_masks(np.ones((1, steps, 3), "float32"), training=True)
    ids = np.array([[SENTENCE.index(word) for word in SENTENCE]])
    embedding = keras.layers.Embedding(len(SENTENCE), units, embeddings_initializer="ones")
    vectors = np.asarray(EmbeddingDropout(embedding, 0.4, seed=4)(ids, training=True))

    figure = Figure(figsize=(8.4, 5), layout="constrained")
    grid = figure.subplot_mosaic([["zoneout", "words"], ["kernel", "kernel"]])
    zoneout = np.asarray(masks.zoneout_masks[0])[0].T == 1
    show(grid["zoneout"], zoneout, "zoneout of h (black: kept)", xlabel="time steps", ylabel="units")
    show(grid["words"], vectors[0].T == 0, "embedding dropout (black: dropped)", ylabel="features")
    grid["words"].set_xticks(np.arange(len(SENTENCE)) + 0.5, SENTENCE, rotation=90)
    kernel = np.asarray(masks.recurrent_kernel_mask) == 0
    show(
        grid["kernel"], kernel, "recurrent weight dropout (black: dropped), the same at all steps", ylabel="units of h"
    )
    for edge in range(units, 4 * units, units):
        grid["kernel"].axvline(edge, color="tab:orange", linewidth=3)
    grid["kernel"].set_xlabel("units of the gates i, f, g and o")
    grid["kernel"].set_xticks(np.arange(units // 2, 4 * units, units), ["i", "f", "g", "o"], fontsize=12)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(IMAGES / "masks.png")

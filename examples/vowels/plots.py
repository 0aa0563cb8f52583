# SPDX-License-Identifier: Apache-2.0
"""Pictures: recordings with the probabilities of the speakers beneath, and accuracy by the number of steps seen."""

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS = {"right": "#0072B2", "wrong": "#D55E00", "other": "0.75"}  # Okabe and Ito's, for colour-blind people


def plot_probabilities(recordings, speakers, probabilities, path, count=3):
    """Draws the longest recording of the first speakers, and the probabilities when 1, 2, ... steps are seen.

    `probabilities` has shape (steps, recordings, speakers).
    """
    lengths = np.array([len(recording) for recording in recordings])
    chosen = [np.flatnonzero(speakers == speaker)[lengths[speakers == speaker].argmax()] for speaker in range(count)]
    figure, axes = plt.subplots(2, count, figsize=(4 * count, 6), sharey="row", layout="constrained")
    for (above, below), row in zip(axes.T, chosen, strict=True):
        steps, truth = np.arange(1, lengths[row] + 1), speakers[row]
        image = above.imshow(
            recordings[row].T, aspect="auto", cmap="cividis", vmin=-3, vmax=3, extent=(0.5, steps[-1] + 0.5, 12.5, 0.5)
        )
        above.set_title(f"a recording of speaker {truth + 1}")
        shown = probabilities[: lengths[row], row]
        rival = np.argsort(np.where(np.arange(shown.shape[1]) == truth, 0, shown.max(axis=0)))[-1]
        for speaker, curve in enumerate(shown.T):
            color = COLORS["right" if speaker == truth else "wrong" if speaker == rival else "other"]
            label = f"speaker {speaker + 1}" if speaker in (truth, rival) else None
            below.plot(steps, 100 * curve, color=color, linewidth=2.5 if speaker == truth else 1.5, label=label)
        below.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
        below.set(xlabel="steps seen (grey: the others)", xlim=(0.5, steps[-1] + 0.5), ylim=(-3, 103))
    axes[0, 0].set_ylabel("coefficient")
    axes[0, 0].set_yticks([1, 6, 12])
    axes[1, 0].set_ylabel("probability, %")
    figure.colorbar(image, ax=axes[0], label="standard deviations", fraction=0.05)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_steps(accuracies, shortest, cut, path):
    """Draws the accuracy when 1, 2, ... steps are seen, and that of the models trained on `shortest` steps, `cut`."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    steps = range(1, len(accuracies) + 1)
    axes.plot(steps, accuracies, marker="o", color=COLORS["right"], label="trained on whole recordings, with masks")
    label = f"trained on the first {shortest} steps"
    axes.plot(shortest, cut, marker="s", markersize=9, linestyle="", color=COLORS["wrong"], label=label)
    axes.set(xlabel="steps seen", ylabel="held-out recordings right, %", xlim=(0, len(accuracies) + 1))
    axes.legend(loc="lower right", frameon=False)
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)

# SPDX-License-Identifier: Apache-2.0
"""Pictures: clips with the predictions of the models beneath, and the error by frame."""

import matplotlib
import numpy as np
from clips import FRAMES, OPEN

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Colours of Okabe and Ito, which colour-blind people can tell apart.
STYLES = {
    "no recurrence": {"color": "#E69F00", "marker": "s", "linestyle": ":"},
    "one direction": {"color": "#0072B2", "marker": "^", "linestyle": "--"},
    "both directions": {"color": "#009E73", "marker": "o", "linestyle": "-"},
}
RIGHT, WRONG, FENCE = "#56B4E9", "#E69F00", "#6B4F3A"


def plot_errors(errors, path):
    """Draws the error of each model by frame, and around the change; `errors` maps its name to its results."""
    figure, (by_frame, around) = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for name, results in errors.items():
        by_frame.plot(range(1, FRAMES + 1), results["by_frame"], label=name, **STYLES[name])
        offsets = results["around_the_change"]
        around.plot(list(offsets), list(offsets.values()), **STYLES[name])
    by_frame.set_xlabel("frame of the clip")
    by_frame.set_ylabel("frames wrong, %")
    by_frame.set_xticks(range(1, FRAMES + 1))
    by_frame.set_ylim(bottom=0)
    around.axvline(-0.5, color="0.6", linewidth=1)
    around.set_xlabel("frames since the digit changed (0: the first frame of the new one)")
    around.set_xticks(list(offsets))
    for axes in (by_frame, around):
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_clips(seen, scenes, digits, probabilities, path, count=2):
    """Draws the first clips in which the digit changes near the middle, with what each model says of each frame."""
    change = np.argmax(digits != digits[:, :1], axis=1)
    chosen = np.flatnonzero(abs(change - FRAMES // 2) <= 1)[:count]
    gray = matplotlib.colormaps["gray"].with_extremes(bad=FENCE)
    figure = plt.figure(figsize=(11, 3.1 * len(chosen)), layout="constrained")
    for part, clip in zip(np.atleast_1d(figure.subfigures(len(chosen), 1, hspace=0.06)), chosen, strict=True):
        grid = part.subplots(2 + len(probabilities), FRAMES, height_ratios=[2, 2] + [1.1] * len(probabilities))
        behind_fence = np.where(OPEN[:, None], seen[clip], np.nan)
        for frame, panels in enumerate(grid.T):
            panels[0].set_title(f"{digits[clip, frame]}", fontsize=11)
            panels[0].imshow(scenes[clip, frame], cmap=gray, vmin=0, vmax=1)
            panels[1].imshow(behind_fence[frame], cmap=gray, vmin=0, vmax=1)
            for panel, model in zip(panels[2:], probabilities.values(), strict=True):
                guess = model[clip, frame].argmax()
                panel.set_facecolor(RIGHT if guess == digits[clip, frame] else WRONG)
                panel.text(0.5, 0.5, f"{guess}", fontsize=13, weight="bold", ha="center", va="center")
            for panel in panels:
                panel.set(xticks=[], yticks=[])
        for panel, label in zip(grid[:, 0], ["the scene", "what is seen", *probabilities], strict=True):
            panel.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11)
            if label in probabilities:
                panel.set(xlim=(0, 1), ylim=(0, 1))
    figure.suptitle("above: the digit of each frame; below: what the models say, right (blue) or wrong (orange)")
    figure.savefig(path, dpi=110)
    plt.close(figure)

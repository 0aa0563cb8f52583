# SPDX-License-Identifier: Apache-2.0
"""Pictures of the probabilities of the three modes, and of what they learn."""

import numpy as np
from matplotlib.figure import Figure
from modes import MODES, said

COLORS = dict(zip(MODES, ("#0072B2", "#E69F00", "#009E73"), strict=True))
TITLES = {
    "prediction": "prediction\nreads the true words before",
    "transcription": "transcription\nsays all words at once",
    "generation": "generation\nreads its own words, until STOP",
}


def shown_words(vocabulary, truth, results, limit=24):
    """Returns the ids of the words to draw: the true ones, those that are said, then the most likely; STOP last."""
    ids = [int(np.flatnonzero(vocabulary == word)[0]) for word in truth if word in vocabulary]
    ids += [int(i) for mode in MODES for i in said(results[mode])]
    highest = np.max([results[mode][: len(truth)].max(axis=0) for mode in MODES], axis=0)
    ids += [int(i) for i in np.argsort(-highest) if highest[i] >= 0.1]
    stop = int(np.flatnonzero(vocabulary == "STOP")[0])
    return [*[i for i in dict.fromkeys(ids) if i != stop][:limit], stop]


def plot_probabilities(vocabulary, pairs, results, path):
    """Draws a row for each line: in each mode, the probability of words against steps. Rings mark what is said."""
    rows = [
        shown_words(vocabulary, [*after.split(), "STOP"], row) for (_, after), row in zip(pairs, results, strict=False)
    ]
    figure = Figure(figsize=(9, sum(0.24 * len(ids) + 1.3 for ids in rows)), layout="constrained")
    grid = figure.subplots(len(pairs), 3, squeeze=False, height_ratios=[len(ids) + 3 for ids in rows])
    for axes, mode in zip(grid[0], MODES, strict=True):
        axes.set_title(TITLES[mode], fontsize=10)
    for panels, (given, after), ids, row in zip(grid, pairs, rows, results, strict=False):
        steps = max(len(after.split()) + 1, len(said(row["generation"])))
        for axes, mode in zip(panels, MODES, strict=True):
            values = np.full((len(ids), steps), np.nan)
            end = len(row[mode]) if mode == "prediction" else len(said(row[mode]))
            shown = row[mode][: min(end, steps)]
            values[:, : len(shown)] = shown[:, ids].T
            image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            marks = [(t, ids.index(i)) for t, i in enumerate(shown.argmax(axis=1)) if i in ids]
            axes.scatter(
                *np.array(marks).T, s=70, facecolors="none", edgecolors=COLORS["transcription"], linewidths=1.5
            )
            for (word, t), value in np.ndenumerate(values):
                if value >= 0.1 and (t, word) not in marks:
                    axes.text(t, word, f"{value:.1f}".lstrip("0"), ha="center", va="center", fontsize=7)
            axes.set_yticks(range(len(ids)), vocabulary[ids], parse_math=False)
            axes.set_xticks(range(steps), range(1, steps + 1))
        panels[0].set_ylabel(f"after “{given}”", fontsize=9)
        panels[1].set_xlabel("step")
    figure.colorbar(image, ax=grid, label="probability (ring: the word that is said)", fraction=0.02)
    figure.savefig(path, dpi=150)


def plot_curves(histories, path):
    """Draws the words at their place over the epochs: a panel for each group of lines, a line for each mode."""
    figure = Figure(figsize=(4 * len(histories), 3.5), layout="constrained")
    panels = figure.subplots(1, len(histories), squeeze=False, sharey=True)[0]
    for axes, (name, history) in zip(panels, histories.items(), strict=True):
        for mode, style in zip(MODES, ("-", "--", ":"), strict=True):
            heights = [scores[mode]["words"] for scores in history.values()]
            axes.plot(list(history), heights, style, color=COLORS[mode], label=mode, linewidth=2)
        axes.set_title(name)
        axes.set_xlabel("epochs")
    panels[0].set_ylabel("words right, %")
    panels[0].legend()
    figure.savefig(path, dpi=120)

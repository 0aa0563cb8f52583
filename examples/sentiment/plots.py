# SPDX-License-Identifier: Apache-2.0
"""Pictures: the attention weights of sentences, and how often models are right by how clear a sentence is."""

import numpy as np
from matplotlib.figure import Figure

COLORS = ["#999999", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2"]  # Okabe and Ito
MARKERS = "sv^Do*"
BOUNDS = np.array([0, 0.5, 1, 1.5, 2, 2.5, 4])  # of the absolute rating


def draw_attention(sentences, ratings, logits, weights, path):
    """Draws sentences as rows of words: the darker the background, the larger the weight of the word."""
    figure = Figure(figsize=(11, 0.45 * len(sentences) + 0.9))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_axis_off()
    axes.set_xlim(0, 11)
    axes.set_ylim(len(sentences) - 0.5, -1.5)
    caption = f"words: the darker, the larger the attention weight, up to {np.max(weights):.2f}"
    for x, title in ((0, "rating"), (0.9, "P(positive)"), (2.1, f"{caption}; ✗: wrong")):
        axes.text(x, -1, title, fontsize=10, fontweight="bold", va="center")
    to_data = axes.transData.inverted()
    for y, (sentence, rating, logit, row) in enumerate(zip(sentences, ratings, logits, weights, strict=True)):
        probability = 1 / (1 + np.exp(-logit))
        axes.text(0, y, f"{rating:+.1f}", fontsize=11, va="center")
        wrong = "" if (logit > 0) == (rating > 0) else "  ✗"
        axes.text(0.9, y, f"{100 * probability:.0f} %{wrong}", fontsize=11, va="center")
        x = 2.1
        for word, weight in zip(sentence.split(), row, strict=False):
            opacity = weight / np.max(weights)
            box = {"facecolor": (0, 0.45, 0.7, opacity), "edgecolor": "none", "pad": 2}
            color = "white" if opacity > 0.85 else "black"
            text = axes.text(x, y, word, fontsize=11, va="center", color=color, bbox=box, parse_math=False)
            x = to_data.transform(text.get_window_extent())[1, 0] + 0.1
    figure.savefig(path, dpi=150)


def draw_accuracy(correct, ratings, path):
    """Draws the share of right answers of each model by the absolute rating; `correct` maps names to booleans."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    bins = np.digitize(np.abs(ratings), BOUNDS[1:-1])
    counts = np.bincount(bins, minlength=len(BOUNDS) - 1)
    places = np.arange(len(counts))
    for i, (name, right) in enumerate(correct.items()):
        shares = np.bincount(bins, right, len(counts)) / np.maximum(counts, 1)
        style = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]}
        axes.plot(places, 100 * shares, label=f"{name}: {100 * right.mean():.1f} %", markersize=7, **style)
    labels = [f"{a:g} to {b:g}\n{n} sentences" for a, b, n in zip(BOUNDS, BOUNDS[1:], counts, strict=False)]
    axes.set_xticks(places, labels, fontsize=8)
    axes.set_xlabel("how far the mean rating is from neutral (0)")
    axes.set_ylabel("right answers, %")
    axes.axhline(50, color="black", linewidth=0.8, linestyle=":")
    axes.legend(fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)

# SPDX-License-Identifier: Apache-2.0
"""Scores by the length of the source, and a picture of them beside the attention weights of a sentence."""

import numpy as np
import sacrebleu

COLORS = ("#0072B2", "#D55E00", "#7F7F7F")  # of Okabe and Ito, and gray


def length_groups(sources, count=5):
    """Returns a list of `(label, indices)`: groups of sources by their number of words, of about equal size."""
    lengths = np.array([len(source.split()) for source in sources])
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, count + 1)[1:-1], method="nearest"))
    groups = np.searchsorted(edges, lengths)
    members = [np.flatnonzero(groups == group) for group in range(len(edges) + 1)]
    return [(f"{lengths[group].min()}–{lengths[group].max()}", group) for group in members if len(group)]


def chrf(outputs, references):
    """Returns the chrF of each output (0 to 100)."""
    return np.array([sacrebleu.sentence_chrf(*pair).score for pair in zip(outputs, map(_one, references), strict=True)])


def _one(reference):
    return [reference]


def draw(groups, curves, attention, path):
    """Draws two panels by the length of the source, and a matrix of attention weights.

    Args:
        groups: what `length_groups` returns.
        curves: dict from the title of a panel to a dict from the name of a model to a value for each source.
        attention: `(weights, source tokens, target tokens)`; weights are (target, source).
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    weights, source, target = attention
    figure = Figure(figsize=(15, 5), layout="constrained")
    *panels, matrix = figure.subplots(1, len(curves) + 1, width_ratios=[*[1] * len(curves), 1.25])
    for axes, (title, models) in zip(panels, curves.items(), strict=True):
        for (name, values), color, style in zip(models.items(), COLORS, ("o-", "s--", "^:"), strict=False):
            means = [values[group].mean() for _, group in groups]
            errors = [values[group].std() / np.sqrt(len(group)) for _, group in groups]
            axes.errorbar(range(len(groups)), means, errors, fmt=style, color=color, capsize=3, label=name)
        axes.set_xticks(range(len(groups)), [label for label, _ in groups])
        axes.set(title=title, xlabel="words of the source")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    image = matrix.imshow(weights, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    matrix.set_xticks(range(len(source)), source, rotation=90, parse_math=False)
    matrix.set_yticks(range(len(target)), target, parse_math=False)
    matrix.set(title="attention weights of a test sentence", xlabel="source", ylabel="output")
    figure.colorbar(image, ax=matrix, fraction=0.05)
    figure.savefig(path, dpi=120)

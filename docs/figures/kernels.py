# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/kernels.png: how the kernels compute a time step of an LSTM. Needs keras_seq[plots]."""

import pathlib

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

IMAGES = pathlib.Path(__file__).parents[1] / "images"
LINE, SHADE, TILE, OTHER = "0.35", "0.88", "C0", "C1"


def box(axes, x, y, width, height, color="white", **options):
    """Draws a rectangle with its lower left corner at (x, y)."""
    options = {"edgecolor": LINE, "linewidth": 0.8, **options}
    axes.add_patch(Rectangle((x, y), width, height, facecolor=color, **options))


def text(axes, x, y, words, **options):
    """Writes words around (x, y)."""
    axes.text(x, y, words, **{"ha": "center", "va": "center", "fontsize": 10, **options})


def arrow(axes, start, end, **options):
    """Draws an arrow between two points."""
    options = {"arrowstyle": "-|>", "mutation_scale": 13, "color": LINE, **options}
    axes.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **options))


def draw_hidden(axes):
    """Draws the states of a block of sequences, of which some are masked."""
    masked, tile = {3, 7, 8}, {4, 5, 6, 9, 10, 11}
    for row in range(14):
        hatch = {"hatch": "////"} if row in masked else {}
        box(axes, 2, 56 - 2 * row, 15, 2, TILE if row in tile else SHADE if row in masked else "white", **hatch)
    text(axes, 9.5, 62, "h of the step before,\n64 sequences at a time")
    text(axes, 9.5, 26.5, "hatched: masked,\nnot computed")


def draw_weights(axes):
    """Draws the panels of the packed recurrent kernel."""
    for panel in range(4):
        for gate, name in enumerate("ifgo"):
            x = 24 + 7.5 * panel + 1.6 * gate
            box(axes, x, 30, 1.6, 28, TILE if panel == 1 else "white")
            text(axes, x + 0.8, 28.4, name, fontsize=9)
    text(axes, 38.5, 62, "U, packed into panels:\nthe gates of 16 units side by side")
    text(axes, 20.5, 44, "×", fontsize=16)


def draw_sums(axes):
    """Draws the sums of a tile, and what happens to them."""
    for row in range(6):
        for gate in range(4):
            box(axes, 62 + 3 * gate, 48 - 2 * row, 3, 2, TILE)
    text(axes, 58, 44, "=", fontsize=16)
    text(axes, 68, 62, "a tile: 6 rows × 4\nvectors of sums,\nin registers")
    for gate, name in enumerate("ifgo"):
        text(axes, 63.5 + 3 * gate, 52, name, fontsize=9)
        for row in range(6):
            box(axes, 62 + 3 * gate, 27 - row, 3, 1, OTHER, alpha=0.75)
    arrow(axes, (68, 28.5), (68, 37.5))
    text(axes, 68, 20.8, "the slots of this step:\nx W + b, computed before\nfor a chunk of steps", va="top")


def draw_equations(axes):
    """Draws the equations, and where their results go."""
    arrow(axes, (74.5, 44), (79.5, 44))
    box(axes, 80, 35, 19, 18)
    text(axes, 89.5, 44, "σ(i), σ(f), tanh(g), σ(o)\n\nc = f c + i g\n\nh = o tanh(c)", fontsize=9.5)
    text(axes, 89.5, 62, "gates and states,\nfrom the first-level cache")
    arrow(axes, (89.5, 34.5), (89.5, 28))
    text(axes, 89.5, 27, "outputs: h\nresiduals: i f g o c\nthe next step: h × mask", va="top")


def draw_items(axes):
    """Draws the items of a step, which the threads share."""
    for panel in range(4):
        for block in range(2):
            is_first = panel < 2
            hatch = {} if is_first else {"hatch": ".."}
            box(axes, 24 + 7.5 * panel, 12 - 5 * block, 6.4, 4.4, TILE if is_first else OTHER, alpha=0.5, **hatch)
    text(axes, 12, 11.5, "The items of a step,\npanels × blocks of\n64 sequences:")
    text(axes, 30.7, 19, "thread 1", color=LINE)
    text(axes, 45.7, 19, "thread 2", color=LINE)
    axes.plot([54.5, 54.5], [5, 18], color=LINE, linestyle="--", linewidth=1.5)
    text(axes, 55.5, 8, "all wait,\nthen the\nnext step", ha="left")
    for left in (24, 39):
        arrow(axes, (left, 5), (left + 13.9, 5))
        arrow(axes, (left + 13.9, 3.2), (left, 3.2), linestyle="--")
    text(axes, 38.5, 0.6, "even steps go through a range from the left, odd ones from the right", fontsize=9)


def draw(path):
    """Draws a step of the forward pass."""
    figure = Figure(figsize=(9.6, 6.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 100), ylim=(-1, 66))
    axes.axis("off")
    for part in (draw_hidden, draw_weights, draw_sums, draw_equations, draw_items):
        part(axes)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(IMAGES / "kernels.png")

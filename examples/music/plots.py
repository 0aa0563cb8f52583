# SPDX-License-Identifier: Apache-2.0
"""Draws chorales as piano rolls, a colour for each voice."""

import numpy as np
from chorales import BAR, ONSET, PITCH, REST, VOICES
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

COLORS = ("#D55E00", "#E69F00", "#009E73", "#0072B2")  # Okabe and Ito (2008)
NAMES = {0: "C", 2: "D", 4: "E", 5: "F", 7: "G", 9: "A", 11: "B"}


def plot_rolls(chorales, path, bars=14):
    """Draws the first bars of chorales, a dict from titles to arrays of notes, one below the other."""
    figure = Figure(figsize=(11, 4.8 * len(chorales)), layout="constrained")
    for axes, (title, notes) in zip(figure.subplots(len(chorales), squeeze=False)[:, 0], chorales.items(), strict=True):
        plot_roll(axes, notes[notes[:, ONSET] < bars * BAR], bars)
        axes.set_title(title, loc="left", fontsize=13)
    axes.set_xlabel("bar", fontsize=12)
    handles = [Patch(color=color, label=name) for name, color in zip(VOICES, COLORS, strict=True)]
    handles.append(Patch(facecolor="white", edgecolor="black", linewidth=1.6, label="not a white key"))
    figure.legend(handles=handles, loc="outside upper right", ncols=5, fontsize=11, frameon=False)
    figure.savefig(path, dpi=110)


def plot_roll(axes, notes, bars):
    notes = notes[notes[:, PITCH] != REST]
    low, high = notes[:, PITCH].min() - 1, notes[:, PITCH].max() + 1
    for pitch in range(low, high + 1):
        if pitch % 12 not in NAMES:
            axes.axhspan(pitch - 0.5, pitch + 0.5, color="0.94", linewidth=0, zorder=0)
    for bar in range(bars + 1):
        axes.axvline(bar * BAR, color="0.35", linewidth=1, zorder=1)
        for beat in (1, 2, 3):
            axes.axvline(bar * BAR + beat * BAR // 4, color="0.8", linewidth=0.6, zorder=1)
    for onset, duration, voice, pitch in notes.tolist():
        width = min(duration, bars * BAR - onset) - 0.3
        edge = {"edgecolor": "black", "linewidth": 1.6} if pitch % 12 not in NAMES else {"linewidth": 0}
        shape = FancyBboxPatch(
            (onset + 0.15, pitch - 0.4), width, 0.8, boxstyle="round,pad=0,rounding_size=0.35", zorder=2,
            facecolor=COLORS[voice], **edge,
        )  # fmt: skip
        axes.add_patch(shape)
    labels = [pitch for pitch in range(low, high + 1) if pitch % 12 in NAMES]
    axes.set_yticks(labels, [f"{NAMES[pitch % 12]}{pitch // 12 - 1}" for pitch in labels], fontsize=8)
    axes.set_xticks(np.arange(bars) * BAR + BAR / 2, np.arange(1, bars + 1), fontsize=10)
    axes.tick_params(length=0)
    axes.set_xlim(0, bars * BAR)
    axes.set_ylim(low - 0.5, high + 0.5)

# SPDX-License-Identifier: Apache-2.0
"""A spectrogram, and below it the attention of several models for each digit, on the same axis of time."""

import numpy as np
from matplotlib.figure import Figure
from speech import BANDS, FRAME_SECONDS


def plot_attention(utterance, outputs, path):
    """Draws an utterance, and the attention weights of each output. Triangles mark the largest of the first one.

    Args:
        utterance: an `Utterance`.
        outputs: dict from the name of a model to `(digits, weights)`, its text and attention weights (digits, frames).
        path: file for the picture.
    """
    figure = Figure(figsize=(9, 3 + 1.7 * len(outputs)), layout="constrained")
    spectrogram, *panels = figure.subplots(1 + len(outputs), sharex=True, height_ratios=[1.5, *[1] * len(outputs)])
    seconds = len(utterance.frames) * FRAME_SECONDS
    image = utterance.frames.reshape(-1, BANDS)  # (spectra, bands)
    spectrogram.imshow(image.T, origin="lower", aspect="auto", extent=(0, seconds, 0, BANDS), cmap="cividis")
    spectrogram.set_ylabel("mel band")
    ends = np.append(utterance.starts[1:], seconds)
    top = spectrogram.secondary_xaxis("top")
    top.set_xticks((utterance.starts + ends) / 2, list(utterance.digits), fontsize=14)
    top.tick_params(length=0)
    spectrogram.set_title(f"{utterance.digits}, spoken by {utterance.voice}", fontsize=12, loc="left")
    for axes, (name, (text, weights)) in zip(panels, outputs.items(), strict=True):
        weights = weights[: len(text), : len(utterance.frames)]
        extent = (0, seconds, len(text) - 0.5, -0.5)
        colours = axes.imshow(
            weights, aspect="auto", extent=extent, cmap="viridis", vmin=0, vmax=1, interpolation="none"
        )
        axes.set_yticks(range(len(text)), list(text), fontsize=12)
        axes.set_ylabel("output")
        axes.set_title(f"attention weights: {name}", fontsize=11, loc="left")
    for axes in (spectrogram, *panels):
        for start in utterance.starts[1:]:
            axes.axvline(start, color="white", linewidth=1, linestyle=":")
    text, weights = next(iter(outputs.values()))
    stops = [row.argmax() for row in weights[: len(text)] if row.max() > 0]
    times = (np.array(stops) + 0.5) * FRAME_SECONDS
    spectrogram.plot(times, np.full(len(times), BANDS - 1.5), "v", color="white", markeredgecolor="black", markersize=9)
    panels[-1].set_xlabel("seconds")
    figure.colorbar(colours, ax=panels, shrink=0.6, label="weight")
    figure.savefig(path, dpi=150)

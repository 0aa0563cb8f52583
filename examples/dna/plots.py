# SPDX-License-Identifier: Apache-2.0
"""A picture of what the model says along a stretch of the genome, above the genes that are there."""

import genome
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

FORWARD, REVERSE, RNA = "#0072B2", "#D55E00", "0.6"  # colours that all eyes tell apart (Okabe & Ito)


def draw_genome(genes, tracks, length, path):
    """Draws probabilities along the genome and the genes beneath.

    Args:
        genes: of `genome.Genome`.
        tracks: for each region the starts of its windows and the logits of their six frames (windows, 6).
        length: bases of a window.
        path: of the PNG file.
    """
    figure = Figure(figsize=(13, 6), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[2, 1.5, 2])
    for starts, logits in tracks:
        centers = (starts + length / 2) / 1000
        top.plot(centers, 1 / (1 + np.exp(-np.logaddexp.reduce(logits, axis=1))), color="black", linewidth=1)
        rows = np.empty_like(logits)
        np.put_along_axis(rows, genome.genome_frames(starts, length), 1 / (1 + np.exp(-logits)), axis=1)
        image = bottom.pcolormesh(centers, range(6), rows.T, cmap="Greys", vmin=0, vmax=1, rasterized=True)
    first, end = tracks[0][0][0], tracks[-1][0][-1] + length
    shown = [gene for gene in genes if gene.end > first and gene.start < end]
    for gene in shown:
        draw_gene(gene, top, middle, bottom)
    top.set(ylabel="probability\nof coding", ylim=(-0.03, 1.03), xlim=(first / 1000, end / 1000))
    middle.set(yticks=[1, -1], yticklabels=["forward", "reverse"], ylim=(-2.6, 2.6), ylabel="genes")
    bottom.set(yticks=range(6), yticklabels=["+0", "+1", "+2", "−0", "−1", "−2"], xlabel="position (1,000 bases)")
    bottom.set_ylabel("reading frame\n(box: annotated)")
    figure.colorbar(image, ax=bottom, label="probability", pad=0.01)
    for axes in (top, middle):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def draw_gene(gene, top, middle, bottom):
    """Draws an exon or a gene of RNA: an arrow on its strand, and for what codes its shade and its frame."""
    start, width = gene.start / 1000, (gene.end - gene.start) / 1000
    is_coding, side = gene.frame >= 0, gene.strand
    color = RNA if not is_coding else FORWARD if side == 1 else REVERSE
    tail, tip = (start, start + width)[::side]
    head = {"head_width": 0.9, "head_length": min(width, 0.12), "length_includes_head": True}
    middle.arrow(tail, side, tip - tail, 0, width=0.5, color=color, linewidth=0, **head)
    if width > 0.25:
        middle.text(start + width / 2, 1.9 * side, gene.name, ha="center", va="center", fontsize=8, style="italic")
    if is_coding:
        top.axvspan(start, start + width, color=color, alpha=0.25, linewidth=0)
        box = {"fill": False, "edgecolor": color, "linewidth": 1.5}
        bottom.add_patch(Rectangle((start, gene.frame - 0.45), width, 0.9, **box))

# SPDX-License-Identifier: Apache-2.0
"""Copies figures from the pages of docs/benchmarks into the sentences and tables of other pages that quote them.

`make bench` does so at its end. As a program, it names what it changed; what else these pages say, such as why a figure
is small, it cannot know.

    python benchmarks/quotes.py
"""

import pathlib
import re
from typing import NamedTuple

import pages

CPU, GPU = "amd-epyc-zen-5-avx-512-2-cores", "nvidia-h100-80gb-hbm3"  # the machines that are quoted
RATIOS, OPTIONS = "keras_seq against its peers", "What options cost or save"
BETTER = "the better of `keras.layers` in graph and jit"
KERAS_LAYERS, KERNELS = "docs/migration/keras_layers.md", "docs/kernels.md"
DECODING, TROUBLESHOOTING = "docs/concepts/decoding.md", "docs/guides/troubleshooting.md"
DROPOUT_MEMORY = "forward + backward, recurrent_dropout=0.3"


class Cells(NamedTuple):
    """Cells of a row of a measured page."""

    page: str  # in docs/benchmarks, without .md
    table: str  # its title
    row: str  # its first cell; the first cells, if more are needed to tell rows apart
    form: object = lambda cells: cells  # function from the following cells to what is written

    def figures(self, docs):
        text = (docs / "benchmarks" / f"{self.page}.md").read_text(encoding="utf-8")
        table = text.partition(f"\n## {self.table}\n")[2].partition("\n## ")[0]
        found = re.search(rf"^\| {re.escape(self.row)} \| (.*) \|$", table, re.MULTILINE)
        if not found:
            raise ValueError(f"{self.page}.md must have a row {self.row!r} in the table {self.table!r}")
        return self.form(found[1].split(" | "))


class Peak(NamedTuple):
    """The FMA peak of a measured page, in GFLOP/s."""

    page: str

    def figures(self, docs):
        text = (docs / "benchmarks" / f"{self.page}.md").read_text(encoding="utf-8")
        return re.findall(r"^Peak of the FMA units.*: (\d+) GFLOP/s", text, re.MULTILINE)


class Quote(NamedTuple):
    page: str  # that quotes
    pattern: str  # a regular expression with a group for each figure; a space matches a line break, too
    sources: list  # `Cells` or `Peak`s with these figures, in order

    def find(self, text):
        """Returns a list of matches in the text of the page."""
        return list(re.finditer(self.pattern.replace(" ", r"\s"), text, re.MULTILINE))

    def rewrite(self, text, docs):
        """Returns the text of the page with the measured figures."""
        matches, figures = self.find(text), [figure for source in self.sources for figure in source.figures(docs)]
        if [len(match.groups()) for match in matches] != [len(figures)]:
            raise ValueError(f"{self.page} must have {len(figures)} figures, once, in {self.pattern!r}")
        for index in range(len(figures), 0, -1):  # from the last, so that positions stay right
            text = text[: matches[0].start(index)] + figures[index - 1] + text[matches[0].end(index) :]
        return text


def row(page, label, *sources, columns=3):
    """Returns the quote of a row of a table, whose first columns are figures."""
    label = re.escape(label).replace(r"\ ", " ")
    return Quote(page, rf"^\| {label} \|" + r" ([^|]*) \|" * columns, list(sources))


def layers(table, label):
    return Cells(f"{CPU}/layers", table, label)


def share(kind, shape):
    """The share of the peak of an LSTM, which is the first column."""
    return Cells(f"{CPU}/layers", f"Share of the FMA peak, {kind}", shape, lambda cells: [cells[0].replace("%", " %")])


def gpu(label):
    return Cells(f"{GPU}/jax_layers", RATIOS, label)


def memory(name):
    """Gigabytes without zeros at the end."""
    row = f"{name} | {DROPOUT_MEMORY}"
    table = "Peak memory of a training step at (32, 100, 1024, 1024), GB"
    return Cells(f"{CPU}/layers_memory", table, row, lambda cells: [f"{float(cells[0]):g}"])


def spread(cells):
    """The least and the greatest of the means."""
    means = [float(cell.split()[0]) for cell in cells]
    return [f"{min(means):.1f}", f"{max(means):.1f}"]


def words_per_second(cells):
    greedy, beams = (float(cells[i].split()[0].replace(",", "")) for i in (0, 2))
    return [f"{round(speed, -1):,.0f}" for speed in (greedy, beams)]


README_ROWS = [f"{BETTER}, forward + backward", "the same, `recurrent_dropout=0.3`"]
README_ROWS += ["PyTorch, forward + backward", "ONNX Runtime, forward"]
KERAS_ROWS = {
    "forward + backward": f"{BETTER}, forward + backward",
    "the same, `recurrent_dropout=0.3`": "the same, `recurrent_dropout=0.3`",
    "forward": f"{BETTER}, forward",
}
DROPOUTS = ["`recurrent_dropout=0.3`", "`recurrent_weight_dropout=0.3`", "`zoneout=0.1`"]
DROPOUTS += ['`recurrent_dropout=0.3, dropout_mode="naive"`']
SHAPES = ["128, 30, 650, 650", "32, 100, 1024, 1024", "64, 50, 512, 512", "64, 50, 256, 256", "32, 25, 128, 128"]
SHAPES += ["1, 100, 512, 512"]
GPU_ROWS = {
    "LSTM, against Keras on cuDNN (with recurrent dropout, Keras's own loop)": "LSTM, against keras",
    "GRU, against Keras, which does not run it on cuDNN on JAX": "GRU, against keras",
    "LSTM, against `torch.nn` on cuDNN": "LSTM, against torch",
    "GRU, against `torch.nn` on cuDNN": "GRU, against torch",
}
MASK = layers(OPTIONS, "with a mask, half of the steps padding, forward + backward")._replace(form=spread)
BATCHES = Cells(f"{CPU}/decoding", "Batches of 512 words", "keras_seq", words_per_second)
ONE_WORD = Cells(
    f"{CPU}/decoding", "One word of nine letters alone", "keras_seq", lambda cells: [cell.split()[0] for cell in cells]
)
QUOTES = [
    *(row("README.md", label, layers(RATIOS, label)) for label in README_ROWS),
    *(row(KERAS_LAYERS, label, layers(RATIOS, source)) for label, source in KERAS_ROWS.items()),
    Quote(KERAS_LAYERS, r"another ([\d.]+) to ([\d.]+) times as fast as without the mask", [MASK]),
    Quote(
        KERAS_LAYERS,
        r"takes ([\d.]+) GB with recurrent dropout, that of Keras ([\d.]+) GB",
        [memory("native"), memory("keras")],
    ),
    *(
        row(KERNELS, f"({shape})", share("forward", shape), share("forward + backward", shape), columns=2)
        for shape in SHAPES
    ),
    Quote(KERNELS, r"whose peak of (\d+) GFLOP/s", [Peak(f"{CPU}/layers")]),
    *(
        row("docs/concepts/dropout.md", label, layers(OPTIONS, f"with {label}, forward + backward"))
        for label in DROPOUTS
    ),
    Quote(DECODING, r"pronounces ([\d,]+) words a second by greedy search and ([\d,]+) with five beams", [BATCHES]),
    Quote(DECODING, r"one word alone takes ([\d.]+) and ([\d.]+) ms", [ONE_WORD]),
    Quote(TROUBLESHOOTING, r"\): ([\d.]+) instead of ([\d.]+) GB at", [memory("native"), memory("keras")]),
    *(row(TROUBLESHOOTING, label, gpu(source)) for label, source in GPU_ROWS.items()),
]


def update(root):
    """Writes the measured figures into the pages of a checkout. Returns the pages that changed."""
    changed = []
    for name in dict.fromkeys(quote.page for quote in QUOTES):
        before = text = (root / name).read_text(encoding="utf-8")
        for quote in QUOTES:
            if quote.page == name:
                text = quote.rewrite(text, root / "docs")
        if text != before:
            pages.write_file(root / name, text)
            changed.append(name)
    return changed


def main():
    for name in update(pathlib.Path(__file__).resolve().parents[1]):
        print(f"{name}: figures of docs/benchmarks copied; read whether the text around them is still true")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The results of the contest as tables for a person, and as data."""

import importlib.metadata
import os
import pathlib
import platform
import statistics
from typing import NamedTuple

import fma_peak
from cases import GATES, PASSES
from contenders import CONTENDERS, LEGEND, PEERS, VARIANTS
from rich import box
from rich.table import Table as RichTable

PEAK = fma_peak.CONTENDER.name
PACKAGES = ["tensorflow", "keras", "torch", "onnxruntime", "jax"]


class Table(NamedTuple):
    title: str
    head: list
    rows: list  # of lists of strings

    def markdown(self):
        lines = ["| " + " | ".join(row) + " |" for row in [self.head, ["---"] * len(self.head), *self.rows]]
        return f"### {self.title}\n\n" + "\n".join(lines) + "\n"

    def terminal(self):
        table = RichTable(*self.head, title=self.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for row in self.rows:
            table.add_row(*row)
        return table


class Comparison(NamedTuple):
    """A row of a table of ratios: theirs / ours, of medians, in one pass."""

    label: str
    kind: str
    ours: str
    theirs: list  # the best of them
    suits: object = lambda shape: True

    def ratios(self, results):
        """`{case: theirs / ours}` of those cases that both ran."""
        ratios = {}
        for result in results:
            theirs = [result.median(name) for name in self.theirs if name in result.seconds]
            mine = result.case.kind == self.kind and self.suits(result.case.shape) and self.ours in result.seconds
            if mine and theirs:
                ratios[result.case] = min(theirs) / result.median(self.ours)
        return ratios


def times_tables(results, ours):
    """Milliseconds: for each pass a table of all contenders, and one of the variants of native."""
    variants = [contender.name for contender in VARIANTS]
    others = [contender.name for contender in CONTENDERS if contender.name not in variants]
    tables, peak = [], _peak(results)
    for kind, one_pass in PASSES.items():
        mine = [result for result in results if result.case.kind == kind]
        shown = [name for name in others if any(name in result.seconds for result in mine)]
        head = ["layer", "batch, time, features, units", f"share of the FMA peak, {ours}", *shown]
        rows = [[*_case_cells(r), _percent(_share(r, ours, peak)), *(_time(r, name) for name in shown)] for r in mine]
        tables.append(Table(f"Milliseconds, {one_pass.title}", head, rows))
        extra = [name for name in variants if any(name in result.seconds for result in mine)]
        if extra:
            head = ["layer", "batch, time, features, units", "native", *extra]
            rows = [_case_cells(r) + [_time(r, name) for name in head[2:]] for r in mine]
            tables.append(Table(f"Milliseconds, {one_pass.title}, variants of keras_seq native", head, rows))
    return [table for table in tables if table.rows]


def ratio_tables(results, ours):
    """Against the peers, and what native costs with this or that; geometric means and the worst shape."""
    both = ["keras", "keras-jit"]
    against = [
        Comparison("the better of keras graph and jit, forward + backward", "training", ours, both),
        Comparison("the same, recurrent_dropout=0.3", "dropout", ours, both),
        Comparison("PyTorch, forward + backward", "training", ours, ["torch"]),
        Comparison("PyTorch, forward", "forward", ours, ["torch"]),
        Comparison("ONNX Runtime, forward", "forward", ours, ["onnxruntime"]),
        Comparison("the better of keras graph and jit, forward", "forward", ours, both),
        Comparison("Keras on JAX, forward + backward", "training", ours, ["keras-jax"]),
    ]
    itself = [
        *(Comparison(f"under jit, {PASSES[kind].title}", kind, "native-jit", ["native"]) for kind in PASSES),
        *(
            Comparison(f"with {name}, forward + backward", "training", f"native+{name}", ["native"])
            for name in ("mask", "recurrent_dropout", "zoneout", "naive", "weight_dropout")
        ),
        Comparison("bfloat16, forward", "forward", "native+bfloat16", ["native"]),
        Comparison("bfloat16, forward, batch ≥ 32, units ≥ 512", "forward", "native+bfloat16", ["native"], _is_large),
    ]
    bracketed = "geometric mean over the shapes (worst shape)"
    tables = [
        _ratio_table(f"keras_seq {ours}, times as fast as …: {bracketed}", against, results),
        _ratio_table(f"keras_seq native …, times as fast as without: {bracketed}", itself, results),
    ]
    return [table for table in tables if table.rows]


def worst_table(results, ours):
    """For each peer, the single case in which we do worst."""
    rows = []
    for peer in PEERS:
        ratios = {}
        for kind in PASSES:
            ratios |= Comparison(peer, kind, ours, [peer]).ratios(results)
        if ratios:
            case = min(ratios, key=ratios.get)
            slower = sum(ratio < 0.95 for ratio in ratios.values())
            rows.append([peer, f"{ratios[case]:.2f}", str(case), f"{slower} of {len(ratios)}"])
    head = ["peer", "times as fast", "worst case", "cases more than 5 % slower"]
    return [Table(f"keras_seq {ours} where it does worst", head, rows)] if rows else []


def memory_table(rows, shape):
    """Rows `(name, layer, kind, gigabytes)`, a column a layer."""
    layers = [layer for layer in GATES if any(row[1] == layer for row in rows)]
    cells = {(name, kind): {} for name, _, kind, _ in rows}
    for name, layer, kind, gigabytes in rows:
        cells[name, kind][layer] = f"{gigabytes:.2f}"
    lines = [
        [name, PASSES[kind].title, *(by_layer.get(layer, "–") for layer in layers)]
        for (name, kind), by_layer in cells.items()
    ]
    return Table(f"Peak memory of a training step at {shape}, GB", ["", "pass", *layers], lines)


def machine(results):
    """Lines on what was measured on what."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    lines = [f"{_processor()}, {os.cpu_count()} cores; {', '.join(versions)}."]
    if peak := _peak(results):
        lines.append(f"FMA peak, float32, all cores: {peak:.0f} GFLOP/s, the best of all turns.")
    return lines


def brief(result):
    """A line."""
    seconds = (f"{name} {1e3 * result.median(name):.3g}" for name in result.seconds if name != PEAK)
    return f"{result.case}, ms: {', '.join(seconds)}"


def notes(left_out):
    """Lines on who was left out and why, of pairs of a contender and a reason; each once, however many cases."""
    groups = {}
    for name, reason in left_out:
        groups.setdefault(reason, []).append(name)
    return [f"- Left out: {', '.join(dict.fromkeys(names))}: {reason}" for reason, names in groups.items()]


def explanation():
    return [
        "Cells: median ± half the interquartile range. All contenders took turns in one run, "
        "each in a process of its own.",
        LEGEND,
        "The share of the FMA peak counts the matrix products alone.",
    ]


def as_data(results, ours):
    """What goes into the JSON file, a dictionary a case."""
    rows, peak = [], _peak(results)
    for result in results:
        share = _share(result, ours, peak)
        contenders = {
            name: {"median": result.median(name), "spread": result.spread(name), "all": times}
            for name, times in result.seconds.items()
        }
        rows.append(
            {**result.case._asdict(), "share_of_peak": share, "seconds": contenders, "left_out": result.left_out}
        )
    return rows


def _is_large(shape):
    return shape[0] >= 32 and shape[3] >= 512


def _ratio_table(title, comparisons, results):
    layers = [layer for layer in GATES if any(result.case.layer == layer for result in results)]
    rows = []
    for comparison in comparisons:
        ratios = comparison.ratios(results)
        by_layer = [[ratio for case, ratio in ratios.items() if case.layer == layer] for layer in layers]
        if ratios:
            rows.append([comparison.label, *map(_mean_and_worst, by_layer)])
    return Table(title, ["", *layers], rows)


def _mean_and_worst(ratios):
    return f"{statistics.geometric_mean(ratios):.2f} ({min(ratios):.2f})" if ratios else "–"


def _case_cells(result):
    return [result.case.layer, ",".join(map(str, result.case.shape))]


def _percent(share):
    return "–" if share is None else f"{share:.0%}"


def _share(result, ours, peak):
    """Of the FMA peak, in the matrix products of `ours`; None if unknown."""
    if peak is None or ours not in result.seconds:
        return None
    return result.case.flops / result.median(ours) / 1e9 / peak


def _peak(results):
    """The FMA peak in GFLOP/s: the best of all turns, for one whose threads start late shows less. None if unknown."""
    return max((fma_peak.gigaflops(min(r.seconds[PEAK])) for r in results if PEAK in r.seconds), default=None)


def _time(result, name):
    if name not in result.seconds:
        return "–"
    milliseconds = 1e3 * result.median(name)
    digits = 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:.{digits}f} ±{result.spread(name):.0%}"


def _processor():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    flags = values.get("flags", "").split()
    features = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{values.get('model name', platform.processor())} ({', '.join(features)})"

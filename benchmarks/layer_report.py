# SPDX-License-Identifier: Apache-2.0
"""The tables of layers.py."""

import statistics
from typing import NamedTuple

import report
from layer_cases import GATES, PASSES
from layer_contenders import CONTENDERS, LEGEND, PEERS, VARIANTS
from report import Table, time_cell


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
            ratio = report.ratio(result, self.ours, self.theirs)
            if ratio and result.case.kind == self.kind and self.suits(result.case.shape):
                ratios[result.case] = ratio
        return ratios


def times_tables(results, ours):
    """Milliseconds: for each pass a table of all contenders, and one of the variants of native."""
    variants = [contender.name for contender in VARIANTS]
    others = [contender.name for contender in CONTENDERS if contender.name not in variants]
    tables, peak = [], report.fma_peak_of(results)
    for kind, one_pass in PASSES.items():
        mine = [result for result in results if result.case.kind == kind]
        shown = [name for name in others if any(name in result.seconds for result in mine)]
        head = ["layer", "batch, time, features, units", f"share of the FMA peak, {ours}", *shown]
        rows = [
            [*_case_cells(r), _percent(_share(r, ours, peak)), *(time_cell(r, name) for name in shown)] for r in mine
        ]
        tables.append(Table(f"Milliseconds, {one_pass.title}", head, rows))
        extra = [name for name in variants if any(name in result.seconds for result in mine)]
        if extra:
            head = ["layer", "batch, time, features, units", "native", *extra]
            rows = [_case_cells(r) + [time_cell(r, name) for name in head[2:]] for r in mine]
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
    """Rows `(name, case, gigabytes)`, a column a layer."""
    layers = [layer for layer in GATES if any(case.layer == layer for _, case, _ in rows)]
    cells = {(name, case.kind): {} for name, case, _ in rows}
    for name, case, gigabytes in rows:
        cells[name, case.kind][case.layer] = f"{gigabytes:.2f}"
    lines = [
        [name, PASSES[kind].title, *(by_layer.get(layer, "–") for layer in layers)]
        for (name, kind), by_layer in cells.items()
    ]
    return Table(f"Peak memory of a training step at {shape}, GB", ["", "pass", *layers], lines)


def explanation():
    return [
        report.TURNS,
        LEGEND,
        "The share of the FMA peak counts the matrix products alone.",
    ]


def as_data(results, ours):
    """What goes into the JSON file, a dictionary a case."""
    peak = report.fma_peak_of(results)
    return [{**report.times_data(result), "share_of_peak": _share(result, ours, peak)} for result in results]


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

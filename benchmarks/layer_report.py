# SPDX-License-Identifier: Apache-2.0
"""The tables of the layer benchmark."""

import statistics
from typing import NamedTuple

import report
from layer_cases import GATES, PASSES
from layer_contenders import CONTENDERS, LEGEND, PEERS, VARIANTS
from report import Table, time_cell


class Comparison(NamedTuple):
    """A row of a table of ratios: how many times as fast as its peers a contender is in one pass."""

    label: str
    kind: str  # a key of PASSES
    ours: str  # a contender
    peers: list  # contenders, of which the fastest counts
    suits: object = lambda shape: True

    def ratios(self, results):
        """Returns `{case: seconds of the fastest peer / seconds of ours}` for the cases that both ran."""
        ratios = {}
        for result in results:
            ratio = report.ratio(result, self.ours, self.peers)
            if ratio and result.case.kind == self.kind and self.suits(result.case.shape):
                ratios[result.case] = ratio
        return ratios


def times_tables(results, ours):
    """Returns for each pass a table of milliseconds, and one for the variants of native."""
    variants = [contender.name for contender in VARIANTS]
    others = [contender.name for contender in CONTENDERS if contender.name not in variants]
    tables, peak = [], report.fma_peak_of(results)
    for kind, one_pass in PASSES.items():
        pass_results = [result for result in results if result.case.kind == kind]
        columns = [name for name in others if any(name in result.seconds for result in pass_results)]
        head = ["layer", "batch, time, features, units", f"share of the FMA peak, {ours}", *columns]
        rows = [
            [*_case_cells(r), _percent(_share(r, ours, peak)), *(time_cell(r, name) for name in columns)]
            for r in pass_results
        ]
        tables.append(Table(f"Milliseconds, {one_pass.title}", head, rows))
        columns = [name for name in variants if any(name in result.seconds for result in pass_results)]
        if columns:
            head = ["layer", "batch, time, features, units", "native", *columns]
            rows = [_case_cells(r) + [time_cell(r, name) for name in head[2:]] for r in pass_results]
            tables.append(Table(f"Milliseconds, {one_pass.title}, variants of keras_seq native", head, rows))
    return [table for table in tables if table.rows]


def ratio_tables(results, ours):
    """Returns tables of ratios against the peers and of the variants against native: geometric mean and worst shape."""
    keras = ["keras", "keras-jit"]
    peer_comparisons = [
        Comparison("the better of keras graph and jit, forward + backward", "training", ours, keras),
        Comparison("the same, recurrent_dropout=0.3", "dropout", ours, keras),
        Comparison("PyTorch, forward + backward", "training", ours, ["torch"]),
        Comparison("PyTorch, forward", "forward", ours, ["torch"]),
        Comparison("ONNX Runtime, forward", "forward", ours, ["onnxruntime"]),
        Comparison("the better of keras graph and jit, forward", "forward", ours, keras),
        Comparison("Keras on JAX, forward + backward", "training", ours, ["keras-jax"]),
    ]
    variant_comparisons = [
        *(Comparison(f"under jit, {PASSES[kind].title}", kind, "native-jit", ["native"]) for kind in PASSES),
        *(
            Comparison(f"with {name}, forward + backward", "training", f"native+{name}", ["native"])
            for name in ("mask", "recurrent_dropout", "zoneout", "naive", "weight_dropout")
        ),
        Comparison("bfloat16, forward", "forward", "native+bfloat16", ["native"]),
        Comparison("bfloat16, forward, batch ≥ 32, units ≥ 512", "forward", "native+bfloat16", ["native"], _is_large),
    ]
    cells = "geometric mean over the shapes (worst shape)"
    tables = [
        _ratio_table(f"keras_seq {ours}, times as fast as …: {cells}", peer_comparisons, results),
        _ratio_table(f"keras_seq native …, times as fast as without: {cells}", variant_comparisons, results),
    ]
    return [table for table in tables if table.rows]


def worst_table(results, ours):
    """Returns a table with the slowest case against each peer."""
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
    return [Table(f"keras_seq {ours} in its worst case", head, rows)] if rows else []


def memory_table(rows, shape):
    """Returns a table of rows `(name, case, gigabytes)`, with a column for each layer."""
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
        "The share of the FMA peak counts only the matrix products.",
    ]


def as_data(results, ours):
    """Returns a list of dicts for the JSON file, one for each case."""
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
    """Returns the share of the FMA peak that the matrix products of `ours` reach, or None if unknown."""
    if peak is None or ours not in result.seconds:
        return None
    return result.case.flops / result.median(ours) / 1e9 / peak

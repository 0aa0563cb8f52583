# SPDX-License-Identifier: Apache-2.0
"""The tables of the layer benchmark."""

import statistics
from typing import NamedTuple

import report
from layer_cases import GATES, PASSES
from layer_contenders import CONTENDERS, PEERS
from report import Table, time_cell

SHAPE = "batch, time, features, units"
CELLS = "the geometric mean over the shapes, and the worst shape in brackets."
VARIANT_LABELS = {
    "mask": "with a mask, half of the steps padding",
    "recurrent_dropout": "with `recurrent_dropout=0.3`",
    "weight_dropout": "with `recurrent_weight_dropout=0.3`",
    "zoneout": "with `zoneout=0.1`",
    "naive": 'with `recurrent_dropout=0.3, dropout_mode="naive"`',
}


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
    """Returns tables of milliseconds for each pass and layer, with few columns each, and the share of the peak."""
    tables, peak = [], report.fma_peak_of(results)
    for kind, one_pass in PASSES.items():
        groups = {layer: [r for r in results if (r.case.layer, r.case.kind) == (layer, kind)] for layer in GATES}
        groups = {layer: group for layer, group in groups.items() if group}
        if peak and groups:
            tables.append(_share_table(f"Share of the FMA peak, {one_pass.title}", groups, ours, peak))
        for layer, group in groups.items():
            present = [c.name for c in CONTENDERS if c.name != ours and any(c.name in r.seconds for r in group)]
            peers = [name for name in present if name in PEERS]
            own = [name for name in present if name not in PEERS]
            if peers or not own:
                tables.append(_times_table(f"{layer}, {one_pass.title}", group, [ours, *peers]))
            for first in range(0, len(own), 4):
                title = f"{layer}, {one_pass.title}: keras_seq with options"
                tables.append(_times_table(title, group, [ours, *own[first : first + 4]]))
    return tables


def ratio_tables(results, ours):
    """Returns tables of ratios against the peers and of the variants against native: geometric mean and worst shape."""
    keras = ["keras", "keras-jit"]
    has_jit = any("keras-jit" in result.seconds for result in results)
    better = "the better of `keras.layers` in graph and jit" if has_jit else "`keras.layers` in a graph"
    peer_comparisons = [
        Comparison(f"{better}, forward + backward", "training", ours, keras),
        Comparison("the same, `recurrent_dropout=0.3`", "dropout", ours, keras),
        Comparison("PyTorch, forward + backward", "training", ours, ["torch"]),
        Comparison("PyTorch, forward", "forward", ours, ["torch"]),
        Comparison("ONNX Runtime, forward", "forward", ours, ["onnxruntime"]),
        Comparison(f"{better}, forward", "forward", ours, keras),
        Comparison("`keras.layers` with JAX, forward + backward", "training", ours, ["keras-jax"]),
    ]
    variant_comparisons = [
        *(Comparison(f"under jit, {PASSES[kind].title}", kind, "native-jit", ["native"]) for kind in PASSES),
        *(
            Comparison(f"{label}, forward + backward", "training", f"native+{name}", ["native"])
            for name, label in VARIANT_LABELS.items()
        ),
        Comparison("in bfloat16, forward", "forward", "native+bfloat16", ["native"]),
        Comparison("the same, batch ≥ 32 and units ≥ 512", "forward", "native+bfloat16", ["native"], _is_large),
    ]
    tables = [
        _ratio_table(
            "keras_seq against its peers", peer_comparisons, f"How many times as fast {ours} is: {CELLS}", results
        ),
        _ratio_table(
            "What options cost or save", variant_comparisons, f"How many times as fast native is: {CELLS}", results
        ),
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
    return [Table(f"The worst case of {ours}", head, rows)] if rows else []


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


def as_data(results, ours):
    """Returns a list of dicts for the JSON file, one for each case."""
    peak = report.fma_peak_of(results)
    return [{**report.times_data(result), "share_of_peak": _share(result, ours, peak)} for result in results]


def _is_large(shape):
    return shape[0] >= 32 and shape[3] >= 512


def _times_table(title, results, names):
    rows = [[_shape_cell(result.case.shape), *(time_cell(result, name) for name in names)] for result in results]
    return Table(title, [SHAPE, *names], rows, "Milliseconds.")


def _share_table(title, groups, ours, peak):
    shapes = {result.case.shape: {} for group in groups.values() for result in group}
    for layer, group in groups.items():
        for result in group:
            shapes[result.case.shape][layer] = _percent(_share(result, ours, peak))
    rows = [[_shape_cell(shape), *(cells.get(layer, "–") for layer in groups)] for shape, cells in shapes.items()]
    return Table(title, [SHAPE, *groups], rows, f"Of {ours}, its matrix products alone.")


def _ratio_table(title, comparisons, note, results):
    layers = [layer for layer in GATES if any(result.case.layer == layer for result in results)]
    rows = []
    for comparison in comparisons:
        ratios = comparison.ratios(results)
        by_layer = [[ratio for case, ratio in ratios.items() if case.layer == layer] for layer in layers]
        if ratios:
            rows.append([comparison.label, *map(_mean_and_worst, by_layer)])
    return Table(title, ["", *layers], rows, note)


def _mean_and_worst(ratios):
    return f"{statistics.geometric_mean(ratios):.2f} ({min(ratios):.2f})" if ratios else "–"


def _shape_cell(shape):
    return ", ".join(map(str, shape))


def _percent(share):
    return "–" if share is None else f"{share:.0%}"


def _share(result, ours, peak):
    """Returns the share of the FMA peak that the matrix products of `ours` reach, or None if unknown."""
    if peak is None or ours not in result.seconds:
        return None
    return result.case.flops / result.median(ours) / 1e9 / peak

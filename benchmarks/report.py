# SPDX-License-Identifier: Apache-2.0
"""Results as tables for a person, and as data."""

import importlib.metadata
import json
import os
import pathlib
import platform
from typing import NamedTuple

import fma_peak
from rich import box
from rich.table import Table as RichTable

PEAK = fma_peak.CONTENDER.name
PACKAGES = ["tensorflow", "keras", "torch", "onnxruntime", "jax", "yoyodyne"]
TURNS = (
    "Cells: median ± half the interquartile range. All contenders took turns in one run, each in a process of its own."
)


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


class Report(NamedTuple):
    heading: list  # of lines
    tables: list
    notes: list  # of lines
    data: dict

    def write(self, path):
        """`path` is without the suffix."""
        texts = ["\n".join(self.heading) + "\n", *(table.markdown() for table in self.tables), "\n".join(self.notes)]
        path.with_suffix(".md").write_text("\n".join(texts) + "\n")
        path.with_suffix(".json").write_text(json.dumps(self.data, indent=1) + "\n")

    def show(self, console):
        console.print("\n".join(self.heading), highlight=False)
        for table in self.tables:
            console.print(table.terminal())
        console.print("\n".join(self.notes), highlight=False)


def machine(results):
    """Lines on what was measured on what."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    lines = [f"{_processor()}, {os.cpu_count()} cores; {', '.join(versions)}."]
    if peak := fma_peak_of(results):
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


def ratio(result, ours, theirs):
    """How many times as fast as the best of `theirs`, by medians; None where either did not run."""
    seconds = [result.median(name) for name in theirs if name in result.seconds]
    return min(seconds) / result.median(ours) if seconds and ours in result.seconds else None


def times_data(result):
    """What goes into the JSON file of a case."""
    contenders = {
        name: {"median": result.median(name), "spread": result.spread(name), "all": times}
        for name, times in result.seconds.items()
    }
    return {**result.case._asdict(), "seconds": contenders, "left_out": result.left_out}


def memory_data(rows):
    """Likewise, of rows `(name, case, gigabytes)`."""
    return [{"contender": name, **case._asdict(), "gigabytes": gigabytes} for name, case, gigabytes in rows]


def fma_peak_of(results):
    """The FMA peak in GFLOP/s: the best of all turns, for one whose threads start late shows less. None if unknown."""
    return max((fma_peak.gigaflops(min(r.seconds[PEAK])) for r in results if PEAK in r.seconds), default=None)


def time_cell(result, name):
    """Milliseconds and their spread."""
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

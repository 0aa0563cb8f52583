# SPDX-License-Identifier: Apache-2.0
"""Reports: tables for the terminal and in Markdown, and data in JSON."""

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
TURNS = "Cells: median ± half the interquartile range. All contenders took turns in one run, in processes of their own."


class Table(NamedTuple):
    title: str
    head: list
    rows: list  # lists of strings

    def markdown(self):
        lines = ["| " + " | ".join(row) + " |" for row in [self.head, ["---"] * len(self.head), *self.rows]]
        return f"### {self.title}\n\n" + "\n".join(lines) + "\n"

    def terminal(self):
        table = RichTable(*self.head, title=self.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for row in self.rows:
            table.add_row(*row)
        return table


class Report(NamedTuple):
    heading: list  # lines
    tables: list
    notes: list  # lines
    data: dict

    def write(self, path):
        """Writes Markdown and JSON; `path` has no suffix."""
        texts = ["\n".join(self.heading) + "\n", *(table.markdown() for table in self.tables), "\n".join(self.notes)]
        path.with_suffix(".md").write_text("\n".join(texts) + "\n")
        path.with_suffix(".json").write_text(json.dumps(self.data, indent=1) + "\n")

    def show(self, console):
        console.print("\n".join(self.heading), highlight=False)
        for table in self.tables:
            console.print(table.terminal())
        console.print("\n".join(self.notes), highlight=False)


def machine(results):
    """Returns lines on the machine and the versions of the packages."""
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
    """Returns a line with the medians of a result."""
    seconds = (f"{name} {1e3 * result.median(name):.3g}" for name in result.seconds if name != PEAK)
    return f"{result.case}, ms: {', '.join(seconds)}"


def notes(left_out):
    """Returns a line for each reason in `left_out`, pairs of a contender and a reason."""
    groups = {}
    for name, reason in left_out:
        groups.setdefault(reason, []).append(name)
    return [f"- Left out: {', '.join(dict.fromkeys(names))}: {reason}" for reason, names in groups.items()]


def ratio(result, ours, peers):
    """Returns how many times as fast as the fastest of `peers` `ours` is, by medians; None if either did not run."""
    seconds = [result.median(name) for name in peers if name in result.seconds]
    return min(seconds) / result.median(ours) if seconds and ours in result.seconds else None


def times_data(result):
    """Returns a dict for the JSON file."""
    contenders = {
        name: {"median": result.median(name), "spread": result.spread(name), "all": times}
        for name, times in result.seconds.items()
    }
    return {**result.case._asdict(), "seconds": contenders, "left_out": result.left_out}


def memory_data(rows):
    """Returns a list of dicts for the JSON file, from rows `(name, case, gigabytes)`."""
    return [{"contender": name, **case._asdict(), "gigabytes": gigabytes} for name, case, gigabytes in rows]


def fma_peak_of(results):
    """Returns the FMA peak in GFLOP/s, or None if unknown: the best of all turns, as threads may start late in some."""
    return max((fma_peak.gigaflops(min(r.seconds[PEAK])) for r in results if PEAK in r.seconds), default=None)


def time_cell(result, name):
    """Returns the median in milliseconds and its spread."""
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

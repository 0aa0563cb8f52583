# SPDX-License-Identifier: Apache-2.0
"""Reports: tables for the terminal and in Markdown, and data for JSON."""

import importlib.metadata
import platform
from typing import NamedTuple

import fma_peak
import pages
import processor
from rich import box
from rich.table import Table as RichTable

PEAK = fma_peak.CONTENDER.name
PACKAGES = ["keras_seq", "tensorflow", "keras", "torch", "onnxruntime", "jax", "yoyodyne"]
TURNS = "Cells: median ± half the interquartile range. All contenders took turns in one run, in processes of their own."


class Table(NamedTuple):
    title: str
    head: list
    rows: list  # lists of strings
    note: str = ""  # what the cells are, if the title does not say it

    def markdown(self):
        lines = ["| " + " | ".join(row) + " |" for row in [self.head, ["---"] * len(self.head), *self.rows]]
        return "\n\n".join([f"## {self.title}", *filter(None, [self.note]), "\n".join(lines)])

    def terminal(self):
        title = f"{self.title}. {self.note}" if self.note else self.title
        table = RichTable(*self.head, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for row in self.rows:
            table.add_row(*row)
        return table


class Report(NamedTuple):
    title: str
    machine: str  # its name
    heading: list  # paragraphs
    tables: list
    notes: list  # lines
    data: object  # for JSON
    num_first: int = 1  # how many tables docs/benchmarks.md shows

    def markdown(self, measured):
        """Returns a page; `measured` are paragraphs on when and how."""
        tables = [table.markdown() for table in self.tables]
        tables.insert(self.num_first, pages.MORE)
        notes = ["## Notes", "\n".join(self.notes)] if self.notes else []
        return "\n\n".join([f"# {self.title} on {self.machine}", *measured, *self.heading, *tables, *notes]) + "\n"

    def show(self, console):
        console.print("\n".join([self.machine, *self.heading]), highlight=False)
        for table in self.tables:
            console.print(table.terminal())
        console.print("\n".join(self.notes), highlight=False)


def of_contest(title, explanation, tables, results, num_first=1, data=None):
    """Returns the report of a contest on this machine.

    Args:
        title: title of the page.
        explanation: paragraphs.
        tables: tables of the results.
        results: `Result`s.
        num_first: how many tables docs/benchmarks.md shows.
        data: what the JSON file has of the results, by default their times.
    """
    heading = environment(results)
    left_out = notes(pair for result in results for pair in result.left_out.items())
    data = {"machine": heading, "results": data or [times_data(result) for result in results]}
    return Report(title, processor.machine_name(), [*heading, TURNS, *explanation], tables, left_out, data, num_first)


def of_measurements(title, explanation, tables, results, left_out=()):
    """Returns a report on other measurements on this machine; `results` go to the JSON file."""
    heading = environment([])
    data = {"machine": heading, "results": results}
    return Report(title, processor.machine_name(), [*heading, *explanation], tables, list(left_out), data)


def environment(results):
    """Returns paragraphs on the processor and the versions of the packages."""
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    lines = [", ".join([*versions, *processor.instruction_sets()]) + "."]
    if peak := fma_peak_of(results):
        lines.append(f"Peak of the FMA units, float32, all cores: {peak:.0f} GFLOP/s, the best of all turns.")
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

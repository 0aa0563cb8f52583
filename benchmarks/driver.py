# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks have in common: runs with a progress bar, and what the frameworks have to say, in a file."""

import contextlib
import os
import sys

import fma_peak
import memory
import report
from contest import run_contest
from rich.console import Console
from rich.progress import Progress


def open_console(path):
    """A console for what we write; what the contenders' processes write to stderr goes to a file at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr = os.fdopen(os.dup(2), "w")
    with path.open("w") as file:
        os.dup2(file.fileno(), 2)
    return Console(width=None if sys.stdout.isatty() else 180)  # a file takes lines of any length


def report_times(console, contenders, cases, seconds, make_report, path):
    """Run the contest; what there is of it is written after each case, and shown at the end.

    Args:
        console: from `open_console`.
        contenders, cases, seconds: as of `run_contest`.
        make_report: function `(results) -> Report`.
        path: of the files, without the suffix.
    """
    results = []
    contest = run_contest([fma_peak.CONTENDER, *contenders], cases, seconds)
    with Progress(console=console) as progress, contextlib.closing(contest):
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=str(case))
            results.append(next(contest))
            progress.advance(task)
            progress.console.print(report.brief(results[-1]), highlight=False)
            make_report(results).write(path)
    make_report(results).show(console)


def report_memory(console, makers, make_report, path):
    """Measure the memory of each of `makers`, triples `(name, maker, case)`.

    Args:
        console, path: as of `report_times`.
        make_report: function `(rows, notes) -> Report`, of rows `(name, case, gigabytes)` and notes on what could not
            be measured.
    """
    measured = make_report(*_measure_memory(console, makers))
    measured.write(path)
    measured.show(console)


def _measure_memory(console, makers):
    if not memory.SUPPORTED:
        return [], ["- Memory is measured on Linux alone."]
    rows, left_out = [], []
    with Progress(console=console) as progress:
        task = progress.add_task("", total=len(makers))
        for name, make, case in makers:
            progress.update(task, description=f"memory, {name}, {case}")
            try:
                rows.append((name, case, memory.measure(make, case)))
            except Exception as error:  # as in the contest: the others go on without it
                left_out.append((name, f"{type(error).__name__}: {error}"))
            progress.advance(task)
    return rows, report.notes(left_out)

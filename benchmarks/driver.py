# SPDX-License-Identifier: Apache-2.0
"""Runs benchmarks with a progress bar, writes reports, and redirects the output of frameworks to a log file."""

import contextlib
import os
import sys
import time

import fma_peak
import memory
import report
from contest import run_contest
from rich.console import Console
from rich.progress import Progress

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # compare on the CPU


def open_console(path):
    """Returns a console, and redirects what the contenders write to stderr to a file at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr = os.fdopen(os.dup(2), "w")
    with path.open("w") as file:
        os.dup2(file.fileno(), 2)
    return Console(width=None if sys.stdout.isatty() else 180)  # wide tables if the output is a file


def report_times(console, contenders, cases, seconds, make_report, output, name):
    """Runs a contest, writes the report so far after each case, and shows it at the end.

    Args:
        console: console from `open_console`.
        contenders, cases, seconds: arguments of `run_contest`.
        make_report: function `(results) -> Report`.
        output: `Output`, where the report goes.
        name: name of the page.
    """
    results, start = [], time.monotonic()
    contest = run_contest([fma_peak.CONTENDER, *contenders], cases, seconds)
    with Progress(console=console) as progress, contextlib.closing(contest):
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=str(case))
            results.append(next(contest))
            progress.advance(task)
            progress.console.print(report.brief(results[-1]), highlight=False)
            output.write(make_report(results), name, time.monotonic() - start)
    measured = make_report(results)
    output.finish(measured, name, time.monotonic() - start)
    measured.show(console)


def report_memory(console, makers, make_report, output, name):
    """Measures memory, and writes and shows the report.

    Args:
        console: console from `open_console`.
        makers: list of `(name, maker, case)`, where `maker(case)` returns a training step.
        make_report: function `(rows, notes) -> Report`, where rows are `(name, case, gigabytes)` and notes are lines on
            what was left out.
        output: `Output`, where the report goes.
        name: name of the page.
    """
    start = time.monotonic()
    measured = make_report(*_measure_memory(console, makers))
    output.finish(measured, name, time.monotonic() - start)
    measured.show(console)


def _measure_memory(console, makers):
    if not memory.SUPPORTED:
        return [], ["- Memory can be measured on Linux only."]
    rows, left_out = [], []
    with Progress(console=console) as progress:
        task = progress.add_task("", total=len(makers))
        for name, make, case in makers:
            progress.update(task, description=f"memory, {name}, {case}")
            try:
                rows.append((name, case, memory.measure(make, case)))
            except Exception as error:  # as in a contest: the others continue without it
                left_out.append((name, f"{type(error).__name__}: {error}"))
            progress.advance(task)
    return rows, report.notes(left_out)

# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers of keras_seq and its peers: time, share of the processor's peak, memory of a training step.

Prints tables, and writes them as Markdown and as JSON. What is not installed is left out: pip install '.[bench]'.

    python benchmarks/layers.py
    python benchmarks/layers.py --times --layers LSTM --shapes 1 32,25,128,128 --contenders native torch
    python benchmarks/layers.py --times --dtype bfloat16
    python benchmarks/layers.py --memory
"""

import argparse
import itertools
import json
import os
import pathlib
import sys

import fma_peak
import memory
import report
from cases import GATES, PASSES, SHAPES, Case
from contenders import CONTENDERS, MEMORY
from contest import run_contest
from rich.console import Console
from rich.progress import Progress

BFLOAT16 = ("native", "native+bfloat16")
NAMES = [contender.name for contender in CONTENDERS]


def parse_shape(text):
    """An index of SHAPES, or batch,time,features,units."""
    numbers = tuple(map(int, text.split(",")))
    if len(numbers) not in (1, 4):
        raise ValueError
    return numbers if len(numbers) == 4 else SHAPES[numbers[0]]


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    float32 = [name for name in NAMES if name not in BFLOAT16[1:]]
    listed = " ".join(f"{index}={shape}".replace(" ", "") for index, shape in enumerate(SHAPES))
    add("--layers", nargs="+", choices=GATES, default=list(GATES))
    add("--shapes", nargs="+", type=parse_shape, default=SHAPES, metavar="B,T,I,H", help=f"or indices: {listed}")
    add("--passes", nargs="+", choices=PASSES, default=list(PASSES), help="training: forward + backward")
    add("--contenders", nargs="+", choices=NAMES, default=float32, metavar="NAME", help=", ".join(NAMES))
    add("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32"], help="bfloat16: native, forward")
    add("--seconds", type=float, default=8, help="for a case, all contenders together (default: %(default)s)")
    add("--ours", choices=NAMES, default="native", metavar="NAME", help="whom the peers are compared with")
    add("--times", action="store_true", help="only the times")
    add("--memory", action="store_true", help="only the memory")
    add("--memory-shape", type=parse_shape, default=SHAPES[2], metavar="B,T,I,H", help="default: %(default)s")
    add("--output", type=pathlib.Path, default=pathlib.Path("runs/bench"), help="folder of the results")
    return parser.parse_args()


def measure_times(options, console):
    """The results of the contest; what there is of them is written after each case."""
    names = set(options.contenders) if "float32" in options.dtype else set()
    names.update(BFLOAT16 if "bfloat16" in options.dtype else ())
    contenders = [contender for contender in CONTENDERS if contender.name in names]
    passes = options.passes if "float32" in options.dtype else ["forward"]
    every = (Case(*each) for each in itertools.product(options.layers, options.shapes, passes))
    cases = [case for case in every if any(contender.suits(case) for contender in contenders)]
    results = []
    with Progress(console=console) as progress:
        task = progress.add_task("", total=len(cases))
        contest = run_contest([fma_peak.CONTENDER, *contenders], cases, options.seconds)
        for case in cases:
            progress.update(task, description=str(case))
            results.append(next(contest))
            progress.advance(task)
            progress.console.print(report.brief(results[-1]), highlight=False)
            write_times(options, results)
        contest.close()
    return results


def write_times(options, results):
    tables = [*report.ratio_tables(results, options.ours), *report.worst_table(results, options.ours)]
    tables += report.times_tables(results, options.ours)
    heading = [*report.machine(results), "", *report.explanation()]
    left_out = report.notes(pair for result in results for pair in result.left_out.items())
    texts = ["\n".join(heading) + "\n", *(table.markdown() for table in tables), "\n".join(left_out)]
    (options.output / "layers.md").write_text("\n".join(texts) + "\n")
    data = {"machine": report.machine(results), "ours": options.ours, "results": report.as_data(results, options.ours)}
    (options.output / "layers.json").write_text(json.dumps(data, indent=1) + "\n")
    return heading, tables, left_out


def measure_memory(options, console):
    """Rows `(name, layer, pass, gigabytes)`, and notes on what could not be measured."""
    if not memory.SUPPORTED:
        return [], ["- Memory is measured on Linux alone."]
    makers = [row for row in MEMORY if row[0].removesuffix("+recompute") in options.contenders]
    rows, left_out = [], []
    with Progress(console=console) as progress:
        task = progress.add_task("", total=len(makers) * len(options.layers))
        for layer, (name, make, kind) in itertools.product(options.layers, makers):
            case = Case(layer, options.memory_shape, kind)
            progress.update(task, description=f"memory, {name}, {case}")
            try:
                rows.append((name, layer, kind, memory.measure(make, case)))
            except Exception as error:  # as in the contest: the others go on without it
                left_out.append((name, f"{type(error).__name__}: {error}"))
            progress.advance(task)
    return rows, report.notes(left_out)


def write_memory(options, rows, left_out):
    tables = [report.memory_table(rows, options.memory_shape)] if rows else []
    heading = [*report.machine([]), "", "Above what the process held before the step, with all gradients."]
    texts = ["\n".join(heading) + "\n", *(table.markdown() for table in tables), "\n".join(left_out)]
    (options.output / "memory.md").write_text("\n".join(texts) + "\n")
    fields = ("contender", "layer", "pass", "gigabytes")
    data = {"machine": report.machine([]), "shape": options.memory_shape}
    data["results"] = [dict(zip(fields, row, strict=True)) for row in rows]
    (options.output / "memory.json").write_text(json.dumps(data, indent=1) + "\n")
    return heading, tables, left_out


def show(console, heading, tables, left_out):
    console.print("\n".join(heading), highlight=False)
    for table in tables:
        console.print(table.terminal())
    console.print("\n".join(left_out), highlight=False)


def log_frameworks(path):
    """What the contenders' processes write to stderr goes to a file; what we write still to the terminal."""
    sys.stderr = os.fdopen(os.dup(2), "w")
    with path.open("w") as file:
        os.dup2(file.fileno(), 2)


def main():
    options = parse_options()
    options.output.mkdir(parents=True, exist_ok=True)
    log_frameworks(options.output / "frameworks.log")
    console = Console(width=None if sys.stdout.isatty() else 180)  # a file takes lines of any length
    both = options.times == options.memory
    if both or options.times:
        results = measure_times(options, console)
        show(console, *write_times(options, results))
    if both or options.memory:
        show(console, *write_memory(options, *measure_memory(options, console)))
    console.print(f"Written to {options.output}/")


if __name__ == "__main__":
    main()

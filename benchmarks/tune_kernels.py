# SPDX-License-Identifier: Apache-2.0
"""Searches for better values of custom_ops/kernels/tuning.h, for one instruction set on this machine.

Compiles the kernels once for each candidate, without TensorFlow: half a minute each, with CMake and a C++ compiler.
Then the candidates take turns, case by case, in programs of their own. The second search takes what helped together.
Both write a table into runs/tune: how many times as fast as the values in the source a candidate is.

    python benchmarks/tune_kernels.py --isa avx2
    python benchmarks/tune_kernels.py --isa avx512 --candidates chunk_rows=256 tile_vectors=2,outer_vectors=2
    python benchmarks/tune_kernels.py --isa avx2 --threads 1 --steps 20

A candidate is one value, or several with commas. Values that help belong into the row of the instruction set in
tuning.h. Medians of times are compared. On a loaded machine use `--threads 1`, which compares the shortest times on the
processor, because other programs change them little. It says nothing of the `*_operations`, from where on threads are
worth it, nor whether there is enough work for all threads.
"""

import argparse
import itertools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys

import processor
from layer_cases import GATES, SHAPES
from report import Table

ROOT = pathlib.Path(__file__).parents[1]
CANDIDATES = [
    "tile_vectors=2",
    "outer_vectors=2",
    "row_block=32",
    "row_block=128",
    "chunk_rows=128",
    "chunk_rows=256",
    "chunk_rows=1024",
    "depth_block=128",
    "depth_block=256",
    "depth_block=1024",
    "outer_block=16",
    "outer_block=64",
]
# Milliseconds: by (layer, pass), then by candidate, "" for the source, then by case.
Times = dict[tuple[str, str], dict[str, dict[str, float]]]
WORTH = 1.01  # a candidate that is faster than this by the mean of all cases is taken into the second search


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--isa", default="avx2", help="portable, avx2, avx512 or avx512_bf16 (default: %(default)s)")
    add("--candidates", nargs="+", default=CANDIDATES, metavar="NAME=VALUE", help="default: a dozen")
    add("--layers", nargs="+", choices=GATES, default=list(GATES), help="cells to run")
    add("--shapes", nargs="+", type=parse_shape, default=SHAPES, metavar="B,T,I,H", help="batch,time,features,units")
    add("--steps", type=int, default=10**6, help="shorten sequences to this many steps")
    add("--threads", type=int, default=os.cpu_count(), help="threads of the kernels (default: all)")
    add("--rounds", type=int, default=5, help="turns of each candidate with each case (default: %(default)s)")
    add("--turn", type=float, default=0.1, help="seconds of a turn (default: %(default)s)")
    return parser.parse_args()


def parse_shape(text: str) -> tuple[int, int, int, int]:
    batch, time, features, units = map(int, text.split(","))
    return batch, time, features, units


def build(isa: str, candidate: str) -> pathlib.Path:
    """Compiles the kernels with the values of a candidate, "" for those in the source. Returns the program."""
    folder = ROOT / "build" / "tune" / f"{isa}-{candidate or 'source'}"
    options = ["LIBRARIES=OFF", "BENCHMARKS=ON"]
    values = [f"INSTRUCTION_SETS={isa}", f"TUNE={candidate.replace(',', ';')}"]
    options = [f"-DKERAS_SEQ_BUILD_{option}" for option in options] + [f"-DKERAS_SEQ_{value}" for value in values]
    configure = ["cmake", "-S", ROOT / "custom_ops", "-B", folder, "-DCMAKE_BUILD_TYPE=Release", *options]
    jobs = str(os.cpu_count())
    for command in (configure, ["cmake", "--build", folder, "--target", "kernel_times", "--parallel", jobs]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "benchmarks" / "kernel_times"


def run_turn(program: pathlib.Path, options: argparse.Namespace, case: str) -> dict[str, list[float]]:
    """Returns the milliseconds of the runs of a turn, by pass."""
    command = [program, str(options.threads), str(options.turn), case]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    clock = "processor" if options.threads == 1 else "milliseconds"
    rows = map(json.loads, result.stdout.splitlines())
    return {row["pass"]: row[clock] for row in rows}


def measure(options: argparse.Namespace, candidates: list[str]) -> Times:
    """Returns the median of each case, or with one thread the shortest time."""
    programs = {}
    for candidate in ["", *candidates]:
        print(f"compiling {candidate or 'the source'}", file=sys.stderr, flush=True)
        programs[candidate] = build(options.isa, candidate)
    times = {}
    for turn, layer, shape in itertools.product(range(options.rounds), options.layers, options.shapes):
        batch, time, features, units = shape
        case = f"{layer},{batch},{min(time, options.steps)},{features},{units}"
        if layer == options.layers[0]:
            print(f"round {turn + 1}: {case}", file=sys.stderr, flush=True)
        for candidate, program in programs.items():
            for kind, milliseconds in run_turn(program, options, case).items():
                cell = times.setdefault((layer, kind), {}).setdefault(candidate, {})
                cell.setdefault(case, []).extend(milliseconds)
    choose = min if options.threads == 1 else statistics.median
    for cell in (cell for candidates in times.values() for cell in candidates.values()):
        cell.update({case: choose(milliseconds) for case, milliseconds in cell.items()})
    return times


def ratios(cell: dict[str, dict], candidate: str) -> list[float]:
    """Returns how many times as fast a candidate is in each case, for one cell and pass."""
    return [cell[""][case] / cell[candidate][case] for case in cell[""]]


def geometric_mean(numbers: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, numbers)))


def mean_ratio(times: Times, candidate: str) -> float:
    """Returns the mean over all cells and passes, which have the same number of cases."""
    return geometric_mean([geometric_mean(ratios(cell, candidate)) for cell in times.values()])


def make_table(title: str, times: Times, candidates: list[str]) -> Table:
    """Returns a row for each candidate: the mean ratio for each cell and pass with the worst case, then of all."""
    rows = []
    for candidate in sorted(candidates, key=lambda each: -mean_ratio(times, each)):
        columns = [ratios(cell, candidate) for cell in times.values()]
        cells = [f"{geometric_mean(column):.3f} ({min(column):.2f})" for column in columns]
        rows.append([f"`{candidate}`", *cells, f"{mean_ratio(times, candidate):.3f}"])
    return Table(title, ["", *(f"{layer} {kind}" for layer, kind in times), "all"], rows)


def combine(times: Times, candidates: list[str]) -> str:
    """Returns the best value of each constant that is worth it, as one candidate; "" if there are not two."""
    best = {}
    for candidate in sorted(candidates, key=lambda each: mean_ratio(times, each)):
        if mean_ratio(times, candidate) >= WORTH:
            best[candidate.partition("=")[0]] = candidate  # the better ones come last
    return ",".join(best.values()) if len(best) > 1 else ""


def main():
    options = parse_options()
    title = f"Values of tuning.h for {options.isa} on {processor.machine_name()}"
    path = ROOT / "runs" / "tune" / f"{options.isa}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    clock = "shortest time on the processor" if options.threads == 1 else "median time"
    note = f"Speed against the source: geometric mean over the shapes, the worst in brackets; {clock} of "
    note += f"{options.rounds} turns with {options.threads} threads. Command: python {' '.join(sys.argv)}"
    times = measure(options, options.candidates)
    tables = [make_table(title, times, options.candidates)._replace(note=note)]
    path.write_text(tables[0].markdown() + "\n")
    if together := combine(times, options.candidates):
        tables.append(make_table("The best together", measure(options, [together]), [together]))
    path.write_text("\n\n".join(table.markdown() for table in tables) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()

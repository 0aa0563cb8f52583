# SPDX-License-Identifier: Apache-2.0
"""Benchmarks decoding with `Seq2Seq.generate` and its peers: batches, one word alone, and how the cost grows.

Trains a small model on words of CMUdict, once; all contenders but g2p-en have its weights. Prints tables, and writes
them as Markdown and JSON. Yoyodyne and g2p-en are installed into an environment of their own, `build/peers`.

    python benchmarks/decoding.py --quick
    python benchmarks/decoding.py --publish
    python benchmarks/decoding.py --tables batch word --no-peers
    python benchmarks/decoding.py --tables memory
"""

import argparse
import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import decoding_model
import driver
import pages
import peers
import report
from decoding_case import BATCH, EMBEDDING, UNITS, Case, megaflops
from decoding_contenders import CONTENDERS, PEERS, keras_seq_generate
from report import Table, time_cell

BEAMS = 5
BEAM_WIDTHS = [1, 2, 5, 10]
LENGTHS = [10, 20, 40, 80, 160]
FORCED_WORDS, FORCED_LENGTH = 64, 20
MIXED = {255: "255 short words", 1: "a word of 400 letters", 256: "both in one batch"}
WORDS_ALONE = 8  # decoded one after the other
QUICK = {"tables": ["batch", "word"], "no_peers": True, "words": BATCH, "train_words": 8000, "seconds": 1}
TABLES = ["batch", "word", "beams", "length", "mixed", "memory"]
LEGEND = (
    "Words of CMUdict's test split; an LSTM encoder in both directions, additive attention, an LSTM decoder. "
    "keras_seq: Seq2Seq.generate, from strings to strings. SavedModel: what Seq2Seq.export writes, run by TensorFlow "
    "without keras_seq. torch: a loop in Python, eager. yoyodyne: predict of Yoyodyne 0.5.27, from file to file. All "
    "have the same weights, and outputs that differ for at most 3 % of the words. g2p-en: its own NumPy model, a GRU "
    "of 256 units without attention."
)
FLOPS = (
    "Share of the FMA peak: products of encoder, attention, cell and readout that the outputs need, nothing else; with "
    "beams, as many steps as the best output has tokens."
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
    add("--seconds", type=float, default=4, help="time for a case, all contenders together (default: %(default)s)")
    pages.add_options(parser)
    return pages.parse(parser, QUICK)


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
    return report.of_contest("Decoding", [LEGEND, FLOPS, FORCED], tables, results, num_first=2)


def batch_table(results, peak):
    head = ["", *itertools.chain(*([search_name(result.case), "share of the FMA peak"] for result in results))]
    rows = [[name, *itertools.chain(*(rate_cells(r, name, peak) for r in results))] for name in names(*results)]
    costs = ", ".join(f"{search_name(r.case)} {megaflops(r.case):.0f} MFLOP a word" for r in results)
    note = f"Words per second; {results[0].case.count} words; {costs}."
    return Table(f"Batches of {BATCH} words", head, rows, note)


def rate_cells(result, name, peak):
    """Returns the words per second and the share of the peak."""
    if name not in result.seconds:
        return ["–", "–"]
    rate = len(result.case.share(name).words) / result.median(name)
    share = f"{rate * megaflops(result.case) / 1e3 / peak:.0%}" if peak else "–"
    return [f"{rate:,.0f} ±{result.spread(name):.0%}", share]


def word_table(results, peak):
    def cell(result, name):
        if name not in result.seconds:
            return "–"
        return f"{1e3 * result.median(name) / result.case.count:.2f} ±{result.spread(name):.0%}"

    rows = [[name, *(cell(result, name) for result in results)] for name in names(*results)]
    head = ["", *(search_name(result.case) for result in results)]
    return Table("One word of nine letters alone", head, rows, "Milliseconds.")


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
    return report.of_measurements("Memory of decoding", [], tables, report.memory_data(rows), left_out)


def search_name(case):
    return "greedy" if case.beams == 1 else f"{case.beams} beams"


def names(*results):
    return list(dict.fromkeys(name for result in results for name in result.seconds if name != report.PEAK))


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
    options, output = parse_options()
    console = driver.open_console(output.folder / "decoding.log")
    folder = str(output.folder / "decoding")
    contenders = find_contenders(options, console)
    console.print("Preparing the model: a minute, the first time.")
    prepare(options, folder)
    if cases := make_cases(options, folder):
        driver.report_times(console, contenders, cases, options.seconds, make_report, output, "decoding")
    if "memory" in options.tables:
        makers = [("keras_seq", keras_seq_generate, Case(folder, "batch", beams, BATCH)) for beams in (1, BEAMS)]
        driver.report_memory(console, makers, report_memory, output, "decoding_memory")
    console.print(f"Written to {output.folder}/")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Benchmarks an exported model: its speed beside that of `generate`, threads, memory, and the HTTP server.

Trains the model of decoding.py, once, and exports it. Everything but `generate` runs with TensorFlow alone.

    python benchmarks/serving.py --publish
    python benchmarks/serving.py --tables threads memory
"""

import argparse
import functools
import multiprocessing
import pathlib
import statistics
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import decoding_model
import driver
import memory
import pages
import report
import serving_load
from contest import Contender
from decoding_case import EMBEDDING, UNITS, shared_model, spread
from report import Table, time_cell

QUICK = {"tables": ["speed"], "train_words": 8000, "seconds": 2}
TABLES = ["speed", "threads", "memory", "server"]
LEGEND = (
    "Words of CMUdict's test split; an LSTM encoder in both directions, additive attention, an LSTM decoder; greedy "
    "search. generate: Seq2Seq.generate, from strings to strings. SavedModel: what Seq2Seq.export writes, run by "
    "TensorFlow without keras_seq."
)


class Words(NamedTuple):
    """Words to decode in one call."""

    folder: str  # what `decoding_model.prepare` has written
    count: int

    @property
    def words(self):
        """One word of nine letters, or words of all lengths."""
        words = shared_model(self.folder)["words"]
        return spread(words["any"] if self.count > 1 else words["nine letters"], self.count)

    def __str__(self):
        return f"{self.count} word{'s' * (self.count > 1)}"


def generate(case):
    import keras

    import keras_seq  # noqa: F401 - registers the classes in the file

    model = keras.saving.load_model(pathlib.Path(case.folder, shared_model(case.folder)["file"]), compile=False)
    return functools.partial(model.generate, case.words, batch_size=512, verbose=0)


def exported(case):
    import tensorflow as tf

    model = tf.saved_model.load(str(pathlib.Path(case.folder, "saved_model")))
    words = tf.constant(case.words)
    return lambda: model.signatures["serving_default"](inputs=words)["text"].numpy()


CONTENDERS = [Contender("generate", generate), Contender("SavedModel", exported)]


def speed_table(results):
    rows = []
    for result in results:
        for name in (c.name for c in CONTENDERS if c.name in result.seconds):
            rate = result.case.count / result.median(name)
            ratio = result.median(name) / result.median("generate")
            rows.append([str(result.case), name, time_cell(result, name), f"{rate:,.0f}", f"{ratio:.2f}"])
    return Table("Speed", ["", "", "ms", "words per second", "time, generate = 1"], rows)


def in_new_process(function, *arguments):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def run_threads(folder, threads, calls):
    """Runs calls of one word on threads. Returns `(calls with another result than alone, calls per second)`."""
    import tensorflow as tf

    model = tf.saved_model.load(str(pathlib.Path(folder, "saved_model")))
    signature = model.signatures["serving_default"]
    words = [tf.constant([word]) for word in spread(Words(folder, 200).words, 200)]

    def decode(i):
        results = signature(inputs=words[i % len(words)])
        return {name: value.numpy().tolist() for name, value in results.items()}

    alone = [decode(i) for i in range(len(words))]
    different = []

    def run(first):
        different.extend(i for i in range(first, first + calls) if decode(i) != alone[i % len(words)])

    workers = [threading.Thread(target=run, args=(17 * i,)) for i in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(different), threads * calls / (time.perf_counter() - start)


def threads_table(folder, threads, calls):
    rows = []
    for count in (1, threads):
        different, rate = in_new_process(run_threads, folder, count, calls)
        rows.append([str(count), f"{count * calls:,}", str(different), f"{rate:,.0f}"])
    return Table("One word a call", ["threads", "calls", "other results than alone", "calls per second"], rows)


def run_calls(folder, calls):
    """Runs calls of one to eight words. Returns the resident memory in MB after each tenth of them."""
    import tensorflow as tf

    model = tf.saved_model.load(str(pathlib.Path(folder, "saved_model")))
    words = Words(folder, 1000).words
    sizes = []
    for i in range(calls + calls // 10):
        batch = words[i % 900 : i % 900 + 1 + i % 8]
        model.signatures["serving_default"](inputs=tf.constant(batch))
        if i % (calls // 10) == calls // 10 - 1:
            memory.release()
            sizes.append(memory.resident() / 1e6)
    return sizes


def memory_table(folder, calls):
    first, *sizes = in_new_process(run_calls, folder, calls)
    row = [f"{calls // 10:,}", f"{first:.1f}", f"{calls:,}", f"{sizes[-1] - first:+.1f}", f"{max(sizes) - first:+.1f}"]
    return Table("Resident memory, MB", ["calls", "after them", "further calls", "growth", "at most"], [row])


def server_table(folder, clients, requests):
    words = Words(folder, 4000).words
    asked = [[[words[(c * requests + r) % len(words)]] for r in range(requests)] for c in range(clients)]
    with serving_load.running_server(pathlib.Path(folder, "saved_model")) as (_, port):
        serving_load.run_clients(port, [client[:2] for client in asked])
        rows = []
        for count in (1, clients):
            start = time.perf_counter()
            answers, seconds = serving_load.run_clients(port, asked[:count])
            rate = len(seconds) / (time.perf_counter() - start)
            errors = sum(status != 200 for client in answers for status, _ in client)
            quantiles = statistics.quantiles([1e3 * s for s in seconds], n=100)
            cells = [f"{quantiles[49]:.1f}", f"{quantiles[98]:.1f}", f"{1e3 * max(seconds):.1f}", f"{rate:,.0f}"]
            rows.append([str(count), str(len(seconds)), str(errors), *cells])
    head = ["clients at once", "requests of one word", "errors", "ms, p50", "p99", "most", "requests per second"]
    return Table("HTTP server", head, rows)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tables", nargs="+", choices=TABLES, default=TABLES, metavar="TABLE", help=", ".join(TABLES))
    add("--train-words", type=int, default=60000, help="pairs to learn from (default: %(default)s)")
    add("--units", type=int, default=UNITS, help="size of the states (default: %(default)s)")
    add("--seconds", type=float, default=10, help="time for a case of the speed table (default: %(default)s)")
    add("--threads", type=int, default=8, help="threads that call the model (default: %(default)s)")
    add("--thread-calls", type=int, default=1000, help="calls of each thread (default: %(default)s)")
    add("--calls", type=int, default=10000, help="calls between which memory may not grow (default: %(default)s)")
    add("--clients", type=int, default=64, help="clients of the server (default: %(default)s)")
    add("--requests", type=int, default=50, help="requests of each client (default: %(default)s)")
    pages.add_options(parser)
    return pages.parse(parser, QUICK)


def main():
    options, output = parse_options()
    console = driver.open_console(output.folder / "serving.log")
    folder = str((output.folder / "decoding").resolve())
    sizes = {"embedding_dim": min(EMBEDDING, options.units), "units": options.units}
    in_new_process(decoding_model.prepare, folder, sizes, options.train_words, 4000, [1])
    if "speed" in options.tables:
        cases = [Words(folder, 1), Words(folder, 512)]

        def make_report(results):
            return report.of_contest("Exported models", [LEGEND], [speed_table(results)], results)

        driver.report_times(console, CONTENDERS, cases, options.seconds, make_report, output, "serving")
    makers = {
        "threads": lambda: threads_table(folder, options.threads, options.thread_calls),
        "memory": lambda: memory_table(folder, options.calls),
        "server": lambda: server_table(folder, options.clients, options.requests),
    }
    start = time.monotonic()
    tables = [make() for name, make in makers.items() if name in options.tables]
    results = [table._asdict() for table in tables]
    measured = report.of_measurements("Load of a server", [LEGEND], tables, results)
    output.finish(measured, "serving_load", time.monotonic() - start)
    measured.show(console)


if __name__ == "__main__":
    main()

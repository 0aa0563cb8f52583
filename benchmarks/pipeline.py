# SPDX-License-Identifier: Apache-2.0
"""Benchmarks the data pipeline: how long a training waits for its batches, and the memory of a long stream.

Prints tables, and writes them as Markdown and JSON. The data are the words of CMUdict, or those of a file. Data sources
of array records need tensorflow-datasets; without it they are left out.

    python benchmarks/pipeline.py --publish
    python benchmarks/pipeline.py --waiting --pairs train.tsv --steps 200
    python benchmarks/pipeline.py --stream 10000000
"""

import argparse
import itertools
import pathlib
import statistics
import tempfile
import time
from typing import NamedTuple

import driver
import memory
import pages
import report
from report import Table
from words import BATCH, CLIP, DROPOUT, EMBEDDING, LEARNING_RATE, UNITS, read_words

NAMES = ["lists", "dataset", "generator", "array records"]
LEGEND = (
    f"Training of a Seq2Seq with a BiLSTM-{UNITS} encoder, attention, LSTM-{UNITS} decoder, embeddings of {EMBEDDING}, "
    f"batch {BATCH}, dropout {DROPOUT}. Waiting: time in `next` of the iterator over batches of token ids, as a share "
    "of all time, without the first batch, which fills the buffer of the shuffle. Alone: pairs per second that the "
    "pipeline gives where nothing is trained."
)
QUICK = {"contenders": NAMES[:2], "steps": 20, "waiting": True}
POINTS = 10  # rows of the table on memory


class Waiting(NamedTuple):
    """Seconds of the steps of a training, of the waiting before each, and of reading alone."""

    name: str
    waits: list
    steps: list
    alone: float  # pairs per second

    @property
    def share(self):
        return sum(self.waits[1:]) / sum(self.waits[1:] + self.steps[1:])


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--waiting", action="store_true", help="measure only the waiting")
    add("--stream", type=int, metavar="PAIRS", help="measure only the memory, of a stream of so many pairs")
    add("--contenders", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    add("--steps", type=int, default=100, help="steps of each training (default: %(default)s)")
    add("--pairs", type=pathlib.Path, metavar="FILE.tsv", help="words and targets, two columns (default: CMUdict)")
    pages.add_options(parser)
    options, output = pages.parse(parser, QUICK)
    if options.pairs and not options.pairs.is_file():
        parser.error(f"--pairs: expected a file, got {options.pairs}")
    if options.steps < 2:
        parser.error(f"--steps: expected at least 2, got {options.steps}")
    if options.stream is not None and options.stream < POINTS:
        parser.error(f"--stream: expected at least {POINTS} pairs, got {options.stream}")
    return options, output


def make_batches(name, sources, targets, folder):
    """Returns a dataset of batches of pairs, made from data of the kind that `name` says."""
    import tensorflow as tf

    from keras_seq import data

    if name == "lists":
        return data.bucket_by_length(sources, targets, BATCH)
    if name == "dataset":
        return data.bucketed_batches(tf.data.Dataset.from_tensor_slices((sources, targets)), BATCH)
    path = pathlib.Path(folder, "pairs.tsv")
    path.write_text("".join(f"{source}\t{target}\n" for source, target in zip(sources, targets, strict=True)))
    if name == "generator":
        return data.bucketed_batches(lambda: data.iter_pairs(path), BATCH, num_pairs=len(sources))
    import tensorflow_datasets as tfds

    from keras_seq.data.tfds_tsv import TsvPairs

    options = {"config": "pairs", "data_dir": folder, "file_format": "array_record"}
    builder = TsvPairs(files={"train": path}, **options)
    tfds.disable_progress_bar()
    builder.download_and_prepare()
    source = builder.as_data_source(split="train")
    return data.bucketed_batches(source, BATCH, keys=("source", "target"))


def make_model(sources, targets):
    import keras_seq

    source = keras_seq.data.text_vectorizer(sources)
    target = keras_seq.data.text_vectorizer(targets, split="whitespace")
    sizes = {"embedding_dim": EMBEDDING, "units": UNITS, "cell": "lstm", "dropout": DROPOUT}
    encoder = keras_seq.Encoder(source.vocabulary_size(), **sizes)
    model = keras_seq.Seq2Seq(encoder, keras_seq.Decoder(target.vocabulary_size(), **sizes), source, target)
    model.compile(keras_seq.training.Adam(LEARNING_RATE, global_clipnorm=CLIP))
    return model


def measure_waiting(model, name, sources, targets, steps):
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        batches = make_batches(name, sources, targets, folder)
        prepared = batches.map(model.prepare, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
        options = tf.data.Options()
        options.autotune.enabled = False  # as in `fit`
        prepared = prepared.with_options(options)
        for inputs, target in prepared.take(3):  # trace
            model.train_on_batch(inputs, target)
        start = time.perf_counter()
        count = sum(len(target) for _, target in prepared)
        alone = count / (time.perf_counter() - start)
        iterator = itertools.chain.from_iterable(itertools.repeat(prepared))
        waits, trained = [], []
        for _ in range(steps):
            start = time.perf_counter()
            inputs, target = next(iterator)
            middle = time.perf_counter()
            model.train_on_batch(inputs, target)
            waits.append(middle - start)
            trained.append(time.perf_counter() - middle)
    return Waiting(name, waits, trained, alone)


def run_waiting(options, output, console):
    start = time.monotonic()
    sources, targets = read_words(options.pairs)
    model = make_model(sources, targets)
    results, left_out = [], []
    for name in options.contenders:
        try:
            results.append(measure_waiting(model, name, sources, targets, options.steps))
        except ImportError as error:
            left_out.append((name, str(error)))
    data = [result._asdict() for result in results]
    explanation = [f"{len(sources):,} pairs. {LEGEND}"]
    tables = waiting_tables(results, options.steps)
    measured = report.of_measurements("Waiting for data", explanation, tables, data, report.notes(left_out))
    output.finish(measured, "pipeline_waiting", time.monotonic() - start)
    measured.show(console)


def waiting_tables(results, steps):
    waiting = [
        [
            r.name,
            f"{r.share:.2%}",
            f"{1e3 * statistics.mean(r.waits[1:]):.2f}",
            f"{1e3 * max(r.waits[1:]):.1f}",
            f"{1e3 * statistics.mean(r.steps[1:]):.0f}",
        ]
        for r in results
    ]
    head = ["", "share of the time", "ms a step", "longest, ms", "training, ms a step"]
    reading = [[r.name, f"{r.waits[0]:.2f}", f"{r.alone:,.0f}"] for r in results]
    return [
        Table(f"Waiting in {steps} steps", head, waiting),
        Table("Reading", ["", "first batch, s", "alone, pairs per second"], reading),
    ]


def stream(count):
    """Yields pairs of hexadecimal digits, of 2 to 13 tokens."""
    for i in range(count):
        digits = f"{i * 2654435761 % (1 << (8 + i % 45)):02x}"
        yield digits, " ".join(digits)


def measure_stream(count):
    """Reads a stream as token ids. Returns rows (pairs, seconds, resident bytes)."""
    import tensorflow as tf

    from keras_seq import data

    source = data.text_vectorizer(["0123456789abcdef"])
    target = data.text_vectorizer([" ".join("0123456789abcdef")], split="whitespace")
    batches = data.bucketed_batches(lambda: stream(count), BATCH, split=(source, target), seed=0)
    ids = batches.map(lambda s, t: (data.text_to_ids(source, s), data.text_to_ids(target, t)), tf.data.AUTOTUNE)
    rows, read, start = [], 0, time.perf_counter()
    for batch, _ in ids.prefetch(1):
        read += int(batch.nrows())
        if read * POINTS >= count * (len(rows) + 1):
            rows.append((read, time.perf_counter() - start, memory.resident()))
    if read != count:
        raise RuntimeError(f"expected {count} pairs, got {read}")
    return rows


def run_stream(output, console, count):
    start = time.monotonic()
    rows = measure_stream(count)
    cells = [[f"{read:,}", f"{read / seconds:,.0f}", f"{used / 1e6:,.0f}"] for read, seconds, used in rows]
    table = Table(
        "A stream of pairs as batches of token ids", ["pairs", "pairs per second", "resident memory, MB"], cells
    )
    measured = report.of_measurements("A long stream", ["From a generator, with the default buffer."], [table], rows)
    output.finish(measured, "pipeline_stream", time.monotonic() - start)
    measured.show(console)


def main():
    options, output = parse_options()
    console = driver.open_console(output.folder / "pipeline.log")
    if options.waiting or options.stream is None:
        run_waiting(options, output, console)
    if options.stream is not None or not options.waiting:
        run_stream(output, console, options.stream or 1_000_000)
    console.print(f"Written to {output.folder}/")


if __name__ == "__main__":
    main()

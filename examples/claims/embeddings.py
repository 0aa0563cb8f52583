# SPDX-License-Identifier: Apache-2.0
"""Measures what an LSTM gains by embeddings instead of one-hot inputs: parameters, speed, accuracy.

The task is that of examples/sentiment, from which the data are read. See README.md in this folder.
"""

import argparse
import json
import pathlib
import sys
import time

from command_line import filled_at_once, output_folder

import keras
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import keras_seq
from keras_seq import layers

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "sentiment"))
from reviews import load_data

ONE_HOT = None  # in the place of the size of the embedding
SIZES = [ONE_HOT, 4, 16, 64]
RATES = [3e-3, 1e-2]  # learning rates, of which each input gets the one that is better on the dev split
LENGTH = 24  # words; longer sentences are left out, so that padding costs little
BATCH = 64


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(name, text, default, kind=int):
        parser.add_argument(name, help=f"{text} (default: %(default)s)", default=default, type=kind)

    add("--sentences", "number of sentences to learn from", 4000)
    add("--vocabulary", "number of the most frequent words", 2000)
    add("--units", "size of the state of the LSTM", 16)
    add("--epochs", "passes over the sentences", 5)
    add("--seeds", "number of trainings of each model", 5)
    add("--output", "folder for the results", "runs/claims/embeddings", output_folder)
    options = parser.parse_args(arguments)
    for name, least in {"sentences": 100, "vocabulary": 40, "units": 1, "epochs": 1, "seeds": 1}.items():
        if getattr(options, name) < least:
            parser.error(f"--{name} must be an integer of at least {least}, got {getattr(options, name)}")
    return options


def build_model(size, vocabulary, units, learning_rate=RATES[0]):
    """Returns a model from word ids (batch, time) to logits (batch, 1). Both inputs lose whole words in training."""
    ids = keras.Input((LENGTH,), dtype="int64")
    if size is ONE_HOT:
        vectors = layers.LockedDropout(0.3)(keras.ops.one_hot(ids, vocabulary))
    else:
        vectors = layers.EmbeddingDropout(keras.layers.Embedding(vocabulary, size), 0.3)(ids)
    state = layers.LSTM(units)(vectors, mask=keras.ops.not_equal(ids, keras_seq.data.PAD_ID))
    model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Dropout(0.3)(state)))
    loss, accuracy = keras.losses.BinaryCrossentropy(from_logits=True), keras.metrics.BinaryAccuracy(threshold=0)
    model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=[accuracy])
    return model


def load_ids(options):
    """Returns a dict from split to (word ids, labels)."""
    splits = {}
    for name, (sentences, ratings) in load_data().items():
        short = np.array([len(sentence.split()) <= LENGTH for sentence in sentences])
        splits[name] = sentences[short][: options.sentences].tolist(), ratings[short][: options.sentences] > 0
    vectorizer = keras_seq.data.text_vectorizer(splits["train"][0], split="whitespace", max_tokens=options.vocabulary)
    return {
        name: (vectorizer(sentences).to_tensor(shape=(None, LENGTH)).numpy(), labels.astype("float32")[:, None])
        for name, (sentences, labels) in splits.items()
    }


def train(size, data, seed, learning_rate, options):
    """Returns the accuracy on the dev and the test split, in percent."""
    keras.utils.set_random_seed(seed)
    model = build_model(size, options.vocabulary, options.units, learning_rate)
    model.fit(*data["train"], batch_size=BATCH, epochs=options.epochs, verbose=0)
    return {split: 100 * model.evaluate(*data[split], batch_size=500, verbose=0)[1] for split in ("dev", "test")}


def measure_step(size, vocabulary, units, repeats=8):
    """Returns the CPU milliseconds of a training step, of all cores."""
    model, generator = build_model(size, vocabulary, units), np.random.default_rng(0)
    batch = generator.integers(1, vocabulary, (BATCH, LENGTH)), np.ones((BATCH, 1), "float32")
    model.train_on_batch(*batch)  # traces the graph
    start = time.process_time()
    for _ in range(repeats):
        model.train_on_batch(*batch)
    return 1000 * (time.process_time() - start) / repeats


def measure(options):
    """Returns a dict from input to parameters, accuracies and CPU milliseconds by vocabulary."""
    data, results = load_ids(options), {}
    for size in SIZES:
        trials = {rate: train(size, data, 0, rate, options) for rate in RATES}
        rate = max(RATES, key=lambda rate: trials[rate]["dev"])
        runs = [trials[rate], *(train(size, data, seed, rate, options) for seed in range(1, options.seeds))]
        results["one-hot" if size is ONE_HOT else f"embedding of {size}"] = {
            "parameters": build_model(size, options.vocabulary, options.units).count_params(),
            "learning_rate": rate,
            "test": [run["test"] for run in runs],
            "milliseconds": {
                vocabulary: measure_step(size, vocabulary, options.units)
                for vocabulary in (options.vocabulary // 4, options.vocabulary, 4 * options.vocabulary)
            },
        }
    return results


def draw(results, path):
    """Draws accuracy against parameters, with each seed as a dot, and the time of a step against the vocabulary."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = zip(["#D55E00", "#56B4E9", "#009E73", "#0072B2"], "Dosv", strict=True)  # Okabe and Ito
    for (name, row), (color, marker) in zip(results.items(), styles, strict=False):
        left.plot([row["parameters"]] * len(row["test"]), row["test"], ".", color=color, alpha=0.6)
        left.plot(row["parameters"], np.mean(row["test"]), marker, color=color, markersize=10, label=name)
        times = row["milliseconds"]
        right.plot(list(times), list(times.values()), marker=marker, color=color, label=name)
    left.set(xscale="log", xlabel="parameters", ylabel="right on held-out sentences, %")
    left.set_title("large mark: mean; dots: seeds", fontsize=10)
    right.set(
        xscale="log", yscale="log", xlabel="words in the vocabulary", ylabel="CPU milliseconds of a training step"
    )
    right.set_xticks(list(times), [f"{words:,}" for words in times])
    right.set_yticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
    right.minorticks_off()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    right.legend()
    figure.savefig(path, dpi=150)


def main(arguments=None):
    options = parse_arguments(arguments)
    results = measure(options)
    columns = [f"ms, {words:,}" for words in results["one-hot"]["milliseconds"]]
    table = Table(
        "input",
        "parameters",
        "test, %",
        "±",
        *columns,
        title="an LSTM over words; CPU ms of a training step by vocabulary",
    )
    for name, row in results.items():
        score = (f"{np.mean(row['test']):.1f}", f"{np.std(row['test']):.1f}")
        table.add_row(name, f"{row['parameters']:,}", *score, *(f"{ms:.1f}" for ms in row["milliseconds"].values()))
    one_hot, small = results["one-hot"], results["embedding of 16"]
    sentence = (
        f"embedding of 16 {np.mean(small['test']):.1f} % with {small['parameters']:,} parameters; "
        f"one-hot {np.mean(one_hot['test']):.1f} % with {one_hot['parameters']:,}"
    )
    metrics = {**results, "result": sentence}
    with filled_at_once(options.output) as folder:
        draw(results, folder / "embeddings.png")
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    Console().print(table)
    return metrics


if __name__ == "__main__":
    main()

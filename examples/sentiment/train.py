# SPDX-License-Identifier: Apache-2.0
"""Trains models that say whether a sentence of a movie review is positive, from a bag of words to LSTMs with attention.

The sentences and their ratings are read from the source distribution of vaderSentiment. See README.md in this folder.
"""

import argparse
import json
import time

from command_line import filled_at_once, output_folder, seed

import keras
import numpy as np
from baselines import train_baselines
from models import MODELS, build_model
from plots import draw_accuracy, draw_attention
from reviews import load_data
from rich.console import Console
from rich.table import Table

import keras_seq

LENGTH = 64  # words; the longest sentence has 60


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(name, text, default, kind=None):
        parser.add_argument(name, help=f"{text} (default: %(default)s)", default=default, type=kind or type(default))

    parser.add_argument("--sentences", type=int, help="number of sentences to learn from (default: all 8,066)")
    add("--vocabulary", "number of the most frequent words that have an embedding", 8000)
    add("--embedding-dim", "size of the embeddings of words", 100)
    add("--units", "size of the state of the recurrent layers; filters of each width of the CNN", 32)
    add("--dropout", "fraction of the features to drop", 0.5)
    add("--word-dropout", "fraction of the words to drop", 0.3)
    add("--epochs", "passes over the sentences", 6)
    add("--seed", "seed of weights, dropout and the order of sentences", 0, seed)
    add("--output", "folder for the results", "runs/sentiment", output_folder)
    options = parser.parse_args(arguments)
    for name, least in {"sentences": 100, "vocabulary": 10, "embedding_dim": 1, "units": 1, "epochs": 1}.items():
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be an integer of at least {least}, got {value}")
    for name in ("dropout", "word_dropout"):
        if not 0 <= getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be in [0, 1), got {getattr(options, name)}")
    return options


def train(model, ids, ratings, learning_rate, options):
    """Returns the CPU seconds. The target is soft: 1 for a rating of +4, 0 for -4, near 0.5 for one near neutral."""
    targets = 1 / (1 + np.exp(-1.5 * ratings))
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, options.epochs * -(-len(ids) // 64))
    model.compile(keras.optimizers.Adam(schedule), keras.losses.BinaryCrossentropy(from_logits=True))
    start = time.process_time()
    batches = keras_seq.data.shuffled_batches((ids, targets.astype("float32")), 64, seed=options.seed)
    model.fit(batches, epochs=options.epochs, shuffle=False, verbose=0)
    return time.process_time() - start


def predict(model, ids):
    """Returns logits (sentences,), and of a model with attention also its weights (sentences, time)."""
    results = model.predict(ids, batch_size=500, verbose=0)
    return (results[0][:, 0], results[1]) if isinstance(results, list) else results[:, 0]


def measure_influence(model, ids, seed):
    """Returns how far the probability moves when a word becomes unknown: the one of largest weight, or any one."""
    logits, weights = predict(model, ids)
    positions = {
        "largest_weight": weights.argmax(axis=1),
        "random": np.random.default_rng(seed).integers(0, (ids > 0).sum(axis=1)),
    }
    influence = {}
    for name, position in positions.items():
        changed = np.where(np.arange(ids.shape[1]) == position[:, None], keras_seq.data.UNKNOWN_ID, ids)
        moved = keras.ops.sigmoid(predict(model, changed)[0]) - keras.ops.sigmoid(logits)
        influence[name] = float(np.abs(moved).mean())
    return influence


def write_results(folder, metrics, logits, data, attention, ids, vocabulary):
    sentences, ratings = data["test"]
    found, weights = predict(attention, ids)
    chosen = np.flatnonzero([8 <= len(sentence.split()) <= 14 for sentence in sentences])
    is_right = (found[chosen] > 0) == (ratings[chosen] > 0)
    chosen = np.concatenate([chosen[is_right][:10], chosen[~is_right][:4]])
    parts = (values[chosen] for values in (sentences, ratings, found, weights))
    draw_attention(*parts, folder / "attention.png")
    draw_accuracy({name: (x > 0) == (ratings > 0) for name, x in logits.items()}, ratings, folder / "accuracy.png")
    attention.save(folder / "attention.keras")
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary, indent=0) + "\n")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


def main(arguments=None):
    options = parse_arguments(arguments)
    data = load_data(options.sentences)
    texts, ratings = data["train"]
    labels = {split: part[1] > 0 for split, part in data.items()}
    vectorizer = keras_seq.data.text_vectorizer(texts.tolist(), split="whitespace", max_tokens=options.vocabulary)
    ids = {split: vectorizer(part[0].tolist()).to_tensor(shape=(None, LENGTH)).numpy() for split, part in data.items()}
    table = Table("model", "parameters", "CPU seconds", "dev", "test", title="sentences told right")
    metrics, logits = {}, {}
    for name, classifier in train_baselines(texts, labels["train"]).items():
        metrics[name] = {split: float(classifier.score(data[split][0], labels[split])) for split in ("dev", "test")}
    for name, learning_rate in MODELS.items():
        keras.utils.set_random_seed(options.seed)
        model, with_weights = build_model(name, vectorizer.vocabulary_size(), options)
        seconds = train(model, ids["train"], ratings, learning_rate, options)
        found = {split: predict(model, ids[split]) for split in ("dev", "test")}
        metrics[name] = {split: float(np.mean((found[split] > 0) == labels[split])) for split in found}
        metrics[name].update(parameters=model.count_params(), cpu_seconds=seconds)
        logits[name] = found["test"]
    for name, row in metrics.items():
        size, seconds = (f"{row[key]:,.0f}" if key in row else "" for key in ("parameters", "cpu_seconds"))
        table.add_row(name, size, seconds, f"{row['dev']:.1%}", f"{row['test']:.1%}")
    shares = [f"{name} {100 * row['test']:.1f} %" for name, row in metrics.items()]  # the first two are linear
    metrics["influence"] = measure_influence(with_weights, ids["test"], options.seed)
    metrics["result"] = f"right: {shares[-1]}; {shares[1]}"
    with filled_at_once(options.output) as folder:
        write_results(folder, metrics, logits, data, with_weights, ids["test"], vectorizer.get_vocabulary())
    Console().print(table)
    return metrics


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Trains a language model of Bach's four-part chorales, compares it with Markov chains, and lets it compose.

The chorales come from the package music21. See README.md in this folder.
"""

import argparse
import json
import time

from command_line import filled_at_once, output_folder, seed

import chorales as music
import keras
import numpy as np
from chain import best_chain
from plots import plot_rolls
from rich.console import Console
from rich.table import Table

import keras_seq
from keras_seq.decoding import RandomSampler

MAX_TOKENS = 1500  # of a composition
LAGS = (5, 1, 2, 3, 4, 10, 11)  # the token of the same voice first, then those between; a greedy choice on dev
CHAINS = {"Markov chain": range(1, 8), "Markov chain, voice first": LAGS}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(name, text, default, **settings):
        kind = {"type": type(default), **settings}
        parser.add_argument(name, help=f"{text} (default: %(default)s)", default=default, **kind)

    add("--cell", "recurrent cell", "lstm", choices=["lstm", "gru", "mgu", "simple_rnn"])
    add("--units", "size of the state", 256)
    add("--epochs", "passes over the chorales", 24)
    add("--batch-size", "number of streams", 8)
    add("--learning-rate", "peak learning rate; it decays to 0", 5e-3)
    add("--samples", "number of chorales to compose with each model", 20)
    add("--temperature", "of the compositions: below 1, likely notes become more likely", 0.8)
    add("--seed", "seed of weights, dropout and compositions", 0, type=seed)
    add("--output", "folder for the results", "runs/music", type=output_folder)
    parser.add_argument("--chorales", type=int, help="number of files to read (default: all, about 410)")
    options = parser.parse_args(arguments)
    for name in ("units", "epochs", "batch_size", "samples", "chorales"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if not (0 < options.temperature < np.inf and 0 < options.learning_rate < np.inf):
        parser.error("--temperature and --learning-rate must be greater than 0")
    return options


def build_model(options, texts):
    keras.utils.set_random_seed(options.seed)  # of the weights
    return keras_seq.LanguageModel(
        embedding_dim=96,
        units=options.units,
        cell=options.cell,
        vectorizer=keras_seq.data.text_vectorizer(texts, split="whitespace"),
        input_dropout=0.1,
        output_dropout=0.4,
        recurrent_dropout=0.2,
        seed=options.seed,
    )


def train(options, model, texts):
    sizes = {"batch_size": options.batch_size, "window": 100}
    batches = keras_seq.data.stream_batches(
        texts, **sizes, vectorizer=model.vectorizer, shuffle=True, seed=options.seed
    )
    steps = options.epochs * len(batches)
    schedule = keras.optimizers.schedules.CosineDecay(
        options.learning_rate / 100,
        steps - steps // 10,
        warmup_target=options.learning_rate,
        warmup_steps=steps // 10,
    )
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0))
    start = time.perf_counter()
    model.fit(batches, epochs=options.epochs, verbose=2)
    return time.perf_counter() - start


def compose(options, model):
    sampler, form = RandomSampler(options.temperature), music.keep_form(model.vectorizer.get_vocabulary())
    prompts = [None] * options.samples
    return model.generate(prompts, MAX_TOKENS, sampler=sampler, processors=form, seed=options.seed, verbose=0)


def evaluate(options, texts):
    """Returns the results of each model, and texts of each: compositions, or Bach's own."""
    model = build_model(options, texts["train"] + texts["dev"] + texts["test"])
    seconds, name = train(options, model, texts["train"]), options.cell.upper()
    scores = model.score(texts["test"], return_dict=True)["token_log_probabilities"] / -np.log(2)
    results = {name: {"train_seconds": seconds, **music.bits_per_note(scores, texts["test"])}}
    compositions = {name: compose(options, model)}
    vocabulary, generator = model.vectorizer.get_vocabulary()[4:], np.random.default_rng(options.seed)
    for name, lags in CHAINS.items():
        chain = best_chain(lags, texts, vocabulary)
        bits = music.bits_per_note([chain.bits(text) for text in texts["test"]], texts["test"])
        results[name] = {"lags": chain.lags, **bits}
        compositions[name] = [
            chain.generate(generator, MAX_TOKENS, options.temperature) for _ in range(options.samples)
        ]
    compositions["Bach"], results["Bach"] = texts["test"], {}
    return {name: results[name] | music.judge(compositions[name], texts["train"]) for name in results}, compositions


def show(results):
    table = Table(
        "", "bits per note", "notes in key", "parallels", "longest copy", title="Held-out chorales, and compositions"
    )
    for name, row in results.items():
        bits = f"{row['bits_per_note']:.3f}" if "bits_per_note" in row else ""
        table.add_row(name, bits, f"{row['in_key']:.1f} %", f"{row['parallels']:.1f}", f"{row['longest_copy']:.1f}")
    Console().print(table)


def main(arguments=None):
    options = parse_arguments(arguments)
    chorales = music.load_chorales(options.chorales)
    splits = music.split_chorales(chorales)
    texts = {split: [music.to_text(chorales[name]) for name in names] for split, names in splits.items()}
    if not all(texts.values()):
        raise SystemExit(f"--chorales {options.chorales} leaves nothing to train on or to test: use at least 20")
    results, compositions = evaluate(options, texts)
    show(results)
    name, *chains, _ = results
    bits = [results[name]["bits_per_note"], min(results[chain]["bits_per_note"] for chain in chains)]
    result = (
        "{:.2f} bits per note, best Markov chain {:.2f}; ".format(*bits) + f"{results[name]['in_key']:.1f} % in key"
    )
    metrics = {"result": result, "train_seconds": results[name].pop("train_seconds"), "models": results}
    pieces = {model: [music.to_notes(t) for t in music.typical_first(texts)] for model, texts in compositions.items()}
    titles = {f"{'Composed by' if model != 'Bach' else 'Held out:'} {model}": of[0] for model, of in pieces.items()}
    for path in options.output.glob("chorale_[1-5].m*"):
        path.unlink()  # an earlier run may have written more of them
    with filled_at_once(options.output) as folder:
        plot_rolls(titles, folder / "chorales.png")
        for number, notes in enumerate(pieces[name][:5], start=1):
            score = music.to_score(notes)
            score.write("midi", fp=folder / f"chorale_{number}.mid")
            score.write("musicxml", fp=folder / f"chorale_{number}.musicxml")
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


if __name__ == "__main__":
    main()

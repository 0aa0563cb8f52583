# SPDX-License-Identifier: Apache-2.0
"""Continues lines of songs in three modes: prediction, transcription, and generation until STOP.

The models learn songs of Shakespeare's plays by heart. See README.md in this folder.
"""

import argparse
import json
import time

from command_line import filled_at_once, output_folder, seed

import keras
import numpy as np
from modes import MODES, run_modes, said, score, transcription_arrays
from pictures import plot_curves, plot_probabilities
from rich.console import Console
from rich.table import Table
from songs import SONGS, UNSEEN, continuations, line_pairs

import keras_seq


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--songs", type=int, default=len(SONGS), help="number of songs to learn")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the lines")
    parser.add_argument("--units", type=int, default=128, help="size of the language model's state")
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="of Adam")
    parser.add_argument("--seed", type=seed, default=0, help="seed of weights and batches")
    parser.add_argument("--output", type=output_folder, default="runs/song", help="folder for the results")
    options = parser.parse_args(arguments)
    if not 1 <= options.songs <= len(SONGS):
        parser.error(f"--songs must be between 1 and {len(SONGS)}. Received: {options.songs}")
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1. Received: {options.epochs}")
    if options.units < 2:  # half of them for each direction of the transcriber
        parser.error(f"--units must be at least 2. Received: {options.units}")
    if not 0 < options.learning_rate < np.inf:
        parser.error(f"--learning-rate must be greater than 0. Received: {options.learning_rate}")
    return options


def build_models(options, pairs):
    """Returns the language model for prediction and generation, and the transcriber."""
    keras.utils.set_random_seed(options.seed)
    documents = [f"{given} / {after}" for given, after in pairs]
    vectorizer = keras_seq.data.text_vectorizer(documents, split="whitespace")
    language_model = keras_seq.LanguageModel(
        embedding_dim=64, units=options.units, vectorizer=vectorizer, seed=options.seed
    )
    language_model.compile(keras.optimizers.Adam(options.learning_rate))
    inputs = keras.Input((None,), dtype="int64")
    words = keras.layers.Embedding(vectorizer.vocabulary_size(), 64)(inputs)
    features = keras_seq.layers.Bidirectional(keras_seq.layers.LSTM(options.units // 2, return_sequences=True))(words)
    transcriber = keras.Model(inputs, keras.layers.Dense(vectorizer.vocabulary_size())(features))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    transcriber.compile(keras.optimizers.Adam(options.learning_rate), loss)
    return language_model, transcriber


def train(options, language_model, transcriber, pairs, length, evaluate):
    """Trains both models. Returns the scores after every five epochs, a dict from epochs to what `evaluate` returns."""
    documents = [f"{given} / {after}" for given, after in pairs]
    arrays = transcription_arrays(language_model.vectorizer, pairs, length)
    history = {0: evaluate()}
    while (first := max(history)) < options.epochs:
        span = {"initial_epoch": first, "epochs": min(first + 5, options.epochs), "verbose": 0}
        language_model.fit(documents, batch_size=8, window=32, seed=options.seed, **span)
        transcriber.fit(*arrays, batch_size=16, **span)
        history[span["epochs"]] = evaluate()
    return history


def side_by_side(vocabulary, pair, results):
    """Returns a table of what the three modes say at each step."""
    truth = [*pair[1].split(), "STOP"]
    table = Table("step", "true word", *MODES, title=f"{pair[0]} / ...", title_justify="left")
    ends = [len(said(results[mode])) for mode in MODES[1:]]
    for step in range(max(len(truth), *ends)):
        cells = []
        for mode, end in zip(MODES, (len(truth), *ends), strict=True):
            row = results[mode][step] if step < end else None
            cells.append("" if row is None else f"{vocabulary[row.argmax()]} {row.max():.2f}")
        table.add_row(str(step + 1), truth[step] if step < len(truth) else "", *cells)
    return table


def main(arguments=None):
    options = parse_arguments(arguments)
    pairs, unseen = line_pairs(SONGS[: options.songs]), line_pairs([UNSEEN])
    following = continuations(pairs + unseen)
    groups = {
        "one continuation": [pair for pair in pairs if len(following[pair[0]]) == 1],
        "several continuations": [pair for pair in pairs if len(following[pair[0]]) > 1],
        "unseen song": unseen,
    }
    groups = {name: group for name, group in groups.items() if group}
    length = 1 + max(len(line.split()) for pair in pairs + unseen for line in pair)
    language_model, transcriber = build_models(options, pairs)
    vectorizer = language_model.vectorizer

    def evaluate():
        results = {name: run_modes(language_model, transcriber, group, length) for name, group in groups.items()}
        return {name: score(results[name], vectorizer, group, following) for name, group in groups.items()}

    start = time.perf_counter()
    history = train(options, language_model, transcriber, pairs, length, evaluate)
    seconds, scores = time.perf_counter() - start, history[options.epochs]

    console, table = Console(width=110), Table("lines with", "mode", "words right", "lines that do follow")
    for name, group in groups.items():
        for mode in MODES:
            row = [f"{scores[name][mode][key]:.1f} %" for key in ("words", "lines")]
            table.add_row(f"{name} ({len(group)})", mode, *row, end_section=mode == MODES[-1])
    refrain = max(pairs, key=lambda pair: len(following[pair[0]]))  # the first of the lines that follow it
    shown = list(dict.fromkeys([refrain, groups["one continuation"][0], unseen[0]]))
    results = run_modes(language_model, transcriber, shown, length)
    results = [{mode: results[mode][i] for mode in MODES} for i in range(len(shown))]
    vocabulary = np.array(["", "[UNK]", "[START]", "STOP", *vectorizer.get_vocabulary()[4:]])
    for pair, result in zip(shown, results, strict=True):
        console.print(side_by_side(vocabulary, pair, result))
    console.print(table)
    several = scores.get("several continuations", scores["one continuation"])
    summary = ", ".join(f"{mode} {several[mode]['lines']:.0f} %" for mode in ("generation", "transcription"))
    metrics = {"scores": scores, "history": history, "train_seconds": seconds}
    metrics["result"] = f"true lines where several may follow: {summary}"
    with filled_at_once(options.output) as folder:
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        plot_probabilities(vocabulary, shown[:2], results, folder / "modes.png")
        plot_curves({name: {e: h[name] for e, h in history.items()} for name in groups}, folder / "training.png")
        language_model.save(folder / "model.keras")
    return metrics


if __name__ == "__main__":
    main()

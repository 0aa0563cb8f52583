# SPDX-License-Identifier: Apache-2.0
"""Searches for hyperparameters of a model that pronounces English words, shows all trials, and saves the best model.

With keras-tuner's environment variables, several processes share the search. See README.md in this folder.
"""

import argparse
import json
import os
import pathlib

import command_line

import keras
import keras_tuner
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from keras_seq import data, training, tuning

SEARCHED = ("cell", "units", "embedding_dim", "dropout", "attention", "schedule", "batch_size", "learning_rate")
OBJECTIVE = "val_loss"


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(name, text, default, kind=None, **settings):
        parser.add_argument(
            name, help=f"{text} (default: %(default)s)", default=default, type=kind or type(default), **settings
        )

    add("--tuner", "how values are chosen", "bayesian", choices=("random", "bayesian", "hyperband"))
    add("--trials", "number of trials; Hyperband decides it by the number of epochs", 16)
    add("--epochs", "passes over the words in a trial", 4)
    add("--words", "number of words to learn from", 6000)
    add("--seed", "seed of the values and of the words", 1, command_line.seed)
    output = pathlib.Path("runs/tune")
    add("--output", "folder for the results, and of a search that goes on", output, command_line.output_folder)
    options = parser.parse_args(arguments)
    for name in ("trials", "epochs", "words"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    return options


def sample(pairs, count):
    """Returns about so many pairs, spread evenly over the dictionary."""
    step = max(1, len(pairs[0]) // count)
    return [column[::step][:count] for column in pairs]


def make_tuner(options, words, sounds):
    hypermodel = tuning.Seq2SeqHyperModel(
        data.text_vectorizer(words),
        data.text_vectorizer(sounds, split="whitespace"),
        cell=["lstm", "gru"],
        units=range(64, 193, 32),
        embedding_dim=[32, 64],
        dropout=lambda hp: hp.Float("dropout", 0.0, 0.4, step=0.1),
        attention=["bahdanau", "luong", None],
        learning_rate=(1e-3, 2e-2),
        global_clipnorm=[1.0],
        schedule=[None, "cosine"],
        batch_size=[32, 64, 128],
    )
    shared = {"seed": options.seed, "directory": options.output, "project_name": "search"}
    if options.tuner == "hyperband":
        return keras_tuner.Hyperband(hypermodel, OBJECTIVE, max_epochs=options.epochs, factor=2, **shared)
    kind = keras_tuner.BayesianOptimization if options.tuner == "bayesian" else keras_tuner.RandomSearch
    return kind(hypermodel, OBJECTIVE, max_trials=options.trials, **shared)


def print_table(trials):
    table = Table("trial", OBJECTIVE, *SEARCHED, title="Trials, the best one first")
    for trial in trials:
        values = [trial["values"].get(name, "") for name in SEARCHED]
        cells = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
        score = trial["error"] or trial["status"].lower() if trial["score"] is None else f"{trial['score']:.3f}"
        table.add_row(trial["trial_id"], score, *cells)
    width = None if os.environ.get("COLUMNS") or Console().is_terminal else 120
    Console(width=width).print(table)


def plot_trials(trials, path):
    """Draws the objective of each trial over each hyperparameter, and in the order of the trials."""
    trials = sorted((trial for trial in trials if trial["score"] is not None), key=lambda trial: trial["trial_id"])
    scores = [trial["score"] for trial in trials]
    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplots(3, 3, sharey=True).ravel()
    best = [min(scores[: i + 1]) for i in range(len(scores))]
    axes[0].plot(range(1, len(scores) + 1), scores, "o", label="trial")
    axes[0].step(range(1, len(scores) + 1), best, where="post", label="best so far")
    axes[0].set_xlabel("trials")
    axes[0].legend()
    for axis, name in zip(axes[1:], SEARCHED, strict=True):
        values, losses = zip(*sorted((trial["values"][name], trial["score"]) for trial in trials), strict=True)
        is_named = isinstance(values[0], str) or name == "batch_size"
        axis.plot([str(value) for value in values] if is_named else values, losses, "o", alpha=0.7)
        axis.set_xlabel(name)
    axes[-1].set_xscale("log")
    axes[-1].minorticks_off()
    axes[-1].set_xticks([0.001, 0.002, 0.005, 0.01, 0.02], ["0.001", "0.002", "0.005", "0.01", "0.02"])
    figure.supylabel(OBJECTIVE)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    options = parse_arguments(arguments)
    splits = data.load_cmudict()
    words, sounds = sample(splits["train"], options.words)
    dev = sample(splits["dev"], max(100, options.words // 6))
    tuner = make_tuner(options, words, sounds)
    tuning.search(
        tuner,
        lambda batch_size: data.bucket_by_length(words, sounds, batch_size, seed=options.seed),
        validation_data=data.bucket_by_length(*dev, 256, shuffle=False),
        epochs=options.epochs,
        verbose=0,
        callbacks=[keras.callbacks.EarlyStopping(OBJECTIVE, patience=3)],
    )
    if os.environ.get("KERASTUNER_TUNER_ID", "chief") != "chief":
        return  # a worker; the chief has the results
    trials = tuning.list_trials(tuner)
    print_table(trials)
    model = tuner.get_best_models(1)[0]
    references = data.group_by_source(*sample(splits["test"], 500))
    rates = training.error_rates(model.generate(list(references)), list(references.values()))
    result = f"best of {len(trials)} trials: WER {rates.sequence:.1f} %, PER {rates.token:.1f} %"
    results = {"result": result, "word_error_rate": rates.sequence, "phoneme_error_rate": rates.token}
    with command_line.filled_at_once(options.output) as folder:
        plot_trials(trials, folder / "trials.png")
        model.save(folder / "best.keras")
        (folder / "metrics.json").write_text(json.dumps({**results, "trials": trials}, indent=2) + "\n")
    print(f"The best model on words of the test data: {json.dumps(results)}. Results are in {options.output}/.")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Trains models that tell nine speakers by a recording of a Japanese vowel, with masks, with zeros, and cut short.

The recordings are JapaneseVowels: 12 coefficients, 7 to 29 steps. See README.md in this folder.
"""

import argparse
import json
import time

from command_line import filled_at_once, output_folder, seed

import keras
import numpy as np
from keras import layers
from plots import plot_probabilities, plot_steps
from recordings import FEATURES, SPEAKERS, fetch_archive, load_recordings, make_inputs
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

import keras_seq

MASK, ZEROS, CUT = INPUTS = ["padded, masked", "padded, no mask", "cut to the shortest"]
MEANS = "logistic regression on the means"


def positive(text):
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return value


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(name, text, default, kind=positive, **settings):
        shown = " ".join(map(str, default)) if isinstance(default, list) else "%(default)s"
        parser.add_argument(name, help=f"{text} (default: {shown})", default=default, type=kind, **settings)

    add("--units", "sizes of the state of each direction to compare", [16, 32, 64], nargs="+")
    add("--folds", "parts of the cross validation that chooses the size", 3)
    add("--runs", "trainings of each kind with the size chosen, each from its own seed", 3)
    add("--epochs", "passes over the training recordings", 40)
    add("--seed", "seed of the first run and of the folds", 0, seed)
    add("--output", "folder for the results", "runs/vowels", output_folder)
    options = parser.parse_args(arguments)
    if not 2 <= options.folds <= 30:  # a speaker has 30 training recordings
        parser.error(f"argument --folds: expected 2 to 30, got {options.folds}")
    return options


def build_model(units, masked):
    """Returns a model from inputs (batch, steps, 24) to logits (batch, 9); `masked`: steps of zeros are padding."""
    model = keras.Sequential([keras.Input((None, FEATURES))])
    if masked:
        model.add(layers.Masking())  # the recurrence and the mean skip the steps that it finds
    model.add(keras_seq.layers.Bidirectional(keras_seq.layers.LSTM(units, return_sequences=True)))
    model.add(layers.GlobalAveragePooling1D())
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(SPEAKERS))
    return model


def train(inputs, speakers, units, masked, epochs, seed):
    keras.utils.set_random_seed(seed)
    model = build_model(units, masked)
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, epochs * -(-len(inputs) // 16))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss)
    model.fit(inputs, speakers, batch_size=16, epochs=epochs, verbose=0)
    return model


def predict(model, inputs):
    return keras.ops.convert_to_numpy(keras.ops.softmax(model(inputs)))


def accuracy(probabilities, speakers):
    return 100 * float(np.mean(probabilities.argmax(axis=-1) == speakers))


def cross_validate(inputs, speakers, units, masked, options):
    """Returns the percentage of training recordings that are right where they are held out."""
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=options.seed).split(inputs, speakers)
    right = []
    for kept, held_out in folds:
        model = train(inputs[kept], speakers[kept], units, masked, options.epochs, options.seed)
        right.extend(predict(model, inputs[held_out]).argmax(axis=-1) == speakers[held_out])
    return 100 * float(np.mean(right))


def score_means(recordings, speakers, test_recordings, test_speakers):
    """Returns the accuracy of a logistic regression that sees the mean of the steps only."""
    means, test_means = ([x.mean(axis=0) for x in part] for part in (recordings, test_recordings))
    return 100 * float(LogisticRegression(max_iter=1000).fit(means, speakers).score(test_means, test_speakers))


def by_steps_seen(models, inputs, speakers):
    """Returns the probabilities (steps, recordings, 9) and the accuracy when the models have seen 1, 2, ... steps."""
    steps, probabilities = np.arange(inputs.shape[1]), []
    for last in steps:
        prefixes = inputs * (steps <= last)[:, None]  # the rest is zeros, which the mask leaves out
        probabilities.append(np.mean([predict(model, prefixes) for model in models], axis=0))
    return np.array(probabilities), [accuracy(step, speakers) for step in probabilities]


def main(arguments=None):
    options = parse_arguments(arguments)
    (recordings, speakers), (test_recordings, test_speakers) = load_recordings(fetch_archive())
    mean, deviation = np.mean(np.concatenate(recordings), axis=0), np.std(np.concatenate(recordings), axis=0)
    recordings, test_recordings = ([(x - mean) / deviation for x in part] for part in (recordings, test_recordings))
    longest, shortest = (pick(map(len, recordings + test_recordings)) for pick in (max, min))
    table = Table("inputs", *(f"{units} units" for units in options.units), "test", "each run")
    table.columns[0].no_wrap = True
    metrics, models, start = {}, {}, time.perf_counter()
    for kind in INPUTS:
        length = shortest if kind == CUT else longest
        inputs, test_inputs = make_inputs(recordings, length), make_inputs(test_recordings, length)
        found = {units: cross_validate(inputs, speakers, units, kind == MASK, options) for units in options.units}
        best = max(found, key=found.get)
        seeds = range(options.seed, options.seed + options.runs)
        models[kind] = [train(inputs, speakers, best, kind == MASK, options.epochs, seed) for seed in seeds]
        runs = [accuracy(predict(model, test_inputs), test_speakers) for model in models[kind]]
        metrics[kind] = {"cross_validation": found, "units": best, "test_runs": runs, "test": float(np.mean(runs))}
        marked = (f"{value:.1f}{'*' if units == best else ''}" for units, value in found.items())
        table.add_row(kind, *marked, f"{np.mean(runs):.1f}", " ".join(f"{run:.1f}" for run in runs))
    metrics[MEANS] = {"test": score_means(recordings, speakers, test_recordings, test_speakers)}
    table.add_row(MEANS, *["–"] * len(options.units), f"{metrics[MEANS]['test']:.1f}")
    metrics["train_seconds"] = time.perf_counter() - start
    metrics["result"] = "; ".join(f"{kind} {metrics[kind]['test']:.1f} %" for kind in INPUTS)
    test_inputs = make_inputs(test_recordings, longest)
    probabilities, metrics["by_steps_seen"] = by_steps_seen(models[MASK], test_inputs, test_speakers)
    with filled_at_once(options.output) as folder:
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        models[MASK][0].save(folder / "model.keras")
        plot_probabilities(test_recordings, test_speakers, probabilities, folder / "probabilities.png")
        plot_steps(metrics["by_steps_seen"], shortest, metrics[CUT]["test"], folder / "steps.png")
    Console().print(table)
    Console().print("In percent. Units: cross validation on the training recordings, * chosen. Test: mean of the runs.")
    return metrics


if __name__ == "__main__":
    main()

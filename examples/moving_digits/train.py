# SPDX-License-Identifier: Apache-2.0
"""Trains models that name the digit in each frame of a clip: no recurrence, one direction, both directions.

The digits of scikit-learn move behind a fence and change at an unknown moment. See README.md in this folder.
"""

import argparse
import json
import time

from command_line import filled_at_once, output_folder, seed

import keras
import numpy as np
from clips import FRAMES, HEIGHT, WIDTH, load_images, make_clips
from keras import layers
from plots import plot_clips, plot_errors
from rich.console import Console
from rich.table import Table

import keras_seq

NONE, ONE, BOTH = MODELS = ["no recurrence", "one direction", "both directions"]


def positive(text):
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return value


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(name, text, default, kind=positive):
        parser.add_argument(name, help=f"{text} (default: %(default)s)", default=default, type=kind)

    add("--clips", "number of training clips; the test has a quarter of it", 8000)
    add("--epochs", "passes over the training clips", 10)
    add("--units", "size of the state of each direction; one direction alone has twice as many", 64)
    add("--seed", "seed of clips, weights and batches", 0, seed)
    add("--output", "folder for the results", "runs/moving_digits", output_folder)
    options = parser.parse_args(arguments)
    if options.clips < 400:  # every position of the change occurs in the test
        parser.error(f"argument --clips: expected at least 400, got {options.clips}")
    return options


def build_model(name, units):
    """Returns a model from clips (batch, frames, height, width, 1) to logits of each frame (batch, frames, 10)."""
    cnn = keras.Sequential([keras.Input((HEIGHT, WIDTH, 1))], name="cnn")
    for filters in (16, 32):
        cnn.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        cnn.add(layers.MaxPooling2D())
    cnn.add(layers.Flatten())
    cnn.add(layers.Dense(64, activation="relu"))
    cnn.add(layers.Dropout(0.2))
    over_time = {
        NONE: lambda: layers.Dense(2 * units, activation="relu"),  # of each frame by itself
        ONE: lambda: keras_seq.layers.LSTM(2 * units, return_sequences=True),
        BOTH: lambda: keras_seq.layers.Bidirectional(keras_seq.layers.LSTM(units, return_sequences=True)),
    }[name]()
    model = keras.Sequential([keras.Input((None, HEIGHT, WIDTH, 1)), keras_seq.layers.TimeDistributed(cnn), over_time])
    model.add(layers.Dropout(0.3))
    model.add(layers.Dense(10))
    return model


def train(model, clips, digits, epochs):
    """Returns the seconds of training."""
    steps = epochs * -(-len(clips) // 64)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)), loss)
    start = time.perf_counter()
    model.fit(clips, digits, batch_size=64, epochs=epochs, verbose=0)
    return time.perf_counter() - start


def measure(wrong, digits):
    """Returns the error in percent: of all frames, of each frame of a clip, and around the change of the digit."""
    since_change = np.arange(FRAMES) - np.argmax(digits != digits[:, :1], axis=1)[:, None]  # 0: the first new frame
    around = {offset: 100 * float(wrong[since_change == offset].mean()) for offset in range(-6, 6)}
    return {
        "error": 100 * float(wrong.mean()),
        "by_frame": (100 * wrong.mean(axis=0)).tolist(),
        "around_the_change": around,
    }


def main(arguments=None):
    options = parse_arguments(arguments)
    images = load_images()
    clips, _, digits = make_clips(*images["train"], options.clips, options.seed)
    splits = {"dev": make_clips(*images["dev"], options.clips // 8, options.seed + 1)}
    splits["test"] = make_clips(*images["test"], options.clips // 4, options.seed + 2)
    models, probabilities, metrics = {}, {}, {}
    for name in MODELS:
        keras.utils.set_random_seed(options.seed)
        model = models[name] = build_model(name, options.units)
        metrics[name] = {
            "parameters": model.count_params(),
            "train_seconds": train(model, clips, digits, options.epochs),
        }
        for split, (split_clips, _, truth) in splits.items():
            logits = model.predict(split_clips, batch_size=256, verbose=0)
            metrics[name][split] = measure(logits.argmax(axis=-1) != truth, truth)
        probabilities[name] = keras.ops.convert_to_numpy(keras.ops.softmax(logits))  # of the test clips
    errors = {name: metrics[name]["test"] for name in MODELS}
    metrics["result"] = "frames wrong: " + ", ".join(f"{name} {error['error']:.1f} %" for name, error in errors.items())
    table = Table("model", "parameters", "all frames", "first", "last", "first new", title="test frames wrong")
    table.columns[0].no_wrap = True
    for name, error in errors.items():
        shown = [error["error"], error["by_frame"][0], error["by_frame"][-1], error["around_the_change"][0]]
        table.add_row(name, f"{metrics[name]['parameters']:,}", *(f"{value:.1f} %" for value in shown))
    with filled_at_once(options.output) as folder:
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        plot_errors(errors, folder / "errors.png")
        plot_clips(*splits["test"], probabilities, folder / "clips.png")
        models[BOTH].save(folder / "model.keras")
    Console().print(table)
    return metrics


if __name__ == "__main__":
    main()

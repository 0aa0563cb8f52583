# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/overfitting.png: dropouts on 1,000 words, epoch by epoch. Needs keras_seq[data,plots]."""

import pathlib

import keras
import numpy as np

from keras_seq.data import load_cmudict
from keras_seq.layers import LSTM

IMAGES = pathlib.Path(__file__).parents[1] / "images"
COLORS = ("black", "#E69F00", "#0072B2", "#D55E00", "#56B4E9", "#009E73")  # Okabe and Ito
LINE_STYLES = ("-", "--", "-.", ":", "-", (0, (6, 1, 1, 1, 1, 1)))
WORDS, LENGTH, EPOCHS, SEEDS = 1000, 12, 60, 3
VARIANTS = {
    "none": {},
    "naive": {"dropout": 0.3, "output_dropout": 0.3, "dropout_mode": "naive"},
    "locked": {"dropout": 0.3, "output_dropout": 0.3, "dropout_mode": "locked"},
    "variational": {"dropout": 0.3, "output_dropout": 0.3, "recurrent_dropout": 0.3},
    "locked, weight drop": {
        "dropout": 0.3,
        "output_dropout": 0.3,
        "dropout_mode": "locked",
        "recurrent_weight_dropout": 0.3,
    },
    "locked, zoneout": {"dropout": 0.3, "output_dropout": 0.3, "dropout_mode": "locked", "zoneout": 0.1},
}


def load_words(count):
    """Returns `count` words of CMUdict for training and as many for validation, as pairs (letters so far, next)."""
    words = {word for word in load_cmudict()["train"][0] if word.isascii() and word.isalpha() and len(word) < LENGTH}
    words = sorted(words)
    np.random.default_rng(0).shuffle(words)
    ids = np.zeros((2 * count, LENGTH + 1), "int32")  # 0 is padding, 1 to 26 are letters, 27 begins and ends a word
    for row, word in zip(ids, words, strict=False):
        row[: len(word) + 2] = [27, *(ord(letter) - ord("a") + 1 for letter in word), 27]
    pairs = np.where(ids[:, 1:] > 0, ids[:, :-1], 0), ids[:, 1:]
    return tuple(part[:count] for part in pairs), tuple(part[count:] for part in pairs)


def train(seed, training, validation, options):
    """Returns the bits per letter of the validation words after each epoch."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Embedding(28, 32, mask_zero=True),
        LSTM(128, return_sequences=True, seed=seed, **options),
        keras.layers.Dense(28),
    ]
    model = keras.Sequential([keras.Input((LENGTH,), dtype="int32"), *layers])
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(*training, batch_size=64, epochs=EPOCHS, validation_data=validation, verbose=0)
    return np.array(history.history["val_loss"]) / np.log(2)


def draw(path):
    """Draws the mean over the seeds, and prints the best epoch of each seed."""
    from matplotlib.figure import Figure

    training, validation = load_words(WORDS)
    figure = Figure(figsize=(7.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, options) in enumerate(VARIANTS.items()):
        bits = np.array([train(seed, training, validation, options) for seed in range(SEEDS)])
        best, when, last = bits.min(axis=1), bits.argmin(axis=1) + 1, bits[:, -1]
        row = f"{best.mean():.3f} ± {best.std(ddof=1):.3f}", f"{when.mean():.0f}", f"{last.mean():.2f}"
        print("|", " | ".join([name, *row]), "|", flush=True)
        style = {"color": COLORS[number], "linestyle": LINE_STYLES[number]}
        axes.plot(np.arange(1, EPOCHS + 1), bits.mean(axis=0), linewidth=2, label=name, **style)
    axes.set(xlabel="epoch", ylabel="bits per letter, validation words", ylim=(None, 5))
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, handlelength=3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(IMAGES / "overfitting.png")

# SPDX-License-Identifier: Apache-2.0
"""Trains models that spell the digit on an image, letter by letter, with and without attention to the image.

The images are the handwritten digits of scikit-learn, 8 x 8 pixels. See README.md in this folder.
"""

import argparse
import json
import time

from command_line import filled_at_once, output_folder, seed

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_seq

ATTENTION = "attention to the pixels"
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training images (default: %(default)s)")
    parser.add_argument("--units", type=int, default=64, help="size of the decoder's state (default: %(default)s)")
    parser.add_argument("--images", type=int, help="number of images to use, by default all 1,797")
    parser.add_argument("--seed", type=seed, default=0, help="seed of weights and batches (default: %(default)s)")
    output = "runs/captioning"
    parser.add_argument("--output", type=output_folder, default=output, help="folder for the results")
    return parser.parse_args(arguments)


def load_data(count=None):
    """Returns the images (images, 8, 8, 1) and their words, for training and for the test: always the same fifth."""
    digits = load_digits()
    images, words = digits.images[..., None] / 16, np.array(WORDS)[digits.target]
    split = train_test_split(images, words, test_size=0.2, stratify=words, random_state=0)
    train_images, test_images, train_words, test_words = (part[:count] for part in split)
    return (train_images, train_words), (test_images, test_words)


def build_encoder(is_grid):
    """Returns a CNN. Its feature map is the memory: one position for each pixel; or a single position for all."""
    encoder = keras.Sequential([keras.Input((8, 8, 1))])
    encoder.add(layers.RandomTranslation(0.1, 0.1, fill_mode="constant"))
    encoder.add(layers.RandomRotation(0.04, fill_mode="constant"))
    for filters in (32, 64, 64):
        encoder.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        encoder.add(layers.BatchNormalization())
        encoder.add(layers.SpatialDropout2D(0.2))
    if not is_grid:
        encoder.add(layers.GlobalMaxPooling2D(keepdims=True))
    return encoder


def build_model(attention, units):
    letters = keras_seq.data.text_vectorizer(WORDS)
    decoder = keras_seq.Decoder(
        letters.vocabulary_size(), embedding_dim=16, units=units, cell="gru", attention=attention, dropout=0.2
    )
    return keras_seq.Seq2Seq(build_encoder(attention is not None), decoder, target_vectorizer=letters)


def train(model, data, epochs):
    steps = epochs * -(-len(data[0]) // 64)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)))
    start = time.perf_counter()
    model.fit(*data, batch_size=64, epochs=epochs, verbose=0)
    return time.perf_counter() - start


def plot_attention(model, images, path):
    """Draws images, and beside each the weights of its pixels for each letter of the output; dots show the ink."""
    results = model.generate(images, return_dict=True)
    outputs = [[*text, "[END]"] for text in results["text"]]
    columns = 1 + max(map(len, outputs))
    size = (1.1 * columns, 1.25 * len(images))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False)
    y, x = np.indices((8, 8))
    for row, image, letters, weights in zip(axes, images, outputs, results["attention_weights"], strict=True):
        for panel in row:
            panel.set_axis_off()
        row[0].imshow(image[..., 0], cmap="gray_r")
        row[0].set_title("image", fontsize=9)
        for panel, letter, step in zip(row[1:], letters, weights, strict=False):
            panel.imshow(step.reshape(8, 8), cmap="Oranges", vmin=0, vmax=1.4 * step.max())
            panel.scatter(x, y, s=18 * image[..., 0], color="black", linewidths=0)
            panel.set_title(letter, fontsize=9)
    figure.suptitle("the darker, the larger the weight, each panel on its own scale; dots: the ink", fontsize=10)
    figure.savefig(path, dpi=150)


def main(arguments=None):
    options = parse_arguments(arguments)
    train_data, (images, words) = load_data(options.images)
    table = Table("model", "parameters", "seconds", "exact, held out", title=f"{len(words)} held-out images")
    metrics, models = {}, {}
    for name, attention in ((ATTENTION, "bahdanau"), ("a single vector", None)):
        keras.utils.set_random_seed(options.seed)
        model = models[name] = build_model(attention, options.units)
        seconds = train(model, train_data, options.epochs)
        outputs = np.array(model.generate(images))
        exact = float(np.mean(outputs == words))
        metrics[name] = {"exact": exact, "train_seconds": seconds, "parameters": model.count_params()}
        table.add_row(name, f"{model.count_params():,}", f"{seconds:.0f}", f"{100 * exact:.1f} %")
    percent = ", ".join(f"{name} {100 * figures['exact']:.1f} %" for name, figures in metrics.items())
    metrics["result"] = f"words right: {percent}"
    with filled_at_once(options.output) as folder:
        first = np.sort(np.unique(words, return_index=True)[1])[:6]  # of six different words
        plot_attention(models[ATTENTION], images[first], folder / "attention.png")
        models[ATTENTION].save(folder / "model.keras")
        models[ATTENTION].export(folder / "saved_model")
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    Console().print(table)
    return metrics


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/clipping.png: a SimpleRNN trained without and with `global_clipnorm`. Needs keras_seq[plots]."""

import pathlib

import keras
import numpy as np
import tensorflow as tf
from gates import make_streams

from keras_seq.layers import SimpleRNN

IMAGES = pathlib.Path(__file__).parents[1] / "images"
SEEDS = range(3)


def train(seed, **clipping):
    """Trains a SimpleRNN to hold marked values. Returns the losses and the norms of the gradients before clipping."""
    keras.utils.set_random_seed(seed)
    large = keras.initializers.Orthogonal(1.5, seed=seed)
    rnn = SimpleRNN(32, return_sequences=True, recurrent_initializer=large)
    model = keras.Sequential([keras.Input((None, 2)), rnn, keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, **clipping)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients)
        return loss, tf.linalg.global_norm(gradients)

    batches = tf.data.Dataset.from_tensor_slices(make_streams(2000, 30, seed=0)).batch(50).repeat(6)
    return np.transpose([step(tf.cast(x, "float32"), tf.cast(y, "float32")) for x, y in batches])


def draw(path):
    """Draws the norms and losses of the first seed, and prints the last losses of all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 3.4), layout="constrained")
    norm_axes, loss_axes = figure.subplots(1, 2)
    variants = {"without clipping": {}, "global_clipnorm=1": {"global_clipnorm": 1.0}}
    for (name, clipping), style in zip(variants.items(), ("--", "-"), strict=True):
        runs = [train(seed, **clipping) for seed in SEEDS]
        final = [f"{losses[-40:].mean():.2f}" for losses, _ in runs]
        largest = [f"{np.max(norms, where=np.isfinite(norms), initial=0):.1g}" for _, norms in runs]
        print(f"{name}: loss of the last 40 steps {', '.join(final)}; largest norm {', '.join(largest)}")
        for axes, series in zip((norm_axes, loss_axes), (runs[0][1], runs[0][0]), strict=True):
            axes.plot(np.arange(1, len(series) + 1), series, style, linewidth=1.2, label=name)
    norm_axes.set_title("norm of the gradient, before clipping")
    threshold = norm_axes.axhline(1, color="black", linewidth=1.2, linestyle=":", label="threshold of the clipping")
    norm_axes.legend(handles=[threshold], frameon=False)
    loss_axes.set_title("loss (mean squared error)")
    loss_axes.axhline(1 / 3, color="black", linewidth=1.2, linestyle="-.", label="loss of the mean")
    for axes in (norm_axes, loss_axes):
        axes.set_yscale("log")
        axes.set_xlabel("training step")
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    loss_axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(IMAGES / "clipping.png")

# SPDX-License-Identifier: Apache-2.0
"""The copy task and the adding task, and the largest distance at which a layer learns them.

The tasks are made up, because a real text does not say how far back the answer is.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

SYMBOLS, STRING = 8, 3  # the copy task: letters of the alphabet, and of a string
BATCH, STEPS = 64, 150  # of a pass, after which the held-out sequences are read
GUESSING = 1 / 6  # mean squared error of the mean in the adding task: the variance of the sum of two uniform numbers


def copying(distance, count, seed):
    """Returns strings, blanks and three questions (count, 6 + distance, 10), one-hot; and the strings (count, 3)."""
    strings = np.random.default_rng(seed).integers(0, SYMBOLS, (count, STRING))
    ids = np.full((count, STRING + distance + STRING), SYMBOLS)  # blanks
    ids[:, :STRING], ids[:, -STRING:] = strings, SYMBOLS + 1
    return np.eye(SYMBOLS + 2, dtype="float32")[ids], strings


def adding(distance, count, seed):
    """Returns numbers, of which each half has one that is marked (count, distance, 2); and their sums (count, 1, 1)."""
    generator, rows = np.random.default_rng(seed), np.arange(count)
    inputs = np.zeros((count, distance, 2), "float32")
    inputs[:, :, 0] = generator.random((count, distance))
    half = distance // 2
    marked = np.stack([generator.integers(0, half, count), generator.integers(half, distance, count)])
    inputs[rows, marked, 1] = 1
    return inputs, inputs[rows, marked, 0].sum(axis=0)[:, None, None]


@dataclasses.dataclass(frozen=True)
class Task:
    """What a model reads and answers; `answers` is the number of steps at the end that have an answer."""

    draw: Callable
    features: int
    answers: int
    outputs: int
    loss: keras.losses.Loss
    metric: str
    is_learned: Callable

    def build_model(self, layer, optimizer):
        """Returns a compiled model of a layer that returns sequences, or of a function of the inputs."""
        inputs = keras.Input((None, self.features))
        model = keras.Model(inputs, keras.layers.Dense(self.outputs)(layer(inputs)[:, -self.answers :]))
        model.compile(optimizer, self.loss, metrics=[self.metric], steps_per_execution=50)
        return model


TASKS = {
    "copy": Task(
        *(copying, SYMBOLS + 2, STRING, SYMBOLS, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        *("accuracy", lambda accuracy: accuracy >= 0.99),
    ),
    "adding": Task(adding, 2, 1, 1, keras.losses.MeanSquaredError(), "mse", lambda error: error <= GUESSING / 10),
}


class StopWhenLearned(keras.callbacks.Callback):
    """Stops where the held-out sequences are right, or the loss is NaN."""

    def __init__(self, task):
        super().__init__()
        self.task, self.has_learned = task, False

    def on_epoch_end(self, epoch, logs=None):
        self.has_learned = bool(self.task.is_learned(logs[f"val_{self.task.metric}"]))
        self.model.stop_training = self.has_learned or not np.isfinite(logs["loss"])


def learns(task, distance, make_layer, learning_rate, clipnorm, passes, seed):
    """Trains on one distance. Returns whether the held-out sequences are right after one of the passes."""
    keras.utils.set_random_seed(seed)
    model = task.build_model(make_layer(), keras.optimizers.Adam(learning_rate, global_clipnorm=clipnorm))
    train, test = task.draw(distance, BATCH * STEPS, 2 * seed), task.draw(distance, 1000, 2 * seed + 1)
    stop = StopWhenLearned(task)
    options = {"validation_data": test, "validation_batch_size": 500, "callbacks": [stop], "verbose": 0}
    model.fit(*train, batch_size=BATCH, epochs=passes, **options)
    return stop.has_learned


def largest_distance(task, distances, make_layer, learning_rate, clipnorm=None, passes=10, seed=0):
    """Returns the last of increasing distances before the first that a layer fails to learn from scratch; 0 if none."""
    largest = 0
    for distance in distances:
        if not learns(task, distance, make_layer, learning_rate, clipnorm, passes, seed):
            break
        largest = distance
    return largest

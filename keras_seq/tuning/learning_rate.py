# SPDX-License-Identifier: Apache-2.0
"""Optimizers and schedules of the learning rate, by name."""

import math

import keras

from keras_seq.training import Adam

_FLOOR = 0.01  # the share of the learning rate that is left at the end


def _linear(progress):
    return 1 - (1 - _FLOOR) * progress


def _cosine(progress):
    return _FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * progress)) / 2


def _exponential(progress):
    return _FLOOR**progress


SCHEDULES = {"cosine": _cosine, "exponential": _exponential, "linear": _linear}


def make_optimizer(optimizer, learning_rate, **options):
    """Returns an optimizer.

    Args:
        optimizer: a name of Keras, or a function from a learning rate to an optimizer. "adam" stands for
            `keras_seq.training.Adam`, as in `Seq2Seq.compile`.
        learning_rate: a number.
        **options: arguments of an optimizer by name, None for its default.
    """
    if not isinstance(optimizer, str):
        return optimizer(learning_rate)
    options = {name: value for name, value in options.items() if value is not None}
    if optimizer.lower() == "adam":
        return Adam(learning_rate, **options)
    return keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": learning_rate, **options}})


def check_optimizers(optimizers):
    """Raises a ValueError unless all are names that Keras knows, or functions."""
    for optimizer in () if callable(optimizers) else optimizers:
        try:
            known = not isinstance(optimizer, str) or make_optimizer(optimizer, 0.1) is not None
        except ValueError:
            known = False
        if not known or not (isinstance(optimizer, str) or callable(optimizer)):
            raise ValueError(
                "`optimizer` must list names of Keras, such as 'adam', or functions from a learning rate to an "
                f"optimizer. Received: {optimizer!r}"
            )


def check_schedules(schedules):
    """Raises a ValueError unless all are names, functions or None."""
    for schedule in () if callable(schedules) else schedules:
        if schedule is not None and schedule not in SCHEDULES and not callable(schedule):
            raise ValueError(
                f"`schedule` must list None, {', '.join(map(repr, SCHEDULES))}, or functions of the progress in "
                f"[0, 1]. Received: {schedule!r}"
            )


class LearningRateSchedule(keras.callbacks.Callback):
    """Sets the learning rate before each step, by the share of the training that is over.

    Keras's schedules need the number of steps when the optimizer is made. Here the epochs may change from trial to
    trial, as with Hyperband, and so may the size of a batch.

    Args:
        learning_rate: the learning rate that the schedule multiplies.
        schedule: a name in `SCHEDULES`, or a function from the progress in [0, 1] to a factor.
    """

    def __init__(self, learning_rate, schedule):
        super().__init__()
        self.learning_rate = learning_rate
        self.schedule = SCHEDULES.get(schedule, schedule)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._steps = epoch, self.params.get("steps")  # None in the first epoch of some generators

    def on_train_batch_begin(self, batch, logs=None):
        share = batch / self._steps if self._steps else 0.0
        progress = min(1.0, (self._epoch + share) / self.params["epochs"])
        self.model.optimizer.learning_rate = self.learning_rate * self.schedule(progress)

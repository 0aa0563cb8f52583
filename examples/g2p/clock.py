# SPDX-License-Identifier: Apache-2.0
"""The time that a training takes."""

import time

import keras


class Clock(keras.callbacks.Callback):
    """Adds the minutes of training so far to the logs of each epoch, those before an interruption included."""

    def __init__(self):
        super().__init__()
        self.minutes = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.minutes += (time.perf_counter() - self._start) / 60
        logs["minutes"] = self.minutes

    def get_training_state(self):
        return self.minutes

    def set_training_state(self, state):
        self.minutes = state

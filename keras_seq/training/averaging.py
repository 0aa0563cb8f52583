# SPDX-License-Identifier: Apache-2.0
"""Averages of the weights of several epochs."""

import keras
import numpy as np

_MODES = {"min": 1, "max": -1}


class CheckpointAveraging(keras.callbacks.Callback):
    """Sets the weights to their average over several epochs when training ends (Vaswani et al. 2017).

    These are the last epochs, or with `monitor` the best ones. The callback holds a copy of the weights for each in the
    memory of the host. `keras_seq.training.BackupAndRestore` backs them up.

    Do not combine it with an optimizer that has `use_ema=True`, another average, unless
    `keras.callbacks.SwapEMAWeights(swap_on_epoch=True)` puts that into the model at the end of each epoch; nor with
    `restore_best_weights=True`: the callback that comes later in the list then decides about the weights.

    Args:
        count: number of epochs to average, at least 1. The average is over all epochs if there were fewer.
        monitor: name of what is compared in the logs, such as "val_loss" or "val_token_error_rate", or None for the
            last epochs. Of equal epochs the later one counts.
        mode: "min" if the smallest values are the best, or "max".

    Raises:
        ValueError: if an argument is invalid, or if the logs of an epoch lack `monitor`.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> averaging = CheckpointAveraging(3)
        >>> history = model.fit(np.ones((4, 1)), np.ones((4, 1)), epochs=5, callbacks=[averaging], verbose=0)
    """

    def __init__(self, count=5, monitor=None, mode="min"):
        super().__init__()
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"`count` must be a positive integer. Received: {count!r}")
        if mode not in _MODES:
            raise ValueError(f"`mode` must be one of {list(_MODES)}. Received: {mode!r}")
        self.count = count
        self.monitor = monitor
        self.mode = mode
        self._kept = []  # (value, weights) of each epoch, in the order of epochs

    def on_train_begin(self, logs=None):
        self._kept = []

    def on_epoch_end(self, epoch, logs=None):
        value = 0.0
        if self.monitor is not None:
            if self.monitor not in (logs or {}):
                raise ValueError(f"`monitor` must be one of {sorted(logs or {})}. Received: {self.monitor!r}")
            value = float(logs[self.monitor]) * _MODES[self.mode]
            value = np.inf if np.isnan(value) else value
        if len(self._kept) == self.count:
            worst = max(range(self.count), key=lambda i: (self._kept[i][0], -i))  # the earliest of equal ones
            if value > self._kept[worst][0]:
                return
            del self._kept[worst]
        self._kept.append((value, self.model.get_weights()))

    def on_train_end(self, logs=None):
        if self._kept:
            self.model.set_weights(_average(weights for _, weights in self._kept))

    def get_training_state(self):
        """Returns what the callback has seen of a training, for `keras_seq.training.BackupAndRestore`."""
        return [[value, weights] for value, weights in self._kept]

    def set_training_state(self, state):
        """Sets what `get_training_state` returned."""
        self._kept = [(value, weights) for value, weights in state]


def average_checkpoints(model, paths):
    """Sets the weights of a model to the average of saved ones (Vaswani et al. 2017).

    Floating point weights are averaged, others are those of the last file.

    Args:
        model: a Keras model, built.
        paths: the files, at least one, that `save_weights`, `save` or `keras.callbacks.ModelCheckpoint` wrote:
            ".weights.h5" or ".keras".

    Raises:
        ValueError: if there are no paths, or if a file is not one of such a model.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = [pathlib.Path(folder, f"{i}.weights.h5") for i in (1, 2)]
        ...     for path, value in zip(paths, (1.0, 4.0)):
        ...         model.set_weights([np.array([[value]])])
        ...         model.save_weights(path)
        ...     average_checkpoints(model, paths)
        >>> float(model.get_weights()[0].item())
        2.5
    """
    paths = [paths] if isinstance(paths, str) or hasattr(paths, "__fspath__") else list(paths)
    if not paths:
        raise ValueError("`paths` must name at least one file. Received: none")

    def load(path):
        model.load_weights(path)
        return model.get_weights()

    model.set_weights(_average(map(load, paths)))


def _average(checkpoints):
    """Returns the average of lists of arrays, at least one list, of which it holds one at a time."""
    sums, count = None, 0
    for weights in checkpoints:
        floats = [weight.astype("float64") if _is_float(weight) else weight for weight in weights]
        if sums is None:
            sums = [weight.copy() for weight in floats]
        else:
            sums = [a + b if _is_float(b) else b for a, b in zip(sums, floats, strict=True)]
        last, count = weights, count + 1
    return [
        (total / count).astype(weight.dtype) if _is_float(weight) else weight
        for total, weight in zip(sums, last, strict=True)
    ]


def _is_float(array):
    return keras.backend.is_float_dtype(array.dtype.name)

# SPDX-License-Identifier: Apache-2.0
"""Averages of the weights of several epochs."""

import keras
import numpy as np
import pytest

from keras_seq.training import CheckpointAveraging, average_checkpoints


def train(values, averaging):
    """Runs the callback over epochs with these values in the logs. Returns the final weights, and those of epochs."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.BatchNormalization()])
    averaging.set_model(model)
    averaging.on_train_begin()
    checkpoints = []
    for epoch, value in enumerate(values):
        model.set_weights([np.random.default_rng(epoch).random(w.shape, "float32") for w in model.get_weights()])
        checkpoints.append(model.get_weights())
        averaging.on_epoch_end(epoch, {"loss": 1.0, "value": value})
    averaging.on_train_end()
    return model.get_weights(), checkpoints


def assert_average(weights, checkpoints):
    for weight, *values in zip(weights, *checkpoints, strict=True):
        np.testing.assert_allclose(weight, np.mean(values, axis=0, dtype="float64"), rtol=1e-7)


NAN = float("nan")


@pytest.mark.parametrize(
    ("arguments", "epochs"),
    [
        ({"count": 2}, [3, 4]),
        ({"count": 9}, [0, 1, 2, 3, 4]),
        ({"count": 1}, [4]),
        ({"count": 2, "monitor": "value"}, [0, 2]),
        ({"count": 3, "monitor": "value"}, [0, 2, 4]),  # of equal epochs the later one
        ({"count": 2, "monitor": "value", "mode": "max"}, [3, 4]),
    ],
)
def test_the_last_or_the_best_epochs_are_averaged(arguments, epochs):
    weights, checkpoints = train([1.0, 2.0, -1.0, 7.0, 2.0], CheckpointAveraging(**arguments))
    assert_average(weights, [checkpoints[epoch] for epoch in epochs])


def test_epochs_without_a_number_are_the_worst():
    averaging = CheckpointAveraging(2, "value")
    weights, checkpoints = train([NAN, 2.0, NAN, 7.0], averaging)
    assert_average(weights, [checkpoints[1], checkpoints[3]])
    weights, checkpoints = train([NAN], averaging)  # a second training begins anew
    assert_average(weights, checkpoints)


def test_integers_are_those_of_the_last_epoch():
    class Counter(keras.layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(), dtype="int32", trainable=False)
            self.scale = self.add_weight(shape=(), dtype="bfloat16")

    model = keras.Sequential([keras.Input((1,)), Counter()])
    averaging = CheckpointAveraging(2)
    averaging.set_model(model)
    averaging.on_train_begin()
    for epoch in range(3):
        model.set_weights([np.array(1.0 + epoch, "float32"), np.array(epoch * 10)])
        averaging.on_epoch_end(epoch)
    averaging.on_train_end()
    scale, count = sorted(map(float, model.get_weights()))
    assert (scale, count) == (2.5, 20)


def test_saved_files_are_averaged(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    checkpoints, paths = [], []
    for i, suffix in enumerate(("weights.h5", "keras", "weights.h5")):
        model.set_weights([np.random.default_rng(i).random(w.shape).astype("float32") for w in model.get_weights()])
        checkpoints.append(model.get_weights())
        paths.append(str(tmp_path / f"{i}.{suffix}"))
        (model.save if suffix == "keras" else model.save_weights)(paths[-1])
    average_checkpoints(model, paths)
    assert_average(model.get_weights(), checkpoints)
    average_checkpoints(model, paths[1])
    assert_average(model.get_weights(), checkpoints[1:2])


def test_invalid_arguments():
    with pytest.raises(ValueError, match=r"`count` must be a positive integer. Received: 0"):
        CheckpointAveraging(0)
    with pytest.raises(ValueError, match=r"`mode` must be one of \['min', 'max'\]. Received: 'auto'"):
        CheckpointAveraging(mode="auto")
    with pytest.raises(ValueError, match=r"`monitor` must be one of \['loss', 'value'\]. Received: 'x'"):
        train([1.0], CheckpointAveraging(monitor="x"))
    with pytest.raises(ValueError, match=r"`paths` must name at least one file. Received: none"):
        average_checkpoints(None, [])

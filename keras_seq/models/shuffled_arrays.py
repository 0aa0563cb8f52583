# SPDX-License-Identifier: Apache-2.0
"""Arrays of `fit` in an order that a restarted training finds again."""

import math

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.epoch_order import shuffled_batches


def shuffle_arrays(x, y, batch_size, *, sample_weight, shuffle, seed, validation_split, validation_data, **others):
    """Returns the arguments of Keras's `fit`, where arrays to shuffle are a dataset of `shuffled_batches`.

    All other data are returned as they are. So are arrays with `steps_per_epoch`, for which Keras does not begin each
    epoch anew.

    Args:
        seed: seed of the order, or None.
        **others: see `keras.Model.fit`, like all other arguments.
    """
    arguments = {
        **{"x": x, "y": y, "batch_size": batch_size, "sample_weight": sample_weight, "shuffle": shuffle},
        **{"validation_split": validation_split, "validation_data": validation_data},
        **others,
    }
    are_arrays = y is not None and all(isinstance(part, (np.ndarray, tf.Tensor)) for part in keras.tree.flatten(x))
    if shuffle is not True or not are_arrays or others.get("steps_per_epoch"):
        return arguments
    arrays = (x, y) if sample_weight is None else (x, y, sample_weight)
    if validation_split and validation_data is None:
        count = math.floor(len(y) * (1 - validation_split))  # as in Keras: the last part of the data
        if count in (0, len(y)):
            return arguments  # Keras raises its error
        arguments["validation_data"] = keras.tree.map_structure(lambda array: array[count:], arrays)
        arrays = keras.tree.map_structure(lambda array: array[:count], arrays)
    arguments["validation_batch_size"] = others.get("validation_batch_size") or batch_size
    dataset = shuffled_batches(keras.tree.map_structure(_as_floatx, arrays), batch_size or 32, seed=seed)
    options = tf.data.Options()
    options.autotune.enabled = False  # see `TrainingPairs`
    # Keras's choice for arrays: there are no files to distribute.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    replaced = {"x": dataset.with_options(options), "y": None, "batch_size": None, "sample_weight": None}
    return {**arguments, **replaced, "shuffle": False, "validation_split": 0.0}


def _as_floatx(array):
    """Returns the array, as Keras's `fit` casts it."""
    array = tf.convert_to_tensor(array)
    return tf.cast(array, keras.config.floatx()) if array.dtype.is_floating else array

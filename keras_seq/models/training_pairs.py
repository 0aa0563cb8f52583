# SPDX-License-Identifier: Apache-2.0
"""Conversion of the data that users pass to `fit` to the arguments of a training step."""

import collections.abc
import functools
import numbers

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.vocabulary import START_ID
from keras_seq.models.prepared_batches import PreparedBatches
from keras_seq.models.token_side import as_tensor, require, shorten

_BATCH_FORMS = "`(sources, targets)` or `(sources, targets, sample_weight)`"


class TrainingPairs:
    """Converts pairs of source and target, in any form that Keras's `fit` takes, to the data of a training step.

    Prepared inputs are recognized as a pair `(source ids, decoder inputs)` and returned unchanged. This is necessary
    because Keras's `fit` passes prepared validation data to `evaluate`.

    Args:
        source: `TokenSide`, `ArraySide` or `FeatureSide` of the sources.
        target: `TokenSide` of the targets.
    """

    def __init__(self, source, target):
        self.source = source
        self.target = target

    def prepare(self, x, y, sample_weight=None, class_weight=None):
        """Converts one batch.

        Args:
            x: sources, or `(source ids, decoder inputs)`.
            y: targets.
            sample_weight: weights (batch,), or (batch, time) if the targets are token ids, or None.
            class_weight: dict that maps target token ids to weights, or None.

        Returns:
            `((source ids, decoder inputs), target ids)`, and the weights (batch, time) if there are any.
        """
        is_prepared = self.source.are_call_inputs(x)
        source = self.source.convert(x[0] if is_prepared else x)  # (batch, ...)
        targets = as_tensor(y, self.target.label)
        target = self.target.convert(targets)  # (batch, time)
        for part in keras.tree.flatten(source):
            sizes = _shape(part)[0], _shape(target)[0]
            _require_equal(sizes, "`x` and `y` must contain the same number of sequences.")
        if is_prepared:
            decoder_inputs = self.target.convert(x[1])
            shapes = _shape(decoder_inputs), _shape(target)
            _require_equal(shapes, "Decoder inputs and targets must have the same shape.")
        else:
            start = tf.fill([tf.shape(target)[0], 1], START_ID)
            decoder_inputs = tf.concat([start, target[:, :-1]], axis=1)
        prepared = ((source, decoder_inputs), target)
        if class_weight is not None:
            if sample_weight is not None:
                raise ValueError("`class_weight` and `sample_weight` cannot be combined. Received both")
            return (*prepared, self._class_weights(class_weight, target))
        if sample_weight is not None:
            return (*prepared, _token_weights(sample_weight, target, targets.dtype != tf.string))
        return prepared

    def _class_weights(self, class_weight, target):
        """Returns the weights (batch, time) of target ids."""
        table = np.ones(self.target.vocabulary_size, keras.config.floatx())
        expected = f"`class_weight` must be a dict from target token ids, 0 to {len(table) - 1}, to numbers."
        if not isinstance(class_weight, dict):
            raise ValueError(f"{expected} Received: {class_weight!r}")
        for token, weight in class_weight.items():
            is_id = isinstance(token, numbers.Integral) and 0 <= token < len(table)
            if not is_id or not isinstance(weight, numbers.Real):
                raise ValueError(f"{expected} Received: {{{token!r}: {weight!r}}}")
            table[token] = weight
        return tf.gather(table, target)  # (batch, time)

    def arrays(self, x, y, sample_weight=None, class_weight=None):
        """Converts all data at once, as `prepare` does, to NumPy arrays. The weights are None if there are none."""
        if y is None:
            raise ValueError(
                "`y` must be the targets, unless `x` is a `tf.data.Dataset`, `keras.utils.PyDataset` or generator of "
                f"batches {_BATCH_FORMS}. Received: y=None and `x` of type {type(x).__name__}"
            )
        prepared = keras.tree.map_structure(_as_array, self.prepare(x, y, sample_weight, class_weight))
        return prepared if len(prepared) == 3 else (*prepared, None)

    def data(self, x, y=None, sample_weight=None, class_weight=None):
        """Returns `x`, `y` and `sample_weight` for Keras's `fit` or `evaluate`, from data in any form."""
        if isinstance(x, tf.data.Dataset):
            return self._dataset(x, class_weight), y, sample_weight
        if isinstance(x, keras.utils.PyDataset):
            if not isinstance(x, PreparedBatches):
                x = PreparedBatches(x, functools.partial(self._numpy_batch, class_weight=class_weight))
            return x, y, sample_weight
        if isinstance(x, collections.abc.Iterator):
            batches = (self._numpy_batch(batch, index, class_weight) for index, batch in enumerate(x))
            return batches, y, sample_weight
        if isinstance(x, tf.distribute.DistributedDataset):
            return x, y, sample_weight
        x, y, sample_weight = self.arrays(x, y, sample_weight, class_weight)
        if len(y) == 0:
            raise ValueError("`x` and `y` must contain at least one sequence. Received: none")
        return x, y, sample_weight

    def validation_data(self, data):
        """Returns the `validation_data` for Keras's `fit`."""
        if not isinstance(data, (tuple, list)):
            return self.data(data)[0]
        if len(data) not in (2, 3):
            raise ValueError(f"`validation_data` must be {_BATCH_FORMS} or a dataset. Received: {len(data)} items")
        return tuple(part for part in self.data(*data) if part is not None)

    def _dataset(self, dataset, class_weight):
        spec = dataset.element_spec
        _check_batch(spec)
        prepare = functools.partial(self.prepare, class_weight=class_weight)  # also checks prepared data
        prepare = tf.autograph.experimental.do_not_convert(prepare)  # keeps its error messages
        return _disable_autotune(dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE))

    def _numpy_batch(self, batch, index, class_weight=None):
        """Converts a batch of a generator or a PyDataset to NumPy arrays.

        Keras infers the shape of all batches from the first two. If their widths differ, it accepts any width. So the
        first batch is padded to an even width and the second to an odd one.
        """
        batch = tuple(batch) if isinstance(batch, list) else batch
        _check_batch(batch)

        def pad(ids):
            padding = (ids.shape[1] + index) % 2 if index < 2 else 0
            return np.pad(ids, [(0, 0), (0, padding)])

        prepared = self.prepare(*batch, class_weight=class_weight)
        (source, decoder_inputs), *targets = keras.tree.map_structure(_as_array, prepared)
        decoder_inputs, *targets = map(pad, (decoder_inputs, *targets))
        return ((self.source.map_tokens(pad, source), decoder_inputs), *targets)


def holds_call_inputs(x, source):
    """Whether `x` contains `(source ids, decoder inputs)`, the inputs of the model's `call`; `source` is its side."""
    if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
        spec = x.element_spec
        return isinstance(spec, tuple) and isinstance(spec[0], tuple)
    return source.are_call_inputs(x)


def _shape(tensor):
    """Returns the shape of a tensor; outside a graph an array, because operations on it take a millisecond a batch."""
    return np.array(tensor.shape, int) if tf.executing_eagerly() else tf.shape(tensor)


def _require_equal(shapes, message):
    """Raises a ValueError if two results of `_shape`, or their first numbers, are not equal. See `require`."""
    if tf.executing_eagerly():
        stacked = np.stack(shapes)
        require(np.array_equal(*shapes), message, stacked)
    else:
        stacked = tf.stack(shapes)
        require(tf.reduce_all(stacked[0] == stacked[1]), message, stacked)


def _as_array(values):
    return values if values.dtype == tf.string else np.asarray(values)  # Keras takes strings as tensors only


def _check_batch(batch):
    if not isinstance(batch, tuple) or len(batch) not in (2, 3):
        raise ValueError(f"Data must consist of batches {_BATCH_FORMS}. Received: {shorten(batch)}")


def _token_weights(weights, target, are_ids):
    """Returns weights (batch, time). Keras does not broadcast weights (batch,) if a loss ignores a class."""
    weights = as_tensor(weights, "`sample_weight`")
    expected = "one weight per sequence, shape (batch,)" + (", or per token, shape (batch, time)" if are_ids else "")
    message = f"`sample_weight` must be {expected}. The targets have shape {target.shape}."
    rank = weights.shape.rank
    is_valid = weights.dtype != tf.string and rank in ((1, 2) if are_ids else (1,))
    if not is_valid or not weights.shape.is_compatible_with(target.shape[:rank]):
        raise ValueError(f"{message} Received: dtype {weights.dtype.name}, shape {weights.shape}")
    if isinstance(weights, tf.RaggedTensor):
        weights = weights.to_tensor()
    weights = tf.cast(weights, keras.config.floatx())
    shape = tf.shape(weights)
    with tf.control_dependencies([require(tf.reduce_all(shape == tf.shape(target)[:rank]), message, shape, "shape")]):
        return weights if rank == 2 else weights[:, None] * tf.ones_like(target, weights.dtype)


def _disable_autotune(dataset):
    """Returns the dataset with tf.data's autotuning turned off, unless the user set that option.

    The thread of the tuner doubles its sleep each time, and in TensorFlow 2.21 the end of an epoch may wait for it to
    wake: epochs of 4.9 s took 5.25, and one 10.4. Tuning would gain little, and `AUTOTUNE` uses all cores without it.
    """
    if dataset.options().autotune.enabled is not None:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)

# SPDX-License-Identifier: Apache-2.0
"""The two sides of a model that generates, and the sources of a search, in windows."""

import collections.abc

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.vocabulary import detokenizer
from keras_seq.models.feature_side import FeatureSide


class Sides:
    """Holds the sides of a model and the layers that process strings, so that Keras does not track these layers.

    As layers of the model they would turn off XLA, although no training step calls them.

    Args:
        source: `TokenSide`, `ArraySide` or `FeatureSide` of the sources.
        target: `TokenSide` of the targets.
    """

    def __init__(self, source, target):
        self.source = source
        self.target = target
        self.detokenizer = None if target.vectorizer is None else detokenizer(target.vectorizer)
        for layer in self.layers:
            layer.build((None,))  # an export needs built layers

    @property
    def layers(self):
        return [*self.source.layers, *self.target.layers, *([] if self.detokenizer is None else [self.detokenizer])]


def source_windows(side, inputs, batch_size):
    """Yields the sources of a search as rows, see `rows` of the side, none of them empty.

    Args:
        side: `TokenSide`, `ArraySide` or `FeatureSide` of the sources.
        inputs: sources, or an iterable of batches of sources or of tuples that begin with sources. Batches are read as
            they are needed.
        batch_size: how many sources are decoded at once. The side knows how many batches a window has.

    Raises:
        ValueError: if `inputs` have another form or are empty.
    """
    if isinstance(inputs, keras.utils.PyDataset) and inputs.num_batches is None:
        raise ValueError("`inputs` must be finite. Received: an infinite `keras.utils.PyDataset`")
    size = side.window * batch_size
    batches = (b[0] if isinstance(b, tuple) else b for b in inputs) if is_batched(inputs) else [inputs]
    is_empty, waiting, count = True, [], 0
    for part in (part for batch in batches for part in side.source_rows(batch, size)):
        if len(part) == 0:
            continue
        waiting.append(part)
        is_empty, count = False, count + len(part)
        if count >= size:
            yield type(part).concatenate(waiting)
            waiting, count = [], 0
    if waiting:
        yield type(waiting[0]).concatenate(waiting)
    if is_empty:
        raise ValueError("`inputs` must contain at least one source. Received: none")


def as_batch(side, inputs):
    """Returns sources as a batch, and whether they were a single string, with features or without."""
    if isinstance(inputs, dict):
        inputs = {name: _without_scalar(values) for name, values in inputs.items()}
        is_single = isinstance(side, FeatureSide) and isinstance(inputs.get("source"), (str, bytes))
        return ({name: [value] for name, value in inputs.items()} if is_single else inputs), is_single
    inputs = _without_scalar(inputs)
    is_single = isinstance(inputs, (str, bytes))
    return ([inputs] if is_single else inputs), is_single


def count_sources(inputs):
    """Returns the number of sources in a batch, or None if it is not known."""
    while isinstance(inputs, dict) and inputs:
        inputs = next(iter(inputs.values()))
    return None if is_batched(inputs) or not hasattr(inputs, "__len__") else len(inputs)


def is_batched(inputs):
    """Whether `inputs` are an iterable of batches, rather than sequences."""
    return isinstance(inputs, (tf.data.Dataset, keras.utils.PyDataset, collections.abc.Iterator))


def constants(arrays):
    """Returns nested arrays as tensors."""
    return keras.tree.map_structure(tf.constant, arrays)


def _without_scalar(inputs):
    """Returns a string in place of an array or tensor without axes, as an element of a dataset is."""
    is_scalar = isinstance(inputs, (np.ndarray, tf.Tensor)) and len(inputs.shape) == 0
    return np.asarray(inputs).item() if is_scalar else inputs

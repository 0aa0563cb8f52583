# SPDX-License-Identifier: Apache-2.0
"""Conversion of sources or targets, in any form that users pass, to token ids."""

import collections.abc
import dataclasses
import functools

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.vocabulary import END_ID, PAD_ID, text_to_ids


@dataclasses.dataclass(frozen=True)
class TokenSide:
    """Converts the sources or the targets of a model to token ids."""

    name: str  # "source" or "target"
    label: str  # name in error messages
    vectorizer: object  # layer that maps strings to token ids, or None
    vocabulary_size: int

    def token_ids(self, values):
        """Returns int32 token ids (batch, time). Strings are converted and end with `[END]`; token ids are checked.

        Args:
            values: strings (batch,) or integers (batch, time), as a list, array, tensor or ragged tensor.
        """
        values = as_tensor(values, self.label)
        dtype, rank = values.dtype, values.shape.rank
        if dtype == tf.string:
            is_valid = self.vectorizer is not None and rank in (None, 1)
        else:
            is_valid = dtype.is_integer and rank in (None, 2)
        if not is_valid:
            ids = "integer token ids, shape (batch, time)"
            expected = f"strings, shape (batch,), or {ids}"
            if self.vectorizer is None:
                expected = f"{ids}, because the model has no `{self.name}_vectorizer`"
            hint = ". Use `dataset.batch(n)` to make batches" if rank == (0 if dtype == tf.string else 1) else ""
            raise ValueError(
                f"{self.label} must be {expected}{hint}. Received: dtype {dtype.name}, shape {values.shape}"
            )
        if values.dtype == tf.string:
            return self.texts_to_ids(tf.ensure_shape(values, [None]))
        return self._check_ids(values)

    def texts_to_ids(self, texts):
        """Converts strings (batch,) to int32 token ids (batch, time), each sequence followed by `[END]`."""
        ids = text_to_ids(self.vectorizer, texts)  # ragged
        end = tf.fill([tf.shape(texts)[0], 1], tf.cast(END_ID, ids.dtype))
        ids = tf.cast(tf.concat([ids, end], axis=1).to_tensor(PAD_ID), tf.int32)
        return tf.pad(ids, [[0, 0], [0, tf.cast(tf.shape(ids)[1] == 0, tf.int32)]])  # also an empty batch has one step

    def _check_ids(self, ids):
        if isinstance(ids, tf.RaggedTensor):
            ids = ids.to_tensor(PAD_ID)
        ids = tf.cast(tf.ensure_shape(ids, [None, None]), tf.int64)
        require(tf.shape(ids)[1] > 0, f"{self.label} must have at least one token.", tf.shape(ids))
        require(
            tf.reduce_all((ids >= 0) & (ids < self.vocabulary_size)),
            f"{self.label} must be token ids from 0 to {self.vocabulary_size - 1}.",
            tf.stack([tf.reduce_min(ids), tf.reduce_max(ids)]),
            "ids between",
        )
        return tf.cast(ids, tf.int32)


def source_batches(side, inputs, batch_size):
    """Yields batches of sources for a search: tensors of strings or token ids, none of them empty.

    Args:
        side: `TokenSide` of the sources.
        inputs: sources, or an iterable of batches of sources or of tuples that begin with sources.
        batch_size: number of sources per batch, if `inputs` are not batched.

    Raises:
        ValueError: if `inputs` have another form or are empty.
    """
    side = dataclasses.replace(side, label="`inputs`")
    if isinstance(inputs, keras.utils.PyDataset) and inputs.num_batches is None:
        raise ValueError("`inputs` must be finite. Received: an infinite `keras.utils.PyDataset`")
    if isinstance(inputs, (tf.data.Dataset, keras.utils.PyDataset, collections.abc.Iterator)):
        batches = (_check_sources(side, batch[0] if isinstance(batch, tuple) else batch) for batch in inputs)
    else:
        sources = _check_sources(side, inputs)
        batches = (sources[start : start + batch_size] for start in range(0, len(sources), batch_size))
    count = 0
    for batch in batches:
        if len(batch):
            count += 1
            yield batch
    if count == 0:
        raise ValueError("`inputs` must contain at least one source. Received: none")


def _check_sources(side, inputs):
    """Returns sources as a tensor of strings or token ids, and raises a ValueError if they have another form."""
    sources = as_tensor(inputs, side.label)
    if sources.shape == (0,):
        return ()  # an empty list has no dtype to check
    if side.vectorizer is None:
        return side.token_ids(sources)
    if sources.dtype != tf.string or sources.shape.rank != 1:
        raise ValueError(
            "`inputs` must be strings, shape (batch,), because the model has a `source_vectorizer`. "
            f"Received: dtype {sources.dtype.name}, shape {sources.shape}"
        )
    return sources


def as_tensor(values, label):
    """Converts values to a tensor of strings or numbers, or to a ragged tensor if rows of a list differ in length."""
    if isinstance(values, (tf.Tensor, tf.RaggedTensor)):
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind in "OT":
        values = values.tolist()
    for convert in (tf.convert_to_tensor, functools.partial(tf.ragged.constant, ragged_rank=1)):
        try:
            return convert(values)
        except (ValueError, TypeError, OverflowError, tf.errors.OpError):
            continue
    raise ValueError(
        f"{label} must be strings, shape (batch,), or integer token ids, shape (batch, time). "
        f"Received: {shorten(values)}"
    )


def shorten(value):
    """Returns the representation of a value for an error message, at most 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def require(condition, message, received, what=""):
    """Raises a ValueError if the condition is false. In a graph, as in `tf.data`, returns an operation that does."""
    if not tf.executing_eagerly():
        return tf.debugging.Assert(condition, [f"{message} Received: {what}".rstrip(), received])
    if not condition:
        raise ValueError(f"{message} Received: {what} {received.numpy().tolist()}".replace(":  ", ": "))
    return tf.no_op()

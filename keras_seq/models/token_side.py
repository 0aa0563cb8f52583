# SPDX-License-Identifier: Apache-2.0
"""The sources or the targets of a model: strings or token ids, in any form that users have them."""

import collections.abc
import dataclasses
import functools

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.vocabulary import END_ID, PAD_ID, text_to_ids


@dataclasses.dataclass(frozen=True)
class TokenSide:
    """The sources or the targets: strings or token ids, to token ids."""

    name: str  # "source" or "target"
    label: str  # what error messages call them
    vectorizer: object  # a layer from strings to token ids, or None
    vocabulary_size: int

    def token_ids(self, values):
        """Token ids (batch, time), int32, of strings, which are closed by `[END]`, or of token ids, which are checked.

        Args:
            values: strings (batch,) or integers (batch, time): a list, an array, a tensor or a ragged tensor.
        """
        values = as_tensor(values, self.label)
        dtype, rank = values.dtype, values.shape.rank
        if dtype == tf.string:
            is_right = self.vectorizer is not None and rank in (None, 1)
        else:
            is_right = dtype.is_integer and rank in (None, 2)
        if not is_right:
            ids = "integer token ids, shape (batch, time)"
            expected = f"strings, shape (batch,), or {ids}"
            if self.vectorizer is None:
                expected = f"{ids}: the model has no `{self.name}_vectorizer`"
            hint = "; `dataset.batch(n)` makes batches" if rank == (0 if dtype == tf.string else 1) else ""
            raise ValueError(
                f"{self.label} must be {expected}{hint}. Received: dtype {dtype.name}, shape {values.shape}"
            )
        if values.dtype == tf.string:
            return self.close_texts(tf.ensure_shape(values, [None]))
        return self._checked(values)

    def close_texts(self, texts):
        """Token ids (batch, time), int32, of strings (batch,), each closed by `[END]`."""
        ids = text_to_ids(self.vectorizer, texts)  # ragged
        end = tf.fill([tf.shape(texts)[0], 1], tf.cast(END_ID, ids.dtype))
        ids = tf.cast(tf.concat([ids, end], axis=1).to_tensor(PAD_ID), tf.int32)
        return tf.pad(ids, [[0, 0], [0, tf.cast(tf.shape(ids)[1] == 0, tf.int32)]])  # an empty batch has a step, too

    def _checked(self, ids):
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
    """Batches of sources for a search, none of them empty, tensors of strings or of token ids.

    Args:
        side: the `TokenSide` of the sources.
        inputs: sources, or an iterable of batches of sources or of tuples that begin with sources.
        batch_size: sources in a batch, where `inputs` does not come in batches.

    Raises:
        ValueError: for inputs of the other kind, and for none.
    """
    side = dataclasses.replace(side, label="`inputs`")
    if isinstance(inputs, keras.utils.PyDataset) and inputs.num_batches is None:
        raise ValueError("`inputs` must end. Received: an infinite `keras.utils.PyDataset`")
    if isinstance(inputs, (tf.data.Dataset, keras.utils.PyDataset, collections.abc.Iterator)):
        batches = (_checked_sources(side, batch[0] if isinstance(batch, tuple) else batch) for batch in inputs)
    else:
        sources = _checked_sources(side, inputs)
        batches = (sources[start : start + batch_size] for start in range(0, len(sources), batch_size))
    count = 0
    for batch in batches:
        if len(batch):
            count += 1
            yield batch
    if count == 0:
        raise ValueError("`inputs` must hold at least one source. Received: none")


def _checked_sources(side, inputs):
    sources = as_tensor(inputs, side.label)
    if sources.shape == (0,):
        return ()  # the elements of an empty list have no type
    if side.vectorizer is None:
        return side.token_ids(sources)
    if sources.dtype != tf.string or sources.shape.rank != 1:
        raise ValueError(
            "`inputs` must hold strings, shape (batch,): the model has a `source_vectorizer`. "
            f"Received: dtype {sources.dtype.name}, shape {sources.shape}"
        )
    return sources


def as_tensor(values, label):
    """A tensor of strings or numbers, ragged where the rows of a list differ in length."""
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
        f"Received: {shortened(values)}"
    )


def shortened(value):
    """What an error message shows of a value."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def require(condition, message, received, what=""):
    """Raises a ValueError; in a graph, as of `tf.data.Dataset.map`, returns the operation that raises an error."""
    if not tf.executing_eagerly():
        return tf.debugging.Assert(condition, [f"{message} Received: {what}".rstrip(), received])
    if not condition:
        raise ValueError(f"{message} Received: {what} {received.numpy().tolist()}".replace(":  ", ": "))
    return tf.no_op()

# SPDX-License-Identifier: Apache-2.0
"""Conversion of sources or targets, in any form that users pass, to token ids; and the layers that do it."""

import dataclasses
import functools

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.pair_readers import shorten
from keras_seq.data.vocabulary import END_ID, PAD_ID, START_ID, text_to_ids
from keras_seq.models.function_cache import compile_once
from keras_seq.models.token_rows import TokenRows


@dataclasses.dataclass(frozen=True)
class TokenSide:
    """Converts the sources or the targets of a model to token ids."""

    name: str  # "source" or "target"
    label: str  # name in error messages
    vectorizer: object  # layer that maps strings to token ids, or None
    vocabulary_size: int
    adds_start: bool = False  # whether `[START]` is put before the tokens of a string
    adds_end: bool = True  # whether `[END]` is put after them

    window = 64  # batches whose sequences are sorted by length together

    @property
    def layers(self):
        """The layers that process strings."""
        return [] if self.vectorizer is None else [self.vectorizer]

    def convert(self, values, label=None):
        """Returns int32 token ids (batch, time). Strings are converted; token ids are checked.

        Args:
            values: strings (batch,) or integers (batch, time), as a list, array, tensor or ragged tensor.
            label: name of the values in error messages, by default that of the side.
        """
        values = self.check_form(values, label or self.label)
        if values.dtype == tf.string:
            return self.texts_to_ids(tf.ensure_shape(values, [None]))
        ids = self._check_ids(values, label or self.label)
        return ids.to_tensor(PAD_ID) if isinstance(ids, tf.RaggedTensor) else ids

    def rows(self, values, label):
        """Returns values that `convert` takes as `TokenRows`. Not for use in a graph."""
        values = self.check_form(values, label)
        if values.dtype == tf.string:
            return TokenRows(*(part.numpy() for part in self._compiled_conversion(values)))
        return TokenRows.from_ids(self._check_ids(values, label))

    def source_rows(self, inputs, size, label="`inputs`"):
        """Yields the sources of a search as `TokenRows`, about `size` at a time."""
        sources = self.check_sources(inputs, label)
        for start in range(0, sources.shape[0], size):
            yield self.rows(sources[start : start + size], label)

    def check_sources(self, inputs, label="`inputs`"):
        """Returns sources as a tensor of strings or token ids, and raises a ValueError if they have another form."""
        sources = as_tensor(inputs, label)
        if sources.shape == (0,):
            return sources  # an empty list has no dtype to check
        if self.vectorizer is None:
            return self.check_form(sources, label)
        if sources.dtype != tf.string or sources.shape.rank != 1:
            hint = ". Use `dataset.batch(n)` to make batches" if sources.shape.rank == 0 else ""
            raise ValueError(
                f"{label} must be strings, shape (batch,), because the model has a `source_vectorizer`{hint}. "
                f"Received: dtype {sources.dtype.name}, shape {sources.shape}"
            )
        return sources

    def cast(self, source):
        """Returns a batch of strings (batch,) or token ids (batch, time) as token ids, without checks."""
        if isinstance(source, keras.KerasTensor):
            return source
        source = tf.convert_to_tensor(source)
        return self.texts_to_ids(source) if source.dtype == tf.string else source

    def map_tokens(self, function, source):
        """Returns prepared sources with a function applied to the token ids in them."""
        return function(source)

    @property
    def spec(self):
        """The `tf.TensorSpec` of token ids."""
        return tf.TensorSpec([None, None], tf.int32, "inputs")

    def signature(self, sources=None):
        """Returns the `tf.TensorSpec` of given sources, by default of those that users pass to the model."""
        are_texts = self.vectorizer is not None if sources is None else sources.dtype == tf.string
        return tf.TensorSpec([None], tf.string, "inputs") if are_texts else self.spec

    def are_call_inputs(self, x):
        """Whether `x` is `(source ids, decoder inputs)`, the inputs of the model's `call`."""
        # The items of a list of two sources are rows of token ids or strings, not matrices.
        is_pair = isinstance(x, (tuple, list)) and len(x) == 2
        return is_pair and all(len(getattr(part, "shape", ())) == 2 for part in x)

    def texts_to_ids(self, texts):
        """Converts strings (batch,) to int32 token ids (batch, time), with `[START]` and `[END]` as the side says."""
        ids = self._texts_to_ragged(texts).to_tensor(PAD_ID)
        return tf.pad(ids, [[0, 0], [0, tf.cast(tf.shape(ids)[1] == 0, tf.int32)]])  # also an empty batch has one step

    def _texts_to_ragged(self, texts):
        ids = tf.cast(text_to_ids(self.vectorizer, texts), tf.int32)
        column = [tf.shape(texts)[0], 1]
        start = [tf.fill(column, START_ID)] if self.adds_start else []
        end = [tf.fill(column, END_ID)] if self.adds_end else []
        return tf.concat([*start, ids, *end], axis=1)

    @functools.cached_property
    def _compiled_conversion(self):
        """Function from strings (batch,) to the ids of all of them and their lengths, traced once."""

        def convert(texts):
            ids = self._texts_to_ragged(texts)
            return ids.flat_values, ids.row_lengths()

        return compile_once(convert, [tf.TensorSpec([None], tf.string)])

    def check_form(self, values, label):
        """Returns values as a tensor, and raises a ValueError if they are not what `convert` takes."""
        values = as_tensor(values, label)
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
            hint = (
                ". Use `dataset.batch(n)`, or for pairs `keras_seq.data.bucketed_batches`"
                if rank == (0 if dtype == tf.string else 1)
                else ""
            )
            raise ValueError(f"{label} must be {expected}{hint}. Received: dtype {dtype.name}, shape {values.shape}")
        return values

    def _check_ids(self, ids, label):
        """Returns int32 ids (batch, time), a ragged tensor if they are one, that are in the vocabulary."""
        if self._are_valid(ids):
            return tf.cast(ids, tf.int32)
        ids = tf.cast(ids, tf.int64)
        if isinstance(ids, tf.RaggedTensor):
            flat, shape = ids.flat_values, ids.bounding_shape()
        else:
            flat = ids = tf.ensure_shape(ids, [None, None])
            shape = tf.shape(ids)
        require(shape[1] > 0, f"{label} must have at least one token.", shape)
        require(
            tf.reduce_all((flat >= 0) & (flat < self.vocabulary_size)),
            f"{label} must be token ids from 0 to {self.vocabulary_size - 1}.",
            tf.stack([tf.reduce_min(flat), tf.reduce_max(flat)]),
            "ids between",
        )
        return tf.cast(ids, tf.int32)

    def _are_valid(self, ids):
        """Whether NumPy finds ids valid. The operations that say what is wrong take a millisecond for each batch."""
        if not tf.executing_eagerly() or isinstance(ids, tf.RaggedTensor):
            return False
        values = ids.numpy()
        return values.shape[1] > 0 and values.min(initial=0) >= 0 and values.max(initial=0) < self.vocabulary_size


def source_side(vectorizer, vocabulary_size):
    """Returns the `TokenSide` of sources that end with `[END]`."""
    return TokenSide("source", "`x` (sources)", vectorizer, vocabulary_size)


def target_side(vectorizer, vocabulary_size):
    """Returns the `TokenSide` of targets that end with `[END]`."""
    return TokenSide("target", "`y` (targets)", vectorizer, vocabulary_size)


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


def require(condition, message, received, what=""):
    """Raises a ValueError if the condition is false. In a graph, as in `tf.data`, returns an operation that does."""
    if not tf.executing_eagerly():
        return tf.debugging.Assert(condition, [f"{message} Received: {what}".rstrip(), received])
    if not condition:
        raise ValueError(f"{message} Received: {what} {np.asarray(received).tolist()}".replace(":  ", ": "))
    return tf.no_op()

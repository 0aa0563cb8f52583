# SPDX-License-Identifier: Apache-2.0
"""Streams of documents, in windows that carry the state from one to the next."""

import collections.abc
import dataclasses
import heapq
import numbers

import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.epoch_order import index_batches
from keras_seq.data.vocabulary import END_ID, PAD_ID, START_ID, text_to_ids

_LARGEST_ID = 2**31 - 1


def stream_batches(documents, batch_size=32, window=64, *, vectorizer=None, cut=True, shuffle=False, seed=None):
    """Batches documents for truncated backpropagation through time (Williams & Peng 1990).

    A batch has one window of each of `batch_size` streams. A stream is a sequence of documents; its next window is in
    the same row of the next batch, so a model that carries the state of each row from batch to batch reads documents
    of any length. Each document begins in a new window, and its last window is padded with 0. So states are reset only
    before the first step of a window, in the rows that `is_start` marks.

    The inputs of a document are `[START]` and its tokens, the targets are its tokens and `[END]`. Each token is a
    target once in an epoch.

    With `cut`, all streams have the same number of windows: the windows of all documents, one after the other, are cut
    into `batch_size` parts. A stream may then begin in the middle of a document, with a reset state. Without `cut`, no
    document is cut: the longest one goes first, each to the stream that is shortest so far. There are then no more
    streams than documents, and one long document makes a long stream, beside which the others are padded.

    Args:
        documents: a list of strings, or of sequences of token ids, of any lengths; a single string or sequence of token
            ids is one document. Token ids are integers from 4, or 1 for unknown tokens. The special ids are added here,
            but a document may end with 3, `[END]`, and padding.
        batch_size: number of streams.
        window: number of steps of a batch.
        vectorizer: layer from `keras_seq.data.text_vectorizer`, if the documents are strings.
        cut: whether a stream may begin in the middle of a document.
        shuffle: whether to shuffle the documents, anew in every epoch.
        seed: integer that makes the order of all epochs reproducible. The order of an epoch depends on the seed and its
            number alone, so `keras_seq.training.BackupAndRestore` can find it again.

    Returns:
        A `tf.data.Dataset` of `((tokens, is_start), targets)`, of known cardinality: int32 (batch, window), booleans
        (batch,), and int32 (batch, window). 0 is padding.

    Raises:
        ValueError: if an argument is invalid.

    Example:
        >>> batches = stream_batches([[4, 5, 6], [7]], batch_size=2, window=2)
        >>> for (tokens, is_start), targets in batches.as_numpy_iterator():
        ...     print(tokens.tolist(), is_start.tolist(), targets.tolist())
        [[2, 4], [2, 7]] [True, True] [[4, 5], [7, 3]]
        [[5, 6], [0, 0]] [False, False] [[6, 3], [0, 0]]
    """
    values, lengths = document_ids(documents, vectorizer)
    return Streams(values, lengths, batch_size, window, cut).dataset(shuffle, seed)


def document_ids(documents, vectorizer=None, label="`documents`"):
    """Returns `(values, lengths)`: int32 token ids of all documents, one after the other, and how many each has.

    Args:
        documents: see `stream_batches`.
        vectorizer: see `stream_batches`.
        label: name of the documents in error messages.
    """
    documents = list_documents(documents, label)
    if _is_text(documents[0]):
        if vectorizer is None:
            raise ValueError(f"{label} must be sequences of token ids unless there is a vectorizer. Received: strings")
        if not all(map(_is_text, documents)):
            raise ValueError(f"{label} must be strings, or sequences of token ids. Received: some of both")
        ids = text_to_ids(vectorizer, tf.constant(documents, tf.string))
        return ids.flat_values.numpy().astype("int32"), ids.row_lengths().numpy()
    rows = [_checked_ids(document, label) for document in documents]
    return np.concatenate(rows), np.array([len(row) for row in rows])


def list_documents(documents, label="`documents`"):
    """Returns a list of documents, at least one: strings or sequences of token ids. See `stream_batches`."""
    if is_document(documents):
        documents = [np.asarray(documents).item() if len(getattr(documents, "shape", [0])) == 0 else documents]
    elif isinstance(documents, (tf.data.Dataset, collections.abc.Iterator)):
        if isinstance(documents, tf.data.Dataset) and documents.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(f"{label} must be finite. Received: an infinite `tf.data.Dataset`")
        documents = [document for element in documents for document in list_documents(element, label)]
    elif isinstance(documents, tf.RaggedTensor):
        documents = [row.numpy() for row in documents]
    elif isinstance(documents, tf.Tensor):
        documents = documents.numpy()
    if not hasattr(documents, "__len__"):
        raise ValueError(f"{label} must be strings or sequences of token ids. Received: {_shorten(documents)}")
    if len(documents) == 0:
        raise ValueError(f"{label} must contain at least one document. Received: none")
    return list(documents)


def is_document(value):
    """Whether a value is one document, a string or a sequence of token ids, rather than a sequence of documents."""
    if isinstance(value, (tf.Tensor, np.ndarray)):
        is_text = value.dtype == tf.string if isinstance(value, tf.Tensor) else value.dtype.kind in "OSUT"
        return len(value.shape) == (0 if is_text else 1)
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and isinstance(value[0], (numbers.Number, np.generic)) and not _is_text(value[0])
    return _is_text(value)


def _is_text(value):
    return isinstance(value, (str, bytes))


def add_special_ids(values, lengths):
    """Returns the token ids of documents, one after the other, each with `[START]` before it and `[END]` after it."""
    ends = np.cumsum(lengths)
    with_start = np.insert(values, ends - lengths, START_ID)
    return np.insert(with_start, ends + np.arange(1, len(ends) + 1), END_ID)


def _checked_ids(document, label):
    """Returns the token ids of a document without `[END]` and padding after it."""
    expected = f"{label} must contain strings, or sequences of integer token ids"
    try:
        ids = np.asarray(document)
    except ValueError:
        ids = np.empty(())  # not a sequence of numbers
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ValueError(f"{expected}. Received: {_shorten(document)}")
    tokens = np.flatnonzero(ids != PAD_ID)
    ids = ids[: tokens[-1] + 1] if len(tokens) else ids[:0]
    ids = ids[:-1] if len(ids) and ids[-1] == END_ID else ids
    special = np.isin(ids, (PAD_ID, START_ID, END_ID)) | (ids < 0)
    if ids.size and ids.max() > _LARGEST_ID:  # would become another id as int32
        raise ValueError(f"{expected} less than 2^31. Received: {int(ids.max())}")
    if special.any():
        raise ValueError(
            f"{expected} without `[START]`, `[END]` and padding between them. "
            f"Received: {int(ids[special][0])} at position {int(np.argmax(special))}"
        )
    return ids.astype("int32")


def _shorten(value):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


@dataclasses.dataclass
class Streams:
    """Documents, and how their windows make streams: see `stream_batches`."""

    values: np.ndarray  # (tokens,)
    lengths: np.ndarray  # (documents,)
    batch_size: int
    window: int
    cut: bool
    multiple: int = 1  # of which `batch_size` is one

    def __post_init__(self):
        for name in ("batch_size", "window"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}")
            setattr(self, name, int(value))
        if self.batch_size % self.multiple:
            raise ValueError(
                f"`batch_size` must be a multiple of {self.multiple}, the number of replicas: each reads its own "
                f"streams. Received: {self.batch_size}"
            )
        counts = self.lengths + 1  # targets of each document
        self.sizes = -(-counts // self.window)  # (documents,), numbers of windows
        if self.cut:
            self.stream_of = np.zeros_like(self.sizes)  # one stream, which is cut into equal parts
            self.steps = -(-int(self.sizes.sum()) // self.batch_size)
        else:
            self.batch_size = min(self.batch_size, -(-len(self.lengths) // self.multiple) * self.multiple)
            self.stream_of = _balance(self.sizes, self.batch_size)  # (documents,)
            self.steps = int(np.bincount(self.stream_of, self.sizes).max())

    def dataset(self, shuffle=False, seed=None):
        """Returns the batches of `stream_batches`."""

        def arrange(generator):
            return [generator.permutation(len(self.lengths)) if shuffle else np.arange(len(self.lengths))]

        ids = tf.constant(add_special_ids(self.values, self.lengths))

        def read(starts, lengths, is_start):
            columns = tf.range(self.window)
            is_token = columns < lengths[:, None]  # (batch, window)
            places = tf.where(is_token, starts[:, None] + columns, 0)
            tokens, targets = (tf.where(is_token, tf.gather(ids, places + i), PAD_ID) for i in (0, 1))
            return (tokens, is_start), targets

        layouts = index_batches(arrange, 1, shuffle, seed).flat_map(self._layout)  # all documents are one batch
        batches = layouts.map(read, num_parallel_calls=tf.data.AUTOTUNE)
        return batches.apply(tf.data.experimental.assert_cardinality(self.steps)).prefetch(tf.data.AUTOTUNE)

    def _layout(self, order):
        """Returns the dataset of the places, lengths and `is_start` (batch,) of all windows of an epoch.

        Args:
            order: int64 (documents,), the order of the documents in the streams.
        """
        order = tf.gather(order, tf.argsort(tf.gather(self.stream_of, order), stable=True))  # by streams
        sizes = tf.gather(self.sizes, order)
        windows = tf.range(tf.reduce_sum(sizes))
        first = tf.repeat(tf.cumsum(sizes, exclusive=True), sizes)  # (windows,), of the document of each
        order = tf.repeat(order, sizes)
        before = (windows - first) * self.window  # tokens of the document before each window
        starts = tf.gather(np.cumsum(self.lengths + 2) - self.lengths - 2, order) + before
        lengths = tf.minimum(tf.gather(self.lengths, order) + 1 - before, self.window)
        # Streams are padded to equal numbers of windows, where they are not cut.
        totals = np.bincount(self.stream_of, self.sizes, self.batch_size).astype("int64")
        padding = np.arange(len(totals)) * self.steps - (np.cumsum(totals) - totals)
        slots = windows + tf.gather(padding, tf.gather(self.stream_of, order))

        def in_batches(values):
            placed = tf.scatter_nd(slots[:, None], tf.cast(values, tf.int32), [self.batch_size * self.steps])
            return tf.transpose(tf.reshape(placed, [self.batch_size, self.steps]))  # (steps, batch)

        is_start = tf.concat([tf.ones([1, self.batch_size], tf.bool), in_batches(before == 0)[1:] > 0], axis=0)
        return tf.data.Dataset.from_tensor_slices((in_batches(starts), in_batches(lengths), is_start))


def _balance(sizes, num_streams):
    """Returns the stream of each document, int64 (documents,): the longest first, each to the shortest stream."""
    totals = [(0, stream) for stream in range(num_streams)]  # a heap
    streams = np.zeros(len(sizes), "int64")
    for document in np.argsort(-sizes, kind="stable"):
        total, streams[document] = totals[0]
        heapq.heapreplace(totals, (total + int(sizes[document]), int(streams[document])))
    return streams

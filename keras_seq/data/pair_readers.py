# SPDX-License-Identifier: Apache-2.0
"""Pairs that need not fit into memory, in pools: from a dataset, from a random-access sequence, from a generator."""

import collections.abc
import itertools
import weakref

import numpy as np

from keras_seq._lazy_tensorflow import tf

_CHUNK = 1024  # pairs of a generator that become tensors at once: one by one they take 50 times as long


def make_reader(pairs, keys, num_shards, index, num_pairs=None):
    """Returns an object with the pairs of one worker, see `DatasetReader`.

    Args:
        pairs, keys, num_shards, index, num_pairs: see `bucketed_batches`.
    """
    if isinstance(pairs, tf.data.Dataset):
        return DatasetReader(pairs, keys, num_shards, index)
    if callable(pairs) or isinstance(pairs, collections.abc.Iterator):
        return GeneratorReader(pairs, keys, num_shards, index, num_pairs)
    if hasattr(pairs, "__len__") and hasattr(pairs, "__getitem__") and not isinstance(pairs, (str, bytes, dict)):
        return SequenceReader(pairs, keys, num_shards, index)
    raise ValueError(
        "`pairs` must be a `tf.data.Dataset`, a sequence with random access such as `tfds.data_source` returns, or a "
        f"function that returns an iterator. Received: {shorten(pairs)}"
    )


class DatasetReader:
    """The pairs of a `tf.data.Dataset`.

    Attributes:
        count: number of pairs of this worker, or None if it is not known.
    """

    def __init__(self, pairs, keys, num_shards, index):
        if keys is not None:
            _check_keys(keys, pairs.element_spec)
            pairs = pairs.map(lambda element: _select(element, keys))
        _check_spec(pairs.element_spec)
        count = int(pairs.cardinality())
        self.count = None if count < 0 else len(range(index, count, num_shards))
        self._pairs = pairs if num_shards == 1 else pairs.shard(num_shards, index)

    def pools(self, size, buffer_size, seed):
        """Returns a dataset of `size` pairs at a time, in the structure of the pairs. Called in a graph.

        Args:
            size: number of pairs in a pool; the last one may be smaller.
            buffer_size: number of pairs among which each next one is drawn.
            seed: int64 tensor, or None to keep the order.
        """
        pairs = self._pairs
        if seed is not None:
            # Or the order would also depend on the global seed, which may differ in a restarted training. This is the
            # seed of the graph alone, which is that of this dataset.
            tf.compat.v1.set_random_seed(None)
            pairs = pairs.shuffle(buffer_size, seed=seed, reshuffle_each_iteration=False)
        return pairs.ragged_batch(size)  # ragged only where shapes are not known


class GeneratorReader(DatasetReader):
    """The pairs of an iterator, or of a function that returns one for each epoch."""

    def __init__(self, pairs, keys, num_shards, index, num_pairs):
        first, next_iterator = _peek(pairs)
        columns = _Columns(first, keys)
        count = None if num_pairs is None else len(range(index, num_pairs, num_shards))

        def read_chunks():
            iterator, read = itertools.islice(next_iterator(), index, None, num_shards), 0
            while chunk := list(itertools.islice(iterator, _CHUNK)):
                read += len(chunk)
                if count is not None and read > count:
                    raise ValueError(f"`num_pairs` must be the number of all pairs. Received: {num_pairs}, of more")
                yield tuple(columns.arrays(chunk))
            if count is not None and read < count:
                raise ValueError(
                    f"`num_pairs` must be the number of all pairs. Received: {num_pairs}, of which this worker would "
                    f"read {count}, but there are {read} for it"
                )

        chunks = tf.data.Dataset.from_generator(read_chunks, output_signature=tuple(columns.specs))
        super().__init__(chunks.map(lambda *arrays: columns.pack(arrays)).unbatch(), None, 1, 0)


class SequenceReader:
    """The pairs of a sequence with random access. The whole order of an epoch is drawn at once."""

    def __init__(self, pairs, keys, num_shards, index):
        self._pairs = pairs
        self._columns = _Columns(pairs[0] if len(pairs) else None, keys)
        self._places = np.arange(index, len(pairs), num_shards)
        self.count = len(self._places)

    def pools(self, size, buffer_size, seed):
        """See `DatasetReader`. All pairs are shuffled, whatever `buffer_size` is."""
        places = tf.constant(self._places)
        if seed is not None:
            shuffled = tf.numpy_function(lambda s: np.random.default_rng(s).permutation(self._places), [seed], tf.int64)
            places = tf.ensure_shape(shuffled, places.shape)
        return tf.data.Dataset.from_tensor_slices(places).batch(size).map(self._read)

    def _read(self, places):
        specs = self._columns.specs
        arrays = tf.numpy_function(self._read_arrays, [places], [spec.dtype for spec in specs])
        return self._columns.pack([tf.ensure_shape(a, spec.shape) for a, spec in zip(arrays, specs, strict=True)])

    def _read_arrays(self, places):
        places = places.tolist()
        read = getattr(self._pairs, "__getitems__", None)  # of a `tfds.data_source`
        return self._columns.arrays([self._pairs[i] for i in places] if read is None else read(places))


class _Columns:
    """How elements of Python become arrays, and these the tensors of a pool.

    Args:
        first: the first element, or None if there is none.
        keys: see `bucketed_batches`.

    Attributes:
        specs: list of the `tf.TensorSpec` of the arrays. Token ids and other sides of unequal length have two arrays:
            all values, and the length of each.
    """

    def __init__(self, first, keys):
        if first is None:
            raise ValueError("`pairs` must contain at least one pair. Received: none")
        self._keys = keys
        if keys is not None:
            _check_keys(keys, first)
        pair = _select(first, keys)
        _check_pair(pair)
        if len(pair) == 3 and np.asarray(pair[2]).dtype.kind in "biu":  # later weights may be fractions
            pair = (*pair[:2], np.asarray(pair[2], "float32"))
        self._size = len(pair)
        self._names = list(pair[0]) if isinstance(pair[0], dict) else None
        self._are_ragged, self.specs = [], []
        for name, value in zip([*(self._names or ["source"]), *[None] * (len(pair) - 1)], _flat(pair), strict=True):
            # An empty list is one of token ids; NumPy takes it for floats.
            value = np.asarray(value, "int64" if isinstance(value, (list, tuple)) and not value else None)
            is_text = value.dtype.kind in "US"
            if value.dtype.kind not in "biufUS" or (is_text and value.ndim):
                raise ValueError(f"`pairs` must contain strings, or arrays of numbers. Received: {shorten(first)}")
            is_ragged = value.ndim > 0 and name in ("source", None)
            shape = [None, *value.shape[1 if is_ragged else 0 :]]
            self._are_ragged.append(is_ragged)
            self.specs.append(tf.TensorSpec(shape, tf.string if is_text else value.dtype))
            self.specs += [tf.TensorSpec([None], tf.int64)] if is_ragged else []

    def arrays(self, elements):
        """Returns a list of arrays with the `specs` of this object."""
        rows = [self._row(element) for element in elements]
        specs, arrays = iter(self.specs), []
        for is_ragged, column in zip(self._are_ragged, zip(*rows, strict=True), strict=True):
            spec = next(specs)
            arrays.append(_joined(column, spec) if is_ragged else _stacked(column, spec))
            if is_ragged:
                next(specs)
                arrays.append(np.array([len(row) for row in column]))
        return arrays

    def _row(self, element):
        """Returns the parts of the pair in an element as a list, in the order of the first element."""
        pair = _select(element, self._keys)
        is_like_first = isinstance(pair, (tuple, list)) and len(pair) == self._size
        names = list(pair[0]) if is_like_first and isinstance(pair[0], dict) else None
        if is_like_first and names == self._names:
            return _flat(pair)
        if is_like_first and None not in (names, self._names) and set(names) == set(self._names):
            return [*(pair[0][name] for name in self._names), *pair[1:]]
        source = "a source" if self._names is None else f"a dict with the keys {self._names}"
        parts = " and ".join([source, "a target", "a weight"][: self._size])
        raise ValueError(f"`pairs` must all consist of {parts}, as the first one. Received: {shorten(pair)}")

    def pack(self, arrays):
        """Returns pairs, in the structure of the elements, from tensors with the `specs` of this object."""
        arrays = iter(arrays)
        columns = []
        for is_ragged in self._are_ragged:
            column = next(arrays)
            columns.append(tf.RaggedTensor.from_row_lengths(column, next(arrays)) if is_ragged else column)
        if self._names is None:
            return tuple(columns)
        count = len(self._names)
        return dict(zip(self._names, columns[:count], strict=True)), *columns[count:]


def _stacked(column, spec):
    """Returns the strings, numbers or arrays of all pairs as an array with a spec, and changes no value."""
    if spec.dtype != tf.string:
        return _cast(np.asarray(column), spec)
    array = np.asarray(column, object)
    for value in array.ravel().tolist():
        if not isinstance(value, (str, bytes)):
            raise ValueError(f"`pairs` must have strings where the first one has. Received: {shorten(value)}")
    return array


def _joined(column, spec):
    """Returns arrays (time, ...) of all pairs as one array with a spec."""
    rows = [row for row in column if len(row)]
    return _cast(np.concatenate(rows), spec) if rows else np.zeros([0, *spec.shape[1:]], spec.dtype.as_numpy_dtype)


def _cast(array, spec):
    dtype = spec.dtype.as_numpy_dtype
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise ValueError(
            f"`pairs` must have numbers of one kind. Received: {array.dtype} where the first pair has {spec.dtype.name}"
        )
    return array.astype(dtype, copy=False)


def _flat(pair):
    """Returns the parts of a pair as a list; the source may be a dict."""
    source, *others = pair
    return [*(source.values() if isinstance(source, dict) else [source]), *others]


def _peek(pairs):
    """Returns the first element, or None, and a function that returns an iterator over all elements."""
    if callable(pairs):
        peeked = iter(pairs())
        first, reference = next(peeked, None), _reference(peeked)
        del peeked  # a generator closes its file here

        def new_iterator():
            iterator = iter(pairs())
            if iterator is reference():
                raise ValueError(
                    "`pairs` must be a function that returns a new iterator in each call. Received: one that returns "
                    "the same again"
                )
            return iterator

        return first, new_iterator
    first = next(pairs, None)
    unread = [itertools.chain([first], pairs)]

    def next_iterator():
        if not unread:
            raise ValueError(
                "`pairs` must be a function that returns a new iterator for each epoch. Received: an iterator, which "
                "can be read only once"
            )
        return unread.pop()

    return first, next_iterator


def _reference(iterator):
    """Returns a function that returns an iterator as long as it exists."""
    try:
        return weakref.ref(iterator)
    except TypeError:  # some built-in ones
        return lambda: iterator


def _select(element, keys):
    """Returns the pair in an element, which is a dict if there are keys."""
    if keys is None:
        return element
    return tuple({k: element[v] for k, v in key.items()} if isinstance(key, dict) else element[key] for key in keys)


def _check_keys(keys, element):
    names = list(element) if isinstance(element, dict) else []
    are_keys = isinstance(keys, (tuple, list)) and len(keys) in (2, 3)
    if not are_keys or any(key not in names for key in _flat(keys)):
        raise ValueError(f"`keys` must be a pair of keys of the elements, {names}. Received: {keys!r}")


def _check_spec(spec):
    """Raises a ValueError unless the elements of a dataset are pairs that are not batched."""
    _check_pair(spec)
    if any(part.dtype == tf.string and part.shape.rank != 0 for part in tf.nest.flatten(spec)):
        raise ValueError(
            "`pairs` must be a dataset of single pairs. Use `dataset.unbatch()` if it is batched. "
            f"Received: elements {spec}"
        )


def _check_pair(element):
    if not isinstance(element, (tuple, list)) or len(element) not in (2, 3):
        hint = ". Use `keys` to choose parts of a dict" if isinstance(element, dict) else ""
        raise ValueError(
            f"`pairs` must consist of `(source, target)` or `(source, target, weight)`{hint}. "
            f"Received: {shorten(element)}"
        )


def shorten(value):
    """Returns the representation of a value for an error message, at most 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."

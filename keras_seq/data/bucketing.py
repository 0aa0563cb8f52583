# SPDX-License-Identifier: Apache-2.0
"""Batches of pairs of similar length, from streams that need not fit into memory."""

import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.batching import check_split
from keras_seq.data.epoch_order import EpochOrder
from keras_seq.data.graphemes import split_graphemes
from keras_seq.data.pair_readers import make_reader
from keras_seq.data.vocabulary import split_tokens

_POOL = 8192  # pairs that are sorted together, with small batches
_MIN_BATCHES = 8  # of a pool, with large ones
# What counts the tokens of a tensor of texts (batch,).
_LENGTHS = {
    "character": lambda texts: tf.strings.length(texts, "UTF8_CHAR"),
    "grapheme": lambda texts: split_graphemes(texts).row_lengths(),
    "whitespace": lambda texts: tf.strings.split(texts).row_lengths(),
}


def bucketed_batches(
    pairs,
    batch_size=32,
    *,
    keys=None,
    split=("character", "whitespace"),
    max_tokens=None,
    shuffle=True,
    buffer_size=100_000,
    seed=None,
    num_shards=1,
    index=0,
    num_pairs=None,
):
    """Batches a stream of pairs so that those of similar length are together, in constant memory.

    Pairs are shuffled in a buffer, as `tf.data.Dataset.shuffle` does, and then cut into pools of at least 8,192 pairs.
    Each pool is sorted by length and cut into batches, which are shuffled. The length of a pair is that of its longer
    side. An epoch contains each pair once. Only one batch may be smaller, that of the longest pairs of the last pool.

    `tf.data.Dataset.bucket_by_sequence_length` gives batches of the same kind, but needs boundaries that fit the data,
    calls functions for each single pair, which takes ten times as long, and leaves a small batch in each bucket. For
    pairs in memory see `bucket_by_length`. Of fewer pairs than a pool has, it also mixes batches better from epoch to
    epoch.

    The order of an epoch depends on `seed` and the number of the epoch alone, if `pairs` gives the same pairs in the
    same order each time. Then `keras_seq.training.BackupAndRestore` resumes exactly. Therefore do not shuffle before
    this function: a `tf.data.Dataset.shuffle`, or `shuffle_files=True` of tensorflow-datasets, is not repeated by a
    restarted training.

    Args:
        pairs: single pairs `(source, target)` or `(source, target, weight)`, not batched. A source may be a dict of the
            source, under the name "source", and of conditioning features. One of

            - a `tf.data.Dataset`, for example from `tfds.load`. Sides are strings, or token ids (time,) or other
              arrays (time, ...), which become ragged batches.
            - a sequence with random access, for example from `tfds.data_source`. All of it is shuffled, without a
              buffer. Sides are strings, or arrays of one shape, as for the next.
            - a function without arguments that returns an iterator over all pairs, for example a generator function.
              It is called in each epoch, and once before.
            - an iterator, which serves for one epoch. A second one raises an error.

        batch_size: number of pairs in a batch; with `max_tokens` the largest number.
        keys: if elements are dicts: which of their values make a pair, for example `("pt", "en")`.
        split: pair that sets how to count the length of strings, as in `bucket_by_length`.
        max_tokens: integer that limits the size of batches: the number of pairs times the length of the longest is at
            most this, unless a single pair is longer. So there are more short pairs in a batch than long ones, and all
            steps of a training take similar time. None for batches of `batch_size`.
        shuffle: whether to shuffle, anew in each epoch. If False, pools are in the order of the data, and within each
            one batches go from the shortest to the longest.
        buffer_size: number of pairs in the buffer of the shuffle.
        seed: integer that makes the order of all epochs reproducible. Defaults to a random one.
        num_shards: number of workers that share the pairs.
        index: which of them this is, from 0. It gets the pairs `index`, `index + num_shards`, ...
        num_pairs: the number of all pairs, if it is not known from `pairs`. Then the number of steps is known. Another
            number raises an error.

    Returns:
        A `tf.data.Dataset` of batches in the structure of the pairs: strings (batch,), arrays (batch, ...) or ragged
        tensors. Its cardinality is known if the number of pairs is, and there is no `max_tokens`. With one shard,
        `tf.distribute` shards its batches by `AutoShardPolicy.DATA`, so all workers need the same `seed`; with several,
        it does not shard (`OFF`). In both cases `batch_size` is that of all workers together.

    Raises:
        ValueError: if an argument is invalid.
        tf.errors.InvalidArgumentError: while reading, if an iterator is read twice, if a pair has other parts or types
            than the first, or if a generator does not have `num_pairs` pairs.

    Example:
        >>> def read():
        ...     yield from [("a", "AH"), ("see", "S IY"), ("be", "B IY"), ("eye", "AY")]
        >>> batches = bucketed_batches(read, 2, seed=1, num_pairs=4)
        >>> len(batches)
        2
        >>> sorted(sorted(source.decode() for source in batch.numpy()) for batch, _ in batches)
        [['a', 'be'], ['eye', 'see']]
    """
    _check_integers(batch_size=batch_size, buffer_size=buffer_size, num_shards=num_shards)
    if max_tokens is not None:
        _check_integers(max_tokens=max_tokens)
    if num_pairs is not None:
        _check_integers(num_pairs=num_pairs)
    if not isinstance(index, int | np.integer) or not 0 <= index < num_shards:
        raise ValueError(f"`index` must be an integer from 0 to {num_shards - 1}, `num_shards` - 1. Received: {index}")
    check_split(split)
    reader = make_reader(pairs, keys, num_shards, index, num_pairs)
    count = reader.count if num_pairs is None else len(range(index, num_pairs, num_shards))
    if reader.count not in (None, count):
        raise ValueError(
            f"`num_pairs` must be the number of all pairs. Received: {num_pairs}, of which this worker would "
            f"read {count}, but there are {reader.count} for it"
        )
    pool_size = batch_size * max(_MIN_BATCHES, _POOL // batch_size)
    order = EpochOrder(seed) if shuffle else None

    def make_epoch(_):
        draw = None
        if order is not None:
            draw = tf.numpy_function(lambda: order.generator().integers(2**63 - 1), [], tf.int64)
            draw.set_shape([])
        # From 1: NumPy takes the seeds (n, 0) and n, by which a sequence is shuffled, for the same.
        pools = reader.pools(pool_size, buffer_size, draw).enumerate(start=1)

        def sort(number, pool):
            inputs = [number, _pair_lengths(pool, split), tf.constant(0, tf.int64) if draw is None else draw]
            indices, bounds = tf.numpy_function(cut, inputs, [tf.int64, tf.int64])
            return pool, tf.ensure_shape(indices, [None]), tf.ensure_shape(bounds, [None, 2])

        # Pools are made while the batches of the one before are read.
        return pools.map(sort, num_parallel_calls=tf.data.AUTOTUNE).prefetch(1).flat_map(_cut_pool)

    def cut(number, lengths, draw):
        generator = np.random.default_rng([draw, number]) if shuffle else None
        return cut_by_length(lengths, batch_size, max_tokens, generator)

    # A dataset of one element, which is computed when an iteration begins.
    batches = tf.data.Dataset.range(1).flat_map(tf.autograph.experimental.do_not_convert(make_epoch))
    if count is not None and max_tokens is None:
        batches = batches.apply(tf.data.experimental.assert_cardinality(-(-count // batch_size)))
    options = tf.data.Options()
    policy = tf.data.experimental.AutoShardPolicy
    options.experimental_distribute.auto_shard_policy = policy.DATA if num_shards == 1 else policy.OFF
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def cut_by_length(lengths, batch_size, max_tokens=None, generator=None):
    """Cuts the pairs of a pool into batches of similar length.

    Args:
        lengths: integers (pairs, sides).
        batch_size, max_tokens: see `bucketed_batches`.
        generator: NumPy generator that orders pairs of the same length and the batches, or None.

    Returns:
        int64 indices of the pairs (pairs,), and the places in them where batches begin and end, int64 (batches, 2).
    """
    ties = np.arange(len(lengths)) if generator is None else generator.permutation(len(lengths))
    longest = np.max(lengths, axis=1, initial=0)
    # Of pairs whose longer sides are equal, those with similar shorter sides are together.
    indices = np.lexsort((ties, np.sum(lengths, axis=1), longest))
    if max_tokens is None:
        ends = np.minimum(np.arange(0, len(lengths) + batch_size, batch_size), len(lengths))
    else:
        ends = _token_ends(longest[indices], batch_size, max_tokens)
    bounds = np.stack([ends[:-1], ends[1:]], axis=1).astype("int64")
    bounds = bounds[bounds[:, 0] < bounds[:, 1]]
    return indices.astype("int64"), bounds if generator is None else generator.permutation(bounds)


def _token_ends(lengths, batch_size, max_tokens):
    """Returns 0 and where each batch ends, integers (batches + 1,), of pairs in ascending order of length."""
    ends = [0]
    while ends[-1] < len(lengths):
        following = lengths[ends[-1] : ends[-1] + batch_size]
        fitting = np.searchsorted(following * np.arange(1, len(following) + 1), max_tokens, side="right")
        ends.append(ends[-1] + max(1, int(fitting)))
    return np.array(ends)


def _cut_pool(pool, indices, bounds):
    """Returns the batches of a pool as a dataset."""

    def gather(bound):
        return tf.nest.map_structure(lambda column: tf.gather(column, indices[bound[0] : bound[1]]), pool)

    return tf.data.Dataset.from_tensor_slices(bounds).map(gather)


def _pair_lengths(pool, split):
    """Returns the lengths of the sources and targets of a pool, int64 (pairs, sides)."""
    source = pool[0]["source"] if isinstance(pool[0], dict) and "source" in pool[0] else pool[0]
    lengths = []
    for side, unit in zip((source, pool[1]), split, strict=True):
        for values in tf.nest.flatten(side):
            if values.dtype == tf.string:
                count = _LENGTHS[unit](values) if isinstance(unit, str) else split_tokens(unit, values).row_lengths()
            elif isinstance(values, tf.RaggedTensor):
                count = values.row_lengths()
            else:
                shape = tf.shape(values)
                count = tf.fill(shape[:1], 1 if values.shape.rank == 1 else shape[1])
            lengths.append(tf.cast(count, tf.int64))
    return tf.stack(lengths, axis=1)


def _check_integers(**arguments):
    for name, value in arguments.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}")

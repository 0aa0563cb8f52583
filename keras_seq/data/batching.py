# SPDX-License-Identifier: Apache-2.0
"""Batches of texts of similar length."""

import functools

import numpy as np

from keras_seq._lazy_tensorflow import tf

_LENGTHS = {"character": len, "whitespace": lambda text: len(text.split())}
_MOST_BUCKETS = 32
_LEAST_BATCHES = 4  # full batches in a bucket; its last batch may be small, so more buckets cost


def bucket_by_length(
    sources,
    targets,
    batch_size,
    *,
    boundaries=None,
    split=("character", "whitespace"),
    shuffle=True,
    seed=None,
):
    """Batches pairs of texts so that those of similar length share a batch.

    Padding a batch to its longest text then adds little, and batches come in few distinct shapes.
    The length of a pair is that of its longer text. An epoch holds each pair once.

    The batches are those of `tf.data.Dataset.bucket_by_sequence_length`, which calls a function
    for each pair in each epoch. Here all the lengths are known beforehand, so that the buckets
    are found once, an epoch costs no more than plain batching, and its number of steps is known.

    Args:
        sources, targets: sequences of strings, equally many.
        batch_size: pairs in a batch. The last batch of each bucket may hold fewer.
        boundaries: ascending lengths that separate the buckets; a pair whose length is a boundary
            belongs to the longer bucket. By default quantiles of the lengths: at most 32 buckets,
            of several batches each.
        split: how the length of a source and of a target is counted: each in `"character"`s or
            in `"whitespace"`-separated tokens.
        shuffle: whether to shuffle, anew for each epoch, the pairs within the buckets and the
            order of all batches. Without, batches go from the shortest bucket to the longest.
        seed: an integer that makes the order of all epochs reproducible.

    Returns:
        A `tf.data.Dataset` of `(sources, targets)`, two string tensors (batch,), of known
        cardinality.

    Raises:
        ValueError: an argument is none of the above.

    Example:

    >>> batches = bucket_by_length(["a", "see", "be", "eye"], ["AH", "S IY", "B IY", "AY"], 2, boundaries=[3], seed=1)
    >>> len(batches)
    2
    >>> sorted(sorted(source.decode() for source in batch.numpy()) for batch, _ in batches)
    [['a', 'be'], ['eye', 'see']]
    """
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
    lengths = _pair_lengths(sources, targets, split)  # (pairs,)
    if boundaries is None:
        boundaries = _quantiles(lengths, batch_size)
    elif np.ndim(boundaries) != 1 or np.any(np.diff(boundaries) <= 0):
        raise ValueError(f"boundaries must be lengths in ascending order, got {boundaries!r}")
    buckets = np.searchsorted(boundaries, lengths, side="right")  # (pairs,)

    def batches(bucket):
        members = tf.data.Dataset.from_tensor_slices(np.flatnonzero(buckets == bucket))
        if shuffle:
            members = members.shuffle(members.cardinality(), seed=seed)
        return members.batch(batch_size)

    # Up to its last step the dataset holds indices, which are cheap to shuffle.
    dataset = functools.reduce(tf.data.Dataset.concatenate, [batches(bucket) for bucket in np.unique(buckets)])
    if shuffle:
        dataset = dataset.shuffle(dataset.cardinality(), seed=seed)
    texts = tf.constant(sources, tf.string), tf.constant(targets, tf.string)  # (pairs,) each

    def gather(indices):
        return tuple(tf.gather(column, indices) for column in texts)  # (batch,) each

    return dataset.map(gather).prefetch(tf.data.AUTOTUNE)


def _pair_lengths(sources, targets, split):
    if len(sources) != len(targets) or len(sources) == 0:
        raise ValueError(
            "sources and targets must be equally many and not empty, "
            f"got {len(sources)} sources and {len(targets)} targets"
        )
    if len(split) != 2 or not all(unit in _LENGTHS for unit in split):
        raise ValueError(f"split must be two of {list(_LENGTHS)}, got {split!r}")
    lengths = []
    for name, texts, unit in zip(("sources", "targets"), (sources, targets), split, strict=True):
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"{name} must hold strings, got {text!r}")
        lengths.append([_LENGTHS[unit](text) for text in texts])
    return np.max(lengths, axis=0)


def _quantiles(lengths, batch_size):
    count = max(1, min(_MOST_BUCKETS, len(lengths) // (_LEAST_BATCHES * batch_size)))
    return np.unique(np.quantile(lengths, np.arange(1, count) / count, method="higher"))

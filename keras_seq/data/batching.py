# SPDX-License-Identifier: Apache-2.0
"""Batches of texts of similar length."""

import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.epoch_order import index_batches
from keras_seq.data.graphemes import split_graphemes

# Functions from a list of texts to the numbers of their tokens.
_LENGTHS = {
    "character": lambda texts: [len(text) for text in texts],
    "grapheme": lambda texts: split_graphemes(tf.constant(texts, tf.string)).row_lengths().numpy(),
    "whitespace": lambda texts: [len(text.split()) for text in texts],
}
_MAX_BUCKETS = 32
_MIN_BATCHES = 4  # full batches in a bucket; the last batch may be small, so more buckets cost time


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
    """Batches pairs of texts of similar length.

    This keeps padding small and gives batches few distinct shapes. The length of a pair is that of
    its longer text. An epoch contains each pair once.

    The batches are those of `tf.data.Dataset.bucket_by_sequence_length`, which calls a function
    for each pair in each epoch. Here all lengths are known in advance, so pairs are assigned to
    buckets only once, an epoch is as fast as plain batching, and its number of steps is known.

    Args:
        sources: sequence of strings.
        targets: sequence of strings, one for each source.
        batch_size: number of pairs in a batch. The last batch of each bucket may be smaller.
        boundaries: ascending lengths that separate the buckets. A pair whose length equals a
            boundary belongs to the bucket above it. By default quantiles of the lengths: at most
            32 buckets of several batches each.
        split: pair that sets how to count the length of a source and of a target:
            `"character"`, `"grapheme"` or `"whitespace"` (tokens separated by whitespace).
        shuffle: whether to shuffle the pairs within each bucket and the order of all batches, anew
            in every epoch. If False, batches are ordered from the shortest bucket to the longest.
        seed: integer that makes the order of all epochs reproducible. The order of an epoch depends on
            the seed and its number alone, so `keras_seq.training.BackupAndRestore` can find it again.

    Returns:
        A `tf.data.Dataset` of `(sources, targets)`, two string tensors (batch,), of known
        cardinality.

    Raises:
        ValueError: if an argument is invalid.

    Example:

    >>> batches = bucket_by_length(["a", "see", "be", "eye"], ["AH", "S IY", "B IY", "AY"], 2, boundaries=[3], seed=1)
    >>> len(batches)
    2
    >>> sorted(sorted(source.decode() for source in batch.numpy()) for batch, _ in batches)
    [['a', 'be'], ['eye', 'see']]
    """
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a positive integer. Received: {batch_size!r}")
    lengths = _pair_lengths(sources, targets, split)  # (pairs,)
    if boundaries is None:
        boundaries = _quantiles(lengths, batch_size)
    elif np.ndim(boundaries) != 1 or np.any(np.diff(boundaries) <= 0):
        raise ValueError(f"`boundaries` must be lengths in ascending order. Received: {boundaries!r}")
    buckets = np.searchsorted(boundaries, lengths, side="right")  # (pairs,)

    def arrange(generator):
        batches = []
        for bucket in members:
            indices = generator.permutation(bucket) if shuffle else bucket
            batches += np.split(indices, np.arange(batch_size, len(indices), batch_size))
        return [batches[i] for i in generator.permutation(len(batches))] if shuffle else batches

    members = [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
    num_batches = sum(-(-len(bucket) // batch_size) for bucket in members)
    # The dataset holds indices, which are cheap to shuffle, until the last step looks up the texts.
    dataset = index_batches(arrange, num_batches, shuffle, seed)
    texts = tf.constant(sources, tf.string), tf.constant(targets, tf.string)  # (pairs,) each

    def gather(indices):
        return tuple(tf.gather(column, indices) for column in texts)  # (batch,) each

    return dataset.map(gather).prefetch(tf.data.AUTOTUNE)


def _pair_lengths(sources, targets, split):
    if len(sources) != len(targets) or len(sources) == 0:
        raise ValueError(
            "`sources` and `targets` must have the same length, at least 1. "
            f"Received: {len(sources)} sources and {len(targets)} targets"
        )
    if len(split) != 2 or not all(unit in _LENGTHS for unit in split):
        raise ValueError(f"`split` must be a pair of values from {list(_LENGTHS)}. Received: {split!r}")
    lengths = []
    for name, texts, unit in zip(("sources", "targets"), (sources, targets), split, strict=True):
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"`{name}` must contain strings. Received: {text!r}")
        lengths.append(_LENGTHS[unit](list(texts)))
    return np.max(lengths, axis=0)


def _quantiles(lengths, batch_size):
    count = max(1, min(_MAX_BUCKETS, len(lengths) // (_MIN_BATCHES * batch_size)))
    return np.unique(np.quantile(lengths, np.arange(1, count) / count, method="higher"))

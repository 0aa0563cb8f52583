# SPDX-License-Identifier: Apache-2.0
"""Batches of texts of similar length."""

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.epoch_order import index_batches
from keras_seq.data.graphemes import split_graphemes
from keras_seq.data.vocabulary import split_tokens

# What counts the tokens of a list of texts.
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
    buckets only once, an epoch is as fast as plain batching, and its number of steps is known. For pairs that do not
    fit into memory see `bucketed_batches`.

    Args:
        sources: sequence of strings; or, for a `Seq2Seq` with features, a dict of the sources, under the name
            "source", and of the values of each feature.
        targets: sequence of strings, one for each source.
        batch_size: number of pairs in a batch. The last batch of each bucket may be smaller.
        boundaries: ascending lengths that separate the buckets. A pair whose length equals a
            boundary belongs to the bucket above it. By default quantiles of the lengths: at most
            32 buckets of several batches each.
        split: pair that sets how to count the length of a source and of a target:
            `"character"`, `"grapheme"` or `"whitespace"` (tokens separated by whitespace), or a layer
            from `text_vectorizer` or `subword_vectorizer`.
        shuffle: whether to shuffle the pairs within each bucket and the order of all batches, anew
            in every epoch. If False, batches are ordered from the shortest bucket to the longest.
        seed: integer that makes the order of all epochs reproducible. The order of an epoch depends on
            the seed and its number alone, so `keras_seq.training.BackupAndRestore` can find it again.

    Returns:
        A `tf.data.Dataset` of `(sources, targets)`, two string tensors (batch,), or a dict of
        tensors in the place of the first, of known cardinality.

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
    columns = tf.nest.map_structure(tf.convert_to_tensor, _as_arrays(sources, targets))  # (pairs, ...) each

    def gather(indices):
        return tf.nest.map_structure(lambda column: tf.gather(column, indices), columns)  # (batch, ...) each

    return dataset.map(gather).prefetch(tf.data.AUTOTUNE)


def _as_arrays(sources, targets):
    if isinstance(sources, dict):
        features = {name: np.asarray(values) for name, values in sources.items() if name != "source"}
        for name, values in features.items():
            if values.shape[:1] != (len(targets),):
                raise ValueError(
                    f"`sources`[{name!r}] must have a value for each of the {len(targets)} pairs. "
                    f"Received: shape {values.shape}"
                )
        sources = {"source": np.asarray(sources["source"], object), **features}
    else:
        sources = np.asarray(sources, object)
    return sources, np.asarray(targets, object)


def _pair_lengths(sources, targets, split):
    if isinstance(sources, dict):
        if "source" not in sources:
            raise ValueError(f"`sources`, if a dict, must have the key 'source'. Received: the keys {list(sources)}")
        sources = sources["source"]
    if len(sources) != len(targets) or len(sources) == 0:
        raise ValueError(
            "`sources` and `targets` must have the same length, at least 1. "
            f"Received: {len(sources)} sources and {len(targets)} targets"
        )
    check_split(split)
    lengths = []
    for name, texts, unit in zip(("sources", "targets"), (sources, targets), split, strict=True):
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"`{name}` must contain strings. Received: {text!r}")
        if isinstance(unit, str):
            lengths.append(_LENGTHS[unit](texts))
        else:
            lengths.append(split_tokens(unit, tf.constant(texts, tf.string)).row_lengths().numpy())
    return np.max(lengths, axis=0)


def check_split(split):
    """Raises a ValueError unless `split` is one that `bucket_by_length` takes."""
    if len(split) != 2 or not all(_is_split(unit) for unit in split):
        raise ValueError(f"`split` must be a pair of values from {list(_LENGTHS)} or vectorizers. Received: {split!r}")


def _is_split(unit):
    return unit in _LENGTHS if isinstance(unit, str) else isinstance(unit, keras.layers.TextVectorization)


def _quantiles(lengths, batch_size):
    count = max(1, min(_MAX_BUCKETS, len(lengths) // (_MIN_BATCHES * batch_size)))
    return np.unique(np.quantile(lengths, np.arange(1, count) / count, method="higher"))

# SPDX-License-Identifier: Apache-2.0
"""Sources that are arrays of equal or unequal shapes, cut into batches; and the nested dicts that hold them."""

import collections.abc

import numpy as np

from keras_seq.models.token_side import shorten


class ArrayRows:
    """Several sources, each an array or a dict of arrays, of equal or unequal shapes.

    Args:
        arrays: arrays (sources, ...), or lists of arrays of unequal shapes; or nested dicts of them.
    """

    def __init__(self, arrays):
        self.arrays = arrays
        self.lengths = _lengths(_leaves(arrays))  # (sources,), 0 if all have the same shape

    @classmethod
    def concatenate(cls, parts):
        if len(parts) == 1:
            return parts[0]
        return cls(_concatenate([part.arrays for part in parts]))

    def __len__(self):
        return len(self.lengths)

    def padded(self, indices):
        """Returns the sources with these indices as arrays (batch, ...), padded with zeros to the largest."""
        return map_leaves(lambda rows, label: _pad(rows, indices), self.arrays, "")


def map_leaves(function, values, label, *others):
    """Maps nested dicts. The function gets a value, its name in error messages and its values in `others`."""
    if not isinstance(values, collections.abc.Mapping):
        return function(values, label, *others)
    if not values or not all(isinstance(key, str) for key in values):
        raise ValueError(f"{label} must be an array or a dict from names to arrays. Received: {shorten(values)}")
    return {
        key: map_leaves(function, values[key], f"{label}[{key!r}]", *(other[key] for other in others))
        for key in sorted(values)
    }


def _leaves(values):
    leaves = []
    map_leaves(lambda leaf, label: leaves.append(leaf), values, "")
    return leaves


def _lengths(leaves):
    """Returns the lengths (sources,) of the leaves of several sources, and checks that there are as many of each."""
    counts = [len(leaf) for leaf in leaves]
    if len(set(counts)) != 1:
        raise ValueError(f"The arrays of a dict must have the same number of sources. Received: {counts}")
    lengths = np.zeros(counts[0], int)
    for leaf in leaves:
        if isinstance(leaf, list):
            lengths += [len(row) for row in leaf]
    return lengths


def _concatenate(parts):
    """Concatenates arrays, lists of arrays, or nested dicts of them; to a list where shapes differ."""
    if isinstance(parts[0], dict):
        return {key: _concatenate([part[key] for part in parts]) for key in parts[0]}
    if all(isinstance(part, np.ndarray) for part in parts) and len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    return [row for part in parts for row in part]


def _pad(rows, indices):
    """Returns some of the rows as one array, padded with zeros to the largest size of each axis."""
    if isinstance(rows, np.ndarray):
        return rows[indices]
    rows = [rows[index] for index in indices]
    padded = np.zeros((len(rows), *np.max([row.shape for row in rows], axis=0)), rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[tuple(slice(size) for size in row.shape)] = row
    return padded

# SPDX-License-Identifier: Apache-2.0
"""Token sequences of different lengths, cut into batches of similar length and put back in order."""

import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.vocabulary import PAD_ID

_FREE_PADDING = 256  # positions that cost less than another batch


class TokenRows:
    """Token ids of several sequences, without padding.

    Args:
        values: int32 array, the ids of all sequences, one sequence after another.
        lengths: integers (sequences,), the number of tokens of each.
    """

    def __init__(self, values, lengths):
        self.values = values
        self.lengths = lengths
        self.starts = np.cumsum(lengths) - lengths  # (sequences,)

    @classmethod
    def from_ids(cls, ids):
        """Makes rows of an int32 tensor or ragged tensor (batch, time), without the padding after the last token."""
        if isinstance(ids, tf.RaggedTensor):
            rows = cls(ids.flat_values.numpy(), ids.row_lengths().numpy())
        else:
            ids = ids.numpy()
            rows = cls(ids.ravel(), np.full(len(ids), ids.shape[1]))
        row_numbers = np.repeat(np.arange(len(rows)), rows.lengths)  # of each value
        columns = np.arange(len(rows.values)) - rows.starts[row_numbers]
        is_token = rows.values != PAD_ID
        lengths = np.zeros(len(rows), int)
        np.maximum.at(lengths, row_numbers[is_token], columns[is_token] + 1)
        return cls(rows.values[columns < lengths[row_numbers]], lengths)

    @classmethod
    def concatenate(cls, parts):
        if len(parts) == 1:
            return parts[0]
        return cls(np.concatenate([p.values for p in parts]), np.concatenate([p.lengths for p in parts]))

    def __len__(self):
        return len(self.lengths)

    def padded(self, indices):
        """Returns the sequences with these indices as an int32 array (batch, time), padded with 0 to the longest."""
        lengths, starts = self.lengths[indices], self.starts[indices]
        columns = np.arange(max(lengths.max(), 1))  # a batch has at least one step
        is_token = columns < lengths[:, None]  # (batch, time)
        ids = np.full(is_token.shape, PAD_ID, "int32")
        ids[is_token] = self.values[(starts[:, None] + columns)[is_token]]
        return ids


def length_batches(lengths, batch_size):
    """Yields the indices of sequences in batches of similar length, the shortest first.

    A batch has at most `batch_size` sequences, and padded to its longest one it has at most twice as many positions as
    tokens. A few positions more are allowed, because they cost less than another batch.

    Args:
        lengths: integers (sequences,).
        batch_size: maximum number of sequences in a batch.
    """
    order = np.argsort(lengths, kind="stable")
    start = tokens = 0
    for end, length in enumerate(lengths[order].tolist()):
        count = end - start + 1
        tokens += length
        if count > 1 and (count > batch_size or count * length > 2 * tokens + _FREE_PADDING):
            yield order[start:end]
            start, tokens = end, length
    if len(order):
        yield order[start:]


def in_order(batches):
    """Merges the results of batches.

    Args:
        batches: list of `(positions, results)`, where `results` is a dict of arrays (batch, ...), and `positions`
            (batch,) tells which row of the merged arrays each row becomes.

    Returns:
        A dict of arrays, padded with zeros to the largest of each axis.
    """
    count = sum(len(positions) for positions, _ in batches)
    merged = {}
    for name, first in batches[0][1].items():
        shape = np.max([results[name].shape[1:] for _, results in batches], axis=0) if first.ndim > 1 else ()
        merged[name] = np.zeros((count, *map(int, shape)), first.dtype)
        for positions, results in batches:
            values = results[name]
            merged[name][(positions, *(slice(n) for n in values.shape[1:]))] = values
    return merged

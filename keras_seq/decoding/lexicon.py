# SPDX-License-Identifier: Apache-2.0
"""The processor that restricts outputs to a list of sequences."""

import collections.abc
import itertools
import reprlib

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.decoding.checks import check_count, check_index, check_vocabulary
from keras_seq.decoding.processors import Processor, forbid, token_sets


@keras.saving.register_keras_serializable("keras_seq")
class Lexicon(Processor):
    """Makes every output one of a list of sequences.

    The sequences are a trie: after a history that begins one of them, the tokens that continue it are allowed, and
    `[END]` after a complete one. After any other history nothing is allowed.

    A search cuts outputs at their limit, even within a sequence. So pass a `max_length` of at least `longest`, the
    length of the longest sequence.

    The history of each row is found in the trie by its hash, which is one sum over its tokens, and then compared with
    the sequence that has this hash. So a step costs the same in a trie of any size. It takes about a second to build
    one of 100,000 words.

    Args:
        sequences: token ids without `[END]`: a list of sequences of integers, or a ragged tensor from `text_to_ids`, in
            which tokens outside the vocabulary are 1, `[UNK]`. An empty sequence stands for an output without tokens.
        vocabulary_size: the number of tokens to choose from.
        end_id: id of the token that ends a sequence.

    Raises:
        ValueError: if there are no sequences, or if they contain anything but integers, ids outside the vocabulary or
            `end_id`. `check`: if the longest sequence exceeds `max_length`, if the vocabulary has another size, or if a
            sequence contains a token that the search never chooses.

    Example:
        >>> import numpy as np
        >>> from keras_seq.data import text_to_ids, text_vectorizer
        >>> vectorizer = text_vectorizer(["cat", "car", "toad"])
        >>> tokens = vectorizer.get_vocabulary()
        >>> lexicon = Lexicon(text_to_ids(vectorizer, ["cat", "car", "ca"]), vocabulary_size=len(tokens))
        >>> history = text_to_ids(vectorizer, ["ca", "to"]).to_tensor()
        >>> log_probabilities = np.zeros((2, len(tokens)))
        >>> is_allowed = lexicon(log_probabilities, history, step=2) == 0
        >>> [" ".join(token for token, is_next in zip(tokens, row) if is_next) for row in is_allowed]
        ['[END] t r', '']
    """

    def __init__(self, sequences, vocabulary_size, end_id=3):
        self.vocabulary_size = check_count("vocabulary_size", vocabulary_size)
        self.end_id = check_index("end_id", end_id)
        check_vocabulary("end_id", [self.end_id], self.vocabulary_size)
        self.sequences = _as_sequences(sequences)
        self.longest = max(map(len, self.sequences))
        for ids in self.sequences:
            if ids and not 0 <= min(ids) <= max(ids) < self.vocabulary_size:
                raise ValueError(
                    f"`sequences` must contain ids from 0 to {self.vocabulary_size - 1}, the last one of the "
                    f"vocabulary. Received: {ids}"
                )
            if self.end_id in ids:
                raise ValueError(f"`sequences` must not contain `end_id`={self.end_id}. Received: {ids}")
        tables = _build_tables(self.sequences, self.vocabulary_size, self.end_id)
        with tf.init_scope():  # as captured tensors, because XLA takes long over large constants
            self._tables = {name: tf.constant(table) for name, table in tables.items()}
        self._max_bucket, self._max_edges = (
            int(np.diff(tables[name]).max()) for name in ("bucket_starts", "edge_starts")
        )

    def __call__(self, log_probabilities, tokens, step):
        log_probabilities, tokens = tf.convert_to_tensor(log_probabilities), tf.convert_to_tensor(tokens)
        if not log_probabilities.shape.is_compatible_with([None, self.vocabulary_size]):
            raise ValueError(
                f"`vocabulary_size` must be the number of tokens in `log_probabilities` {log_probabilities.shape}. "
                f"Received: {self.vocabulary_size}"
            )
        node, is_found = self._find_nodes(tf.cast(tokens[:, : self.longest], tf.int32), step)
        starts, edge_tokens = self._tables["edge_starts"], self._tables["edge_tokens"]
        edges = tf.gather(starts, node)[:, None] + tf.range(self._max_edges)  # (rows, edges)
        is_edge = is_found[:, None] & (edges < tf.gather(starts, node + 1)[:, None])
        following = tf.gather(edge_tokens, tf.minimum(edges, tf.size(edge_tokens) - 1))
        return forbid(log_probabilities, ~token_sets(following, is_edge, self.vocabulary_size))

    def _find_nodes(self, history, step):
        """Returns the node of each history (rows, capacity), and whether there is one."""
        tables, length = self._tables, tf.shape(history)[1]
        is_chosen = tf.range(length) < step
        factors = tf.where(is_chosen, tables["factors"][:length], 0)  # (capacity,)
        hashes = tf.reduce_sum((tf.cast(history, tf.int64) + 1) * factors, axis=1)  # (rows,)
        starts = tf.gather(tables["bucket_starts"], _bucket(hashes, tables["bucket_starts"].shape[0] - 1, tf))
        candidates = starts[:, None] + tf.range(self._max_bucket)  # (rows, bucket)
        candidates = tf.minimum(candidates, tf.size(tables["hashes"]) - 1)
        is_node = tf.gather(tables["hashes"], candidates) == hashes[:, None]
        node = tf.reduce_max(tf.where(is_node, candidates, 0), axis=1)  # (rows,)
        # A history that is not in the trie may have the hash of a node, or was given node 0: compare it.
        positions = tf.gather(tables["prefix_starts"], node)[:, None] + tf.range(length)  # (rows, capacity)
        prefix = tf.gather(tables["tokens"], tf.minimum(positions, tf.size(tables["tokens"]) - 1))
        is_found = tf.reduce_all((prefix == history) | ~is_chosen, axis=1)
        return node, is_found & (tf.gather(tables["depths"], node) == step)

    def check(self, max_length=None, vocabulary_size=None, forbidden_ids=()):
        if max_length is not None and self.longest > max_length:
            raise ValueError(
                f"`max_length` must be at least {self.longest}, the length of the longest sequence of the lexicon. "
                f"Received: {max_length}"
            )
        if vocabulary_size is not None and vocabulary_size != self.vocabulary_size:
            raise ValueError(
                f"`vocabulary_size` of the lexicon must be {vocabulary_size}, that of the model. "
                f"Received: {self.vocabulary_size}"
            )
        check_vocabulary("sequences", set(self._tables["tokens"].numpy().tolist()), vocabulary_size, forbidden_ids)

    def get_config(self):
        # One string, because Keras needs seconds for a list of so many lists.
        sequences = "\n".join(" ".join(map(str, ids)) for ids in self.sequences)
        return {"sequences": sequences, "vocabulary_size": self.vocabulary_size, "end_id": self.end_id}

    @classmethod
    def from_config(cls, config):
        sequences = [[int(token) for token in line.split()] for line in config["sequences"].split("\n")]
        return cls(**{**config, "sequences": sequences})


def _as_sequences(values):
    """Returns sequences of token ids as a list of lists of integers, and raises a ValueError if they are none."""
    if isinstance(values, tf.RaggedTensor):
        values = values.to_list()
    sequences = list(values) if isinstance(values, collections.abc.Iterable) else [values]
    sequences = [ids if isinstance(ids, (list, tuple)) else np.asarray(ids).tolist() for ids in sequences]
    is_nested = bool(sequences) and all(isinstance(ids, (list, tuple)) for ids in sequences)
    types = set(map(type, itertools.chain.from_iterable(sequences))) if is_nested else ()
    if not is_nested or not all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in types):
        raise ValueError(
            "`sequences` must be one or more sequences of integers; `keras_seq.data.text_to_ids` makes them from "
            f"texts. Received: {reprlib.repr(sequences)}"
        )
    return sequences


def _build_tables(sequences, vocabulary_size, end_id):
    """Builds the arrays that describe a trie.

    A node is a prefix of a sequence. Its hash is the sum over its tokens of `(token + 1) * factors[position]`, modulo
    2**64. An edge is a token that follows a prefix, `[END]` included.

    Returns:
        A dict of arrays:

        - `factors` (longest,), int64.
        - `hashes` (nodes,), int64, sorted.
        - `bucket_starts` (buckets + 1,): the first node with a hash in each bucket.
        - `tokens` (total,): the sequences, each with `[END]`, one after the other.
        - `prefix_starts` (nodes,): where in `tokens` a node's prefix begins. `depths` (nodes,): its length.
        - `edge_tokens` (edges,): the tokens that follow a node, sorted by node. `edge_starts` (nodes + 1,): where those
          of each node begin.
    """
    lengths = np.array([len(ids) + 1 for ids in sequences])
    tokens = np.fromiter(itertools.chain.from_iterable((*ids, end_id) for ids in sequences), np.int64, lengths.sum())
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)  # (total,), of the sequence of each token
    positions = np.arange(len(tokens)) - starts
    for seed in itertools.count():
        factors = np.random.default_rng(seed).integers(-(2**63), 2**63, lengths.max(), dtype=np.int64)
        sums = np.concatenate([[0], np.cumsum((tokens + 1) * factors[positions])])  # modulo 2**64
        # Each token follows a prefix, the node whose edge it is.
        hashes, first, nodes = np.unique(sums[:-1] - sums[starts], return_index=True, return_inverse=True)
        if _are_equal_prefixes(first[nodes], nodes, tokens, positions):
            break
    edges = np.unique(nodes * vocabulary_size + tokens)
    num_buckets = 2 ** (len(hashes).bit_length() + 1)
    tables = {
        "bucket_starts": np.searchsorted(_bucket(hashes, num_buckets, np), np.arange(num_buckets + 1)),
        "tokens": tokens,
        "prefix_starts": starts[first],
        "depths": positions[first],
        "edge_tokens": edges % vocabulary_size,
        "edge_starts": np.searchsorted(edges // vocabulary_size, np.arange(len(hashes) + 1)),
    }
    return {
        "factors": factors[:-1],
        "hashes": hashes,
        **{name: table.astype(np.int32) for name, table in tables.items()},
    }


def _are_equal_prefixes(first, nodes, tokens, positions):
    """Returns whether all prefixes of one hash are equal, for `first` (total,), the first token that follows each.

    Two prefixes are equal if they have the same length, the same last token, and are equal before it, which is true if
    the tests succeed for all prefixes that are shorter.
    """
    follows = positions > 0
    before, first_before = np.flatnonzero(follows) - 1, first[follows] - 1
    return bool(
        np.array_equal(positions[first], positions)
        and np.array_equal(tokens[first_before], tokens[before])
        and np.array_equal(nodes[first_before], nodes[before])
    )


def _bucket(hashes, num_buckets, numpy_or_tensorflow):
    """Returns the bucket of each hash: its first bits. Buckets are in the order of the hashes."""
    shift = np.int64(64 - (num_buckets.bit_length() - 1))
    if numpy_or_tensorflow is np:
        return (hashes >> shift) + num_buckets // 2
    return tf.bitwise.right_shift(hashes, tf.fill(tf.shape(hashes), shift)) + num_buckets // 2

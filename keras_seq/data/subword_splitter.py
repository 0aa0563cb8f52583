# SPDX-License-Identifier: Apache-2.0
"""Subwords of a unigram language model: the most likely segmentation of each word, in the graph of TensorFlow."""

import functools

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf

WORD_START = "\u2581"  # stands for the space before a word, as in SentencePiece
_ALPHABET = 0x110000  # number of Unicode code points
_UNKNOWN_PENALTY = 10.0  # how far below the worst piece SentencePiece scores an unknown character


@keras.saving.register_keras_serializable("keras_seq")
class SubwordSplitter:
    """Splits texts into the pieces of a unigram language model (Kudo 2018), as SentencePiece does word by word.

    A text is split at ASCII whitespace and U+2581, and U+2581 put before each word. A word becomes the sequence of
    pieces with the highest sum of scores, of several equally high ones that whose last piece is longest, found by
    Viterbi's algorithm. Characters that no piece has become unknown tokens, a run of them one. Invalid UTF-8 becomes
    U+FFFD. It uses operations of TensorFlow alone, and its time is linear in the number of characters.

    Args:
        pieces: list of strings, without duplicates.
        scores: list of their log-probabilities, computed with as float32.

    Call arguments:
        texts: string tensor (batch,), in UTF-8.

    Returns:
        Ragged string tensor (batch, None) of pieces and unknown tokens.

    Raises:
        ValueError: if `pieces` and `scores` are empty or differ in length, or if a piece is empty or a duplicate.

    Example:

    >>> splitter = SubwordSplitter(["▁", "▁un", "s", "e", "een"], [-2.0, -3.0, -4.0, -4.0, -5.0])
    >>> [piece.decode() for piece in splitter(tf.constant(["unseen es"]))[0].numpy()]
    ['▁un', 's', 'een', '▁', 'e', 's']
    """

    def __init__(self, pieces, scores):
        self.pieces = [str(piece) for piece in pieces]
        self.scores = [float(score) for score in scores]
        if not len(self.pieces) == len(self.scores) > 0:
            raise ValueError(
                "`pieces` and `scores` must have the same length, at least 1. "
                f"Received: {len(self.pieces)} pieces and {len(self.scores)} scores"
            )
        if "" in self.pieces or len(set(self.pieces)) < len(self.pieces):
            raise ValueError(
                "`pieces` must be strings that are not empty and all different. "
                f"Received: {len(self.pieces)} pieces, {len({*self.pieces} - {''})} of them different and not empty"
            )
        self._edges, self._node_scores = _build_trie(self.pieces, self.scores)
        self._max_length = max(map(len, self.pieces))

    def __call__(self, texts):
        # Outside of a graph, its loops take milliseconds for each character of the longest word.
        return self._compiled(texts) if tf.executing_eagerly() else self._split(texts)

    @functools.cached_property
    def _compiled(self):
        return tf.function(self._split, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "_compiled"}  # it cannot be copied

    def _split(self, texts):
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")
        words = tf.strings.split(tf.strings.regex_replace(texts, WORD_START, " "))  # (batch, words)
        unique, indices = tf.unique(words.flat_values)  # texts repeat most of their words
        with tf.device("CPU:0"):  # as all of a `TextVectorization`
            pieces = self._split_words(WORD_START + unique)
        return words.with_flat_values(tf.gather(pieces, indices)).merge_dims(1, 2)

    def _split_words(self, words):
        """Splits strings (words,), none of them empty, into pieces, a ragged tensor (words, None)."""
        characters = tf.strings.unicode_decode(words, "UTF-8")  # (words, characters)
        scores, is_known = self._score_pieces(characters)
        starts, lengths = _most_likely_pieces(characters.row_starts(), characters.row_lengths(), scores)
        flat = characters.flat_values
        count = tf.size(flat)
        is_start = tf.scatter_nd(starts[:, None], tf.ones_like(starts, tf.bool), [count])
        is_unknown = tf.scatter_nd(starts[:, None], (lengths == 1) & ~tf.gather(is_known, starts), [count])
        is_word_start = tf.scatter_nd(characters.row_starts()[:, None], tf.ones_like(words, tf.bool), [count])
        continues_unknown = is_unknown & tf.roll(is_unknown, 1, 0) & ~is_word_start
        starts = tf.where(is_start & ~continues_unknown)[:, 0]
        pieces = tf.strings.unicode_encode(tf.RaggedTensor.from_row_starts(flat, starts), "UTF-8")
        word_ids = tf.gather(characters.value_rowids(), starts)
        return tf.RaggedTensor.from_value_rowids(pieces, word_ids, tf.size(words, tf.int64))

    def _score_pieces(self, characters):
        """Finds the pieces in words, a ragged tensor of code points (words, characters), whose flat values are flat.

        Returns:
            The scores (flat, max_length) of the pieces that end with each character, the longest first, -inf where
            there is none; and whether each character is a piece (flat,). One that is not scores as unknown.
        """
        flat = tf.cast(characters.flat_values, tf.int64)
        edges, node_scores = tf.constant(self._edges), tf.constant(self._node_scores)
        no_scores = tf.fill(tf.shape(flat), -np.inf)

        def find_next_character(length, position, end, node, columns):
            edge = node * _ALPHABET + tf.gather(flat, position)
            index = tf.searchsorted(edges, edge, out_type=tf.int64)
            is_found = tf.gather(edges, index) == edge
            position, end, node = (tf.boolean_mask(x, is_found) for x in (position, end, index + 1))
            column = tf.tensor_scatter_nd_update(no_scores, position[:, None], tf.gather(node_scores, node))
            is_inside = position + 1 < end
            position, end, node = (tf.boolean_mask(x, is_inside) for x in (position + 1, end, node))
            return length + 1, position, end, node, columns.write(length, column)

        # The pieces that are still sought: where each one's next character is, where its word ends, its node.
        position = tf.range(tf.size(flat, tf.int64))
        end = tf.repeat(characters.row_limits(), characters.row_lengths())
        columns = tf.TensorArray(tf.float32, self._max_length)
        *_, columns = tf.while_loop(
            lambda length, *_: length < self._max_length,
            find_next_character,
            [0, position, end, tf.zeros_like(position), columns],
            shape_invariants=[tf.TensorShape([]), *[tf.TensorShape([None])] * 3, tf.TensorShape(None)],
        )
        scores = tf.transpose(tf.reverse(columns.stack(), [0]))  # (flat, max_length)
        is_known = scores[:, -1] > -np.inf
        unknown = np.float32(min(self.scores)) - np.float32(_UNKNOWN_PENALTY)
        single = tf.where(is_known, scores[:, -1], unknown)
        return tf.concat([scores[:, :-1], single[:, None]], 1), is_known

    def __eq__(self, other):
        return isinstance(other, SubwordSplitter) and self.get_config() == other.get_config()

    def __hash__(self):
        return hash(tuple(self.pieces))

    def get_config(self):
        return {"pieces": list(self.pieces), "scores": list(self.scores)}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def _build_trie(pieces, scores):
    """Returns the trie of pieces as arrays: its edges, sorted, and the score of the piece that ends at each node.

    The root is node 0. Nodes are sorted by depth, then by their strings, so that an edge, the number of the parent
    times `_ALPHABET` plus the code point, leads to the node whose number is the position of the edge plus 1. A last
    edge that no string has lets a search look at the position that it returns.
    """
    prefixes = sorted({piece[:n] for piece in pieces for n in range(len(piece) + 1)}, key=lambda s: (len(s), s))
    nodes = {prefix: number for number, prefix in enumerate(prefixes)}
    edges = [nodes[prefix[:-1]] * _ALPHABET + ord(prefix[-1]) for prefix in prefixes[1:]]
    node_scores = np.full(len(nodes), -np.inf, "float32")
    node_scores[[nodes[piece] for piece in pieces]] = scores
    return np.array([*edges, np.iinfo("int64").max]), node_scores


def _most_likely_pieces(row_starts, lengths, scores):
    """Finds the most likely sequence of pieces of each word by Viterbi's algorithm.

    Args:
        row_starts: int64 (words,), the position of the first character of each word among all.
        lengths: int64 (words,), numbers of characters, at least 1.
        scores: (flat, max_length), see `_score_pieces`.

    Returns:
        int64 positions of the first characters of all pieces, in no order, and their lengths.
    """
    max_length = scores.shape[1]
    order = tf.argsort(lengths, direction="DESCENDING", stable=True)  # words that have ended are the last rows
    row_starts, lengths = tf.gather(row_starts, order), tf.gather(lengths, order)
    # How many words have more than 0, 1, ... characters. Without words there is one step, which does nothing.
    lengths_seen = tf.math.bincount(tf.cast(lengths, tf.int32), minlength=2, dtype=tf.int64)
    counts = tf.size(lengths, tf.int64) - tf.cumsum(lengths_seen)
    steps = tf.size(counts, tf.int64) - 1
    choices = tf.TensorArray(tf.int64, tf.cast(steps, tf.int32), infer_shape=False, element_shape=[None])
    # The highest scores up to each of the last positions, the last one last.
    window = tf.concat([tf.fill([tf.size(lengths), max_length - 1], -np.inf), tf.zeros([tf.size(lengths), 1])], 1)

    def step(t, window, choices):
        window = window[: counts[t]]
        candidates = window + tf.gather(scores, row_starts[: counts[t]] + t)  # (words, max_length)
        choices = choices.write(tf.cast(t, tf.int32), max_length - tf.argmax(candidates, 1))  # the longest of equals
        best = tf.reduce_max(candidates, 1, keepdims=True)
        return t + 1, tf.concat([window[:, 1:], best], 1), choices

    shapes = [tf.TensorShape([]), tf.TensorShape([None, max_length]), tf.TensorShape(None)]
    _, _, choices = tf.while_loop(
        lambda t, *_: t < steps, step, [tf.zeros((), tf.int64), window, choices], shape_invariants=shapes
    )
    return _trace_back(row_starts, lengths, choices.concat(), tf.cumsum(counts, exclusive=True))


def _trace_back(row_starts, lengths, choices, offsets):
    """Returns the positions and lengths of the chosen pieces, from the last piece of each word to the first.

    `choices` holds the lengths of the pieces that end with the first characters of all words that have one, then with
    the second, and so on; `offsets` where each of these parts begins.
    """
    results = [
        tf.TensorArray(tf.int64, 1, dynamic_size=True, infer_shape=False, element_shape=[None]) for _ in range(2)
    ]

    def step(i, rows, end, results):
        chosen = tf.gather(choices, tf.gather(offsets, end - 1) + rows)
        end -= chosen
        results = [results[0].write(i, tf.gather(row_starts, rows) + end), results[1].write(i, chosen)]
        return i + 1, tf.boolean_mask(rows, end > 0), tf.boolean_mask(end, end > 0), results

    rows = tf.range(tf.size(lengths, tf.int64))
    shapes = [tf.TensorShape([]), tf.TensorShape([None]), tf.TensorShape([None]), [tf.TensorShape(None)] * 2]
    *_, results = tf.while_loop(
        lambda i, rows, *_: (i == 0) | (tf.size(rows) > 0), step, [0, rows, lengths, results], shape_invariants=shapes
    )
    return results[0].concat(), results[1].concat()

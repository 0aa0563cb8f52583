# SPDX-License-Identifier: Apache-2.0
"""Scores of given targets: the part of a model that generates that computes their probabilities."""

import numpy as np
from keras import ops

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.vocabulary import END_ID, PAD_ID, START_ID
from keras_seq.decoding.checks import check_count
from keras_seq.models.function_cache import compile_once
from keras_seq.models.sides import as_batch, constants
from keras_seq.models.token_rows import in_order, length_batches
from keras_seq.models.token_side import shorten
from keras_seq.ops.implementation import implementation_in_use


class Scoring:
    """The part of a `GenerativeModel` that scores given targets, a mixin.

    The model has `_sides` and `_functions`, and a `call` that maps `(source ids, decoder inputs)` to logits.
    """

    def score(self, sources, targets, batch_size=256, return_dict=False):
        """Computes the natural logarithm of the probability of each target, with teacher forcing.

        It includes the probability of `[END]`. For an output of `generate` that ended, it is its log-probability.

        Args:
            sources: strings or token ids, as a list, array or tensor; or a single string; or arrays, see `generate`.
            targets: one target for each source, strings or token ids. Token ids of each sequence must end with 3,
                `[END]`. The model adds it to strings.
            batch_size: maximum number of pairs to score at once.
            return_dict: whether to return a dict with the log-probability of each token.

        Returns:
            A NumPy array (batch,), float32. With `return_dict`, a dict of NumPy arrays:

            - `log_probabilities` (batch,).
            - `token_log_probabilities` (batch, time), zeros after `[END]`.
            - `token_ids` (batch, time), int32, the targets with `[END]`, then zeros.

        Raises:
            ValueError: if the arguments have another form, differ in length or are empty, if token ids are outside the
                vocabulary, or if target ids do not end with `[END]`.

        Example:
            >>> import keras_seq
            >>> vectorizer = keras_seq.data.text_vectorizer(["abc"])
            >>> model = keras_seq.Seq2Seq(
            ...     keras_seq.Encoder(7, 4, 8), keras_seq.Decoder(7, 4, 8), vectorizer, vectorizer
            ... )
            >>> model.score(["abc", "abc"], ["cba", "b"]).shape
            (2,)
        """
        check_count("batch_size", batch_size)
        source, target = (
            side.rows(as_batch(side, values)[0], label)
            for side, values, label in (
                (self._sides.source, sources, "`sources`"),
                (self._sides.target, targets, "`targets`"),
            )
        )
        if len(source) != len(target) or len(source) == 0:
            raise ValueError(
                "`sources` and `targets` must contain the same number of sequences, at least one. "
                f"Received: {len(source)} sources and {len(target)} targets"
            )
        _check_targets(target)
        compute, batches = None, []
        for indices in length_batches(source.lengths + target.lengths, batch_size):
            source_batch, token_ids = constants(source.padded(indices)), target.padded(indices)
            compute = compute or self._compile_score(source_batch)
            scores = compute(source_batch, tf.constant(token_ids)).numpy()
            batches.append((indices, {"token_log_probabilities": scores, "token_ids": token_ids}))
        results = in_order(batches)
        results["log_probabilities"] = results["token_log_probabilities"].sum(axis=1)
        return results if return_dict else results["log_probabilities"]

    def _compile_score(self, source):
        specs = [self._sides.source.signature(source), tf.TensorSpec([None, None], tf.int32)]
        key = ("score", str(specs), implementation_in_use())
        return self._functions.get(key, lambda: compile_once(self._score_tokens, specs))

    def _score_tokens(self, source, target):
        """Computes the log-probabilities (batch, time) of target ids, zeros for padding."""
        start = tf.fill([tf.shape(target)[0], 1], START_ID)
        logits = self((source, tf.concat([start, target[:, :-1]], axis=1)), training=False)
        return tokens_log_probabilities(logits, target)


def tokens_log_probabilities(logits, tokens):
    """Computes the log-probabilities of tokens (batch, time), zeros for padding, with operations that LiteRT has."""
    log_probabilities = tf.nn.log_softmax(ops.cast(logits, "float32"))
    return tf.where(tokens == PAD_ID, 0.0, tf.gather(log_probabilities, tokens, batch_dims=2))


def _check_targets(rows):
    """Raises a ValueError unless each target ends with its only `[END]`, without padding before."""
    is_last = np.zeros(len(rows.values), bool)
    is_last[(rows.starts + rows.lengths - 1)[rows.lengths > 0]] = True
    is_right = ((rows.values == END_ID) == is_last) & (rows.values != PAD_ID)
    for start, length in zip(rows.starts, rows.lengths, strict=True):
        if length == 0 or not is_right[start : start + length].all():
            received = rows.values[start : start + length].tolist()
            raise ValueError(
                f"`targets` must end with {END_ID}, `[END]`, and contain neither it nor padding before. "
                f"Received: {shorten(received)}"
            )

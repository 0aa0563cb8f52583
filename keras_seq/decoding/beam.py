# SPDX-License-Identifier: Apache-2.0
"""Beam search."""

import math
from typing import NamedTuple

import keras

from keras_seq._lazy_tensorflow import tf
from keras_seq.decoding.backtrace import drop_duplicates, trace_back
from keras_seq.decoding.checks import check_count, check_number
from keras_seq.decoding.sampler import Choice, Sampler
from keras_seq.decoding.top_k import top_k

_LOWEST = -3.4028235e38  # of float32
_NEVER_ATTENDED = 1e-9  # so that a position that was never attended does not make a score infinite


class _State(NamedTuple):
    sums: object  # (sources, beams), of the processed log-probabilities of each live hypothesis; -inf if there is none
    best: object  # (sources, groups, n), the best scores of finished hypotheses, in descending order
    coverage: object  # (sources, beams, positions), the sum of the attention weights; or () without coverage penalty


@keras.saving.register_keras_serializable("keras_seq")
class BeamSampler(Sampler):
    """Beam search: keeps the `num_beams` most likely hypotheses of each source at each step.

    By name: `sampler="beam"`. A hypothesis is finished when its `[END]` is among the best `num_beams` continuations of
    a step, or when it reaches the limit. Finished hypotheses are ranked by (Wu et al. 2016)

        score = log_probability / length_factor + coverage_penalty * coverage
        length_factor = ((5 + length) / 6) ** length_penalty
        coverage = sum over source positions of log(min(sum over steps of attention_weights, 1))

    where the length counts `[END]`. With processors, their results take the place of the model's log-probabilities. The
    search of a source ends when no live hypothesis can still enter the best `num_beams` finished ones, and with one
    beam at the first finished hypothesis, which is that of `GreedySampler`.

    With groups (diverse beam search, Vijayakumar et al. 2018), each step chooses for one group after the other.
    Tokens that earlier groups chose in this step are less likely to be chosen again. Scores do not change.

    Args:
        num_beams: number of live hypotheses of each source.
        length_penalty: exponent of the length factor. Greater values prefer longer outputs; 0 ranks by probability.
        coverage_penalty: weight of the coverage, at least 0. Positive values prefer outputs that attend to every source
            position. A position with a sum below 1e-9 counts as 1e-9.
        num_return_sequences: number of hypotheses to return for each source, at most `num_beams`.
        num_groups: number of groups, a divisor of `num_beams`.
        diversity_penalty: how much to lower a token's log-probability for each time that an earlier group chose it,
            at least 0.

    Raises:
        ValueError: if an argument has another value.
    """

    def __init__(
        self,
        num_beams=5,
        length_penalty=0.0,
        coverage_penalty=0.0,
        num_return_sequences=1,
        num_groups=1,
        diversity_penalty=0.0,
    ):
        self.num_beams = check_count("num_beams", num_beams)
        self.length_penalty = check_number("length_penalty", length_penalty, math.isfinite, "a finite number")
        self.coverage_penalty = _check_penalty("coverage_penalty", coverage_penalty)
        self.num_return_sequences = check_count("num_return_sequences", num_return_sequences)
        self.num_groups = check_count("num_groups", num_groups)
        self.diversity_penalty = _check_penalty("diversity_penalty", diversity_penalty)
        self.uses_attention = self.coverage_penalty > 0
        if self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"`num_return_sequences` must be at most `num_beams`, {self.num_beams}. "
                f"Received: {self.num_return_sequences}"
            )
        if self.num_beams % self.num_groups:
            raise ValueError(
                f"`num_groups` must be a divisor of `num_beams`, {self.num_beams}. Received: {self.num_groups}"
            )

    @property
    def _group_size(self):
        return self.num_beams // self.num_groups

    def check(self, vocabulary_size):
        if self.num_beams > vocabulary_size:
            raise ValueError(
                f"`num_beams` must be at most {vocabulary_size}, the number of tokens that can be chosen. "
                f"Received: {self.num_beams}"
            )

    def initial_state(self, positions, seed, memory_mask):
        sources = tf.shape(positions)[0]
        # All hypotheses are the same at first, so each group has only one.
        first = ([0.0] + [-math.inf] * (self._group_size - 1)) * self.num_groups
        finished = tf.fill([sources, self.num_groups, max(self._group_size, self.num_return_sequences)], -math.inf)
        coverage = ()
        if self.uses_attention:
            coverage = tf.zeros([sources, self.num_beams, tf.shape(memory_mask)[1]])
        return _State(tf.tile([first], [sources, 1]), finished, coverage)

    def live_rows(self, is_live, state):
        return tf.reshape(is_live[:, None] & (state.sums > -math.inf), [-1])

    def step(self, candidates, state):
        vocabulary = candidates.processed.shape[-1] or tf.shape(candidates.processed)[-1]
        processed = tf.reshape(candidates.processed, [-1, self.num_beams, vocabulary])
        live, final = self._select(state.sums[:, :, None] + processed, vocabulary, candidates.end_id)
        (live_sums, live_continuations), (final_sums, final_continuations) = live, final
        continuations = tf.concat([live_continuations, final_continuations], axis=1)  # (sources, 2 * beams)
        tokens, beams = continuations % vocabulary, continuations // vocabulary
        live_beams, final_beams = beams[:, : self.num_beams], beams[:, self.num_beams :]
        coverage, penalties = (), 0.0
        if self.uses_attention:
            coverage, penalties = self._cover(candidates, state.coverage)
            coverage = tf.gather(coverage, live_beams, batch_dims=1)
            penalties = tf.gather(penalties, final_beams, batch_dims=1)
        is_end = tf.equal(tokens[:, self.num_beams :], candidates.end_id)
        scores = self._scores(final_sums, penalties, is_end, candidates)
        state = _State(live_sums, self._best_scores(state.best, scores), coverage)
        log_probabilities = tf.reshape(candidates.log_probabilities, [-1, self.num_beams * vocabulary])
        record = {
            "tokens": tokens,
            "beams": beams,
            "log_probabilities": tf.gather(log_probabilities, continuations, batch_dims=1),
            "scores": scores,
        }
        rows = None  # a beam follows itself if it is the only one
        if self.num_beams > 1:
            rows = tf.range(tf.shape(live_beams)[0])[:, None] * self.num_beams + live_beams
            rows = tf.reshape(rows, [-1])
        return Choice(
            tf.reshape(tokens[:, : self.num_beams], [-1]), rows, self._is_done(state, candidates), record, state
        )

    def _select(self, sums, vocabulary, end_id):
        """Returns the sums and indices of the continuations that live on, and of those that end if they can.

        Args:
            sums: (sources, beams, vocabulary). An index counts its last two axes as one.

        Returns:
            Two pairs of tensors (sources, beams).
        """
        size, groups, counts = self._group_size, [], 0.0
        for first in range(0, self.num_beams, size):
            group_sums = tf.reshape(sums[:, first : first + size], [-1, size * vocabulary])
            is_lowered = first > 0 and self.diversity_penalty > 0
            lowered = group_sums
            if is_lowered:
                penalties = tf.tile(self.diversity_penalty * counts, [1, size])
                lowered = group_sums - penalties
            # Each of the `size` beams has one continuation with the end token, so as many others remain.
            values, indices = top_k(lowered, 2 * size)
            tokens = indices % vocabulary
            without_end = tf.where(tf.equal(tokens, end_id), -math.inf, values)
            live_values, order = tf.math.top_k(without_end, size)
            live, final = tf.gather(indices, order, batch_dims=1), indices[:, :size]
            final_values = values[:, :size]
            if is_lowered:
                live_sums = tf.gather(group_sums, live, batch_dims=1)
                live_values = tf.where(live_values > -math.inf, live_sums, -math.inf)
                final_values = tf.gather(group_sums, final, batch_dims=1)
            if self.diversity_penalty > 0:
                counts += tf.reduce_sum(tf.one_hot(live % vocabulary, vocabulary), axis=1)  # (sources, vocabulary)
            offset = first * vocabulary
            groups.append((live_values, live + offset, final_values, final + offset))
        live_sums, live, final_sums, final = (tf.concat(parts, axis=1) for parts in zip(*groups, strict=True))
        return (live_sums, live), (final_sums, final)

    def _cover(self, candidates, coverage):
        """Returns the coverage after this step and its penalty, (sources, beams, positions) and (sources, beams)."""
        weights = tf.cast(candidates.attention_weights, tf.float32)
        coverage += tf.reshape(weights, tf.shape(coverage))
        logarithms = tf.math.log(tf.clip_by_value(coverage, _NEVER_ATTENDED, 1.0))
        is_visible = candidates.memory_mask[:, None]
        return coverage, self.coverage_penalty * tf.reduce_sum(tf.where(is_visible, logarithms, 0.0), axis=-1)

    def _scores(self, sums, penalties, is_end, candidates):
        """Returns the scores of hypotheses that end with this step, -inf for those that do not."""
        is_last = candidates.t + 1 >= candidates.limits
        is_final = (is_end | is_last[:, None]) & (sums > -math.inf)
        scores = sums / self._length_factor(candidates.t + 1) + penalties
        return tf.where(is_final, tf.maximum(scores, _LOWEST), -math.inf)

    def _length_factor(self, length):
        if self.length_penalty == 0:
            return 1.0
        return ((5.0 + tf.cast(length, tf.float32)) / 6.0) ** self.length_penalty

    def _best_scores(self, best, scores):
        scores = tf.reshape(scores, [-1, self.num_groups, self._group_size])
        return tf.math.top_k(tf.concat([best, scores], axis=2), best.shape[2]).values

    def _is_done(self, state, candidates):
        """Returns for each source whether no live hypothesis can still be among the best finished ones."""
        sums = tf.reduce_max(tf.reshape(state.sums, [-1, self.num_groups, self._group_size]), axis=2)
        # A sum never increases, so its score is highest if it stays as it is, at the length with the greatest factor.
        length = candidates.t + 2 if self.length_penalty < 0 else candidates.limits[:, None]
        worst = state.best[:, :, -1]
        is_done = sums / self._length_factor(length) <= worst
        if self.num_beams == 1:
            is_done |= worst > -math.inf
        return tf.reduce_all(is_done, axis=1)

    def record_spec(self):
        shapes = {"tokens": 2, "beams": 2, "log_probabilities": 2, "scores": 1}
        return {
            name: tf.TensorSpec([None, n * self.num_beams], tf.int32 if name in ("tokens", "beams") else tf.float32)
            for name, n in shapes.items()
        }

    def hypotheses(self, records, attention_weights, steps):
        number = self.num_return_sequences * self.num_groups  # each may come once from each group
        results = trace_back(records, attention_weights, steps, number)
        return results if self.num_groups == 1 else drop_duplicates(results, self.num_return_sequences)

    def get_config(self):
        return {
            "num_beams": self.num_beams,
            "length_penalty": self.length_penalty,
            "coverage_penalty": self.coverage_penalty,
            "num_return_sequences": self.num_return_sequences,
            "num_groups": self.num_groups,
            "diversity_penalty": self.diversity_penalty,
        }


def _check_penalty(name, value):
    return check_number(name, value, lambda number: 0 <= number < math.inf, "a finite number, at least 0")

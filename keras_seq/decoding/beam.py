# SPDX-License-Identifier: Apache-2.0
"""Beam search."""

import math
from typing import NamedTuple

import keras

from keras_seq._lazy_tensorflow import tf
from keras_seq.decoding.backtrace import drop_duplicates, trace_back
from keras_seq.decoding.checks import check_count, check_number
from keras_seq.decoding.continuations import best_continuations
from keras_seq.decoding.sampler import LAST_RESORT, Choice, Sampler

_NEVER_ATTENDED = 1e-9  # so that a position that was never attended does not make a score infinite


class _State(NamedTuple):
    sums: object  # (sources, beams), of the processed log-probabilities of each live hypothesis; -inf if there is none
    best: object  # (sources, groups, num_return_sequences), the best scores of finished hypotheses, in descending order
    coverage: object  # (sources, beams, positions), the sum of the attention weights; or () without coverage penalty


@keras.saving.register_keras_serializable("keras_seq")
class BeamSampler(Sampler):
    """Beam search: keeps the `num_beams` most likely hypotheses of each source at each step.

    By name: `sampler="beam"`. A hypothesis is finished when it is among the best `num_beams` continuations of a step,
    and ends with `[END]` or is at the limit. Finished hypotheses are ranked by (Wu et al. 2016)

        score = log_probability / length_factor + coverage_penalty * coverage
        length_factor = ((5 + length) / 6) ** length_penalty
        coverage = sum over source positions of log(min(sum over steps of attention_weights, 1))

    where the length counts `[END]`. With processors, their results take the place of the model's log-probabilities. The
    search of a source ends when no live hypothesis can still enter the best `num_return_sequences` finished ones, and
    with one beam at the first finished hypothesis, which is that of `GreedySampler`. This presumes that no result of a
    processor is above 0: sums that can grow again may come too late.

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
            at least 0. It changes nothing with one group. With several groups, a value of 0 makes them all equal.

    Raises:
        ValueError: if an argument has another value.

    Example:
        >>> sampler = BeamSampler(num_beams=5, length_penalty=0.6, num_return_sequences=3)
        >>> sampler.num_return_sequences
        3
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

    def check(self, num_tokens):
        if self.num_beams > num_tokens:
            raise ValueError(
                f"`num_beams` must be at most {num_tokens}, the number of tokens that can be chosen. "
                f"Received: {self.num_beams}"
            )

    def initial_state(self, positions, seed, memory_mask):
        sources = tf.shape(positions)[0]
        # All hypotheses are the same at first, so each group has only one.
        first = ([0.0] + [-math.inf] * (self._group_size - 1)) * self.num_groups
        finished = tf.fill([sources, self.num_groups, self.num_return_sequences], -math.inf)
        coverage = ()
        if self.uses_attention:
            coverage = tf.zeros([sources, self.num_beams, tf.shape(memory_mask)[1]])
        return _State(tf.tile([first], [sources, 1]), finished, coverage)

    def live_rows(self, is_live, state):
        return tf.reshape(is_live[:, None] & (state.sums > -math.inf), [-1])

    def step(self, candidates, state):
        vocabulary = candidates.processed.shape[-1] or tf.shape(candidates.processed)[-1]
        processed = tf.reshape(candidates.processed, [-1, self.num_beams, vocabulary])
        is_last = (candidates.step + 1 >= candidates.limits)[:, None]
        sums = state.sums[:, :, None] + processed  # (sources, beams, vocabulary)
        live, final = best_continuations(sums, is_last, candidates.end_id, self.num_groups, self.diversity_penalty)
        indices = tf.concat([live.indices, final.indices], axis=1)  # (sources, 2 * beams)
        tokens, beams = indices % vocabulary, indices // vocabulary
        live_tokens, final_tokens = tf.split(tokens, 2, axis=1)
        live_beams, final_beams = tf.split(beams, 2, axis=1)
        # An end token that is not allowed ends a hypothesis only where no other token is allowed.
        is_dead_end = tf.reduce_max(processed, axis=2) <= LAST_RESORT  # (sources, beams)
        is_allowed = (final.sums > LAST_RESORT) | tf.gather(is_dead_end, final_beams, batch_dims=1)
        is_final = (tf.equal(final_tokens, candidates.end_id) | is_last) & is_allowed & (final.sums > -math.inf)
        scores, coverage = final.sums / self._length_factor(candidates.step + 1), ()
        if self.uses_attention:
            coverage, penalties = self._cover(candidates, state.coverage)
            coverage = tf.gather(coverage, live_beams, batch_dims=1)
            scores += tf.gather(penalties, final_beams, batch_dims=1)
        scores = tf.where(is_final, tf.maximum(scores, LAST_RESORT), -math.inf)
        state = _State(live.sums, self._best_scores(state.best, scores), coverage)
        log_probabilities = tf.reshape(candidates.log_probabilities, [-1, self.num_beams * vocabulary])
        record = {
            "tokens": tokens,
            "beams": beams,
            "log_probabilities": tf.gather(log_probabilities, indices, batch_dims=1),
            "scores": scores,
        }
        parents = None  # a beam follows itself if it is the only one
        if self.num_beams > 1:
            first_rows = tf.range(tf.shape(live_beams)[0])[:, None] * self.num_beams  # of each source
            parents = tf.reshape(first_rows + live_beams, [-1])
        return Choice(tf.reshape(live_tokens, [-1]), parents, self._is_done(state, candidates), record, state)

    def _cover(self, candidates, coverage):
        """Returns the coverage after this step and its penalty, (sources, beams, positions) and (sources, beams)."""
        weights = tf.cast(candidates.attention_weights, tf.float32)
        coverage += tf.reshape(weights, tf.shape(coverage))
        logarithms = tf.math.log(tf.clip_by_value(coverage, _NEVER_ATTENDED, 1.0))
        is_visible = candidates.memory_mask[:, None]
        return coverage, self.coverage_penalty * tf.reduce_sum(tf.where(is_visible, logarithms, 0.0), axis=-1)

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
        length = candidates.step + 2 if self.length_penalty < 0 else candidates.limits[:, None]
        worst = state.best[:, :, -1]
        is_done = sums / self._length_factor(length) <= worst
        if self.num_beams == 1:
            is_done |= worst > -math.inf
        return tf.reduce_all(is_done, axis=1)

    def record_spec(self, has_processors):
        # As many live continuations as there are beams, then as many that may be final, of which alone scores are kept.
        ids, floats = (tf.TensorSpec([None, 2 * self.num_beams], dtype) for dtype in (tf.int32, tf.float32))
        scores = tf.TensorSpec([None, self.num_beams])
        return {"tokens": ids, "beams": ids, "log_probabilities": floats, "scores": scores}

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

# SPDX-License-Identifier: Apache-2.0
"""The best continuations of the beams of each source: the choice of a step of beam search, also in diverse groups."""

import math
from typing import NamedTuple

from keras_seq._lazy_tensorflow import tf
from keras_seq.decoding.top_k import top_k


class Continuations(NamedTuple):
    """Some of the tokens that can follow in the beams of each source, the best first in each group."""

    sums: object  # (sources, n) float32, of a hypothesis with its token; -inf if there is none
    indices: object  # (sources, n) int32, in the axes beams and vocabulary, counted as one


def best_continuations(sums, is_last, end_id, num_groups, diversity_penalty):
    """Returns `(live, final)`: the best `Continuations` without the end token, and the best with or without it.

    There are as many of each as beams. One group of beams chooses after the other; those of a group are adjacent.

    Args:
        sums: float32 (sources, beams, vocabulary), of each hypothesis with each next token.
        is_last: bool (sources, 1), whether the step is the last one of a source. Then the final ones are its choice.
        end_id: id of the end token.
        num_groups: a divisor of the number of beams.
        diversity_penalty: how much a sum counts less for each time that an earlier group chose its token.
    """
    beams, vocabulary = sums.shape[1], sums.shape[2] or tf.shape(sums)[2]
    size, groups, counts = beams // num_groups, [], None
    for first in range(0, beams, size):
        group_sums = tf.reshape(sums[:, first : first + size], [-1, size * vocabulary])
        penalties = None if counts is None else tf.tile(diversity_penalty * counts, [1, size])
        live, final = _choose(group_sums, penalties, size, vocabulary, end_id)
        if diversity_penalty > 0:
            chosen = Continuations(*(tf.where(is_last, f, n) for f, n in zip(final, live, strict=True)))
            tokens = tf.where(chosen.sums > -math.inf, chosen.indices % vocabulary, -1)
            group_counts = tf.reduce_sum(tf.one_hot(tokens, vocabulary), axis=1)  # (sources, vocabulary)
            counts = group_counts if counts is None else counts + group_counts
        groups.append([Continuations(x.sums, x.indices + first * vocabulary) for x in (live, final)])
    if num_groups == 1:
        return groups[0]
    return [
        Continuations(*(tf.concat(parts, axis=1) for parts in zip(*continuations, strict=True)))
        for continuations in zip(*groups, strict=True)
    ]


def _choose(sums, penalties, size, vocabulary, end_id):
    """Returns the best `size` `Continuations` of a group without the end token, and the best with or without it.

    Args:
        sums: (sources, size * vocabulary).
        penalties: the same, what lowers sums in this choice only; or None.
        size: number of beams.
        vocabulary: its size.
        end_id: id of the end token.
    """
    # Each beam has one continuation with the end token, so at least `size` others remain.
    values, indices = top_k(sums if penalties is None else sums - penalties, 2 * size)
    values = values if penalties is None else tf.gather(sums, indices, batch_dims=1)
    is_end = tf.equal(indices % vocabulary, end_id)
    others = tf.math.top_k(tf.cast(~is_end, tf.int32), size).indices  # in this order
    without_end = tf.where(is_end, -math.inf, values)
    live = Continuations(*(tf.gather(x, others, batch_dims=1) for x in (without_end, indices)))
    return live, Continuations(values[:, :size], indices[:, :size])

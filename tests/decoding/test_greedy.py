# SPDX-License-Identifier: Apache-2.0
"""Greedy search on a scripted model with a known best path."""

import numpy as np
import tensorflow as tf

from keras_seq import decoding

END = 3
# Logits of the next token (column) after the last one (row): 2 → 4 → 5 → end, and 6 → 6 forever.
TABLE = np.full((7, 7), -9.0, "float32")
TABLE[2, 4] = TABLE[4, 5] = TABLE[5, END] = TABLE[6, 6] = 3.0
TABLE[4, 0] = 7.0  # here padding has the highest score


def scripted_step(token_ids, state, memory, is_live):
    steps = state + 1  # (batch,)
    attention_weights = tf.one_hot(steps - 1, 5)  # (batch, source)
    return tf.gather(tf.constant(TABLE), token_ids), steps, attention_weights


def search(first, limits, forbidden_ids=(0,)):
    @tf.function
    def run(first, limits):
        state = tf.zeros_like(first)
        return decoding.search(
            scripted_step,
            state,
            (),
            first,
            limits,
            sampler=decoding.GreedySampler(),
            end_id=END,
            forbidden_ids=forbidden_ids,
            return_attention_weights=True,
        )

    ids, log_probabilities, scores, attention_weights = run(tf.constant(first), tf.constant(limits))
    np.testing.assert_array_equal(log_probabilities, scores)
    return [values.numpy()[:, 0] for values in (ids, scores, attention_weights)]  # one hypothesis of each source


def log_softmax(row):
    return row - np.log(np.exp(row).sum())


def test_follows_the_best_path_and_stops_at_the_end():
    ids, scores, attention_weights = search([2, 5], [10, 10])
    assert ids.tolist() == [[4, 5, 3], [3, 0, 0]]
    expected = sum(log_softmax(TABLE[a])[b] for a, b in ((2, 4), (4, 5), (5, 3)))
    np.testing.assert_allclose(scores, [expected, log_softmax(TABLE[5])[3]], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(attention_weights[0], np.eye(3, 5))
    np.testing.assert_array_equal(attention_weights[1], np.eye(3, 5) * [[1], [0], [0]])  # nothing after the end


def test_stops_at_the_limit_of_each_sequence():
    ids, *_ = search([6, 6, 2], [2, 4, 0])
    assert ids.tolist() == [[6, 6, 0, 0], [6, 6, 6, 6], [0, 0, 0, 0]]


def test_forbidden_tokens_are_never_chosen():
    assert search([2], [2], forbidden_ids=())[0].tolist() == [[4, 0]]
    assert search([2], [2], forbidden_ids=(0,))[0].tolist() == [[4, 5]]


def test_a_sequence_does_not_depend_on_the_others():
    together = search([2, 6, 5], [9, 5, 9])
    for row, (first, limit) in enumerate(((2, 9), (6, 5), (5, 9))):
        ids, scores, _ = search([first], [limit])
        length = ids.shape[1]
        assert together[0][row, :length].tolist() == ids[0].tolist()
        assert not together[0][row, length:].any()
        assert together[1][row] == scores[0]

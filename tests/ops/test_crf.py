# SPDX-License-Identifier: Apache-2.0
"""The functions of a conditional random field against the enumeration of all tag sequences."""

import itertools

import loss_references
import numpy as np
import pytest
import references
import tensorflow as tf
from conftest import MODES, assert_close, run_with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_seq import ops


def enumerate_sequences(scores, transitions, start, end):
    """Every tag sequence of one sentence (time, tags) without masked steps, with its log-probability."""
    time, size = scores.shape
    totals = {}
    for tags in itertools.product(range(size), repeat=time):
        total = sum(scores[t, tag] for t, tag in enumerate(tags))
        total += sum(transitions[pair] for pair in itertools.pairwise(tags))
        totals[tags] = total + (start[tags[0]] + end[tags[-1]] if tags else 0)
    log_sum = np.log(sum(np.exp(total) for total in totals.values()))
    return {tags: total - log_sum for tags, total in totals.items()}


class Field:
    """A random field, and some sentences with a mask of any pattern; NaN where it masks."""

    def __init__(self, batch, time, tags, seed, scale=1.0):
        rng = np.random.default_rng(seed)
        self.mask = rng.random((batch, time)) < 0.7
        self.scores = np.where(self.mask[:, :, None], rng.normal(0, scale, (batch, time, tags)), np.nan)
        self.weights = [rng.normal(0, scale, shape) for shape in ((tags, tags), tags, tags)]
        self.tags = rng.integers(0, tags, (batch, time))

    def log_probabilities(self):
        return ops.crf_log_probabilities(self.scores, *self.weights, self.mask)

    def sentences(self):
        """For each sentence its unmasked steps and its enumeration."""
        for scores, mask in zip(self.scores, self.mask, strict=True):
            yield np.flatnonzero(mask), enumerate_sequences(scores[mask], *self.weights)


fields = st.builds(
    Field, st.integers(1, 3), st.integers(0, 5), st.integers(1, 4), st.integers(0, 2**32 - 1), st.sampled_from([1, 10])
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(fields)
def test_likelihood_best_tags_and_marginals_are_those_of_the_enumeration(field):
    log_probabilities = field.log_probabilities()
    likelihood = np.array(ops.crf_log_likelihood(log_probabilities, field.tags))
    best, best_log_probability = (np.array(x) for x in ops.crf_decode(log_probabilities))
    marginals = np.array(ops.crf_marginals(log_probabilities))
    for b, (steps, sequences) in enumerate(field.sentences()):
        np.testing.assert_allclose(likelihood[b].sum(), sequences[tuple(field.tags[b, steps])], atol=1e-9)
        expected = max(sequences, key=sequences.get)
        assert tuple(best[b, steps]) == expected
        np.testing.assert_allclose(best_log_probability[b], sequences[expected], atol=1e-9)
        of_tags = np.zeros(marginals[b].shape)
        for tags, log_probability in sequences.items():
            of_tags[steps, list(tags)] += np.exp(log_probability)
        if field.scores.shape[-1] > 1:  # with a single tag, masked steps look like the others
            np.testing.assert_allclose(marginals[b], of_tags, atol=1e-9)
    assert not np.any(best[~field.mask])
    if field.scores.shape[-1] > 1:
        np.testing.assert_array_equal(np.any(likelihood, axis=1), field.mask.any(axis=1))
        assert not np.any(likelihood[~field.mask])


def test_results_are_the_probabilities_of_each_tag_given_the_tag_before():
    """Those of a chain without masks, by conditioning in the enumeration."""
    field = Field(1, 4, 3, seed=0)
    field.mask[:] = True
    field.scores = np.random.default_rng(1).normal(size=(1, 4, 3))
    [(_, sequences)] = field.sentences()
    conditionals = np.exp(field.log_probabilities())[0]
    for t, i, j in itertools.product(range(4), range(3), range(3)):
        given = {y: p for y, p in sequences.items() if t == 0 or y[t - 1] == i}
        both = sum(np.exp(p) for y, p in given.items() if y[t] == j)
        np.testing.assert_allclose(conditionals[t, i, j], both / sum(map(np.exp, given.values())))


def log_likelihood(field):
    def run(scores, transitions, start, end):
        scores = tf.where(field.mask[:, :, None], scores, np.nan)
        log_probabilities = ops.crf_log_probabilities(scores, transitions, start, end, field.mask)
        return ops.crf_log_likelihood(log_probabilities, field.tags)

    return run


@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode):
    """Exact numerical gradients of every argument, with an upstream gradient for each step."""
    field = Field(3, 4, 3, seed=2)
    arguments = [np.nan_to_num(field.scores), *field.weights]
    [actual], gradients = run_with_gradients(log_likelihood(field), arguments, mode=mode)

    def expected(*arguments):
        return [loss_references.crf_log_likelihood(*arguments, field.mask, field.tags)]

    assert_close(actual, expected(*arguments)[0], 1e-12)
    assert_close(gradients, references.numerical_gradients(expected, arguments), 1e-10)


def test_the_gradient_of_the_likelihood_is_the_tags_minus_the_marginals():
    field = Field(3, 6, 4, seed=3)
    scores = tf.constant(np.nan_to_num(field.scores))
    with tf.GradientTape() as tape:
        tape.watch(scores)
        log_probabilities = ops.crf_log_probabilities(scores, *field.weights, field.mask)
        total = tf.reduce_sum(ops.crf_log_likelihood(log_probabilities, field.tags))
    expected = np.eye(4)[field.tags] * field.mask[:, :, None] - ops.crf_marginals(log_probabilities)
    assert_close(tape.gradient(total, scores), expected, 1e-12)


def test_long_sequences_of_large_scores_stay_exact_in_float32():
    rng = np.random.default_rng(0)
    scores, transitions = rng.normal(0, 100, (2, 1000, 5)), rng.normal(0, 100, (5, 5))
    run = tf.function(ops.crf_log_probabilities)
    exact, rounded = (
        run(tf.constant(scores, dtype), tf.constant(transitions, dtype)) for dtype in ("float64", "float32")
    )
    assert rounded.dtype == "float32"
    np.testing.assert_allclose(np.exp(rounded), np.exp(exact), atol=2e-4)
    decode = tf.function(ops.crf_decode)
    np.testing.assert_array_equal(decode(rounded)[0], decode(exact)[0])


def test_forbidden_transitions():
    """Tags that must alternate."""
    transitions = np.where(np.eye(2, dtype=bool), -np.inf, 0.0)
    log_probabilities = ops.crf_log_probabilities(np.array([[[0.0, 5.0], [0.0, 5.0], [0.0, 5.0]]]), transitions)
    assert np.array(ops.crf_decode(log_probabilities)[0]).tolist() == [[1, 0, 1]]
    assert not np.any(np.isnan(log_probabilities))


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiled_for_any_shape(jit):
    @tf.function(
        input_signature=[tf.TensorSpec((None, None, 3), tf.float64), tf.TensorSpec((None, None), tf.bool)],
        jit_compile=jit,
    )
    def run(scores, mask):
        log_probabilities = ops.crf_log_probabilities(scores, field.weights[0], mask=mask)
        likelihood = ops.crf_log_likelihood(log_probabilities, tf.zeros_like(scores[:, :, 0], tf.int32))
        return log_probabilities, likelihood, *ops.crf_decode(log_probabilities), ops.crf_marginals(log_probabilities)

    for shape in ((2, 4), (3, 0), (0, 2), (1, 1)):
        field = Field(*shape, 3, seed=0)
        compiled = run(field.scores, field.mask)
        log_probabilities = ops.crf_log_probabilities(field.scores, field.weights[0], mask=field.mask)
        assert_close(compiled[0], log_probabilities, 1e-12)
        assert_close(compiled[4], ops.crf_marginals(log_probabilities), 1e-12)
        np.testing.assert_array_equal(compiled[2], ops.crf_decode(log_probabilities)[0])


def test_a_tag_that_forbids_all_others_by_a_large_score_hides_no_step():
    scores, transitions = np.zeros((1, 3, 3), "float32"), np.zeros((3, 3), "float32")
    transitions[0] = -1e30
    log_probabilities = ops.crf_log_probabilities(scores, transitions)
    np.testing.assert_allclose(np.sum(ops.crf_marginals(log_probabilities), axis=-1), 1, rtol=1e-6)
    # 2 * 2 * 3 sequences are left, all alike.
    likelihood = ops.crf_log_likelihood(log_probabilities, np.array([[1, 2, 0]]))
    np.testing.assert_allclose(np.sum(likelihood), -np.log(12), rtol=1e-6)


@pytest.mark.parametrize("tag", [3, -1, -100, 99])
@pytest.mark.parametrize("jit", [False, True])
def test_tags_that_do_not_exist_have_no_likelihood(tag, jit):
    scores, mask = np.zeros((2, 4, 3), "float32"), np.array([[1, 1, 1, 1], [1, 0, 1, 0]], bool)
    tags = np.array([[0, tag, 1, 2], [0, tag, 1, tag]])  # those of the second sentence are masked
    compute = tf.function(ops.crf_log_likelihood, jit_compile=jit)
    likelihood = compute(ops.crf_log_probabilities(scores, np.zeros((3, 3), "float32"), mask=mask), tf.constant(tags))
    assert np.isnan(likelihood).tolist() == [[False, True, True, False], [False] * 4]


def test_the_best_tags_of_a_long_sequence_are_those_of_float64():
    rng = np.random.default_rng(0)
    scores, transitions = rng.normal(0, 0.1, (1, 3000, 5)), rng.normal(0, 0.1, (5, 5))
    decode = tf.function(lambda *x: ops.crf_decode(ops.crf_log_probabilities(*x))[0])
    tags = decode(*(tf.constant(x, "float32") for x in (scores, transitions)))
    np.testing.assert_array_equal(tags, decode(tf.constant(scores), tf.constant(transitions)))


def test_a_mask_of_another_shape():
    for shape in ((1, 4), (2, 1), (2, 4, 1), (4,)):
        with pytest.raises(ValueError, match=r"`mask` must have shape \(batch, time\) = \(2, 4\)"):
            ops.crf_log_probabilities(np.zeros((2, 4, 3)), np.zeros((3, 3)), mask=np.ones(shape, bool))

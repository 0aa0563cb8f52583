# SPDX-License-Identifier: Apache-2.0
"""Samplers that draw at random: their frequencies against exact probabilities, and what their noise depends on."""

import collections
import math

import numpy as np
import pytest
import scripted_models
import tensorflow as tf
from scripted_models import END, Rules, keep_all, keep_top_k, keep_top_p

from keras_seq.decoding import GreedySampler, RandomSampler, TopKSampler, TopPSampler

NO_RULES, BY_PREFIX = Rules(), Rules(by_prefix=True)
# Fixed seeds: each test gives the same p-value every time. Below 1 in 1000 something is wrong.
SIGNIFICANCE = 1e-3
DRAWS = 20000

CASES = [
    (RandomSampler(), keep_all, 1.0, NO_RULES),
    (RandomSampler(temperature=0.5), keep_all, 0.5, BY_PREFIX),
    (RandomSampler(temperature=3.0), keep_all, 3.0, NO_RULES),
    (TopKSampler(k=2), keep_top_k(2), 1.0, BY_PREFIX),
    (TopKSampler(k=4, temperature=1.7), keep_top_k(4), 1.7, NO_RULES),
    (TopPSampler(p=0.6), keep_top_p(0.6), 1.0, NO_RULES),
    (TopPSampler(p=0.9, temperature=2.0), keep_top_p(0.9), 2.0, BY_PREFIX),
    (TopPSampler(p=1.0), keep_all, 1.0, NO_RULES),
]
RANDOM_SAMPLERS = [RandomSampler(0.8), TopKSampler(3), TopPSampler(0.8)]


def name(value):
    """The name of a case in pytest's output."""
    return type(value).__name__ if hasattr(value, "num_beams") else None


def repeat_source(model, source, times):
    return model.take(np.full(times, source))


def pad_time(token_ids, time):
    """`token_ids` (sources, n, shorter time), followed by 0 up to `time` steps."""
    return np.pad(token_ids, ((0, 0), (0, 0), (0, time - token_ids.shape[-1])))


def assert_frequencies(rows, probabilities):
    """The rows of tokens could have been drawn from the probabilities of a dictionary, by a chi-square test."""
    counts = collections.Counter(scripted_models.cut(row) for row in rows)
    assert set(counts) <= set(probabilities)  # nothing else is ever drawn
    observed = np.array([counts.get(tokens, 0) for tokens in probabilities])
    expected = len(rows) * np.array(list(probabilities.values()))
    assert scripted_models.chi_square_tail(observed, expected) > SIGNIFICANCE


@pytest.mark.parametrize(("sampler", "keep", "temperature", "rules"), CASES, ids=name)
def test_sequences_are_drawn_with_their_exact_probabilities(sampler, keep, temperature, rules):
    models = scripted_models.draw_model(20, 4, 7, limits=[3], scale=1.2)
    run = scripted_models.compile_search(sampler, rules)
    for source in range(4):
        probabilities = scripted_models.sequence_probabilities(models, source, rules, keep, temperature)
        assert len(probabilities) > 2
        np.testing.assert_allclose(sum(probabilities.values()), 1.0)
        results = run(repeat_source(models, source, DRAWS), seed=(3, source))
        assert_frequencies(results.token_ids[:, 0], probabilities)
    assert run.traces == 1


@pytest.mark.parametrize("sampler", RANDOM_SAMPLERS, ids=name)
def test_log_probabilities_are_those_of_the_model(sampler):
    model = scripted_models.draw_model(21, 200, 9, limits=range(1, 9))
    results = scripted_models.compile_search(sampler, BY_PREFIX, return_attention_weights=True)(model)
    assert results.token_ids.shape[1] == sampler.num_return_sequences == 1
    for source in range(len(model.limits)):
        tokens = scripted_models.cut(results.token_ids[source, 0])
        assert BY_PREFIX.permit(tokens)
        assert len(tokens) == model.limits[source] or tokens[-1] == END
        expected = model.score(source, tokens)
        np.testing.assert_allclose(results.log_probabilities[source, 0], expected, rtol=1e-5, atol=1e-5)
        weights = results.attention_weights[source, 0]
        np.testing.assert_array_equal(weights[: len(tokens)], model.attention_weights(source, tokens))
        assert not weights[len(tokens) :].any()


def test_one_candidate_or_a_tiny_temperature_or_mass_is_greedy_search():
    model = scripted_models.draw_model(22, 100, 9, limits=range(1, 9))
    greedy = scripted_models.compile_search(GreedySampler(), BY_PREFIX)(model)
    for sampler in (TopKSampler(1), TopPSampler(1e-6), RandomSampler(1e-5)):
        results = scripted_models.compile_search(sampler, BY_PREFIX)(model, seed=(1, 2))
        np.testing.assert_array_equal(results.token_ids, greedy.token_ids)
        np.testing.assert_array_equal(results.log_probabilities, greedy.log_probabilities)


def test_top_p_among_the_top_k():
    model = scripted_models.draw_model(23, 1, 30, limits=[1], scale=0.3)
    run = scripted_models.compile_search(TopPSampler(p=0.999, k=4), NO_RULES)
    drawn = set(run(repeat_source(model, 0, 2000)).token_ids[:, 0, 0].tolist())
    assert drawn == set(np.argsort(-model.log_probabilities(0, ())[1:])[:4] + 1)


def test_top_p_counts_probabilities_of_equal_logits():
    # Probabilities 1/4 each: three tokens reach 0.6, two reach 0.5 exactly.
    model = scripted_models.draw_model(24, 1, 5, limits=[1])
    model.logits[:] = [-math.inf, 0.0, 0.0, 0.0, 0.0]
    for p, size in ((0.6, 3), (0.5, 2), (0.2, 1), (0.95, 4)):
        results = scripted_models.compile_search(TopPSampler(p=p), NO_RULES)(repeat_source(model, 0, 500))
        assert len(set(results.token_ids[:, 0, 0].tolist())) == size


def test_top_k_keeps_no_more_than_k_equal_logits():
    model = scripted_models.draw_model(25, 1, 6, limits=[1])
    model.logits[:] = 0.0
    results = scripted_models.compile_search(TopKSampler(k=3), NO_RULES)(repeat_source(model, 0, 500))
    assert len(set(results.token_ids[:, 0, 0].tolist())) == 3


def test_draws_of_neighbouring_positions_steps_and_seeds_are_independent():
    model = scripted_models.draw_model(26, 1, 4, limits=[2])
    model.logits[:] = np.log([0.4, 1e-30, 0.35, 0.25])  # tokens 0, 2, 3 whatever came before
    run = scripted_models.compile_search(RandomSampler(), Rules(()))
    seeds = [(0, 0), (0, 1), (1, 0), (1, 1), (-1, 2**31 - 1), (-(2**31), 7)]
    draws = np.stack([run(repeat_source(model, 0, DRAWS), seed=seed).token_ids[:, 0] for seed in seeds])
    probabilities = np.array([0.4, 0.0, 0.35, 0.25])
    pairs = {
        "positions": (draws[:, :-1:2, 0], draws[:, 1::2, 0]),
        "distant positions": (draws[:, : DRAWS // 2, 0], draws[:, DRAWS // 2 :, 0]),
        "steps": (draws[..., 0], draws[..., 1]),
        "position and step": (draws[:, 1:, 0], draws[:, :-1, 1]),
        "first word of the seed": (draws[0:2, :, 0], draws[2:4, :, 0]),
        "second word of the seed": (draws[0:4:2, :, 0], draws[1:4:2, :, 0]),
        "seed and position": (draws[0, 1:, 0], draws[1, :-1, 0]),
        "extreme seeds": (draws[4, :, 0], draws[5, :, 0]),
    }
    for what, (first, second) in pairs.items():
        table = np.zeros((4, 4))
        np.add.at(table, (first.ravel(), second.ravel()), 1)
        expected = first.size * np.outer(probabilities, probabilities)
        assert scripted_models.chi_square_tail(table.ravel(), expected.ravel()) > SIGNIFICANCE, what


def test_draws_from_a_large_vocabulary_are_uniform():
    model = scripted_models.draw_model(27, 1, 2, limits=[1])
    vocabulary, draws = 5000, 2000

    def step(tokens, state, memory, is_live):
        rows = tf.shape(tokens)[0]
        return tf.zeros((rows, vocabulary)), state, tf.zeros((rows, 0))

    for sampler in (RandomSampler(), TopKSampler(vocabulary)):
        run = scripted_models.compile_search(sampler, Rules(()), step=step)
        tokens = run(repeat_source(model, 0, draws)).token_ids[:, 0, 0]
        for bin_of in (np.arange(vocabulary) // 100, np.arange(vocabulary) % 50, np.arange(vocabulary) % 64):
            expected = np.bincount(bin_of) * draws / vocabulary
            observed = np.bincount(bin_of[tokens], minlength=len(expected))
            assert scripted_models.chi_square_tail(observed, expected) > SIGNIFICANCE


@pytest.mark.parametrize("sampler", RANDOM_SAMPLERS, ids=name)
def test_noise_depends_only_on_seed_position_and_step(sampler):
    model = scripted_models.draw_model(28, 50, 9, limits=[6])
    run = scripted_models.compile_search(sampler, NO_RULES)
    together = run(model, seed=(5, 6)).token_ids
    assert (together != pad_time(run(model, seed=(5, 7)).token_ids, together.shape[-1])).any()
    assert (together != pad_time(run(model, seed=(4, 6)).token_ids, together.shape[-1])).any()

    order = np.random.default_rng(0).permutation(50)[:20]
    some = run(model.take(order), seed=(5, 6), positions=order).token_ids
    np.testing.assert_array_equal(pad_time(some, together.shape[-1]), together[order])

    longer = run(model._replace(limits=model.limits + 5), seed=(5, 6)).token_ids[..., : together.shape[-1]]
    np.testing.assert_array_equal(longer, together)

    far = run(repeat_source(model, 0, 30), positions=np.full(30, 2**31 - 1)).token_ids
    assert (far == far[0]).all()  # the same position: the same noise


@pytest.mark.parametrize("mode", ["eager", pytest.param("jit", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sampler", RANDOM_SAMPLERS, ids=name)
def test_the_same_seed_draws_the_same_tokens_in_every_mode(sampler, mode):
    model = scripted_models.draw_model(29, 40, 9, limits=range(6))
    graph = scripted_models.compile_search(sampler, BY_PREFIX)(model, seed=(7, 8))
    other = scripted_models.compile_search(sampler, BY_PREFIX, mode=mode)(model, seed=(7, 8))
    np.testing.assert_array_equal(pad_time(graph.token_ids, 5), pad_time(other.token_ids, 5))
    np.testing.assert_allclose(graph.log_probabilities, other.log_probabilities, rtol=1e-5, atol=1e-5)

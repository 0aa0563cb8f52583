# SPDX-License-Identifier: Apache-2.0
"""Greedy and beam search on hundreds of scripted models, against enumeration and against a slow beam search."""

import math

import numpy as np
import pytest
import scripted_models
import tensorflow as tf
from scripted_models import END, Penalties, Rules

from keras_seq.decoding import BeamSampler, GreedySampler
from keras_seq.decoding.loop import search

NO_RULES, BY_PREFIX = Rules(), Rules(by_prefix=True)
PENALTIES = [Penalties(), Penalties(length=1.0), Penalties(length=0.6, coverage=0.3)]


def list_hypotheses(results, source):
    """The hypotheses of one source as pairs (score, tokens), without the rows that only fill the result."""
    scores = results.scores[source]
    return [
        (float(score), scripted_models.cut(row))
        for score, row in zip(scores, results.token_ids[source], strict=True)
        if score > -math.inf
    ]


def assert_equal_rankings(actual, expected):
    """The same sequences in the same order with the same scores."""
    assert [tokens for _, tokens in actual] == [tokens for _, tokens in expected]
    np.testing.assert_allclose([s for s, _ in actual], [s for s, _ in expected], rtol=1e-5, atol=1e-5)


def assert_consistent(model, results, rules, penalties):
    """What holds for the results of every search, whatever its strategy."""
    sources, n, time = results.token_ids.shape
    assert results.token_ids.dtype == "int32"
    assert results.log_probabilities.dtype == results.scores.dtype == "float32"
    assert results.log_probabilities.shape == results.scores.shape == (sources, n)
    assert time <= max(model.limits, default=0)
    assert (results.scores[:, :-1] >= results.scores[:, 1:]).all()  # best first
    for source in range(sources):
        hypotheses = list_hypotheses(results, source)
        assert len({tokens for _, tokens in hypotheses}) == len(hypotheses)
        for i, (score, tokens) in enumerate(hypotheses):
            limit = model.limits[source]
            assert len(tokens) <= limit
            assert len(tokens) == limit or tokens[-1] == END
            assert rules.permit(tokens)
            assert not results.token_ids[source, i, len(tokens) :].any()
            expected = model.score(source, tokens)
            np.testing.assert_allclose(results.log_probabilities[source, i], expected, rtol=1e-5, atol=1e-5)
            processed = sum(
                rules.apply(model.log_probabilities(source, tokens[:t]), tokens[:t])[token]
                for t, token in enumerate(tokens)
            )
            expected = penalties.score(model, source, scripted_models.Hypothesis(tokens, processed))
            np.testing.assert_allclose(score, expected, rtol=1e-5, atol=1e-5)
            if results.attention_weights is not None:
                weights = results.attention_weights[source, i]  # (time, source positions)
                np.testing.assert_array_equal(weights[: len(tokens)], model.attention_weights(source, tokens))
                assert not weights[len(tokens) :].any()
        for i in range(len(hypotheses), n):  # there were fewer than n
            assert not results.token_ids[source, i].any()
            assert results.scores[source, i] == results.log_probabilities[source, i] == -math.inf
            assert results.attention_weights is None or not results.attention_weights[source, i].any()


@pytest.mark.parametrize("penalties", [*PENALTIES, Penalties(length=-1.0), Penalties(length=3.0, coverage=2.0)])
@pytest.mark.parametrize("by_prefix", [False, True])
def test_a_beam_as_wide_as_the_space_ranks_all_sequences(penalties, by_prefix):
    rules = Rules(tuple(token for token in range(40) if token not in (END, 2, 3, 4)), by_prefix)
    model = scripted_models.draw_model(1, 40, 40, limits=[1, 2, 3, 3])  # at most 1 + 3 + 9 * 4 = 40 sequences
    sampler = BeamSampler(40, penalties.length, penalties.coverage, num_return_sequences=40)
    results = scripted_models.compile_search(sampler, rules)(model)
    for source in range(len(model.limits)):
        hypotheses = scripted_models.enumerate_hypotheses(model, source, rules)
        expected = scripted_models.rank(model, source, hypotheses, penalties)
        assert_equal_rankings(list_hypotheses(results, source), expected)


@pytest.mark.parametrize("penalties", PENALTIES)
@pytest.mark.parametrize(("num_beams", "rules"), [(2, NO_RULES), (3, BY_PREFIX), (6, NO_RULES)])
def test_beam_search_equals_a_slow_beam_search(num_beams, rules, penalties):
    model = scripted_models.draw_model(num_beams, 60, 7, limits=range(1, 9), scale=1.5)
    sampler = BeamSampler(num_beams, penalties.length, penalties.coverage, num_return_sequences=num_beams)
    results = scripted_models.compile_search(sampler, rules, return_attention_weights=True)(model)
    assert_consistent(model, results, rules, penalties)
    for source in range(len(model.limits)):
        expected = scripted_models.beam_search(model, source, rules, num_beams, penalties)
        assert_equal_rankings(list_hypotheses(results, source), expected[:num_beams])


@pytest.mark.parametrize("num_return_sequences", [1, 3])
def test_fewer_sequences_returned_are_the_first_of_the_n_best(num_return_sequences):
    model = scripted_models.draw_model(3, 100, 9, limits=range(1, 12))
    n_best = scripted_models.compile_search(BeamSampler(4, 0.8, num_return_sequences=4), NO_RULES)(model)
    sampler = BeamSampler(4, 0.8, num_return_sequences=num_return_sequences)
    results = scripted_models.compile_search(sampler, NO_RULES)(model)
    for source in range(len(model.limits)):
        expected = list_hypotheses(n_best, source)[:num_return_sequences]
        assert_equal_rankings(list_hypotheses(results, source), expected)


@pytest.mark.parametrize("rules", [NO_RULES, BY_PREFIX])
def test_one_beam_is_greedy_search(rules):
    model = scripted_models.draw_model(4, 200, 8, limits=range(1, 10))
    greedy = scripted_models.compile_search(GreedySampler(), rules, return_attention_weights=True)(model)
    beam = scripted_models.compile_search(BeamSampler(1), rules, return_attention_weights=True)(model)
    for actual, expected in zip(beam, greedy, strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert_consistent(model, greedy, rules, Penalties())
    for source in range(len(model.limits)):
        expected = scripted_models.beam_search(model, source, rules, 1, Penalties())[0]
        assert_equal_rankings(list_hypotheses(greedy, source), [expected])


@pytest.mark.parametrize("num_groups", [2, 3, 6])
@pytest.mark.parametrize(("diversity_penalty", "penalties"), [(0.7, PENALTIES[0]), (3.0, PENALTIES[2])])
def test_diverse_groups_equal_a_slow_search(num_groups, diversity_penalty, penalties):
    model = scripted_models.draw_model(5, 60, 9, limits=range(1, 8), scale=1.5)
    options = {"num_groups": num_groups, "diversity_penalty": diversity_penalty}
    sampler = BeamSampler(6, penalties.length, penalties.coverage, num_return_sequences=6, **options)
    results = scripted_models.compile_search(sampler, NO_RULES, return_attention_weights=True)(model)
    assert_consistent(model, results, NO_RULES, penalties)
    for source in range(len(model.limits)):
        expected = scripted_models.beam_search(model, source, NO_RULES, 6, penalties, **options)
        assert_equal_rankings(list_hypotheses(results, source), expected[:6])


def test_groups_without_diversity_return_each_sequence_once():
    model = scripted_models.draw_model(6, 60, 9, limits=range(1, 8))
    sampler = BeamSampler(6, num_return_sequences=6, num_groups=3)
    results = scripted_models.compile_search(sampler, NO_RULES)(model)
    assert_consistent(model, results, NO_RULES, Penalties())
    for source in range(len(model.limits)):
        expected = scripted_models.beam_search(model, source, NO_RULES, 2, Penalties())
        assert_equal_rankings(list_hypotheses(results, source)[:2], expected[:2])


def test_a_large_diversity_penalty_makes_groups_choose_different_tokens():
    model = scripted_models.draw_model(7, 60, 12, limits=[3], scale=0.5)
    model.logits[:, :, END] = -20.0
    sampler = BeamSampler(4, num_return_sequences=4, num_groups=4, diversity_penalty=1000.0)
    results = scripted_models.compile_search(sampler, NO_RULES)(model)
    for rows in results.token_ids:
        assert [len(set(tokens)) for tokens in rows.T] == [4, 4, 4]


def make_step(table):
    """A step function whose next token depends only on the last one: `table` is {token: {next token: probability}}."""
    size = 1 + max(max(following) for following in table.values())
    logits = np.full((size, size), -math.inf, "float32")
    for token, following in table.items():
        for next_token, probability in following.items():
            logits[token, next_token] = math.log(probability)

    def step(tokens, state, memory, is_live):
        return tf.gather(logits, tokens), state, tf.zeros((tf.shape(tokens)[0], 0))

    return step


def search_table(table, sampler, limit=5, **options):
    """Search one source of `make_step`, from token 2."""
    first_tokens, limits = tf.constant([2]), tf.constant([limit])
    return search(make_step(table), (), (), first_tokens, limits, sampler=sampler, end_id=END, **options)


def test_length_penalty_by_hand():
    # [END]: log 0.4. [3, END]: log 0.3. [3, 4, END]: log 0.3.
    table = {2: {END: 0.4, 3: 0.6}, 3: {END: 0.5, 4: 0.5}, 4: {END: 1.0}}
    sums = {(END, 0, 0): math.log(0.4), (3, END, 0): math.log(0.3), (3, 4, END): math.log(0.3)}

    hypotheses = search_table(table, BeamSampler(3, length_penalty=0.0, num_return_sequences=3))
    assert tuple(hypotheses.token_ids[0, 0].numpy()) == (END, 0, 0)
    np.testing.assert_allclose(hypotheses.scores[0], [-0.916291, -1.203973, -1.203973], rtol=1e-5)

    # Divided by 6 / 6, 7 / 6 and 8 / 6: the longest is best.
    hypotheses = search_table(table, BeamSampler(3, length_penalty=1.0, num_return_sequences=3))
    rows = [tuple(row) for row in hypotheses.token_ids[0].numpy()]
    assert rows == [(3, 4, END), (END, 0, 0), (3, END, 0)]
    np.testing.assert_allclose(hypotheses.scores[0], [-0.902980, -0.916291, -1.031977], rtol=1e-5)
    np.testing.assert_allclose(hypotheses.log_probabilities[0], [sums[row] for row in rows], rtol=1e-5)


def test_coverage_penalty_by_hand():
    # The prefix (2) attends to position 0, (2, 3) to position 1, each by 0.8, and to the other by 0.2.
    table = {2: {END: 0.6, 3: 0.4}, 3: {END: 1.0}}

    def step(tokens, state, memory, is_live):
        logits, state, _ = make_step(table)(tokens, state, memory, is_live)
        return logits, state, tf.gather([[0.0, 0.0], [0.0, 0.0], [0.8, 0.2], [0.2, 0.8]], tokens)

    first_tokens, limits = tf.constant([2]), tf.constant([5])
    sampler = BeamSampler(2, coverage_penalty=0.5, num_return_sequences=2)
    hypotheses = search(step, (), (), first_tokens, limits, sampler=sampler, end_id=END)
    # [3, END] covers both positions by 1; [END] has log 0.6 + 0.5 (log 0.8 + log 0.2) = log 0.24.
    assert hypotheses.token_ids[0].numpy().tolist() == [[3, END], [END, 0]]
    np.testing.assert_allclose(hypotheses.scores[0], [math.log(0.4), math.log(0.24)], rtol=1e-5)
    np.testing.assert_allclose(hypotheses.log_probabilities[0], [math.log(0.4), math.log(0.6)], rtol=1e-5)


def test_a_beam_finds_what_greedy_search_misses():
    table = {2: {3: 0.6, 4: 0.4}, 3: {END: 0.5, 5: 0.5}, 4: {END: 1.0}, 5: {END: 1.0}}
    assert search_table(table, GreedySampler()).token_ids[0, 0, 0] == 3
    hypotheses = search_table(table, BeamSampler(2))
    assert hypotheses.token_ids[0].numpy().tolist() == [[4, END]]
    np.testing.assert_allclose(hypotheses.log_probabilities, [[math.log(0.4)]], rtol=1e-5)


def test_tokens_that_are_impossible_are_not_hypotheses():
    hypotheses = search_table({2: {3: 1.0}, 3: {END: 1.0}}, BeamSampler(4, num_return_sequences=4))
    assert hypotheses.token_ids[0].numpy().tolist() == [[3, END]] + 3 * [[0, 0]]
    assert hypotheses.scores.numpy().tolist() == [[0.0, -math.inf, -math.inf, -math.inf]]
    assert hypotheses.log_probabilities.numpy().tolist() == [[0.0, -math.inf, -math.inf, -math.inf]]


SAMPLERS = [GreedySampler(), BeamSampler(1), BeamSampler(3, 0.5, num_return_sequences=3)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_where_nothing_is_allowed_the_sequence_ends(sampler):
    def allow_two_tokens(log_probabilities, tokens, step):
        return tf.where(step < 2, log_probabilities, -math.inf)

    model = scripted_models.draw_model(8, 30, 6, limits=[5])
    model.logits[:, :, END] = -8.0
    results = scripted_models.compile_search(sampler, NO_RULES, processors=(allow_two_tokens,))(model)
    for source in range(30):
        tokens = scripted_models.cut(results.token_ids[source, 0])
        assert tokens[-1] == END
        assert len(tokens) == 3
        np.testing.assert_allclose(results.log_probabilities[source, 0], model.score(source, tokens), rtol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_limits_of_0_and_1(sampler):
    model = scripted_models.draw_model(9, 30, 6, limits=[0, 1, 4])
    results = scripted_models.compile_search(sampler, NO_RULES, return_attention_weights=True)(model)
    for source in np.flatnonzero(model.limits == 0):
        assert not results.token_ids[source].any()
        assert not results.attention_weights[source].any()
        assert results.log_probabilities[source, 0] == 0.0
        assert results.scores[source, 0] == 0.0
        assert (results.scores[source, 1:] == -math.inf).all()
    rest = np.flatnonzero(model.limits)
    for source in rest[model.limits[rest] == 1]:
        best = NO_RULES.apply(model.log_probabilities(source, ()), ()).argsort()[::-1][: sampler.num_return_sequences]
        assert results.token_ids[source, :, 0].tolist() == best.tolist()
    without = scripted_models.compile_search(sampler, NO_RULES, return_attention_weights=True)(model.take(rest))
    np.testing.assert_array_equal(results.token_ids[rest], without.token_ids)

    only_zeros = scripted_models.compile_search(sampler, NO_RULES)(model.take(np.flatnonzero(model.limits == 0)))
    assert only_zeros.token_ids.shape[1:] == (sampler.num_return_sequences, 0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_batch_without_sources(sampler):
    model = scripted_models.draw_model(10, 2, 6, limits=[4]).take(np.zeros(0, int))
    results = scripted_models.compile_search(sampler, NO_RULES, return_attention_weights=True)(model)
    n = sampler.num_return_sequences
    assert results.token_ids.shape == (0, n, 0)
    assert results.log_probabilities.shape == results.scores.shape == (0, n)
    assert results.attention_weights.shape == (0, n, 0, 3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_source_without_positions(sampler):
    model = scripted_models.draw_model(11, 20, 6, limits=[4], positions=0)
    results = scripted_models.compile_search(sampler, NO_RULES, return_attention_weights=True)(model)
    assert results.attention_weights.shape[-1] == 0
    penalties = Penalties(getattr(sampler, "length_penalty", 0.0))
    assert_consistent(model, results, NO_RULES, penalties)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_logits_of_any_dtype(sampler, dtype):
    def step(tokens, state, memory, is_live):
        logits, *rest = scripted_models.scripted_step(tokens, state, memory, is_live)
        return tf.cast(logits, dtype), *rest

    model = scripted_models.draw_model(12, 20, 6, limits=range(1, 5))
    model = model._replace(logits=np.round(model.logits * 8) / 8 + np.linspace(0, 0.03, 6, dtype="float32"))
    model = model._replace(logits=tf.cast(tf.cast(model.logits, dtype), "float32").numpy())
    results = scripted_models.compile_search(sampler, NO_RULES, step=step)(model)
    assert_consistent(model, results, NO_RULES, Penalties(getattr(sampler, "length_penalty", 0.0)))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_enormous_limit_costs_nothing_if_sequences_end(sampler):
    model = scripted_models.draw_model(13, 4, 6, limits=[2**31 - 1])
    model.logits[:, :, END] += 6.0
    results = scripted_models.compile_search(sampler, NO_RULES, return_attention_weights=True)(model)
    assert results.token_ids.shape[-1] < 100
    assert results.token_ids[:, 0].any(axis=-1).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_long_outputs_are_kept_whole(sampler):
    model = scripted_models.draw_model(14, 3, 6, limits=[300])
    model.logits[:, :, END] = -9.0
    results = scripted_models.compile_search(sampler, NO_RULES, return_attention_weights=True)(model)
    assert results.token_ids.shape[-1] == 300
    for source in range(3):
        tokens = scripted_models.cut(results.token_ids[source, 0])
        assert len(tokens) > 100
        expected = model.attention_weights(source, tokens)
        np.testing.assert_array_equal(results.attention_weights[source, 0, : len(tokens)], expected)
        np.testing.assert_allclose(results.log_probabilities[source, 0], model.score(source, tokens), rtol=1e-5)


def test_no_gradients_flow_through_a_search():
    model = scripted_models.draw_model(15, 3, 6, limits=[4])
    state, memory, first_tokens, limits = tf.nest.map_structure(tf.convert_to_tensor, model.search_arguments)
    for sampler in SAMPLERS:
        with tf.GradientTape() as tape:
            tape.watch(memory)
            arguments = (scripted_models.scripted_step, state, memory, first_tokens, limits)
            hypotheses = search(*arguments, sampler=sampler, end_id=END, return_attention_weights=True)
        outputs = [hypotheses.log_probabilities, hypotheses.scores, hypotheses.attention_weights]
        assert tape.gradient(outputs, memory) == (None, None)

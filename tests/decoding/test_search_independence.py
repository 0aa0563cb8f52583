# SPDX-License-Identifier: Apache-2.0
"""What a source's result does not depend on: its batch mates, their order and limits, and how the search is run."""

import numpy as np
import pytest
import scripted_models
from conftest import mostly_slow
from scripted_models import Rules

from keras_seq.decoding import BeamSampler, GreedySampler, RandomSampler, TopKSampler, TopPSampler

RULES = Rules(by_prefix=True)
SAMPLERS = [
    GreedySampler(),
    BeamSampler(3, 0.7, 0.2, num_return_sequences=2),
    BeamSampler(4, 0.7, num_return_sequences=4, num_groups=2, diversity_penalty=0.5),
    RandomSampler(),
    TopKSampler(3),
    TopPSampler(0.8),
]
NAMES = ["greedy", "beam", "groups", "random", "top_k", "top_p"]
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=NAMES)
some_samplers = pytest.mark.parametrize("sampler", mostly_slow(SAMPLERS, every=2), ids=NAMES)  # the others are slow


def pad(results, time):
    """Results with `time` steps."""

    def pad_axis_2(array):
        return np.pad(array, [(0, time - array.shape[2]) if axis == 2 else (0, 0) for axis in range(array.ndim)])

    return results._replace(
        token_ids=pad_axis_2(results.token_ids), attention_weights=pad_axis_2(results.attention_weights)
    )


def assert_same(actual, expected, sources=slice(None)):
    """The results of all sources of `actual` equal those of the chosen sources of `expected`.

    The last bits of sums may differ, as `tf.nn.log_softmax` adds up rows in an order that depends on their number.
    """
    actual = pad(actual, expected.token_ids.shape[-1])
    np.testing.assert_array_equal(actual.token_ids, expected.token_ids[sources])
    for value, wanted in zip(actual[1:], expected[1:], strict=True):
        np.testing.assert_allclose(value, wanted[sources], rtol=1e-6, atol=1e-6)


@some_samplers
def test_a_result_does_not_depend_on_batch_mates(sampler):
    model = scripted_models.draw_model(30, 60, 9, limits=[0, 1, 3, 8, 20])
    run = scripted_models.make_search(sampler, RULES, return_attention_weights=True)
    together = run(model)
    random = np.random.default_rng(1)
    for size in (1, 7, 60):
        sources = random.permutation(60)[:size]
        assert_same(run(model.take(sources), positions=sources), together, sources)


@some_samplers
def test_a_result_does_not_depend_on_the_limits_of_batch_mates(sampler):
    model = scripted_models.draw_model(31, 40, 9, limits=[4])
    run = scripted_models.make_search(sampler, RULES, return_attention_weights=True)
    expected = run(model)
    mates = np.arange(40) % 2 == 1
    longest = run(model._replace(limits=np.where(mates, 40, 4).astype("int32")))
    shortest = run(model._replace(limits=np.where(mates, 0, 4).astype("int32")))
    for results in (longest, shortest):
        for value, wanted in zip(results, expected, strict=True):
            value = value[~mates, :, :4] if value.ndim > 2 else value[~mates]
            np.testing.assert_array_equal(value, wanted[~mates])


@each_sampler
def test_dropping_sources_that_have_ended_changes_nothing(sampler):
    model = scripted_models.draw_model(32, 60, 9, limits=[0, 1, 3, 8, 20])
    kept = scripted_models.make_search(sampler, RULES, return_attention_weights=True, drop_ended=False)(model)
    dropped = scripted_models.make_search(sampler, RULES, return_attention_weights=True, drop_ended=True)(model)
    assert_same(dropped, kept)


@each_sampler
def test_asking_for_attention_weights_changes_nothing(sampler):
    model = scripted_models.draw_model(33, 30, 9, limits=range(7))
    with_weights = scripted_models.make_search(sampler, RULES, return_attention_weights=True)(model)
    without = scripted_models.make_search(sampler, RULES)(model)
    assert without.attention_weights is None
    for value, wanted in zip(without[:3], with_weights[:3], strict=True):
        np.testing.assert_array_equal(value, wanted)


@each_sampler
@pytest.mark.parametrize(
    ("mode", "drop_ended"),
    [
        ("graph", True),
        pytest.param("graph", False, marks=pytest.mark.slow),
        pytest.param("jit", False, marks=pytest.mark.slow),
    ],
)
def test_a_search_with_one_seed_gives_the_same_in_every_mode(sampler, mode, drop_ended):
    options = {"return_attention_weights": True, "drop_ended": drop_ended}
    model = scripted_models.draw_model(34, 20, 9, limits=range(7))
    eager = scripted_models.make_search(sampler, RULES, **options)(model, seed=(7, -8))
    other = scripted_models.make_search(sampler, RULES, mode=mode, max_steps=6, **options)(model, seed=(7, -8))
    np.testing.assert_array_equal(pad(other, 6).token_ids, pad(eager, 6).token_ids)
    for value, wanted in zip(pad(other, 6), pad(eager, 6), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


def test_nothing_retraces_over_100_calls_of_different_sizes():
    run = scripted_models.make_search(BeamSampler(2), RULES, mode="graph")
    model = scripted_models.draw_model(35, 100, 9, limits=range(30))
    for size in range(100):
        assert len(run(model.take(np.arange(size))).token_ids) == size
    assert run.traces == 1

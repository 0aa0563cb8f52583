# SPDX-License-Identifier: Apache-2.0
"""Samplers as objects, by name and from files, their arguments, and one search in every mode."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mostly_slow

from keras_seq import decoding
from keras_seq.decoding import BeamSampler, GreedySampler, RandomSampler, TopKSampler, TopPSampler

END = 1
VOCABULARY = 6
TABLES = np.random.default_rng(0).normal(size=(9, VOCABULARY, VOCABULARY)).astype("float32")  # (sources, ...)
SAMPLERS = {
    "greedy": GreedySampler(),
    "random": RandomSampler(temperature=1.5, seed=3),
    "top_k": TopKSampler(3, seed=4),
    "top_p": TopPSampler(0.8, seed=5),
    "beam": BeamSampler(3, length_penalty=0.6, coverage_penalty=0.1, num_return_sequences=2),
    "groups": BeamSampler(4, num_return_sequences=4, num_groups=2, diversity_penalty=0.4),
}


def step(tokens, state, memory, is_live):
    """Each source has its own logits of the next token after the last one, and attends to the step's position."""
    (tables,) = memory
    rows = tf.range(tf.shape(tokens)[0])
    beams = tf.shape(tokens)[0] // tf.maximum(tf.shape(tables)[0], 1)
    logits = tf.gather_nd(tables, tf.stack([rows // tf.maximum(beams, 1), tokens], axis=1))
    return logits, [state[0] + 1], 0.8 * tf.one_hot(state[0] % 4, 4) + 0.05


def search(sampler, tables=TABLES, limits=None, **options):
    first = tf.fill([len(tables)], 2)
    limits = tf.constant(np.arange(len(tables)) if limits is None else limits, tf.int32)
    options = {"end_id": END, "forbidden_ids": (0,), "seed": tf.constant([1, 2]), **options}
    return decoding.search(step, [tf.zeros_like(first)], (tables,), first, limits, sampler=sampler, **options)


def assert_close(actual, expected):
    """The results are equal, up to zeros at the end of the time."""
    time = expected.token_ids.shape[2]
    assert not actual.token_ids[:, :, time:].numpy().any()
    np.testing.assert_array_equal(actual.token_ids[:, :, :time], expected.token_ids)
    np.testing.assert_allclose(actual.log_probabilities, expected.log_probabilities, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(actual.scores, expected.scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(actual.attention_weights[:, :, :time], expected.attention_weights, atol=1e-6)


@pytest.mark.parametrize("name", mostly_slow(SAMPLERS))
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_eagerly_in_a_graph_and_without_dropping_the_results_are_the_same(name, compiled):
    options = {"return_attention_weights": True}
    graph = tf.function(lambda: search(SAMPLERS[name], **options))()
    assert graph.token_ids.shape[2] <= 8
    assert len({tuple(row) for row in graph.token_ids[:, 0].numpy()}) > 3
    assert_close(search(SAMPLERS[name], **options), graph)
    static = tf.function(
        lambda: search(SAMPLERS[name], drop_ended=False, max_steps=12, **options), jit_compile=compiled
    )()
    assert static.token_ids.shape[2] == 12
    assert_close(static, graph)


def test_scores_divide_by_the_length_penalty():
    # After 2 come [END] with probability 0.5 and 3 with 0.5; after 3 comes [END] with 0.9.
    table = np.full((1, VOCABULARY, VOCABULARY), -np.inf, "float32")
    table[0, 2, [END, 3]], table[0, 3, [END, 4]], table[0, 4, END] = np.log(0.5), np.log([0.9, 0.1]), 0.0
    hypotheses = search(BeamSampler(2, num_return_sequences=2), table, [5])
    assert hypotheses.token_ids[0].numpy().tolist() == [[END, 0], [3, END]]
    hypotheses = search(BeamSampler(2, length_penalty=2.0, num_return_sequences=2), table, [5])
    assert hypotheses.token_ids[0].numpy().tolist() == [[3, END], [END, 0]]
    np.testing.assert_allclose(hypotheses.scores[0], [np.log(0.45) / (7 / 6) ** 2, np.log(0.5)], rtol=1e-6)
    np.testing.assert_allclose(hypotheses.log_probabilities[0], np.log([0.45, 0.5]), rtol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_where_the_model_gives_nan_the_output_ends(name):
    hypotheses = search(SAMPLERS[name], np.full_like(TABLES, math.nan), [5] * len(TABLES))
    assert (hypotheses.token_ids[:, 0, 0] == END).numpy().all()


def test_more_beams_than_tokens():
    table = np.zeros((1, 3, 3), "float32")
    hypotheses = search(BeamSampler(9, num_return_sequences=9), table, [3], forbidden_ids=())
    assert len({tuple(row) for row in hypotheses.token_ids[0].numpy()}) == 9
    only_end = np.full((1, 3, 3), [-math.inf, 0.0, -math.inf], "float32")
    hypotheses = search(BeamSampler(4, num_return_sequences=4), only_end, [3])
    assert hypotheses.scores.numpy().tolist() == [[0.0, -math.inf, -math.inf, -math.inf]]


def test_a_sampler_without_a_seed_in_the_search_takes_its_next_one():
    def draw(sampler, wrap=lambda run: run):
        run = wrap(lambda: search(sampler, limits=[3] * len(TABLES), seed=None).token_ids)
        return [run().numpy().tolist() for _ in range(2)]

    first, second = draw(RandomSampler(seed=7))
    assert first != second
    assert draw(RandomSampler(seed=7), tf.function) == [first, second]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_survives_serialization(name):
    sampler = SAMPLERS[name]
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(sampler))
    assert type(restored) is type(sampler)
    assert restored.get_config() == sampler.get_config()


def test_samplers_by_name():
    assert [type(decoding.get_sampler(name)) for name in ("greedy", "random", "top_k", "top_p", "beam")] == [
        GreedySampler,
        RandomSampler,
        TopKSampler,
        TopPSampler,
        BeamSampler,
    ]
    assert decoding.get_sampler(SAMPLERS["beam"]) is SAMPLERS["beam"]
    for bad in ("beams", None, 5, GreedySampler):
        with pytest.raises(ValueError, match="`sampler` must be"):
            decoding.get_sampler(bad)


@pytest.mark.parametrize(
    ("sampler", "name", "value", "arguments"),
    [
        *((RandomSampler, "seed", value, {}) for value in (True, 1.5, -1, 2**70, "1")),
        *((RandomSampler, "temperature", value, {}) for value in (0, -1.0, math.nan, math.inf, "1", True, None)),
        *((TopKSampler, "k", value, {}) for value in (0, -1, 2.0, True, None)),
        *((TopPSampler, "p", value, {}) for value in (0, -0.1, 1.1, math.nan, "0.9", True)),
        *((TopPSampler, "k", value, {}) for value in (0, 1.5)),
        *((BeamSampler, "num_beams", value, {}) for value in (0, -1, 2.0, True, "5")),
        *((BeamSampler, "length_penalty", value, {}) for value in (math.nan, math.inf, "1")),
        *((BeamSampler, "coverage_penalty", value, {}) for value in (-0.1, math.nan)),
        *((BeamSampler, "diversity_penalty", value, {}) for value in (-0.1, math.inf)),
        *((BeamSampler, "num_return_sequences", value, {"num_beams": 4}) for value in (0, 5)),
        *((BeamSampler, "num_groups", value, {"num_beams": 4}) for value in (0, 3, 8)),
    ],
)
def test_bad_arguments_are_named(sampler, name, value, arguments):
    with pytest.raises(ValueError, match=rf"`{name}` must be .* Received: "):
        sampler(**arguments, **{name: value})


def test_a_beam_needs_as_many_tokens():
    BeamSampler(5).check(5)
    with pytest.raises(ValueError, match="`num_beams` must be at most 4"):
        BeamSampler(5).check(4)


@pytest.mark.parametrize("options", [{"max_steps": 12}, {"drop_ended": False}])
def test_a_search_that_xla_cannot_compile_is_an_error(options):
    with pytest.raises(ValueError, match="`drop_ended` must be False and `max_steps` an integer"):
        tf.function(lambda: search(SAMPLERS["greedy"], **options), jit_compile=True, autograph=False)()


class Returns(decoding.Sampler):
    def __init__(self, function):
        self.function = function

    def choose(self, log_probabilities, state, step):
        return self.function(log_probabilities)


def test_a_sampler_may_return_integers_of_any_size():
    int64 = Returns(lambda values: tf.argmax(values, axis=-1))
    np.testing.assert_array_equal(search(int64).token_ids, search(GreedySampler()).token_ids)


def test_what_a_sampler_returns_is_checked():
    for function, received in [
        (lambda values: tf.reduce_max(values, axis=-1), "dtype float32, shape"),
        (lambda values: tf.math.top_k(values, 2).indices, "dtype int32, shape"),
    ]:
        with pytest.raises(ValueError, match=rf"`choose` of Returns must return integers \(sources,\).*{received}"):
            search(Returns(function))
    with pytest.raises(NotImplementedError, match="Sampler must implement `choose`"):
        search(decoding.Sampler())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "best"}, "`sampler` must be a `Sampler` or one of"),
        ({"processors": ["best"]}, "`processors` must be functions"),
        ({"processors": decoding.MinLength(2)}, "`end_id` of .*MinLength.* must be that of the search, 1. Received: 3"),
        ({"first_tokens": 0}, r"`first_tokens` must have the shape \(sources,\). Received: shape \(\)"),
        ({"limits": 9}, r"`limits` must have the shape \(sources,\), here with 2 sources .* Received: shape \(\)"),
        ({"limits": [9, 9, 9]}, r"`limits` must have the shape \(sources,\).* Received: shape \(3,\)"),
        ({"state": [tf.zeros([3, 4])]}, r"`state` must have the shape \(sources, ...\).* Received: shape \(3, 4\)"),
        ({"memory": tf.zeros([])}, r"`memory` must have the shape \(sources, ...\).* Received: shape \(\)"),
        ({"seed": 5}, r"`seed` must be two integers, shape \(2,\). Received: shape \(\)"),
        ({"results": lambda x: (x, ())}, r"`step` must return `\(logits, state, .* Received: tuple of length 2"),
        ({"results": lambda x: x}, r"`step` must return `\(logits, state, attention_weights\)`. Received: EagerTensor"),
        ({"results": lambda x: (x[:, None], (), None)}, r"`step` .*`logits` of the shape .* shape \(2, 1, 6\)"),
        ({"results": lambda x: (x[:1], (), None)}, r"`step` .*`logits` of the shape .* shape \(1, 6\)"),
        ({"results": lambda x: (x, (), x[0])}, r"`step` .*`attention_weights` of the shape .* shape \(6,\)"),
        ({"return_attention_weights": True}, "`step` .*`attention_weights` of the shape .* Received: None"),
    ],
)
def test_what_a_search_cannot_run_is_an_error(options, message):
    results = options.pop("results", lambda logits: (logits, (), None))

    def call(tokens, state, memory, is_live):
        return results(tf.gather(TABLES[0], tokens))

    arguments = {"state": (), "memory": (), "first_tokens": [2, 3], "limits": [9, 9], "sampler": "greedy"}
    with pytest.raises(ValueError, match=message):
        decoding.search(call, end_id=END, **{**arguments, **options})


def test_a_search_without_attention_by_the_name_of_a_sampler():
    def call(tokens, state, memory, is_live):
        return tf.gather(TABLES[0], tokens), state, None

    run = tf.function(lambda: decoding.search(call, (), (), [2], [9], sampler="beam", end_id=END, forbidden_ids=(0,)))
    expected = search(BeamSampler(5), TABLES[:1], [9]).token_ids
    np.testing.assert_array_equal(run().token_ids, expected)


def test_a_given_seed_makes_no_variable():
    """TensorFlow never frees all of a variable, and `generate` makes a sampler of a name in each call."""
    sampler = RandomSampler()
    sampler.initial_state(tf.range(2), tf.constant([1, 2]), None)
    assert "seed_generator" not in vars(sampler)
    assert sampler.next_seed().shape == (2,)
    assert "seed_generator" in vars(sampler)

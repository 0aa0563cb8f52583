# SPDX-License-Identifier: Apache-2.0
"""Properties of every attention layer (sums of weights, masks, padding), and how monotonic attention moves."""

import itertools

import keras
import numpy as np
import pytest
import references
from conftest import assert_close, run_with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_seq import layers
from keras_seq.layers.attention import AttentionMechanism
from keras_seq.ops.attention import first_stop, monotonic_weights

UNITS, FEATURES = 3, 4
MAKERS = {
    "bahdanau": lambda **o: layers.BahdanauAttention(UNITS, **o),
    "normalized": lambda **o: layers.BahdanauAttention(UNITS, normalize=True, **o),
    "coverage": lambda **o: layers.BahdanauAttention(UNITS, coverage=True, **o),
    "dot": lambda **o: layers.LuongAttention(scale=True, **o),
    "general": lambda **o: layers.LuongAttention("general", scale=0.5, **o),
    "concat": lambda **o: layers.LuongAttention("concat", UNITS, **o),
    "monotonic": lambda **o: layers.MonotonicAttention(UNITS, noise_std=0, score_bias_init=0.5, **o),
}
every_attention = pytest.mark.parametrize("name", MAKERS)


def make(name, rng, **options):
    layer = MAKERS[name](dtype="float64", **options)
    layer.build([(None, None, FEATURES)] * 2)
    layer.set_weights([2 * rng.normal(size=weight.shape) for weight in layer.weights])
    return layer


@every_attention
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6)),
    training=st.booleans(),
    padding=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_attention_weights_sum_to_1_and_ignore_masked_positions(name, sizes, training, padding, seed):
    rng = np.random.default_rng(seed)
    (batch, time, source), layer = sizes, make(name, rng)
    query, value = rng.normal(size=(batch, time, FEATURES)), rng.normal(size=(batch, source, FEATURES))
    mask = rng.random((batch, source)) < 0.6
    options = {"return_attention_scores": True, "training": training}
    context, weights = map(np.array, layer([query, value], mask=[None, mask], **options))
    assert not np.any(np.where(mask[:, None], 0, weights))
    assert np.all(weights >= 0)
    total, any_visible = weights.sum(axis=-1), np.broadcast_to(mask.any(axis=1)[:, None], (batch, time))
    if name == "monotonic":  # the rest has passed the end
        assert np.all(total <= any_visible + 1e-12)
        assert np.all(np.diff(total, axis=1) <= 1e-12)
    else:
        np.testing.assert_allclose(total, any_visible, rtol=1e-12)
    assert_close(context, np.einsum("bts,bsf->btf", weights, value), 1e-12)

    padded = np.pad(value, [(0, 0), (0, padding), (0, 0)], constant_values=5)
    more_context, more = layer([query, padded], mask=[None, np.pad(mask, [(0, 0), (0, padding)])], **options)
    assert_close([more_context, more[:, :, :source]], [context, weights], 1e-12)
    assert not np.any(more[:, :, source:])

    visible = rng.random((batch, time)) < 0.6  # a masked query changes nothing for the others
    masked = layer([query, value], mask=[visible, mask], **options)
    for b in np.flatnonzero(visible.any(axis=1)):
        alone = layer([query[b : b + 1, visible[b]], value[b : b + 1]], mask=[None, mask[b : b + 1]], **options)
        assert_close([x[b][visible[b]] for x in map(np.array, masked)], [x[0] for x in alone], 1e-12)
    assert not any(np.any(np.array(x)[~visible]) for x in masked)


@every_attention
def test_single_steps_equal_a_call_and_keys_may_differ_from_values(name):
    rng = np.random.default_rng(0)
    layer, [query, key] = make(name, rng), rng.normal(size=(2, 2, 5, FEATURES))
    value = rng.normal(size=(2, 5, FEATURES + 1))
    contexts, weights = layer([query, value, key], return_attention_scores=True, training=True)
    state, keys = layer.get_initial_state(value), layer.project_memory(key)
    assert len(state) == layer.states
    for t in range(5):
        context, weight, state = layer.attend(query[:, t], value, keys, state=state, training=True)
        assert_close([context, weight], [contexts[:, t], weights[:, t]], 1e-13)


def test_normalize_uses_only_the_direction_of_v():
    """Initially the length is sqrt(1 / units) and the bias is zero."""
    layer = layers.BahdanauAttention(UNITS, normalize=True, dtype="float64")
    plain = layers.BahdanauAttention(UNITS, dtype="float64")
    rng = np.random.default_rng(0)
    inputs = list(rng.normal(size=(2, 2, 5, FEATURES)))
    expected = layer(inputs)
    query_kernel, key_kernel, score_kernel, *others = layer.get_weights()
    layer.set_weights([query_kernel, key_kernel, 7 * score_kernel, *others])
    assert_close(layer(inputs), expected, 1e-13)
    plain(inputs)
    unit = score_kernel / np.linalg.norm(score_kernel) * np.sqrt(1 / UNITS)
    plain.set_weights([query_kernel, key_kernel, unit])
    assert_close(plain(inputs), expected, 1e-7)  # Keras keeps a constant initializer in float32


def enumerate_stops(stop, steps):
    """The probability of each position at each step, summed over all paths; `source` stands for past the end."""
    source = stop.shape[1]
    weights = np.zeros((steps, source))
    for path in itertools.product(range(source + 1), repeat=steps):
        probability, previous = 1.0, 0
        for t, position in enumerate(path):
            if position < previous:
                probability = 0.0
            elif previous < source:  # passes all positions between, then stops unless it is past the end
                probability *= np.prod(1 - stop[t, previous:position])
                probability *= stop[t, position] if position < source else 1
            previous = position
        for t, position in enumerate(path):
            if position < source:
                weights[t, position] += probability
    return weights


@pytest.mark.parametrize("seed", range(3))
def test_soft_monotonic_weights_are_the_expectation_over_all_paths(seed):
    rng = np.random.default_rng(seed)
    steps, source = 4, 4
    energies, mask = 2 * rng.normal(size=(steps, source)), np.array([1.0, 1, 1, seed % 2])
    weights, previous = [], np.eye(source)[:1]
    for t in range(steps):
        previous = monotonic_weights(energies[t : t + 1], previous, mask[None])
        weights.append(np.array(previous)[0])
    assert_close(np.stack(weights), enumerate_stops(mask / (1 + np.exp(-energies)), steps), 1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(source=st.integers(1, 7), masked=st.booleans(), seed=st.integers(0, 999))
def test_hard_monotonic_weights_never_move_left(source, masked, seed):
    rng = np.random.default_rng(seed)
    previous, position = np.eye(source)[:1], 0
    mask = (rng.random((1, source)) < 0.7).astype("float64") if masked else None
    for _ in range(6):
        energies = rng.normal(size=(1, source))
        # With probabilities of 0 and 1, expected weights equal hard decisions.
        expected = monotonic_weights(100 * np.sign(energies), previous, mask)
        weights = np.array(first_stop(energies, previous, mask))
        np.testing.assert_allclose(weights, expected, atol=1e-12)
        candidates = [s for s in range(position, source) if energies[0, s] > 0 and (mask is None or mask[0, s])]
        position = candidates[0] if candidates else source  # stays past the end
        assert_close(weights, np.eye(source + 1)[position, None, :source], 0)
        previous = weights


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_monotonic_weights_are_finite_after_a_certain_stop(dtype):
    """A quotient of running products, as in equation 16 of the paper, would be 0 / 0 here."""
    source = 60
    energies = np.full((1, source), -3.0)
    energies[0, :30], energies[0, 45] = 60, 60
    [weights], gradients = run_with_gradients(
        lambda energies, previous: monotonic_weights(*(keras.ops.cast(x, dtype) for x in (energies, previous))),
        [energies.astype("float32"), np.eye(source, dtype="float32")[40:41]],
    )
    weights = np.array(keras.ops.cast(weights, "float64"))
    stop = 1 / (1 + np.exp(-energies[0]))
    expected = [stop[s] * np.prod(1 - stop[40:s]) if s >= 40 else 0 for s in range(source)]
    np.testing.assert_allclose(weights[0], expected, atol={"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}[dtype])
    assert all(np.all(np.isfinite(g)) for g in gradients)


def test_monotonic_attention_adds_noise_in_training():
    layer = layers.MonotonicAttention(UNITS, noise_std=0.7, seed=1, dtype="float64")
    rng = np.random.default_rng(0)
    query, value = rng.normal(size=(2, 2, 5, FEATURES))
    hard = layer([query, value])
    assert_close(layer([query, value]), hard, 0)
    soft = [np.array(layer([query, value], training=True)) for _ in range(2)]
    assert not np.allclose(*soft)
    twin = layers.MonotonicAttention(UNITS, noise_std=0.7, seed=1, dtype="float64")
    noise = np.array(twin.draw_noise((2, 5, 5)))
    look = references.monotonic(value, *map(np.array, layer.get_weights()[:6]), training=True, noise=noise)
    assert_close(soft[0], np.stack([look(query[:, t])[0] for t in range(5)], axis=1), 1e-12)
    many = np.array(layers.MonotonicAttention(UNITS, noise_std=0.7, seed=1).draw_noise((100, 10, 10)))
    np.testing.assert_allclose([many.mean(), many.std()], [0, 0.7], atol=0.03)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: layers.LuongAttention("additive"),
            r"`score` must be one of \('dot', 'general', 'concat'\). .*'additive'",
        ),
        (lambda: layers.LuongAttention("concat"), "`units` must be given with `score='concat'`. Received: None"),
        (
            lambda: layers.LuongAttention("dot", 3),
            "`units` must be None unless `score='concat'`. Received: units=3, score='dot'",
        ),
        (lambda: layers.LuongAttention(scale="big"), "`scale` must be a boolean or a finite number. Received: 'big'"),
        (
            lambda: layers.LuongAttention(scale=float("nan")),
            "`scale` must be a boolean or a finite number. Received: nan",
        ),
        (
            lambda: layers.LuongAttention()([np.ones((1, 2, 3)), np.ones((1, 2, 4))]),
            "`score='dot'` needs query and key of the same size.*a query of 3 features and a key of 4",
        ),
        (
            lambda: layers.MonotonicAttention(3, noise_std=-1),
            "`noise_std` must be a finite number of at least 0. Received: -1",
        ),
        (lambda: layers.MonotonicAttention(3, score_bias_init=None), "`score_bias_init` must be a finite number.*None"),
        (lambda: layers.MonotonicAttention(0), "`units` must be a positive integer. Received: 0"),
        (lambda: layers.LuongAttention()(np.ones((2, 3, 4))), r"`inputs` must be \[query, value\]"),
    ],
)
def test_invalid_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@every_attention
def test_inputs_of_other_shapes_raise(name):
    layer, value = make(name, np.random.default_rng(0)), np.ones((2, 5, FEATURES))
    message = r"`inputs` must be \[query, value\] .* each of shape \(batch, time, features\). Received: shapes "
    for query in (np.ones((2, FEATURES)), np.ones((2, 1, 3, FEATURES))):  # also after it is built
        for built in (layer, type(layer).from_config(layer.get_config())):
            with pytest.raises(ValueError, match=message):
                built([query, value])
    with pytest.raises(ValueError, match="Received: one tensor"):
        type(layer).from_config(layer.get_config())(value)


class OneEnergy(AttentionMechanism):
    """Returns one energy for each sequence, where one for each position is needed."""

    def energies(self, query, keys, state):
        return keras.ops.sum(query, axis=-1)


def test_energies_of_another_rank_are_refused():
    cell = layers.AttentionCell(layers.GRUCell(UNITS), OneEnergy())
    inputs, memory = np.ones((2, 3, FEATURES), "float32"), np.ones((2, 5, UNITS), "float32")
    with pytest.raises(ValueError, match=r"`energies` of OneEnergy must return a tensor .* shape \(2,\) for a query"):
        layers.RNN(cell)(inputs, memory=memory)

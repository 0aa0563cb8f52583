# SPDX-License-Identifier: Apache-2.0
"""Additive attention against NumPy in float64: values, gradients and properties of the attention weights."""

import keras
import numpy as np
import pytest
import references
import tensorflow as tf
from conftest import assert_close, run_with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_seq import layers

TOLERANCE = 1e-11
UNITS, FEATURES, VALUE_FEATURES, KEY_FEATURES = 3, 2, 4, 5


def draw_case(batch, time, source, separate_keys, seed):
    rng = np.random.default_rng(seed)
    inputs = [rng.normal(size=(batch, time, FEATURES)), rng.normal(size=(batch, source, VALUE_FEATURES))]
    if separate_keys:
        inputs.append(rng.normal(size=(batch, source, KEY_FEATURES)))
    layer = layers.BahdanauAttention(UNITS, kernel_initializer="random_normal", dtype="float64")
    layer.build([x.shape for x in inputs])
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    return layer, inputs, rng


def reference(value_mask, query_mask, inputs_count):
    def attend(*arguments):
        inputs, (query_kernel, key_kernel, score_kernel) = arguments[:inputs_count], arguments[inputs_count:]
        keys = inputs[-1] @ key_kernel
        contexts, weights = references.attention(
            inputs[0] @ query_kernel, inputs[1], keys, score_kernel[:, 0], value_mask
        )
        return [x if query_mask is None else x * query_mask[:, :, None] for x in (contexts, weights)]

    return attend


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    sizes=st.fixed_dictionaries({"batch": st.integers(1, 3), "time": st.integers(1, 3), "source": st.integers(1, 5)}),
    separate_keys=st.booleans(),
    masked=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 999),
)
def test_values_and_gradients_match_numpy(sizes, separate_keys, masked, seed):
    layer, inputs, rng = draw_case(**sizes, separate_keys=separate_keys, seed=seed)
    lengths = (sizes["time"], sizes["source"])
    # Some rows have no unmasked position, some have one.
    masks = [rng.random((sizes["batch"], n)) < 0.5 if m else None for m, n in zip(masked, lengths, strict=True)]
    query_mask, value_mask = masks

    def attend(*inputs):
        return layer(list(inputs), mask=masks, return_attention_scores=True)

    expected, arguments = reference(value_mask, query_mask, len(inputs)), [*inputs, *layer.get_weights()]
    outputs, gradients = run_with_gradients(attend, inputs, layer.trainable_variables)
    assert_close(outputs, expected(*arguments), TOLERANCE)
    assert_close(gradients, references.numerical_gradients(expected, arguments), TOLERANCE)


def test_weights_sum_to_1_unless_all_positions_are_masked():
    layer, inputs, _ = draw_case(batch=3, time=4, source=5, separate_keys=False, seed=0)
    mask = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    context, weights = layer(inputs, mask=[None, mask], return_attention_scores=True)
    np.testing.assert_allclose(np.sum(weights, axis=-1), [[1] * 4, [1] * 4, [0] * 4], rtol=1e-12)
    assert not np.any(np.where(mask[:, None], 0, weights))
    np.testing.assert_allclose(np.array(context)[1], np.repeat(inputs[1][1, 2:3], 4, axis=0), rtol=1e-12)
    assert not np.any(context[2])


@pytest.mark.parametrize("scale", [1e3, 1e30])
@pytest.mark.parametrize("mask", [None, [[True, False], [False, False]]])
def test_large_energies_stay_finite(scale, mask):
    layer = layers.BahdanauAttention(2)
    inputs = [scale * np.array([[[1.0, -1.0]]] * 2, "float32"), scale * np.ones((2, 2, 3), "float32")]
    layer.build([x.shape for x in inputs])
    layer.set_weights([scale * np.ones(w.shape) for w in layer.weights[:2]] + [1e20 * np.ones((2, 1))])
    mask = None if mask is None else [None, tf.constant(mask)]

    def attend(*inputs):
        return layer(list(inputs), mask=mask, return_attention_scores=True)[1]

    outputs, gradients = run_with_gradients(attend, inputs, layer.trainable_variables)
    assert all(np.all(np.isfinite(tensor)) for tensor in [*outputs, *gradients])


def test_padding_of_the_memory_changes_nothing():
    layer, (query, value), _ = draw_case(batch=2, time=3, source=4, separate_keys=False, seed=1)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)

    def attend(extra):
        def function(query, value):
            padded = tf.concat([value, np.full((2, extra, VALUE_FEATURES), 9.0)], axis=1)
            value_mask = np.pad(mask, [(0, 0), (0, extra)])
            context, weights = layer([query, padded], mask=[None, value_mask], return_attention_scores=True)
            return context, weights[:, :, :4]

        return run_with_gradients(function, [query, value], layer.trainable_variables)

    assert_close(attend(3), attend(0), 1e-13)


def test_project_memory_returns_the_keys():
    layer, (_, value), _ = draw_case(batch=2, time=3, source=4, separate_keys=False, seed=1)
    np.testing.assert_allclose(layer.project_memory(value), value @ layer.get_weights()[1], rtol=1e-12)
    np.testing.assert_array_equal(layer.score_vector(value), layer.get_weights()[2][:, 0])


def test_implicit_masks_equal_explicit_masks():
    tokens, memory_tokens = np.array([[1, 2, 0], [3, 0, 0]]), np.array([[1, 2, 3, 0], [4, 0, 0, 0]])
    embedding = keras.layers.Embedding(5, 6, mask_zero=True)
    layer = layers.BahdanauAttention(UNITS)
    target, source = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    model = keras.Model([target, source], layer([embedding(target), embedding(source)], return_attention_scores=True))
    implicit = model([tokens, memory_tokens])
    query, value = np.array(embedding(tokens)), np.array(embedding(memory_tokens))
    explicit = layer([query, value], mask=[tokens > 0, memory_tokens > 0], return_attention_scores=True)
    assert_close(implicit, explicit, 1e-6)
    np.testing.assert_array_equal(np.array(implicit[1]) > 0, (tokens > 0)[:, :, None] & (memory_tokens > 0)[:, None])


@pytest.mark.parametrize("units", [0, -1, 2.5, None])
def test_invalid_units(units):
    with pytest.raises(ValueError, match=f"`units` must be a positive integer. Received: {units}"):
        layers.BahdanauAttention(units)


def test_invalid_inputs():
    with pytest.raises(ValueError, match=r"`inputs` must be \[query, value\]"):
        layers.BahdanauAttention(UNITS)([np.ones((1, 2, 3))] * 4)

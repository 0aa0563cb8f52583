# SPDX-License-Identifier: Apache-2.0
"""Masks propagate through the layers as in Keras."""

import keras
import numpy as np
import pytest

from keras_seq import layers

TOKENS = np.array([[1, 2, 3, 0], [4, 0, 0, 0]])
MASK = TOKENS > 0


@pytest.fixture(scope="module")
def embedded():
    """Embeddings of the tokens, with a mask attached."""
    return keras.layers.Embedding(5, 3, mask_zero=True)(TOKENS)


def masks_of(results):
    """The mask of each tensor in a structure, as an array or None."""
    masks = (getattr(tensor, "_keras_mask", None) for tensor in keras.tree.flatten(results))
    return [None if mask is None else np.array(mask) for mask in masks]


def assert_masks(results, expected):
    actual = masks_of(results)
    assert len(actual) == len(expected)
    for mask, expected_mask in zip(actual, expected, strict=True):
        assert (mask is None) == (expected_mask is None)
        np.testing.assert_array_equal(mask, expected_mask)


@pytest.mark.parametrize("return_state", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize(("kind", "states"), [("SimpleRNN", 1), ("GRU", 1), ("LSTM", 2)])
def test_recurrent_layers_propagate_the_mask_with_their_sequences(
    embedded, kind, states, return_sequences, return_state
):
    layer = getattr(layers, kind)(4, return_sequences=return_sequences, return_state=return_state)
    assert_masks(layer(embedded), [MASK if return_sequences else None] + [None] * states * return_state)


@pytest.mark.parametrize(("merge_mode", "count"), [("concat", 1), (None, 2)])
def test_bidirectional_propagates_the_mask(embedded, merge_mode, count):
    layer = layers.Bidirectional(layers.GRU(4, return_sequences=True), merge_mode)
    assert_masks(layer(embedded), [MASK] * count)


def test_dropout_propagates_the_mask(embedded):
    assert_masks(layers.LockedDropout(0.5)(embedded, training=True), [MASK])


def test_attention_propagates_the_mask_of_the_query(embedded):
    memory = np.ones((2, 6, 3), "float32")
    assert_masks(layers.BahdanauAttention(4)([embedded, memory]), [MASK])
    assert_masks(layers.BahdanauAttention(4)([memory, embedded]), [None])


def test_attention_decoder_propagates_the_mask_of_its_inputs(embedded):
    memory = np.ones((2, 6, 3), "float32")
    decoder = layers.AttentionDecoder(4, return_state=True)
    results = decoder(embedded, memory, return_attention_scores=True)
    assert_masks(results, [MASK, None, None, None])
    assert_masks(layers.AttentionDecoder(4)(memory, embedded), [None])


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
def test_implicit_mask_equals_explicit_mask(embedded, kind):
    layer = getattr(layers, kind)(4, return_sequences=True)
    vectors = np.array(embedded)
    np.testing.assert_allclose(layer(embedded), layer(vectors, mask=MASK), rtol=1e-6)
    assert not np.allclose(layer(embedded), layer(vectors))


def test_mask_reaches_the_last_layer_of_a_functional_model():
    tokens = keras.Input((None,), dtype="int32")
    sequences = keras.layers.Embedding(5, 3, mask_zero=True)(tokens)
    sequences = layers.LockedDropout(0.1)(sequences)
    sequences = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(sequences)
    model = keras.Model(tokens, layers.GRU(4)(sequences))
    padded = np.pad(TOKENS, [(0, 0), (0, 3)])
    np.testing.assert_allclose(model(padded), model(TOKENS), rtol=1e-5, atol=1e-6)

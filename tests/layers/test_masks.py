# SPDX-License-Identifier: Apache-2.0
"""Layers propagate masks as Keras's do, and masked steps change nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import RECURRENT_LAYERS, assert_close, draw, draw_states, needs_kernels

import keras_seq
from keras_seq import layers

TOKENS = np.array([[1, 2, 3, 0], [4, 0, 0, 0]])
MASK = TOKENS > 0
# One sequence each: whole, padded on the right, on the left, with gaps, nothing but padding.
EVERY_MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
MASKED_TOKENS = EVERY_MASK * np.random.default_rng(0).integers(1, 9, EVERY_MASK.shape)
every_recurrent_layer = pytest.mark.parametrize("name", RECURRENT_LAYERS)
every_implementation_of_every_layer = pytest.mark.parametrize(
    ("name", "implementation"),
    [
        pytest.param(name, implementation, marks=needs_kernels if implementation == "native" else ())
        for name in RECURRENT_LAYERS
        for implementation in ("native", "xla")
        if (name, implementation) != ("cell of Keras", "native")
    ],
)


@pytest.fixture(scope="module")
def embedded():
    """Embeddings of the tokens, with their implicit mask."""
    return keras.layers.Embedding(5, 3, mask_zero=True)(TOKENS)


@pytest.fixture(scope="module")
def embedding():
    """An embedding of 8 tokens that masks zeros."""
    layer = keras.layers.Embedding(9, 3, embeddings_initializer="random_normal", mask_zero=True)
    layer(MASKED_TOKENS)
    return layer


def masks_of(results):
    """The mask of each tensor in a structure, as an array or None."""
    masks = (getattr(tensor, "_keras_mask", None) for tensor in keras.tree.flatten(results))
    return [None if mask is None else np.array(mask) for mask in masks]


def assert_masks(results, expected):
    actual = masks_of(results)
    assert len(actual) == len(expected)
    for mask, wanted in zip(actual, expected, strict=True):
        assert (mask is None) == (wanted is None)
        np.testing.assert_array_equal(mask, wanted)


@pytest.mark.parametrize("return_state", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize(("kind", "states"), [("SimpleRNN", 1), ("GRU", 1), ("LSTM", 2)])
def test_recurrent_layers(embedded, kind, states, return_sequences, return_state):
    layer = getattr(layers, kind)(4, return_sequences=return_sequences, return_state=return_state)
    assert_masks(layer(embedded), [MASK if return_sequences else None] + [None] * states * return_state)


@pytest.mark.parametrize(("merge_mode", "count"), [("concat", 1), (None, 2)])
def test_bidirectional(embedded, merge_mode, count):
    layer = layers.Bidirectional(layers.GRU(4, return_sequences=True), merge_mode)
    assert_masks(layer(embedded), [MASK] * count)


def test_dropout(embedded):
    assert_masks(layers.LockedDropout(0.5)(embedded, training=True), [MASK])


def test_attention_has_the_mask_of_the_query(embedded):
    memory = np.ones((2, 6, 3), "float32")
    assert_masks(layers.BahdanauAttention(4)([embedded, memory]), [MASK])
    assert_masks(layers.BahdanauAttention(4)([memory, embedded]), [None])


def test_attention_decoder_has_the_mask_of_its_inputs(embedded):
    memory = np.ones((2, 6, 3), "float32")
    decoder = layers.AttentionDecoder(4, return_state=True)
    results = decoder(embedded, memory, return_attention_scores=True)
    assert_masks(results, [MASK, None, None, None])
    assert_masks(layers.AttentionDecoder(4)(memory, embedded), [None])


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
def test_an_implicit_mask_is_an_explicit_one(embedded, kind):
    layer = getattr(layers, kind)(4, return_sequences=True)
    vectors = np.array(embedded)
    np.testing.assert_allclose(layer(embedded), layer(vectors, mask=MASK), rtol=1e-6)
    assert not np.allclose(layer(embedded), layer(vectors))


def test_a_mask_survives_a_functional_stack():
    tokens = keras.Input((None,), dtype="int32")
    sequences = keras.layers.Embedding(5, 3, mask_zero=True)(tokens)
    sequences = layers.LockedDropout(0.1)(sequences)
    sequences = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(sequences)
    model = keras.Model(tokens, layers.GRU(4)(sequences))
    padded = np.pad(TOKENS, [(0, 0), (0, 3)])
    np.testing.assert_allclose(model(padded), model(TOKENS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("with_state", [False, True])
@every_implementation_of_every_layer
def test_masked_steps_act_as_if_they_were_not_there(name, implementation, with_state, embedding, monkeypatch):
    """Without a visible step the outputs are zero, and the state is the initial one (tensorflow#43103, #49241).

    Layers of Keras fail here: they drop the implicit mask of an embedding if an initial state is given.
    """
    monkeypatch.delenv("KERAS_SEQ_IMPLEMENTATION", raising=False)
    layer = RECURRENT_LAYERS[name](return_state=True)
    layer(embedding(MASKED_TOKENS))
    layer.set_weights([draw(*w.shape, seed=i) for i, w in enumerate(layer.get_weights())])
    states = draw_states(layer, len(MASKED_TOKENS))
    states = states if with_state else keras.tree.map_structure(np.zeros_like, states)
    with keras_seq.ops.use_implementation(implementation):
        if with_state:
            outputs, *final = tf.function(lambda t: layer(embedding(t), initial_state=states))(MASKED_TOKENS)
        else:
            outputs, *final = layer(embedding(MASKED_TOKENS))
    for i, row in enumerate(MASKED_TOKENS):
        visible = row[row > 0]
        initial_row, final_row = keras.tree.map_structure(lambda s, i=i: np.array(s)[i : i + 1], (states, final))
        if not len(visible):
            assert_close(final_row, initial_row, 0)
            assert not np.any(outputs[i])
        else:
            expected = layer(np.array(embedding(visible[None])), initial_state=initial_row)
            assert_close([outputs[i : i + 1], *final_row], list(expected), 1e-5)


@pytest.mark.parametrize("stateful", [False, True])
@every_recurrent_layer
def test_sequences_carry_the_mask_and_states_carry_none(name, stateful, embedding):
    """See keras PR 23235."""
    layer = RECURRENT_LAYERS[name](return_sequences=True, return_state=True, stateful=stateful)
    outputs, *states = layer(embedding(MASKED_TOKENS))
    np.testing.assert_array_equal(outputs._keras_mask, EVERY_MASK)
    assert all(getattr(state, "_keras_mask", None) is None for state in keras.tree.flatten(states))


@every_recurrent_layer
def test_masks_propagate_even_if_the_base_class_does_not_support_masking(name, embedding, monkeypatch):
    """Recurrent layers of Keras 3.16 do not (keras PR 23235)."""

    def without_masking(original):
        def init(self, *args, **kwargs):
            original(self, *args, **kwargs)
            self.supports_masking = False

        return init

    for base in (keras.layers.RNN, keras.layers.Bidirectional):
        monkeypatch.setattr(base, "__init__", without_masking(base.__init__))
        monkeypatch.setattr(base, "compute_mask", None)
    outputs = RECURRENT_LAYERS[name](return_sequences=True)(embedding(MASKED_TOKENS))
    np.testing.assert_array_equal(outputs._keras_mask, EVERY_MASK)

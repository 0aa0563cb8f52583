# SPDX-License-Identifier: Apache-2.0
"""AttentionPooling against its equation in NumPy, and what masked steps must not reach."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close, draw, run_with_gradients

from keras_seq.layers import AttentionPooling, TimeDistributed

BATCH, TIME, FEATURES, UNITS = 4, 5, 3, 6
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]], bool)


def pool(inputs, mask, kernel, bias, score_kernel):
    """The equation, one sequence after the other."""
    vectors, weights = np.zeros(inputs[:, 0].shape), np.zeros(mask.shape)
    for b, kept in enumerate(mask):
        if kept.any():
            energies = np.tanh(inputs[b, kept] @ kernel + bias) @ score_kernel[:, 0]
            weights[b, kept] = np.exp(energies) / np.exp(energies).sum()
            vectors[b] = weights[b, kept] @ inputs[b, kept]
    return vectors, weights


def make_layer(**options):
    layer = AttentionPooling(UNITS, **options)
    layer.build((None, None, FEATURES))
    layer.set_weights([draw(*w.shape, seed=i) for i, w in enumerate(layer.weights)])
    return layer


@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
def test_equals_the_equation(mask):
    layer, inputs = make_layer(), draw(BATCH, TIME, FEATURES)
    results = layer(inputs, mask=mask, return_attention_scores=True)
    expected = pool(inputs, np.ones_like(MASK) if mask is None else mask, *layer.get_weights())
    assert_close(results, expected, 1e-6)


def test_nan_at_masked_steps_reaches_no_result_and_no_gradient():
    layer, inputs = make_layer(), draw(BATCH, TIME, FEATURES)

    def run(inputs):
        return run_with_gradients(lambda x: layer(x, mask=MASK), [inputs], layer.trainable_variables)

    dirty = run(np.where(MASK[:, :, None], inputs, np.nan).astype("float32"))
    assert_close(dirty, run(inputs), 0)
    outputs, (d_inputs, *_) = dirty
    assert not np.any(outputs[0][3])
    assert not np.any(d_inputs[3])


def test_the_mask_of_an_embedding_is_used():
    tokens = np.array([[3, 1, 2], [2, 0, 0]])
    embedding, layer = keras.layers.Embedding(5, FEATURES, mask_zero=True), make_layer()
    vector = layer(embedding(tokens))
    assert_close(vector[1], embedding(tokens)[1, 0], 1e-6)
    assert getattr(vector, "_keras_mask", None) is None


def test_sentences_then_documents():
    """As in the paper: a vector for each sentence from its words, where a sentence may be padding."""
    inputs, mask = draw(2, 3, TIME, FEATURES), np.ones((2, 3, TIME), bool)
    mask[0, 1, 2:] = mask[1, 2] = False
    words, sentences = make_layer(), make_layer()
    vectors = TimeDistributed(words)(inputs, mask=mask)
    of_words = np.stack([pool(x, m, *words.get_weights())[0] for x, m in zip(inputs, mask, strict=True)])
    expected, _ = pool(of_words, mask.any(axis=2), *sentences.get_weights())
    assert_close(sentences(vectors), expected, 1e-6)


def test_dropout_drops_attention_weights_in_training_only():
    layer = make_layer(dropout=0.5, seed=3)
    inputs = draw(BATCH, 200, FEATURES)
    _, kept = layer(inputs, return_attention_scores=True)
    _, dropped = layer(inputs, return_attention_scores=True, training=True)
    assert_close(np.sum(kept, axis=1), np.ones(BATCH), 1e-5)
    is_dropped = np.array(dropped) == 0
    assert 0.4 < is_dropped.mean() < 0.6
    assert_close(np.array(dropped)[~is_dropped], 2 * np.array(kept)[~is_dropped], 1e-6)


def test_sums_are_in_float32_in_half_precision():
    """256 equal steps plus one: in bfloat16 the sum of weights would stop growing."""
    layer = AttentionPooling(UNITS, dtype="mixed_bfloat16")
    pooled = layer(np.ones((1, 1001, FEATURES), "float32"))
    assert pooled.dtype == "bfloat16"
    assert_close(tf.cast(pooled, "float32"), np.ones((1, FEATURES)), 1e-3)


@pytest.mark.parametrize("time", [0, 1])
def test_short_sequences(time):
    inputs = draw(2, time, FEATURES)
    assert_close(make_layer()(inputs), inputs.sum(axis=1), 1e-6)


def test_invalid_arguments():
    with pytest.raises(ValueError, match=r"`units` must be a positive integer. Received: 0"):
        AttentionPooling(0)
    with pytest.raises(ValueError, match=r"`dropout` must be a number in \[0, 1\). Received: 1"):
        AttentionPooling(2, dropout=1)
    with pytest.raises(ValueError, match="expected ndim=3, found ndim=2"):
        AttentionPooling(2)(draw(2, 3))

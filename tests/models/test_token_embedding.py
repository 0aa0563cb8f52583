# SPDX-License-Identifier: Apache-2.0
"""Embeddings with given values, and readouts that share them."""

import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq
from keras_seq.models.token_embedding import build_embedding, make_embedding, make_readout, serialize_initializer

TOKENS, DIM, UNITS = 7, 4, 6
MATRIX = np.random.default_rng(0).normal(size=(TOKENS, DIM))
IDS = np.array([[3, 1, 6], [0, 3, 3]])
OUTPUTS = np.random.default_rng(1).normal(size=(2, 3, UNITS)).astype("float32")


def make_pair(tied, initializer="uniform", units=UNITS, dtype=None):
    embedding = make_embedding(TOKENS, DIM, initializer, tied=tied, dtype=dtype)
    build_embedding(embedding)
    readout = make_readout(embedding, tied, dtype)
    readout.build((None, None, units))
    return embedding, readout


@pytest.mark.parametrize("values", [MATRIX, MATRIX.tolist(), tf.constant(MATRIX), MATRIX.astype("float16")])
@pytest.mark.parametrize("tied", [True, False])
def test_a_matrix_gives_the_embeddings(values, tied):
    embedding, _ = make_pair(tied, values)
    np.testing.assert_array_equal(embedding(IDS), np.asarray(values, "float32")[IDS])


@pytest.mark.parametrize("initializer", ["glorot_normal", keras.initializers.RandomNormal(0.0, 0.1, seed=3)])
def test_any_initializer_of_keras_gives_the_embeddings(initializer):
    embedding, _ = make_pair(False, initializer)
    again, _ = make_pair(False, serialize_initializer(embedding))
    assert type(again.embeddings_initializer) is type(keras.initializers.get(initializer))
    if not isinstance(initializer, str):
        np.testing.assert_array_equal(again.embeddings, embedding.embeddings)


@pytest.mark.parametrize("built", [True, False])
def test_a_matrix_is_not_in_the_configuration(built):
    embedding = make_embedding(TOKENS, DIM, MATRIX)
    if built:
        build_embedding(embedding)
    assert serialize_initializer(embedding) == keras.initializers.serialize(keras.initializers.get("uniform"))


@pytest.mark.parametrize("units", [DIM, UNITS])
def test_tied_logits(units):
    embedding, readout = make_pair(True, MATRIX, units)
    readout.bias.assign(np.arange(TOKENS))
    projected = OUTPUTS[..., :units]
    if units != DIM:
        projected = projected @ np.array(readout.projection.kernel)
    np.testing.assert_allclose(
        readout(OUTPUTS[..., :units]), projected @ MATRIX.T + np.arange(TOKENS), rtol=1e-5, atol=1e-6
    )
    assert len(embedding.weights) == 1
    assert len(readout.weights) == (1 if units == DIM else 2)


def test_the_gradient_of_tied_embeddings_is_the_sum_over_both_uses():
    def gradients(tied):
        embedding, readout = make_pair(tied, MATRIX, DIM)
        if not tied:
            readout.kernel.assign(MATRIX.T)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(readout(tf.tanh(embedding(IDS)))))
        weights = [embedding.trainable_weights[0], *readout.trainable_weights]
        return [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, [w.value for w in weights])]

    tied, tied_bias = gradients(True)
    of_embedding, of_kernel, bias = gradients(False)
    np.testing.assert_allclose(tied, of_embedding + of_kernel.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tied_bias, bias, rtol=1e-5, atol=1e-6)
    assert np.abs(of_embedding).max() > 0.1
    assert np.abs(of_kernel).max() > 0.1


def test_outputs_with_a_mask_give_no_warning():
    _, readout = make_pair(True, MATRIX, DIM)
    outputs = keras.layers.Masking()(OUTPUTS[..., :DIM])
    np.testing.assert_array_equal(readout(outputs), readout(OUTPUTS[..., :DIM]))


def test_mixed_precision_has_one_dtype():
    embedding, readout = make_pair(True, MATRIX, dtype="mixed_bfloat16")
    assert embedding.embeddings.dtype == "float32"
    logits = readout(tf.cast(OUTPUTS, "bfloat16"))
    assert logits.dtype == "bfloat16"
    exact = make_pair(True, MATRIX)[1]
    exact.set_weights(readout.get_weights())
    np.testing.assert_allclose(tf.cast(logits, "float32"), exact(OUTPUTS), atol=0.1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (MATRIX.T, f"(vocabulary_size, embedding_dim), here {(TOKENS, DIM)}. Received: an array of shape (4, 7)"),
        (MATRIX[0], "Received: an array of shape (4,)"),
        (3.0, "Received: an array of shape ()"),
        (MATRIX.astype(str), "`embeddings_initializer` must be a matrix of finite numbers. Received: an array of <U"),
        (np.where(MATRIX > 1, np.nan, MATRIX), "`embeddings_initializer` must be a matrix of finite numbers"),
    ],
)
def test_bad_matrices_raise(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_embedding(TOKENS, DIM, values)


@pytest.mark.slow
def test_tied_embeddings_train_without_warnings():
    model = keras_seq.Seq2Seq(keras_seq.Encoder(9, 4, 4), keras_seq.Decoder(9, 4, 4, tie_embeddings=True))
    model.compile("adam")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Keras warns of a layer that is passed a mask and does not support it
        model.fit([[4, 5, 6], [7]], [[4, 5, 3], [6, 3]], verbose=0)
        model.score([[4, 5, 6], [7]], [[4, 5, 3], [6, 3]])

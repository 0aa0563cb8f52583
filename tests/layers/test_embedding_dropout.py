# SPDX-License-Identifier: Apache-2.0
"""EmbeddingDropout: a dropped word is dropped at all its positions in a sequence."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import MODES, assert_close, run_with_gradients

from keras_seq.layers.dropout import EmbeddingDropout

RATE, VOCABULARY, DIM = 0.3, 12, 4
IDS = np.random.default_rng(0).integers(0, VOCABULARY, (6, 30))


def make(rate=RATE, seed=1, embedding=None, **kwargs):
    embedding = embedding or keras.layers.Embedding(VOCABULARY, DIM, embeddings_initializer="ones", **kwargs)
    return EmbeddingDropout(embedding, rate, seed=seed)


def assert_words_are_dropped(outputs, ids):
    """With vectors of ones, outputs have one value per word and sequence: 0 or 1 / (1 - RATE)."""
    for output, sequence in zip(np.array(outputs), ids, strict=True):
        for word in np.unique(sequence):
            assert len(np.unique(output[sequence == word])) == 1
    np.testing.assert_allclose(np.unique(outputs), [0, 1 / (1 - RATE)], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32"])
@pytest.mark.parametrize("mode", MODES)
def test_a_dropped_word_is_dropped_at_all_its_positions(mode, dtype):
    layer = make()
    layer.build(IDS.shape)

    def run(ids):
        return layer(ids, training=True)

    signature = [tf.TensorSpec((None, None), dtype)]
    run = run if mode == "eager" else tf.function(run, input_signature=signature, jit_compile=mode == "jit")
    first, second = run(tf.cast(IDS, dtype)), run(tf.cast(IDS, dtype))
    for outputs in (first, second):
        assert_words_are_dropped(outputs, IDS)
    assert not np.array_equal(first, second)
    assert run(tf.cast(IDS[:, :1], dtype)).shape == (6, 1, DIM)
    assert run(tf.cast(IDS[:, :0], dtype)).shape == (6, 0, DIM)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropped_fraction_is_the_rate_and_sequences_differ(rate, policy):
    ids = np.tile(np.arange(VOCABULARY), (2000, 2))
    layer = make(rate, dtype=policy)
    outputs = layer(ids, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == layer.layer.compute_dtype
    scales = np.array(keras.ops.cast(outputs, "float32"))[..., 0]
    np.testing.assert_array_equal(scales[:, :VOCABULARY], scales[:, VOCABULARY:])
    np.testing.assert_allclose(np.unique(scales), [0, 1 / (1 - rate)], rtol=1e-6 if policy == "float32" else 4e-3)
    kept = scales[:, :VOCABULARY] > 0
    assert abs(kept.mean() - (1 - rate)) < 5 * (rate * (1 - rate) / kept.size) ** 0.5
    assert len(np.unique(kept, axis=0)) > 100  # sequences differ


def test_outputs_and_gradients_are_scaled_embeddings():
    layer = make(embedding=keras.layers.Embedding(VOCABULARY, DIM))
    layer.build(IDS.shape)
    twin = make()
    scales = np.array(twin(IDS, training=True))  # its vectors are ones
    [outputs], [gradient] = run_with_gradients(lambda: layer(IDS, training=True), [], layer.trainable_variables)
    expected, [reference] = run_with_gradients(lambda: layer.layer(IDS) * scales, [], layer.trainable_variables)
    assert_close([outputs, tf.convert_to_tensor(gradient)], [*expected, tf.convert_to_tensor(reference)], 1e-6)


def test_embeddings_are_unchanged_at_inference_and_at_rate_0():
    layer, without_dropout = make(), make(rate=0)
    layer.build(IDS.shape)
    before = np.array(layer.seed_generator.state)
    for outputs in (layer(IDS), layer(IDS, training=False), without_dropout(IDS, training=True)):
        np.testing.assert_array_equal(outputs, layer.layer(IDS))
    np.testing.assert_array_equal(before, layer.seed_generator.state)
    assert not without_dropout.non_trainable_variables


def test_float_ids_are_not_rounded():
    layer = make(embedding=keras.layers.Embedding(400, DIM, dtype="mixed_bfloat16"))
    ids = np.array([[256, 257, 258]])
    np.testing.assert_array_equal(layer(ids.astype("float32")), layer(ids))
    assert len(np.unique(layer(ids)[0, :, 0])) == 3


def test_every_training_step_draws_new_masks():
    model = keras.Sequential([make(), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=True)
    assert len({*model.fit(IDS, IDS[:, :1], epochs=4, verbose=0).history["loss"]}) == 4


def test_saving_and_masking(tmp_path):
    model = keras.Sequential([keras.Input((None,)), make(mask_zero=True), keras.layers.LSTM(3)])
    layer = model.layers[0]
    assert layer.output.shape == (None, None, DIM)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_close(loaded(IDS), model(IDS), 0)
    fresh = make()
    assert EmbeddingDropout.from_config(fresh.get_config()).get_config() == fresh.get_config()
    np.testing.assert_array_equal(layer(IDS, training=True)._keras_mask, IDS != 0)
    np.testing.assert_array_equal(make()(IDS, training=True), make()(IDS, training=True))
    assert make().compute_mask(IDS) is None


def test_the_embedding_is_not_copied():
    embedding = keras.layers.Embedding(VOCABULARY, DIM)
    assert make(embedding=embedding).layer is embedding


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *((lambda rate=rate: make(rate), "`rate` must be") for rate in (-0.1, 1, float("nan"), "0.5", None)),
        (lambda: EmbeddingDropout(keras.layers.Dense(3), 0.1), "`layer` must be a `keras.layers.Embedding`"),
        (lambda: EmbeddingDropout(0.1, 0.1), "`layer` must be a `keras.layers.Embedding`"),
        (lambda: make(seed="1"), "`seed`"),
        (lambda: make()(IDS[0]), "expected ndim=2, found ndim=1"),
        (lambda: make()(IDS[None]), "expected ndim=2, found ndim=3"),
    ],
)
def test_invalid_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()

# SPDX-License-Identifier: Apache-2.0
"""TimeDistributed against one call per step."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close

import keras_seq
from keras_seq import layers

LETTERS = np.array([[[3, 1, 2, 0], [2, 0, 0, 0], [0, 0, 0, 0]], [[4, 4, 1, 2], [1, 3, 0, 0], [2, 2, 2, 0]]])
BATCH, WORDS, LENGTH = LETTERS.shape
FEATURES, UNITS, TAGS = 3, 4, 5


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


class Counting(keras.layers.Layer):
    """Counts the calls of a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.calls, self.supports_masking = layer, 0, True

    def build(self, input_shape):
        self.layer.build(input_shape)

    def call(self, inputs, mask=None):
        self.calls += 1
        return self.layer(inputs, mask=mask)

    def compute_mask(self, inputs, mask=None):
        return self.layer.compute_mask(inputs, mask)


def make_tagger():
    letters = keras.Input((None, None), dtype="int32")
    embedded = keras.layers.Embedding(5, FEATURES, mask_zero=True, name="embedding")(letters)
    words = layers.TimeDistributed(layers.Bidirectional(layers.LSTM(UNITS)), name="spelling")(embedded)
    sentence = layers.Bidirectional(layers.LSTM(UNITS, return_sequences=True), name="sentence")(words)
    return keras.Model(letters, keras.layers.Dense(TAGS, activation="softmax", name="tags")(sentence))


def tag_word_by_word(tagger, letters):
    """The outputs of a tagger, one word after the other, without padding."""
    embedding, spelling, sentence, tags = map(tagger.get_layer, ("embedding", "spelling", "sentence", "tags"))
    results = []
    for words in letters:
        words = [word[word > 0] for word in words if (word > 0).any()]
        vectors = [spelling.layer(embedding(word[None])) for word in words]
        results.append(tags(sentence(keras.ops.stack(vectors, axis=1)))[0] if words else np.zeros((0, TAGS)))
    return results


def test_tagger_on_letters_equals_word_by_word_calls():
    tagger = make_tagger()
    for letters in (LETTERS, np.pad(LETTERS, [(0, 1), (0, 2), (0, 3)]), LETTERS[:1, :2, :3]):
        predicted = tagger(letters)
        for row, expected in zip(predicted, tag_word_by_word(tagger, letters), strict=True):
            np.testing.assert_allclose(row[: len(expected)], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_tagger_trains_on_batches_of_any_length(jit):
    """With Keras 3.15's own layer, training fails when the lengths change."""
    tagger = make_tagger()
    shapes = [(2, 3, 4), (3, 5, 2), (1, 2, 6)]
    batches = [(np.random.default_rng(i).integers(0, 5, shape), np.ones(shape[:2])) for i, shape in enumerate(shapes)]
    signature = tf.TensorSpec((None, None, None), tf.int64), tf.TensorSpec((None, None), tf.float64)
    data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature).repeat()
    tagger.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", jit_compile=jit)
    losses = tagger.fit(data, epochs=4, steps_per_epoch=len(batches), verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_all_steps_run_in_one_call():
    counting = Counting(layers.GRU(UNITS))
    layers.TimeDistributed(counting)(draw(BATCH, WORDS, LENGTH, FEATURES), mask=LETTERS > 0)
    assert counting.calls == 1


def test_output_shapes_and_dtypes():
    wrapper = layers.TimeDistributed(keras.layers.Embedding(5, FEATURES))
    symbol = wrapper(keras.Input((None, LENGTH), dtype="int32"))
    assert symbol.shape == (None, None, LENGTH, FEATURES)
    assert wrapper.compute_output_shape((2, None, LENGTH)) == (2, None, LENGTH, FEATURES)
    run = tf.function(wrapper, input_signature=[tf.TensorSpec((None, None, LENGTH), tf.int32)])
    assert run.get_concrete_function().structured_outputs.shape[2:] == (LENGTH, FEATURES)
    assert wrapper(np.zeros((0, 2, LENGTH))).shape == (0, 2, LENGTH, FEATURES)
    assert wrapper(np.zeros((2, 0, LENGTH))).shape == (2, 0, LENGTH, FEATURES)


def test_several_inputs_and_outputs():
    query, memory = draw(BATCH, WORDS, 2, FEATURES), draw(BATCH, WORDS, LENGTH, FEATURES)
    attention, lstm = layers.BahdanauAttention(UNITS), layers.LSTM(UNITS, return_state=True)
    contexts = layers.TimeDistributed(attention)([query, memory], mask=[None, LETTERS > 0])
    outputs = layers.TimeDistributed(lstm)(contexts)
    for step in range(WORDS):
        context = attention([query[:, step], memory[:, step]], mask=[None, LETTERS[:, step] > 0])
        assert_close(contexts[:, step], context, 1e-6)
        assert_close([output[:, step] for output in outputs], lstm(context), 1e-6)
    symbols = layers.TimeDistributed(lstm)(keras.Input((None, 2, FEATURES)))
    assert [symbol.shape for symbol in symbols] == [(None, None, UNITS)] * 3


@pytest.mark.parametrize("return_sequences", [False, True])
def test_masks(return_sequences):
    """The vector of a masked step is zero, and the rest of the mask propagates."""
    embedded = keras.layers.Embedding(5, FEATURES, mask_zero=True)(LETTERS)
    gru = layers.GRU(UNITS, return_sequences=return_sequences)
    outputs = layers.TimeDistributed(gru)(embedded)
    np.testing.assert_array_equal(outputs._keras_mask, LETTERS > 0 if return_sequences else (LETTERS > 0).any(axis=2))
    words = np.array([[True, False, True], [False, True, True]])
    outputs = layers.TimeDistributed(gru)(np.array(embedded), mask=words)
    vectors = gru(np.reshape(embedded, (-1, LENGTH, FEATURES)))
    expected = np.where(words.reshape(-1, *[1] * (1 + return_sequences)), vectors, 0)
    assert_close(np.reshape(outputs, expected.shape), expected, 1e-6)


def test_wrapped_model():
    """The model's own embedding masks the letters."""
    embedding, gru = keras.layers.Embedding(5, FEATURES, mask_zero=True), layers.GRU(UNITS, return_sequences=True)
    for model in (keras.Sequential([embedding, gru]), functional(embedding, gru)):
        outputs = layers.TimeDistributed(model)(LETTERS)
        np.testing.assert_array_equal(outputs._keras_mask, LETTERS > 0)
        for step in range(WORDS):
            assert_close(outputs[:, step], gru(embedding(LETTERS[:, step])), 1e-6)
        words = np.array([[True, False, True], [False, True, True]])
        np.testing.assert_array_equal(layers.TimeDistributed(model)(LETTERS, mask=words)._keras_mask, LETTERS > 0)


def functional(*inner):
    inputs = outputs = keras.Input((None,), dtype="int32")
    for layer in inner:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def test_training_argument_reaches_the_layer():
    wrapper = layers.TimeDistributed(keras.layers.Dropout(0.5))
    ones = np.ones((BATCH, WORDS, 50))
    assert_close(wrapper(ones), ones, 0)
    assert (np.array(wrapper(ones, training=True)) == 0).any()


def test_tagger_is_saved_and_loaded(tmp_path):
    tagger = make_tagger()
    tagger.save(tmp_path / "tagger.keras")
    loaded = keras.saving.load_model(tmp_path / "tagger.keras")
    assert_close(loaded(LETTERS), tagger(LETTERS), 0)
    assert isinstance(loaded.get_layer("spelling"), layers.TimeDistributed)


def test_convert_replaces_time_distributed():
    spelling = keras.layers.TimeDistributed(keras.layers.Bidirectional(keras.layers.LSTM(UNITS)))
    model = keras.Sequential([keras.Input((WORDS, LENGTH, FEATURES)), spelling])
    converted = keras_seq.convert(model)
    assert type(converted.layers[0]) is layers.TimeDistributed
    assert type(converted.layers[0].layer.forward_layer) is layers.LSTM
    inputs = draw(BATCH, WORDS, LENGTH, FEATURES)
    assert_close(converted(inputs), model(inputs), 1e-6)


def test_invalid_arguments():
    with pytest.raises(ValueError, match=r"`layer` must not be stateful.* in 'inner'"):
        layers.TimeDistributed(keras.Sequential([layers.GRU(UNITS, stateful=True, name="inner")]))
    with pytest.raises(ValueError, match=r"at least 3 axes. Received: shape \(2, 3\)"):
        layers.TimeDistributed(keras.layers.Dense(UNITS))(draw(2, 3))
    with pytest.raises(ValueError, match=r"has a shape \(2,\)"):
        layers.TimeDistributed(keras.layers.Dense(UNITS))(draw(2, 3, 4), mask=np.ones(2, bool))

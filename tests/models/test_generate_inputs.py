# SPDX-License-Identifier: Apache-2.0
"""`generate` and `predict` take sources in every form that Keras takes."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq

WORDS = ["abc", "", "hedge", "a", "\0b"]
IDS = [[4, 5, 6], [7], [8, 9, 10, 11, 4], [5, 6], [4]]


def make_model(vectorizers=True):
    keras.utils.set_random_seed(3)
    vectorizer = keras_seq.data.text_vectorizer(["abcdefgh"])
    parts = keras_seq.Encoder(12, 4, 8), keras_seq.Decoder(12, 4, 8)
    model = keras_seq.Seq2Seq(*parts, *([vectorizer, vectorizer] if vectorizers else []))
    for variable in model.trainable_variables:
        variable.assign(5 * variable)  # so that outputs differ
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.mark.parametrize("make", [np.array, tf.constant, np.str_, str.encode])
def test_a_single_string_in_any_form(model, make):
    assert model.generate(make("abc")) == model.generate("abc")
    assert model.generate(make("abc"), return_dict=True)["text"].tolist() == model.generate(["abc"])
    np.testing.assert_array_equal(model.score(make("abc"), make("b")), model.score("abc", "b"))


@pytest.mark.slow
def test_in_a_graph_decode_takes_the_place_of_generate(model):
    with pytest.raises(ValueError, match="`inputs` must not be symbolic: in a graph, call `decode`"):
        tf.function(model.generate)(tf.constant(["abc"]))
    expected = [text.encode() for text in model.generate(["abc"])]
    assert tf.function(lambda x: model.decode(x)["text"])(tf.constant(["abc"])).numpy().tolist() == expected
    assert model.decode(["abc"])["text"].numpy().tolist() == expected


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    @property
    def num_batches(self):
        return None if self.batches is None else len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def test_every_form_of_strings_gives_the_same_outputs():
    model = make_model()
    expected = model.generate(WORDS)
    assert len(set(expected)) > 1
    assert [model.generate([word])[0] for word in WORDS] == expected
    sources = tf.data.Dataset.from_tensor_slices(WORDS)
    pairs = tf.data.Dataset.from_tensor_slices((WORDS, ["x"] * 5, [1.0] * 5))  # the targets are unknown letters
    split = [WORDS[:3], WORDS[3:]]
    for inputs in (
        np.array(WORDS, object),
        tf.constant(WORDS),
        sources.batch(2),
        pairs.batch(3),
        (batch for batch in split),
        ((batch, batch) for batch in split),
        Batches(split),
        Batches([(batch, batch) for batch in split]),
        tf.data.Dataset.from_tensors(np.array([], object)).concatenate(sources.batch(5)),
    ):
        assert model.generate(inputs) == expected
    assert len(model._functions) == 2  # from one string to a string, and from the ids of several
    whole = model.generate(WORDS, return_dict=True)
    for name, value in model.generate(sources.batch(2), return_dict=True).items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, whole[name], atol=1e-5)
        else:
            np.testing.assert_array_equal(value, whole[name])


def test_every_form_of_token_ids_gives_the_same_outputs():
    model = make_model(vectorizers=False)
    padded = np.array([row + [0] * (5 - len(row)) for row in IDS])
    expected = model.generate(padded)
    ragged = tf.data.Dataset.from_tensor_slices(tf.ragged.constant(IDS))
    for inputs in (IDS, tf.ragged.constant(IDS), padded.astype("uint8"), ragged.batch(2), iter([IDS[:2], IDS[2:]])):
        np.testing.assert_array_equal(model.generate(inputs), expected)
    assert len(model._functions) == 1


def test_a_single_string_gives_a_single_string():
    model = make_model()
    for text in ("hedge", b"hedge", ""):
        many = model.generate([text], return_dict=True)
        assert model.generate(text) == model.generate([text])[0] == many["text"][0]
        assert isinstance(model.generate(text), str)
        one = model.generate(text, return_dict=True)
        assert one.keys() == many.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, many[name])


def test_predict_decodes_sources():
    model = make_model()
    expected = model.generate(WORDS)
    pairs = tf.data.Dataset.from_tensor_slices((WORDS, WORDS)).batch(2)
    for outputs in (
        model.predict(WORDS, batch_size=2),
        model.predict(np.array(WORDS, object)),
        model.predict(pairs, verbose=0),
        model.predict_on_batch(WORDS),
    ):
        assert isinstance(outputs, np.ndarray)
        assert outputs.tolist() == expected
    with pytest.raises(ValueError, match="`steps` and `callbacks` must be None unless"):
        model.predict(WORDS, steps=1)


def test_predict_returns_logits_for_prepared_inputs():
    model = make_model()
    inputs, targets = model.prepare(WORDS, WORDS)
    logits = np.asarray(model(inputs))
    np.testing.assert_allclose(model.predict(inputs, batch_size=2, verbose=0), logits, atol=1e-5)
    np.testing.assert_allclose(model.predict_on_batch(inputs), logits, atol=1e-5)
    dataset = tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(2)
    np.testing.assert_allclose(model.predict(dataset, verbose=0, steps=2), logits[:4], atol=1e-5)


class TestErrors:
    @pytest.mark.parametrize("value", [0, -1, 2**31, 2.5, "3", True, np.float32(2), np.array([1, 2])])
    @pytest.mark.parametrize(("name", "largest"), [("max_length", 100_000), ("batch_size", 2**31 - 1)])
    def test_invalid_max_length_and_batch_size(self, name, largest, value):
        bound = f", at most {largest}" if isinstance(value, int) and value > largest else ""
        message = f"`{name}` must be a positive integer{bound}. Received: {value!r}"
        with pytest.raises(ValueError, match=re.escape(message)):
            make_model().generate(["a"], **{name: value})

    def test_numpy_integers_are_valid(self):
        model = make_model()
        assert model.generate(["a"], np.int64(2), np.int32(1)) == model.generate(["a"], 2)

    @pytest.mark.parametrize("bad", [-1, 12, 2**32 + 4])
    def test_ids_outside_the_vocabulary(self, bad):
        model = make_model(vectorizers=False)
        for inputs in ([[4, bad]], tf.data.Dataset.from_tensors([[4, bad]])):
            with pytest.raises(ValueError, match=r"`inputs` must be token ids from 0 to 11\. Received"):
                model.generate(inputs)

    @pytest.mark.parametrize(
        "inputs", [[[4.0, 5.0]], [[True]], [4, 5], [[[4]]], ["a"], [["a"]], "a", 4, None, [4, "a"]]
    )
    def test_inputs_that_are_not_ids(self, inputs):
        with pytest.raises(ValueError, match=r"`inputs` must be .*token ids, shape \(batch, time\)"):
            make_model(vectorizers=False).generate(inputs)

    @pytest.mark.parametrize("inputs", [[[4, 5]], [["a"]], 4, None, [4, "a"], {"a": 1}])
    def test_inputs_that_are_not_strings(self, inputs):
        with pytest.raises(ValueError, match=r"`inputs` must be strings, shape \(batch,\)"):
            make_model().generate(inputs)

    @pytest.mark.parametrize("vectorizers", [True, False])
    def test_empty_inputs(self, vectorizers):
        model = make_model(vectorizers)
        shape = [0] if vectorizers else [0, 3]
        empty = np.zeros(shape, str if vectorizers else int)
        for inputs in ([], empty, iter([]), tf.data.Dataset.from_tensors(empty)):
            with pytest.raises(ValueError, match="`inputs` must contain at least one source"):
                model.generate(inputs)

    def test_unbatched_strings(self):
        for inputs in (tf.data.Dataset.from_tensor_slices(WORDS), iter(WORDS)):
            with pytest.raises(ValueError, match=r"`inputs` must be strings.* Use `dataset.batch\(n\)`"):
                make_model().generate(inputs)

    def test_infinite_batches(self):
        with pytest.raises(ValueError, match="`inputs` must be finite"):
            make_model().generate(Batches(None))

# SPDX-License-Identifier: Apache-2.0
import collections
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_seq import data

SPECIAL = ["", "[UNK]", "[START]", "[END]"]
PRONUNCIATIONS = ["K AE T", "T UW", "AE K T", "EH K S"]

# UTF-8 cannot encode surrogates, and a vocabulary of Keras cannot contain NUL.
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=4).filter(
    lambda word: word not in SPECIAL
)
texts = {
    "character": st.text(characters, min_size=1, max_size=8),
    "whitespace": st.lists(words, min_size=1, max_size=5).map(" ".join),
}
TOKENS = {"character": list, "whitespace": str.split}

splits = pytest.mark.parametrize("split", ["character", "whitespace"])
few_examples = settings(deadline=None, max_examples=20)


def expected_vocabulary(texts, split):
    counts = collections.Counter(token for text in texts for token in TOKENS[split](text))
    tokens = sorted(counts, key=lambda token: (counts[token], token.encode()), reverse=True)
    return SPECIAL + tokens


def decoded(strings):
    return [string.decode() for string in strings.numpy()]


@splits
@few_examples
@given(strategy=st.data())
def test_vocabulary_and_round_trip(split, strategy):
    corpus = strategy.draw(st.lists(texts[split], min_size=1, max_size=8))
    vectorizer = data.text_vectorizer(corpus, split)
    vocabulary = expected_vocabulary(corpus, split)
    assert vectorizer.get_vocabulary() == vocabulary
    ids = vectorizer(corpus)
    assert ids.to_list() == [[vocabulary.index(t) for t in TOKENS[split](c)] for c in corpus]
    assert decoded(data.detokenizer(vectorizer)(ids)) == corpus


def test_special_ids_are_indices_of_the_vocabulary():
    vocabulary = data.text_vectorizer(["a"]).get_vocabulary()
    ids = [data.PAD_ID, data.UNKNOWN_ID, data.START_ID, data.END_ID]
    assert [vocabulary[i] for i in ids] == ["", "[UNK]", data.START, data.END]
    assert data.text_vectorizer(["a b"], "whitespace")(["b z [UNK]"]).to_list() == [[4, 1, 1]]


@pytest.mark.parametrize(
    "convert",
    [
        list,
        iter,
        np.array,
        tf.data.Dataset.from_tensor_slices,
        lambda texts: tf.data.Dataset.from_tensor_slices(texts).batch(3),
        lambda texts: tf.data.Dataset.from_tensor_slices(texts).batch(3).map(lambda t: t[:, None]),
    ],
    ids=["list", "iterator", "array", "dataset", "batched dataset", "dataset of columns"],
)
def test_every_kind_of_texts_gives_the_same_vocabulary(convert):
    vectorizer = data.text_vectorizer(convert(PRONUNCIATIONS), "whitespace")
    assert vectorizer.get_vocabulary() == expected_vocabulary(PRONUNCIATIONS, "whitespace")


def test_max_tokens_keeps_the_most_frequent():
    whole = expected_vocabulary(PRONUNCIATIONS, "whitespace")
    for size in (5, 7, 100):
        vectorizer = data.text_vectorizer(PRONUNCIATIONS, "whitespace", max_tokens=size)
        assert vectorizer.get_vocabulary() == whole[:size]


def test_texts_are_not_changed_by_default():
    text = ["Don't. STOP"]
    assert decoded_round_trip(text, {}) == text
    assert decoded_round_trip(text, {"standardize": "lower_and_strip_punctuation"}) == ["dont stop"]


def decoded_round_trip(texts, options):
    vectorizer = data.text_vectorizer(texts, "whitespace", **options)
    return decoded(data.detokenizer(vectorizer)(vectorizer(texts)))


@splits
def test_saving_and_loading_a_keras_file(tmp_path, split):
    # With split="character", several kinds of line breaks are tokens.
    corpus = ["one\ntwo\r\x85\u2028", "three  four", "[END"]
    vectorizer = data.text_vectorizer(corpus, split)
    assert {type(token) for token in vectorizer.get_config()["vocabulary"]} == {str}  # not NumPy strings
    inputs = keras.Input((), dtype="string")
    # Two models, because symbolic tensors of Keras are never ragged.
    keras.Model(inputs, vectorizer(inputs)).save(tmp_path / "to_ids.keras")
    ids = keras.Input((None,), dtype="int64")
    keras.Model(ids, data.detokenizer(vectorizer)(ids)).save(tmp_path / "to_text.keras")
    to_ids = keras.models.load_model(tmp_path / "to_ids.keras")
    to_text = keras.models.load_model(tmp_path / "to_text.keras")
    if split == "whitespace":  # TensorFlow splits at ASCII whitespace only, like Python's bytes
        corpus = [b" ".join(text.encode().split()).decode() for text in corpus]
    assert decoded(to_text(to_ids(tf.constant(corpus)).to_tensor())) == corpus


def test_detokenizer_stops_at_the_first_end():
    layer = data.Detokenizer([*SPECIAL, "K", "AE", "T"], separator=" ")
    cases = {
        (4, 5, 6, 3, 6, 3): "K AE T",
        (4, 5, 6, 0, 0, 0): "K AE T",
        (2, 4, 5, 6, 3, 2): "K AE T",
        (0, 0, 4, 0, 5, 6): "K AE T",
        (6, 1, 7, 99, -1, 3): "T [UNK] [UNK] [UNK] [UNK]",
        (3, 4, 5, 6, 4, 4): "",
        (0, 0, 0, 0, 0, 0): "",
    }
    for dtype in ("int32", "int64"):
        assert decoded(layer(np.array(list(cases), dtype))) == list(cases.values())
    beams = layer(np.array(list(cases)).reshape(1, len(cases), -1))  # (batch, beam)
    assert beams.shape == (1, len(cases))
    assert decoded(beams[0]) == list(cases.values())
    assert decoded(layer(tf.ragged.constant([[4], [], [5, 6, 3]]))) == ["K", "", "AE T"]
    assert decoded(layer(tf.zeros((2, 0), tf.int32))) == ["", ""]


def test_detokenizer_config_round_trip():
    layer = data.Detokenizer([*SPECIAL, "a", "b"], separator="-", name="text")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == layer.get_config()
    assert again.get_config()["separator"] == "-"
    assert decoded(again(np.array([[4, 5, 4, 3]]))) == ["a-b-a"]


def test_detokenizer_on_symbolic_inputs():
    ids = keras.Input((None,), dtype="int64")
    layer = data.Detokenizer([*SPECIAL, "a"])
    strings = layer(ids)
    assert (strings.shape, strings.dtype) == ((None,), "string")
    assert layer.lookup.built


@splits
def test_saved_model_from_strings_to_strings(tmp_path, split):
    class Echo(tf.Module):
        def __init__(self, vectorizer):
            self.vectorizer = vectorizer
            self.detokenizer = data.detokenizer(vectorizer)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts):
            return self.detokenizer(self.vectorizer(texts))

    tf.saved_model.save(Echo(data.text_vectorizer(PRONUNCIATIONS, split)), tmp_path)
    echo = tf.saved_model.load(tmp_path)
    assert decoded(echo(tf.constant(PRONUNCIATIONS))) == PRONUNCIATIONS


def test_a_custom_split_needs_a_separator():
    vectorizer = data.text_vectorizer(["a-b", "b"], split=lambda texts: tf.strings.split(texts, "-"))
    assert vectorizer.get_vocabulary() == [*SPECIAL, "b", "a"]
    with pytest.raises(ValueError, match="`separator` must be a string for a vectorizer with split=<"):
        data.detokenizer(vectorizer)
    layer = data.detokenizer(vectorizer, separator="-")
    assert decoded(layer(vectorizer(["b-a-b"]))) == ["b-a-b"]


def test_text_to_ids_never_returns_special_tokens():
    vectorizer = data.text_vectorizer(["b a"], split="whitespace")
    assert vectorizer(["a [END] b"]).to_list() == [[5, 3, 4]]  # the vectorizer alone does
    texts = tf.constant(["a [END] b", "[START]", "[UNK] \0", "", "b a"])
    assert data.text_to_ids(vectorizer, texts).to_list() == [[5, 1, 4], [1], [1, 1], [], [4, 5]]
    commas = data.text_vectorizer(["b,a"], split=lambda text: tf.strings.split(text, ","))
    assert data.text_to_ids(commas, tf.constant(["a,,b"])).to_list() == [[5, 1, 4]]


def test_special_tokens_in_a_text_are_characters():
    text = ["[START] [END]"]
    vectorizer = data.text_vectorizer(text)
    assert decoded(data.detokenizer(vectorizer)(vectorizer(text))) == text


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["a [END] b"], {}, r"`texts` must not contain the special token '\[END\]'"),
        (["[START] a"], {}, r"`texts` must not contain the special token '\[START\]'"),
        # Also if max_tokens would remove it.
        (["a a [END]"], {"max_tokens": 5}, r"`texts` must not contain the special token '\[END\]'"),
        (["a\0"], {"split": "character"}, "`texts` must not contain the NUL character"),
        ([], {}, "`texts` must contain at least one token. Received: none"),
        (["", " "], {}, "`texts` must contain at least one token. Received: none"),
        ("abc", {}, r"`texts` must be an iterable of strings. For a single text, pass \[text\]. .* string: 'abc'"),
        ("abcd" * 1000, {}, "Received a single string: '(abcd){10}'$"),  # not the whole of a long text
        (["a", 5], {}, "`texts` must contain strings. Received: 5"),
        (tf.data.Dataset.range(3), {}, "`texts` must be a dataset of strings. Received: elements Tensor"),
        ([b"a\xff b"], {}, r"`texts` must be valid UTF-8 for split='whitespace'\. Received: b'a\\xff'"),
        (["a"], {"max_tokens": 4}, "`max_tokens` must be None or greater than 4, .* Received: 4"),
    ],
)
def test_text_vectorizer_raises(texts, options, message):
    with pytest.raises(ValueError, match=message):
        data.text_vectorizer(texts, **{"split": "whitespace", **options})


def test_detokenizer_raises():
    with pytest.raises(ValueError, match=r"`vocabulary` must begin with .* Received: \['a', 'b'\]"):
        data.Detokenizer(["a", "b"])
    with pytest.raises(ValueError, match=r"`vocabulary` must begin with .*'\[END\]'\]. Received"):
        data.detokenizer(keras.layers.TextVectorization(vocabulary=["a"]))
    with pytest.raises(ValueError, match=r"`inputs` must be integer token ids\. Received: dtype float32"):
        data.Detokenizer([*SPECIAL, "a"])(np.zeros((1, 2), "float32"))


def test_an_unknown_split_names_those_there_are():
    with pytest.raises(ValueError, match="`split` must be 'character', 'grapheme', 'whitespace', or a function"):
        data.text_vectorizer(["a"], split="words")

# SPDX-License-Identifier: Apache-2.0
"""Grapheme clusters against the package `regex`, whose `\\X` follows UAX #29 independently."""

import json
import random

import keras
import pytest
import regex
import tensorflow as tf

from keras_seq import data

# One character or more of each property that the rules of UAX #29 read, and neighbours that have none.
CHARACTERS = (
    "a é e\u0301\u0308 \r\n\t\0\x7f \u00ad\u061c\u200b\u2028 \u200c\u200d \ufe0f\u20e3 \U0001f3fb\U0001f3ff "
    "\u0600\u06dd\u0890 \u1100\u1161\u11a8\uac00\uac01\ud7a3\ua960\ud7b0\ud7cb \u0915\u0937\u093c\u094d\u093f\u0903 "
    "\u0995\u09cd \u0d15\u0d4d\u0d4e \u0e01\u0e33\u0e48 \u1cf5\U00011a3a\U00011133\U00011103 \u231a\u2764\U0001f469 "
    "\U0001f680\U0001f3f4 \U0001f1e6\U0001f1ff \U000e0067\U000e007f \ufeff\ufffd\uffff\U0010ffff\u0378 \u4e00"
)
FEW = ["noe\u0308l", "हिन्दी क्षत्रिय", "각한국어", "👩🏽‍🚀👨‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿❤️", "🇩🇪🇫🇷🇯", "a\r\nb\n\r", "", " \u0301", "กำ"]


def expected(text):
    return regex.findall(r"\X", text)


def split(texts):
    return [[token.decode() for token in row] for row in data.split_graphemes(tf.constant(texts)).to_list()]


def test_characters_as_users_see_them():
    assert split(FEW)[0] == ["n", "o", "e\u0308", "l"]
    assert [len(row) for row in split(FEW)] == [4, 6, 4, 4, 3, 5, 0, 1, 1]
    assert split(FEW) == [expected(text) for text in FEW]


def test_hostile_texts_split_as_by_regex():
    draw = random.Random(0)
    texts = ["".join(draw.choices(CHARACTERS, k=draw.randint(1, 12))) for _ in range(4000)]
    assert split(texts) == [expected(text) for text in texts]


@pytest.mark.slow
def test_every_character_of_unicode_splits_as_by_regex():
    """In contexts where the rules treat its property unlike others."""
    contexts = (
        "a{}",
        "{}a",
        "{}\u0301",
        "\u094d{}",
        "{}\u0915",
        "👩\u200d{}",
        "{}\u200d👩",
        "\u1100{}",
        "{}\u1161",
        "{}\u11a8",
    )
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for context in contexts:
        texts = [context.format(chr(code)) for code in codes]
        lengths = data.split_graphemes(tf.constant(texts)).row_lengths().numpy().tolist()
        wrong = [hex(c) for c, text, n in zip(codes, texts, lengths, strict=True) if n != len(expected(text))]
        assert wrong == [], context


def test_invalid_utf8_becomes_the_replacement_character():
    draw = random.Random(1)
    parts = [b"a", b"\xcc", b"\x88", b"\xff", b"\xf0", b"\x9f", b"\xe2\x80\x8d", b"\0", b"\xed\xa0", b"\xc0"]
    texts = [b"".join(draw.choices(parts, k=draw.randint(0, 8))) for _ in range(500)]
    joined = tf.strings.reduce_join(data.split_graphemes(tf.constant(texts)), -1)
    assert joined.numpy().tolist() == tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8").numpy().tolist()


def test_a_vectorizer_of_graphemes_and_its_detokenizer():
    vectorizer = data.text_vectorizer(FEW, split="grapheme")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(vectorizer)))
    for layer in (vectorizer, keras.saving.deserialize_keras_object(config)):
        assert set(layer.get_vocabulary()[4:]) == {token for text in FEW for token in expected(text)}
        texts = data.detokenizer(layer)(layer(tf.constant(FEW)))
        assert [text.decode() for text in texts.numpy()] == FEW
        assert layer(["e", "\u0308"]).to_list() == [[1], [1]]  # parts of a token are not the token
    assert data.split_tokens(vectorizer, tf.constant(["🇩🇪z"])).to_list() == [["🇩🇪".encode(), b"z"]]


def test_a_long_line():
    text = "क्षe\u0301" * 100_000
    assert data.split_graphemes(tf.constant([text, "a"])).row_lengths().numpy().tolist() == [200_000, 1]

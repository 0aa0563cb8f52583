# SPDX-License-Identifier: Apache-2.0
"""Subwords against SentencePiece, which learned them, and against all segmentations of a word."""

import copy
import functools
import io
import itertools
import json
import pickle
import random
import re
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from peak_memory import run_alone

import keras_seq
from keras_seq import data

SPECIAL = ["", "[UNK]", "[START]", "[END]"]
TEXTS = ["unseen seen see", "unwell well", "undo do", "bananas an banana", "aaaa aaa aa a", "naïve 日本"] * 10


@functools.cache
def vectorizer():
    return data.subword_vectorizer(TEXTS, 60, character_coverage=1.0)


def tokens(texts, layer=None):
    rows = data.split_tokens(layer or vectorizer(), tf.constant(texts, tf.string)).to_list()
    return [[token.decode() for token in row] for row in rows]


def learn(texts, vocab_size, **options):
    """Returns a processor of SentencePiece, and the splitter of the same pieces and scores."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=vocab_size, hard_vocab_limit=False,
        normalization_rule_name="identity", unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1, minloglevel=2, **options,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(1, processor.get_piece_size())
    splitter = data.SubwordSplitter([processor.id_to_piece(i) for i in ids], [processor.get_score(i) for i in ids])
    return processor, splitter


def test_texts_split_as_by_sentencepiece_word_by_word():
    processor, splitter = learn(TEXTS, 60, character_coverage=1.0)
    draw = random.Random(0)
    texts = ["".join(draw.choices("anbse日ïXÄ \u00a0", k=draw.randint(0, 25))) for _ in range(1500)]
    by_word = [[p for word in text.split(" ") for p in processor.encode(word, out_type=str)] for text in texts]
    assert [[token.decode() for token in row] for row in splitter(tf.constant(texts)).to_list()] == by_word


def test_the_most_likely_segmentation_of_all():
    draw = random.Random(1)
    for _ in range(3):
        pieces = list({"".join(draw.choices("ab", k=draw.randint(1, 4))) for _ in range(8)} | {"a", "b", "▁"})
        scores = np.float32([draw.uniform(-9, -1) for _ in pieces])
        splitter, score = data.SubwordSplitter(pieces, scores), dict(zip(pieces, scores, strict=True))
        words = ["".join(draw.choices("ab", k=draw.randint(1, 8))) for _ in range(34)]
        for word, row in zip(words, splitter(tf.constant(words)).to_list(), strict=True):
            best = max(sum(map(score.get, parts)) for parts in segmentations("▁" + word) if set(parts) <= set(score))
            row = [token.decode() for token in row]
            assert "".join(row) == "▁" + word
            assert sum(score[token] for token in row) == pytest.approx(best, abs=1e-4)


def segmentations(word):
    for cuts in itertools.product([False, True], repeat=len(word) - 1):
        bounds = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(word)]
        yield [word[a:b] for a, b in itertools.pairwise(bounds)]


def test_vocabulary_ids_and_round_trip():
    layer = vectorizer()
    vocabulary = [str(token) for token in layer.get_vocabulary()]
    assert vocabulary[:4] == SPECIAL and layer.vocabulary_size() <= 60
    texts = ["undo seen banana", "naïve 日本", "", "aaaaaaaaa bananas"]
    ids = data.text_to_ids(layer, tf.constant(texts)).to_list()
    assert ids == [[vocabulary.index(token) for token in row] for row in tokens(texts)]
    decoded = data.detokenizer(layer)(tf.ragged.constant(ids, ragged_rank=1))
    assert [text.decode() for text in decoded.numpy()] == texts
    joined = data.detokenizer(layer)(np.array([[2, *ids[0], 3, 9, 9]]))  # `[START]`, and what is after `[END]`
    assert joined.numpy()[0].decode() == texts[0]


def test_unknown_characters_whitespace_and_bytes():
    assert tokens(["XYZ aXXa"]) == [["▁", "XYZ", "▁a", "XX", "a"]]
    assert data.text_to_ids(vectorizer(), tf.constant(["XYZ"])).to_list()[0][-1] == data.UNKNOWN_ID
    decoded = data.detokenizer(vectorizer())(vectorizer()(["undo XYZ do", " \t"]))
    assert decoded.numpy().tolist() == [b"undo [UNK] do", b""]
    assert tokens([" do\t\r\n\v\f do▁▁do "]) == tokens(["do do do"])
    for space in "\u00a0\u3000\u2028\x85":  # part of a word, as in SentencePiece without normalization
        assert tokens([f"do{space}do"])[0].count(space) == 1
    assert tokens([b"a\xff\0a", "a\0a"]) == [["▁a", "\ufffd\0", "a"], ["▁a", "\0", "a"]]
    assert not set(data.text_to_ids(vectorizer(), tf.constant(["[END] a[START]"])).flat_values.numpy()) & {0, 2, 3}
    assert tokens([]) == [] and tokens(["", " "]) == [[], []]


def test_configuration_round_trip_and_equality():
    layer = vectorizer()
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert tokens(["undo bananas X"], again) == tokens(["undo bananas X"])
    split, same = layer.get_config()["split"], again.get_config()["split"]
    assert split == same and hash(split) == hash(same)
    assert split != data.SubwordSplitter(split.pieces, [0.0] * len(split.pieces)) and split != "whitespace"
    detokenizer = data.detokenizer(layer)
    assert data.Detokenizer.from_config(detokenizer.get_config()).word_start == "▁"
    assert data.Detokenizer.from_config({"vocabulary": SPECIAL, "separator": "-"}).word_start is None  # an old file


def test_texts_are_standardized_and_learning_is_reproducible():
    layers = [data.subword_vectorizer(iter(TEXTS), 40, standardize="lower") for _ in range(2)]
    assert layers[0].get_config()["split"] == layers[1].get_config()["split"]
    assert tokens(["UNDO"], layers[0]) == tokens(["undo"], layers[0])
    dataset = tf.data.Dataset.from_tensor_slices(TEXTS).batch(7)
    assert data.subword_vectorizer(dataset, 40).get_config()["split"] == layers[0].get_config()["split"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["", " "],), "`texts` must contain at least one token. Received: none"),
        (([],), "`texts` must contain at least one token. Received: none"),
        (("abc",), "`texts` must be an iterable of strings. For a single text, pass [text]."),
        ((["a", 5],), "`texts` must contain strings. Received: 5"),
        ((["abc de"], 4), "`vocabulary_size` must be an integer greater than 4, the number of special tokens. Rec"),
        ((["abc de"], 8.0), "`vocabulary_size` must be an integer greater than 4, the number of special tokens. Rec"),
        ((["abc de"], 6), "`vocabulary_size` must leave room for each character that `character_coverage` includes"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        data.subword_vectorizer(*arguments)


def test_invalid_pieces_and_coverage():
    with pytest.raises(ValueError, match=r"`character_coverage` must be greater than 0 and at most 1\. Received: 1\.5"):
        data.subword_vectorizer(["a"], character_coverage=1.5)
    with pytest.raises(
        ValueError, match=r"`pieces` and `scores` must have the same length, at least 1\. Received: 1 p"
    ):
        data.SubwordSplitter(["a"], [])
    for pieces in (["a", "a"], ["a", ""]):
        with pytest.raises(ValueError, match="`pieces` must be strings that are not empty and all different"):
            data.SubwordSplitter(pieces, [0.0, 0.0])


def test_without_sentencepiece_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'keras_seq[text]'")):
        data.subword_vectorizer(["a"])


@pytest.mark.slow
def test_models_of_subwords_in_other_processes(tmp_path):
    """`.keras` in a new process, and the SavedModel with TensorFlow alone, give the same outputs."""
    keras.utils.set_random_seed(0)
    layer, texts = vectorizer(), [*TEXTS[:6], "XYZ", ""]
    size = layer.vocabulary_size()
    model = keras_seq.Seq2Seq(keras_seq.Encoder(size, 4, 8), keras_seq.Decoder(size, 4, 8), layer, layer)
    model.compile()
    model.fit(TEXTS, TEXTS, verbose=0)
    outputs = model.generate(texts)
    assert any(outputs)
    model.save(tmp_path / "model.keras")
    model.export(tmp_path / "saved_model")
    language_model = keras_seq.LanguageModel(embedding_dim=4, units=8, vectorizer=layer)
    language_model.compile()
    language_model.fit(TEXTS, verbose=0)
    language_model.save(tmp_path / "language_model.keras")
    continuations = language_model.generate(["undo", "un"], max_length=5)
    scripts = {
        "import keras_seq, keras; model = keras.models.load_model(f'{folder}/model.keras'); "
        "out = model.generate(texts)": outputs,
        "import keras_seq, keras; model = keras.models.load_model(f'{folder}/language_model.keras'); "
        "out = model.generate(['undo', 'un'], max_length=5)": continuations,
        "import tensorflow as tf; model = tf.saved_model.load(f'{folder}/saved_model'); "
        "out = [t.decode() for t in model.signatures['serving_default'](tf.constant(texts))['text'].numpy()]; "
        "assert 'keras_seq' not in sys.modules": outputs,
    }
    for script, expected in scripts.items():
        code = (
            f"import sys, json; folder, texts = sys.argv[1], json.loads(sys.argv[2]); {script}; print(json.dumps(out))"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), json.dumps(texts)], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout.splitlines()[-1]) == expected


LARGE = """
import json, random, time
import tensorflow as tf
from peak_memory import peak_growth
from keras_seq import data

draw = random.Random(0)
words = ["".join(draw.choices("abcdefghij", weights=range(1, 11), k=draw.randint(2, 9))) for _ in range(40_000)]
texts = [" ".join(draw.choices(words, k=20)) for _ in range(50_000)]
layer = data.subword_vectorizer(texts[:10_000], 32_000)
batch, ids = tf.constant(texts), []
layer(batch[:100])
start = time.process_time()
growth = peak_growth(lambda: ids.append(layer(batch)))
seconds = time.process_time() - start
restored = [text.decode() for text in data.detokenizer(layer)(ids[0][:100]).numpy()]
results = {"size": layer.vocabulary_size(), "seconds": seconds, "bytes": growth, "is_exact": restored == texts[:100]}
print(json.dumps({**results, "tokens": int(ids[0].flat_values.shape[0])}))
"""


@pytest.mark.slow
def test_a_vocabulary_of_32000_and_50000_texts():
    results = run_alone(LARGE)
    assert 16_000 < results["size"] <= 32_000
    assert results["seconds"] < 20
    assert results["bytes"] < 300e6  # of 1.5 million tokens
    assert results["is_exact"]


@pytest.mark.slow
def test_the_time_of_a_word_is_linear_in_its_length():
    processor, splitter = learn(TEXTS, 60)
    word = "banana" * 15_000
    start = time.process_time()
    row = splitter(tf.constant([word, "a b"]))[0].numpy()
    assert time.process_time() - start < 60
    assert [token.decode() for token in row] == processor.encode(word, out_type=str)


def test_a_long_word_outside_of_a_graph():
    """As in scripts without spaces. Loops outside of a graph took 4 milliseconds for each character."""
    splitter = data.SubwordSplitter(["▁", "a", "ab", "b"], [-9.0, -3.0, -2.0, -3.0])
    [pieces] = splitter(tf.constant(["ab" * 5000])).to_list()
    assert pieces == ["▁".encode(), *[b"ab"] * 5000]
    for duplicate in (copy.deepcopy(splitter), pickle.loads(pickle.dumps(splitter))):  # also once it has run
        assert duplicate == splitter

# SPDX-License-Identifier: Apache-2.0
"""Unknown tokens of outputs that become source tokens: `generate(..., copy_unknown=True)`."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq
from keras_seq.decoding import BeamSampler, TopKSampler
from keras_seq.models.unknown_tokens import most_attended_tokens

TEXTS = ["the Zebra sat", "", "a", "x y z [END] q", "the the Ärger w", "[UNK] sat"]
UNK, END = 1, 3


def make_model(split="whitespace", **options):
    """Returns a model with drawn weights whose outputs have many unknown tokens."""
    source = keras_seq.data.text_vectorizer(["the cat sat", "a dog ran"], split=split)
    target = keras_seq.data.text_vectorizer(["der katze ran"], split="whitespace")
    keras.utils.set_random_seed(3)
    model = keras_seq.Seq2Seq(
        keras_seq.Encoder(source.vocabulary_size(), 4, 6),
        keras_seq.Decoder(target.vocabulary_size() + 2, 4, 6, **options),  # two ids have no token
        source,
        target,
    )
    for weight in model.trainable_variables:
        weight.assign(3 * weight)
    bias = model.decoder.readout.bias
    bias.assign(bias + np.eye(bias.shape[0])[UNK])
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


def expected_texts(model, texts, results, split=str.split):
    """Replaces unknown tokens in plain Python, given token ids and attention weights."""
    vocabulary, copied = model.target_vectorizer.get_vocabulary(), 0

    def replace(source, ids, weights):
        nonlocal copied
        tokens = []
        for token, row in zip(ids, weights, strict=True):
            if token in (0, END):
                break
            if token == UNK or token >= len(vocabulary):
                position = int(np.argmax(row))
                copied += position < len(source)
                tokens.append(source[position] if position < len(source) else "[UNK]")
            else:
                tokens.append(vocabulary[token])
        return " ".join(tokens)

    outputs = []
    for text, ids, weights in zip(texts, results["token_ids"], results["attention_weights"], strict=True):
        if ids.ndim == 1:
            outputs.append(replace(split(text), ids, weights))
        else:
            outputs.append([replace(split(text), *pair) for pair in zip(ids, weights, strict=True)])
    assert copied > 0
    return outputs


@pytest.mark.parametrize(
    "sampler",
    [
        "greedy",
        BeamSampler(4, num_return_sequences=3, coverage_penalty=0.1),
        pytest.param(TopKSampler(3, seed=1), marks=pytest.mark.slow),
    ],
)
def test_unknown_tokens_become_the_most_attended_source_tokens(model, sampler):
    options = {"sampler": sampler, "seed": 5, "max_length": 6}
    results = model.generate(TEXTS, return_dict=True, copy_unknown=True, batch_size=4, **options)
    assert results["text"].tolist() == expected_texts(model, TEXTS, results)
    plain = model.generate(TEXTS, return_dict=True, batch_size=4, **options)
    for name in plain.keys() - {"text"}:  # it changes nothing but texts
        np.testing.assert_array_equal(results[name], plain[name], err_msg=name)


@pytest.mark.slow
def test_every_form_of_sources(model):
    expected = model.generate(TEXTS, copy_unknown=True)
    batches = tf.data.Dataset.from_tensor_slices((TEXTS, TEXTS)).batch(4)
    assert model.generate(batches, copy_unknown=True) == expected
    assert model.generate(np.array(TEXTS), copy_unknown=True, batch_size=1) == expected
    assert model.generate(TEXTS[0], copy_unknown=True) == expected[0]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["character", "grapheme"])
def test_characters_are_copied(split):
    model = make_model(split)
    texts = ["Zebra", "ünï", "the"]
    results = model.generate(texts, return_dict=True, copy_unknown=True)
    assert results["text"].tolist() == expected_texts(model, texts, results, split=list)


def test_copied_tokens_that_are_not_utf8(model):
    """They were an error, whichever of the sources of a batch had one."""
    text, ascii_text = model.generate([b"\xff \xff\xfe \xff", "Q W V"], copy_unknown=True)
    assert "\ufffd" in text
    assert set(ascii_text.split()) & {"Q", "W", "V"}


def test_ties_ends_and_empty_sources():
    """The first of equal weights counts, and `[END]` is not a token to copy."""
    vectorizer = keras_seq.data.text_vectorizer(["a b"], split="whitespace")
    texts = tf.constant(["a Q", "", "b"])
    weights = np.zeros((3, 2, 3), "float32")
    weights[0] = [[0.5, 0.5, 0], [0.2, 0.4, 0.4]]
    weights[1] = [[1, 0, 0], [1, 0, 0]]  # [END] is at position 0
    weights[2] = [[0, 1, 0], [1, 0, 0]]
    tokens = most_attended_tokens(vectorizer, texts, weights)
    assert tokens.numpy().tolist() == [[b"a", b"Q"], [b"[UNK]", b"[UNK]"], [b"[UNK]", b"b"]]


@pytest.mark.slow
def test_ensembles_and_features(model):
    ensemble = keras_seq.Ensemble([model, make_model(cell="gru")])
    results = ensemble.generate(TEXTS, return_dict=True, copy_unknown=True)
    assert results["text"].tolist() == expected_texts(model, TEXTS, results)
    lookup = keras.layers.StringLookup(vocabulary=["de", "en"])
    parts = keras_seq.Encoder(model.encoder.vocabulary_size, 4, 6), keras_seq.Decoder(9, 4, 6)
    vectorizers = model.source_vectorizer, model.target_vectorizer
    conditioned = keras_seq.Seq2Seq(*parts, *vectorizers, features={"language": lookup})
    bias = conditioned.decoder.readout.bias
    bias.assign(bias + 5 * np.eye(bias.shape[0])[UNK])
    sources = {"source": TEXTS, "language": ["de", "en"] * 3}
    results = conditioned.generate(sources, return_dict=True, copy_unknown=True, batch_size=4)
    assert results["text"].tolist() == expected_texts(conditioned, TEXTS, results)


LOAD_SAVED_MODEL = """
import sys, tensorflow as tf, numpy as np
signatures = tf.saved_model.load(sys.argv[1]).signatures
results = {
    name: signatures[name](inputs=tf.constant(sys.argv[3:]))["text"].numpy().astype("S")
    for name in ("serving_default", "generate_attention", "generate_beam")
}
assert signatures["serving_default"](inputs=tf.constant([], tf.string))["text"].shape == (0,)
assert "keras_seq" not in sys.modules
np.savez(sys.argv[2], **results)
"""


@pytest.mark.slow
def test_saved_model_with_tensorflow_alone(model, tmp_path):
    model.export(tmp_path / "saved", copy_unknown=True)
    arguments = [str(tmp_path / "saved"), str(tmp_path / "results.npz"), *TEXTS]
    run = subprocess.run([sys.executable, "-c", LOAD_SAVED_MODEL, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    results = np.load(tmp_path / "results.npz")
    assert np.char.decode(results["serving_default"]).tolist() == model.generate(TEXTS, copy_unknown=True)
    np.testing.assert_array_equal(results["generate_attention"], results["serving_default"])
    beams = model.generate(TEXTS, sampler=BeamSampler(5, num_return_sequences=5), copy_unknown=True)
    assert np.char.decode(results["generate_beam"]).tolist() == beams


class TestErrors:
    def test_no_attention(self):
        with pytest.raises(ValueError, match="a model without attention"):
            make_model(attention=None).generate(TEXTS, copy_unknown=True)

    def test_token_ids(self, model):
        ids = keras_seq.Seq2Seq(keras_seq.Encoder(9, 4, 6), keras_seq.Decoder(9, 4, 6))
        with pytest.raises(ValueError, match="a model without `source_vectorizer`"):
            ids.generate([[4, 3]], copy_unknown=True)
        with pytest.raises(ValueError, match="`inputs` must be strings"):
            model.decode(tf.constant([[4, 3]]), copy_unknown=True)

    def test_targets_that_are_ids(self, model):
        part = keras_seq.Seq2Seq(model.encoder, model.decoder, model.source_vectorizer)
        with pytest.raises(ValueError, match="a model without `target_vectorizer`"):
            part.export("never", copy_unknown=True)

    def test_an_encoder_with_other_positions(self, model):
        encoder = keras.Sequential([keras.layers.Embedding(11, 4), keras.layers.Conv1D(4, 1, strides=2)])
        other = keras_seq.Seq2Seq(encoder, keras_seq.Decoder(9, 4, 6), model.source_vectorizer, model.target_vectorizer)
        with pytest.raises(ValueError, match="one position for each source token"):
            other.decode(tf.constant(TEXTS), copy_unknown=True)

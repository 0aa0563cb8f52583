# SPDX-License-Identifier: Apache-2.0
"""`score`: log-probabilities of given targets."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq
from keras_seq.decoding import BeamSampler

LETTERS = "abcdefgh"
SOURCES = ["abc", "", "hedge", "a" * 40, "?z"]
TARGETS = ["cba", "a", "", "x", "abcdefgh" * 9]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(2)
    vectorizer = keras_seq.data.text_vectorizer([LETTERS])
    parts = keras_seq.Encoder(12, 4, 6, cell="gru"), keras_seq.Decoder(12, 4, 6, "gru")
    model = keras_seq.Seq2Seq(*parts, vectorizer, vectorizer)
    for variable in model.trainable_variables:
        variable.assign(3 * variable)
    model.decoder.readout.bias.assign(tf.one_hot(3, 12) * 3.0)  # so that outputs end
    return model


def to_ids(model, text):
    return [*model.target_vectorizer([text]).to_list()[0], 3]


def test_scores_are_those_of_the_model_step_by_step(model):
    """Against the logits of one pair at a time, normalized in float64."""
    results = model.score(SOURCES, TARGETS, return_dict=True)
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        ids = to_ids(model, target)
        inputs = (np.array([to_ids(model, source)]), np.array([[2, *ids[:-1]]]))
        logits = model(inputs).numpy()[0].astype("float64")
        expected = logits[range(len(ids)), ids] - np.log(np.exp(logits).sum(axis=-1))
        np.testing.assert_allclose(results["token_log_probabilities"][row, : len(ids)], expected, atol=1e-5)
        assert not results["token_log_probabilities"][row, len(ids) :].any()
        np.testing.assert_allclose(results["log_probabilities"][row], expected.sum(), rtol=1e-5)
        assert results["token_ids"][row].tolist() == ids + [0] * (73 - len(ids))
    assert {name: (value.shape, value.dtype.name) for name, value in results.items()} == {
        "log_probabilities": ((5,), "float32"),
        "token_log_probabilities": ((5, 73), "float32"),
        "token_ids": ((5, 73), "int32"),
    }
    np.testing.assert_array_equal(model.score(SOURCES, TARGETS), results["log_probabilities"])


def test_a_score_depends_neither_on_mates_nor_on_batch_size(model):
    expected = [model.score(*pair)[0] for pair in zip(SOURCES, TARGETS, strict=True)]
    for batch_size in (1, 2, 256):
        np.testing.assert_allclose(model.score(SOURCES, TARGETS, batch_size), expected, atol=1e-5)


def test_outputs_score_what_generate_says(model):
    words = ["abc", "", "hedgefad", "hhh", "bbbbb", "?"]
    sampler = BeamSampler(4, num_return_sequences=4)
    results = model.generate(words, 12, sampler=sampler, return_dict=True)
    token_ids, log_probabilities = results["token_ids"], results["log_probabilities"]
    sources, outputs = np.nonzero((token_ids == 3).any(axis=-1))
    assert len(outputs) > 12
    scores = model.score([words[i] for i in sources], token_ids[sources, outputs])
    np.testing.assert_allclose(scores, log_probabilities[sources, outputs], atol=1e-5)
    texts = results["text"][sources, outputs]
    is_exact = np.array(["[UNK]" not in text for text in texts])  # it is a token, but not its text
    assert is_exact.any()
    kept = [words[i] for i in sources[is_exact]]
    np.testing.assert_allclose(model.score(kept, texts[is_exact]), scores[is_exact], atol=1e-5)


def test_every_form_of_pairs_gives_the_same_scores(model):
    expected = model.score(SOURCES, TARGETS)
    ids = [to_ids(model, text) for text in TARGETS]
    padded = [row + [0] * (80 - len(row)) for row in ids]
    source_ids = tf.ragged.constant([to_ids(model, text) for text in SOURCES])
    for sources, targets in (
        (np.array(SOURCES, object), tf.constant(TARGETS)),
        (SOURCES, ids),
        (source_ids, tf.ragged.constant(ids)),
        (source_ids, np.array(padded, "int64")),
    ):
        np.testing.assert_allclose(model.score(sources, targets), expected, atol=1e-6)


def test_equal_lengths_are_not_traced_again(model, monkeypatch):
    model.score(SOURCES, TARGETS)
    monkeypatch.setattr(model, "call", None)
    for count in range(1, 5):
        assert model.score(SOURCES[:count], TARGETS[:count], batch_size=count).shape == (count,)


class TestErrors:
    @pytest.mark.parametrize("targets", [[[4, 5]], [[3, 3]], [[4, 3, 5, 3]], [[4, 0, 3]], [[0, 0]]])
    def test_targets_that_do_not_end_with_end(self, model, targets):
        with pytest.raises(ValueError, match=r"`targets` must end with 3, `\[END\]`.* Received: "):
            model.score(["a"], targets)

    def test_different_numbers(self, model):
        with pytest.raises(ValueError, match="Received: 2 sources and 1 targets"):
            model.score(["a", "b"], ["a"])

    def test_no_pairs(self, model):
        with pytest.raises(ValueError, match="`sources` must be|at least one"):
            model.score([], [])

    def test_other_values(self, model):
        with pytest.raises(ValueError, match="`targets` must be token ids from 0 to 11"):
            model.score(["a"], [[12, 3]])
        with pytest.raises(ValueError, match="`sources` must be strings"):
            model.score([1.5], ["a"])
        with pytest.raises(ValueError, match="`batch_size` must be a positive integer"):
            model.score(["a"], ["a"], 0)

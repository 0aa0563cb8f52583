# SPDX-License-Identifier: Apache-2.0
"""Error rates against a textbook edit distance, and in the logs of `fit`."""

import functools
import re

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_seq
from keras_seq.training import DecodingReport, error_rates


def edit_distance(a, b):
    @functools.cache
    def distance(i, j):
        if not i or not j:
            return i + j
        replaced = distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(replaced, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(a), len(b))


SEQUENCES = st.lists(st.sampled_from("abc"), max_size=5)
CASES = st.lists(st.tuples(SEQUENCES, st.lists(SEQUENCES.filter(bool), min_size=1, max_size=3)), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(CASES)
def test_error_rates_use_the_closest_reference(cases):
    errors = length = wrong_sequences = 0
    for hypothesis, references in cases:
        closest = min((edit_distance(hypothesis, r), len(r)) for r in references)
        errors, length = errors + closest[0], length + closest[1]
        wrong_sequences += closest[0] > 0
    rates = error_rates([" ".join(h) for h, _ in cases], [[" ".join(r) for r in group] for _, group in cases])
    assert rates.token == pytest.approx(100 * errors / length)
    assert rates.sequence == pytest.approx(100 * wrong_sequences / len(cases))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: error_rates([], []), "`hypotheses` must be a list of at least one sequence. Received: []"),
        (lambda: error_rates(["a"], []), "`references` must be a list of at least one sequence. Received: []"),
        (lambda: error_rates(["a"], [[]]), "`references[0]` must be a string or a list of at least one reference"),
        (lambda: error_rates(["a"], ["a", "b"]), "must have the same length. Received: 1 hypotheses and 2 references"),
        (lambda: error_rates("ab", ["a", "b"]), "`hypotheses` must be a list of at least one sequence. Received: 'ab'"),
        (lambda: error_rates(["a"], "a"), "`references` must be a list of at least one sequence. Received: 'a'"),
        (
            lambda: error_rates(["a", "b"], ["a", " "]),
            "Each reference in `references[1]` must have a token. Received: ",
        ),
        (lambda: error_rates(["a", None], ["a", "b"]), "`hypotheses[1]` must be a string or a list of tokens. Rec"),
        (lambda: error_rates([b"a"], ["a"]), "`hypotheses[0]` must be a string or a list of tokens. Received: b'a'"),
        (lambda: error_rates(["a"], [[1]]), "`references[0]` must be a string or a list of tokens. Received: 1"),
        (
            lambda: error_rates([["K", "T"]], [["K", "T"]]),
            "`references[0]` must contain lists of tokens, like `hypotheses[0]`. Received: ['K', 'T']",
        ),
        (
            lambda: DecodingReport(["a"], ["a", "b"]),
            "`sources` and `references` must have the same length. Received: 1 so",
        ),
        (lambda: DecodingReport(["a"], [[]]), "`references[0]` must be a string or a list of at least one reference"),
        (lambda: DecodingReport([], []), "`references` must be a list of at least one sequence"),
    ],
)
def test_invalid_arguments(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_spaces_are_tokens_if_each_character_is_a_token():
    assert error_rates(["ice tea"], [["ice tea"]], separator="") == (0, 0)
    assert error_rates(["icetea"], [["ice tea"]], separator="") == (pytest.approx(100 / 7), 100)
    assert error_rates([" "], [["  "]], separator="") == (50, 100)


def test_strings_are_split_at_ascii_whitespace():
    """As the vectorizer does: a no-break space is part of a token."""
    vectorizer = keras_seq.data.text_vectorizer(["a\u00a0b c"], split="whitespace")
    assert vectorizer.get_vocabulary()[4:] == ["c", "a\u00a0b"]
    assert error_rates(["x c"], ["a\u00a0b c"]) == (50, 100)
    assert error_rates(["x\t c "], ["a\nc"]) == (50, 100)


def test_one_string_is_one_reference():
    assert error_rates(["K AE T", "T"], ["K AE T", "D"]) == error_rates(["K AE T", "T"], [["K AE T"], ["D"]])
    assert error_rates(["K AE T", "T"], ["K AE T", "D"]) == (25, 50)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(CASES)
def test_strings_lists_of_tokens_and_other_separators_agree(cases):
    lists = error_rates([h for h, _ in cases], [group for _, group in cases])
    for separator in (" ", "", "--"):
        rates = error_rates(
            (separator.join(h) for h, _ in cases), ([separator.join(r) for r in group] for _, group in cases), separator
        )
        assert rates == lists


def test_an_empty_hypothesis_has_an_error_for_every_token():
    assert error_rates(["", "a"], ["a b c", "a"]) == (75, 50)
    assert error_rates([""], ["a b"], separator=" ") == (100, 100)
    assert error_rates([""], ["ab"], separator="") == (100, 100)
    assert error_rates(["", ""], ["a--b", "c"], separator="--") == (100, 100)


def test_arrays_of_strings():
    assert error_rates(np.array(["a b", "c"]), np.array(["a b", "d"])) == (pytest.approx(100 / 3), 50)


def test_decoding_report_in_fit(capsys):
    """It reports the error rates of the outputs, also to callbacks before it in the list."""
    texts = ["a b", "b", "b a"]
    vectorizer = keras_seq.data.text_vectorizer(texts)
    parts = keras_seq.Encoder(7, 4, 4, cell="rnn"), keras_seq.Decoder(7, 4, 4, cell="rnn")
    model = keras_seq.Seq2Seq(*parts, vectorizer, vectorizer)
    model.compile(keras.optimizers.SGD(0.0))  # so that the error rates stay the same
    stop = keras.callbacks.EarlyStopping("val_token_error_rate", mode="min", patience=1)
    report = DecodingReport(texts, texts, samples=1, separator="")
    history = model.fit(texts, texts, epochs=4, verbose=0, callbacks=[stop, report]).history
    outputs = model.generate(texts)
    errors = [edit_distance(output, text) for output, text in zip(outputs, texts, strict=True)]
    assert history["val_token_error_rate"] == [pytest.approx(100 * sum(errors) / 7)] * 2
    assert history["val_sequence_error_rate"] == [pytest.approx(100 * np.mean(np.array(errors) > 0))] * 2
    assert capsys.readouterr().out == f"\n  a b → {outputs[0]}\n" * 2


def test_decoding_report_of_several_outputs_takes_the_best():
    vectorizer = keras_seq.data.text_vectorizer(["ab"])
    for vectorizers, sources in (([vectorizer] * 2, ["a", "bb", "ab"]), ([], [[4], [5, 5], [4, 5]])):
        keras.utils.set_random_seed(0)
        model = keras_seq.Seq2Seq(keras_seq.Encoder(6, 4, 4), keras_seq.Decoder(6, 4, 4), *vectorizers)
        model.compile(sampler=keras_seq.decoding.BeamSampler(3, num_return_sequences=3))
        best = [outputs[0] for outputs in model.generate(sources)]
        report, logs = DecodingReport(sources, [x if vectorizers else [x.tolist()] for x in best], separator=""), {}
        report.set_model(model)
        report.on_epoch_end(0, logs)
        assert logs == {"val_token_error_rate": 0, "val_sequence_error_rate": 0}


def test_decoding_report_ignores_end_and_padding_in_token_ids(capsys):
    class Perfect:
        """A model without vectorizers that always returns the references."""

        def generate(self, sources, max_length, verbose):
            return np.array([[5, 6, 3], [7, 3, 0]])

    for references in ([[[5, 6]], [[7]]], [[[5, 6, 3]], [[7, 3]]], [[[5, 6, 3]], [[7, 3, 0]]]):
        report, logs = DecodingReport([[4, 5], [6, 4]], references, samples=0), {}
        report.set_model(Perfect())
        report.on_epoch_end(0, logs)
        assert logs == {"val_token_error_rate": 0, "val_sequence_error_rate": 0}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("max_length", [0, -1, 2.0, float("nan"), True, "5"])
def test_decoding_report_refuses_a_length_before_the_first_epoch(max_length):
    assert DecodingReport(["a"], ["a"], max_length=np.int64(5)).max_length == 5
    with pytest.raises(ValueError, match=f"`max_length` must be a positive integer or None. Received: {max_length!r}"):
        DecodingReport(["a"], ["a"], max_length=max_length)

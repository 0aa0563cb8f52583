# SPDX-License-Identifier: Apache-2.0
"""BLEU and chrF against sacreBLEU's own files, closed forms and a short computation of chrF."""

import collections
import math
import re
import sys

import numpy as np
import pytest

from keras_seq.training import DecodingReport, bleu, chrf

HYPOTHESES = ["the cat sat on the mat today", "a dog, it barks at me", "birds"]
REFERENCES = [["the cat sat on a mat today", "a cat sat on the mat now"], ["a dog barks at me loudly"], ["birds sing"]]


def ngrams(tokens, n):
    return collections.Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def bleu_by_definition(hypotheses, references):
    """Papineni et al. 2002, on lists of tokens."""
    matches, totals, length, closest = [0] * 4, [0] * 4, 0, 0
    for hypothesis, group in zip(hypotheses, references, strict=True):
        length += len(hypothesis)
        closest += min((abs(len(r) - len(hypothesis)), len(r)) for r in group)[1]
        for n in range(4):
            counts, limits = ngrams(hypothesis, n + 1), collections.Counter()
            for reference in group:
                limits |= ngrams(reference, n + 1)
            matches[n] += (counts & limits).total()
            totals[n] += counts.total()
    precision = math.exp(sum(math.log(m / t) for m, t in zip(matches, totals, strict=True)) / 4)
    return 100 * precision * min(1, math.exp(1 - closest / length))


def test_bleu_by_its_definition_with_unequal_numbers_of_references():
    groups = [[reference.split() for reference in group] for group in REFERENCES]
    tokens = [hypothesis.split() for hypothesis in HYPOTHESES]
    expected = bleu_by_definition(tokens, groups)
    assert 20 < expected < 90
    assert bleu(HYPOTHESES, REFERENCES, tokenize="none") == pytest.approx(expected)
    assert bleu(tokens, groups) == pytest.approx(expected)
    ids = collections.defaultdict(lambda: len(ids))
    numbers = [[ids[t] for t in h] for h in tokens], [[[ids[t] for t in r] for r in group] for group in groups]
    assert bleu(*numbers) == pytest.approx(expected)
    # The standard tokenizer takes the comma off its word.
    separate = [hypothesis.replace(",", " ,").split() for hypothesis in HYPOTHESES]
    assert bleu(HYPOTHESES, REFERENCES) == pytest.approx(bleu_by_definition(separate, groups))
    assert bleu(["THE CAT SAT ON"], ["the cat sat on"], lowercase=True) == pytest.approx(100)


def test_chrf_by_its_definition():
    """Popović 2015: the mean precision and recall of n-grams of 1 to 6 characters, and their F-score."""
    hypotheses, references = ["the cat sat", "a dogs bark"], ["the cats sit", "the dog barks"]
    precisions, recalls = [], []
    for n in range(1, 7):
        pairs = [
            [ngrams(text.replace(" ", ""), n) for text in pair] for pair in zip(hypotheses, references, strict=True)
        ]
        matches = sum((h & r).total() for h, r in pairs)
        precisions.append(matches / sum(h.total() for h, _ in pairs))
        recalls.append(matches / sum(r.total() for _, r in pairs))
    precision, recall = np.mean(precisions), np.mean(recalls)
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert chrf(hypotheses, references) == pytest.approx(expected)
    # A reference that shares nothing changes nothing, nor does its absence.
    assert chrf(hypotheses, [[references[0], "####"], [references[1]]]) == pytest.approx(expected)
    assert chrf(["A B"], ["a b"], lowercase=True) == pytest.approx(100)
    assert chrf(hypotheses, references, word_order=2) < expected  # few words are the same


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bleu([], []), "`hypotheses` must be a list of at least one sequence. Received: []"),
        (lambda: bleu(["a"], ["a", "b"]), "must have the same length. Received: 1 hypotheses and 2 references"),
        (lambda: bleu(["a", "b"], ["a", " "]), "Each reference in `references[1]` must have a token. Received: "),
        (lambda: bleu([b"a"], ["a"]), "`hypotheses[0]` must be a string or a list of tokens. Received: b'a'"),
        (lambda: bleu([["a"]], [["a"]]), "`references[0]` must contain lists of tokens, like `hypotheses[0]`. Rec"),
        (lambda: bleu(["a"], ["a"], tokenize="13b"), "`tokenize` must be one of ['13a', "),
        (
            lambda: chrf([["a"]], [[["a"]]]),
            "`hypotheses` must be strings for chrF, which compares characters. Received",
        ),
        (lambda: chrf(["a"], [[["a"]]]), "`references` must be strings for chrF, which compares characters. Received"),
        (
            lambda: DecodingReport(["a"], ["a"], metrics=["ter"]),
            "`metrics` must be some of 'error_rates', 'bleu', 'chr",
        ),
        (lambda: DecodingReport([[4]], [[[5]]], metrics="chrf"), "`references` must be strings for chrF, which"),
    ],
)
def test_invalid_arguments(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


class Fixed:
    """A model that always returns the same outputs."""

    def __init__(self, outputs):
        self.outputs = outputs

    def generate(self, sources, max_length, verbose):
        return self.outputs


def logs_of(outputs, references, **options):
    report, logs = DecodingReport(list(range(len(outputs))), references, samples=0, **options), {}
    report.set_model(Fixed(outputs))
    report.on_epoch_end(0, logs)
    return logs


def test_decoding_report_adds_the_metrics_that_it_is_asked_for():
    logs = logs_of(HYPOTHESES, REFERENCES, metrics=("error_rates", "bleu", "chrf"))
    assert logs["val_bleu"] == bleu(HYPOTHESES, REFERENCES)
    assert logs["val_chrf"] == chrf(HYPOTHESES, REFERENCES)
    assert set(logs) == {"val_token_error_rate", "val_sequence_error_rate", "val_bleu", "val_chrf"}
    assert logs_of(HYPOTHESES, REFERENCES, metrics="bleu") == {"val_bleu": logs["val_bleu"]}
    assert set(logs_of(HYPOTHESES, REFERENCES)) == {"val_token_error_rate", "val_sequence_error_rate"}
    ids = np.array([[4, 5, 6, 7, 3], [5, 6, 7, 8, 3]])
    assert logs_of(ids, [[[4, 5, 6, 7]], [[5, 6, 7, 8]]], metrics=["bleu"]) == {"val_bleu": pytest.approx(100)}


def test_without_sacrebleu_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for call in (bleu, chrf, lambda *pair: DecodingReport(*pair, metrics=["bleu"])):
        with pytest.raises(ImportError, match=re.escape("pip install 'keras_seq[text]'")):
            call(["a"], ["a"])
    DecodingReport(["a"], ["a"])  # the default does not need it

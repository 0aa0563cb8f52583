# SPDX-License-Identifier: Apache-2.0
"""Error rates, BLEU and chrF of decoded sequences."""

import itertools
import re
from typing import NamedTuple

import numpy as np

from keras_seq._lazy_tensorflow import tf


class ErrorRates(NamedTuple):
    """Token and sequence error rates, in percent."""

    token: float  # tokens to insert, delete or replace, per token of the closest reference
    sequence: float  # sequences that differ from all their references


def error_rates(hypotheses, references, separator=" "):
    """Computes token and sequence error rates by edit distance.

    For pronunciations these are the phoneme and word error rates (PER, WER), for spellings the character and word error
    rates. Each hypothesis is compared with its closest reference by edit distance; among equally close ones, the
    shortest counts.

    Args:
        hypotheses: list with one entry per sequence, a string or a list of tokens.
        references: list with one entry per hypothesis: a string, or a list of one or more references. A reference is a
            string, or a list of tokens if the hypothesis is a list of tokens. It has at least one token.
        separator: string between the tokens of a string. " " stands for any run of ASCII whitespace, as in
            `text_vectorizer(split="whitespace")`. With "" each character is a token, also spaces.

    Returns:
        `ErrorRates(token, sequence)`, in percent.

    Raises:
        ValueError: if `hypotheses` and `references` differ in length or are empty, if a reference has no token, or if
            an entry has another type.

    Example:
        >>> error_rates(["K AE T", "D AO G S"], ["K AE T", ["D AO G", "D AA G"]])
        ErrorRates(token=16.666666666666668, sequence=50.0)
        >>> error_rates(["ice tea"], ["icetea"], separator="").token
        16.666666666666668
    """
    hypotheses, groups = _check_pairs(hypotheses, references)
    tokenized = [_tokenize(f"hypotheses[{i}]", hypothesis, separator) for i, hypothesis in enumerate(hypotheses)]
    references = tokenize_references(groups, separator)
    indices = np.repeat(np.arange(len(hypotheses)), [len(group) for group in references])  # (pairs,)
    flat_references = [reference for group in references for reference in group]
    distances = _edit_distances([tokenized[i] for i in indices], flat_references)  # (pairs,)
    closest = {}  # (distance, length of the reference) of each hypothesis
    for i, reference, distance in zip(indices, flat_references, distances, strict=True):
        closest[i] = min(closest.get(i, (np.inf, 0)), (int(distance), len(reference)))
    errors, lengths = np.array(list(closest.values())).T
    return ErrorRates(float(100 * errors.sum() / lengths.sum()), float(100 * np.mean(errors > 0)))


def bleu(hypotheses, references, tokenize="13a", lowercase=False):
    """Computes the BLEU of a corpus (Papineni et al. 2002) by sacreBLEU (Post 2018).

    It is the geometric mean of the precisions of n-grams of 1 to 4 tokens, times a penalty for outputs that are shorter
    than their references.

    Args:
        hypotheses: list with one entry per sequence, a string or a list of tokens. Strings should be as users read
            them: sacreBLEU splits them into tokens.
        references: list with one entry per hypothesis, see `error_rates`. Hypotheses may have unequal numbers of
            references.
        tokenize: how sacreBLEU splits strings: "13a", the standard; "intl"; "char"; "zh"; "none", at spaces; and
            others, see its documentation. Lists of tokens are taken as they are.
        lowercase: whether to ignore case.

    Returns:
        A float, from 0 to 100.

    Raises:
        ImportError: if sacreBLEU is not installed.
        ValueError: see `error_rates`, or if sacreBLEU does not know the value of `tokenize`.

    Example:
        >>> round(bleu(["the cat sat on the mat"], [["the cat sat on a mat", "a cat sat on the mat"]]), 1)
        95.5
    """
    metrics = import_sacrebleu().metrics
    if tokenize not in metrics.BLEU.TOKENIZERS:
        raise ValueError(f"`tokenize` must be one of {sorted(metrics.BLEU.TOKENIZERS)}. Received: {tokenize!r}")
    hypotheses, groups = _check_pairs(hypotheses, references)
    if not isinstance(hypotheses[0], str):
        tokenize = "none"
    # `force` means that sacreBLEU does not warn about sentences that look like tokens.
    metric = metrics.BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
    return _corpus_score(metric, hypotheses, groups)


def chrf(hypotheses, references, word_order=0, lowercase=False):
    """Computes the chrF of a corpus (Popović 2015) by sacreBLEU (Post 2018).

    It is the F-score of n-grams of 1 to 6 characters, without spaces, that counts recall twice as much as precision.

    Args:
        hypotheses: list of strings.
        references: list with one entry per hypothesis: a string, or a list of one or more.
        word_order: also counts n-grams of up to this number of words. 2 gives chrF++ (Popović 2017).
        lowercase: whether to ignore case.

    Returns:
        A float, from 0 to 100.

    Raises:
        ImportError: if sacreBLEU is not installed.
        ValueError: see `error_rates`, or if an entry is a list of tokens.

    Example:
        >>> round(chrf(["the cat sat on the mat"], ["the cat sat on a mat"]), 1)
        72.1
    """
    metrics = import_sacrebleu().metrics
    hypotheses, groups = _check_pairs(hypotheses, references)
    check_strings("hypotheses", hypotheses)
    check_strings("references", [reference for group in groups for reference in group])
    return _corpus_score(metrics.CHRF(word_order=word_order, lowercase=lowercase), hypotheses, groups)


def check_strings(name, sequences):
    """Raises a ValueError if a sequence is not a string, which chrF needs."""
    for sequence in sequences:
        if not isinstance(sequence, str):
            raise ValueError(f"`{name}` must be strings for chrF, which compares characters. Received: {sequence!r}")


def import_sacrebleu():
    """Returns the package sacreBLEU, or raises an ImportError that says how to install it."""
    try:
        import sacrebleu
    except ImportError as error:
        raise ImportError("BLEU and chrF need sacreBLEU: pip install 'keras_seq[text]'") from error
    return sacrebleu


def _corpus_score(metric, hypotheses, groups):
    """Returns the score that a metric of sacreBLEU gives hypotheses with groups of references."""
    tokenize_references(groups, " ")  # raises a ValueError if one is empty

    def join(tokens):
        return tokens if isinstance(tokens, str) else " ".join(map(str, tokens))

    # The first references of all hypotheses, then the second, ...; None where there is none.
    columns = itertools.zip_longest(*(map(join, group) for group in groups))
    return metric.corpus_score([join(hypothesis) for hypothesis in hypotheses], [list(c) for c in columns]).score


def _check_pairs(hypotheses, references):
    """Returns hypotheses and the references of each as lists, and raises a ValueError if they do not fit."""
    hypotheses = _check_list("hypotheses", hypotheses)
    groups = group_references(references)
    if len(hypotheses) != len(groups):
        raise ValueError(
            "`hypotheses` and `references` must have the same length. "
            f"Received: {len(hypotheses)} hypotheses and {len(groups)} references"
        )
    for i, group in enumerate(groups):
        _check_sequence(f"hypotheses[{i}]", hypotheses[i])
        # Without this check, a list of tokens instead of a list of references would count as many references.
        if not isinstance(hypotheses[i], str) and any(isinstance(reference, str) for reference in group):
            raise ValueError(
                f"`references[{i}]` must contain lists of tokens, like `hypotheses[{i}]`. Received: {group!r}"
            )
    return hypotheses, groups


def group_references(references):
    """Returns a list of references for each hypothesis; a single string becomes a list of one."""
    groups = []
    for i, group in enumerate(_check_list("references", references)):
        if not isinstance(group, str) and (not isinstance(group, (list, tuple, np.ndarray)) or len(group) == 0):
            raise ValueError(
                f"`references[{i}]` must be a string or a list of at least one reference. Received: {group!r}"
            )
        groups.append([group] if isinstance(group, str) else list(group))
    return groups


def tokenize_references(groups, separator):
    """Splits the references of each hypothesis into tokens, and raises a ValueError if one has none."""
    tokenized = [[_tokenize(f"references[{i}]", r, separator) for r in group] for i, group in enumerate(groups)]
    for i, group in enumerate(tokenized):
        if not all(group):
            raise ValueError(f"Each reference in `references[{i}]` must have a token. Received: {groups[i]}")
    return tokenized


def _check_list(name, entries):
    """Returns the entries of an iterable as a list, and raises a ValueError if there are none."""
    entries = entries if isinstance(entries, (str, bytes)) else list(entries)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"`{name}` must be a list of at least one sequence. Received: {entries!r}")
    return entries


def _tokenize(name, sequence, separator):
    """Returns the tokens of a string or a list of tokens."""
    _check_sequence(name, sequence)
    if not isinstance(sequence, str):
        return list(sequence)
    if separator == " ":
        return re.findall(r"\S+", sequence, re.ASCII)
    return sequence.split(separator) if separator and sequence else list(sequence)


def _check_sequence(name, sequence):
    if not isinstance(sequence, (str, list, tuple, np.ndarray)):
        raise ValueError(f"`{name}` must be a string or a list of tokens. Received: {sequence!r}")


def _edit_distances(hypotheses, references):
    """Returns the edit distances (pairs,) between lists of tokens, pair by pair."""
    ids = {}

    def to_sparse(sequences):
        flat = [ids.setdefault(token, len(ids)) for tokens in sequences for token in tokens]
        flat = tf.constant(flat, tf.int64)
        return tf.RaggedTensor.from_row_lengths(flat, [len(tokens) for tokens in sequences]).to_sparse()

    return tf.edit_distance(to_sparse(hypotheses), to_sparse(references), normalize=False).numpy()

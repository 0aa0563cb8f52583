# SPDX-License-Identifier: Apache-2.0
"""Scores of decoded sequences against references."""

import re
from typing import NamedTuple

import numpy as np

from keras_seq._lazy_tensorflow import tf


class ErrorRates(NamedTuple):
    """In percent."""

    token: float  # tokens to insert, delete or replace, per token of the closest reference
    sequence: float  # sequences that equal none of their references


def error_rates(hypotheses, references, separator=" "):
    """Token and sequence error rates; for pronunciations PER and WER, for spellings character and word error rate.

    A hypothesis is compared with the reference that is closest by edit distance, the shorter one of equals.

    Args:
        hypotheses: a list with one entry a sequence: a string, or a list of tokens.
        references: for each hypothesis one string, or a list of one or more references. A reference is a string, or a
            list of tokens where the hypothesis is one. A reference has at least one token.
        separator: what stands between the tokens of a string. " " stands for any run of ASCII whitespace, as in
            `text_vectorizer(split="whitespace")`; with "" each character is a token, spaces too.

    Returns:
        `ErrorRates(token, sequence)`.

    Raises:
        ValueError: if the two differ in number, if there is nothing to score, for a reference without a token, and for
            an entry of another kind.

    Example:
        >>> error_rates(["K AE T", "D AO G S"], ["K AE T", ["D AO G", "D AA G"]])
        ErrorRates(token=16.666666666666668, sequence=50.0)
        >>> error_rates(["ice tea"], ["icetea"], separator="").token
        16.666666666666668
    """
    given = _entries("hypotheses", hypotheses)
    hypotheses = [_tokens(f"hypotheses[{i}]", hypothesis, separator) for i, hypothesis in enumerate(given)]
    groups = reference_groups(references)
    if len(hypotheses) != len(groups):
        raise ValueError(
            "`hypotheses` and `references` must be of one length. "
            f"Received: {len(hypotheses)} hypotheses and {len(groups)} references"
        )
    for i, group in enumerate(groups):
        # Else a list of tokens in the place of a list of references would be as many references.
        if not isinstance(given[i], str) and any(isinstance(reference, str) for reference in group):
            raise ValueError(
                f"`references[{i}]` must hold lists of tokens, as `hypotheses[{i}]` is one. Received: {group!r}"
            )
    references = tokenized_references(groups, separator)
    owners = np.repeat(np.arange(len(hypotheses)), [len(group) for group in references])  # (pairs,)
    flat = [reference for group in references for reference in group]
    distances = _edit_distances([hypotheses[owner] for owner in owners], flat)  # (pairs,)
    best = {}
    for owner, reference, distance in zip(owners, flat, distances, strict=True):
        best[owner] = min(best.get(owner, (np.inf, 0)), (int(distance), len(reference)))
    errors, lengths = np.array(list(best.values())).T
    return ErrorRates(float(100 * errors.sum() / lengths.sum()), float(100 * np.mean(errors > 0)))


def reference_groups(references):
    """The references of each hypothesis, a list of lists; of a string a list of it alone."""
    groups = []
    for i, group in enumerate(_entries("references", references)):
        if not isinstance(group, str) and (not isinstance(group, (list, tuple, np.ndarray)) or len(group) == 0):
            raise ValueError(
                f"`references[{i}]` must be a string, or a list of at least one reference. Received: {group!r}"
            )
        groups.append([group] if isinstance(group, str) else list(group))
    return groups


def tokenized_references(groups, separator):
    """The references of each hypothesis as lists of tokens, none of them empty."""
    tokenized = [[_tokens(f"references[{i}]", r, separator) for r in group] for i, group in enumerate(groups)]
    for i, group in enumerate(tokenized):
        if not all(group):
            raise ValueError(f"`references[{i}]` must have at least one token in each reference. Received: {groups[i]}")
    return tokenized


def _entries(name, entries):
    """The entries of a list, or of whatever else holds them, at least one."""
    entries = entries if isinstance(entries, (str, bytes)) else list(entries)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"`{name}` must be a list of at least one sequence. Received: {entries!r}")
    return entries


def _tokens(name, sequence, separator):
    """The tokens of a sequence: the one place where a string is split."""
    if isinstance(sequence, str):
        if separator == " ":
            return re.findall(r"\S+", sequence, re.ASCII)
        return sequence.split(separator) if separator and sequence else list(sequence)
    if isinstance(sequence, (list, tuple, np.ndarray)):
        return list(sequence)
    raise ValueError(f"`{name}` must hold strings or lists of tokens. Received: {sequence!r}")


def _edit_distances(hypotheses, references):
    """The edit distance of each pair (pairs,) of lists of tokens."""
    ids = {}

    def sparse(sequences):
        flat = [ids.setdefault(token, len(ids)) for tokens in sequences for token in tokens]
        flat = tf.constant(flat, tf.int64)
        return tf.RaggedTensor.from_row_lengths(flat, [len(tokens) for tokens in sequences]).to_sparse()

    return tf.edit_distance(sparse(hypotheses), sparse(references), normalize=False).numpy()

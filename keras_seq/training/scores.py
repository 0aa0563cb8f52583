# SPDX-License-Identifier: Apache-2.0
"""Error rates of decoded sequences."""

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
    hypotheses = _check_list("hypotheses", hypotheses)
    tokenized = [_tokenize(f"hypotheses[{i}]", hypothesis, separator) for i, hypothesis in enumerate(hypotheses)]
    groups = group_references(references)
    if len(hypotheses) != len(groups):
        raise ValueError(
            "`hypotheses` and `references` must have the same length. "
            f"Received: {len(hypotheses)} hypotheses and {len(groups)} references"
        )
    for i, group in enumerate(groups):
        # Without this check, a list of tokens instead of a list of references would count as many references.
        if not isinstance(hypotheses[i], str) and any(isinstance(reference, str) for reference in group):
            raise ValueError(
                f"`references[{i}]` must contain lists of tokens, like `hypotheses[{i}]`. Received: {group!r}"
            )
    references = tokenize_references(groups, separator)
    indices = np.repeat(np.arange(len(hypotheses)), [len(group) for group in references])  # (pairs,)
    flat_references = [reference for group in references for reference in group]
    distances = _edit_distances([tokenized[i] for i in indices], flat_references)  # (pairs,)
    closest = {}  # (distance, length of the reference) of each hypothesis
    for i, reference, distance in zip(indices, flat_references, distances, strict=True):
        closest[i] = min(closest.get(i, (np.inf, 0)), (int(distance), len(reference)))
    errors, lengths = np.array(list(closest.values())).T
    return ErrorRates(float(100 * errors.sum() / lengths.sum()), float(100 * np.mean(errors > 0)))


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
    if isinstance(sequence, str):
        if separator == " ":
            return re.findall(r"\S+", sequence, re.ASCII)
        return sequence.split(separator) if separator and sequence else list(sequence)
    if isinstance(sequence, (list, tuple, np.ndarray)):
        return list(sequence)
    raise ValueError(f"`{name}` must be a string or a list of tokens. Received: {sequence!r}")


def _edit_distances(hypotheses, references):
    """Returns the edit distances (pairs,) between lists of tokens, pair by pair."""
    ids = {}

    def to_sparse(sequences):
        flat = [ids.setdefault(token, len(ids)) for tokens in sequences for token in tokens]
        flat = tf.constant(flat, tf.int64)
        return tf.RaggedTensor.from_row_lengths(flat, [len(tokens) for tokens in sequences]).to_sparse()

    return tf.edit_distance(to_sparse(hypotheses), to_sparse(references), normalize=False).numpy()

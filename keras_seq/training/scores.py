# SPDX-License-Identifier: Apache-2.0
"""Scores of decoded sequences against references."""

from typing import NamedTuple

import numpy as np
from keras.src.utils.module_utils import tensorflow as tf  # imported when it is used


class ErrorRates(NamedTuple):
    """In percent."""

    token: float  # tokens to insert, delete or replace, per token of the closest reference
    sequence: float  # sequences that equal none of their references


def error_rates(hypotheses, references):
    """Token and sequence error rates; for pronunciations PER and WER, for spellings character and word error rate.

    A hypothesis is compared with the reference that is closest by edit distance, the shorter one of equals.

    Args:
        hypotheses: strings of tokens separated by spaces.
        references: for each hypothesis a list of one or more such strings, none of them empty.

    Returns:
        `ErrorRates(token, sequence)`.

    Raises:
        ValueError: if the two differ in number, or there is nothing to score.

    Example:
        >>> error_rates(["K AE T", "D AO G S"], [["K AE T"], ["D AO G", "D AA G"]])
        ErrorRates(token=16.666666666666668, sequence=50.0)
    """
    if len(hypotheses) != len(references) or not hypotheses or not all(references):
        raise ValueError(
            "`references` must hold at least one reference for each of at least one hypothesis. "
            f"Received: {len(hypotheses)} hypotheses and {len(references)} references"
        )
    owners = np.repeat(np.arange(len(hypotheses)), [len(group) for group in references])  # (pairs,)
    flat = [reference for group in references for reference in group]
    distances = _edit_distances([hypotheses[owner] for owner in owners], flat)  # (pairs,)
    best = {}
    for owner, reference, distance in zip(owners, flat, distances, strict=True):
        best[owner] = min(best.get(owner, (np.inf, 0)), (int(distance), len(reference.split())))
    errors, lengths = np.array(list(best.values())).T
    return ErrorRates(float(100 * errors.sum() / lengths.sum()), float(100 * np.mean(errors > 0)))


def _edit_distances(hypotheses, references):
    tokens = (tf.strings.split(tf.constant(texts)).to_sparse() for texts in (hypotheses, references))
    return tf.edit_distance(*tokens, normalize=False).numpy()

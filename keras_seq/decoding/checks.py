# SPDX-License-Identifier: Apache-2.0
"""Checks of the arguments of samplers, processors and `generate`."""

import numbers

import numpy as np

from keras_seq._lazy_tensorflow import tf


def check_count(name, value, largest=2**31 - 1):
    """Returns a positive integer as an int after checking it. `name` is the argument that the message names."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or not 0 < value <= largest:
        bound = f", at most {largest}" if is_integer and value > largest else ""
        raise ValueError(f"`{name}` must be a positive integer{bound}. Received: {value!r}")
    return int(value)


def check_number(name, value, is_valid, expected):
    """Returns a number as a float after checking it with the function `is_valid`, which is False for NaN."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not is_valid(value):
        raise ValueError(f"`{name}` must be {expected}. Received: {value!r}")
    return float(value)


def check_seed(value):
    """Returns a seed as an int after checking it."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or not 0 <= value < 2**31:
        raise ValueError(f"`seed` must be an integer from 0 to 2**31 - 1. Received: {value!r}")
    return int(value)


def check_index(name, value):
    """Returns an integer of at least 0 as an int after checking it."""
    if not _is_index(value):
        raise ValueError(f"`{name}` must be an integer of at least 0. Received: {value!r}")
    return int(value)


def check_token_ids(name, values):
    """Returns token ids, a sequence, array or tensor of integers, as a list of int after checking them."""
    ids = values.numpy() if isinstance(values, tf.Tensor) else values
    ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if not isinstance(ids, (list, tuple, range)) or not ids or not all(map(_is_index, ids)):
        raise ValueError(
            f"`{name}` must be one or more integers of at least 0; `keras_seq.data.text_to_ids` makes them from text. "
            f"Received: {values!r}"
        )
    return [int(token) for token in ids]


def check_vocabulary(name, ids, vocabulary_size, forbidden_ids=()):
    """Checks that token ids are in a vocabulary, unless its size is None, and not forbidden."""
    if vocabulary_size is not None and max(ids) >= vocabulary_size:
        raise ValueError(f"`{name}` must be less than the vocabulary size {vocabulary_size}. Received: {max(ids)}")
    for token in set(forbidden_ids).intersection(ids):
        raise ValueError(f"`{name}` must not contain a token that the search never chooses. Received: {token}")


def _is_index(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and 0 <= value < 2**31

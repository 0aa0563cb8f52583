# SPDX-License-Identifier: Apache-2.0
"""Checks of the arguments of samplers."""

import numbers


def check_count(name, value):
    """Returns a positive integer as an int after checking it. `name` is the argument that the message names."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not 0 < value < 2**31:
        raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}")
    return int(value)


def check_number(name, value, is_valid, expected):
    """Returns a number as a float after checking it with the function `is_valid`, which is False for NaN."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not is_valid(value):
        raise ValueError(f"`{name}` must be {expected}. Received: {value!r}")
    return float(value)

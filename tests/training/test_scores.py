# SPDX-License-Identifier: Apache-2.0
"""Error rates against a textbook edit distance."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_seq.training import error_rates


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
def test_closest_reference_by_edit_distance(cases):
    errors = length = wrong = 0
    for hypothesis, references in cases:
        closest = min((edit_distance(hypothesis, r), len(r)) for r in references)
        errors, length, wrong = errors + closest[0], length + closest[1], wrong + (closest[0] > 0)
    rates = error_rates([" ".join(h) for h, _ in cases], [[" ".join(r) for r in group] for _, group in cases])
    assert rates.token == pytest.approx(100 * errors / length)
    assert rates.sequence == pytest.approx(100 * wrong / len(cases))


@pytest.mark.parametrize(("hypotheses", "references"), [([], []), (["a"], []), (["a"], [[]])])
def test_nothing_to_compare_with(hypotheses, references):
    with pytest.raises(ValueError, match="at least one reference"):
        error_rates(hypotheses, references)

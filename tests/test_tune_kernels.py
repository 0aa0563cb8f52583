# SPDX-License-Identifier: Apache-2.0
"""The search for values of tuning.h: what it makes of measured times. It compiles nothing here."""

import importlib
import importlib.util
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
TIMES = {  # of two cells with two cases each
    ("LSTM", "forward"): {
        "": {"a": 4.0, "b": 9.0},
        "chunk_rows=128": {"a": 2.0, "b": 18.0},
        "chunk_rows=256": {"a": 2.0, "b": 9.0},
        "outer_block=16": {"a": 2.0, "b": 4.5},
    },
    ("GRU", "training"): {
        "": {"a": 1.0, "b": 1.0},
        "chunk_rows=128": {"a": 1.0, "b": 1.0},
        "chunk_rows=256": {"a": 1.0, "b": 1.0},
        "outer_block=16": {"a": 1.0, "b": 1.0},
    },
}
CANDIDATES = ["chunk_rows=128", "chunk_rows=256", "outer_block=16"]


@pytest.fixture
def tune_kernels(monkeypatch):
    if importlib.util.find_spec("rich") is None:
        pytest.skip("needs rich")
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("tune_kernels")


def test_the_table_has_means_and_worst_cases_and_begins_with_the_best(tune_kernels):
    table = tune_kernels.make_table("title", TIMES, CANDIDATES)
    assert table.head == ["", "LSTM forward", "GRU training", "all"]
    assert table.rows == [
        ["`outer_block=16`", "2.000 (2.00)", "1.000 (1.00)", "1.414"],
        ["`chunk_rows=256`", "1.414 (1.00)", "1.000 (1.00)", "1.189"],
        ["`chunk_rows=128`", "1.000 (0.50)", "1.000 (1.00)", "1.000"],
    ]


def test_the_best_value_of_each_constant_is_combined(tune_kernels):
    assert tune_kernels.combine(TIMES, CANDIDATES) == "chunk_rows=256,outer_block=16"
    assert tune_kernels.combine(TIMES, CANDIDATES[:2]) == ""  # what helps is measured already


def test_candidates_name_values_of_the_table(tune_kernels):
    header = (FOLDER.parent / "custom_ops" / "kernels" / "tuning.h").read_text()
    fields = header[header.index("struct Tuning {") : header.index("};")]
    names = {candidate.partition("=")[0] for candidate in tune_kernels.CANDIDATES}
    assert all(name in fields for name in names)

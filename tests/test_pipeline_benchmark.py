# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the data pipeline runs; here with few words and steps."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("rich") is None, reason="needs rich")
def test_waiting_and_memory_are_reported(tmp_path):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"w{i}\tt {i}\n" for i in range(300)))
    options = ["--pairs", pairs, "--waiting", "--steps", "4", "--stream", "2000", "--output", tmp_path]
    run = subprocess.run([sys.executable, FOLDER / "pipeline.py", *options], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    results = json.loads((tmp_path / "pipeline_waiting.json").read_text())["results"]
    assert [result["name"] for result in results] == ["lists", "dataset", "generator", "array records"]
    assert all(len(result["waits"]) == len(result["steps"]) == 4 for result in results)
    assert "| array records |" in (tmp_path / "pipeline_waiting.md").read_text()
    rows = json.loads((tmp_path / "pipeline_stream.json").read_text())["results"]
    assert rows[-1][0] == 2000
    assert len(rows) == 10

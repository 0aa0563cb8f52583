# SPDX-License-Identifier: Apache-2.0
"""The GPU benchmark runs without TensorFlow; here on a CPU and on tiny shapes."""

import importlib.util
import itertools
import json
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "gpu" / "jax_layers.py"
RUN = """
import runpy, sys
sys.modules["tensorflow"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_the_page_has_a_column_for_each_contender(tmp_path):
    command = [sys.executable, "-c", RUN, str(SCRIPT), "--small", "--runs", "3", "--passes", "forward", "dropout"]
    command += ["--output", "runs", "--publish", "docs"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    (page,) = (tmp_path / "docs" / "benchmarks").glob("*/jax_layers.md")
    assert page.read_text() == (tmp_path / "runs" / "jax_layers.md").read_text()
    results = json.loads((tmp_path / "runs" / "jax_layers.json").read_text())["results"]
    assert {(r["layer"], r["kind"]) for r in results} == set(itertools.product(["LSTM", "GRU"], ["forward", "dropout"]))
    for result in results:
        assert {"keras_seq (xla)", "keras", "lax.scan"} <= set(result["seconds"])
        assert all(len(times) == 3 for times in result["seconds"].values())
        assert all(difference < 1e-5 for difference in result["differences"].values())
    assert len(results[0]["differences"]) >= 2
    assert "| LSTM, against lax.scan |" in page.read_text()

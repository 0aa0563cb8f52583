# SPDX-License-Identifier: Apache-2.0
"""The GPU benchmark runs without TensorFlow; here on a CPU and on tiny shapes."""

import importlib.util
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
def test_the_report_has_a_row_for_each_contender(tmp_path):
    command = [sys.executable, "-c", RUN, str(SCRIPT), "--small", "--passes", "forward", "dropout"]
    command += ["--output", str(tmp_path / "report.md")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "report.md").read_text() == run.stdout
    lines = [line.strip("| ").split(" | ") for line in run.stdout.splitlines() if line.startswith("|")]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    assert len(rows) == 2 * 2 * 4  # layers, passes, contenders
    assert {row["contender"].split(" (")[0] for row in rows} == {"xla", "auto", "keras", "lax.scan"}
    differences = [float(row["difference"]) for row in rows if row["pass"] == "forward"]
    assert len(differences) == 8
    assert max(differences) < 1e-5
    assert all(float(row["ms"].split()[0]) > 0 for row in rows)

# SPDX-License-Identifier: Apache-2.0
"""The layer benchmark limits contenders to an instruction set, and writes a page of its own for it."""

import importlib
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys

import pytest

pytest.importorskip("rich")
FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
X86 = platform.machine().lower() in ("x86_64", "amd64")
pytestmark = pytest.mark.skipif(not X86, reason="limits are for x86-64")


@pytest.fixture
def instruction_sets(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("instruction_sets")
    for limit in module.LIMITS.values():
        for name in (*limit.variables, "XLA_FLAGS"):
            monkeypatch.setenv(name, "")  # restored after the test
            monkeypatch.delenv(name)
    return module


def limited(instruction_sets, isa, program):
    """The output of a program in a process that is limited to an instruction set."""
    instruction_sets.limit(isa)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_processes_start_with_the_variables_and_keep_the_flags_of_xla(instruction_sets, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=folder")
    monkeypatch.setenv("KERAS_SEQ_ISA", "mmx")
    names = ["KERAS_SEQ_ISA", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "XLA_FLAGS"]
    output = limited(instruction_sets, "avx2", f"import os; print(*(os.environ[name] for name in {names}))")
    assert output.split() == ["avx2", "AVX2", "avx2", "--xla_dump_to=folder", "--xla_cpu_max_isa=AVX2"]


def test_the_peak_is_that_of_the_instruction_set(instruction_sets, monkeypatch):
    assert instruction_sets.compiler_options() == ["-march=native"]
    for isa, widest in (("avx2", "__AVX2__"), ("portable", "__SSE2__")):
        instruction_sets.limit(isa)
        options = instruction_sets.compiler_options()
        compiler = os.environ.get("CXX", "g++")
        try:
            run = subprocess.run(
                [compiler, *options, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True
            )
        except FileNotFoundError:
            pytest.skip("no compiler")
        defined = {line.split()[1] for line in run.stdout.splitlines()}
        assert widest in defined
        assert "__AVX512F__" not in defined
        assert ("__FMA__" in defined) == ("__AVX__" in defined) == (isa == "avx2")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize(
    ("isa", "capability", "onednn"), [("avx2", "AVX2", "Intel AVX2"), ("portable", "DEFAULT", "SSE4.1")]
)
def test_pytorch_heeds_the_limits(isa, capability, onednn, instruction_sets, monkeypatch):
    monkeypatch.setenv("ONEDNN_VERBOSE", "1")
    layer = "torch.nn.LSTM(8, 8)(torch.ones(2, 2, 8))"
    output = limited(instruction_sets, isa, f"import torch; {layer}; print(torch.backends.cpu.get_cpu_capability())")
    assert output.splitlines()[-1] == capability
    (line,) = [line for line in output.splitlines() if "cpu,isa:" in line]
    assert line.endswith(onednn)


@pytest.mark.slow
def test_a_limited_run_has_a_page_of_its_own_and_leaves_out_what_cannot_be_limited(tmp_path):
    (tmp_path / "docs").mkdir()
    options = ["--isa", "avx2", "--layers", "GRU", "--shapes", "2,3,8,8", "--passes", "forward", "--seconds", "0"]
    options += ["--contenders", "native", "native-jit", "native-jax", "keras", "keras-jit", "onnxruntime"]
    command = [
        sys.executable,
        FOLDER / "layers.py",
        *options,
        "--output",
        tmp_path / "runs",
        "--publish",
        tmp_path / "docs",
    ]
    environment = {**os.environ, "KERAS_SEQ_ISA": "mmx"}  # the limit replaces it before the kernels are loaded
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    (result,) = json.loads((tmp_path / "runs" / "layers_avx2.json").read_text())["results"]
    missing = {"fma-peak", "native-jax", *result["left_out"]}  # where there is no compiler, no JAX, no AVX2
    assert set(result["seconds"]) | missing == {"native", "native-jit", "keras", *missing}
    for name, reason in result["left_out"].items():
        assert "mmx" not in reason, f"{name}: {reason}"
    (page,) = (tmp_path / "docs" / "benchmarks").glob("*/*.md")
    assert page.name == "layers_avx2.md"
    text = page.read_text()
    assert text.startswith("# Layers, AVX2 on ")
    assert "by `KERAS_SEQ_ISA=avx2 ONEDNN_MAX_CPU_ISA=AVX2 " in text
    assert "- Left out: onnxruntime: its instruction set cannot be limited" in text
    assert "| `keras.layers` in a graph, forward |" in text

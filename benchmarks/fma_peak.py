# SPDX-License-Identifier: Apache-2.0
"""Measures the peak of the processor: float32 fused multiply-adds on all cores. As a program, it prints GFLOP/s.

In a contest, `CONTENDER` takes turns with the others, so that a slow phase of the machine affects the peak too. It is
the peak of the instruction set that KERAS_SEQ_ISA limits the kernels to, if it is one of `instruction_sets.LIMITS`.
"""

import ctypes
import functools
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile

import instruction_sets
from contest import Contender, run_contest

FLOPS = 5e9 * os.cpu_count()  # of a run, which takes 10 to 50 ms
SOURCE = pathlib.Path(__file__).with_suffix(".cc")


@functools.cache
def _library():
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if not compiler:
        raise NotImplementedError("no C++ compiler (g++)")
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / "fma_peak.so"
        options = ["-O3", *instruction_sets.compiler_options(), "-ffp-contract=fast"]
        options += ["-std=c++17", "-shared", "-fPIC", "-pthread"]
        try:
            subprocess.run([compiler, *options, SOURCE, "-o", target], check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise NotImplementedError(f"{SOURCE.name} does not compile: {error.stderr}") from error
        library = ctypes.CDLL(str(target))
    library.keras_seq_fma_peak.argtypes = [ctypes.c_int, ctypes.c_double]
    library.keras_seq_fma_peak.restype = ctypes.c_float
    return library


def _build(case):
    return functools.partial(_library().keras_seq_fma_peak, os.cpu_count(), FLOPS / os.cpu_count())


CONTENDER = Contender("fma-peak", _build)


def gigaflops(seconds):
    """Returns the GFLOP/s of a run that took `seconds`."""
    return FLOPS / seconds / 1e9


def main():
    (result,) = run_contest([CONTENDER], [None], seconds=1)
    for reason in result.left_out.values():
        raise SystemExit(reason)
    seconds = result.seconds[CONTENDER.name]
    print(f"GFLOP/s: best {gigaflops(min(seconds)):.0f}, median {gigaflops(statistics.median(seconds)):.0f}")


if __name__ == "__main__":
    main()

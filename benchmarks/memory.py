# SPDX-License-Identifier: Apache-2.0
"""Measures the peak memory of one training step, above that of the process before it. Linux only.

Each contender is measured in a new process:

1. Two steps of a tiny case load libraries and start threads. Freed memory is returned to the system (`malloc_trim`).
   The resident memory is now "before".
2. The case itself is built, and a first step traces and compiles. Freed memory is returned again.
3. The high-water mark of the resident memory is reset (5 in /proc/self/clear_refs), a step runs, and the mark is read.

The result is the mark minus "before", minus what the case holds between steps in any framework, such as its inputs and
weights. So it includes the gradients, and whatever else the framework keeps. "Before" must not be read after a step of
the case itself, not even a small one: TensorFlow's allocator keeps what it allocated once, so that the memory of the
first step would hide that of the second (all of it under jit). For a tiny case, where the result should be 0, it is the
memory of tracing and compilation: 3 MB for a layer in graph mode, 20 under jit; 20 to 50 and 30 to 90 for a
sequence-to-sequence model.
"""

import ctypes
import gc
import multiprocessing
import pathlib
import re
import sys
from concurrent.futures import ProcessPoolExecutor

SUPPORTED = sys.platform == "linux"


def release():
    """Returns freed memory to the system, if the C library can."""
    if SUPPORTED:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim:
            trim(0)


def resident():
    """Returns the resident memory of this process in bytes."""
    return _status("VmRSS")


def measure(make, case):
    """Returns the gigabytes (1e9 bytes) of a training step, measured in a new process.

    Args:
        make: function `(case) -> step`, where `step()` runs a training step.
        case: a case with `tiny`, the same case with a tiny shape, and `permanent_bytes`, which it holds between steps.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(_measure, make, case).result()


def _measure(make, case):
    _prepare_step(make, case.tiny)()
    _settle()
    before = _status("VmRSS")
    step = _prepare_step(make, case)
    _settle()
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    step()
    return (_status("VmHWM") - before - case.permanent_bytes) / 1e9


def _prepare_step(make, case):
    """Returns a step that has run once."""
    step = make(case)
    step()
    return step


def _settle():
    gc.collect()
    release()


def _status(key):
    """Returns a value of /proc/self/status in bytes."""
    return 1024 * int(re.search(rf"{key}:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])

# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one training step, above what the process held before it; on Linux.

Each contender is measured in a fresh process:

1. A tiny case makes two steps, which loads libraries and starts threads. Freed memory goes back to the system
   (`malloc_trim`); what is resident now is "before".
2. The case itself is made, and a first step traces and compiles. Freed memory goes back again.
3. The high-water mark of the resident set is reset (5 in /proc/self/clear_refs), a step runs, and the mark is read.

The figure is the mark less "before", less what the case holds between steps in any framework, such as its inputs and
weights. So it holds the gradients, and whatever the framework keeps besides. "Before" must not be read after a step of
the case itself, even a small one: TensorFlow's allocator keeps what it once had, so that memory of the first step would
hide that of the second (all of it under jit). For a tiny case, where it should be 0, what was traced and compiled
counts: 3 MB for a layer in graph mode, 20 under jit; for a sequence-to-sequence model 20 to 50 and 30 to 90.
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
    """Give freed memory back to the system, where the C library can."""
    if SUPPORTED:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim:
            trim(0)


def measure(make, case):
    """Gigabytes (1e9 bytes) of a training step, in a process of its own.

    Args:
        make: function `(case) -> step`, a function without arguments that makes a step.
        case: has `tiny`, the same case of next to no size, and `held`, in bytes.
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
    return (_status("VmHWM") - before - case.held) / 1e9


def _prepare_step(make, case):
    """A function that makes a step, which it has done once."""
    step = make(case)
    step()
    return step


def _settle():
    gc.collect()
    release()


def _status(key):
    """Bytes."""
    return 1024 * int(re.search(rf"{key}:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])

# SPDX-License-Identifier: Apache-2.0
"""The memory that a function needs, measured in a process of its own. Linux only."""

import gc
import json
import pathlib
import re
import subprocess
import sys


def peak_growth(function):
    """Returns how far the resident memory of this process rises while a function runs, in bytes."""
    gc.collect()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
    before = _status("VmHWM")
    function()
    return _status("VmHWM") - before


def run_alone(script):
    """Runs a script, which can import this module, in a new process. Returns the JSON that it prints last."""
    folder = pathlib.Path(__file__).parent
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=folder)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def _status(key):
    return 1024 * int(re.search(rf"{key}:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])

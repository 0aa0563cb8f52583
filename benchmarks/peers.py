# SPDX-License-Identifier: Apache-2.0
"""Runs contenders in an environment of their own, because they need other packages than ours, or other versions.

The environment is `build/peers`. A contender in it is a program that stays: for each line on its input it runs once,
and answers with a line. As a program, this file is the side of the peer.
"""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import venv
import weakref

REQUIREMENTS = ["torch==2.13.0", "yoyodyne==0.5.27", "g2p_en==2.1.0"]  # at once, so that torch stays this version
FOLDER = pathlib.Path(__file__).resolve().parents[1] / "build" / "peers"
PYTHON = FOLDER / "bin" / "python"
# Yoyodyne requires them but does not import them, and those of PyPI do not work with a PyTorch for CPUs.
UNUSED = ["torchvision", "torchaudio"]


def install():
    """Creates the environment if it is not there. Returns a line on why it cannot, or None."""
    stamp = FOLDER / "installed.txt"
    if stamp.exists() and stamp.read_text().split() == REQUIREMENTS:
        return None
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "-q"]
    try:
        venv.create(FOLDER, clear=True, with_pip=True)
        for command in (["install", *REQUIREMENTS], ["uninstall", "-y", *UNUSED]):
            subprocess.run([*pip, *command], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return f"{', '.join(REQUIREMENTS)} cannot be installed into {FOLDER}: {lines[-1]}"
    stamp.write_text("\n".join(REQUIREMENTS) + "\n")
    return None


def start(function, case):
    """Starts a contender. Returns `run()`, which runs its case once.

    Args:
        function: "module:function", a function `(case) -> run` that the environment of the peers can import.
        case: a named tuple, of which the function gets a copy. It has a default for each argument that is not JSON.

    Raises:
        RuntimeError: if it raises.
    """
    # Some systems choose kernels for NumPy by variables; here it chooses the best ones itself.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    process = subprocess.Popen(
        [PYTHON, __file__, function, json.dumps(case)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run():
        process.stdin.write("\n")
        process.stdin.flush()
        answer = process.stdout.readline().strip()
        if answer != "done":
            raise RuntimeError(answer or "its process has ended")

    weakref.finalize(run, _end, process)
    return run


def _end(process):
    process.stdin.close()  # the peer's loop ends
    process.wait()
    process.stdout.close()


def _serve(function, arguments):
    from decoding_case import Case

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the packages print goes to the log
    run = None
    for _ in sys.stdin:
        try:
            if run is None:
                module, _, name = function.partition(":")
                run = getattr(importlib.import_module(module), name)(Case(*json.loads(arguments)))
            run()
            answer = "done"
        except Exception as error:  # whatever a package raises
            answer = f"{type(error).__name__}: {error}".replace("\n", " ")
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])

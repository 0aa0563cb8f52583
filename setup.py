# SPDX-License-Identifier: Apache-2.0
"""Builds the native kernels of custom_ops/ with CMake. Everything else is in setup.cfg.

The kernels are optional. If they cannot be built, the installation still succeeds. It prints the reason
and, because pip hides what is printed, writes it to keras_seq/_native/not_built.txt.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "custom_ops"
HAS_KERNELS = (SOURCES / "CMakeLists.txt").exists()

NOT_BUILT = """\
keras_seq: the native kernels were not built.
keras_seq works without them (implementation="xla"), but slower on a CPU.
Why: {reason}
To get them: install CMake and a C++17 compiler (Debian: apt-get install cmake g++), then
in a checkout run
  pip install -v -e .
and elsewhere
  pip install -v --force-reinstall --no-deps --no-cache-dir --no-binary keras_seq keras_seq
"""


class BuildError(Exception):
    """Why the kernels cannot be built."""


def cmake(*arguments):
    """Runs CMake and prints its output. Raises BuildError with the last lines if it fails."""
    try:
        done = subprocess.run(
            ["cmake", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise BuildError(f"cmake does not start ({error}).") from error
    print(done.stdout, flush=True)
    if done.returncode:
        lines = [f"    {line}" for line in done.stdout.splitlines() if line.strip()]
        tail = "\n".join(lines[-20:])
        raise BuildError(f"`cmake {arguments[0]} ...` failed and ended with\n{tail}")


class BuildNative(build_ext):
    """Configures, builds and installs custom_ops/ into the package folder keras_seq/_native/."""

    def run(self):
        target = self._target()
        shutil.rmtree(target, ignore_errors=True)  # so that no library of an earlier build remains
        target.mkdir(parents=True)
        try:
            self._build(Path(self.build_temp).resolve() / "custom_ops", target)
        except BuildError as error:
            message = NOT_BUILT.format(reason=error)
            (target / "not_built.txt").write_text(message, encoding="utf-8")
            print(message, file=sys.stderr, flush=True)

    def get_outputs(self):
        return [str(path) for path in self._target().rglob("*") if path.is_file()]

    def _target(self):
        in_place = self.inplace or self.editable_mode
        return (ROOT if in_place else Path(self.build_lib).resolve()) / "keras_seq" / "_native"

    @staticmethod
    def _build(build, target):
        # The cache holds paths of tools, and pip's isolated environment has a new path each time.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        cmake(
            *("-S", SOURCES, "-B", build, *generator),
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython3_EXECUTABLE={sys.executable}",
            # pip hides this folder from the build, but the kernels must match the TensorFlow in it.
            f"-DKERAS_SEQ_SITE_PACKAGES={sysconfig.get_path('platlib')}",
        )
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or os.cpu_count() or 1
        cmake("--build", build, "--config", "Release", "--parallel", jobs)
        cmake("--install", build, "--config", "Release", "--prefix", target)


class NativeWheel(bdist_wheel):
    """Tags the wheel for this platform and any Python 3: the libraries do not use Python's ABI."""

    def get_tag(self):
        python, abi, platform = super().get_tag()
        return ("py3", "none", platform) if HAS_KERNELS else (python, abi, platform)


class NativeDistribution(Distribution):
    """Makes setuptools run build_ext if there are kernels to build."""

    def has_ext_modules(self):
        return HAS_KERNELS


setup(
    distclass=NativeDistribution,
    cmdclass={"build_ext": BuildNative, "bdist_wheel": NativeWheel},
)

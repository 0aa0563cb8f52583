# SPDX-License-Identifier: Apache-2.0
"""Builds the native kernels of custom_ops/ with CMake. Everything else is in setup.cfg.

The kernels are optional. If they cannot be built, the installation still succeeds. It prints the reason
and, because pip hides what is printed, writes it to keras_seq/_native/not_built.txt.

They are built against the TensorFlow of the environment into which pip installs, else the newest that keras_seq
supports. The variable KERAS_SEQ_TENSORFLOWS names others: folders, separated by ":", into each of which a TensorFlow
was installed. The wheel then holds a library for each (scripts/build_wheels.sh).
"""

import configparser
import importlib
import json
import os
import re
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
TENSORFLOWS = [folder for folder in os.environ.get("KERAS_SEQ_TENSORFLOWS", "").split(os.pathsep) if folder]
# pip hides this folder from the build, but the kernels must match the TensorFlow in it.
SITE_PACKAGES = sysconfig.get_path("platlib")

NOT_BUILT = """\
keras_seq: the native kernels were not built.
keras_seq works without them (implementation="xla"), but slower on a CPU.
Why: {reason}
To get them, install a C++17 compiler (Debian: apt-get install g++) and build them against the TensorFlow that is
installed. keras_seq.explain(model) prints the command.
"""


class BuildError(Exception):
    """Why the kernels cannot be built."""


def configuration():
    """Return the sections of setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def build_requirements():
    """Return what the build needs beyond pyproject.toml: a TensorFlow, unless the one to build against is there."""
    if not HAS_KERNELS or TENSORFLOWS or (Path(SITE_PACKAGES) / "tensorflow" / "include").is_dir():
        return []
    return configuration()["options.extras_require"]["tensorflow"].split()


def description():
    """Return the README, for readers elsewhere: its relative links lead to the address `url` of setup.cfg.

    As long as there is no such address, pictures are left out, and links are their texts.
    """
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    url = configuration()["metadata"].get("url", "").rstrip("/")

    def replace(link):
        picture, text, target = link.groups()
        if not (ROOT / target.partition("#")[0]).exists():  # an address, or code that looks like a link
            return link[0]
        if url:
            return f"{picture}[{text}]({url}/{'raw' if picture else 'blob'}/HEAD/{target})"
        return "" if picture else text

    return re.sub(r"(!?)\[([^][]*)\]\(([^()\s]+)\)", replace, readme)


def executable(name, folder_name):
    """Return the path of a program that a wheel brings, else its name, to be found on PATH."""
    try:
        return str(Path(getattr(importlib.import_module(name), folder_name), name))
    except (ImportError, AttributeError):
        return name


def cmake(*arguments):
    """Runs CMake and prints its output. Raises BuildError with the last lines if it fails."""
    try:
        done = subprocess.run(
            [executable("cmake", "CMAKE_BIN_DIR"), *map(str, arguments)],
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
        build = Path(self.build_temp).resolve()
        try:
            self._build(build / "custom_ops", target, TENSORFLOWS[0] if TENSORFLOWS else SITE_PACKAGES)
            if TENSORFLOWS:
                self._built_for(target)  # raises if it was built for JAX only
            for number, tensorflow in enumerate(TENSORFLOWS[1:]):
                self._build_further(build / f"custom_ops_{number + 2}", target, tensorflow)
        except BuildError as error:
            if TENSORFLOWS:
                raise  # a wheel for others must hold all
            message = NOT_BUILT.format(reason=error)
            (target / "not_built.txt").write_text(message, encoding="utf-8")
            print(message, file=sys.stderr, flush=True)

    def get_outputs(self):
        return [str(path) for path in self._target().rglob("*") if path.is_file()]

    def _target(self):
        in_place = self.inplace or self.editable_mode
        return (ROOT if in_place else Path(self.build_lib).resolve()) / "keras_seq" / "_native"

    def _build_further(self, build, target, tensorflow):
        """Builds for one more TensorFlow, into a folder that is named after its version."""
        folder = build / "installed"
        self._build(build, folder, tensorflow)
        (folder / "libkeras_seq_xla.so").unlink()  # does not depend on TensorFlow, and is there already
        shutil.move(folder, target / f"tensorflow-{self._built_for(folder)}")

    @staticmethod
    def _built_for(folder):
        """Returns the version of TensorFlow that the library in a folder is built for."""
        build = json.loads((folder / "build.json").read_text(encoding="utf-8"))
        if build["tensorflow"] is None:
            raise BuildError(build["why_no_tensorflow"])
        return build["tensorflow"]

    @staticmethod
    def _build(build, target, site_packages):
        # The cache holds paths of tools, and pip's isolated environment has a new path each time.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        ninja = shutil.which(executable("ninja", "BIN_DIR"))
        cmake(
            *("-S", SOURCES, "-B", build),
            *(("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}") if ninja else ()),
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-DKERAS_SEQ_SITE_PACKAGES={site_packages}",
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
    long_description=description(),
    setup_requires=build_requirements(),
)

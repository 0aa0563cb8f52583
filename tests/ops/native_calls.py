# SPDX-License-Identifier: Apache-2.0
"""Calls of the native kernels, and their reference, for the tests in this folder; tests in other processes."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import FUNCTIONS, GATES, KERNEL_CELLS, STATES, make_cell_equations

from keras_seq import ops
from keras_seq.ops import native
from keras_seq.ops.recurrent_call import RecurrentCall

BATCH, TIME, FEATURES, UNITS = 3, 4, 2, 5
# The first and the last step are kept: before them, ops with an initial state give zeros, as Keras does.
MASK = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 1, 1]], bool)

WHY_NOT = native.unavailable()
needs_native = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
on_cells = pytest.mark.parametrize("cell, attributes", KERNEL_CELLS, ids=str)


def run_native(cell, attributes, calls, **options):
    """`native.run` on a dict of arguments for each direction: lists of outputs, of states and of attention weights."""
    calls = [RecurrentCall(make_cell_equations(FUNCTIONS[cell], attributes), **arguments) for arguments in calls]
    return tuple(map(list, zip(*native.run(calls, **options), strict=True)))


def draw(*shape, seed=0, dtype="float64"):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def draw_arguments(cell, attributes, direction=0, dtype="float64"):
    """inputs, kernel, recurrent_kernel, bias, recurrent_dropout_mask, initial states."""
    width = GATES[cell] * UNITS
    shapes = [
        (BATCH, TIME, FEATURES),
        (FEATURES, width),
        (UNITS, width),
        (2, width) if attributes.get("reset_after") else (width,),
        *[(BATCH, UNITS)] * (1 + STATES[cell]),
    ]
    return [draw(*shape, seed=10 * direction + i, dtype=dtype) for i, shape in enumerate(shapes)]


def call(cell, attributes, arguments, *, reverse=(False,), recompute=False, mask=None):
    """`run_native` on the flat arguments of `draw_arguments`, those of one direction after those of the other."""
    size = len(arguments) // len(reverse)
    groups = [arguments[i : i + size] for i in range(0, len(arguments), size)]
    names = ("inputs", "kernel", "recurrent_kernel", "bias", "recurrent_dropout_mask")
    calls = [
        {**dict(zip(names, group[:5], strict=True)), "initial_state": tuple(group[5:]), "reverse": backwards}
        for group, backwards in zip(groups, reverse, strict=True)
    ]
    return run_native(cell, attributes, calls, mask=mask, recompute=recompute)


def reference(cell, attributes, arguments, *, reverse=False, mask=None):
    function = getattr(ops, FUNCTIONS[cell])
    x, w, u, b, dropout, *state = arguments
    options = {"initial_state": tuple(state), "recurrent_dropout_mask": dropout, "mask": mask, "reverse": reverse}
    return function(x, w, u, b, **options, **attributes, implementation="xla")


def bytes_of_images(mask):
    """A boolean mask whose True is the byte 255, as in the mask of an image."""
    return (np.asarray(mask).astype("uint8") * 255).view(bool)


def run_alone(function, *arguments, **environment):
    """Run a function of a test file, which is also a program, in another process."""
    command = [sys.executable, function.__code__.co_filename, function.__name__, *arguments]
    path = os.pathsep.join(
        [str(pathlib.Path(__file__).parents[1]), *sys.path]
    )  # the folder of conftest, and all others
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr

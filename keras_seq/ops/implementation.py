# SPDX-License-Identifier: Apache-2.0
"""Which implementation a recurrence runs: asked for, or chosen where the best is known; never silent."""

import contextlib
import contextvars
import os
from typing import NamedTuple

from keras import backend

from keras_seq.ops import cell_equations, cudnn, native
from keras_seq.ops.attention_equations import AdditiveAttentionEquations, AnyAttentionEquations, InputFeedingEquations

IMPLEMENTATIONS = ("auto", "native", "cudnn", "xla")
_ON_CUDNN = {
    "tensorflow": "cuDNN covers it; xla serves under jit_compile, and masks that do not pad on the right",
    "jax": "cuDNN covers it; xla serves where there is a mask",
}
_DTYPES = ("float32", "float64", "bfloat16")
_in_use = contextvars.ContextVar("keras_seq_implementation", default=None)


class Choice(NamedTuple):
    """Which implementation runs, and why."""

    implementation: str
    reason: str


def check_implementation(implementation):
    """Return one of `IMPLEMENTATIONS`; Keras's legacy integers 0, 1 and 2 mean "auto"."""
    if isinstance(implementation, int) and implementation in (0, 1, 2):
        return "auto"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"`implementation` must be one of {IMPLEMENTATIONS}. Received: {implementation!r}")
    return implementation


def can_compile(implementation):
    """Whether Keras may compile a layer with that `implementation` by XLA, which on TensorFlow cannot call cuDNN."""
    return implementation != "cudnn" or backend.backend() != "tensorflow"


@contextlib.contextmanager
def use_implementation(implementation):
    """Replace "auto" within a `with` block: what is traced there runs the implementation named here.

    `with use_implementation("xla"): model.export(path)` writes a SavedModel of stock TensorFlow operations.

    Args:
        implementation: "auto", "native", "cudnn" or "xla".

    Example:
        >>> import keras_seq
        >>> layer = keras_seq.layers.GRU(4)
        >>> with keras_seq.ops.use_implementation("xla"):
        ...     layer.choose_implementation().implementation
        'xla'
    """
    token = _in_use.set(check_implementation(implementation))
    try:
        yield
    finally:
        _in_use.reset(token)


def choose_implementation(implementation, cell, dtype, extras=cudnn.NO_FEATURES):
    """Decide how a recurrence runs: "auto" is native where there is a kernel, else cudnn where there is one, else xla.

    `use_implementation` and, after it, the environment variable `KERAS_SEQ_IMPLEMENTATION` replace "auto".

    Args:
        implementation: "auto", "native", "cudnn" or "xla".
        cell: a recurrence of `cell_equations`.
        dtype: that of the computation, a name.
        extras: `cudnn.CallFeatures`, what the call asks for that cuDNN may not have.

    Returns:
        A `Choice`.

    Raises:
        NotImplementedError: if "native" or "cudnn" is asked for and cannot be had.
        ValueError: if there is no such implementation.
    """
    requested, source = check_implementation(implementation), "`implementation`"
    for name, replacement in (
        ("`use_implementation`", _in_use.get()),
        ("KERAS_SEQ_IMPLEMENTATION", os.environ.get("KERAS_SEQ_IMPLEMENTATION")),
    ):
        if requested == "auto" and replacement:
            requested, source = check_implementation(replacement), name
    if requested == "xla":
        return Choice("xla", f"asked for by {source}")
    if requested != "auto":
        missing = why_not_native(cell, dtype) if requested == "native" else why_not_cudnn(cell, dtype, extras)
        if missing:
            raise NotImplementedError(f"{source} asks for '{requested}', but {missing}. Use 'auto' or 'xla'.")
        return Choice(requested, f"asked for by {source}")
    missing = why_not_native(cell, dtype)
    if missing is None:
        return Choice("native", "a kernel covers it")
    if not cudnn.sees_gpu():
        return Choice("xla", missing)
    missing = why_not_cudnn(cell, dtype, extras)
    if missing is None:
        return Choice("cudnn", _ON_CUDNN[backend.backend()])
    return Choice("xla", missing)


def why_not_native(cell, dtype):
    """Why there is no native kernel for a recurrence of `cell_equations`, or None where there is one."""
    if native_kernel(cell) is None:
        return f"there is no native kernel for {_describe(cell)}"
    if dtype not in _DTYPES:
        return f"there is no native kernel for {dtype}"
    return native.unavailable()


def why_not_cudnn(cell, dtype, extras=cudnn.NO_FEATURES):
    """Why cuDNN cannot run a recurrence of `cell_equations`, or None where it can."""
    kernel = None if isinstance(cell, AdditiveAttentionEquations) else native_kernel(cell)
    if kernel == ("GRU", {"reset_after": False}):
        return "cuDNN has no GRU with reset_after=False"
    if kernel not in (("GRU", {"reset_after": True}), ("LSTM", {})):
        return f"cuDNN, as Keras uses it, has no {_describe(cell)}"
    return cudnn.unavailable(kernel[0], dtype, extras)


def native_kernel(cell):
    """The name and the attributes of the native kernel of a recurrence of `cell_equations`, or None.

    Those of a recurrence with additive attention are those of its cell.
    """
    if isinstance(cell, AdditiveAttentionEquations):
        cell = cell.cell
    return cell.native_kernel() if hasattr(cell, "native_kernel") else None


def _describe(cell):
    if isinstance(cell, AdditiveAttentionEquations):
        return f"{_describe(cell.cell)} with attention"
    if isinstance(cell, AnyAttentionEquations):
        return "attention that is not additive with a softmax"
    if isinstance(cell, InputFeedingEquations):
        return "attention after the cell with input feeding"
    if isinstance(cell, cell_equations.ExtendedLSTMEquations):
        parts = {"peepholes": cell.peephole, "a projection": cell.projection_units, "layer_norm": cell.layer_norm}
        return "LSTM with " + ", ".join(name for name, there in parts.items() if there)
    if isinstance(cell, cell_equations.LayerNormGRUEquations):
        return "GRU with layer_norm"
    if not isinstance(
        cell, (cell_equations.SimpleRNNEquations, cell_equations.GRUEquations, cell_equations.LSTMEquations)
    ):
        return f"{type(cell).__name__}, which is not a cell of keras_seq"
    functions = [getattr(cell, name, None) for name in ("activation", "recurrent_activation")]
    names = ", ".join(getattr(f, "__name__", str(f)) for f in functions if f is not None)
    return f"{type(cell).__name__.removesuffix('Equations')} with the activation(s) {names}"

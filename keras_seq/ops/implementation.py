# SPDX-License-Identifier: Apache-2.0
"""Which implementation a recurrence runs: asked for, or chosen where the best is known; never silent."""

import contextlib
import contextvars
import os
from collections.abc import Iterator
from typing import NamedTuple

from keras import backend

from keras_seq.ops import cudnn, native
from keras_seq.ops.cudnn import NO_FEATURES, CallFeatures
from keras_seq.ops.equations.attention import AttentionEquations
from keras_seq.ops.equations.protocol import Equations
from keras_seq.ops.export_mode import is_portable_export

IMPLEMENTATIONS = ("auto", "native", "cudnn", "xla")
_ON_CUDNN = "cuDNN covers it; xla serves under jit_compile, and masks that do not pad on the right"
_FASTER_ON_JAX = "on JAX the scan that XLA compiles is faster than cuDNN: see docs/benchmarks.md"
_EXPORT = "a portable export"
_DTYPES = ("float32", "float64", "bfloat16")
_in_use = contextvars.ContextVar("keras_seq_implementation", default=None)


class Choice(NamedTuple):
    """Which implementation runs, and why."""

    implementation: str
    reason: str


def check_implementation(implementation: str | int, name: str = "`implementation`") -> str:
    """Return one of `IMPLEMENTATIONS`. Keras's legacy integers 0, 1 and 2 mean "auto". Errors name `name`."""
    if isinstance(implementation, int) and implementation in (0, 1, 2):
        return "auto"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"{name} must be one of {IMPLEMENTATIONS}. Received: {implementation!r}")
    return implementation


def can_compile(implementation: str) -> bool:
    """Whether XLA may compile a layer with this `implementation`. On TensorFlow XLA cannot call cuDNN."""
    return implementation != "cudnn" or backend.backend() != "tensorflow"


@contextlib.contextmanager
def use_implementation(implementation: str) -> Iterator[None]:
    """Replaces "auto" within a `with` block.

    Layers that run or are traced in the block use the implementation named here, unless they ask for one themselves.

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


def choose_implementation(
    implementation: str | int,
    equations: Equations,
    dtype: str,
    features: CallFeatures = NO_FEATURES,
) -> Choice:
    """Choose what runs a recurrence: with "auto" native if there is a kernel, else cudnn on TensorFlow, else xla.

    `use_implementation` and, after it, the environment variable `KERAS_SEQ_IMPLEMENTATION` replace "auto". A portable
    export takes xla, whatever is asked for.

    Args:
        implementation: "auto", "native", "cudnn" or "xla".
        equations: the equations of one step.
        dtype: the name of the dtype of the computation.
        features: what the call uses that cuDNN may not have.

    Raises:
        NotImplementedError: if "native" or "cudnn" is requested and cannot run.
        ValueError: if `implementation` is none of these.
    """
    requested, source = _resolve(implementation)
    if requested == "xla":
        return Choice("xla", f"asked for by {source}")
    if requested != "auto":
        reason = (
            why_not_native(equations, dtype) if requested == "native" else why_not_cudnn(equations, dtype, features)
        )
        if reason:
            raise NotImplementedError(f"{source} asks for '{requested}', but {reason}. Use 'auto' or 'xla'.")
        return Choice(requested, f"asked for by {source}")
    reason = why_not_native(equations, dtype)
    if reason is None:
        return Choice("native", "a kernel covers it")
    if cudnn.sees_gpu():
        reason = why_not_cudnn(equations, dtype, features)
        if reason is None:
            is_jax = backend.backend() == "jax"
            return Choice("xla", _FASTER_ON_JAX) if is_jax else Choice("cudnn", _ON_CUDNN)
    return Choice("xla", reason)


def implementation_in_use() -> str:
    """Return what replaces "auto" now, for the keys of compiled functions: see `use_implementation`."""
    return _EXPORT if is_portable_export() else _resolve("auto")[0]


def _resolve(implementation: str | int) -> tuple[str, str]:
    """Return the requested implementation and what requests it."""
    requested = check_implementation(implementation)
    if is_portable_export():
        return "xla", _EXPORT
    if requested != "auto":
        return requested, "`implementation`"
    if _in_use.get() not in (None, "auto"):
        return _in_use.get(), "`use_implementation`"
    from_environment = os.environ.get("KERAS_SEQ_IMPLEMENTATION")
    if from_environment:
        name = "KERAS_SEQ_IMPLEMENTATION"
        return check_implementation(from_environment, name), name
    return "auto", "`implementation`"


def why_not_native(equations: Equations, dtype: str) -> str | None:
    """Say why there is no native kernel for these equations, or return None if there is one."""
    if native_kernel(equations) is None:
        return f"there is no native kernel for {_describe(equations)}"
    if dtype not in _DTYPES:
        return f"there is no native kernel for {dtype}"
    return native.unavailable(native_kernel(equations)[0])


def why_not_cudnn(equations: Equations, dtype: str, features: CallFeatures = NO_FEATURES) -> str | None:
    """Say why cuDNN cannot run these equations, or return None if it can."""
    kernel = native_kernel(equations)
    if kernel is None or not getattr(equations, "is_standard", False) or isinstance(equations, AttentionEquations):
        return f"cuDNN, as Keras uses it, has no {_describe(equations)}"
    name, attributes = kernel
    if name not in ("GRU", "LSTM"):
        return f"cuDNN, as Keras uses it, has no {name}"
    if not attributes.get("reset_after", True):
        return "cuDNN has no GRU with reset_after=False"
    return cudnn.unavailable(name, dtype, features)


def native_kernel(equations: Equations) -> tuple[str, dict] | None:
    """Return the name and the attributes of the native op for these equations, or None. Foreign cells have none."""
    return equations.native_kernel() if hasattr(equations, "native_kernel") else None


def _describe(equations: Equations) -> str:
    if hasattr(equations, "describe"):
        return equations.describe()
    return f"{type(equations).__name__}, which is not a cell of keras_seq"

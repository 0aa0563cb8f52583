# SPDX-License-Identifier: Apache-2.0
"""The native library on JAX: its ops as calls of XLA's FFI, and their gradients."""

import ctypes
import functools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from keras_seq.ops.native_jax_sharding import Pass, run_sharded
from keras_seq.ops.native_library import (
    SECOND_ORDER,
    OpCall,
    UnavailableError,
    check_instruction_set,
    describe_ops,
    split,
)

# The sizes of results are those of these arguments; the handler checks all others against them.
_SIZED_BY = ("inputs", "recurrent_kernel", "projection_kernel", "memory", "keys", "initial_fed")
_ROWS = "rows"  # how many sequences the residuals of each sequence were computed with; see `_Backward`


class JaxLibrary:
    """The library of FFI handlers. Registers them with JAX.

    Args:
        folder: where the library is.
    """

    def __init__(self, folder: pathlib.Path):
        if jax.default_backend() != "cpu":
            raise UnavailableError(f"the native kernels run on a CPU, and JAX runs on {jax.default_backend()}")
        library = ctypes.CDLL(str(folder / "libkeras_seq_xla.so"))
        check_instruction_set(library)
        self.ops = describe_ops(library)
        for op in self.ops:
            for name in (f"KerasSeq{op}", f"KerasSeq{op}Grad"):
                jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")

    def run_op(self, call: OpCall, arguments: dict[str, Sequence[jax.Array]]) -> dict[str, list[jax.Array]]:
        """Call the handler of an `OpCall`."""
        arguments = {name: [jnp.asarray(t) for t in arguments.get(name, ())] for name in call.op.arguments}
        for name in _SIZED_BY:
            rank = len(call.op.shapes.get(name, ()))
            for tensor in arguments.get(name, ()):
                if tensor.ndim != rank:
                    raise ValueError(f"`{name}` must have {rank} axes. Received: an array of shape {tensor.shape}")
        return _differentiable(call, arguments)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable(call: OpCall, arguments: dict[str, list]) -> dict[str, list]:
    """Return the results of an `OpCall`, without residuals, which only a gradient needs."""
    return _run_pass(_Forward(call.with_residuals(False)), arguments)


def _run_forward(call: OpCall, primals: dict[str, list]) -> tuple:
    arguments = jax.tree.map(lambda primal: primal.value, primals)
    # Python must know which gradients are wanted, so the structure says it (() or None), not a value.
    wanted = {name: () if any(p.perturbed for p in of_name) else None for name, of_name in primals.items()}
    results = _run_pass(_Forward(call), arguments)
    outputs = {name: tensors for name, tensors in results.items() if name not in ("residuals", _ROWS)}
    return outputs, (arguments, results, wanted)


def _run_backward(call: OpCall, saved: tuple, upstream: dict[str, list]) -> tuple:
    arguments, results, wanted = saved
    counts = call.op.wanted_counts(arguments, {name for name in wanted if wanted[name] is not None})
    if not any(counts.values()):
        return (dict.fromkeys(arguments),)
    d_results = {name: _without_zeros(upstream[name.removeprefix("d_")]) for name in call.op.upstream}
    kept = {name: results[name] for name in (*call.op.gradient_arguments, _ROWS) if name in results}
    gradients = _run_pass(_Backward(call, tuple(counts.items())), {**arguments, **kept, **d_results})
    return ({name: gradients.get(f"d_{name}") or [None] * len(tensors) for name, tensors in arguments.items()},)


_differentiable.defvjp(_run_forward, _run_backward, symbolic_zeros=True)


def _without_zeros(tensors: list) -> list:
    """Return the upstream gradients of a result, or an empty list if all are zero."""
    zero = [isinstance(tensor, jax.custom_derivatives.SymbolicZero) for tensor in tensors]
    if all(zero):
        return []
    return [jnp.zeros(x.shape, x.dtype) if is_zero else x for x, is_zero in zip(tensors, zero, strict=True)]


# A custom derivative that raises: for a second-order gradient JAX differentiates this function.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _run_pass(pass_: Pass, operands: dict[str, list]) -> dict[str, list]:
    return run_sharded(pass_, operands) if jax.device_count() > 1 else pass_.run(operands)


@_run_pass.defjvp
def _second_order_derivative(pass_: Pass, *_: Any) -> None:
    raise NotImplementedError(SECOND_ORDER.format(op=pass_.call.op.name))


class _Forward(NamedTuple):
    """A forward pass of an `OpCall`."""

    call: OpCall

    def run(self, operands: dict[str, list]) -> dict[str, list]:
        call, op, dtype = self.call, self.call.op, operands["inputs"][0].dtype
        sizes = {}
        for name in _SIZED_BY:
            for tensor in operands.get(name, ())[:1]:
                sizes.update(zip(op.shapes[name], tensor.shape, strict=True))
        sizes.setdefault("units", sizes["hidden_units"])  # unless there is a projection
        if call.attributes.get("score") == "dot":  # residuals hold no queries, which are h
            sizes["attention_units"] = 0
        sizes["residuals"] = self._residual_size(operands, sizes) if call.keep_residuals else 0
        dtypes = {"residuals": jnp.float64 if dtype == jnp.float64 else jnp.float32}
        results = [
            jax.ShapeDtypeStruct([sizes[axis] for axis in op.shapes[name]], dtypes.get(name, dtype))
            for name, length in call.result_lengths.items()
            for _ in range(length)
        ]
        flat = _call_handler(call, op.name, results, op.arguments, operands, call.extra_counts)
        results = split(flat, call.result_lengths)
        if not call.keep_residuals:
            del results["residuals"]
        elif jax.device_count() > 1:
            results[_ROWS] = [jnp.full(sizes["batch"], sizes["batch"], "int32")]
        return results

    def _residual_size(self, operands: dict[str, list], sizes: dict[str, int]) -> int:
        if not operands.get("projection_kernel"):
            sizes = {name: size for name, size in sizes.items() if name != "hidden_units"}
        dtype, reset_after = operands["inputs"][0].dtype.name, self.call.attributes.get("reset_after", True)
        layer_norm = bool(operands.get("input_gamma"))
        return self.call.op.residual_size(self.call.cell, dtype, reset_after, sizes, layer_norm=layer_norm)

    def axes(self, name: str) -> list[str]:
        return ["batch"] if name == _ROWS else self.call.op.shapes[name]

    def result_lengths(self) -> dict[str, int]:
        lengths = dict(self.call.result_lengths)
        if not self.call.keep_residuals:
            del lengths["residuals"]
            return lengths
        return lengths | {_ROWS: 1}


class _Backward(NamedTuple):
    """A backward pass of an `OpCall`, with the attributes that say which gradients are wanted."""

    call: OpCall
    wanted: tuple[tuple[str, int], ...]

    def run(self, operands: dict[str, list]) -> dict[str, list]:
        op, wanted, operands = self.call.op, dict(self.wanted), operands | {"residuals": self._residuals(operands)}
        gradients = [
            jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)
            for name, count in op.wanted.items()
            for tensor in operands[name][: wanted[count]]
        ]
        counts = {count: len(operands[name]) for name, count in op.upstream.items()} | wanted
        flat = _call_handler(self.call, f"{op.name}Grad", gradients, op.gradient_arguments, operands, counts)
        return split(flat, self.result_lengths())

    def _residuals(self, operands: dict[str, list]) -> list[jax.Array]:
        """Return the residuals of these sequences.

        Residuals have the steps first: those of two parts of a batch, one after the other, are not those of the batch.
        Where the partitioner splits the batch of the backward pass differently, they are computed again. Otherwise
        XLA knows that they fit, and drops the condition.
        """
        residuals = operands.get("residuals", [jnp.zeros(0, "float32")] * len(self.call.reverse))
        if _ROWS not in operands:
            return residuals
        rows = operands[_ROWS][0]
        arguments = {name: operands[name] for name in self.call.op.arguments}
        forward = _Forward(self.call)
        return jax.lax.cond(
            jnp.all(rows == rows.shape[0]), lambda: residuals, lambda: forward.run(arguments)["residuals"]
        )

    def axes(self, name: str) -> list[str]:
        return ["batch"] if name == _ROWS else self.call.op.shapes[name.removeprefix("d_")]

    def result_lengths(self) -> dict[str, int]:
        wanted = dict(self.wanted)
        return {f"d_{name}": wanted[count] for name, count in self.call.op.wanted.items()}


def _call_handler(
    call: OpCall, name: str, results: list, order: Iterable[str], operands: dict[str, list], counts: dict[str, int]
) -> list[jax.Array]:
    """Call an FFI handler with lists of operands, in this order because JAX sorts dicts."""
    counts = {count: len(operands[argument]) for argument, count in call.op.arguments.items()} | counts
    counts["reverse"] = sum(int(reverse) << direction for direction, reverse in enumerate(call.reverse))
    attributes = {attribute: np.int64(count) for attribute, count in counts.items()}
    attributes.update(call.attributes, keep_residuals=call.keep_residuals)
    flat = [tensor for argument in order for tensor in operands[argument]]
    return jax.ffi.ffi_call(f"KerasSeq{name}", results, vmap_method="sequential")(*flat, **attributes)

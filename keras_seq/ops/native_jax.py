# SPDX-License-Identifier: Apache-2.0
"""The native library on JAX: its ops as calls of XLA's FFI, and their gradients."""

import ctypes
import functools

import jax
import jax.numpy as jnp
import numpy as np

from keras_seq.ops.native_library import (
    SECOND_ORDER,
    UnavailableError,
    check_instruction_set,
    describe_ops,
    op_call,
    split,
)

# The sizes of results are those of these arguments; the handler checks all others against them.
_SIZED_BY = ("inputs", "recurrent_kernel", "memory", "keys")


class JaxLibrary:
    """The library of FFI handlers. Registers them with JAX.

    Args:
        folder: where the library is.
    """

    def __init__(self, folder):
        if jax.default_backend() != "cpu":
            raise UnavailableError(f"the native kernels run on a CPU, and JAX runs on {jax.default_backend()}")
        library = ctypes.CDLL(str(folder / "libkeras_seq_xla.so"))
        check_instruction_set(library)
        self.ops = describe_ops(library)
        for op in self.ops:
            for name in (f"KerasSeq{op}", f"KerasSeq{op}Grad"):
                jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")

    def run(self, call, arguments):
        """The results of an `OpCall`, a dict of lists. `arguments` is a dict of lists too."""
        arguments = {name: [jnp.asarray(t) for t in arguments.get(name, ())] for name in call.op.arguments}
        for name in _SIZED_BY:
            rank = len(call.op.shapes.get(name, ()))
            for tensor in arguments.get(name, ()):
                if tensor.ndim != rank:
                    raise ValueError(f"`{name}` must have {rank} axes. Received: an array of shape {tensor.shape}")
        return split(_differentiable(call, arguments), call.result_lengths)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable(call, arguments):
    """The flat results of an `OpCall`, without residuals, which only a gradient needs."""
    call = op_call(call.op, call.cell, call.reverse, False, tuple(call.attributes.items()))
    return _forward(call, arguments)[: -len(call.reverse)]


def _run_forward(call, primals):
    arguments = jax.tree.map(lambda primal: primal.value, primals)
    # Python must know which gradients are wanted, so the structure says it (() or None), not a value.
    wanted = {name: () if any(p.perturbed for p in of_name) else None for name, of_name in primals.items()}
    results = _forward(call, arguments)
    return results[: -len(call.reverse)], (arguments, results, wanted)


def _run_backward(call, saved, upstream):
    arguments, results, wanted = saved
    counts = call.op.wanted_counts(arguments, {name for name in wanted if wanted[name] is not None})
    if not any(counts.values()):
        return (dict.fromkeys(arguments),)
    results, d_results = split(results, call.result_lengths), split(upstream, call.result_lengths)
    d_results = {name: _without_zeros(d_results[name.removeprefix("d_")]) for name in call.op.upstream}
    gradients = _backward(call, arguments, results, d_results, counts)
    return (call.op.gradients(arguments, counts, gradients),)


_differentiable.defvjp(_run_forward, _run_backward, symbolic_zeros=True)


def _without_zeros(tensors):
    """The upstream gradients of a result, or an empty list if all are zero."""
    zero = [isinstance(tensor, jax.custom_derivatives.SymbolicZero) for tensor in tensors]
    if all(zero):
        return []
    return [jnp.zeros(x.shape, x.dtype) if is_zero else x for x, is_zero in zip(tensors, zero, strict=True)]


def _forward(call, arguments):
    """The flat results of the op, residuals included."""
    op, dtype = call.op, arguments["inputs"][0].dtype
    sizes = {}
    for name in _SIZED_BY:
        for tensor in arguments.get(name, ())[:1]:
            sizes.update(zip(op.shapes[name], tensor.shape, strict=True))
    reset_after = call.attributes.get("reset_after", True)
    residuals = op.residual_size(call.cell, dtype.name, reset_after, sizes) if call.keep_residuals else 0
    sizes["residuals"] = residuals
    dtypes = {"residuals": jnp.float64 if dtype == jnp.float64 else jnp.float32}
    results = [
        jax.ShapeDtypeStruct([sizes[axis] for axis in op.shapes[name]], dtypes.get(name, dtype))
        for name, length in call.result_lengths.items()
        for _ in range(length)
    ]
    return _call_handler(call, op.name, results, op.arguments, arguments, call.extra_counts)


def _backward(call, arguments, results, d_results, wanted):
    """The flat gradients that are wanted."""
    op = call.op
    gradients = [
        jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)
        for name, count in op.wanted.items()
        for tensor in arguments[name][: wanted[count]]
    ]
    counts = {count: len(d_results[name]) for name, count in op.upstream.items()}
    operands = {**arguments, **op.results_for_gradient(results), **d_results}
    return _call_handler(call, f"{op.name}Grad", gradients, op.gradient_arguments, operands, {**counts, **wanted})


def _call_handler(call, name, results, order, operands, counts):
    """Call an FFI handler with lists of operands, in this order because JAX sorts dicts."""
    counts = {count: len(operands[argument]) for argument, count in call.op.arguments.items()} | counts
    counts["reverse"] = sum(int(reverse) << direction for direction, reverse in enumerate(call.reverse))
    attributes = {attribute: np.int64(count) for attribute, count in counts.items()}
    attributes.update(call.attributes, keep_residuals=call.keep_residuals)
    flat = [tensor for argument in order for tensor in operands[argument]]
    return _invoke(call, f"KerasSeq{name}", tuple(results), tuple(attributes.items()), *flat)


# A custom derivative that raises: for a second-order gradient JAX differentiates this function.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _invoke(call, target, results, attributes, *operands):
    return jax.ffi.ffi_call(target, results, vmap_method="sequential")(*operands, **dict(attributes))


@_invoke.defjvp
def _second_order_derivative(call, *_):
    raise NotImplementedError(SECOND_ORDER.format(op=call.op.name))

# SPDX-License-Identifier: Apache-2.0
"""The native library on TensorFlow: its ops, and their gradients."""

import ctypes
import functools
import pathlib
import re
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from keras_seq._private_api import inputs_without_gradient
from keras_seq.ops.native_installation import how_to_rebuild
from keras_seq.ops.native_library import (
    NO_SEARCH_GRADIENT,
    SECOND_ORDER,
    Op,
    OpCall,
    UnavailableError,
    check_instruction_set,
    describe_ops,
    op_call,
    split,
)

_OLDEST = (2, 20)  # the first with all headers of XLA's FFI


class TensorFlowLibrary:
    """The library of TensorFlow ops. Registers their gradients.

    Args:
        folder: where the library is.
        build: what the build wrote about itself, a dict.
    """

    def __init__(self, folder: pathlib.Path, build: dict):
        path = library_path(folder, build)
        module, library = tf.load_op_library(path), ctypes.CDLL(path)
        library.KerasSeqHandlersAreRegistered.restype = ctypes.c_bool
        if not library.KerasSeqHandlersAreRegistered():
            raise UnavailableError(f"TensorFlow {tf.__version__} exports no function of XLA's FFI")
        check_instruction_set(library)
        self.ops = describe_ops(library)
        self._functions = {}
        self._product = op_function(module, "Product")
        self._dropout_mask = op_function(module, "DropoutMask")
        self._dropout = op_function(module, "Dropout")
        self._crossentropy = op_function(module, "Crossentropy")
        for name in ("Product", "DropoutMask", "Crossentropy"):
            tf.no_gradient(f"KerasSeq>{name}")
        tf.RegisterGradient("KerasSeq>Dropout")(functools.partial(_dropout_gradient, self._dropout))
        for name, op in self.ops.items():
            self._functions[name] = op_function(module, name)
            gradient = functools.partial(_gradient, op, op_function(module, name, "_grad"))
            tf.RegisterGradient(f"KerasSeq>{name}")(gradient)
            tf.RegisterGradient(f"KerasSeq>{name}Grad")(functools.partial(_second_order_gradient, name))

    def run_op(self, call: OpCall, arguments: dict[str, Sequence[tf.Tensor]]) -> dict[str, list[tf.Tensor]]:
        """Call the op of an `OpCall`."""
        arguments = {name: [tf.convert_to_tensor(t) for t in arguments.get(name, ())] for name in call.op.arguments}
        results = self._functions[call.op.name](
            **arguments,
            **call.attributes,
            **call.extra_counts,
            reverse=call.reverse,
            keep_residuals=call.keep_residuals,
            R=tf.float64 if arguments["inputs"][0].dtype == tf.float64 else tf.float32,
        )
        return dict(zip(call.op.results, results, strict=True))

    def multiply(self, inputs: tf.Tensor, kernel: tf.Tensor, keep_product: bool) -> tf.Tensor:
        """Call the op KerasSeq>Product."""
        return self._product(inputs=inputs, kernel=kernel, keep_product=keep_product)

    def draw_mask(self, shape: tuple, seed: tf.Tensor, threshold: int, values: tuple, dtype: str) -> tf.Tensor:
        """Call the op KerasSeq>DropoutMask."""
        values = tf.constant(values, dtype)
        shape = tf.convert_to_tensor(shape, tf.int32) if len(shape) else tf.zeros([0], tf.int32)
        return self._dropout_mask(shape=shape, seed=tf.cast(seed, tf.int64), values=values, threshold=threshold)

    def drop(self, x: tf.Tensor, seed: tf.Tensor, threshold: int, values: tuple) -> tf.Tensor:
        """Call the op KerasSeq>Dropout."""
        values = tf.constant(values, x.dtype)
        return self._dropout(inputs=x, seed=tf.cast(seed, tf.int64), values=values, threshold=threshold)

    def crossentropy(
        self, logits: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, label_smoothing: float, with_gradient: bool
    ) -> tuple[tf.Tensor, ...]:
        """Call the op KerasSeq>Crossentropy."""
        smoothing = tf.constant(label_smoothing, logits.dtype)
        return tuple(self._crossentropy(logits, targets, weights, smoothing, with_gradient=with_gradient))


def check_tensorflow() -> None:
    """Raise `UnavailableError` if no build of the kernels could run on this TensorFlow."""
    if tuple(int(number) for number in tf.__version__.split(".")[:2]) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise UnavailableError(f"the native kernels need TensorFlow {oldest} or later, and this is {tf.__version__}")
    if tf.config.get_visible_devices("GPU"):
        raise UnavailableError("the native kernels run on a CPU, and TensorFlow sees a GPU")


def library_path(folder: pathlib.Path, build: dict) -> str:
    """Return where the library for this TensorFlow is; arguments are those of `TensorFlowLibrary`."""
    return str(_folder_of_library(folder, build) / "libkeras_seq_tf.so")


def _folder_of_library(folder: pathlib.Path, build: dict) -> pathlib.Path:
    """Return where the library for this TensorFlow is: in `folder`, or, of a wheel for several versions, inside it.

    Decided before the library is opened, which may crash with another TensorFlow.
    """
    running = tf.__version__.replace("-", "")  # 2.21.0-rc0 is 2.21.0rc0 to pip
    further = {path.name.removeprefix("tensorflow-"): path for path in sorted(folder.glob("tensorflow-*"))}
    if running == build["tensorflow"]:
        return folder
    if running in further:
        return further[running]
    if build["tensorflow"] is None:
        why = f"were built for JAX only: {build['why_no_tensorflow']}"
    else:
        why = f"were built for TensorFlow {' and '.join([build['tensorflow'], *further])}, and this is {running}"
    raise UnavailableError(f"the native kernels {why}; {how_to_rebuild()}")


def op_function(module: ModuleType, name: str, suffix: str = "") -> Callable:
    """Return the function in a module that calls an op, such as `keras_seq_simple_rnn` for "SimpleRNN"."""
    snake_case = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return getattr(module, f"keras_seq_{snake_case}{suffix}")


def _gradient(op: Op, gradient_function: Callable, node: tf.Operation, *upstream: tf.Tensor) -> list[tf.Tensor | None]:
    """Return the gradients of all inputs of an op, which is `node` in a graph or on a tape."""
    attributes = {name: _as_text(node.get_attr(name)) for name in op.defaults}
    cell, reverse = attributes.get("cell", op.name), tuple(node.get_attr("reverse"))
    lengths = {name: node.get_attr(count) for name, count in op.arguments.items()}
    has_coverage = lengths.get("initial_coverage", 0) > 0
    call = op_call(op, cell, reverse, node.get_attr("keep_residuals"), tuple(attributes.items()), has_coverage)
    arguments = split(node.inputs, lengths)
    # A tape knows which gradients are not needed; tf.gradients does not.
    skipped = inputs_without_gradient(node)
    indices = split(range(len(node.inputs)), lengths)
    wanted = op.wanted_counts(arguments, {name for name in indices if not all(i in skipped for i in indices[name])})
    if not any(wanted.values()):
        return [None] * len(node.inputs)
    if not arguments["kernel"]:  # a step of a search, whose inputs are products with the kernel
        raise NotImplementedError(NO_SEARCH_GRADIENT.format(op=op.name))
    d_results = split(upstream, call.result_lengths)
    results = gradient_function(
        **arguments,
        **op.results_for_gradient(split(node.outputs, call.result_lengths)),
        **{name: _without_zeros(d_results[name.removeprefix("d_")]) for name in op.upstream},
        **wanted,
        **call.attributes,
        reverse=reverse,
        keep_residuals=call.keep_residuals,
    )
    gradients = op.gradients(arguments, wanted, [tensor for tensors in results for tensor in tensors])
    return [gradient for of_argument in gradients.values() for gradient in of_argument]


def _dropout_gradient(function: Callable, node: tf.Operation, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    """Drop the same entries of the upstream gradient."""
    seed, values = node.inputs[1:]
    return [function(inputs=upstream, seed=seed, values=values, threshold=node.get_attr("threshold")), None, None]


def _as_text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _without_zeros(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Return the upstream gradients of a result, or an empty list if all are zero."""
    return [] if all(_is_zero(tensor) for tensor in tensors) else tensors


def _is_zero(tensor: tf.Tensor | None) -> bool:
    """Whether TensorFlow filled in this upstream gradient because nothing depends on the result."""
    if tensor is None:
        return True
    if not tf.is_symbolic_tensor(tensor):
        return False
    kind = tensor.op.type
    if kind == "ZerosLike":
        return True
    if kind not in ("Fill", "Const"):
        return False
    value = tf.get_static_value(tensor.op.inputs[1] if kind == "Fill" else tensor)
    return value is not None and not np.any(value)


def _second_order_gradient(name: str, node: tf.Operation, *upstream: tf.Tensor) -> None:
    raise NotImplementedError(SECOND_ORDER.format(op=name))

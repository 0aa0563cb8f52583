# SPDX-License-Identifier: Apache-2.0
"""The native library on TensorFlow: its ops, and their gradients."""

import ctypes
import functools
import re

import numpy as np
import tensorflow as tf

from keras_seq.ops.native_library import (
    SECOND_ORDER,
    UnavailableError,
    check_instruction_set,
    describe_ops,
    op_call,
    split,
)


class TensorFlowLibrary:
    """The library of TensorFlow ops. Registers their gradients.

    Args:
        folder: where the library is.
        build: what the build wrote about itself, a dict.
    """

    def __init__(self, folder, build):
        _check_tensorflow(build)
        path = str(folder / "libkeras_seq_tf.so")
        module, library = tf.load_op_library(path), ctypes.CDLL(path)
        check_instruction_set(library)
        self.ops = describe_ops(library)
        self._functions = {}
        for name, op in self.ops.items():
            self._functions[name] = op_function(module, name)
            gradient = functools.partial(_gradient, op, op_function(module, name, "_grad"))
            tf.RegisterGradient(f"KerasSeq>{name}")(gradient)
            tf.RegisterGradient(f"KerasSeq>{name}Grad")(functools.partial(_second_order_gradient, name))

    def run(self, call, arguments):
        """The results of an `OpCall`, a dict of lists. `arguments` is a dict of lists too."""
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


def _check_tensorflow(build):
    built, running = build["tensorflow"], tf.__version__.replace("-", "")  # 2.21.0-rc0 is 2.21.0rc0 to pip
    if built is None:
        raise UnavailableError(f"the native kernels were built for JAX only: {build['why_no_tensorflow']}")
    if built != running:
        # Checked before the library is opened, which may crash with another TensorFlow.
        raise UnavailableError(
            f"the native kernels were built for TensorFlow {built}, and this is {running}; reinstall keras_seq"
        )
    if tf.config.get_visible_devices("GPU"):
        raise UnavailableError("the native kernels run on a CPU, and TensorFlow sees a GPU")


def op_function(module, name, suffix=""):
    """The function in a module of `tf.load_op_library` that calls an op: `keras_seq_simple_rnn` for "SimpleRNN"."""
    snake_case = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return getattr(module, f"keras_seq_{snake_case}{suffix}")


def _gradient(op, gradient_function, node, *upstream):
    """The gradient of an op: those of all inputs of its `node` in a graph or on a tape."""
    attributes = {name: _as_text(node.get_attr(name)) for name in op.defaults}
    cell, reverse = attributes.get("cell", op.name), tuple(node.get_attr("reverse"))
    call = op_call(op, cell, reverse, node.get_attr("keep_residuals"), tuple(attributes.items()))
    lengths = {name: node.get_attr(count) for name, count in op.arguments.items()}
    arguments = split(node.inputs, lengths)
    # A tape knows which gradients are not needed; tf.gradients does not.
    skipped = getattr(node, "skip_input_indices", None) or ()
    indices = split(range(len(node.inputs)), lengths)
    wanted = op.wanted_counts(arguments, {name for name in indices if not all(i in skipped for i in indices[name])})
    if not any(wanted.values()):
        return [None] * len(node.inputs)
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


def _as_text(value):
    return value.decode() if isinstance(value, bytes) else value


def _without_zeros(tensors):
    """The upstream gradients of a result, or an empty list if all are zero."""
    return [] if all(_is_zero(tensor) for tensor in tensors) else tensors


def _is_zero(tensor):
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


def _second_order_gradient(name, node, *upstream):
    raise NotImplementedError(SECOND_ORDER.format(op=name))

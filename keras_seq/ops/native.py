# SPDX-License-Identifier: Apache-2.0
"""Implementation "native": the kernels of `custom_ops/` on a CPU, through TensorFlow ops or, with JAX, XLA's FFI.

The library is loaded at the first use, never at import. This file knows the two frameworks; the kernels know neither.

A call runs to its end: Python handles a signal, such as Ctrl+C, only when the op returns, after all steps.
"""

import ctypes
import functools
import json
import pathlib
import re
import threading
from typing import NamedTuple

import numpy as np
from keras import backend

from keras_seq._private_api import inputs_without_gradient

FOLDER = pathlib.Path(__file__).parents[1] / "_native"
STATES = {"SimpleRNN": ("h",), "GRU": ("h",), "LSTM": ("h", "c")}  # of each cell
ATTENTION_DECODER = "AttentionDecoder"
# The attributes of each op that say which recurrence it is, with their defaults.
_ATTRIBUTES = {
    "SimpleRNN": {"activation": "tanh"},
    "GRU": {"reset_after": True},
    "LSTM": {},
    ATTENTION_DECODER: {"cell": "LSTM", "activation": "tanh", "reset_after": True},
}
SECOND_ORDER = 'The native {op} has no second-order gradient. Use implementation="xla" for it.'


class _UnavailableError(Exception):
    """Why the native kernels cannot run in this process."""


def unavailable():
    """Say why the native kernels cannot run in this process.

    Returns:
        A reason in one line, which can follow a colon or "but", such as "the native kernels were not built; ...". None
        where they can run. The first call loads the library.
    """
    return _load()[1]


def run(calls, *, mask=None, recompute=False, attention=None):
    """Run recurrences side by side."""
    first = calls[0]
    kernel, attributes = first.equations.native_kernel()
    results = recur(
        kernel,
        [call.inputs for call in calls],
        [call.kernel for call in calls],
        [call.recurrent_kernel for call in calls],
        None if first.bias is None else [call.bias for call in calls],
        initial_state=None if first.initial_state is None else [call.initial_state for call in calls],
        mask=mask,
        recurrent_dropout_mask=None
        if first.recurrent_dropout_mask is None
        else [call.recurrent_dropout_mask for call in calls],
        zoneout=None if first.zoneout_masks is None else [call.zoneout_masks for call in calls],
        attention=attention,
        reverse=[call.reverse for call in calls],
        keep_residuals=not recompute,
        **attributes,
    )
    return list(zip(*results, strict=True))


def recur(
    cell,
    inputs,
    kernel,
    recurrent_kernel,
    bias=None,
    *,
    initial_state=None,
    mask=None,
    recurrent_dropout_mask=None,
    zoneout=None,
    attention=None,
    reverse,
    keep_residuals,
    **attributes,
):
    """Run 1 to 32 recurrences of one shape side by side, or one that attends; differentiable once.

    Every argument but `cell`, `mask`, `keep_residuals` and the attributes is a list with one entry a direction.
    `inputs` decide the dtype of all tensors but `mask`: float32, float64 or bfloat16. No gradient reaches the masks.

    Args:
        cell: "SimpleRNN", "GRU" or "LSTM".
        inputs: (batch, time, features).
        kernel: (features, gates * units).
        recurrent_kernel: (units, gates * units).
        bias: (gates * units,), or (2, 3 * units) of a GRU with `reset_after`; or None for all.
        initial_state: tuple of (batch, units), one a state; or None for all, which is zero.
        mask: (batch, time) booleans, shared by the directions, True = keep; or None.
        recurrent_dropout_mask: (batch, units) or (batch, time, units), multiplies the previous h in every recurrent
            product; or None for all.
        zoneout: tuple, one a state, of None or a multiplier m shaped as `recurrent_dropout_mask`: a state becomes
            `m * previous + (1 - m) * new`; or None for all.
        attention: None, or of one direction that attends a dict of `memory` (batch, source, memory_units), `keys`
            (batch, source, attention_units), `query_kernel` (units, attention_units), `score_vector`
            (attention_units,) and `memory_mask`, (batch, source) booleans or None. The kernel then has features +
            memory_units rows.
        reverse: whether to run from the last step to the first; outputs keep the order of the inputs.
        keep_residuals: whether to keep what the backward pass needs; else a gradient runs the forward pass again.
        **attributes: `activation` ("tanh", "relu" or "linear") of SimpleRNN, `reset_after` of GRU.

    Returns:
        `(outputs, states)`, lists with one entry a direction: h of every step (batch, time, units), and the tuple of
        final states, each (batch, units); with `attention` also `attention_weights`, a list of (batch, time, source).

    Raises:
        RuntimeError: if the kernels cannot run in this process.
    """
    framework, reason = _load()
    if reason:
        raise RuntimeError(f"Native recurrences cannot run: {reason}.")
    names = STATES[cell]
    arguments = {
        "inputs": list(inputs),
        "kernel": list(kernel),
        "recurrent_kernel": list(recurrent_kernel),
        "bias": list(bias or ()),
        **_by_state("initial", names, initial_state),
        "mask": [] if mask is None else [mask],
        "recurrent_dropout_mask": list(recurrent_dropout_mask or ()),
        **_by_state("zoneout_mask", names, zoneout),
    }
    op = cell
    if attention is not None:
        op = ATTENTION_DECODER
        arguments.update({name: [] if tensor is None else [tensor] for name, tensor in attention.items()})
        attributes = {**_ATTRIBUTES[op], "cell": cell, **attributes}
    call = _Call(op, cell, tuple(bool(r) for r in reverse), bool(keep_residuals), tuple(sorted(attributes.items())))
    results = call.split(framework(call, {name: arguments.get(name, []) for name in call.counts()}))
    states = list(zip(*(results[f"final_{state}"] for state in names), strict=True))
    extra = () if attention is None else (list(results["attention_weights"]),)
    return list(results["outputs"]), states, *extra


def _by_state(prefix, names, values):
    """{"initial_h": [...], "initial_c": [...]} from a list, one a direction, of tuples, one a state."""
    values = list(zip(*values, strict=True)) if values else [()] * len(names)
    if len(values) != len(names):
        raise ValueError(f"Each direction must have {len(names)} state(s), {names}. Received: {len(values)}")
    return {
        f"{prefix}_{name}": [value for value in of_state if value is not None]
        for name, of_state in zip(names, values, strict=True)
    }


class _Call(NamedTuple):
    """What a call has beside tensors, and the lists of its op and of the op's gradient, in order.

    A dict names for each list the attribute that holds its length.
    """

    op: str
    cell: str
    reverse: tuple
    keep_residuals: bool
    attributes: tuple

    @property
    def attends(self):
        return self.op == ATTENTION_DECODER

    @property
    def states(self):
        """Those that the op has lists for; an op that attends has them for every cell."""
        return ("h", "c") if self.attends else STATES[self.cell]

    def counts(self):
        """The forward pass's arguments."""
        return {
            "inputs": "directions",
            **(dict.fromkeys(("memory", "keys", "query_kernel", "score_vector"), "directions") if self.attends else {}),
            **({"memory_mask": "memory_masks"} if self.attends else {}),
            "kernel": "directions",
            "recurrent_kernel": "directions",
            "bias": "biases",
            **{f"initial_{state}": self._of_state("initial_states", state) for state in self.states},
            "mask": "masks",
            "recurrent_dropout_mask": "recurrent_dropout_masks",
            **{f"zoneout_mask_{state}": f"zoneout_masks_{state}" for state in self.states},
        }

    def results(self):
        """The names of its results, lists with one entry a direction; the residuals come after them."""
        attention_weights = ["attention_weights"] if self.attends else []
        return ["outputs", *attention_weights, *(f"final_{state}" for state in STATES[self.cell])]

    def split(self, flat):
        """The results by name."""
        n = len(self.reverse)
        return {name: flat[i * n : (i + 1) * n] for i, name in enumerate(self.results())}

    def upstream_counts(self):
        """The gradients that arrive."""
        attention_weights = {"d_attention_weights": "upstream_attention_weights"} if self.attends else {}
        finals = {f"d_final_{state}": f"upstream_{state}" for state in self.states}
        return {"d_outputs": "upstream_outputs", **attention_weights, **finals}

    def wanted_counts(self):
        """For each argument that has a gradient the attribute that says how many of its list are wanted."""
        of_attention = {
            "memory": "wanted_memories",
            "keys": "wanted_keys",
            "query_kernel": "wanted_query_kernels",
            "score_vector": "wanted_score_vectors",
        }
        return {
            "inputs": "wanted_inputs",
            **(of_attention if self.attends else {}),
            "kernel": "wanted_kernels",
            "recurrent_kernel": "wanted_recurrent_kernels",
            "bias": "wanted_biases",
            **{f"initial_{state}": self._of_state("wanted_initial_states", state) for state in self.states},
        }

    def wanted(self, arguments, is_wanted):
        """The attributes of `wanted_counts`: a list is computed whole or not at all."""
        wanted = dict.fromkeys(self.wanted_counts().values(), 0)
        for name, attribute in self.wanted_counts().items():
            if is_wanted(name):
                wanted[attribute] = len(arguments[name])
        return wanted

    def gradients(self, arguments, wanted, flat):
        """A list for each argument: its gradients, or None in their place."""
        flat = iter(flat)
        found = {name: [next(flat) for _ in range(wanted[count])] for name, count in self.wanted_counts().items()}
        return {name: found.get(name) or [None] * len(tensors) for name, tensors in arguments.items()}

    def result_counts(self):
        """Lengths of lists that no argument tells."""
        return {"cells": len(self.reverse) * ("c" in STATES[self.cell])} if self.attends else {}

    def _of_state(self, name, state):
        return name.replace("states", "cells") if self.attends and state == "c" else name


# Finding and loading the library.

_lock = threading.Lock()
_loaded = None


def _load():
    """`(framework, reason)`: the function that `recur` calls, or why there is none. Decided once a process."""
    global _loaded
    with _lock:
        if _loaded is None:
            try:
                _loaded = (_find(), None)
            except _UnavailableError as error:
                _loaded = (None, str(error))
        return _loaded


def _find():
    kind = backend.backend()
    if kind not in ("tensorflow", "jax"):
        raise _UnavailableError(f"the native kernels need Keras's TensorFlow or JAX backend, and this is {kind}")
    build = _build()
    try:
        framework = _load_tensorflow(build) if kind == "tensorflow" else _load_jax()
    except _UnavailableError:
        raise
    except Exception as error:  # whatever keeps the library from loading, xla runs without it
        raise _UnavailableError(f"the native kernels do not load ({' '.join(str(error).split())})") from error
    return framework


def _build():
    """What was built, as the build wrote it down."""
    try:
        return json.loads((FOLDER / "build.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    notice = FOLDER / "not_built.txt"
    if notice.exists():
        raise _UnavailableError(f"the native kernels were not built; {notice} says why and how to get them")
    raise _UnavailableError(
        "the native kernels were not built; run `pip install -v -e .` in a checkout of keras_seq to build them"
    )


def _check_instruction_set(library):
    error = ctypes.c_char_p()
    library.KerasSeqInstructionSet.restype = ctypes.c_char_p
    if library.KerasSeqInstructionSet(ctypes.byref(error)) is None:
        raise _UnavailableError((error.value or b"no instruction set").decode())


# TensorFlow.


def _load_tensorflow(build):
    import tensorflow as tf

    built, running = build["tensorflow"], tf.__version__.replace("-", "")  # 2.21.0-rc0 is 2.21.0rc0 to pip
    if built is None:
        raise _UnavailableError(f"the native kernels were built for JAX only: {build['why_no_tensorflow']}")
    if built != running:
        # Before the library is opened: with another TensorFlow that may crash.
        raise _UnavailableError(
            f"the native kernels were built for TensorFlow {built}, and this is {running}; reinstall keras_seq"
        )
    if tf.config.get_visible_devices("GPU"):
        raise _UnavailableError("the native kernels run on a CPU, and TensorFlow sees a GPU")
    path = str(FOLDER / "libkeras_seq_tf.so")
    ops = tf.load_op_library(path)
    _check_instruction_set(ctypes.CDLL(path))
    for name in _ATTRIBUTES:
        tf.RegisterGradient(f"KerasSeq>{name}")(functools.partial(_tensorflow_gradient, ops, name))
        tf.RegisterGradient(f"KerasSeq>{name}Grad")(functools.partial(_no_second_order, name))
    return functools.partial(_run_tensorflow, ops)


def _tensorflow_op(ops, name, suffix=""):
    """The function of a loaded library that makes an op: `keras_seq_simple_rnn` of SimpleRNN."""
    snake_case = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return getattr(ops, f"keras_seq_{snake_case}{suffix}")


def _run_tensorflow(ops, call, arguments):
    import tensorflow as tf

    arguments = {name: [tf.convert_to_tensor(t) for t in tensors] for name, tensors in arguments.items()}
    results = _tensorflow_op(ops, call.op)(
        **arguments,
        **dict(call.attributes),
        **call.result_counts(),
        reverse=call.reverse,
        keep_residuals=call.keep_residuals,
        R=tf.float64 if arguments["inputs"][0].dtype == tf.float64 else tf.float32,
    )
    return [tensor for of_name in results[:-1] for tensor in of_name]


def _tensorflow_gradient(ops, name, op, *upstream):
    attributes = {attribute: _text(op.get_attr(attribute)) for attribute in _ATTRIBUTES[name]}
    reverse = op.get_attr("reverse")
    call = _Call(name, attributes.get("cell", name), tuple(reverse), op.get_attr("keep_residuals"), ())
    skipped = inputs_without_gradient(op)
    first, arguments, needed = 0, {}, set()
    for argument, count in call.counts().items():
        indices = range(first, first := first + op.get_attr(count))
        arguments[argument] = [op.inputs[i] for i in indices]
        if not all(i in skipped for i in indices):
            needed.add(argument)
    wanted = call.wanted(arguments, needed.__contains__)
    if not any(wanted.values()):
        return [None] * len(op.inputs)
    outputs, arriving = call.split(op.outputs), dict.fromkeys(call.upstream_counts(), ())
    for result, of_result in call.split(upstream).items():
        arriving[f"d_{result}"] = [] if all(_is_zero(d) for d in of_result) else list(of_result)
    results = _tensorflow_op(ops, name, "_grad")(
        **arguments,
        **{result: outputs[result] for result in ("outputs", "attention_weights") if result in outputs},
        residuals=op.outputs[-len(reverse) :],
        **arriving,
        **wanted,
        **attributes,
        reverse=reverse,
        keep_residuals=call.keep_residuals,
    )
    gradients = call.gradients(arguments, wanted, [tensor for tensors in results for tensor in tensors])
    return [gradient for of_argument in gradients.values() for gradient in of_argument]


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


def _is_zero(tensor):
    """Whether a gradient in a graph is one that TensorFlow filled in, because nothing depends on the result."""
    import tensorflow as tf

    if tensor is None:
        return True
    if not tf.is_symbolic_tensor(tensor):
        return False
    kind = tensor.op.type
    if kind == "ZerosLike":
        return True
    value = tf.get_static_value(tensor.op.inputs[1] if kind == "Fill" else tensor) if kind in ("Fill", "Const") else 1
    return value is not None and not np.any(value)


def _no_second_order(name, op, *upstream):
    raise NotImplementedError(SECOND_ORDER.format(op=name))


# JAX.


def _load_jax():
    import jax

    if jax.default_backend() != "cpu":
        raise _UnavailableError(f"the native kernels run on a CPU, and JAX runs on {jax.default_backend()}")
    library = ctypes.CDLL(str(FOLDER / "libkeras_seq_xla.so"))
    _check_instruction_set(library)
    for op in _ATTRIBUTES:
        for name in (f"KerasSeq{op}", f"KerasSeq{op}Grad"):
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    size = library.KerasSeqResidualSize
    size.restype = ctypes.c_int64
    size.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_bool] + [ctypes.c_int64] * 7

    def residual_size(call, dtype, sizes):
        options = {"activation": "tanh", "reset_after": True, **dict(call.attributes)}
        names = (name.encode() for name in (call.cell, dtype.name, options["activation"]))
        return size(*names, options["reset_after"], *sizes)

    return functools.partial(_run_jax, residual_size)


def _run_jax(residual_size, call, arguments):
    import jax.numpy as jnp

    arguments = {name: [jnp.asarray(t) for t in tensors] for name, tensors in arguments.items()}
    for name, rank in {"inputs": 3, "recurrent_kernel": 2, "memory": 3, "keys": 3}.items():
        for tensor in arguments.get(name, ()):  # the sizes of the results are theirs; the handler checks all else
            if tensor.ndim != rank:
                raise ValueError(f"`{name}` must have {rank} axes. Received: an array of shape {tensor.shape}")
    return _differentiable(residual_size, call)(arguments)


@functools.cache
def _differentiable(residual_size, call):
    """The function of arguments that JAX differentiates; one a call, for JAX caches by identity."""
    import jax
    import jax.numpy as jnp

    # With a derivative that raises: JAX would ask these calls, not `run`, for any second-order gradient.
    @functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
    def invoke(target, results, attributes, *operands):
        return jax.ffi.ffi_call(target, results, vmap_method="sequential")(*operands, **dict(attributes))

    @invoke.defjvp
    def second_order(*_):
        raise NotImplementedError(SECOND_ORDER.format(op=call.op))

    def invoke_op(call, suffix, results, operands, **counts):
        kept = ["outputs", *(["attention_weights"] if call.attends else []), "residuals"]
        names = [*call.counts(), *kept, *call.upstream_counts()]  # JAX sorts dicts
        flat = [tensor for name in names for tensor in operands.get(name, ())]
        counts.update({count: len(operands[name]) for name, count in call.counts().items()})
        counts["reverse"] = sum(int(r) << direction for direction, r in enumerate(call.reverse))
        attributes = {name: np.int64(count) for name, count in counts.items()}
        attributes.update(call.attributes, keep_residuals=call.keep_residuals)
        return invoke(f"KerasSeq{call.op}{suffix}", tuple(results), tuple(attributes.items()), *flat)

    def forward(call, arguments):
        (batch, time, features), units = arguments["inputs"][0].shape, arguments["recurrent_kernel"][0].shape[0]
        dtype, sizes = arguments["inputs"][0].dtype, (batch, time, features, units, -1, -1, -1)
        if call.attends:
            _, source, memory_units = arguments["memory"][0].shape
            sizes = (*sizes[:4], source, memory_units, arguments["keys"][0].shape[-1])
        size = residual_size(call, dtype, sizes) if call.keep_residuals else 0
        if size < 0:
            raise ValueError(f"There is no native {call.op} of {dtype} and sizes {sizes}")
        shapes = {"outputs": (batch, time, units), "attention_weights": (batch, time, sizes[4])}
        results = [
            *[jax.ShapeDtypeStruct(shapes.get(name, (batch, units)), dtype) for name in call.results()],
            jax.ShapeDtypeStruct((size,), jnp.float64 if dtype == jnp.float64 else jnp.float32),
        ]
        n = len(call.reverse)
        return invoke_op(call, "", [r for r in results for _ in range(n)], arguments, **call.result_counts())

    def backward(wanted, arguments, arriving, results):
        shapes = [
            jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)
            for name, attribute in call.wanted_counts().items()
            for tensor in arguments[name][: wanted[attribute]]
        ]
        n = len(call.reverse)
        operands = {**arguments, **call.split(results), "residuals": results[-n:], **arriving}
        upstream = {attribute: len(arriving[name]) for name, attribute in call.upstream_counts().items()}
        return invoke_op(call, "Grad", shapes, operands, **upstream, **wanted)

    @jax.custom_vjp
    def run(arguments):
        return forward(call._replace(keep_residuals=False), arguments)[
            : -len(call.reverse)
        ]  # nothing is differentiated

    def run_forward(primals):
        arguments = jax.tree.map(lambda p: p.value, primals)
        # Whether a gradient is wanted must be known to Python, so it is told by a structure, not by a value.
        needed = {name: () if any(p.perturbed for p in of_name) else None for name, of_name in primals.items()}
        results = forward(call, arguments)
        return results[: -len(call.reverse)], (arguments, results, needed)

    def run_backward(kept, upstream):
        arguments, results, needed = kept
        wanted = call.wanted(arguments, lambda name: needed[name] is not None)
        if not any(wanted.values()):
            return (dict.fromkeys(arguments),)
        arriving = dict.fromkeys(call.upstream_counts(), ())
        for name, of_name in call.split(upstream).items():
            zero = [isinstance(d, jax.custom_derivatives.SymbolicZero) for d in of_name]
            dense = [jnp.zeros(d.shape, d.dtype) if z else d for z, d in zip(zero, of_name, strict=True)]
            arriving[f"d_{name}"] = [] if all(zero) else dense
        flat = backward(wanted, arguments, arriving, results)
        return (call.gradients(arguments, wanted, flat),)

    run.defvjp(run_forward, run_backward, symbolic_zeros=True)
    return run

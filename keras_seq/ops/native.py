# SPDX-License-Identifier: Apache-2.0
"""Implementation "native": the kernels of `custom_ops/` on a CPU, through TensorFlow ops or, with JAX, XLA's FFI.

The library is loaded at the first use, never at import. This file knows the two frameworks; the kernels know neither.
"""

import ctypes
import functools
import json
import pathlib
import threading
from typing import NamedTuple

import numpy as np
from keras import backend

FOLDER = pathlib.Path(__file__).parents[1] / "_native"
STATES = {"SimpleRNN": ("h",), "GRU": ("h",), "LSTM": ("h", "c")}
SECOND_ORDER = 'The native {cell} has no second-order gradient. Use implementation="xla" for it.'


class _UnavailableError(Exception):
    """Why the native kernels cannot run in this process."""


def unavailable():
    """Say why the native kernels cannot run in this process.

    Returns:
        A reason in one line, or None where they can. The first call loads the library.
    """
    return _load()[1]


def recur(
    cell,
    inputs,
    kernel,
    recurrent_kernel,
    bias=None,
    *,
    initial_state=None,
    mask=None,
    recurrent_dropout=None,
    zoneout=None,
    reverse,
    keep_residuals,
    **attributes,
):
    """Run one or two recurrences of one shape side by side; differentiable once.

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
        recurrent_dropout: (batch, units) or (batch, time, units), multiplies the previous h in every recurrent
            product; or None for all.
        zoneout: tuple, one a state, of None or a multiplier m shaped as `recurrent_dropout`: a state becomes
            `m * previous + (1 - m) * new`; or None for all.
        reverse: whether to run from the last step to the first; outputs keep the order of the inputs.
        keep_residuals: whether to keep what the backward pass needs; else a gradient runs the forward pass again.
        **attributes: `activation` ("tanh", "relu" or "linear") of SimpleRNN, `reset_after` of GRU.

    Returns:
        `(outputs, states)`, lists with one entry a direction: h of every step (batch, time, units), and the tuple of
        final states, each (batch, units).

    Raises:
        RuntimeError: if the kernels cannot run in this process.
    """
    framework, reason = _load()
    if reason:
        raise RuntimeError(f"The native kernels cannot run: {reason}.")
    names = STATES[cell]
    arguments = {
        "inputs": list(inputs),
        "kernel": list(kernel),
        "recurrent_kernel": list(recurrent_kernel),
        "bias": list(bias or ()),
        **_by_state("initial", names, initial_state),
        "mask": [] if mask is None else [mask],
        "recurrent_dropout": list(recurrent_dropout or ()),
        **_by_state("zoneout", names, zoneout),
    }
    call = _Call(cell, tuple(bool(r) for r in reverse), bool(keep_residuals), tuple(sorted(attributes.items())))
    outputs, *final = framework(call, arguments)
    return list(outputs), list(zip(*final, strict=True))


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
    """What a call has beside tensors."""

    cell: str
    reverse: tuple
    keep_residuals: bool
    attributes: tuple

    @property
    def states(self):
        return STATES[self.cell]


# The lists of the op and of its gradient, in order, by the attribute that holds their length.


def _counts(states):
    """The forward pass's arguments, and the attributes that hold the lengths of their lists."""
    return {
        **dict.fromkeys(("inputs", "kernel", "recurrent_kernel"), "directions"),
        "bias": "biases",
        **{f"initial_{state}": "initial_states" for state in states},
        "mask": "masks",
        "recurrent_dropout": "recurrent_dropouts",
        **{f"zoneout_{state}": f"zoneouts_{state}" for state in states},
    }


def _upstream_counts(states):
    """The same for the gradients that arrive."""
    return {"d_outputs": "upstream_outputs", **{f"d_final_{state}": f"upstream_{state}" for state in states}}


def _wanted_counts(states):
    """For each argument that has a gradient the attribute that says how many of its list are wanted."""
    return {
        "inputs": "wanted_inputs",
        "kernel": "wanted_kernels",
        "recurrent_kernel": "wanted_recurrent_kernels",
        "bias": "wanted_biases",
        **{f"initial_{state}": "wanted_initial_states" for state in states},
    }


def _wanted(arguments, states, is_wanted):
    """The attributes of `_wanted_counts`: a list is computed whole or not at all."""
    wanted = dict.fromkeys(_wanted_counts(states).values(), 0)
    for name, attribute in _wanted_counts(states).items():
        if is_wanted(name):
            wanted[attribute] = len(arguments[name])
    return wanted


def _gradients(arguments, states, wanted, flat):
    """A list for each argument: its gradients, or None in their place."""
    flat = iter(flat)
    counts = _wanted_counts(states)
    gradients = {name: [next(flat) for _ in range(wanted[attribute])] for name, attribute in counts.items()}
    return {name: gradients.get(name) or [None] * len(tensors) for name, tensors in arguments.items()}


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
        raise _UnavailableError(f"they need Keras's TensorFlow or JAX backend, and this is {kind}")
    build = _build()
    try:
        framework = _load_tensorflow(build) if kind == "tensorflow" else _load_jax()
    except _UnavailableError:
        raise
    except Exception as error:  # whatever keeps the library from loading, xla runs without it
        raise _UnavailableError(f"the library does not load ({' '.join(str(error).split())})") from error
    return framework


def _build():
    """What was built, as the build wrote it down."""
    try:
        return json.loads((FOLDER / "build.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    notice = FOLDER / "not_built.txt"
    if notice.exists():
        raise _UnavailableError(f"they were not built; {notice} says why and how to get them")
    raise _UnavailableError("they were not built; `pip install -v -e .` in a checkout of keras_seq builds them")


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
        raise _UnavailableError(f"they were built for JAX only: {build['why_no_tensorflow']}")
    if built != running:
        # Before the library is opened: with another TensorFlow that may crash.
        raise _UnavailableError(f"they were built for TensorFlow {built} and this is {running}; reinstall keras_seq")
    if tf.config.get_visible_devices("GPU"):
        raise _UnavailableError("TensorFlow sees a GPU, and they run on a CPU")
    path = str(FOLDER / "libkeras_seq_tf.so")
    ops = tf.load_op_library(path)
    _check_instruction_set(ctypes.CDLL(path))
    for cell in STATES:
        tf.RegisterGradient(f"KerasSeq>{cell}")(functools.partial(_tensorflow_gradient, ops, cell))
        tf.RegisterGradient(f"KerasSeq>{cell}Grad")(functools.partial(_no_second_order, cell))
    return functools.partial(_run_tensorflow, ops)


_SNAKE_CASE = {"SimpleRNN": "simple_rnn", "GRU": "gru", "LSTM": "lstm"}


def _run_tensorflow(ops, call, arguments):
    import tensorflow as tf

    arguments = {name: [tf.convert_to_tensor(t) for t in tensors] for name, tensors in arguments.items()}
    *results, _ = getattr(ops, f"keras_seq_{_SNAKE_CASE[call.cell]}")(
        **arguments,
        **dict(call.attributes),
        reverse=call.reverse,
        keep_residuals=call.keep_residuals,
        R=tf.float64 if arguments["inputs"][0].dtype == tf.float64 else tf.float32,
    )
    return results


def _tensorflow_gradient(ops, cell, op, *upstream):
    states = STATES[cell]
    attributes = {"SimpleRNN": ["activation"], "GRU": ["reset_after"], "LSTM": []}[cell]
    attributes = {name: op.get_attr(name) for name in ["reverse", "keep_residuals", *attributes]}
    if "activation" in attributes:
        attributes["activation"] = _text(attributes["activation"])
    directions = len(attributes["reverse"])
    # A tape says which gradients nobody asked for; tf.gradients does not.
    skipped = getattr(op, "skip_input_indices", None) or ()
    first, arguments, needed = 0, {}, set()
    for name, count in _counts(states).items():
        indices = range(first, first := first + op.get_attr(count))
        arguments[name] = [op.inputs[i] for i in indices]
        if not all(i in skipped for i in indices):
            needed.add(name)
    wanted = _wanted(arguments, states, needed.__contains__)
    if not any(wanted.values()):
        return [None] * len(op.inputs)
    arriving = {}
    for i, name in enumerate(_upstream_counts(states)):
        of_name = upstream[i * directions : (i + 1) * directions]
        arriving[name] = [] if all(_is_zero(d) for d in of_name) else list(of_name)
    results = getattr(ops, f"keras_seq_{_SNAKE_CASE[cell]}_grad")(
        **arguments,
        outputs=op.outputs[:directions],
        residuals=op.outputs[-directions:],
        **arriving,
        **wanted,
        **attributes,
    )
    gradients = _gradients(arguments, states, wanted, [tensor for tensors in results for tensor in tensors])
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


def _no_second_order(cell, op, *upstream):
    raise NotImplementedError(SECOND_ORDER.format(cell=cell))


# JAX.


def _load_jax():
    import jax

    if jax.default_backend() != "cpu":
        raise _UnavailableError(f"JAX runs on {jax.default_backend()}, and they run on a CPU")
    library = ctypes.CDLL(str(FOLDER / "libkeras_seq_xla.so"))
    _check_instruction_set(library)
    for cell in STATES:
        for name in (f"KerasSeq{cell}", f"KerasSeq{cell}Grad"):
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    size = library.KerasSeqResidualSize
    size.restype = ctypes.c_int64
    size.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_bool] + [ctypes.c_int64] * 4

    def residual_size(call, dtype, sizes):
        options = {"activation": "tanh", "reset_after": True, **dict(call.attributes)}
        names = (name.encode() for name in (call.cell, dtype.name, options["activation"]))
        return size(*names, options["reset_after"], *sizes)

    return functools.partial(_run_jax, residual_size)


def _run_jax(residual_size, call, arguments):
    import jax.numpy as jnp

    arguments = {name: [jnp.asarray(t) for t in tensors] for name, tensors in arguments.items()}
    for name, rank in {"inputs": 3, "recurrent_kernel": 2}.items():
        for tensor in arguments[name]:  # the sizes of the results are theirs; the handler checks all else
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
        raise NotImplementedError(SECOND_ORDER.format(cell=call.cell))

    def invoke_op(call, suffix, results, operands, **counts):
        names = [*_counts(call.states), "outputs", "residuals", *_upstream_counts(call.states)]  # JAX sorts dicts
        flat = [tensor for name in names for tensor in operands.get(name, ())]
        counts.update({count: len(operands[name]) for name, count in _counts(call.states).items()})
        counts["reverse"] = sum(int(r) << direction for direction, r in enumerate(call.reverse))
        attributes = {name: np.int64(count) for name, count in counts.items()}
        attributes.update(call.attributes, keep_residuals=call.keep_residuals)
        return invoke(f"KerasSeq{call.cell}{suffix}", tuple(results), tuple(attributes.items()), *flat)

    def forward(call, arguments):
        (batch, time, features), units = arguments["inputs"][0].shape, arguments["recurrent_kernel"][0].shape[0]
        dtype = arguments["inputs"][0].dtype
        size = residual_size(call, dtype, (batch, time, features, units)) if call.keep_residuals else 0
        if size < 0:
            raise ValueError(f"There is no native {call.cell} of {dtype} and sizes {(batch, time, features, units)}")
        results = [
            jax.ShapeDtypeStruct((batch, time, units), dtype),
            *[jax.ShapeDtypeStruct((batch, units), dtype)] * len(call.states),
            jax.ShapeDtypeStruct((size,), jnp.float64 if dtype == jnp.float64 else jnp.float32),
        ]
        n = len(call.reverse)
        flat = invoke_op(call, "", [r for r in results for _ in range(n)], arguments)
        *results, residuals = (flat[i * n : (i + 1) * n] for i in range(len(results)))
        return results, residuals

    def backward(wanted, arguments, arriving, outputs, residuals):
        shapes = [
            jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)
            for name, attribute in _wanted_counts(call.states).items()
            for tensor in arguments[name][: wanted[attribute]]
        ]
        operands = {**arguments, "outputs": outputs, "residuals": residuals, **arriving}
        upstream = {attribute: len(arriving[name]) for name, attribute in _upstream_counts(call.states).items()}
        return invoke_op(call, "Grad", shapes, operands, **upstream, **wanted)

    @jax.custom_vjp
    def run(arguments):
        return forward(call._replace(keep_residuals=False), arguments)[0]  # nothing is differentiated here

    def run_forward(primals):
        arguments = jax.tree.map(lambda p: p.value, primals)
        # Whether a gradient is wanted must be known to Python, so it is told by a structure, not by a value.
        needed = {name: () if any(p.perturbed for p in of_name) else None for name, of_name in primals.items()}
        results, residuals = forward(call, arguments)
        return results, (arguments, results[0], residuals, needed)

    def run_backward(kept, upstream):
        arguments, outputs, residuals, needed = kept
        wanted = _wanted(arguments, call.states, lambda name: needed[name] is not None)
        if not any(wanted.values()):
            return (dict.fromkeys(arguments),)
        arriving = {}
        for name, of_name in zip(_upstream_counts(call.states), upstream, strict=True):
            zero = [isinstance(d, jax.custom_derivatives.SymbolicZero) for d in of_name]
            dense = [jnp.zeros(d.shape, d.dtype) if z else d for z, d in zip(zero, of_name, strict=True)]
            arriving[name] = [] if all(zero) else dense
        flat = backward(wanted, arguments, arriving, outputs, residuals)
        return (_gradients(arguments, call.states, wanted, flat),)

    run.defvjp(run_forward, run_backward, symbolic_zeros=True)
    return run

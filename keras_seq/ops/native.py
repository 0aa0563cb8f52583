# SPDX-License-Identifier: Apache-2.0
"""Implementation "native": runs the kernels of `custom_ops/` on a CPU, on TensorFlow or JAX.

The ops are registered with TensorFlow at import; all else waits for the first use. `native_tensorflow.py` and
`native_jax.py` call the ops.

Python handles a signal such as Ctrl+C only when a call returns, after all steps.
"""

import contextlib
import json
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

from keras import backend, ops

from keras_seq.ops.equations.protocol import Tensor
from keras_seq.ops.native_installation import how_to_rebuild
from keras_seq.ops.native_library import UnavailableError, op_call
from keras_seq.ops.recurrent_call import RecurrentCall

FOLDER = pathlib.Path(__file__).parents[1] / "_native"
_TENSORS = ("inputs", "kernel", "recurrent_kernel", "bias", "recurrent_dropout_mask")
_TENSORS_OF_STATES = {"initial_state": "initial_", "zoneout_masks": "zoneout_mask_"}  # fields, and names for the op
_PRODUCT_DTYPES = ("float32", "float64")
_MASK_DTYPES = ("float16", "bfloat16", "float32", "float64")
_lock = threading.Lock()
_loaded = None


def unavailable(kind: str | None = None) -> str | None:
    """Say why the native kernels, or those of one kind of cell, cannot run in this process.

    The first call loads the library.

    Args:
        kind: the name of an op, such as "LSTM", or None for any.

    Returns:
        None if they can run. Otherwise a reason on one line that can follow a colon or "but", such as "the native
        kernels were not built; ...".
    """
    library, reason = _load()
    if reason is None and kind is not None and kind not in library.ops:
        return f"the native kernels were built without {kind}; {how_to_rebuild()}"
    return reason


def register_ops() -> None:
    """Register the ops with TensorFlow, if they can be, so that it loads SavedModels that contain them.

    This decides nothing: whether layers use the ops is found out at the first use, and depends on the devices then.
    """
    if backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    from keras_seq.ops.native_tensorflow import library_path

    with contextlib.suppress(UnavailableError, OSError, tf.errors.OpError):  # `load_native_ops` gives the reason
        tf.load_op_library(library_path(FOLDER, _read_build()))


def load_native_ops() -> None:
    """Loads the native ops, or raises an error that says why they cannot run.

    A SavedModel that was written with `keras_seq.export(..., native=True)` loads after `import keras_seq`. Where
    `tf.saved_model.load` does not find the operations nevertheless, this function tells the reason.

    Raises:
        RuntimeError: if the native kernels cannot run in this process.

    Example:
        >>> import keras_seq
        >>> if keras_seq.ops.native.unavailable() is None:
        ...     keras_seq.load_native_ops()
    """
    if unavailable() is not None:
        raise RuntimeError(f"The native ops cannot run: {unavailable()}.")


def run(
    calls: Sequence[RecurrentCall],
    *,
    mask: Tensor | None = None,
    recompute: bool = False,
    attention: dict[str, Tensor | None] | None = None,
    attention_attributes: dict | None = None,
) -> list[tuple]:
    """Run 1 to 32 recurrences side by side, or one that attends. The results are differentiable once.

    Args:
        calls: list of `RecurrentCall`, one for each direction. Their equations, shapes and absent arguments are the
            same, and there is a native kernel for them. The inputs decide the dtype of all tensors but `mask`:
            float32, float64 or bfloat16. No gradient reaches the masks.
        mask: (batch, time) booleans for all calls, True = keep; or None.
        recompute: whether a gradient runs the forward pass again instead of keeping its residuals.
        attention: None, or a dict for a single call that attends: `memory` (batch, source, memory_units), `keys`
            (batch, source, attention_units), `memory_mask` (batch, source) booleans or None, `query_kernel` (units,
            attention_units) and `score_vector` (attention_units,). The kernel then has features + memory_units rows.
            With the dot score there are no query kernel and no score vector, and attention_units are units. Coverage
            needs `coverage_kernel` (attention_units,) and `initial_coverage` (batch, source); monotonic attention
            `energy_bias` (batch, time, source) and `initial_weights` (batch, source); attention after the cell
            `initial_fed` (batch, fed_units), which is what the first step reads beside its inputs, and, unless steps
            feed contexts, `attentional_kernel` (units + memory_units, fed_units).
        attention_attributes: None, or a dict with the attributes of the op that choose the attention: `score`,
            "additive" or "dot"; `attend`, "before" or "after"; `attentional_activation`, "tanh" or "linear";
            `weighting`, "softmax", "monotonic" or "hard".

    Returns:
        A list with `(outputs, state)` for each call: h of all steps (batch, time, units), and the tuple of final
        states, each (batch, units). With `attention` it is `(outputs, state, attention_weights, fed, attention_state)`:
        the weights are (batch, time, source); `fed` is what each step feeds to the next (batch, time, fed_units), or
        None before the cell; and the attention state is the tuple of the last `fed`, and of the final coverage or, of
        monotonic attention, the last attention weights, if there are such.

    Raises:
        RuntimeError: if the kernels cannot run in this process.
    """
    library, reason = _load()
    if reason:
        raise RuntimeError(f"Native recurrences cannot run: {reason}.")
    cell, attributes = calls[0].equations.native_kernel()
    op = library.ops[cell if attention is None else "AttentionDecoder"]
    reverse = tuple(bool(call.reverse) for call in calls)
    attributes = {**attributes, **(attention_attributes or {})}
    has_coverage = attention is not None and attention.get("coverage_kernel") is not None
    call = op_call(op, cell, reverse, not recompute, tuple(attributes.items()), has_coverage)
    results = library.run_op(call, _arguments_of(calls, call.states, mask, attention))
    states = zip(*(results[f"final_{state}"] for state in call.states), strict=True)
    if attention is None:
        return list(zip(results["outputs"], states, strict=True))
    attention_state = *results["final_fed"], *results["final_coverage"], *results["final_weights"]
    [outputs], [state], [weights] = results["outputs"], states, results["attention_weights"]
    return [(outputs, state, weights, results["fed"][0] if results["fed"] else None, attention_state)]


def multiply(
    inputs: Tensor,  # (rows, depth)
    kernel: Tensor,  # (depth, columns), of the same dtype
    *,
    keep_product: bool = False,
) -> Tensor:  # (rows, columns)
    """Multiply matrices, of which the kernel is a weight. Without a gradient.

    On TensorFlow the op keeps the packed kernel from one call to the next, as long as the weight does not change: (8,
    512) times (512, 1024) took 40 instead of 140 microseconds.

    Args:
        inputs, kernel: the operands, float32 or float64; others are multiplied by Keras.
        keep_product: whether to keep the product too, for the next call with the same operands.
    """
    library, reason = _load()
    if reason or not hasattr(library, "multiply") or backend.standardize_dtype(inputs.dtype) not in _PRODUCT_DTYPES:
        return ops.matmul(inputs, kernel)
    return library.multiply(inputs, kernel, keep_product)


def draws_masks(dtype: str, multiply: bool = False) -> bool:
    """Whether `draw_mask`, or with `multiply` `drop`, can run in this process for a dtype."""
    library, reason = _load()
    dtypes = _PRODUCT_DTYPES if multiply else _MASK_DTYPES
    return reason is None and hasattr(library, "draw_mask") and dtype in dtypes


def draw_mask(
    shape: tuple,  # numbers and scalar tensors
    seed: Tensor,  # (2,) integers
    threshold: int,
    values: tuple[float, float],
    dtype: str,
) -> Tensor:
    """Draw a mask: `values[0]` where 16 random bits are less than `threshold`, `values[1]` elsewhere.

    The bits are those that `tf.random.stateless_uniform` draws with this seed and `alg="philox"`. One op writes the
    mask in one pass, where TensorFlow's ops take seven.
    """
    return _load()[0].draw_mask(shape, seed, threshold, values, dtype)


def drop(x: Tensor, seed: Tensor, threshold: int, values: tuple[float, float]) -> Tensor:
    """Multiply a tensor by the mask of `draw_mask`. The op does not keep the mask; its gradient draws it again."""
    return _load()[0].drop(x, seed, threshold, values)


def crossentropy(
    logits: Tensor,  # (rows, vocabulary), float32 or float64
    targets: Tensor,  # (rows,), int32
    weights: Tensor,  # (rows,), of the dtype of the logits
    label_smoothing: float,
    with_gradient: bool,
) -> tuple[Tensor, ...] | None:
    """Compute the cross-entropies of logits in one pass over them. Without a gradient of its own.

    Args:
        logits: may be overwritten by their gradient.
        targets: less than the size of the vocabulary, else TensorFlow raises an error. Rows with a negative one do not
            count: their logits are not read, and their prediction is -1.
        weights: factors of the gradient.
        label_smoothing: see `readout_crossentropy`.
        with_gradient: whether to compute the gradient of the logits.

    Returns:
        None where there are no kernels for it. Else `(losses, smooth_losses, predictions, d_logits)`: the losses of
        each row without label smoothing and with it, the largest logits, and the gradient of the sum of `weights *
        smooth_losses`, or an empty tensor.
    """
    library, reason = _load()
    if reason or not hasattr(library, "crossentropy"):
        return None
    return library.crossentropy(logits, targets, weights, label_smoothing, with_gradient)


def _arguments_of(
    calls: Sequence[RecurrentCall], states: tuple[str, ...], mask: Tensor | None, attention: dict | None
) -> dict[str, Sequence[Tensor]]:
    """Return the arguments of an op, a list of tensors for each name. Absent ones are left out."""
    first = calls[0]
    arguments = {name: [getattr(c, name) for c in calls] for name in _TENSORS if getattr(first, name) is not None}
    for field, prefix in _TENSORS_OF_STATES.items():
        if getattr(first, field) is None:
            continue
        by_call = [getattr(call, field) for call in calls]
        if any(len(of_call) != len(states) for of_call in by_call):
            raise ValueError(f"`{field}` must have {len(states)} state(s), {states}. Received: {len(by_call[0])}")
        for state, tensors in zip(states, zip(*by_call, strict=True), strict=True):
            if tensors[0] is not None:
                arguments[prefix + state] = tensors
    for name in first.extra_weights or {}:
        arguments[name] = [call.extra_weights[name] for call in calls]
    single = {"mask": mask, **(attention or {})}
    arguments.update({name: [tensor] for name, tensor in single.items() if tensor is not None})
    return arguments


def _load() -> tuple[Any, str | None]:
    """Return `(library, None)`, or `(None, reason)` if the kernels cannot run. Decided once in a process."""
    global _loaded
    with _lock:
        if _loaded is None:
            try:
                _loaded = (_load_library(), None)
            except UnavailableError as error:
                _loaded = (None, str(error))
        return _loaded


def _load_library() -> Any:
    name = backend.backend()
    if name not in ("tensorflow", "jax"):
        raise UnavailableError(f"the native kernels need Keras's TensorFlow or JAX backend, and this is {name}")
    try:
        if name == "tensorflow":
            from keras_seq.ops.native_tensorflow import TensorFlowLibrary, check_tensorflow

            check_tensorflow()
            return TensorFlowLibrary(FOLDER, _read_build())
        from keras_seq.ops.native_jax import JaxLibrary

        _read_build()
        return JaxLibrary(FOLDER)
    except UnavailableError:
        raise
    except Exception as error:  # whatever the cause, implementation "xla" still works
        reason = " ".join(str(error).split())
        raise UnavailableError(f"the native kernels do not load ({reason}); {how_to_rebuild()}") from error


def _read_build() -> dict:
    """Read what the build wrote about itself: the version of TensorFlow, or why it was built without TensorFlow."""
    try:
        return json.loads((FOLDER / "build.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    notice = FOLDER / "not_built.txt"
    if notice.exists():
        raise UnavailableError(f"the native kernels were not built; {notice} says why; {how_to_rebuild()}")
    raise UnavailableError(f"the native kernels were not built; {how_to_rebuild()}")

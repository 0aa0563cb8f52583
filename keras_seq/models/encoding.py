# SPDX-License-Identifier: Apache-2.0
"""The contract between an encoder and `Seq2Seq`: what any Keras layer or model must return to serve as an encoder."""

import inspect
import math
from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_seq._private_api import get_mask
from keras_seq.ops.masks import shapes_match, zero_masked_positions

_FORMS = (
    "The encoder must return a memory (batch, positions, features); or a tuple `(memory, *states)`; or a dict with "
    '"memory" and optionally "mask" and "states".'
)
_KEYS = {"memory", "mask", "states"}


class Encoding(NamedTuple):
    """What a decoder reads of a batch of sources."""

    memory: Any  # (batch, positions, features)
    mask: Any  # booleans (batch, positions), True = keep, or None if all positions count
    summary: Any  # (batch, state features)


def encode(encoder, source, training=False, features=None):
    """Runs an encoder, any Keras layer or model, on a batch of sources.

    The encoder returns one of

    - the memory, which attention reads: (batch, positions, features). The axes of a feature map (batch, height, width,
      features), or of more dimensions, are flattened to positions.
    - a tuple `(memory, *states)`, as a recurrent layer with `return_sequences=True` and `return_state=True` does.
      States are (batch, features).
    - a dict with "memory" and optionally "mask" and "states", a tensor or nested tensors.

    The mask tells which positions count: booleans (batch, positions), or (batch, height, width). It is that of the
    dict, else the Keras mask that the memory carries, as after an `Embedding` with `mask_zero=True`; else all positions
    count. The summary, from which the decoder computes its initial state, concatenates the states. Without states it is
    the mean of the memory over the positions that count.

    Args:
        encoder: a Keras layer or model.
        source: what the encoder takes: a tensor or nested tensors, also `keras.KerasTensor`s.
        training: whether the encoder runs in training mode. It is passed if the encoder's `call` takes it.
        features: tensor (batch, n) of conditioning features, or None. It is passed if `features` is an argument of the
            encoder's `call` after the source.

    Returns:
        An `Encoding`.

    Raises:
        ValueError: if the encoder returns anything else.

    Example:
        >>> import keras, numpy as np
        >>> encoder = keras.layers.Conv2D(16, 3, strides=2)
        >>> encoding = encode(encoder, np.ones((2, 9, 9, 1), "float32"))
        >>> encoding.memory.shape, encoding.summary.shape
        (TensorShape([2, 16, 16]), TensorShape([2, 16]))
    """
    parameters = list(inspect.signature(encoder.call).parameters)
    options = {"training": training} if "training" in parameters else {}
    if features is not None and "features" in parameters[1:]:
        options["features"] = features
    memory, mask, states = _parts(encoder(source, **options))
    memory, mask = _positions(memory, get_mask(memory) if mask is None else mask)
    if states:
        summary = ops.concatenate([ops.cast(state, memory.dtype) for state in _check_states(states, memory)], axis=-1)
    else:
        summary = _mean_over_positions(memory, mask)
    return Encoding(memory, mask, summary)


def _parts(outputs):
    """Returns the memory, the mask or None, and the list of states that an encoder returned."""
    mask = None
    if isinstance(outputs, dict):
        if "memory" not in outputs or not outputs.keys() <= _KEYS:
            raise ValueError(f"{_FORMS} Received: a dict with the keys {sorted(map(str, outputs))}")
        memory, mask, states = (outputs.get(key) for key in ("memory", "mask", "states"))
    elif isinstance(outputs, (tuple, list)):
        memory, *states = outputs or [None]
    else:
        memory, states = outputs, []
    states = tree.flatten([] if states is None else states)
    for name, part in (("memory", memory), *(("state", state) for state in states)):
        if not _is_tensor(part):
            raise ValueError(f"{_FORMS} Received: {part!r} as {name}")
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(part.dtype)):
            raise ValueError(
                f"{_FORMS} Each of them must be of a float dtype. Received: a {name} of dtype {part.dtype}"
            )
    return memory, mask, states


def _is_tensor(value):
    return isinstance(value, keras.KerasTensor) or ops.is_tensor(value)


def _positions(memory, mask):
    """Returns memory and mask with one axis of positions."""
    shape = tuple(memory.shape)
    if len(shape) < 3 or not shape[-1]:
        hint = ""
        if len(shape) == 2:
            hint = ". To make one vector a memory of one position, return `x[:, None]`"
        elif shape:
            hint = ", in which the number of features must be known, and at least 1" if not shape[-1] else ""
        raise ValueError(f"{_FORMS} Received: a memory of shape {shape}{hint}")
    if mask is not None:
        if not _is_tensor(mask) or keras.backend.standardize_dtype(mask.dtype) != "bool":
            received = f"dtype {mask.dtype}" if _is_tensor(mask) else repr(mask)
            raise ValueError(f"The mask of the encoder's memory must be a tensor of booleans. Received: {received}")
        flat = (shape[0], None if None in shape[1:-1] else math.prod(shape[1:-1]))
        if not any(shapes_match(tuple(mask.shape), expected) for expected in (shape[:-1], flat)):
            raise ValueError(
                f"The mask of the encoder's memory must have shape {shape[:-1]}, that of the memory without its "
                f"features. Received: shape {tuple(mask.shape)}"
            )
    if len(shape) > 3:
        sizes = ops.shape(memory)
        memory = _reshape(memory, (sizes[0], math.prod(sizes[1:-1]) if None not in sizes else None, sizes[-1]))
        mask = mask if mask is None or len(mask.shape) == 2 else _reshape(mask, ops.shape(memory)[:2])
    return memory, mask


def _reshape(x, shape):
    """Reshapes a tensor; a symbolic one also to sizes that are not known."""
    return keras.KerasTensor(shape, x.dtype) if isinstance(x, keras.KerasTensor) else ops.reshape(x, shape)


def _check_states(states, memory):
    for state in states:
        if len(state.shape) != 2 or not state.shape[-1] or not shapes_match(state.shape[:1], memory.shape[:1]):
            raise ValueError(
                f"{_FORMS} States must have shape (batch, features). Received: a memory of shape "
                f"{tuple(memory.shape)} and a state of shape {tuple(state.shape)}"
            )
    return states


def _mean_over_positions(memory, mask):
    """Returns the mean (batch, features) of a memory over the positions that count, zeros if there are none."""
    values = ops.cast(memory, keras.backend.result_type(memory.dtype, "float32"))  # sums of many halves are inexact
    if mask is None:  # the number of positions may be known only when the encoder runs, and be 0
        total, count = ops.sum(values, axis=1), ops.sum(ops.ones_like(values[..., :1]), axis=1)  # (batch, 1)
    else:
        total = ops.sum(zero_masked_positions(values, mask), axis=1)
        count = ops.sum(ops.cast(mask, values.dtype), axis=1, keepdims=True)
    return ops.cast(total / ops.maximum(count, 1), memory.dtype)

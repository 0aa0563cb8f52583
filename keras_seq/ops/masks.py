# SPDX-License-Identifier: Apache-2.0
"""What masks do to memories and outputs."""

from keras import KerasTensor, backend, ops

from keras_seq._private_api import inside_xla
from keras_seq.ops.equations.protocol import Tensor
from keras_seq.ops.export_mode import is_portable_export


def as_bool_mask(
    mask: Tensor | None,  # any shape, booleans or numbers
) -> Tensor | None:
    """Return a mask as booleans of the bytes 0 and 1.

    Other bytes come from NumPy views, such as the 0 and 255 of images. Eager TensorFlow takes 255 for True, but XLA
    casts it to -1.0, which is not above 0.
    """
    return None if mask is None else ops.not_equal(ops.cast(ops.cast(mask, "bool"), "uint8"), 0)


def zero_masked_positions(
    memory: Tensor,  # (batch, source, features)
    memory_mask: Tensor | None,  # (batch, source), True = keep
) -> Tensor:  # (batch, source, features)
    """Set a memory to zero where it is masked, so that NaN there reaches no result and no gradient.

    Call it once for all steps, before the keys are computed from the memory.
    """
    if memory_mask is None:
        return memory
    check_memory_mask(memory, memory_mask)
    return zero_masked_rows(memory, as_bool_mask(memory_mask))


def zero_masked_rows(
    x: Tensor,  # (batch, time, features)
    mask: Tensor,  # (batch, time) booleans, True = keep
) -> Tensor:  # (batch, time, features)
    """Set rows to zero where they are masked, as `ops.where` does."""
    if not x.shape[-1] or isinstance(x, KerasTensor) or not _writes_rows():
        return ops.where(ops.expand_dims(mask, axis=-1), x, ops.zeros_like(x))
    import tensorflow as tf

    # Writes the masked rows only: in place, if nothing else reads `x`. TensorFlow's `where` takes several times as long
    # as a copy, here and for the gradient.
    rows = tf.where(tf.logical_not(mask))
    return tf.tensor_scatter_nd_update(x, rows, tf.zeros([tf.shape(rows)[0], tf.shape(x)[2]], x.dtype))


def _writes_rows() -> bool:
    """Whether the number of rows that are written may depend on the mask: in a graph of TensorFlow for CPUs."""
    if backend.backend() != "tensorflow" or inside_xla() or is_portable_export():
        return False
    import tensorflow as tf

    return not tf.executing_eagerly() and not tf.config.get_visible_devices("GPU")


def check_memory_mask(memory: Tensor, memory_mask: Tensor | None) -> None:
    """Check the shapes of a memory (batch, source, features) and its mask (batch, source)."""
    if len(memory.shape) != 3:
        raise ValueError(f"`memory` must be (batch, source, features). Received: shape {tuple(memory.shape)}")
    if memory_mask is not None and not shapes_match(memory_mask.shape, memory.shape[:2]):
        raise ValueError(
            f"`memory_mask` must have shape (batch, source) = {tuple(memory.shape[:2])}. Received: shape "
            f"{tuple(memory_mask.shape)}"
        )


def check_step_mask(x: Tensor, mask: Tensor | None) -> None:
    """Check that a mask has the shape (batch, time) of values (batch, time, ...)."""
    if mask is not None and not shapes_match(tuple(mask.shape), tuple(x.shape[:2])):
        raise ValueError(
            f"`mask` must have shape (batch, time) = {tuple(x.shape[:2])}. Received: shape {tuple(mask.shape)}"
        )


def has_started(
    mask: Tensor,  # (batch, time) booleans
    reverse: bool = False,
) -> Tensor:  # (batch, time) booleans
    """Whether a step that counts has run, at or before each step."""
    counts = ops.cast(mask, "int32")
    counts = ops.flip(ops.cumsum(ops.flip(counts, 1), axis=1), 1) if reverse else ops.cumsum(counts, axis=1)
    return counts > 0


def shapes_match(shape: tuple, expected: tuple) -> bool:
    """Whether two static shapes can be equal, as far as they are known."""
    return len(shape) == len(expected) and all(None in (a, b) or a == b for a, b in zip(shape, expected, strict=True))

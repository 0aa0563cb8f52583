# SPDX-License-Identifier: Apache-2.0
"""What masks do to memories and outputs."""

from keras import ops

from keras_seq.ops.equations.protocol import Tensor


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
    return ops.where(ops.expand_dims(as_bool_mask(memory_mask), axis=-1), memory, 0)


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

# SPDX-License-Identifier: Apache-2.0
"""Recurrences over whole sequences: checks, the choice of the implementation, and what Keras does to outputs."""

from collections.abc import Sequence

from keras import backend, ops

from keras_seq.ops import cudnn, native, xla
from keras_seq.ops.equations.protocol import State, Tensor
from keras_seq.ops.implementation import choose_implementation
from keras_seq.ops.masks import as_bool_mask, shapes_match
from keras_seq.ops.recurrent_call import RecurrentCall


def run_recurrences(
    calls: Sequence[RecurrentCall],
    *,
    mask: Tensor | None = None,  # (batch, time), True = keep
    zero_output_for_mask: bool = False,
    unroll: bool = False,
    recompute: bool = False,
    implementation: str = "auto",
    use_cudnn: bool | str = True,
) -> list[tuple[Tensor, State]]:  # of (batch, time, units), each (batch, units)
    """Run recurrences that share a mask. Native kernels run them side by side if their shapes are equal.

    Args:
        calls: what to run; all with the same equations and dtype.
        mask, zero_output_for_mask, unroll, recompute, implementation: see `keras_seq.ops.lstm`.
        use_cudnn: whether "auto" may choose "cudnn".

    Returns:
        For each call, the outputs and the final state.
    """
    calls = [call.prepare() for call in calls]
    first = calls[0]
    steps = tuple(first.inputs.shape[:2])
    mask = None if mask is None else ops.cast(mask, "bool")
    if mask is not None and not shapes_match(mask.shape, steps):
        raise ValueError(f"`mask` must have shape (batch, time) = {steps}. Received: shape {tuple(mask.shape)}")
    dtype = backend.standardize_dtype(first.inputs.dtype)
    features = cudnn.CallFeatures.of_calls(calls, mask, unroll, use_cudnn)
    if any(call.probe is not None for call in calls):
        implementation = "xla"
    chosen = choose_implementation(implementation, first.equations, dtype, features).implementation
    if chosen == "native":  # the kernels compare the bytes of the mask with 0 themselves
        side_by_side = all(call.layout() == first.layout() for call in calls[1:])
        groups = [calls] if side_by_side else [[call] for call in calls]
        results = [result for group in groups for result in native.run(group, mask=mask, recompute=recompute)]
    elif chosen == "cudnn":
        results = [cudnn.run(call, mask=as_bool_mask(mask), recompute=recompute) for call in calls]
    else:
        options = {"mask": as_bool_mask(mask), "unroll": unroll, "recompute": recompute}
        results = [xla.run(call, **options) for call in calls]
    return [
        (call.mask_outputs(outputs, mask, zero_output_for_mask), state)
        for call, (outputs, state) in zip(calls, results, strict=True)
    ]

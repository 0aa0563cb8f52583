# SPDX-License-Identifier: Apache-2.0
"""One step of a recurrence, as a search runs it: all products that do not depend on the state come as arguments."""

from typing import NamedTuple

from keras import backend, ops

from keras_seq.ops import native
from keras_seq.ops.attention_recurrence import native_operands, order_native_results
from keras_seq.ops.equations.attention import AttentionEquations, AttentionWeights
from keras_seq.ops.equations.cell import add_bias, zone_out
from keras_seq.ops.equations.protocol import RecurrentWeights, State, StepMasks, Tensor
from keras_seq.ops.implementation import choose_implementation
from keras_seq.ops.recurrent_call import RecurrentCall


class AttendedMemory(NamedTuple):
    """What a step with attention reads beside its inputs and the state of its cell."""

    equations: AttentionEquations  # around those of the call
    # (memories, source, memory_units); or, before the cell, (memories, source, gates * units), products with the kernel
    memory: Tensor
    keys: Tensor  # (memories, source, attention_units)
    mask: Tensor | None  # (memories, source) booleans, True = keep
    weights: dict[str, Tensor]  # those of `run_attention_recurrence`, by name
    state: State = ()  # the states of the attention, after the cell first what it fed last (rows, fed_units)


def run_search_step(
    call: RecurrentCall,
    attended: AttendedMemory | None = None,
    is_live: Tensor | None = None,  # (rows,)
    implementation: str = "auto",
) -> tuple[Tensor, State, Tensor | None]:
    """Run one step of a recurrence. Nothing is differentiable.

    Args:
        call: the recurrence, without a kernel. Its inputs (rows, 1, gates * units) are products with the kernel,
            without the bias. With attention after the cell these include what attention fed last. Those of a cell that
            normalizes its inputs are normalized without attention on xla, else not.
        attended: what a step with attention reads, else None. For the native kernels there may be fewer memories than
            rows: neighbouring rows, such as the beams of a search, then share one. xla runs additive attention before
            the cell only.
        is_live: booleans, or None. The results of other rows have no meaning; the native kernels skip them.
        implementation: "auto", "native", "cudnn" or "xla".

    Returns:
        `(output, state, attention_weights)`: (rows, size), the new states of the cell and then those of the attention,
        each (rows, any), and (rows, source), or None without attention.
    """
    call = _cast(call)
    equations = call.equations if attended is None else attended.equations
    dtype = backend.standardize_dtype(call.inputs.dtype)
    if choose_implementation(implementation, equations, dtype).implementation == "native":
        return _run_native(call, attended, is_live)
    bias, recurrent_bias = call.equations.split_bias(call.bias)
    weights = RecurrentWeights(call.recurrent_kernel, recurrent_bias, call.extra_weights)
    memory_mask = bias_of_step = None
    if attended is not None:
        if call.equations.normalizes_inputs:  # in the step, before it adds the bias
            bias, bias_of_step = None, bias
        read = {"keys": attended.keys, "memory": attended.memory, "bias": bias_of_step}
        weights = AttentionWeights(weights, None, **attended.weights, **read)
        memory_mask = None if attended.mask is None else ops.cast(attended.mask, dtype)
    masks = StepMasks(memory_mask=memory_mask)
    inputs = add_bias(ops.squeeze(call.inputs, axis=1), bias)
    step = equations.step(equations.prepare(weights), masks, inputs, tuple(call.initial_state))
    state = step.state if call.zoneout_masks is None else zone_out(call.zoneout_masks, call.initial_state, step.state)
    return state[0], state, None if attended is None else step.emitted[0]


def _run_native(call: RecurrentCall, attended: AttendedMemory | None, is_live: Tensor | None) -> tuple:
    mask = None if is_live is None else is_live[:, None]
    if attended is None:
        [(_, state)] = native.run([call], mask=mask, recompute=True)
        return state[0], state, None
    equations, attention_state = attended.equations, [ops.cast(x, call.inputs.dtype) for x in attended.state]
    operands = {"memory": attended.memory, "keys": attended.keys, "memory_mask": attended.mask, **attended.weights}
    operands = native_operands(call, equations, operands, attention_state)
    attributes = equations.native_attributes()
    [results] = native.run([call], mask=mask, recompute=True, attention=operands, attention_attributes=attributes)
    outputs, state, attention_weights = order_native_results(results, equations, operands)
    first, last = state[: equations.leading_states], state[equations.leading_states :]
    cells = len(call.initial_state)
    return outputs[:, 0], (*last[:cells], *first, *last[cells:]), attention_weights[:, 0]


def _cast(call: RecurrentCall) -> RecurrentCall:
    """Cast weights and state to the dtype of the inputs."""

    def cast(x):
        return None if x is None else ops.cast(x, call.inputs.dtype)

    return call._replace(
        recurrent_kernel=cast(call.recurrent_kernel),
        bias=cast(call.bias),
        initial_state=tuple(cast(state) for state in call.initial_state),
        zoneout_masks=None if call.zoneout_masks is None else tuple(cast(mask) for mask in call.zoneout_masks),
        extra_weights={name: cast(weight) for name, weight in (call.extra_weights or {}).items()} or None,
    )

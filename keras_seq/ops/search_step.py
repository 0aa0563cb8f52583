# SPDX-License-Identifier: Apache-2.0
"""One step of a recurrence, as a search runs it: all products that do not depend on the state come as arguments."""

from typing import NamedTuple

from keras import backend, ops

from keras_seq.ops import native
from keras_seq.ops.equations.attention import AdditiveAttentionEquations, AttentionWeights
from keras_seq.ops.equations.cell import add_bias, zone_out
from keras_seq.ops.equations.protocol import RecurrentWeights, State, StepMasks, Tensor
from keras_seq.ops.implementation import choose_implementation
from keras_seq.ops.recurrent_call import RecurrentCall


class AttendedMemory(NamedTuple):
    """What a step with additive attention reads beside its inputs and its state."""

    products: Tensor  # (memories, source, gates * units), the memory times its rows of the cell's kernel
    keys: Tensor  # (memories, source, attention_units)
    mask: Tensor | None  # (memories, source) booleans, True = keep
    query_kernel: Tensor  # (units, attention_units)
    score_vector: Tensor  # (attention_units,)


def run_search_step(
    call: RecurrentCall,
    attended: AttendedMemory | None = None,
    is_live: Tensor | None = None,  # (rows,)
    implementation: str = "auto",
) -> tuple[State, Tensor | None]:
    """Run one step of a recurrence. Nothing is differentiable.

    Args:
        call: the recurrence, without a kernel. Its inputs (rows, 1, gates * units) are products with the kernel,
            without the bias. Those of a cell that normalizes its inputs are normalized, for xla without attention only.
        attended: what a step with additive attention reads, else None. For the native kernels there may be fewer
            memories than rows: neighbouring rows, such as the beams of a search, then share one.
        is_live: booleans, or None. The results of other rows have no meaning; the native kernels skip them.
        implementation: "auto", "native", "cudnn" or "xla".

    Returns:
        `(state, attention_weights)`: the new state, each (rows, size), and (rows, source), or None without attention.
    """
    call = _cast(call)
    equations = call.equations if attended is None else AdditiveAttentionEquations(call.equations)
    dtype = backend.standardize_dtype(call.inputs.dtype)
    if choose_implementation(implementation, equations, dtype).implementation == "native":
        return _run_native(call, attended, is_live)
    bias, recurrent_bias = call.equations.split_bias(call.bias)
    weights = RecurrentWeights(call.recurrent_kernel, recurrent_bias, call.extra_weights)
    memory_mask = bias_of_step = None
    if attended is not None:
        query_kernel, score_vector = attended.query_kernel, attended.score_vector
        if call.equations.normalizes_inputs:  # in the step, before it adds the bias
            bias, bias_of_step = None, bias
        weights = AttentionWeights(
            weights, None, query_kernel, score_vector, attended.keys, attended.products, bias_of_step
        )
        memory_mask = None if attended.mask is None else ops.cast(attended.mask, dtype)
    masks = StepMasks(memory_mask=memory_mask)
    inputs = add_bias(ops.squeeze(call.inputs, axis=1), bias)
    step = equations.step(equations.prepare(weights), masks, inputs, tuple(call.initial_state))
    state = step.state if call.zoneout_masks is None else zone_out(call.zoneout_masks, call.initial_state, step.state)
    return state, None if attended is None else step.emitted[0]


def _run_native(call: RecurrentCall, attended: AttendedMemory | None, is_live: Tensor | None) -> tuple:
    mask = None if is_live is None else is_live[:, None]
    if attended is None:
        [(_, state)] = native.run([call], mask=mask, recompute=True)
        return state, None
    operands = {
        "memory": attended.products,
        "keys": attended.keys,
        "memory_mask": attended.mask,
        "query_kernel": attended.query_kernel,
        "score_vector": attended.score_vector,
    }
    [(_, state, attention_weights, *_)] = native.run([call], mask=mask, recompute=True, attention=operands)
    return state, attention_weights[:, 0]


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

# SPDX-License-Identifier: Apache-2.0
"""Recurrences that attend to a memory in each step."""

from typing import Any

from keras import backend, ops

from keras_seq.ops import native, xla
from keras_seq.ops.equations.attention import AttentionEquations, AttentionWeights
from keras_seq.ops.equations.protocol import RecurrentWeights, State, Tensor
from keras_seq.ops.implementation import choose_implementation
from keras_seq.ops.masks import as_bool_mask, check_memory_mask, shapes_match
from keras_seq.ops.recurrent_call import RecurrentCall


def run_attention_recurrence(
    call: RecurrentCall,
    attention: AttentionEquations,
    memory: Tensor,  # (batch, source, memory_units)
    keys: Tensor,  # (batch, source, attention_units)
    memory_mask: Tensor | None = None,  # (batch, source), True = keep
    *,
    query_kernel: Tensor | None = None,  # (units, attention_units)
    score_vector: Tensor | None = None,  # (attention_units,)
    coverage_kernel: Tensor | None = None,  # (attention_units,)
    score_bias: Tensor | None = None,  # a scalar
    attentional_kernel: Tensor | None = None,  # (units + memory_units, attentional_units)
    attention_state: State = (),
    noise: Tensor | None = None,  # (batch, time, source)
    mask: Tensor | None = None,  # (batch, time), True = keep
    zero_output_for_mask: bool = False,
    unroll: bool = False,
    recompute: bool = False,
    implementation: str = "auto",
) -> tuple[Tensor, State, Tensor]:  # (batch, time, units), each (batch, any), (batch, time, source)
    """Run a recurrence that attends to a memory in each step.

    Args:
        call: the recurrence, whose kernel has rows for the inputs and then for what is fed to the cell.
        attention: attention equations around those of the call.
        memory, keys: see `keras_seq.ops.attention_decoder`. They must be finite where they are masked:
            `zero_masked_positions` makes them so.
        memory_mask: which positions count.
        query_kernel, score_vector: of additive attention, for `AdditiveAttentionEquations` and the native kernels.
        coverage_kernel, score_bias, attentional_kernel: for the native kernels; an `attend` of equations has its own.
        attention_state: the initial states of the attention; with input feeding the output comes first.
        noise: the noise that the attention drew for all steps.
        mask, zero_output_for_mask, unroll, recompute, implementation: see `keras_seq.ops.lstm`.

    Returns:
        `(outputs, state, attention_weights)`, the state in the order of the attention equations; the native kernels
        return the part of a leading output that the next step reads. The attention weights of masked steps are zero.
    """
    call = call.prepare()
    dtype = backend.standardize_dtype(call.inputs.dtype)

    def cast(x):
        return None if x is None else ops.cast(x, dtype)

    mask, memory_mask = as_bool_mask(mask), as_bool_mask(memory_mask)
    memory, keys = cast(memory), cast(keys)
    query_kernel, score_vector = cast(query_kernel), cast(score_vector)
    weights = {"query_kernel": query_kernel, "score_vector": score_vector}
    _check_memory(call, attention, memory, keys, memory_mask)
    if choose_implementation(implementation, attention, dtype).implementation == "native":
        weights |= {"coverage_kernel": coverage_kernel, "attentional_kernel": attentional_kernel}
        weights = {name: cast(weight) for name, weight in (weights | {"score_bias": score_bias}).items()}
        initial = [cast(state) for state in attention_state]
        if attention.leading_states:  # the last columns of the output are what the first step reads
            initial[0] = initial[0][:, initial[0].shape[-1] - attention.fed_units(memory.shape[-1]) :]
        operands = {"memory": memory, "keys": keys, "memory_mask": memory_mask, **weights}
        operands = native_operands(call, attention, operands, initial, cast(noise))
        [results] = native.run(
            [call],
            mask=mask,
            recompute=recompute,
            attention=operands,
            attention_attributes=attention.native_attributes(),
        )
        outputs, state, attention_weights = order_native_results(results, attention, operands)
    else:
        features = call.inputs.shape[-1]
        bias, recurrent_bias = call.split_bias()
        weights = AttentionWeights(
            cell=RecurrentWeights(call.recurrent_kernel, recurrent_bias, call.extra_weights),
            context_kernel=None if call.kernel is None else call.kernel[features:],
            query_kernel=query_kernel,
            score_vector=score_vector,
            keys=keys,
            memory=memory,
            bias=bias if getattr(call.equations, "normalizes_inputs", False) else None,
        )
        options = {"mask": mask, "unroll": unroll, "recompute": recompute}
        attending = _with_attention(call, attention, attention_state)
        outputs, (attention_weights,), state = xla.run_with_weights(
            attending, weights, bias, memory_mask=cast(memory_mask), noise=noise, **options
        )
        if mask is not None:
            attention_weights = ops.where(ops.expand_dims(mask, axis=-1), attention_weights, 0)
    return call.mask_outputs(outputs, mask, zero_output_for_mask), state, attention_weights


def native_operands(
    call: RecurrentCall,
    attention: AttentionEquations,
    operands: dict[str, Tensor | None],
    attention_state: State,
    noise: Tensor | None = None,
) -> dict[str, Tensor | None]:
    """Return the argument `attention` of `native.run`.

    Args:
        operands: `memory`, `keys`, `memory_mask` and the weights of `run_attention_recurrence`, by name.
        attention_state: the initial states of the attention. If they come before those of the cell, the first one is
            what the first step reads.
        noise: that of all steps, or None.
    """
    operands = {name: x for name, x in operands.items() if x is not None}
    if attention.leading_states:
        operands["initial_fed"] = attention_state[0]
    if "coverage_kernel" in operands:
        operands["initial_coverage"] = attention_state[-1]
    if "score_bias" in operands:  # of monotonic attention
        shape = (*ops.shape(call.inputs)[:2], ops.shape(operands["memory"])[1])
        bias = ops.broadcast_to(operands.pop("score_bias"), shape)
        operands["energy_bias"] = bias if noise is None else bias + noise
        operands["initial_weights"] = attention_state[-1]
    return operands


def order_native_results(results: tuple, attention: AttentionEquations, operands: dict) -> tuple[Tensor, State, Tensor]:
    """Return results of the native kernels as `run_attention_recurrence` does."""
    outputs, state, weights, fed, final = results
    leading = attention.leading_states
    if leading:
        outputs = fed if "attentional_kernel" in operands else ops.concatenate([outputs, fed], axis=-1)
    return outputs, (*final[:leading], *state, *final[leading:]), weights


def _with_attention(call: RecurrentCall, attention: AttentionEquations, attention_state: State) -> RecurrentCall:
    """Replace the equations of a call by those that attend, and add the states of the attention to its state."""
    state, zoneout_masks = call.initial_state, call.zoneout_masks
    if attention_state:
        state = call.zero_state(ops.shape(call.inputs)[0]) if state is None else state
        before, after = attention_state[: attention.leading_states], attention_state[attention.leading_states :]
        state = (*before, *state, *after)
        if zoneout_masks and not attention.applies_zoneout:
            zoneout_masks = (*zoneout_masks, *(None for _ in attention_state))
    kernel: Any = None if call.kernel is None else call.kernel[: call.inputs.shape[-1]]
    return call._replace(equations=attention, kernel=kernel, initial_state=state, zoneout_masks=zoneout_masks)


def _check_memory(
    call: RecurrentCall, attention: AttentionEquations, memory: Tensor, keys: Tensor, memory_mask: Tensor | None
) -> None:
    check_memory_mask(memory, memory_mask)
    batch, source, memory_units = memory.shape
    if not shapes_match((batch,), call.inputs.shape[:1]):
        raise ValueError(
            f"`memory` and `inputs` must have the same batch size. Received: memory of shape {tuple(memory.shape)}, "
            f"inputs of shape {tuple(call.inputs.shape)}"
        )
    if len(keys.shape) != 3 or not shapes_match(keys.shape[:2], (batch, source)):
        raise ValueError(
            f"`keys` must be (batch, source, attention_units), for a memory of shape {tuple(memory.shape)}. Received: "
            f"shape {tuple(keys.shape)}"
        )
    rows = call.inputs.shape[-1] + attention.fed_units(memory_units)
    if call.kernel is not None and call.kernel.shape[0] != rows:
        raise ValueError(
            f"`kernel` must have a row for each feature of inputs and memory, {rows}. Received: shape "
            f"{tuple(call.kernel.shape)}"
        )

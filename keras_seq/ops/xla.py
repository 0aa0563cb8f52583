# SPDX-License-Identifier: Apache-2.0
"""Implementation "xla": the input product, then a scan, in `keras.ops`.

It runs on every backend of Keras, and XLA compiles it for any device.
"""

from typing import Any

from keras import backend, ops

from keras_seq.ops.equations.attention import (
    AnyAttentionEquations,
    AttentionInputs,
    AttentionWeights,
    InputFeedingEquations,
)
from keras_seq.ops.equations.protocol import RecurrentWeights, State, StepMasks, Tensor
from keras_seq.ops.recurrent_call import RecurrentCall
from keras_seq.ops.scan import ProbedEquations, ProbedInputs, scan


def run(
    call: RecurrentCall,
    *,
    mask: Tensor | None = None,  # (batch, time) booleans
    unroll: bool = False,
    recompute: bool = False,
) -> tuple[Tensor, State]:  # (batch, time, units), each (batch, units)
    """Run a recurrence; return the first state after each step and the final state."""
    bias, recurrent_bias = call.split_bias()
    weights = RecurrentWeights(call.recurrent_kernel, recurrent_bias, call.extra_weights)
    options = {"mask": mask, "unroll": unroll, "recompute": recompute}
    outputs, _, state = run_with_weights(call, weights, bias, **options)
    return outputs, state


def run_with_weights(
    call: RecurrentCall,
    weights: RecurrentWeights | AttentionWeights,
    bias: Tensor | None,  # (gates * units,), of the input product
    *,
    memory_mask: Tensor | None = None,  # (batch, source), 1 = keep
    noise: Tensor | None = None,  # (batch, time, source), what the attention drew
    mask: Tensor | None = None,  # (batch, time) booleans
    unroll: bool = False,
    recompute: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...], State]:
    """Compute the input product, scan over time, and return results with the batch first.

    Returns:
        `(outputs, emitted, state)`: (batch, time, units), each (batch, time, ...), and each (batch, units).
    """
    equations, inputs = call.equations, call.inputs

    def time_first(x):
        """Put time first and, because the scan knows one direction only, in the order in which the steps run."""
        if x is None or len(x.shape) == 2:  # all steps share it
            return x
        x = ops.transpose(x, (1, 0, 2))
        # ONNX converters silently read a loop that counts down as one that counts up.
        return ops.flip(x, axis=0) if call.reverse else x

    if mask is not None:  # NaN in a masked step must not reach the gradient of a weight
        mask = ops.expand_dims(mask, axis=-1)
        inputs = ops.where(mask, inputs, 0)
    inputs = time_first(inputs)  # (time, batch, features)
    time, batch, features = ops.shape(inputs)
    if call.kernel is not None and backend.backend() == "jax":  # a batch on several devices stays an axis of its own
        inputs = equations.input_product(weights, inputs, call.kernel, bias)
    elif call.kernel is not None:
        inputs = equations.input_product(weights, ops.reshape(inputs, (-1, features)), call.kernel, bias)
        inputs = ops.reshape(inputs, (time, batch, call.kernel.shape[-1]))
    if isinstance(equations, (AnyAttentionEquations, InputFeedingEquations)):
        inputs = AttentionInputs(inputs, time_first(noise))
    if call.probe is not None:
        equations, inputs = ProbedEquations(equations), ProbedInputs(inputs, time_first(call.probe))
    masks = StepMasks(
        recurrent_dropout_mask=time_first(call.recurrent_dropout_mask),
        zoneout_masks=tuple(time_first(m) for m in call.zoneout_masks or ()),
        memory_mask=memory_mask,
    )
    outputs, emitted, state = scan(
        equations,
        weights,
        masks,
        inputs,
        call.zero_state(batch) if call.initial_state is None else tuple(call.initial_state),
        None if mask is None else time_first(mask)[:, :, 0],
        unroll=unroll,
        recompute=recompute,
    )

    def batch_first(x: Any) -> Any:
        return ops.transpose(ops.flip(x, axis=0) if call.reverse else x, (1, 0, 2))

    return batch_first(outputs), tuple(batch_first(x) for x in emitted), tuple(state)

# SPDX-License-Identifier: Apache-2.0
"""One step of the minimal gated unit."""

import dataclasses
from typing import NamedTuple

from keras import ops

from keras_seq.ops.equations.cell import GatedEquations, contract_time, drop, slope
from keras_seq.ops.equations.protocol import RecurrentWeights, State, Step, StepGradients, StepMasks, Tensor, Trace


class _SplitKernel(NamedTuple):
    """The recurrent kernel in the parts of its two products."""

    forget: Tensor  # (units, units), or its transpose
    candidate: Tensor  # (units, units), or its transpose


@dataclasses.dataclass(frozen=True)
class MGUEquations(GatedEquations):
    """The minimal gated unit of Zhou et al. (2016), gates in the order `f, g`.

    `h' = (1 - f) h + f g` with `f = s(x_f + h U_f)` and `g = t(x_g + (f h) U_g)`: one gate forgets and resets.
    """

    gates = 2
    states = 1

    def native_kernel(self) -> tuple[str, dict] | None:
        return self.native_op("MGU")

    def prepare(self, weights: RecurrentWeights) -> _SplitKernel:
        return _SplitKernel(*ops.split(weights.kernel, 2, axis=-1))

    def step(self, weights: _SplitKernel, masks: StepMasks, inputs: Tensor, state: State) -> Step:
        (h,) = state
        x_f, x_g = ops.split(inputs, 2, axis=-1)
        dropped = drop(h, masks)
        f = self.recurrent_activation(x_f + ops.matmul(dropped, weights.forget))
        g = self.activation(x_g + ops.matmul(f * dropped, weights.candidate))
        return Step(((1 - f) * h + f * g,), residuals=(f, g))

    def prepare_backward(self, weights: RecurrentWeights) -> _SplitKernel:
        return _SplitKernel(*(ops.transpose(part) for part in self.prepare(weights)))

    def coefficients(self, weights: RecurrentWeights, masks: StepMasks, trace: Trace) -> tuple[Tensor, ...]:
        (h,), (f, g) = trace.previous, trace.residuals
        slope_of_f = slope(self.recurrent_activation, f)
        return f, (g - h) * slope_of_f, f * slope(self.activation, g), drop(h, masks) * slope_of_f

    def step_backward(
        self,
        weights: _SplitKernel,
        masks: StepMasks,
        coefficients: tuple,
        d_state: State,
        d_emitted: tuple,
        sums: tuple,
    ) -> StepGradients:
        (dh,), (f, to_f, to_g, reset_to_f) = d_state, coefficients
        d_g = dh * to_g
        d_reset = ops.matmul(d_g, weights.candidate)  # the gradient of f times the dropped h
        d_f = dh * to_f + d_reset * reset_to_f
        d_dropped = d_reset * f + ops.matmul(d_f, weights.forget)
        d_previous = dh * (1 - f) + drop(d_dropped, masks)
        return StepGradients(ops.concatenate([d_f, d_g], axis=-1), (d_previous,), (), sums)

    def weight_gradients(
        self, weights: RecurrentWeights, masks: StepMasks, trace: Trace, d_inputs: Tensor, saved: tuple, sums: tuple
    ) -> RecurrentWeights:
        h, f = drop(trace.previous[0], masks), trace.residuals[0]
        d_f, d_g = ops.split(d_inputs, 2, axis=-1)
        return RecurrentWeights(kernel=ops.concatenate([contract_time(h, d_f), contract_time(f * h, d_g)], axis=-1))

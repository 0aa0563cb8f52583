# SPDX-License-Identifier: Apache-2.0
"""One step of the vanilla recurrence."""

import dataclasses
from collections.abc import Callable

from keras import activations, ops

from keras_seq.ops.equations.cell import CellEquations, drop, has_slope, hidden_gradient, native_activations, slope
from keras_seq.ops.equations.protocol import RecurrentWeights, State, Step, StepGradients, StepMasks, Tensor, Trace


@dataclasses.dataclass(frozen=True)
class SimpleRNNEquations(CellEquations):
    """The vanilla recurrence of Elman (1990): `h' = f(x + h U)`."""

    activation: Callable = activations.tanh

    gates = 1
    states = 1

    @property
    def differentiable(self) -> bool:
        return has_slope(self.activation)

    def native_kernel(self) -> tuple[str, dict] | None:
        attributes = native_activations(activation=self.activation)
        return None if attributes is None else ("SimpleRNN", attributes)

    def step(self, weights: RecurrentWeights, masks: StepMasks, inputs: Tensor, state: State) -> Step:
        (h,) = state
        return Step((self.activation(inputs + ops.matmul(drop(h, masks), weights.kernel)),))

    def coefficients(self, weights: RecurrentWeights, masks: StepMasks, trace: Trace) -> Tensor:
        return slope(self.activation, trace.candidate[0])

    def step_backward(
        self,
        weights: RecurrentWeights,
        masks: StepMasks,
        coefficients: Tensor,
        d_state: State,
        d_emitted: tuple,
        sums: tuple,
    ) -> StepGradients:
        (dh,) = d_state
        d_inputs = dh * coefficients
        return StepGradients(d_inputs, (hidden_gradient(weights, masks, d_inputs),), (), sums)

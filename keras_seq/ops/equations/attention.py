# SPDX-License-Identifier: Apache-2.0
"""One step of a cell that attends to a memory: additive attention with its derivative, and any other attention."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from keras_seq.ops.attention import additive_energies, masked_softmax, weighted_sum
from keras_seq.ops.equations.cell import CellEquations, contract_time, zone_out
from keras_seq.ops.equations.protocol import (
    Equations,
    RecurrentWeights,
    State,
    Step,
    StepGradients,
    StepMasks,
    Tensor,
    Trace,
)

_OTHER_SCORES = "attention that is not of keras_seq"
_ATTENTIONAL_ACTIVATIONS = ("tanh", "linear")  # those of the native kernels


class AttentionWeights(NamedTuple):
    """What every step reads beside its inputs."""

    cell: RecurrentWeights
    # (memory_units, gates * units), the rows of the input kernel for the context. None in a search, where the memory is
    # already multiplied by it, and of a foreign cell.
    context_kernel: Tensor | None
    query_kernel: Tensor | None  # (units, attention_units); only of `AdditiveAttentionEquations`
    score_vector: Tensor | None  # (attention_units,); likewise
    keys: Tensor  # (batch, source, attention_units), the projected memory
    memory: Tensor  # (batch, source, memory_units)
    bias: Tensor | None = None  # (gates * units,), only of a cell that `normalizes_inputs`: a step adds it after that


class AttentionInputs(NamedTuple):
    """The inputs of one step, where the attention may draw noise."""

    inputs: Tensor  # (batch, gates * units), the input product; or (batch, features) of a foreign cell
    noise: Tensor | None  # (batch, source)


@dataclasses.dataclass(frozen=True)
class AttentionEquations:
    """Equations around those of a cell, which attend in each step.

    `cell` may be a foreign cell. Its step then takes the pair (inputs, context), and there is no context kernel.
    """

    cell: CellEquations | Equations

    leading_states = 0  # how many states of the attention come before those of the cell
    applies_zoneout = False

    @property
    def gates(self) -> int:
        return self.cell.gates

    @property
    def states(self) -> int:
        return self.cell.states

    def fed_units(self, memory_units: int) -> int:
        """Return how many features enter the cell beside the inputs."""
        return memory_units

    def native_kernel(self) -> tuple[str, dict] | None:
        return None

    def native_attributes(self) -> dict:
        """Return the attributes of the native op that choose the attention."""
        return {}

    def input_product(self, weights: AttentionWeights, inputs: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        if self.cell.normalizes_inputs:  # in each step, together with what attention feeds
            return ops.matmul(inputs, kernel)
        return self.cell.input_product(weights.cell, inputs, kernel, bias)

    def join_inputs(
        self,
        weights: AttentionWeights,
        inputs: Tensor,  # (batch, gates * units), the input product; or (batch, features) of a foreign cell
        fed: Tensor,  # (batch, fed_units)
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return what the cell reads in a step; a foreign cell reads the pair."""
        if weights.context_kernel is None:
            return inputs, fed
        return self.finish_inputs(weights, inputs + ops.matmul(fed, weights.context_kernel))

    def finish_inputs(self, weights: AttentionWeights, product: Tensor) -> Tensor:
        """Return what the cell reads from the sum of both products."""
        if not self.cell.normalizes_inputs:
            return product
        return self.cell.finish_input_product(weights.cell, product, weights.bias)

    def state_sizes(self, units: int) -> tuple[int, ...]:
        return self.cell.state_sizes(units)

    def prepare(self, weights: AttentionWeights) -> AttentionWeights:
        return weights._replace(cell=self.cell.prepare(weights.cell))


@dataclasses.dataclass(frozen=True)
class AdditiveAttentionEquations(AttentionEquations):
    """A cell that attends to a memory before each step (Bahdanau, Cho & Bengio 2015).

    `a = softmax(v . tanh(k + h W_q))`, `context = sum_s a_s m_s`, then the cell on `x + context W_c`. A step emits `a`
    (batch, source). The derivative computes `tanh(k + q)` again, so that memory does not grow with
    target * source * units. Autodiff finds that of a cell that normalizes its inputs.
    """

    @property
    def differentiable(self) -> bool:
        return self.cell.differentiable and not self.cell.normalizes_inputs

    def native_kernel(self) -> tuple[str, dict] | None:
        return self.cell.native_kernel()

    def describe(self) -> str:
        return f"{self.cell.describe()} with attention"

    def step(self, weights: AttentionWeights, masks: StepMasks, inputs: Tensor, state: State) -> Step:
        query = ops.matmul(state[0], weights.query_kernel)
        energies, _ = additive_energies(query, weights.keys, weights.score_vector)
        attention_weights = masked_softmax(energies, masks.memory_mask)
        context = weighted_sum(attention_weights, weights.memory)
        if weights.context_kernel is not None:
            context = ops.matmul(context, weights.context_kernel)
        inputs = self.finish_inputs(weights, inputs + context)
        state, _, residuals = self.cell.step(weights.cell, masks, inputs, state)
        return Step(state, (attention_weights,), (query, *residuals))

    def prepare_backward(self, weights: AttentionWeights) -> AttentionWeights:
        return weights._replace(
            cell=self.cell.prepare_backward(weights.cell),
            context_kernel=ops.transpose(weights.context_kernel),
            query_kernel=ops.transpose(weights.query_kernel),
        )

    def zero_sums(self, weights: AttentionWeights) -> tuple[Tensor, Tensor]:
        # The sum of the score vector's gradient has a row for each sequence: where a batch is on several devices, they
        # exchange it once, after the loop.
        of_sequences = ops.zeros((ops.shape(weights.keys)[0], weights.keys.shape[-1]), weights.keys.dtype)
        return ops.zeros_like(weights.keys), of_sequences

    def coefficients(self, weights: AttentionWeights, masks: StepMasks, trace: Trace) -> tuple:
        query, *residuals = trace.residuals
        of_cell = self.cell.coefficients(weights.cell, masks, trace._replace(residuals=residuals))
        return of_cell, query, *trace.emitted

    def step_backward(
        self,
        weights: AttentionWeights,
        masks: StepMasks,
        coefficients: tuple,
        d_state: State,
        d_emitted: tuple,
        sums: tuple,
    ) -> StepGradients:
        (of_cell, query, attention_weights), (d_weights,) = coefficients, d_emitted
        d_inputs, d_previous, saved, _ = self.cell.step_backward(weights.cell, masks, of_cell, d_state, (), ())
        d_context = ops.matmul(d_inputs, weights.context_kernel)  # (batch, memory_units)
        d_weights = d_weights + ops.squeeze(ops.matmul(weights.memory, d_context[:, :, None]), axis=-1)
        centre = ops.sum(attention_weights * d_weights, axis=-1, keepdims=True)
        d_energies = attention_weights * (d_weights - centre)  # (batch, source)

        _, hidden = additive_energies(query, weights.keys, weights.score_vector)
        d_score = ops.squeeze(ops.matmul(d_energies[:, None], hidden), axis=1)  # (batch, attention_units)
        d_hidden = d_energies[:, :, None] * (weights.score_vector * (1 - hidden * hidden))
        d_query = ops.sum(d_hidden, axis=1)  # (batch, attention_units)

        d_previous = (d_previous[0] + ops.matmul(d_query, weights.query_kernel), *d_previous[1:])
        d_keys, d_score_vector = sums
        sums = d_keys + d_hidden, d_score_vector + d_score
        return StepGradients(d_inputs, d_previous, (d_query, d_context, saved), sums)

    def weight_gradients(
        self, weights: AttentionWeights, masks: StepMasks, trace: Trace, d_inputs: Tensor, saved: tuple, sums: tuple
    ) -> AttentionWeights:
        d_query, d_context, saved_by_cell = saved
        d_keys, d_score_vector = sums
        (attention_weights,) = trace.emitted  # (time, batch, source)
        trace = trace._replace(residuals=trace.residuals[1:])
        context = ops.einsum("tbs,bsd->tbd", attention_weights, weights.memory)
        return AttentionWeights(
            cell=self.cell.weight_gradients(weights.cell, masks, trace, d_inputs, saved_by_cell, ()),
            context_kernel=contract_time(context, d_inputs),
            query_kernel=contract_time(trace.previous[0], d_query),
            score_vector=ops.sum(d_score_vector, axis=0),
            keys=d_keys,
            memory=ops.einsum("tbs,tbd->bsd", attention_weights, d_context),
        )


@dataclasses.dataclass(frozen=True)
class AnyAttentionEquations(AttentionEquations):
    """A cell that attends to a memory before each step, with any attention. Autodiff finds its derivative.

    Its states are those of the cell, then those of the attention. There is a native kernel for a `fused_score`.
    """

    attend: Callable  # `AttentionMechanism.attend` without its argument `training`
    attention_states: int  # how many states the attention has
    query_state: int = 0  # which state of the cell is the query
    fused_score: str | None = None  # that of the attention, see `AttentionMechanism`
    fused_weighting: str = "softmax"  # likewise

    differentiable = False

    @property
    def states(self) -> int:
        return self.cell.states + self.attention_states

    def native_kernel(self) -> tuple[str, dict] | None:
        return self.cell.native_kernel() if self.fused_score else None

    def native_attributes(self) -> dict:
        return {"score": self.fused_score, "weighting": self.fused_weighting}

    def describe(self) -> str:
        if self.fused_score:
            return f"{self.cell.describe()} with attention"
        return _OTHER_SCORES

    def step(self, weights: AttentionWeights, masks: StepMasks, inputs: AttentionInputs, state: State) -> Step:
        cell_state, attention_state = state[: self.cell.states], state[self.cell.states :]
        context, attention_weights, attention_state = self.attend(
            cell_state[self.query_state], weights.memory, weights.keys, masks.memory_mask, attention_state, inputs.noise
        )
        inputs = self.join_inputs(weights, inputs.inputs, context)
        cell_state = self.cell.step(weights.cell, masks, inputs, cell_state).state
        return Step((*cell_state, *attention_state), (attention_weights,))


@dataclasses.dataclass(frozen=True)
class InputFeedingEquations(AttentionEquations):
    """A cell that attends to a memory after each step and reads its output in the next one (Luong et al. 2015).

    `h_t = cell([x_t, o_{t-1}])`, then `o_t = attend(h_t)`. The last `fed` features of o enter the cell. Autodiff finds
    the derivative. Its states are o, those of the cell, then those of the attention. The output comes first so that a
    masked step repeats it. Zoneout acts on the cell's states before the attention reads them.
    """

    attend: Callable  # as in `AnyAttentionEquations`, but it returns the output in the place of the context
    attention_states: int  # how many states the attention has
    fed: int  # how many features of the output enter the cell
    fused_score: str | None = None  # that of the attention
    fused_weighting: str = "softmax"  # likewise
    activation: str = "tanh"  # the name of the activation of the attentional vector

    differentiable = False
    leading_states = 1
    applies_zoneout = True

    @property
    def states(self) -> int:
        return 1 + self.cell.states + self.attention_states

    def fed_units(self, memory_units: int) -> int:
        return self.fed

    def native_kernel(self) -> tuple[str, dict] | None:
        is_native = self.fused_score and self.activation in _ATTENTIONAL_ACTIVATIONS
        return self.cell.native_kernel() if is_native else None

    def native_attributes(self) -> dict:
        fused = {"score": self.fused_score, "weighting": self.fused_weighting}
        return {**fused, "attend": "after", "attentional_activation": self.activation}

    def describe(self) -> str:
        if not self.fused_score:
            return _OTHER_SCORES
        if self.activation not in _ATTENTIONAL_ACTIVATIONS:
            return f"attentional vectors with the activation {self.activation}"
        return f"{self.cell.describe()} with attention"

    def step(self, weights: AttentionWeights, masks: StepMasks, inputs: AttentionInputs, state: State) -> Step:
        output, *cell_state = state[: 1 + self.cell.states]
        fed = output[..., output.shape[-1] - self.fed :]
        joined = self.join_inputs(weights, inputs.inputs, fed)
        new_state = self.cell.step(weights.cell, masks, joined, tuple(cell_state)).state
        if masks.zoneout_masks:
            new_state = zone_out(masks.zoneout_masks, cell_state, new_state)
        output, attention_weights, attention_state = self.attend(
            new_state[0],
            weights.memory,
            weights.keys,
            masks.memory_mask,
            state[1 + self.cell.states :],
            inputs.noise,
        )
        return Step((output, *new_state, *attention_state), (attention_weights,))

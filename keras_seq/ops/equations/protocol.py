# SPDX-License-Identifier: Apache-2.0
"""What a recurrence needs to know of a cell: two protocols, and the tuples that their methods exchange.

`ops/scan.py` runs any object with these methods over time. In the shapes below, `units` stands for the size of a state,
and `gates * units` for the columns of a kernel. Where a whole sequence is meant, a time axis comes first.
"""

from typing import Any, NamedTuple, Protocol, TypeAlias

Tensor: TypeAlias = Any  # a tensor of Keras's backend
State: TypeAlias = tuple[Tensor, ...]  # each (batch, units)


class RecurrentWeights(NamedTuple):
    """What multiplies the previous output in every step."""

    kernel: Tensor  # (units, gates * units)
    bias: Tensor | None = None  # (gates * units,), only of a GRU with `reset_after`
    extra: dict[str, Tensor] | None = None  # the extra weights of the cell, by name


class StepMasks(NamedTuple):
    """The masks of one step. With a leading time axis: the masks of all steps, where they differ from step to step."""

    recurrent_dropout_mask: Tensor | None = None  # ([time,] batch, units), scaled by 1 / (1 - rate)
    zoneout_masks: tuple[Tensor | None, ...] = ()  # ([time,] batch, units) for each state: the share of it that is kept
    memory_mask: Tensor | None = None  # (batch, source), 1 = keep


class Step(NamedTuple):
    """The results of one step."""

    state: State  # the new state, before zoneout
    emitted: tuple[Tensor, ...] = ()  # results beside the state, such as attention weights
    residuals: tuple[Tensor, ...] = ()  # what the derivative needs beside states and emitted tensors


class Trace(NamedTuple):
    """The forward pass over all steps; each tensor has a leading time axis."""

    previous: State  # the state before each step
    state: State  # the state after each step
    candidate: State  # the new state before zoneout; `state` itself where there is no zoneout
    emitted: tuple[Tensor, ...]
    residuals: tuple[Tensor, ...]


class StepGradients(NamedTuple):
    """The results of the derivative of one step."""

    inputs: Tensor  # (batch, gates * units)
    state: State  # the gradient of the previous state
    saved: Any  # what `weight_gradients` needs of this step; nested tensors
    sums: Any  # the running sums with this step added


class Equations(Protocol):
    """One step of a cell. A foreign cell has these methods only."""

    states: int  # how many tensors the state consists of
    differentiable: bool  # whether the object is also a `DifferentiableEquations`; else autodiff finds the derivative
    applies_zoneout: bool  # whether `step` applies the zoneout masks itself; else the scan does after the step

    def prepare(self, weights: Any) -> Any:
        """Compute once what every `step` reads, such as parts of a kernel."""

    def step(self, weights: Any, masks: StepMasks, inputs: Any, state: State) -> Step:
        """Run one step.

        Args:
            weights: the result of `prepare`.
            masks: the masks of this step.
            inputs: (batch, gates * units), the input product; or what else the cell reads, nested.
            state: the previous state.
        """


class DifferentiableEquations(Equations, Protocol):
    """One step of a cell, with its derivative written by hand: backpropagation through time in four parts."""

    def prepare_backward(self, weights: Any) -> Any:
        """Compute once what every `step_backward` reads, such as a transposed kernel."""

    def zero_sums(self, weights: Any) -> Any:
        """Return the zeros that the running sums of `step_backward` start from."""

    def coefficients(self, weights: Any, masks: StepMasks, trace: Trace) -> Any:
        """Compute, for all steps at once, the numbers by which `step_backward` multiplies."""

    def step_backward(
        self, weights: Any, masks: StepMasks, coefficients: Any, d_state: State, d_emitted: tuple, sums: Any
    ) -> StepGradients:
        """Multiply the gradients of one step's results by the transposed derivative of `step`.

        Args:
            weights: the result of `prepare_backward`.
            masks: the masks of this step.
            coefficients: those of this step.
            d_state: the gradient of the new state.
            d_emitted: the gradients of the emitted tensors.
            sums: the running sums over the later steps.
        """

    def weight_gradients(
        self, weights: Any, masks: StepMasks, trace: Trace, d_inputs: Tensor, saved: Any, sums: Any
    ) -> Any:
        """Compute the gradients of the weights after the loop, for all steps at once."""

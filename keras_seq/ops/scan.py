# SPDX-License-Identifier: Apache-2.0
"""Equations run over time, with hand-written backpropagation through time.

The loop holds only what depends on the previous step. The input product comes before it, as one matrix product over all
steps, and the gradient of every weight after it, likewise.
"""

import functools
from typing import Any, NamedTuple

from keras import ops, tree

from keras_seq.ops.equations.cell import zone_out
from keras_seq.ops.equations.protocol import DifferentiableEquations, Equations, State, Step, StepMasks, Tensor, Trace
from keras_seq.ops.export_mode import is_portable_export
from keras_seq.ops.gradient import custom_gradient
from keras_seq.ops.time_loop import time_loop


def scan(
    equations: Equations | DifferentiableEquations,
    weights: Any,  # nested named tuples of tensors and None
    masks: StepMasks,  # of all steps
    inputs: Any,  # (time, batch, gates * units), the input product; or nested tensors (time, batch, ...) and None
    initial_state: State,
    mask: Tensor | None = None,  # (time, batch), True = keep
    *,
    recompute: bool = False,
    unroll: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...], State]:
    """Run a recurrence over time.

    A masked step leaves the state as it was. No gradient reaches the masks.

    Args:
        equations: the equations of one step.
        weights: the weights that they read.
        masks: the masks that they read, shared by all steps or with a leading time axis.
        inputs: what each step reads.
        initial_state: one tensor for each state.
        mask: which steps count.
        recompute: whether to keep nothing but the arguments for the backward pass, which then runs the forward pass
            again: less memory, more time.
        unroll: whether to write out the steps instead of looping. The number of steps must be static.

    Returns:
        `(outputs, emitted, state)`: the first state after each step (time, batch, units), the emitted tensors of each
        step, and the final state.
    """
    # `copy` reads variables, which `convert_to_tensor` leaves as they are. Gradients need tensors.
    weights = tree.map_structure(lambda w: w if w is None else ops.copy(w), weights)
    if not masks.zoneout_masks and not equations.applies_zoneout:
        masks = masks._replace(zoneout_masks=(None,) * equations.states)
    if mask is not None:
        mask = ops.cast(mask, initial_state[0].dtype)  # JAX has no gradients for booleans

    # In an export the loop would keep residuals that nobody reads. Programs that load it can still differentiate it.
    differentiable = equations.differentiable and not is_portable_export()

    def run(inputs, initial_state, weights, mask, masks):
        visible = None if mask is None else ops.expand_dims(mask > 0, axis=-1)
        call = _Scan(equations, weights, masks, inputs, tuple(initial_state), visible, unroll)
        trace, state = _forward(call, keep=differentiable and not recompute)

        def gradient(d_outputs, d_emitted, d_state):
            kept = _forward(call, keep=True)[0] if recompute else trace
            d_inputs, d_initial_state, d_weights = _backward(call, kept, d_outputs, d_emitted, d_state)
            return d_inputs, d_initial_state, d_weights, None, tree.map_structure(lambda _: None, masks)

        return (trace.state[0], trace.emitted, state), gradient

    arguments = (inputs, tuple(initial_state), weights, mask, masks)
    return custom_gradient(run, arguments) if differentiable else run(*arguments)[0]


class _Scan(NamedTuple):
    """The arguments of one scan."""

    equations: Any
    weights: Any
    masks: StepMasks
    inputs: Any
    initial_state: State
    visible: Tensor | None  # (time, batch, 1) booleans
    unroll: bool


def _forward(scan: _Scan, keep: bool) -> tuple[Trace, State]:
    """Run the forward pass. The trace lacks what `_backward` computes from the states, and is empty without `keep`."""
    equations = scan.equations
    weights = equations.prepare(scan.weights)
    sequences, at_step = _split_time((scan.inputs, scan.masks, scan.visible))

    def step(state, slices):
        inputs, masks, visible = at_step(slices)
        candidate, emitted, residuals = equations.step(weights, masks, inputs, state)
        new_state = candidate if equations.applies_zoneout else zone_out(masks.zoneout_masks, state, candidate)
        if visible is not None:
            new_state = tuple(ops.where(visible, new, old) for new, old in zip(new_state, state, strict=True))
        if not keep:
            return new_state, (new_state[:1], (), emitted, ())
        candidate = tuple(() if m is None else c for m, c in zip(masks.zoneout_masks, candidate, strict=True))
        return new_state, (new_state, candidate, emitted, tuple(residuals))

    state, kept = time_loop(step, scan.initial_state, sequences, unroll=scan.unroll)
    return Trace((), *kept), state


def _backward(
    scan: _Scan,
    trace: Trace,
    d_outputs: Tensor,  # (time, batch, units)
    d_emitted: tuple[Tensor, ...],  # each (time, batch, ...)
    d_state: State,
) -> tuple[Tensor, State, Any]:
    """Run backpropagation through time: return the gradients of inputs, initial state and weights."""
    equations, weights = scan.equations, scan.weights
    prepared = equations.prepare_backward(weights)
    trace = trace._replace(
        previous=tuple(_shift(first, s) for first, s in zip(scan.initial_state, trace.state, strict=True)),
        candidate=tuple(
            s if m is None else c
            for m, s, c in zip(scan.masks.zoneout_masks, trace.state, trace.candidate, strict=True)
        ),
    )
    coefficients = equations.coefficients(weights, scan.masks, trace)
    # A masked step is one that zones out every unit: its whole gradient goes to the state before.
    shares = _kept_shares(scan.masks.zoneout_masks, scan.visible, d_outputs.dtype)
    sequences, at_step = _split_time(
        (coefficients, d_outputs, tuple(d_emitted), scan.masks._replace(zoneout_masks=shares))
    )

    def step(carry, slices):
        d_state, sums = carry
        coefficients, d_output, d_emitted, masks = at_step(slices)
        d_state = (d_state[0] + d_output, *d_state[1:])
        d_candidate = tuple(d if m is None else d * (1 - m) for m, d in zip(masks.zoneout_masks, d_state, strict=True))
        d_inputs, d_previous, saved, sums = equations.step_backward(
            prepared, masks, coefficients, d_candidate, d_emitted, sums
        )
        d_previous = tuple(
            new if m is None else new + d * m
            for m, new, d in zip(masks.zoneout_masks, d_previous, d_state, strict=True)
        )
        return (d_previous, sums), (d_inputs, saved)

    carry = (tuple(d_state), equations.zero_sums(weights))
    (d_initial_state, sums), (d_inputs, saved) = time_loop(step, carry, sequences, reverse=True, unroll=scan.unroll)
    d_weights = equations.weight_gradients(weights, scan.masks, trace, d_inputs, saved, sums)
    return d_inputs, d_initial_state, d_weights


def _split_time(nested: Any) -> tuple[tuple[Tensor, ...], functools.partial]:
    """Separate the tensors with a time axis, which have rank 3, from those that all steps share.

    Returns:
        The tensors with a time axis, and a function that puts their slices of one step into the nested structure.
    """
    flat = tree.flatten(nested)
    has_time = [x is not None and len(x.shape) == 3 for x in flat]

    def at_step(slices):
        slices = iter(slices)
        return tree.pack_sequence_as(nested, [next(slices) if t else x for x, t in zip(flat, has_time, strict=True)])

    return tuple(x for x, t in zip(flat, has_time, strict=True) if t), at_step


def _kept_shares(
    zoneout_masks: tuple[Tensor | None, ...],
    visible: Tensor | None,  # (time, batch, 1)
    dtype: str,
) -> tuple[Tensor | None, ...]:
    """Return the share of each state that a step keeps, by zoneout and because it is masked; None where it is 0."""
    if visible is None:
        return zoneout_masks
    masked = 1 - ops.cast(visible, dtype)
    return tuple(masked if m is None else ops.where(visible, m, 1) for m in zoneout_masks)


def _shift(
    first: Tensor,  # (batch, units)
    states: Tensor,  # (time, batch, units), the state after each step
) -> Tensor:  # (time, batch, units)
    """Return the state before each step."""
    return ops.concatenate([ops.expand_dims(first, axis=0), states], axis=0)[:-1]  # also if there are no steps


class ProbedInputs(NamedTuple):
    """The inputs of a step, and the probe that is added to its new h."""

    inputs: Any
    probe: Tensor  # (batch, size of h), zeros


class ProbedEquations:
    """Equations whose new output h' is that of `equations` plus a probe.

    With a probe of zeros the results are those of `equations`, and the gradient of the probe is that of each h_t.
    Autodiff finds the derivative.
    """

    differentiable = False

    def __init__(self, equations: Equations):
        self.equations = equations

    def __getattr__(self, name: str) -> Any:
        return getattr(self.equations, name)

    def step(self, weights: Any, masks: StepMasks, inputs: ProbedInputs, state: State) -> Step:
        state, emitted, residuals = self.equations.step(weights, masks, inputs.inputs, state)
        return Step((state[0] + inputs.probe, *state[1:]), emitted, residuals)

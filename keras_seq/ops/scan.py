# SPDX-License-Identifier: Apache-2.0
"""Implementation "xla": a recurrence as a scan over `cell_equations`, with hand-written backpropagation through time.

Written with `keras.ops`, so it runs on every backend of Keras and compiles under XLA for any device. The scan holds
only what depends on the previous step: the input projection comes before it as one matrix product, the gradient of
every weight after it as one product over all steps. What differs between backends is in `time_loop`.
"""

import functools
from typing import NamedTuple

from keras import backend, ops, tree

from keras_seq.ops.cell_equations import Trace, zone_out
from keras_seq.ops.gradient import custom_gradient


class _Masks(NamedTuple):
    """The masks of a run, each None where there is none. Rank 3 has a leading time axis, rank 2 serves every step."""

    visible: object  # (time, batch, 1) booleans
    dropout: object  # ([time,] batch, units)
    zoneout: tuple  # of ([time,] batch, units), one a state


def scan(
    cell,
    inputs,
    initial_state,
    weights,
    mask=None,
    zoneout_masks=None,
    *,
    recompute=False,
    unroll=False,
):
    """Run a recurrence over time.

    Args:
        cell: a recurrence of `cell_equations`.
        inputs: (time, batch, gates * units), projected.
        initial_state: tuple of (batch, units), one a state of the cell.
        weights: the cell's weights, a (nested) named tuple of tensors or None.
        mask: (time, batch) booleans, or None. A step where it is False leaves the state as it was.
        zoneout_masks: None, or a tuple with one entry a state: None, (batch, units) or (time, batch, units), the
            share of the state before that a step keeps. No gradient reaches them.
        recompute: whether to keep nothing for the backward pass but the arguments, and to run the forward pass
            again when a gradient is asked for: less memory, more time.
        unroll: whether to lay out the steps one after the other instead of looping. Needs a static time.

    Returns:
        `(outputs, emitted, state)`: the first state at each step (time, batch, units), the tuple of what the cell
        emits at each step, and the tuple of final states.
    """
    # `copy` reads variables, which `convert_to_tensor` leaves as they are; a gradient is asked of tensors.
    weights = tree.map_structure(lambda w: w if w is None else ops.copy(w), weights)
    zoneout_masks = (None,) * cell.states if zoneout_masks is None else tuple(zoneout_masks)
    if mask is not None:
        mask = ops.cast(mask, inputs.dtype)  # JAX has no gradients of arguments that are not numbers

    def run(inputs, initial_state, weights, mask, zoneout_masks):
        visible = None if mask is None else ops.expand_dims(mask > 0, axis=-1)
        masks = _Masks(visible, cell.dropout_mask(weights), zoneout_masks)
        forward = functools.partial(_forward, cell, inputs, initial_state, weights, masks, unroll)
        trace, state = forward(keep=cell.differentiable and not recompute)

        def gradient(d_outputs, d_emitted, d_state):
            kept = forward()[0] if recompute else trace
            found = _backward(cell, initial_state, weights, masks, kept, d_outputs, d_emitted, d_state, unroll)
            return *found, None, (None,) * cell.states

        return (trace.state[0], trace.emitted, state), gradient

    arguments = (inputs, tuple(initial_state), weights, mask, zoneout_masks)
    return custom_gradient(run, arguments) if cell.differentiable else run(*arguments)[0]


def _forward(cell, inputs, initial_state, weights, masks, unroll, keep=True):
    """The forward pass: the final state, and the trace, without what `_backward` has from the states."""
    prepared = cell.prepare(weights)
    mask_sequences, masks_of_step = _over_steps(masks)

    def step(state, slices):
        inputs, mask_slices = slices
        masks = masks_of_step(mask_slices)
        candidate, emitted, residuals = cell.step(inputs, state, cell.with_dropout_mask(prepared, masks.dropout))
        new_state = zone_out(masks.zoneout, state, candidate)
        if masks.visible is not None:
            new_state = tuple(ops.where(masks.visible, new, old) for new, old in zip(new_state, state, strict=True))
        if not keep:
            return new_state, (new_state[:1], (), emitted, ())
        candidate = tuple(() if m is None else c for m, c in zip(masks.zoneout, candidate, strict=True))
        return new_state, (new_state, candidate, emitted, tuple(residuals))

    sequences = (inputs, mask_sequences)
    state, kept = time_loop(step, tuple(initial_state), sequences, unroll=unroll)
    return Trace((), *kept), state


def _backward(cell, initial_state, weights, masks, trace, d_outputs, d_emitted, d_state, unroll):
    """Backpropagation through time: the gradients of inputs, initial state and weights."""
    prepared = cell.prepare_backward(weights)
    trace = trace._replace(
        previous=tuple(_shift(first, s) for first, s in zip(initial_state, trace.state, strict=True)),
        candidate=tuple(
            s if m is None else c for m, s, c in zip(masks.zoneout, trace.state, trace.candidate, strict=True)
        ),
    )
    coefficients = cell.coefficients(trace, weights)
    # A masked step is one that zones out everything: it hands its gradient to the state before, whole.
    masks = _Masks(None, masks.dropout, _kept_shares(masks, d_outputs.dtype))
    mask_sequences, masks_of_step = _over_steps(masks)

    def step(carry, slices):
        d_state, sums = carry
        coefficients, d_output, d_emitted, mask_slices = slices
        masks = masks_of_step(mask_slices)
        d_state = (d_state[0] + d_output, *d_state[1:])
        d_candidate = tuple(d if m is None else d * (1 - m) for m, d in zip(masks.zoneout, d_state, strict=True))
        d_inputs, d_previous, kept, sums = cell.step_backward(
            d_candidate, d_emitted, coefficients, cell.with_dropout_mask(prepared, masks.dropout), sums
        )
        d_previous = tuple(
            new if m is None else new + d * m for m, new, d in zip(masks.zoneout, d_previous, d_state, strict=True)
        )
        return (d_previous, sums), (d_inputs, kept)

    sequences = (coefficients, d_outputs, tuple(d_emitted), mask_sequences)
    carry = (tuple(d_state), cell.zero_sums(weights))
    (d_initial_state, sums), (d_inputs, kept) = time_loop(step, carry, sequences, reverse=True, unroll=unroll)
    return d_inputs, d_initial_state, cell.weight_gradients(trace, d_inputs, kept, sums, weights)


def _over_steps(masks):
    """The masks that differ from step to step, and the function that makes of their slices the masks of a step."""
    flat = tree.flatten(masks)
    differs = [mask is not None and len(mask.shape) == 3 for mask in flat]

    def of_step(slices):
        slices = iter(slices)
        return tree.pack_sequence_as(masks, [next(slices) if d else m for m, d in zip(flat, differs, strict=True)])

    return tuple(mask for mask, d in zip(flat, differs, strict=True) if d), of_step


def _kept_shares(masks, dtype):
    """The share of each state that a step keeps, by zoneout and by the mask of the sequence; None where it is 0."""
    if masks.visible is None:
        return masks.zoneout
    masked = 1 - ops.cast(masks.visible, dtype)
    return tuple(masked if m is None else ops.where(masks.visible, m, 1) for m in masks.zoneout)


def _shift(first, states):
    """The state before each step, from the first one and the states after each step."""
    return ops.concatenate([ops.expand_dims(first, axis=0), states], axis=0)[:-1]  # also where there is no step


class Probed:
    """A recurrence whose new output h' is that of `cell` plus a probe, which comes with the inputs, after them.

    With a probe of zeros the numbers are those of `cell`, and the gradient of the probe is that of each h_t.
    """

    differentiable = False

    def __init__(self, cell):
        self.cell = cell

    def __getattr__(self, name):
        return getattr(self.cell, name)

    def step(self, inputs, state, weights):
        size = state[0].shape[-1]
        state, emitted, residuals = self.cell.step(inputs[..., :-size], state, weights)
        return (state[0] + inputs[..., -size:], *state[1:]), emitted, residuals


def time_loop(step, carry, sequences, *, reverse=False, unroll=False):
    """Fold `step` over the leading axis of `sequences`, by the loop of the backend.

    Args:
        step: function `(carry, slices) -> (carry, results)` of nested tuples of tensors.
        carry: what the first step starts from.
        sequences: nested tuples of tensors (time, ...).
        reverse: whether to start at the last step; results keep the order of the sequences either way.
        unroll: whether to lay out the steps one after the other. Needs a static time.

    Returns:
        The last carry, and the results with a leading time axis. Without any step that is `carry`, and no results.
    """
    if tree.flatten(sequences)[0].shape[0] == 0:
        return carry, _results_of_no_step(step, carry, sequences)
    if backend.backend() == "jax":
        import jax

        return jax.lax.scan(step, carry, sequences, reverse=reverse, unroll=bool(unroll) or 1)
    if backend.backend() == "tensorflow" and not unroll:
        import tensorflow as tf

        if not tf.executing_eagerly():
            return _tensorflow_graph_loop(step, carry, sequences, reverse)
    return _python_loop(step, carry, sequences, reverse)


def _results_of_no_step(step, carry, sequences):
    """Empty results, whose shapes a step over zeros tells.

    None of them depends on that step: TensorFlow 2.21 divides by zero when it simplifies one over an empty batch.
    """
    slices = tree.map_structure(lambda s: ops.zeros(ops.shape(s)[1:], s.dtype), sequences)
    return tree.map_structure(lambda result: ops.zeros((0, *ops.shape(result)), result.dtype), step(carry, slices)[1])


def _python_loop(step, carry, sequences, reverse):
    flat = [ops.unstack(sequence, axis=0) for sequence in tree.flatten(sequences)]
    length = len(flat[0])
    results = [None] * length
    for t in reversed(range(length)) if reverse else range(length):
        slices = tree.pack_sequence_as(sequences, [sequence[t] for sequence in flat])
        carry, results[t] = step(carry, slices)
    return carry, tree.map_structure(lambda *steps: ops.stack(steps, axis=0), *results)


def _tensorflow_graph_loop(step, carry, sequences, reverse):
    """A loop in a graph; where the number of steps is unknown there, there may be none."""
    import tensorflow as tf

    flat_sequences = tree.flatten(sequences)
    if flat_sequences[0].shape[0] is not None:
        return _tensorflow_while_loop(step, carry, sequences, reverse)
    # Neither XLA nor a TensorArray of unknown batch takes a loop over nothing. So it makes a step that does not count.
    # A `tf.cond` in the place of `tf.pad` would copy nothing, but TensorFlow 2.21 crashes where XLA compiles it.
    steps = tf.shape(flat_sequences[0])[0]
    filled = []
    for sequence in flat_sequences:
        padding = [[0, tf.maximum(1 - steps, 0)], *[[0, 0]] * (sequence.shape.rank - 1)]
        filled.append(tf.ensure_shape(tf.pad(sequence, padding), sequence.shape))
    new_carry, results = _tensorflow_while_loop(step, carry, tree.pack_sequence_as(sequences, filled), reverse)
    new_carry = tree.map_structure(lambda new, old: tf.where(steps > 0, new, old), new_carry, carry)
    return new_carry, tree.map_structure(lambda result: result[:steps], results)


def _tensorflow_while_loop(step, carry, sequences, reverse):
    import tensorflow as tf

    flat_sequences = tree.flatten(sequences)
    length = flat_sequences[0].shape[0]
    steps = tf.shape(flat_sequences[0])[0] if length is None else length
    arrays = [tf.TensorArray(s.dtype, size=steps, element_shape=s.shape[1:]).unstack(s) for s in flat_sequences]

    # One step outside the loop tells shapes and dtypes; nothing uses its values, so the graph drops it.
    new_carry, results = step(carry, tree.pack_sequence_as(sequences, [s[0] for s in flat_sequences]))
    flat_carry = tree.flatten(carry)
    shapes = [
        old.shape.most_specific_compatible_shape(new.shape)
        for old, new in zip(flat_carry, tree.flatten(new_carry), strict=True)
    ]
    outputs = [tf.TensorArray(r.dtype, size=steps, element_shape=r.shape) for r in tree.flatten(results)]

    def body(t, carry, outputs):
        index = steps - 1 - t if reverse else t
        slices = tree.pack_sequence_as(sequences, [array.read(index) for array in arrays])
        carry, results = step(tree.pack_sequence_as(new_carry, carry), slices)
        outputs = [array.write(index, r) for array, r in zip(outputs, tree.flatten(results), strict=True)]
        return t + 1, tree.flatten(carry), outputs

    _, flat_carry, outputs = tf.while_loop(
        lambda t, *_: t < steps,
        body,
        (0, flat_carry, outputs),
        shape_invariants=(tf.TensorShape([]), shapes, [tf.TensorShape(None)] * len(outputs)),
        maximum_iterations=steps,  # what lets XLA differentiate the loop
    )
    stacked = [array.stack() for array in outputs]
    for tensor in stacked:
        tensor.set_shape([length, *tensor.shape[1:]])
    return tree.pack_sequence_as(new_carry, flat_carry), tree.pack_sequence_as(results, stacked)

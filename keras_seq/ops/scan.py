# SPDX-License-Identifier: Apache-2.0
"""Implementation "xla": a recurrence as a scan over `cell_math`, with hand-written backpropagation through time.

Written with `keras.ops`, so it runs on every backend of Keras and compiles under XLA for any device. The scan holds
only what depends on the previous step: the input projection comes before it as one matrix product, the gradient of
every weight after it as one product over all steps. `time_loop` is the only place that knows the backend.
"""

import functools

from keras import backend, ops, tree

from keras_seq.ops.cell_math import Trace
from keras_seq.ops.gradient import custom_gradient


def scan(cell, inputs, initial_state, weights, mask=None, *, reverse=False, recompute=False, unroll=False):
    """Run a recurrence over time.

    Args:
        cell: a recurrence of `cell_math`.
        inputs: (time, batch, gates * units), projected.
        initial_state: tuple of (batch, units), one a state of the cell.
        weights: the cell's weights, a (nested) named tuple of tensors or None.
        mask: (time, batch) booleans, or None. A step where it is False leaves the state as it was.
        reverse: whether to run from the last step to the first. Results keep the order of `inputs`.
        recompute: whether to keep nothing for the backward pass but the arguments, and to run the forward pass
            again when a gradient is asked for: less memory, more time.
        unroll: whether to lay out the steps one after the other instead of looping. Needs a static time.

    Returns:
        `(outputs, emitted, state)`: the first state at each step (time, batch, units), the tuple of what the cell
        emits at each step, and the tuple of final states.
    """
    loop = {"reverse": reverse, "unroll": unroll}
    # `copy` reads variables, which `convert_to_tensor` leaves as they are; a gradient is asked of tensors.
    weights = tree.map_structure(lambda w: w if w is None else ops.copy(w), weights)
    if not cell.differentiable:
        trace, state = _forward(cell, inputs, initial_state, weights, mask, **loop)
        return trace.state[0], trace.emitted, state
    if mask is not None:
        mask = ops.cast(mask, inputs.dtype)  # JAX has no gradients of arguments that are not numbers

    def run(inputs, initial_state, weights, mask):
        mask = None if mask is None else mask > 0
        forward = functools.partial(_forward, cell, inputs, initial_state, weights, mask, **loop)
        trace, state = forward(keep=not recompute)

        def gradient(d_outputs, d_emitted, d_state):
            kept = forward()[0] if recompute else trace
            return *_backward(cell, initial_state, weights, mask, kept, d_outputs, d_emitted, d_state, **loop), None

        return (trace.state[0], trace.emitted, state), gradient

    return custom_gradient(run, (inputs, tuple(initial_state), weights, mask))


def _where(mask, kept, otherwise):
    """Elementwise choice between two tuples of (batch, units) by a mask (batch,)."""
    return tuple(ops.where(mask[:, None], a, b) for a, b in zip(kept, otherwise, strict=True))


def _forward(cell, inputs, initial_state, weights, mask, *, reverse, unroll, keep=True):
    """The forward pass: the trace of all steps but for the states before them, and the final state."""
    prepared = cell.prepare(weights)

    def step(state, slices):
        inputs, *mask = slices
        new_state, emitted, residuals = cell.step(inputs, state, prepared)
        if mask:
            new_state = _where(mask[0], new_state, state)
        kept = (new_state, emitted, tuple(residuals)) if keep else (new_state[:1], emitted, ())
        return new_state, kept

    sequences = (inputs,) if mask is None else (inputs, mask)
    state, kept = time_loop(step, tuple(initial_state), sequences, reverse=reverse, unroll=unroll)
    return Trace((), *kept), state


def _backward(cell, initial_state, weights, mask, trace, d_outputs, d_emitted, d_state, *, reverse, unroll):
    """Backpropagation through time: the gradients of inputs, initial state and weights."""
    prepared = cell.prepare_backward(weights)
    trace = trace._replace(
        previous=tuple(_shift(first, states, reverse) for first, states in zip(initial_state, trace.state, strict=True))
    )

    coefficients = cell.coefficients(trace, weights)

    def step(carry, slices):
        d_state, sums = carry
        coefficients, d_output, d_emitted, *mask = slices
        d_state = (d_state[0] + d_output, *d_state[1:])
        if mask:  # a masked step hands its gradient to the state before, whole
            kept_rows = ops.cast(mask[0], d_output.dtype)[:, None]  # (batch, 1)
            d_carried = tuple(d * (1 - kept_rows) for d in d_state)
            d_state = tuple(d * kept_rows for d in d_state)
        d_inputs, d_previous, kept, sums = cell.step_backward(d_state, d_emitted, coefficients, prepared, sums)
        if mask:
            d_previous = tuple(a + b for a, b in zip(d_previous, d_carried, strict=True))
        return (d_previous, sums), (d_inputs, kept)

    sequences = (coefficients, d_outputs, tuple(d_emitted))
    if mask is not None:
        sequences = (*sequences, mask)
    carry = (tuple(d_state), cell.zero_sums(weights))
    (d_initial_state, sums), (d_inputs, kept) = time_loop(step, carry, sequences, reverse=not reverse, unroll=unroll)
    return d_inputs, d_initial_state, cell.weight_gradients(trace, d_inputs, kept, sums, weights)


def _shift(first, states, reverse):
    """The state before each step, from the first one and the states after each step."""
    first = ops.expand_dims(first, axis=0)
    if reverse:
        return ops.concatenate([states[1:], first], axis=0)
    return ops.concatenate([first, states[:-1]], axis=0)


def time_loop(step, carry, sequences, *, reverse=False, unroll=False):
    """Fold `step` over the leading axis of `sequences`: the one seam between keras_seq and the backend.

    Args:
        step: function `(carry, slices) -> (carry, results)` of nested tuples of tensors.
        carry: what the first step starts from.
        sequences: nested tuples of tensors (time, ...).
        reverse: whether to start at the last step; results keep the order of the sequences either way.
        unroll: whether to lay out the steps one after the other. Needs a static time.

    Returns:
        The last carry, and the results with a leading time axis.
    """
    if backend.backend() == "jax":
        import jax

        return jax.lax.scan(step, carry, sequences, reverse=reverse, unroll=bool(unroll) or 1)
    if backend.backend() == "tensorflow" and not unroll:
        import tensorflow as tf

        if not tf.executing_eagerly():
            return _tensorflow_graph_loop(step, carry, sequences, reverse)
    return _python_loop(step, carry, sequences, reverse)


def _python_loop(step, carry, sequences, reverse):
    flat = [ops.unstack(sequence, axis=0) for sequence in tree.flatten(sequences)]
    length = len(flat[0])
    results = [None] * length
    for t in reversed(range(length)) if reverse else range(length):
        slices = tree.pack_sequence_as(sequences, [sequence[t] for sequence in flat])
        carry, results[t] = step(carry, slices)
    return carry, tree.map_structure(lambda *steps: ops.stack(steps, axis=0), *results)


def _tensorflow_graph_loop(step, carry, sequences, reverse):
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

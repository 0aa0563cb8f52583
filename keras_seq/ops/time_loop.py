# SPDX-License-Identifier: Apache-2.0
"""A loop over time on every backend of Keras."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from keras import backend, ops, tree

Nested: TypeAlias = Any  # tensors in nested tuples

_writes_tensors = contextvars.ContextVar("keras_seq_loops_without_tensor_arrays", default=False)


@contextlib.contextmanager
def loops_without_tensor_arrays() -> Iterator[None]:
    """Has graphs of TensorFlow traced within a `with` block hold loops without TensorArrays, as LiteRT needs them.

    LiteRT has no TensorArray of elements whose shape is not known, such as those of a batch of any size.
    """
    token = _writes_tensors.set(True)
    try:
        yield
    finally:
        _writes_tensors.reset(token)


def time_loop(
    step: Callable,
    carry: Nested,
    sequences: Nested,  # each tensor (time, ...)
    *,
    reverse: bool = False,
    unroll: bool = False,
    parallel_iterations: int = 10,
    never_empty: bool = False,
) -> tuple[Nested, Nested]:
    """Apply `step` to one slice of `sequences` after the other, as `jax.lax.scan` does.

    Args:
        step: function `(carry, slices) -> (carry, results)` of nested tuples of tensors.
        carry: the carry that the first step gets.
        sequences: nested tuples of tensors (time, ...).
        reverse: whether to start at the last step. Results keep the order of the sequences.
        unroll: whether to write out the steps instead of looping. The number of steps must be static.
        parallel_iterations: how many steps a graph of TensorFlow may run at once as far as they do not depend on each
            other. With 1 the loop takes the memory of a single step.
        never_empty: whether there is at least one step, even if their number is unknown. Saves copies of the carry.

    Returns:
        The last carry, and the results with a leading time axis. If there are no steps, these are `carry` and empty
        tensors.
    """
    if tree.flatten(sequences)[0].shape[0] == 0:
        return carry, _empty_results(step, carry, sequences)
    if backend.backend() == "jax":
        import jax

        return jax.lax.scan(step, carry, sequences, reverse=reverse, unroll=bool(unroll) or 1)
    if backend.backend() == "tensorflow" and not unroll:
        import tensorflow as tf

        if not tf.executing_eagerly():
            if _writes_tensors.get():
                return _tensorflow_scatter_loop(step, carry, sequences, reverse)
            if never_empty:
                return _tensorflow_while_loop(step, carry, sequences, reverse, parallel_iterations)
            return _tensorflow_graph_loop(step, carry, sequences, reverse, parallel_iterations)
    return _python_loop(step, carry, sequences, reverse)


def _empty_results(step: Callable, carry: Nested, sequences: Nested) -> Nested:
    """Return empty results, with the shapes that a step over zeros gives.

    They do not depend on that step: TensorFlow 2.21 divides by zero when it simplifies a step over an empty batch.
    """
    slices = tree.map_structure(lambda s: ops.zeros(ops.shape(s)[1:], s.dtype), sequences)
    return tree.map_structure(lambda result: ops.zeros((0, *ops.shape(result)), result.dtype), step(carry, slices)[1])


def _python_loop(step: Callable, carry: Nested, sequences: Nested, reverse: bool) -> tuple[Nested, Nested]:
    flat = [ops.unstack(sequence, axis=0) for sequence in tree.flatten(sequences)]
    length = len(flat[0])
    results = [None] * length
    for t in reversed(range(length)) if reverse else range(length):
        slices = tree.pack_sequence_as(sequences, [sequence[t] for sequence in flat])
        carry, results[t] = step(carry, slices)
    return carry, tree.map_structure(lambda *steps: ops.stack(steps, axis=0), *results)


def _tensorflow_graph_loop(
    step: Callable, carry: Nested, sequences: Nested, reverse: bool, parallel_iterations: int
) -> tuple[Nested, Nested]:
    """Build a loop in a graph. If the number of steps is unknown, it may turn out to be zero."""
    import tensorflow as tf

    flat_sequences = tree.flatten(sequences)
    if flat_sequences[0].shape[0] is not None:
        return _tensorflow_while_loop(step, carry, sequences, reverse, parallel_iterations)
    # Neither XLA nor a TensorArray of unknown batch size accepts a loop of zero steps. So the loop runs one step over
    # padding, and its results are dropped. `tf.cond` instead of `tf.pad` would save a copy, but crashes TensorFlow 2.21
    # when XLA compiles it.
    steps = tf.shape(flat_sequences[0])[0]
    filled = []
    for sequence in flat_sequences:
        padding = [[0, tf.maximum(1 - steps, 0)], *[[0, 0]] * (sequence.shape.rank - 1)]
        filled.append(tf.ensure_shape(tf.pad(sequence, padding), sequence.shape))
    filled = tree.pack_sequence_as(sequences, filled)
    new_carry, results = _tensorflow_while_loop(step, carry, filled, reverse, parallel_iterations)
    new_carry = tree.map_structure(lambda new, old: tf.where(steps > 0, new, old), new_carry, carry)
    return new_carry, tree.map_structure(lambda result: result[:steps], results)


def _tensorflow_while_loop(
    step: Callable, carry: Nested, sequences: Nested, reverse: bool, parallel_iterations: int
) -> tuple[Nested, Nested]:
    import tensorflow as tf

    flat_sequences = tree.flatten(sequences)
    length = flat_sequences[0].shape[0]
    steps = tf.shape(flat_sequences[0])[0] if length is None else length
    arrays = [tf.TensorArray(s.dtype, size=steps, element_shape=s.shape[1:]).unstack(s) for s in flat_sequences]

    # One step outside the loop gives the shapes and dtypes. Nothing uses its values, so TensorFlow prunes it.
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
        parallel_iterations=parallel_iterations,
        maximum_iterations=steps,  # XLA needs it to differentiate the loop
    )
    stacked = [array.stack() for array in outputs]
    for tensor in stacked:
        tensor.set_shape([length, *tensor.shape[1:]])
    return tree.pack_sequence_as(new_carry, flat_carry), tree.pack_sequence_as(results, stacked)


def _tensorflow_scatter_loop(step: Callable, carry: Nested, sequences: Nested, reverse: bool) -> tuple[Nested, Nested]:
    """Build a loop in a graph that writes its results into tensors, each step into its row."""
    import tensorflow as tf

    steps = tf.shape(tree.flatten(sequences)[0])[0]
    # There may be no first step, so one over zeros gives shapes and dtypes.
    zeros = tree.map_structure(lambda s: tf.zeros(tf.shape(s)[1:], s.dtype), sequences)
    tree.map_structure(lambda zero, s: zero.set_shape(s.shape[1:]), zeros, sequences)
    new_carry, results = step(carry, zeros)
    flat_carry = tree.flatten(carry)
    shapes = [
        old.shape.most_specific_compatible_shape(new.shape)
        for old, new in zip(flat_carry, tree.flatten(new_carry), strict=True)
    ]
    outputs = [tf.zeros(tf.concat([[steps], tf.shape(r)], axis=0), r.dtype) for r in tree.flatten(results)]
    output_shapes = [tf.TensorShape([None, *r.shape]) for r in tree.flatten(results)]

    def body(t, carry, outputs):
        index = steps - 1 - t if reverse else t
        slices = tree.map_structure(lambda s: tf.gather(s, index), sequences)
        carry, results = step(tree.pack_sequence_as(new_carry, carry), slices)
        rows = [tf.expand_dims(r, axis=0) for r in tree.flatten(results)]
        outputs = [
            tf.tensor_scatter_nd_update(o, tf.reshape(index, [1, 1]), row) for o, row in zip(outputs, rows, strict=True)
        ]
        return t + 1, tree.flatten(carry), outputs

    _, flat_carry, outputs = tf.while_loop(
        lambda t, *_: t < steps,
        body,
        (tf.constant(0), flat_carry, outputs),
        shape_invariants=(tf.TensorShape([]), shapes, output_shapes),
    )
    return tree.pack_sequence_as(new_carry, flat_carry), tree.pack_sequence_as(results, outputs)

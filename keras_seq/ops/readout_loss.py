# SPDX-License-Identifier: Apache-2.0
"""The cross-entropy of a readout, whose logits are never held for all rows at once."""

from collections.abc import Callable
from typing import Any

import keras
from keras import backend, ops

from keras_seq._private_api import inside_xla
from keras_seq.ops import native
from keras_seq.ops.gradient import custom_gradient
from keras_seq.ops.readout_rows import run_counted_rows
from keras_seq.ops.time_loop import time_loop

Tensor = Any

# Logits of a chunk. Every chunk adds a gradient of the kernel, as large as the kernel, so small chunks are slow.
_CHUNK_LOGITS = 2**22
_KERNEL_DTYPES = ("float32", "float64")
_CHUNK_ROWS = 512  # where the vocabulary is larger, a chunk has so many rows, or as many as there are features


def readout_crossentropy(
    features: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor,
    label_smoothing: float = 0.0,
    compute_gradient: bool = True,
    rows_per_chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the weighted sum of cross-entropies of `softmax(features kernel + bias)`.

    The logits are computed for some rows at a time, with their part of the gradients, and then forgotten, as in cut
    cross-entropy (Wijmans et al. 2025) and the Liger kernels (Hsu et al. 2024). So memory grows with the rows and with
    the vocabulary, not with their product. With p the softmax of a row and s the label smoothing, the row adds

    `weight * sum_v -((1 - s) [v = target] + s / vocabulary) log p_v`

    Args:
        features: float32, float64, bfloat16 or float16 (..., depth).
        kernel: (depth, vocabulary), of the same dtype.
        bias: (vocabulary,), or None.
        targets: integers (...), less than `vocabulary`; others raise an error, or make the loss NaN under XLA and on a
            GPU. Rows with a negative target do not count, and are not computed where the number of rows may depend on
            values, as in a graph of TensorFlow. Under XLA whole chunks are skipped.
        weights: float (...).
        label_smoothing: s, in [0, 1).
        compute_gradient: whether the loss has gradients, those of `features`, `kernel` and `bias`. They are computed at
            once, whether or not they are asked for, so pass False in evaluation.
        rows_per_chunk: largest number of rows to compute at once. By default there are 4 million logits, or as many as
            weights in the kernel if these are more.

    Returns:
        `(loss, losses, predictions)`:

        - the scalar loss, float32, or float64 for float64 features. It has first-order gradients.
        - `-log p_target` of each row (...), in the same dtype, without label smoothing; 0 where the target is negative.
        - the id with the largest logit of each row (...), int32; -1 where the target is negative.

    Example:
        >>> import numpy as np
        >>> features, kernel, bias = np.ones((1, 2, 3)), np.zeros((3, 8)), np.zeros(8)
        >>> loss, losses, predictions = readout_crossentropy(features, kernel, bias, [[4, -1]], [[1.0, 1.0]])
        >>> bool(np.isclose(loss, np.log(8)))
        True
    """
    features, kernel, targets = (ops.convert_to_tensor(x) for x in (features, kernel, targets))
    shape, dtype = ops.shape(targets), _sum_dtype(features.dtype)
    rows = {
        "features": ops.reshape(features, (-1, features.shape[-1])),
        "targets": ops.cast(ops.reshape(targets, (-1,)), "int32"),
        "weights": ops.cast(ops.reshape(weights, (-1,)), dtype),
    }
    if bias is None:
        bias = ops.zeros((kernel.shape[1],), kernel.dtype)
    arguments = (rows, kernel, ops.convert_to_tensor(bias))
    options = {"label_smoothing": label_smoothing, "most": rows_per_chunk or _rows_of_chunk(kernel.shape)}
    if compute_gradient:
        results = custom_gradient(lambda *arguments: _loss_and_gradient(*arguments, **options), arguments)
    else:
        results = _run(*arguments, **options)
    loss, losses, predictions = results
    return loss, ops.reshape(losses, shape), ops.reshape(predictions, shape)


def _sum_dtype(dtype: Any) -> str:
    """Return the dtype in which losses and gradients are summed."""
    dtype = keras.backend.standardize_dtype(dtype)
    return dtype if dtype == "float64" else "float32"


def _loss_and_gradient(rows: dict, kernel: Tensor, bias: Tensor, **options: Any) -> tuple[tuple, Callable]:
    """Return the results and their gradient, for `custom_gradient`."""
    # Gradients are computed for a largest weight of one, which keeps them in the range of float16.
    scale = ops.max(ops.abs(rows["weights"]), initial=0)
    unit_rows = {**rows, "weights": rows["weights"] / ops.where(scale > 0, scale, ops.ones_like(scale))}
    loss, losses, predictions, *sums = _run(unit_rows, kernel, bias, **options, with_gradients=True)

    def gradient(d_loss: Tensor, *_: Tensor) -> tuple:
        d_features, d_kernel, d_bias = (
            ops.cast(d_sum * (d_loss * scale), x.dtype)
            for d_sum, x in zip(sums, (rows["features"], kernel, bias), strict=True)
        )
        return {"features": d_features, "targets": None, "weights": None}, d_kernel, d_bias

    return (loss * scale, losses, predictions), gradient


def _run(
    rows: dict, kernel: Tensor, bias: Tensor, label_smoothing: float, most: int, with_gradients: bool = False
) -> tuple:
    """Run the loop over chunks of at most `most` rows.

    Returns:
        `(loss, losses, predictions)`, with gradients followed by those of features, kernel and bias.
    """
    if _has_kernel(rows["features"].dtype):
        return run_counted_rows(rows, kernel, bias, label_smoothing, most, with_gradients)
    is_row = rows["targets"] >= 0
    size = ops.shape(is_row)[0]
    chunks, places = _make_chunks(is_row, most)
    dtype = rows["weights"].dtype
    # A row of zeros at the end stands for no row.
    padded = {name: ops.pad(values, [[0, 1]] + [[0, 0]] * (len(values.shape) - 1)) for name, values in rows.items()}

    def compute(carry: tuple, indices: Tensor) -> tuple[tuple, tuple]:
        features, targets, weights = (ops.take(padded[name], indices, axis=0) for name in rows)
        results = _crossentropy(features, kernel, bias, targets, label_smoothing, with_gradients)
        losses, smooth_losses, predictions, *d_logits = results
        sums, d_features = [ops.sum(weights * smooth_losses)], []
        if with_gradients:
            *d_features, d_kernel, d_bias = _chunk_gradients(features, kernel, weights, *d_logits)
            sums += [d_kernel, d_bias]
        carry = tuple(total + ops.cast(x, dtype) for total, x in zip(carry, sums, strict=True))
        return carry, (losses, predictions, *d_features)

    def skip(carry: tuple, indices: Tensor) -> tuple[tuple, tuple]:
        d_features = [ops.zeros((*ops.shape(indices), kernel.shape[0]), dtype)] if with_gradients else []
        return carry, (ops.zeros_like(indices, dtype), ops.zeros_like(indices), *d_features)

    def step(carry: tuple, indices: Tensor) -> tuple[tuple, tuple]:
        if _sizes_may_depend_on_values():  # there are no chunks without rows
            return compute(carry, indices)
        return ops.cond(indices[0] < size, lambda: compute(carry, indices), lambda: skip(carry, indices))

    carry = (ops.zeros((), dtype),)
    if with_gradients:
        carry += (ops.zeros(kernel.shape, dtype), ops.zeros(bias.shape, dtype))
    (loss, *sums), results = time_loop(step, carry, chunks, parallel_iterations=1, never_empty=True)
    losses, predictions, *d_features = (_collect(values, places, is_row) for values in results)
    return loss, losses, ops.where(is_row, predictions, -1), *d_features, *sums


def _collect(values: Tensor, places: Tensor, is_row: Tensor) -> Tensor:
    """Return the values of each row (rows, ...) from those of the chunks (chunks, rows of a chunk, ...)."""
    values = ops.reshape(values, (-1, *values.shape[2:]))
    values = ops.take(values, ops.minimum(places, ops.shape(values)[0] - 1), axis=0)
    is_row = ops.reshape(is_row, (-1,) + (1,) * (len(values.shape) - 1))
    return ops.where(is_row, values, ops.zeros_like(values))  # a number would make it float32 on PyTorch


def _crossentropy(
    features: Tensor, kernel: Tensor, bias: Tensor, targets: Tensor, label_smoothing: float, with_gradient: bool
) -> tuple:
    """Return the losses of a chunk (rows,), those with label smoothing, and predictions.

    With a gradient, also the derivative of the losses with smoothing by the logits (rows, vocabulary).
    """
    dtype, vocabulary = _sum_dtype(features.dtype), kernel.shape[1]
    logits = ops.cast(features @ kernel + bias, dtype)  # (rows, vocabulary)
    predictions = _argmax(logits)
    largest = ops.max(logits, axis=-1, keepdims=True)
    of_target = ops.take_along_axis(logits, targets[:, None], axis=-1)
    # Where a device does not report an id outside the vocabulary, XLA would take the last token, a GPU a logit of 0.
    of_target = ops.where(targets[:, None] < vocabulary, of_target, ops.full_like(of_target, float("nan")))
    mean = ops.sum(logits, axis=-1) / vocabulary if label_smoothing else None  # `ops.mean` is float32 on PyTorch
    powers = ops.exp(logits - largest)
    total = ops.sum(powers, axis=-1, keepdims=True)
    normalizer = largest + ops.log(total)
    losses = (normalizer - of_target)[:, 0]
    smooth = losses
    if label_smoothing:
        smooth = (1 - label_smoothing) * losses + label_smoothing * (normalizer[:, 0] - mean)
    if not with_gradient:
        return losses, smooth, predictions
    d_logits = powers / total
    of_targets = ops.expm1(-losses)  # the probability minus one, without cancellation
    if label_smoothing:
        d_logits = d_logits - label_smoothing / vocabulary
        of_targets = of_targets + (label_smoothing - label_smoothing / vocabulary)
    places = ops.stack([ops.arange(ops.shape(targets)[0], dtype="int32"), targets], axis=1)
    d_logits = ops.scatter_update(d_logits, places, of_targets)
    return losses, smooth, predictions, d_logits


def _argmax(logits: Tensor) -> Tensor:
    """Return the index of the largest of each row, int32."""
    if backend.backend() == "tensorflow":  # Keras's tells 0.0 from -0.0, which takes longer than the maximum
        import tensorflow as tf

        return tf.argmax(logits, axis=-1, output_type="int32")
    return ops.cast(ops.argmax(logits, axis=-1), "int32")


def _chunk_gradients(features: Tensor, kernel: Tensor, weights: Tensor, d_logits: Tensor) -> tuple:
    """Return the gradients of the features of a chunk, of the kernel and of the bias."""
    low = ops.cast(d_logits, features.dtype)
    d_features = ops.cast(low @ ops.transpose(kernel), d_logits.dtype) * weights[:, None]
    weighted = features * ops.cast(weights[:, None], features.dtype)
    return d_features, ops.transpose(weighted) @ low, (weights[None] @ d_logits)[0]


def _rows_of_chunk(shape: tuple) -> int:
    """Return the largest number of rows of a chunk, for a kernel of this shape."""
    depth, vocabulary = shape
    return max(_CHUNK_LOGITS // vocabulary, min(depth, _CHUNK_ROWS))


def _sizes_may_depend_on_values() -> bool:
    """Whether the number of chunks may depend on how many rows count."""
    return backend.backend() == "torch" or (backend.backend() == "tensorflow" and not inside_xla())


def _has_kernel(dtype: Any) -> bool:
    """Whether a native kernel computes the loss of logits."""
    if backend.backend() != "tensorflow" or inside_xla() or backend.standardize_dtype(dtype) not in _KERNEL_DTYPES:
        return False
    return native.unavailable() is None


def _make_chunks(is_row: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Assign rows to chunks, those that count first.

    Args:
        is_row: booleans (rows,), whether each row counts.
        most: largest number of rows of a chunk.

    Returns:
        Indices of rows (chunks, rows of a chunk), which are the number of rows where there is none, and the place of
        each row among them (rows,), which means nothing for rows that do not count.
    """
    size = ops.shape(is_row)[0]
    counts = ops.cumsum(ops.cast(is_row, "int32"))
    number = ops.sum(ops.cast(is_row, "int32"))
    places = ops.where(is_row, counts - 1, size)
    # Rows that do not count are all written to the last place, which is not read.
    order = ops.scatter_update(ops.full((size + 1,), size, "int32"), places[:, None], ops.arange(size, dtype="int32"))
    needed = number if _sizes_may_depend_on_values() else size
    if backend.backend() == "torch":
        needed = int(needed)
    at_least_one = max if isinstance(needed, int) else ops.maximum
    chunks = at_least_one(-(-needed // most), 1)
    rows = at_least_one(-(-needed // chunks), 1)
    all_places = ops.arange(chunks * rows, dtype="int32")
    indices = ops.where(all_places < number, ops.take(order, ops.minimum(all_places, size), axis=0), size)
    return ops.reshape(indices, (chunks, rows)), places

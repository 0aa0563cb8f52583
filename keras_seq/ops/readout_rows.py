# SPDX-License-Identifier: Apache-2.0
"""The loop of `readout_crossentropy` where sizes may depend on values: in TensorFlow on a CPU, but for XLA."""

from typing import Any

from keras_seq.ops import native

Tensor = Any


def run_counted_rows(
    rows: dict[str, Tensor],
    kernel: Tensor,
    bias: Tensor,
    label_smoothing: float,
    most: int,
    with_gradients: bool,
) -> tuple:
    """Run the loop over chunks of at most `most` rows, which are those that count and no others.

    The logits of a chunk become their gradient in one pass of a native kernel.

    Args:
        rows: `features` (rows, depth), float32 or float64; `targets` (rows,), int32, negative where a row does not
            count; `weights` (rows,), of the same dtype as the features.
        kernel, bias: (depth, vocabulary), (vocabulary,).
        label_smoothing: see `readout_crossentropy`.
        most: largest number of rows of a chunk.
        with_gradients: whether to compute gradients.

    Returns:
        `(loss, losses, predictions)`, with gradients followed by those of features, kernel and bias.
    """
    import tensorflow as tf

    features, targets, weights = rows["features"], rows["targets"], rows["weights"]
    counted = tf.where(targets >= 0)  # (rows that count, 1)
    number = tf.shape(counted)[0]
    chunks = tf.maximum(-(-number // most), 1)
    height = -(-number // chunks)

    def compute(start: Tensor, loss: Tensor, losses: Tensor, predictions: Tensor, *sums: Tensor) -> tuple:
        places = counted[start : start + height]
        x, of_targets, of_weights = (tf.gather(of_rows, places[:, 0]) for of_rows in (features, targets, weights))
        logits = tf.matmul(x, kernel) + bias
        results = native.crossentropy(logits, of_targets, of_weights, label_smoothing, with_gradients)
        chunk_losses, smooth_losses, chunk_predictions, d_logits = results
        loss += tf.reduce_sum(of_weights * smooth_losses)
        losses = tf.tensor_scatter_nd_update(losses, places, chunk_losses)
        predictions = tf.tensor_scatter_nd_update(predictions, places, chunk_predictions)
        if with_gradients:
            d_features, d_kernel, d_bias = sums
            d_x = tf.matmul(d_logits, kernel, transpose_b=True)
            ones = tf.ones([1, tf.shape(places)[0]], d_logits.dtype)
            sums = (
                tf.tensor_scatter_nd_update(d_features, places, d_x),
                d_kernel + tf.matmul(x, d_logits, transpose_a=True),
                d_bias + tf.matmul(ones, d_logits)[0],
            )
        return start + height, loss, losses, predictions, *sums

    first = (tf.zeros([], weights.dtype), tf.zeros_like(weights), tf.fill(tf.shape(targets), -1))
    if with_gradients:
        first += (tf.zeros_like(features), tf.zeros_like(kernel), tf.zeros_like(bias))
    _, *results = tf.while_loop(
        lambda start, *_: start < number, compute, (tf.constant(0), *first), parallel_iterations=1
    )
    return tuple(results)

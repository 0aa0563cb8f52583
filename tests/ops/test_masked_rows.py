# SPDX-License-Identifier: Apache-2.0
"""`zero_masked_rows` in a graph, which writes masked rows only, against `tf.where`."""

import numpy as np
import pytest
import tensorflow as tf

from keras_seq.ops.masks import zero_masked_rows


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (0, 4, 5), (3, 0, 5), (2, 3, 0)])
def test_masked_rows_are_zero_and_have_no_gradient(dtype, shape):
    rng = np.random.default_rng(0)

    @tf.function(input_signature=[tf.TensorSpec([None, None, shape[2]], dtype), tf.TensorSpec([None, None], tf.bool)])
    def run(x, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            rows = zero_masked_rows(x, mask)
            loss = tf.reduce_sum(3 * rows)
        return rows, tape.gradient(loss, x)

    for share in (0, 0.5, 1):
        mask = rng.random(shape[:2]) < share
        x = rng.integers(1, 9, size=shape).astype("float64")
        x[~mask] = np.nan
        rows, gradient = run(tf.cast(x, dtype), tf.constant(mask))
        np.testing.assert_array_equal(tf.cast(rows, "float64"), np.where(mask[..., None], x, 0))
        np.testing.assert_array_equal(tf.cast(gradient, "float64"), np.where(mask[..., None], 3.0, np.zeros(shape)))

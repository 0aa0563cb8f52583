# SPDX-License-Identifier: Apache-2.0
"""Layer normalization without gain and shift (Ba et al. 2016), and its derivative."""

from keras import backend, ops

from keras_seq.ops.equations.protocol import Tensor

_EPSILON = 1e-3  # that of `keras.layers.LayerNormalization`


def standardize(
    x: Tensor,  # (..., features)
) -> tuple[Tensor, Tensor]:  # (..., features), (..., 1)
    """Scale to mean 0 and variance 1 over the last axis, in float32 at least.

    Returns:
        The standardized tensor and the factors 1 / deviation, which `standardize_backward` needs.
    """
    precise = ops.cast(x, backend.result_type(x.dtype, "float32"))
    centred = precise - ops.mean(precise, axis=-1, keepdims=True)
    factor = ops.rsqrt(ops.mean(ops.square(centred), axis=-1, keepdims=True) + _EPSILON)
    return ops.cast(centred * factor, x.dtype), ops.cast(factor, x.dtype)


def standardize_backward(
    d_standard: Tensor,  # (..., features)
    standard: Tensor,  # (..., features), the results of `standardize`
    factor: Tensor,  # (..., 1)
) -> Tensor:  # (..., features)
    """Return the gradient of x."""
    along = ops.mean(d_standard * standard, axis=-1, keepdims=True)
    return factor * (d_standard - ops.mean(d_standard, axis=-1, keepdims=True) - standard * along)

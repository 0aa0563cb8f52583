# SPDX-License-Identifier: Apache-2.0
"""Regularization of the activations of recurrent layers."""

import math
import numbers

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_seq")
class ActivationRegularization(keras.layers.Layer):
    """Activation and temporal activation regularization, AR and TAR (Merity, McCann & Socher 2017).

    Adds the losses `ar * mean(h_t²)` and `tar * mean((h_{t+1} - h_t)²)`, where the means are over batch, time and
    features. Masked steps and differences to masked steps do not count; if nothing counts, the loss is 0. Losses are
    computed in float32 at least, also in half precision.

    The paper applies AR to the outputs after dropout and TAR to those before it. For that, put one layer with `tar`
    before the dropout and another with `ar` after it. Like all losses that Keras layers add, AR and TAR are part of the
    loss that `evaluate` reports.

    Args:
        ar: coefficient of AR, which keeps activations small.
        tar: coefficient of TAR, which keeps changes between steps small.

    Call arguments:
        inputs: tensor h (batch, time, features).
        mask: booleans (batch, time), True = keep.

    Returns:
        The inputs, unchanged.

    Raises:
        ValueError: if a coefficient is negative or not finite.

    Example:
        >>> import numpy as np
        >>> layer = ActivationRegularization(ar=2.0, tar=1.0)
        >>> _ = layer(np.array([[[1.0], [4.0]]], "float32"))
        >>> [float(loss) for loss in layer.losses]
        [17.0, 9.0]
    """

    def __init__(self, ar=0.0, tar=0.0, **kwargs):
        super().__init__(**kwargs)
        self.ar = _check_coefficient("ar", ar)
        self.tar = _check_coefficient("tar", tar)
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def call(self, inputs, mask=None):
        # Squares soon exceed the range of float16.
        h = ops.cast(inputs, keras.backend.result_type(self.compute_dtype, "float32"))
        visible = ops.ones(ops.shape(h)[:2], dtype="bool") if mask is None else ops.cast(mask, "bool")
        if self.ar:
            self.add_loss(self.ar * _mean_square(h, visible))
        if self.tar:
            both_visible = ops.logical_and(visible[:, 1:], visible[:, :-1])
            self.add_loss(self.tar * _mean_square(h[:, 1:] - h[:, :-1], both_visible))
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "ar": self.ar, "tar": self.tar}


def _mean_square(values, visible):
    """Returns the mean square of values (batch, time, features) at visible steps (batch, time), 0 if there are none."""
    # Masked values are replaced, not multiplied by 0: 0 times infinity is NaN.
    squares = ops.square(ops.where(ops.expand_dims(visible, axis=-1), values, 0))
    count = ops.sum(ops.cast(visible, values.dtype)) * values.shape[-1]
    return ops.sum(squares) / ops.maximum(count, 1)


def _check_coefficient(name, value):
    if not isinstance(value, numbers.Real) or not 0 <= value < math.inf:
        raise ValueError(f"`{name}` must be a finite number of at least 0. Received: {value!r}")
    return float(value)

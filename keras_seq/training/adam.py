# SPDX-License-Identifier: Apache-2.0
"""Adam whose update of a weight is one operation."""

import keras

from keras_seq._lazy_tensorflow import tf
from keras_seq._private_api import adam_moments

_DTYPES = ("float32", "float64")


@keras.saving.register_keras_serializable("keras_seq")
class Adam(keras.optimizers.Adam):
    """Adam (Kingma & Ba 2015) whose update of a weight is one operation, on TensorFlow.

    It computes what `keras.optimizers.Adam` computes, up to rounding, and takes the same arguments. There the update of
    a weight is about ten operations, each of which reads and writes arrays of the size of the weight; here it is one,
    which reads gradient, moments and weight once. With `amsgrad`, with weights in half precision and on other backends
    it is that of Keras.

    Args:
        learning_rate, beta_1, beta_2, epsilon, amsgrad: see `keras.optimizers.Adam`.
        **kwargs: other arguments of `keras.optimizers.Adam`: `weight_decay`, `global_clipnorm`, `use_ema`, ...

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> model.compile(Adam(1e-3, global_clipnorm=1.0), "mse")
    """

    def update_step(self, gradient, variable, learning_rate):
        is_covered = keras.backend.backend() == "tensorflow" and not self.amsgrad
        if not is_covered or keras.backend.standardize_dtype(variable.dtype) not in _DTYPES:
            return super().update_step(gradient, variable, learning_rate)
        first, second = (moment.value for moment in adam_moments(self, variable))
        dtype = variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        beta_1, beta_2 = (tf.constant(beta, dtype) for beta in (self.beta_1, self.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=beta_1**step,
            beta2_power=beta_2**step,
            lr=tf.cast(learning_rate, dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.constant(self.epsilon, dtype),
            grad=tf.convert_to_tensor(tf.cast(gradient, dtype)),
        )

# SPDX-License-Identifier: Apache-2.0
"""The state that a model carries from one batch of streams to the next."""

from keras_seq._lazy_tensorflow import tf


class CarriedState:
    """The recurrent state of each stream, a list of tensors (batch, size).

    Keras does not see the variables, so they are neither weights nor saved. Their batch size is open: the same training
    step serves streams of any number.

    Args:
        sizes: list of integers.
        dtype: dtype of the state.
    """

    def __init__(self, sizes, dtype):
        self._sizes = sizes
        self._dtype = dtype
        self._variables = None  # made before the training step is traced
        self._batch_size = None

    def start(self, batch_size):
        """Sets the state of `batch_size` streams to zeros."""
        zeros = [tf.zeros([batch_size, size], self._dtype) for size in self._sizes]
        if self._variables is None:
            self._variables = [tf.Variable(z, trainable=False, shape=[None, z.shape[1]]) for z in zeros]
        for variable, value in zip(self._variables, zeros, strict=True):
            variable.assign(value)
        self._batch_size = batch_size

    def ensure(self, batch_size):
        """Sets the state to zeros unless it is one of `batch_size` streams."""
        if batch_size != self._batch_size:
            self.start(batch_size)

    def read(self):
        return [variable.read_value() for variable in self._variables]

    def assign(self, state):
        for variable, value in zip(self._variables, state, strict=True):
            variable.assign(value)

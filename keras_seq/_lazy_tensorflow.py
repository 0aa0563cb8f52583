# SPDX-License-Identifier: Apache-2.0
"""TensorFlow, imported at the first use: on JAX and PyTorch the layers run where it is not installed."""

import keras


class _TensorFlow:
    """Stands in for the module `tensorflow`, which is imported when a name is first read from it."""

    def __getattr__(self, name):
        try:
            import tensorflow
        except ImportError as error:
            raise ImportError("This requires the tensorflow module: pip install tensorflow") from error
        return getattr(tensorflow, name)


tf = _TensorFlow()


def check_backend(model):
    """Checks that Keras runs on TensorFlow, which the models of keras_seq need to train and to generate."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise NotImplementedError(
            f"`{type(model).__name__}` needs Keras's TensorFlow backend. Received: {backend!r}. Set the environment "
            'variable KERAS_BACKEND to "tensorflow" before Keras is imported. On other backends the layers, losses and '
            "metrics of keras_seq run, in any Keras model."
        )

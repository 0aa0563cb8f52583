# SPDX-License-Identifier: Apache-2.0
"""TensorFlow, imported at the first use: on JAX and PyTorch the layers run where it is not installed."""


class _TensorFlow:
    """Stands in for the module `tensorflow`, which is imported when a name is first read from it."""

    def __getattr__(self, name):
        try:
            import tensorflow
        except ImportError as error:
            raise ImportError("This requires the tensorflow module: pip install tensorflow") from error
        return getattr(tensorflow, name)


tf = _TensorFlow()

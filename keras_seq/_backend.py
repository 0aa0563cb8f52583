# SPDX-License-Identifier: Apache-2.0
"""Imports Keras with its backend, before anything else does, for one clear error where the backend is missing.

keras_seq does not require TensorFlow, so that `tensorflow-cpu` and the other backends of Keras can serve as well: a
package cannot require "this or that". Importing this module checks what pip could not.
"""

_INSTALL = {
    "tensorflow": 'pip install "tensorflow>=2.18,<2.22", or the same of tensorflow-cpu',
    "jax": 'pip install "jax>=0.5"',
    "torch": "pip install torch",
}
_OLDEST_TENSORFLOW = (2, 18)

try:
    import keras
except ModuleNotFoundError as error:
    if error.name not in _INSTALL:
        raise
    raise ImportError(
        f"Keras's backend is {error.name}, which is not installed. Install it ({_INSTALL[error.name]}), or choose "
        "another by the environment variable KERAS_BACKEND: tensorflow, jax or torch."
    ) from error

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    if tuple(int(number) for number in tf.__version__.split(".")[:2]) < _OLDEST_TENSORFLOW:
        oldest = ".".join(map(str, _OLDEST_TENSORFLOW))
        raise ImportError(f"keras_seq needs TensorFlow {oldest} or later. Installed: {tf.__version__}")

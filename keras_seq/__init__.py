# SPDX-License-Identifier: Apache-2.0
"""keras_seq: recurrent sequence-to-sequence models for Keras 3 that are fast, correct and exportable."""

from keras_seq import layers, ops
from keras_seq._version import __version__
from keras_seq.ops import explain

__all__ = ["__version__", "explain", "layers", "ops"]

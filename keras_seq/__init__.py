# SPDX-License-Identifier: Apache-2.0
"""keras_seq: recurrent sequence-to-sequence models for Keras 3 that are fast, correct and exportable."""

from keras_seq import data, diagnostics, layers, models, ops
from keras_seq._version import __version__
from keras_seq.convert import convert
from keras_seq.models import Decoder, Encoder, Seq2Seq
from keras_seq.ops import explain

__all__ = [
    "Decoder",
    "Encoder",
    "Seq2Seq",
    "__version__",
    "convert",
    "data",
    "diagnostics",
    "explain",
    "layers",
    "models",
    "ops",
]

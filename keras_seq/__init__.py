# SPDX-License-Identifier: Apache-2.0
"""keras_seq: recurrent sequence-to-sequence models for Keras 3 that are fast, correct and exportable."""

import importlib

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

# Not in `__all__`: plots and tuning need optional packages, which `from keras_seq import *` must not ask for.
_IMPORTED_WHEN_USED = ("decoding", "export", "plots", "training", "tuning")


def __getattr__(name):
    if name in _IMPORTED_WHEN_USED:
        return importlib.import_module(f"keras_seq.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_IMPORTED_WHEN_USED})

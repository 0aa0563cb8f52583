# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers, attention and sequence-to-sequence models for Keras 3: fast, correct and exportable.

- `keras_seq.layers`: recurrent layers, cells, attention and dropout.
- `keras_seq.Encoder`, `Decoder`, `Seq2Seq`, `Ensemble`: sequence-to-sequence models.
- `keras_seq.LanguageModel`: a model of documents, which continues prompts.
- `keras_seq.Forecaster`: forecasts of series.
- `keras_seq.convert`: replaces the recurrent layers of a Keras model, or gives a model back to Keras.
- `keras_seq.from_torch`: layers with the weights of recurrent layers of PyTorch.
- `keras_seq.export`: writes a model as a SavedModel, or for LiteRT or ONNX.
- `keras_seq.explain`: prints which implementation each layer runs.
- `keras_seq.data`, `training`, `decoding`, `diagnostics`, `plots`, `tuning`, `ops`: the tools around them.
"""

import importlib

import keras_seq._backend  # noqa: F401 (first of all: it checks that Keras's backend is there)
from keras_seq import data, diagnostics, layers, models, ops
from keras_seq._version import __version__
from keras_seq.convert import convert
from keras_seq.exporting import export
from keras_seq.from_torch import from_torch
from keras_seq.models import Decoder, Encoder, Ensemble, Forecaster, LanguageModel, Seq2Seq
from keras_seq.ops import explain
from keras_seq.ops.native import load_native_ops, register_ops

__all__ = [
    "Decoder",
    "Encoder",
    "Ensemble",
    "Forecaster",
    "LanguageModel",
    "Seq2Seq",
    "__version__",
    "convert",
    "data",
    "diagnostics",
    "explain",
    "export",
    "from_torch",
    "layers",
    "load_native_ops",
    "models",
    "ops",
]

register_ops()  # 40 ms of CPU time, so that `tf.saved_model.load` finds them

# Not in `__all__`: plots and tuning need optional packages, and `from keras_seq import *` must work without them.
_LAZY_MODULES = ("decoding", "exporting", "plots", "training", "tuning")


def __getattr__(name):
    if name in _LAZY_MODULES:
        return importlib.import_module(f"keras_seq.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LAZY_MODULES})

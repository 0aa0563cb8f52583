# SPDX-License-Identifier: Apache-2.0
"""Models: `Encoder`, `Decoder`, `Seq2Seq`, `Ensemble` and `LanguageModel`."""

from keras_seq.models.decoder import Decoder
from keras_seq.models.encoder import Encoder
from keras_seq.models.ensemble import Ensemble
from keras_seq.models.language_model import LanguageModel
from keras_seq.models.seq2seq import Seq2Seq

__all__ = ["Decoder", "Encoder", "Ensemble", "LanguageModel", "Seq2Seq"]

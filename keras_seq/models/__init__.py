# SPDX-License-Identifier: Apache-2.0
"""Models: `Encoder`, `Decoder`, `Seq2Seq`, `Ensemble`, `LanguageModel` and `Forecaster`."""

from keras_seq.models.decoder import Decoder
from keras_seq.models.encoder import Encoder
from keras_seq.models.ensemble import Ensemble
from keras_seq.models.forecaster import Forecaster
from keras_seq.models.forecasting import Forecast
from keras_seq.models.language_model import LanguageModel
from keras_seq.models.seq2seq import Seq2Seq

__all__ = ["Decoder", "Encoder", "Ensemble", "Forecast", "Forecaster", "LanguageModel", "Seq2Seq"]

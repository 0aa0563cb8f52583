# SPDX-License-Identifier: Apache-2.0
"""Hyperparameter search with keras-tuner: pip install 'keras_seq[tune]'."""

try:
    import keras_tuner  # noqa: F401
except ImportError as error:
    raise ImportError("keras_seq.tuning needs keras-tuner: pip install 'keras_seq[tune]'") from error

from keras_seq.tuning.forecaster import ForecasterHyperModel
from keras_seq.tuning.hypermodel import ChoiceHyperModel
from keras_seq.tuning.language_model import LanguageModelHyperModel
from keras_seq.tuning.results import list_trials
from keras_seq.tuning.seq2seq import Seq2SeqHyperModel
from keras_seq.tuning.sequence_classifier import SequenceClassifierHyperModel
from keras_seq.tuning.workers import search

__all__ = [
    "ChoiceHyperModel",
    "ForecasterHyperModel",
    "LanguageModelHyperModel",
    "Seq2SeqHyperModel",
    "SequenceClassifierHyperModel",
    "list_trials",
    "search",
]

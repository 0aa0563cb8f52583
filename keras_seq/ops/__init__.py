# SPDX-License-Identifier: Apache-2.0
"""Recurrences, a CRF and the loss of a readout as pure functions of tensors: no layers, no variables."""

from keras_seq.ops.crf import crf_decode, crf_log_likelihood, crf_log_probabilities, crf_marginals
from keras_seq.ops.explain import explain
from keras_seq.ops.functional import attention_decoder, gru, lstm, mgu, simple_rnn
from keras_seq.ops.implementation import use_implementation
from keras_seq.ops.readout_loss import readout_crossentropy

__all__ = [
    "attention_decoder",
    "crf_decode",
    "crf_log_likelihood",
    "crf_log_probabilities",
    "crf_marginals",
    "explain",
    "gru",
    "lstm",
    "mgu",
    "readout_crossentropy",
    "simple_rnn",
    "use_implementation",
]

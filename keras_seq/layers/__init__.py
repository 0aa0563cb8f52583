# SPDX-License-Identifier: Apache-2.0
"""Keras layers for sequences: variables and arguments; the recurrences themselves are in `keras_seq.ops`."""

from keras_seq.layers.attention import BahdanauAttention, LuongAttention, MonotonicAttention
from keras_seq.layers.attention_cell import AttentionCell
from keras_seq.layers.attention_decoder import AttentionDecoder
from keras_seq.layers.attention_pooling import AttentionPooling
from keras_seq.layers.bidirectional import Bidirectional
from keras_seq.layers.crf import CRF
from keras_seq.layers.dropout import EmbeddingDropout, LockedDropout, VariationalDropout
from keras_seq.layers.gru import GRU, GRUCell
from keras_seq.layers.lstm import LSTM, LSTMCell
from keras_seq.layers.mgu import MGU, MGUCell
from keras_seq.layers.regularization import ActivationRegularization
from keras_seq.layers.rnn import RNN
from keras_seq.layers.simple_rnn import SimpleRNN, SimpleRNNCell
from keras_seq.layers.time_distributed import TimeDistributed

__all__ = [
    "CRF",
    "GRU",
    "LSTM",
    "MGU",
    "RNN",
    "ActivationRegularization",
    "AttentionCell",
    "AttentionDecoder",
    "AttentionPooling",
    "BahdanauAttention",
    "Bidirectional",
    "EmbeddingDropout",
    "GRUCell",
    "LSTMCell",
    "LockedDropout",
    "LuongAttention",
    "MGUCell",
    "MonotonicAttention",
    "SimpleRNN",
    "SimpleRNNCell",
    "TimeDistributed",
    "VariationalDropout",
]

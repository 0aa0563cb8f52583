# SPDX-License-Identifier: Apache-2.0
"""Models: `Encoder`, `Decoder` and `Seq2Seq`."""

from keras_seq.models.decoder import Decoder
from keras_seq.models.encoder import Encoder
from keras_seq.models.seq2seq import Seq2Seq

__all__ = ["Decoder", "Encoder", "Seq2Seq"]

# SPDX-License-Identifier: Apache-2.0
"""Models: an encoder, a decoder, and the two together."""

from keras_seq.models.decoder import Decoder
from keras_seq.models.encoder import Encoder
from keras_seq.models.seq2seq import Seq2Seq

__all__ = ["Decoder", "Encoder", "Seq2Seq"]

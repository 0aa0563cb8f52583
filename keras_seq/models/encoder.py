# SPDX-License-Identifier: Apache-2.0
"""The encoder: from source tokens to a memory and a summary."""

import keras
from keras import ops

from keras_seq.data.vocabulary import PAD_ID
from keras_seq.layers import Bidirectional, LockedDropout
from keras_seq.layers.recurrent_layer import make_layer
from keras_seq.ops.random import child_seed


@keras.saving.register_keras_serializable("keras_seq")
class Encoder(keras.layers.Layer):
    """Embed the source tokens and read them with recurrent layers, in both directions by default.

    Args:
        vocabulary_size: number of source tokens, the special ones included.
        embedding_dim: size of an embedding.
        units: size of a layer's state in each direction.
        cell: "lstm", "gru" or "rnn".
        num_layers: recurrent layers, one over the other.
        bidirectional: whether each layer reads in both directions.
        dropout: fraction of the features to drop before each layer, one mask a sequence.
        recurrent_dropout: as of `keras_seq.layers.LSTM`.
        seed: of the dropout masks. All layers draw their own numbers, and in `recurrent_dropout` both directions.
        implementation: as of `keras_seq.layers.LSTM`.

    Call arguments:
        tokens: (batch, source) integers, 0 = padding.
        training: whether to apply dropout.

    Returns:
        `(memory, summary)`: the outputs of the last layer (batch, source, features), features being `units` or, in
        both directions, `2 * units`; and its final states side by side (batch, state features).

    Example:
        >>> import numpy as np
        >>> encoder = Encoder(vocabulary_size=10, embedding_dim=8, units=16)
        >>> memory, summary = encoder(np.array([[4, 5, 6], [7, 3, 0]]))
        >>> memory.shape, summary.shape
        (TensorShape([2, 3, 32]), TensorShape([2, 64]))
    """

    def __init__(
        self,
        vocabulary_size,
        embedding_dim,
        units,
        cell="lstm",
        num_layers=1,
        bidirectional=True,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        implementation="auto",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_layers < 1:
            raise ValueError(f"`num_layers` must be at least 1. Received: {num_layers}")
        self.vocabulary_size = vocabulary_size
        self.embedding_dim = embedding_dim
        self.units = units
        self.cell = cell
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.seed = seed
        self.implementation = implementation
        self.embedding = keras.layers.Embedding(vocabulary_size, embedding_dim, dtype=self.dtype_policy)
        seeds = [child_seed(seed, "Encoder", "dropout", i) for i in range(num_layers)]
        self.dropouts = [LockedDropout(dropout, seed=own, dtype=self.dtype_policy) for own in seeds]
        self.layers = [self._make_layer(child_seed(seed, "Encoder", "layer", i)) for i in range(num_layers)]

    def _make_layer(self, seed):
        layer = make_layer(
            self.cell,
            self.units,
            recurrent_dropout=self.recurrent_dropout,
            seed=seed,
            return_sequences=True,
            return_state=True,
            implementation=self.implementation,
            dtype=self.dtype_policy,
        )
        return Bidirectional(layer, dtype=self.dtype_policy) if self.bidirectional else layer

    @property
    def memory_units(self):
        """Features of the memory."""
        return self.units * (2 if self.bidirectional else 1)

    @property
    def summary_units(self):
        """Features of the summary."""
        return self.memory_units * (2 if self.cell == "lstm" else 1)

    def build(self, tokens_shape=None):
        self.embedding.build((None, None))
        features = self.embedding_dim
        for layer in self.layers:
            layer.build((None, None, features))
            features = self.memory_units

    def call(self, tokens, training=False):
        mask = ops.not_equal(tokens, PAD_ID)  # (batch, source)
        sequences = self.embedding(tokens)
        for dropout, layer in zip(self.dropouts, self.layers, strict=True):
            sequences, *states = layer(dropout(sequences, training=training), mask=mask, training=training)
        return sequences, ops.concatenate(states, axis=-1)

    def compute_output_spec(self, tokens, training=False):
        memory = keras.KerasTensor((*tokens.shape, self.memory_units), dtype=self.compute_dtype)
        return memory, keras.KerasTensor((tokens.shape[0], self.summary_units), dtype=self.compute_dtype)

    def get_config(self):
        names = (
            "vocabulary_size embedding_dim units cell num_layers bidirectional dropout recurrent_dropout seed "
            "implementation"
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}

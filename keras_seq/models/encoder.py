# SPDX-License-Identifier: Apache-2.0
"""The encoder: maps source tokens to a memory and a summary."""

import keras
from keras import ops, tree

from keras_seq.data.vocabulary import PAD_ID
from keras_seq.layers import Bidirectional, LockedDropout
from keras_seq.layers.recurrent_layer import make_layer
from keras_seq.ops.random import child_seed


@keras.saving.register_keras_serializable("keras_seq")
class Encoder(keras.layers.Layer):
    """Embeds source tokens and encodes them with recurrent layers, by default in both directions.

    Args:
        vocabulary_size: number of source tokens, including the special ones.
        embedding_dim: size of the embeddings.
        units: size of the state of each layer and direction.
        cell: "lstm", "gru", "mgu" or "simple_rnn".
        num_layers: number of stacked recurrent layers.
        bidirectional: whether each layer runs in both directions.
        dropout: fraction of the features to drop before each layer. All time steps share a mask.
        recurrent_dropout: see `keras_seq.layers.LSTM`.
        seed: random seed of the dropout masks. Each layer, and each direction for `recurrent_dropout`, draws its own.
        implementation: see `keras_seq.layers.LSTM`.

    Call arguments:
        tokens: integers (batch, source), 0 = padding.
        training: whether to apply dropout.

    Returns:
        `(memory, summary)`. The memory (batch, source, features) is the output of the last layer, with `2 * units`
        features if bidirectional, else `units`. The summary (batch, state features) concatenates its final states.

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
        self.dropouts = [LockedDropout(dropout, seed=s, dtype=self.dtype_policy) for s in seeds]
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
        """Number of features of the memory."""
        return self.units * (2 if self.bidirectional else 1)

    @property
    def summary_units(self):
        """Number of features of the summary."""
        layer = self.layers[-1]
        directions = [layer.forward_layer, layer.backward_layer] if self.bidirectional else [layer]
        return sum(tree.flatten([direction.state_size for direction in directions]))

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

# SPDX-License-Identifier: Apache-2.0
"""The encoder: maps source tokens to a memory and a summary."""

import keras
from keras import ops, tree

from keras_seq.data.vocabulary import PAD_ID
from keras_seq.layers import Bidirectional, LockedDropout
from keras_seq.layers.recurrent_layer import CellArgument, check_num_layers, output_units, resolve_layer
from keras_seq.models.features import append_features
from keras_seq.models.layer_norms import make_layer_norms
from keras_seq.models.token_embedding import build_embedding, make_embedding, serialize_initializer
from keras_seq.ops.random import child_seed


@keras.saving.register_keras_serializable("keras_seq")
class Encoder(keras.layers.Layer):
    """Embeds source tokens and encodes them with recurrent layers, by default in both directions.

    Args:
        vocabulary_size: number of source tokens, including the special ones.
        embedding_dim: size of the embeddings.
        units: size of the output of each layer and direction. It may be None if `cell` is an object, which has its own.
        cell: "lstm", "gru", "mgu" or "simple_rnn" ("rnn" is the same); a cell of keras_seq, of Keras or your own, as
            `keras_seq.layers.LSTMCell(256, layer_norm=True)`; or a recurrent layer of keras_seq or Keras. An object is
            copied for each layer and direction. Copies have their own weights, initial values and seeds.
        num_layers: number of stacked recurrent layers; 1 if `cell` is a layer, which may be a stack itself.
        bidirectional: whether each layer runs in both directions.
        dropout: fraction of the features to drop before each layer. All time steps share a mask.
        recurrent_dropout: see `keras_seq.layers.LSTM`. An object has its own.
        seed: random seed of the dropout masks. Each layer, and each direction for `recurrent_dropout`, draws its own.
        implementation: see `keras_seq.layers.LSTM`.
        residual: whether each layer but the first adds its inputs to its outputs (Wu et al. 2016).
        embeddings_initializer: initializer of the embeddings, or a matrix (vocabulary_size, embedding_dim) of their
            initial values. A matrix is saved with the weights, not in the configuration.
        layer_norm: whether to normalize the outputs of each recurrent layer (Ba, Kiros & Hinton 2016), after its
            residual connection. The recurrences are the same. Layer normalization inside a recurrence is an option of
            the cell, `keras_seq.layers.LSTMCell(256, layer_norm=True)`.
            A decoder without attention reads the states only, which are not normalized.

    Call arguments:
        tokens: integers (batch, source), 0 = padding.
        training: whether to apply dropout.
        features: tensor (batch, n) that is appended to the embedding at every position, or None.

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
        *,
        residual=False,
        embeddings_initializer="uniform",
        layer_norm=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_num_layers(num_layers, residual, cell)
        self.vocabulary_size = vocabulary_size
        self.embedding_dim = embedding_dim
        self._cell_argument = CellArgument(cell)
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.seed = seed
        self.implementation = implementation
        self.residual = residual
        self.layer_norm = layer_norm
        self.embedding = make_embedding(vocabulary_size, embedding_dim, embeddings_initializer, dtype=self.dtype_policy)
        seeds = [child_seed(seed, "Encoder", "dropout", i) for i in range(num_layers)]
        self.dropouts = [LockedDropout(dropout, seed=s, dtype=self.dtype_policy) for s in seeds]
        self.recurrent_layers = [self._make_layer(units, i) for i in range(num_layers)]
        layer = self.recurrent_layers[-1].forward_layer if bidirectional else self.recurrent_layers[-1]
        self.units = output_units(layer.cell)
        self.summary_units = sum(tree.flatten(layer.state_size)) * (2 if bidirectional else 1)
        self.layer_norms = make_layer_norms(layer_norm, num_layers, self.dtype_policy)
        self.supports_masking = True

    def _make_layer(self, units, index):
        layer = resolve_layer(
            self.cell,
            units,
            seed=child_seed(self.seed, "Encoder", "layer", index),
            path=("Encoder", index),
            recurrent_dropout=self.recurrent_dropout,
            implementation=self.implementation,
            dtype=self.dtype_policy,
        )
        return Bidirectional(layer, dtype=self.dtype_policy) if self.bidirectional else layer

    @property
    def cell(self):
        """The argument `cell`, a name or the object that was given."""
        return self._cell_argument.cell

    @property
    def embeddings_initializer(self):
        """The initializer of the embeddings; the default one in the place of a matrix, once it is in the weights."""
        return self.embedding.embeddings_initializer

    @property
    def layers(self):
        """The layers with weights, in the order in which they run; `summary(expand_nested=True)` shows them."""
        return [self.embedding, *self.recurrent_layers, *self.layer_norms]

    @property
    def memory_units(self):
        """Number of features of the memory."""
        return self.units * (2 if self.bidirectional else 1)

    def build(self, tokens_shape=None, features_shape=None):
        build_embedding(self.embedding)
        self.features_units = features_shape[-1] if features_shape else 0
        features = self.embedding_dim + self.features_units
        for layer in self.recurrent_layers:
            layer.build((None, None, features))
            features = self.memory_units
        for norm in self.layer_norms:
            norm.build((None, None, features))

    def call(self, tokens, training=False, features=None):
        mask = ops.not_equal(tokens, PAD_ID)  # (batch, source)
        sequences = append_features(self.embedding(tokens), features)
        for i, (dropout, layer) in enumerate(zip(self.dropouts, self.recurrent_layers, strict=True)):
            inputs = dropout(sequences, training=training)
            outputs, *states = layer(inputs, mask=mask, training=training)
            sequences = outputs + inputs if i and self.residual else outputs
            sequences = self.layer_norms[i](sequences) if self.layer_norm else sequences
        return sequences, ops.concatenate(tree.flatten(states), axis=-1)

    def compute_output_shape(self, tokens_shape, features_shape=None):
        return (*tokens_shape, self.memory_units), (tokens_shape[0], self.summary_units)

    def compute_mask(self, tokens, previous_mask=None):
        return [ops.not_equal(tokens, PAD_ID), None]  # of memory and summary

    def get_config(self):
        names = "vocabulary_size embedding_dim units num_layers bidirectional dropout recurrent_dropout seed"
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in [*names.split(), "implementation", "residual", "layer_norm"]},
            "cell": self._cell_argument.get_config(),
            "embeddings_initializer": serialize_initializer(self.embedding),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**CellArgument.restore(config))

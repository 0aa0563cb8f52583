# SPDX-License-Identifier: Apache-2.0
"""The models that are compared: from word ids to a logit, which is positive for a positive sentence."""

import keras

from keras_seq import layers

# The learning rates were chosen on the dev split.
MODELS = {
    "bag of words, one-hot": 1e-2,
    "bag of words, embeddings (CBOW)": 1e-2,
    "1D CNN": 2e-3,
    "vanilla RNN": 4e-3,
    "LSTM": 2e-3,
    "bidirectional LSTM with attention": 4e-3,
}


def convolve(vectors, filters):
    """Returns the largest response of each filter in a sentence (Kim 2014)."""
    convolutions = [keras.layers.Conv1D(filters, width, activation="relu", padding="same") for width in (2, 3, 4)]
    return keras.layers.Concatenate()([keras.layers.GlobalMaxPooling1D()(layer(vectors)) for layer in convolutions])


def build_model(name, vocabulary_size, options):
    """Returns a model from word ids (batch, time) to logits (batch, 1), and one that also returns attention weights."""
    ids, weights = keras.Input((None,), dtype="int64"), None
    if "one-hot" in name:
        present = keras.layers.CategoryEncoding(vocabulary_size, "multi_hot")(ids)
        present = keras.layers.Dropout(options.word_dropout)(present)
        return keras.Model(ids, keras.layers.Dense(1)(present)), None
    # Keras's convolutions take no mask.
    embedding = keras.layers.Embedding(vocabulary_size, options.embedding_dim, mask_zero="CNN" not in name)
    vectors = layers.EmbeddingDropout(embedding, options.word_dropout)(ids)
    vectors = layers.LockedDropout(options.dropout)(vectors)
    if "CBOW" in name:
        features = keras.layers.GlobalAveragePooling1D()(vectors)
    elif "CNN" in name:
        features = convolve(vectors, options.units)
    elif "RNN" in name:
        features = layers.SimpleRNN(options.units)(vectors)
    elif "attention" not in name:
        features = layers.LSTM(options.units)(vectors)
    else:
        states = layers.Bidirectional(layers.LSTM(options.units, return_sequences=True))(vectors)
        states = layers.LockedDropout(options.dropout)(states)
        features, weights = layers.AttentionPooling(options.units)(states, return_attention_scores=True)
    logits = keras.layers.Dense(1)(keras.layers.Dropout(options.dropout)(features))
    return keras.Model(ids, logits), None if weights is None else keras.Model(ids, [logits, weights])

# SPDX-License-Identifier: Apache-2.0
"""Token embeddings: their initial values, and a readout that shares them."""

import functools

import keras
import numpy as np
from keras import ops

_DEFAULT = "uniform"  # as in `keras.layers.Embedding`


def make_embedding(vocabulary_size, embedding_dim, initializer=_DEFAULT, *, tied=False, dtype=None):
    """Returns the embedding of tokens. Build it with `build_embedding`.

    Args:
        vocabulary_size: number of tokens.
        embedding_dim: size of the embeddings.
        initializer: a Keras initializer, its name or its configuration; or a matrix (vocabulary_size, embedding_dim) of
            initial values, such as pretrained embeddings.
        tied: whether a readout shares the embeddings; see `make_readout`.
        dtype: dtype policy.

    Raises:
        ValueError: if a matrix has another shape, or if its values are not finite numbers.
    """
    initializer = _get_initializer(initializer, vocabulary_size, embedding_dim)
    options = {"embeddings_initializer": initializer, "dtype": dtype}
    if not tied:
        return keras.layers.Embedding(vocabulary_size, embedding_dim, **options)
    embedding = keras.layers.ReversibleEmbedding(vocabulary_size, embedding_dim, **options)
    embedding.supports_masking = True  # of the outputs that a readout multiplies; it has no mask of its own
    embedding.reverse_dtype = embedding.compute_dtype  # Keras would compute logits in the dtype of the weights
    return embedding


def build_embedding(embedding):
    """Builds an embedding of `make_embedding`. A matrix of initial values is then no longer needed, and released."""
    embedding.build((None, None))
    if isinstance(embedding.embeddings_initializer, _Matrix):
        embedding.embeddings_initializer = keras.initializers.get(_DEFAULT)


def serialize_initializer(embedding):
    """Returns the configuration of an embedding's initializer; that of the default for a matrix, which may be large.

    The values of a matrix are in the weights, as those of any trained embedding.
    """
    initializer = embedding.embeddings_initializer
    return keras.initializers.serialize(
        keras.initializers.get(_DEFAULT) if isinstance(initializer, _Matrix) else initializer
    )


def make_readout(embedding, tied=False, dtype=None):
    """Returns the layer that maps outputs (..., units) to logits (..., vocabulary).

    Args:
        embedding: the embedding of the tokens, made with the same `tied`.
        tied: whether the readout multiplies with the transposed embeddings (Press & Wolf 2017; Inan, Khosravi & Socher
            2017) instead of a kernel of its own.
        dtype: dtype policy.
    """
    return TiedReadout(embedding, dtype=dtype) if tied else keras.layers.Dense(embedding.input_dim, dtype=dtype)


class TiedReadout(keras.layers.Layer):
    """Logits from the transposed embeddings, `x P E^T + b`, as in Press & Wolf (2017).

    The bias b has one entry for each token, as in AWD-LSTM. The projection P is there only if the inputs have another
    size than the embeddings.

    Args:
        embedding: a `keras.layers.ReversibleEmbedding`. It is not a part of this layer.
        **kwargs: arguments of `keras.layers.Layer`.
    """

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True  # as `Dense` does: outputs of a recurrent layer carry masks
        self.vocabulary_size = embedding.input_dim
        self.embedding_dim = embedding.output_dim
        self.projection = None
        # A layer in an attribute would belong to this one, too: its weights would be counted twice in a summary.
        # Its `call` alone, because Keras warns where outputs carry a mask, which that layer does not take.
        self._multiply = functools.partial(embedding.call, reverse=True)
        self.supports_masking = True

    def build(self, inputs_shape):
        if inputs_shape[-1] != self.embedding_dim:
            self.projection = keras.layers.Dense(self.embedding_dim, use_bias=False, dtype=self.dtype_policy)
            self.projection.build(inputs_shape)
        self.bias = self.add_weight((self.vocabulary_size,), "zeros", name="bias")

    def call(self, inputs):
        outputs = inputs if self.projection is None else self.projection(inputs)
        return self._multiply(outputs) + self.bias

    def parts(self, outputs):
        """Returns the last product; see `readout_parts`."""
        features = outputs if self.projection is None else self.projection(outputs)
        kernel = ops.transpose(self._multiply.func.__self__.embeddings)  # (embedding_dim, vocabulary)
        return tuple(ops.cast(x, self.compute_dtype) for x in (features, kernel, self.bias))

    def compute_output_shape(self, inputs_shape):
        return *inputs_shape[:-1], self.vocabulary_size


class _Matrix(keras.initializers.Initializer):
    """Initial values that are given."""

    def __init__(self, values):
        self.values = values

    def __call__(self, shape, dtype=None):
        return ops.cast(ops.convert_to_tensor(self.values), dtype)


def _get_initializer(initializer, vocabulary_size, embedding_dim):
    if initializer is None or isinstance(initializer, (str, dict)) or callable(initializer):
        return keras.initializers.get(initializer)
    values = np.asarray(initializer)
    expected = vocabulary_size, embedding_dim
    if values.shape != expected:
        raise ValueError(
            "`embeddings_initializer` must be a Keras initializer or a matrix (vocabulary_size, embedding_dim), here "
            f"{expected}. Received: an array of shape {values.shape}"
        )
    if values.dtype.kind in "OSUM" or not np.isfinite(values).all():
        raise ValueError(
            f"`embeddings_initializer` must be a matrix of finite numbers. Received: an array of {values.dtype}"
        )
    return _Matrix(values)

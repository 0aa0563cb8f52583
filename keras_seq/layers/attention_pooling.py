# SPDX-License-Identifier: Apache-2.0
"""Attention pooling: a sequence as one vector."""

import keras
from keras import backend, ops

from keras_seq.layers.attention.mechanism import check_units
from keras_seq.ops.attention import masked_softmax, weighted_sum
from keras_seq.ops.masks import as_bool_mask, zero_masked_positions
from keras_seq.ops.random import check_rate, child_initializer, dropout_mask


@keras.saving.register_keras_serializable("keras_seq")
class AttentionPooling(keras.layers.Layer):
    """Sums a sequence by learned attention weights (Yang et al. 2016).

    `u_t = tanh(h_t W + b)`, `a = softmax_t(u_t . v)`, `s = sum_t a_t h_t`. The vector v is a learned query, the
    same for all sequences. Use the layer above a recurrent layer in place of its last output. The paper uses it twice:
    `TimeDistributed(AttentionPooling(...))` computes the vectors of sentences from those of their words, and another
    `AttentionPooling` the vector of the document.

    The softmax and its sums are in float32 at least.

    Args:
        units: size of u.
        dropout: fraction of the attention weights to drop in training.
        kernel_initializer: initializer of W and v.
        seed: random seed of the dropout.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: (batch, time, features).
        mask: (batch, time) booleans, True = keep. By default the mask that `inputs` carry.
        return_attention_scores: whether to also return the attention weights a.
        training: whether to apply dropout.

    Returns:
        (batch, features). With `return_attention_scores`, also the attention weights (batch, time), as the sum uses
        them. Without dropout they sum to 1 over the unmasked steps. A sequence without unmasked steps gives zeros.

    Raises:
        ValueError: if an argument is invalid. The message names it.

    Example:
        >>> import numpy as np
        >>> vector, weights = AttentionPooling(4)(np.ones((2, 5, 8)), return_attention_scores=True)
        >>> vector.shape, weights.shape
        (TensorShape([2, 8]), TensorShape([2, 5]))
    """

    def __init__(self, units, dropout=0.0, kernel_initializer="glorot_uniform", seed=None, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.units = check_units(units)
        self.dropout = check_rate("dropout", dropout)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if self.dropout else None
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape):
        def add_kernel(name, shape):
            return self.add_weight(shape, child_initializer(self.kernel_initializer, name), name=name)

        self.kernel = add_kernel("kernel", (input_shape[-1], self.units))
        self.bias = self.add_weight((self.units,), "zeros", name="bias")
        # A column of a matrix, so that the initializer scales it by its length.
        self.score_kernel = add_kernel("score_kernel", (self.units, 1))

    def call(self, inputs, mask=None, return_attention_scores=False, training=False):
        mask = as_bool_mask(mask)
        inputs = zero_masked_positions(inputs, mask)
        hidden = ops.tanh(ops.matmul(inputs, self.kernel) + self.bias)
        precise = backend.result_type(inputs.dtype, "float32")
        energies = ops.squeeze(ops.cast(ops.matmul(hidden, self.score_kernel), precise), axis=-1)  # (batch, time)
        weights = masked_softmax(energies, None if mask is None else ops.cast(mask, precise))
        if training and self.dropout:
            weights = weights * dropout_mask(ops.shape(weights), self.dropout, self.seed_generator, precise)
        pooled = ops.cast(weighted_sum(weights, ops.cast(inputs, precise)), inputs.dtype)
        return (pooled, ops.cast(weights, inputs.dtype)) if return_attention_scores else pooled

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_spec(self, inputs, mask=None, return_attention_scores=False, training=False):
        batch, time, features = inputs.shape
        pooled = keras.KerasTensor((batch, features), dtype=self.compute_dtype)
        if not return_attention_scores:
            return pooled
        return pooled, keras.KerasTensor((batch, time), dtype=self.compute_dtype)

    def get_config(self):
        arguments = {
            "units": self.units,
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
        }
        return {**super().get_config(), **arguments}

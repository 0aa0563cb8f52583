# SPDX-License-Identifier: Apache-2.0
"""The hidden layer of a deep readout, and the contexts that it reads."""

import keras
from keras import ops

from keras_seq.layers.attention.mechanism import check_units
from keras_seq.ops.attention import weighted_sum
from keras_seq.ops.masks import zero_masked_positions

READOUTS = ("linear", "tanh", "maxout")


def make_deep_readout(readout, units, default_units, dtype=None):
    """Returns the `DeepReadout` for the arguments `readout` and `readout_units` of a decoder, or None for "linear".

    Args:
        readout: one of `READOUTS`.
        units: the argument `readout_units`.
        default_units: the number of units if `readout_units` is None.
        dtype: dtype policy.
    """
    if readout not in READOUTS:
        raise ValueError(f"`readout` must be one of {READOUTS}. Received: {readout!r}")
    if readout == "linear":
        if units is not None:
            raise ValueError(f"`readout_units` must be None with `readout='linear'`. Received: {units!r}")
        return None
    units = default_units if units is None else check_units(units, "readout_units")
    return DeepReadout(units, maxout=readout == "maxout", dtype=dtype)


class DeepReadout(keras.layers.Layer):
    """The hidden layer of a deep readout (Pascanu et al. 2014; Bahdanau, Cho & Bengio 2015, appendix A.2.2).

    `t = tanh([s, e, c] W + b)`, for the outputs s of the decoder's layers, the embeddings e of the tokens they read,
    and the contexts c. With maxout (Goodfellow et al. 2013), W has twice as many columns, and t has the larger of two
    in the place of each tanh: `t_j = max(u_j, u_{j + units})`, `u = [s, e, c] W + b`. The paper has no bias.

    Args:
        units: size of t.
        maxout: whether to take the larger of two units instead of a tanh.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        outputs: (..., units of the last layer).
        embeddings: (..., embedding_dim).
        contexts: (..., features of the memory), or None without attention.

    Returns:
        t (..., units).
    """

    def __init__(self, units, maxout=False, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.maxout = maxout
        activation = None if maxout else "tanh"
        self.hidden = keras.layers.Dense(units * (1 + maxout), activation=activation, dtype=self.dtype_policy)
        self.supports_masking = True  # of the outputs; see `TiedReadout`

    def build(self, outputs_shape, embeddings_shape, contexts_shape=None):
        shapes = [outputs_shape, embeddings_shape, contexts_shape or (0,)]
        self.hidden.build((*outputs_shape[:-1], sum(shape[-1] for shape in shapes)))

    def call(self, outputs, embeddings, contexts=None):
        parts = [outputs, embeddings] if contexts is None else [outputs, embeddings, contexts]
        hidden = self.hidden(ops.concatenate(parts, axis=-1))
        return ops.maximum(*ops.split(hidden, 2, axis=-1)) if self.maxout else hidden

    def compute_output_shape(self, outputs_shape, embeddings_shape=None, contexts_shape=None):
        return *outputs_shape[:-1], self.units


def readable_memory(memory, memory_mask, dtype):
    """Returns a memory (batch, source, features) from which `compute_contexts` may read."""
    return zero_masked_positions(ops.cast(memory, dtype), memory_mask)


def compute_contexts(attention_weights, memory, num_beams=1):
    """Returns the contexts of all steps, or of one step in which beams share a memory.

    Args:
        attention_weights: (batch, time, source), or (sources * beams, source).
        memory: the result of `readable_memory`: (batch, source, features), or (sources, source, features).
        num_beams: number of beams in one step.

    Returns:
        (batch, time, features), or (sources * beams, features).
    """
    attention_weights = ops.cast(attention_weights, memory.dtype)
    if len(attention_weights.shape) == 3 or num_beams == 1:
        return weighted_sum(attention_weights, memory)
    sources, positions, features = ops.shape(memory)
    contexts = weighted_sum(ops.reshape(attention_weights, (sources, num_beams, positions)), memory)
    return ops.reshape(contexts, (sources * num_beams, features))

# SPDX-License-Identifier: Apache-2.0
"""Every attention, one row each: how it is made, and its equations in NumPy. Small inputs to call them with."""

import numpy as np
import references

from keras_seq import layers

BATCH, TIME, SOURCE, FEATURES, MEMORY, UNITS, ATTENTION = 2, 3, 4, 2, 3, 3, 2
MASK = np.array([[True, True, False], [False, True, True]])
MEMORY_MASK = np.array([[True, True, False, True], [True, False, True, False]])
RNG = np.random.default_rng(0)
INPUTS, SOURCES = RNG.normal(size=(BATCH, TIME, FEATURES)), RNG.normal(size=(BATCH, SOURCE, MEMORY))

CELLS = {"rnn": references.simple_rnn, "gru": references.gru, "lstm": references.lstm}


def noiseless(**options):
    return layers.MonotonicAttention(ATTENTION, noise_std=0, **options)


# The second function takes the memory and the weights in the order of the layer, and returns `attend` of `references`.
ATTENTIONS = {
    "bahdanau": (lambda **o: layers.BahdanauAttention(ATTENTION, **o), references.bahdanau),
    "normalized": (lambda **o: layers.BahdanauAttention(ATTENTION, normalize=True, **o), references.bahdanau),
    "coverage": (
        lambda **o: layers.BahdanauAttention(ATTENTION, coverage=True, **o),
        lambda memory, *w, mask: references.bahdanau(memory, *w[:-1], coverage_kernel=w[-1], mask=mask),
    ),
    "normalized coverage": (
        lambda **o: layers.BahdanauAttention(ATTENTION, normalize=True, coverage=True, **o),
        lambda memory, *w, mask: references.bahdanau(memory, *w[:-1], coverage_kernel=w[-1], mask=mask),
    ),
    "dot": (
        lambda **o: layers.LuongAttention(scale=0.3, **o),
        lambda memory, mask: references.luong(memory, score="dot", scale=0.3, mask=mask),
    ),
    "general": (
        lambda **o: layers.LuongAttention("general", scale=True, **o),
        lambda memory, kernel, scale, mask: references.luong(memory, kernel, score="general", scale=scale, mask=mask),
    ),
    "concat": (
        lambda **o: layers.LuongAttention("concat", ATTENTION, scale=True, **o),
        lambda memory, *w, mask: references.luong(memory, *w[:-1], score="concat", scale=w[-1], mask=mask),
    ),
    "monotonic, soft": (noiseless, lambda *a, mask: references.monotonic(*a, training=True, mask=mask)),
    "monotonic, hard": (noiseless, lambda *a, mask: references.monotonic(*a, training=False, mask=mask)),
}


def fill(layer, seed=0):
    """Fill all weights of a layer with random numbers, and return it."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    return layer


def make_decoder(cell, attention, input_feeding=True, **options):
    """A decoder in float64, built and with random weights; `attention` is a name in `ATTENTIONS`."""
    attention = ATTENTIONS[attention][0](dtype="float64")
    decoder = layers.AttentionDecoder(
        UNITS, cell, attention, input_feeding, return_state=True, dtype="float64", **options
    )
    decoder.build(INPUTS.shape, SOURCES.shape)
    return fill(decoder)


def decode_with(decoder, training=False, **masks):
    """A function of inputs, memory and states to outputs, attention weights and states."""

    def decode(inputs, memory, *state):
        state = list(state) or None
        return decoder(inputs, memory, initial_state=state, return_attention_scores=True, training=training, **masks)

    return decode

# SPDX-License-Identifier: Apache-2.0
"""Layers that attend: implicit masks, the implementation they choose, subclasses, and arguments that are refused."""

import keras
import numpy as np
import pytest
from attentions import ATTENTION, ATTENTIONS, INPUTS, MASK, SOURCES, TIME, UNITS
from conftest import MinimalCell, assert_close

import keras_seq
from keras_seq import layers


@pytest.mark.parametrize("kind", ["RNN", "AttentionDecoder"])
def test_implicit_masks_act_like_explicit_ones(kind):
    """The outputs carry the mask in either case, the states carry none."""
    tokens, memory_tokens = np.array([[1, 2, 0], [3, 0, 0]]), np.array([[1, 2, 3, 0], [4, 0, 0, 0]])
    embedding = keras.layers.Embedding(5, 6, mask_zero=True)
    parts = layers.GRUCell(UNITS), layers.BahdanauAttention(ATTENTION, coverage=True)
    if kind == "RNN":
        layer = layers.RNN(layers.AttentionCell(*parts), return_sequences=True, return_state=True)
    else:
        layer = layers.AttentionDecoder(UNITS, *parts, return_state=True)
    target, source = keras.Input((3,), dtype="int32"), keras.Input((4,), dtype="int32")
    outputs = layer(embedding(target), memory=embedding(source))
    assert [tuple(x.shape) for x in outputs] == [(None, 3, UNITS), (None, UNITS), (None, 4)]
    implicit = keras.Model([target, source], outputs)([tokens, memory_tokens])
    masks = {"mask": tokens > 0, "memory_mask": memory_tokens > 0}
    explicit = layer(np.array(embedding(tokens)), memory=np.array(embedding(memory_tokens)), **masks)
    assert_close(implicit, explicit, 1e-6)
    for results in (explicit, layer(embedding(tokens), memory=embedding(memory_tokens))):
        np.testing.assert_array_equal(results[0]._keras_mask, tokens > 0)
        assert all(getattr(state, "_keras_mask", None) is None for state in results[1:])


def test_the_implementation_is_chosen_and_explained():
    def choose(cell, attention, input_feeding=True, **options):
        decoder = layers.AttentionDecoder(UNITS, cell, ATTENTIONS[attention][0](), input_feeding, **options)
        layer = layers.RNN(layers.AttentionCell(decoder.cell, decoder.attention, input_feeding), **options)
        [row] = keras_seq.explain(layer, print_fn=None)
        assert (row.implementation, row.reason) == decoder.choose_implementation()
        return row

    implementation_of_cell = layers.GRU(UNITS).choose_implementation().implementation
    row = choose("gru", "general", input_feeding=False)
    assert row.implementation == implementation_of_cell
    assert row.reason.endswith("; then all steps attend")
    assert choose("gru", "general").implementation == implementation_of_cell
    foreign = layers.RNN(layers.AttentionCell(MinimalCell(2), layers.LuongAttention("general")))
    assert "MinimalCell" in foreign.choose_implementation().reason
    normalized = choose(layers.GRUCell(UNITS, "gelu", layer_norm=True), "bahdanau")
    assert (normalized.implementation, normalized.reason) == (
        "xla",
        "there is no native kernel for GRU with layer_norm, the activation(s) gelu, sigmoid with attention",
    )
    assert choose("lstm", "bahdanau", implementation="xla").reason == "asked for by `implementation`"
    with pytest.raises(NotImplementedError, match="'native', but there is no native kernel for"):
        choose(layers.GRUCell(UNITS, "gelu"), "coverage", implementation="native")
    decoder = layers.AttentionDecoder(UNITS, layers.GRUCell(UNITS, "gelu"), "luong", implementation="native")
    with pytest.raises(NotImplementedError, match="'native', but there is no native kernel for"):
        decoder(INPUTS, SOURCES)


def test_methods_that_a_subclass_overrides_run():
    class Sharpened(layers.BahdanauAttention):
        def energies(self, query, keys, state):
            return 5 * super().energies(query, keys, state)

    class Doubled(layers.GRUCell):
        def call(self, inputs, states, training=False):
            return super().call(2 * inputs, states, training=training)

    for cell, attention in ((layers.GRUCell(UNITS), Sharpened(2)), (Doubled(UNITS), layers.BahdanauAttention(2))):
        decoder = layers.AttentionDecoder(UNITS, cell, attention)
        outputs = decoder(INPUTS, SOURCES)
        states = decoder.get_initial_state(SOURCES)
        for t in range(TIME):
            output, states, _ = decoder.step(INPUTS[:, t], states, SOURCES, decoder.project_memory(SOURCES))
            assert_close(outputs[:, t], output, 1e-5)


CELL = layers.AttentionCell(layers.GRUCell(UNITS), layers.BahdanauAttention(2, coverage=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layers.AttentionCell("gru", layers.BahdanauAttention(2)), "`cell` must be a recurrent cell.*'gru'"),
        (lambda: layers.AttentionCell(layers.GRUCell(2), keras.layers.Attention()), "`attention` must be an attention"),
        (
            lambda: layers.AttentionDecoder(2, attention="keys"),
            r"`attention` must be one of \['bahdanau', 'luong', 'mon",
        ),
        (lambda: layers.AttentionDecoder(4, layers.GRUCell(3)), "`units` must be the size of the cell's output, 3"),
        (
            lambda: layers.AttentionDecoder(3, layers.GRUCell(3), dropout=0.1),
            "`dropout`, .* need a `cell` given by name",
        ),
        (lambda: layers.RNN(CELL, stateful=True), "`stateful=True` excludes an `AttentionCell`"),
        (lambda: layers.RNN(CELL)(INPUTS), "`memory` must be given to a layer with an `AttentionCell`"),
        (
            lambda: layers.GRU(3)(INPUTS, memory=SOURCES),
            "`memory` is for a layer with an `AttentionCell`. Received: cell=",
        ),
        (
            lambda: layers.RNN(CELL)(INPUTS, memory=SOURCES[0]),
            r"`memory` must be \(batch, source, features\). .*\(4, 3\)",
        ),
        (
            lambda: layers.RNN(CELL)(INPUTS, memory=SOURCES[:1]),
            r"`memory` and `inputs` must have the same batch size.*\(1, 4, 3\)",
        ),
        (
            lambda: layers.RNN(CELL)(INPUTS, memory=SOURCES, memory_mask=MASK),
            r"`memory_mask` must have shape \(batch, source\) = \(2, 4\). Received: shape \(2, 3\)",
        ),
        (
            lambda: CELL(INPUTS[:, 0], [np.zeros((2, UNITS))], SOURCES),
            "`states` must be a list of 2: 1 of the cell and 1 of the attention. Received: 1",
        ),
        (lambda: CELL.get_initial_state(), "`get_initial_state` needs `memory`, or `batch_size`"),
        (
            lambda: layers.AttentionDecoder(3, keras.layers.GRUCell(3))(
                INPUTS, SOURCES, initial_state=[np.ones((2, 3))] * 2
            ),
            "`states` must be a list of 1: 1 of the cell. Received: 2",
        ),
        (
            lambda: layers.AttentionDecoder(2, "gru", layers.LuongAttention())(INPUTS, SOURCES),
            "needs query and key of the same size",
        ),
    ],
)
def test_invalid_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()

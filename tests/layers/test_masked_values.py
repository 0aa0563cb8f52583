# SPDX-License-Identifier: Apache-2.0
"""Values at masked positions, even NaN and infinity, change no result and no gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close, draw, every_implementation, run_with_gradients

from keras_seq import layers, ops
from keras_seq.models import Decoder
from keras_seq.ops.equations.gru import GRUEquations

BATCH, TIME, SOURCE, FEATURES, UNITS = 2, 3, 4, 3, 5
MASK = np.array([[True, False, True], [False, True, False]])
MEMORY_MASK = np.array([[True, True, False, True], [False, True, False, False]])


def fill_masked(sequences, mask, value):
    """Put a value at all masked positions."""
    return np.where(mask[:, :, None], sequences, np.float32(value))


SEQUENCES, MEMORY = draw(BATCH, TIME, FEATURES), draw(BATCH, SOURCE, UNITS, seed=1)
NOT_FINITE = [np.nan, np.inf]
ATTENTIONS = {
    "bahdanau": lambda: layers.BahdanauAttention(UNITS),
    "normalized coverage": lambda: layers.BahdanauAttention(UNITS, normalize=True, coverage=True),
    "dot": lambda: layers.LuongAttention("dot"),
    "general": lambda: layers.LuongAttention("general"),
    "concat": lambda: layers.LuongAttention("concat", UNITS, scale=True),
    "monotonic": lambda: layers.MonotonicAttention(UNITS, noise_std=0),
}
every_attention = pytest.mark.parametrize("attention", ATTENTIONS)


def assert_masked_values_change_nothing(call, variables, *sequences_and_masks, mode="eager"):
    """Results and gradients are those with zeros at masked positions, and gradients of masked positions are zero."""
    expected = run_with_gradients(call, [fill_masked(x, mask, 0) for x, mask in sequences_and_masks], variables(), mode)
    for value in NOT_FINITE:
        arguments = [fill_masked(x, mask, value) for x, mask in sequences_and_masks]
        results, gradients = run_with_gradients(call, arguments, variables(), mode)
        assert_close([*results, *gradients], [*expected[0], *expected[1]], 1e-6)
        for gradient, (_, mask) in zip(gradients, sequences_and_masks, strict=False):
            assert not np.array(gradient)[~mask].any()


@every_implementation
@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM", "Bidirectional", "stack"])
def test_recurrent_layers_ignore_masked_steps(kind, implementation):
    options = {"implementation": implementation, "return_sequences": True}
    if kind == "Bidirectional":
        layer = layers.Bidirectional(layers.LSTM(UNITS, **options))
    elif kind == "stack":
        layer = layers.GRU(UNITS, num_layers=2, **options)
    else:
        layer = getattr(layers, kind)(UNITS, **options)
    layer(SEQUENCES)
    assert_masked_values_change_nothing(
        lambda x: layer(x, mask=MASK, training=True), lambda: layer.trainable_variables, (SEQUENCES, MASK)
    )


@pytest.mark.parametrize("options", [{"layer_norm": True}, {"peephole": True}, {"activation": "gelu"}])
def test_cells_with_options_ignore_masked_steps(options):
    layer = layers.LSTM(UNITS, return_sequences=True, **options)
    layer(SEQUENCES)
    assert_masked_values_change_nothing(
        lambda x: layer(x, mask=MASK), lambda: layer.trainable_variables, (SEQUENCES, MASK)
    )


@every_attention
def test_attention_layers_ignore_masked_memory(attention):
    layer, query = ATTENTIONS[attention](), draw(BATCH, TIME, UNITS)
    layer([query, MEMORY])

    def call(memory):
        return layer([query, memory], mask=[None, MEMORY_MASK], return_attention_scores=True, training=True)

    assert_masked_values_change_nothing(call, lambda: layer.trainable_variables, (MEMORY, MEMORY_MASK))


@every_attention
@pytest.mark.parametrize("input_feeding", [True, False])
def test_decoders_ignore_masked_steps_and_memory(attention, input_feeding):
    decoder = layers.AttentionDecoder(UNITS, "gru", ATTENTIONS[attention](), input_feeding)
    decoder(SEQUENCES, MEMORY)

    def call(inputs, memory):
        return decoder(inputs, memory, mask=MASK, memory_mask=MEMORY_MASK, return_attention_scores=True, training=True)

    assert_masked_values_change_nothing(
        call, lambda: decoder.trainable_variables, (SEQUENCES, MASK), (MEMORY, MEMORY_MASK)
    )


@every_implementation
def test_every_implementation_of_a_decoder_ignores_masked_steps_and_memory(implementation):
    decoder = layers.AttentionDecoder(UNITS, implementation=implementation)
    decoder(SEQUENCES, MEMORY)
    assert_masked_values_change_nothing(
        lambda inputs, memory: decoder(inputs, memory, memory_mask=MEMORY_MASK, mask=MASK, training=True),
        lambda: decoder.trainable_variables,
        (SEQUENCES, MASK),
        (MEMORY, MEMORY_MASK),
    )


@every_implementation
def test_the_function_attention_decoder_ignores_masked_memory(implementation):
    weights = {"kernel": draw(FEATURES + UNITS, 3 * UNITS), "recurrent_kernel": draw(UNITS, 3 * UNITS)}
    weights |= {"query_kernel": draw(UNITS, UNITS), "score_vector": draw(UNITS), "implementation": implementation}

    def call(memory, keys):
        return ops.attention_decoder(GRUEquations(), SEQUENCES, memory, keys=keys, memory_mask=MEMORY_MASK, **weights)

    assert_masked_values_change_nothing(
        call, list, (MEMORY, MEMORY_MASK), (draw(BATCH, SOURCE, UNITS, seed=2), MEMORY_MASK)
    )


@every_attention
def test_single_steps_ignore_masked_memory(attention):
    cell = layers.AttentionCell(layers.GRUCell(UNITS), ATTENTIONS[attention]())
    states = cell.get_initial_state(memory=MEMORY)
    cell(SEQUENCES[:, 0], states, MEMORY)

    def call(memory):
        return cell(SEQUENCES[:, 0], states, memory, memory_mask=MEMORY_MASK)

    assert_masked_values_change_nothing(call, lambda: cell.trainable_variables, (MEMORY, MEMORY_MASK))


def test_steps_of_a_search_ignore_masked_memory():
    decoder, tokens = Decoder(9, FEATURES, UNITS, attention="bahdanau"), np.array([[1, 2, 3], [4, 5, 6]])
    decoder(tokens, MEMORY, MEMORY[:, 0])
    results = []
    for value in (0, *NOT_FINITE):
        memory = keras.ops.convert_to_tensor(fill_masked(MEMORY, MEMORY_MASK, value))
        step, state, searched = decoder.start_search(memory, MEMORY[:, 0], MEMORY_MASK)
        results.append(step(tokens[:, 0], state, searched))
    for result in results[1:]:
        assert_close(result, results[0], 1e-6)


@pytest.mark.parametrize("attention", [layers.LuongAttention("dot"), layers.BahdanauAttention(3, coverage=True)])
@pytest.mark.parametrize("jit", [False, True])
def test_any_nonzero_byte_of_an_attention_mask_is_true(attention, jit):
    rng = np.random.default_rng(0)
    query, memory = (tf.constant(rng.normal(size=(2, length, 7)), "float32") for length in (4, 5))
    masks = [rng.random((2, length)) < 0.6 for length in (4, 5)]
    byte_masks = [tf.constant((mask.astype("uint8") * 255).view(bool)) for mask in masks]
    expected = attention([query, memory], mask=masks)
    run = tf.function(lambda *masks: attention([query, memory], mask=list(masks)), jit_compile=jit)
    np.testing.assert_allclose(run(*byte_masks), expected, atol=1e-6)

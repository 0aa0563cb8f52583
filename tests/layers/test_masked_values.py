# SPDX-License-Identifier: Apache-2.0
"""What stands where a mask hides it, not even NaN, reaches a result or a gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close, run_with_gradients

from keras_seq import layers, ops
from keras_seq.models import Decoder
from keras_seq.ops import native
from keras_seq.ops.equations.gru import GRUEquations

BATCH, TIME, SOURCE, FEATURES, UNITS = 2, 3, 4, 3, 5
MASK = np.array([[True, False, True], [False, True, False]])
MEMORY_MASK = np.array([[True, True, False, True], [False, True, False, False]])
WITH_KERNELS = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
every_implementation = pytest.mark.parametrize("implementation", [pytest.param("native", marks=WITH_KERNELS), "xla"])


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def hidden(sequences, mask, value):
    """Sequences with a value wherever they are masked."""
    return np.where(mask[:, :, None], sequences, np.float32(value))


SEQUENCES, MEMORY = draw(BATCH, TIME, FEATURES), draw(BATCH, SOURCE, UNITS, seed=1)
HOSTILE = [np.nan, np.inf]
ATTENTIONS = {
    "bahdanau": lambda: layers.BahdanauAttention(UNITS),
    "normalized coverage": lambda: layers.BahdanauAttention(UNITS, normalize=True, coverage=True),
    "dot": lambda: layers.LuongAttention("dot"),
    "general": lambda: layers.LuongAttention("general"),
    "concat": lambda: layers.LuongAttention("concat", UNITS, scale=True),
    "monotonic": lambda: layers.MonotonicAttention(UNITS, noise_std=0),
}
every_attention = pytest.mark.parametrize("attention", ATTENTIONS)


def assert_nothing_shows(call, variables, *sequences_and_masks, mode="eager"):
    """Results and gradients are what they are with zeros where the masks are; gradients are zero there."""
    plain = run_with_gradients(call, [hidden(x, mask, 0) for x, mask in sequences_and_masks], variables(), mode)
    for value in HOSTILE:
        arguments = [hidden(x, mask, value) for x, mask in sequences_and_masks]
        results, gradients = run_with_gradients(call, arguments, variables(), mode)
        assert_close([*results, *gradients], [*plain[0], *plain[1]], 1e-6)
        for gradient, (_, mask) in zip(gradients, sequences_and_masks, strict=False):
            assert not np.array(gradient)[~mask].any()


@every_implementation
@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM", "Bidirectional", "stack"])
def test_recurrent_layers(kind, implementation):
    options = {"implementation": implementation, "return_sequences": True}
    if kind == "Bidirectional":
        layer = layers.Bidirectional(layers.LSTM(UNITS, **options))
    elif kind == "stack":
        layer = layers.GRU(UNITS, num_layers=2, **options)
    else:
        layer = getattr(layers, kind)(UNITS, **options)
    layer(SEQUENCES)
    assert_nothing_shows(
        lambda x: layer(x, mask=MASK, training=True), lambda: layer.trainable_variables, (SEQUENCES, MASK)
    )


@pytest.mark.parametrize("options", [{"layer_norm": True}, {"peephole": True}, {"activation": "gelu"}])
def test_cells_that_run_on_xla(options):
    layer = layers.LSTM(UNITS, return_sequences=True, **options)
    layer(SEQUENCES)
    assert_nothing_shows(lambda x: layer(x, mask=MASK), lambda: layer.trainable_variables, (SEQUENCES, MASK))


@every_attention
def test_attention_layers(attention):
    layer, query = ATTENTIONS[attention](), draw(BATCH, TIME, UNITS)
    layer([query, MEMORY])

    def call(memory):
        return layer([query, memory], mask=[None, MEMORY_MASK], return_attention_scores=True, training=True)

    assert_nothing_shows(call, lambda: layer.trainable_variables, (MEMORY, MEMORY_MASK))


@every_attention
@pytest.mark.parametrize("input_feeding", [True, False])
def test_decoders(attention, input_feeding):
    decoder = layers.AttentionDecoder(UNITS, "gru", ATTENTIONS[attention](), input_feeding)
    decoder(SEQUENCES, MEMORY)

    def call(inputs, memory):
        return decoder(inputs, memory, mask=MASK, memory_mask=MEMORY_MASK, return_attention_scores=True, training=True)

    assert_nothing_shows(call, lambda: decoder.trainable_variables, (SEQUENCES, MASK), (MEMORY, MEMORY_MASK))


@every_implementation
def test_decoder_by_implementation(implementation):
    decoder = layers.AttentionDecoder(UNITS, implementation=implementation)
    decoder(SEQUENCES, MEMORY)
    assert_nothing_shows(
        lambda inputs, memory: decoder(inputs, memory, memory_mask=MEMORY_MASK, mask=MASK, training=True),
        lambda: decoder.trainable_variables,
        (SEQUENCES, MASK),
        (MEMORY, MEMORY_MASK),
    )


@every_implementation
def test_decoder_as_a_function(implementation):
    weights = {"kernel": draw(FEATURES + UNITS, 3 * UNITS), "recurrent_kernel": draw(UNITS, 3 * UNITS)}
    weights |= {"query_kernel": draw(UNITS, UNITS), "score_vector": draw(UNITS), "implementation": implementation}

    def call(memory, keys):
        return ops.attention_decoder(GRUEquations(), SEQUENCES, memory, keys=keys, memory_mask=MEMORY_MASK, **weights)

    assert_nothing_shows(call, list, (MEMORY, MEMORY_MASK), (draw(BATCH, SOURCE, UNITS, seed=2), MEMORY_MASK))


@every_attention
def test_steps(attention):
    cell = layers.AttentionCell(layers.GRUCell(UNITS), ATTENTIONS[attention]())
    states = cell.get_initial_state(memory=MEMORY)
    cell(SEQUENCES[:, 0], states, MEMORY)

    def call(memory):
        return cell(SEQUENCES[:, 0], states, memory, memory_mask=MEMORY_MASK)

    assert_nothing_shows(call, lambda: cell.trainable_variables, (MEMORY, MEMORY_MASK))


def test_steps_of_a_search():
    decoder, tokens = Decoder(9, FEATURES, UNITS, attention="bahdanau"), np.array([[1, 2, 3], [4, 5, 6]])
    decoder(tokens, MEMORY, MEMORY[:, 0])
    results = []
    for value in (0, *HOSTILE):
        memory = keras.ops.convert_to_tensor(hidden(MEMORY, MEMORY_MASK, value))
        state = decoder.start(MEMORY[:, 0], memory)
        results.append(decoder.stepper(memory, MEMORY_MASK)(tokens[:, 0], state))
    for result in results[1:]:
        assert_close(result, results[0], 1e-6)


@pytest.mark.parametrize("attention", [layers.LuongAttention("dot"), layers.BahdanauAttention(3, coverage=True)])
@pytest.mark.parametrize("jit", [False, True])
def test_any_byte_of_an_attention_mask_but_zero_is_true(attention, jit):
    rng = np.random.default_rng(0)
    query, memory = (tf.constant(rng.normal(size=(2, length, 7)), "float32") for length in (4, 5))
    masks = [rng.random((2, length)) < 0.6 for length in (4, 5)]
    bytes_of = [tf.constant((mask.astype("uint8") * 255).view(bool)) for mask in masks]
    expected = attention([query, memory], mask=masks)
    run = tf.function(lambda *masks: attention([query, memory], mask=list(masks)), jit_compile=jit)
    np.testing.assert_allclose(run(*bytes_of), expected, atol=1e-6)

# SPDX-License-Identifier: Apache-2.0
"""Cells that attend, with any cell and any attention: `RNN`, `AttentionDecoder` and single steps, against NumPy."""

import keras
import numpy as np
import pytest
import references
import tensorflow as tf
from attentions import (
    ATTENTION,
    ATTENTIONS,
    BATCH,
    CELLS,
    INPUTS,
    MASK,
    MEMORY_MASK,
    SOURCE,
    SOURCES,
    TIME,
    UNITS,
    decode_with,
    fill,
    make_decoder,
)
from conftest import MinimalCell, assert_close, mostly_slow, run_with_gradients

from keras_seq import layers

TOLERANCE = 1e-11
every_attention = pytest.mark.parametrize("attention", ATTENTIONS)
either_feeding = pytest.mark.parametrize("input_feeding", [True, False])


@every_attention
@either_feeding
def test_outputs_and_gradients_match_numpy(attention, input_feeding):
    cell = list(CELLS)[list(ATTENTIONS).index(attention) % len(CELLS)]
    decoder = make_decoder(cell, attention, input_feeding)
    states = [np.random.default_rng(i).normal(size=(BATCH, size)) for i, size in enumerate(decoder.state_size)]

    def expected(inputs, memory, *rest):
        state, weights = list(rest[: len(states)]), rest[len(states) :]
        attend = ATTENTIONS[attention][1](memory, *weights[3:], mask=MEMORY_MASK)
        outputs, state, attention_weights = references.any_attention_decoder(
            CELLS[cell], inputs, *weights[:3], attend=attend, input_feeding=input_feeding, initial_state=state
        )
        return [outputs, attention_weights, *state]

    arguments = [INPUTS, SOURCES, *states]
    run = decode_with(decoder, attention.endswith("soft"), memory_mask=MEMORY_MASK)

    def without_attention_state(*arguments):
        return run(*arguments)[: 2 + len(states)]

    outputs, gradients = run_with_gradients(without_attention_state, arguments, decoder.trainable_variables)
    arguments = [*arguments, *decoder.get_weights()]
    assert_close(outputs, expected(*arguments), TOLERANCE)
    assert_close(gradients, references.numerical_gradients(expected, arguments), TOLERANCE)


def test_extended_cells_match_numpy():
    cell = layers.LSTMCell(UNITS + 1, peephole=True, projection_units=UNITS, zoneout=[0.2, 0.1], dtype="float64")
    decoder = make_decoder(cell, "bahdanau")

    def expected(inputs, memory, kernel, recurrent_kernel, bias, peephole, projection, *weights):
        zoneout = [np.full((BATCH, UNITS), 0.2), np.full((BATCH, UNITS + 1), 0.1)]
        outputs, state, attention_weights = references.any_attention_decoder(
            references.extended_lstm, inputs, kernel, recurrent_kernel, bias, peephole=peephole,
            projection=projection, zoneout_masks=zoneout, attend=references.bahdanau(memory, *weights),
        )  # fmt: skip
        return [outputs, attention_weights, *state]

    outputs, gradients = run_with_gradients(decode_with(decoder), [INPUTS, SOURCES], decoder.trainable_variables)
    arguments = [INPUTS, SOURCES, *decoder.get_weights()]
    assert_close(outputs, expected(*arguments), TOLERANCE)
    assert_close(gradients, references.numerical_gradients(expected, arguments), TOLERANCE)


def test_layer_norm_covers_inputs_and_context_together():
    decoder = make_decoder(layers.GRUCell(UNITS, layer_norm=True, dtype="float64"), "bahdanau")
    kernel, recurrent_kernel, bias, input_gamma, recurrent_gamma, *weights = decoder.get_weights()
    norms = {"input_gamma": input_gamma, "recurrent_gamma": recurrent_gamma}
    attend = references.bahdanau(SOURCES, *weights)
    outputs, state, attention_weights = references.any_attention_decoder(
        references.layer_norm_gru, INPUTS, kernel, recurrent_kernel, bias, attend=attend, norms=norms
    )
    assert_close(decode_with(decoder)(INPUTS, SOURCES), [outputs, attention_weights, *state], TOLERANCE)


@either_feeding
def test_foreign_cells_match_cells_of_keras_seq(input_feeding):
    ours, theirs = (module.LSTMCell(UNITS, dtype="float64") for module in (layers, keras.layers))
    results = []
    for cell in (ours, theirs):
        decoder = make_decoder(cell, "bahdanau", input_feeding)
        run = decode_with(decoder, mask=MASK, memory_mask=MEMORY_MASK)
        results.append(run_with_gradients(run, [INPUTS, SOURCES], decoder.trainable_variables))
    assert_close(*results, TOLERANCE)


def make_cell(kind):
    return {
        "lstm": lambda: layers.LSTMCell(UNITS, zoneout=0.1, dtype="float64"),
        "normalized": lambda: layers.GRUCell(UNITS, layer_norm=True, dtype="float64"),
        "keras": lambda: keras.layers.GRUCell(UNITS, dtype="float64"),
        "minimal": lambda: MinimalCell(UNITS, dtype="float64"),  # output and state differ in size
        "stack": lambda: keras.layers.StackedRNNCells(
            [layers.LSTMCell(UNITS, dtype="float64"), keras.layers.GRUCell(UNITS, dtype="float64")]
        ),
    }[kind]()


@pytest.mark.parametrize("attention", mostly_slow(["bahdanau", "coverage", "general", "monotonic, hard"], every=2))
@pytest.mark.parametrize(
    "kind", ["lstm", "normalized", "keras", *(pytest.param(k, marks=pytest.mark.slow) for k in ("minimal", "stack"))]
)
@either_feeding
def test_rnn_decoder_and_single_steps_agree(kind, attention, input_feeding):
    cell = layers.AttentionCell(
        make_cell(kind), ATTENTIONS[attention][0](dtype="float64"), input_feeding, dtype="float64"
    )
    options = {"return_sequences": True, "return_state": True, "dtype": "float64", "implementation": "xla"}
    layer = layers.RNN(cell, **options)
    masks = {"mask": MASK, "memory_mask": MEMORY_MASK}
    layer(INPUTS, memory=SOURCES)
    fill(layer)
    outputs, *states = layer(INPUTS, memory=SOURCES, **masks)
    attention = ATTENTIONS[attention][0](dtype="float64")
    decoder = layers.AttentionDecoder(
        cell.cell_output_size, make_cell(kind), attention, input_feeding, return_state=True, dtype="float64",
        implementation="xla",
    )  # fmt: skip
    decoder(INPUTS, SOURCES)
    decoder.set_weights(layer.get_weights())
    assert_close([outputs, *states], decoder(INPUTS, SOURCES, **masks), 0)

    keys = cell.project_memory(SOURCES)
    for row in range(BATCH):  # each sequence alone, without its masked steps
        memory = SOURCES[row : row + 1]
        state = cell.get_initial_state(memory=memory)
        expected = np.zeros(outputs.shape[-1])  # the output before the first visible step
        for t in range(TIME):
            if MASK[row, t]:
                options = {"keys": keys[row : row + 1], "memory_mask": MEMORY_MASK[row : row + 1]}
                output, state = cell(INPUTS[row : row + 1, t], state, memory, **options)
                expected = output[0]
            assert_close(outputs[row, t], expected, 1e-13)
        assert_close([s[row : row + 1] for s in states], state, 1e-13)


@every_attention
@either_feeding
def test_an_attention_computes_in_the_dtype_of_its_decoder(attention, input_feeding):
    """A layer inside a Keras layer does so too: an attention made in float32 computes in float64 here."""
    decoders = []
    for dtype in ("float32", "float64"):
        inner = ATTENTIONS[attention][0](dtype=dtype)
        decoders.append(layers.AttentionDecoder(SOURCES.shape[-1], "gru", inner, input_feeding, dtype="float64"))
        decoders[-1](INPUTS, SOURCES)
    from_float32, from_float64 = decoders
    fill(from_float32)
    from_float64.set_weights(from_float32.get_weights())
    outputs = from_float32(INPUTS, SOURCES)
    assert_close(outputs, from_float64(INPUTS, SOURCES), 1e-13)

    keys, state = from_float32.attention.project_memory(SOURCES), from_float32.get_initial_state(SOURCES)
    for t in range(INPUTS.shape[1]):
        output, state, _ = from_float32.step(INPUTS[:, t], state, SOURCES, keys)
        assert_close(output, outputs[:, t], 1e-13)


@pytest.mark.parametrize("kind", ["lstm", "keras"])
@either_feeding
def test_a_call_continues_from_the_states_of_an_earlier_one(kind, input_feeding):
    """The state of the attention, here its coverage, is one of them; without it the coverage starts at zero."""
    decoder = make_decoder(make_cell(kind), "coverage", input_feeding, implementation="xla")
    outputs, *states = decoder(INPUTS, SOURCES)
    first, *first_states = decoder(INPUTS[:, :2], SOURCES)
    second, *second_states = decoder(INPUTS[:, 2:], SOURCES, initial_state=first_states)
    assert_close([np.concatenate([first, second], axis=1), *second_states], [outputs, *states], 1e-13)
    without_coverage, *_ = decoder(INPUTS[:, 2:], SOURCES, initial_state=first_states[:-1])
    assert not np.allclose(without_coverage, second)


@pytest.mark.parametrize("kind", ["lstm", "keras"])
def test_options_of_rnn_apply(kind):
    cell = layers.AttentionCell(make_cell(kind), ATTENTIONS["coverage"][0](dtype="float64"), dtype="float64")
    options = {"dtype": "float64", "return_sequences": True, "return_state": True}
    plain, backwards, zeros, last, unrolled = (
        layers.RNN(cell, **(options | changes))
        for changes in (
            {},
            {"go_backwards": True},
            {"zero_output_for_mask": True},
            {"return_sequences": False, "return_state": False},
            {"unroll": True},
        )
    )
    masks = {"memory": SOURCES, "memory_mask": MEMORY_MASK, "mask": MASK}
    expected = plain(INPUTS, **masks)
    assert_close(backwards(INPUTS, **masks), plain(INPUTS[:, ::-1], **(masks | {"mask": MASK[:, ::-1]})), 0)
    assert_close(zeros(INPUTS, **masks)[0], expected[0] * MASK[:, :, None], 0)
    assert_close(last(INPUTS, **masks), expected[0][:, -1], 0)
    assert_close(unrolled(INPUTS, **masks), expected, 1e-13)


def test_a_learned_initial_state_acts_like_a_given_one():
    cell = layers.AttentionCell(layers.GRUCell(UNITS), layers.BahdanauAttention(ATTENTION, coverage=True))
    layer = layers.RNN(cell, return_sequences=True, initial_state_initializer="ones")
    outputs = layer(INPUTS, memory=SOURCES)
    plain = layers.RNN(cell, return_sequences=True)
    assert_close(outputs, plain(INPUTS, memory=SOURCES, initial_state=[np.ones((BATCH, UNITS))]), 1e-6)


@pytest.mark.slow
def test_jit_matches_eager_mode():
    decoder = make_decoder("gru", "monotonic, soft")
    run = decode_with(decoder, training=True, mask=tf.constant(MASK), memory_mask=tf.constant(MEMORY_MASK))
    arguments = [INPUTS, SOURCES]
    expected = run_with_gradients(run, arguments, decoder.trainable_variables)
    assert_close(run_with_gradients(run, arguments, decoder.trainable_variables, "jit"), expected, 1e-11)


@every_attention
@either_feeding
def test_a_fully_masked_memory_acts_like_zeros(attention, input_feeding):
    decoder = make_decoder("gru", attention, input_feeding, implementation="xla")
    run = decode_with(decoder, attention.endswith("soft"), memory_mask=np.array([[True] * SOURCE, [False] * SOURCE]))
    (outputs, attention_weights, *states), gradients = run_with_gradients(
        run, [INPUTS, SOURCES], decoder.trainable_variables
    )
    assert all(np.all(np.isfinite(x)) for x in [outputs, attention_weights, *states, *gradients])
    assert not np.any(attention_weights[1])
    assert not np.any(gradients[1][1])  # of the masked memory
    assert_close(outputs[1], run(INPUTS, 0 * SOURCES)[0][1], 1e-12)

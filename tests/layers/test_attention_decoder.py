# SPDX-License-Identifier: Apache-2.0
"""`AttentionDecoder` against NumPy in float64: outputs, gradients of every input and weight, and single steps."""

import keras
import numpy as np
import pytest
import references
import tensorflow as tf
from attentions import CELLS
from conftest import MODES, assert_close, mostly_slow, run_with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_seq import layers

TOLERANCE = 1e-11
BATCH, TIME, SOURCE, FEATURES, MEMORY, UNITS, ATTENTION = 3, 4, 5, 2, 4, 3, 6
MEMORY_MASKS = {
    "none": None,
    "tails": np.arange(SOURCE) < np.array([[5], [3], [1]]),
    "one position": np.eye(SOURCE)[[0, 3, 4]] > 0,
    "all masked": np.zeros((BATCH, SOURCE), bool),
}


def make_decoder(cell, rng, dtype="float64", **options):
    attention = layers.BahdanauAttention(ATTENTION, dtype=dtype)
    decoder = layers.AttentionDecoder(UNITS, cell, attention, return_state=True, dtype=dtype, **options)
    decoder.build((BATCH, TIME, FEATURES), (BATCH, SOURCE, MEMORY))
    decoder.set_weights([rng.normal(size=weight.shape) for weight in decoder.weights])
    inputs, memory = rng.normal(size=(BATCH, TIME, FEATURES)), rng.normal(size=(BATCH, SOURCE, MEMORY))
    return decoder, [inputs, memory, *(rng.normal(size=(BATCH, size)) for size in decoder.state_size)]


def reference(cell, mask, memory_mask):
    """The NumPy function of inputs, memory, states, and the weights in the order of the layer."""

    def decode(inputs, memory, *rest):
        *state, kernel, recurrent_kernel, bias, query_kernel, key_kernel, score_kernel = rest
        outputs, state, attention_weights = references.attention_decoder(
            CELLS[cell],
            inputs,
            memory,
            kernel,
            recurrent_kernel,
            bias,
            query_kernel=query_kernel,
            score_vector=score_kernel[:, 0],
            keys=memory @ key_kernel,
            memory_mask=memory_mask,
            mask=mask,
            initial_state=state,
        )
        return [outputs, attention_weights, *state]

    return decode


def decode_with(decoder, training=False, **masks):
    def decode(inputs, memory, *state):
        return decoder(
            inputs, memory, initial_state=list(state), return_attention_scores=True, training=training, **masks
        )

    return decode


@pytest.mark.parametrize("implementation", ["auto", "xla"])
@pytest.mark.parametrize("memory_mask", mostly_slow(MEMORY_MASKS))
@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(masked=st.booleans(), training=st.booleans(), seed=st.integers(0, 999))
def test_outputs_and_gradients_match_numpy(cell, memory_mask, implementation, masked, training, seed):
    rng = np.random.default_rng(seed)
    decoder, arguments = make_decoder(cell, rng, implementation=implementation)
    masks = {
        "mask": rng.random((BATCH, TIME)) < 0.6 if masked else None,
        "memory_mask": MEMORY_MASKS[memory_mask],
    }
    run = decode_with(decoder, training, **masks)
    outputs, gradients = run_with_gradients(run, arguments, decoder.trainable_variables)
    expected, arguments = reference(cell, *masks.values()), [*arguments, *decoder.get_weights()]
    assert_close(outputs, expected(*arguments), TOLERANCE)
    assert_close(gradients, references.numerical_gradients(expected, arguments), TOLERANCE)


@pytest.mark.parametrize("implementation", ["auto", "xla"])
@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_graph_and_jit_match_eager_mode(cell, mode, implementation):
    decoder, arguments = make_decoder(cell, np.random.default_rng(0), implementation=implementation)
    run = decode_with(decoder, memory_mask=tf.constant(MEMORY_MASKS["tails"]))
    actual = run_with_gradients(run, arguments, decoder.trainable_variables, mode)
    assert_close(actual, run_with_gradients(run, arguments, decoder.trainable_variables), 1e-12)


@pytest.mark.parametrize("memory_mask", MEMORY_MASKS)
@pytest.mark.parametrize("cell", CELLS)
def test_single_steps_match_the_teacher_forced_call(cell, memory_mask):
    decoder, (inputs, memory, *states) = make_decoder(cell, np.random.default_rng(1))
    memory_mask = MEMORY_MASKS[memory_mask]
    expected = decode_with(decoder, memory_mask=memory_mask)(inputs, memory, *states)
    keys, steps = decoder.attention.project_memory(memory), []
    for t in range(TIME):
        output, states, attention_weights = decoder.step(inputs[:, t], states, memory, keys, memory_mask)
        steps.append((output, attention_weights))
    outputs, attention_weights = (np.stack(tensors, axis=1) for tensors in zip(*steps, strict=True))
    assert_close([outputs, attention_weights, *states], list(expected), 1e-13)


def test_a_call_without_states_starts_from_the_initial_state():
    decoder, (inputs, memory, *_) = make_decoder("lstm", np.random.default_rng(1))
    states = decoder.get_initial_state(memory)
    assert [tuple(state.shape) for state in states] == [(BATCH, UNITS)] * 2
    output, _, _ = decoder.step(inputs[:, 0], states, memory, decoder.attention.project_memory(memory))
    assert_close(output, decoder(inputs, memory)[0][:, 0], 1e-13)


@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_nothing(cell):
    decoder, arguments = make_decoder(cell, np.random.default_rng(2))
    inputs_mask, memory_mask = np.arange(TIME) < np.array([[4], [2], [3]]), MEMORY_MASKS["tails"]

    def decode(extra):
        padding = [(0, 0), (0, extra)]

        def function(inputs, memory, *state):
            inputs = tf.pad(inputs, [*padding, (0, 0)], constant_values=5)
            memory = tf.pad(memory, [*padding, (0, 0)], constant_values=5)
            masks = {"mask": np.pad(inputs_mask, padding), "memory_mask": np.pad(memory_mask, padding)}
            outputs, attention_weights, *state = decode_with(decoder, **masks)(inputs, memory, *state)
            return outputs[:, :TIME], attention_weights[:, :TIME, :SOURCE], *state

        return run_with_gradients(function, arguments, decoder.trainable_variables)

    assert_close(decode(2), decode(0), 1e-12)


def test_a_fully_masked_memory_acts_like_zeros():
    decoder, arguments = make_decoder("gru", np.random.default_rng(3), dtype="float32")
    arguments = [argument.astype("float32") for argument in arguments]
    mask = np.array([[True] * SOURCE, [False] * SOURCE, [True] * SOURCE])
    run = decode_with(decoder, memory_mask=mask)
    (outputs, attention_weights, state), gradients = run_with_gradients(run, arguments, decoder.trainable_variables)
    assert not np.any(attention_weights[1])
    np.testing.assert_allclose(np.sum(attention_weights, axis=-1)[[0, 2]], 1, rtol=1e-6)
    assert all(np.all(np.isfinite(tensor)) for tensor in [outputs, state, *gradients])
    assert not np.any(gradients[1][1])  # of the masked memory
    inputs, memory, initial_state = arguments
    without = decoder(inputs, 0 * memory, initial_state=[initial_state])[0]
    assert_close(outputs[1], without[1], 1e-6)


def test_implicit_masks_act_like_explicit_ones():
    tokens, memory_tokens = np.array([[1, 2, 0], [3, 0, 0]]), np.array([[1, 2, 3, 0], [4, 0, 0, 0]])
    embedding = keras.layers.Embedding(5, 6, mask_zero=True)
    decoder = layers.AttentionDecoder(UNITS, return_state=True)
    target, source = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    results = decoder(embedding(target), embedding(source), return_attention_scores=True)
    implicit = keras.Model([target, source], results)([tokens, memory_tokens])
    masks = {"mask": tokens > 0, "memory_mask": memory_tokens > 0}
    vectors = [np.array(embedding(t)) for t in (tokens, memory_tokens)]
    assert_close(implicit, decoder(*vectors, return_attention_scores=True, **masks), 1e-6)
    unmasked = decoder(*vectors, return_attention_scores=True)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(implicit, unmasked, strict=True))


def test_results_come_in_the_documented_order():
    decoder, (inputs, memory, *_) = make_decoder("lstm", np.random.default_rng(0))
    shapes = [tuple(result.shape) for result in decoder(inputs, memory, return_attention_scores=True)]
    assert shapes == [(BATCH, TIME, UNITS), (BATCH, TIME, SOURCE), (BATCH, UNITS), (BATCH, UNITS)]
    assert decoder.state_size == [UNITS, UNITS]
    outputs_only = layers.AttentionDecoder(UNITS, cell="gru")
    assert tuple(outputs_only(inputs, memory).shape) == (BATCH, TIME, UNITS)
    assert outputs_only.state_size == [UNITS]


def test_an_unknown_cell_raises():
    with pytest.raises(
        ValueError, match=r"`cell` must be one of \['gru', 'lstm', 'mgu', 'simple_rnn'\]. Received: 'transformer'"
    ):
        layers.AttentionDecoder(4, cell="transformer")

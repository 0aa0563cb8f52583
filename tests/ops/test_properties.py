# SPDX-License-Identifier: Apache-2.0
"""What holds for every recurrence: runs continue, padding does not matter, backwards mirrors forwards."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close, run_with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_seq import ops
from keras_seq.ops import cell_math

TOLERANCE = 1e-12
FEATURES, UNITS, SOURCE, MEMORY, ATTENTION = 2, 3, 4, 2, 3


def attention_decoder(cell):
    def function(inputs, kernel, recurrent_kernel, bias, memory, query_kernel, score_vector, keys, **options):
        attention = {"query_kernel": query_kernel, "score_vector": score_vector, "keys": keys}
        weights = {"kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}
        return ops.attention_decoder(cell, inputs, memory, **weights, **attention, **options)[:2]

    return function


def gru_reset_before(*arguments, **options):
    return ops.gru(*arguments, reset_after=False, **options)


# Each with the gates, the states, and whether there is a memory.
RECURRENCES = {
    "simple_rnn": (ops.simple_rnn, 1, 1, False),
    "gru_reset_after": (ops.gru, 3, 1, False),
    "gru_reset_before": (gru_reset_before, 3, 1, False),
    "lstm": (ops.lstm, 4, 2, False),
    "attention_gru": (attention_decoder(cell_math.GRU()), 3, 1, True),
    "attention_lstm": (attention_decoder(cell_math.LSTM()), 4, 2, True),
}
CALLS = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "time": st.integers(2, 6),
        "reverse": st.booleans(),
        "recompute": st.booleans(),
        "seed": st.integers(0, 999),
    }
)


def draw(name, call):
    """The function with `call`'s options, its arguments (inputs, states, weights), and a mask."""
    function, gates, states, has_memory = RECURRENCES[name]
    rng = np.random.default_rng(call["seed"])
    batch, time, width = call["batch"], call["time"], gates * UNITS
    weights = [
        rng.normal(size=(FEATURES + MEMORY * has_memory, width)),
        rng.normal(size=(UNITS, width)),
        rng.normal(size=(2, width) if name == "gru_reset_after" else (width,)),
    ]
    if has_memory:
        weights += [
            rng.normal(size=(batch, SOURCE, MEMORY)),
            rng.normal(size=(UNITS, ATTENTION)),
            rng.normal(size=ATTENTION),
            rng.normal(size=(batch, SOURCE, ATTENTION)),
        ]

    def recur(inputs, state_and_weights, **options):
        state, weights = state_and_weights[:states], state_and_weights[states:]
        options = {"reverse": call["reverse"], "recompute": call["recompute"], **options}
        return function(inputs, *weights, initial_state=state, **options)

    inputs = rng.normal(size=(batch, time, FEATURES))
    initial_state = [rng.normal(size=(batch, UNITS)) for _ in range(states)]
    return recur, [inputs, *initial_state, *weights], rng.random((batch, time)) < 0.6


def assert_same(function, other, arguments, tolerance=TOLERANCE):
    assert_close(run_with_gradients(function, arguments), run_with_gradients(other, arguments), tolerance)


properties = settings(max_examples=15, deadline=None, derandomize=True)


@pytest.mark.parametrize("name", RECURRENCES)
@properties
@given(call=CALLS, data=st.data())
def test_a_run_continues_from_its_state(name, call, data):
    recur, arguments, mask = draw(name, {**call, "reverse": False})
    cut, states = data.draw(st.integers(1, call["time"] - 1)), RECURRENCES[name][2]
    mask[:, cut] = True  # before its first visible step, a run has no output to repeat

    def whole(inputs, *rest):
        return recur(inputs, rest, mask=mask)

    def halves(inputs, *rest):
        first, state = recur(inputs[:, :cut], rest, mask=mask[:, :cut])
        second, state = recur(inputs[:, cut:], [*state, *rest[states:]], mask=mask[:, cut:])
        return tf.concat([first, second], axis=1), state

    assert_same(whole, halves, arguments)


@pytest.mark.parametrize("name", RECURRENCES)
@properties
@given(call=CALLS, extra=st.integers(1, 4))
def test_padding_changes_nothing(name, call, extra):
    recur, arguments, mask = draw(name, call)
    garbage = np.full((call["batch"], extra, FEATURES), 7.0)
    padded_mask = np.pad(mask, [(0, 0), (0, extra)])

    def padded(inputs, *rest):
        outputs, state = recur(tf.concat([inputs, garbage], axis=1), rest, mask=padded_mask)
        return outputs[:, : call["time"]], state

    assert_same(lambda inputs, *rest: recur(inputs, rest, mask=mask), padded, arguments)


@pytest.mark.parametrize("name", RECURRENCES)
@properties
@given(call=CALLS)
def test_a_full_mask_is_no_mask(name, call):
    recur, arguments, mask = draw(name, call)
    full = np.ones_like(mask)
    assert_same(lambda x, *rest: recur(x, rest, mask=full), lambda x, *rest: recur(x, rest), arguments)


@pytest.mark.parametrize("name", RECURRENCES)
@properties
@given(call=CALLS)
def test_backwards_mirrors_forwards(name, call):
    recur, arguments, mask = draw(name, call)

    def mirrored(inputs, *rest):
        options = {"mask": mask[:, ::-1], "reverse": not call["reverse"]}
        outputs, state = recur(tf.reverse(inputs, [1]), rest, **options)
        return tf.reverse(outputs, [1]), state

    assert_same(lambda inputs, *rest: recur(inputs, rest, mask=mask), mirrored, arguments)


@pytest.mark.parametrize("name", RECURRENCES)
def test_sequences_of_a_batch_are_independent(name):
    batch = 5  # a size that no weight has
    recur, arguments, mask = draw(name, {"batch": batch, "time": 4, "reverse": False, "recompute": False, "seed": 4})

    def run(rows):
        inputs, *rest = [argument[rows] if len(argument) == batch else argument for argument in arguments]
        return recur(inputs, rest, mask=mask[rows])[0]

    one_by_one = tf.concat([run(slice(i, i + 1)) for i in range(batch)], axis=0)
    assert_close(one_by_one, run(slice(None)), TOLERANCE)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["simple_rnn", "gru_reset_after", "gru_reset_before", "lstm"])
def test_one_trace_serves_every_batch_and_length(name, masked):
    function, _, states, _ = RECURRENCES[name]
    weights = draw(name, {"batch": 1, "time": 2, "seed": 0})[1][1 + states :]

    def run(inputs, mask):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs, _ = function(inputs, *weights, mask=mask if masked else None)
        return outputs, tape.gradient(outputs, inputs)

    shape = [None, None]
    traced = tf.function(run, [tf.TensorSpec([*shape, FEATURES], "float64"), tf.TensorSpec(shape, "bool")])
    rng = np.random.default_rng(0)
    for batch, time in [(1, 1), (3, 1), (1, 4), (2, 6)]:
        inputs, mask = tf.constant(rng.normal(size=(batch, time, FEATURES))), rng.random((batch, time)) < 0.6
        assert_close(traced(inputs, mask), run(inputs, mask), TOLERANCE)
    assert traced.experimental_get_tracing_count() == 1

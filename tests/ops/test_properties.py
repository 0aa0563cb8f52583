# SPDX-License-Identifier: Apache-2.0
"""Properties of every recurrence: calls continue, padding does not matter, backwards mirrors forwards."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close, run_with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_seq import ops
from keras_seq.ops.equations.gru import GRUEquations
from keras_seq.ops.equations.lstm import LSTMEquations

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


# Each with the number of gates and of states, and whether there is a memory.
RECURRENCES = {
    "simple_rnn": (ops.simple_rnn, 1, 1, False),
    "gru_reset_after": (ops.gru, 3, 1, False),
    "gru_reset_before": (gru_reset_before, 3, 1, False),
    "lstm": (ops.lstm, 4, 2, False),
    "attention_gru": (attention_decoder(GRUEquations()), 3, 1, True),
    "attention_lstm": (attention_decoder(LSTMEquations()), 4, 2, True),
}
CALLS = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "time": st.integers(2, 6),
        "reverse": st.booleans(),
        "recompute": st.booleans(),
        "implementation": st.sampled_from(["auto", "xla"]),
        "unit_masks": st.booleans(),
        "seed": st.integers(0, 999),
    }
)


def draw(name, call):
    """A function with the options of `call`, its arguments (inputs, states, weights), and masks (batch, time, ...)."""
    function, gates, states, has_memory = RECURRENCES[name]
    rng = np.random.default_rng(call["seed"])
    batch, time, width = call["batch"], call["time"], gates * UNITS
    weights = [
        rng.normal(size=(FEATURES + MEMORY * has_memory, width)),
        rng.normal(size=(UNITS, width)),
        rng.normal(size=(2, width) if name in ("gru_reset_after", "attention_gru") else (width,)),
    ]
    if has_memory:
        weights += [
            rng.normal(size=(batch, SOURCE, MEMORY)),
            rng.normal(size=(UNITS, ATTENTION)),
            rng.normal(size=ATTENTION),
            rng.normal(size=(batch, SOURCE, ATTENTION)),
        ]

    def run_recurrence(inputs, state_and_weights, **options):
        state, weights = state_and_weights[:states], state_and_weights[states:]
        options = {name: call[name] for name in ("reverse", "recompute", "implementation")} | options
        return function(inputs, *weights, initial_state=state, **options)

    inputs = rng.normal(size=(batch, time, FEATURES))
    initial_state = [rng.normal(size=(batch, UNITS)) for _ in range(states)]
    masks = {"mask": rng.random((batch, time)) < 0.6}
    if call["unit_masks"]:
        dropout, *zoneout = rng.integers(0, 3, (1 + states, batch, time, UNITS)) / 2
        masks |= {"recurrent_dropout_mask": dropout, "zoneout_masks": zoneout}
    return run_recurrence, [inputs, *initial_state, *weights], masks


def assert_same(function, other, arguments):
    """Assert that two functions have the same outputs and gradients."""
    assert_close(run_with_gradients(function, arguments), run_with_gradients(other, arguments), TOLERANCE)


def map_masks(function, masks):
    """Apply a function to every mask."""
    return tf.nest.map_structure(function, masks)


properties = settings(max_examples=15, deadline=None, derandomize=True)


@pytest.mark.parametrize("name", RECURRENCES)
@properties
@given(call=CALLS, data=st.data())
def test_a_call_continues_from_the_final_state_of_another(name, call, data):
    run_recurrence, arguments, masks = draw(name, {**call, "reverse": False})
    cut, states = data.draw(st.integers(1, call["time"] - 1)), RECURRENCES[name][2]
    masks["mask"][:, cut] = True  # a call has no output to repeat before its first visible step

    def whole(inputs, *rest):
        return run_recurrence(inputs, rest, **masks)

    def halves(inputs, *rest):
        first, state = run_recurrence(inputs[:, :cut], rest, **map_masks(lambda m: m[:, :cut], masks))
        second, state = run_recurrence(
            inputs[:, cut:], [*state, *rest[states:]], **map_masks(lambda m: m[:, cut:], masks)
        )
        return tf.concat([first, second], axis=1), state

    assert_same(whole, halves, arguments)


@pytest.mark.parametrize("name", RECURRENCES)
@properties
@given(call=CALLS, extra=st.integers(1, 4))
def test_padding_changes_nothing(name, call, extra):
    run_recurrence, arguments, masks = draw(name, call)
    garbage = np.full((call["batch"], extra, FEATURES), 7.0)
    padded_masks = map_masks(lambda m: np.pad(m, [(0, 0), (0, extra), (0, 0)][: m.ndim]), masks)

    def padded(inputs, *rest):
        outputs, state = run_recurrence(tf.concat([inputs, garbage], axis=1), rest, **padded_masks)
        return outputs[:, : call["time"]], state

    assert_same(lambda inputs, *rest: run_recurrence(inputs, rest, **masks), padded, arguments)


@pytest.mark.parametrize("name", RECURRENCES)
@properties
@given(call=CALLS)
def test_a_mask_that_is_all_true_acts_like_no_mask(name, call):
    run_recurrence, arguments, masks = draw(name, call)
    full, none = {**masks, "mask": np.ones_like(masks["mask"])}, {**masks, "mask": None}
    assert_same(
        lambda x, *rest: run_recurrence(x, rest, **full), lambda x, *rest: run_recurrence(x, rest, **none), arguments
    )


@pytest.mark.parametrize("name", RECURRENCES)
@properties
@given(call=CALLS)
def test_a_mask_for_all_steps_acts_like_the_same_mask_for_each_step(name, call):
    run_recurrence, arguments, masks = draw(name, {**call, "unit_masks": True})
    for_all_steps = {**map_masks(lambda m: m[:, 0], masks), "mask": masks["mask"]}
    for_each_step = {**map_masks(lambda m: np.repeat(m[:, :1], call["time"], 1), masks), "mask": masks["mask"]}
    assert_same(
        lambda x, *rest: run_recurrence(x, rest, **for_all_steps),
        lambda x, *rest: run_recurrence(x, rest, **for_each_step),
        arguments,
    )


@pytest.mark.parametrize("name", RECURRENCES)
@properties
@given(call=CALLS)
def test_backwards_mirrors_forwards(name, call):
    run_recurrence, arguments, masks = draw(name, call)

    def mirrored(inputs, *rest):
        options = {**map_masks(lambda m: m[:, ::-1], masks), "reverse": not call["reverse"]}
        outputs, state = run_recurrence(tf.reverse(inputs, [1]), rest, **options)
        return tf.reverse(outputs, [1]), state

    assert_same(lambda inputs, *rest: run_recurrence(inputs, rest, **masks), mirrored, arguments)


@pytest.mark.parametrize("name", RECURRENCES)
def test_sequences_of_a_batch_are_independent(name):
    batch = 5  # a size that no weight has
    call = {"batch": batch, "time": 4, "reverse": False, "recompute": False, "unit_masks": True, "seed": 4}
    call["implementation"] = "auto"
    run_recurrence, arguments, masks = draw(name, call)

    def run(rows):
        inputs, *rest = [argument[rows] if len(argument) == batch else argument for argument in arguments]
        return run_recurrence(inputs, rest, **map_masks(lambda m: m[rows], masks))[0]

    one_by_one = tf.concat([run(slice(i, i + 1)) for i in range(batch)], axis=0)
    assert_close(one_by_one, run(slice(None)), TOLERANCE)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["simple_rnn", "gru_reset_after", "gru_reset_before", "lstm"])
def test_one_trace_serves_every_batch_and_length(name, masked):
    function, _, states, _ = RECURRENCES[name]
    weights = draw(name, {"batch": 1, "time": 2, "unit_masks": False, "seed": 0})[1][1 + states :]

    def run(inputs, mask, unit_mask):
        masks = {"mask": mask, "recurrent_dropout_mask": unit_mask, "zoneout_masks": [unit_mask] * states}
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs, _ = function(inputs, *weights, **masks if masked else {})
        return outputs, tape.gradient(outputs, inputs)

    shapes = [[None, None, FEATURES], [None, None], [None, None, UNITS]]
    traced = tf.function(
        run, [tf.TensorSpec(*spec) for spec in zip(shapes, ["float64", "bool", "float64"], strict=True)]
    )
    rng = np.random.default_rng(0)
    for batch, time in [(1, 1), (3, 1), (1, 4), (2, 6)]:
        inputs, mask = tf.constant(rng.normal(size=(batch, time, FEATURES))), rng.random((batch, time)) < 0.6
        unit_mask = tf.constant(rng.random((batch, time, UNITS)))
        assert_close(traced(inputs, mask, unit_mask), run(inputs, mask, unit_mask), TOLERANCE)
    assert traced.experimental_get_tracing_count() == 1

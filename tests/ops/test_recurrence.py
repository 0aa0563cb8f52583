# SPDX-License-Identifier: Apache-2.0
"""The functions of `keras_seq.ops` against NumPy in float64: outputs, and gradients against numerical ones."""

import numpy as np
import pytest
import references
from conftest import CELL_EQUATIONS, assert_close, make_cell_equations, run_with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_seq import ops

TOLERANCE = 1e-11
FEATURES, UNITS, SOURCE, MEMORY, ATTENTION = 2, 3, 4, 2, 3
CELLS = [
    ("simple_rnn", {}),
    ("simple_rnn", {"activation": "relu"}),
    ("simple_rnn", {"activation": "linear"}),
    ("gru", {}),
    ("gru", {"reset_after": False}),
    ("gru", {"reset_after": False, "activation": "relu", "recurrent_activation": "tanh"}),
    ("gru", {"activation": "linear"}),
    ("lstm", {}),
    ("lstm", {"activation": "relu", "recurrent_activation": "tanh"}),
    ("lstm", {"activation": "linear"}),
    ("mgu", {}),
    ("mgu", {"activation": "relu", "recurrent_activation": "tanh"}),
]
CALLS = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "time": st.integers(1, 5),
        "mask": st.booleans(),
        "dropout": st.sampled_from([None, "a sequence", "a step"]),
        "zoneout": st.lists(st.sampled_from([None, "a sequence", "a step", "a rate"]), min_size=2, max_size=2),
        "bias": st.booleans(),
        "initial_state": st.booleans(),
        "reverse": st.booleans(),
        "recompute": st.booleans(),
        "implementation": st.sampled_from(["auto", "xla"]),
        "memory_mask": st.sampled_from([None, "tails", "one position", "empty rows"]),
        "seed": st.integers(0, 999),
    }
)


def draw(kind, cell, call, rng, features=FEATURES):
    """The arguments to differentiate, by name, and the other options of a call."""
    batch, time, width = call["batch"], call["time"], CELL_EQUATIONS[kind].gates * UNITS
    bias_shape = (2, width) if kind == "gru" and cell.get("reset_after", True) else (width,)
    differentiated = {
        "inputs": rng.normal(size=(batch, time, FEATURES)),
        "kernel": rng.normal(size=(features, width)),
        "recurrent_kernel": rng.normal(size=(UNITS, width)),
        "bias": rng.normal(size=bias_shape) if call["bias"] else None,
    }
    if call["initial_state"]:
        differentiated |= {f"state_{i}": rng.normal(size=(batch, UNITS)) for i in range(CELL_EQUATIONS[kind].states)}
    options = {
        "mask": rng.random((batch, time)) < 0.6 if call["mask"] else None,
        "recurrent_dropout_mask": draw_unit_mask(call["dropout"], batch, time, rng, scale=2.0),
        "zoneout_masks": tuple(
            draw_unit_mask(kind_of_mask, batch, time, rng)
            for kind_of_mask in call["zoneout"][: CELL_EQUATIONS[kind].states]
        ),
        "reverse": call["reverse"],
    }
    return differentiated, options


def draw_unit_mask(kind, batch, time, rng, scale=1.0):
    shape = (batch, time, UNITS) if kind == "a step" else (batch, UNITS)
    if kind == "a rate":
        return np.full(shape, 0.3)
    return None if kind is None else rng.integers(0, 2, shape) * scale


def draw_memory_mask(kind, batch, rng):
    lengths = {"tails": rng.integers(1, SOURCE + 1, batch), "one position": 1, "empty rows": rng.integers(0, 2, batch)}
    return None if kind is None else np.arange(SOURCE) < np.reshape(lengths[kind], (-1, 1)) * np.ones((batch, 1))


def assert_same(function, reference, differentiated):
    """Assert that two functions of named tensors agree; the gradients of the reference are numerical."""
    tensors = {name: tensor for name, tensor in differentiated.items() if tensor is not None}

    def by_position(function):
        def call(*arguments):
            named = dict.fromkeys(differentiated) | dict(zip(tensors, arguments, strict=True))
            state = [named.pop(name) for name in tensors if name.startswith("state_")]
            outputs, state, *attention_weights = function(**named, initial_state=state or None)
            return [outputs, *state, *attention_weights]

        return call

    arguments = list(tensors.values())
    outputs, gradients = run_with_gradients(by_position(function), arguments)
    assert_close(outputs, by_position(reference)(*arguments), TOLERANCE)
    assert_close(gradients, references.numerical_gradients(by_position(reference), arguments), TOLERANCE)


@pytest.mark.parametrize(("kind", "cell"), CELLS, ids=str)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(call=CALLS)
def test_recurrences_match_numpy(kind, cell, call):
    differentiated, options = draw(kind, cell, call, np.random.default_rng(call["seed"]))

    def function(**arguments):
        run_options = {name: call[name] for name in ("recompute", "implementation")}
        return getattr(ops, kind)(**arguments, **cell, **options, **run_options)

    def reference(**arguments):
        return getattr(references, kind)(**arguments, **cell, **options)

    assert_same(function, reference, differentiated)


@pytest.mark.parametrize(("kind", "cell"), CELLS, ids=str)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(call=CALLS)
def test_attention_decoders_match_numpy(kind, cell, call):
    rng = np.random.default_rng(call["seed"])
    differentiated, options = draw(kind, cell, call, rng, features=FEATURES + MEMORY)
    differentiated |= {
        "memory": rng.normal(size=(call["batch"], SOURCE, MEMORY)),
        "query_kernel": rng.normal(size=(UNITS, ATTENTION)),
        "score_vector": rng.normal(size=ATTENTION),
        "keys": rng.normal(size=(call["batch"], SOURCE, ATTENTION)),
    }
    options["memory_mask"] = draw_memory_mask(call["memory_mask"], call["batch"], rng)

    def function(**arguments):
        run_options = {name: call[name] for name in ("recompute", "implementation")}
        return ops.attention_decoder(make_cell_equations(kind, cell), **arguments, **options, **run_options)

    def reference(**arguments):
        return references.attention_decoder(getattr(references, kind), **arguments, **cell, **options)

    assert_same(function, reference, differentiated)


@pytest.mark.parametrize("activation", ["tanh", "elu"])
def test_masks_get_no_gradient(activation):
    """Neither with the hand-written derivative (tanh) nor with the automatic one (elu)."""
    ones = np.ones((2, 4, UNITS), "float32")

    def function(dropout_mask, zoneout_mask):
        kernels = np.ones((UNITS, 4 * UNITS), "float32"), np.ones((UNITS, 4 * UNITS), "float32")
        masks = {"recurrent_dropout_mask": dropout_mask, "zoneout_masks": (zoneout_mask, zoneout_mask)}
        return ops.lstm(ones, *kernels, activation=activation, **masks)

    _, gradients = run_with_gradients(function, [ones, ones / 3])
    assert not np.any(gradients)


def test_masks_of_other_dtypes_are_cast():
    ones = np.ones((1, 1), "float32")
    masks = {"recurrent_dropout_mask": np.array([[2]]), "zoneout_masks": [np.array([[[False], [True], [False]]])]}
    outputs, _ = ops.simple_rnn(np.ones((1, 3, 1), "float32"), ones, ones, activation="linear", **masks)
    assert np.ravel(outputs).tolist() == [1, 1, 3]


EITHER = r"must have shape \(batch, units\) = \(2, 3\) or \(batch, time, units\) = \(2, 4, 3\)"
WRONG_MASKS = [
    ({"recurrent_dropout_mask": np.ones((1, 3))}, rf"`recurrent_dropout_mask` {EITHER}. Received: shape \(1, 3\)"),
    (
        {"recurrent_dropout_mask": np.ones((2, 4, 1))},
        rf"`recurrent_dropout_mask` {EITHER}. Received: shape \(2, 4, 1\)",
    ),
    ({"recurrent_dropout_mask": 0.5}, rf"`recurrent_dropout_mask` {EITHER}. Received: shape \(\)"),
    ({"zoneout_masks": [None, np.ones((2, 5, 3))]}, rf"`zoneout_masks\[1\]` {EITHER}. Received: shape \(2, 5, 3\)"),
    ({"zoneout_masks": [np.ones((2, 3))]}, r"`zoneout_masks` must be a list of 2 entries, .* Received: 1 of them"),
    ({"zoneout_masks": np.ones((2, 3))}, r"`zoneout_masks` must be a list .* Received: a tensor of shape \(2, 3\)"),
    ({"zoneout_masks": 0.5}, r"`zoneout_masks` must be a list .* Received: a tensor of shape \(\)"),
]


@pytest.mark.parametrize(("masks", "message"), WRONG_MASKS, ids=str)
def test_masks_of_wrong_shape_raise(masks, message):
    with pytest.raises(ValueError, match=message):
        ops.lstm(np.ones((2, 4, 5)), np.ones((5, 12)), np.ones((3, 12)), **masks)

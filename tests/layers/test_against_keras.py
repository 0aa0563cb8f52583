# SPDX-License-Identifier: Apache-2.0
"""The recurrent layers give Keras's numbers: outputs and every gradient, for drawn configurations."""

import keras
import numpy as np
import pytest
from conftest import MODES, assert_close, run_with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_seq

TOLERANCE = 3e-5  # of float32, the numbers contract

ACTIVATIONS = (
    "tanh",
    "relu",
    "linear",
    "sigmoid",
    "hard_sigmoid",
    "softsign",
    "elu",
)  # the last three: no slope of ours
GATES = ("sigmoid", "hard_sigmoid", "tanh")
MASKS = ("none", "right", "left", "scattered", "empty rows", "all masked")

OPTIONS = {
    "units": st.integers(1, 6),
    "activation": st.sampled_from(ACTIVATIONS),
    "use_bias": st.booleans(),
    "return_sequences": st.booleans(),
    "return_state": st.booleans(),
    "go_backwards": st.booleans(),
    "unroll": st.booleans(),
    "zero_output_for_mask": st.booleans(),
}
LAYERS = {
    "SimpleRNN": OPTIONS,
    "GRU": {**OPTIONS, "recurrent_activation": st.sampled_from(GATES), "reset_after": st.booleans()},
    "LSTM": {**OPTIONS, "recurrent_activation": st.sampled_from(GATES), "unit_forget_bias": st.booleans()},
}
CALLS = {
    "batch": st.integers(1, 5),
    "time": st.integers(1, 7),
    "features": st.integers(1, 5),
    "mask": st.sampled_from(MASKS),
    "initial_state": st.booleans(),
    "training": st.booleans(),
    "seed": st.integers(0, 999),
}


def draw_mask(kind, batch, time, rng):
    lengths = rng.integers(1, time + 1, (batch, 1))
    masks = {
        "none": None,
        "right": np.arange(time) < lengths,
        "left": np.arange(time) >= time - lengths,
        "scattered": rng.random((batch, time)) < 0.6,
        "empty rows": np.arange(time) < lengths * rng.integers(0, 2, (batch, 1)),
        "all masked": np.zeros((batch, time), bool),
    }
    return masks[kind]


def pair(kind, options):
    """A layer of ours and Keras's own; `use_cudnn` off, or Keras's refuses to be compiled."""
    reference = dict(options) if kind == "SimpleRNN" else {**options, "use_cudnn": False}
    if options["go_backwards"] and options["zero_output_for_mask"]:
        reference["unroll"] = False  # unrolled, Keras 3.15 zeroes the steps of the mask read forwards
    return getattr(keras_seq.layers, kind)(**options), getattr(keras.layers, kind)(**reference)


def share_weights(source, target, features, rng):
    """Build both layers, fill the source with numbers, biases too, and copy them."""
    for layer in (source, target):
        layer.build((None, None, features))
    source.set_weights([rng.normal(0, 0.5, weight.shape) for weight in source.weights])
    target.set_weights(source.get_weights())
    assert [weight.path.split("/")[1:] for weight in source.weights] == [
        weight.path.split("/")[1:] for weight in target.weights
    ]


def assert_agreement(ours, theirs, call, mode, *, states, units):
    """Outputs and the gradients of inputs, initial states and weights agree."""
    rng = np.random.default_rng(call["seed"])
    source, target = (ours, theirs) if call["seed"] % 2 else (theirs, ours)
    share_weights(source, target, call["features"], rng)
    mask = draw_mask(call["mask"], call["batch"], call["time"], rng)
    sequences = rng.normal(size=(call["batch"], call["time"], call["features"])).astype("float32")
    initial_state = [rng.normal(size=(call["batch"], units)).astype("float32") for _ in range(states)]
    if not call["initial_state"]:
        initial_state = []

    def run(layer):
        def function(sequences, *initial_state):
            options = {"initial_state": list(initial_state)} if initial_state else {}
            return layer(sequences, mask=mask, training=call["training"], **options)

        return run_with_gradients(function, [sequences, *initial_state], layer.trainable_variables, mode)

    assert_close(run(ours), run(theirs), TOLERANCE)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("mode", "examples"), [("eager", 30), ("graph", 6)])
def test_layer_agrees(kind, mode, examples):
    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(options=st.fixed_dictionaries(LAYERS[kind]), call=st.fixed_dictionaries(CALLS))
    def check(options, call):
        ours, theirs = pair(kind, options)
        assert_agreement(ours, theirs, call, mode, states=len(ours.state_size), units=options["units"])

    check()

# SPDX-License-Identifier: Apache-2.0
"""The recurrent layers match Keras in outputs and every gradient, for randomly drawn configurations."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import MODES, assert_close, every_kind, mostly_slow, run_with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_seq import layers

TOLERANCE = 3e-5  # what keras_seq promises for float32

OPTIONS = {
    "units": st.integers(1, 6),
    # The last three have no hand-written derivative.
    "activation": st.sampled_from(["tanh", "relu", "linear", "sigmoid", "hard_sigmoid", "softsign", "elu"]),
    "use_bias": st.booleans(),
    "return_sequences": st.booleans(),
    "return_state": st.booleans(),
    "go_backwards": st.booleans(),
    "unroll": st.booleans(),
    "zero_output_for_mask": st.booleans(),
}
GATES = {"recurrent_activation": st.sampled_from(["sigmoid", "hard_sigmoid", "tanh"])}
OPTIONS_OF = {
    "SimpleRNN": OPTIONS,
    "GRU": OPTIONS | GATES | {"reset_after": st.booleans()},
    "LSTM": OPTIONS | GATES | {"unit_forget_bias": st.booleans()},
}
CALLS = {
    "batch": st.integers(1, 5),
    "time": st.integers(1, 7),
    "features": st.integers(1, 5),
    "mask": st.sampled_from([None, "right", "left", "scattered", "empty rows", "all masked"]),
    "initial_state": st.booleans(),
    "training": st.booleans(),
    "copy_from_ours": st.booleans(),
    "implementation": st.sampled_from(["auto", "xla"]),
    "kernel_activations": st.booleans(),  # whether to replace the activations by those that have native kernels
    "seed": st.integers(0, 999),
}


def draw_options(kind):
    return st.fixed_dictionaries(OPTIONS_OF[kind])


def draw_mask(kind, batch, time, rng):
    lengths = rng.integers(1, time + 1, (batch, 1))
    return {
        None: None,
        "right": np.arange(time) < lengths,
        "left": np.arange(time) >= time - lengths,
        "scattered": rng.random((batch, time)) < 0.6,
        "empty rows": np.arange(time) < lengths * rng.integers(0, 2, (batch, 1)),
        "all masked": np.zeros((batch, time), bool),
    }[kind]


def make_pair(kind, options, **ours_only):
    """A layer of keras_seq and the same layer of Keras."""
    their_options = dict(options)
    if options.get("go_backwards") and options.get("zero_output_for_mask"):
        their_options["unroll"] = False  # unrolled, Keras 3.15 does not reverse the mask, and zeroes other steps
    if kind != "SimpleRNN":
        their_options["use_cudnn"] = False  # which XLA cannot compile
    return getattr(layers, kind)(**options, **ours_only), getattr(keras.layers, kind)(**their_options)


def make_pair_of_call(kind, options, call):
    if call["kernel_activations"]:
        activations = {"activation": "tanh", "recurrent_activation": "sigmoid"}
        options = options | {name: function for name, function in activations.items() if name in options}
    return make_pair(kind, options, implementation=call["implementation"])


def weight_names(layer):
    return [weight.path.removeprefix(f"{layer.name}/") for weight in layer.weights]


def copy_weights(source, target, features, rng):
    """Build both layers, fill the source with random weights, biases included, and copy them to the target."""
    for layer in (source, target):
        layer.build((None, None, features))
    source.set_weights([rng.normal(0, 0.5, weight.shape) for weight in source.weights])
    target.set_weights(source.get_weights())


def assert_agreement(ours, theirs, call, states, mode="eager"):
    """Assert that outputs and the gradients of inputs, initial states and weights agree."""
    rng = np.random.default_rng(call["seed"])
    copy_weights(*((ours, theirs) if call["copy_from_ours"] else (theirs, ours)), call["features"], rng)
    batch, time = call["batch"], call["time"]
    mask = draw_mask(call["mask"], batch, time, rng)
    sequences = rng.normal(size=(batch, time, call["features"])).astype("float32")
    initial_state = [rng.normal(size=(batch, units)).astype("float32") for units in states * call["initial_state"]]

    def run(layer):
        def function(sequences, *state):
            return layer(sequences, initial_state=list(state) or None, mask=mask, training=call["training"])

        return run_with_gradients(function, [sequences, *initial_state], layer.trainable_variables, mode)

    assert_close(run(ours), run(theirs), TOLERANCE)


def check(kind, options, call, mode):
    ours, theirs = make_pair_of_call(kind, options, call)
    assert_agreement(ours, theirs, call, ours.state_size, mode)


@pytest.mark.slow
@every_kind
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data(), call=st.fixed_dictionaries(CALLS))
def test_eager_mode_matches_keras(kind, data, call):
    check(kind, data.draw(draw_options(kind)), call, "eager")


@pytest.mark.slow
@every_kind
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data(), call=st.fixed_dictionaries(CALLS))
def test_graph_mode_matches_keras(kind, data, call):
    check(kind, data.draw(draw_options(kind)), call, "graph")


@pytest.mark.slow
@pytest.mark.parametrize(("go_backwards", "training"), [(False, True), (True, False)])
@every_kind
def test_jit_matches_keras(kind, go_backwards, training):
    options = {"units": 24, "return_sequences": True, "return_state": True, "go_backwards": go_backwards}
    call = {"batch": 6, "time": 30, "features": 16, "mask": "scattered", "initial_state": True, "training": training}
    for implementation in ("auto", "xla"):
        rest = {"copy_from_ours": True, "implementation": implementation, "kernel_activations": True, "seed": 0}
        check(kind, options, call | rest, "jit")


@pytest.mark.parametrize("mode", mostly_slow(["eager", "graph"]))
@every_kind
def test_second_order_gradients_match_keras(kind, mode):
    """A penalty on gradients needs them: the gradients of the hand-written gradients."""
    pair = make_pair(kind, {"units": 5}, implementation="xla")
    copy_weights(*pair, features=3, rng=np.random.default_rng(0))

    def run(layer):
        def gradients(sequences):
            with tf.GradientTape() as tape:
                tape.watch(sequences)
                outputs = layer(sequences, training=True)
            return tape.gradient(outputs, [sequences, *(w.value for w in layer.trainable_variables)])

        sequences = np.random.default_rng(1).normal(size=(2, 4, 3)).astype("float32")
        return run_with_gradients(gradients, [sequences], layer.trainable_variables, mode)

    ours, theirs = map(run, pair)
    assert_close(ours, theirs, TOLERANCE)


@pytest.mark.slow
@every_kind
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    data=st.data(),
    merge_mode=st.sampled_from(["concat", "sum", "mul", "ave", None]),
    call=st.fixed_dictionaries(CALLS),
)
def test_bidirectional_matches_keras(kind, data, merge_mode, call):
    options = data.draw(draw_options(kind)) | {"go_backwards": False, "unroll": False}
    ours, theirs = make_pair_of_call(kind, options, call)
    states = ours.state_size * 2
    ours, theirs = layers.Bidirectional(ours, merge_mode), keras.layers.Bidirectional(theirs, merge_mode)
    assert_agreement(ours, theirs, call, states)


@pytest.mark.parametrize("mode", MODES[1:])
def test_bidirectional_with_a_backward_layer_matches_keras(mode):
    pairs = [
        make_pair("LSTM", {"units": 5, "return_sequences": True, "go_backwards": backwards})
        for backwards in (False, True)
    ]
    (ours, ours_backward), (theirs, theirs_backward) = zip(*pairs, strict=True)
    call = {"batch": 3, "time": 6, "features": 4, "mask": "left", "initial_state": True, "training": True}
    assert_agreement(
        layers.Bidirectional(ours, backward_layer=ours_backward),
        keras.layers.Bidirectional(theirs, backward_layer=theirs_backward),
        call | {"copy_from_ours": False, "seed": 0},
        [5, 5, 5, 5],
        mode,
    )


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("SimpleRNN", {}),
        ("GRU", {"reset_after": True}),
        ("GRU", {"reset_after": False}),
        ("LSTM", {"unit_forget_bias": True}),
        ("LSTM", {"unit_forget_bias": False, "bias_initializer": "ones", "kernel_initializer": "he_normal"}),
    ],
)
def test_initial_weights_match_keras(kind, options, use_bias):
    def build(module):
        keras.utils.set_random_seed(3)
        layer = getattr(module, kind)(4, use_bias=use_bias, **options)
        layer.build((None, None, 3))
        return layer

    ours, theirs = build(layers), build(keras.layers)
    assert weight_names(ours) == weight_names(theirs)
    for weight, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


@every_kind
def test_regularizers_and_constraints_apply(kind):
    options = {f"{name}_regularizer": "l2" for name in ("kernel", "recurrent", "bias", "activity")}
    options |= {f"{name}_constraint": "non_neg" for name in ("kernel", "recurrent", "bias")}
    layer = getattr(layers, kind)(4, bias_initializer="normal", **options)
    outputs = layer(np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32"))
    regularized = [*layer.get_weights(), np.array(outputs) / 2**0.5]  # the activity is a mean over the batch
    expected = [0.01 * np.sum(tensor**2) for tensor in regularized]
    np.testing.assert_allclose(sorted(float(loss) for loss in layer.losses), sorted(expected), rtol=1e-5)
    assert all(isinstance(weight.constraint, keras.constraints.NonNeg) for weight in layer.trainable_variables)


@every_kind
def test_a_config_of_keras_makes_the_same_layer(kind):
    ours, theirs = make_pair(kind, {"units": 4, "dropout": 0.1, "recurrent_dropout": 0.2, "go_backwards": True})
    config = theirs.get_config()
    assert set(config) <= set(ours.get_config())
    rebuilt = type(ours).from_config(config).get_config()
    assert {name: rebuilt[name] for name in config} == config

# SPDX-License-Identifier: Apache-2.0
"""What recurrent layers have beyond Keras: peepholes, projections, layer norm, stacks, learned initial states."""

import re

import keras
import numpy as np
import pytest
import references
from conftest import MODES, assert_close, every_kind, mostly_slow, needs_kernels, run_with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_seq
from keras_seq import layers

BATCH, TIME, FEATURES, UNITS = 3, 4, 2, 3
SEQUENCES = np.random.default_rng(0).normal(size=(BATCH, TIME, FEATURES))
MASK = np.array([[1, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]], bool)
EXTENSIONS = [
    ("LSTM", {"peephole": True}),
    ("LSTM", {"projection_units": 2}),
    ("LSTM", {"layer_norm": True}),
    ("LSTM", {"peephole": True, "projection_units": 4, "layer_norm": True, "use_bias": False}),
    ("GRU", {"layer_norm": True}),
    ("GRU", {"layer_norm": True, "reset_after": False}),
    ("GRU", {"layer_norm": True, "use_bias": False}),
]
every_extension = pytest.mark.parametrize(("kind", "options"), EXTENSIONS, ids=str)


def fill(layer, seed=1):
    """Fill all weights with random numbers, biases and gains included."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(0, 0.7, weight.shape) for weight in layer.weights])


def reference(layer, **options):
    """The NumPy function of inputs, states, and the weights of a layer's cell in their order."""
    cell = layer.cell
    names = [weight.name for weight in cell.weights]

    def run(sequences, *arguments):
        state, weights = list(arguments[: -len(names)]), dict(zip(names, arguments[-len(names) :], strict=True))
        kernels_and_bias = [weights.pop(name, None) for name in ("kernel", "recurrent_kernel", "bias")]
        extra = {"norms": {name: w for name, w in weights.items() if name.endswith(("gamma", "beta"))}}
        if isinstance(cell, layers.LSTMCell):
            extra |= {name.removesuffix("_kernel"): w for name, w in weights.items() if name.endswith("kernel")}
            function = references.extended_lstm
        else:
            extra["reset_after"] = cell.reset_after
            function = references.layer_norm_gru
        outputs, final = function(sequences, *kernels_and_bias, initial_state=state or None, **extra, **options)
        return [outputs, *final]

    return run


@every_extension
@pytest.mark.parametrize("implementation", ["auto", "xla"])
@pytest.mark.parametrize("mode", mostly_slow(["eager", "graph", "jit"]))
@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    masked=st.booleans(),
    zoneout=st.booleans(),
    go_backwards=st.booleans(),
    with_state=st.booleans(),
    training=st.booleans(),
)
def test_extensions_match_the_papers(
    kind, options, implementation, masked, zoneout, go_backwards, with_state, training, mode
):
    """Outputs and every gradient, in float64, against NumPy and complex-step derivatives."""
    rate = 0.3 if zoneout and not training else 0.0  # in training zoneout is random, and other tests check it
    layer = getattr(layers, kind)(
        UNITS,
        **options,
        zoneout=rate,
        return_sequences=True,
        return_state=True,
        go_backwards=go_backwards,
        dtype="float64",
        implementation=implementation,
    )
    layer.build(SEQUENCES.shape)
    fill(layer)
    sizes = layer.state_size * with_state
    states = [np.random.default_rng(size).normal(size=(BATCH, size)) for size in sizes]
    mask = MASK if masked else None

    def run(sequences, *state):
        outputs, *final = layer(sequences, initial_state=list(state) or None, mask=mask, training=training)
        return [outputs[:, ::-1] if go_backwards else outputs, *final]

    zoneout_masks = [np.full((BATCH, size), rate) for size in layer.state_size] if rate else None
    expected = reference(layer, mask=mask, reverse=go_backwards, zoneout_masks=zoneout_masks)
    arguments = [SEQUENCES, *states]
    outputs, gradients = run_with_gradients(run, arguments, layer.cell.trainable_variables, mode)
    arguments += layer.cell.get_weights()
    assert_close(outputs, expected(*arguments), 1e-11)
    assert_close(gradients, references.numerical_gradients(expected, arguments), 1e-9)


@every_extension
def test_why_extensions_run_on_xla_is_reported(kind, options):
    layer = getattr(layers, kind)(UNITS, **options, activation="elu")
    [row] = keras_seq.explain(layer, print_fn=None)
    assert row.implementation == "xla"
    assert re.search(f"no native kernel for {kind} with .*the activation.s. elu, sigmoid", row.reason)
    with pytest.raises(NotImplementedError, match=f"there is no native kernel for {kind} with"):
        getattr(layers, kind)(UNITS, **options, activation="elu", implementation="native")(SEQUENCES)


@needs_kernels
@every_extension
def test_extensions_run_on_kernels(kind, options):
    [row] = keras_seq.explain(getattr(layers, kind)(UNITS, **options), print_fn=None)
    assert row.implementation == "native"


@every_extension
def test_an_extended_cell_in_a_keras_rnn_matches_its_layer(kind, options):
    layer = getattr(layers, kind)(UNITS, **options, zoneout=0.2, return_sequences=True)
    layer.build(SEQUENCES.shape)
    fill(layer)
    in_keras = keras.layers.RNN(type(layer.cell).from_config(layer.cell.get_config()), return_sequences=True)
    in_keras.build(SEQUENCES.shape)
    in_keras.set_weights(layer.get_weights())
    assert_close(layer(SEQUENCES, mask=MASK), in_keras(SEQUENCES, mask=MASK), 3e-6)


def test_gains_start_at_one_and_peepholes_at_zero():
    layer = layers.LSTM(UNITS, peephole=True, layer_norm=True)
    layer.build(SEQUENCES.shape)
    initial_values = {weight.name: np.unique(weight).tolist() for weight in layer.cell.weights[3:]}
    assert initial_values == {
        "peephole_kernel": [0.0],
        "input_gamma": [1.0],
        "recurrent_gamma": [1.0],
        "state_gamma": [1.0],
        "state_beta": [0.0],
    }


@every_kind
@pytest.mark.parametrize("go_backwards", [False, True])
def test_a_stack_matches_its_layers_one_after_the_other(kind, go_backwards):
    layer_type = getattr(layers, kind)
    options = {"return_state": True, "go_backwards": go_backwards}
    stack = layer_type(UNITS, num_layers=3, return_sequences=True, **options)
    single_layers = [layer_type(UNITS, return_sequences=True, **options) for _ in range(3)]
    outputs, *states = stack(SEQUENCES, mask=MASK)
    expected, expected_states = SEQUENCES, []
    for i, layer in enumerate(single_layers):
        layer.build((BATCH, TIME, expected.shape[-1]))
        layer.set_weights(stack.cell.cells[i].get_weights())
        if i and go_backwards:  # outputs come in the order of computation
            expected = expected[:, ::-1]
        expected, *state = layer(expected, mask=MASK)
        expected_states.append(state)
    assert_close([outputs, states], [expected, expected_states], 1e-6)
    assert len(states) == 3


@every_kind
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("masked", [False, True])
def test_a_stack_matches_stacked_cells_of_keras(kind, mode, masked):
    ours = getattr(layers, kind)(UNITS, num_layers=2, return_sequences=True, return_state=True)
    cells = [getattr(keras.layers, f"{kind}Cell")(UNITS) for _ in range(2)]
    theirs = keras.layers.RNN(keras.layers.StackedRNNCells(cells), return_sequences=True, return_state=True)
    sequences = SEQUENCES.astype("float32")
    for layer in (ours, theirs):
        layer.build(sequences.shape)
    fill(theirs)
    ours.set_weights(theirs.get_weights())
    states = keras.tree.map_structure(lambda size: np.full((BATCH, size), 0.3, "float32"), ours.cell.state_size)

    def run(layer):
        def function(sequences, *flat):
            state = keras.tree.pack_sequence_as(states, flat)
            return layer(sequences, initial_state=state, mask=MASK if masked else None)

        return run_with_gradients(function, [sequences, *keras.tree.flatten(states)], layer.trainable_variables, mode)

    assert_close(run(ours), run(theirs), 3e-5)


def test_residual_connections_skip_every_cell_but_the_first():
    stack = layers.GRU(UNITS, num_layers=3, residual=True, return_sequences=True)
    outputs = stack(SEQUENCES)
    expected = SEQUENCES
    for i, cell in enumerate(stack.cell.cells):
        inner = layers.RNN(cell, return_sequences=True)(expected)
        expected = expected + inner if i else inner
    assert_close(outputs, expected, 1e-6)


def test_cells_of_a_stack_draw_different_masks():
    stack = layers.LSTM(50, num_layers=2, recurrent_dropout=0.5, dropout=0.5, seed=4)
    first, second = (cell.draw_dropout_masks(np.ones((2, 3, 50), "float32"), True) for cell in stack.cell.cells)
    assert not np.array_equal(first.input_mask, second.input_mask)
    assert not np.array_equal(first.recurrent_dropout_mask, second.recurrent_dropout_mask)


@every_kind
@pytest.mark.parametrize("implementation", ["auto", "xla"])
def test_a_learned_initial_state_starts_every_sequence_and_gets_gradients(kind, implementation):
    options = {"initial_state_initializer": "random_normal", "implementation": implementation, "num_layers": 2}
    layer = getattr(layers, kind)(UNITS, **options)
    outputs = layer(SEQUENCES)
    learned = [weight for weight in layer.trainable_variables if "initial_state" in weight.path]
    assert len(learned) == len(keras.tree.flatten(layer.cell.state_size))
    vectors = [np.tile(vector, (BATCH, 1)) for vector in learned]
    initial_state = keras.tree.pack_sequence_as(layer.cell.state_size, vectors)
    plain = getattr(layers, kind)(UNITS, implementation=implementation, num_layers=2)
    plain.build(SEQUENCES.shape)
    plain.set_weights(layer.cell.get_weights())
    assert_close(outputs, plain(SEQUENCES, initial_state=initial_state), 1e-6)

    def run(sequences, *states):
        state = keras.tree.pack_sequence_as(layer.cell.state_size, states) if states else None
        return (plain if states else layer)(sequences, initial_state=state)

    _, gradients = run_with_gradients(run, [SEQUENCES.astype("float32")], learned)
    _, expected = run_with_gradients(run, [SEQUENCES.astype("float32"), *vectors])
    assert_close(gradients[1:], [np.sum(gradient, axis=0) for gradient in expected[1:]], 1e-5)


@every_kind
def test_a_given_state_takes_precedence_over_the_learned_one(kind):
    layer, plain = getattr(layers, kind)(UNITS, initial_state_initializer="ones"), getattr(layers, kind)(UNITS)
    for built in (layer, plain):
        built.build(SEQUENCES.shape)
    plain.set_weights(layer.cell.get_weights())
    state = [np.random.default_rng(i).normal(size=(BATCH, UNITS)) for i in range(len(layer.learned_state))]
    assert_close(layer(SEQUENCES, initial_state=state), plain(SEQUENCES, initial_state=state), 1e-6)


@every_kind
def test_a_learned_initial_state_starts_foreign_cells(kind):
    cell = getattr(keras.layers, f"{kind}Cell")(UNITS)
    layer = layers.RNN(cell, initial_state_initializer="random_normal")
    outputs = layer(SEQUENCES)
    states = [np.tile(vector, (BATCH, 1)) for vector in layer.learned_state]
    assert_close(outputs, keras.layers.RNN(cell)(SEQUENCES, initial_state=states), 1e-6)
    sequences = SEQUENCES.astype("float32")
    _, gradients = run_with_gradients(layer, [sequences], layer.learned_state)
    assert all(np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("options", [{"residual": True}, {"initial_state_initializer": "ones"}], ids=str)
@pytest.mark.parametrize("swapped", [False, True])
def test_each_direction_has_its_own_options(options, swapped):
    """The cells of both have the same equations, so that one call runs them."""

    def make(backwards):
        extra = options if backwards == swapped else {}
        layer = layers.GRU(UNITS, num_layers=2, return_sequences=True, go_backwards=backwards, **extra)
        layer.build(SEQUENCES.shape)
        return layer

    bidirectional = layers.Bidirectional(make(False), merge_mode=None, backward_layer=make(True))
    bidirectional.build(SEQUENCES.shape)
    expected = []
    for backwards, direction in enumerate((bidirectional.forward_layer, bidirectional.backward_layer)):
        fill(direction, seed=backwards)
        single = make(bool(backwards))
        single.set_weights(direction.get_weights())
        expected.append(np.array(single(SEQUENCES))[:, :: -1 if backwards else 1])
    assert_close(bidirectional(SEQUENCES), expected, 1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.LSTM(4, num_layers=0), "`num_layers` must be at least 1. Received: 0"),
        (lambda: layers.LSTM(4, projection_units=0), "`projection_units` must be positive or None. Received: 0"),
        (lambda: layers.GRU(4, projection_units=2), "projection_units"),
        (lambda: layers.GRU(4, zoneout=[0.1, 0.2]), r"`zoneout` must be a number or a list of 1.*\[0.1, 0.2\]"),
        (lambda: layers.LSTM(4, zoneout=1.0), r"`zoneout` must be a number in \[0, 1\). Received: 1.0"),
        (
            lambda: layers.LSTM(4, recurrent_dropout=1.0),
            r"`recurrent_dropout` must be a number in \[0, 1\). Received: 1.0",
        ),
        (lambda: layers.LSTM(4, output_dropout=-0.1), r"`output_dropout` must be a number in \[0, 1\). Received: -0.1"),
        (
            lambda: layers.LSTM(4, recurrent_weight_dropout=2),
            r"`recurrent_weight_dropout` must be a number in \[0, 1\)",
        ),
        (lambda: layers.LSTM(4, dropout_mode="gal"), "`dropout_mode` must be one of .*'naive'.*Received: 'gal'"),
        (
            lambda: layers.LSTM(4, dropout_mode="locked", recurrent_dropout=0.1),
            "`recurrent_dropout` must be 0 with `dropout_mode='locked'`.*Received: 0.1",
        ),
        (
            lambda: layers.RNN([layers.GRUCell(3), layers.GRUCell(4)], residual=True),
            "`residual=True` needs cells of keras_seq, of one size",
        ),
        (lambda: layers.RNN(keras.layers.GRUCell(3), residual=True), "`residual=True` needs cells of keras_seq"),
        (
            lambda: layers.LSTM(4, stateful=True, initial_state_initializer="zeros"),
            "`initial_state_initializer` and `stateful=True` exclude each other",
        ),
    ],
)
def test_invalid_arguments_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_stack_needs_an_initial_state_for_each_cell():
    state = np.zeros((BATCH, UNITS), "float32")
    stack = layers.LSTM(UNITS, num_layers=2)
    with pytest.raises(ValueError, match=r"`initial_state` must be a list of 2, one for each cell\. Received: 3"):
        stack(SEQUENCES, initial_state=[[state, state]] * 3)

# SPDX-License-Identifier: Apache-2.0
"""`RNN` over any cell, and `Bidirectional` and `TimeDistributed` around any layer, against those of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import KINDS, MODES, MinimalCell, assert_close, every_kind, mostly_slow, run_with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_seq
from keras_seq import layers

TOLERANCE = 3e-5
BATCH, TIME, FEATURES = 3, 5, 4
SEQUENCES = np.random.default_rng(0).normal(size=(BATCH, TIME, FEATURES)).astype("float32")
MASKS = {
    None: None,
    "right": np.arange(TIME) < np.array([[5], [3], [0]]),
    "left": np.arange(TIME) >= np.array([[1], [4], [5]]),
    "scattered": np.array([[1, 0, 1, 1, 0], [0, 0, 1, 0, 0], [0, 1, 1, 1, 1]], bool),
}
CELL = st.tuples(  # kind, units, activation, and whether it is a cell of Keras
    st.sampled_from(KINDS), st.integers(1, 4), st.sampled_from(["tanh", "relu", "softsign"]), st.booleans()
)


def make_cells(module, drawn):
    """The drawn cells; those that are not cells of Keras come from `module`."""
    cells = []
    for kind, units, activation, of_keras in drawn:
        cell = getattr(keras.layers if of_keras else module, f"{kind}Cell")
        cells.append(cell(units, activation=activation))
    return cells


def copy_random_weights(source, target, seed=1):
    """Build both layers, fill the source with random weights, and copy them to the target."""
    rng = np.random.default_rng(seed)
    for layer in (source, target):
        layer.build(SEQUENCES.shape)
    source.set_weights([rng.normal(0, 0.5, weight.shape) for weight in source.weights])
    target.set_weights(source.get_weights())


@pytest.mark.parametrize("mode", ["eager", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("graph", "jit"))])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    drawn=st.lists(CELL, min_size=1, max_size=3),
    mask=st.sampled_from(list(MASKS)),
    with_state=st.booleans(),
    options=st.fixed_dictionaries(
        {name: st.booleans() for name in ("return_sequences", "return_state", "go_backwards", "zero_output_for_mask")}
    ),
)
def test_rnn_over_any_cells_matches_keras(mode, drawn, mask, with_state, options):
    ours, theirs = (make_cells(module, drawn) for module in (layers, keras.layers))
    if len(drawn) == 1:
        (ours,), (theirs,) = ours, theirs
    ours, theirs = layers.RNN(ours, **options), keras.layers.RNN(theirs, **options)
    copy_random_weights(theirs, ours)
    rng = np.random.default_rng(2)
    zeros = keras.tree.flatten(theirs.get_initial_state(BATCH))
    flat = [rng.normal(size=zero.shape).astype("float32") for zero in zeros] if with_state else []

    def run(layer):
        def function(sequences, *flat):
            state = keras.tree.pack_sequence_as(theirs.get_initial_state(BATCH), flat) if flat else None
            return layer(sequences, initial_state=state, mask=MASKS[mask])

        return run_with_gradients(function, [SEQUENCES, *flat], layer.trainable_variables, mode)

    assert_close(run(ours), run(theirs), TOLERANCE)
    structures = [layer(SEQUENCES, mask=MASKS[mask]) for layer in (ours, theirs)]
    keras.tree.assert_same_structure(*structures)


def test_a_foreign_cell_matches_keras_and_runs_on_xla(tmp_path):
    ours, theirs = layers.RNN(MinimalCell(3), return_state=True), keras.layers.RNN(MinimalCell(3), return_state=True)
    copy_random_weights(theirs, ours)
    assert_close(ours(SEQUENCES, mask=MASKS["right"]), theirs(SEQUENCES, mask=MASKS["right"]), 1e-6)
    [row] = keras_seq.explain(ours, print_fn=None)
    assert row.implementation == "xla"
    assert "MinimalCell, which is not a cell of keras_seq" in row.reason
    model = keras.Sequential([keras.Input((None, FEATURES)), layers.RNN(MinimalCell(3))])
    model.save(tmp_path / "model.keras")
    assert_close(keras.saving.load_model(tmp_path / "model.keras")(SEQUENCES), model(SEQUENCES), 0)
    with pytest.raises(NotImplementedError, match="MinimalCell, which is not a cell of keras_seq"):
        layers.RNN(MinimalCell(3), implementation="native").choose_implementation()


def test_a_subclass_that_overrides_call_is_a_foreign_cell():
    class Doubled(layers.GRUCell):
        def call(self, inputs, states, training=False):
            return super().call(2 * inputs, states, training=training)

    layer, plain = layers.RNN(Doubled(3)), layers.GRU(3)
    copy_random_weights(plain, layer)
    assert_close(layer(SEQUENCES), plain(2 * SEQUENCES), 1e-6)
    assert "Doubled, which is not a cell of keras_seq" in layer.choose_implementation().reason


def test_a_stateful_stack_matches_keras():
    cells = [("LSTM", 3, "tanh", False), ("GRU", 2, "tanh", False)]
    ours, theirs = (module.RNN(make_cells(module, cells), stateful=True) for module in (layers, keras.layers))
    copy_random_weights(theirs, ours)
    for _ in range(3):
        assert_close(ours(SEQUENCES), theirs(SEQUENCES), 1e-6)
    assert_close(ours.states, theirs.states, 1e-6)
    states = keras.tree.map_structure(np.array, ours.states)
    expected = np.array(ours(SEQUENCES))
    ours.reset_state(states)
    assert_close(ours(SEQUENCES), expected, 0)
    ours.reset_state()
    assert not any(np.any(state) for state in keras.tree.flatten(ours.states))


MERGE_MODES = ["concat", "sum", "mul", "ave", None]
INNER = ["ours", "stack of ours", "Keras's", "RNN"]  # layers inside Bidirectional


@pytest.mark.parametrize(
    "merge_mode", ["concat", None, *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("sum", "mul", "ave"))]
)
@pytest.mark.parametrize("forward", mostly_slow(INNER, every=2))
def test_bidirectional_around_any_layer_matches_keras(merge_mode, forward):
    # Each merge mode and each layer occurs with and without states among the results.
    return_state = (MERGE_MODES.index(merge_mode) + INNER.index(forward)) % 2 == 0
    options = {"return_sequences": True, "return_state": return_state}
    stacked = [("GRU", 3, "tanh", False)] * 2

    def make(module):
        inner = {
            "ours": lambda: module.GRU(3, **options),
            "Keras's": lambda: keras.layers.GRU(3, **options),
            "RNN": lambda: module.RNN(make_cells(module, stacked[:1])[0], **options),
            "stack of ours": lambda: (
                layers.GRU(3, num_layers=2, **options)
                if module is layers
                else keras.layers.RNN(keras.layers.StackedRNNCells(make_cells(keras.layers, stacked)), **options)
            ),
        }[forward]()
        return module.Bidirectional(inner, merge_mode)

    ours, theirs = make(layers), make(keras.layers)
    copy_random_weights(theirs, ours)
    rng = np.random.default_rng(1)
    states = [rng.normal(size=(BATCH, 3)).astype("float32") for _ in range(4 if forward == "stack of ours" else 2)]

    def run(layer):
        def function(sequences, *states):
            return layer(sequences, initial_state=list(states), mask=MASKS["right"])

        return run_with_gradients(function, [SEQUENCES, *states], layer.trainable_variables, "graph")

    assert_close(run(ours), run(theirs), TOLERANCE)


@pytest.mark.parametrize("return_sequences", [False, True])
def test_bidirectional_with_a_backwards_forward_layer_matches_keras(return_sequences):
    def make(module):
        options = {"return_sequences": return_sequences}
        forward = module.GRU(3, go_backwards=True, **options)
        return module.Bidirectional(forward, backward_layer=module.GRU(3, **options))

    ours, theirs = make(layers), make(keras.layers)
    copy_random_weights(theirs, ours)
    assert_close(ours(SEQUENCES, mask=MASKS["right"]), theirs(SEQUENCES, mask=MASKS["right"]), 1e-6)


def test_bidirectional_around_a_gru_and_a_keras_lstm_matches_keras():
    def make(module):
        backward = keras.layers.LSTM(3, return_sequences=True, go_backwards=True)
        return module.Bidirectional(module.GRU(3, return_sequences=True), "sum", backward_layer=backward)

    ours, theirs = make(layers), make(keras.layers)
    copy_random_weights(theirs, ours)
    assert_close(ours(SEQUENCES, mask=MASKS["left"]), theirs(SEQUENCES, mask=MASKS["left"]), 1e-6)


@pytest.mark.parametrize("directions", [1, 2])
def test_activity_regularizers_in_bidirectional_match_keras(directions):
    """Both directions have one, or the backward direction alone."""

    def make(module):
        options = {"return_sequences": True, "activity_regularizer": "l2"}
        backward = module.GRU(3, go_backwards=True, **options)
        forward = module.GRU(3, **options) if directions == 2 else module.GRU(3, return_sequences=True)
        return module.Bidirectional(forward, backward_layer=backward)

    ours, theirs = make(layers), make(keras.layers)
    copy_random_weights(theirs, ours)
    for layer in (ours, theirs):
        layer(SEQUENCES)
    assert len(ours.losses) == directions
    assert_close(ours.losses, theirs.losses, 1e-6)


@every_kind
@pytest.mark.parametrize("mode", MODES)
def test_layers_in_a_time_distributed_of_keras_match_keras(kind, mode):
    """Inputs are (batch, sequences, time, features)."""
    ours, theirs = (
        keras.layers.TimeDistributed(getattr(module, kind)(3, return_sequences=True))
        for module in (layers, keras.layers)
    )
    documents = np.random.default_rng(0).normal(size=(2, 3, TIME, FEATURES)).astype("float32")
    for layer in (ours, theirs):
        layer.build(documents.shape)
    ours.set_weights(theirs.get_weights())

    def run(layer):
        return run_with_gradients(lambda x: layer(x, training=True), [documents], layer.trainable_variables, mode)

    assert_close(run(ours), run(theirs), TOLERANCE)


@every_kind
def test_ragged_sequences_may_be_padded_and_masked(kind):
    """Each sequence then gives what it gives alone, as the README says."""
    rows = [SEQUENCES[0, :5], SEQUENCES[1, :2], SEQUENCES[2, :3]]
    ragged = tf.RaggedTensor.from_row_lengths(np.concatenate(rows), [5, 2, 3])
    layer = getattr(layers, kind)(4)
    outputs = layer(ragged.to_tensor(), mask=tf.sequence_mask(ragged.row_lengths()))
    assert_close(outputs, np.concatenate([layer(row[None]) for row in rows]), 1e-6)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_recompute_reaches_the_recurrence(recompute, training, monkeypatch):
    """Training recomputes if asked to; inference always does, so that it keeps no residuals. Results do not show it."""
    run, calls = keras_seq.layers.rnn.run_recurrences, []

    def spy(recurrences, **options):
        calls.append(options["recompute"])
        return run(recurrences, **options)

    monkeypatch.setattr("keras_seq.layers.rnn.run_recurrences", spy)
    layers.GRU(3, num_layers=2, recompute=recompute)(SEQUENCES, training=training)
    assert calls == [recompute or not training] * 2

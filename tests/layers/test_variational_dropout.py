# SPDX-License-Identifier: Apache-2.0
"""`VariationalDropout`: three masks for each sequence, around a recurrent layer that is otherwise unchanged."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import MODES, assert_close

import keras_seq
from keras_seq import layers
from keras_seq.layers.dropout import VariationalDropout
from keras_seq.ops.random import dropout_mask

RATE = 0.3
BATCH, TIME, UNITS = 3, 5, 4
X = np.random.default_rng(0).normal(size=(BATCH, TIME, UNITS)).astype("float32")
RATES = {"input_rate": 0.2, "recurrent_rate": 0.3, "output_rate": 0.4}
ALL_RESULTS = {"return_sequences": True, "return_state": True}
# Layers that can be wrapped, each with the number of outputs among its results; the others are states.
WRAPPED = {
    "SimpleRNN": (lambda: layers.SimpleRNN(UNITS), 1),
    "GRU": (lambda: layers.GRU(UNITS, go_backwards=True, **ALL_RESULTS), 1),
    "LSTM": (lambda: layers.LSTM(UNITS, return_state=True), 1),
    "Bidirectional": (lambda: layers.Bidirectional(layers.LSTM(UNITS, **ALL_RESULTS)), 1),
    "Bidirectional unmerged": (lambda: layers.Bidirectional(layers.GRU(UNITS), merge_mode=None), 2),
    "Keras's LSTM": (lambda: keras.layers.LSTM(UNITS, **ALL_RESULTS), 1),
    "Keras's Bidirectional": (lambda: keras.layers.Bidirectional(keras.layers.GRU(UNITS, return_sequences=True)), 1),
    "Keras's stack": (
        lambda: keras.layers.RNN([keras.layers.LSTMCell(6), keras.layers.GRUCell(UNITS)], **ALL_RESULTS),
        1,
    ),
}
every_layer = pytest.mark.parametrize("name", WRAPPED)


def wrap(name, seed=1, **rates):
    return VariationalDropout(WRAPPED[name][0](), **(rates or RATES), seed=seed)


def as_list(results):
    return list(results) if isinstance(results, (list, tuple)) else [results]


def recurrent_dropout_rates(config):
    """Every `recurrent_dropout` in a configuration."""
    if isinstance(config, dict):
        rates = [value for key, value in config.items() if key == "recurrent_dropout"]
        return rates + [rate for value in config.values() for rate in recurrent_dropout_rates(value)]
    return (
        [rate for value in config for rate in recurrent_dropout_rates(value)]
        if isinstance(config, (list, tuple))
        else []
    )


def seed_states(layer):
    return [np.array(v) for inner in layer._flatten_layers() for v in inner.variables if "seed" in v.path]


def observe_masks(kind, units, batch, *, return_sequences=True, **rate):
    """The mask at every step, if `rate` sets one rate: outputs of `h_t = W x_t + U h_{t-1}` that show it."""
    rnn = kind(units, activation="linear", use_bias=False, return_sequences=return_sequences)
    layer = VariationalDropout(rnn, seed=7, **rate)
    layer.build((None, None, units))
    recurrent = "recurrent_rate" in rate
    layer.layer.set_weights([np.eye(units), np.eye(units) * recurrent])
    sequences = np.full((batch, TIME, units), 0.0 if recurrent else 1.0, "float32")
    outputs = np.array(layer(sequences, initial_state=[np.ones((batch, units), "float32")], training=True))
    if recurrent and return_sequences:  # h_t = m * h_{t-1}, from ones
        outputs = outputs ** (1 / np.arange(1, TIME + 1))[None, :, None]
    return outputs


@pytest.mark.parametrize("kind", [layers.SimpleRNN, keras.layers.SimpleRNN])
@pytest.mark.parametrize("name", RATES)
def test_each_sequence_has_one_mask_for_all_steps(kind, name):
    masks = observe_masks(kind, 40, 500, **{name: RATE})
    assert_close(masks, np.repeat(masks[:, :1], TIME, axis=1), 1e-5)
    masks = masks[:, 0]
    np.testing.assert_allclose(np.unique(masks.round(5)), [0, 1 / (1 - RATE)], rtol=1e-4)
    assert len(np.unique(masks, axis=0)) > 0.9 * len(masks)  # sequences differ
    sigma = (RATE / (1 - RATE) / masks.size) ** 0.5
    assert abs(masks.mean() - 1) < 5 * sigma


@pytest.mark.parametrize("return_sequences", [True, False])
def test_the_three_masks_match_numpy(return_sequences):
    inputs, recurrent, outputs = (observe_masks(layers.SimpleRNN, UNITS, BATCH, **{n: RATE})[:, 0] for n in RATES)
    for mask, other in [(inputs, recurrent), (inputs, outputs), (recurrent, outputs)]:
        assert not np.allclose(mask, other)
    rnn = layers.SimpleRNN(UNITS, activation="linear", use_bias=False, return_sequences=return_sequences)
    layer = VariationalDropout(rnn, RATE, RATE, RATE, seed=7)
    layer.build(X.shape)
    layer.layer.set_weights([np.eye(UNITS), np.eye(UNITS)])
    h, expected = np.zeros((BATCH, UNITS)), []
    for x in X.transpose(1, 0, 2):
        h = inputs * x + recurrent * h
        expected.append(outputs * h)
    expected = np.stack(expected, axis=1) if return_sequences else expected[-1]
    assert_close(layer(X, training=True), expected, 1e-5)


@pytest.mark.parametrize("module", [layers, keras.layers])
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
@pytest.mark.parametrize("wrapper", ["layer", "cell"])
def test_one_recurrent_mask_serves_all_gates(wrapper, kind, module):
    """From a state of ones, with identities as recurrent kernels, h has one value if dropped and one if not."""
    options = {"use_bias": False, "kernel_initializer": "zeros"}
    cell = getattr(module, f"{kind}Cell")(40, **options)
    rnn = module.RNN(cell) if wrapper == "cell" else getattr(module, kind)(40, **options)
    layer = VariationalDropout(rnn, recurrent_rate=0.5, seed=1)
    layer.build((None, None, 40))
    gates = 4 if kind == "LSTM" else 3
    layer.layer.set_weights([np.zeros((40, 40 * gates)), np.tile(np.eye(40), (1, gates))])
    states = [np.ones((50, 40), "float32")] * (gates - 2)
    outputs = np.array(layer(np.zeros((50, 1, 40), "float32"), initial_state=states, training=True))
    assert len(np.unique(outputs.round(5))) == 2


@every_layer
def test_it_matches_a_layer_with_recurrent_dropout_between_two_masks(name):
    layer, outputs = wrap(name), WRAPPED[name][1]
    results = as_list(layer(X, training=True))
    assert {*recurrent_dropout_rates(layer.layer.get_config())} == {0.3}
    inner = type(layer.layer).from_config(layer.layer.get_config())
    inner.build(X.shape)
    inner.set_weights(layer.layer.get_weights())

    def mask(dropout, features):
        return dropout_mask((BATCH, 1, features), dropout.rate, generators[dropout])

    generators = {d: keras.random.SeedGenerator(d.seed) for d in (layer.input_dropout, layer.output_dropout)}
    expected = as_list(inner(X * mask(layer.input_dropout, UNITS), training=True))
    for i, output in enumerate(expected[:outputs]):
        locked = mask(layer.output_dropout, output.shape[-1])
        expected[i] = output * (locked if layer.return_sequences else locked[:, 0])
    assert_close(results, expected, 1e-5)


@every_layer
def test_at_inference_it_matches_the_layer(name):
    layer, plain = wrap(name), WRAPPED[name][0]()
    plain.build(X.shape)
    layer.build(X.shape)
    layer.layer.set_weights(plain.get_weights())
    before = seed_states(layer)
    assert before
    mask = np.arange(TIME) < np.array([[5], [3], [1]])
    state = plain(X, mask=mask)[-1] if name == "LSTM" else None
    states = None if state is None else [state, state]
    tolerance = 1e-6 if "Keras" in name else 0  # its sums have another order
    for training in (None, False):
        assert_close(
            layer(X, mask=mask, initial_state=states, training=training),
            plain(X, mask=mask, initial_state=states),
            tolerance,
        )
    np.testing.assert_array_equal(before, seed_states(layer))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rate", RATES)
def test_every_call_draws_new_masks(rate, mode):
    layer = wrap("Bidirectional", **{rate: 0.5})
    layer(X)

    def run(x):
        return layer(x, training=True)[0]

    run = run if mode == "eager" else tf.function(run, jit_compile=mode == "jit")
    assert not np.allclose(run(X), run(X))


def test_fit_draws_new_masks_in_every_step():
    model = keras.Sequential([wrap("SimpleRNN"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=True)
    losses = model.fit(X, X[:, 0, :1], epochs=4, verbose=0).history["loss"]
    assert len({*losses}) == 4
    assert np.all(np.isfinite(losses))


@every_layer
def test_configs_and_files_restore_it(name, tmp_path):
    layer = wrap(name)
    twin = VariationalDropout.from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    inputs = keras.Input((None, UNITS))
    outputs = layer(inputs)
    model = keras.Model(inputs, outputs)
    results = model(X)
    shapes = [[y.shape[-1] for y in keras.tree.flatten(tensors)] for tensors in (outputs, results)]
    assert shapes[0] == shapes[1]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_close(loaded(X), results, 0)
    twin.build(X.shape)
    twin.layer.set_weights(layer.layer.get_weights())
    fresh = VariationalDropout.from_config(layer.get_config())
    fresh.build(X.shape)
    fresh.layer.set_weights(layer.layer.get_weights())
    assert_close(twin(X, training=True), fresh(X, training=True), 0)


def test_the_seed_determines_the_masks():
    def run(seed):
        gru = layers.GRU(UNITS, kernel_initializer="ones", recurrent_initializer="ones")
        layer = VariationalDropout(gru, **RATES, seed=seed)
        return np.array(layer(X, training=True))

    np.testing.assert_array_equal(run(1), run(1))
    assert not np.allclose(run(1), run(2))
    assert not np.allclose(run(None), run(None))


def test_masks_propagate():
    tokens = np.array([[1, 2, 3, 0, 0], [4, 1, 0, 0, 0]])
    model = keras.Sequential(
        [
            keras.layers.Embedding(5, UNITS, mask_zero=True),
            VariationalDropout(layers.Bidirectional(layers.LSTM(UNITS, return_sequences=True)), **RATES, seed=1),
            VariationalDropout(layers.GRU(UNITS), **RATES, seed=2),
        ]
    )
    outputs = model(tokens)
    inner = model.layers[1](model.layers[0](tokens), training=True)
    np.testing.assert_array_equal(inner._keras_mask, tokens != 0)
    assert_close(outputs, model(np.pad(tokens, ((0, 0), (0, 3)))), 1e-6)
    assert model.layers[2].compute_mask(inner, inner._keras_mask) is None


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_it_computes_in_the_dtype_of_the_layer(policy):
    layer = VariationalDropout(layers.LSTM(UNITS, dtype=policy, **ALL_RESULTS), **RATES)
    for results in (layer(X, training=True), layer(X), layer(keras.Input((None, UNITS)))):
        assert {keras.backend.standardize_dtype(y.dtype) for y in results} == {layer.compute_dtype} != {"float32"}
    assert {v.dtype for v in layer.trainable_variables} == {"float32"}


def test_output_dropout_does_not_drop_the_state_of_a_stateful_layer():
    layer = VariationalDropout(layers.GRU(UNITS, stateful=True), output_rate=0.5, seed=1)
    first = np.array(layer(X))
    np.testing.assert_array_equal(layer.states[0], first)
    assert not np.allclose(layer(X), first)
    layer.reset_state()
    np.testing.assert_array_equal(layer(X), first)
    assert layer.stateful
    assert not layer.go_backwards


def test_explain_finds_the_layer_inside():
    rows = keras_seq.explain(VariationalDropout(layers.LSTM(4, name="lstm"), 0.1, 0.2, 0.3), print_fn=None)
    assert [(row.layer, row.kind) for row in rows] == [("lstm", "LSTM")]
    assert rows[0].implementation == layers.LSTM(4).choose_implementation().implementation


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan"), "0.5", None])
@pytest.mark.parametrize("name", RATES)
def test_invalid_rates_raise(name, rate):
    with pytest.raises(ValueError, match=name):
        VariationalDropout(layers.GRU(2), **{name: rate})


@keras.saving.register_keras_serializable("test")
class CellWithoutDropout(keras.layers.Layer):
    """A cell that has no dropout arguments."""

    state_size = output_size = UNITS

    def call(self, inputs, states):
        return inputs, states


@keras.saving.register_keras_serializable("test")
class CellWithMasksForGates(keras.layers.LSTMCell):
    """A cell that draws one mask for each gate, as Keras's do."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: VariationalDropout(keras.layers.RNN(CellWithMasksForGates(2)), recurrent_rate=0.1),
            "one mask per gate",
        ),
        (lambda: VariationalDropout("lstm"), "`layer` must be a recurrent layer. Received: 'lstm'"),
        (lambda: VariationalDropout(keras.layers.Dense(2), 0.1), "`layer` must be a recurrent layer"),
        (lambda: VariationalDropout(layers.GRU(2), 0.1, seed=1.5), "`seed`"),
        (
            lambda: VariationalDropout(keras.layers.RNN(CellWithoutDropout()), recurrent_rate=0.1),
            "`recurrent_rate` must be 0",
        ),
        (lambda: VariationalDropout(layers.GRU(2, dropout=0.1), input_rate=0.1), "`dropout` of the layer must be 0 if"),
        (lambda: VariationalDropout(layers.GRU(2, recurrent_dropout=0.1), 0.1), "`recurrent_dropout`"),
        (lambda: VariationalDropout(layers.Bidirectional(layers.GRU(2, recurrent_dropout=0.1)), 0, 0.2), "=0.1 and"),
        (
            lambda: VariationalDropout(layers.GRU(2, dropout_mode="naive"), 0.1),
            "`dropout_mode` of the layer must be 'variational'",
        ),
        (lambda: VariationalDropout(layers.GRU(2), 0.1)(np.ones((2, 3), "float32")), "expected ndim=3"),
    ],
)
def test_invalid_arguments_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_dropout_of_the_layer_stays_if_no_rate_replaces_it():
    cells = [keras.layers.GRUCell(UNITS), keras.layers.GRUCell(UNITS, dropout=0.4)]
    layer = VariationalDropout(keras.layers.RNN(cells), 0.2, 0.3)
    assert [cell.dropout for cell in layer.layer.cell.cells] == [0, 0.4]
    layer = VariationalDropout(layers.GRU(UNITS, dropout=0.4, recurrent_dropout=0.3), 0, 0.3)
    assert (layer.layer.dropout, layer.layer.recurrent_dropout) == (0.4, 0.3)
    without_dropout = VariationalDropout(keras.layers.RNN(CellWithoutDropout(), return_sequences=True), input_rate=0.5)
    assert np.any(np.array(without_dropout(X, training=True)) == 0)

# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close

import keras_seq
from keras_seq import layers
from keras_seq.diagnostics import gradient_flow

BATCH, TIME, FEATURES, UNITS = 3, 7, 4, 5
KERAS_CELLS = {"SimpleRNN": keras.layers.SimpleRNNCell, "GRU": keras.layers.GRUCell, "LSTM": keras.layers.LSTMCell}
rng = np.random.default_rng(1)
INPUTS = rng.normal(size=(BATCH, TIME, FEATURES)).astype("float32")
TARGETS = rng.normal(size=(BATCH, 2)).astype("float32")
MASK = np.array([[1] * 7, [1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 0, 1, 1, 0]], bool)


def compiled(*stack, inputs=(TIME, FEATURES), **options):
    model = keras.Sequential([keras.Input(inputs), *stack])
    model.compile(**({"loss": "mse"} | options))
    return model


def norms(gradients):
    """Of the gradients of each step, a list of (batch, units)."""
    return np.array([np.linalg.norm(g) for g in gradients])


def unrolled(cell, inputs, watch, mask=None, backwards=False):
    """The output of each step, in time order, of a cell called step by step; each new h is watched where it is made."""
    state = [tf.zeros((inputs.shape[0], s)) for s in keras.tree.flatten(cell.state_size)]
    outputs, watched = [None] * inputs.shape[1], [None] * inputs.shape[1]
    for t in range(inputs.shape[1])[:: -1 if backwards else 1]:
        _, new = cell(inputs[:, t], state)
        h = watched[t] = tf.identity(new[0])
        watch(h)
        new = [h, *new[1:]]
        if mask is not None:
            new = [tf.where(mask[:, t, None], n, s) for n, s in zip(new, state, strict=True)]
        outputs[t], state = new[0], new
    return outputs, watched


def cell_of_keras(kind, ours):
    """The cell of Keras with the weights of one of ours."""
    cell = KERAS_CELLS[kind](UNITS)
    cell.build((BATCH, ours.kernel.shape[0]))
    cell.set_weights(ours.get_weights())
    return cell


def mse(y_pred, y=TARGETS):
    return tf.reduce_mean(tf.square(y_pred - y))


def random_bias(layer):
    """Set the weights of a built layer such that none is zero."""
    layer.set_weights([rng.normal(0, 0.5, w.shape) for w in layer.get_weights()])


@pytest.mark.parametrize("backwards", [False, True])
def test_linear_rnn_is_a_power_of_the_kernel(backwards):
    recurrent_kernel = rng.normal(size=(UNITS, UNITS)) / 2
    options = {"use_bias": False, "kernel_initializer": "identity", "go_backwards": backwards, "name": "rnn"}
    model = compiled(layers.SimpleRNN(UNITS, "linear", **options), inputs=(TIME, UNITS), loss=lambda y, p: y * p)
    model.layers[0].cell.recurrent_kernel.assign(recurrent_kernel)
    weights = rng.normal(size=(BATCH, UNITS)).astype("float32")  # dL/dh_T, but for the mean
    (flow,) = gradient_flow(model, (rng.normal(size=(BATCH, TIME, UNITS)), weights)).values()
    expected = [
        np.linalg.norm(weights @ np.linalg.matrix_power(recurrent_kernel.T, steps)) / (BATCH * UNITS)
        for steps in reversed(range(TIME))
    ]
    assert flow.shape == (TIME,)
    np.testing.assert_allclose(flow, expected[::-1] if backwards else expected, rtol=1e-4)


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.5])
def test_an_orthogonal_kernel_vanishes_or_explodes_with_its_gain(gain):
    kernel = keras.initializers.Orthogonal(gain, seed=1)
    model = compiled(layers.SimpleRNN(8, "linear", recurrent_initializer=kernel), keras.layers.Dense(2))
    (flow,) = gradient_flow(model, (INPUTS, TARGETS)).values()
    np.testing.assert_allclose(flow[1:] / flow[:-1], 1 / gain, rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kind", KERAS_CELLS)
def test_against_cells_of_keras_step_by_step(kind, backwards, masked):
    mask = MASK if masked else None
    layer = getattr(layers, kind)(UNITS, go_backwards=backwards, return_sequences=True, name="rnn")
    inputs = keras.Input((TIME, FEATURES)), keras.Input((TIME,), dtype="bool")
    model = keras.Model(inputs, layer(inputs[0], mask=inputs[1] if masked else None))
    model.compile(loss="mse")
    random_bias(layer)
    targets = rng.normal(size=(BATCH, TIME, UNITS)).astype("float32")
    cell = cell_of_keras(kind, layer.cell)
    with tf.GradientTape() as tape:
        outputs, watched = unrolled(cell, INPUTS, tape.watch, mask, backwards)
        outputs = tf.stack(outputs[::-1] if backwards else outputs, axis=1)  # Keras's: in the order of computation
        errors = tf.reduce_mean(tf.square(outputs - targets), axis=-1)
        kept = np.ones_like(MASK) if mask is None else mask  # the loss leaves masked steps out, as Keras's does
        loss = tf.reduce_sum(errors * kept) / kept.sum()
    expected = norms(tape.gradient(loss, watched, unconnected_gradients="zero"))
    flows = gradient_flow(model, ([INPUTS, MASK], targets))
    assert list(flows) == ["rnn"]
    assert_close(flows["rnn"], expected, 1e-5)
    if masked:
        alone = gradient_flow(model, ([INPUTS[1:2], MASK[1:2]], targets[1:2]))["rnn"]
        assert alone[3] > 0 and np.all(alone[4:] == 0)  # no state is made in a masked step


@pytest.mark.parametrize("kind", KERAS_CELLS)
def test_stack(kind):
    layer = getattr(layers, kind)(UNITS, num_layers=2, name="rnn")
    model = compiled(layer, keras.layers.Dense(2))
    random_bias(model)
    cells = [cell_of_keras(kind, cell) for cell in layer.recurrent_cells()]
    with tf.GradientTape() as tape:
        lower, watched_lower = unrolled(cells[0], INPUTS, tape.watch)
        upper, watched_upper = unrolled(cells[1], tf.stack(lower, axis=1), tape.watch)
        loss = mse(model.layers[1](upper[-1]))
    expected = [norms(g) for g in tape.gradient(loss, [watched_lower, watched_upper])]
    flows = gradient_flow(model, (INPUTS, TARGETS))
    assert list(flows) == ["rnn/0", "rnn/1"]
    assert_close(list(flows.values()), expected, 1e-5)


@pytest.mark.parametrize("wrapper", [layers.Bidirectional, keras.layers.Bidirectional])
def test_bidirectional(wrapper):
    both = wrapper(layers.GRU(UNITS, name="gru"), name="both")
    model = compiled(both, keras.layers.Dense(2))
    random_bias(model)
    forward, backward = (cell_of_keras("GRU", half.cell) for half in (both.forward_layer, both.backward_layer))
    with tf.GradientTape() as tape:
        ahead, watched = unrolled(forward, INPUTS, tape.watch)
        back, watched_back = unrolled(backward, INPUTS, tape.watch, backwards=True)
        loss = mse(model.layers[1](tf.concat([ahead[-1], back[0]], axis=-1)))
    expected = [norms(g) for g in tape.gradient(loss, [watched, watched_back])]
    flows = gradient_flow(model, (INPUTS, TARGETS))
    assert list(flows) == ["both/forward_gru", "both/backward_gru"]
    assert_close(list(flows.values()), expected, 1e-5)


@pytest.mark.parametrize("layer", [layers.LSTM(UNITS), layers.Bidirectional(layers.GRU(UNITS))], ids=["lstm", "gru"])
def test_padding_changes_nothing(layer):
    model = compiled(keras.layers.Masking(), layer, keras.layers.Dense(2), inputs=(None, FEATURES))
    padded = np.concatenate([INPUTS, np.zeros((BATCH, 4, FEATURES))], axis=1)
    for short, long in zip(
        gradient_flow(model, (INPUTS, TARGETS)).values(), gradient_flow(model, (padded, TARGETS)).values(), strict=True
    ):
        assert_close(long[:TIME], short, 1e-5)
        assert np.all(long[TIME:] == 0)


def test_sample_weights_and_activity_regularization_count():
    layer = layers.LSTM(UNITS, return_sequences=True, activity_regularizer=keras.regularizers.L2(0.3), name="lstm")
    model = compiled(layer, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2))
    weights = np.array([0.0, 1.0, 2.0], "float32")
    cell = cell_of_keras("LSTM", layer.cell)
    with tf.GradientTape() as tape:
        outputs, watched = unrolled(cell, INPUTS, tape.watch)
        outputs = tf.stack(outputs, axis=1)
        errors = tf.reduce_mean(tf.square(model.layers[-1](tf.reduce_mean(outputs, axis=1)) - TARGETS), axis=1)
        loss = tf.reduce_mean(weights * errors) + 0.3 * tf.reduce_sum(tf.square(outputs)) / BATCH
    expected = norms(tape.gradient(loss, watched))
    flow = gradient_flow(model, (INPUTS, TARGETS, weights))["lstm"]
    assert_close(flow, expected, 1e-5)
    assert not np.allclose(flow, gradient_flow(model, (INPUTS, TARGETS))["lstm"])


def test_native_kernels_and_unrolled_steps_have_the_same_flow():
    flows = []
    for options in ({"implementation": "xla"}, {"implementation": "auto"}, {"unroll": True}, {"recompute": True}):
        keras.utils.set_random_seed(1)
        model = compiled(layers.LSTM(UNITS, name="lstm", **options), keras.layers.Dense(2))
        flows.append(gradient_flow(model, (INPUTS, TARGETS))["lstm"])
    for flow in flows[1:]:
        assert_close(flow, flows[0], 1e-6)


def test_names_in_nested_models():
    low = layers.GRU(4, return_sequences=True, name="low")
    inner = keras.Sequential([keras.Input((TIME, FEATURES)), low], name="inner")
    cells = [layers.LSTMCell(4), layers.GRUCell(3)]
    model = compiled(inner, layers.Bidirectional(layers.RNN(cells, name="top"), name="both"), keras.layers.Dense(2))
    flows = gradient_flow(model, (INPUTS, TARGETS))
    top = [f"both/{direction}_top/{i}" for direction in ("forward", "backward") for i in (0, 1)]
    assert list(flows) == ["inner/low", *top]
    assert all(flow.shape == (TIME,) and np.all(flow > 0) for flow in flows.values())


def test_a_shared_layer_has_an_array_a_call():
    shared = layers.LSTM(UNITS, num_layers=2, name="shared")
    inputs = keras.Input((TIME, FEATURES)), keras.Input((3, FEATURES))
    outputs = [shared(x) for x in inputs]
    model = keras.Model(inputs, keras.layers.Dense(2)(outputs[0] - 2 * outputs[1]))
    model.compile(loss="mse")
    flows = gradient_flow(model, ([INPUTS, INPUTS[:, :3]], TARGETS))
    assert {name: len(flow) for name, flow in flows.items()} == {
        "shared/0": 7, "shared/1": 7, "shared/0#2": 3, "shared/1#2": 3
    }  # fmt: skip
    assert np.isclose(flows["shared/1#2"][-1], 2 * flows["shared/1"][-1])


@pytest.mark.filterwarnings("ignore:`build..` was called on layer:UserWarning")  # of a layer that is never called
def test_a_layer_without_influence_has_zeros_and_one_not_called_has_no_entry():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.ignored, self.idle = (layers.GRU(2, name=n) for n in ("used", "ignored", "idle"))

        def call(self, x):  # without `training`
            self.ignored(x)
            return self.used(x)

    model = Model()
    model.compile(loss="mse")
    flows = gradient_flow(model, (INPUTS, TARGETS), training=True)
    assert list(flows) == ["used", "ignored"]
    assert np.all(flows["used"] > 0) and np.all(flows["ignored"] == 0)


def test_an_unbuilt_model_and_inputs_by_name():
    model = keras.Sequential(
        [keras.layers.Masking(), layers.GRU(UNITS, stateful=True, name="gru"), keras.layers.Dense(2)]
    )
    model.compile(loss="mse")
    first = gradient_flow(model, (INPUTS, TARGETS))["gru"]
    assert not np.any(model.layers[1].states[0])
    np.testing.assert_array_equal(gradient_flow(model, (INPUTS, TARGETS))["gru"], first)

    named = keras.Input((TIME, FEATURES), name="sequences")
    by_name = keras.Model({"sequences": named}, model(named))
    by_name.compile(loss="mse")
    batch = {"sequences": tf.constant(INPUTS)}, tf.constant(TARGETS)
    np.testing.assert_allclose(gradient_flow(by_name, batch)[f"{model.name}/gru"], first)


def test_the_model_stays_as_it_was():
    inputs = keras.Input(batch_shape=(BATCH, TIME, FEATURES))
    options = {"stateful": True, "dropout": 0.3, "recurrent_dropout": 0.3, "return_sequences": True}
    states = layers.LSTM(UNITS, seed=1, name="lstm", **options)(keras.layers.BatchNormalization()(inputs))
    model = keras.Model(inputs, [keras.layers.Dense(2)(states[:, -1]), keras.layers.Dense(2)(states[:, 0])])
    model.compile("adam", loss=["mse", "mae"], metrics=[["mae"], ["mse"]])
    model.train_on_batch(INPUTS, [TARGETS, TARGETS])
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    before = [variable.numpy() for variable in variables]
    assert np.any(model.get_layer("lstm").states[0])
    flow = gradient_flow(model, (INPUTS, (TARGETS, TARGETS)), training=True)["lstm"]
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)
    assert model.get_layer("lstm").probe_hook is None
    np.testing.assert_array_equal(gradient_flow(model, (INPUTS, (TARGETS, TARGETS)), training=True)["lstm"], flow)
    assert not np.allclose(gradient_flow(model, (INPUTS, (TARGETS, TARGETS)))["lstm"], flow)  # no dropout


def test_the_model_stays_as_it_was_after_an_error():
    layer = layers.LSTM(UNITS, stateful=True)
    model = keras.Sequential([keras.Input(batch_shape=INPUTS.shape), layer, keras.layers.Dense(2)])
    model.compile(loss="mse")
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
        gradient_flow(model, (INPUTS, rng.normal(size=(BATCH, 3))))
    assert layer.probe_hook is None
    assert not np.any(layer.states[0])


def test_mixed_precision():
    layer = layers.LSTM(UNITS, name="lstm", dtype="mixed_bfloat16")
    model = compiled(layer, keras.layers.Dense(2))
    flow = gradient_flow(model, (INPUTS, TARGETS))["lstm"]
    full = compiled(layers.LSTM(UNITS, name="lstm"), keras.layers.Dense(2))
    full.set_weights(model.get_weights())
    assert flow.dtype == "float64"
    assert_close(flow, gradient_flow(full, (INPUTS, TARGETS))["lstm"], 0.05)


def test_seq2seq():
    source = keras_seq.data.text_vectorizer(["cat", "thought"])
    target = keras_seq.data.text_vectorizer(["K AE T", "TH AO T"], split="whitespace")
    encoder = keras_seq.Encoder(source.vocabulary_size(), embedding_dim=4, units=8)
    decoder = keras_seq.Decoder(target.vocabulary_size(), embedding_dim=4, units=8)
    model = keras_seq.Seq2Seq(encoder, decoder, source, target)
    model.compile()
    flows = gradient_flow(model, model.prepare(["cat", "thought"], ["K AE T", "TH AO T"]))
    assert flows and all(name.startswith(f"{encoder.name}/") for name in flows)
    assert all(flow.shape == (8,) and flow[0] > 0 for flow in flows.values())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (keras.Sequential([layers.LSTM(2)]), "`model` must be a compiled Keras model.*not compiled"),
        (layers.LSTM(2), "`model` must be a compiled Keras model.*no model"),
        (None, "`model` must be a compiled Keras model. Received: None"),
        (compiled(keras.layers.LSTM(2, name="old")), r"of keras_seq.*'old'\]; `keras_seq.convert\(model\)` replaces"),
        (compiled(layers.RNN(keras.layers.LSTMCell(2), name="foreign")), r"of keras_seq.*\['foreign'\]"),
        (compiled(keras.layers.Dense(2)), "of keras_seq.*with none"),
    ],
)
def test_errors(model, message):
    with pytest.raises(ValueError, match=message):
        gradient_flow(model, (INPUTS, TARGETS))


def test_a_converted_model():
    model = compiled(keras.layers.LSTM(UNITS, name="lstm"), keras.layers.Dense(2))
    assert list(gradient_flow(keras_seq.convert(model), (INPUTS, TARGETS))) == ["lstm"]


def test_a_layer_inside_a_function_is_refused():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.gru = layers.GRU(2, name="gru")
            self.compiled_gru = tf.function(lambda x: self.gru(x))

        def call(self, x):
            return self.compiled_gru(x)

    model = Model()
    model.compile(loss="mse")
    model(INPUTS)
    with pytest.raises(NotImplementedError, match=r"cannot look into a `tf.function`.*'gru'"):
        gradient_flow(model, (INPUTS[:2], TARGETS[:2]))
    assert model.gru.probe_hook is None
    # For shapes that the function has met, it does not call Python any more.
    with pytest.raises(ValueError, match=r"must call a recurrent layer of keras_seq, eagerly.*'gru'"):
        gradient_flow(model, (INPUTS, TARGETS))


def test_other_backends_are_refused():
    code = """
import keras, pytest, keras_seq
with pytest.raises(NotImplementedError, match="TensorFlow backend of Keras. Received: 'jax'"):
    keras_seq.diagnostics.gradient_flow(None, None)
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)

# SPDX-License-Identifier: Apache-2.0
"""`gradient_flow` returns the gradients of closed forms and of Keras's cells, and leaves the model as it was."""

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
    """Returns the norm of each step's gradient; `gradients` is a list of (batch, units)."""
    return np.array([np.linalg.norm(g) for g in gradients])


def run_step_by_step(cell, inputs, watch, mask=None, backwards=False):
    """Returns the outputs of a cell and the new h of each step, in time order; calls `watch` on each new h."""
    state = [tf.zeros((inputs.shape[0], s)) for s in keras.tree.flatten(cell.state_size)]
    outputs, hidden = [None] * inputs.shape[1], [None] * inputs.shape[1]
    for t in range(inputs.shape[1])[:: -1 if backwards else 1]:
        _, new_state = cell(inputs[:, t], state)
        h = hidden[t] = tf.identity(new_state[0])
        watch(h)
        new_state = [h, *new_state[1:]]
        if mask is not None:
            new_state = [tf.where(mask[:, t, None], new, old) for new, old in zip(new_state, state, strict=True)]
        outputs[t], state = new_state[0], new_state
    return outputs, hidden


def keras_cell_like(kind, cell):
    """Returns a cell of Keras with the weights of a cell of keras_seq."""
    keras_cell = KERAS_CELLS[kind](UNITS)
    keras_cell.build((BATCH, cell.kernel.shape[0]))
    keras_cell.set_weights(cell.get_weights())
    return keras_cell


def mse(y_pred, y=TARGETS):
    return tf.reduce_mean(tf.square(y_pred - y))


def randomize_weights(layer):
    """Sets all weights of a built layer, biases included, to random values."""
    layer.set_weights([rng.normal(0, 0.5, w.shape) for w in layer.get_weights()])


@pytest.mark.parametrize("backwards", [False, True])
def test_gradients_of_a_linear_rnn_are_powers_of_the_recurrent_kernel(backwards):
    recurrent_kernel = rng.normal(size=(UNITS, UNITS)) / 2
    options = {"use_bias": False, "kernel_initializer": "identity", "go_backwards": backwards, "name": "rnn"}
    model = compiled(layers.SimpleRNN(UNITS, "linear", **options), inputs=(TIME, UNITS), loss=lambda y, p: y * p)
    model.layers[0].cell.recurrent_kernel.assign(recurrent_kernel)
    weights = rng.normal(size=(BATCH, UNITS)).astype("float32")  # dL/dh_T times (BATCH * UNITS), as the loss is a mean
    (flow,) = gradient_flow(model, (rng.normal(size=(BATCH, TIME, UNITS)), weights)).values()
    expected = [
        np.linalg.norm(weights @ np.linalg.matrix_power(recurrent_kernel.T, steps)) / (BATCH * UNITS)
        for steps in reversed(range(TIME))
    ]
    assert flow.shape == (TIME,)
    np.testing.assert_allclose(flow, expected[::-1] if backwards else expected, rtol=1e-4)


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.5])
def test_gradients_of_an_orthogonal_kernel_vanish_or_explode_by_its_gain(gain):
    kernel = keras.initializers.Orthogonal(gain, seed=1)
    model = compiled(layers.SimpleRNN(8, "linear", recurrent_initializer=kernel), keras.layers.Dense(2))
    (flow,) = gradient_flow(model, (INPUTS, TARGETS)).values()
    np.testing.assert_allclose(flow[1:] / flow[:-1], 1 / gain, rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kind", KERAS_CELLS)
def test_gradients_are_those_of_keras_cells_step_by_step(kind, backwards, masked):
    mask = MASK if masked else None
    layer = getattr(layers, kind)(UNITS, go_backwards=backwards, return_sequences=True, name="rnn")
    inputs = keras.Input((TIME, FEATURES)), keras.Input((TIME,), dtype="bool")
    model = keras.Model(inputs, layer(inputs[0], mask=inputs[1] if masked else None))
    model.compile(loss="mse")
    randomize_weights(layer)
    targets = rng.normal(size=(BATCH, TIME, UNITS)).astype("float32")
    cell = keras_cell_like(kind, layer.cell)
    with tf.GradientTape() as tape:
        outputs, hidden = run_step_by_step(cell, INPUTS, tape.watch, mask, backwards)
        outputs = tf.stack(
            outputs[::-1] if backwards else outputs, axis=1
        )  # Keras returns them in the order of computation
        errors = tf.reduce_mean(tf.square(outputs - targets), axis=-1)
        loss_mask = np.ones_like(MASK) if mask is None else mask  # Keras's loss ignores masked steps
        loss = tf.reduce_sum(errors * loss_mask) / loss_mask.sum()
    expected = norms(tape.gradient(loss, hidden, unconnected_gradients="zero"))
    flows = gradient_flow(model, ([INPUTS, MASK], targets))
    assert list(flows) == ["rnn"]
    assert_close(flows["rnn"], expected, 1e-5)
    if masked:
        alone = gradient_flow(model, ([INPUTS[1:2], MASK[1:2]], targets[1:2]))["rnn"]
        assert alone[3] > 0 and np.all(alone[4:] == 0)  # masked steps compute no state


@pytest.mark.parametrize("kind", KERAS_CELLS)
def test_each_cell_of_a_stack_has_its_gradients(kind):
    layer = getattr(layers, kind)(UNITS, num_layers=2, name="rnn")
    model = compiled(layer, keras.layers.Dense(2))
    randomize_weights(model)
    cells = [keras_cell_like(kind, cell) for cell in layer.recurrent_cells()]
    with tf.GradientTape() as tape:
        lower, lower_hidden = run_step_by_step(cells[0], INPUTS, tape.watch)
        upper, upper_hidden = run_step_by_step(cells[1], tf.stack(lower, axis=1), tape.watch)
        loss = mse(model.layers[1](upper[-1]))
    expected = [norms(g) for g in tape.gradient(loss, [lower_hidden, upper_hidden])]
    flows = gradient_flow(model, (INPUTS, TARGETS))
    assert list(flows) == ["rnn/0", "rnn/1"]
    assert_close(list(flows.values()), expected, 1e-5)


@pytest.mark.parametrize("wrapper", [layers.Bidirectional, keras.layers.Bidirectional])
def test_each_direction_of_bidirectional_has_its_gradients(wrapper):
    both = wrapper(layers.GRU(UNITS, name="gru"), name="both")
    model = compiled(both, keras.layers.Dense(2))
    randomize_weights(model)
    forward, backward = (keras_cell_like("GRU", half.cell) for half in (both.forward_layer, both.backward_layer))
    with tf.GradientTape() as tape:
        forward_outputs, forward_hidden = run_step_by_step(forward, INPUTS, tape.watch)
        backward_outputs, backward_hidden = run_step_by_step(backward, INPUTS, tape.watch, backwards=True)
        loss = mse(model.layers[1](tf.concat([forward_outputs[-1], backward_outputs[0]], axis=-1)))
    expected = [norms(g) for g in tape.gradient(loss, [forward_hidden, backward_hidden])]
    flows = gradient_flow(model, (INPUTS, TARGETS))
    assert list(flows) == ["both/forward_gru", "both/backward_gru"]
    assert_close(list(flows.values()), expected, 1e-5)


@pytest.mark.parametrize("layer", [layers.LSTM(UNITS), layers.Bidirectional(layers.GRU(UNITS))], ids=["lstm", "gru"])
def test_padding_does_not_change_the_gradients(layer):
    model = compiled(keras.layers.Masking(), layer, keras.layers.Dense(2), inputs=(None, FEATURES))
    padded = np.concatenate([INPUTS, np.zeros((BATCH, 4, FEATURES))], axis=1)
    for short, long in zip(
        gradient_flow(model, (INPUTS, TARGETS)).values(), gradient_flow(model, (padded, TARGETS)).values(), strict=True
    ):
        assert_close(long[:TIME], short, 1e-5)
        assert np.all(long[TIME:] == 0)


def test_sample_weights_and_activity_regularization_are_in_the_loss():
    layer = layers.LSTM(UNITS, return_sequences=True, activity_regularizer=keras.regularizers.L2(0.3), name="lstm")
    model = compiled(layer, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2))
    weights = np.array([0.0, 1.0, 2.0], "float32")
    cell = keras_cell_like("LSTM", layer.cell)
    with tf.GradientTape() as tape:
        outputs, hidden = run_step_by_step(cell, INPUTS, tape.watch)
        outputs = tf.stack(outputs, axis=1)
        errors = tf.reduce_mean(tf.square(model.layers[-1](tf.reduce_mean(outputs, axis=1)) - TARGETS), axis=1)
        loss = tf.reduce_mean(weights * errors) + 0.3 * tf.reduce_sum(tf.square(outputs)) / BATCH
    expected = norms(tape.gradient(loss, hidden))
    flow = gradient_flow(model, (INPUTS, TARGETS, weights))["lstm"]
    assert_close(flow, expected, 1e-5)
    assert not np.allclose(flow, gradient_flow(model, (INPUTS, TARGETS))["lstm"])


def test_implementation_unroll_and_recompute_do_not_change_the_gradients():
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


def test_a_layer_called_twice_has_an_array_for_each_call():
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


@pytest.mark.filterwarnings("ignore:`build..` was called on layer:UserWarning")  # by the layer that is never called
def test_a_layer_without_influence_has_zeros_and_a_layer_not_called_has_no_entry():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.ignored, self.not_called = (
                layers.GRU(2, name=n) for n in ("used", "ignored", "not_called")
            )

        def call(self, x):  # has no argument `training`
            self.ignored(x)
            return self.used(x)

    model = Model()
    model.compile(loss="mse")
    flows = gradient_flow(model, (INPUTS, TARGETS), training=True)
    assert list(flows) == ["used", "ignored"]
    assert np.all(flows["used"] > 0) and np.all(flows["ignored"] == 0)


def test_an_unbuilt_model_and_a_dict_of_inputs():
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


def test_the_model_is_restored():
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


def test_the_model_is_restored_after_an_error():
    layer = layers.LSTM(UNITS, stateful=True)
    model = keras.Sequential([keras.Input(batch_shape=INPUTS.shape), layer, keras.layers.Dense(2)])
    model.compile(loss="mse")
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
        gradient_flow(model, (INPUTS, rng.normal(size=(BATCH, 3))))
    assert layer.probe_hook is None
    assert not np.any(layer.states[0])


def test_gradients_in_mixed_precision():
    layer = layers.LSTM(UNITS, name="lstm", dtype="mixed_bfloat16")
    model = compiled(layer, keras.layers.Dense(2))
    flow = gradient_flow(model, (INPUTS, TARGETS))["lstm"]
    float32_model = compiled(layers.LSTM(UNITS, name="lstm"), keras.layers.Dense(2))
    float32_model.set_weights(model.get_weights())
    assert flow.dtype == "float64"
    assert_close(flow, gradient_flow(float32_model, (INPUTS, TARGETS))["lstm"], 0.05)


def test_gradients_of_a_seq2seq_encoder():
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
        (layers.LSTM(2), "`model` must be a compiled Keras model.*not a model"),
        (None, "`model` must be a compiled Keras model. Received: None"),
        (compiled(keras.layers.LSTM(2, name="old")), r"of keras_seq.*'old'\]\. `keras_seq.convert\(model\)` replaces"),
        (compiled(layers.RNN(keras.layers.LSTMCell(2), name="foreign")), r"of keras_seq.*\['foreign'\]"),
        (compiled(keras.layers.Dense(2)), "of keras_seq.*with none"),
    ],
)
def test_a_model_without_recurrent_layers_or_compilation_raises(model, message):
    with pytest.raises(ValueError, match=message):
        gradient_flow(model, (INPUTS, TARGETS))


def test_a_converted_model_has_gradients():
    model = compiled(keras.layers.LSTM(UNITS, name="lstm"), keras.layers.Dense(2))
    assert list(gradient_flow(keras_seq.convert(model), (INPUTS, TARGETS))) == ["lstm"]


def test_a_layer_inside_a_tf_function_raises():
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
    with pytest.raises(NotImplementedError, match=r"outside a `tf.function`.*'gru' inside one"):
        gradient_flow(model, (INPUTS[:2], TARGETS[:2]))
    assert model.gru.probe_hook is None
    # For shapes that it has traced before, the function does not run Python.
    with pytest.raises(ValueError, match=r"must call a recurrent layer of keras_seq eagerly.*'gru'"):
        gradient_flow(model, (INPUTS, TARGETS))


@pytest.mark.slow
def test_other_backends_raise():
    code = """
import keras, pytest, keras_seq
with pytest.raises(NotImplementedError, match="TensorFlow backend of Keras. Received: 'jax'"):
    keras_seq.diagnostics.gradient_flow(None, None)
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)

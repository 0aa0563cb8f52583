# SPDX-License-Identifier: Apache-2.0
"""`convert` gives a model of keras_seq that is the Keras model in everything but who computes the recurrences."""

import keras
import numpy as np
import pytest
from conftest import assert_close
from keras import layers

import keras_seq

TOLERANCE = 3e-5  # the numbers contract for float32
BATCH, TIME, FEATURES = 3, 5, 4
NAMES = {"GRU", "LSTM", "RNN", "Bidirectional", "GRUCell", "LSTMCell", "SimpleRNN", "SimpleRNNCell"}


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


SEQUENCES = draw(BATCH, TIME, FEATURES)


class Residual(layers.Wrapper):  # registered nowhere
    """The layer's output and a part of its own, made in its own code."""

    def __init__(self, layer, **kwargs):
        super().__init__(layer, **kwargs)
        self.shortcut = layers.Dense(layer.units)

    def build(self, input_shape):
        super().build(input_shape)
        self.shortcut.build(input_shape)

    def call(self, inputs, mask=None):
        return self.layer(inputs, mask=mask) + self.shortcut(inputs)


class Tagger(keras.Model):
    """A subclassed model whose recurrent layer comes from outside."""

    def __init__(self, layer, classes, **kwargs):
        super().__init__(**kwargs)
        self.recurrent, self.classes = layer, classes
        self.output_layer = layers.Dense(classes)

    def call(self, inputs, training=False):
        return self.output_layer(self.recurrent(inputs, training=training))

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.recurrent)
        return {**super().get_config(), "layer": layer, "classes": self.classes}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("layer")), **config)


class Hidden(keras.Model):
    """A subclassed model that makes its recurrent layer itself."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.recurrent = layers.GRU(units, name="inner")

    def call(self, inputs):
        return self.recurrent(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class OwnLSTM(layers.LSTM):
    pass


def own_activation(x):
    return keras.ops.tanh(2 * x)


def sequential(*stack, shape=(None, FEATURES), **options):
    return keras.Sequential([keras.Input(shape, **options), *stack])


def shared_layer():
    first, second = keras.Input((TIME, FEATURES)), keras.Input((TIME, FEATURES))
    shared = layers.LSTM(4, name="shared")
    return keras.Model([first, second], layers.Dense(2)(shared(first) + shared(second)))


def shared_between_nested_models():
    inputs, shared = keras.Input((TIME, FEATURES)), layers.GRU(4, return_sequences=True)
    first, second = sequential(shared), sequential(shared, layers.SimpleRNN(4))
    return keras.Model(inputs, layers.Dense(2)(second(first(inputs))))


def nested():
    inputs = keras.Input((TIME, FEATURES))
    inner = keras.Model(inputs, layers.GRU(4, return_sequences=True)(inputs), name="inner")
    return sequential(inner, sequential(layers.LSTM(3)), layers.Dense(2))


def encoder_decoder():
    """States that go from one layer to another, and a mask."""
    source, target = keras.Input((TIME,), dtype="int32"), keras.Input((TIME, FEATURES))
    memory, *state = layers.LSTM(6, return_state=True)(layers.Embedding(9, 4, mask_zero=True)(source))
    outputs = layers.LSTM(6, return_sequences=True)(target, initial_state=state)
    return keras.Model([source, target], [layers.Dense(2)(outputs), memory])


def subclassed(layer):
    model = Tagger(layer, 2)
    model(SEQUENCES)
    return model


MODELS = {
    "SimpleRNN": lambda: sequential(layers.SimpleRNN(4, activation="relu", go_backwards=True), layers.Dense(2)),
    "GRU": lambda: sequential(layers.GRU(4, reset_after=False), layers.Dense(2)),
    "GRU reset_after": lambda: sequential(layers.GRU(4, use_bias=False, return_sequences=True), layers.GRU(3)),
    "LSTM": lambda: sequential(layers.LSTM(4, return_sequences=True), layers.LSTM(3), layers.Dense(2)),
    "Masking": lambda: sequential(layers.Masking(), layers.LSTM(4, zero_output_for_mask=True, return_sequences=True)),
    "Bidirectional": lambda: sequential(layers.Bidirectional(layers.GRU(4), merge_mode="ave"), layers.Dense(2)),
    "backward_layer": lambda: sequential(
        layers.Bidirectional(layers.LSTM(4), backward_layer=layers.GRU(4, go_backwards=True)), layers.Dense(2)
    ),
    "RNN": lambda: sequential(layers.RNN(layers.GRUCell(4), return_sequences=True), layers.Dense(2)),
    "stacked cells": lambda: sequential(layers.RNN([layers.LSTMCell(4), layers.GRUCell(3), layers.SimpleRNNCell(2)])),
    "Bidirectional RNN": lambda: sequential(layers.Bidirectional(layers.RNN(layers.LSTMCell(4))), layers.Dense(2)),
    "TimeDistributed": lambda: sequential(
        layers.TimeDistributed(layers.LSTM(4)), layers.Dense(2), shape=(TIME, 1, FEATURES)
    ),
    "shared": shared_layer,
    "shared between nested models": shared_between_nested_models,
    "nested": nested,
    "encoder-decoder": encoder_decoder,
    "wrapper of the user": lambda: sequential(Residual(layers.LSTM(4, return_sequences=True)), layers.Dense(2)),
    "subclassed": lambda: subclassed(layers.Bidirectional(layers.LSTM(4))),
    "ours stay": lambda: sequential(keras_seq.layers.LSTM(4, return_sequences=True), layers.LSTM(3)),
    "function of the user": lambda: sequential(layers.LSTM(4, activation=own_activation), layers.Dense(2)),
    "lambda": lambda: sequential(layers.GRU(4), layers.Lambda(lambda x: 2 * x), layers.Dense(2)),
}
every_model = pytest.mark.parametrize("name", MODELS)


def inputs_of(model):
    """Arrays for the inputs of a model."""
    tensors = model.inputs if getattr(model, "inputs", None) else [keras.KerasTensor((None, TIME, FEATURES))]
    arrays = []
    for tensor in tensors:
        shape = (BATCH, *(size or TIME for size in tensor.shape[1:]))
        arrays.append(np.arange(np.prod(shape)).reshape(shape) % 5 if tensor.dtype == "int32" else draw(*shape))
    return arrays if len(arrays) > 1 else arrays[0]


def recurrent(model):
    return [layer for layer in model._flatten_layers() if type(layer).__name__ in NAMES]


def assert_converted(copy, model):
    assert type(copy) is type(model)
    assert [type(layer).__name__ for layer in copy._flatten_layers()] == [
        type(layer).__name__ for layer in model._flatten_layers()
    ]
    assert [layer.name for layer in recurrent(copy)] == [layer.name for layer in recurrent(model)]
    assert recurrent(copy)
    assert all(type(layer).__module__.startswith("keras_seq.") for layer in recurrent(copy))
    assert not {id(v) for v in model.variables} & {id(v) for v in copy.variables}


@every_model
def test_the_copy_predicts_the_same(name):
    model = MODELS[name]()
    inputs = inputs_of(model)
    kinds, weights, expected = list(map(type, recurrent(model))), model.get_weights(), model(inputs)
    copy = keras_seq.convert(model)
    assert_converted(copy, model)
    assert_close(copy(inputs), expected, TOLERANCE)
    assert_close(copy.get_weights(), weights, 0)
    copy.compile("sgd", "mse")  # the copy trains, the model does not move
    copy.fit(inputs, keras.tree.map_structure(np.zeros_like, expected), batch_size=BATCH, verbose=0)
    assert any((a != b).any() for a, b in zip(copy.get_weights(), weights, strict=True))
    assert_close(model.get_weights(), weights, 0)
    assert list(map(type, recurrent(model))) == kinds


@pytest.mark.parametrize("name", ["LSTM", "backward_layer", "stacked cells", "nested", "wrapper of the user"])
def test_the_copy_is_saved_and_loaded(name, tmp_path):
    copy = keras_seq.convert(MODELS[name]())
    copy.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects={"Residual": Residual})
    assert_close(loaded(SEQUENCES), copy(SEQUENCES), 0)
    assert_converted(loaded, copy)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.LSTM(4, name="mine", stateful=True, dtype="mixed_bfloat16", unroll=True),
        lambda: layers.Bidirectional(layers.GRU(4, dropout=0.2, seed=7), merge_mode=None),
        lambda: layers.GRU(4, recurrent_dropout=0.3, return_state=True, kernel_regularizer="l2"),
    ],
)
def test_a_layer_built_or_not(layer):
    layer = layer()
    copy = keras_seq.convert(layer)
    assert type(copy) is getattr(keras_seq.layers, type(layer).__name__)
    assert (copy.built, copy.weights, copy.name, copy.dtype_policy) == (False, [], layer.name, layer.dtype_policy)
    expected = layer(SEQUENCES)
    if getattr(layer, "stateful", False):
        layer.reset_state()
    actual = keras_seq.convert(layer)(SEQUENCES)
    tolerance = TOLERANCE if layer.compute_dtype == "float32" else 2e-2
    assert_close(
        *(keras.tree.map_structure(lambda x: np.asarray(x, "float32"), y) for y in (actual, expected)), tolerance
    )


@pytest.mark.parametrize("kind", ["GRUCell", "LSTMCell", "SimpleRNNCell"])
def test_a_cell(kind):
    cell = getattr(layers, kind)(4)
    states = [draw(BATCH, 4)] * len(keras.tree.flatten(cell.state_size))
    expected = cell(SEQUENCES[:, 0], states)
    copy = keras_seq.convert(cell)
    assert type(copy) is getattr(keras_seq.layers, kind)
    assert_close(copy(SEQUENCES[:, 0], states), expected, TOLERANCE)


def test_an_unbuilt_model():
    copy = keras_seq.convert(keras.Sequential([layers.GRU(4, name="gru"), layers.Dense(2)]))
    assert (copy.built, copy.weights) == (False, [])
    assert copy(SEQUENCES).shape == (BATCH, 2)
    assert type(copy.get_layer("gru")) is keras_seq.layers.GRU


def test_arguments_are_kept():
    options = {
        "activation": "relu",
        "recurrent_activation": "hard_sigmoid",
        "use_bias": False,
        "kernel_initializer": "he_normal",
        "recurrent_regularizer": "l1",
        "activity_regularizer": "l2",
        "kernel_constraint": "max_norm",
        "dropout": 0.1,
        "recurrent_dropout": 0.2,
        "seed": 7,
        "return_sequences": True,
        "go_backwards": True,
        "zero_output_for_mask": True,
        "trainable": False,
        "dtype": "mixed_bfloat16",
        "reset_after": False,
        "name": "mine",
    }
    layer = layers.GRU(4, **options)
    config, copied = layer.get_config(), keras_seq.convert(layer).get_config()
    assert {name: copied[name] for name in config} == config
    assert copied["implementation"] == "auto"


def test_states_and_seeds():
    model = keras.Sequential(
        [
            keras.Input((TIME, FEATURES), batch_size=BATCH),
            layers.LSTM(4, stateful=True, return_sequences=True),
            layers.Bidirectional(layers.GRU(3, stateful=True)),
            layers.Dropout(0.5),
        ]
    )
    model(SEQUENCES, training=True)
    copy = keras_seq.convert(model)
    assert_close([v.value for v in copy.variables], [v.value for v in model.variables], 0)
    seeds = [[layer.layers[-1].seed_generator.state.numpy() for layer in (model, copy)]]
    assert (seeds[0][0] == seeds[0][1]).all()
    assert seeds[0][0].any()
    for _ in range(2):  # the model's states do not move with the copy's
        assert_close(copy(SEQUENCES), model(SEQUENCES), TOLERANCE)


def frozen_layer(model):
    model.layers[0].trainable = False


def frozen_cell(model):
    model.layers[0].cell.trainable = False


def frozen_variable(model):
    model.layers[0].cell.bias.trainable = False


def frozen_half(model):
    model.layers[1].forward_layer.trainable = False


def frozen_inside(model):
    model.layers[2].shortcut.trainable = False


def frozen_but_one(model):
    model.trainable = False
    model.layers[0].trainable = True


FROZEN = [frozen_layer, frozen_cell, frozen_variable, frozen_half, frozen_inside, frozen_but_one]


@pytest.mark.parametrize("freeze", FROZEN, ids=lambda freeze: freeze.__name__)
def test_what_is_frozen_stays_frozen(freeze):
    model = sequential(
        layers.LSTM(4, return_sequences=True),
        layers.Bidirectional(layers.GRU(4, return_sequences=True)),
        Residual(layers.SimpleRNN(3, return_sequences=True)),
    )
    freeze(model)
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    copy = keras_seq.convert(model)
    assert [v.trainable for v in copy.variables] == [v.trainable for v in model.variables]
    assert [x.trainable for x in copy._flatten_layers()] == [x.trainable for x in model._flatten_layers()]
    assert len(copy.trainable_variables) == len(model.trainable_variables)
    before = copy.get_weights()
    if freeze is not frozen_but_one:  # nothing of which trains: Keras warns
        copy.fit(SEQUENCES, np.ones((BATCH, TIME, 3)), verbose=0)
    trains = [copy.trainable and v.trainable for v in copy.weights]
    assert [(a != b).any() for a, b in zip(copy.get_weights(), before, strict=True)] == trains


def test_compiled():
    model = sequential(layers.GRU(4), layers.Dense(2))
    scale = 3.0
    model.compile(
        keras.optimizers.Adam(0.02, beta_1=0.8, clipnorm=2.0),
        loss=lambda y, p: (y - p) ** 2 * 3.0,
        metrics=["mae"],
        jit_compile=True,
    )
    targets = draw(BATCH, 2)
    model.fit(SEQUENCES, targets, verbose=0)
    copy = keras_seq.convert(model)
    assert copy.optimizer.get_config() == model.optimizer.get_config()
    assert (copy.jit_compile, copy.optimizer.iterations.numpy(), model.optimizer.iterations.numpy()) == (True, 0, 1)
    ours, theirs = (m.evaluate(SEQUENCES, targets, return_dict=True, verbose=0) for m in (copy, model))
    assert set(ours) == {"loss", "mae"}
    assert_close(list(ours.values()), list(theirs.values()), TOLERANCE)
    assert_close(ours["loss"], scale * np.mean((model(SEQUENCES) - targets) ** 2), TOLERANCE)


def test_a_model_of_another_dtype_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = sequential(layers.GRU(4), layers.Dense(2))
        model.compile("adam", "mse")
    finally:
        keras.config.set_dtype_policy(before)
    copy = keras_seq.convert(model)
    policies = [[layer.dtype_policy.name for layer in m._flatten_layers()] for m in (copy, model)]
    assert policies[0] == policies[1]
    assert type(copy.optimizer) is type(model.optimizer) is keras.optimizers.LossScaleOptimizer


def own_metric(targets, outputs):
    return keras.ops.mean(targets - outputs)


def test_compiled_with_functions_of_the_user():
    def own_loss(targets, outputs):
        return keras.ops.mean((targets - outputs) ** 4, axis=-1)

    inner = sequential(layers.LSTM(3))
    inner.compile("sgd", own_loss)
    model = sequential(layers.GRU(4, return_sequences=True), inner, layers.Dense(1, name="dense"))
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    metrics = [own_metric, keras.metrics.MeanAbsoluteError()]
    model.compile(keras.optimizers.Adam(schedule), own_loss, metrics=metrics)
    copy = keras_seq.convert(model)
    assert copy.optimizer.get_config() == model.optimizer.get_config()
    ours, theirs = (m.evaluate(SEQUENCES, np.ones((BATCH, 1)), return_dict=True, verbose=0) for m in (copy, model))
    assert set(ours) == {"loss", "own_metric", "mean_absolute_error"}
    assert_close(list(ours.values()), list(theirs.values()), TOLERANCE)


def test_an_adapted_vocabulary():
    text = layers.TextVectorization()
    text.adapt(["a b c", "b c", "c"])
    model = sequential(text, layers.Embedding(9, 4), layers.LSTM(4), shape=(), dtype="string")
    copy = keras_seq.convert(model)
    strings = keras.ops.convert_to_tensor(["a c", "b x"])
    assert_close(copy(strings), model(strings), TOLERANCE)
    assert copy.layers[0].get_vocabulary() == text.get_vocabulary()


def test_what_derives_from_a_recurrent_layer_stays():
    model = sequential(OwnLSTM(4, return_sequences=True), layers.GRU(3, name="gru"))
    copy = keras_seq.convert(model)
    assert [type(layer) for layer in copy.layers] == [OwnLSTM, keras_seq.layers.GRU]
    assert_close(copy(SEQUENCES), model(SEQUENCES), TOLERANCE)
    images = sequential(layers.ConvLSTM1D(2, 3), shape=(TIME, 6, 1))
    assert type(keras_seq.convert(images).layers[0]) is layers.ConvLSTM1D
    reasons = [row.reason for row in keras_seq.explain(model, print_fn=None)]
    assert reasons == ["not a layer of keras_seq", "not a layer of keras_seq; keras_seq.convert replaces it"]
    assert keras_seq.explain(copy, print_fn=None)[1].implementation != "keras"


def test_a_model_of_ours():
    model = keras_seq.Seq2Seq(keras_seq.Encoder(9, 4, 4), keras_seq.Decoder(9, 4, 4))
    ids = np.array([[4, 5, 3], [6, 3, 0]], "int32")
    expected = model.generate(ids)
    np.testing.assert_array_equal(keras_seq.convert(model).generate(ids), expected)


@pytest.mark.parametrize("thing", [None, "model.keras", layers.LSTM, [layers.Dense(2)]])
def test_what_is_no_model(thing):
    with pytest.raises(ValueError, match=r"`model` must be a Keras model or layer\. Received: .* of type"):
        keras_seq.convert(thing)


def test_a_layer_in_the_code_of_a_class():
    for model in (Hidden(4), sequential(Hidden(4))):
        with pytest.raises(ValueError, match=r"`model` must tell .* 'inner' \(GRU\) in 'hidden\w*' of class Hidden"):
            keras_seq.convert(model)


def test_what_has_no_configuration():
    class Closed(layers.Layer):
        def __init__(self, function):
            super().__init__()

    with pytest.raises(ValueError, match=r"`model` must have a configuration .* class Sequential") as caught:
        keras_seq.convert(keras.Sequential([Closed(np.sin)]))
    assert isinstance(caught.value.__cause__, NotImplementedError)


def test_a_configuration_that_makes_something_else():
    class Forgetful(layers.Layer):
        def __init__(self, units=2):
            super().__init__()
            self.inner = layers.Dense(units)

        def build(self, input_shape):
            self.inner.build(input_shape)

        def call(self, inputs):
            return self.inner(inputs)

        def get_config(self):
            return {}

    model = sequential(Forgetful(3))
    with pytest.raises(ValueError, match=r"`model` must have .* same layers and variables .*\(4, 3\).*\(4, 2\)"):
        keras_seq.convert(model)

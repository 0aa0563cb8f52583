# SPDX-License-Identifier: Apache-2.0
"""`convert` replaces recurrent layers and changes nothing else: neither outputs, weights, flags nor compilation."""

import keras
import numpy as np
import pytest
from conftest import assert_close, mostly_slow
from keras import layers

import keras_seq

TOLERANCE = 3e-5  # of float32 outputs against Keras's
BATCH, TIME, FEATURES = 3, 5, 4
RECURRENT = {"GRU", "LSTM", "RNN", "Bidirectional", "GRUCell", "LSTMCell", "SimpleRNN", "SimpleRNNCell"}


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


SEQUENCES = draw(BATCH, TIME, FEATURES)


class Residual(layers.Wrapper):  # not registered with Keras
    """Adds the output of a layer and of a Dense layer, which the class creates in its own code."""

    def __init__(self, layer, **kwargs):
        super().__init__(layer, **kwargs)
        self.shortcut = layers.Dense(layer.units)

    def build(self, input_shape):
        super().build(input_shape)
        self.shortcut.build(input_shape)

    def call(self, inputs, mask=None):
        return self.layer(inputs, mask=mask) + self.shortcut(inputs)


class Tagger(keras.Model):
    """A subclassed model whose recurrent layer is an argument, and so in its configuration."""

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
    """A subclassed model that creates its recurrent layer in its own code."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.recurrent = layers.GRU(units, name="inner")

    def call(self, inputs):
        return self.recurrent(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class SubclassedLSTM(layers.LSTM):
    pass


def custom_activation(x):
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
    """Passes the states of an encoder, and the mask of an Embedding, to a decoder."""
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
    "custom wrapper": lambda: sequential(Residual(layers.LSTM(4, return_sequences=True)), layers.Dense(2)),
    "subclassed": lambda: subclassed(layers.Bidirectional(layers.LSTM(4))),
    "layers of keras_seq": lambda: sequential(keras_seq.layers.LSTM(4, return_sequences=True), layers.LSTM(3)),
    "custom function": lambda: sequential(layers.LSTM(4, activation=custom_activation), layers.Dense(2)),
    "lambda": lambda: sequential(layers.GRU(4), layers.Lambda(lambda x: 2 * x), layers.Dense(2)),
}
every_model = pytest.mark.parametrize("name", MODELS)
many_models = pytest.mark.parametrize("name", mostly_slow(MODELS, every=2))


def inputs_of(model):
    """Returns arrays for the inputs of a model."""
    tensors = model.inputs if getattr(model, "inputs", None) else [keras.KerasTensor((None, TIME, FEATURES))]
    arrays = []
    for tensor in tensors:
        shape = (BATCH, *(size or TIME for size in tensor.shape[1:]))
        arrays.append(np.arange(np.prod(shape)).reshape(shape) % 5 if tensor.dtype == "int32" else draw(*shape))
    return arrays if len(arrays) > 1 else arrays[0]


def recurrent_layers(model):
    return [layer for layer in model._flatten_layers() if type(layer).__name__ in RECURRENT]


def assert_converted(copy, model):
    assert type(copy) is type(model)
    assert [type(layer).__name__ for layer in copy._flatten_layers()] == [
        type(layer).__name__ for layer in model._flatten_layers()
    ]
    assert [layer.name for layer in recurrent_layers(copy)] == [layer.name for layer in recurrent_layers(model)]
    assert recurrent_layers(copy)
    assert all(type(layer).__module__.startswith("keras_seq.") for layer in recurrent_layers(copy))
    assert not {id(v) for v in model.variables} & {id(v) for v in copy.variables}


@many_models
def test_the_copy_has_the_same_outputs_and_trains_alone(name):
    model = MODELS[name]()
    inputs = inputs_of(model)
    types, weights, expected = list(map(type, recurrent_layers(model))), model.get_weights(), model(inputs)
    copy = keras_seq.convert(model)
    assert_converted(copy, model)
    assert_close(copy(inputs), expected, TOLERANCE)
    assert_close(copy.get_weights(), weights, 0)
    copy.compile("sgd", "mse")  # training the copy must not change the model
    copy.fit(inputs, keras.tree.map_structure(np.zeros_like, expected), batch_size=BATCH, verbose=0)
    assert any((a != b).any() for a, b in zip(copy.get_weights(), weights, strict=True))
    assert_close(model.get_weights(), weights, 0)
    assert list(map(type, recurrent_layers(model))) == types


@pytest.mark.parametrize("name", ["LSTM", "backward_layer", "stacked cells", "nested", "custom wrapper"])
def test_the_copy_can_be_saved_and_loaded(name, tmp_path):
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
def test_a_layer_is_converted_before_and_after_it_is_built(layer):
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
def test_a_cell_is_converted(kind):
    cell = getattr(layers, kind)(4)
    states = [draw(BATCH, 4)] * len(keras.tree.flatten(cell.state_size))
    expected = cell(SEQUENCES[:, 0], states)
    copy = keras_seq.convert(cell)
    assert type(copy) is getattr(keras_seq.layers, kind)
    assert_close(copy(SEQUENCES[:, 0], states), expected, TOLERANCE)


def test_an_unbuilt_model_gives_an_unbuilt_copy():
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


def test_states_and_seeds_are_copied():
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
    seed, copied_seed = (layer.layers[-1].seed_generator.state.numpy() for layer in (model, copy))
    assert (seed == copied_seed).all()
    assert seed.any()
    for _ in range(2):  # each has its own states
        assert_close(copy(SEQUENCES), model(SEQUENCES), TOLERANCE)


def frozen_layer(model):
    model.layers[0].trainable = False


def frozen_cell(model):
    model.layers[0].cell.trainable = False


def frozen_variable(model):
    model.layers[0].cell.bias.trainable = False


def frozen_direction(model):
    model.layers[1].forward_layer.trainable = False


def frozen_sublayer(model):
    model.layers[2].shortcut.trainable = False


def frozen_except_one(model):
    model.trainable = False
    model.layers[0].trainable = True


FROZEN = [frozen_layer, frozen_cell, frozen_variable, frozen_direction, frozen_sublayer, frozen_except_one]


@pytest.mark.parametrize("freeze", FROZEN, ids=lambda freeze: freeze.__name__)
def test_trainable_flags_are_copied_and_frozen_weights_do_not_train(freeze):
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
    if freeze is not frozen_except_one:  # Keras warns if it finds nothing to train
        copy.fit(SEQUENCES, np.ones((BATCH, TIME, 3)), verbose=0)
    trains = [copy.trainable and v.trainable for v in copy.weights]
    assert [(a != b).any() for a, b in zip(copy.get_weights(), before, strict=True)] == trains


@pytest.mark.slow
def test_a_compiled_model_gives_a_compiled_copy():
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
    copied, original = (m.evaluate(SEQUENCES, targets, return_dict=True, verbose=0) for m in (copy, model))
    assert set(copied) == {"loss", "mae"}
    assert_close(list(copied.values()), list(original.values()), TOLERANCE)
    assert_close(copied["loss"], scale * np.mean((model(SEQUENCES) - targets) ** 2), TOLERANCE)


def test_a_dtype_policy_is_copied():
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


def custom_metric(targets, outputs):
    return keras.ops.mean(targets - outputs)


def test_custom_losses_and_metrics_are_copied():
    def custom_loss(targets, outputs):
        return keras.ops.mean((targets - outputs) ** 4, axis=-1)

    inner = sequential(layers.LSTM(3))
    inner.compile("sgd", custom_loss)
    model = sequential(layers.GRU(4, return_sequences=True), inner, layers.Dense(1, name="dense"))
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    metrics = [custom_metric, keras.metrics.MeanAbsoluteError()]
    model.compile(keras.optimizers.Adam(schedule), custom_loss, metrics=metrics)
    copy = keras_seq.convert(model)
    assert copy.optimizer.get_config() == model.optimizer.get_config()
    copied, original = (m.evaluate(SEQUENCES, np.ones((BATCH, 1)), return_dict=True, verbose=0) for m in (copy, model))
    assert set(copied) == {"loss", "custom_metric", "mean_absolute_error"}
    assert_close(list(copied.values()), list(original.values()), TOLERANCE)


def test_an_adapted_vocabulary_is_copied():
    text = layers.TextVectorization()
    text.adapt(["a b c", "b c", "c"])
    model = sequential(text, layers.Embedding(9, 4), layers.LSTM(4), shape=(), dtype="string")
    copy = keras_seq.convert(model)
    strings = keras.ops.convert_to_tensor(["a c", "b x"])
    assert_close(copy(strings), model(strings), TOLERANCE)
    assert copy.layers[0].get_vocabulary() == text.get_vocabulary()


def test_subclasses_of_recurrent_layers_are_not_replaced():
    model = sequential(SubclassedLSTM(4, return_sequences=True), layers.GRU(3, name="gru"))
    copy = keras_seq.convert(model)
    assert [type(layer) for layer in copy.layers] == [SubclassedLSTM, keras_seq.layers.GRU]
    assert_close(copy(SEQUENCES), model(SEQUENCES), TOLERANCE)
    images = sequential(layers.ConvLSTM1D(2, 3), shape=(TIME, 6, 1))
    assert type(keras_seq.convert(images).layers[0]) is layers.ConvLSTM1D
    reasons = [row.reason for row in keras_seq.explain(model, print_fn=None)]
    assert reasons == ["not a layer of keras_seq", "not a layer of keras_seq; keras_seq.convert replaces it"]
    assert keras_seq.explain(copy, print_fn=None)[1].implementation != "keras"


def test_a_seq2seq_model_generates_the_same():
    model = keras_seq.Seq2Seq(keras_seq.Encoder(9, 4, 4), keras_seq.Decoder(9, 4, 4))
    ids = np.array([[4, 5, 3], [6, 3, 0]], "int32")
    expected = model.generate(ids)
    np.testing.assert_array_equal(keras_seq.convert(model).generate(ids), expected)


@pytest.mark.parametrize("value", [None, "model.keras", layers.LSTM, [layers.Dense(2)]])
def test_an_object_that_is_not_a_model_raises(value):
    with pytest.raises(ValueError, match=r"`model` must be a Keras model or layer\. Received: .* of type"):
        keras_seq.convert(value)


def test_a_recurrent_layer_outside_the_configuration_raises():
    for model in (Hidden(4), sequential(Hidden(4))):
        with pytest.raises(
            ValueError,
            match=r"`model` must have all its recurrent layers .* 'inner' \(GRU\) in 'hidden\w*' of class Hidden",
        ):
            keras_seq.convert(model)


def test_a_model_without_a_configuration_raises():
    class WithoutConfig(layers.Layer):
        def __init__(self, function):
            super().__init__()

    with pytest.raises(ValueError, match=r"`model` must have a configuration .* class Sequential") as caught:
        keras_seq.convert(keras.Sequential([WithoutConfig(np.sin)]))
    assert isinstance(caught.value.__cause__, NotImplementedError)


def test_a_configuration_that_recreates_a_different_model_raises():
    class IncompleteConfig(layers.Layer):
        def __init__(self, units=2):
            super().__init__()
            self.inner = layers.Dense(units)

        def build(self, input_shape):
            self.inner.build(input_shape)

        def call(self, inputs):
            return self.inner(inputs)

        def get_config(self):
            return {}

    model = sequential(IncompleteConfig(3))
    with pytest.raises(ValueError, match=r"`model` must have .* same layers and variables\. .*\(4, 3\).*\(4, 2\)"):
        keras_seq.convert(model)

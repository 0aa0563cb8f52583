# SPDX-License-Identifier: Apache-2.0
"""Two replicas train as one, whose loss is the mean over tokens (in a process with two CPU devices)."""

import subprocess
import sys

import pytest

SCRIPT = """
import keras
import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras_seq

SOURCES = ["ab", "hedge", "", "cab", "face", "a"]
TARGETS = ["ba", "egdeh", "g", "", "ecaf", "aaaa"]


def train_and_evaluate(strategy):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        vectorizer = keras_seq.data.text_vectorizer(["abcdefgh"])
        parts = keras_seq.Encoder(12, 4, 4, cell="rnn"), keras_seq.Decoder(12, 4, 4, cell="rnn", attention=None)
        model = keras_seq.Seq2Seq(*parts, vectorizer, vectorizer)
        model.compile(keras.optimizers.SGD(5.0, global_clipnorm=0.1), metrics=[keras_seq.training.Perplexity()])
    data = tf.data.Dataset.from_tensor_slices((SOURCES, TARGETS)).batch(4)
    history = model.fit(data, epochs=2, validation_data=data, verbose=0).history
    history = {name: value[1] for name, value in history.items()}
    arrays = model.evaluate(SOURCES, TARGETS, batch_size=2, verbose=0)
    return [history[name] for name in ("loss", "perplexity", "val_loss", "val_perplexity")] + arrays


mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])  # the only one: TensorFlow's do not share a process
two = train_and_evaluate(mirrored)
one = train_and_evaluate(tf.distribute.get_strategy())
np.testing.assert_allclose(two, one, rtol=1e-5)
np.testing.assert_allclose(np.exp(one[::2]), one[1::2], rtol=1e-5)


def train_language_model(strategy):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras_seq.LanguageModel(9, 4, 8)
        model.compile(keras.optimizers.SGD(1.0))
    documents = [[4, 5, 6] * n for n in (5, 1, 3, 2, 7)]
    history = model.fit(documents, batch_size=4, window=3, epochs=3, seed=1, validation_data=documents[:3], verbose=0)
    return [*history.history.values(), model.evaluate(documents, batch_size=2, verbose=0)]


for two, one in zip(*map(train_language_model, (mirrored, tf.distribute.get_strategy())), strict=True):
    np.testing.assert_allclose(two, one, rtol=1e-5)


def train_with_regularization(strategy, metric):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        cell = keras_seq.layers.GRUCell(4, kernel_regularizer=keras.regularizers.L2(0.5))
        model = keras_seq.Seq2Seq(keras_seq.Encoder(12, 4, 4, "rnn"), keras_seq.Decoder(12, 4, None, cell))
        model.compile(keras.optimizers.SGD(0.1), metrics=[metric()])
    tokens = np.array([[4, 5, 6, 3], [7, 8, 9, 3], [10, 11, 4, 3], [6, 6, 5, 3]])  # as many in each replica
    history = model.fit(tokens, tokens, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    return history["loss"], np.concatenate([weight.ravel() for weight in model.get_weights()])


for metric in (keras_seq.training.TokenAccuracy, keras.metrics.SparseCategoricalAccuracy):  # the second one gets logits
    two = train_with_regularization(mirrored, metric)
    one = train_with_regularization(tf.distribute.get_strategy(), metric)
    np.testing.assert_allclose(two[0], one[0], rtol=1e-5)
    np.testing.assert_allclose(two[1], one[1], atol=1e-5)


def train_forecaster(strategy):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras_seq.Forecaster(units=3, horizon=2, cell="rnn")
        model.compile(keras.optimizers.Adam(0.1, global_clipnorm=0.5), [keras.metrics.MeanAbsoluteError()])
    past = np.sin(np.arange(40, dtype="float32")).reshape(4, 5, 2)
    targets, observed = past[:, :2], np.arange(16).reshape(4, 2, 2) < 10
    x, sample_weight = {"past": past, "target_mask": observed}, np.array([1, 2, 3, 4], "float32")
    history = model.fit(x, targets, 4, epochs=2, verbose=0, shuffle=False, sample_weight=sample_weight).history
    return [*history.values(), np.concatenate([weight.ravel() for weight in model.get_weights()])]


for two, one in zip(*map(train_forecaster, (mirrored, tf.distribute.get_strategy())), strict=True):
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


def train_with_loss(strategy, loss, sample_weight):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        cell = keras_seq.layers.GRUCell(4, kernel_regularizer=keras.regularizers.L2(0.5))
        model = keras_seq.Seq2Seq(keras_seq.Encoder(12, 4, 4, "rnn"), keras_seq.Decoder(12, 4, None, cell))
        model.compile(keras.optimizers.SGD(0.02), loss)
    tokens = np.array([[4, 5, 6, 3], [7, 8, 9, 3], [10, 3, 0, 0], [3, 0, 0, 0]])  # 8 and 3 in the two replicas
    options = {"batch_size": 4, "shuffle": False, "validation_data": (tokens, tokens, sample_weight), "verbose": 0}
    history = model.fit(tokens, tokens, epochs=2, sample_weight=sample_weight, **options).history
    return history["loss"], history["val_loss"], np.concatenate([weight.ravel() for weight in model.get_weights()])


def token_mean(y_true, y_pred):  # of each replica, a single number
    return ops.sum(token_sums(y_true, y_pred)) / ops.sum(ops.cast(y_true != 0, "float32"))


def token_sums(y_true, y_pred):  # one number for each sequence
    losses = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True, ignore_class=0)
    return ops.sum(losses, axis=-1)


ops, weights = keras.ops, np.random.default_rng(0).random((4, 4))
masked, plain = keras_seq.training.MaskedCrossentropy, keras.losses.SparseCategoricalCrossentropy
for loss, sample_weight in (
    (masked(reduction="sum"), weights),
    (masked(reduction="mean_with_sample_weight"), weights),
    (plain(from_logits=True), weights),  # a mean over all positions, with padding
    (plain(from_logits=True, ignore_class=0), weights),
    (token_mean, None),
    (token_sums, None),
):
    results = [train_with_loss(strategy, loss, sample_weight) for strategy in (mirrored, tf.distribute.get_strategy())]
    for two, one in zip(*results, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6, err_msg=str(loss))
"""


@pytest.mark.slow
def test_two_replicas_report_the_same_loss_as_one_and_train_the_same():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


OTHERS = """
import numpy as np
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras_seq

mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with mirrored.scope():
    model = keras_seq.LanguageModel(9, 4, 8, hidden_dropout=0.5, recurrent_dropout=0.2)
    model.compile("adam")
    captions = keras_seq.Seq2Seq(tf.keras.layers.Dense(4), keras_seq.Decoder(9, 4, 4))
    captions.compile("adam")
    dropout = keras_seq.layers.LockedDropout(0.5, seed=1)
    dropout.build((None, None, 50))
captions.fit(tf.ones((4, 3, 2)), tf.constant([[4, 5, 3]] * 4), verbose=0)  # builds the model after the scope
assert np.isfinite(model.fit([[4, 5, 6]] * 4, batch_size=4, verbose=0).history["loss"]).all()
with pytest.raises(ValueError, match="multiple of 2, the number of replicas.*Received: 3"):
    model.fit([[4, 5, 6]] * 4, batch_size=3)
draw = tf.function(lambda: mirrored.run(lambda: dropout(tf.ones((1, 2, 50)), training=True)), autograph=False)
first, second = mirrored.experimental_local_results(draw())
assert np.any(first != second)  # replicas draw masks of their own
"""


@pytest.mark.slow
def test_several_replicas_train_any_encoder_and_draw_their_own_masks():
    subprocess.run([sys.executable, "-c", OTHERS], check=True)

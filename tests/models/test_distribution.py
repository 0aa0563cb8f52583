# SPDX-License-Identifier: Apache-2.0
"""Two replicas report the same loss as one, the mean over tokens (in a process with two CPU devices)."""

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
        # Each replica takes the mean over its own tokens, so only evaluation gives the same with two.
        model.compile(keras.optimizers.SGD(0.0), metrics=[keras_seq.training.Perplexity()])
    data = tf.data.Dataset.from_tensor_slices((SOURCES, TARGETS)).batch(4)
    history = model.fit(data, validation_data=data, verbose=0).history
    history = {name: value[0] for name, value in history.items()}
    arrays = model.evaluate(SOURCES, TARGETS, batch_size=2, verbose=0)
    return [history[name] for name in ("loss", "perplexity", "val_loss", "val_perplexity")] + arrays


mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])  # the only one: TensorFlow's do not share a process
two = train_and_evaluate(mirrored)
one = train_and_evaluate(tf.distribute.get_strategy())
np.testing.assert_allclose(two, one, rtol=1e-5)
np.testing.assert_allclose(np.exp(one[::2]), one[1::2], rtol=1e-5)


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
"""


@pytest.mark.slow
def test_two_replicas_report_the_same_loss_as_one_and_train_the_same():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


STREAMS = """
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras_seq

with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras_seq.LanguageModel(9, 4, 8)
    model.compile("adam")
    captions = keras_seq.Seq2Seq(tf.keras.layers.Dense(4), keras_seq.Decoder(9, 4, 4))
    captions.compile("adam")
captions.fit(tf.ones((4, 3, 2)), tf.constant([[4, 5, 3]] * 4), verbose=0)  # builds the model after the scope
for call in (model.fit, model.evaluate):
    try:
        call([[4, 5, 3], [5, 3]])
    except ValueError as error:
        assert "on one device" in str(error) and "2 replicas" in str(error), error
    else:
        raise AssertionError(call)
"""


@pytest.mark.slow
def test_several_replicas_train_any_encoder_and_refuse_streams():
    subprocess.run([sys.executable, "-c", STREAMS], check=True)

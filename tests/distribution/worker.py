# SPDX-License-Identifier: Apache-2.0
"""A worker of `test_workers`: python worker.py losses|backup FOLDER. With TF_CONFIG it is one of several.

It writes what it has seen of the trainings to a file, which is that of one process if there is no TF_CONFIG.
"""

import contextlib
import json
import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_seq
from keras_seq.training import BackupAndRestore, DecodingReport, Perplexity, TokenAccuracy, data_parallel

# TensorFlow wants the strategy before it runs anything else.
STRATEGY = tf.distribute.MultiWorkerMirroredStrategy() if "TF_CONFIG" in os.environ else None
TASK = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {"index": 0})["index"]

WORDS = ["ab", "hedge", "", "cab", "face", "a", "bad", "cabbage", "dada", "egg"]
BACKWARDS = [word[::-1] for word in WORDS]
VOCABULARY = keras_seq.data.text_vectorizer(["abcdefgh"])
RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.random(10) ** 3


def make_seq2seq(optimizer, **options):
    encoder = keras_seq.Encoder(VOCABULARY.vocabulary_size(), 4, 4)
    decoder = keras_seq.Decoder(VOCABULARY.vocabulary_size(), 4, 4, **options)
    model = keras_seq.Seq2Seq(encoder, decoder, VOCABULARY, VOCABULARY)
    model.compile(optimizer, metrics=[TokenAccuracy(), Perplexity()])
    return model


def numbers(history):
    return {name: np.array(values, float).tolist() for name, values in history.history.items()}


def clipped():
    """The fused loss, clipped gradients, validation and a report."""
    model = make_seq2seq(keras.optimizers.SGD(5.0, global_clipnorm=0.1))
    report = DecodingReport(WORDS[3:], BACKWARDS[3:], separator="")
    options = {"validation_data": (WORDS, BACKWARDS, WEIGHTS), "callbacks": [report], "seed": 1, "verbose": 0}
    return numbers(model.fit(WORDS, BACKWARDS, 4, epochs=3, **options))


def unseeded():
    """A model that does not change. Its loss is that of all pairs if no worker reads what another one has read."""
    return numbers(make_seq2seq(keras.optimizers.SGD(0.0)).fit(WORDS, BACKWARDS, 4, verbose=0))


def weighted():
    """A loss that reads logits, with sample weights, and batches of which the last has one pair: a replica has none."""
    model = make_seq2seq(keras.optimizers.SGD(1.0), copy=True)
    pairs = WORDS[:9], BACKWARDS[:9]
    history = model.fit(*pairs, 4, epochs=2, sample_weight=WEIGHTS[:9], seed=1, verbose=0)
    return {**numbers(history), "evaluate": model.evaluate(*pairs, 4, sample_weight=WEIGHTS[:9], verbose=0)}


def shards():
    """Each worker has a part of every batch in its own width, and the second one has no more in the last step."""
    model = make_seq2seq(keras.optimizers.SGD(1.0))
    short, long = ([word for word in WORDS if (len(word) > 3) == is_long] for is_long in (False, True))

    def dataset(words, batch_size):
        return tf.data.Dataset.from_tensor_slices((words, words)).batch(batch_size).map(model.prepare)

    def of_worker(context):
        batches = dataset(short if context.input_pipeline_id == 0 else long[:3], 3)
        return batches.filter(lambda *_: True)  # Keras must not know how many there are

    if not tf.distribute.has_strategy():
        return numbers(model.fit(dataset(short[:3] + long[:3] + short[3:], 6), epochs=2, verbose=0))
    batches = tf.distribute.get_strategy().distribute_datasets_from_function(of_worker)
    return numbers(model.fit(batches, epochs=2, verbose=0))


def language_model():
    """Streams carry their state; the documents are fewer than replicas in validation."""
    model = keras_seq.LanguageModel(VOCABULARY.vocabulary_size(), 4, 4, vectorizer=VOCABULARY)
    model.compile(keras.optimizers.SGD(1.0))
    documents = [word * (i % 4 + 1) for i, word in enumerate(WORDS)]
    options = {"validation_data": documents[1:2], "seed": 2, "verbose": 0}
    return numbers(model.fit(documents, batch_size=4, window=3, epochs=3, **options))


def forecaster():
    """Missing values and weights, so the loss of each replica is a mean over another number of values."""
    model = keras_seq.Forecaster(3, 4)
    model.compile(keras.optimizers.SGD(0.01), metrics=["mae"])
    past, targets = RANDOM.normal(size=(9, 6, 2)), RANDOM.normal(size=(9, 3, 2))
    observed = RANDOM.random((9, 3, 2)) < 0.5
    inputs = {"past": past, "target_mask": observed}
    history = model.fit(
        inputs, targets, 4, epochs=2, seed=1, sample_weight=WEIGHTS[:9], validation_data=(inputs, targets), verbose=0
    )
    return numbers(history)


def plain():
    """A Keras model with layers of keras_seq, whose variables are not there before `fit`."""
    model = keras.Sequential([keras_seq.layers.LSTM(4), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    x, y = RANDOM.normal(size=(8, 5, 3)), RANDOM.integers(0, 2, 8)
    with data_parallel(model):
        return numbers(model.fit(x, y, 4, epochs=2, shuffle=False, validation_data=(x, y), verbose=0))


class Moments(keras.callbacks.Callback):
    """Prints a line at each moment at which the test may kill a worker."""

    def on_train_batch_end(self, batch, logs=None):
        print("batch", flush=True)


def backup(folder):
    """A training with dropout and backups, which restores what it finds. Returns the final weights."""
    model = make_seq2seq(keras_seq.training.Adam(0.01, global_clipnorm=1.0), dropout=0.2)
    callbacks = [BackupAndRestore(folder), keras.callbacks.EarlyStopping("loss"), Moments()]
    batches = keras_seq.data.bucket_by_length(WORDS, BACKWARDS, 4)
    history = model.fit(batches, epochs=8, callbacks=callbacks, verbose=0)
    return {**numbers(history), "weights": [weight.tolist() for weight in model.get_weights()]}


def run(training, *args):
    keras.utils.set_random_seed(3 if TASK == 0 else 77)  # the chief decides about weights and orders
    return training(*args)


def main(kind, folder):
    trainings = [clipped, unseeded, weighted, shards, language_model, forecaster, plain] if kind == "losses" else []
    with STRATEGY.scope() if STRATEGY else contextlib.nullcontext():
        results = {training.__name__: run(training) for training in trainings}
        if STRATEGY:
            results["backup"] = run(backup, pathlib.Path(folder, "backup"))
    pathlib.Path(folder, f"{TASK if STRATEGY else 'alone'}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])

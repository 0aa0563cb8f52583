# SPDX-License-Identifier: Apache-2.0
"""A training that `test_killed_training` kills: python interrupted_training.py seq2seq|language_model FOLDER.

It prints a line when it reaches a moment at which it may be killed, and saves its final weights and history.
"""

import json
import pathlib
import signal
import sys

import keras
import numpy as np

import keras_seq
from keras_seq.training import (
    BackupAndRestore,
    CheckpointAveraging,
    DecodingReport,
    InverseSigmoidGrowth,
    ScheduledSampling,
)

WORDS = ["".join("abcdef"[(i * k) % 6] for k in range(1, i % 5 + 2)) for i in range(40)]


class Moments(keras.callbacks.Callback):
    """Prints the moments. Its state is large, so that a backup takes time to write."""

    def on_train_batch_end(self, batch, logs=None):
        print("batch", flush=True)

    def on_test_batch_end(self, batch, logs=None):
        print("validation", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        print("backup", flush=True)

    def get_training_state(self):
        return np.zeros(10_000_000, "uint8")

    def set_training_state(self, state):
        assert len(state) == 10_000_000


def train_seq2seq(backup):
    vectorizer = keras_seq.data.text_vectorizer(WORDS)
    size = vectorizer.vocabulary_size()
    options = {"embedding_dim": 4, "units": 8, "dropout": 0.2}
    encoder = keras_seq.Encoder(size, cell=keras_seq.layers.LSTMCell(8, zoneout=0.1), **options)
    model = keras_seq.Seq2Seq(
        encoder,
        keras_seq.Decoder(size, attention="monotonic", recurrent_dropout=0.2, **options),
        vectorizer,
        vectorizer,
    )
    model.compile(
        keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.8),
        scheduled_sampling=ScheduledSampling(InverseSigmoidGrowth(4), mode="sequential"),
        sampler=keras_seq.decoding.TopKSampler(3),
    )
    batches = keras_seq.data.bucket_by_length(WORDS[:32], WORDS[:32], 8)
    validation = keras_seq.data.bucket_by_length(WORDS[32:], WORDS[32:], 4)
    callbacks = [
        backup,
        keras.callbacks.EarlyStopping("val_token_error_rate", mode="min", patience=3, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, min_delta=0.1),
        DecodingReport(WORDS[32:], WORDS[32:], samples=0, separator=""),
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        Moments(),
    ]
    history = model.fit(batches, epochs=8, validation_data=validation, callbacks=callbacks, verbose=0)
    return model, history


def train_language_model(backup):
    dropouts = {"hidden_dropout": 0.2, "output_dropout": 0.2, "recurrent_dropout": 0.2, "zoneout": 0.1}
    vectorizer = keras_seq.data.text_vectorizer(WORDS)
    model = keras_seq.LanguageModel(vectorizer.vocabulary_size(), 8, 8, num_layers=2, vectorizer=vectorizer, **dropouts)
    model.compile("adam")
    callbacks = [CheckpointAveraging(3), Moments(), backup]
    history = model.fit(
        WORDS, batch_size=3, window=5, epochs=8, validation_data=WORDS[:4], callbacks=callbacks, verbose=0
    )
    return model, history


def main(kind, folder):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore Ctrl-C
    keras.utils.set_random_seed(3)
    folder = pathlib.Path(folder)
    model, history = globals()[f"train_{kind}"](BackupAndRestore(folder / "backup", double_checkpoint=True))
    np.savez(folder / "weights.npz", *model.get_weights())
    (folder / "history.json").write_text(json.dumps([history.epoch, history.history]))


if __name__ == "__main__":
    main(*sys.argv[1:])

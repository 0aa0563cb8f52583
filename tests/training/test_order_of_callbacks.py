# SPDX-License-Identifier: Apache-2.0
"""Callbacks of `fit` work together in any order of their list."""

import itertools

import keras
import numpy as np
import pytest

import keras_seq
from keras_seq.training import BackupAndRestore, DecodingReport, error_rates, order_callbacks

WORDS = ["abc", "cab", "bad", "dab", "cad", "ace"]
MONITOR = {"monitor": "val_sequence_error_rate", "mode": "min"}


def make_model(**options):
    keras.utils.set_random_seed(1)
    vectorizer = keras_seq.data.text_vectorizer(WORDS)
    size = vectorizer.vocabulary_size()
    parts = keras_seq.Encoder(size, 8, 16, cell="gru"), keras_seq.Decoder(size, 8, 16, cell="gru")
    model = keras_seq.Seq2Seq(*parts, vectorizer, vectorizer)
    model.compile(keras.optimizers.Adam(0.03, **options))
    return model


def fit(model, callbacks, **options):
    options = {"batch_size": 3, "seed": 0, "verbose": 0, **options}
    return model.fit(WORDS, WORDS, callbacks=callbacks, **options)


def make_report():
    return DecodingReport(WORDS, WORDS, samples=0, separator="")


def test_reports_come_before_what_monitors_them_and_backups_last(tmp_path):
    swap, stopping = keras.callbacks.SwapEMAWeights(), keras.callbacks.EarlyStopping(**MONITOR)
    report, backup, plateau = make_report(), BackupAndRestore(tmp_path), keras.callbacks.ReduceLROnPlateau(**MONITOR)
    for callbacks in itertools.permutations([swap, stopping, report, backup, plateau]):
        first, second, *others, history, last = order_callbacks(list(callbacks))
        assert (first, second, last) == (swap, report, backup)
        assert others == [callback for callback in callbacks if callback in (stopping, plateau)]
        assert isinstance(history, keras.callbacks.History)


@pytest.mark.slow
@pytest.mark.parametrize("is_first", [True, False])
def test_training_is_controlled_by_generated_error_rates(is_first, tmp_path):
    """A callback that does not find its value in the logs warns, and warnings are errors."""
    stopping = keras.callbacks.EarlyStopping(**MONITOR, patience=12, restore_best_weights=True)
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True, **MONITOR)
    plateau = keras.callbacks.ReduceLROnPlateau(**MONITOR, patience=0, factor=0.99)
    callbacks = [stopping, checkpoint, plateau]
    callbacks.insert(0 if is_first else 3, make_report())
    model = make_model()
    rates = fit(model, callbacks, epochs=90).history["val_sequence_error_rate"]
    best = int(np.argmin(rates))
    assert len(rates) == best + 13 < 90
    assert stopping.best == checkpoint.best == plateau.best == rates[best] < 100
    worse = sum(rate >= min([np.inf, *rates[:i]]) for i, rate in enumerate(rates))
    np.testing.assert_allclose(model.optimizer.learning_rate, 0.03 * 0.99**worse, rtol=1e-5)
    for restored in (model, keras.saving.load_model(tmp_path / "best.keras")):
        assert error_rates(restored.generate(WORDS), WORDS, "").sequence == rates[best]


class MovingAverage(keras.callbacks.Callback):
    """Computes the moving average of the weights, and keeps the weights that others see at the end of an epoch."""

    def __init__(self, momentum):
        super().__init__()
        self.momentum = momentum
        self.average = None
        self.averages, self.seen = [], []

    def on_train_batch_end(self, batch, logs=None):
        weights = self.model.get_weights()
        last = weights if self.average is None else self.average
        self.average = [self.momentum * a + (1 - self.momentum) * w for a, w in zip(last, weights, strict=True)]

    def on_epoch_end(self, epoch, logs=None):
        self.averages.append(self.average)
        self.seen.append(self.model.get_weights())


def assert_close(weights, expected):
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_reports_and_checkpoints_see_the_averaged_weights(tmp_path):
    average = MovingAverage(0.9)
    files = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    model = make_model(use_ema=True, ema_momentum=0.9)
    history = fit(model, [make_report(), files, average, swap], epochs=12, validation_data=(WORDS, WORDS)).history
    for seen, expected in zip(average.seen, average.averages, strict=True):
        assert_close(seen, expected)
    assert_close(model.get_weights(), average.average)
    for epoch in (6, 12):
        saved = keras.saving.load_model(tmp_path / f"{epoch}.keras")
        assert_close(saved.get_weights(), average.averages[epoch - 1])
        rates = error_rates(saved.generate(WORDS), WORDS, "")
        assert rates.token == history["val_token_error_rate"][epoch - 1]
        np.testing.assert_allclose(
            saved.evaluate(WORDS, WORDS, verbose=0)[0], history["val_loss"][epoch - 1], rtol=1e-4
        )

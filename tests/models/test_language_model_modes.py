# SPDX-License-Identifier: Apache-2.0
"""The language model saved, exported, compiled by XLA and in half precision."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq
from keras_seq.decoding import RandomSampler

pytestmark = pytest.mark.slow

TEXTS = ["the cat sat on the mat", "a mat", "that cat ate", "e"]
ARGUMENTS = {"embedding_dim": 8, "units": 16, "num_layers": 2, "zoneout": 0.1, "output_dropout": 0.1, "seed": 1}

LOAD_KERAS = """
import sys, keras, keras_seq, numpy as np
model, texts = keras.saving.load_model(sys.argv[1]), sys.argv[3:]
results = {"scores": model.score(texts), "text": model.generate(texts, sampler="random", seed=5, max_length=30)}
keras.utils.set_random_seed(0)  # the order of the documents depends on it, too
model.fit(texts, batch_size=2, window=8, verbose=0)
np.savez(sys.argv[2], **results, scores_after_training=model.score(texts))
"""
LOAD_SAVED_MODEL = """
import sys, tensorflow as tf, numpy as np
signatures = tf.saved_model.load(sys.argv[1]).signatures
assert "keras_seq" not in sys.modules
inputs = tf.constant(sys.argv[3:])
options = {"seed": tf.constant([5, 0]), "temperature": tf.constant(0.7), "max_length": tf.constant(30)}
results = {
    "greedy": signatures["serving_default"](inputs=inputs)["text"],
    "random": signatures["generate_random"](inputs=inputs, **options)["text"],
}
results = {name: value.numpy().astype("S") for name, value in results.items()}
scores = signatures["score"](inputs=tf.constant([*sys.argv[3:], ""]))["log_probabilities"]
np.savez(sys.argv[2], **results, scores=scores.numpy())
"""


def make_model(**arguments):
    keras.utils.set_random_seed(0)
    return keras_seq.LanguageModel(vectorizer=keras_seq.data.text_vectorizer(TEXTS), **(ARGUMENTS | arguments))


def fit(model, epochs=2, **options):
    return model.fit(TEXTS, batch_size=2, window=8, epochs=epochs, verbose=0, **options).history


def run_in_new_process(script, path, tmp_path):
    results = tmp_path / "results.npz"
    command = [sys.executable, "-c", script, path, results, *TEXTS]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    return dict(np.load(results))


def test_a_saved_model_predicts_and_trains_on_in_a_new_process_bit_for_bit(tmp_path):
    model = make_model(zoneout=0.0, output_dropout=0.0)  # Keras does not save the state of random numbers
    model.compile(keras.optimizers.Adam(1e-2))
    fit(model)
    model.save(tmp_path / "model.keras")
    results = run_in_new_process(LOAD_KERAS, tmp_path / "model.keras", tmp_path)
    np.testing.assert_array_equal(results["scores"], model.score(TEXTS))
    assert results["text"].tolist() == model.generate(TEXTS, sampler="random", seed=5, max_length=30)
    fit(model, epochs=1)
    np.testing.assert_array_equal(results["scores_after_training"], model.score(TEXTS))


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_an_exported_model_runs_with_tensorflow_alone(tie_embeddings, tmp_path):
    model = make_model(tie_embeddings=tie_embeddings)
    model.export(tmp_path / "exported")
    results = run_in_new_process(LOAD_SAVED_MODEL, tmp_path / "exported", tmp_path)
    assert np.char.decode(results["greedy"]).tolist() == model.generate(TEXTS)
    drawn = model.generate(TEXTS, sampler=RandomSampler(0.7), seed=5, max_length=30)
    assert np.char.decode(results["random"]).tolist() == drawn
    np.testing.assert_allclose(results["scores"], model.score([*TEXTS, ""]), rtol=1e-5)


def test_an_exported_model_of_token_ids_takes_documents_with_and_without_end(tmp_path):
    model = keras_seq.LanguageModel(9, 4, 5)
    model.export(tmp_path)
    exported = tf.saved_model.load(tmp_path).signatures
    expected = model.score([[4, 5, 6], [7]])
    for ids in ([[4, 5, 6], [7, 0, 0]], [[4, 5, 6, 3], [7, 3, 0, 0]]):
        np.testing.assert_allclose(exported["score"](tf.constant(ids))["log_probabilities"], expected, rtol=1e-5)
    outputs = exported["serving_default"](tf.constant([[4, 5, 6], [0, 0, 0]]))["token_ids"]
    np.testing.assert_array_equal(outputs, model.generate([[4, 5, 6], None]))


def test_xla_and_the_graph_train_and_evaluate_alike():
    losses = []
    for jit_compile in (False, True):
        model = make_model(ar=1.0, tar=1.0, recurrent_weight_dropout=0.2, embedding_dropout=0.1)
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=jit_compile)
        history = fit(model, epochs=3, validation_data=TEXTS)
        losses.append([history["loss"], history["val_loss"]])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_half_precision_trains_and_generates(jit_compile):
    model = make_model(units=32, num_layers=1, dtype="mixed_bfloat16", tie_embeddings=True)
    model.compile(keras.optimizers.Adam(3e-2), jit_compile=jit_compile)
    losses = fit(model, epochs=30, validation_data=TEXTS)["val_loss"]
    assert losses[-1] < 0.7 * losses[0]
    assert model.evaluate(TEXTS, verbose=0)[0] == pytest.approx(losses[-1], rel=1e-3)
    assert len(model.generate(TEXTS, max_length=5)) == 4
    assert np.all(np.isfinite(model.score(TEXTS)))


def test_early_stopping_restores_the_best_weights():
    model = make_model()
    model.compile(keras.optimizers.SGD(10.0))
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True, start_from_epoch=0)
    losses = fit(model, epochs=30, validation_data=TEXTS, callbacks=[stop])["val_loss"]
    assert len(losses) < 30
    assert model.evaluate(TEXTS, verbose=0)[0] == pytest.approx(min(losses), rel=1e-5)


def test_an_interrupted_training_goes_on_from_its_backup(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def train(*callbacks):
        model = make_model(zoneout=0.0, output_dropout=0.0)
        model.compile(keras.optimizers.Adam(1e-2))
        model.fit(TEXTS, batch_size=2, window=8, epochs=4, shuffle=False, verbose=0, callbacks=list(callbacks))
        return model

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        train(backup, Interrupt())
    resumed = train(keras.callbacks.BackupAndRestore(tmp_path / "backup"))
    np.testing.assert_allclose(resumed.score(TEXTS), train().score(TEXTS), rtol=1e-5)


@pytest.mark.parametrize("cell", ["simple_rnn", "gru", "mgu"])
@pytest.mark.parametrize("dropout_mode", ["variational", "naive"])
def test_every_cell_learns_under_every_dropout(cell, dropout_mode):
    rates = {"input_dropout": 0.1, "hidden_dropout": 0.1, "recurrent_dropout": 0.1, "embedding_dropout": 0.1}
    model = make_model(cell=cell, dropout_mode=dropout_mode, recurrent_weight_dropout=0.1, **rates)
    model.compile(keras.optimizers.Adam(2e-2))
    losses = fit(model, epochs=30, validation_data=TEXTS)["val_loss"]
    assert losses[-1] < 0.8 * losses[0]

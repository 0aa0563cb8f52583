# SPDX-License-Identifier: Apache-2.0
"""A training that is interrupted and restored ends as one that is not. Killed processes are in test_killed_training."""

import contextlib
import json
import pathlib

import keras
import numpy as np
import pytest

import keras_seq
from keras_seq.training import (
    BackupAndRestore,
    CheckpointAveraging,
    DecodingReport,
    InverseSigmoidGrowth,
    ScheduledSampling,
    order_callbacks,
)
from keras_seq.training.backup_file import BrokenFileError, previous_path, read_state, write_state

WORDS = ["abc", "cab", "bad", "dab", "cad", "ace"]
TARGETS = [word[::-1] for word in WORDS]


class InterruptionError(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    """Ends a training as an exception does, in a batch of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch
        self.seen = -1

    def on_epoch_begin(self, epoch, logs=None):
        self.seen = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.seen == self.epoch:
            raise InterruptionError


def make_seq2seq(words=WORDS, units=3):
    vectorizer = keras_seq.data.text_vectorizer(words)
    size = vectorizer.vocabulary_size()
    options = {"units": units, "embedding_dim": 2, "cell": "rnn", "dropout": 0.3, "recurrent_dropout": 0.3}
    encoder = keras_seq.Encoder(size, bidirectional=False, **options)
    decoder = keras_seq.Decoder(size, attention="monotonic", **options)
    model = keras_seq.Seq2Seq(encoder, decoder, vectorizer, vectorizer)
    model.compile(
        keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
        scheduled_sampling=ScheduledSampling(InverseSigmoidGrowth(1)),
    )
    return model


def make_dense():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    return model


X = np.random.default_rng(0).random((6, 2)).astype("float32")


def fit_dense(model, *callbacks, epochs=4, y=X[:, :1], **options):
    batches = keras_seq.data.shuffled_batches((X, y), 2)
    options = {"epochs": epochs, "shuffle": False, "verbose": 0, **options}
    return model.fit(batches, callbacks=order_callbacks(list(callbacks)), **options)


def assert_equal_weights(model, other):
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_two_epochs_and_a_restored_training_equal_four_epochs(tmp_path):
    results = []
    for interruptions in ([], [2]):
        histories = []
        for interruption in [*interruptions, None]:
            keras.utils.set_random_seed(1)
            model = make_seq2seq()
            report = DecodingReport(WORDS[:2], TARGETS[:2], samples=0, separator="")
            callbacks = [BackupAndRestore(tmp_path / "backup"), report, Interrupt(interruption)]
            try:
                history = model.fit(WORDS, TARGETS, batch_size=4, epochs=4, callbacks=callbacks, verbose=0)
            except InterruptionError:
                assert (tmp_path / "backup").exists()
            else:
                histories.append((history.epoch, history.history))
        results.append((model, histories[-1]))
    (undisturbed, expected), (restored, history) = results
    assert_equal_weights(undisturbed, restored)
    assert history == expected
    assert history[0] == [0, 1, 2, 3]
    assert not (tmp_path / "backup").exists()


def test_any_model_and_its_callbacks_are_restored(tmp_path):
    models, learning_rates = [], []
    for interruptions in ([], [2]):
        for interruption in [*interruptions, None]:
            keras.utils.set_random_seed(2)
            model = make_dense()
            stopping = keras.callbacks.EarlyStopping("loss", patience=3, restore_best_weights=True)
            plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=0.5)
            backup = BackupAndRestore(tmp_path / "backup", double_checkpoint=True)
            try:
                history = fit_dense(model, backup, stopping, plateau, Interrupt(interruption), epochs=8)
            except InterruptionError:
                assert previous_path(backup.path).exists()
        models.append(model)
        learning_rates.append(float(model.optimizer.learning_rate))
    assert_equal_weights(*models)
    assert learning_rates[0] == learning_rates[1] < 0.01
    assert len(history.epoch) == len(history.history["loss"]) > 3
    assert not (tmp_path / "backup").exists()


@pytest.mark.slow
def test_the_order_of_unseeded_data_is_restored(tmp_path):
    """In a notebook a cell is run again, without setting seeds."""
    orders = []

    class Order(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            orders.append(backup._order_seed)

    backup = BackupAndRestore(tmp_path)
    with pytest.raises(InterruptionError):
        fit_dense(make_dense(), backup, Order(), Interrupt(2))
    fit_dense(make_dense(), backup, Order())
    assert len(orders) == 5
    assert len(set(orders[1:])) == 1


def test_a_training_that_stopped_early_does_not_go_on(tmp_path):
    class Kill(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            raise InterruptionError

    weights = []
    for last in (Kill(), keras.callbacks.Callback()):
        model = make_dense()
        stopping = keras.callbacks.EarlyStopping("loss", mode="max", patience=1, restore_best_weights=True)
        try:
            history = fit_dense(model, last, BackupAndRestore(tmp_path), stopping, epochs=9)
        except InterruptionError:
            stopped = stopping.stopped_epoch
        weights.append(stopping.best_weights)
    assert history.epoch == list(range(stopped + 1))
    for a, b, c in zip(*weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


@pytest.mark.slow
def test_a_finished_training_with_a_kept_backup_is_not_run_again(tmp_path):
    first = make_dense()
    fit_dense(first, BackupAndRestore(tmp_path, delete_checkpoint=False))
    second = make_dense()
    second.set_weights([weight + 1 for weight in second.get_weights()])
    assert len(fit_dense(second, BackupAndRestore(tmp_path)).epoch) == 4
    assert_equal_weights(first, second)
    assert not tmp_path.exists()
    assert fit_dense(second, epochs=2).epoch == [0, 1]  # the next training begins with its first epoch


@pytest.mark.slow
def test_averages_of_checkpoints_are_restored(tmp_path):
    models = []
    for interruptions in ([], [3]):
        for interruption in [*interruptions, None]:
            model = make_dense()
            with contextlib.suppress(InterruptionError):
                fit_dense(model, CheckpointAveraging(3), Interrupt(interruption), BackupAndRestore(tmp_path / "b"))
        models.append(model)
    assert_equal_weights(*models)


def test_the_folder_keeps_files_of_others(tmp_path):
    (tmp_path / "note").write_text("mine")
    fit_dense(make_dense(), BackupAndRestore(tmp_path), epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def write_backup(model, folder):
    """Writes a backup as `fit` does, and returns the callback."""
    [_, callback] = order_callbacks([BackupAndRestore(folder)])
    callback.set_model(model)
    callback.set_params({"epochs": 2})
    callback.on_train_begin()
    model.stop_training = False
    callback.on_epoch_end(0)
    return callback


@pytest.fixture
def backup(tmp_path):
    model = make_dense()
    model.optimizer.build(model.trainable_variables)
    return write_backup(model, tmp_path)


def assert_refused(model, backup, message, *callbacks):
    content = backup.path.read_bytes()
    weights = model.get_weights()
    callback = order_callbacks([*callbacks, BackupAndRestore(backup.backup_dir)])[-1]
    callback.set_model(model)
    callback.set_params({"epochs": 2})
    with pytest.raises(ValueError, match=f"`backup_dir` must contain a whole backup of this training.*{message}"):
        callback.on_train_begin()
    assert backup.path.read_bytes() == content
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("place", [0, 10, 30, 60, 300, -1])
def test_a_damaged_backup_is_an_error_and_remains(backup, place):
    content = bytearray(backup.path.read_bytes())
    content[place] ^= 1
    backup.path.write_bytes(content)
    assert_refused(make_dense(), backup, "training.backup, which cannot be read")


@pytest.mark.parametrize("size", [0, 1, 40, 100, -1])
def test_a_backup_that_is_cut_off_is_an_error_and_remains(backup, size):
    backup.path.write_bytes(backup.path.read_bytes()[:size])
    assert_refused(make_dense(), backup, "which cannot be read")


@pytest.mark.slow
def test_the_backup_before_a_damaged_one_is_restored_if_there_is_one(tmp_path):
    backup = BackupAndRestore(tmp_path, double_checkpoint=True)
    with pytest.raises(InterruptionError):
        fit_dense(make_dense(), backup, Interrupt(3))
    backup.path.write_bytes(b"damaged")
    model, undisturbed = make_dense(), make_dense()
    with pytest.warns(UserWarning, match="cannot be read: .* The backup before it is restored"):
        fit_dense(model, BackupAndRestore(tmp_path, double_checkpoint=True))
    keras.utils.set_random_seed(0)
    undisturbed = make_dense()
    fit_dense(undisturbed, BackupAndRestore(tmp_path / "other"))
    assert_equal_weights(model, undisturbed)


def test_two_damaged_backups_are_an_error_and_remain(tmp_path):
    backup = BackupAndRestore(tmp_path, double_checkpoint=True)
    for path in (backup.path, previous_path(backup.path)):
        path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"Delete it to train from the start. .*previous, which cannot be read either"):
        fit_dense(make_dense(), backup)
    assert previous_path(backup.path).exists()


def test_a_backup_of_another_model_is_an_error(backup):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.4), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    assert_refused(model, backup, "layers/1/config/rate: 0.5 in the backup, 0.4 in the model")


def test_a_backup_with_another_optimizer_is_an_error(backup):
    model = make_dense()
    model.compile("sgd", "mse")
    assert_refused(model, backup, "of another optimizer in .*training.backup: 6 variables, needed are 2")


def test_a_backup_with_other_callbacks_is_an_error(backup):
    stopping = keras.callbacks.EarlyStopping("loss")
    assert_refused(make_dense(), backup, r"the callbacks \['History'\] .*needed are \['EarlyStopping'", stopping)


def test_a_backup_of_another_vocabulary_is_an_error(tmp_path):
    backup = write_backup(make_seq2seq(), tmp_path)
    words = [word.replace("e", "f") for word in WORDS]
    assert_refused(
        make_seq2seq(words), backup, "source_vectorizer/config/vocabulary/.*: 'e' in the backup, 'f' in the model"
    )


def test_a_backup_of_keras_is_an_error(tmp_path):
    (tmp_path / "latest.weights.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a backup of `keras.callbacks.BackupAndRestore`, which lacks random states"):
        fit_dense(make_dense(), BackupAndRestore(tmp_path))


def test_invalid_arguments(tmp_path):
    with pytest.raises(ValueError, match=r'`save_freq` must be "epoch".* Received: 10'):
        BackupAndRestore(tmp_path, save_freq=10)
    with pytest.raises(ValueError, match=r"`steps_per_epoch` must be None with a `BackupAndRestore`.* Received: 3"):
        make_seq2seq().fit(WORDS, TARGETS, steps_per_epoch=3, callbacks=[BackupAndRestore(tmp_path)])
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="needs a model that is built before `fit`"):
        fit_dense(model, BackupAndRestore(tmp_path))


@pytest.mark.parametrize(
    ("state", "received"),
    [
        ({"seen": {3}}, r"\['seen'\] must be a dict, .* Received: \{3\}"),
        ([1, np.array(["a"])], r"\[1\] must be a dict, .* Received: array\(\['a'\]"),
        ({"best": {1: 2.0}}, r"\['best'\] must have strings .* as keys. Received: 1"),
        ({"__array__": 0}, "must have strings other than '__array__' as keys. Received: '__array__'"),
    ],
)
def test_a_state_that_could_not_be_read_again_is_an_error(state, received, tmp_path):
    class Counter(keras.callbacks.Callback):
        def get_training_state(self):
            return state

    backup = BackupAndRestore(tmp_path)
    with pytest.raises(ValueError, match=f"The training state of Counter.*{received}"):
        fit_dense(make_dense(), backup, Counter())
    assert not backup.path.exists()


def test_files_hold_every_kind_of_value(tmp_path):
    state = {
        "numbers": [1, 2**70, 0.1, float("inf"), True, None, "é", np.str_("s"), [], {}],
        "arrays": [np.array([1.5, -0.0], "float32"), np.zeros((0, 3), "int8"), np.array(True), np.uint32(7)],
        "bfloat16": keras.ops.convert_to_numpy(keras.ops.cast([1.5, 2], "bfloat16")),
    }
    path = pathlib.Path(tmp_path, "file")
    write_state(path, state)
    read = read_state(path)
    assert read["numbers"] == state["numbers"]
    for a, b in zip([*read["arrays"], read["bfloat16"]], [*state["arrays"], state["bfloat16"]], strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_write_that_is_interrupted_leaves_the_file_before(tmp_path):
    path = pathlib.Path(tmp_path, "file")
    write_state(path, {"epoch": 1})

    class Raises:
        def __array__(self, dtype=None, copy=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_state(path, {"value": Raises()})
    assert read_state(path) == {"epoch": 1}
    assert len(list(tmp_path.iterdir())) == 1
    path.write_text(json.dumps({"epoch": 1}))
    with pytest.raises(BrokenFileError, match="does not begin as a backup"):
        read_state(path)


def test_callbacks_are_ordered_in_lists_of_keras_too(tmp_path):
    backup, history = BackupAndRestore(tmp_path), keras.callbacks.History()
    callbacks = keras.callbacks.CallbackList([backup, history], model=make_dense())
    assert order_callbacks(callbacks) is callbacks
    assert callbacks.callbacks == [history, backup]
    assert order_callbacks(None) is None

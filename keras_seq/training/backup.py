# SPDX-License-Identifier: Apache-2.0
"""Backups from which a training goes on as if it had never been interrupted."""

import json
import os
import pathlib
import random
import warnings

import keras
import numpy as np

from keras_seq._private_api import default_seed_generator, set_initial_epoch, training_state_names, walk_layers
from keras_seq.data import epoch_order
from keras_seq.training.backup_file import (
    BrokenFileError,
    check_state,
    delete_state,
    previous_path,
    read_state,
    write_state,
)
from keras_seq.training.data_parallel import from_chief, is_chief

# Keys of configurations that may differ: random seeds, whose states are backed up, and the wiring of functional models,
# which is in terms of the names of layers.
_IGNORED = ("seed", "inbound_nodes", "input_layers", "output_layers")


class BackupAndRestore(keras.callbacks.BackupAndRestore):
    """Backs up a training after each epoch, and restores it when the same program runs again.

    The training then ends with the same weights, bit for bit, as if it had not been interrupted, wherever it was: in
    the middle of an epoch, in validation, or while a backup was written. An epoch that was not complete begins again.
    The callback restores

    - weights, the optimizer with its iterations, moments and moving averages, and so schedules that count iterations,
      such as those of `keras_seq.training.ScheduledSampling`;
    - all seed generators of the model, and the global random states of Keras, Python and NumPy. Keras's
      `BackupAndRestore` does not restore these, so dropout differs after it;
    - the order of the data in each epoch, of `keras_seq.data.bucket_by_length`, `bucketed_batches`, `stream_batches`
      and `shuffled_batches`, and of arrays and documents in the `fit` of keras_seq's models;
    - what other callbacks know: `EarlyStopping`, `ReduceLROnPlateau`, `ModelCheckpoint`, `SwapEMAWeights`, `History`,
      `CheckpointAveraging`, and every callback that has the methods `get_training_state()`, which returns nested dicts
      with strings as keys and lists of arrays, numbers, strings and None, and `set_training_state(state)`.

    Order of the data: a `tf.data.Dataset` of your own must give each epoch an order that does not depend on the epochs
    before it in the process, which `tf.data.Dataset.shuffle` does not. Use `shuffled_batches`, or shuffle not at all. A
    `keras.utils.PyDataset` with one worker may shuffle by the global generators of Python or NumPy. `steps_per_epoch`
    is not supported, because epochs then begin wherever the last one ended.

    Put the callback anywhere in the list of `callbacks` for the `fit` of a model of keras_seq. With another model pass
    the list through `keras_seq.training.order_callbacks`.

    On several workers (`tf.distribute.MultiWorkerMirroredStrategy`) the chief writes, and all read: `backup_dir` is a
    folder that they share. If one of them dies, start all of them again.

    A backup appears at once under its name, so there is always a whole one after the first epoch, also after Ctrl-C. A
    backup that is damaged, or that is of another model or vocabulary, raises an error and remains. When training ends
    the backup is deleted.

    Args:
        backup_dir: folder for the backup, on a local disk. Each training needs its own.
        save_freq: "epoch". Backups within an epoch are not supported.
        double_checkpoint: whether to keep the backup before the last as well, and to restore it if the last one is
            damaged.
        delete_checkpoint: whether to delete the backup when training ends.

    Raises:
        ValueError: if `save_freq` is not "epoch"; in `fit`, if the backup is damaged or of another training, if the
            model is not built, or if the state of a callback is something else.

    Example:
        >>> import tempfile
        >>> import keras_seq
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> batches = keras_seq.data.shuffled_batches((np.ones((4, 2)), np.ones((4, 1))), 2, seed=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     callbacks = keras_seq.training.order_callbacks([BackupAndRestore(folder)])
        ...     history = model.fit(batches, epochs=3, shuffle=False, callbacks=callbacks, verbose=0)
    """

    def __init__(self, backup_dir, save_freq="epoch", double_checkpoint=False, delete_checkpoint=True):
        if save_freq != "epoch":
            raise ValueError(
                f'`save_freq` must be "epoch": a restart within an epoch would not be exact. Received: {save_freq!r}'
            )
        backup_dir = os.fspath(backup_dir)
        super().__init__(backup_dir, save_freq, double_checkpoint, delete_checkpoint)
        self.path = pathlib.Path(backup_dir, "training.backup")
        self._others = []
        self._order_seed = None
        self._config = None

    def set_callbacks(self, callbacks):
        """Sets the other callbacks of the training, whose states are backed up. See `order_callbacks`."""
        self._others = list(callbacks)

    def on_train_begin(self, logs=None):
        if not self.model.built:
            raise ValueError(
                "`BackupAndRestore` needs a model that is built before `fit`. Call it on a batch, or call `build`. "
                f"Received: {self.model.name}, which is not built"
            )
        self._config = _comparable(self.model)
        self._order_seed = int(from_chief(epoch_order.draw_seed()))
        state = self._read()
        epoch = state["epoch"] if state else 0
        if epoch != from_chief(epoch):
            raise ValueError(
                "`backup_dir` must be a folder that all workers share, because the chief alone writes to it. Received: "
                f"{self.path.parent}, with {epoch} epochs here and {int(from_chief(epoch))} epochs at the chief"
            )
        if state is not None:
            self._restore(state)

    def on_epoch_begin(self, epoch, logs=None):
        set_initial_epoch(self.model, None)  # `fit` has read it, and the next one begins anew
        epoch_order.start_epoch(epoch, self._order_seed)

    def on_train_batch_end(self, batch, logs=None):
        pass  # Keras's callback may save here

    def on_epoch_end(self, epoch, logs=None):
        state = {  # on all workers, because to read a metric is to sum it over these
            "config": self._config,
            "epoch": epoch + 1,
            "stop_training": self.model.stop_training,
            "order_seed": self._order_seed,
            "variables": {name: [v.numpy() for v in group] for name, group in _variables(self.model).items()},
            "random": {"python": random.getstate(), "numpy": np.random.get_state()},
            "callbacks": [[type(other).__name__, _get_state(other)] for other in self._others if _has_state(other)],
        }
        if is_chief():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_state(self.path, state, keep_previous=self.double_checkpoint)

    def on_train_end(self, logs=None):
        set_initial_epoch(self.model, None)
        epoch_order.end_training()
        from_chief(0)  # waits until all workers are here
        if self.delete_checkpoint and is_chief():
            delete_state(self.path)
            folder = self.path.parent
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _read(self):
        """Returns the state in the backup, or None if there is none."""
        if not self.path.exists():
            foreign = self.path.with_name("latest.weights.h5")
            if foreign.exists():
                raise self._error(f"of `keras.callbacks.BackupAndRestore`, which lacks random states: {foreign}")
            return None
        try:
            return read_state(self.path)
        except BrokenFileError as error:
            previous = previous_path(self.path)
            if self.double_checkpoint and previous.exists():
                try:
                    state = read_state(previous)
                except BrokenFileError as another:
                    raise self._error(f"{previous}, which cannot be read either: {another}") from error
                warnings.warn(f"{self.path} cannot be read: {error}. The backup before it is restored.", stacklevel=2)
                return state
            raise self._error(f"{self.path}, which cannot be read: {error}") from error

    def _error(self, received):
        return ValueError(
            "`backup_dir` must contain a whole backup of this training, or none. Delete it to train from the start. "
            f"Received: a backup {received}"
        )

    def _restore(self, state):
        difference = _first_difference(state["config"], self._config)
        if difference:
            raise self._error(f"of another model in {self.path}. The first difference is {difference}")
        optimizer = self.model.optimizer
        if optimizer is not None and not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        others = [other for other in self._others if _has_state(other)]
        self._check_callbacks([name for name, _ in state["callbacks"]], [type(other).__name__ for other in others])
        groups = _variables(self.model)
        for name, variables in groups.items():
            self._check_variables(name, state["variables"][name], variables)
        for name, variables in groups.items():
            for variable, value in zip(variables, state["variables"][name], strict=True):
                variable.assign(value)
        for other, (_, other_state) in zip(others, state["callbacks"], strict=True):
            _set_state(other, other_state)
        self._order_seed = state["order_seed"]
        version, words, gauss = state["random"]["python"]
        random.setstate((version, tuple(words), gauss))
        np.random.set_state(tuple(state["random"]["numpy"]))
        # A training that had been stopped has no epochs left.
        set_initial_epoch(self.model, max(state["epoch"], self.params["epochs"] if state["stop_training"] else 0))

    def _check_variables(self, group, saved, variables):
        saved = [f"{value.shape} {value.dtype.name}" for value in map(np.asarray, saved)]
        needed = [f"{tuple(v.shape)} {keras.backend.standardize_dtype(v.dtype)}" for v in variables]
        if saved != needed:
            kind = {"model": "model", "optimizer": "optimizer"}.get(group, "set of random generators")
            pairs = [(i, a, b) for i, (a, b) in enumerate(zip(saved, needed, strict=False)) if a != b]
            detail = f"{len(saved)} variables, needed are {len(needed)}"
            if pairs:
                detail = "variable {} is {}, needed is {}".format(*pairs[0])
            raise self._error(f"of another {kind} in {self.path}: {detail}")

    def _check_callbacks(self, saved, needed):
        if saved != needed:
            raise self._error(f"of a training with the callbacks {saved} in {self.path}, needed are {needed}")


def _has_state(callback):
    return hasattr(callback, "get_training_state") or bool(training_state_names(callback))


def _get_state(callback):
    if hasattr(callback, "get_training_state"):
        state = callback.get_training_state()
    else:
        state = {name: getattr(callback, name, None) for name in training_state_names(callback)}
    check_state(state, f"The training state of {type(callback).__name__}")
    return state


def _set_state(callback, state):
    if hasattr(callback, "set_training_state"):
        callback.set_training_state(state)
    else:
        for name, value in state.items():
            setattr(callback, name, value)


def _variables(model):
    """Returns the variables that decide about a training, a dict of lists."""
    return {
        "model": model.variables,  # with the seed generators of layers
        "optimizer": [] if model.optimizer is None else model.optimizer.variables,
        "seeds": [generator.state for generator in [default_seed_generator(), *_seed_generators(model)]],
    }


def _seed_generators(model):
    """Returns the seed generators of objects that are no layers, such as `ScheduledSampling` and samplers."""
    objects = [value for _, layer in walk_layers(model) for value in vars(layer).values()]
    generators = [getattr(value, "seed_generator", None) for value in objects if not isinstance(value, keras.Layer)]
    unique = {id(generator): generator for generator in generators if isinstance(generator, keras.random.SeedGenerator)}
    return list(unique.values())


def _comparable(model):
    """Returns the configuration of a model without what may differ between two runs, or None if it has none."""
    try:
        config = keras.saving.serialize_keras_object(model)["config"]
        return _simplify(json.loads(json.dumps(config, default=str)))
    except (NotImplementedError, TypeError, ValueError):
        return None  # not serializable; the variables are compared


def _simplify(config):
    if isinstance(config, list):
        return [_simplify(item) for item in config]
    if not isinstance(config, dict):
        return config
    # Names of layers count up in a process. A dtype policy has nothing but its name.
    ignored = (*_IGNORED, "name") if len(config) > 1 else _IGNORED
    return {key: _simplify(value) for key, value in config.items() if key not in ignored}


def _first_difference(saved, needed, path=""):
    """Returns the first difference between two configurations in words, or None."""
    if saved == needed:
        return None
    if isinstance(saved, dict) and isinstance(needed, dict):
        keys = [
            key for key in [*needed, *saved] if saved.get(key) != needed.get(key) or (key in saved) != (key in needed)
        ]
        return _first_difference(saved.get(keys[0]), needed.get(keys[0]), f"{path}/{keys[0]}")
    if isinstance(saved, list) and isinstance(needed, list):
        for i, (a, b) in enumerate(zip(saved, needed, strict=False)):
            if a != b:
                return _first_difference(a, b, f"{path}/{i}")
        return f"{path.strip('/')}: {len(saved)} items in the backup, {len(needed)} in the model"
    return f"{path.strip('/')}: {_shorten(saved)} in the backup, {_shorten(needed)} in the model"


def _shorten(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."

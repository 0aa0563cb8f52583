# SPDX-License-Identifier: Apache-2.0
"""`ChoiceHyperModel`, the base class of the search spaces."""

import contextlib

import keras_tuner
import numpy as np
from keras_tuner.engine import hyperparameters

from keras_seq._private_api import forget_custom_gradients
from keras_seq.tuning.choices import check_values, choose
from keras_seq.tuning.learning_rate import LearningRateSchedule, check_optimizers, check_schedules, make_optimizer


class ChoiceHyperModel(keras_tuner.HyperModel):
    """Base class of search spaces, each hyperparameter of which is a list of values.

    A subclass hands its lists to this constructor and defines `make_model`. It gets optimizer, learning rate, schedule
    and size of the batches from here.

    A hyperparameter is given in one of three ways:

    - a list or tuple of values: numbers, strings, None, or objects such as cells. List a single value to fix it.
      keras-tuner knows None by the name "none", and an object by its class and its position in the list.
    - a range of integers, `range(64, 513, 64)`.
    - a function of a `keras_tuner.HyperParameters` that returns the value:
      `lambda hp: hp.Float("dropout", 0.0, 0.5, step=0.05)`.

    A trial that fails is shown by a line with the reason, and so is one whose loss is not a number.

    Args:
        choices: dict from the name of a hyperparameter to its values.
        learning_rate: the smallest and the largest learning rate, two positive numbers. It is sampled uniformly on a
            logarithmic scale. Or a function of a `keras_tuner.HyperParameters`.
        name: name of the `keras_tuner.HyperModel`.
        tunable: whether the hyperparameters are added to the search space, as in `keras_tuner.HyperModel`.
        compile_choices: dict like `choices`, of hyperparameters that `compile_model` is given instead of `make_model`.
        optimizer: values: names of Keras's optimizers, where "adam" stands for `keras_seq.training.Adam`, or functions
            from a learning rate to an optimizer.
        schedule: values: how the learning rate decays over the epochs of a trial. None: not at all. "cosine", "linear",
            "exponential": to 1 % of it. Or a function from the progress of the training, in [0, 1], to a factor.
        weight_decay, global_clipnorm: values of these arguments of the optimizer, None for its default. Optimizers
            that a function makes have their own.
        batch_size: values of `batch_size` in `fit`, or None to leave it to the arguments of `search`. If several
            batches are given as data, give a function from the size to the batches as `x` of `search`.

    Raises:
        ValueError: if values have another form, or if `learning_rate` is not two positive numbers in ascending order.

    Example:
        >>> import keras
        >>> class Tagger(ChoiceHyperModel):
        ...     def __init__(self, units=(64, 128), dropout=(0.0, 0.3), **options):
        ...         super().__init__({"units": units, "dropout": dropout}, **options)
        ...
        ...     def make_model(self, hp, units, dropout):
        ...         layer = keras.layers.LSTM(units, dropout=dropout, return_sequences=True)
        ...         return keras.Sequential([keras.Input((None, 8)), layer, keras.layers.Dense(5)])
        ...
        ...     def compile_model(self, model, optimizer):
        ...         model.compile(optimizer, "mse")
        >>> Tagger(units=range(32, 129, 32), optimizer=["adam", "sgd"]).build(
        ...     keras_tuner.HyperParameters()
        ... ).output_shape
        (None, None, 5)
    """

    def __init__(
        self,
        choices,
        learning_rate=(1e-4, 1e-2),
        name=None,
        tunable=True,
        *,
        compile_choices=None,
        optimizer=("adam",),
        schedule=(None,),
        weight_decay=(None,),
        global_clipnorm=(None,),
        batch_size=None,
    ):
        super().__init__(name, tunable)
        self.choices = choices
        self.compile_choices = compile_choices or {}
        self.optimizer_choices = {
            "optimizer": optimizer,
            "weight_decay": weight_decay,
            "global_clipnorm": global_clipnorm,
        }
        self.fit_choices = {"schedule": schedule, **({} if batch_size is None else {"batch_size": batch_size})}
        self.learning_rate = learning_rate
        groups = (self.choices, self.compile_choices, self.optimizer_choices, self.fit_choices)
        for argument, values in [item for group in groups for item in group.items()]:
            check_values(argument, values)
            setattr(self, argument, values)
        check_optimizers(optimizer)
        check_schedules(schedule)
        _check_learning_rate(learning_rate)

    def build(self, hp):
        """Builds a model with values from the search space. A tuner calls it.

        Args:
            hp: a `keras_tuner.HyperParameters`, which chooses the values.

        Returns:
            A compiled model, whose optimizer is built.
        """
        with _shown_failure("A model could not be built", hp):
            chosen, compile_options, optimizer = (
                _choose_all(hp, choices) for choices in (self.choices, self.compile_choices, self.optimizer_choices)
            )
            _choose_all(hp, self.fit_choices)  # known to the tuner before the first trial
            learning_rate = self._choose_learning_rate(hp)
            model = self.make_model(hp, **chosen)
            if not model.built:
                raise ValueError("`make_model` must return a model that is built. Received: a model without weights")
            optimizer = make_optimizer(optimizer.pop("optimizer"), learning_rate, **optimizer)
            self.compile_model(model, optimizer, **compile_options)
            # Hyperband resumes from checkpoints. Keras loads optimizer variables only into an optimizer that is built.
            model.optimizer.build(model.trainable_variables)
            return model

    def make_model(self, hp, **chosen):
        """Returns a model that is built but not compiled. A subclass defines it.

        Args:
            hp: a `keras_tuner.HyperParameters`, for hyperparameters that are not choices.
            **chosen: the value of each hyperparameter.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `make_model`.")

    def compile_model(self, model, optimizer, **chosen):
        """Compiles a model, by default with the loss of its class.

        Args:
            model: the model.
            optimizer: an optimizer with the chosen learning rate.
            **chosen: the value of each hyperparameter in `compile_choices`.
        """
        model.compile(optimizer, **chosen)

    def fit(self, hp, model, x=None, *args, callbacks=None, **kwargs):
        """Trains a model with the chosen size of batches and schedule. A tuner calls it.

        Call it yourself to train the best model again on all data: `hypermodel.fit(hp, hypermodel.build(hp), x, y)`.

        Args:
            hp: the `keras_tuner.HyperParameters` that `build` was given.
            model: the model that it returned.
            x: see `fit` of the model, or a function from the size of the batches to `x`.
            *args: further arguments of `fit`. Those of `search` arrive here.
            callbacks: callbacks of `fit`.
            **kwargs: further arguments of `fit` by name.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            keras_tuner.errors.FailedTrialError: if a loss of the first epoch is not a finite number.
        """
        hp = hp if self.tunable else hp.copy()
        callbacks = list(callbacks or [])
        with _shown_failure(_trial_name(callbacks), hp), forget_custom_gradients():
            chosen = _choose_all(hp, self.fit_choices)
            schedule = chosen.pop("schedule")
            if schedule is not None:
                callbacks.insert(0, LearningRateSchedule(self._choose_learning_rate(hp), schedule))
            if callable(x):
                x = x(chosen.pop("batch_size", kwargs.pop("batch_size", None)))
            history = model.fit(x, *args, callbacks=callbacks, **{**kwargs, **chosen})
            for name in ("loss", "val_loss"):
                value = history.history.get(name, [0.0])[0]
                if not np.isfinite(value):
                    raise keras_tuner.errors.FailedTrialError(f"`{name}` is {value} in the first epoch")
            return history

    def _choose_learning_rate(self, hp):
        if callable(self.learning_rate):
            return self.learning_rate(hp)
        return hp.Float("learning_rate", *self.learning_rate, sampling="log")


def _choose_all(hp, choices):
    """Returns a dict from the names of hyperparameters to the values that `hp` chooses."""
    return {name: choose(hp, name, values) for name, values in choices.items()}


def _check_learning_rate(learning_rate):
    if callable(learning_rate):
        return
    check_values("learning_rate", learning_rate)
    if len(learning_rate) != 2 or not 0 < learning_rate[0] <= learning_rate[1]:
        raise ValueError(
            f"`learning_rate` must be two positive numbers in ascending order. Received: {learning_rate!r}"
        )


def _trial_name(callbacks):
    """Returns what to call the training that has these callbacks: keras-tuner's own knows its trial."""
    trials = [callback.trial for callback in callbacks if hasattr(callback, "trial")]
    return f"Trial {trials[0].trial_id} failed" if trials else "The training failed"


@contextlib.contextmanager
def _shown_failure(what, hp):
    """Prints a line if an error ends the block, which keras-tuner catches."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        fixed = {parameter.name for parameter in hp.space if isinstance(parameter, hyperparameters.Fixed)}
        values = ", ".join(f"{name}={value!r}" for name, value in hp.values.items() if name not in fixed)
        print(f"{what}: {type(error).__name__}: {reason} (with {values})", flush=True)
        raise

# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation of a `Forecaster`: losses, metrics, scheduled sampling."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_seq._lazy_tensorflow import tf
from keras_seq.models.data_parallel_training import DataParallelTraining
from keras_seq.models.forecast_inputs import as_dict, observed_flags, observed_values
from keras_seq.models.instance_scaling import measure_scale
from keras_seq.models.shuffled_arrays import shuffle_arrays
from keras_seq.ops.time_loop import time_loop
from keras_seq.training import ScheduledSampling
from keras_seq.training.callbacks import order_callbacks
from keras_seq.training.data_parallel import apply_gradients, replica_share


class ForecastTraining(DataParallelTraining):
    """The part of a `Forecaster` that trains and evaluates, a mixin."""

    scheduled_sampling = None  # set by `compile`

    def compile(self, optimizer="adam", metrics=None, *, scheduled_sampling=None, **kwargs):
        """Configures the model for training. The loss is that of the model's `output`.

        Args:
            optimizer: see `keras.Model.compile`.
            metrics: list of metrics, such as "mae", or None. They compare targets with point forecasts in the units of
                the data and are means over all observed targets, weighted by the sample weights. In `evaluate` the
                forecasts are free-running, as those of `predict`; in training they are teacher-forced, a step ahead.
            scheduled_sampling: a `keras_seq.training.ScheduledSampling`, used in every call with `training=True`, or
                None for teacher forcing only. With `sample="categorical"` values are drawn from the predicted
                distribution; with "argmax", or without a distribution, they are the point forecasts. In "sequential"
                mode the predictions are made without dropout.
            **kwargs: other arguments of `keras.Model.compile`, except `loss` and `weighted_metrics`.
        """
        if not isinstance(scheduled_sampling, ScheduledSampling | None):
            raise ValueError(
                "`scheduled_sampling` must be a `keras_seq.training.ScheduledSampling` or None. "
                f"Received: {scheduled_sampling!r}"
            )
        for name in ("loss", "loss_weights", "weighted_metrics"):
            if kwargs.pop(name, None) is not None:
                raise ValueError(
                    f"`{name}` must be None: `Forecaster(output=...)` decides the loss, and `metrics` are weighted."
                )
        if isinstance(metrics, str):
            raise ValueError(
                "`metrics` must be a list, or None. It is the second argument: `Forecaster(output=...)` decides the "
                f"loss. Received: {metrics!r}"
            )
        self.scheduled_sampling = scheduled_sampling
        super().compile(optimizer=optimizer, weighted_metrics=metrics, **kwargs)

    def get_compile_config(self):
        config = super().get_compile_config()  # empty if the model is not compiled
        if not config:
            return config
        names = {"loss", "loss_weights", "weighted_metrics"}
        config = {name: value for name, value in config.items() if name not in names} | {
            "metrics": config["weighted_metrics"],
            "scheduled_sampling": keras.saving.serialize_keras_object(self.scheduled_sampling),
        }
        return config

    def compile_from_config(self, config):
        # Required by Keras of every model that overrides `compile`.
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = {**as_dict(x), "targets": y}
        with tf.GradientTape() as tape:
            parameters = self(x, training=True)
            loss = self.compute_loss(x, y, parameters, sample_weight, training=True)
            share = replica_share(ops.sum(self._target_weights(x, sample_weight)))
            scaled_loss = self.optimizer.scale_loss(loss * share)
        self._track_loss(loss, x, sample_weight)
        if self.trainable_weights:
            gradients = tape.gradient(scaled_loss, self.trainable_weights)
            apply_gradients(self.optimizer, gradients, self.trainable_weights)
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        point = self.likelihood.mean(parameters)
        return self.compute_metrics(x, y, self._measure_scale(x).undo(point), sample_weight)

    def test_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = {**as_dict(x), "targets": y}
        loss = self.compute_loss(x, y, self(x, training=False), sample_weight, training=False)
        self._track_loss(loss, x, sample_weight)
        forecast = None
        if len(self.metrics) > 1:
            forecast = self.roll_out(self._encode(x), self.horizon)[:, 0]
        return self.compute_metrics(x, y, forecast, sample_weight)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Computes the loss of a batch: the mean over its observed targets, by sample weights, and regularization.

        Args:
            x: the inputs of `call`.
            y: (batch, horizon, series).
            y_pred: the result of `call` with `targets`.
            sample_weight: (batch,), (batch, horizon), (batch, horizon, series), or None.
            training: unused.
        """
        inputs = {**as_dict(x), "targets": y}
        weights = self._target_weights(inputs, sample_weight)
        scaled = self._measure_scale(inputs).apply(observed_values(inputs, "targets"))
        losses = self.likelihood.loss(scaled, y_pred)
        loss = ops.sum(weights * losses) / ops.maximum(ops.sum(weights), 1e-12)
        return ops.sum(ops.stack([loss, *(ops.cast(extra, "float32") for extra in self.losses)]))

    def _measure_scale(self, x):
        return measure_scale(observed_values(x, "past"), observed_flags(x, "past"), self.scaling)

    def _target_weights(self, inputs, sample_weight):
        """Returns the weights of all targets (batch, horizon, series), float32, 0 where they are missing."""
        weights = observed_flags(inputs, "targets")
        if sample_weight is None:
            return weights
        sample_weight = ops.cast(sample_weight, "float32")
        while len(sample_weight.shape) < 3:
            sample_weight = sample_weight[..., None]
        return weights * sample_weight

    def _track_loss(self, loss, inputs, sample_weight):
        """Adds the loss of a batch to the mean of the epoch, weighted by the weights of its targets."""
        weight = ops.sum(self._target_weights(inputs, sample_weight))
        reported = next(metric for metric in self.metrics if metric.name == "loss")  # Keras's own, which `fit` shows
        reported.update_state(loss, sample_weight=weight)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the metrics by point forecasts `y_pred` (batch, horizon, series), in the units of the data."""
        if y_pred is None:
            return self.get_metrics_result()
        inputs = {**as_dict(x), "targets": y}
        # One row for each value, so that metrics do not mix observed values with missing ones in a mean over series.
        weights = ops.reshape(self._target_weights(inputs, sample_weight), (-1,))
        values = ops.reshape(observed_values(inputs, "targets"), (-1, 1))
        return super().compute_metrics(None, values, ops.reshape(y_pred, (-1, 1)), weights)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=None,
        class_weight=None,
        sample_weight=None,
        seed=None,
        **kwargs,
    ):
        """Trains the model.

        The loss of an epoch is the mean over all its observed targets, whatever the batches.

        Args:
            x: the inputs of `call` without `targets`, an array or a dict of arrays; or a `tf.data.Dataset`,
                `keras.utils.PyDataset` or generator of batches `(x, y)` or `(x, y, sample_weight)`.
            y: the targets (batch, horizon, series), if `x` contains the inputs. The entry `target_mask` of `x` marks
                those that are observed.
            validation_data: `(x, y)`, `(x, y, sample_weight)`, or batches as in `x`.
            sample_weight: (batch,), (batch, horizon) or (batch, horizon, series), not negative. The loss is a mean by
                these weights.
            class_weight: None.
            batch_size, epochs, verbose, callbacks, validation_split: see `keras.Model.fit`.
            shuffle: see `keras.Model.fit`. Defaults to True, except for datasets and generators, which you shuffle
                yourself.
            seed: integer that makes the order of all epochs reproducible, if `x` contains the inputs. Defaults to a
                random one. The order of an epoch depends on the seed and its number alone.
            **kwargs: other arguments of `keras.Model.fit`: `initial_epoch`, `steps_per_epoch`, `validation_steps`, ...

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: if the data have another form, or contain NaN or infinite values that are not masked.
            tf.errors.InvalidArgumentError: if such values are in a `tf.data.Dataset`. They are checked in its graph.
        """
        if class_weight is not None:
            raise ValueError(f"`class_weight` must be None: targets are numbers. Received: {class_weight!r}")
        if shuffle is None:
            shuffle = y is not None or getattr(x, "num_batches", None) is not None  # arrays or a finite PyDataset
        callbacks = order_callbacks(callbacks, kwargs.get("steps_per_epoch"))
        x, y, sample_weight = self._inputs.data(x, y, sample_weight)
        if validation_data is not None:
            validation_data = self._inputs.validation_data(validation_data)
        arguments = shuffle_arrays(
            x,
            y,
            batch_size,
            sample_weight=sample_weight,
            shuffle=shuffle,
            seed=seed,
            validation_split=validation_split,
            validation_data=validation_data,
            **kwargs,
        )
        self._build_replicas(arguments["x"])
        return super().fit(epochs=epochs, verbose=verbose, callbacks=callbacks, **arguments)

    def _build_replicas(self, x):
        """Builds the model for arrays or a dataset if it has several replicas, see `data_parallel`."""
        strategy = self.distribute_strategy
        inputs = x.element_spec[0] if isinstance(x, tf.data.Dataset) else x
        if (
            self.built
            or strategy.num_replicas_in_sync == 1
            or not isinstance(inputs, dict | np.ndarray | tf.TensorSpec)
        ):
            return
        with strategy.scope():
            self.build({name: tuple(value.shape) for name, value in as_dict(inputs).items()})

    def evaluate(self, x=None, y=None, batch_size=None, verbose="auto", sample_weight=None, **kwargs):
        """Computes the loss, with teacher forcing, and the metrics, of free-running forecasts. See `fit` for the data.

        Args:
            x, y, batch_size, sample_weight: see `fit`.
            verbose: see `keras.Model.evaluate`.
            **kwargs: other arguments of `keras.Model.evaluate`: `steps`, `callbacks`, `return_dict`.

        Returns:
            See `keras.Model.evaluate`.
        """
        x, y, sample_weight = self._inputs.data(x, y, sample_weight)
        return super().evaluate(x, y, batch_size, verbose=verbose, sample_weight=sample_weight, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """Trains on one batch. See `keras.Model.train_on_batch`, and `fit` for the data."""
        x, y, *weights = self._inputs.convert_pair(x, y, sample_weight)
        return super().train_on_batch(x, y, weights[0] if weights else None, class_weight, return_dict=return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """Evaluates one batch. See `keras.Model.test_on_batch`, and `fit` for the data."""
        x, y, *weights = self._inputs.convert_pair(x, y, sample_weight)
        return super().test_on_batch(x, y, weights[0] if weights else None, return_dict=return_dict)

    def _mix_inputs(self, encoded, previous, is_observed):
        """Replaces some of the decoder's inputs (batch, horizon, series) by predictions, by scheduled sampling.

        Returns the inputs and their flags, without gradient.
        """
        sampling, output = self.scheduled_sampling, self.likelihood
        draws = sampling.draw(ops.ones(ops.shape(previous)[:2], "int32"), self.optimizer.iterations)
        uniforms = keras.random.uniform((*ops.shape(previous), 2), 2.0**-24, 1, "float32", sampling.seed_generator)
        draws_values = sampling.sample == "categorical" and output.is_distribution

        def predict(parameters, uniforms):
            return output.sample(parameters, uniforms) if draws_values else output.mean(parameters)

        replaced = draws.replaced[..., None]
        if sampling.mode == "sequential":
            predicted = self._predict_sequentially(encoded, previous, is_observed, replaced, uniforms, predict)
        else:
            with keras.StatelessScope():  # does not advance the seeds, so the trained pass draws the same masks
                parameters = self._teacher_forced(encoded, previous, is_observed, training=True)
            predicted = predict(parameters, uniforms)
            predicted = ops.concatenate([previous[:, :1], predicted[:, :-1]], axis=1)
        mixed = ops.where(replaced, predicted, previous), ops.where(replaced, 1.0, is_observed)
        return tuple(ops.stop_gradient(x) for x in mixed)

    def _predict_sequentially(self, encoded, previous, is_observed, replaced, uniforms, predict):
        """Returns the prediction of the value before each step (batch, horizon, series), each from the mixed ones."""
        step, state = self._make_step(encoded)
        covariates = encoded.inputs.get("future_covariates")
        sequences = (previous, is_observed, replaced, uniforms)
        sequences += () if covariates is None else (covariates[:, : self.horizon],)

        def body(carry, slices):
            (state, predicted), (previous, is_observed, replaced, uniforms, *covariates) = carry, slices
            previous, is_observed = ops.where(replaced, predicted, previous), ops.where(replaced, 1.0, is_observed)
            parameters, state = step(previous, is_observed, covariates[0] if covariates else None, state)
            return (state, predict(parameters, uniforms)), predicted

        sequences = tuple(ops.moveaxis(x, 1, 0) for x in sequences)
        _, predicted = time_loop(body, (state, previous[:, 0]), sequences)
        return ops.moveaxis(predicted, 0, 1)

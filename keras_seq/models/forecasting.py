# SPDX-License-Identifier: Apache-2.0
"""Forecasts of a `Forecaster`: the free-running rollout, point forecasts, sampled paths and export."""

import contextlib
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_seq._lazy_tensorflow import tf
from keras_seq.decoding.noise import hash_keys, uniform
from keras_seq.exporting import export
from keras_seq.models.forecast_inputs import check_positive
from keras_seq.models.function_cache import SequentialFunction
from keras_seq.ops.implementation import implementation_in_use
from keras_seq.ops.time_loop import time_loop
from keras_seq.training.likelihoods import check_levels, no_distribution


class Forecast(NamedTuple):
    """The result of `Forecaster.forecast`: NumPy arrays, float32, in the units of the data."""

    mean: np.ndarray  # (batch, horizon, series), the point forecasts
    quantiles: np.ndarray  # (batch, horizon, series, levels), of the sampled paths
    levels: tuple  # the levels of the quantiles
    samples: np.ndarray | None = None  # (batch, samples, horizon, series), the sampled paths, if asked for


class Forecasting:
    """The part of a `Forecaster` that forecasts, a mixin."""

    _predicted_horizon = None  # in a `predict` with another horizon than that of the model

    def roll_out(self, encoded, horizon, num_samples=0, seed=None, positions=None):
        """Runs the decoder free: each step reads what the model predicts for the step before. All in one loop.

        The first path of each sample reads point forecasts, the others draws from the predicted distributions.

        Args:
            encoded: the result of `_encode`.
            horizon: number of steps, an integer.
            num_samples: number of paths with draws.
            seed: int32 tensor (2,), if there are such paths.
            positions: int32 (batch,), the positions of the samples in a larger batch, which decide about the draws.

        Returns:
            Values (batch, 1 + num_samples, horizon, series), float32, in the units of the data. No gradient flows
            through them.
        """
        series, paths = encoded.previous.shape[-1], 1 + num_samples
        self._inputs.check_shapes(encoded.inputs, horizon)
        step, state = self._make_step(encoded, paths)
        covariates = encoded.inputs.get("future_covariates")
        sequences = (tf.range(horizon),)
        if covariates is not None:
            sequences += (ops.moveaxis(covariates[:, :horizon], 1, 0),)
        draw = self._make_draw(ops.shape(encoded.previous)[0], paths, series, seed, positions)

        def body(carry, slices):
            (previous, is_observed, state), (t, *covariates) = carry, slices
            parameters, state = step(previous, is_observed, covariates[0] if covariates else None, state)
            value = draw(parameters, t)
            return (value, ops.ones_like(is_observed), state), value

        first = tuple(ops.repeat(x, paths, axis=0) for x in (encoded.previous, encoded.is_observed))
        _, values = time_loop(body, (*first, state), sequences)  # (horizon, rows, series)
        values = ops.reshape(ops.moveaxis(values, 0, 1), (-1, paths, horizon, series))
        return ops.stop_gradient(encoded.scale.undo(values))

    def _make_draw(self, batch, paths, series, seed, positions):
        """Returns a function `(parameters, t) -> value` (rows, series): point forecasts in the first paths, else draws.

        A draw depends on the seed, the position of the sample, path, series and step t only.
        """
        output = self.likelihood
        if paths == 1:
            return lambda parameters, t: output.mean(parameters)
        numbers = tf.range(paths * series)[None] + positions[:, None] * (paths * series)
        keys = hash_keys(seed, tf.reshape(numbers, [-1]))  # one for each path and series
        is_point = ops.equal(ops.arange(batch * paths) % paths, 0)[:, None]

        def draw(parameters, t):
            uniforms = tf.stack([uniform(keys, 2 * t), uniform(keys, 2 * t + 1)], axis=-1)
            sample = output.sample(parameters, ops.reshape(uniforms, (-1, series, 2)))
            return ops.where(is_point, output.mean(parameters), sample)

        return draw

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None, *, horizon=None):
        """Computes point forecasts: each step reads the point forecast of the step before.

        Args:
            x: the inputs of `call` without `targets`, an array or a dict of arrays; or a `tf.data.Dataset`,
                `keras.utils.PyDataset` or generator of batches `x`, `(x, y)` or `(x, y, sample_weight)`.
            batch_size, verbose, steps, callbacks: see `keras.Model.predict`.
            horizon: number of steps to forecast; by default that of the model. It may be larger; `future_covariates`
                must then cover it.

        Calls from several threads run one after another.

        Returns:
            A NumPy array (batch, horizon, series), float32, in the units of the data.
        """
        horizon = self._resolve_horizon(horizon)
        x = self._inputs.sources(x, horizon)
        if isinstance(x, dict) and len(x["past"]) == 0:  # Keras fails for no batches
            return np.zeros((0, horizon, x["past"].shape[-1]), "float32")
        with self._prediction_lock, self._predicting(horizon):
            return super().predict(x, batch_size, verbose=verbose, steps=steps, callbacks=callbacks)

    @contextlib.contextmanager
    def _predicting(self, horizon):
        """Gives Keras a function that predicts so many steps. A callback of a `predict` may call another one."""
        outer = self.predict_function, self._predicted_horizon
        if horizon == (self._predicted_horizon or self.horizon):
            yield
            return
        key = ("predict", horizon, self.run_eagerly, self.jit_compile, implementation_in_use())
        self._predicted_horizon = horizon
        try:
            self.predict_function = self._functions.get(key, self._new_predict_function)
            yield
        finally:
            self.predict_function, self._predicted_horizon = outer

    def _new_predict_function(self):
        self.make_predict_function(force=True)
        return self.predict_function

    def predict_on_batch(self, x):
        """Computes the point forecasts of one batch. See `predict`."""
        return super().predict_on_batch(self._inputs.convert(x, self.horizon))

    def _resolve_horizon(self, horizon):
        if horizon is None:
            return self.horizon
        check_positive("horizon", horizon)
        return int(horizon)

    def forecast(
        self,
        x,
        horizon=None,
        quantiles=(0.05, 0.5, 0.95),
        num_samples=100,
        seed=None,
        batch_size=32,
        return_samples=False,
    ):
        """Forecasts with quantiles, by sampled paths.

        Each path reads its own draws from the predicted distributions, so the quantiles include the uncertainty of all
        earlier steps. All paths of a batch run in one loop, beside the path of point forecasts.

        Args:
            x: the inputs of `call` without `targets`, an array or a dict of arrays.
            horizon: number of steps to forecast; by default that of the model. It may be larger; `future_covariates`
                must then cover it.
            quantiles: levels in (0, 1), or () for none.
            num_samples: number of sampled paths.
            seed: integer that makes the paths the same in every call, or None. The paths of a sample depend on the seed
                and its position in `x`, not on `batch_size`.
            batch_size: number of samples at once. Each has `num_samples + 1` rows in the loop.
            return_samples: whether to return the paths too.

        Returns:
            A named tuple `Forecast` of NumPy arrays, in the units of the data: `mean` (batch, horizon, series), the
            point forecasts of `predict`; `quantiles` (batch, horizon, series, levels), those of the sampled paths;
            `levels`, as given; and `samples` (batch, samples, horizon, series), or None.

        Raises:
            ValueError: if an argument is invalid, or if the model's `output` has no distribution. Use `predict` or
                `quantiles=()` then.
        """
        horizon = self._resolve_horizon(horizon)
        levels = check_levels("quantiles", quantiles)
        for name, value in (("num_samples", num_samples), ("batch_size", batch_size)):
            check_positive(name, value)
        if not (levels or return_samples):
            num_samples = 0
        elif not self.likelihood.is_distribution:
            raise no_distribution(self.likelihood)
        inputs = self._inputs.convert(x, horizon)
        if not self.built:
            raise ValueError("`forecast` needs a model that is built: fit it, or call it on data.")
        inputs = {name: value for name, value in inputs.items() if not name.startswith("target")}
        seed = _seed_tensor(seed)
        results = []
        for start in range(0, max(len(inputs["past"]), 1), batch_size):
            batch = {name: tf.constant(value[start : start + batch_size]) for name, value in inputs.items()}
            run = self._forecast_function(batch, horizon, levels, num_samples, return_samples)
            positions = tf.range(start, start + batch["past"].shape[0])
            results.append({name: value.numpy() for name, value in run(batch, seed, positions).items()})
        joined = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
        return Forecast(joined["mean"], joined["quantiles"], levels, joined.get("samples"))

    def _forecast_function(self, batch, horizon, levels, num_samples, return_samples):
        """Returns the compiled function of `forecast` for inputs like this batch."""
        ranks = tuple((name, len(value.shape)) for name, value in batch.items())
        key = ("forecast", ranks, horizon, levels, num_samples, return_samples, implementation_in_use())

        def run(inputs, seed, positions):
            values = self.roll_out(self._encode(inputs), horizon, num_samples, seed, positions)
            results = _summarize(values, levels)
            return {**results, "samples": values[:, 1:]} if return_samples else results

        specs = [
            {name: _spec(value) for name, value in batch.items()},
            tf.TensorSpec([2], tf.int32),
            tf.TensorSpec([None], tf.int32),
        ]
        return self._functions.get(key, lambda: SequentialFunction(run, specs))

    def export(
        self,
        path,
        format="tf_saved_model",
        *,
        num_samples=100,
        quantiles=(0.05, 0.5, 0.95),
        native=False,
        **options,
    ):
        """Writes the model for programs in which neither Keras nor keras_seq is installed. See `keras_seq.export`.

        The signatures of a SavedModel take the inputs of the model by name: `past` (batch, time, series) float32,
        `past_mask` booleans of this shape, and those of `past_covariates`, `future_covariates` (batch, horizon,
        features) and `static` that the model reads. An empty batch gives an empty batch.

        - `serving_default` returns `mean` and, if the model has a distribution, `quantiles`, as `forecast` does with
          seed 0.
        - `predict` returns `mean` only, in a small part of the time: it samples no paths.
        - `forecast_samples`, if the model has a distribution, also takes `seed`, an int32 scalar, and returns
          `samples` too.

        Args:
            path: see `keras_seq.export`.
            format: see `keras_seq.export`.
            num_samples: number of sampled paths.
            quantiles: levels of the quantiles.
            native: see `keras_seq.export`.
            **options: other options of the format.

        Raises:
            ValueError: if an argument is invalid.
            FileExistsError: if there is something else at `path`.
        """
        export(self, path, format, native, num_samples=num_samples, quantiles=quantiles, **options)

    def endpoints(self, num_samples=100, quantiles=(0.05, 0.5, 0.95)):
        """Returns the functions that `export` writes, a dict from names to `(function, input signature)`."""
        levels = check_levels("quantiles", quantiles)
        check_positive("num_samples", num_samples)
        has_distribution = self.likelihood.is_distribution

        def sample(seed, inputs):
            positions = tf.range(tf.shape(inputs["past"])[0])
            seed = tf.stack([seed, 0])
            count = num_samples if has_distribution else 0
            return self.roll_out(self._encode(inputs), self.horizon, count, seed, positions)

        def predict(inputs):
            return {"mean": self.roll_out(self._encode(inputs), self.horizon)[:, 0]}

        def forecast(inputs):
            return _summarize(sample(0, inputs), levels if has_distribution else ())

        def forecast_samples(seed, inputs):
            values = sample(seed, inputs)
            return {**_summarize(values, levels), "samples": values[:, 1:]}

        specs = self._inputs.specs()
        endpoints = {"serving_default": (forecast, [specs]), "predict": (predict, [specs])}
        if has_distribution:
            endpoints["forecast_samples"] = (forecast_samples, [tf.TensorSpec([], tf.int32, "seed"), specs])
        return endpoints


def _summarize(values, levels):
    """Returns point forecasts, and quantiles if there are levels, from all paths (batch, paths, horizon, series)."""
    if not levels:
        return {"mean": values[:, 0], "quantiles": ops.zeros((*ops.shape(values[:, 0]), 0), "float32")}
    quantiles = ops.moveaxis(ops.quantile(values[:, 1:], ops.convert_to_tensor(levels, "float32"), axis=1), 0, -1)
    return {"mean": values[:, 0], "quantiles": ops.reshape(quantiles, (-1, *values.shape[2:], len(levels)))}


def _spec(value):
    """Returns the spec of an input of any batch size and length."""
    shape = (
        [None, value.shape[1]] if value.shape.rank == 2 and value.dtype != tf.bool else [None, None, *value.shape[2:]]
    )
    return tf.TensorSpec(shape, value.dtype)


def _seed_tensor(seed):
    """Returns the seed of the draws, int32 (2,)."""
    if seed is None:
        seed = np.random.default_rng().integers(2**31)
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool):
        raise ValueError(f"`seed` must be an integer or None. Received: {seed!r}")
    return tf.constant(np.array([int(seed) % 2**64], "uint64").view("int32"))

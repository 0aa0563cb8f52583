# SPDX-License-Identifier: Apache-2.0
"""The forecaster: an encoder over the past of series and a decoder over the steps to come."""

import threading
from typing import NamedTuple

import keras
from keras import ops, tree

from keras_seq._lazy_tensorflow import check_backend, tf
from keras_seq.layers import Bidirectional
from keras_seq.layers.attention import get_attention
from keras_seq.layers.recurrent_layer import CellArgument, output_units, resolve_layer
from keras_seq.layers.search_step import choose_search_implementation, start_search
from keras_seq.models.forecast_inputs import ForecastInputs, as_dict, check_positive, observed_flags, observed_values
from keras_seq.models.forecast_training import ForecastTraining
from keras_seq.models.forecasting import Forecasting
from keras_seq.models.function_cache import FunctionCache
from keras_seq.models.instance_scaling import SCALINGS, measure_scale
from keras_seq.ops.random import child_seed
from keras_seq.training.likelihoods import get_likelihood


class _Encoded(NamedTuple):
    """What the decoder reads of the past."""

    scale: object  # `InstanceScale`
    previous: object  # (batch, series) float32, the last scaled value, 0 where it is missing
    is_observed: object  # (batch, series) float32, whether there is one
    state: object  # the decoder's initial state, in the structure of its layer
    memory: object  # (batch, time, features), what attention reads
    inputs: dict  # the inputs, as float32 tensors


@keras.saving.register_keras_serializable("keras_seq")
class Forecaster(ForecastTraining, Forecasting, keras.Model):
    """Forecasts series by a recurrent encoder over the past and a recurrent decoder over the horizon.

    As in DeepAR (Salinas et al. 2020), each step of the decoder reads the value before it and predicts the
    distribution of the next one. It is trained with teacher forcing. To forecast, it runs free: the next step reads
    what the model predicts, for as many steps as you like.

    With values z, scaled for each series of each sample (see `scaling`), flags o (1 = observed), covariates c and
    static features s, and with T past steps:

    - encoder, for t = 1 ... T: `h_t = cell([z_t, o_t, past_c_t, s], h_{t-1})`; z_t is 0 where o_t is 0.
    - decoder, for t = T + 1 ...: `h_t = cell([z_{t-1}, o_{t-1}, future_c_t, s], h_{t-1})`. It starts from the final
      state of the encoder, or with `bidirectional` from `tanh(states W + b)`.
    - with attention: `a_t = tanh([h_t, context_t] W)`, where h_t is the query and all h_1 ... h_T are the memory (Luong
      et al. 2015), else `a_t = h_t`.
    - output: the parameters of `output` from `[a_t, z_{t-1}, o_{t-1}, future_c_t, s] W + b`. Because they also
      depend on the inputs of the step directly, the model is at least a linear autoregression, as in LSTNet (Lai et al.
      2018).

    Covariates and static features are read as they are: scale them yourself, to about [-1, 1].

    Args:
        horizon: number of steps that the model is trained to forecast.
        units: size of the output of each cell; None if `cell` is an object.
        cell: "lstm", "gru", "mgu" or "simple_rnn"; or a cell or recurrent layer, which is copied.
        num_layers: number of stacked cells in the encoder and in the decoder.
        output: what the model predicts of each value. It also decides the loss. "gaussian", "student_t", "quantiles",
            "mse", "mae", "huber", or an object, such as `keras_seq.training.Quantiles([0.1, 0.5, 0.9])`.
        scaling: how each series of each sample is scaled by its own observed past; forecasts are in the units of the
            data. "standard" shifts by the mean and scales by the standard deviation; "mean_abs" scales by the mean of
            the absolute values, which keeps zero at zero; None does nothing. The loss is computed on scaled values, so
            that all series have equal weight. A constant or missing series has the scale 1.
        attention: "bahdanau", "luong", "monotonic", an attention layer of `keras_seq.layers`, or None.
        bidirectional: whether the encoder runs in both directions.
        dropout, recurrent_dropout: see `keras_seq.layers.LSTM`.
        seed: random seed of the dropout masks. Each part draws its own masks.
        implementation: see `keras_seq.layers.LSTM`.
        **kwargs: arguments of `keras.Model`.

    Call arguments:
        inputs: an array (batch, time, series), or a dict with

            - `past`: (batch, time, series), the observed values.
            - `past_mask`: booleans (batch, time, series) or (batch, time), True = observed. Masked values may
              be anything, NaN included.
            - `past_covariates`: (batch, time, features).
            - `future_covariates`: (batch, steps, features), known ahead, for at least as many steps as are forecast.
            - `static`: (batch, features), of the whole sample.
            - `targets`: (batch, horizon, series), for teacher forcing; `fit` and `evaluate` put `y` here.
            - `target_mask`: booleans (batch, horizon, series) or (batch, horizon), True = observed. Masked targets
              may be anything; they do not count in the loss. Only for `fit` and `evaluate`.

            Only `past` is needed. The first data decide which covariates and static features the model reads.
        training: whether to apply dropout and scheduled sampling.

    Returns:
        The point forecasts (batch, horizon, series) float32, in the units of the data. With `targets` the parameters of
        the distribution of each scaled value, (batch, horizon, series, parameters).

    Raises:
        ValueError: if an argument or an input is invalid, or if a value that is not masked is NaN or infinite. In a
            `tf.data.Dataset` the latter is a `tf.errors.InvalidArgumentError`.

    Example:
        >>> import numpy as np, keras_seq
        >>> series = np.sin(np.arange(120.0))[:, None]
        >>> windows = np.stack([series[i : i + 20] for i in range(100)])
        >>> model = keras_seq.Forecaster(horizon=4, units=8)
        >>> model.compile("adam")
        >>> history = model.fit(windows[:, :16], windows[:, 16:], verbose=0)
        >>> model.predict(windows[:5, :16], verbose=0).shape
        (5, 4, 1)
        >>> forecast = model.forecast(windows[:5, :16], horizon=7, quantiles=(0.1, 0.9), seed=0)
        >>> forecast.mean.shape, forecast.quantiles.shape
        ((5, 7, 1), (5, 7, 1, 2))
    """

    def __init__(
        self,
        horizon,
        units,
        cell="lstm",
        num_layers=1,
        *,
        output="gaussian",
        scaling="standard",
        attention=None,
        bidirectional=False,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        implementation="auto",
        **kwargs,
    ):
        check_backend(self)
        super().__init__(autocast=False, **kwargs)  # bfloat16 is too coarse for the statistics of `scaling`
        check_positive("horizon", horizon)
        if scaling not in SCALINGS:
            raise ValueError(f"`scaling` must be one of {SCALINGS}. Received: {scaling!r}")
        self.horizon = horizon
        self.units = units
        self._cell_argument = CellArgument(cell)
        self.num_layers = num_layers
        self.likelihood = get_likelihood(output)
        self.scaling = scaling
        self.attention = attention
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.seed = seed
        self.implementation = implementation
        encoder = self._make_recurrent_layer("encoder")
        self.encoder = Bidirectional(encoder, dtype=self.dtype_policy) if bidirectional else encoder
        self.decoder = self._make_recurrent_layer("decoder")
        self.attention_layer = self.combine = None
        if attention is not None:
            attention_seed = child_seed(seed, "Forecaster", "attention")
            self.attention_layer = get_attention(
                attention, output_units(self.decoder.cell), attention_seed, dtype=self.dtype_policy
            )
            self.combine = keras.layers.Dense(
                output_units(self.decoder.cell), "tanh", use_bias=False, dtype=self.dtype_policy, name="combine"
            )
        self._inputs = ForecastInputs(horizon)
        self._functions = FunctionCache()
        self._prediction_lock = threading.RLock()  # Keras's `predict` reads the compiled function from the model

    @property
    def cell(self):
        """The argument `cell`."""
        return self._cell_argument.cell

    def _make_recurrent_layer(self, name):
        return resolve_layer(
            self.cell,
            self.units,
            num_layers=self.num_layers,
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            seed=child_seed(self.seed, "Forecaster", name),
            path=("Forecaster", name),
            implementation=self.implementation,
            dtype=self.dtype_policy,
        )

    def choose_implementation(self):
        """Return what runs the steps of a rollout, and why: a `Choice` of `keras_seq.ops.implementation`."""
        choice = choose_search_implementation(self.decoder)
        return choice._replace(reason=choice.reason.replace("a search", "a rollout"))

    def build(self, inputs_shape):
        shapes = inputs_shape if isinstance(inputs_shape, dict) else {"past": inputs_shape}
        self._inputs.set_sizes(shapes)
        sizes = self._inputs.sizes
        series, static = sizes["past"], sizes.get("static", 0)
        self.encoder.build((None, None, 2 * series + sizes.get("past_covariates", 0) + static))
        features = 2 * series + sizes.get("future_covariates", 0) + static
        self.decoder.build((None, None, features))
        units = output_units(self.decoder.cell)
        state_sizes = tree.flatten(self.decoder.state_size)
        self.bridges = []
        if self.bidirectional:
            self.bridges = [keras.layers.Dense(n, "tanh", dtype=self.dtype_policy) for n in state_sizes]
            for bridge in self.bridges:
                bridge.build((None, 2 * sum(state_sizes)))
        if self.attention_layer is not None:
            memory_units = units * (2 if self.bidirectional else 1)
            self.attention_layer.build([(None, None, units), (None, None, memory_units)])
            self.combine.build((None, None, units + memory_units))
            units = self.combine.units
        self.readout = keras.layers.Dense(
            series * self.likelihood.num_parameters, dtype=self.dtype_policy, name="readout"
        )
        self.readout.build((None, None, units + features))

    def get_build_config(self):
        return {"sizes": self._inputs.sizes} if self.built else None

    def build_from_config(self, config):
        if config:
            axes = {"static": 1}
            self.build({name: (*[None] * axes.get(name, 2), size) for name, size in config["sizes"].items()})
            self.built = True

    def call(self, inputs, training=False):
        inputs = as_dict(inputs)
        if tf.executing_eagerly():
            self._inputs.convert(inputs, self._predicted_horizon)  # raises an error for bad values
        encoded = self._encode(inputs, training)
        if "targets" not in inputs:
            return self.roll_out(encoded, self._predicted_horizon or self.horizon)[:, 0]
        self._inputs.check_shapes(encoded.inputs)
        flags = observed_flags(encoded.inputs, "targets")
        values = encoded.scale.apply(observed_values(encoded.inputs, "targets")) * flags
        previous = ops.concatenate([encoded.previous[:, None], values[:, :-1]], axis=1)
        is_observed = ops.concatenate([encoded.is_observed[:, None], flags[:, :-1]], axis=1)
        if training and self.scheduled_sampling is not None:
            previous, is_observed = self._mix_inputs(encoded, previous, is_observed)
        return self._teacher_forced(encoded, previous, is_observed, training)

    def _encode(self, inputs, training=False):
        """Runs the encoder over a dict of arrays or tensors. Returns `_Encoded`."""
        inputs = {
            name: ops.cast(value, "bool" if name.endswith("mask") else "float32") for name, value in inputs.items()
        }
        self._inputs.check_shapes(inputs, horizon=0)  # how many steps the covariates must cover depends on the caller
        past, observed = observed_values(inputs, "past"), observed_flags(inputs, "past")
        scale = measure_scale(past, observed, self.scaling)
        scaled = scale.apply(past) * observed
        features = self._join(scaled, observed, inputs.get("past_covariates"), inputs.get("static"))
        memory, *state = self.encoder(features, training=training)
        if self.bridges:
            summary = ops.concatenate(tree.flatten(state), axis=-1)
            structure = state[: len(state) // 2]  # of one direction
            state = tree.pack_sequence_as(structure, [bridge(summary) for bridge in self.bridges])
        return _Encoded(scale, scaled[:, -1], observed[:, -1], state, memory, inputs)

    def _teacher_forced(self, encoded, previous, is_observed, training=False):
        """Runs the decoder on given values before each step.

        Args:
            encoded: `_Encoded`.
            previous, is_observed: (batch, horizon, series) float32.
            training: whether to apply dropout.

        Returns:
            The parameters of the distributions of all values, (batch, horizon, series, parameters).
        """
        covariates = encoded.inputs.get("future_covariates")
        covariates = None if covariates is None else covariates[:, : self.horizon]
        features = self._join(previous, is_observed, covariates, encoded.inputs.get("static"))
        outputs, *_ = self.decoder(features, initial_state=encoded.state, training=training)
        if self.attention_layer is not None:
            memory = encoded.memory
            keys = self.attention_layer.project_memory(memory)
            contexts, _, _ = self.attention_layer.attend_over_time(outputs, memory, keys, training=training)
            outputs = self.combine(ops.concatenate([outputs, contexts], axis=-1))
        return self._read_out(outputs, features)

    def _make_step(self, encoded, paths=1):
        """Prepares a loop over steps of the decoder, in which each sample of the batch has several paths.

        Args:
            encoded: `_Encoded`.
            paths: number of paths. Rows are paths of samples; those of a sample are adjacent.

        Returns:
            `(step, state)`: the function `step(previous, is_observed, covariates, state) -> (parameters, state)` of one
            step, and its first state. Previous values and flags are (rows, series), covariates (batch, features) or
            None, parameters (rows, series, parameters).
        """
        run_layer, _ = start_search(self.decoder)
        static = encoded.inputs.get("static")
        static = None if static is None else ops.repeat(static, paths, axis=0)
        state = tuple(ops.repeat(x, paths, axis=0) for x in tree.flatten(encoded.state))
        attention, attended, attention_state = self.attention_layer, (), ()
        if attention is not None:
            attended = encoded.memory, attention.project_memory(encoded.memory)
            attended = tuple(ops.repeat(x, paths, axis=0) for x in attended)
            attention_state = tuple(attention.get_initial_state(attended[0]))

        def step(previous, is_observed, covariates, state):
            covariates = None if covariates is None else ops.repeat(covariates, paths, axis=0)
            features = self._join(previous, is_observed, covariates, static)
            state, attention_state = state
            output, state, _ = run_layer(features, list(state), {})
            if attention is not None:
                context, _, attention_state = attention.attend(output, *attended, None, attention_state)
                output = self.combine(ops.concatenate([output, context], axis=-1))
            return self._read_out(output, features), (tuple(state), tuple(attention_state))

        return step, (state, attention_state)

    def _join(self, values, is_observed, covariates, static):
        """Returns the features of one step (rows, features) or of all (batch, time, features)."""
        parts = [values, is_observed]
        if covariates is not None:
            parts.append(covariates)
        if static is not None:
            if len(values.shape) == 3:
                static = ops.repeat(static[:, None], ops.shape(values)[1], axis=1)
            parts.append(static)
        return ops.concatenate(parts, axis=-1)

    def _read_out(self, outputs, features):
        """Returns the parameters (..., series, parameters) from outputs and features of the decoder (..., size)."""
        outputs = ops.concatenate([ops.cast(outputs, self.compute_dtype), ops.cast(features, self.compute_dtype)], -1)
        raw = self.readout(outputs)
        shape = *ops.shape(raw)[:-1], self._inputs.sizes["past"], self.likelihood.num_parameters
        return self.likelihood.parameters(ops.reshape(raw, shape))

    def get_config(self):
        names = "horizon units num_layers scaling attention bidirectional dropout recurrent_dropout seed"
        config = {name: getattr(self, name) for name in [*names.split(), "implementation"]}
        config["cell"] = self._cell_argument.get_config()
        config["output"] = keras.saving.serialize_keras_object(self.likelihood)
        if isinstance(self.attention, keras.layers.Layer):
            config["attention"] = keras.saving.serialize_keras_object(self.attention)
        return {"name": self.name, "trainable": self.trainable, "dtype": self.dtype_policy.name, **config}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = {name: config[name] for name in ("cell", "output", "attention") if isinstance(config[name], dict)}
        for name, part in parts.items():
            parts[name] = keras.saving.deserialize_keras_object(part, custom_objects=custom_objects)
        return cls(**{**config, **parts})

# SPDX-License-Identifier: Apache-2.0
"""The inputs of a `Forecaster`: their names and shapes, and the checks of data in any form that Keras's `fit` takes."""

import collections.abc

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.models.prepared_batches import PreparedBatches

# The axes of each input. Those in `SIZED` end with a size that weights depend on.
AXES = {
    "past": ("batch", "time", "series"),
    "past_mask": ("batch", "time", "series"),  # or without series
    "past_covariates": ("batch", "time", "features"),
    "future_covariates": ("batch", "steps", "features"),
    "static": ("batch", "features"),
    "targets": ("batch", "horizon", "series"),
    "target_mask": ("batch", "horizon", "series"),  # or without series
}
SIZED = ("past", "past_covariates", "future_covariates", "static")
_MASKS = {"past": "past_mask", "targets": "target_mask"}
_BATCH_FORMS = "`(x, y)` or `(x, y, sample_weight)`"
_BAD_WEIGHTS = (
    "`sample_weight` must be finite and not negative. Received: other values"  # the loss divides by their sum
)


def as_dict(x):
    """Returns the inputs as a dict: `x` itself, or an array as `past`. Entries that are None are left out."""
    if not isinstance(x, dict):
        return {"past": x}
    unknown = set(x) - set(AXES)
    if unknown or x.get("past") is None:
        raise ValueError(
            f"A dict of inputs must have the entry 'past' and may have {sorted(set(AXES) - {'past', 'targets'})}. "
            f"Received: {sorted(map(str, x))}"
        )
    return {name: value for name, value in x.items() if value is not None}


class ForecastInputs:
    """Checks the inputs of a `Forecaster`.

    Args:
        horizon: number of steps that the targets have.
    """

    def __init__(self, horizon):
        self.horizon = horizon
        self.sizes = None  # once the model is built: a dict from names in `SIZED` to the sizes of their last axis

    def set_sizes(self, shapes):
        """Keeps the sizes of the first inputs, a dict from names to shapes."""
        for name in SIZED:
            if name in shapes:
                _check_rank(name, shapes[name])
        self.sizes = {name: int(shapes[name][-1]) for name in SIZED if name in shapes}

    def check_shapes(self, inputs, horizon=None):
        """Raises a ValueError if the static shapes of a dict of arrays or tensors do not fit.

        Args:
            inputs: dict from names to arrays or tensors.
            horizon: number of steps to forecast, which `future_covariates` must cover, or None for training.
        """
        for name, value in inputs.items():
            _check_rank(name, value.shape)
        shapes = {name: tuple(value.shape) for name, value in inputs.items()}
        if self.sizes is not None:
            given = {name: shapes[name][-1] for name in SIZED if name in shapes}
            if given != self.sizes:
                raise ValueError(
                    "The inputs and the sizes of their last axes must be those that the model was built with, "
                    f"{self.sizes}. Received: {given}"
                )
        batch, time, series = shapes["past"]
        if time == 0 or series == 0:
            raise ValueError(
                f"`past` must have at least one time step and one series. Received: shape {shapes['past']}"
            )
        horizons = {"targets": self.horizon, "target_mask": self.horizon}
        for name, shape in shapes.items():
            expected = {"batch": batch, "time": time, "series": series, "horizon": horizons.get(name)}
            expected = [expected.get(axis) for axis in AXES[name][: len(shape)]]
            if any(None not in pair and pair[0] != pair[1] for pair in zip(expected, shape, strict=True)):
                wanted = ", ".join(axis if e is None else str(e) for axis, e in zip(AXES[name], expected, strict=False))
                raise ValueError(f"`{_label(name)}` must have the shape ({wanted}). Received: {shape}")
        steps = shapes.get("future_covariates", (0, None))[1]
        needed = self.horizon if horizon is None else horizon
        if steps is not None and steps < needed:
            raise ValueError(
                f"`future_covariates` must cover the horizon, {needed} steps. Received: shape "
                f"{shapes['future_covariates']}"
            )

    def specs(self):
        """Returns the `tf.TensorSpec` of each input of a forecast, by name, of a model that is built."""
        sizes = self.sizes
        steps = {"steps": self.horizon}
        shapes = {
            name: [steps.get(axis) for axis in AXES[name][:-1]] + [sizes[name]] for name in SIZED if name in sizes
        }
        specs = {name: tf.TensorSpec(shape, tf.float32, name) for name, shape in shapes.items()}
        return {**specs, "past_mask": tf.TensorSpec(shapes["past"], tf.bool, "past_mask")}

    def convert(self, x, horizon=None):
        """Returns the inputs as a dict of NumPy arrays, float32 and booleans, after checking shapes and values."""
        inputs = {name: _as_array(name, value) for name, value in as_dict(x).items()}
        self.check_shapes(inputs, horizon)
        for name, value in inputs.items():
            if name not in _MASKS.values() and not np.all(np.isfinite(value) | ~mask_of(inputs, name)):
                raise ValueError(_not_finite(name))
        return inputs

    def convert_pair(self, x, y, sample_weight=None):
        """Returns `(x, y)`, or `(x, y, sample_weight)` if there are weights, as NumPy arrays, after checks."""
        if y is None:
            raise ValueError(f"`y` must be the targets, (batch, {self.horizon}, series). Received: None")
        inputs = self.convert({**as_dict(x), "targets": y})
        y = inputs.pop("targets")
        if sample_weight is None:
            return inputs, y
        weights = _expand_weights(_as_array("sample_weight", sample_weight), y.shape)
        if not np.all(np.isfinite(weights) & (weights >= 0)):
            raise ValueError(_BAD_WEIGHTS)
        return inputs, y, np.broadcast_to(weights, y.shape)

    def data(self, x, y=None, sample_weight=None):
        """Returns `x`, `y` and `sample_weight` for Keras's `fit` or `evaluate`, from data in any form."""
        if isinstance(x, tf.data.Dataset):
            return self._dataset(x), y, sample_weight
        if isinstance(x, keras.utils.PyDataset):
            return x if isinstance(x, PreparedBatches) else PreparedBatches(x, self._batch), y, sample_weight
        if isinstance(x, collections.abc.Iterator):
            return (self._batch(batch) for batch in x), y, sample_weight
        if isinstance(x, tf.distribute.DistributedDataset):
            return x, y, sample_weight
        if y is None:
            raise ValueError(
                "`y` must be the targets, unless `x` is a `tf.data.Dataset`, `keras.utils.PyDataset` or generator of "
                f"batches {_BATCH_FORMS}. Received: y=None and `x` of type {type(x).__name__}"
            )
        x, y, *weights = self.convert_pair(x, y, sample_weight)
        if len(y) == 0:
            raise ValueError("`x` and `y` must contain at least one sample. Received: none")
        return x, y, weights[0] if weights else None

    def validation_data(self, data):
        """Returns the `validation_data` for Keras's `fit`."""
        if not isinstance(data, (tuple, list)):
            return self.data(data)[0]
        if len(data) not in (2, 3):
            raise ValueError(f"`validation_data` must be {_BATCH_FORMS} or a dataset. Received: {len(data)} items")
        return tuple(part for part in self.data(*data) if part is not None)

    def sources(self, x, horizon):
        """Returns `x` for Keras's `predict`, from inputs in any form, with or without targets."""
        if isinstance(x, tf.data.Dataset):

            @tf.autograph.experimental.do_not_convert
            def check(x, *_):
                return self.checked_tensors(_without_targets(as_dict(x)), horizon)

            return x.map(check, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

        def convert(batch):
            return self.convert(_without_targets(as_dict(batch[0] if isinstance(batch, tuple) else batch)), horizon)

        if isinstance(x, keras.utils.PyDataset):
            return PreparedBatches(x, lambda batch, index: convert(batch))
        if isinstance(x, collections.abc.Iterator):
            return ((convert(batch),) for batch in x)
        return convert(x)

    def _batch(self, batch, index=None):
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise ValueError(f"Data must consist of batches {_BATCH_FORMS}. Received: {type(batch).__name__}")
        return self.convert_pair(*batch)

    def _dataset(self, dataset):
        spec = dataset.element_spec
        if not isinstance(spec, tuple) or len(spec) not in (2, 3):
            raise ValueError(f"Data must consist of batches {_BATCH_FORMS}. Received: {spec}")

        @tf.autograph.experimental.do_not_convert  # keeps error messages
        def check(x, y, sample_weight=None):
            inputs = self.checked_tensors({**as_dict(x), "targets": y})
            y = inputs.pop("targets")
            if sample_weight is None:
                return inputs, y
            weights = _expand_weights(tf.cast(sample_weight, tf.float32), y.shape)
            is_valid = tf.reduce_all(tf.math.is_finite(weights) & (weights >= 0))
            with tf.control_dependencies([tf.debugging.Assert(is_valid, [_BAD_WEIGHTS])]):
                return inputs, y, tf.broadcast_to(weights, tf.shape(y))

        return dataset.map(check, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def checked_tensors(self, inputs, horizon=None):
        """Returns a dict of tensors, float32 and booleans, with operations that check their values."""
        checks = []
        for name, value in inputs.items():
            if name in _MASKS.values() and value.dtype != tf.bool:
                is_valid = tf.reduce_all((value == 0) | (value == 1))
                message = f"`{name}` must be an array of booleans. Received: other values"
                checks.append(tf.debugging.Assert(is_valid, [message]))
        inputs = {
            name: tf.cast(value, tf.bool if name in _MASKS.values() else tf.float32) for name, value in inputs.items()
        }
        self.check_shapes(inputs, horizon)
        for name, value in inputs.items():
            if name not in _MASKS.values():
                is_valid = tf.reduce_all(tf.math.is_finite(value) | ~mask_of(inputs, name))
                checks.append(tf.debugging.Assert(is_valid, [_not_finite(name)]))
        with tf.control_dependencies([check for check in checks if check is not None]):
            return {name: tf.identity(value) for name, value in inputs.items()}


def mask_of(inputs, name):
    """Returns the mask of an input, booleans that broadcast to it: True where a value is observed, or must be there."""
    mask = inputs.get(_MASKS.get(name))
    if mask is None:
        return np.True_ if isinstance(inputs[name], np.ndarray) else tf.constant(True)
    return mask if len(mask.shape) == 3 else mask[:, :, None]


def _expand_weights(weights, shape):
    """Returns sample weights with as many axes as targets of this static shape, after checking theirs."""
    rank = len(weights.shape)
    is_valid = 1 <= rank <= 3
    if not is_valid or any(None not in pair and pair[0] != pair[1] for pair in zip(weights.shape, shape, strict=False)):
        raise ValueError(
            "`sample_weight` must have the shape (batch,), (batch, horizon) or (batch, horizon, series), for `y` of "
            f"shape {tuple(shape)}. Received: {tuple(weights.shape)}"
        )
    return weights[(..., *[None] * (3 - rank))]


def _without_targets(inputs):
    return {name: value for name, value in inputs.items() if name not in ("targets", "target_mask")}


def observed_values(inputs, name):
    """Returns "past" or "targets" (batch, time, series), float32, with zeros where values are missing."""
    return tf.where(mask_of(inputs, name), tf.cast(inputs[name], "float32"), 0.0)


def observed_flags(inputs, name):
    """Returns the flags of "past" or "targets" (batch, time, series), float32: 1 where a value is observed, else 0."""
    return tf.cast(mask_of(inputs, name), "float32") * tf.ones_like(inputs[name], "float32")


def check_positive(name, value):
    """Raises a ValueError unless `value`, the argument `name`, is a positive integer."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}")


def _as_array(name, value):
    """Returns a NumPy array of booleans for a mask, else of float32."""
    label = _label(name)
    try:
        array = np.asarray(value)
        if name in _MASKS.values():
            if array.dtype != bool and not np.all((array == 0) | (array == 1)):
                raise ValueError(f"values other than booleans, of dtype {array.dtype}")
            return array != 0  # as bytes 0 and 1: those of a view may be others
        if array.dtype.kind == "c":
            raise ValueError(f"values of dtype {array.dtype}")
        with np.errstate(over="ignore"):  # infinite values are an error if they count
            return array.astype("float32")
    except (TypeError, ValueError) as error:
        kind = "booleans" if name in _MASKS.values() else "numbers"
        raise ValueError(f"`{label}` must be an array of {kind}. Received: {error}") from None


def _check_rank(name, shape):
    ranks = (2, 3) if name in _MASKS.values() else (len(AXES[name]),)
    if tf.TensorShape(shape).rank not in ranks:
        axes = ", ".join(AXES[name])
        received = shape if isinstance(shape, tf.TensorShape) else tuple(shape)
        raise ValueError(f"`{_label(name)}` must have the shape ({axes}). Received: {received}")


def _label(name):
    return "y" if name == "targets" else name


def _not_finite(name):
    mask = _MASKS.get(name)
    hint = f" where `{mask}` is True, or everywhere without a mask" if mask else ""
    return f"`{_label(name)}` must be finite{hint}. Received: NaN or infinite values"

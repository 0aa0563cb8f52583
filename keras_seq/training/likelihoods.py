# SPDX-License-Identifier: Apache-2.0
"""What a `Forecaster` predicts of each value: a number, a distribution or quantiles, with the loss that trains it."""

import math
import numbers

import keras
import numpy as np
from keras import ops

from keras_seq._lazy_tensorflow import tf

_BISECTIONS = 60  # halve the interval to less than the spacing of float64


class Likelihood:
    """Base class of the outputs of a `keras_seq.Forecaster`.

    A model computes `num_parameters` raw outputs for each value. `parameters` maps them to the parameters of a
    distribution, and all other methods take these. All are computed in float32.

    A subclass sets `num_parameters` and `is_distribution`, and implements `parameters`, `loss`, `mean`, `quantile`,
    `sample` and, if it has arguments, `get_config`. Register it with `keras.saving.register_keras_serializable`.
    """

    num_parameters = 1
    is_distribution = True  # whether there are quantiles and samples

    def parameters(self, raw):
        """Returns the parameters (..., num_parameters), float32, from raw outputs of the same shape."""
        raise NotImplementedError

    def loss(self, y, parameters):
        """Returns the loss (...) of values y (...)."""
        raise NotImplementedError

    def mean(self, parameters):
        """Returns the point forecast (...)."""
        raise NotImplementedError

    def quantile(self, parameters, level):
        """Returns the values (...) that are not exceeded with probability `level`, in (0, 1): a number or (...)."""
        raise NotImplementedError

    def sample(self, parameters, uniforms):
        """Returns a draw (...) from the distribution.

        Args:
            parameters: (..., num_parameters).
            uniforms: (..., 2), random numbers in the open interval (0, 1).
        """
        raise NotImplementedError

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("keras_seq")
class Point(Likelihood):
    """A point forecast m, without a distribution.

    The loss of a value y, with the error `e = y - m`, is

    - "mse": `e^2`. The best m is the mean.
    - "mae": `|e|`. The best m is the median.
    - "huber": `e^2 / 2` for `|e| <= delta`, else `delta (|e| - delta / 2)` (Huber 1964).

    Args:
        error: "mse", "mae" or "huber".
        delta: the error, of scaled values, at which "huber" changes from squares to absolute values.

    Example:
        >>> output = Point("huber")
        >>> output.loss(np.float32([0.5, 3.0]), np.float32([[0.0], [0.0]])).numpy().tolist()
        [0.125, 2.5]
    """

    is_distribution = False

    def __init__(self, error="mse", delta=1.0):
        if error not in ("mse", "mae", "huber"):
            raise ValueError(f"`error` must be 'mse', 'mae' or 'huber'. Received: {error!r}")
        if not isinstance(delta, numbers.Real) or not 0 < delta < math.inf:
            raise ValueError(f"`delta` must be a positive number. Received: {delta!r}")
        self.error = error
        self.delta = delta

    def parameters(self, raw):
        return ops.cast(raw, "float32")

    def loss(self, y, parameters):
        error = y - parameters[..., 0]
        if self.error == "mse":
            return ops.square(error)
        size = ops.abs(error)
        if self.error == "mae":
            return size
        return ops.where(size <= self.delta, ops.square(error) / 2, self.delta * (size - self.delta / 2))

    def mean(self, parameters):
        return parameters[..., 0]

    def quantile(self, parameters, level):
        raise no_distribution(self)

    def sample(self, parameters, uniforms):
        raise no_distribution(self)

    def get_config(self):
        return {"error": self.error, "delta": self.delta}


@keras.saving.register_keras_serializable("keras_seq")
class Gaussian(Likelihood):
    """A normal distribution with mean m and standard deviation s (Salinas et al. 2020).

    From raw outputs a, b: `m = a`, `s = min_scale + softplus(b)`. The loss of a value y is the negative log-likelihood
    `((y - m) / s)^2 / 2 + log(s) + log(2 pi) / 2`.

    Args:
        min_scale: smallest standard deviation, of scaled values.

    Example:
        >>> output = Gaussian()
        >>> parameters = np.float32([[0.0, 1.0]])  # m, s
        >>> round(float(output.loss(0.0, parameters)[0]), 4)
        0.9189
        >>> round(float(output.quantile(parameters, 0.95)[0]), 3)
        1.645
    """

    num_parameters = 2

    def __init__(self, min_scale=1e-4):
        self.min_scale = _check_min_scale(min_scale)

    def parameters(self, raw):
        raw = ops.cast(raw, "float32")
        return ops.stack([raw[..., 0], self.min_scale + ops.softplus(raw[..., 1])], axis=-1)

    def loss(self, y, parameters):
        mean, scale = parameters[..., 0], parameters[..., 1]
        return ops.square((y - mean) / scale) / 2 + ops.log(scale) + math.log(2 * math.pi) / 2

    def mean(self, parameters):
        return parameters[..., 0]

    def quantile(self, parameters, level):
        return parameters[..., 0] + parameters[..., 1] * ops.cast(tf.math.ndtri(_as_double(level)), "float32")

    def sample(self, parameters, uniforms):
        return parameters[..., 0] + parameters[..., 1] * _normal(uniforms)

    def get_config(self):
        return {"min_scale": self.min_scale}


@keras.saving.register_keras_serializable("keras_seq")
class StudentT(Likelihood):
    """A Student t distribution with location m, scale s and v degrees of freedom, for values with outliers.

    From raw outputs a, b, c: `m = a`, `s = min_scale + softplus(b)`, `v = 2.01 + softplus(c)`, so that the variance
    `s^2 v / (v - 2)` is finite. With `z = (y - m) / s`, the loss of a value y is the negative log-likelihood
    `(v + 1) / 2 log(1 + z^2 / v) + log(s) + log(v pi) / 2 + lgamma(v / 2) - lgamma((v + 1) / 2)`.

    Draws use the polar method of Bailey (1994), `m + s sqrt(v (p^(-2 / v) - 1)) cos(2 pi q)` for uniform p and q.

    Args:
        min_scale: smallest s, of scaled values.

    Example:
        >>> output = StudentT()
        >>> parameters = np.float32([[0.0, 1.0, 3.0]])  # m, s, v
        >>> round(float(output.loss(2.0, parameters)[0]), 4)
        2.6955
        >>> round(float(output.quantile(parameters, 0.95)[0]), 3)
        2.353
    """

    num_parameters = 3

    def __init__(self, min_scale=1e-4):
        self.min_scale = _check_min_scale(min_scale)

    def parameters(self, raw):
        raw = ops.cast(raw, "float32")
        scale = self.min_scale + ops.softplus(raw[..., 1])
        return ops.stack([raw[..., 0], scale, 2.01 + ops.softplus(raw[..., 2])], axis=-1)

    def loss(self, y, parameters):
        location, scale, freedom = ops.unstack(parameters, axis=-1)
        double = ops.cast(freedom, "float64")  # in float32 the difference is lost for many degrees of freedom
        constant = ops.cast(tf.math.lgamma(double / 2) - tf.math.lgamma((double + 1) / 2), "float32")
        tail = (freedom + 1) / 2 * ops.log1p(ops.square((y - location) / scale) / freedom)
        return tail + ops.log(scale) + ops.log(freedom * math.pi) / 2 + constant

    def mean(self, parameters):
        return parameters[..., 0]

    def quantile(self, parameters, level):
        location, scale, freedom = ops.unstack(parameters, axis=-1)
        return location + scale * ops.cast(_student_t_quantile(freedom, level), "float32")

    def sample(self, parameters, uniforms):
        location, scale, freedom = ops.unstack(parameters, axis=-1)
        radius = ops.sqrt(freedom * ops.expm1(-2 / freedom * ops.log(uniforms[..., 0])))
        return location + scale * radius * ops.cos(2 * math.pi * uniforms[..., 1])

    def get_config(self):
        return {"min_scale": self.min_scale}


@keras.saving.register_keras_serializable("keras_seq")
class Quantiles(Likelihood):
    """Quantiles at given levels, without a family of distributions (Koenker & Bassett 1978; Wen et al. 2017).

    The parameters are the quantiles `q_1 <= q_2 <= ...`. From raw outputs a, b_2, b_3, ...: the quantile in the middle
    of the list is a, and the others follow at distances `softplus(b_i)`, so that quantiles never cross. The loss of a
    value y is twice the mean of the pinball losses `max(p (y - q), (p - 1) (y - q))` over the levels p. For the level
    0.5 alone it is the absolute error.

    The point forecast is the median. Between the levels, quantiles are interpolated linearly; below the lowest and
    above the highest level they are those of these levels, and so are samples. Include the outermost levels that
    you need.

    Args:
        levels: ascending numbers in (0, 1).

    Example:
        >>> output = Quantiles([0.1, 0.5, 0.9])
        >>> quantiles = np.float32([[-1.0, 0.0, 1.0]])
        >>> round(float(output.loss(np.float32([2.0]), quantiles)[0]), 4)
        1.4667
        >>> round(float(output.quantile(quantiles, 0.7)[0]), 4)
        0.5
    """

    def __init__(self, levels=(0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)):
        self.levels = check_levels("levels", levels)
        if not self.levels or any(high <= low for low, high in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError(f"`levels` must be ascending numbers in (0, 1), at least one. Received: {levels!r}")
        self.num_parameters = len(self.levels)

    def parameters(self, raw):
        raw = ops.cast(raw, "float32")
        steps = ops.concatenate([ops.zeros_like(raw[..., :1]), ops.softplus(raw[..., 1:])], axis=-1)
        offsets = ops.cumsum(steps, axis=-1)
        middle = self.num_parameters // 2
        return raw[..., :1] + offsets - offsets[..., middle : middle + 1]

    def loss(self, y, parameters):
        error = ops.expand_dims(y, -1) - parameters
        levels = ops.convert_to_tensor(self.levels, "float32")
        return 2 * ops.mean(ops.maximum(levels * error, (levels - 1) * error), axis=-1)

    def mean(self, parameters):
        return self.quantile(parameters, 0.5)

    def quantile(self, parameters, level):
        level = ops.expand_dims(ops.cast(level, "float32"), -1)
        if self.num_parameters == 1:
            return parameters[..., 0] + 0 * level[..., 0]
        levels = ops.convert_to_tensor(self.levels, "float32")
        # Each interval contributes the share of it that lies below the level.
        shares = ops.clip((level - levels[:-1]) / (levels[1:] - levels[:-1]), 0, 1)
        return parameters[..., 0] + ops.sum(shares * (parameters[..., 1:] - parameters[..., :-1]), axis=-1)

    def sample(self, parameters, uniforms):
        return self.quantile(parameters, uniforms[..., 0])

    def get_config(self):
        return {"levels": list(self.levels)}


_NAMES = {
    "mse": lambda: Point("mse"),
    "mae": lambda: Point("mae"),
    "huber": lambda: Point("huber"),
    "gaussian": Gaussian,
    "student_t": StudentT,
    "quantiles": Quantiles,
}


def get_likelihood(output):
    """Returns the `Likelihood` with a name, such as "gaussian"; a `Likelihood` is returned unchanged."""
    if isinstance(output, Likelihood):
        return output
    if not isinstance(output, str) or output not in _NAMES:
        raise ValueError(
            f"`output` must be one of {sorted(_NAMES)} or a `keras_seq.training.Likelihood`. Received: {output!r}"
        )
    return _NAMES[output]()


def check_levels(name, levels):
    """Returns quantile levels as a tuple of floats after checking that they are in (0, 1)."""
    values = tuple(levels) if isinstance(levels, (list, tuple, np.ndarray)) else (levels,)
    if not all(isinstance(value, numbers.Real) and 0 < value < 1 for value in values):
        raise ValueError(f"`{name}` must be numbers in (0, 1). Received: {levels!r}")
    return tuple(map(float, values))


def _check_min_scale(min_scale):
    if not isinstance(min_scale, numbers.Real) or not 0 < min_scale < math.inf:
        raise ValueError(f"`min_scale` must be a positive number. Received: {min_scale!r}")
    return min_scale


def no_distribution(output):
    """Returns the error of an output that has no quantiles and samples."""
    return ValueError(
        "Quantiles and samples need an `output` with a distribution: 'gaussian', 'student_t' or 'quantiles'. With "
        "another one use `predict`, or `forecast` with `quantiles=()`. "
        f"Received: {output.error!r}"
    )


def _as_double(level):
    """Returns a level as float64. TensorFlow would make a Python number a float32 first, which is coarse near 1."""
    return ops.convert_to_tensor(level, "float64") if isinstance(level, numbers.Real) else ops.cast(level, "float64")


def _normal(uniforms):
    """Returns normally distributed numbers (...) from uniform ones (..., 2), by the method of Box and Muller (1958)."""
    return ops.sqrt(-2 * ops.log(uniforms[..., 0])) * ops.cos(2 * math.pi * uniforms[..., 1])


def _student_t_quantile(freedom, level):
    """Returns quantiles (...) of Student t distributions with location 0 and scale 1, float64.

    With `x = v / (v + t^2)`, both tails beyond t have the probability `I_x(v / 2, 1 / 2)`, the regularized incomplete
    beta function (Abramowitz & Stegun 1964, 26.7.1). It is inverted by bisection of log(x), in which it increases.
    """
    level, freedom = _as_double(level), ops.cast(freedom, "float64")
    level, freedom = level + 0 * freedom, freedom + 0 * level  # broadcast
    tails = 2 * ops.minimum(level, 1 - level)
    # I_x is at most about x^(v / 2), so the solution is above this.
    low, high = 2 / freedom * ops.log(tails) - 4, ops.zeros_like(tails)
    half = ops.full_like(tails, 0.5)

    def body(i, low, high):
        middle = (low + high) / 2
        is_above = tf.math.betainc(freedom / 2, half, ops.exp(middle)) > tails
        return i + 1, ops.where(is_above, low, middle), ops.where(is_above, middle, high)

    _, low, high = tf.while_loop(lambda i, *_: i < _BISECTIONS, body, (0, low, high), maximum_iterations=_BISECTIONS)
    return ops.sign(level - 0.5) * ops.sqrt(freedom * ops.expm1(-(low + high) / 2))

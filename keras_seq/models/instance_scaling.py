# SPDX-License-Identifier: Apache-2.0
"""Instance scaling: each series of each sample is brought to a common scale by statistics of its own past."""

from typing import NamedTuple

from keras import ops

SCALINGS = ("standard", "mean_abs", None)
_LEAST_SPREAD = 1e-6  # relative to the largest value: less is rounding, and the series counts as constant


class InstanceScale(NamedTuple):
    """The affine map between values in the units of the data and scaled values: `value = scaled * scale + shift`."""

    shift: object  # (batch, series) float32
    scale: object  # (batch, series) float32, positive

    def apply(self, values):
        """Scales values (batch, time, series)."""
        return (values - self.shift[:, None]) / self.scale[:, None]

    def undo(self, scaled):
        """Returns scaled values (batch, ..., series) in the units of the data."""
        shape = (-1, *[1] * (len(scaled.shape) - 2), self.scale.shape[-1])
        return scaled * ops.reshape(self.scale, shape) + ops.reshape(self.shift, shape)


def measure_scale(past, observed, scaling):
    """Returns the `InstanceScale` of series.

    Args:
        past: (batch, time, series) float32, finite, zeros where missing.
        observed: (batch, time, series) float32, 1 where a value is observed, else 0.
        scaling: "standard": shift by the mean and scale by the standard deviation (over n) of the observed values.
            "mean_abs": scale by the mean of their absolute values. None: neither. Where the scale would be 0, because a
            series is constant or missing, it is 1.
    """
    zeros, ones = ops.zeros_like(past[:, 0]), ops.ones_like(past[:, 0])
    if scaling is None:
        return InstanceScale(zeros, ones)
    count = ops.maximum(ops.sum(observed, axis=1), 1)
    largest = ops.max(ops.abs(past), axis=1)
    largest = ops.where(largest > 0, largest, 1)
    relative = past / largest[:, None]  # in [-1, 1], so that squares do not overflow
    if scaling == "mean_abs":
        scale = ops.sum(ops.abs(relative), axis=1) / count
        return InstanceScale(zeros, _positive(scale * largest))
    mean = ops.sum(relative, axis=1) / count
    variance = ops.sum(observed * ops.square(relative - mean[:, None]), axis=1) / count
    varies = variance > _LEAST_SPREAD**2
    deviation = ops.sqrt(ops.where(varies, variance, 1))
    return InstanceScale(mean * largest, _positive(ops.where(varies, deviation * largest, 1)))


def _positive(scale):
    """Returns a scale with 1 in place of 0: that of a missing series, or of one so small that its scale underflows."""
    return ops.where(scale > 0, scale, 1)

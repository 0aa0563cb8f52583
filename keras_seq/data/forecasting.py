# SPDX-License-Identifier: Apache-2.0
"""Windows of series for a `Forecaster`."""

import numpy as np


def forecasting_windows(
    series, past, horizon, *, known_covariates=None, observed_covariates=None, static=None, stride=1
):
    """Cuts series into overlapping windows of past and horizon, to train a `keras_seq.Forecaster` on.

    Window i begins at step `i * stride`: its past is the next `past` steps, its targets are the `horizon` steps
    after these. Missing values are NaN; the windows then have masks.

    Args:
        series: (time,) or (time, series), at regular time steps.
        past: number of steps of the past.
        horizon: number of steps to forecast.
        known_covariates: (time, features), known ahead, such as the hour of the day, or None.
        observed_covariates: (time, features), known for the past only, or None. They come after the known ones in
            `past_covariates`.
        static: (features,), the same for all windows, or None.
        stride: number of steps between windows.

    Returns:
        `(x, y)`: the dict of inputs, and the targets (windows, horizon, series), float32 NumPy arrays. The dict has
        `past` (windows, past, series); with covariates `past_covariates` (windows, past, features) and
        `future_covariates` (windows, horizon, features); `static` (windows, features); and if values are missing
        `past_mask` and `target_mask`, booleans in the shapes of `past` and the targets, True = observed.

    Raises:
        ValueError: if shapes do not fit, or if the series are shorter than a window.

    Example:
        >>> x, y = forecasting_windows([0, 1, 2, np.nan, 4, 5], past=3, horizon=2)
        >>> x["past"][:, :, 0].tolist(), y[:, :, 0].tolist()
        ([[0.0, 1.0, 2.0], [1.0, 2.0, nan]], [[nan, 4.0], [4.0, 5.0]])
        >>> x["past_mask"][:, :, 0].tolist()
        [[True, True, True], [True, True, False]]
    """
    for name, value in (("past", past), ("horizon", horizon), ("stride", stride)):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}")
    series = np.asarray(series, "float32")
    series = series[:, None] if series.ndim == 1 else series
    if series.ndim != 2 or len(series) < past + horizon:
        raise ValueError(
            "`series` must be (time,) or (time, series), with at least past + horizon = "
            f"{past + horizon} steps. Received: shape {series.shape}"
        )
    known = _covariates("known_covariates", known_covariates, series)
    observed = _covariates("observed_covariates", observed_covariates, series)

    def cut(values):
        windows = np.lib.stride_tricks.sliding_window_view(values, past + horizon, axis=0)[::stride]
        windows = np.moveaxis(windows, -1, 1)  # (windows, past + horizon, features)
        return np.ascontiguousarray(windows[:, :past]), np.ascontiguousarray(windows[:, past:])

    inputs = {}
    inputs["past"], y = cut(series)
    if np.isnan(series).any():
        inputs["past_mask"], inputs["target_mask"] = ~np.isnan(inputs["past"]), ~np.isnan(y)
    covariates = [values for values in (known, observed) if values is not None]
    if covariates:
        inputs["past_covariates"] = cut(np.concatenate(covariates, axis=1))[0]
    if known is not None:
        inputs["future_covariates"] = cut(known)[1]
    if static is not None:
        static = np.asarray(static, "float32")
        if static.ndim != 1:
            raise ValueError(f"`static` must be (features,). Received: shape {static.shape}")
        inputs["static"] = np.tile(static, (len(y), 1))
    return inputs, y


def _covariates(name, values, series):
    if values is None:
        return None
    values = np.asarray(values, "float32")
    if values.ndim != 2 or len(values) != len(series):
        raise ValueError(f"`{name}` must be (time, features), with {len(series)} steps. Received: shape {values.shape}")
    return values

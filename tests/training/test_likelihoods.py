# SPDX-License-Identifier: Apache-2.0
"""The outputs of a forecaster agree with SciPy: losses, gradients, quantiles and draws."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from conftest import draw

from keras_seq.training import Gaussian, Likelihood, Point, Quantiles, StudentT
from keras_seq.training.likelihoods import get_likelihood

LEVELS = (0.1, 0.25, 0.5, 0.9)
OUTPUTS = {
    "mse": Point("mse"),
    "mae": Point("mae"),
    "huber": Point("huber", delta=0.7),
    "gaussian": Gaussian(),
    "student_t": StudentT(),
    "quantiles": Quantiles(LEVELS),
}
DISTRIBUTIONS = {name: output for name, output in OUTPUTS.items() if output.is_distribution}
every_output = pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
every_distribution = pytest.mark.parametrize("output", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)


def scipy_distribution(output, parameters):
    parameters = np.asarray(parameters, "float64")
    if isinstance(output, Gaussian):
        return scipy.stats.norm(parameters[..., 0], parameters[..., 1])
    return scipy.stats.t(parameters[..., 2], parameters[..., 0], parameters[..., 1])


@pytest.mark.parametrize("output", [Gaussian(), StudentT()], ids=["gaussian", "student_t"])
def test_the_loss_is_the_negative_log_likelihood_of_scipy(output):
    raw = 8 * draw(200, output.num_parameters)  # scales from 1e-4 to 20
    parameters = output.parameters(raw)
    y = draw(200, seed=1) * 3
    expected = -scipy_distribution(output, parameters).logpdf(y)
    np.testing.assert_allclose(output.loss(y, parameters), expected, rtol=2e-5, atol=1e-5)


def test_student_t_loss_holds_from_two_to_a_million_degrees_of_freedom():
    freedom = np.float32([2.01, 3, 30, 1e3, 1e4, 1e6])
    parameters = np.stack([0 * freedom, 1 + 0 * freedom, freedom], axis=-1)
    expected = -scipy.stats.t.logpdf(1.5, freedom.astype("float64"))
    np.testing.assert_allclose(StudentT().loss(1.5, parameters), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mse", lambda error: error**2),
        ("mae", np.abs),
        ("huber", lambda error: np.where(abs(error) <= 0.7, error**2 / 2, 0.7 * (abs(error) - 0.35))),
    ],
)
def test_point_losses(name, expected):
    y, parameters = draw(50), draw(50, 1, seed=1)
    error = y.astype("float64") - parameters[:, 0]
    np.testing.assert_allclose(OUTPUTS[name].loss(y, parameters), expected(error), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("level", LEVELS)
def test_quantile_loss_is_least_at_the_quantile_of_the_data(level):
    data = draw(501)
    candidates = np.linspace(-2, 2, 401, dtype="float32")
    losses = Quantiles([level]).loss(data[:, None], np.tile(candidates[:, None], (501, 1, 1)))
    best = candidates[np.argmin(np.mean(losses, axis=0))]
    assert best == pytest.approx(np.quantile(data, level), abs=0.02)


def test_the_loss_of_the_median_alone_is_the_absolute_error():
    y, parameters = draw(20), draw(20, 1, seed=1)
    np.testing.assert_allclose(Quantiles([0.5]).loss(y, parameters), np.abs(y - parameters[:, 0]), rtol=1e-6)


@every_output
def test_gradients_are_those_of_finite_differences(output):
    raw, y = tf.constant(draw(5, output.num_parameters)), draw(5, seed=1)

    def total(raw):
        return tf.reduce_sum(output.loss(y, output.parameters(raw)))

    with tf.GradientTape() as tape:
        tape.watch(raw)
        loss = total(raw)
    gradient = tape.gradient(loss, raw).numpy()
    for index in np.ndindex(*raw.shape):
        step = np.zeros(raw.shape, "float32")
        step[index] = 1e-2
        difference = (total(raw + step) - total(raw - step)) / 2e-2
        assert gradient[index] == pytest.approx(float(difference), abs=3e-3)


@pytest.mark.parametrize("output", [Gaussian(), StudentT()], ids=["gaussian", "student_t"])
def test_quantiles_are_those_of_scipy(output):
    parameters = output.parameters(3 * draw(30, output.num_parameters))
    for level in (1e-5, 0.05, 0.3, 0.5, 0.9, 0.9999):
        expected = scipy_distribution(output, parameters).ppf(level)
        np.testing.assert_allclose(output.quantile(parameters, level), expected, rtol=1e-4, atol=1e-5)


@every_distribution
def test_draws_have_the_distribution(output):
    parameters = output.parameters(draw(output.num_parameters))
    uniforms = np.random.default_rng(0).uniform(2**-24, 1, (20_000, 2)).astype("float32")
    samples = np.asarray(output.sample(np.tile(parameters, (len(uniforms), 1)), uniforms))
    assert np.all(np.isfinite(samples))
    if isinstance(output, Quantiles):
        expected = [float(output.quantile(parameters, level)) for level in LEVELS]
        np.testing.assert_allclose(np.quantile(samples, LEVELS), expected, atol=0.03)
    else:
        assert scipy.stats.kstest(samples, scipy_distribution(output, parameters).cdf).pvalue > 1e-3


def test_quantiles_never_cross_and_interpolate_between_levels():
    output = Quantiles(LEVELS)
    raw = 10 * draw(100, 4)
    parameters = np.asarray(output.parameters(raw))
    assert np.all(np.diff(parameters) >= 0)
    np.testing.assert_allclose(parameters[:, 2], raw[:, 0], rtol=1e-4, atol=1e-4)  # the one in the middle of the list
    for level in (0.01, 0.1, 0.2, 0.5, 0.83, 0.99):
        expected = [np.interp(level, LEVELS, row) for row in parameters]
        np.testing.assert_allclose(output.quantile(parameters, level), expected, rtol=1e-4, atol=1e-4)


@every_output
def test_parameters_are_float32_and_finite_for_raw_outputs_of_any_size(output):
    raw = tf.constant(np.float32([-1e4, 0, 1e4])[:, None] * np.ones(output.num_parameters, "float32"), "bfloat16")
    parameters = output.parameters(raw)
    assert parameters.dtype == "float32"
    assert np.all(np.isfinite(output.loss(np.zeros(3, "float32"), parameters)))


@every_output
def test_a_configuration_makes_an_equal_output(output):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(output))
    assert type(copy) is type(output)
    assert copy.get_config() == output.get_config()
    raw, y = draw(5, output.num_parameters), draw(5, seed=1)
    np.testing.assert_array_equal(copy.loss(y, copy.parameters(raw)), output.loss(y, output.parameters(raw)))


def test_outputs_have_names():
    for name, output in OUTPUTS.items():
        assert type(get_likelihood(name)) is type(output)
    own = type("Own", (Likelihood,), {})()
    assert get_likelihood(own) is own


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Point("rmse"), "`error` must be 'mse', 'mae' or 'huber'. Received: 'rmse'"),
        (lambda: Point("huber", delta=0), "`delta` must be a positive number. Received: 0"),
        (lambda: Gaussian(min_scale=0), "`min_scale` must be a positive number. Received: 0"),
        (lambda: Quantiles([0.5, 0.1]), "`levels` must be ascending"),
        (lambda: Quantiles([]), "`levels` must be ascending"),
        (lambda: Quantiles([0.0, 0.5]), "`levels` must be numbers in (0, 1). Received: [0.0, 0.5]"),
        (lambda: get_likelihood("normal"), "`output` must be one of"),
        (lambda: Point().quantile(draw(1, 1), 0.5), "need an `output` with a distribution"),
        (lambda: Point().sample(draw(1, 1), draw(1, 2)), "need an `output` with a distribution"),
    ],
)
def test_a_bad_argument_gives_one_clear_error(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)

# SPDX-License-Identifier: Apache-2.0
"""`readout_crossentropy` against NumPy, in float64: its loss, its gradients, and what it tells of each row."""

import loss_references
import numpy as np
import pytest
import tensorflow as tf

from keras_seq.ops import native, readout_crossentropy

BATCH, TIME, DEPTH, VOCABULARY = 3, 5, 4, 7
TOLERANCES = {"float32": 2e-6, "float64": 1e-13}


def draw(dtype="float64", seed=0):
    """Features, kernel, bias, targets of which some are negative, and weights."""
    rng = np.random.default_rng(seed)
    shapes = [(BATCH, TIME, DEPTH), (DEPTH, VOCABULARY), (VOCABULARY,)]
    targets = rng.integers(-2, VOCABULARY, (BATCH, TIME))
    return [*(rng.normal(size=shape).astype(dtype) for shape in shapes), targets, rng.random((BATCH, TIME))]


def with_gradients(*arguments, **options):
    """The results of `readout_crossentropy`, and the gradients of three times the loss."""
    tensors = [tf.convert_to_tensor(x) for x in arguments[:3]]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        loss, *rest = readout_crossentropy(*tensors, *arguments[3:], **options)
        tripled = 3 * loss
    return loss, *rest, *tape.gradient(tripled, tensors)


def assert_matches(results, arguments, smoothing, tolerance):
    loss, losses, predictions, *gradients = loss_references.readout_crossentropy(*arguments, smoothing)
    expected = [loss, losses, predictions, *(3 * gradient for gradient in gradients)]
    for result, wanted in zip(results, expected[: len(results)], strict=True):
        np.testing.assert_allclose(result, wanted, rtol=10 * tolerance, atol=tolerance)


@pytest.fixture(params=["native", "xla"])
def kernel_or_not(request, monkeypatch):
    """Runs a test with the native kernel of the loss, if there is one, and without."""
    if request.param == "native":
        if native.unavailable():
            pytest.skip(native.unavailable())
    else:
        monkeypatch.setattr(native, "unavailable", lambda: "not in this test")


@pytest.mark.usefixtures("kernel_or_not")
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("rows_per_chunk", [None, 4, 1])
def test_loss_and_gradients_are_those_of_all_rows_at_once(dtype, rows_per_chunk):
    for smoothing in (0.0, 0.2):
        arguments = draw(dtype)
        options = {"label_smoothing": smoothing, "rows_per_chunk": rows_per_chunk}
        assert_matches(with_gradients(*arguments, **options), arguments, smoothing, TOLERANCES[dtype])
        results = readout_crossentropy(*arguments, **options, compute_gradient=False)
        assert_matches(results, arguments, smoothing, TOLERANCES[dtype])
        assert results[0].dtype.name == results[1].dtype.name == dtype


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_in_a_graph_for_any_number_of_rows(jit_compile):
    """Also without a row, and without a row that counts."""

    def run(*arguments):
        return with_gradients(*arguments, label_smoothing=0.1, rows_per_chunk=2)

    shapes = [[None, None, DEPTH], [DEPTH, VOCABULARY], [VOCABULARY], [None, None], [None, None]]
    dtypes = [tf.float64] * 3 + [tf.int64, tf.float64]
    signature = [tf.TensorSpec(*pair) for pair in zip(shapes, dtypes, strict=True)]
    compiled = tf.function(run, input_signature=signature, jit_compile=jit_compile)
    features, kernel, bias, targets, weights = draw()
    for rows in (slice(None), slice(0, 1)) if jit_compile else (slice(None), slice(0, 1), slice(0, 0)):
        for wanted in (targets, np.full_like(targets, -1), np.abs(targets)):
            arguments = [features[rows], kernel, bias, wanted[rows], weights[rows]]
            assert_matches(compiled(*arguments), arguments, 0.1, 1e-13)


@pytest.mark.usefixtures("kernel_or_not")
def test_gradients_are_slopes_of_the_loss():
    """By finite differences."""
    *arguments, targets, weights = draw(seed=1)
    gradients = with_gradients(*arguments, targets, weights, label_smoothing=0.3)[3:]
    for i, gradient in enumerate(gradients):
        direction = np.random.default_rng(i).normal(size=arguments[i].shape)
        ends = []
        for step in (1e-5, -1e-5):
            moved = [x + step * direction if j == i else x for j, x in enumerate(arguments)]
            ends.append(readout_crossentropy(*moved, targets, weights, 0.3)[0])
        np.testing.assert_allclose(3 * (ends[0] - ends[1]) / 2e-5, np.sum(gradient * direction), rtol=1e-7)


def test_without_bias_and_without_weight():
    features, kernel, bias, targets, weights = draw()
    results = readout_crossentropy(features, kernel, None, targets, weights)
    assert_matches(results, [features, kernel, 0 * bias, targets, weights], 0, 1e-13)
    loss, losses, _, *gradients = with_gradients(features, kernel, bias, targets, 0 * weights)
    assert loss == 0
    assert not any(np.any(gradient) for gradient in gradients)
    np.testing.assert_array_equal(losses, readout_crossentropy(features, kernel, bias, targets, weights)[1])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_summed_in_float32(dtype):
    features, kernel, bias, targets, weights = draw()
    rounded = [tf.cast(x, dtype) for x in (features, kernel, bias)]
    weights = 1e-6 * weights  # times a probability beneath the smallest float16
    loss, losses, _, *gradients = with_gradients(*rounded, targets, weights)
    assert (loss.dtype, losses.dtype) == (tf.float32, tf.float32)
    exact = loss_references.readout_crossentropy(
        *(tf.cast(x, tf.float64).numpy() for x in rounded), targets, weights, 0
    )
    np.testing.assert_allclose(loss, exact[0], rtol=2e-2)
    for gradient, wanted in zip(gradients, exact[3:], strict=True):
        assert gradient.dtype == dtype
        error = np.linalg.norm(np.asarray(tf.cast(gradient, tf.float64)) - 3 * wanted)
        assert error < (0.02 if dtype == "bfloat16" else 0.1) * 3 * np.linalg.norm(wanted)


@pytest.mark.usefixtures("kernel_or_not")
def test_huge_logits_are_finite_and_rows_that_do_not_count_may_be_nan():
    features, kernel, bias, targets, weights = draw("float32")
    features[0] *= 1e30
    features[targets < 0] = np.nan
    results = with_gradients(features, kernel, bias, targets, weights.astype("float32"), rows_per_chunk=4)
    assert all(np.all(np.isfinite(result)) for result in results)
    features[targets >= 0] = np.nan
    loss, losses, *_ = readout_crossentropy(features, kernel, bias, targets, weights)
    assert np.isnan(loss)
    np.testing.assert_array_equal(np.isnan(losses), targets >= 0)


def test_a_target_outside_the_vocabulary_is_not_taken_for_another_token():
    """XLA, and GPUs in a graph, do not raise an error."""
    features, kernel, bias, targets, weights = draw()
    targets[0, 0] = VOCABULARY
    function = tf.function(readout_crossentropy, autograph=False, jit_compile=True)
    loss, losses, _ = function(features, kernel, bias, targets, weights)
    assert np.isnan(loss)
    np.testing.assert_array_equal(np.isnan(losses), targets == VOCABULARY)


def test_the_kernel_refuses_arguments_that_do_not_fit():
    if native.unavailable():
        pytest.skip(native.unavailable())
    arguments = {"label_smoothing": 0.0, "with_gradient": True}
    logits = tf.zeros((2, 3))
    for targets, weights in (([3, 0], [1.0, 1.0]), ([0, 0], [1.0]), ([0], [1.0])):
        with pytest.raises(tf.errors.InvalidArgumentError, match="targets"):
            native.crossentropy(logits, tf.constant(targets), tf.constant(weights), **arguments)
    results = native.crossentropy(tf.zeros((0, 2**40)), tf.zeros((0,), "int32"), tf.zeros((0,)), **arguments)
    assert results[-1].shape == (0, 2**40)

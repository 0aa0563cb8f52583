# SPDX-License-Identifier: Apache-2.0
"""ActivationRegularization: AR and TAR by their definitions, over unmasked steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import JIT, MODES, assert_close

from keras_seq.layers.regularization import ActivationRegularization

AR, TAR = 2.0, 3.0
BATCH, TIME, FEATURES = 3, 5, 4
X = np.random.default_rng(0).normal(size=(BATCH, TIME, FEATURES)).astype("float32")
MASKS = {
    "none": None,
    "all": np.ones((BATCH, TIME), bool),
    "lengths": np.arange(TIME) < np.array([[5], [3], [1]]),
    "holes": np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]], bool),
    "nothing": np.zeros((BATCH, TIME), bool),
}


def reference(x, mask):
    """AR and TAR, computed step by step."""
    mask = np.ones(x.shape[:2], bool) if mask is None else mask
    squares, steps = [], []
    for sequence, visible in zip(x.astype("float64"), mask, strict=True):
        for t in range(len(sequence)):
            if visible[t]:
                squares.extend(sequence[t] ** 2)
            if t and visible[t] and visible[t - 1]:
                steps.extend((sequence[t] - sequence[t - 1]) ** 2)
    return [c * (np.mean(values) if values else 0.0) for c, values in ((AR, squares), (TAR, steps))]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("mode", MODES)
def test_losses_are_ar_and_tar_of_the_unmasked_steps(mode, name):
    layer, mask = ActivationRegularization(AR, TAR), MASKS[name]

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, mask=None if mask is None else tf.constant(mask))
            losses = list(layer.losses)
            total = tf.add_n(losses)
        return outputs, losses, tape.gradient(total, x)

    if mode != "eager":
        signature = [tf.TensorSpec((None, None, FEATURES))]
        run = tf.function(run, input_signature=None if mode == "jit" else signature, jit_compile=mode == "jit")
    x = X if mask is None else np.where(mask[..., None], X, np.inf).astype("float32")  # masked values must not matter
    outputs, losses, gradient = run(tf.constant(x))
    np.testing.assert_array_equal(outputs, x)
    assert_close(losses, reference(X, mask), 1e-6)
    assert np.all(np.isfinite(gradient))
    assert mask is None or not np.any(np.array(gradient)[~mask])


@pytest.mark.parametrize(("ar", "tar", "count"), [(0, 0, 0), (AR, 0, 1), (0, TAR, 1), (AR, TAR, 2)])
def test_a_coefficient_of_0_adds_no_loss(ar, tar, count):
    layer = ActivationRegularization(ar, tar)
    for _ in range(2):  # the losses are those of the last call only
        layer(X)
        expected = [
            c / whole * loss for c, whole, loss in zip((ar, tar), (AR, TAR), reference(X, None), strict=True) if c
        ]
        np.testing.assert_allclose(layer.losses, expected, rtol=1e-6)
        assert len(layer.losses) == count


@pytest.mark.parametrize("time", [0, 1])
def test_one_step_has_no_difference(time):
    layer = ActivationRegularization(AR, TAR)
    layer(X[:, :time])
    assert_close(layer.losses, reference(X[:, :time], None), 1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_losses_are_computed_in_float32_at_least(policy):
    layer = ActivationRegularization(AR, TAR, dtype=policy)
    x = 300 * X  # with squares beyond the range of float16
    x = x.astype("float16" if policy == "mixed_float16" else "float32")
    outputs = layer(x)
    assert keras.backend.standardize_dtype(outputs.dtype) == layer.compute_dtype
    rounded = np.array(keras.ops.cast(outputs, "float32"))
    assert {loss.dtype for loss in layer.losses} == {tf.float64 if policy == "float64" else tf.float32}
    assert_close(layer.losses, reference(rounded, None), 1e-5)


@pytest.mark.parametrize("jit", JIT)
def test_losses_are_reported_and_the_mask_propagates(jit, tmp_path):
    tokens = np.array([[1, 2, 3, 0, 0], [4, 1, 0, 0, 0]])
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(5, FEATURES, mask_zero=True),
            ActivationRegularization(AR, TAR),
            keras.layers.GRU(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit)
    targets = np.ones((2, 1))
    mse = np.mean((model.predict(tokens, verbose=0) - targets) ** 2)
    expected = mse + sum(reference(np.array(model.layers[0](tokens)), tokens != 0))
    [loss] = model.fit(tokens, targets, verbose=0).history["loss"]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(model.evaluate(tokens, targets, verbose=0), expected, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_close(loaded(tokens), model(tokens), 0)
    assert_close(loaded.losses, model.losses, 0)
    config = model.layers[1].get_config()
    assert (config["ar"], config["tar"]) == (AR, TAR)
    assert ActivationRegularization.from_config(config).get_config() == config


@pytest.mark.parametrize("value", [-1e-6, float("nan"), float("inf"), "1", None])
@pytest.mark.parametrize("name", ["ar", "tar"])
def test_invalid_coefficients(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        ActivationRegularization(**{name: value})


def test_inputs_must_have_rank_3():
    with pytest.raises(ValueError, match="expected ndim=3"):
        ActivationRegularization(AR)(X[0])

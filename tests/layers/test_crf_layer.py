# SPDX-License-Identifier: Apache-2.0
"""The CRF layer in models: its loss and accuracy, training, decoding, saving, export, masks and precision."""

import itertools
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close, draw, run_with_gradients

from keras_seq import layers, ops
from keras_seq.layers import CRF
from keras_seq.training import CRFAccuracy, CRFLoss

BATCH, TIME, FEATURES, TAGS = 4, 5, 6, 3
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]], bool)
TRUE_TAGS = np.array([[0, 1, 2, 2, 1], [2, 0, 7, -1, 7], [7, 1, 7, 0, 0], [7, 7, 7, 7, 7]])  # 7 and -1 are masked


def make_layer(**options):
    layer = CRF(TAGS, **options)
    layer.build((None, None, FEATURES))
    layer.set_weights([draw(*w.shape, seed=i) for i, w in enumerate(layer.weights)])
    return layer


def score(layer, inputs, tags):
    """The score of the tags of one sentence without masked steps, as in the class's documentation."""
    weights = {w.name: np.array(w) for w in layer.weights}
    total = sum((inputs[t] @ weights["kernel"])[tag] + weights["bias"][tag] for t, tag in enumerate(tags))
    total += sum(weights["transitions"][pair] for pair in itertools.pairwise(tags))
    return total + weights["start"][tags[0]] + weights["end"][tags[-1]]


def log_probability(layer, inputs, tags):
    everything = np.stack(np.meshgrid(*[range(TAGS)] * len(tags), indexing="ij"), axis=-1).reshape(-1, len(tags))
    return score(layer, inputs, tags) - np.log(sum(np.exp(score(layer, inputs, other)) for other in everything))


def test_loss_is_the_negative_log_probability_of_the_tags():
    layer, inputs = make_layer(), draw(BATCH, TIME, FEATURES)
    y_pred = layer(inputs, mask=MASK)
    sentences = zip(inputs, MASK, TRUE_TAGS, strict=True)
    expected = np.array([-log_probability(layer, x[m], y[m]) if m.any() else 0 for x, m, y in sentences])
    losses = CRFLoss(reduction=None)(TRUE_TAGS, y_pred)
    assert_close(np.sum(losses, axis=1), expected, 1e-5)
    assert_close(CRFLoss(reduction="sum")(TRUE_TAGS, y_pred), sum(expected), 1e-5)
    assert_close(CRFLoss()(TRUE_TAGS, y_pred), sum(expected) / MASK.sum(), 1e-5)  # the mean over unmasked steps
    assert_close(CRFLoss()(TRUE_TAGS, np.array(y_pred)), sum(expected) / MASK.sum(), 1e-5)  # without a Keras mask
    assert_close(CRFLoss()(TRUE_TAGS[:, :, None], y_pred), sum(expected) / MASK.sum(), 1e-5)
    of_sequences, of_steps = np.array([1.0, 2.0, 0.0, 3.0]), draw(BATCH, TIME) ** 2
    weighted = CRFLoss("sum")(TRUE_TAGS, y_pred, sample_weight=of_sequences)
    assert_close(weighted, of_sequences @ expected, 1e-5)
    assert_close(CRFLoss("sum")(TRUE_TAGS, y_pred, of_steps), np.sum(losses * of_steps), 1e-5)


def test_accuracy_counts_the_best_tags():
    layer, inputs = make_layer(), draw(BATCH, TIME, FEATURES)
    y_pred, metric = layer(inputs, mask=MASK), CRFAccuracy()
    best = np.array(layer(inputs, mask=MASK, decode=True))
    right = (best == TRUE_TAGS) & MASK
    metric.update_state(TRUE_TAGS, y_pred)
    assert_close(metric.result(), right.sum() / MASK.sum(), 1e-6)
    wider = [np.pad(x, [(0, 0), (0, 9)]) for x in (TRUE_TAGS, MASK)]
    metric.update_state(wider[0], layer(np.pad(inputs, [(0, 0), (0, 9), (0, 0)]), mask=wider[1]))  # counts as much
    assert_close(metric.result(), right.sum() / MASK.sum(), 1e-6)
    short = inputs[:1, :2]
    right_in_short = np.sum(layer(short, decode=True) == TRUE_TAGS[:1, :2])
    metric.update_state(TRUE_TAGS[:1, :2], layer(short))
    assert_close(metric.result(), (2 * right.sum() + right_in_short) / (2 * MASK.sum() + 2), 1e-6)
    metric.reset_state()
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    metric.update_state(TRUE_TAGS, y_pred, sample_weight=weights)
    assert_close(metric.result(), right.sum(axis=1) @ weights / (MASK.sum(axis=1) @ weights), 1e-6)


def test_nan_at_masked_steps_reaches_no_result_and_no_gradient():
    layer, inputs = make_layer(), draw(BATCH, TIME, FEATURES)

    def run(inputs):
        return run_with_gradients(
            lambda x: CRFLoss()(TRUE_TAGS, layer(x, mask=MASK)), [inputs], layer.trainable_variables
        )

    dirty = run(np.where(MASK[:, :, None], inputs, np.nan).astype("float32"))
    assert_close(dirty, run(inputs), 0)


def test_padding_changes_nothing():
    layer, inputs = make_layer(), draw(2, TIME, FEATURES)
    padded = np.pad(inputs, [(0, 0), (1, 2), (0, 0)], constant_values=5)
    mask = np.pad(np.ones((2, TIME), bool), [(0, 0), (1, 2)])
    assert_close(layer(padded, mask=mask)[:, 1:-2], layer(inputs), 1e-6)
    assert_close(layer(padded, mask=mask, decode=True)[:, 1:-2], layer(inputs, decode=True), 0)


@pytest.mark.parametrize(("time", "tags"), [(0, 3), (1, 3), (4, 1)])
def test_short_sequences_and_a_single_tag(time, tags):
    layer, inputs, zeros = CRF(tags, use_kernel=False), draw(2, time, tags), np.zeros((2, time), "int32")
    losses = np.sum(CRFLoss(None)(zeros, layer(inputs)), axis=1)
    expected = [-np.log(np.exp(x[0, 0]) / np.exp(x[0]).sum()) if time == 1 else 0.0 for x in inputs]
    assert_close(losses, np.array(expected), 1e-5)
    expected = inputs.argmax(axis=-1) if time == 1 else zeros
    np.testing.assert_array_equal(layer(inputs, decode=True), expected)


def make_models(**options):
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    features = keras.layers.Embedding(9, FEATURES, mask_zero=True)(tokens)
    features = layers.GRU(12, return_sequences=True)(features)
    crf = CRF(TAGS, **options)
    return keras.Model(tokens, crf(features)), keras.Model(tokens, crf(features, decode=True))


# The tag of a token is its remainder, plus one if it follows its own kind: only neighbours tell.
TOKENS = np.random.default_rng(0).integers(1, 9, (32, 7)) * (np.arange(7) < np.arange(32)[:, None] % 8)
TARGETS = (TOKENS + (np.pad(TOKENS, [(0, 0), (1, 0)])[:, :-1] % 3 == TOKENS % 3)) % TAGS


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_a_tagger_learns_and_predicts(jit):
    model, tagger = make_models()
    metric = CRFAccuracy()
    model.compile(keras.optimizers.Adam(0.05), CRFLoss(), metrics=[metric], jit_compile=jit)
    model.fit(TOKENS, TARGETS, epochs=80, verbose=0, batch_size=32)
    loss, accuracy = model.evaluate(TOKENS, TARGETS, verbose=0)
    predicted = tagger.predict(TOKENS, verbose=0)
    assert predicted.dtype == "int32"
    assert accuracy > 0.98
    np.testing.assert_allclose(accuracy, (predicted == TARGETS)[TOKENS > 0].mean(), rtol=1e-6)
    log_probabilities = model.predict(TOKENS, verbose=0)  # arrays keep their masks
    np.testing.assert_allclose(loss, CRFLoss()(TARGETS, log_probabilities), rtol=1e-5)
    np.testing.assert_array_equal(ops.crf_decode(log_probabilities)[0], predicted)


def test_a_compiled_model_is_saved_and_loaded_without_its_code(tmp_path):
    model, tagger = make_models(transition_initializer="he_normal")
    model.compile("adam", CRFLoss("sum"), metrics=[CRFAccuracy("right")])
    model.save(tmp_path / "model.keras")
    tagger.save(tmp_path / "tagger.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(TOKENS), model(TOKENS))
    assert loaded.evaluate(TOKENS, TARGETS, verbose=0) == model.evaluate(TOKENS, TARGETS, verbose=0)
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "tagger.keras")(TOKENS), tagger(TOKENS))


@pytest.mark.slow
def test_a_tagger_is_exported_for_tensorflow_alone(tmp_path):
    _, tagger = make_models(transition_initializer="he_normal")
    tagger.export(tmp_path / "saved", verbose=False)
    np.save(tmp_path / "tokens.npy", TOKENS[:, :5].astype("int32"))
    script = f"""
import numpy as np, sys, tensorflow as tf
saved = tf.saved_model.load({str(tmp_path / "saved")!r})
print(saved.serve(np.load({str(tmp_path / "tokens.npy")!r})).numpy().tolist())
assert "keras_seq" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(np.array(tagger(TOKENS[:, :5])).tolist())


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_sums_are_in_float32_in_mixed_precision(dtype, set_dtype_policy):
    """After scores of half precision, all is as in float32, also in long sequences."""
    exact, inputs = CRF(TAGS, use_kernel=False), tf.cast(draw(2, 200, TAGS) * 30, dtype.removeprefix("mixed_"))
    exact.build(inputs.shape)
    exact.transitions.assign(draw(TAGS, TAGS))
    set_dtype_policy(dtype)
    layer = CRF(TAGS, use_kernel=False)
    layer.build(inputs.shape)
    layer.set_weights(exact.get_weights())
    run = tf.function(lambda x: (layer(x), exact(tf.cast(x, "float32"))))
    actual, expected = run(inputs)
    assert actual.dtype == "float32"
    np.testing.assert_allclose(actual, expected, atol=5e-2 if dtype == "mixed_bfloat16" else 1e-2)
    tags = np.zeros((2, 200), "int32")
    assert_close(CRFLoss("sum")(tags, actual), CRFLoss("sum")(tags, expected), 1e-3)


def test_options_leave_weights_out():
    names = {w.name for w in make_layer().weights}
    assert names == {"kernel", "bias", "transitions", "start", "end"}
    assert names - {w.name for w in make_layer(use_bias=False).weights} == {"bias"}
    assert names - {w.name for w in make_layer(use_boundary=False).weights} == {"start", "end"}
    layer = CRF(FEATURES, use_kernel=False, use_boundary=False, transition_regularizer=keras.regularizers.L2(0.5))
    layer(draw(1, 2, FEATURES))
    layer.transitions.assign(draw(FEATURES, FEATURES))
    assert [w.name for w in layer.weights] == ["transitions"]
    assert_close(layer.losses, [0.5 * np.sum(np.square(layer.transitions))], 1e-6)


def test_invalid_arguments():
    with pytest.raises(ValueError, match=r"`num_tags` must be a positive integer. Received: 0"):
        CRF(0)
    with pytest.raises(ValueError, match=r"`inputs` must have `num_tags` = 4 features .* Received: shape \(2, 3, 5\)"):
        CRF(4, use_kernel=False)(draw(2, 3, 5))
    with pytest.raises(ValueError, match=r"`y_pred` must be the result of `keras_seq.layers.CRF`.*\(2, 3, 4\)"):
        CRFLoss()(np.zeros((2, 3)), draw(2, 3, 4))
    with pytest.raises(ValueError, match=r"`y_true` must be integers \(batch, time\). Received: shape \(2,\)"):
        CRFAccuracy().update_state(np.zeros(2), draw(2, 3, 4, 4))

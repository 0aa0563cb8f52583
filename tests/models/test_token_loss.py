# SPDX-License-Identifier: Apache-2.0
"""A step of training or evaluation without all logits does what Keras's loss does with them."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq
from keras_seq.training import BitsPerToken, MaskedCrossentropy, Perplexity, SequenceAccuracy, TokenAccuracy

VOCABULARY, WIDTH = 11, 6


@keras.saving.register_keras_serializable("tests")
class PlainCrossentropy(MaskedCrossentropy):
    """A loss of a user, for which a step computes all logits."""


def make_pairs(count=5):
    rng = np.random.default_rng(2)
    lengths = np.minimum(rng.integers(1, WIDTH + 1, (count, 1)), WIDTH)
    target = rng.integers(4, VOCABULARY, (count, WIDTH)) * (np.arange(WIDTH) < lengths)
    return rng.integers(4, VOCABULARY, (count, 4)), target


def make_seq2seq(loss, dtype="float32", tie_embeddings=False, metrics=True, **options):
    keras.utils.set_random_seed(1)
    policy = {"dtype": dtype}
    model = keras_seq.Seq2Seq(
        keras_seq.Encoder(VOCABULARY, 4, 4, cell="rnn", **policy),
        keras_seq.Decoder(VOCABULARY, 4, 6, cell="rnn", attention=None, tie_embeddings=tie_embeddings, **policy),
        **policy,
    )
    metrics = [TokenAccuracy(), SequenceAccuracy(), Perplexity()] if metrics else []
    options = {"weighted_metrics": [BitsPerToken()], "run_eagerly": True, **options}
    model.compile(keras.optimizers.SGD(0.5), loss, metrics, **options)
    return model


def train(model, dtype, source, target, **weights):
    """Results of a training step, then of an evaluation, and the weights."""
    results = model.train_on_batch(source, target, **weights, return_dict=True)
    weights.pop("class_weight", None)
    results = [*results.values(), *model.evaluate(source, target, verbose=0, return_dict=True, **weights).values()]
    return np.array(results), [np.asarray(weight, dtype) for weight in model.get_weights()]


SAMPLE_WEIGHT = {"sample_weight": np.random.default_rng(3).random((5, WIDTH))}
CLASS_WEIGHT = {"class_weight": {3: 2.0, 5: 0.5}}


@pytest.mark.parametrize(
    ("dtype", "tolerance", "is_tied", "weights"),
    [
        ("float32", 1e-5, False, {}),
        ("float32", 1e-5, True, CLASS_WEIGHT),
        ("float64", 1e-11, True, SAMPLE_WEIGHT),
        pytest.param("float64", 1e-11, False, CLASS_WEIGHT, marks=pytest.mark.slow),
        pytest.param("mixed_bfloat16", 2e-2, False, SAMPLE_WEIGHT, marks=pytest.mark.slow),
        pytest.param("mixed_bfloat16", 2e-2, True, {}, marks=pytest.mark.slow),
    ],
)
def test_a_step_gives_the_same_numbers_as_with_all_logits(dtype, tolerance, is_tied, weights):
    floats = "float64" if dtype == "float64" else "float32"
    both = []
    for loss in (MaskedCrossentropy, PlainCrossentropy):
        model = make_seq2seq(loss(0.1, dtype=floats), dtype, is_tied)
        both.append(train(model, floats, *make_pairs(), **weights))
    assert_same(*both, tolerance)


def assert_same(ours, expected, tolerance):
    """Metrics are sums in float32, whatever the loss."""
    np.testing.assert_allclose(ours[0], expected[0], rtol=max(tolerance, 1e-5))
    for weight, wanted in zip(ours[1], expected[1], strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", ["parallel", pytest.param("sequential", marks=pytest.mark.slow)])
def test_scheduled_sampling_regularization_and_loss_scaling(mode):
    both = []
    for loss in (MaskedCrossentropy(), PlainCrossentropy()):
        schedule = keras_seq.training.ScheduledSampling(0.5, mode, seed=4)
        model = make_seq2seq(loss, scheduled_sampling=schedule)
        kernel = model.decoder.readout.kernel
        model.decoder.readout.kernel_regularizer = kernel.regularizer = keras.regularizers.L2(0.1)
        model.optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=8.0)
        model.optimizer.build(model.trainable_variables)
        both.append(train(model, "float32", *make_pairs()))
    assert_same(*both, 1e-5)


def test_a_language_model_trains_and_evaluates_as_with_all_logits():
    documents = [[4, 5, 6, 7], [8, 9], [5, 6, 10, 4, 4, 9, 8]]
    both = []
    for loss in (MaskedCrossentropy(0.1), PlainCrossentropy(0.1)):
        keras.utils.set_random_seed(1)
        model = keras_seq.LanguageModel(
            VOCABULARY, 4, 6, tie_embeddings=True, ar=0.5, tar=0.5, output_dropout=0.3, seed=1
        )
        model.compile(keras.optimizers.SGD(0.5), loss, [Perplexity(), TokenAccuracy()], run_eagerly=True)
        history = model.fit(documents, batch_size=2, window=3, verbose=0).history
        results = [*(values[0] for values in history.values()), *model.evaluate(documents, verbose=0)]
        both.append((results, model.get_weights()))
    assert_same(*both, 1e-5)


def has_all_logits(model):
    """Whether a tensor in the graph of a training step, its loops included, is (batch, time, vocabulary)."""
    inputs, ids = model.prepare(*make_pairs())
    model.optimizer.build(model.trainable_variables)
    graph = tf.function(lambda: model.train_step((inputs, ids))).get_concrete_function().graph
    definition = graph.as_graph_def(add_shapes=True)
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    shapes = [shape for node in nodes for shape in node.attr["_output_shapes"].list.shape]
    return [*ids.shape, VOCABULARY] in [[dim.size for dim in shape.dim] for shape in shapes]


def test_no_tensor_has_all_logits():
    assert has_all_logits(make_seq2seq(PlainCrossentropy(), run_eagerly=False))
    assert not has_all_logits(make_seq2seq(MaskedCrossentropy(), run_eagerly=False))


def test_a_metric_of_a_user_gets_logits():
    shapes = []

    class OwnAccuracy(TokenAccuracy):
        def update_state(self, y_true, y_pred, sample_weight=None):
            shapes.append(y_pred.shape[-1])
            super().update_state(y_true, y_pred, sample_weight)

    model = make_seq2seq("auto", metrics=False, weighted_metrics=[OwnAccuracy()])
    model.train_on_batch(*make_pairs())
    assert shapes == [VOCABULARY]


def test_label_smoothing_is_an_argument_of_compile_and_saved(tmp_path):
    model = make_seq2seq("auto", label_smoothing=0.25)
    source, target = make_pairs()
    model.fit(source, target, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert (type(loaded.loss), loaded.loss.label_smoothing) == (MaskedCrossentropy, 0.25)
    with pytest.raises(ValueError, match="`label_smoothing` must be 0 unless `loss` is"):
        model.compile(loss="mse", label_smoothing=0.1)
    for invalid in (1, -0.1, "a", True, float("nan")):
        with pytest.raises(ValueError, match="`label_smoothing` must be"):
            model.compile(label_smoothing=invalid)


MEMORY = """
import json
import keras, numpy as np
import keras_seq

vocabulary, pairs = 32_000, 50_000
rng = np.random.default_rng(0)
source, target = (rng.integers(4, vocabulary, (pairs, 5)) for _ in range(2))
parts = keras_seq.Encoder(vocabulary, 8, 8, cell="gru"), keras_seq.Decoder(vocabulary, 8, 8, cell="gru")
model = keras_seq.Seq2Seq(*parts)
model.compile("adam", jit_compile=False)
history = model.fit(source, np.pad(target, [(0, 0), (0, 1)], constant_values=3), batch_size=1024, verbose=0).history
# Not `ru_maxrss`, which begins with that of the parent.
[peak] = (int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))  # kilobytes
print(json.dumps({"loss": history["loss"][0], "gigabytes": 1024 * peak / 1e9}))
"""


@pytest.mark.slow
def test_50000_pairs_with_32000_tokens_fit_in_3_gigabytes():
    """The logits of a batch and their gradient alone take 1.6 GB."""
    run = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    results = json.loads(run.stdout.splitlines()[-1])
    assert results["loss"] < 1.01 * np.log(32_000)
    assert results["gigabytes"] < 3

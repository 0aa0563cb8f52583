# SPDX-License-Identifier: Apache-2.0
"""`fit` and `evaluate` report a mean over tokens: against NumPy, on batches of unequal widths."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq
from keras_seq.training import Perplexity, TokenAccuracy

LENGTHS = [9, 1, 2, 4, 1, 1, 3]  # of the targets; sources have equal lengths


def make_model(**options):
    keras.utils.set_random_seed(1)
    model = keras_seq.Seq2Seq(
        keras_seq.Encoder(9, 4, 4, cell="rnn"), keras_seq.Decoder(9, 4, 4, cell="rnn", attention=None)
    )
    for variable in model.trainable_variables:
        variable.assign(5 * variable)  # so that the losses of tokens differ
    metrics, weighted = [TokenAccuracy(), Perplexity()], [Perplexity("weighted_perplexity")]
    model.compile(keras.optimizers.SGD(0.0), metrics=metrics, weighted_metrics=weighted, **options)
    return model


def make_pairs():
    """Padded sources and targets."""
    rng = np.random.default_rng(2)
    target = rng.integers(4, 9, (7, 9)) * (np.arange(9) < np.array(LENGTHS)[:, None])
    return rng.integers(4, 9, (7, 3)), target


def unequal_batches(weights=None):
    """Batches of three, each as wide as its longest target."""
    columns = (*make_pairs(), *([] if weights is None else [weights]))
    for rows in (slice(0, 3), slice(3, 6), slice(6, 7)):
        source, target, *rest = (column[rows] for column in columns)
        yield (source, target[:, : max(LENGTHS[rows])], *rest)


def as_dataset(weights=None):
    batch = tf.TensorSpec([None, None], tf.int64)
    signature = (batch, batch) if weights is None else (batch, batch, tf.TensorSpec([None], tf.float64))
    dataset = tf.data.Dataset.from_generator(lambda: unequal_batches(weights), output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(3))


def token_losses(model):
    """Cross-entropies and correctness of all tokens, (7, 9), zero at padding."""
    source, target = make_pairs()
    logits = np.asarray(model(model.prepare(source, target)[0]), "float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.take_along_axis(log_probabilities, target[..., None], -1)[..., 0]
    return losses * (target != 0), (logits.argmax(-1) == target) * (target != 0)


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_loss_accuracy_and_perplexity_are_means_over_tokens(run_eagerly):
    model = make_model(run_eagerly=run_eagerly)
    losses, is_correct = token_losses(model)
    mean = losses.sum() / sum(LENGTHS)
    expected = {"loss": mean, "token_accuracy": is_correct.sum() / sum(LENGTHS)}
    expected |= {"perplexity": np.exp(mean), "weighted_perplexity": np.exp(mean)}
    results = model.evaluate(as_dataset(), verbose=0, return_dict=True)
    assert results == pytest.approx(expected, rel=1e-5)
    for batch_size in (1, 2, 7):
        assert model.evaluate(*make_pairs(), batch_size, 0, return_dict=True) == pytest.approx(expected, rel=1e-5)
    history = model.fit(as_dataset(), validation_data=as_dataset(), verbose=0).history
    both = {**expected, **{f"val_{name}": value for name, value in expected.items()}}
    assert {name: values[0] for name, values in history.items()} == pytest.approx(both, rel=1e-5)


def test_sample_weights_multiply_losses_and_weight_perplexity():
    model = make_model(run_eagerly=True)
    losses, _ = token_losses(model)
    weights = np.array([0.5, 2.0, 0.0, 1.0, 3.0, 0.25, 1.5])
    results = model.evaluate(as_dataset(weights), verbose=0, return_dict=True)
    total = (weights[:, None] * losses).sum()
    assert results["loss"] == pytest.approx(total / sum(LENGTHS), rel=1e-5)
    assert results["weighted_perplexity"] == pytest.approx(np.exp(total / np.dot(weights, LENGTHS)), rel=1e-5)


def test_regularization_losses_are_added():
    """They count once, whatever the sizes of the batches."""
    model = make_model(run_eagerly=True)
    plain = model.evaluate(as_dataset(), verbose=0)[0]
    variable = model.decoder.readout.kernel
    model.decoder.readout.kernel_regularizer = variable.regularizer = keras.regularizers.L2(0.1)
    expected = plain + 0.1 * np.sum(np.square(variable))
    assert expected > plain + 0.1
    assert model.evaluate(as_dataset(), verbose=0)[0] == pytest.approx(expected, rel=1e-5)
    assert model.fit(as_dataset(), verbose=0).history["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_a_training_step_minimizes_the_mean_over_its_batch():
    """All tokens of a batch count equally, and so do batches with different numbers of tokens."""
    source, target = make_pairs()
    losses_of_steps = []
    for rows in (slice(0, 3), slice(4, 6)):
        model = make_model(run_eagerly=True)
        model.optimizer.learning_rate = 0.1
        inputs, ids = model.prepare(source[rows], target[rows])
        variables = [variable.value for variable in model.trainable_variables]
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(ids, model(inputs, training=True))
            loss = tf.reduce_mean(losses[ids != 0])
        gradients = tape.gradient(loss, variables)
        before = model.get_weights()
        assert model.train_on_batch(source[rows], target[rows])[0] == pytest.approx(float(loss), rel=1e-5)
        for after, weight, gradient in zip(model.get_weights(), before, gradients, strict=True):
            np.testing.assert_allclose(after, weight - 0.1 * np.asarray(tf.convert_to_tensor(gradient)), atol=1e-5)
        losses_of_steps.append(float(loss))
    assert losses_of_steps[0] != losses_of_steps[1]


def test_fit_of_a_frozen_model_only_evaluates():
    model = make_model(run_eagerly=True)
    model.trainable = False
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        history = model.fit(as_dataset(), verbose=0).history
    assert history["loss"][0] == pytest.approx(model.evaluate(as_dataset(), verbose=0)[0])


def test_steps_per_execution():
    model = make_model(steps_per_execution=2)
    plain = make_model(run_eagerly=True).evaluate(as_dataset(), verbose=0)
    assert model.evaluate(as_dataset(), verbose=0) == pytest.approx(plain, rel=1e-5)
    assert model.fit(as_dataset(), verbose=0).history["loss"][0] == pytest.approx(plain[0], rel=1e-5)

# SPDX-License-Identifier: Apache-2.0
"""Token dropout of a decoder: which tokens become [UNK], when, and together with scheduled sampling."""

import keras
import numpy as np
import pytest

import keras_seq
from keras_seq.data.vocabulary import PAD_ID, START_ID, UNKNOWN_ID
from keras_seq.models.token_dropout import TokenDropout
from keras_seq.training import ScheduledSampling

VOCABULARY = 9
rng = np.random.default_rng(0)


def tokens_of(batch, time):
    """Decoder inputs that begin with [START]; the first half of the batch ends with padding."""
    tokens = rng.integers(4, VOCABULARY, (batch, time)).astype("int32")
    tokens[:, 0] = START_ID
    tokens[: batch // 2, time // 2 :] = PAD_ID
    return tokens


SOURCES = rng.integers(4, VOCABULARY, (6, 5)).astype("int32")
TOKENS = tokens_of(6, 7)


def make_model(**options):
    """A model whose predictions depend on all of the tokens before."""
    keras.utils.set_random_seed(1)
    model = keras_seq.Seq2Seq(
        keras_seq.Encoder(VOCABULARY, 4, 5, "gru"), keras_seq.Decoder(VOCABULARY, 4, 6, "gru", **options)
    )
    for weight in model.decoder.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


def assert_binomial(count, trials, probability):
    assert abs(count - trials * probability) < 5 * np.sqrt(trials * probability * (1 - probability))


def test_tokens_become_unknown_independently_with_the_given_probability():
    tokens = tokens_of(400, 40)
    dropped = np.array(TokenDropout(0.3, seed=1)(tokens, training=True))
    assert dropped.dtype == tokens.dtype
    changed = dropped != tokens
    assert (dropped[changed] == UNKNOWN_ID).all()
    replaceable = (tokens != PAD_ID) & (tokens != START_ID)
    assert not changed[~replaceable].any()
    assert_binomial(changed.sum(), replaceable.sum(), 0.3)
    for pairs in (changed[200:, 1:-1] & changed[200:, 2:], changed[200:-1, 1:] & changed[201:, 1:]):
        assert_binomial(pairs.sum(), pairs.size, 0.09)


def test_a_decoder_drops_tokens_in_training_only():
    decoder = make_model(token_dropout=0.5, seed=3).decoder
    memory, summary = np.ones((6, 5, 10), "float32"), np.ones((6, 10), "float32")
    dropped = np.array(decoder.draw_dropped_tokens(TOKENS))
    assert 0 < dropped.sum() < dropped.size
    plain, expected = (decoder(x, memory, summary) for x in (TOKENS, np.where(dropped, UNKNOWN_ID, TOKENS)))
    np.testing.assert_array_equal(decoder(TOKENS, memory, summary, training=True), expected)
    assert np.abs(plain - expected).max() > 0.1
    np.testing.assert_array_equal(decoder(TOKENS, memory, summary), plain)
    second = np.array(decoder.draw_dropped_tokens(TOKENS))
    assert np.any(second != dropped)
    again = keras_seq.Decoder.from_config(decoder.get_config())
    np.testing.assert_array_equal(again.draw_dropped_tokens(TOKENS), dropped)


def test_without_token_dropout_nothing_is_dropped_and_no_seed_is_drawn():
    kernels = []
    for options in ({}, {"token_dropout": 0.0}):
        model = make_model(**options)
        assert not np.any(model.decoder.draw_dropped_tokens(TOKENS))
        layer = keras.layers.Dense(3)
        layer.build((None, 4))
        kernels.append(np.array(layer.kernel))
        assert not any(isinstance(part, TokenDropout) for part in model._flatten_layers())
    np.testing.assert_array_equal(*kernels)


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_with_scheduled_sampling_the_chosen_inputs_are_dropped(mode):
    """Against a loop. Predictions follow from inputs that are dropped as those of the trained pass are."""
    model = make_model(token_dropout=0.4, seed=5)
    sampling = ScheduledSampling(0.7, mode, "argmax", seed=2)
    model.compile("sgd", scheduled_sampling=sampling)
    replaced = np.array(ScheduledSampling.from_config(sampling.get_config()).draw(TOKENS, 0).replaced)
    dropped = np.array(model.decoder.draw_dropped_tokens(TOKENS))

    def predict(inputs):  # without a mask of steps: a predicted [END] does not end the sequence
        logits = np.array(model.decoder(inputs, *model.encoder(SOURCES)))
        logits[..., [PAD_ID, START_ID]] = -np.inf
        return np.argmax(logits, axis=-1)

    chosen = np.where(dropped, UNKNOWN_ID, TOKENS)
    of_true_tokens = predict(chosen)
    for t in range(1, TOKENS.shape[1]):
        predictions = of_true_tokens if mode == "parallel" else predict(chosen)
        chosen[:, t] = np.where(replaced[:, t] & ~dropped[:, t], predictions[:, t - 1], chosen[:, t])
    assert np.any(chosen != np.where(dropped, UNKNOWN_ID, TOKENS))
    expected = model.decoder(chosen, *model.encoder(SOURCES))
    actual = model((SOURCES, TOKENS), training=True)
    visible = TOKENS != PAD_ID
    np.testing.assert_allclose(actual[visible], expected[visible], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [None, "parallel", "sequential"])
def test_training_in_a_graph_and_under_xla_drops_the_same_tokens(mode, tmp_path):
    results = []
    for jit_compile in (False, True):
        model = make_model(token_dropout=0.3, seed=5, readout="maxout", layer_norm=True)
        sampling = None if mode is None else ScheduledSampling(0.0, mode, seed=1)
        model.set_weights([np.full(weight.shape, 0.1) for weight in model.weights])
        model.compile("sgd", jit_compile=jit_compile, scheduled_sampling=sampling)
        targets = np.where(TOKENS == PAD_ID, PAD_ID, 5)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        results += [
            m.fit((SOURCES, TOKENS), targets, epochs=3, shuffle=False, verbose=0, batch_size=2).history["loss"]
            for m in (model, loaded)
        ]
    for losses in results[1:]:
        np.testing.assert_allclose(losses, results[0], rtol=1e-5)


@pytest.mark.slow
def test_a_search_and_evaluation_read_the_tokens_as_they_are():
    model, plain = make_model(token_dropout=0.5, dropout=0.3), make_model()
    plain.set_weights(model.get_weights())
    for other in (model, plain):
        other.compile()
    np.testing.assert_array_equal(model.generate(SOURCES, max_length=5), plain.generate(SOURCES, max_length=5))
    targets = np.where(TOKENS == PAD_ID, PAD_ID, 5)
    losses = [m.evaluate((SOURCES, TOKENS), targets, verbose=0) for m in (model, plain)]
    np.testing.assert_array_equal(*losses)

# SPDX-License-Identifier: Apache-2.0
"""The deep readout of a decoder: its equation, gradients, masks, dtypes and files."""

import keras
import numpy as np
import pytest
import seq2seq_in_numpy as reference
import tensorflow as tf

import keras_seq
from keras_seq import Decoder, Encoder
from keras_seq.models.readout import readout_parts

VOCABULARY, FEATURES, SUMMARY = 7, 8, 4
rng = np.random.default_rng(0)
MEMORY, STARTS = rng.normal(size=(3, 5, FEATURES)), rng.normal(size=(3, SUMMARY))
MASK = np.arange(5)[None] < np.array([5, 2, 3])[:, None]
TOKENS = rng.integers(1, VOCABULARY, (3, 4)).astype("int32")
STEP_MASK = np.arange(4)[None] < np.array([4, 2, 3])[:, None]


def make(dtype="float64", **options):
    decoder = Decoder(VOCABULARY, 4, 6, "gru", dtype=dtype, **options)
    decoder.build((None, None), (None, None, FEATURES), (None, SUMMARY))
    for weight in decoder.trainable_weights:
        weight.assign(rng.normal(size=weight.shape) / (weight.shape[0] if len(weight.shape) else 1) ** 0.5)
    return decoder


@pytest.mark.parametrize("readout", ["tanh", "maxout"])
@pytest.mark.parametrize("attention", ["monotonic", None])
def test_the_readout_is_that_of_the_docstring(attention, readout):
    """The states of a decoder with the same weights and a linear readout, contexts from its attention weights."""
    options = {"attention": attention, "layer_norm": True, "num_layers": 2}
    decoder, plain = make(readout=readout, readout_units=5, **options), make(**options)
    names = ("embedding", "bridges", "recurrent_layer", "other_layers", "layer_norms")
    for name in names:
        for ours, theirs in zip(*map(keras.tree.flatten, (getattr(decoder, name), getattr(plain, name))), strict=True):
            theirs.set_weights(ours.get_weights())
    outputs, weights = plain(
        TOKENS, MEMORY, STARTS, memory_mask=MASK, return_attention_scores=True, return_features=True
    )
    logits = decoder(TOKENS, MEMORY, STARTS, memory_mask=MASK)
    for i, t in np.ndindex(TOKENS.shape):
        context = np.zeros(0) if attention is None else np.array(weights[i, t]) @ MEMORY[i]
        embedding = np.array(decoder.embedding.embeddings)[TOKENS[i, t]]
        hidden = decoder.deep_readout.hidden.get_weights()
        x = reference.deep_readout(readout, np.array(outputs[i, t]), embedding, context, *hidden)
        expected = x @ np.array(decoder.readout.kernel) + np.array(decoder.readout.bias)
        np.testing.assert_allclose(logits[i, t], expected, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"readout": "maxout", "layer_norm": True, "num_layers": 2, "residual": True},
        {"readout": "tanh", "attention": "luong", "tie_embeddings": True},
    ],
    ids=lambda options: options["readout"],
)
def test_gradients_equal_differences(options):
    decoder = make(**options)
    upstream = rng.normal(size=(*TOKENS.shape, VOCABULARY)) * STEP_MASK[:, :, None]
    arguments = [weight.value for weight in decoder.trainable_weights] + [tf.Variable(MEMORY), tf.Variable(STARTS)]

    def loss():
        logits = decoder(TOKENS, *arguments[-2:], mask=STEP_MASK, memory_mask=MASK)
        return tf.reduce_sum(logits * upstream)

    with tf.GradientTape() as tape:
        value = loss()
    gradients = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(value, arguments)]
    assert not gradients[-2][~MASK].any()
    for argument, gradient in zip(arguments, gradients, strict=True):
        direction, start, step = rng.normal(size=argument.shape), argument.numpy(), 1e-5
        values = []
        for sign in (1, -1):
            argument.assign(start + sign * step * direction)
            values.append(loss())
        argument.assign(start)
        difference = float(values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(np.sum(gradient * direction), difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("attention", ["bahdanau", "luong"])
def test_nothing_at_masked_positions_of_the_memory_reaches_the_logits(attention):
    decoder = make("float32", readout="maxout", attention=attention)
    spoiled = np.where(MASK[:, :, None], MEMORY, np.nan).astype("float32")
    expected = decoder(TOKENS, MEMORY, STARTS, memory_mask=MASK)
    np.testing.assert_array_equal(decoder(TOKENS, spoiled, STARTS, memory_mask=MASK), expected)
    step, state, memory = decoder.start_search(tf.constant(spoiled), tf.constant(STARTS, "float32"), MASK, 1)
    np.testing.assert_allclose(step(TOKENS[:, 0], state, memory)[0], expected[:, 0], atol=1e-5)


def test_a_search_without_sources_has_no_results():
    decoder = make("float32", readout="maxout")
    no_memory, no_summary = tf.zeros((0, 5, FEATURES)), tf.zeros((0, SUMMARY))
    step, state, memory = decoder.start_search(no_memory, no_summary, None, 3)
    assert step(tf.zeros(0, "int32"), state, memory)[0].shape == (0, VOCABULARY)


@pytest.mark.parametrize("tied", [False, True])
def test_the_last_product_of_the_features_gives_the_logits(tied):
    decoder = make(readout="maxout", readout_units=5, tie_embeddings=tied)
    inputs = {"memory": MEMORY, "summary": STARTS}
    features = decoder(TOKENS, **inputs, return_features=True)
    assert features.shape == (3, 4, 5)
    symbolic = {name: keras.KerasTensor(x.shape) for name, x in inputs.items()}
    spec = decoder.compute_output_spec(keras.KerasTensor(TOKENS.shape, "int32"), **symbolic, return_features=True)
    assert spec.shape == features.shape
    features, kernel, bias = readout_parts(decoder.readout, features)
    np.testing.assert_allclose(features @ kernel + bias, decoder(TOKENS, **inputs), atol=1e-12)


def test_dropout_drops_features_of_the_hidden_layer():
    decoder = make("float32", readout="tanh", readout_units=50, dropout=0.5, seed=1)
    features = np.array(decoder(TOKENS, MEMORY, STARTS, training=True, return_features=True))
    zero = features == 0
    assert 40 < zero[:, 0].sum() < 110
    np.testing.assert_array_equal(zero, np.repeat(zero[:, :1], 4, axis=1))


@pytest.mark.parametrize("options", [{}, {"tie_embeddings": True, "attention": "luong"}])
def test_mixed_precision_computes_in_bfloat16(options):
    decoder = make("mixed_bfloat16", readout="maxout", layer_norm=True, **options)
    exact = Decoder.from_config({**decoder.get_config(), "dtype": "float32"})
    exact.build((None, None), (None, None, FEATURES), (None, SUMMARY))
    exact.set_weights(decoder.get_weights())
    logits = decoder(TOKENS, MEMORY, STARTS)
    assert logits.dtype == "bfloat16"
    assert {weight.dtype for weight in decoder.trainable_weights} == {"float32"}
    np.testing.assert_allclose(tf.cast(logits, "float32"), exact(TOKENS, MEMORY, STARTS), atol=0.15)


def test_a_file_gives_the_same_bits(tmp_path):
    options = {"layer_norm": True, "num_layers": 2, "dropout": 0.2, "seed": 1}
    model = keras_seq.Seq2Seq(
        Encoder(8, 4, 4, **options), Decoder(VOCABULARY, 4, 6, readout="maxout", token_dropout=0.2, **options)
    )
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.decoder.get_config() == model.decoder.get_config()
    assert again.encoder.get_config() == model.encoder.get_config()
    inputs = np.array([[4, 5, 3], [6, 3, 0]]), np.array([[2, 4, 5], [2, 6, 0]])
    for training in (False, True):
        np.testing.assert_array_equal(again(inputs, training=training), model(inputs, training=training))


def test_the_layers_of_a_summary_have_all_weights():
    decoder = make(readout="maxout", layer_norm=True, num_layers=2, token_dropout=0.1)
    listed = [weight for layer in decoder.layers for weight in layer.weights]
    assert {id(weight) for weight in listed} == {id(weight) for weight in decoder.weights}
    assert len(listed) == len(decoder.weights)


@pytest.mark.slow
def test_an_ensemble_averages_models_with_different_readouts():
    models = [
        keras_seq.Seq2Seq(Encoder(8, 4, 4), Decoder(VOCABULARY, 4, 6, **options))
        for options in ({}, {"readout": "maxout"}, {"readout": "tanh", "attention": None, "layer_norm": True})
    ]
    for model in models:
        model.decoder.readout.bias.assign([0, 0, 0, 3, 0, 0, 0])  # outputs end
    ensemble = keras_seq.Ensemble(models)
    sources, targets = np.array([[4, 5, 3], [6, 3, 0]]), np.array([[3], [3]])
    probabilities = np.mean([np.exp(model.score(sources, targets)) for model in models], axis=0)
    np.testing.assert_allclose(np.exp(ensemble.score(sources, targets)), probabilities, rtol=1e-5)
    results = ensemble.generate(sources, sampler="beam", return_dict=True)
    scores = ensemble.score(sources, [row[row > 0] for row in results["token_ids"]])
    np.testing.assert_allclose(scores, results["log_probabilities"], rtol=1e-5)

# SPDX-License-Identifier: Apache-2.0
"""Dropout: one mask per sequence, none at inference, a new one in every call."""

import keras
import numpy as np
import pytest
import references
import tensorflow as tf
from conftest import JIT, MODES, assert_close

from keras_seq import layers

RATE = 0.3
BATCH, TIME, FEATURES, UNITS, SOURCE = 4, 5, 6, 7, 3
RATES = {"dropout": RATE, "recurrent_dropout": RATE}
RECURRENCES = {"SimpleRNN": references.simple_rnn, "GRU": references.gru, "LSTM": references.lstm}


def draw(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype("float32")


SEQUENCES, MEMORY = draw(BATCH, TIME, FEATURES), draw(BATCH, SOURCE, FEATURES)
TOKENS = np.random.default_rng(0).integers(0, 9, (BATCH, TIME))
# Every layer with dropout, and the arguments of its call.
DROPPING = {
    "LockedDropout": (lambda: layers.LockedDropout(RATE, seed=1), [SEQUENCES]),
    "SimpleRNN": (lambda: layers.SimpleRNN(UNITS, seed=1, dropout=RATE), [SEQUENCES]),
    "SimpleRNN recurrent": (lambda: layers.SimpleRNN(UNITS, seed=1, recurrent_dropout=RATE), [SEQUENCES]),
    "GRU": (lambda: layers.GRU(UNITS, seed=1, dropout=RATE), [SEQUENCES]),
    "GRU recurrent": (lambda: layers.GRU(UNITS, seed=1, recurrent_dropout=RATE), [SEQUENCES]),
    "LSTM": (lambda: layers.LSTM(UNITS, seed=1, dropout=RATE), [SEQUENCES]),
    "LSTM recurrent": (lambda: layers.LSTM(UNITS, seed=1, recurrent_dropout=RATE), [SEQUENCES]),
    "LSTM naive": (lambda: layers.LSTM(UNITS, seed=1, dropout_mode="naive", **RATES), [SEQUENCES]),
    "GRU output": (lambda: layers.GRU(UNITS, seed=1, output_dropout=RATE), [SEQUENCES]),
    "GRU weights": (lambda: layers.GRU(UNITS, seed=1, recurrent_weight_dropout=RATE), [SEQUENCES]),
    "LSTM zoneout": (lambda: layers.LSTM(UNITS, seed=1, zoneout=[RATE, 0.1]), [SEQUENCES]),
    "LSTM stack": (lambda: layers.LSTM(UNITS, seed=1, num_layers=2, **RATES), [SEQUENCES]),
    "RNN": (lambda: layers.RNN(layers.GRUCell(UNITS, seed=1, **RATES)), [SEQUENCES]),
    "RNN of Keras": (lambda: keras.layers.RNN(layers.GRUCell(UNITS, seed=1, **RATES)), [SEQUENCES]),
    "VariationalDropout": (lambda: layers.VariationalDropout(layers.GRU(UNITS), RATE, RATE, RATE, 1), [SEQUENCES]),
    "EmbeddingDropout": (lambda: layers.EmbeddingDropout(keras.layers.Embedding(9, 4), RATE, 1), [TOKENS]),
    "Bidirectional": (lambda: layers.Bidirectional(layers.GRU(UNITS, seed=1, **RATES)), [SEQUENCES]),
    "AttentionDecoder": (lambda: layers.AttentionDecoder(UNITS, seed=1, dropout=RATE), [SEQUENCES, MEMORY]),
    "AttentionDecoder recurrent": (
        lambda: layers.AttentionDecoder(UNITS, cell="gru", seed=1, recurrent_dropout=RATE),
        [SEQUENCES, MEMORY],
    ),
}
every_dropping_layer = pytest.mark.parametrize("name", DROPPING)


def seeds(layer):
    """The states of all seed generators in a layer."""
    return [np.array(v) for inner in layer._flatten_layers() for v in inner.variables if "seed" in v.path]


@pytest.mark.parametrize("name", [name for name in DROPPING if name != "RNN of Keras"])  # draws also at inference
def test_no_random_numbers_are_drawn_at_inference(name):
    make, arguments = DROPPING[name]
    layer = make()
    before = [*map(np.copy, seeds(layer))]
    outputs = layer(*arguments), layer(*arguments, training=False)
    np.testing.assert_array_equal(*outputs)
    assert before
    np.testing.assert_array_equal(before, seeds(layer))
    layer(*arguments, training=True)
    assert not np.array_equal(before, seeds(layer))


@every_dropping_layer
@pytest.mark.parametrize("mode", MODES)
def test_every_call_draws_new_masks(name, mode):
    make, arguments = DROPPING[name]
    layer = make()
    layer(*arguments)

    def run(*arguments):
        return layer(*arguments, training=True)

    run = run if mode == "eager" else tf.function(run, jit_compile=mode == "jit")
    first, second = np.array(run(*arguments)), np.array(run(*arguments))
    assert not np.allclose(first, second)


@every_dropping_layer
def test_a_seed_reproduces_the_masks(name):
    make, arguments = DROPPING[name]
    first, second = make(), make()
    for layer in (first, second):
        layer(*arguments)
    second.set_weights(first.get_weights())
    np.testing.assert_array_equal(first(*arguments, training=True), second(*arguments, training=True))


def assert_masks_drop(masks):
    """Masks (sequences, features) hold 0 and 1 / (1 - rate), differ, and have a mean of 1 within 5 sigma."""
    np.testing.assert_allclose(np.unique(masks), [0, 1 / (1 - RATE)], rtol=1e-6)
    assert len(np.unique(masks, axis=0)) > 0.9 * len(masks)
    sigma = (RATE / (1 - RATE) / masks.size) ** 0.5
    assert abs(masks.mean() - 1) < 5 * sigma


def test_locked_dropout_shares_a_mask_over_time():
    outputs = np.array(layers.LockedDropout(RATE, seed=1)(np.ones((500, TIME, 40)), training=True))
    np.testing.assert_array_equal(outputs, np.repeat(outputs[:, :1], TIME, axis=1))
    assert_masks_drop(outputs[:, 0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["LockedDropout", "EmbeddingDropout", "GRUCell"])
def test_dropped_fraction_is_the_rate_in_every_dtype(name, dtype):
    """Random numbers of bfloat16 in [0, 1) have 8 bits, too few to compare with a rate."""
    rate, ones = 0.05, np.ones((1000, 1, 1000), "float32")
    if name == "LockedDropout":
        masks = layers.LockedDropout(rate, seed=1, dtype=dtype)(ones, training=True)
    elif name == "EmbeddingDropout":
        embedding = keras.layers.Embedding(20, 1, embeddings_initializer="ones")
        layer = layers.EmbeddingDropout(embedding, rate, seed=1, dtype=dtype)
        masks = layer(np.tile(np.arange(20), (50_000, 1)), training=True)
    else:
        masks = layers.GRUCell(1, dropout=rate, seed=1, dtype=dtype).draw_dropout_masks(ones, training=True).input_mask
    assert keras.backend.standardize_dtype(masks.dtype) == dtype
    masks = np.array(keras.ops.cast(masks, "float32"))
    assert abs(np.mean(masks == 0) - rate) < 5 * (rate * (1 - rate) / masks.size) ** 0.5
    np.testing.assert_allclose(np.unique(masks), [0, 1 / (1 - rate)], rtol=1e-6 if dtype == "float32" else 4e-3)


def test_locked_dropout_otherwise_equals_spatial_dropout():
    for rate in (0, 0.3, 1, 1.0):
        ours, theirs = (kind(rate, seed=1) for kind in (layers.LockedDropout, keras.layers.SpatialDropout1D))
        assert {**ours.get_config(), "name": ""} == {**theirs.get_config(), "name": ""}
        assert ours.compute_output_shape((None, 3, 4)) == theirs.compute_output_shape((None, 3, 4))
        for training in (False, True) if rate in (0, 1) else (False,):
            np.testing.assert_array_equal(ours(SEQUENCES, training=training), theirs(SEQUENCES, training=training))
        assert len(ours.variables) == len(theirs.variables)
    with pytest.raises(ValueError, match="rate"):
        layers.LockedDropout(1.1)
    with pytest.raises(ValueError, match="expected ndim=3"):
        layers.LockedDropout(0.5)(SEQUENCES[0])


def identity_rnn(features, **options):
    """A layer with `h_t = W x_t + U h_{t-1}`, both matrices the identity."""
    layer = layers.SimpleRNN(features, activation="linear", use_bias=False, return_sequences=True, seed=1, **options)
    layer.build((None, None, features))
    layer.set_weights([np.eye(features), np.eye(features)])
    return layer


def test_dropout_shares_a_mask_over_time():
    outputs = np.array(identity_rnn(40, dropout=RATE)(np.ones((500, TIME, 40), "float32"), training=True))
    masks = np.diff(outputs, axis=1, prepend=0)
    np.testing.assert_allclose(masks, np.repeat(masks[:, :1], TIME, axis=1), rtol=1e-5)
    assert_masks_drop(outputs[:, 0])


def test_recurrent_dropout_shares_a_mask_over_time():
    ones, zeros = np.ones((500, 40), "float32"), np.zeros((500, TIME, 40), "float32")
    outputs = np.array(identity_rnn(40, recurrent_dropout=RATE)(zeros, initial_state=[ones], training=True))
    powers = np.arange(1, TIME + 1)[None, :, None]
    np.testing.assert_allclose(outputs, outputs[:, :1] ** powers, rtol=1e-5)
    assert_masks_drop(outputs[:, 0])


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("SimpleRNN", {}), ("GRU", {"reset_after": True}), ("GRU", {"reset_after": False}), ("LSTM", {})],
)
def test_masks_multiply_inputs_and_previous_output(kind, options, go_backwards):
    layer, twin = (
        getattr(layers, kind)(UNITS, return_sequences=True, go_backwards=go_backwards, seed=1, **RATES, **options)
        for _ in range(2)
    )
    layer.build(SEQUENCES.shape)
    outputs = np.array(layer(SEQUENCES, training=True))
    input_mask, recurrent_mask = map(np.array, twin.cell.draw_dropout_masks(SEQUENCES, True)[:2])
    assert_masks_differ(input_mask, recurrent_mask)
    expected, _ = RECURRENCES[kind](
        SEQUENCES * input_mask,
        *layer.get_weights()[:3],
        recurrent_dropout_mask=recurrent_mask,
        reverse=go_backwards,
        **options,
    )
    assert_close(outputs, expected[:, ::-1] if go_backwards else expected, 1e-5)


def assert_masks_differ(input_mask, recurrent_mask):
    assert input_mask.shape == (BATCH, 1, FEATURES)
    assert recurrent_mask.shape == (BATCH, UNITS)
    assert not np.array_equal(input_mask[:, 0], recurrent_mask[:, :FEATURES])


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_dropout_of_the_attention_decoder_does_not_affect_the_memory(cell):
    decoder, twin = (layers.AttentionDecoder(UNITS, cell, seed=1, **RATES) for _ in range(2))
    decoder.build(SEQUENCES.shape, MEMORY.shape)
    outputs = np.array(decoder(SEQUENCES, MEMORY, training=True))
    input_mask, recurrent_mask = map(np.array, twin.cell.draw_dropout_masks(SEQUENCES, True)[:2])
    expected, _, _ = references.attention_decoder(
        {"rnn": references.simple_rnn, "gru": references.gru, "lstm": references.lstm}[cell],
        SEQUENCES * input_mask,
        MEMORY,
        *map(np.array, (decoder.cell.kernel, decoder.cell.recurrent_kernel, decoder.cell.bias)),
        query_kernel=np.array(decoder.attention.query_kernel),
        score_vector=np.array(decoder.attention.score_kernel)[:, 0],
        keys=MEMORY @ np.array(decoder.attention.key_kernel),
        recurrent_dropout_mask=recurrent_mask,
    )
    assert_close(outputs, expected, 1e-5)


@pytest.mark.parametrize("name", ["LSTM recurrent", "LSTM naive", "LSTM zoneout", "GRU weights", "GRU output", "RNN"])
@pytest.mark.parametrize("jit", JIT)
def test_every_training_step_draws_new_masks(name, jit):
    """With a learning rate of 0 and one batch, only the masks can change the loss."""
    make, [sequences] = DROPPING[name]
    model = keras.Sequential([make(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit)
    losses = model.fit(sequences, sequences[:, 0, :1], epochs=4, batch_size=BATCH, verbose=0).history["loss"]
    assert len(set(losses)) == 4
    evaluated = [model.evaluate(sequences, sequences[:, 0, :1], verbose=0) for _ in range(2)]
    assert evaluated[0] == evaluated[1]

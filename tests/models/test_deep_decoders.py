# SPDX-License-Identifier: Apache-2.0
"""Decoders of several layers and any cell: against Keras and NumPy, step by step, in training and in a search."""

import re
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
import seq2seq_in_numpy as reference
import tensorflow as tf
from conftest import needs_kernels

import keras_seq
from keras_seq import Decoder, Encoder, layers

SOURCES, POSITIONS, TIME, VOCABULARY, FEATURES, SUMMARY = 3, 5, 4, 7, 8, 4
rng = np.random.default_rng(0)
MEMORY = rng.normal(size=(SOURCES, POSITIONS, FEATURES)).astype("float32")
STARTS = rng.normal(size=(SOURCES, SUMMARY)).astype("float32")
MASK = np.arange(POSITIONS)[None] < np.array([5, 2, 3])[:, None]
TOKENS = rng.integers(1, VOCABULARY, (SOURCES, TIME)).astype("int32")


@keras.saving.register_keras_serializable("test_deep_decoders")
class OwnCell(keras.layers.Layer):
    """A cell of a user, whose `call` takes no `training`."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = [units, 2]
        self.output_size = units

    def build(self, shape):
        self.kernel = self.add_weight((shape[-1], self.units), "glorot_uniform", name="kernel")

    def call(self, inputs, states):
        h, count = states
        h = keras.ops.tanh(keras.ops.matmul(inputs, self.kernel) + h * count[:, :1])
        return h, [h, 0.5 * count]


DECODERS = {
    "before": {"num_layers": 3},
    "after": {"num_layers": 2, "cell": "gru", "attention": "luong"},
    "after without input feeding": {"num_layers": 2, "cell": "mgu", "attend": "after", "input_feeding": False},
    "no attention": {"num_layers": 3, "cell": "simple_rnn", "attention": None},
    "residual": {"num_layers": 3, "cell": "gru", "residual": True},
    "residual after": {"num_layers": 3, "residual": True, "attention": "luong"},
    "coverage": {"num_layers": 2, "attention": layers.BahdanauAttention(5, coverage=True)},
    "tied": {"tie_embeddings": True},
    "maxout": {"num_layers": 2, "cell": "gru", "readout": "maxout", "layer_norm": True, "tie_embeddings": True},
    "tanh after": {"attention": "luong", "readout": "tanh", "readout_units": 5},
    "maxout and coverage": {"attention": layers.BahdanauAttention(5, coverage=True), "readout": "maxout"},
    "maxout without attention": {"attention": None, "readout": "maxout", "readout_units": 3, "layer_norm": True},
    "cell": {"num_layers": 2, "cell": layers.LSTMCell(6, zoneout=0.2, layer_norm=True)},
    "cell with a projection": {"num_layers": 2, "cell": layers.LSTMCell(9, projection_units=6), "attention": None},
    "cell of Keras": {"num_layers": 2, "cell": keras.layers.GRUCell(6)},
    "own cell": {"num_layers": 2, "cell": OwnCell(6), "attention": "luong"},
    "stack": {"cell": layers.LSTM(6, num_layers=3, residual=True)},
    "stack after": {"cell": layers.RNN([layers.GRUCell(5), layers.LSTMCell(6)]), "attention": "luong"},
    "stack without attention": {"cell": layers.GRU(6, num_layers=2, residual=True), "attention": None},
    "foreign stack": {
        "cell": layers.RNN([layers.GRUCell(5), OwnCell(4), keras.layers.LSTMCell(6)]),
        "attention": None,
    },
}
FAST = ("before", "residual after", "cell", "foreign stack", "maxout")
every_decoder = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in DECODERS]
)


def make(name, **options):
    decoder = Decoder(VOCABULARY, 4, 6, **DECODERS[name], **options)
    decoder.build((None, None), (None, None, FEATURES), (None, SUMMARY))
    for weight in decoder.weights:
        if weight.name == "bias":
            weight.assign(rng.normal(size=weight.shape))
    return decoder


def make_model(name, **options):
    decoder = Decoder(VOCABULARY, 4, 6, **DECODERS[name], **options)
    return keras_seq.Seq2Seq(Encoder(8, 4, 4, cell="gru", num_layers=2), decoder)


@every_decoder
def test_steps_of_beams_equal_one_pass(name):
    decoder = make(name)
    tokens = rng.integers(1, VOCABULARY, size=(SOURCES * 2, TIME)).astype("int32")
    repeated = [np.repeat(x, 2, axis=0) for x in (MEMORY, STARTS, MASK)]
    expected = decoder(tokens, *repeated[:2], memory_mask=repeated[2], return_attention_scores=True)
    step, state, memory = decoder.start_search(tf.constant(MEMORY), tf.constant(STARTS), MASK, 2)
    state = [np.repeat(x, 2, axis=0) for x in state]
    results = []
    for t in range(TIME):
        logits, state, weights = step(tf.constant(tokens[:, t]), state, memory)
        results.append((logits, weights))
    for actual, exact in zip(zip(*results, strict=True), expected, strict=True):
        np.testing.assert_allclose(np.stack(actual, axis=1), exact, atol=3e-6)


@every_decoder
def test_training_steps_draw_the_masks_of_the_next_call(name):
    rates = {} if isinstance(DECODERS[name].get("cell"), keras.layers.Layer) else {"recurrent_dropout": 0.4}
    decoder = make(name, dropout=0.3, seed=1, **rates)
    for layer in decoder.recurrent_layers():
        for cell in layer.cell.cells if hasattr(layer.cell, "cells") else [layer.cell]:
            if isinstance(cell, layers.LSTMCell) and not rates:
                cell.dropout, cell.recurrent_weight_dropout, cell.zoneout = 0.2, 0.3, 0.0
            elif isinstance(cell, keras.layers.GRUCell) and not rates:
                cell.dropout, cell.recurrent_dropout = 0.2, 0.3
    with decoder.training_step_function(tf.constant(MEMORY), MASK) as step:
        state, actual = decoder.get_initial_state(STARTS, MEMORY), []
        for t in range(TIME):
            logits, state, _ = step(TOKENS[:, t], state)
            actual.append(logits)
    expected = decoder(TOKENS, MEMORY, STARTS, memory_mask=MASK, training=True)
    np.testing.assert_allclose(np.stack(actual, axis=1), expected, atol=3e-6)
    assert np.abs(expected - decoder(TOKENS, MEMORY, STARTS, memory_mask=MASK)).max() > 1e-3


def test_zoneout_in_training_steps_leaves_the_masks_of_the_next_call():
    def run(with_steps):
        cell = layers.LSTMCell(6, zoneout=0.3, recurrent_dropout=0.4, seed=2)
        decoder = Decoder(VOCABULARY, 4, None, cell, num_layers=2, seed=1)
        decoder.build((None, None), (None, None, FEATURES), (None, SUMMARY))
        for weight in decoder.trainable_weights:
            weight.assign(np.full(weight.shape, 0.1))
        if with_steps:
            with decoder.training_step_function(tf.constant(MEMORY)) as step:
                step(TOKENS[:, 0], decoder.get_initial_state(STARTS, MEMORY))
        return decoder(TOKENS, MEMORY, STARTS, training=True)

    np.testing.assert_array_equal(run(True), run(False))


@pytest.mark.parametrize(
    ("kind", "residual"), [("LSTM", False), pytest.param("GRU", True, marks=pytest.mark.slow), ("SimpleRNN", True)]
)
def test_without_attention_a_decoder_is_a_composition_of_layers_of_keras(kind, residual):
    decoder = Decoder(VOCABULARY, 4, 6, kind.lower().replace("rnn", "_rnn"), None, num_layers=3, residual=residual)
    decoder.build((None, None), (None, None, FEATURES), (None, SUMMARY))
    x = np.array(decoder.embedding.embeddings)[TOKENS]
    bridges = [np.tanh(STARTS @ np.array(b.kernel) + np.array(b.bias)) for b in decoder.bridges]
    per_layer = len(bridges) // 3
    for i, layer in enumerate(decoder.recurrent_layers()):
        twin = getattr(keras.layers, kind)(6, return_sequences=True)
        twin.build(x.shape)
        twin.set_weights(layer.get_weights())
        y = np.array(twin(x, initial_state=bridges[i * per_layer : (i + 1) * per_layer]))
        x = x + y if residual and i else y
    expected = x @ np.array(decoder.readout.kernel) + np.array(decoder.readout.bias)
    np.testing.assert_allclose(decoder(TOKENS, MEMORY, STARTS), expected, atol=2e-6)


class InNumPy:
    """A decoder of layers with equations by name, one sequence at a time, in float64."""

    def __init__(self, decoder, cell):
        self.decoder, self.cell = decoder, reference.CELLS[cell]
        self.states = 2 if cell == "lstm" else 1

    def logits(self, tokens, memory, summary):
        def as64(weight):
            return np.asarray(weight, "float64")

        decoder, attending = self.decoder, self.decoder.recurrent_layer
        attention = attending.attention
        keys = memory @ as64(attention.key_kernel)
        flat = [np.tanh(summary @ as64(b.kernel) + as64(b.bias)) for b in decoder.bridges]
        states = [flat[i : i + self.states] for i in range(0, len(flat), self.states)]
        after = attending.attend == "after"
        fed, results = np.zeros(6), []
        for token in tokens:
            x = as64(decoder.embedding.embeddings)[token]
            for i, layer in enumerate(decoder.recurrent_layers()):
                inputs = x
                if layer is attending and not after:
                    energies = np.tanh(states[i][0] @ as64(attention.query_kernel) + keys) @ as64(
                        attention.score_kernel
                    )
                    context = np.exp(reference.log_softmax(energies[:, 0])) @ memory
                    x = np.concatenate([x, context])
                elif layer is attending:
                    x = np.concatenate([x, fed])
                cell = layer.cell
                states[i] = self.cell(x, states[i], *map(as64, (cell.kernel, cell.recurrent_kernel, cell.bias)))
                x = states[i][0]
                if layer is attending and after:
                    context = np.exp(reference.log_softmax(keys @ x)) @ memory
                    x = fed = np.tanh(np.concatenate([x, context]) @ as64(attending.attentional_kernel))
                elif i and decoder.residual:
                    x = x + inputs
                if decoder.layer_norm:
                    x = reference.layer_norm(x, *map(as64, decoder.layer_norms[i].weights))
            if decoder.deep_readout is not None:
                embedding = as64(decoder.embedding.embeddings)[token]
                hidden = map(as64, decoder.deep_readout.hidden.weights)
                x = reference.deep_readout(decoder.get_config()["readout"], x, embedding, context, *hidden)
            if decoder.tie_embeddings:
                x = x if decoder.readout.projection is None else x @ as64(decoder.readout.projection.kernel)
                results.append(x @ as64(decoder.embedding.embeddings).T + as64(decoder.readout.bias))
            else:
                results.append(x @ as64(decoder.readout.kernel) + as64(decoder.readout.bias))
        return np.stack(results)


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("lstm", {"num_layers": 3}),
        ("gru", {"num_layers": 2, "residual": True, "tie_embeddings": True}),
        ("mgu", {"num_layers": 3, "residual": True, "attention": "luong"}),
        ("rnn", {"num_layers": 2, "attention": "luong", "tie_embeddings": True, "embedding_dim": 6}),
        ("gru", {"num_layers": 3, "residual": True, "readout": "maxout", "readout_units": 5, "layer_norm": True}),
        ("lstm", {"num_layers": 2, "attention": "luong", "readout": "tanh", "tie_embeddings": True}),
    ],
)
def test_attention_against_numpy(cell, options):
    options = {"embedding_dim": 4, **options}
    decoder = Decoder(VOCABULARY, units=6, cell=cell, dtype="float64", **options)
    decoder.build((None, None), (None, None, FEATURES), (None, SUMMARY))
    for weight in decoder.trainable_weights:
        weight.assign(rng.normal(size=weight.shape) / weight.shape[0] ** 0.5)
    actual = decoder(TOKENS, MEMORY.astype("float64"), STARTS.astype("float64"), memory_mask=MASK)
    in_numpy = InNumPy(decoder, cell)
    for i in range(SOURCES):
        expected = in_numpy.logits(TOKENS[i], MEMORY[i][MASK[i]].astype("float64"), STARTS[i].astype("float64"))
        np.testing.assert_allclose(actual[i], expected, atol=1e-12)


@pytest.mark.parametrize("units", [4, 6])
def test_a_tied_readout_takes_outputs_that_carry_a_mask(units):
    """Without a warning of Keras, which pytest turns into an error."""
    decoder = Decoder(VOCABULARY, 4, units, attention=None, tie_embeddings=True, num_layers=2)
    mask = np.ones(TOKENS.shape, bool)
    mask[:, -1] = False
    logits = decoder(TOKENS, MEMORY, STARTS, mask=mask)
    np.testing.assert_allclose(logits[:, :-1], decoder(TOKENS, MEMORY, STARTS)[:, :-1], atol=1e-6)


@needs_kernels
def test_explain_has_a_row_for_the_search_and_for_each_layer():
    rows = keras_seq.explain(make("before"), print_fn=None)
    assert [(row.kind, row.implementation) for row in rows] == [
        ("Decoder", "native"),
        ("AttentionDecoder", "native"),
        ("LSTM", "native"),
        ("LSTM", "native"),
    ]
    rows = keras_seq.explain(make("foreign stack"), print_fn=None)
    assert [(row.kind, row.implementation) for row in rows] == [("Decoder", "native; xla"), ("RNN", "xla")]


def test_layers_of_a_decoder_are_copies_with_their_own_weights():
    cell = layers.LSTMCell(6, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    decoder = Decoder(VOCABULARY, 6, None, cell, attention=None, num_layers=3)
    encoder = Encoder(VOCABULARY, 6, None, cell, num_layers=1, bidirectional=True)
    decoder.build((None, None), (None, None, FEATURES), (None, SUMMARY))
    encoder.build((None, None))
    assert decoder.units == encoder.units == 6
    assert not cell.built
    weights = [*decoder.weights, *encoder.weights]
    kernels = [np.array(w) for w in weights if "cell" in w.path and w.name == "kernel"]
    assert len(kernels) == 5
    assert {kernel.shape for kernel in kernels} == {(6, 24)}
    for i, kernel in enumerate(kernels):
        assert all(np.abs(kernel - other).max() > 1e-3 for other in kernels[:i])


def test_a_configuration_of_an_earlier_version_gives_the_same_model():
    old = {
        "name": "decoder", "trainable": True, "dtype": "float32", "vocabulary_size": 9, "embedding_dim": 4, "units": 6,
        "cell": "rnn", "attention": "bahdanau", "dropout": 0.0, "recurrent_dropout": 0.0, "seed": None,
        "implementation": "auto", "attend": None, "input_feeding": True,
    }  # fmt: skip
    decoder = Decoder.from_config(old)
    assert decoder.get_config() == {
        **Decoder(9, 4, 6, "rnn", name="decoder").get_config(),
        "cell": "rnn",
    }
    assert [layer.cell.__class__ for layer in decoder.recurrent_layers()] == [layers.SimpleRNNCell]
    old = {
        "name": "encoder", "trainable": True, "dtype": "float32", "vocabulary_size": 9, "embedding_dim": 4, "units": 6,
        "cell": "rnn", "num_layers": 2, "bidirectional": True, "dropout": 0.0, "recurrent_dropout": 0.0, "seed": None,
        "implementation": "auto",
    }  # fmt: skip
    assert Encoder.from_config(old).get_config() == {**Encoder(9, 4, 6, "rnn", 2, name="encoder").get_config()}


@every_decoder
def test_the_configuration_gives_the_same_decoder(name):
    decoder = make(name, seed=3)
    again = Decoder.from_config(decoder.get_config())
    again.build((None, None), (None, None, FEATURES), (None, SUMMARY))
    again.set_weights(decoder.get_weights())
    np.testing.assert_array_equal(again(TOKENS, MEMORY, STARTS), decoder(TOKENS, MEMORY, STARTS))
    assert again.get_config() == decoder.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 0}, "`num_layers` must be at least 1. Received: 0"),
        (
            {"cell": layers.LSTM(6), "num_layers": 2},
            "`num_layers` must be 1 and `residual` False where `cell` is a layer",
        ),
        ({"cell": layers.LSTMCell(5)}, "`units` must be None or 5, the size of the output of `cell`. Received: 6"),
        ({"cell": layers.LSTMCell(6), "recurrent_dropout": 0.1}, "`recurrent_dropout` needs a `cell` given by name"),
        ({"cell": layers.LSTM(6, output_dropout=0.2)}, "`cell` must be a layer without `output_dropout` in a decoder"),
        (
            {"cell": layers.LSTM(6, activity_regularizer="l2")},
            "without `activity_regularizer` in a decoder with attention",
        ),
        ({"cell": layers.LSTM(6, initial_state_initializer="zeros")}, "a layer without `initial_state_initializer`"),
        ({"readout": "x"}, "`readout` must be one of ('linear', 'tanh', 'maxout'). Received: 'x'"),
        ({"readout": None}, "`readout` must be one of ('linear', 'tanh', 'maxout'). Received: None"),
        ({"readout_units": 5}, "`readout_units` must be None with `readout='linear'`. Received: 5"),
        ({"readout": "tanh", "readout_units": 0}, "`readout_units` must be a positive integer. Received: 0"),
        ({"readout": "maxout", "readout_units": 2.0}, "`readout_units` must be a positive integer. Received: 2.0"),
        ({"layer_norm": "yes"}, "`layer_norm` must be True or False. Received: 'yes'"),
        ({"token_dropout": 1.5}, "`token_dropout` must be a number in [0, 1). Received: 1.5"),
        ({"token_dropout": -0.1}, "`token_dropout` must be a number in [0, 1). Received: -0.1"),
        ({"token_dropout": float("nan")}, "`token_dropout` must be a number in [0, 1). Received: nan"),
        ({"token_dropout": "0.1"}, "`token_dropout` must be a number in [0, 1). Received: '0.1'"),
        ({"token_dropout": None}, "`token_dropout` must be a number in [0, 1). Received: None"),
        ({"embeddings_initializer": np.ones((3, 4))}, "a matrix (vocabulary_size, embedding_dim), here (7, 4)"),
    ],
)
def test_bad_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Decoder(VOCABULARY, 4, 6, **arguments)


def test_bad_arguments_of_an_encoder_raise():
    with pytest.raises(ValueError, match="`num_layers` must be 1 and `residual` False where `cell` is a layer"):
        Encoder(VOCABULARY, 4, 6, layers.LSTM(6), residual=True)
    with pytest.raises(ValueError, match="`layer_norm` must be True or False"):
        Encoder(VOCABULARY, 4, 6, layer_norm=1)
    with pytest.raises(ValueError, match="`units` must be None or 5"):
        Encoder(VOCABULARY, 4, 6, layers.LSTMCell(5))
    with pytest.raises(ValueError, match="`units` must be a positive integer where `cell` is a name"):
        Encoder(VOCABULARY, 4, None)


ENCODERS = {
    "residual": {"num_layers": 3, "residual": True},
    "cell": {"cell": layers.LSTMCell(6, layer_norm=True), "num_layers": 2},
    "projection": {"cell": layers.LSTMCell(9, projection_units=6)},
    "cell of Keras": {"cell": keras.layers.GRUCell(6)},
    "own cell": {"cell": OwnCell(6)},
    "stack": {"cell": layers.GRU(6, num_layers=2, residual=True)},
    "foreign stack": {"cell": layers.RNN([OwnCell(4), layers.LSTMCell(6)])},
    "layer of Keras": {"cell": keras.layers.LSTM(6)},
}


@pytest.mark.parametrize("bidirectional", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_of_any_cell(name, bidirectional):
    encoder = Encoder(8, 4, 6, **ENCODERS[name], bidirectional=bidirectional)
    tokens = np.array([[4, 5, 6, 7], [3, 2, 0, 0]])
    memory, summary = encoder(tokens)
    assert (memory.shape, summary.shape) == encoder.compute_output_shape((2, 4))
    padded = encoder(np.array([[3, 2, 0, 0, 0]]))
    np.testing.assert_allclose(padded[1][0], summary[1], atol=1e-6)
    np.testing.assert_allclose(padded[0][0, :2], memory[1, :2], atol=1e-6)
    again = Encoder.from_config(encoder.get_config())
    again.build((None, None))
    again.set_weights(encoder.get_weights())
    for actual, expected in zip(again(tokens), (memory, summary), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_residual_connections_and_layer_normalization_of_an_encoder(layer_norm):
    encoder = Encoder(8, 4, 6, num_layers=3, residual=True, layer_norm=layer_norm)
    encoder.build()
    for norm in encoder.layer_norms:
        norm.set_weights([rng.normal(size=12) for _ in range(2)])
    tokens = np.array([[4, 5, 6]])
    x = encoder.embedding(tokens)
    for i, layer in enumerate(encoder.recurrent_layers):
        y, *_ = layer(x)
        x = x + y if i else y
        if layer_norm:
            x = reference.layer_norm(np.array(x), *encoder.layer_norms[i].get_weights())
    np.testing.assert_allclose(encoder(tokens)[0], x, atol=5e-6)


PAIRS = (np.array([[4, 5, 3], [6, 3, 0]]), np.array([[2, 4, 5], [2, 6, 0]])), np.array([[4, 5, 3], [6, 3, 0]])
"""`(inputs, targets)` of a model without vectorizers."""


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DECODERS)[::2])  # every kind of part is in one of them
def test_a_file_gives_the_same_numbers_and_generates_the_same(name, tmp_path):
    model = make_model(name, dropout=0.2)
    model.compile("adam")
    model.fit(*PAIRS, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(PAIRS[0], verbose=0), model.predict(PAIRS[0], verbose=0))
    np.testing.assert_array_equal(
        again.generate(PAIRS[0][0], sampler="beam"), model.generate(PAIRS[0][0], sampler="beam")
    )


IN_NEW_PROCESS = """
import sys, keras, keras_seq, numpy as np, tensorflow as tf
source = np.array([[4, 5, 3], [6, 3, 0]], "int32")
model = keras.saving.load_model(sys.argv[1] + "/model.keras")
exported = tf.saved_model.load(sys.argv[1] + "/saved_model").signatures["serving_default"](inputs=tf.constant(source))
loaded = model.generate(source, return_dict=True)
np.savez(sys.argv[1] + "/results.npz", exported=exported["token_ids"].numpy(), **loaded)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual after", "maxout"])
def test_files_in_a_new_process(name, tmp_path):
    model = make_model(name)
    model.save(tmp_path / "model.keras")
    model.export(tmp_path / "saved_model")
    subprocess.run([sys.executable, "-c", IN_NEW_PROCESS, tmp_path], check=True)
    results = dict(np.load(tmp_path / "results.npz"))
    expected = model.generate(PAIRS[0][0], return_dict=True)
    np.testing.assert_array_equal(results.pop("exported"), expected["token_ids"])
    for key, value in results.items():
        np.testing.assert_array_equal(value, expected[key])  # to the last bit


def test_a_file_in_which_the_layers_have_the_names_of_earlier_versions(monkeypatch, tmp_path):
    model = keras_seq.Seq2Seq(Encoder(8, 4, 5, "gru", num_layers=2), Decoder(7, 4, 6, "gru"))
    path = tmp_path / "model.weights.h5"
    with monkeypatch.context() as patch:
        patch.delattr(Decoder, "layers")
        patch.delattr(Encoder, "layers")
        patch.setattr(Encoder, "layers", property(lambda encoder: encoder.recurrent_layers), raising=False)
        model.save_weights(path)
    with h5py.File(path) as file:
        assert set(file["encoder"]["layers"]) == {"bidirectional", "bidirectional_1"}
        assert "cell" in file["decoder"]["recurrent_layer"]
    again = keras_seq.Seq2Seq(Encoder(8, 4, 5, "gru", num_layers=2), Decoder(7, 4, 6, "gru"))
    again.load_weights(path)
    for actual, expected in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_given_embeddings_are_in_the_weights_and_not_in_the_configuration(tmp_path):
    matrix = np.arange(8 * 4).reshape(8, 4) / 7 + 1234.5
    model = keras_seq.Seq2Seq(
        Encoder(8, 4, 5, "gru", embeddings_initializer=matrix),
        Decoder(8, 4, 5, "gru", embeddings_initializer=matrix, tie_embeddings=True),
    )
    assert "1234.5" not in str(model.get_config())
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for part in (again.encoder, again.decoder):
        np.testing.assert_array_equal(part.embedding.embeddings, matrix.astype("float32"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode", "policy"),
    [
        ("before", "sequential", "float32"),
        ("residual after", "parallel", "mixed_bfloat16"),
        ("cell", "sequential", "float32"),
        ("stack without attention", "sequential", "float32"),
        ("tied", "parallel", "mixed_bfloat16"),
        ("maxout", "sequential", "float32"),
    ],
)
def test_training_compiled_by_xla(name, mode, policy):
    keras.config.set_dtype_policy(policy)
    try:
        losses = []
        for jit_compile in (True, False):
            keras.utils.set_random_seed(1)
            model = make_model(name, dropout=0.2, seed=4)
            sampling = keras_seq.training.ScheduledSampling(1.0, mode, "argmax")  # XLA draws other numbers
            model.compile("sgd", jit_compile=jit_compile, scheduled_sampling=sampling)
            losses.append(model.fit(*PAIRS, epochs=3, shuffle=False, verbose=0).history["loss"])
            assert len(model.generate(PAIRS[0][0])) == 2
        np.testing.assert_allclose(*losses, rtol=1e-4 if policy == "float32" else 5e-2)
    finally:
        keras.config.set_dtype_policy("float32")

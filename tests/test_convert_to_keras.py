# SPDX-License-Identifier: Apache-2.0
"""`convert(model, to="keras")` gives a model of Keras alone with the same weights and outputs, or says what is not."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import assert_close, draw
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import keras_seq
from keras_seq import layers

BATCH, TIME, FEATURES = 3, 5, 4
TOKENS = np.random.default_rng(0).integers(1, 9, (BATCH, TIME)) * (np.arange(TIME) < [[5], [3], [0]])


def on_tokens(*stack):
    embedding = keras.layers.Embedding(9, FEATURES, mask_zero=True, embeddings_initializer="normal")
    return keras.Sequential([keras.Input((None,), dtype="int32"), embedding, *stack])


def check(model, inputs, tolerance=3e-5):
    converted = keras_seq.convert(model, to="keras")
    assert "keras_seq" not in converted.to_json()
    assert_close(converted.get_weights(), model.get_weights(), 0)
    assert_close(converted(inputs), model(inputs), tolerance)
    return converted


def mixed():
    return on_tokens(
        layers.Bidirectional(layers.GRU(4, num_layers=2, return_sequences=True, dropout=0.1), merge_mode="sum"),
        layers.LockedDropout(0.2),
        layers.LSTM(3, return_sequences=True, zero_output_for_mask=True, implementation="xla", recompute=True),
        layers.RNN([layers.GRUCell(4, reset_after=False), layers.SimpleRNNCell(2)]),
    )


def test_the_copy_has_the_weights_and_outputs_of_the_model_and_nothing_of_keras_seq():
    model = mixed()
    model.compile("adam", "mse")
    model.optimizer.learning_rate = 0.5
    converted = check(model, TOKENS)
    assert type(converted.optimizer) is keras.optimizers.Adam
    assert [type(layer) for layer in converted.layers[1:3]] == [
        keras.layers.Bidirectional,
        keras.layers.SpatialDropout1D,
    ]


def test_adam_of_keras_seq_becomes_that_of_keras():
    model = keras.Sequential([keras.Input((None, FEATURES)), layers.SimpleRNN(3)])
    model.compile(keras_seq.training.Adam(0.25, clipnorm=1.0), "mse")
    optimizer = keras_seq.convert(model, to="keras").optimizer
    assert type(optimizer) is keras.optimizers.Adam
    assert (float(optimizer.learning_rate), optimizer.clipnorm) == (0.25, 1.0)


@st.composite
def stacks(draw):
    """For each layer of a model the kind, its arguments and the merge mode, if there are two directions."""
    specs = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["LSTM", "GRU", "SimpleRNN"]))
        options = {name: draw(st.booleans()) for name in ("go_backwards", "zero_output_for_mask", "use_bias")}
        options |= {"num_layers": draw(st.integers(1, 3)), "recurrent_dropout": draw(st.sampled_from([0.0, 0.2]))}
        options |= {"units": draw(st.integers(1, 4)), "activation": draw(st.sampled_from(["tanh", "softsign", None]))}
        if kind != "SimpleRNN":
            options["recurrent_activation"] = draw(st.sampled_from(["sigmoid", "hard_sigmoid"]))
        specs.append((kind, options, draw(st.sampled_from([None, "concat", "sum", "mul", "ave"]))))
    return specs


def make(specs):
    stack = []
    for kind, options, merge_mode in specs:
        options = {**options, "go_backwards": options["go_backwards"] and not merge_mode}
        layer = getattr(layers, kind)(return_sequences=True, **options)
        stack.append(layers.Bidirectional(layer, merge_mode=merge_mode) if merge_mode else layer)
    return on_tokens(*stack)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(stacks())
def test_any_stack_has_the_same_outputs(specs):
    model = make(specs)
    converted = check(model, TOKENS)
    assert_close(keras_seq.convert(converted)(TOKENS), model(TOKENS), 3e-5)


PROGRAM = """
import sys
import keras, numpy as np
path, tokens, outputs = sys.argv[1:]
np.save(outputs, keras.saving.load_model(path)(np.load(tokens)))
assert "keras_seq" not in sys.modules
"""


@pytest.mark.slow
def test_the_copy_loads_in_a_process_without_keras_seq(tmp_path):
    model = mixed()
    keras_seq.convert(model, to="keras").save(tmp_path / "model.keras")
    np.save(tmp_path / "tokens.npy", TOKENS)
    arguments = [tmp_path / name for name in ("model.keras", "tokens.npy", "outputs.npy")]
    subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=True)
    assert_close(np.load(arguments[-1]), model(TOKENS), 3e-5)


def encoder_decoder(has_mask):
    source, target = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(9, FEATURES, mask_zero=True)
    _, *state = layers.LSTM(3, return_state=True)(embedding(source))
    mask = {"mask": keras.ops.not_equal(target, 0)} if has_mask else {}
    outputs = layers.LSTM(3, return_sequences=True, name="decoder")(embedding(target), initial_state=state, **mask)
    return keras.Model([source, target], outputs)


def test_a_mask_that_keras_would_ignore_must_be_passed_explicitly():
    check(encoder_decoder(has_mask=True), [TOKENS, TOKENS])
    with pytest.raises(ValueError, match="'decoder' with an initial state and sequences that carry a mask"):
        keras_seq.convert(encoder_decoder(has_mask=False), to="keras")


def test_a_layer_alone_is_converted():
    layer = layers.GRU(3, num_layers=2, return_sequences=True)
    sequences = draw(BATCH, TIME, FEATURES)
    layer(sequences)
    converted = keras_seq.convert(layer, to="keras")
    assert type(converted) is keras.layers.RNN
    assert_close(converted(sequences), layer(sequences), 3e-5)


def small_seq2seq():
    return keras_seq.Seq2Seq(keras_seq.Encoder(9, 4, 5), keras_seq.Decoder(9, 4, 5), name="translator")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: on_tokens(layers.MGU(3, name="first")), "'first' with MGU, which Keras does not have"),
        (lambda: on_tokens(layers.LSTM(3, zoneout=0.1, name="first")), "'first' with zoneout=0.1, which LSTM of Keras"),
        (
            lambda: on_tokens(layers.RNN([layers.LSTMCell(3, peephole=True, name="cell")], name="rnn")),
            "'rnn/.*/cell' with peephole=True, which LSTMCell of Keras",
        ),
        (lambda: on_tokens(layers.GRU(3, num_layers=2, output_dropout=0.2)), "output_dropout=0.2, which RNN of Keras"),
        (lambda: on_tokens(layers.GRU(3, num_layers=2, residual=True)), "residual=True, which RNN of Keras"),
        (
            lambda: on_tokens(layers.GRU(3, initial_state_initializer="ones")),
            "initial_state_initializer=.*'Ones'.*, which GRU of Keras",
        ),
        (
            lambda: keras.Sequential(
                [
                    keras.Input((2, 3), dtype="int32"),
                    keras.layers.Embedding(9, 4, mask_zero=True),
                    layers.TimeDistributed(layers.GRU(3), name="words"),
                ]
            ),
            "'words' with masked steps, which TimeDistributed of Keras does not support",
        ),
        (small_seq2seq, "'translator' with Seq2Seq, which Keras does not have"),
    ],
)
def test_what_keras_does_not_have_raises_an_error_that_names_the_layer(make, message):
    with pytest.raises(ValueError, match=message):
        keras_seq.convert(make(), to="keras")


def test_to_is_checked():
    with pytest.raises(ValueError, match=r"`to` must be 'keras_seq' or 'keras'. Received: 'torch'"):
        keras_seq.convert(mixed(), to="torch")

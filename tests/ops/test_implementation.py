# SPDX-License-Identifier: Apache-2.0
"""Which implementation runs is asked for, or chosen and explained; never silent."""

import keras
import numpy as np
import pytest

import keras_seq
from keras_seq import layers, ops

ONE = np.ones((1, 1), "float32")
MAKERS = [layers.SimpleRNN, layers.GRU, layers.LSTM, layers.AttentionDecoder]


def run(layer):
    sequences = np.ones((1, 2, 3), "float32")
    return layer(sequences, sequences) if isinstance(layer, layers.AttentionDecoder) else layer(sequences)


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv("KERAS_SEQ_IMPLEMENTATION", raising=False)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("implementation", ["auto", "xla", 1, 2])
def test_accepted(make, implementation):
    layer = make(4, implementation=implementation)
    assert layer.implementation == ("xla" if implementation == "xla" else "auto")
    assert layer.choose_implementation().implementation == "xla"
    run(layer)


@pytest.mark.parametrize("make", MAKERS)
def test_native_is_never_replaced_silently(make):
    layer = make(4, implementation="native")
    with pytest.raises(NotImplementedError, match="'native'"):
        run(layer)
    with pytest.raises(NotImplementedError, match="'native'"):
        keras_seq.explain(layer)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("implementation", ["cuda", 3, None])
def test_unknown(make, implementation):
    with pytest.raises(ValueError, match=f"`implementation` must be one of .*Received: {implementation!r}"):
        make(4, implementation=implementation)


def test_functions_take_it_too():
    sequences = np.ones((1, 2, 1), "float32")
    ops.simple_rnn(sequences, ONE, ONE, implementation="xla")
    with pytest.raises(NotImplementedError):
        ops.simple_rnn(sequences, ONE, ONE, implementation="native")
    with pytest.raises(ValueError, match="`implementation`"):
        ops.simple_rnn(sequences, ONE, ONE, implementation="cuda")


def test_the_environment_replaces_auto(monkeypatch):
    monkeypatch.setenv("KERAS_SEQ_IMPLEMENTATION", "xla")
    assert "KERAS_SEQ_IMPLEMENTATION" in layers.LSTM(4).choose_implementation().reason
    assert "`implementation`" in layers.LSTM(4, implementation="xla").choose_implementation().reason
    monkeypatch.setenv("KERAS_SEQ_IMPLEMENTATION", "native")
    with pytest.raises(NotImplementedError, match="KERAS_SEQ_IMPLEMENTATION"):
        run(layers.LSTM(4))
    run(layers.LSTM(4, implementation="xla"))
    monkeypatch.setenv("KERAS_SEQ_IMPLEMENTATION", "cuda")
    with pytest.raises(ValueError, match="cuda"):
        run(layers.LSTM(4))


def test_explain_has_a_row_for_each_recurrent_layer():
    shared = layers.GRU(4, name="shared", return_sequences=True)
    inner = keras.Sequential([layers.SimpleRNN(4, name="deep", return_sequences=True)])
    model = keras.Sequential(
        [
            layers.Bidirectional(layers.LSTM(4, name="lstm", return_sequences=True, implementation="xla")),
            shared,
            inner,
            keras.layers.Dense(4),
            shared,
            keras.layers.GRU(4, name="foreign"),
        ]
    )
    rows = [(row.layer, row.kind, row.implementation) for row in keras_seq.explain(model)]
    assert rows == [
        ("forward_lstm", "LSTM", "xla"),
        ("backward_lstm", "LSTM", "xla"),
        ("shared", "GRU", "xla"),
        ("deep", "SimpleRNN", "xla"),
        ("foreign", "GRU", "keras"),
    ]
    assert all(row.reason for row in keras_seq.explain(model))
    assert keras_seq.explain(keras.layers.Dense(4)) == []
    assert [row.layer for row in keras_seq.explain(layers.AttentionDecoder(4, name="decoder"))] == ["decoder"]

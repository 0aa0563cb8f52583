# SPDX-License-Identifier: Apache-2.0
"""Which implementation runs is asked for, or chosen and explained; never silent."""

import re

import keras
import numpy as np
import pytest

import keras_seq
from keras_seq import layers, ops
from keras_seq.ops import native

RECURRENT = [layers.SimpleRNN, layers.GRU, layers.LSTM]
WITH_KERNELS = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
ONE = np.ones((1, 1), "float32")
MAKERS = [layers.SimpleRNN, layers.GRU, layers.LSTM, layers.AttentionDecoder]


def run(layer):
    sequences = np.ones((1, 2, 3), "float32")
    return layer(sequences, sequences) if isinstance(layer, layers.AttentionDecoder) else layer(sequences)


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv("KERAS_SEQ_IMPLEMENTATION", raising=False)


@WITH_KERNELS
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("implementation", ["auto", "xla", "native", 1, 2])
def test_accepted(make, implementation):
    layer = make(4, implementation=implementation)
    assert layer.implementation == ("auto" if implementation in (1, 2) else implementation)
    run(layer)
    assert layer.choose_implementation().implementation == ("xla" if implementation == "xla" else "native")


@WITH_KERNELS
@pytest.mark.parametrize(
    ("make", "options", "reason"),
    [
        (layers.GRU, {"activation": "relu"}, "GRU with the activation.* relu, sigmoid"),
        (layers.LSTM, {"recurrent_activation": "hard_sigmoid"}, "LSTM with the activation.* tanh, hard_sigmoid"),
        (layers.SimpleRNN, {"activation": "gelu"}, "SimpleRNN with the activation.* gelu"),
        (layers.LSTM, {"dtype": "mixed_float16"}, "float16"),
        (layers.AttentionDecoder, {"attention": "monotonic"}, "attention that is not additive"),
        (layers.AttentionDecoder, {"cell": layers.GRUCell(4, activation="relu")}, "GRU with .* relu.* with attention"),
    ],
)
def test_what_has_no_kernel_says_so_and_runs_without(make, options, reason):
    choice = make(4, **options).choose_implementation()
    assert choice.implementation == "xla"
    assert re.search(f"no native kernel for .*{reason}", choice.reason)
    run(make(4, **options))
    layer = make(4, implementation="native", **options)
    for call in (run, keras_seq.explain):
        with pytest.raises(NotImplementedError, match=f"'native', but there is no native kernel for .*{reason}"):
            call(layer)


@pytest.mark.parametrize("make", RECURRENT)
def test_without_the_library(make, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.setattr(native, "_loaded", None)
    advice = "run `pip install -v -e .` in a checkout of keras_seq to build them"
    reason = f"the native kernels were not built; {advice}"
    assert make(4).choose_implementation() == ("xla", reason)
    run(make(4))
    with pytest.raises(NotImplementedError) as refused:
        run(make(4, implementation="native"))
    assert f"`implementation` asks for 'native', but {reason}. Use 'auto' or 'xla'." in str(refused.value)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("implementation", ["cuda", 3, None])
def test_unknown(make, implementation):
    with pytest.raises(ValueError, match=f"`implementation` must be one of .*Received: {implementation!r}"):
        make(4, implementation=implementation)


def test_functions_take_it_too():
    sequences = np.ones((1, 2, 1), "float32")
    ops.simple_rnn(sequences, ONE, ONE, implementation="xla")
    with pytest.raises(NotImplementedError):
        ops.simple_rnn(sequences, ONE, ONE, activation="gelu", implementation="native")
    with pytest.raises(ValueError, match="`implementation`"):
        ops.simple_rnn(sequences, ONE, ONE, implementation="cuda")


def test_the_environment_replaces_auto(monkeypatch):
    monkeypatch.setenv("KERAS_SEQ_IMPLEMENTATION", "xla")
    assert "KERAS_SEQ_IMPLEMENTATION" in layers.LSTM(4).choose_implementation().reason
    assert "`implementation`" in layers.LSTM(4, implementation="xla").choose_implementation().reason
    monkeypatch.setenv("KERAS_SEQ_IMPLEMENTATION", "native")
    with pytest.raises(NotImplementedError, match="KERAS_SEQ_IMPLEMENTATION"):
        run(layers.LSTM(4, activation="relu"))
    run(layers.LSTM(4, activation="relu", implementation="xla"))
    monkeypatch.setenv("KERAS_SEQ_IMPLEMENTATION", "cuda")
    with pytest.raises(ValueError, match="cuda"):
        run(layers.LSTM(4))


@WITH_KERNELS
def test_a_block_replaces_auto():
    layer = layers.GRU(4)
    with ops.use_implementation("xla"):
        assert layer.choose_implementation() == ("xla", "asked for by `use_implementation`")
        with ops.use_implementation("auto"):
            assert layer.choose_implementation().implementation == "native"
    assert layer.choose_implementation().implementation == "native"
    with pytest.raises(ValueError, match="cuda"), ops.use_implementation("cuda"):
        pass


@WITH_KERNELS
def test_explain_has_a_row_for_each_recurrent_layer(capsys):
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
    explained = keras_seq.explain(model)
    rows = [(row.layer, row.kind, row.implementation) for row in explained]
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["layer", "kind", "implementation", "reason"]
    assert [line.split(maxsplit=3) for line in lines] == [list(row) for row in explained]
    assert rows == [
        ("forward_lstm", "LSTM", "xla"),
        ("backward_lstm", "LSTM", "xla"),
        ("shared", "GRU", "native"),
        ("deep", "SimpleRNN", "native"),
        ("foreign", "GRU", "keras"),
    ]
    assert all(row.reason for row in explained)
    assert keras_seq.explain(keras.layers.Dense(4)) == []
    assert capsys.readouterr().out == "no recurrent layer\n"
    decoder = layers.AttentionDecoder(4, name="decoder")
    assert [row.layer for row in keras_seq.explain(decoder, print_fn=None)] == ["decoder"]
    assert not capsys.readouterr().out

# SPDX-License-Identifier: Apache-2.0
"""`summary` shows the shape and the parameters of each layer, at any depth."""

import re

import pytest

import keras_seq
from keras_seq import layers


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def read_summary(model, **options):
    """Return the rows of a summary, as `[(layer, output shape, parameters), ...]`."""
    lines = []
    model.summary(print_fn=lines.append, line_length=200, **options)
    rows = [line.strip("│").split("│") for line in "\n".join(lines).splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in row] for row in rows]
    return [(name.lstrip("└ "), shape, int(count.replace(",", ""))) for name, shape, count in rows]


def make_seq2seq():
    return keras_seq.Seq2Seq(
        keras_seq.Encoder(9, 4, 6, num_layers=2),
        keras_seq.Decoder(8, 4, 5, "gru", num_layers=2, tie_embeddings=True, attention="luong"),
    )


def make_forecaster():
    model = keras_seq.Forecaster(3, 4, attention="bahdanau", bidirectional=True)
    model.build((None, 8, 2))
    return model


MODELS = {
    "Seq2Seq": make_seq2seq,
    "Seq2Seq of cells": lambda: keras_seq.Seq2Seq(
        keras_seq.Encoder(9, 4, None, layers.LSTMCell(6, projection_units=3)),
        keras_seq.Decoder(8, 4, None, layers.LSTM(5, num_layers=2), attention=None),
    ),
    "LanguageModel": lambda: keras_seq.LanguageModel(9, 4, 6, num_layers=2, tie_embeddings=True, tar=1.0, ar=1.0),
    "Forecaster": make_forecaster,
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_each_row_has_the_sizes_of_its_layer(name, nested):
    rows = read_summary(MODELS[name](), expand_nested=nested)
    for layer, shape, _ in rows:
        assert re.search(r"\d", shape), layer  # neither "?" nor only None


def test_the_shapes_of_a_seq2seq():
    model = make_seq2seq()
    rows = read_summary(model, expand_nested=True)
    shapes = {re.search(r"\((\w+)\)$", name)[1]: shape for name, shape, _ in rows}  # the last one of each kind
    assert shapes["Encoder"][1:-1] == "(None, None, 12), (None, 24)"
    assert shapes["Decoder"] == "(None, None, 8)"
    assert shapes["AttentionDecoder"] == "(None, None, 5)"
    assert shapes["TiedReadout"] == "(None, None, 8)"


def test_the_parameters_inside_a_part_add_up():
    model = make_seq2seq()
    rows = read_summary(model, expand_nested=True)
    counts = [count for _, _, count in rows]
    decoder = next(i for i, (name, _, _) in enumerate(rows) if name.endswith("(Decoder)"))
    assert sum(counts[1:decoder]) == counts[0] == model.encoder.count_params()
    assert sum(counts[decoder + 1 :]) == counts[decoder] == model.decoder.count_params()

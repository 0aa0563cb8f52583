# SPDX-License-Identifier: Apache-2.0
"""The base class of SimpleRNN, GRU and LSTM: attributes of the cell, subclasses, and kinds that have a name."""

import keras
import numpy as np
import pytest
from conftest import assert_close

from keras_seq import layers
from keras_seq.layers import recurrent_layer
from keras_seq.layers.recurrent_layer import make_cell, make_layer, register_kind

UNITS = 4
SEQUENCES = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")


class ScaledCell(layers.GRUCell):
    """A cell with an argument of its own."""

    def __init__(self, units, scale=1.0, **kwargs):
        super().__init__(units, **kwargs)
        self.scale = scale

    def call(self, inputs, states, training=False):
        output, states = super().call(inputs, states, training=training)
        return self.scale * output, states

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


class ScaledLayer(recurrent_layer.RecurrentLayer):
    """A layer whose class and cell are not of keras_seq."""

    cell_type = ScaledCell
    cell_name = "scaled_cell"

    def __init__(self, units, scale=1.0, seed=None, **kwargs):
        super().__init__({"units": units, "scale": scale, "seed": seed}, **kwargs)


class DroppedLSTM(layers.LSTM):
    """A layer with one argument in the place of two."""

    def __init__(self, units, rate=0.0, **kwargs):
        super().__init__(units, dropout=rate, recurrent_dropout=rate, **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["recurrent_dropout"]
        config["rate"] = config.pop("dropout")
        return config


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
def test_a_layer_has_the_attributes_of_its_cell(kind):
    layer = getattr(layers, kind)(UNITS, dropout=0.1, zoneout=0.2, num_layers=2)
    names = set(layer.cell.cells[0].get_config()) - {"name", "dtype", "trainable"}
    for name in names:
        assert getattr(layer, name) == getattr(layer.cell.cells[0], name)
        with pytest.raises(AttributeError, match=f"`{name}` of {kind} is read-only"):
            setattr(layer, name, object())
    assert {"units", "activation", "dropout", "zoneout", "seed"} <= names


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_subclass_of_a_layer_may_have_other_arguments(num_layers, tmp_path):
    layer = DroppedLSTM(UNITS, rate=0.1, num_layers=num_layers)
    model = keras.Sequential([keras.Input(SEQUENCES.shape[1:]), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects={"DroppedLSTM": DroppedLSTM})
    assert loaded.layers[0].get_config() == layer.get_config()
    assert loaded.layers[0].recurrent_dropout == 0.1
    assert_close(loaded(SEQUENCES), model(SEQUENCES), 0)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_layer_may_run_a_cell_of_another_class(num_layers):
    layer = ScaledLayer(UNITS, scale=3.0, seed=1, num_layers=num_layers, return_sequences=True)
    outputs = layer(SEQUENCES)
    cells = layer.cell.cells if num_layers > 1 else [layer.cell]
    assert [type(cell) for cell in cells] == [ScaledCell] * num_layers
    assert_close(outputs, keras.layers.RNN(cells if num_layers > 1 else cells[0], return_sequences=True)(SEQUENCES), 0)
    copy = ScaledLayer.from_config({name: layer.get_config()[name] for name in ("units", "scale", "seed")})
    assert copy.cell.scale == 3.0


def test_a_registered_kind_has_a_name(monkeypatch):
    monkeypatch.setattr(recurrent_layer, "_KINDS", dict(recurrent_layer._KINDS))
    assert register_kind("scaled")(ScaledLayer) is ScaledLayer
    assert type(make_layer("scaled", UNITS, scale=2.0)) is ScaledLayer
    assert type(make_cell("scaled", UNITS, scale=2.0)) is ScaledCell
    assert type(layers.AttentionDecoder(UNITS, cell="scaled").cell) is ScaledCell


@pytest.mark.parametrize("make", [make_layer, make_cell])
def test_an_unknown_kind_is_refused(make):
    with pytest.raises(
        ValueError, match=r"`cell` must be one of \['gru', 'lstm', 'mgu', 'simple_rnn'\]. Received: 'elman'"
    ):
        make("elman", UNITS)


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM", "MGU"])
@pytest.mark.parametrize("use_bias", [np.True_, np.False_, None, 2])
def test_the_truth_value_of_use_bias_counts(kind, use_bias):
    layer = getattr(layers, kind)(UNITS, use_bias=use_bias)
    layer(SEQUENCES)
    assert len(layer.weights) == 2 + bool(use_bias)

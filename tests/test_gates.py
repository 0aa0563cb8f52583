# SPDX-License-Identifier: Apache-2.0
"""`diagnostics.gates` against recurrences in NumPy, gate by gate, and against the layers' own outputs."""

import keras
import numpy as np
import pytest
import references
from conftest import assert_close, draw, draw_states
from matplotlib.colors import Normalize

from keras_seq import layers, plots
from keras_seq.diagnostics import gates

BATCH, TIME, FEATURES, UNITS = 3, 6, 4, 5
INPUTS = draw(BATCH, TIME, FEATURES)
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 0]], bool)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def make(kind, **options):
    layer = getattr(layers, kind)(UNITS, return_sequences=True, **options)
    layer.build((None, None, FEATURES))
    layer.set_weights([draw(*w.shape, seed=i) for i, w in enumerate(layer.weights)])
    return layer


def in_numpy(kind, x, h, c, kernel, recurrent_kernel, bias, reset_after):
    """The gates of one step, from the equations of the papers."""
    count = {"SimpleRNN": 1, "MGU": 2, "GRU": 3, "LSTM": 4}[kind]
    w, u = (np.split(k, count, axis=1) for k in (kernel, recurrent_kernel))
    b, r_b = (np.split(row, count) for row in (bias if bias.ndim == 2 else (bias, 0 * bias)))
    linear = [x @ w[k] + h @ u[k] + b[k] + r_b[k] for k in range(count)]
    if kind == "LSTM":
        i, f, o = (sigmoid(linear[k]) for k in (0, 1, 3))
        return {"input_gate": i, "forget_gate": f, "candidate": np.tanh(linear[2]), "output_gate": o}
    if kind == "GRU":
        z, r = sigmoid(linear[0]), sigmoid(linear[1])
        reset = r * (h @ u[2] + r_b[2]) if reset_after else (r * h) @ u[2]
        return {"update_gate": z, "reset_gate": r, "candidate": np.tanh(x @ w[2] + b[2] + reset)}
    if kind == "MGU":
        f = sigmoid(linear[0])
        return {"forget_gate": f, "candidate": np.tanh(x @ w[1] + b[1] + (f * h) @ u[1])}
    return {}


@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("go_backwards", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("SimpleRNN", {}), ("GRU", {}), ("GRU", {"reset_after": False}), ("LSTM", {}), ("MGU", {})],
)
def test_gates_and_states_are_those_of_the_papers(kind, options, go_backwards, with_state, mask):
    layer = make(kind, go_backwards=go_backwards, **options)
    initial = draw_states(layer, BATCH) if with_state else None
    values = gates(layer, INPUTS, initial, mask)
    function = getattr(references, "simple_rnn" if kind == "SimpleRNN" else kind.lower())
    weights = layer.get_weights()
    states = [np.zeros((BATCH, UNITS))] * (2 if kind == "LSTM" else 1) if initial is None else initial
    expected = {}
    for t in reversed(range(TIME)) if go_backwards else range(TIME):
        step = in_numpy(kind, INPUTS[:, t], states[0], states[-1], *weights, options.get("reset_after", True))
        visible = np.ones(BATCH, bool) if mask is None else mask[:, t]
        _, states = function(INPUTS[:, t : t + 1], *weights, initial_state=states, mask=visible[:, None], **options)
        for name, value in step.items():
            expected.setdefault(name, [None] * TIME)[t] = np.where(visible[:, None], value, np.nan)
        for name, value in zip(("hidden_state", "cell_state"), states, strict=False):
            expected.setdefault(name, [None] * TIME)[t] = value
    assert set(values) == set(expected)
    for name, series in expected.items():
        np.testing.assert_allclose(values[name], np.stack(series, axis=1), atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTM", {"layer_norm": True, "peephole": True, "projection_units": 3, "zoneout": 0.2}),
        ("GRU", {"layer_norm": True, "reset_after": False}),
        ("LSTM", {"num_layers": 3, "residual": True, "initial_state_initializer": "he_normal"}),
        ("MGU", {"dropout": 0.5, "recurrent_dropout": 0.5, "recurrent_weight_dropout": 0.5}),
    ],
)
def test_hidden_states_are_the_outputs_of_the_layer_with_any_extension(kind, options):
    layer = make(kind, return_state=True, **options)
    values = gates(layer, INPUTS, mask=MASK)
    outputs, *_ = layer(INPUTS, mask=MASK)
    last = f"{options['num_layers'] - 1}/" if "num_layers" in options else ""
    expected = values[f"{last}hidden_state"]
    if options.get("residual"):
        expected = expected + values["1/hidden_state"] + values["0/hidden_state"]
    assert_close(expected[MASK], np.array(outputs)[MASK], 1e-5)
    for name, value in values.items():
        assert np.isnan(value[~MASK]).all() == ("state" not in name)
        if name.endswith("gate"):
            assert np.all((value[MASK] > 0) & (value[MASK] < 1))


def test_both_directions():
    layer = layers.Bidirectional(layers.GRU(UNITS, return_sequences=True))
    outputs, values = layer(INPUTS), gates(layer, INPUTS)
    both = [values[f"{name}/hidden_state"] for name in ("forward", "backward")]
    assert_close(np.concatenate(both, axis=-1), outputs, 1e-6)
    assert len(values) == 8
    initial = draw_states(layer, BATCH)
    both = [gates(layer, INPUTS, initial)[f"{name}/hidden_state"] for name in ("forward", "backward")]
    assert_close(np.concatenate(both, axis=-1), layer(INPUTS, initial_state=initial), 1e-6)


def test_the_mask_of_an_embedding_is_used():
    embedded = keras.layers.Embedding(5, FEATURES, mask_zero=True)(np.array([[1, 2, 0], [3, 0, 0]]))
    values = gates(make("LSTM"), embedded)
    assert np.isnan(values["input_gate"]).all(axis=-1).tolist() == [[False, False, True], [False, True, True]]


def test_no_steps():
    values = gates(make("LSTM", projection_units=2), INPUTS[:, :0])
    assert {name: value.shape for name, value in values.items()} == {
        **dict.fromkeys(["input_gate", "forget_gate", "candidate", "output_gate", "cell_state"], (BATCH, 0, UNITS)),
        "hidden_state": (BATCH, 0, 2),
    }


def test_inputs_without_features_are_refused():
    layer = layers.LSTM(3)
    layer.build((None, None, 2))
    with pytest.raises(ValueError, match=r"`inputs` must be \(batch, time, features\)\. Received: shape \(4, 5\)"):
        gates(layer, np.zeros((4, 5)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (keras.layers.LSTM(3), "`layer` must be a recurrent layer of keras_seq"),
        (layers.RNN(keras.layers.GRUCell(3)), "with cells of keras_seq"),
        (layers.AttentionDecoder(3), "`layer` must be a recurrent layer of keras_seq"),
        (layers.LSTM(3), "`layer` must be built"),
    ],
)
def test_other_layers_are_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        gates(layer, INPUTS)


def test_plot_of_gates(tmp_path):
    values = gates(make("LSTM"), INPUTS, mask=MASK)
    figure = plots.plot_gates(values, list("lstm"), sequence=1, path=tmp_path / "gates.png")
    assert (tmp_path / "gates.png").stat().st_size
    panels = dict(zip(values, figure.axes, strict=False))
    for name, axes in panels.items():
        [image] = axes.images
        np.testing.assert_array_equal(np.ma.filled(image.get_array(), np.nan), values[name][1, :4].T)
        assert isinstance(image.norm, Normalize)
        assert image.norm.vmin == (0 if name.endswith("gate") else -image.norm.vmax)
        assert [label.get_text() for label in axes.get_xticklabels()] == list("lstm")
    with pytest.raises(ValueError, match=r"`tokens` must be at most .*\. Received: 7"):
        plots.plot_gates(values, list("letters"))
    with pytest.raises(ValueError, match="`values` must be a dict from names to arrays"):
        plots.plot_gates({"forget_gate": np.zeros(3)})

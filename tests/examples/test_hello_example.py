# SPDX-License-Identifier: Apache-2.0
"""The numbers that the hello example prints are those of NumPy, and its three cells learn to say the word."""

import importlib
import json
import pathlib
import sys

import keras
import numpy as np
import pytest
from programs import imports_of

import keras_seq

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "hello"
KINDS = ["simple_rnn", "lstm", "gru"]


@pytest.fixture
def train():
    """The module train.py, as its own folder sees it."""
    pytest.importorskip("matplotlib")
    with imports_of(FOLDER):
        yield importlib.import_module("train")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_forward(kind, weights, x, y, added=0.0):
    """Computes the states and gates of each step, in plain NumPy; `added` (time, units) is added to each h."""
    kernel, recurrent_kernel, bias, readout, readout_bias = weights
    h = c = np.zeros(len(recurrent_kernel))
    names, rows = {"simple_rnn": "h", "lstm": "ifgoch", "gru": "zrgh"}[kind], []
    for x_t, added_t in zip(x, np.broadcast_to(added, (len(x), len(h))), strict=True):
        if kind == "simple_rnn":
            h = np.tanh(x_t @ kernel + h @ recurrent_kernel + bias) + added_t
            row = [h]
        elif kind == "lstm":
            i, f, g, o = np.split(x_t @ kernel + h @ recurrent_kernel + bias, 4)
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            c = f * c + i * g
            h = o * np.tanh(c) + added_t
            row = [i, f, g, o, c, h]
        else:
            of_input = np.split(x_t @ kernel + bias[0], 3)
            of_state = np.split(h @ recurrent_kernel + bias[1], 3)
            z, r = sigmoid(of_input[0] + of_state[0]), sigmoid(of_input[1] + of_state[1])
            g = np.tanh(of_input[2] + r * of_state[2])
            h = z * h + (1 - z) * g + added_t
            row = [z, r, g, h]
        rows.append(row)
    values = dict(zip(names, np.stack(rows, axis=1), strict=True))
    logits = values["h"] @ readout + readout_bias
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return {**values, "logits": logits, "p": probabilities, "losses": -np.log(probabilities[np.arange(len(y)), y])}


def numpy_backward(weights, values, x, y):
    """Backpropagation of the mean loss through the time of the vanilla RNN, by hand."""
    _, recurrent_kernel, _, readout, _ = weights
    d_logits = (values["p"] - np.eye(4)[y]) / len(y)
    h = np.vstack([np.zeros(3), values["h"]])
    d_hidden, d_sums, d_next = np.zeros((len(y), 3)), np.zeros((len(y), 3)), np.zeros(3)
    for t in reversed(range(len(y))):
        d_hidden[t] = readout @ d_logits[t] + d_next
        d_sums[t] = d_hidden[t] * (1 - h[t + 1] ** 2)
        d_next = recurrent_kernel @ d_sums[t]
    gradients = [x.T @ d_sums, h[:-1].T @ d_sums, d_sums.sum(axis=0), h[1:].T @ d_logits, d_logits.sum(axis=0)]
    return d_logits, d_hidden, gradients


def central_differences(function, array, epsilon=1e-5):
    """Returns the gradient of a function, whose argument is `array`, entry by entry."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        step = np.zeros_like(array)
        step[index] = epsilon
        gradient[index] = (function(array + step) - function(array - step)) / (2 * epsilon)
    return gradient


@pytest.fixture(params=KINDS)
def example(request, train):
    """Kind, layer, readout, all weights, inputs and targets."""
    model = train.build_model(request.param, 0.02, 0)
    return request.param, *model.layers, model.get_weights(), *train.load_data()


def test_the_data_are_the_letters_of_the_word(train):
    x, y = train.load_data()
    assert "".join(train.LETTERS[i] for i in x.argmax(axis=1)) == "hell"
    assert "".join(train.LETTERS[i] for i in y) == "ello"
    np.testing.assert_array_equal(x.sum(axis=1), 1)


def test_each_number_of_the_steps_forwards_is_that_of_numpy(example):
    kind, layer, readout, weights, x, y = example
    values = sys.modules["steps"].run_forward(layer, readout, x, y)
    names = {"i": "input_gate", "f": "forget_gate", "g": "candidate", "o": "output_gate", "c": "cell_state"}
    names |= {"z": "update_gate", "r": "reset_gate", "h": "hidden_state", "p": "probabilities"}
    expected = numpy_forward(kind, weights, x, y)
    expected["losses"] = expected["losses"][:, None]
    assert {names.get(name, name) for name in expected} == set(values)
    for name, value in expected.items():
        np.testing.assert_allclose(values[names.get(name, name)], value, rtol=0, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(layer(x[None])[0], expected["h"], rtol=0, atol=1e-9)


def test_each_gradient_is_that_of_numpy(example):
    kind, layer, readout, weights, x, y = example
    d_logits, d_hidden, d_weights = sys.modules["steps"].run_backward(layer, readout, x, y)
    values = numpy_forward(kind, weights, x, y)
    np.testing.assert_allclose(d_logits, (values["p"] - np.eye(4)[y]) / 4, rtol=0, atol=1e-9)

    def loss(replaced, added=0.0):
        return numpy_forward(kind, replaced, x, y, added)["losses"].mean()

    expected = central_differences(lambda added: loss(weights, added), np.zeros((4, 3)))
    np.testing.assert_allclose(d_hidden, expected, rtol=0, atol=1e-8)
    for i, gradient in enumerate(d_weights):
        expected = central_differences(lambda w, i=i: loss([*weights[:i], w, *weights[i + 1 :]]), weights[i])
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-8)


def test_backpropagation_through_time_by_hand_gives_the_gradients_of_the_vanilla_rnn(train):
    model, (x, y) = train.build_model("simple_rnn", 0.02, 0), train.load_data()
    results = sys.modules["steps"].run_backward(*model.layers, x, y)
    weights = model.get_weights()
    expected = numpy_backward(weights, numpy_forward("simple_rnn", weights, x, y), x, y)
    for result, value in zip(keras.tree.flatten(results), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(result, value, rtol=0, atol=1e-12)


def test_a_bad_number_of_epochs_is_reported(train, capsys):
    with pytest.raises(SystemExit):
        train.parse_arguments(["--epochs", "0"])
    assert "--epochs must be at least 1. Received: 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_prints_all_numbers_and_learns_the_word(train, tmp_path, capsys):
    metrics = train.main(["--seed", "1", "--output", str(tmp_path)])
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert {path.name for path in tmp_path.iterdir()} == {"gates.png", "metrics.json", "steps.txt", "training.png"}
    assert [metrics[kind]["says"] for kind in KINDS] == ["hello"] * 3
    assert all(metrics[kind]["losses"][-1] < 0.1 for kind in KINDS)
    printed = (tmp_path / "steps.txt").read_text(encoding="utf-8")
    assert capsys.readouterr().out == printed
    model, (x, y) = train.build_model("simple_rnn", 0.02, 1), train.load_data()
    weights = model.get_weights()
    values = numpy_forward("simple_rnn", weights, x, y)
    d_logits, d_hidden, gradients = numpy_backward(weights, values, x, y)
    flow = keras_seq.diagnostics.gradient_flow(model, (x[None], y[None]))["simple_rnn"]
    np.testing.assert_allclose(flow, np.linalg.norm(d_hidden, axis=1), rtol=0, atol=1e-9)
    for array in (values["h"], values["logits"], values["p"], d_logits, d_hidden, *gradients):
        for row in np.atleast_2d(array):
            assert " ".join(f"{value:9.6f}" for value in row.round(6) + 0.0) in printed

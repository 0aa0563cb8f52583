# SPDX-License-Identifier: Apache-2.0
"""Layers from PyTorch have the outputs and states of PyTorch's, whatever the options of the module."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import assert_close, draw
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_seq

BATCH, TIME = 3, 4

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")


def make_module(kind, **options):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return getattr(torch.nn, kind)(batch_first=True, **options).eval()


def run_torch(module, sequences):
    """Outputs, then the states of each layer and direction: h, and c of an LSTM."""
    import torch

    with torch.no_grad():
        outputs, states = module(torch.tensor(sequences, dtype=next(module.parameters()).dtype))
    states = states if isinstance(states, tuple) else (states,)
    return [outputs.numpy(), *(state[i].numpy() for i in range(len(states[0])) for state in states)]


def arrays_of(module):
    return {name: weight.detach().numpy() for name, weight in module.state_dict().items()}


@st.composite
def modules(draw):
    kind = draw(st.sampled_from(["LSTM", "GRU", "RNN"]))
    options = {"input_size": draw(st.integers(1, 5)), "hidden_size": draw(st.integers(2, 5))}
    options |= {
        "num_layers": draw(st.integers(1, 3)),
        "bidirectional": draw(st.booleans()),
        "bias": draw(st.booleans()),
    }
    if kind == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if kind == "LSTM":
        options["proj_size"] = draw(st.integers(0, options["hidden_size"] - 1))
    if options["num_layers"] > 1 and draw(st.booleans()):
        options["dropout"] = 0.5
    return kind, options


def check(kind, options, as_arrays):
    module = make_module(kind, **options)
    names = {"nonlinearity": options["nonlinearity"]} if as_arrays and "nonlinearity" in options else {}
    layer = keras_seq.from_torch(arrays_of(module) if as_arrays else module, return_state=True, **names)
    sequences = draw(BATCH, TIME, options["input_size"])
    assert_close(layer(sequences), run_torch(module, sequences), 3e-6)


def test_layers_have_the_outputs_and_states_of_pytorch():
    check("LSTM", {"input_size": 3, "hidden_size": 4, "num_layers": 2, "bidirectional": True, "proj_size": 2}, True)
    check("GRU", {"input_size": 3, "hidden_size": 4, "num_layers": 2}, False)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True)
@given(modules(), st.booleans())
def test_any_module_has_the_outputs_and_states_of_pytorch(module, as_arrays):
    check(*module, as_arrays)


@pytest.mark.slow
def test_dropout_between_layers_is_that_of_pytorch(tmp_path):
    """In training the share of zeros that the second layer reads is the rate; the layers save and load."""
    module = make_module("GRU", input_size=3, hidden_size=400, num_layers=2, dropout=0.3)
    model = keras_seq.from_torch(module)
    [dropout] = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    zeros = np.mean(np.asarray(dropout(np.ones((2, TIME, 400)), training=True)) == 0)
    assert abs(zeros - 0.3) < 0.05
    model.save(tmp_path / "model.keras")
    sequences = draw(BATCH, TIME, 3)
    assert_close(keras.saving.load_model(tmp_path / "model.keras")(sequences), run_torch(module, sequences)[0], 3e-6)


def test_weights_of_float64_stay_so_and_bfloat16_becomes_float32():
    module = make_module("LSTM", input_size=3, hidden_size=4).double()
    sequences = draw(BATCH, TIME, 3).astype("float64")
    layer = keras_seq.from_torch(module)
    assert layer.compute_dtype == "float64"
    assert_close(layer(sequences), run_torch(module, sequences)[0], 1e-14)
    assert keras_seq.from_torch(module.bfloat16()).compute_dtype == "float32"


def test_a_part_of_a_larger_state_dict_is_found_by_its_prefix():
    module = make_module("GRU", input_size=3, hidden_size=4)
    state = {f"encoder.rnn.{name}": value for name, value in arrays_of(module).items()} | {"head.weight": np.ones(3)}
    layer = keras_seq.from_torch(state, prefix="encoder.rnn.", return_sequences=False)
    sequences = draw(BATCH, TIME, 3)
    assert_close(layer(sequences), run_torch(module, sequences)[0][:, -1], 3e-6)
    with pytest.raises(ValueError, match=r"Received: \['encoder.rnn.*found under `prefix` 'encoder.rnn.'"):
        keras_seq.from_torch(state)


WEIGHTS = {"weight_ih_l0": np.ones((12, 3)), "weight_hh_l0": np.ones((12, 4))}


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (np.ones(3), {}, "`module` must be a `torch.nn.LSTM`.*Received: a ndarray"),
        ({}, {}, "`module` must have only the weights of a recurrent layer.*Received: none"),
        (WEIGHTS | {"weight_hh_l0": np.ones((8, 4))}, {}, r"1, 3 or 4 times as many rows.*Received: shape \(8, 4\)"),
        (
            WEIGHTS | {"weight_ih_l0": np.ones((9, 3))},
            {},
            r"'weight_ih_l0' of shape \(12, 3\).*Received: shape \(9, 3\)",
        ),
        (WEIGHTS | {"bias_ih_l0": np.ones(12)}, {}, r"'bias_hh_l0' of shape \(12,\). Received: no such weight"),
        (WEIGHTS | {"weight_ih_l1": np.ones((12, 4))}, {}, "'weight_hh_l1' of shape.*Received: no such weight"),
        ({"weight_hh_l0": np.ones((12, 4))}, {}, "must have the weight 'weight_ih_l0'"),
        (WEIGHTS, {"nonlinearity": "sigmoid"}, "`nonlinearity` must be 'tanh' or 'relu'. Received: 'sigmoid'"),
    ],
)
def test_what_is_no_recurrent_layer_raises_an_error_that_says_what_is_wrong(module, options, message):
    with pytest.raises(ValueError, match=message):
        keras_seq.from_torch(module, **options)


@pytest.mark.slow
def test_a_state_dict_of_arrays_needs_no_pytorch(tmp_path):
    module = make_module("LSTM", input_size=3, hidden_size=4)
    np.savez(tmp_path / "weights.npz", **arrays_of(module))
    program = f"""
import json, sys, numpy as np, keras_seq
layer = keras_seq.from_torch(dict(np.load({str(tmp_path / "weights.npz")!r})))
print(json.dumps(np.asarray(layer(np.ones((1, 2, 3), "float32"))).tolist()))
assert "torch" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    expected = run_torch(module, np.ones((1, 2, 3), "float32"))[0]
    assert_close(np.array(json.loads(run.stdout)), expected, 3e-6)

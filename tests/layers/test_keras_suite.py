# SPDX-License-Identifier: Apache-2.0
"""Keras's own tests of its recurrent layers, as Keras ships them, run on keras_seq; and arguments of Keras."""

import importlib
import inspect
import types
import warnings

import pytest
from keras.src import layers as layers_of_keras
from keras.src import testing

from keras_seq import layers

NAMES = ["simple_rnn", "gru", "lstm", "rnn", "bidirectional", "time_distributed"]

FUSED = "calls a private method by which Keras chooses its fused implementation; keras_seq has `explain`"
SKIPPED = {"test_fused_lstm_eligibility": FUSED, "test_fused_gru_eligibility": FUSED}


def cases(name):
    """The test cases of one file of Keras, with the classes of keras_seq in place of Keras's in its `layers`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pytest.PytestUnknownMarkWarning)  # Keras's own markers
        module = importlib.import_module(f"keras.src.layers.rnn.{name}_test")
    ours = {name: getattr(layers, name) for name in layers.__all__}
    module.layers = types.SimpleNamespace(**{**vars(layers_of_keras), **ours})
    return [case for case in vars(module).values() if isinstance(case, type) and issubclass(case, testing.TestCase)]


for name in NAMES:
    for case in cases(name):
        for test, reason in SKIPPED.items():
            if hasattr(case, test):
                setattr(case, test, pytest.mark.skip(reason=reason)(getattr(case, test)))
        # Pytest finds it here. The prefix tells apart the classes `SimpleRNNTest` of two files.
        globals()[f"{name}_{case.__name__}"] = case
del case


@pytest.mark.parametrize("name", [name for name in layers.__all__ if hasattr(layers_of_keras, name)])
def test_positional_arguments_are_in_the_order_of_keras(name):
    ours, theirs = (
        [p.name for p in inspect.signature(kind).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        for kind in (getattr(layers, name), getattr(layers_of_keras, name))
    )
    assert ours[: len(theirs)] == theirs or (
        name.endswith("Cell") and not ours
    )  # a cell passes all its arguments on to the one of Keras


@pytest.mark.parametrize("kind", [layers.SimpleRNN, layers.GRU, layers.LSTM])
def test_legacy_implementation_numbers_mean_auto(kind):
    assert {kind(2, implementation=number).implementation for number in (0, 1, 2)} == {"auto"}
    with pytest.raises(ValueError, match=r"`implementation` must be one of .* Received: 3"):
        kind(2, implementation=3)


def test_invalid_use_cudnn_raises():
    with pytest.raises(ValueError, match=r"`use_cudnn` must be 'auto', True or False. Received: 'maybe'"):
        layers.LSTM(2, use_cudnn="maybe")
    with pytest.raises(ValueError, match="use_cudnn"):
        layers.SimpleRNN(2, use_cudnn=False)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_use_cudnn_is_in_the_config(kind):
    """Layers of Keras 3.15 leave it out."""
    layer = getattr(layers, kind)(2, use_cudnn=False)
    assert layer.get_config()["use_cudnn"] is False
    copy = layers.Bidirectional.from_config(layers.Bidirectional(layer).get_config())
    assert copy.forward_layer.use_cudnn is copy.backward_layer.use_cudnn is False

# SPDX-License-Identifier: Apache-2.0
"""Every public layer, one row each: what it is made with and called with. `layers/test_catalog.py` checks them all."""

from typing import NamedTuple

import keras
import numpy as np

from keras_seq import layers

BATCH, TIME, SOURCE, FEATURES, UNITS, PROJECTION = 2, 4, 5, 3, 6, 7  # all different


class Row(NamedTuple):
    """How a layer is made and called."""

    arguments: dict  # of the constructor, none at its default where that can be; a function makes a fresh one
    inputs: tuple  # of a call; a tensor of sequences has the batch first and the length second
    keeps_mask: bool  # whether the first output has the mask of the first input
    kernel: dict | None = None  # arguments with which it runs on a native kernel, where it has one


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


SEQUENCES, MEMORY = draw(BATCH, TIME, FEATURES), draw(BATCH, SOURCE, UNITS)
STEP, STATE = draw(BATCH, FEATURES), draw(BATCH, UNITS)
MASK = np.array([[True, True, False, True], [True, False, False, False]])
TOKENS = np.array([[1, 2, 0, 1], [4, 0, 0, 0]])  # 0 where the mask hides a step

INITIALIZERS = {f"{name}_initializer": "he_normal" for name in ("kernel", "recurrent", "bias")}
REGULARIZERS = {f"{name}_regularizer": "l1" for name in ("kernel", "recurrent", "bias")}
CONSTRAINTS = {f"{name}_constraint": "max_norm" for name in ("kernel", "recurrent", "bias")}
CELL = {"units": UNITS, "activation": "relu", "dropout": 0.1, "recurrent_dropout": 0.2, "seed": 7, "use_bias": False}
CELL |= {"zoneout": 0.3, "recurrent_weight_dropout": 0.4, "dropout_mode": "naive"}
CELL |= {**INITIALIZERS, **REGULARIZERS, **CONSTRAINTS}
GATES = {"recurrent_activation": "hard_sigmoid", "layer_norm": True}
OF_GRU = {**GATES, "reset_after": False}
OF_LSTM = {**GATES, "unit_forget_bias": False, "peephole": True, "projection_units": PROJECTION}
RNN = {"return_sequences": True, "return_state": True, "go_backwards": True, "zero_output_for_mask": True}
RNN |= {"unroll": True, "activity_regularizer": "l2", "implementation": "xla", "recompute": True}
RNN |= {"residual": True, "initial_state_initializer": "he_normal"}
LAYER = {**RNN, "num_layers": 2, "output_dropout": 0.1, "use_cudnn": False}

# Each with what a kernel serves; masks that are drawn are those of a training step.
DROPPED = {"dropout": 0.1, "recurrent_dropout": 0.2, "zoneout": 0.3, "recurrent_weight_dropout": 0.4, "seed": 7}
KERNEL = {"units": UNITS, **DROPPED, "num_layers": 2, "residual": True, "output_dropout": 0.1, "return_sequences": True}
KERNEL |= {"return_state": True, "initial_state_initializer": "he_normal", "go_backwards": True}

CATALOG = {
    "ActivationRegularization": Row({"ar": 2.0, "tar": 1.0}, (SEQUENCES,), True),
    "AttentionCell": Row(
        {
            "cell": lambda: layers.GRUCell(UNITS, activation="relu"),
            "attention": lambda: layers.LuongAttention("general"),
            "attend": "after",
            "attentional_units": PROJECTION,
            "attentional_activation": "softsign",
        },
        (STEP, [STATE, draw(BATCH, PROJECTION)], MEMORY),
        False,
    ),
    "AttentionDecoder": Row(
        {
            "units": UNITS,
            "cell": "gru",
            "attention": lambda: layers.BahdanauAttention(UNITS + 1, coverage=True),
            "input_feeding": False,
            "attend": "after",
            "attentional_units": PROJECTION,
            "attentional_activation": "softsign",
            "dropout": 0.1,
            "recurrent_dropout": 0.2,
            "seed": 7,
            "return_state": True,
            "implementation": "xla",
        },
        (SEQUENCES, MEMORY),
        True,
    ),
    "BahdanauAttention": Row(
        {"units": UNITS, "normalize": True, "coverage": True, "kernel_initializer": "he_normal"},
        ([SEQUENCES, MEMORY],),
        True,
    ),
    "Bidirectional": Row(
        {"layer": lambda: layers.GRU(UNITS, return_sequences=True, activation="relu"), "merge_mode": "ave"},
        (SEQUENCES,),
        True,
        {"layer": lambda: layers.GRU(UNITS, return_sequences=True, num_layers=2, **DROPPED)},
    ),
    "EmbeddingDropout": Row(
        {"layer": lambda: keras.layers.Embedding(5, 3, mask_zero=True), "rate": 0.3, "seed": 7}, (TOKENS,), True
    ),
    "GRU": Row({**CELL, **LAYER, **OF_GRU}, (SEQUENCES,), True, {**KERNEL, "reset_after": False}),
    "GRUCell": Row({**CELL, **OF_GRU}, (STEP, [STATE]), False),
    "LSTM": Row({**CELL, **LAYER, **OF_LSTM}, (SEQUENCES,), True, KERNEL),
    "LSTMCell": Row({**CELL, **OF_LSTM}, (STEP, [draw(BATCH, PROJECTION), STATE]), False),
    "LockedDropout": Row({"rate": 0.3, "seed": 7}, (SEQUENCES,), True),
    "LuongAttention": Row(
        {"score": "concat", "units": UNITS, "scale": True, "kernel_initializer": "he_normal"},
        ([SEQUENCES, MEMORY],),
        True,
    ),
    "MonotonicAttention": Row(
        {"units": UNITS, "noise_std": 0.1, "score_bias_init": 0.1, "kernel_initializer": "he_normal", "seed": 7},
        ([SEQUENCES, MEMORY],),
        True,
    ),
    "RNN": Row(
        {"cell": lambda: [layers.LSTMCell(UNITS, activation="relu"), layers.GRUCell(UNITS)], **RNN},
        (SEQUENCES,),
        True,
        {"cell": lambda: [layers.LSTMCell(UNITS, seed=1, zoneout=0.1), layers.GRUCell(UNITS - 1, dropout=0.1, seed=2)]},
    ),
    "SimpleRNN": Row({**CELL, **LAYER}, (SEQUENCES,), True, {**KERNEL, "activation": "relu"}),
    "SimpleRNNCell": Row(CELL, (STEP, [STATE]), False),
    "VariationalDropout": Row(
        {
            "layer": lambda: layers.SimpleRNN(UNITS, return_sequences=True, activation="elu"),
            "input_rate": 0.1,
            "recurrent_rate": 0.2,
            "output_rate": 0.3,
            "seed": 7,
        },
        (SEQUENCES,),
        True,
        {"layer": lambda: layers.LSTM(UNITS, return_sequences=True), "recurrent_rate": 0.2, "seed": 7},
    ),
}


def make(name, **changes):
    """The layer of a row."""
    return _make(name, CATALOG[name].arguments | changes)


def make_native(name, **changes):
    """The layer of a row as a kernel serves it."""
    return _make(name, CATALOG[name].kernel | changes)


def _make(name, arguments):
    return getattr(layers, name)(**{key: value() if callable(value) else value for key, value in arguments.items()})


def call(layer, name, **options):
    return layer(*CATALOG[name].inputs, **options)

# SPDX-License-Identifier: Apache-2.0
"""One row for each public layer, with its arguments and inputs. `layers/test_catalog.py` checks every row."""

from typing import NamedTuple

import keras
import numpy as np

from keras_seq import layers

BATCH, TIME, SOURCE, FEATURES, UNITS, PROJECTION = 2, 4, 5, 3, 6, 7  # all different, so that no axis passes for another


class Row(NamedTuple):
    """How to make and call a layer."""

    arguments: dict  # of the constructor: every one, none at its default; a function returns a new object
    inputs: tuple  # of a call: sequences (batch, time, ...) or steps (batch, ...)
    propagates_mask: bool = True  # whether the first output has the mask of the first input
    native_arguments: dict | None = None  # arguments with which a native kernel runs the layer, if there is one
    keeps_float32: bool = False  # whether the outputs are in float32 in mixed precision too


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


SEQUENCES, MEMORY = draw(BATCH, TIME, FEATURES), draw(BATCH, SOURCE, UNITS)
NESTED_SEQUENCES = draw(BATCH, TIME, SOURCE, FEATURES)  # each step is a sequence
STEP, STATE = draw(BATCH, FEATURES), draw(BATCH, UNITS)
MASK = np.array([[True, True, False, True], [True, False, False, False]])
TOKENS = np.array([[1, 2, 0, 1], [4, 0, 0, 0]])  # 0 where MASK is False

INITIALIZERS = {f"{name}_initializer": "he_normal" for name in ("kernel", "recurrent", "bias")}
REGULARIZERS = {f"{name}_regularizer": "l1" for name in ("kernel", "recurrent", "bias")}
CONSTRAINTS = {f"{name}_constraint": "max_norm" for name in ("kernel", "recurrent", "bias")}
CELL = {"units": UNITS, "activation": "relu", "dropout": 0.1, "recurrent_dropout": 0.2, "seed": 7, "use_bias": False}
CELL |= {"zoneout": 0.3, "recurrent_weight_dropout": 0.4, "dropout_mode": "naive"}
CELL |= {**INITIALIZERS, **REGULARIZERS, **CONSTRAINTS}
GATED_CELL = {**CELL, "recurrent_activation": "hard_sigmoid", "layer_norm": True}
MGU_CELL = {**CELL, "recurrent_activation": "hard_sigmoid"}
GRU_CELL = {**GATED_CELL, "reset_after": False}
LSTM_CELL = {**GATED_CELL, "unit_forget_bias": False, "peephole": True, "projection_units": PROJECTION}
RNN = {"return_sequences": True, "return_state": True, "go_backwards": True, "zero_output_for_mask": True}
RNN |= {"unroll": True, "activity_regularizer": "l2", "implementation": "xla", "recompute": True}
RNN |= {"residual": True, "initial_state_initializer": "he_normal"}
LAYER = {**RNN, "num_layers": 2, "output_dropout": 0.1}
GATED_LAYER = {**LAYER, "use_cudnn": False}

# Arguments that the native kernels cover, with all kinds of masks.
DROPOUTS = {"dropout": 0.1, "recurrent_dropout": 0.2, "zoneout": 0.3, "recurrent_weight_dropout": 0.4, "seed": 7}
NATIVE = {"units": UNITS, **DROPOUTS, "num_layers": 2, "residual": True, "output_dropout": 0.1}
NATIVE |= {"return_sequences": True, "return_state": True, "go_backwards": True}
NATIVE |= {"initial_state_initializer": "he_normal"}

CATALOG = {
    "ActivationRegularization": Row({"ar": 2.0, "tar": 1.0}, (SEQUENCES,)),
    "AttentionCell": Row(
        {
            "cell": lambda: layers.GRUCell(UNITS, activation="relu"),
            "attention": lambda: layers.LuongAttention("general"),
            "attend": "after",
            "attentional_units": PROJECTION,
            "attentional_activation": "softsign",
        },
        (STEP, [STATE, draw(BATCH, PROJECTION)], MEMORY),
        propagates_mask=False,
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
    ),
    "AttentionPooling": Row(
        {"units": UNITS, "dropout": 0.1, "kernel_initializer": "he_normal", "seed": 7},
        (SEQUENCES,),
        propagates_mask=False,
    ),
    "BahdanauAttention": Row(
        {"units": UNITS, "normalize": True, "coverage": True, "kernel_initializer": "he_normal"},
        ([SEQUENCES, MEMORY],),
    ),
    "Bidirectional": Row(
        {"layer": lambda: layers.GRU(UNITS, return_sequences=True, activation="relu"), "merge_mode": "ave"},
        (SEQUENCES,),
        native_arguments={"layer": lambda: layers.GRU(UNITS, return_sequences=True, num_layers=2, **DROPOUTS)},
    ),
    "CRF": Row(
        {
            "num_tags": UNITS,
            "use_kernel": False,
            "use_bias": False,
            "use_boundary": False,
            **{f"{name}_initializer": "he_normal" for name in ("kernel", "bias", "transition", "boundary")},
            "kernel_regularizer": "l1",
            "transition_regularizer": "l2",
        },
        (draw(BATCH, TIME, UNITS),),
        keeps_float32=True,
    ),
    "EmbeddingDropout": Row(
        {"layer": lambda: keras.layers.Embedding(5, 3, mask_zero=True), "rate": 0.3, "seed": 7}, (TOKENS,)
    ),
    "GRU": Row({**GRU_CELL, **GATED_LAYER}, (SEQUENCES,), native_arguments={**NATIVE, "reset_after": False}),
    "GRUCell": Row(GRU_CELL, (STEP, [STATE]), propagates_mask=False),
    "LSTM": Row({**LSTM_CELL, **GATED_LAYER}, (SEQUENCES,), native_arguments=NATIVE),
    "LSTMCell": Row(LSTM_CELL, (STEP, [draw(BATCH, PROJECTION), STATE]), propagates_mask=False),
    "LockedDropout": Row({"rate": 0.3, "seed": 7}, (SEQUENCES,)),
    "LuongAttention": Row(
        {"score": "concat", "units": UNITS, "scale": True, "kernel_initializer": "he_normal"},
        ([SEQUENCES, MEMORY],),
    ),
    "MGU": Row({**MGU_CELL, **LAYER}, (SEQUENCES,), native_arguments=NATIVE),
    "MGUCell": Row(MGU_CELL, (STEP, [STATE]), propagates_mask=False),
    "MonotonicAttention": Row(
        {"units": UNITS, "noise_std": 0.1, "score_bias_init": 0.1, "kernel_initializer": "he_normal", "seed": 7},
        ([SEQUENCES, MEMORY],),
    ),
    "RNN": Row(
        {"cell": lambda: [layers.LSTMCell(UNITS, activation="relu"), layers.GRUCell(UNITS)], **RNN},
        (SEQUENCES,),
        native_arguments={
            "cell": lambda: [
                layers.LSTMCell(UNITS, seed=1, zoneout=0.1),
                layers.GRUCell(UNITS - 1, dropout=0.1, seed=2),
            ]
        },
    ),
    "SimpleRNN": Row({**CELL, **LAYER}, (SEQUENCES,), native_arguments={**NATIVE, "activation": "relu"}),
    "SimpleRNNCell": Row(CELL, (STEP, [STATE]), propagates_mask=False),
    "TimeDistributed": Row({"layer": lambda: layers.GRU(UNITS, activation="relu")}, (NESTED_SEQUENCES,)),
    "VariationalDropout": Row(
        {
            "layer": lambda: layers.SimpleRNN(UNITS, return_sequences=True, activation="elu"),
            "input_rate": 0.1,
            "recurrent_rate": 0.2,
            "output_rate": 0.3,
            "seed": 7,
        },
        (SEQUENCES,),
        native_arguments={"layer": lambda: layers.LSTM(UNITS, return_sequences=True), "recurrent_rate": 0.2, "seed": 7},
    ),
}


def make(name, **changes):
    """Make the layer of a row, with some arguments changed."""
    return _make(name, CATALOG[name].arguments | changes)


def make_native(name, **changes):
    """Make the layer of a row with the arguments that a native kernel covers."""
    return _make(name, CATALOG[name].native_arguments | changes)


def _make(name, arguments):
    return getattr(layers, name)(**{key: value() if callable(value) else value for key, value in arguments.items()})


def call(layer, name, **options):
    """Call a layer with the inputs of its row."""
    return layer(*CATALOG[name].inputs, **options)

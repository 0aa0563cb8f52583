# SPDX-License-Identifier: Apache-2.0
"""Dropout in recurrent layers, on every implementation: what it acts on, and when masks are drawn."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import JIT, STATES, assert_close, draw, every_implementation, every_kind, needs_kernels

import keras_seq
from keras_seq import layers

BATCH, TIME, FEATURES, UNITS, RATE = 5, 4, 3, 6, 0.4
DROPPED = {"dropout": RATE, "recurrent_dropout": RATE, "recurrent_weight_dropout": RATE, "zoneout": RATE, "seed": 7}

pytestmark = pytest.mark.usefixtures("no_forced_implementation")


@every_implementation
@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
@every_kind
def test_dropout_acts_on_inputs_and_recurrent_dropout_on_the_previous_h(kind, name, implementation):
    """The first step, whose previous h is zero, shows only the dropout of inputs (keras PR 19397, keras#19993)."""
    layer = getattr(layers, kind)(UNITS, return_sequences=True, seed=1, **{name: 0.9})
    sequences = draw(BATCH, TIME, FEATURES)
    with keras_seq.ops.use_implementation(implementation):
        dropped, undropped = (np.array(layer(sequences, training=training)) for training in (True, False))
    assert np.allclose(dropped[:, 0], undropped[:, 0], atol=1e-6) == (name == "recurrent_dropout")
    assert not np.allclose(dropped[:, 1], undropped[:, 1])


@every_implementation
@pytest.mark.parametrize("reset_after", [False, True])
def test_recurrent_dropout_does_not_drop_the_state_that_a_gru_carries_over(reset_after, implementation):
    """With z = 1 the new h is the previous h, not the dropped one (keras PR 20656, tensorflow#35724)."""
    layer = layers.GRU(UNITS, recurrent_dropout=0.9, reset_after=reset_after)
    layer.build((None, None, FEATURES))
    bias = np.zeros(layer.cell.bias.shape)
    bias[..., :UNITS] = 50
    layer.cell.bias.assign(bias)
    state = draw(BATCH, UNITS)
    with keras_seq.ops.use_implementation(implementation):
        outputs = layer(draw(BATCH, TIME, FEATURES), initial_state=state, training=True)
    np.testing.assert_allclose(outputs, state, rtol=1e-6)


@needs_kernels
@pytest.mark.parametrize("mode", ["variational", "naive"])
@every_kind
def test_every_implementation_draws_and_applies_the_same_masks(kind, mode):
    """In Keras, `implementation` decides how many masks are drawn (tensorflow#35724, #40215)."""
    results, sequences = [], draw(BATCH, TIME, FEATURES)
    for implementation in (1, 2, "auto", "native", "xla"):
        layer = getattr(layers, kind)(UNITS, implementation=implementation, dropout_mode=mode, **DROPPED)
        layer.build(sequences.shape)
        layer.set_weights([draw(*w.shape) if w.ndim else w for w in layer.get_weights()])
        results.append(layer(sequences, training=True))
    assert_close(results[1:], [results[0]] * 4, 1e-5)


@every_implementation
@pytest.mark.parametrize("mode", ["variational", "naive"])
@pytest.mark.parametrize("jit", JIT)
def test_dropout_mode_decides_whether_time_steps_share_a_mask(mode, jit, implementation):
    """Keras 2 drew a mask for each step, Keras 3 draws one for all (keras#19993)."""
    options = {"activation": "linear", "use_bias": False, "return_sequences": True, "dropout_mode": mode}
    layer = layers.SimpleRNN(40, dropout=RATE, recurrent_dropout=RATE, **options)
    layer.build((None, None, 40))
    layer.set_weights([np.eye(40), np.zeros((40, 40))])
    run = tf.function(lambda x: layer(x, training=True), jit_compile=jit)
    with keras_seq.ops.use_implementation(implementation):
        masks = np.array(run(np.ones((BATCH, TIME, 40), "float32"))) > 0
    differ = [not np.array_equal(masks[:, t], masks[:, 0]) for t in range(1, TIME)]
    assert differ == [mode == "naive"] * (TIME - 1)


@every_kind
def test_no_mask_outlives_a_call(kind):
    """Graph and eager calls on batches of different sizes follow each other (tensorflow#33991, #29391, #35724)."""
    layer, cell = (getattr(layers, kind + suffix)(UNITS, **DROPPED) for suffix in ("", "Cell"))
    wrapped = keras.layers.RNN(cell)
    sequences = draw(BATCH, TIME, FEATURES)
    state = [np.zeros((BATCH, UNITS), "float32")] * STATES[kind]

    def step(sequences):
        return cell(sequences[:, 0], [s[: len(sequences)] for s in state], training=True)[0]

    for function in (lambda x: layer(x, training=True), lambda x: wrapped(x, training=True), step):
        function(sequences)
        runs = [tf.function(function), function, tf.function(function), function]
        outputs = [np.array(run(sequences[:size])) for run, size in zip(runs, [5, 5, 4, 3], strict=True)]
        for i, output in enumerate(outputs):
            assert not any(np.allclose(output[:3], earlier[:3]) for earlier in outputs[:i])
    attributes = keras.tree.flatten([list(vars(owner).values()) for owner in (layer, layer.cell, wrapped, cell)])
    assert not any(tf.is_tensor(value) and not isinstance(value, keras.Variable) for value in attributes)


def test_training_steps_draw_new_masks_and_evaluation_draws_none():
    """With a learning rate of 0 the masks alone change the loss (tensorflow#29391, #60170)."""
    histories, arguments = [], (np.repeat(draw(1, TIME, FEATURES), 8, axis=0), np.repeat(draw(1, 1), 8, axis=0))
    for evaluate_between_steps in (True, False):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([layers.LSTM(UNITS, **DROPPED | {"seed": None}), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        losses = []
        for _ in range(4):
            losses.append(model.train_on_batch(*arguments))
            if evaluate_between_steps:
                seeds = [np.array(v) for v in model.non_trainable_variables]
                assert seeds
                model.evaluate(*arguments, verbose=0)
                model.predict(arguments[0], verbose=0)
                assert_close([np.array(v) for v in model.non_trainable_variables], seeds, 0)
        assert len(set(losses)) == len(losses)
        histories.append(losses)
    assert_close(*histories, 0)

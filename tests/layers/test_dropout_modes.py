# SPDX-License-Identifier: Apache-2.0
"""Dropout modes (variational, locked, naive), zoneout and dropped weights: how masks are drawn and applied."""

import keras
import numpy as np
import pytest
import references
import tensorflow as tf
from conftest import MODES, assert_close

from keras_seq import layers

BATCH, TIME, FEATURES, UNITS, RATE = 4, 5, 6, 7, 0.3
SEQUENCES = np.random.default_rng(0).normal(size=(BATCH, TIME, FEATURES)).astype("float32")
RECURRENCES = {"SimpleRNN": references.simple_rnn, "GRU": references.gru, "LSTM": references.lstm}
WIDE, MANY = 40, 300  # features and sequences for statistics
EVERY_RATE = {"dropout": 0.2, "recurrent_dropout": 0.3, "output_dropout": 0.25, "recurrent_weight_dropout": 0.1}


def linear_rnn(recurrent, **options):
    """A layer with `h_t = x_t + recurrent * h_{t-1}`."""
    layer = layers.SimpleRNN(WIDE, "linear", use_bias=False, return_sequences=True, seed=1, **options)
    layer.build((None, None, WIDE))
    layer.set_weights([np.eye(WIDE), recurrent * np.eye(WIDE)])
    return layer


def draw_input_masks(mode):
    return np.array(linear_rnn(0.0, dropout=RATE, dropout_mode=mode)(np.ones((MANY, TIME, WIDE)), training=True))


def draw_output_masks(mode):
    return np.array(linear_rnn(0.0, output_dropout=RATE, dropout_mode=mode)(np.ones((MANY, TIME, WIDE)), training=True))


def draw_recurrent_dropout_masks(mode):
    """The masks m_t of `h_t = x_t + m_t h_{t-1}` with x_t = 1."""
    h = np.array(linear_rnn(1.0, recurrent_dropout=RATE, dropout_mode=mode)(np.ones((MANY, TIME, WIDE)), training=True))
    return (h[:, 1:] - 1) / h[:, :-1]


def assert_rate(dropped, rate):
    """The dropped fraction is within 5 standard deviations of the rate: p < 6e-7."""
    assert abs(np.mean(dropped) - rate) < 5 * (rate * (1 - rate) / dropped.size) ** 0.5


def assert_independent(a, b, rate):
    """Two masks of one rate drop together as often as independent ones, within 5 standard deviations."""
    assert_rate((a & b).ravel(), rate**2)


@pytest.mark.parametrize(
    ("mode", "draw_masks"),
    [
        ("variational", draw_input_masks),
        ("variational", draw_output_masks),
        ("variational", draw_recurrent_dropout_masks),
        ("locked", draw_input_masks),
        ("locked", draw_output_masks),
        ("naive", draw_input_masks),
        ("naive", draw_output_masks),
        ("naive", draw_recurrent_dropout_masks),
    ],
)
def test_dropout_mode_sets_whether_time_steps_share_a_mask(mode, draw_masks):
    masks = draw_masks(mode)
    np.testing.assert_allclose(np.unique(np.round(masks, 4)), [0, round(1 / (1 - RATE), 4)], atol=1e-4)
    dropped = masks < 0.5  # (sequences, steps, features)
    if mode == "naive":
        assert_rate(dropped, RATE)
        assert_independent(dropped[:, 1:], dropped[:, :-1], RATE)
    else:
        assert_rate(dropped[:, 0], RATE)
        np.testing.assert_array_equal(dropped, np.repeat(dropped[:, :1], dropped.shape[1], axis=1))
    assert_independent(dropped[1:, 0], dropped[:-1, 0], RATE)  # neighbours in the batch
    assert_independent(dropped[:, 0, 1:], dropped[:, 0, :-1], RATE)  # and in the features
    sigma = (RATE / (1 - RATE) / dropped[:, 0].size) ** 0.5
    assert abs(masks[:, 0].mean() - 1) < 5 * sigma  # the expectation is preserved


@pytest.mark.parametrize("mode", ["variational", "naive"])
def test_masks_of_one_cell_are_independent(mode):
    rates = {"dropout": RATE, "recurrent_dropout": RATE}
    cell = layers.LSTMCell(WIDE, dropout_mode=mode, seed=1, zoneout=RATE, **rates)
    masks = cell.draw_dropout_masks(np.ones((MANY, TIME, WIDE), "float32"), training=True)
    steps = TIME if mode == "naive" else 1
    inputs, recurrent = (np.reshape(mask, (MANY, steps, WIDE)) == 0 for mask in masks[:2])
    zoneout = [np.array(mask)[:, :steps] == 1 for mask in masks.zoneout_masks]
    dropped = [inputs, recurrent, *zoneout]
    for i, mask in enumerate(dropped):
        for other in dropped[:i]:
            assert_independent(mask, other, RATE)


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("mode", ["variational", "naive", "locked"])
@pytest.mark.parametrize("implementation", ["auto", "xla"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("SimpleRNN", {}), ("GRU", {"reset_after": True}), ("GRU", {"reset_after": False}), ("LSTM", {})],
)
def test_training_step_with_all_masks_matches_numpy(kind, options, mode, go_backwards, implementation):
    """NumPy gets the masks that a second layer with the same seed draws."""
    states = 2 if kind == "LSTM" else 1
    rates = EVERY_RATE | ({"recurrent_dropout": 0.0} if mode == "locked" else {})
    layer, twin = (
        getattr(layers, kind)(
            UNITS,
            return_sequences=True,
            go_backwards=go_backwards,
            zoneout=[0.2, 0.4][:states],
            dropout_mode=mode,
            seed=1,
            implementation=implementation,
            **rates,
            **options,
        )
        for _ in range(2)
    )
    layer.build(SEQUENCES.shape)
    outputs = np.array(layer(SEQUENCES, training=True))
    masks = twin.cell.draw_dropout_masks(SEQUENCES, True)
    output_mask = np.array(twin.cell.draw_feature_mask(rates["output_dropout"], BATCH, TIME, UNITS))
    kernel, recurrent_kernel, bias = layer.get_weights()
    assert 0 < np.sum(np.array(masks.recurrent_kernel_mask) == 0) < recurrent_kernel.size
    expected, _ = RECURRENCES[kind](
        SEQUENCES * np.array(masks.input_mask),
        kernel,
        recurrent_kernel * np.array(masks.recurrent_kernel_mask),
        bias,
        recurrent_dropout_mask=None if masks.recurrent_dropout_mask is None else np.array(masks.recurrent_dropout_mask),
        zoneout_masks=[*map(np.array, masks.zoneout_masks)],
        reverse=go_backwards,
        **options,
    )
    expected = expected * output_mask
    assert_close(outputs, expected[:, ::-1] if go_backwards else expected, 1e-5)


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
@pytest.mark.parametrize("mode", ["variational", "naive"])
@pytest.mark.parametrize("compiled", MODES)
def test_nothing_is_dropped_at_inference(kind, mode, compiled):
    layer, plain = (
        getattr(layers, kind)(UNITS, return_sequences=True, **options)
        for options in (EVERY_RATE | {"dropout_mode": mode}, {})
    )
    for built in (layer, plain):
        built.build(SEQUENCES.shape)
    plain.set_weights(layer.get_weights())
    run, run_plain = (
        f if compiled == "eager" else tf.function(f, jit_compile=compiled == "jit") for f in (layer, plain)
    )
    np.testing.assert_array_equal(run(SEQUENCES), run_plain(SEQUENCES))


@pytest.mark.parametrize("implementation", ["auto", "xla"])
def test_zoneout_keeps_states_at_random_and_mixes_them_at_inference(implementation):
    layer = linear_rnn(0.0, zoneout=RATE, implementation=implementation)  # h~_t = x_t
    sequences = np.broadcast_to(np.arange(1.0, TIME + 1)[:, None], (MANY, TIME, WIDE)).astype("float32")
    h = np.array(layer(sequences, training=True))
    before = np.concatenate([np.zeros_like(h[:, :1]), h[:, :-1]], axis=1)
    kept = h == before
    np.testing.assert_array_equal(h, np.where(kept, before, sequences))
    assert_rate(kept, RATE)
    for a, b in [(kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1]), (kept[:, :, 1:], kept[:, :, :-1])]:
        assert_independent(a, b, RATE)
    expected, state = [], np.zeros(())
    for step in range(1, TIME + 1):
        state = RATE * state + (1 - RATE) * step
        expected.append(state)
    at_inference = np.array(layer(sequences))
    np.testing.assert_allclose(at_inference, np.broadcast_to(np.array(expected)[:, None], h.shape), rtol=1e-5)
    # A linear recurrence computes at inference the expectation over the masks: within 5 standard errors.
    error = np.abs(h.mean(axis=(0, 2)) - expected) / (h.std(axis=(0, 2)) / (MANY * WIDE) ** 0.5)
    assert np.all(error < 5)


def test_zoneout_of_one_state_does_not_affect_the_other():
    outputs = {}
    for zoneout in (0.0, [0.0, 0.5], [0.5, 0.0]):
        layer = layers.LSTM(UNITS, zoneout=zoneout, return_state=True)
        layer.build(SEQUENCES.shape)
        layer.set_weights([np.full(weight.shape, 0.1) for weight in layer.weights])
        first = SEQUENCES[:, :1]
        outputs[str(zoneout)] = [np.array(x) for x in layer(first)[1:]]
    (h, c), (h_of_c, c_of_c), (h_of_h, c_of_h) = outputs.values()
    np.testing.assert_allclose(h_of_c, h, rtol=1e-6)  # h is computed from the new c, before zoneout
    np.testing.assert_allclose(c_of_c, 0.5 * c, rtol=1e-6)
    np.testing.assert_allclose(h_of_h, 0.5 * h, rtol=1e-6)
    np.testing.assert_allclose(c_of_h, c, rtol=1e-6)


def test_dropped_weights_are_shared_by_the_batch_and_all_steps():
    layer = layers.SimpleRNN(WIDE, "linear", use_bias=False, return_sequences=True, recurrent_weight_dropout=RATE)
    layer.build((None, None, WIDE))
    layer.set_weights([np.zeros((WIDE, WIDE)), np.ones((WIDE, WIDE))])
    state, sequences = np.eye(WIDE, dtype="float32"), np.zeros((WIDE, 2, WIDE), "float32")
    outputs = np.array(layer(sequences, initial_state=state, training=True))
    kernel = outputs[:, 0]  # unit vectors as states return the rows of the kernel
    assert_rate(kernel == 0, RATE)
    np.testing.assert_allclose(np.unique(kernel), [0, 1 / (1 - RATE)], rtol=1e-6)
    np.testing.assert_allclose(outputs[:, 1], kernel @ kernel, rtol=1e-5)


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_cells_apply_dropout_in_a_keras_layer(kind, mode):
    """One recurrent dropout mask and one kernel mask per call, as in a layer of keras_seq."""
    cell = getattr(layers, f"{kind}Cell")(UNITS, recurrent_dropout=RATE, recurrent_weight_dropout=RATE, seed=3)
    layer = keras.layers.RNN(cell, return_sequences=True)
    layer.build(SEQUENCES.shape)
    run = layer if mode == "eager" else tf.function(layer)
    outputs, again = (np.array(run(SEQUENCES, training=True)) for _ in range(2))
    assert outputs.shape == (BATCH, TIME, UNITS)
    assert not np.allclose(outputs, again)
    twin = getattr(layers, f"{kind}Cell")(UNITS, recurrent_dropout=RATE, recurrent_weight_dropout=RATE, seed=3)
    twin.build((None, FEATURES))
    twin.set_weights(layer.get_weights())
    recurrent_mask, kernel_mask = twin._draw_mask((BATCH, UNITS), RATE), twin._draw_recurrent_kernel_mask()
    expected, _ = RECURRENCES[kind](
        SEQUENCES,
        np.array(twin.kernel),
        np.array(twin.recurrent_kernel) * np.array(kernel_mask),
        np.array(twin.bias),
        recurrent_dropout_mask=np.array(recurrent_mask),
    )
    assert_close(outputs, expected, 1e-5)


@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
@pytest.mark.parametrize("mode", ["variational", "naive"])
def test_dropout_mode_in_a_keras_layer(mode, name):
    """`h_t = m_t x_t` or `h_t = m_t h_{t-1}`, starting from ones, shows the mask m_t of each step."""
    recurrent = name == "recurrent_dropout"
    cell = layers.SimpleRNNCell(WIDE, "linear", use_bias=False, dropout_mode=mode, seed=1, **{name: RATE})
    layer = keras.layers.RNN(cell, return_sequences=True)
    layer.build((None, None, WIDE))
    layer.set_weights([np.eye(WIDE), np.eye(WIDE) * recurrent])
    sequences, state = np.full((MANY, TIME, WIDE), 1.0 - recurrent), np.ones((MANY, WIDE))
    h = np.array(layer(sequences, initial_state=[state], training=True))
    assert_rate(h[:, 0] == 0, RATE)
    kept = h[:, 1][h[:, 0] > 0] > 0  # in the second step, among those kept in the first
    if mode == "naive":
        assert_rate(~kept, RATE)
    else:
        assert np.all(kept)


def test_zoneout_keeps_states_at_random_in_a_keras_layer():
    cell = layers.SimpleRNNCell(WIDE, "linear", use_bias=False, zoneout=RATE, seed=1)
    layer = keras.layers.RNN(cell, return_sequences=True)
    layer.build((None, None, WIDE))
    layer.set_weights([np.eye(WIDE), np.zeros((WIDE, WIDE))])  # h~_t = x_t
    sequences = np.broadcast_to(np.arange(1.0, TIME + 1)[:, None], (MANY, TIME, WIDE))
    h = np.array(layer(sequences, training=True))
    before = np.concatenate([np.zeros_like(h[:, :1]), h[:, :-1]], axis=1)
    kept = h == before
    np.testing.assert_array_equal(h, np.where(kept, before, sequences))
    assert_rate(kept, RATE)
    assert_independent(kept[:, 1:], kept[:, :-1], RATE)


def test_both_directions_draw_different_masks():
    """Keras's copy for the backward direction has the same seed and so the same masks."""
    both = layers.Bidirectional(layers.GRU(WIDE, dropout=RATE, seed=5, num_layers=2))
    again = type(both).from_config(both.get_config())
    for layer in (both, again):
        cells = [*layer.forward_layer.recurrent_cells(), *layer.backward_layer.recurrent_cells()]
        masks = [np.array(cell.draw_dropout_masks(np.ones((1, 1, WIDE), "float32"), True).input_mask) for cell in cells]
        assert len({mask.tobytes() for mask in masks}) == 4

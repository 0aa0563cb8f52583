# SPDX-License-Identifier: Apache-2.0
"""States in and out: given, symbolic, kept from batch to batch; and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close

from keras_seq import layers

TOLERANCE = 3e-6
BATCH, TIME, FEATURES, UNITS = 2, 4, 3, 5
KINDS = [("SimpleRNN", 1), ("GRU", 1), ("LSTM", 2)]
every_layer = pytest.mark.parametrize(("kind", "states"), KINDS)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make_pair(kind, **options):
    """A layer of ours and Keras's with the same weights."""
    ours, theirs = (getattr(module, kind)(UNITS, return_state=True, **options) for module in (layers, keras.layers))
    for layer in (ours, theirs):
        layer.build((BATCH, TIME, FEATURES))
    ours.set_weights(theirs.get_weights())
    return ours, theirs


@every_layer
@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
def test_stateful(kind, states, mode):
    ours, theirs = make_pair(kind, stateful=True)
    run = ours if mode == "eager" else tf.function(ours, jit_compile=mode == "jit")
    for step in range(3):
        sequences = draw(BATCH, TIME, FEATURES, seed=step)
        assert_close(run(sequences), theirs(sequences), TOLERANCE)
    assert_close(ours.states, theirs.states, TOLERANCE)
    ours.reset_state()
    assert not any(np.any(state) for state in ours.states)
    theirs.reset_state()
    sequences = draw(BATCH, TIME, FEATURES)
    assert_close(run(sequences), theirs(sequences), TOLERANCE)
    assert len(ours.states) == states
    assert not any(state.trainable for state in ours.states)


@every_layer
def test_batches_of_a_stateful_layer_are_one_long_sequence(kind, states):
    stateful, _ = make_pair(kind, stateful=True)
    stateless, _ = make_pair(kind)
    stateless.set_weights(stateful.get_weights())
    sequences = draw(BATCH, 3 * TIME, FEATURES)
    for start in range(0, 3 * TIME, TIME):
        last = stateful(sequences[:, start : start + TIME])
    assert_close(last, stateless(sequences), TOLERANCE)


def test_stateful_bidirectional():
    ours, theirs = (
        module.Bidirectional(module.GRU(UNITS, stateful=True, return_sequences=True))
        for module in (layers, keras.layers)
    )
    for step in range(2):
        sequences = draw(BATCH, TIME, FEATURES, seed=step)
        if not step:
            for layer in (ours, theirs):
                layer.build(sequences.shape)
            ours.set_weights(theirs.get_weights())
        assert_close(ours(sequences), theirs(sequences), TOLERANCE)
    ours.reset_state()
    assert not any(np.any(state) for state in ours.states)


@every_layer
def test_a_given_state_comes_before_the_kept_one(kind, states):
    ours, theirs = make_pair(kind, stateful=True)
    sequences, initial_state = draw(BATCH, TIME, FEATURES), [draw(BATCH, UNITS, seed=i) for i in range(states)]
    for layer in (ours, theirs):
        layer(sequences)
    assert_close(
        ours(sequences, initial_state=initial_state), theirs(sequences, initial_state=initial_state), TOLERANCE
    )


@every_layer
def test_symbolic_states(kind, states):
    """The encoder and decoder of Keras's first seq2seq example: the state of one starts the other."""
    (our_encoder, their_encoder), (our_decoder, their_decoder) = make_pair(kind), make_pair(kind)

    def connect(encoder, decoder):
        source, target = keras.Input((None, FEATURES)), keras.Input((None, FEATURES))
        _, *state = encoder(source)
        return keras.Model([source, target], decoder(target, initial_state=state))

    arguments = [draw(BATCH, TIME, FEATURES, seed=1), draw(BATCH, TIME + 1, FEATURES, seed=2)]
    ours, theirs = connect(our_encoder, our_decoder), connect(their_encoder, their_decoder)
    assert_close(ours(arguments), theirs(arguments), TOLERANCE)


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU"])
def test_a_single_state_needs_no_list(kind):
    layer, _ = make_pair(kind)
    sequences, state = draw(BATCH, TIME, FEATURES), draw(BATCH, UNITS)
    assert_close(layer(sequences, initial_state=state), layer(sequences, initial_state=[state]), 0)


@every_layer
def test_a_wrong_number_of_states(kind, states):
    layer, _ = make_pair(kind)
    message = rf"`initial_state` must be a list of {states} tensor\(s\) of shape \(batch, {UNITS}\). Received: 3"
    with pytest.raises(ValueError, match=message):
        layer(draw(BATCH, TIME, FEATURES), initial_state=[draw(BATCH, UNITS)] * 3)


@pytest.mark.parametrize(
    ("initial_state", "received"),
    [([draw(BATCH, UNITS)], "1 of them"), (draw(BATCH, UNITS), rf"a tensor of shape \({BATCH}, {UNITS}\)")],
)
def test_wrong_states_of_an_attention_decoder(initial_state, received):
    decoder, sequences = layers.AttentionDecoder(UNITS), draw(BATCH, TIME, FEATURES)
    with pytest.raises(ValueError, match=rf"`initial_state` must be a list of 2 tensor.* Received: {received}"):
        decoder(sequences, sequences, initial_state=initial_state)


@every_layer
def test_a_wrong_number_of_states_to_reset_to(kind, states):
    layer, _ = make_pair(kind, stateful=True)
    with pytest.raises(ValueError, match=rf"`states` must be a list of {states} arrays\. Received: 3"):
        layer.reset_state([draw(BATCH, UNITS)] * 3)
    with pytest.raises(ValueError, match=r"`reset_state\(states=...\)` needs a stateful layer that is built"):
        getattr(layers, kind)(UNITS).reset_state([draw(BATCH, UNITS)] * states)


@every_layer
def test_a_batch_of_the_wrong_size(kind, states):
    layer, _ = make_pair(kind, stateful=True)
    with pytest.raises(ValueError, match=f"built for batches of {BATCH} sequences received 3"):
        layer(draw(3, TIME, FEATURES))


@every_layer
def test_a_stateful_layer_needs_to_know_its_batch(kind, states):
    with pytest.raises(ValueError, match="batch size must be static"):
        getattr(layers, kind)(UNITS, stateful=True)(keras.Input((TIME, FEATURES)))


@every_layer
def test_unrolling_needs_to_know_the_length(kind, states):
    run = tf.function(getattr(layers, kind)(UNITS, unroll=True))
    assert run(draw(BATCH, TIME, FEATURES)).shape == (BATCH, UNITS)
    with pytest.raises(ValueError, match=r"`unroll=True` needs a static number of time steps.*None"):
        run.get_concrete_function(tf.TensorSpec([BATCH, None, FEATURES]))


@every_layer
def test_sequences_have_three_axes(kind, states):
    with pytest.raises(ValueError, match="expected ndim=3, found ndim=2"):
        getattr(layers, kind)(UNITS)(draw(BATCH, FEATURES))


@every_layer
@pytest.mark.parametrize("units", [0, -1])
def test_units_are_positive(kind, states, units):
    with pytest.raises(ValueError, match="`units`"):
        getattr(layers, kind)(units)

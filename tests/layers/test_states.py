# SPDX-License-Identifier: Apache-2.0
"""Initial and final states of recurrent layers: given, symbolic, stateful; and arguments that are refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import RECURRENT_LAYERS, STATES, assert_close, draw, draw_states, every_kind

from keras_seq import layers

TOLERANCE = 3e-6
BATCH, TIME, FEATURES, UNITS = 2, 4, 3, 5


def make_pair(kind, **options):
    """A layer of keras_seq and one of Keras with the same weights."""
    ours, theirs = (getattr(module, kind)(UNITS, return_state=True, **options) for module in (layers, keras.layers))
    for layer in (ours, theirs):
        layer.build((BATCH, TIME, FEATURES))
    ours.set_weights(theirs.get_weights())
    return ours, theirs


@every_kind
@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
def test_a_stateful_layer_matches_keras(kind, mode):
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
    assert len(ours.states) == STATES[kind]
    assert not any(state.trainable for state in ours.states)


@every_kind
def test_a_stateful_layer_joins_batches_into_one_long_sequence(kind):
    stateful, _ = make_pair(kind, stateful=True)
    stateless, _ = make_pair(kind)
    stateless.set_weights(stateful.get_weights())
    sequences = draw(BATCH, 3 * TIME, FEATURES)
    for start in range(0, 3 * TIME, TIME):
        results = stateful(sequences[:, start : start + TIME])
    assert_close(results, stateless(sequences), TOLERANCE)


def test_a_stateful_bidirectional_layer_matches_keras():
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


@every_kind
def test_a_given_state_takes_precedence_over_the_stored_one(kind):
    ours, theirs = make_pair(kind, stateful=True)
    sequences, initial_state = draw(BATCH, TIME, FEATURES), [draw(BATCH, UNITS, seed=i) for i in range(STATES[kind])]
    for layer in (ours, theirs):
        layer(sequences)
    assert_close(
        ours(sequences, initial_state=initial_state), theirs(sequences, initial_state=initial_state), TOLERANCE
    )


@every_kind
def test_symbolic_states_connect_an_encoder_and_a_decoder(kind):
    """As in Keras's first seq2seq example, the final state of the encoder is the initial state of the decoder."""
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


@every_kind
def test_a_wrong_number_of_initial_states_raises(kind):
    layer, _ = make_pair(kind)
    message = rf"`initial_state` must be a list of {STATES[kind]} tensor\(s\) of shape \(batch, {UNITS}\). Received: 3"
    with pytest.raises(ValueError, match=message):
        layer(draw(BATCH, TIME, FEATURES), initial_state=[draw(BATCH, UNITS)] * 3)


@pytest.mark.parametrize(
    ("initial_state", "received"),
    [([draw(BATCH, UNITS)], "1 of them"), (draw(BATCH, UNITS), rf"a tensor of shape \({BATCH}, {UNITS}\)")],
)
def test_wrong_initial_states_of_an_attention_decoder_raise(initial_state, received):
    decoder, sequences = layers.AttentionDecoder(UNITS), draw(BATCH, TIME, FEATURES)
    with pytest.raises(ValueError, match=rf"`initial_state` must be a list of 2 tensor.* Received: {received}"):
        decoder(sequences, sequences, initial_state=initial_state)


@every_kind
def test_reset_state_with_a_wrong_number_of_states_raises(kind):
    layer, _ = make_pair(kind, stateful=True)
    with pytest.raises(ValueError, match=rf"`states` must be a list of {STATES[kind]} arrays\. Received: 3"):
        layer.reset_state([draw(BATCH, UNITS)] * 3)
    with pytest.raises(ValueError, match=r"`reset_state\(states=...\)` needs a stateful layer that is built"):
        getattr(layers, kind)(UNITS).reset_state([draw(BATCH, UNITS)] * STATES[kind])


@every_kind
def test_a_stateful_layer_refuses_another_batch_size(kind):
    layer, _ = make_pair(kind, stateful=True)
    with pytest.raises(ValueError, match=f"built for batches of {BATCH} sequences received 3"):
        layer(draw(3, TIME, FEATURES))


@every_kind
def test_a_stateful_layer_needs_a_static_batch_size(kind):
    with pytest.raises(ValueError, match="batch size must be static"):
        getattr(layers, kind)(UNITS, stateful=True)(keras.Input((TIME, FEATURES)))


@every_kind
def test_unrolling_needs_a_static_number_of_steps(kind):
    run = tf.function(getattr(layers, kind)(UNITS, unroll=True))
    assert run(draw(BATCH, TIME, FEATURES)).shape == (BATCH, UNITS)
    with pytest.raises(ValueError, match=r"`unroll=True` needs a static number of time steps.*None"):
        run.get_concrete_function(tf.TensorSpec([BATCH, None, FEATURES]))


@every_kind
def test_inputs_must_have_three_axes(kind):
    with pytest.raises(ValueError, match="expected ndim=3, found ndim=2"):
        getattr(layers, kind)(UNITS)(draw(BATCH, FEATURES))


@every_kind
@pytest.mark.parametrize("units", [0, -1])
def test_units_must_be_positive(kind, units):
    with pytest.raises(ValueError, match="`units`"):
        getattr(layers, kind)(units)


@pytest.mark.parametrize("name", [name for name in RECURRENT_LAYERS if name != "cell of Keras"])
def test_reset_state_sets_given_states(name):
    """Keras 3.15 documents it, but raises a TypeError; and it cannot reset a stack of cells at all."""
    layer, sequences = RECURRENT_LAYERS[name](stateful=True), draw(BATCH, TIME, FEATURES)
    first = np.array(layer(sequences))
    states = draw_states(layer, BATCH)
    layer.reset_state(states=states)
    assert_close(layer.states, states, 0)
    expected = layer(sequences, initial_state=states)
    layer.reset_state(states)
    assert_close(layer(sequences), expected, 1e-6)
    layer.reset_state()
    assert_close(layer(sequences), first, 0)

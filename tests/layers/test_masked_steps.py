# SPDX-License-Identifier: Apache-2.0
"""Masked steps change nothing, whatever the mask; every recurrent layer passes its mask on."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import RECURRENT_LAYERS, assert_close, draw, draw_states, needs_kernels

import keras_seq

# One sequence each: whole, padded on the right, on the left, with gaps, nothing but padding.
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
TOKENS = MASK * np.random.default_rng(0).integers(1, 9, MASK.shape)
every_recurrent_layer = pytest.mark.parametrize("name", RECURRENT_LAYERS)
every_implementation_of_every_layer = pytest.mark.parametrize(
    ("name", "implementation"),
    [
        pytest.param(name, implementation, marks=needs_kernels if implementation == "native" else ())
        for name in RECURRENT_LAYERS
        for implementation in ("native", "xla")
        if (name, implementation) != ("cell of Keras", "native")
    ],
)

pytestmark = pytest.mark.usefixtures("no_forced_implementation")


@pytest.fixture(scope="module")
def embedding():
    """An embedding of 8 tokens that masks zeros."""
    layer = keras.layers.Embedding(9, 3, embeddings_initializer="random_normal", mask_zero=True)
    layer(TOKENS)
    return layer


@pytest.mark.parametrize("with_state", [False, True])
@every_implementation_of_every_layer
def test_masked_steps_act_as_if_they_were_not_there(name, implementation, with_state, embedding):
    """Without a visible step the outputs are zero, and the state is the initial one (tensorflow#43103, #49241).

    Layers of Keras fail here: they drop the implicit mask of an embedding if an initial state is given.
    """
    layer = RECURRENT_LAYERS[name](return_state=True)
    layer(embedding(TOKENS))
    layer.set_weights([draw(*w.shape, seed=i) for i, w in enumerate(layer.get_weights())])
    states = draw_states(layer, len(TOKENS))
    states = states if with_state else keras.tree.map_structure(np.zeros_like, states)
    with keras_seq.ops.use_implementation(implementation):
        if with_state:
            outputs, *final = tf.function(lambda t: layer(embedding(t), initial_state=states))(TOKENS)
        else:
            outputs, *final = layer(embedding(TOKENS))
    for i, row in enumerate(TOKENS):
        visible = row[row > 0]
        initial_row, final_row = keras.tree.map_structure(lambda s, i=i: np.array(s)[i : i + 1], (states, final))
        if not len(visible):
            assert_close(final_row, initial_row, 0)
            assert not np.any(outputs[i])
        else:
            expected = layer(np.array(embedding(visible[None])), initial_state=initial_row)
            assert_close([outputs[i : i + 1], *final_row], list(expected), 1e-5)


@pytest.mark.parametrize("stateful", [False, True])
@every_recurrent_layer
def test_sequences_carry_the_mask_and_states_carry_none(name, stateful, embedding):
    """See keras PR 23235."""
    layer = RECURRENT_LAYERS[name](return_sequences=True, return_state=True, stateful=stateful)
    outputs, *states = layer(embedding(TOKENS))
    np.testing.assert_array_equal(outputs._keras_mask, MASK)
    assert all(getattr(state, "_keras_mask", None) is None for state in keras.tree.flatten(states))


@every_recurrent_layer
def test_masks_propagate_even_if_the_base_class_does_not_support_masking(name, embedding, monkeypatch):
    """Recurrent layers of Keras 3.16 do not (keras PR 23235)."""

    def without_masking(original):
        def init(self, *args, **kwargs):
            original(self, *args, **kwargs)
            self.supports_masking = False

        return init

    for base in (keras.layers.RNN, keras.layers.Bidirectional):
        monkeypatch.setattr(base, "__init__", without_masking(base.__init__))
        monkeypatch.setattr(base, "compute_mask", None)
    outputs = RECURRENT_LAYERS[name](return_sequences=True)(embedding(TOKENS))
    np.testing.assert_array_equal(outputs._keras_mask, MASK)

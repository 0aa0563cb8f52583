# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers under every dtype policy: numbers, dtypes, and training in half precision."""

import keras
import numpy as np
import pytest
from conftest import assert_close, draw, every_kind, needs_kernels, run_with_gradients

import keras_seq
from keras_seq import layers

BATCH, TIME, FEATURES = 3, 5, 4
MASK = np.array([[1, 0, 1, 1, 0], [0, 0, 1, 0, 0], [0, 1, 1, 1, 1]], bool)
SEQUENCES = draw(BATCH, TIME, FEATURES)
# One sequence each: whole, padded on the right, on the left, with gaps, nothing but padding.
TOKENS = np.array([[8, 6, 5, 3], [3, 1, 0, 0], [0, 0, 6, 8], [0, 5, 0, 8], [0, 0, 0, 0]])


@every_kind
@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [("float64", 1e-11), ("mixed_bfloat16", 2e-2), ("mixed_float16", 3e-3), ("float16", 3e-3)],
)
@pytest.mark.parametrize("bidirectional", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_outputs_and_gradients_match_keras_under_every_policy(kind, policy, tolerance, bidirectional):
    """Low precision is compared with Keras in float32, so that Keras's own rounding does not count."""

    def make(module, policy):
        layer = getattr(module, kind)(3, return_sequences=True, return_state=True, dtype=policy)
        return module.Bidirectional(layer, dtype=policy) if bidirectional else layer

    def run(layer):
        outputs, gradients = run_with_gradients(
            lambda x: layer(x, mask=MASK), [SEQUENCES], layer.trainable_variables, "graph"
        )
        return outputs, [keras.ops.cast(x, "float32") for x in [*outputs, *gradients]]

    ours, theirs = make(layers, policy), make(keras.layers, "float64" if policy == "float64" else "float32")
    for layer in (ours, theirs):
        layer.build(SEQUENCES.shape)
        layer.set_weights([draw(*weight.shape, seed=i) / 2 for i, weight in enumerate(layer.weights)])
    outputs, results = run(ours)
    _, expected = run(theirs)
    compute = policy.removeprefix("mixed_")
    assert {output.dtype.name for output in outputs} == {compute}
    assert {weight.dtype for weight in ours.weights} == {"float32" if policy.startswith("mixed") else compute}
    assert_close(results, expected, max(tolerance, 1e-7))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "implementation", "jit"),
    [
        pytest.param("bfloat16", "native", False, marks=needs_kernels),
        pytest.param("bfloat16", "native", True, marks=needs_kernels),
        ("float16", "xla", False),
    ],
)
def test_an_lstm_trains_in_half_precision(dtype, implementation, jit, set_dtype_policy, no_forced_implementation):
    """See tensorflow#57411 and keras#20605."""
    set_dtype_policy(f"mixed_{dtype}")
    tokens = keras.Input((None,), dtype="int32")
    sequences = layers.LSTM(6, recurrent_dropout=0.1)(keras.layers.Embedding(9, FEATURES, mask_zero=True)(tokens))
    model = keras.Model(tokens, keras.layers.Dense(1, dtype="float32")(sequences))
    assert {row.implementation for row in keras_seq.explain(model, print_fn=None)} == {implementation}
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=jit)
    losses = model.fit(TOKENS, np.ones((len(TOKENS), 1)), epochs=8, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))
    assert losses[-1] < losses[0]

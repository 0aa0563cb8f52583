# SPDX-License-Identifier: Apache-2.0
"""Layers on Keras's JAX backend. It is chosen when Keras is imported, so the tests run this file as a program."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from unittest import mock

import keras
import loss_references
import numpy as np
import pytest
import references
from conftest import assert_close, draw, without_derivative

from keras_seq import layers, ops, training
from keras_seq.ops import native
from keras_seq.ops.equations.gru import GRUEquations
from keras_seq.ops.equations.lstm import LSTMEquations
from keras_seq.ops.equations.simple_rnn import SimpleRNNEquations

BATCH, TIME, FEATURES, UNITS, SOURCE = 3, 5, 4, 6, 7
RIGHT = np.arange(TIME) < np.array([[5], [3], [1]])
SCATTERED = np.array([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 1, 0]], bool)


def value_and_gradients(function, *arguments):
    """The results of a function of nested arrays, and its gradients; the upstream gradients are cosines."""
    import jax
    import jax.numpy as jnp

    def run(*arguments):
        results, pull_back = jax.vjp(function, *arguments)
        upstream = jax.tree.map(lambda y: jnp.cos(jnp.arange(1.0, y.size + 1)).reshape(y.shape), results)
        return results, pull_back(upstream)

    return jax.jit(run)(*arguments)


def check_layers_against_keras():
    kinds = [("SimpleRNN", 1, {}), ("GRU", 1, {}), ("GRU", 1, {"reset_after": False}), ("LSTM", 2, {})]
    calls = [
        ({"go_backwards": True}, {"mask": SCATTERED, "training": True}, False),
        ({}, {"mask": RIGHT}, True),
        ({"unroll": True, "return_sequences": False, "activation": "hard_sigmoid"}, {}, True),
    ]
    for kind, states, kind_options in kinds:
        for options, call, with_state in calls:
            options = {"units": UNITS, "return_sequences": True, "return_state": True, **kind_options, **options}
            initial_state = [draw(BATCH, UNITS, seed=i) for i in range(states * with_state)]
            ours, theirs = (getattr(module, kind)(**options) for module in (layers, keras.layers))
            assert_close(run_layer(ours, initial_state, call), run_layer(theirs, initial_state, call), 3e-5)


def run_layer(layer, initial_state, call):
    """Outputs, states and the gradients of weights, inputs and initial states."""
    layer.build((BATCH, TIME, FEATURES))
    layer.set_weights([draw(*weight.shape, seed=i) / 2 for i, weight in enumerate(layer.weights)])
    constant = [variable.value for variable in layer.non_trainable_variables]

    def run(variables, sequences, initial_state):
        state = {"initial_state": initial_state} if initial_state else {}
        return layer.stateless_call(variables, constant, sequences, **call, **state)[0]

    variables = [variable.value for variable in layer.trainable_variables]
    return value_and_gradients(run, variables, draw(BATCH, TIME, FEATURES), initial_state)


def check_cudnn_against_the_scan():
    """If Keras finds a GPU, an LSTM can run on cuDNN; JAX has a reference of it in its own operations."""
    from jax.experimental import rnn

    def reference(x, h_0, c_0, weights, lengths, **sizes):
        layout = {name: size for name, size in sizes.items() if name != "dropout"}
        calls.append(sizes)
        return rnn.lstm_ref(x, h_0, c_0, *rnn.unpack_lstm_weights(weights, **layout), lengths, *sizes.values())

    calls = []
    gpu = mock.patch("keras.src.backend.jax.rnn._is_gpu_available", lambda: True)
    no_kernels = mock.patch.object(native, "unavailable", lambda kind=None: "JAX runs on gpu, and they run on a CPU")
    with gpu, no_kernels, mock.patch.object(rnn, "lstm", reference):
        initial_state = [draw(BATCH, UNITS, seed=i) for i in range(2)]
        choice = layers.LSTM(UNITS).choose_implementation()
        assert choice.implementation == "xla"
        assert "faster than cuDNN" in choice.reason
        for options in ({}, {"go_backwards": True}):
            options = {"units": UNITS, "return_sequences": True, "return_state": True, **options}
            on_cudnn = layers.LSTM(**options, implementation="cudnn")
            assert on_cudnn.choose_implementation().implementation == "cudnn"
            assert on_cudnn.supports_jit
            expected = run_layer(layers.LSTM(**options, implementation="xla"), initial_state, {})
            assert_close(run_layer(on_cudnn, initial_state, {}), expected, 1e-5)
        assert len(calls) == 2
        for layer, reason in [(layers.GRU(UNITS), "GRU on JAX"), (layers.LSTM(UNITS, dtype="bfloat16"), "bfloat16 on")]:
            choice = layer.choose_implementation()
            assert choice.implementation == "xla"
            assert f"cuDNN has no {reason}" in choice.reason


def check_attention_decoder_against_automatic_differentiation():
    cells = [
        (SimpleRNNEquations(), True),
        (GRUEquations(), False),
        (LSTMEquations(), True),
    ]
    for cell, recompute in [*cells, (GRUEquations(reset_after=False), False)]:
        assert_close(run_decoder(cell, recompute), run_decoder(without_derivative(cell), recompute), 1e-5)


def run_decoder(cell, recompute):
    """Outputs, states and the gradients of inputs, memory and weights."""
    weights = {
        "kernel": draw(FEATURES + 2, cell.gates * UNITS),
        "recurrent_kernel": draw(UNITS, cell.gates * UNITS),
        "bias": draw(*((2,) if getattr(cell, "reset_after", False) else ()), cell.gates * UNITS),
        "query_kernel": draw(UNITS, 3),
        "score_vector": draw(3),
        "keys": draw(BATCH, SOURCE, 3),
    }
    memory_mask = np.arange(SOURCE) < np.array([[7], [1], [0]])

    def decode(inputs, memory, weights):
        masks = {"mask": RIGHT, "memory_mask": memory_mask}
        return ops.attention_decoder(cell, inputs, memory, **weights, **masks, recompute=recompute)

    return value_and_gradients(decode, draw(BATCH, TIME, FEATURES), draw(BATCH, SOURCE, 2), weights)


def check_input_feeding_against_numpy():
    inputs, memory = draw(BATCH, TIME, FEATURES), draw(BATCH, SOURCE, UNITS)
    for options in ({}, {"attentional_units": 3}):
        decoder = layers.AttentionDecoder(UNITS, "gru", layers.LuongAttention(), attend="after", **options)
        decoder.build(inputs.shape, memory.shape)
        decoder.set_weights([draw(*w.shape, seed=i) / 2 for i, w in enumerate(decoder.weights)])
        kernel = np.array(decoder.attentional_kernel.value) if options else None
        hidden, attentions, _, attention_weights = references.attention_wrapper(
            references.gru, inputs, memory, *decoder.cell.get_weights(), kernel,
            attend=references.luong(memory, score="dot"), initial_state=[np.zeros((BATCH, UNITS))],
        )  # fmt: skip
        expected = attentions if options else np.concatenate([hidden, attentions], axis=-1)
        assert_close(decoder(inputs, memory, return_attention_scores=True), [expected, attention_weights], 1e-5)

        def loss(variables, decoder=decoder):
            seeds = [variable.value for variable in decoder.non_trainable_variables]
            return decoder.stateless_call(variables, seeds, inputs, memory, training=True)[0]

        _, [gradients] = value_and_gradients(loss, [variable.value for variable in decoder.trainable_variables])
        assert all(np.any(gradient) for gradient in gradients)


def check_every_call_draws_new_masks():
    layer = layers.LSTM(UNITS, dropout=0.3, recurrent_dropout=0.3)
    sequences = draw(BATCH, TIME, FEATURES)
    assert not np.allclose(layer(sequences, training=True), layer(sequences, training=True))
    assert_close(layer(sequences), layer(sequences), 0)


def check_extensions_against_numpy():
    sequences = draw(BATCH, TIME, FEATURES)
    for make in (layers.LSTM, layers.GRU):
        layer = make(UNITS, layer_norm=True, zoneout=0.3, return_sequences=True)
        layer.build(sequences.shape)
        weights = {w.name: draw(*w.shape, seed=i) / 2 for i, w in enumerate(layer.weights)}
        layer.set_weights(list(weights.values()))
        norms = {name: weights.pop(name) for name in list(weights) if name.endswith(("gamma", "beta"))}
        reference = references.extended_lstm if make is layers.LSTM else references.layer_norm_gru
        zoneout = [np.full((BATCH, UNITS), 0.3)] * len(layer.state_size)
        expected, _ = reference(sequences, **weights, norms=norms, mask=SCATTERED, zoneout_masks=zoneout)
        assert_close(layer(sequences, mask=SCATTERED), expected, 1e-5)


def check_kernels_of_extensions_match_the_scan():
    if native.unavailable():
        return
    for kind, options in [
        ("LSTM", {"layer_norm": True}),
        ("LSTM", {"projection_units": 4, "peephole": True, "layer_norm": True, "go_backwards": True}),
        ("LSTM", {"projection_units": 4, "recompute": True}),
        ("GRU", {"layer_norm": True, "recompute": True}),
        ("GRU", {"layer_norm": True, "reset_after": False}),
    ]:
        results = []
        for implementation in ("native", "xla"):
            options |= {"return_sequences": True, "return_state": True, "zoneout": 0.3}
            layer = getattr(layers, kind)(UNITS, **options, implementation=implementation)
            initial_state = [draw(BATCH, size, seed=size) for size in layer.state_size]
            results.append(run_layer(layer, initial_state, {"mask": SCATTERED}))
        assert_close(*results, 3e-5)


def check_models_train():
    rates = {"dropout": 0.1, "recurrent_dropout": 0.1, "output_dropout": 0.1, "recurrent_weight_dropout": 0.1}
    stack = {"num_layers": 2, "residual": True, "initial_state_initializer": "zeros"}
    inner = layers.SimpleRNN(UNITS, return_sequences=True)
    makers = [
        lambda: layers.Bidirectional(layers.GRU(UNITS, dropout=0.1)),
        lambda: layers.LSTM(UNITS, zoneout=0.1, dropout_mode="naive", **rates, **stack),
        lambda: layers.LSTM(UNITS, peephole=True, projection_units=3, layer_norm=True),
        lambda: layers.RNN([layers.LSTMCell(UNITS, recurrent_dropout=0.1), keras.layers.GRUCell(UNITS)]),
        lambda: keras.Sequential([layers.VariationalDropout(inner, 0.1, 0.1, 0.1), layers.GRU(UNITS, layer_norm=True)]),
        lambda: keras.Sequential([layers.ActivationRegularization(1e-3, 1e-3), layers.LockedDropout(0.1), inner]),
    ]
    for make in makers:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((TIME, FEATURES)), make(), keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.05), "mse")
        losses = model.fit(draw(BATCH, TIME, FEATURES), draw(BATCH, 1), epochs=40, verbose=0).history["loss"]
        assert min(losses) < losses[0] / 2  # with dropout and so large a step the last loss may be larger


def check_implicit_masks_act_like_explicit_ones():
    """Also with several tensors in a call, and under jit, whose tracers take no attributes."""
    import jax

    tokens = np.array([[1, 2, 0, 0], [4, 0, 3, 0], [1, 1, 1, 1]])
    embedding = keras.layers.Embedding(9, FEATURES, mask_zero=True)
    vectors, mask, state = np.array(embedding(tokens)), tokens > 0, draw(BATCH, UNITS)
    rnn_with_attention = layers.RNN(layers.AttentionCell(layers.GRUCell(UNITS), layers.BahdanauAttention(UNITS)))
    calls = [
        (layers.GRU(UNITS), lambda layer, x, m: layer(x, initial_state=[state], **m("mask"))),
        (layers.Bidirectional(layers.GRU(UNITS)), lambda layer, x, m: layer(x, initial_state=[state] * 2, **m("mask"))),
        (layers.RNN(keras.layers.GRUCell(UNITS)), lambda layer, x, m: layer(x, initial_state=[state], **m("mask"))),
        (layers.AttentionDecoder(UNITS), lambda layer, x, m: layer(x, x, **m("mask", "memory_mask"))),
        (rnn_with_attention, lambda layer, x, m: layer(x, memory=x, **m("mask", "memory_mask"))),
    ]
    for layer, call in calls:
        expected = call(layer, vectors, lambda *names: dict.fromkeys(names, mask))
        unmasked = call(layer, vectors, lambda *names: {})
        assert not np.allclose(expected, unmasked, atol=1e-3)

        def run(tokens, layer=layer, call=call):
            return call(layer, embedding(tokens), lambda *names: {})

        for function in (run, jax.jit(run)):
            assert_close(function(tokens), expected, 1e-6)


def check_sequences_without_steps_keep_the_state():
    for layer in (layers.LSTM(UNITS, return_state=True), layers.LSTM(UNITS, return_state=True, implementation="xla")):
        layer.build((BATCH, 0, FEATURES))
        states = [draw(BATCH, UNITS), draw(BATCH, UNITS, seed=1)]
        outputs = layer(np.zeros((BATCH, 0, FEATURES), "float32"), initial_state=states)
        assert_close(outputs, [np.zeros((BATCH, UNITS)), *states], 0)


def check_time_distributed_matches_one_call_for_each_step():
    letters = np.array([[[1, 2, 0], [3, 0, 0]], [[1, 1, 1], [0, 0, 0]]])
    embedded = keras.layers.Embedding(9, FEATURES, mask_zero=True)(letters)
    words = layers.TimeDistributed(layers.Bidirectional(layers.GRU(UNITS)))
    outputs = words(embedded)
    assert outputs.shape == (2, 2, 2 * UNITS)
    for step in range(2):
        assert_close(outputs[:, step], words.layer(np.array(embedded)[:, step], mask=letters[:, step] > 0), 1e-6)


def check_crf():
    arguments = [draw(BATCH, TIME, UNITS), draw(UNITS, UNITS), draw(UNITS), draw(UNITS, seed=1)]
    tags = np.random.default_rng(0).integers(0, UNITS, (BATCH, TIME))

    def expected(*arguments):
        return [loss_references.crf_log_likelihood(*arguments, SCATTERED, tags)]

    def likelihood(*arguments):
        return ops.crf_log_likelihood(ops.crf_log_probabilities(*arguments, SCATTERED), tags)

    actual, gradients = value_and_gradients(likelihood, *arguments)
    assert_close([actual], expected(*arguments), 1e-5)
    assert_close(list(gradients), references.numerical_gradients(expected, arguments), 1e-5)
    log_probabilities = ops.crf_log_probabilities(*arguments, SCATTERED)
    best, log_probability = ops.crf_decode(log_probabilities)
    assert_close(log_probability, ops.crf_log_likelihood(log_probabilities, best).sum(axis=1), 1e-5)
    assert_close(ops.crf_marginals(log_probabilities).sum(axis=-1), SCATTERED.astype("float32"), 1e-5)


def check_a_tagger_trains():
    keras.utils.set_random_seed(0)
    tokens, tags = np.array([[1, 2, 3, 0], [4, 4, 0, 0]]), np.array([[0, 1, 1, 0], [1, 0, 0, 0]])
    stack = [keras.layers.Embedding(9, FEATURES, mask_zero=True), layers.CRF(2)]
    model = keras.Sequential([keras.Input((None,)), *stack])
    model.compile(keras.optimizers.Adam(0.1), training.CRFLoss(), metrics=[training.CRFAccuracy()])
    history = model.fit(tokens, tags, epochs=40, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] / 2
    assert history["crf_accuracy"][-1] == 1


def check_readout_crossentropy():
    import jax

    targets = np.where(SCATTERED, np.arange(TIME) % UNITS, -1)
    weights, options = np.abs(draw(BATCH, TIME, seed=3)), {"label_smoothing": 0.2, "rows_per_chunk": 3}
    arguments = [draw(BATCH, TIME, FEATURES), draw(FEATURES, UNITS, seed=1), draw(UNITS, seed=2)]
    loss, losses, predictions, *gradients = loss_references.readout_crossentropy(*arguments, targets, weights, 0.2)

    def run(*arguments):
        loss, *rest = ops.readout_crossentropy(*arguments, targets, weights, **options)
        return loss, rest

    for function in (run, jax.jit(run)):
        (value, rest), slopes = jax.value_and_grad(function, (0, 1, 2), has_aux=True)(*arguments)
        for result, wanted in zip([value, *rest, *slopes], [loss, losses, predictions, *gradients], strict=True):
            np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-5)


def check_a_model_is_saved_and_loaded():
    keras.utils.set_random_seed(0)
    tokens = np.array([[1, 2, 3, 0], [4, 4, 0, 0]])
    embedding = keras.layers.Embedding(9, FEATURES, mask_zero=True)
    stack = layers.LSTM(UNITS, num_layers=2, zoneout=[0.1, 0.2], layer_norm=True)
    model = keras.Sequential([keras.Input((None,)), layers.EmbeddingDropout(embedding, 0.2), stack])
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        assert_close(keras.saving.load_model(f"{folder}/model.keras")(tokens), model(tokens), 0)


CHECKS = [name for name in list(globals()) if name.startswith("check_")]


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
@pytest.mark.slow
@pytest.mark.parametrize("checks", [CHECKS[::2], CHECKS[1::2]], ids=["even", "odd"])
def test_layers_on_jax(checks):
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    run = subprocess.run([sys.executable, __file__, *checks], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # importing it raises
import keras, numpy as np
import keras_seq
from keras_seq import layers
x = np.ones((2, 3, 4), "float32")
assert layers.LSTM(4)(x).shape == (2, 4)
assert layers.AttentionDecoder(4)(x, x, training=True).shape == (2, 3, 4)
theirs = keras.Sequential([keras.Input((3, 4)), keras.layers.Bidirectional(keras.layers.GRU(4, dropout=0.1))])
model = keras_seq.convert(theirs)
model.compile(loss="mse")
model.fit(x, np.ones((2, 8)), verbose=0)
assert [row.kind for row in keras_seq.explain(model, print_fn=None)] == ["GRU", "GRU"]
try:
    keras_seq.data.bucket_by_length(["a"], ["b"], 1)
except ImportError as error:
    assert "requires the tensorflow module" in str(error)
else:
    raise AssertionError("needs TensorFlow")
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_layers_on_jax_do_not_need_tensorflow():
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


if __name__ == "__main__":
    assert keras.backend.backend() == "jax"
    for name in sys.argv[1:]:
        globals()[name]()

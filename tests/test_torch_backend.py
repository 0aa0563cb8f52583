# SPDX-License-Identifier: Apache-2.0
"""Layers on Keras's PyTorch backend. It is chosen when Keras is imported, so the test runs this file as a program."""

import gc
import importlib.util
import os
import subprocess
import sys
import tempfile

import keras
import loss_references
import numpy as np
import pytest
import references

BATCH, TIME, FEATURES, UNITS, SOURCE = 3, 5, 4, 6, 7
RIGHT = np.arange(TIME) < np.array([[5], [3], [1]])
SCATTERED = np.array([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 1, 0]], bool)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def run_layer(layer, initial_state=(), **call):
    """Outputs, states and the gradients of weights, inputs and initial states, as arrays."""
    import torch

    sequences, *states = [torch.tensor(x, requires_grad=True) for x in (draw(BATCH, TIME, FEATURES), *initial_state)]
    layer.build((None, TIME, FEATURES))
    layer.set_weights([draw(*weight.shape, seed=i) / 2 for i, weight in enumerate(layer.weights)])
    results = keras.tree.flatten(layer(sequences, **({"initial_state": states} if states else {}), **call))
    upstream = [torch.cos(torch.arange(1.0, y.numel() + 1)).reshape(y.shape) for y in results]
    sources = [weight.value for weight in layer.trainable_weights] + [sequences, *states]
    gradients = torch.autograd.grad(results, sources, upstream)
    return [x.detach().numpy() for x in (*results, *gradients)]


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def check_layers_against_keras():
    from keras_seq import layers

    calls = [
        ({"go_backwards": True}, {"mask": SCATTERED, "training": True}, False),
        ({"recompute": True}, {"mask": RIGHT, "training": True}, True),
        ({"unroll": True, "return_sequences": False, "activation": "hard_sigmoid"}, {}, True),
    ]
    for kind, states, kind_options in [
        ("SimpleRNN", 1, {}),
        ("GRU", 1, {"reset_after": False}),
        ("GRU", 1, {}),
        ("LSTM", 2, {}),
    ]:
        for options, call, with_state in calls:
            options = {"units": UNITS, "return_sequences": True, "return_state": True, **kind_options, **options}
            initial_state = [draw(BATCH, UNITS, seed=i) for i in range(states * with_state)]
            ours = run_layer(getattr(layers, kind)(**options), initial_state, **call)
            options.pop("recompute", None)
            assert_equal(ours, run_layer(getattr(keras.layers, kind)(**options), initial_state, **call))


def check_bidirectional_against_keras():
    from keras_seq import layers

    for mode in ("concat", "sum"):
        ours, theirs = (
            run_layer(module.Bidirectional(module.GRU(UNITS, return_sequences=True), mode), mask=RIGHT)
            for module in (layers, keras.layers)
        )
        assert_equal(ours, theirs)


def check_dropout():
    """A rate close to 1 drops everything, so that the layer runs on zeros. Every call draws new masks."""
    from keras_seq import layers

    layer = layers.LSTM(UNITS, dropout=1 - 1e-7, return_sequences=True)
    dropped = run_layer(layer, training=True)
    assert not dropped[-1].any()  # the gradient of the inputs
    np.testing.assert_allclose(dropped[0], layer(np.zeros((BATCH, TIME, FEATURES), "float32")).detach(), atol=1e-6)
    rates = {"dropout": 0.3, "recurrent_dropout": 0.3, "recurrent_weight_dropout": 0.3, "zoneout": 0.3}
    layer = layers.GRU(UNITS, **rates)
    first, second = (run_layer(layer, training=True) for _ in range(2))
    assert not any(np.allclose(a, b) for a, b in zip(first, second, strict=True))
    assert_equal(run_layer(layer), run_layer(layer))


def check_attention_decoder_against_its_steps():
    """One call with its hand-written gradient, and single steps under automatic differentiation."""
    import torch

    from keras_seq import layers

    for cell in ("rnn", "gru", layers.LSTMCell(UNITS)):
        decoder = layers.AttentionDecoder(UNITS, cell=cell)
        inputs, memory = (torch.tensor(draw(BATCH, n, FEATURES), requires_grad=True) for n in (TIME, SOURCE))
        decoder.build(inputs.shape, memory.shape)
        decoder.set_weights([draw(*weight.shape, seed=i) / 2 for i, weight in enumerate(decoder.weights)])
        states, keys, steps = decoder.get_initial_state(memory), decoder.project_memory(memory), []
        for t in range(TIME):
            output, states, _ = decoder.step(inputs[:, t], states, memory, keys)
            steps.append(output)
        sources = [inputs, memory, *(weight.value for weight in decoder.trainable_weights)]
        results = []
        for outputs in (decoder(inputs, memory, training=True), torch.stack(steps, dim=1)):
            upstream = torch.cos(torch.arange(1.0, outputs.numel() + 1)).reshape(outputs.shape)
            results.append([outputs, *torch.autograd.grad(outputs, sources, upstream)])
        assert_equal(*([x.detach().numpy() for x in tensors] for tensors in results))


def check_fit_and_saving():
    from keras_seq import layers

    stack = {"num_layers": 2, "residual": True, "initial_state_initializer": "zeros"}
    attention = layers.AttentionCell(layers.GRUCell(UNITS), layers.BahdanauAttention(UNITS))
    for layer in (
        layers.Bidirectional(layers.LSTM(UNITS, dropout=0.1, recurrent_dropout=0.1)),
        layers.GRU(UNITS, zoneout=0.1, output_dropout=0.1, layer_norm=True, **stack),
        layers.RNN([layers.LSTMCell(UNITS), keras.layers.GRUCell(UNITS)]),
        layers.RNN(attention),
        layers.AttentionPooling(UNITS, dropout=0.1),
    ):
        keras.utils.set_random_seed(0)
        tokens = keras.Input((None,))
        embedded = keras.layers.Embedding(9, FEATURES, mask_zero=True)(tokens)
        memory = {"memory": embedded} if getattr(layer, "cell", None) is attention else {}
        model = keras.Model(tokens, keras.layers.Dense(1)(layer(embedded, **memory)))
        model.compile(keras.optimizers.Adam(0.05), "mse")
        sources = np.array([[1, 2, 3, 0], [4, 4, 0, 0], [5, 1, 1, 2]])
        losses = model.fit(sources, draw(3, 1), epochs=20, verbose=0).history["loss"]
        assert min(losses) < losses[0] / 2
        with tempfile.TemporaryDirectory() as folder:
            model.save(f"{folder}/model.keras")
            loaded = keras.saving.load_model(f"{folder}/model.keras")
        np.testing.assert_array_equal(loaded.predict(sources, verbose=0), model.predict(sources, verbose=0))


def check_crf():
    import torch

    from keras_seq import ops

    arguments = [draw(BATCH, TIME, UNITS), draw(UNITS, UNITS), draw(UNITS), draw(UNITS, seed=1)]
    tags = np.random.default_rng(0).integers(0, UNITS, (BATCH, TIME))

    def expected(*arguments):
        return [loss_references.crf_log_likelihood(*arguments, SCATTERED, tags)]

    tensors = [torch.tensor(x, requires_grad=True) for x in arguments]
    log_probabilities = ops.crf_log_probabilities(*tensors, SCATTERED)
    likelihood = ops.crf_log_likelihood(log_probabilities, tags)
    upstream = torch.cos(torch.arange(1.0, likelihood.numel() + 1)).reshape(likelihood.shape)
    gradients = torch.autograd.grad(likelihood, tensors, upstream)
    ours = [x.detach().numpy() for x in (likelihood, *gradients)]
    assert_equal(ours, [*expected(*arguments), *references.numerical_gradients(expected, arguments)])
    best, log_probability = ops.crf_decode(log_probabilities.detach())
    of_best = ops.crf_log_likelihood(log_probabilities, best).sum(axis=1)
    np.testing.assert_allclose(log_probability, of_best.detach(), atol=1e-5)
    np.testing.assert_allclose(ops.crf_marginals(log_probabilities).sum(axis=-1).detach(), SCATTERED, atol=1e-5)


def check_readout_crossentropy():
    import torch

    from keras_seq import ops

    targets = np.where(SCATTERED, np.arange(TIME) % UNITS, -1)
    weights, options = np.abs(draw(BATCH, TIME, seed=3)), {"label_smoothing": 0.2, "rows_per_chunk": 3}
    arguments = [draw(BATCH, TIME, FEATURES), draw(FEATURES, UNITS, seed=1), draw(UNITS, seed=2)]
    loss, losses, predictions, *gradients = loss_references.readout_crossentropy(*arguments, targets, weights, 0.2)
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-12)):
        tensors = [torch.tensor(x.astype(dtype), requires_grad=True) for x in arguments]
        results = ops.readout_crossentropy(*tensors, torch.tensor(targets), torch.tensor(weights), **options)
        results[0].backward()
        results = [*results, *(x.grad for x in tensors)]
        for result, wanted in zip(results, [loss, losses, predictions, *gradients], strict=True):
            np.testing.assert_allclose(result.detach(), wanted, rtol=tolerance, atol=tolerance)


def check_a_training_step_leaves_no_tensors_behind():
    import torch

    from keras_seq import layers

    def count_tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    layer = layers.LSTM(UNITS)
    for _ in range(2):  # the first round frees what earlier checks left
        run_layer(layer, training=True)
        before = count_tensors()
    run_layer(layer, training=True)
    layer(draw(BATCH, TIME, FEATURES), training=True)  # without asking for a gradient
    assert count_tensors() == before


def check_a_second_order_gradient_raises():
    import torch

    from keras_seq import layers

    sequences = torch.tensor(draw(BATCH, TIME, FEATURES), requires_grad=True)
    with pytest.raises(NotImplementedError, match="second-order gradient"):
        torch.autograd.grad(layers.GRU(UNITS)(sequences).sum(), sequences, create_graph=True)


CHECKS = [name for name in list(globals()) if name.startswith("check_")]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_layers_on_torch():
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    run = subprocess.run([sys.executable, __file__, *CHECKS], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


if __name__ == "__main__":
    sys.modules["tensorflow"] = None  # importing it raises: the layers need only PyTorch
    assert keras.backend.backend() == "torch"
    for name in sys.argv[1:]:
        globals()[name]()

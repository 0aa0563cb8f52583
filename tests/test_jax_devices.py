# SPDX-License-Identifier: Apache-2.0
"""Layers on several JAX devices, which are virtual ones of a CPU. The tests run this file as a program."""

import importlib.util
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import assert_close, draw

import keras_seq
from keras_seq import layers, training

DEVICES = 4
BATCH, TIME, FEATURES, UNITS, SOURCE = 8, 5, 4, 6, 7
MASK = np.random.default_rng(0).random((BATCH, TIME)) < 0.6
MEMORY_MASK = np.random.default_rng(1).random((BATCH, SOURCE)) < 0.6
COLLECTIVE = re.compile(r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


class Attending(keras.layers.Layer):
    """An `AttentionDecoder` over a memory that stays the same, for calls with one tensor."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder
        self.memory_units = decoder.cell.units if isinstance(decoder.attention, layers.LuongAttention) else 3

    def build(self, shape):
        self.decoder.build(shape, (BATCH, SOURCE, self.memory_units))

    def call(self, inputs, mask, memory, memory_mask, training):
        memory = memory[..., : self.memory_units]
        return self.decoder(inputs, memory, mask=mask, memory_mask=memory_mask, training=training)


def attending(attention, **options):
    return lambda **more: Attending(layers.AttentionDecoder(UNITS, attention=attention, **options, **more))


def shardings():
    """How batches and weights are laid out: along the batch, and whole on each device."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
    return NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())


def loss_function(layer, **call):
    """A loss of variables, inputs and other tensors of a batch; and the variables."""
    layer.build((BATCH, TIME, FEATURES))
    constant = [variable.value for variable in layer.non_trainable_variables]
    upstream = draw(BATCH, TIME, 2 * UNITS, seed=9)

    def loss(variables, inputs, batched):
        outputs = layer.stateless_call(variables, constant, inputs, **batched, **call)[0]
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return sum((y * upstream[: len(y), : y.shape[1], : y.shape[-1]]).sum() for y in outputs if y.ndim == 3)

    return loss, [draw(*v.shape, seed=i) / 2 for i, v in enumerate(layer.trainable_variables)]


def check_devices_exchange_gradients_of_weights_only():
    """Each device computes its part of the batch; random masks are those of one device."""
    rates = {"dropout": 0.2, "recurrent_dropout": 0.2}
    sequences = {"return_sequences": True}
    everywhere = [
        lambda **o: layers.LSTM(UNITS, zoneout=0.2, num_layers=2, residual=True, **rates, **sequences, **o),
        lambda **o: layers.Bidirectional(layers.GRU(UNITS, dropout_mode="naive", **rates, **sequences, **o)),
        lambda **o: layers.SimpleRNN(UNITS, go_backwards=True, return_state=True, **sequences, **o),
        lambda **o: layers.LSTM(UNITS, peephole=True, recurrent_activation="tanh", **sequences, **o),
        attending(layers.BahdanauAttention(5)),
    ]
    on_xla = [
        lambda **o: layers.GRU(UNITS, reset_after=False, layer_norm=True, **sequences, **o),
        lambda **o: layers.LSTM(UNITS, peephole=True, projection_units=3, layer_norm=True, **sequences, **o),
        lambda **o: layers.LSTM(UNITS, recompute=True, unroll=True, **sequences, **o),
    ]
    for make in everywhere:
        assert exchanges(make(implementation="native")) <= {"all-reduce"}
        assert exchanges(make(implementation="xla")) <= {"all-reduce"}
    assert exchanges(layers.LSTM(UNITS, recompute=True, return_sequences=True)) <= {"all-reduce"}
    for make in on_xla:
        assert exchanges(make(implementation="xla")) <= {"all-reduce"}


def check_derivatives_by_jax_exchange_gradients_in_each_step():
    for attention in (layers.LuongAttention(), layers.MonotonicAttention(5)):
        options = {"attend": "after"} if isinstance(attention, layers.LuongAttention) else {}
        make = attending(attention, **options)
        assert exchanges(make(implementation="xla"), in_loops=True) <= {"all-reduce"}
        assert exchanges(make(implementation="native")) <= {"all-reduce"}


def exchanges(layer, in_loops=False):
    """What the devices exchange in a gradient, after a comparison with the gradient on one device."""
    import jax

    batched = {"mask": MASK}
    if isinstance(layer, Attending):
        batched |= {"memory": draw(BATCH, SOURCE, UNITS, seed=3), "memory_mask": MEMORY_MASK}
    loss, variables = loss_function(layer, training=True)
    gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))
    inputs = draw(BATCH, TIME, FEATURES)
    split, whole = shardings()
    arguments = (jax.device_put(variables, whole), jax.device_put(inputs, split), jax.device_put(batched, split))
    compiled = gradient.lower(*arguments).compile()
    actual, expected = (jax.tree.leaves(f) for f in (compiled(*arguments), gradient(variables, inputs, batched)))
    assert_close(actual, expected, 1e-5)
    text = compiled.as_text()
    assert "conditional(" not in text  # residuals are kept as the forward pass left them
    in_loop = [line for line in text.splitlines() if COLLECTIVE.search(line) and "while/body" in line]
    assert bool(in_loop) == in_loops
    return set(COLLECTIVE.findall(text))


def check_eager_calls_are_split():
    import jax

    split, _ = shardings()
    for implementation in ("native", "xla"):
        layer = layers.LSTM(UNITS, implementation=implementation)
        inputs = draw(BATCH, TIME, FEATURES)
        expected = layer(inputs)
        outputs = layer(jax.device_put(inputs, split))
        assert outputs.sharding.shard_shape(outputs.shape) == (BATCH // DEVICES, UNITS)
        assert_close(outputs, expected, 1e-6)


def check_batches_that_do_not_divide():
    """Of 7 sequences, 1 and none, on 4 devices."""
    import jax

    split, whole = shardings()
    for implementation in ("native", "xla"):
        loss, variables = loss_function(layers.GRU(UNITS, return_sequences=True, implementation=implementation))

        def split_loss(variables, inputs, batched, loss=loss):
            return loss(variables, jax.lax.with_sharding_constraint(inputs, split), batched)

        for batch in (7, 1, 0):
            inputs = draw(BATCH, TIME, FEATURES)[:batch]
            expected = jax.value_and_grad(loss, (0, 1))(variables, inputs, {})
            gradient = jax.jit(jax.value_and_grad(split_loss, (0, 1)), in_shardings=(whole, whole, None))
            actual = gradient(variables, inputs, {})
            assert_close(jax.tree.leaves(actual), jax.tree.leaves(expected), 1e-5)


def check_vmap_over_split_batches():
    import jax

    split, _ = shardings()
    batches = np.stack([draw(BATCH, TIME, FEATURES, seed=i) for i in range(3)])
    for implementation in ("native", "xla"):
        loss, variables = loss_function(layers.LSTM(UNITS, return_sequences=True, implementation=implementation))
        gradient = jax.grad(lambda v, x, loss=loss: loss(v, x, {}), (0, 1))
        along_second = jax.sharding.NamedSharding(split.mesh, jax.sharding.PartitionSpec(None, "batch"))
        mapped = jax.jit(jax.vmap(gradient, (None, 0)))(variables, jax.device_put(batches, along_second))
        for i, inputs in enumerate(batches):
            actual = [leaf[i] for leaf in jax.tree.leaves(mapped)]
            assert_close(actual, jax.tree.leaves(gradient(variables, inputs)), 1e-5)


def check_a_backward_pass_that_is_split_differently():
    """The residuals of a pass over parts of the batch do not serve one over the whole batch, or the other way round."""
    import jax

    split, whole = shardings()
    loss, variables = loss_function(layers.LSTM(UNITS, return_sequences=True, implementation="native"))
    inputs = draw(BATCH, TIME, FEATURES)
    expected = jax.grad(loss, (0, 1))(variables, inputs, {})
    for first, second in ((split, whole), (whole, split)):
        run = jax.jit(lambda variables, inputs: loss(variables, inputs, {}))
        _, pull_back = jax.vjp(run, jax.device_put(variables, whole), jax.device_put(inputs, first))

        def move(x, sharding=second):
            return jax.device_put(x, sharding if x.ndim and x.shape[0] % DEVICES == 0 else whole)

        gradients = jax.jit(lambda pull_back: pull_back(1.0))(jax.tree.map(move, pull_back))
        assert_close(jax.tree.leaves(gradients), jax.tree.leaves(expected), 1e-5)


def check_second_order_gradients_are_refused():
    import jax

    loss, variables = loss_function(layers.LSTM(UNITS, return_sequences=True, implementation="native"))
    inputs = draw(BATCH, TIME, FEATURES)
    with pytest.raises(NotImplementedError, match=r'no second-order gradient\. Use implementation="xla"'):
        jax.hessian(lambda inputs: loss(variables, inputs, {}))(inputs)


def train(distribution, implementation):
    """Losses and weights of a training with dropout, masks, states and attention."""
    keras.utils.set_random_seed(0)
    keras.distribution.set_distribution(distribution)
    try:
        tokens = np.random.default_rng(0).integers(0, 9, (4 * BATCH, TIME))
        source = keras.Input((TIME,), dtype="int32")
        embedded = keras.layers.Embedding(9, FEATURES, mask_zero=True)(source)
        options = {"return_sequences": True, "dropout": 0.2, "recurrent_dropout": 0.2, "implementation": implementation}
        memory, *states = layers.Bidirectional(layers.GRU(UNITS, return_state=True, **options))(embedded)
        decoded = layers.AttentionDecoder(2 * UNITS, "gru", layers.BahdanauAttention(5), implementation=implementation)(
            embedded, memory, initial_state=[keras.layers.Concatenate()(states)]
        )
        decoded = layers.LSTM(UNITS, num_layers=2, residual=True, zoneout=0.1, **options)(decoded)
        model = keras.Model(source, keras.layers.Dense(9)(decoded))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss)
        history = model.fit(tokens, tokens, batch_size=BATCH, epochs=2, verbose=0).history
        rows = keras_seq.explain(model, print_fn=None)
        outputs = model.predict(tokens, batch_size=BATCH, verbose=0)
        return history["loss"], [*model.get_weights(), outputs], rows
    finally:
        keras.distribution.set_distribution(None)


def check_keras_distributions_train_as_one_device():
    devices = keras.distribution.list_devices("cpu")
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout["dense/kernel"] = (None, "model")
    layout[".*recurrent_kernel"] = (None, "model")
    for implementation in ("native", "xla"):
        losses, weights, rows = train(None, implementation)
        assert not any("splits a batch" in row.reason for row in rows)
        distributions = {"DataParallel splits a batch into 4": keras.distribution.DataParallel(devices=devices)}
        if implementation == "native":
            two_axes = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
            distributions["ModelParallel splits a batch into 2"] = two_axes
        for reason, distribution in distributions.items():
            actual_losses, actual_weights, actual_rows = train(distribution, implementation)
            np.testing.assert_allclose(actual_losses, losses, rtol=1e-5)
            assert_close(actual_weights, weights, 1e-4)  # after 8 steps of Adam
            assert [row.implementation for row in actual_rows] == [implementation] * len(rows)
            assert all(reason in row.reason for row in actual_rows)


def check_a_tagger_trains_as_on_one_device():
    tokens = np.random.default_rng(0).integers(0, 9, (BATCH, TIME))
    histories = []
    for distribution in (None, keras.distribution.DataParallel()):
        keras.utils.set_random_seed(0)
        keras.distribution.set_distribution(distribution)
        stack = [keras.layers.Embedding(9, FEATURES, mask_zero=True), layers.CRF(9)]
        model = keras.Sequential([keras.Input((TIME,)), *stack])
        model.compile(keras.optimizers.Adam(0.1), training.CRFLoss())
        histories.append(model.fit(tokens, tokens, batch_size=BATCH, epochs=4, verbose=0).history["loss"])
        keras.distribution.set_distribution(None)
    np.testing.assert_allclose(*histories, rtol=1e-5)


def check_models_that_need_tensorflow_say_so():
    parts = keras_seq.Encoder(9, FEATURES, UNITS), keras_seq.Decoder(9, FEATURES, UNITS)
    makers = {
        "Seq2Seq": lambda: keras_seq.Seq2Seq(*parts),
        "LanguageModel": lambda: keras_seq.LanguageModel(9),
        "Forecaster": lambda: keras_seq.Forecaster(3, UNITS),
    }
    for name, make in makers.items():
        with pytest.raises(NotImplementedError, match=f"`{name}` needs Keras's TensorFlow backend. Received: 'jax'"):
            make()


CHECKS = [name for name in list(globals()) if name.startswith("check_")]


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
@pytest.mark.slow
@pytest.mark.parametrize("checks", [CHECKS[:2], CHECKS[2:]], ids=["exchanges", "others"])
def test_layers_on_several_jax_devices(checks):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags}
    run = subprocess.run([sys.executable, __file__, *checks], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


if __name__ == "__main__":
    assert keras.backend.backend() == "jax"
    for name in sys.argv[1:]:
        globals()[name]()

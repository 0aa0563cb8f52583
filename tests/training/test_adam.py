# SPDX-License-Identifier: Apache-2.0
"""`keras_seq.training.Adam` against Keras's, and Adam on embeddings against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq
from keras_seq.training import Adam
from keras_seq.training.data_parallel import apply_gradients


def trained_weights(optimizer, dtype, steps=4):
    """The weights after some steps down a bowl, in a graph."""
    rng = np.random.default_rng(1)
    weights = [keras.Variable(rng.normal(size=shape), dtype=dtype) for shape in ((3, 4), (5,))]
    optimizer.build(weights)

    @tf.function
    def step():
        optimizer.apply([weight * weight + 0.1 for weight in weights], weights)

    for _ in range(steps):
        step()
    return [weight.numpy() for weight in weights]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-2, "global_clipnorm": 0.5, "weight_decay": 0.1},
        {"amsgrad": True},
        {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
    ],
)
def test_it_computes_what_keras_computes(arguments, dtype):
    ours, keras_weights = (trained_weights(make(0.1, **arguments), dtype) for make in (Adam, keras.optimizers.Adam))
    # In float32, TensorFlow's 1 - 0.999 is 5e-5 off, and the root of the second moment half of that. A step is 0.1.
    tolerance = {"float32": 4 * 0.1 * 3e-5, "bfloat16": 0}[dtype]
    for weight, expected in zip(ours, keras_weights, strict=True):
        np.testing.assert_allclose(weight.astype("float64"), expected.astype("float64"), rtol=0, atol=tolerance)


def test_float64_is_that_of_the_paper():
    # Against NumPy, because Keras rounds the decay rates to float32. The learning rate is a float32 variable.
    rate, beta_1, beta_2 = float(np.float32(0.1)), 0.9, 0.999
    rng = np.random.default_rng(1)
    for weight in trained_weights(Adam(0.1), "float64"):
        expected, first, second = rng.normal(size=weight.shape), 0, 0
        for step in range(1, 5):
            gradient = expected**2 + 0.1
            first = beta_1 * first + (1 - beta_1) * gradient
            second = beta_2 * second + (1 - beta_2) * gradient**2
            scale = rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
            expected = expected - scale * first / (np.sqrt(second) + 1e-7)
        np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-12)


def small_model(**options):
    keras.utils.set_random_seed(3)
    sizes = {"embedding_dim": 4, "units": 4, "cell": "rnn"}
    model = keras_seq.Seq2Seq(keras_seq.Encoder(9, **sizes), keras_seq.Decoder(9, **sizes))
    model.compile(**options)
    return model


def embedding_gradient(model, x, target):
    """The gradient of the source embeddings, with the rows of each token summed by NumPy."""
    with tf.GradientTape() as tape:
        loss = keras_seq.training.masked_crossentropy()(target, model(x, training=True))
    slices = tape.gradient(loss, model.encoder.embedding.embeddings.value)
    gradient = np.zeros(slices.dense_shape, "float64")
    np.add.at(gradient, slices.indices.numpy(), slices.values.numpy())
    return gradient


@pytest.mark.parametrize("optimizer", [Adam, keras.optimizers.Adam])
def test_the_moments_of_embeddings_are_those_of_the_sum_over_equal_tokens(optimizer):
    model = small_model(optimizer=optimizer(), run_eagerly=True)
    source, target = np.array([[4, 4, 5, 4], [5, 5, 4, 3]]), np.array([[6, 6, 3], [7, 7, 3]])
    x, y = model.prepare(source, target)
    gradient = embedding_gradient(model, x, y)
    model.train_on_batch(source, target)
    moments = {v.path: v.numpy() for v in model.optimizer.variables if "encoder" in v.path and "embedding" in v.path}
    for path, moment in moments.items():
        expected = 0.001 * gradient**2 if "velocity" in path else 0.1 * gradient
        np.testing.assert_allclose(moment, expected, rtol=1e-3, atol=1e-10, err_msg=path)
    assert len(moments) == 2


def test_the_name_adam_stands_for_it_and_its_state_is_saved(tmp_path):
    model = small_model(optimizer="adam", run_eagerly=True)
    assert type(model.optimizer) is Adam
    source, target = np.array([[4, 5, 3]]), np.array([[6, 7, 3]])
    model.train_on_batch(source, target)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is Adam
    np.testing.assert_equal(loaded.train_on_batch(source, target), model.train_on_batch(source, target))
    for variable, expected in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(variable, expected)


def test_updates_wait_for_all_gradients():
    """Beside a native kernel, an update would take a core from the kernel's team."""
    weights = [keras.Variable(np.ones(3, "float32")) for _ in range(2)]
    optimizer = Adam()
    optimizer.build(weights)

    @tf.function
    def step(x):
        with tf.name_scope("late"):
            late = tf.math.cumsum(x)
        apply_gradients(optimizer, [2 * x, late], weights)

    graph = step.get_concrete_function(tf.TensorSpec([3])).graph
    updates = [op for op in graph.get_operations() if op.type == "ResourceApplyAdam"]
    assert len(updates) == 2
    for update in updates:
        waiting, seen = [update.inputs[-1].op], set()
        while waiting:
            op = waiting.pop()
            seen.add(op.name)
            waiting += [i.op for i in op.inputs] + list(op.control_inputs)
        assert any(name.startswith("late/") for name in seen)

# SPDX-License-Identifier: Apache-2.0
"""How calls reach the native kernels and come back, on TensorFlow and JAX. Other tests check the numbers to the last
digit. This file also runs itself as a program, for what needs another process."""

import functools
import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import KERNEL_CELLS, MODES, assert_close, run_with_gradients
from native_calls import (
    BATCH,
    FEATURES,
    MASK,
    TIME,
    UNITS,
    bytes_of_images,
    call,
    draw,
    draw_arguments,
    needs_native,
    on_cells,
    reference,
    run_alone,
    run_native,
)

from keras_seq import layers, ops
from keras_seq.ops import native
from keras_seq.ops.equations.lstm import LSTMEquations


def outputs_and_gradients_are_those_of_xla(cell, attributes, mode, recompute):
    """Two directions in one call are two calls."""
    both = [draw_arguments(cell, attributes, direction) for direction in (0, 1)]
    n = len(both[0])
    options = {"reverse": (False, True), "recompute": recompute, "mask": MASK}

    def run(*arguments):
        outputs, states = call(cell, attributes, arguments, **options)
        return list(zip(outputs, states, strict=True))

    results, gradients = run_with_gradients(run, [*both[0], *both[1]], mode=mode)
    for direction, arguments in enumerate(both):
        expected, d_expected = run_with_gradients(
            lambda *a, direction=direction: reference(cell, attributes, a, reverse=bool(direction), mask=MASK),
            arguments,
        )
        m = len(expected)
        assert_close(results[direction * m : (direction + 1) * m], expected, 1e-11)
        d_expected[4] = tf.zeros_like(d_expected[4])  # masks of dropout have no gradient here
        assert_close(gradients[direction * n : (direction + 1) * n], d_expected, 1e-11)


@needs_native
@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
@on_cells
def test_two_directions_in_one_call(cell, attributes, mode):
    outputs_and_gradients_are_those_of_xla(cell, attributes, mode, recompute=False)


@needs_native
@on_cells
def test_gradients_without_residuals(cell, attributes):
    outputs_and_gradients_are_those_of_xla(cell, attributes, "graph", recompute=True)


@needs_native
@pytest.mark.parametrize("mode", ["eager", "jit"])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 3e-5), ("bfloat16", 2e-2)])
def test_other_types(dtype, tolerance, mode):
    arguments = [tf.cast(a, dtype) for a in draw_arguments("LSTM", {})]
    results, gradients = run_with_gradients(lambda *a: call("LSTM", {}, a), arguments, mode=mode)
    assert all(tensor.dtype == dtype for tensor in [*results, *gradients])
    exact = [tf.cast(a, "float64") for a in arguments]  # of the rounded arguments
    expected = run_with_gradients(lambda *a: reference("LSTM", {}, a), exact)
    del gradients[4], expected[1][4]  # of the dropout mask
    assert_close([tf.cast(t, "float64") for t in [*results, *gradients]], [*expected[0], *expected[1]], tolerance)


@needs_native
@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
def test_many_directions_in_one_call(mode):
    cell, attributes = KERNEL_CELLS[3]
    each = [draw_arguments(cell, attributes, direction) for direction in range(32)]
    size = len(each[0])

    def run(*arguments, directions=range(32)):
        reverse = [direction % 3 == 1 for direction in directions]
        outputs, states = call(cell, attributes, arguments, reverse=reverse, mask=MASK)
        return list(zip(outputs, states, strict=True))

    results, gradients = run_with_gradients(run, [a for arguments in each for a in arguments], mode=mode)
    for i in (0, 1, 2, 3, 31):
        expected = run_with_gradients(functools.partial(run, directions=[i]), each[i])
        assert_close(results[2 * i : 2 * i + 2], expected[0], 0)
        assert_close(gradients[size * i : size * (i + 1)], expected[1], 0)
    with pytest.raises(
        (tf.errors.InvalidArgumentError, ValueError), match=r"`directions` must be from 1 to 32\. Received: 33"
    ):
        run_with_gradients(functools.partial(run, directions=range(33)), [*each[0]] * 33, mode=mode)


@pytest.mark.parametrize("implementation", [pytest.param("native", marks=needs_native), "xla"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("attends", [False, True])
def test_any_byte_but_zero_is_true(implementation, mode, attends):
    rng = np.random.default_rng(0)
    batch, time, units = 32, 40, 5
    mask = rng.random((batch, time)) < 0.6
    x, kernel = draw(batch, time, FEATURES), draw(FEATURES + 3 * attends, 4 * units)
    recurrent_kernel, memory, keys = draw(units, 4 * units), draw(batch, time, 3), draw(batch, time, 6)
    reading = {"query_kernel": draw(units, 6), "score_vector": draw(6), "keys": keys}
    options = {"zero_output_for_mask": True, "implementation": implementation}

    def run(mask, *arguments):
        x, kernel, recurrent_kernel = arguments
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            if attends:
                weights = {"kernel": kernel, "recurrent_kernel": recurrent_kernel, **reading}
                lstm = LSTMEquations()
                results = ops.attention_decoder(lstm, x, memory, memory_mask=mask, mask=mask, **weights, **options)
            else:
                results = ops.lstm(x, kernel, recurrent_kernel, mask=mask, **options)
            loss = sum(tf.reduce_sum(y * y) for y in tf.nest.flatten(results))
        return tf.nest.flatten(results), tape.gradient(loss, arguments)

    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "jit")
    arguments = [tf.constant(a) for a in (x, kernel, recurrent_kernel)]
    assert_close(run(tf.constant(bytes_of_images(mask)), *arguments), run(tf.constant(mask), *arguments), 1e-12)


@needs_native
def test_training_with_the_mask_of_an_image():
    """Such a mask once ended the process, in `fit` too."""
    mask = bytes_of_images(np.random.default_rng(0).random((32, 40)) < 0.6)
    inputs, mask_input = keras.Input((40, 3)), keras.Input((40,), dtype="bool")
    outputs = layers.LSTM(8, implementation="native")(inputs, mask=mask_input)
    model = keras.Model([inputs, mask_input], keras.layers.Dense(1)(outputs))
    model.compile("sgd", "mse")
    x, y = draw(32, 40, 3, dtype="float32"), np.ones((32, 1), "float32")
    before = model.predict([x, mask != 0], verbose=0)
    np.testing.assert_allclose(model.predict([x, mask], verbose=0), before, rtol=1e-5)
    losses = model.fit([x, mask], y, epochs=2, verbose=0).history["loss"]
    assert losses[1] < losses[0]


def zoneout_call(zoneout_masks, cell="LSTM", recurrent_dropout_mask=None):
    x, w, u, b, _, *state = draw_arguments(cell, {})
    arguments = {"inputs": x, "kernel": w, "recurrent_kernel": u, "bias": b, "initial_state": tuple(state)}
    arguments.update(recurrent_dropout_mask=recurrent_dropout_mask, zoneout_masks=zoneout_masks)
    return run_native(cell, {}, [arguments], recompute=True), state


@needs_native
@pytest.mark.parametrize("shape", [(BATCH, UNITS), (BATCH, TIME, UNITS)], ids=str)
def test_zoneout_reaches_its_state(shape):
    plain, (h, c) = zoneout_call(None)
    assert_close(zoneout_call((np.zeros(shape), np.zeros(shape)))[0], plain, 1e-12)
    (outputs, [(final_h, final_c)]), _ = zoneout_call((np.ones(shape), None))
    assert_close(outputs[0], np.repeat(h[:, None], TIME, axis=1), 1e-12)
    assert_close(final_h, h, 1e-12)
    assert not np.allclose(final_c, c)
    (_, [(_, final_c)]), _ = zoneout_call((None, np.ones(shape)))
    assert_close(final_c, c, 1e-12)


@needs_native
def test_recurrent_dropout_of_each_step():
    multiplier = draw(BATCH, UNITS)
    repeated = np.repeat(multiplier[:, None], TIME, axis=1)
    once, _ = zoneout_call(None, recurrent_dropout_mask=multiplier)
    assert_close(zoneout_call(None, recurrent_dropout_mask=repeated)[0], once, 1e-12)
    repeated[:, 1:] = 1  # only the first step, so the others differ
    assert not np.allclose(zoneout_call(None, recurrent_dropout_mask=repeated)[0][0][0], once[0][0])


@needs_native
def test_no_steps_hand_the_state_through():
    cell, attributes = "LSTM", {}
    x, *rest = draw_arguments(cell, attributes)
    results, gradients = run_with_gradients(lambda *a: call(cell, attributes, a), [x[:, :0], *rest])
    assert results[0].shape == (BATCH, 0, UNITS)
    assert_close(results[1:], rest[-2:], 0)
    assert_close(gradients[-2:], [tf.cos(tf.reshape(tf.range(1.0, 16, dtype="float64"), (BATCH, UNITS)))] * 2, 1e-12)
    assert_close(gradients[1:4], [np.zeros_like(a) for a in rest[:3]], 0)


def gradient_node(**options):
    """The gradient op of a step of training on the final state, as the graph has it."""
    x, w, u, b, *_ = (tf.constant(a) for a in draw_arguments("LSTM", {}))

    @tf.function(**options)
    def step(x, w, u, b):
        with tf.GradientTape() as tape:
            tape.watch((w, b))
            _, [(h, _)] = run_native("LSTM", {}, [{"inputs": x, "kernel": w, "recurrent_kernel": u, "bias": b}])
            loss = tf.reduce_sum(h * h)
        return tape.gradient(loss, (w, b))

    return step, (x, w, u, b)


@needs_native
def test_nothing_is_computed_that_nobody_wants():
    step, arguments = gradient_node()
    (node,) = (
        op for op in step.get_concrete_function(*arguments).graph.get_operations() if op.type == "KerasSeq>LSTMGrad"
    )
    wanted = ["inputs", "kernels", "recurrent_kernels", "biases", "initial_states"]
    assert [node.get_attr(f"wanted_{name}") for name in wanted] == [0, 1, 0, 1, 0]
    assert [node.get_attr(f"upstream_{name}") for name in ("outputs", "h", "c")] == [0, 1, 0]


@needs_native
def test_xla_calls_the_kernels():
    step, arguments = gradient_node(jit_compile=True)
    program = step.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
    for target in ("KerasSeqLSTM", "KerasSeqLSTMGrad"):
        assert program.count(f'custom_call_target="{target}"') == 1


@pytest.mark.slow
@needs_native
def test_xla_finds_a_library_that_is_loaded_late():
    # TensorFlow looks at the registrations for XLA once, when the first tensor is made.
    run_alone(compile_after_the_first_tensor)


def compile_after_the_first_tensor():
    tensor = tf.ones((1, 2, 1))
    weight = tf.ones((1, 1))
    calls = [{"inputs": tensor, "kernel": weight, "recurrent_kernel": weight}]
    options = {"cell": "SimpleRNN", "attributes": {"activation": "linear"}, "recompute": True}
    run = tf.function(lambda: run_native(calls=calls, **options), jit_compile=True)
    assert_close(run()[0][0], np.array([[[1.0], [2.0]]]), 0)


@needs_native
def test_static_shapes():
    width = 4 * UNITS
    shapes = [(None, None, FEATURES), (FEATURES, width), (UNITS, width), (width,), *[(None, UNITS)] * 3]
    signature = [tf.TensorSpec(shape) for shape in shapes]
    for given, batch in [(signature, None), ([tf.TensorSpec((7, None, FEATURES)), *signature[1:]], 7)]:
        function = tf.function(lambda *a: call("LSTM", {}, a), input_signature=given).get_concrete_function()
        (outputs,), ((h, c),) = function.structured_outputs
        assert outputs.shape.as_list() == [batch, None, UNITS]
        assert h.shape.as_list() == c.shape.as_list() == [batch, UNITS]
    arguments = draw_arguments("LSTM", {}, dtype="float32")
    function = tf.function(lambda *a: call("LSTM", {}, a), input_signature=[tf.TensorSpec(None)] * len(shapes))
    assert_close(function(*arguments), call("LSTM", {}, arguments), 0)  # ranks unknown till now
    with pytest.raises(ValueError, match=r"`kernel\[0\]` must have the shape \(features, 4 \* units\) = \(2, \?\)"):
        tf.function(lambda *a: call("LSTM", {}, a))(arguments[0], arguments[1][1:], *arguments[2:])


@needs_native
@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
def test_a_second_order_gradient_names_the_way_out(mode):
    def twice(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            outputs, _ = call("GRU", {"reset_after": True}, arguments)
        return tape.gradient(outputs, arguments[1])

    with pytest.raises(NotImplementedError, match=r'GRU has no second-order gradient\. Use implementation="xla"'):
        run_with_gradients(twice, draw_arguments("GRU", {"reset_after": True}), mode=mode)


def step_of_module(module, x):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(module.run(x) ** 2)
    return tape.gradient(loss, module.kernel)


@pytest.mark.slow
@needs_native
def test_a_reloaded_saved_model_can_be_trained(tmp_path):
    cell, attributes = "GRU", {"reset_after": True}
    x, w, *rest = draw_arguments(cell, attributes)
    module = tf.Module()
    module.kernel = tf.Variable(w)
    module.run = tf.function(
        lambda x: call(cell, attributes, [x, module.kernel, *rest])[0][0],
        input_signature=[tf.TensorSpec((BATCH, None, FEATURES), "float64")],
    )
    tf.saved_model.save(module, str(tmp_path))
    np.savez(tmp_path / "expected.npz", x=x, gradient=step_of_module(module, x))
    run_alone(train_saved_model, str(tmp_path))


def train_saved_model(path):
    assert native.unavailable() is None
    expected = np.load(pathlib.Path(path, "expected.npz"))
    assert_close(step_of_module(tf.saved_model.load(path), expected["x"]), expected["gradient"], 1e-12)


@needs_native
def test_parallel_maps_of_a_data_set():
    arguments = draw_arguments("LSTM", {})
    expected = call("LSTM", {}, arguments)[0][0]
    data = tf.data.Dataset.from_tensors(arguments[0]).repeat(200)
    data = data.map(lambda x: call("LSTM", {}, [x, *arguments[1:]])[0][0], num_parallel_calls=8)
    for outputs in data:
        assert_close(outputs, expected, 0)


@needs_native
@pytest.mark.parametrize("mode", ["eager", "jit"])
def test_errors_say_argument_expected_and_received(mode):
    arguments = draw_arguments("LSTM", {})
    arguments[3] = arguments[3][1:]
    expected = r"`bias\[0\]` must have the shape \(4 \* units,\) = \(20,\). Received: \(19,\)"
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=expected):
        run_with_gradients(lambda *a: call("LSTM", {}, a), arguments, mode=mode)


@needs_native
def test_a_state_for_each():
    x, w, u, *_ = draw_arguments("LSTM", {})
    with pytest.raises(ValueError, match=r"must have 2 state\(s\), \('h', 'c'\). Received: 1"):
        run_native("LSTM", {}, [{"inputs": x, "kernel": w, "recurrent_kernel": u, "initial_state": (x,)}])


# JAX.


@pytest.mark.slow
@needs_native
def test_on_jax():
    pytest.importorskip("jax")
    run_alone(check_jax, KERAS_BACKEND="jax")


def check_jax():
    import jax
    import jax.numpy as jnp

    assert keras.backend.backend() == "jax" and native.unavailable() is None

    def value_and_gradients(function, arguments):
        results, pull_back = jax.vjp(function, *arguments)
        upstream = jax.tree.map(lambda y: jnp.cos(jnp.arange(1.0, y.size + 1, dtype=y.dtype)).reshape(y.shape), results)
        return jax.tree.leaves(results), list(pull_back(upstream))

    for cell, attributes in KERNEL_CELLS:
        arguments = [jnp.asarray(a) for a in draw_arguments(cell, attributes, dtype="float32")]
        for reverse, recompute in [(False, False), (True, True)]:
            options = {"reverse": (reverse,), "recompute": recompute, "mask": jnp.asarray(MASK)}
            run = jax.jit(lambda *a, o=options: call(cell, attributes, a, **o))  # noqa: B023
            expected = value_and_gradients(
                lambda *a, r=reverse: reference(cell, attributes, a, reverse=r, mask=MASK),  # noqa: B023
                arguments,
            )
            results, gradients = value_and_gradients(run, arguments)
            assert_close(results, expected[0], 3e-5)
            assert_close(run(*arguments), expected[0], 3e-5)  # which keeps nothing
            del gradients[4], expected[1][4]  # of the dropout mask
            assert_close(gradients, expected[1], 3e-5)

    arguments = [jnp.asarray(a) for a in draw_arguments("LSTM", {}, dtype="float32")]

    def gradients_with(mask):
        run = lambda *a: call("LSTM", {}, a, mask=mask)  # noqa: E731
        return value_and_gradients(run, arguments)

    assert_close(gradients_with(jnp.asarray(bytes_of_images(MASK))), gradients_with(jnp.asarray(MASK)), 0)
    for implementation in ("native", "xla"):
        run = jax.jit(lambda *a, m, i=implementation: ops.lstm(*a, mask=m, implementation=i))
        results = [run(*arguments[:4], m=jnp.asarray(m)) for m in (bytes_of_images(MASK), MASK)]
        assert_close(*results, 1e-6)
    for directions in (3, 32):
        run = lambda *a, n=directions: call("LSTM", {}, a * n, reverse=(False,) * n)  # noqa: E731
        many, one = run(*arguments), call("LSTM", {}, arguments)
        for direction in range(directions):
            assert_close([many[0][direction], many[1][direction]], [one[0][0], one[1][0]], 0)
    with pytest.raises(RuntimeError, match=r"`directions` must be from 1 to 32\. Received: 33"):
        call("LSTM", {}, arguments * 33, reverse=(False,) * 33)

    def loss(kernel):
        _, [(h, _)] = call("LSTM", {}, [arguments[0], kernel, *arguments[2:]])
        return jnp.sum(h * h)

    program = jax.jit(jax.grad(loss)).lower(arguments[1]).as_text()
    for attribute in ("wanted_inputs = 0", "wanted_kernels = 1", "upstream_outputs = 0", "upstream_h = 1"):
        assert attribute in program  # nothing is computed that nobody wants
    for twice in (jax.hessian(loss), jax.grad(lambda w: jax.grad(loss)(w).sum())):
        with pytest.raises(NotImplementedError, match='Use implementation="xla"'):
            twice(arguments[1])
    with pytest.raises(RuntimeError, match=r"INVALID_ARGUMENT: KerasSeq>LSTM: `bias\[0\]` must have the shape"):
        call("LSTM", {}, [*arguments[:3], arguments[3][1:], *arguments[4:]])
    with pytest.raises(ValueError, match="`inputs` must have 3 axes"):
        call("LSTM", {}, [arguments[0][0], *arguments[1:]])


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

# SPDX-License-Identifier: Apache-2.0
"""The native kernels against the xla implementation, for each instruction set and number of threads.

Both are chosen when a process starts, so this file also runs as a program, which writes its results to a file.
"""

import concurrent.futures
import itertools
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    CELL_EQUATIONS,
    KERNEL_CELLS,
    every_kind,
    make_cell_equations,
    needs_kernels,
    relative_error,
    run_with_gradients,
)

from keras_seq import layers, ops
from keras_seq.ops import native

pytestmark = needs_kernels
TOLERANCES = {"float32": 3e-5, "float64": 1e-11, "bfloat16": 2e-2}
CALLS = 100  # that are drawn at random
INFINITE_CALLS = 30  # those that run a second time with an infinity among their inputs


def draw_call(seed):
    """A function of `keras_seq.ops`, its differentiable arguments and a dtype."""
    rng = np.random.default_rng(seed)

    def happens(probability):
        return rng.random() < probability

    kind = ("simple_rnn", "gru", "lstm")[seed % 3]
    dtype = ("float32", "float64", "float32", "float64", "bfloat16")[seed % 5]
    batch, time, features, units = (int(rng.integers(1, n)) for n in (6, 7, 6, 24))
    if seed % 4 == 0:  # large enough for several threads, and for several chunks of steps
        batch, time, features, units = (int(rng.integers(*n)) for n in ((60, 90), (7, 14), (10, 40), (60, 90)))
    cell, states = {}, 2 if kind == "lstm" else 1
    if kind == "simple_rnn":
        # In bfloat16 rounding moves numbers across 0, where the derivative of relu jumps.
        cell["activation"] = str(rng.choice(["tanh", "linear"] + ["relu"] * (dtype != "bfloat16")))
    if kind == "gru":
        cell["reset_after"] = happens(0.7)
    width = CELL_EQUATIONS[kind].gates * units
    attends = seed % 7 in (2, 5)  # some calls of every kind, dtype and size
    source, memory_units, attention_units = (int(rng.integers(1, n)) for n in (9, 8, 7)) if attends else (0, 0, 0)
    bias_shape = (2, width) if cell.get("reset_after") else (width,)

    def normal(*shape, scale=1.0):
        return (rng.normal(size=shape) * scale).astype("float32")

    rows = features + memory_units
    arguments = [normal(batch, time, features), normal(rows, width, scale=rows**-0.5)]
    arguments += [normal(units, width, scale=0.5 * units**-0.5)]
    arguments += [normal(*bias_shape)] if happens(0.7) else []
    has_bias = len(arguments) == 4
    has_state = happens(0.5)
    arguments += [normal(batch, units) for _ in range(states)] if has_state else []
    if attends:
        arguments += [normal(batch, source, memory_units), normal(batch, source, attention_units)]
        arguments += [normal(units, attention_units, scale=units**-0.5), normal(attention_units)]

    def unit_mask(values):
        shape = (batch, time, units) if happens(0.5) else (batch, units)
        return rng.choice(values, shape).astype("float32")

    options = {"reverse": happens(0.5), "recompute": happens(0.3)}
    if happens(0.5):
        options["mask"] = rng.random((batch, time)) < 0.6
        options["mask"][0] = happens(0.5)  # a row that is all visible or all masked
        options["zero_output_for_mask"] = happens(0.3)
    if happens(0.4):
        options["recurrent_dropout_mask"] = unit_mask([0, 1.5])
    if happens(0.3):
        options["zoneout_masks"] = tuple(unit_mask([0, 0.3, 1]) if happens(0.7) else None for _ in range(states))

    if attends and happens(0.6):
        options["memory_mask"] = rng.random((batch, source)) < 0.6
        options["memory_mask"][0] = happens(0.5)

    def function(*arguments, implementation):
        x, w, u, *others = arguments
        bias = others.pop(0) if has_bias else None
        state = [others.pop(0) for _ in range(states)] if has_state else None
        common = {**options, "initial_state": state, "implementation": implementation}
        if not attends:
            return getattr(ops, kind)(x, w, u, bias, **cell, **common)
        memory, keys, query_kernel, score_vector = others
        attention = {"keys": keys, "query_kernel": query_kernel, "score_vector": score_vector}
        weights = {"kernel": w, "recurrent_kernel": u, "bias": bias}
        return ops.attention_decoder(make_cell_equations(kind, cell), x, memory, **weights, **attention, **common)

    return function, arguments, dtype


def run(seed, implementation, mode="graph", infinite=False):
    """Results and gradients of a call; with `infinite`, one of its inputs is an infinity."""
    function, arguments, dtype = draw_call(seed)
    if infinite:
        arguments[0][-1, arguments[0].shape[1] // 2, 0] = np.inf
    arguments = [tf.cast(argument, dtype) for argument in arguments]
    if dtype != "bfloat16":
        return run_with_gradients(lambda *a: function(*a, implementation=implementation), arguments, mode=mode)
    if implementation == "xla":
        arguments = [tf.cast(argument, "float32") for argument in arguments]  # of the same rounded numbers

    def with_float32_outputs(*arguments):  # so that both dtypes get the same upstream gradients
        return tf.nest.map_structure(
            lambda y: tf.cast(y, "float32"), function(*arguments, implementation=implementation)
        )

    return run_with_gradients(with_float32_outputs, arguments, mode=mode)


def main(path):
    """Write the results of all calls of the native kernels to a file."""
    arrays = {}
    for seed, infinite in itertools.product(range(CALLS), (False, True)):
        if infinite and seed >= INFINITE_CALLS:
            continue
        for i, tensor in enumerate(itertools.chain(*run(seed, "native", "eager", infinite))):
            arrays[f"{seed}-{infinite}-{i}"] = tf.cast(tensor, "float64").numpy()
    np.savez(path, **arrays)


def run_program(path, isa, threads):
    """Run this file in a process of its own. Returns the process, and the arrays it wrote, or None."""
    environment = {
        **os.environ,
        "KERAS_SEQ_ISA": isa,
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parents[1]), *filter(None, sys.path)]),
    }
    process = subprocess.run([sys.executable, __file__, str(path)], env=environment, capture_output=True, text=True)
    return process, (dict(np.load(path)) if path.exists() else None)


@pytest.fixture(scope="module")
def expected_results():
    """Results and gradients of xla, by seed and whether there is an infinity."""
    calls = [*((seed, False) for seed in range(CALLS)), *((seed, True) for seed in range(INFINITE_CALLS))]
    return {
        (seed, infinite): [tf.cast(t, "float64").numpy() for t in itertools.chain(*run(seed, "xla", "eager", infinite))]
        for seed, infinite in calls
    }


def instruction_sets():
    path = native.FOLDER / "build.json"
    return json.loads(path.read_text())["instruction_sets"] if path.exists() else ["portable"]


def cpu_supports(isa):
    flags = {"portable": [], "avx2": ["avx2", "fma"], "avx512": ["avx512f"], "avx512_bf16": ["avx512_bf16"]}[isa]
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    present = next((line.split() for line in lines if line.startswith("flags")), [])
    return all(flag in present for flag in flags)


@pytest.mark.slow
@pytest.mark.parametrize("isa", instruction_sets())
def test_each_instruction_set_matches_xla_for_any_number_of_threads(isa, expected_results, tmp_path):
    if not cpu_supports(isa):
        pytest.skip(f"this CPU has no {isa}")
    process, results = run_program(tmp_path / "two.npz", isa, 2)
    assert process.returncode == 0, process.stderr
    for (seed, infinite), tensors in expected_results.items():
        dtype = draw_call(seed)[2]
        for i, tensor in enumerate(tensors):
            # An infinity spreads no further than in xla. A masked step or a relu stops it here, while xla multiplies
            # its derivative by 0, which is NaN.
            finite = np.isfinite(tensor)
            error = relative_error(results[f"{seed}-{infinite}-{i}"][finite], tensor[finite])
            assert error <= TOLERANCES[dtype], (seed, infinite, i, error)
    for threads in (1, 3) if isa == instruction_sets()[-1] else ():
        _, others = run_program(tmp_path / f"{threads}.npz", isa, threads)
        assert results.keys() == others.keys()
        for name, tensor in results.items():
            np.testing.assert_array_equal(others[name], tensor, err_msg=f"{name} with {threads} threads")


def classify_numbers(tensor):
    """0 for finite numbers, 1 for NaN, and infinities as they are."""
    tensor = np.asarray(tf.cast(tensor, "float64"))
    return np.where(np.isfinite(tensor), 0, np.where(np.isnan(tensor), 1, tensor))


@pytest.mark.parametrize("units", [1, 7, 17, 33])
@pytest.mark.parametrize("place", ["inputs", "state", "gradient"])
@every_kind
def test_an_infinity_spreads_as_in_keras(kind, place, units):
    """Vectors are padded if their width does not divide the units; 0 * inf must not become NaN in the padding."""
    rng = np.random.default_rng(0)
    inputs, state = (rng.normal(size=s).astype("float32") for s in ((3, 6, 4), (3, units)))
    if place == "inputs":
        inputs[1, 2, 3] = np.inf
    elif place == "state":
        state[1, 0] = np.inf
    upstream = np.ones((3, 6, units), "float32")
    if place == "gradient":
        upstream[1, 3, 0] = np.inf
    options = {"return_sequences": True, "bias_initializer": "random_normal"}
    # The gradient of z in a GRU is inf * h - inf * g = NaN in Keras, inf * (h - g) in xla and in the kernels.
    reference = getattr(layers, kind)(units, **options, implementation="xla")
    if place != "gradient":
        reference = getattr(keras.layers, kind)(units, **options)
    layer = getattr(layers, kind)(units, **options, implementation="native")
    results = []
    for tested in (reference, layer):
        states = [tf.constant(state), tf.zeros((3, units))] if kind == "LSTM" else [tf.constant(state)]
        arguments = [tf.constant(inputs), *states]
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            outputs = tested(arguments[0], initial_state=arguments[1:])
            tested.set_weights(reference.get_weights())
            outputs = tested(arguments[0], initial_state=arguments[1:])
        variables = [variable.value for variable in tested.trainable_variables]
        results.append([outputs, *tape.gradient(outputs, [*arguments, *variables], tf.constant(upstream))])
    for i, (expected, actual) in enumerate(zip(*results, strict=True)):
        np.testing.assert_array_equal(classify_numbers(actual), classify_numbers(expected), err_msg=str(i))


def test_overflow_is_infinite_as_in_keras():
    options = {"activation": "relu", "kernel_initializer": "ones", "recurrent_initializer": "ones"}
    options |= {"return_sequences": True}
    inputs = np.full((2, 5, 3), 1e37, "float32")
    expected = keras.layers.SimpleRNN(7, **options)(inputs)
    outputs = layers.SimpleRNN(7, **options, implementation="native")(inputs)
    assert np.isposinf(expected[:, -1]).all()
    np.testing.assert_array_equal(classify_numbers(outputs), classify_numbers(expected))


@pytest.mark.parametrize("place", ["inputs", "memory", "keys", "gradient"])
@pytest.mark.parametrize("units, memory_units, attention_units", [(7, 3, 6), (17, 66, 1), (16, 5, 70)])
@pytest.mark.parametrize("kind, attributes", [("lstm", {}), ("gru", {"reset_after": False})])
def test_an_infinity_spreads_through_attention_as_in_xla(kind, attributes, place, units, memory_units, attention_units):
    rng = np.random.default_rng(0)
    width = CELL_EQUATIONS[kind].gates * units
    shapes = {
        "inputs": (2, 5, 4),
        "memory": (2, 3, memory_units),
        "kernel": (4 + memory_units, width),
        "recurrent_kernel": (units, width),
        "bias": (width,),
        "query_kernel": (units, attention_units),
        "score_vector": (attention_units,),
        "keys": (2, 3, attention_units),
    }
    arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    upstream = np.ones((2, 5, units))
    if place == "gradient":
        upstream[1, 3, 0] = np.inf
    else:
        arrays[place][1, 2, 0] = np.inf
    results = []
    for implementation in ("xla", "native"):
        tensors = {name: tf.constant(array) for name, array in arrays.items()}
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            outputs, _, attention_weights = ops.attention_decoder(
                make_cell_equations(kind, attributes), **tensors, implementation=implementation
            )
        results.append([outputs, attention_weights, *tape.gradient(outputs, tensors, tf.constant(upstream)).values()])
    for i, (expected, actual) in enumerate(zip(*results, strict=True)):
        np.testing.assert_array_equal(classify_numbers(actual), classify_numbers(expected), err_msg=str(i))


@pytest.mark.parametrize("kind, attributes", KERNEL_CELLS[2:], ids=str)
def test_no_result_or_residual_is_uninitialised(kind, attributes):
    """TensorFlow checks all outputs of the ops, even the residuals of masked steps and of padding."""
    name = {"SimpleRNN": "simple_rnn"}.get(kind, kind.lower())
    mask = np.random.default_rng(0).random((6, 9)) < 0.5
    width = CELL_EQUATIONS[name].gates * 37
    shapes = [(6, 9, 4), (4, width), (37, width)]
    memory = {"memory": (6, 5, 3), "keys": (6, 5, 70), "query_kernel": (37, 70), "score_vector": (70,)}
    arguments = [tf.constant(np.random.default_rng(i).normal(size=s) * 0.1) for i, s in enumerate(shapes)]
    attention = {name: tf.ones(shape, "float64") for name, shape in memory.items()}
    attention["kernel"], attention["recurrent_kernel"] = tf.ones((4 + 3, width), "float64"), arguments[2]
    tf.debugging.enable_check_numerics()
    try:
        for _ in range(20):
            garbage = [tf.fill((size,), tf.constant(np.nan, "float64")) for size in (6 * 9 * 48 * 5, 6 * 9 * 400, 6000)]
            del garbage  # the next tensors get this memory
            with tf.GradientTape() as tape:
                tape.watch(arguments)
                outputs, _ = getattr(ops, name)(*arguments, mask=mask, implementation="native", **attributes)
                attended, _, _ = ops.attention_decoder(
                    make_cell_equations(name, attributes), arguments[0], mask=mask, implementation="native", **attention
                )
            assert np.isfinite(attended).all()
            tape.gradient(outputs, arguments)
    finally:
        tf.debugging.disable_check_numerics()


@pytest.mark.parametrize("seed", range(0, 30, 3))
def test_graph_and_jit_match_eager_mode(seed):
    """A graph gives the same bits; under jit the upstream gradients may differ in the last ones."""
    eager, graph, jit = (list(itertools.chain(*run(seed, "native", mode))) for mode in ("eager", "graph", "jit"))
    for a, b, c in zip(eager, graph, jit, strict=True):
        np.testing.assert_array_equal(a, b)
        assert relative_error(tf.cast(c, "float64"), tf.cast(a, "float64")) <= 1e-6


def test_many_threads_call_one_model_at_once():
    """There are more callers than threads in TensorFlow's pool, and all of them ask for helpers."""
    model = keras.Sequential(
        [keras.Input((None, 24)), layers.Bidirectional(layers.GRU(72, return_sequences=True)), layers.LSTM(40)]
    )
    functions = {"eager": model, "graph": tf.function(model), "jit": tf.function(model, jit_compile=True)}
    inputs = [tf.constant(np.random.default_rng(i).normal(size=(40, 6, 24)).astype("float32")) for i in range(8)]
    for mode, calls in (("eager", 8), ("graph", 1000), ("jit", 200)):
        function = functions[mode]
        expected = [function(x).numpy() for x in inputs]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda i, f=function: f(inputs[i % 8]).numpy(), range(calls)))
        for i, result in enumerate(results):
            np.testing.assert_array_equal(result, expected[i % 8], err_msg=mode)


@every_kind
@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
def test_one_call_for_both_directions_matches_two_calls(kind, mode):
    """`Bidirectional` makes one call of the kernels; its two layers, called one after the other, make two."""
    options = {"return_sequences": True, "return_state": True}
    layer = layers.Bidirectional(getattr(layers, kind)(30, **options), merge_mode=None)
    layer.build((7, 9, 20))
    mask = np.arange(9) < np.array([[9], [4], [0], [1], [7], [9], [3]])

    def together(sequences):
        return layer(sequences, mask=mask, training=True)

    def apart(sequences):
        y, *state = layer.forward_layer(sequences, mask=mask, training=True)
        y_reversed, *state_reversed = layer.backward_layer(sequences, mask=mask, training=True)
        return y, tf.reverse(y_reversed, [1]), *state, *state_reversed

    sequences = np.random.default_rng(0).normal(size=(7, 9, 20)).astype("float32")
    results = [run_with_gradients(f, [sequences], layer.trainable_variables, mode) for f in (together, apart)]
    for a, b in zip(*map(itertools.chain.from_iterable, results), strict=True):
        assert relative_error(a, b) <= 1e-6  # d_inputs are added in another order


@pytest.mark.slow
def test_an_unknown_instruction_set_is_reported(tmp_path):
    process, _ = run_program(tmp_path / "none.npz", "sse9", 1)
    assert process.returncode != 0
    assert "KERAS_SEQ_ISA must be one of" in process.stderr
    assert "Received: sse9" in process.stderr


if __name__ == "__main__":
    main(sys.argv[1])

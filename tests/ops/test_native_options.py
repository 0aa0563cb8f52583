# SPDX-License-Identifier: Apache-2.0
"""Options of cells in the native kernels, against the xla implementation: activations and peepholes."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import CELL_EQUATIONS, MODES, assert_close, needs_kernels, run_with_gradients

from keras_seq import layers, ops
from keras_seq.ops import native
from keras_seq.ops.equations.lstm import ExtendedLSTMEquations
from keras_seq.ops.recurrence import run_recurrences
from keras_seq.ops.recurrent_call import RecurrentCall
from keras_seq.ops.search_step import run_search_step

pytestmark = needs_kernels
ACTIVATIONS = ["tanh", "relu", "linear", "sigmoid", "hard_sigmoid"]
GATED = [("gru", {"reset_after": True}), ("gru", {"reset_after": False}), ("lstm", {}), ("mgu", {})]
TOLERANCES = {"float32": 3e-5, "float64": 1e-11, "bfloat16": 2e-2}
BATCH, TIME, FEATURES, UNITS = 3, 5, 4, 19  # units: more than a vector, and not a multiple of one


def draw(*shape, scale=1.0, seed=0, dtype="float64"):
    numbers = np.random.default_rng([seed, *shape]).normal(size=shape) * scale
    return tf.cast(numbers.astype("float32"), dtype)


def draw_weights(kind, attributes=None, dtype="float64"):
    """inputs, kernel, recurrent kernel and bias, so small that gates without bounds do not let states explode."""
    width = CELL_EQUATIONS[kind].gates * UNITS
    bias = (2, width) if (attributes or {}).get("reset_after") else (width,)
    shapes = [(BATCH, TIME, FEATURES), (FEATURES, width), (UNITS, width), bias]
    return [draw(*shape, scale=0.3, dtype=dtype) for shape in shapes]


def assert_same(function, arguments, tolerance, mode="eager"):
    """`function(*arguments, implementation=...)` gives equal results and gradients with both implementations."""
    native_results, xla_results = (
        run_with_gradients(lambda *a, i=i: function(*a, implementation=i), arguments, mode=m)
        for i, m in (("native", mode), ("xla", "eager"))
    )
    assert_close(native_results, xla_results, tolerance)


@pytest.mark.parametrize(("kind", "attributes"), GATED, ids=str)
@pytest.mark.parametrize(
    ("pairs", "dtype"),
    [
        (list(zip(ACTIVATIONS, ACTIVATIONS[3:] + ACTIVATIONS[:3], strict=True)), "float64"),
        pytest.param(list(itertools.product(ACTIVATIONS, repeat=2)), "float32", marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_activations_in_both_roles(kind, attributes, pairs, dtype):
    arguments = draw_weights(kind, attributes, dtype)
    mask = np.random.default_rng(0).random((BATCH, TIME)) < 0.7
    for pair in pairs:

        def function(*arguments, implementation, pair=pair):
            options = dict(zip(("activation", "recurrent_activation"), pair, strict=True))
            options |= {"mask": mask, "implementation": implementation, **attributes}
            return getattr(ops, kind)(*arguments, **options)

        assert_same(function, arguments, TOLERANCES[dtype])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_of_a_simple_rnn(activation):
    def function(*arguments, implementation):
        return ops.simple_rnn(*arguments, activation=activation, reverse=True, implementation=implementation)

    assert_same(function, draw_weights("simple_rnn"), 1e-11)


@pytest.mark.parametrize("activation", ["relu", "linear", "hard_sigmoid"])
def test_infinite_states_are_those_of_xla(activation):
    inputs, *weights = draw_weights("lstm", dtype="float32")
    inputs = tf.tensor_scatter_nd_update(inputs, [[1, 2, 0]], [np.inf])
    results = [
        ops.lstm(inputs, *weights, activation=activation, recurrent_activation="hard_sigmoid", implementation=i)[0]
        for i in ("native", "xla")
    ]
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-6)  # NaN equals NaN, and an infinity itself
    assert not np.all(np.isfinite(results[0][1])) or activation == "hard_sigmoid"
    assert np.all(np.isfinite(results[0][0]))


def draw_peephole_call(case, dtype):
    """A function of tensors that runs two directions with peepholes, and its differentiable arguments."""
    rng = np.random.default_rng(case)
    batch, time, features, units = [(3, 7, 5, 19), (70, 9, 5, 40), (1, 1, 1, 1), (2, 5, 0, 17), (2, 0, 3, 4)][case]
    shapes = [(batch, time, features), (features, 4 * units), (units, 4 * units), (4 * units,), (3, units)]
    shapes += [(batch, units)] * 2
    scales = [1.0, features**-0.5 if features else 1.0, 0.5 * units**-0.5, 1.0, 0.5, 1.0, 1.0]
    arguments = [draw(*shape, scale=scale, dtype=dtype) for shape, scale in zip(shapes, scales, strict=True)]
    mask = rng.random((batch, time)) < 0.7 if case % 2 == 0 else None
    unit_mask = (batch, time, units) if case == 0 else (batch, units)
    masks = {"recurrent_dropout_mask": rng.choice([0, 1.5], (batch, units)) if case < 2 else None}
    masks["zoneout_masks"] = (rng.random(unit_mask), rng.random((batch, units))) if case % 3 == 0 else None
    gates = keras.activations.get("hard_sigmoid" if case == 3 else "sigmoid")
    equations = ExtendedLSTMEquations(recurrent_activation=gates, peephole=True)

    def function(inputs, kernel, recurrent_kernel, bias, peephole_kernel, *state, implementation):
        weights = (kernel, recurrent_kernel, bias, state)
        extra = {"extra_weights": {"peephole_kernel": peephole_kernel}}
        calls = [RecurrentCall(equations, inputs, *weights, **masks, **extra, reverse=r) for r in (False, True)]
        results = run_recurrences(calls, mask=mask, implementation=implementation, recompute=case == 1)
        return tf.nest.map_structure(lambda y: tf.cast(y, "float32" if dtype == "bfloat16" else dtype), results)

    return function, arguments


@pytest.mark.parametrize("case", range(5))
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_peepholes(case, dtype):
    """With masks, zoneout, recurrent dropout, two directions, recomputed residuals and sizes of zero."""
    function, arguments = draw_peephole_call(case, dtype)
    assert_same(function, arguments, TOLERANCES[dtype])


@pytest.mark.parametrize("mode", MODES)
def test_peepholes_in_every_mode(mode):
    function, arguments = draw_peephole_call(0, "float64")
    assert_same(function, arguments, 1e-11, mode)


@pytest.mark.parametrize("case", [0, 1])
def test_peepholes_in_bfloat16(case):
    function, arguments = draw_peephole_call(case, "bfloat16")
    results = run_with_gradients(lambda *a: function(*a, implementation="native"), arguments)
    exact, _ = draw_peephole_call(case, "float32")
    rounded = [tf.cast(argument, "float32") for argument in arguments]
    expected = run_with_gradients(lambda *a: exact(*a, implementation="xla"), rounded)
    assert_close([tf.cast(t, "float32") for part in results for t in part], [*expected[0], *expected[1]], 2e-2)


def test_only_gradients_that_are_wanted_reach_the_peepholes():
    function, arguments = draw_peephole_call(0, "float64")
    peepholes = arguments[4]
    gradients = []
    for watched in (arguments, [peepholes]):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            (outputs, _), _ = function(*arguments, implementation="native")
        gradients.append(tape.gradient(outputs, peepholes))
    np.testing.assert_array_equal(*gradients)


def test_attention_decoders_with_peepholes():
    def run(implementation):
        cell = layers.LSTMCell(UNITS, peephole=True, recurrent_activation="hard_sigmoid", dtype="float64")
        layer = layers.AttentionDecoder(UNITS, cell=cell, implementation=implementation, dtype="float64")
        arguments = draw(BATCH, TIME, FEATURES), draw(BATCH, 4, 6)
        layer(*arguments)
        layer.set_weights([draw(*w.shape, scale=0.3, seed=i) for i, w in enumerate(layer.weights)])
        return run_with_gradients(layer, arguments, layer.trainable_variables)

    assert_close(run("native"), run("xla"), 1e-11)


def test_search_steps_with_peepholes():
    """The weights stay packed from the second call on, and change for the last one."""
    products, _, recurrent_kernel, bias = draw_weights("lstm")
    products = draw(BATCH, 1, 4 * UNITS)
    state = draw(BATCH, UNITS), draw(BATCH, UNITS, seed=1)
    equations = ExtendedLSTMEquations(peephole=True)
    peepholes = [draw(3, UNITS, seed=seed) for seed in (0, 0, 0, 1)]
    peepholes[1] = peepholes[2] = peepholes[0]
    step = tf.function(
        lambda kernel, implementation: run_search_step(
            RecurrentCall(
                equations,
                products,
                recurrent_kernel=recurrent_kernel,
                bias=bias,
                initial_state=state,
                extra_weights={"peephole_kernel": kernel},
            ),
            implementation=implementation,
        )[1]
    )
    for kernel in peepholes:
        assert_close(step(kernel, "native"), step(kernel, "xla"), 1e-11)


def test_a_cell_without_peepholes_takes_none():
    equations = CELL_EQUATIONS["gru"]()
    arguments = draw_weights("gru", {"reset_after": True})
    call = RecurrentCall(equations, *arguments, extra_weights={"peephole_kernel": draw(3, UNITS)})
    memory = {"memory": draw(BATCH, 2, 1), "keys": draw(BATCH, 2, 3), "query_kernel": draw(UNITS, 3)}
    memory |= {"score_vector": draw(3), "memory_mask": None}
    call = call._replace(kernel=draw(FEATURES + 1, 3 * UNITS))
    with pytest.raises(tf.errors.InvalidArgumentError, match='`peephole_kernels` must be 0 with the cell "GRU"'):
        native.run([call], attention=memory)

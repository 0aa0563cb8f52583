# SPDX-License-Identifier: Apache-2.0
"""The native kernels of cells with layer normalization, a projected state and peepholes, against xla."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close, mostly_slow, needs_kernels, run_with_gradients

import keras_seq
from keras_seq import layers
from keras_seq.ops.recurrence import run_recurrences
from keras_seq.ops.recurrent_call import RecurrentCall

pytestmark = needs_kernels
EXTENSIONS = [
    ("LSTM", {"layer_norm": True}),
    ("LSTM", {"projection_units": 5}),
    ("LSTM", {"layer_norm": True, "projection_units": 70}),
    ("LSTM", {"layer_norm": True, "peephole": True}),
    ("LSTM", {"layer_norm": True, "peephole": True, "projection_units": 5, "activation": "relu"}),
    ("GRU", {"layer_norm": True}),
    ("GRU", {"layer_norm": True, "reset_after": False}),
    ("GRU", {"layer_norm": True, "recurrent_activation": "hard_sigmoid"}),
]
every_extension = pytest.mark.parametrize(("kind", "options"), EXTENSIONS, ids=str)
TOLERANCES = {"float64": 1e-11, "float32": 3e-5, "bfloat16": 2e-2}


def draw_recurrences(kind, options, seed, sizes):
    """A function of `implementation` and tensors that runs two directions, and these tensors."""
    rng = np.random.default_rng(seed)
    batch, time, features, units = sizes
    cell = getattr(layers, f"{kind}Cell")(units, **options)
    cell.build((batch, features))
    equations, state_sizes = cell.equations, np.atleast_1d(cell.state_size).tolist()

    def normal(*shape, scale=1.0):
        return (rng.normal(size=shape) * scale).astype("float32")

    def happens(probability):
        return rng.random() < probability

    def draw_weight(weight):
        scale = 1.0 if len(weight.shape) == 1 else max(1, weight.shape[0]) ** -0.5
        return normal(*weight.shape, scale=scale) + ("gamma" in weight.name)

    weights = {weight.name: [draw_weight(weight) for _ in range(2)] for weight in cell.weights}
    if happens(0.3):
        del weights["bias"]
    states = [normal(batch, size) for size in state_sizes] if happens(0.6) else []
    tensors = [normal(batch, time, features), *states, *(w for of_name in weights.values() for w in of_name)]

    def unit_mask(values, size):
        return rng.choice(values, (batch, time, size) if happens(0.5) else (batch, size)).astype("float32")

    mask = rng.random((batch, time)) < 0.6 if happens(0.6) else None
    masks = {}
    if happens(0.5):
        masks["recurrent_dropout_mask"] = unit_mask([0, 1.5], state_sizes[0])
    if happens(0.5):
        masks["zoneout_masks"] = tuple(unit_mask([0, 0.3, 1], size) if happens(0.7) else None for size in state_sizes)
    recompute = happens(0.3)

    def function(inputs, *others, implementation):
        state, others = others[: len(states)] or None, list(others[len(states) :])
        calls = []
        directions = [{name: others[2 * i + d] for i, name in enumerate(weights)} for d in range(2)]
        for reverse, extra in enumerate(directions):
            own = [extra.pop(name, None) for name in ("kernel", "recurrent_kernel", "bias")]
            calls.append(
                RecurrentCall(
                    equations, inputs, *own, initial_state=state, extra_weights=extra, reverse=bool(reverse), **masks
                )
            )
        return run_recurrences(calls, mask=mask, recompute=recompute, implementation=implementation)

    return function, tensors


@every_extension
@pytest.mark.parametrize("dtype", mostly_slow(TOLERANCES))
@pytest.mark.parametrize(
    ("seed", "sizes"), list(enumerate([(3, 5, 4, 9), (2, 4, 3, 33), (1, 1, 2, 3), (70, 9, 5, 20)]))
)
def test_native_extensions_match_xla(kind, options, dtype, seed, sizes):
    function, tensors = draw_recurrences(kind, options, seed + 10 * len(str(options)), sizes)
    tensors = [tf.cast(tensor, dtype) for tensor in tensors]

    def run(implementation, dtype=dtype):
        return run_with_gradients(
            lambda *tensors: tf.nest.map_structure(
                lambda x: tf.cast(x, "float32") if dtype == "bfloat16" else x,
                function(*tensors, implementation=implementation),
            ),
            [tf.cast(tensor, dtype) for tensor in tensors],
        )

    expected = run("xla", "float32" if dtype == "bfloat16" else dtype)
    actual = tf.nest.map_structure(lambda x, y: tf.cast(x, y.dtype), run("native"), expected)
    assert_close(actual[0], expected[0], TOLERANCES[dtype])
    assert_close(actual[1], expected[1], 5 * TOLERANCES[dtype] if dtype == "bfloat16" else TOLERANCES[dtype])


@pytest.mark.slow
@every_extension
def test_compiled_by_xla_the_kernels_give_the_same(kind, options):
    function, tensors = draw_recurrences(kind, options, 3, (3, 4, 3, 6))
    tensors = [tf.cast(tensor, "float64") for tensor in tensors]
    results = [
        run_with_gradients(lambda *x: function(*x, implementation="native"), tensors, mode=mode)
        for mode in ("graph", "jit")
    ]
    assert_close(*results, 1e-13)


@every_extension
@pytest.mark.parametrize("sizes", [(0, 3, 2, 3), (2, 0, 2, 3), (2, 3, 0, 3)])
def test_sizes_may_be_zero(kind, options, sizes):
    function, tensors = draw_recurrences(kind, options, 1, sizes)
    expected, actual = (
        run_with_gradients(lambda *x, i=implementation: function(*x, implementation=i), tensors)
        for implementation in ("xla", "native")
    )
    assert_close(actual, expected, 3e-5)


@pytest.mark.parametrize("attention", ["bahdanau", "luong", "monotonic"])
@pytest.mark.parametrize("attend", ["before", "after"])
def test_decoders_with_attention_run_them(attend, attention):
    for units, cell in [
        (4, layers.LSTMCell(4, layer_norm=True)),
        (4, layers.GRUCell(4, layer_norm=True)),
        (2, layers.LSTMCell(4, projection_units=2)),
    ]:
        decoder = layers.AttentionDecoder(units, cell, attention, attend=attend)
        decoder(np.ones((2, 3, 4)), np.ones((2, 5, 3)))
        [row] = keras_seq.explain(decoder, print_fn=None)
        assert row.implementation == "native"

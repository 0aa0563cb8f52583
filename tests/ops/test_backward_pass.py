# SPDX-License-Identifier: Apache-2.0
"""Hand-written derivatives of cell equations against TensorFlow's automatic differentiation, in float64."""

import keras
import numpy as np
import pytest
from conftest import assert_close, mostly_slow, run_with_gradients, without_derivative
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import activations

from keras_seq.ops.equations.attention import AdditiveAttentionEquations, AttentionWeights
from keras_seq.ops.equations.gru import GRUEquations, LayerNormGRUEquations
from keras_seq.ops.equations.lstm import ExtendedLSTMEquations, LSTMEquations
from keras_seq.ops.equations.mgu import MGUEquations
from keras_seq.ops.equations.protocol import RecurrentWeights, StepMasks
from keras_seq.ops.equations.simple_rnn import SimpleRNNEquations
from keras_seq.ops.scan import scan

TOLERANCE = 1e-10
UNITS, SOURCE, MEMORY, ATTENTION = 3, 4, 2, 5
CELLS = {
    "rnn tanh": SimpleRNNEquations(),
    "rnn relu": SimpleRNNEquations(activations.relu),
    "rnn linear": SimpleRNNEquations(activations.linear),
    "gru reset after": GRUEquations(),
    "gru reset before": GRUEquations(reset_after=False),
    "lstm": LSTMEquations(),
    "lstm relu": LSTMEquations(activations.relu),
    "mgu": MGUEquations(),
}
CELLS |= {f"attention over {name}": AdditiveAttentionEquations(cell) for name, cell in CELLS.items()}
CELLS |= {
    "lstm with peepholes": ExtendedLSTMEquations(peephole=True),
    "lstm with a projection": ExtendedLSTMEquations(projection_units=UNITS),
    "lstm with layer_norm": ExtendedLSTMEquations(layer_norm=True),
    "lstm with all": ExtendedLSTMEquations(activations.relu, peephole=True, projection_units=UNITS, layer_norm=True),
    "gru with layer_norm": LayerNormGRUEquations(),
    "gru with layer_norm, reset before": LayerNormGRUEquations(reset_after=False),
}
UNIT_MASK = st.sampled_from([None, "a sequence", "a step"])
CALLS = {
    "batch": st.integers(1, 3),
    "time": st.integers(1, 6),
    "mask": st.booleans(),
    "dropout": UNIT_MASK,
    "zoneout": st.tuples(UNIT_MASK, UNIT_MASK),
    "recurrent_bias": st.booleans(),
    "memory_mask": st.booleans(),
    "recompute": st.booleans(),
    "unroll": st.booleans(),
    "seed": st.integers(0, 999),
}
UNIT_MASKS = {"dropout": "a step", "zoneout": ("a sequence", "a step")}
EVERYTHING = dict.fromkeys(CALLS, True) | UNIT_MASKS | {"batch": 2, "time": 4, "unroll": False, "seed": 1}


def draw_unit_mask(of, call, rng):
    time = [call["time"]] if of == "a step" else []
    return None if of is None else rng.integers(0, 3, (*time, call["batch"], UNITS)) / 2


def draw_weights(cell, call, rng):
    """The weights of a cell, and a function that puts other tensors in the place of those that are trained."""
    if isinstance(cell, AdditiveAttentionEquations):
        inner, put_inner = draw_weights(cell.cell, call, rng)
        own = [
            rng.normal(size=(MEMORY, cell.gates * UNITS)),
            rng.normal(size=(UNITS, ATTENTION)),
            rng.normal(size=ATTENTION),
            rng.normal(size=(call["batch"], SOURCE, ATTENTION)),
            rng.normal(size=(call["batch"], SOURCE, MEMORY)),
        ]
        return [*own, *inner], lambda *w: AttentionWeights(put_inner(*w[5:]), *w[:5])
    weights = [rng.normal(size=(UNITS, cell.gates * UNITS))]
    if isinstance(cell, GRUEquations) and cell.reset_after and call["recurrent_bias"]:
        weights.append(rng.normal(size=cell.gates * UNITS))
    shapes = extra_weight_shapes(cell)
    own, extra = len(weights), [rng.normal(size=shape) for shape in shapes.values()]

    def put(kernel, *rest):
        of_names = dict(zip(shapes, rest[own - 1 :], strict=True))
        return RecurrentWeights(kernel, *rest[: own - 1], extra=of_names or None)

    return [*weights, *extra], put


def extra_weight_shapes(cell):
    """The weights of an extended cell, but for those that `input_product` reads."""
    if isinstance(cell, LayerNormGRUEquations):
        return {"recurrent_gamma": (3 * UNITS,)}
    shapes = {}
    if getattr(cell, "peephole", False):
        shapes["peephole_kernel"] = (3, UNITS)
    if getattr(cell, "projection_units", None):
        shapes["projection_kernel"] = (UNITS, UNITS)
    if getattr(cell, "layer_norm", False):
        shapes |= {"recurrent_gamma": (4 * UNITS,), "state_gamma": (UNITS,), "state_beta": (UNITS,)}
    return shapes


def assert_gradients_agree(cell, call, mode):
    """Outputs, emitted tensors and final state all have an upstream gradient."""
    rng = np.random.default_rng(call["seed"])
    weights, put_weights = draw_weights(cell, call, rng)
    inputs = rng.normal(size=(call["time"], call["batch"], cell.gates * UNITS))
    state = [rng.normal(size=(call["batch"], UNITS)) for _ in range(cell.states)]
    mask = rng.random((call["time"], call["batch"])) < 0.6 if call["mask"] else None
    masks = StepMasks(
        recurrent_dropout_mask=draw_unit_mask(call["dropout"], call, rng),
        zoneout_masks=tuple(draw_unit_mask(of, call, rng) for of in call["zoneout"][: cell.states]),
        memory_mask=rng.integers(0, 2, (call["batch"], SOURCE)).astype("float64") if call["memory_mask"] else None,
    )
    options = {"unroll": call["unroll"]}

    def run(cell, **options):
        def function(inputs, *tensors):
            state, weights = tensors[: cell.states], tensors[cell.states :]
            given_mask = None if mask is None else keras.ops.convert_to_tensor(mask)
            return scan(cell, put_weights(*weights), masks, inputs, state, given_mask, **options)

        return run_with_gradients(function, [inputs, *state, *weights], mode=mode)

    assert cell.differentiable
    assert_close(run(cell, recompute=call["recompute"], **options), run(without_derivative(cell), **options), TOLERANCE)


@pytest.mark.parametrize("name", mostly_slow(CELLS))
@settings(max_examples=20, deadline=None, derandomize=True)
@given(call=st.fixed_dictionaries(CALLS))
def test_eager_mode_matches_automatic_differentiation(name, call):
    assert_gradients_agree(CELLS[name], call, "eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_graph_mode_matches_automatic_differentiation(name):
    assert_gradients_agree(CELLS[name], EVERYTHING, "graph")


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["gru reset before", "lstm", "attention over gru reset after"])
def test_jit_matches_automatic_differentiation(name, recompute):
    assert_gradients_agree(CELLS[name], {**EVERYTHING, "recompute": recompute}, "jit")


def test_equations_with_other_activations_have_no_hand_written_derivative():
    for function in (activations.elu, activations.hard_sigmoid, lambda x: x):
        assert not SimpleRNNEquations(function).differentiable
        assert not GRUEquations(recurrent_activation=function).differentiable
        assert not AdditiveAttentionEquations(LSTMEquations(function)).differentiable

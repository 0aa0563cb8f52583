# SPDX-License-Identifier: Apache-2.0
"""Hostile calls, to the native ops themselves: an error or a defined result, never a crash."""

import collections
import ctypes

import numpy as np
import pytest
import tensorflow as tf
from conftest import GATES, KERNEL_CELLS
from native_calls import run_native

from keras_seq.ops import native, native_library

WHY_NOT = native.unavailable()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


LIBRARY = str(native.FOLDER / "libkeras_seq_tf.so")
OPS = {} if WHY_NOT else native_library.describe_ops(ctypes.CDLL(LIBRARY))


def function(op, suffix=""):
    from keras_seq.ops.native_tensorflow import op_function

    return op_function(tf.load_op_library(LIBRARY), op.name, suffix)


def draw_call(rng, attends):
    """A good call of tiny sizes, zeros among them: the `OpCall`, its tensors and its attributes."""
    cell, attributes = KERNEL_CELLS[rng.integers(len(KERNEL_CELLS))]
    directions = 1 if attends else int(rng.choice([1, 2, 3, rng.integers(1, 34)], p=[0.4, 0.4, 0.1, 0.1]))
    batch, time, features, units, source, memory_units, attention_units = rng.integers(0, 4, 7)
    width = GATES[cell] * units
    layer_norm, projects = (rng.integers(3) == 0 for _ in range(2))
    hidden = int(rng.integers(0, 4)) if projects and cell == "LSTM" else units

    def tensors(*shape, on=True):
        return [tf.constant(rng.normal(size=shape).astype("float32")) for _ in range(directions * bool(on))]

    def multiplier(size, on=True):
        rank = rng.integers(1, 4)
        return tensors(*((batch, time, size) if rank == 3 else (batch, size)), on=on and rank > 1)

    def mask(*shape):
        return [tf.constant(rng.choice([0, 1, 7, 255], shape).astype("uint8").view(bool))] * int(rng.integers(2))

    op = OPS["AttentionDecoder" if attends else cell]
    score, attend = str(rng.choice(["additive", "dot"])), str(rng.choice(["before", "after"]))
    attention_units = hidden if score == "dot" else attention_units
    is_attentional = attend == "after" and rng.integers(2)
    fed_units = int(rng.integers(0, 4)) if is_attentional else memory_units
    covers = attends and score == "additive" and bool(rng.integers(2))
    weighting = str(rng.choice(["softmax", "monotonic", "hard"])) if score == "additive" and not covers else "softmax"
    with_state, states = rng.integers(2), op.states[cell]
    lists = {
        "inputs": tensors(batch, time, features),
        "kernel": tensors(features + attends * fed_units, width),
        "recurrent_kernel": tensors(hidden, width),
        "bias": tensors(*([2, width] if attributes.get("reset_after") else [width]), on=rng.integers(2)),
        "mask": mask(batch, time),
        "recurrent_dropout_mask": multiplier(hidden),
    }
    for name in ("h", "c") if attends else states:
        size = hidden if name == "h" else units
        lists[f"initial_{name}"] = tensors(batch, size, on=with_state and name in states)
        lists[f"zoneout_mask_{name}"] = multiplier(size, on=name in states)
    if attends or cell == "LSTM":
        lists["peephole_kernel"] = tensors(3, units, on=cell == "LSTM" and rng.integers(2))
    if attends or cell in ("LSTM", "GRU"):
        gains = dict.fromkeys(("input_gamma", "recurrent_gamma"), (width, cell in ("LSTM", "GRU")))
        if attends or cell == "LSTM":
            lists["projection_kernel"] = tensors(units, hidden, on=projects and cell == "LSTM")
            gains |= dict.fromkeys(("state_gamma", "state_beta"), (units, cell == "LSTM"))
        lists |= {name: tensors(size, on=layer_norm and has) for name, (size, has) in gains.items()}
    if attends:
        lists["memory"] = tensors(batch, source, memory_units)
        lists["keys"] = tensors(batch, source, attention_units)
        lists["query_kernel"] = tensors(hidden, attention_units, on=score == "additive")
        lists["score_vector"] = tensors(attention_units, on=score == "additive")
        lists["memory_mask"] = mask(batch, source)
        lists["coverage_kernel"] = tensors(attention_units, on=covers)
        lists["initial_coverage"] = tensors(batch, source, on=covers)
        lists["energy_bias"] = tensors(batch, time, source, on=weighting != "softmax")
        lists["initial_weights"] = tensors(batch, source, on=weighting != "softmax")
        lists["attentional_kernel"] = tensors(hidden + memory_units, fed_units, on=is_attentional)
        lists["initial_fed"] = tensors(batch, fed_units, on=attend == "after")
        chosen = {"score": score, "attend": attend, "weighting": weighting}
        chosen["attentional_activation"] = str(rng.choice(["tanh", "linear"]))
        defaults = {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True}
        attributes = {**defaults, "cell": cell, **chosen, **attributes}
    reverse, keep = [bool(r) for r in rng.integers(0, 2, directions)], bool(rng.integers(2))
    if rng.random() < 0.2:  # a step of a search
        lists |= {"inputs": tensors(batch, time, width), "kernel": []}
        if attends:
            memories = batch // 2 if batch % 2 == 0 else batch
            lists["memory"] = tensors(memories, source, width if attend == "before" else memory_units)
            lists["keys"] = tensors(memories, source, attention_units)
            lists["memory_mask"] = mask(memories, source)
        keep = keep and rng.random() < 0.1
    chosen = (("attend", attend), ("weighting", weighting)) if attends else ()
    call = native_library.op_call(op, cell, tuple(reverse), keep, chosen, covers)
    return call, lists, {**attributes, "reverse": reverse, "keep_residuals": keep}


def spoil(lists, rng):
    """Make one list of tensors wrong, or hostile."""
    name = rng.choice(list(lists))
    tensors = lists[name] = list(lists[name])
    if not tensors:
        tensors.append(tf.zeros((2, 3)))
        return
    tensor = tensors[-1]
    rank = max(1, tensor.shape.rank)
    huge = [int(2 ** rng.integers(20, 31)) for _ in range(rank)]
    huge[rng.integers(rank)] = 0  # so that there is nothing to store, but that products of the others overflow
    bad = [
        lambda: tf.zeros(huge, tensor.dtype),
        lambda: tf.zeros(rng.integers(0, 5, rng.integers(0, 5)), tensor.dtype),
        lambda: tf.reshape(tensor, [-1]),
        lambda: tf.cast(tensor, "float64"),
        lambda: tf.cast(tensor, "int32"),
        lambda: tf.zeros([min(size, 4) + 1 for size in tensor.shape], tensor.dtype),
        lambda: tf.cast(tf.fill(tensor.shape, rng.choice([np.nan, np.inf, 1e38])), tensor.dtype),
    ]
    choice = rng.integers(len(bad) + 2)
    if choice < len(bad):
        tensors[-1] = bad[choice]()
    elif choice == len(bad):
        tensors.pop()
    else:
        tensors.append(tensor)


def crashes_tensorflow(lists, lengths):
    """Whether TensorFlow 2.21 itself crashes, eagerly and before it calls an op.

    It does where lists of one length differ in length but their sum is right, so that no check of TensorFlow sees it.
    `lengths` maps arguments to the attributes that hold their lengths. `native.run` never makes such a call.
    """
    first = {}
    for name, length in lengths.items():
        first.setdefault(length, len(lists.get(name, ())))
    given = [len(lists.get(name, ())) for name in lengths]
    expected = [first[length] for length in lengths.values()]
    return given != expected and sum(given) == sum(expected)


@pytest.mark.slow
@pytest.mark.parametrize("attends", [False, True])
def test_hostile_calls(attends):
    rng = np.random.default_rng(0)
    tally = collections.Counter()
    for _ in range(2000):
        call, lists, attributes = draw_call(rng, attends)
        for _ in range(rng.integers(3)):
            spoil(lists, rng)
        if rng.random() < 0.05:
            attributes["reverse"] = attributes["reverse"] * 20
        if rng.random() < 0.05 and "activation" in attributes:
            attributes["activation"] = "sine"
        counts = dict(call.extra_counts)
        if attends and rng.random() < 0.05:
            counts["cells"] = 1 - counts["cells"]
        if attends and rng.random() < 0.05:
            attributes["cell"] = str(rng.choice([*GATES, "Cell"]))
        if attends and rng.random() < 0.05:
            attributes["score"] = str(rng.choice(["additive", "dot", "general"]))
        if attends and rng.random() < 0.05:
            attributes["attend"] = str(rng.choice(["before", "after", "during"]))
        if attends and rng.random() < 0.05:
            attributes["weighting"] = str(rng.choice(["softmax", "monotonic", "sparse"]))
        if crashes_tensorflow(lists, call.op.arguments):
            continue
        try:
            kind = tf.float64 if rng.random() < 0.05 else tf.float32
            results = function(call.op)(**lists, **attributes, **counts, R=kind)
            tally["forward"] += 1
            lists.update(zip(call.op.results, results, strict=True))
            for name in call.op.upstream:
                lists[name] = lists.get(name.removeprefix("d_"), []) if rng.integers(2) else []
            lists = {name: tensors for name, tensors in lists.items() if not name.startswith("final")}
            if rng.integers(2):
                spoil(lists, rng)
            wanted = call.op.wanted_counts(lists, [name for name in call.op.wanted if rng.integers(3)])
            if rng.random() < 0.05:
                wanted["wanted_inputs"] = int(rng.integers(5))
            lengths = {name: call.op.arguments.get(name) or call.op.results.get(name, name) for name in lists}
            if crashes_tensorflow(lists, lengths):
                continue
            function(call.op, "_grad")(**lists, **attributes, **wanted)
            tally["backward"] += 1
        except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
            tally[type(error).__name__] += 1
    assert tally["forward"] > 500 and tally["backward"] > 200 and tally["InvalidArgumentError"] > 500, tally


HUGE = 2**30


@pytest.mark.parametrize(
    "batch, time, features, units",
    [(0, HUGE, 2, 3), (0, HUGE, 0, 0), (0, 1, HUGE, 0), (HUGE, 0, 0, 0), (2, HUGE, 0, 0), (2, 0, HUGE, 0)],
)
@pytest.mark.parametrize("cell, attributes", [KERNEL_CELLS[0], KERNEL_CELLS[4], KERNEL_CELLS[5]], ids=str)
def test_huge_axes_of_empty_tensors_cost_nothing(cell, attributes, batch, time, features, units):
    """A size that costs no memory must not cost time either: the kernels would count up to it."""
    arguments = [
        tf.zeros(shape)
        for shape in ((batch, time, features), (features, GATES[cell] * units), (units, GATES[cell] * units))
    ]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        names = ("inputs", "kernel", "recurrent_kernel")
        call = {**dict(zip(names, arguments, strict=True)), "reverse": True}
        (outputs,), states = run_native(cell, attributes, [call])
    assert outputs.shape == (batch, time, units) and states[0][0].shape == (batch, units)
    for argument, gradient in zip(arguments, tape.gradient(outputs, arguments), strict=True):
        assert gradient.shape == argument.shape
        if tf.size(gradient) > 0:
            assert not np.any(gradient)


@pytest.mark.parametrize("source, memory_units, attention_units", [(HUGE, 0, 0), (0, HUGE, 0)])
def test_huge_memories_without_elements_cost_nothing(source, memory_units, attention_units):
    attention = {
        "memory": tf.zeros((1, source, memory_units)),
        "keys": tf.zeros((1, source, attention_units)),
        "query_kernel": tf.zeros((0, attention_units)),
        "score_vector": tf.zeros(attention_units),
        "memory_mask": None,
    }
    inputs, kernel = tf.zeros((1, 0, 2)), tf.zeros((2 + memory_units, 0))
    with tf.GradientTape() as tape:
        tape.watch(attention["memory"])
        call = {"inputs": inputs, "kernel": kernel, "recurrent_kernel": tf.zeros((0, 0))}
        (outputs,), _, (attention_weights,), *_ = run_native("LSTM", {}, [call], attention=attention)
    assert outputs.shape == (1, 0, 0) and attention_weights.shape == (1, 0, source)
    assert tape.gradient(outputs, attention["memory"]).shape == attention["memory"].shape


def _attend(weights, features, memory_units):
    """One step without residuals, which keeps packed weights: the kernel has features + memory_units rows."""
    names = ("query_kernel", "score_vector", "kernel", "recurrent_kernel")
    query_kernel, score_vector, kernel, recurrent_kernel = (weights[name] for name in names)
    memory = tf.constant(np.random.default_rng(features).normal(size=(2, 3, memory_units)), tf.float32)
    attention = {
        "memory": memory,
        "keys": memory[:, :, :1] * tf.ones_like(score_vector),
        "query_kernel": query_kernel,
        "score_vector": score_vector,
        "memory_mask": None,
    }
    call = {"inputs": tf.ones((2, 1, features)), "kernel": kernel, "recurrent_kernel": recurrent_kernel}
    (outputs,), *_ = run_native("LSTM", {}, [call], attention=attention, recompute=True)
    return outputs.numpy()


def test_packed_weights_belong_to_one_division_of_the_kernel():
    """A kernel of 40 rows may multiply 8 features and a memory of 32, or 32 and 8."""
    rng = np.random.default_rng(0)
    shapes = {"query_kernel": (16, 8), "score_vector": (8,), "kernel": (40, 64), "recurrent_kernel": (16, 64)}
    weights = {name: tf.constant(rng.normal(size=shape), tf.float32) for name, shape in shapes.items()}
    for _ in range(2):
        for features in (8, 8, 8, 32):
            fresh = {name: tf.identity(weight) * 1.0 for name, weight in weights.items()}
            expected = _attend(fresh, features, 40 - features)
            np.testing.assert_array_equal(_attend(weights, features, 40 - features), expected)


@pytest.mark.parametrize("inputs, kernel", [((0, 0), (0, 2**40)), ((0, 2**40), (2**40, 0)), ((2**40, 0), (0, 0))])
def test_huge_axes_of_empty_products_cost_nothing(inputs, kernel):
    for _ in range(3):  # the third one uses what the second one packed
        product = native.multiply(tf.zeros(inputs), tf.zeros(kernel))
        assert product.shape == (inputs[0], kernel[1])

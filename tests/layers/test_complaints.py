# SPDX-License-Identifier: Apache-2.0
"""What users of other recurrent layers complain of, issue by issue, does not happen here."""

import itertools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import JIT, assert_close

import keras_seq
from keras_seq import layers
from keras_seq.ops import native

BATCH, TIME, FEATURES, UNITS, RATE = 5, 4, 3, 6, 0.4
KINDS = ["SimpleRNN", "GRU", "LSTM"]
DROPPED = {"dropout": RATE, "recurrent_dropout": RATE, "recurrent_weight_dropout": RATE, "zoneout": RATE, "seed": 7}
EVERYTHING = {**DROPPED, "num_layers": 2, "residual": True, "output_dropout": RATE}
WITH_KERNELS = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
every_implementation = pytest.mark.parametrize("implementation", [pytest.param("native", marks=WITH_KERNELS), "xla"])
every_kind = pytest.mark.parametrize("kind", KINDS)

# One sequence each: whole, padded on the right, on the left, with gaps, nothing but padding.
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
TOKENS = MASK * np.random.default_rng(0).integers(1, 9, MASK.shape)


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv("KERAS_SEQ_IMPLEMENTATION", raising=False)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def states_of(layer):
    """Initial states for a layer that was called, drawn, no two alike."""
    both = [layer.forward_layer, layer.backward_layer] if isinstance(layer, keras.layers.Bidirectional) else [layer]
    zeros = [zero for one in both for zero in one.get_initial_state(BATCH)]
    seeds = itertools.count()
    return keras.tree.map_structure(lambda zero: draw(*zero.shape, seed=next(seeds)), zeros)


def operations(function, *shapes):
    """The types of all operations in the graph of a function, and of the functions that it calls."""
    specs = [tf.TensorSpec(shape) for shape in shapes]
    graph = tf.function(function).get_concrete_function(*specs).graph.as_graph_def()
    inner = [node for called in graph.library.function for node in called.node_def]
    return {node.op for node in [*graph.node, *inner]}


@pytest.fixture
def policy():
    """Set the global dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


# 1. No XLA with recurrent layers.


COMPILED = {
    "SimpleRNN": lambda: layers.SimpleRNN(UNITS, **EVERYTHING),
    "GRU": lambda: layers.GRU(UNITS, **EVERYTHING),
    "LSTM": lambda: layers.LSTM(UNITS, **EVERYTHING),
    "extended GRU": lambda: layers.GRU(UNITS, layer_norm=True, **DROPPED),
    "extended LSTM": lambda: layers.LSTM(UNITS, peephole=True, projection_units=2, layer_norm=True, **DROPPED),
    "RNN": lambda: layers.RNN([layers.LSTMCell(UNITS, **DROPPED), layers.GRUCell(UNITS)]),
    "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(UNITS, **EVERYTHING)),
}


@pytest.mark.parametrize("name", COMPILED)
def test_no_layer_turns_xla_off(name, monkeypatch):
    """keras#18456; tensorflow#83063, #99385: with cuDNN about, `keras.layers.LSTM` and `GRU` turn it off."""
    monkeypatch.setattr("keras.src.backend.cudnn_ok", lambda *_, **__: True)
    model = keras.Sequential([COMPILED[name](), keras.layers.Dense(1)])
    model(draw(BATCH, TIME, FEATURES))
    assert all(layer.supports_jit for layer in model._flatten_layers())
    model.compile("sgd", "mse", jit_compile=True)
    assert model.jit_compile is True


@pytest.mark.parametrize(
    ("make", "implementation"),
    [
        pytest.param(
            lambda: layers.Bidirectional(layers.LSTM(UNITS, recurrent_dropout=RATE, seed=7)),
            "native",
            marks=WITH_KERNELS,
        ),
        (lambda: layers.GRU(UNITS, recurrent_dropout=RATE, seed=7), "xla"),
    ],
    ids=["Bidirectional LSTM, native", "GRU, xla"],
)
def test_fit_under_xla_is_fit_without(make, implementation):
    """keras#18456: also where lengths and batches differ, with the same dropout masks."""
    sizes = [(BATCH, TIME), (BATCH - 1, TIME + 2)]
    batches = [(draw(*size, FEATURES, seed=i), draw(size[0], 1)) for i, size in enumerate(sizes)]
    signature = tf.TensorSpec((None, None, FEATURES)), tf.TensorSpec((None, 1))
    data = tf.data.Dataset.from_generator(lambda: batches, output_signature=signature)
    trained = []
    for options in ({"jit_compile": True}, {"run_eagerly": True}):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((None, FEATURES)), make(), keras.layers.Dense(1)])
        model.compile("sgd", "mse", **options)
        with keras_seq.ops.use_implementation(implementation):
            model.fit(data, steps_per_epoch=len(sizes), shuffle=False, verbose=0)
        trained.append(model.get_weights())
    assert_close(*trained, 1e-5)


class HostOnly(keras.layers.Layer):
    """The identity, by an operation that XLA cannot compile."""

    def call(self, inputs):
        zeros = tf.numpy_function(np.zeros_like, [inputs], inputs.dtype)
        return inputs + tf.stop_gradient(tf.ensure_shape(zeros, inputs.shape))

    def compute_output_shape(self, input_shape):
        return input_shape


@every_implementation
def test_fit_under_xla_is_compiled(implementation):
    """keras#18456: a step that was not would take the operation that XLA refuses."""
    model = keras.Sequential([layers.LSTM(UNITS), HostOnly(), keras.layers.Dense(1)])
    with keras_seq.ops.use_implementation(implementation):
        for jit in (False, True):
            model.compile("sgd", "mse", jit_compile=jit)
            arguments = draw(BATCH, TIME, FEATURES), draw(BATCH, 1)
            if jit:
                with pytest.raises(tf.errors.InvalidArgumentError, match="unsupported operations"):
                    model.fit(*arguments, verbose=0)
            else:
                model.fit(*arguments, verbose=0)


# 2 and 9. The fast path is lost, and without a word.


FAST = {
    "plain": {},
    "recurrent_dropout": {"recurrent_dropout": RATE},
    "recurrent_dropout a step": {"recurrent_dropout": RATE, "dropout_mode": "naive"},
    "everything": EVERYTHING,
    "unroll": {"unroll": True},
    "no bias": {"use_bias": False},
    "backwards": {"go_backwards": True, "zero_output_for_mask": True},
    "learned state": {"initial_state_initializer": "zeros", "recompute": True},
    "bfloat16": {"dtype": "mixed_bfloat16", "recurrent_dropout": RATE},
    "float64": {"dtype": "float64"},
    "Keras's implementation": {"implementation": 1},
}
SLOW = {
    "GRU, activation": (lambda **o: layers.GRU(UNITS, activation="relu", **o), "GRU with .* relu, sigmoid"),
    "LSTM, gates": (lambda **o: layers.LSTM(UNITS, recurrent_activation="relu", **o), "LSTM with .* tanh, relu"),
    "SimpleRNN": (lambda **o: layers.SimpleRNN(UNITS, activation="gelu", **o), "SimpleRNN with .* gelu"),
    "GRU, norm": (lambda **o: layers.GRU(UNITS, layer_norm=True, **o), "GRU with layer_norm"),
    "LSTM, peephole": (lambda **o: layers.LSTM(UNITS, peephole=True, **o), "LSTM with peepholes"),
    "LSTM, projection": (lambda **o: layers.LSTM(UNITS, projection_units=2, **o), "LSTM with a projection"),
    "float16": (lambda **o: layers.LSTM(UNITS, dtype="mixed_float16", **o), "no native kernel for float16"),
    "cell of Keras": (lambda **o: layers.RNN(keras.layers.LSTMCell(UNITS), **o), "LSTMCell, which is not a cell of"),
}


def native_operations(layer):
    """The native operations in the training graph of a call that gives all there is to give."""
    layer(draw(BATCH, TIME, FEATURES))
    states = states_of(layer)
    shape = (BATCH, TIME, FEATURES)
    found = operations(lambda x: layer(x, initial_state=states, mask=MASK, training=True), shape)
    found_alone = operations(layer, shape)
    assert {o for o in found if "KerasSeq" in o} == {o for o in found_alone if "KerasSeq" in o}
    return {o for o in found if "KerasSeq" in o}


@WITH_KERNELS
@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("kind", [*KINDS, "Bidirectional"])
def test_the_fast_path_stays(kind, name):
    """tensorflow#38236, #40944; keras#8935, #20902; keras PR 22874: whatever the mask, states and dropouts."""
    if kind == "Bidirectional":
        kind, options = "LSTM", {**FAST[name], "go_backwards": False}
        layer = layers.Bidirectional(layers.LSTM(UNITS, **options))
    else:
        layer = getattr(layers, kind)(UNITS, **FAST[name])
    assert {row[2:] for row in keras_seq.explain(layer, print_fn=None)} == {("native", "a kernel covers it")}
    assert native_operations(layer) == {f"KerasSeq>{kind}"}


@pytest.mark.parametrize("name", SLOW)
def test_the_slow_path_says_why(name):
    """keras PR 22874, keras#20902: and what asks for the fast one is refused where it cannot be had."""
    make, reason = SLOW[name]
    [row] = keras_seq.explain(make(), print_fn=None)
    assert row.implementation == "xla"
    layer = make()
    with pytest.raises(NotImplementedError, match=f"'native', but .*{reason}") as refused:
        make(implementation="native")(draw(BATCH, TIME, FEATURES))
    assert row.reason in str(refused.value)
    assert not native_operations(layer)


def test_a_layer_of_keras_is_named():
    """keras PR 22874: one forgotten in a model does not go unnoticed."""
    model = keras.Sequential([layers.Bidirectional(layers.GRU(UNITS)), keras.layers.RepeatVector(2)])
    model.add(keras.layers.Bidirectional(keras.layers.LSTM(UNITS)))
    rows = keras_seq.explain(model, print_fn=None)
    assert [row.implementation == "keras" for row in rows] == [False, False, True, True]
    assert all("keras_seq.convert" in row.reason for row in rows[2:])


# 3. Exports that load nowhere else.


def make_trained(**options):
    """A model of all kinds of layers over padded sequences of tokens, trained for one step."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((TIME,)),
            keras.layers.Embedding(9, FEATURES, mask_zero=True),
            layers.LSTM(UNITS, return_sequences=True, recurrent_dropout=RATE, **options),
            layers.Bidirectional(layers.GRU(UNITS, return_sequences=True, **options)),
            layers.SimpleRNN(UNITS, **options),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    model.fit(TOKENS, draw(BATCH, 1), verbose=0)
    return model


ELSEWHERE = """
import sys

import numpy as np
import tensorflow as tf

sys.modules["keras"] = sys.modules["keras_seq"] = None  # importing them raises
path, tokens, outputs = sys.argv[1:]
model = tf.saved_model.load(path)
np.save(outputs, model.serve(np.load(tokens)))
"""


@pytest.fixture(scope="module")
def trained():
    return make_trained()


@pytest.mark.slow
def test_a_saved_model_loads_with_tensorflow_alone(trained, tmp_path):
    """tensorflow#77442: a trained LSTM runs where there is no GPU, no Keras and no keras_seq."""
    with keras_seq.ops.use_implementation("xla"):
        trained.export(tmp_path / "model", verbose=False)
    np.save(tmp_path / "tokens.npy", TOKENS.astype("float32"))
    arguments = [tmp_path / name for name in ("model", "tokens.npy", "outputs.npy")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    subprocess.run([sys.executable, "-c", ELSEWHERE, *arguments], check=True, env=environment)
    assert_close(np.load(arguments[-1]), trained(TOKENS), 1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:\\s*Warning. tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("unroll", [False, True])
def test_litert(trained, tmp_path, unroll):
    """keras#21799: it runs on LiteRT's own operations; with a loop, the signature must give the size of the batch."""
    model, path = make_trained(unroll=True) if unroll else trained, tmp_path / "model.tflite"
    signature = None if unroll else [keras.InputSpec("float32", (BATCH, TIME))]
    with keras_seq.ops.use_implementation("xla"):
        model.export(path, format="litert", input_signature=signature, verbose=False)
    interpreter = tf.lite.Interpreter(str(path))  # without the operations of TensorFlow
    [inputs], [outputs] = interpreter.get_input_details(), interpreter.get_output_details()
    if unroll:
        interpreter.resize_tensor_input(inputs["index"], TOKENS.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(inputs["index"], TOKENS.astype("float32"))
    interpreter.invoke()
    assert_close(interpreter.get_tensor(outputs["index"]), model(TOKENS), 1e-6)


# 4. Masks.


MASKED = {
    **{kind: lambda kind=kind, **options: getattr(layers, kind)(UNITS, **options) for kind in KINDS},
    "stack": lambda **options: layers.LSTM(UNITS, num_layers=2, **options),
    "RNN": lambda **options: layers.RNN([layers.LSTMCell(UNITS), layers.GRUCell(4)], **options),
    "Bidirectional": lambda **options: layers.Bidirectional(layers.LSTM(UNITS, **options)),
    "cell of Keras": lambda **options: layers.RNN(keras.layers.GRUCell(UNITS), **options),
}
MASKED_BY = [
    pytest.param(name, implementation, marks=WITH_KERNELS if implementation == "native" else ())
    for name in MASKED
    for implementation in ("native", "xla")
    if (name, implementation) != ("cell of Keras", "native")
]


@pytest.fixture(scope="module")
def embedding():
    """An embedding that masks."""
    layer = keras.layers.Embedding(9, FEATURES, embeddings_initializer="random_normal", mask_zero=True)
    layer(TOKENS)
    return layer


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(("name", "implementation"), MASKED_BY)
def test_a_masked_step_is_no_step(name, implementation, with_state, embedding):
    """tensorflow#43103, #49241: any mask, alike on every path; without a step the state is the initial one.

    Keras drops the implicit mask of an embedding where an initial state is given: its layers fail here.
    """
    layer = MASKED[name](return_state=True)
    layer(embedding(TOKENS))
    layer.set_weights([draw(*w.shape, seed=i) for i, w in enumerate(layer.get_weights())])
    states = states_of(layer) if with_state else keras.tree.map_structure(np.zeros_like, states_of(layer))
    with keras_seq.ops.use_implementation(implementation):
        if with_state:
            outputs, *last = tf.function(lambda t: layer(embedding(t), initial_state=states))(TOKENS)
        else:
            outputs, *last = layer(embedding(TOKENS))
    for i, row in enumerate(TOKENS):
        kept = row[row > 0]
        given, actual = keras.tree.map_structure(lambda s, i=i: np.array(s)[i : i + 1], (states, last))
        if not len(kept):
            assert_close(actual, given, 0)
            assert not np.any(outputs[i])
        else:
            expected, *state = layer(np.array(embedding(kept[None])), initial_state=given)
            assert_close([outputs[i : i + 1], *actual], [expected, *state], 1e-5)


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("name", MASKED)
def test_masks_are_handed_on(name, stateful, embedding):
    """keras PR 23235: with every step's output goes the mask, with states goes none."""
    layer = MASKED[name](return_sequences=True, return_state=True, stateful=stateful)
    outputs, *states = layer(embedding(TOKENS))
    np.testing.assert_array_equal(outputs._keras_mask, MASK)
    assert all(getattr(state, "_keras_mask", None) is None for state in keras.tree.flatten(states))


@pytest.mark.parametrize("name", MASKED)
def test_masks_are_handed_on_whatever_keras_does(name, embedding, monkeypatch):
    """keras PR 23235: layers of Keras 3.16 no longer support masking; ours say it themselves."""

    def switched_off(original):
        def init(self, *args, **kwargs):
            original(self, *args, **kwargs)
            self.supports_masking = False

        return init

    for base in (keras.layers.RNN, keras.layers.Bidirectional):
        monkeypatch.setattr(base, "__init__", switched_off(base.__init__))
        monkeypatch.setattr(base, "compute_mask", None)
    outputs = MASKED[name](return_sequences=True)(embedding(TOKENS))
    np.testing.assert_array_equal(outputs._keras_mask, MASK)


# 7. The semantics of dropout.


@every_implementation
@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
@every_kind
def test_each_dropout_acts_on_its_own(kind, name, implementation):
    """keras PR 19397, keras#19993: on the inputs from the first step, on the state from the second."""
    layer = getattr(layers, kind)(UNITS, return_sequences=True, seed=1, **{name: 0.9})
    sequences = draw(BATCH, TIME, FEATURES)
    with keras_seq.ops.use_implementation(implementation):
        dropped, whole = (np.array(layer(sequences, training=training)) for training in (True, False))
    assert np.allclose(dropped[:, 0], whole[:, 0], atol=1e-6) == (name == "recurrent_dropout")
    assert not np.allclose(dropped[:, 1], whole[:, 1])


@every_implementation
@pytest.mark.parametrize("reset_after", [False, True])
def test_recurrent_dropout_leaves_the_memory_of_a_gru(reset_after, implementation):
    """keras PR 20656, tensorflow#35724: a unit whose update gate is closed keeps its state, dropped or not."""
    layer = layers.GRU(UNITS, recurrent_dropout=0.9, reset_after=reset_after)
    layer.build((None, None, FEATURES))
    bias = np.zeros(layer.cell.bias.shape)
    bias[..., :UNITS] = 50
    layer.cell.bias.assign(bias)
    state = draw(BATCH, UNITS)
    with keras_seq.ops.use_implementation(implementation):
        outputs = layer(draw(BATCH, TIME, FEATURES), initial_state=state, training=True)
    np.testing.assert_allclose(outputs, state, rtol=1e-6)


@WITH_KERNELS
@pytest.mark.parametrize("mode", ["variational", "naive"])
@every_kind
def test_dropout_does_not_depend_on_the_implementation(kind, mode):
    """tensorflow#35724, #40215: in Keras `implementation` decides how many masks there are."""
    results, sequences = [], draw(BATCH, TIME, FEATURES)
    for implementation in (1, 2, "auto", "native", "xla"):
        layer = getattr(layers, kind)(UNITS, implementation=implementation, dropout_mode=mode, **DROPPED)
        layer.build(sequences.shape)
        layer.set_weights([draw(*w.shape) if w.ndim else w for w in layer.get_weights()])
        results.append(layer(sequences, training=True))
    assert_close(results[1:], [results[0]] * 4, 1e-5)


@every_implementation
@pytest.mark.parametrize("mode", ["variational", "naive"])
@pytest.mark.parametrize("jit", JIT)
def test_masks_in_time_are_as_asked(mode, jit, implementation):
    """keras#19993: one mask a sequence, or one a step as Keras 2 had it; never a change without a word."""
    options = {"activation": "linear", "use_bias": False, "return_sequences": True, "dropout_mode": mode}
    layer = layers.SimpleRNN(40, dropout=RATE, recurrent_dropout=RATE, **options)
    layer.build((None, None, 40))
    layer.set_weights([np.eye(40), np.zeros((40, 40))])
    run = tf.function(lambda x: layer(x, training=True), jit_compile=jit)
    with keras_seq.ops.use_implementation(implementation):
        masks = np.array(run(np.ones((BATCH, TIME, 40), "float32"))) > 0
    differ = [not np.array_equal(masks[:, t], masks[:, 0]) for t in range(1, TIME)]
    assert differ == [mode == "naive"] * (TIME - 1)


@every_kind
def test_no_mask_outlives_a_call(kind):
    """tensorflow#33991, #29391, #35724: graph and eager, one after the other and of different batches."""
    layer, cell = (getattr(layers, kind + suffix)(UNITS, **DROPPED) for suffix in ("", "Cell"))
    wrapped = keras.layers.RNN(cell)
    sequences = draw(BATCH, TIME, FEATURES)
    state = [np.zeros((BATCH, UNITS), "float32")] * (2 if kind == "LSTM" else 1)

    def step(sequences):
        return cell(sequences[:, 0], [s[: len(sequences)] for s in state], training=True)[0]

    for function in (lambda x: layer(x, training=True), lambda x: wrapped(x, training=True), step):
        function(sequences)
        runs = [tf.function(function), function, tf.function(function), function]
        outputs = [np.array(run(sequences[:size])) for run, size in zip(runs, [5, 5, 4, 3], strict=True)]
        for i, one in enumerate(outputs):
            assert not any(np.allclose(one[:3], other[:3]) for other in outputs[:i])
    kept = [value for inner in (layer, layer.cell, cell) for value in vars(inner).values()]
    assert not any(tf.is_tensor(value) and not isinstance(value, keras.Variable) for value in kept)


def test_a_step_draws_new_masks_and_a_seed_repeats_them():
    """tensorflow#29391, #60170: and looking at the model (`evaluate`, `predict`) draws nothing."""
    histories, arguments = [], (np.repeat(draw(1, TIME, FEATURES), 8, axis=0), np.repeat(draw(1, 1), 8, axis=0))
    for look in (True, False):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([layers.LSTM(UNITS, **DROPPED | {"seed": None}), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        losses = []
        for _ in range(4):
            losses.append(model.train_on_batch(*arguments))
            if look:
                seeds = [np.array(v) for v in model.non_trainable_variables]
                model.evaluate(*arguments, verbose=0)
                model.predict(arguments[0], verbose=0)
                assert_close([np.array(v) for v in model.non_trainable_variables], seeds, 0)
        assert seeds
        assert len(set(losses)) == len(losses)
        histories.append(losses)
    assert_close(*histories, 0)


# 10. Half precision.


@pytest.mark.parametrize(
    ("dtype", "implementation", "jit"),
    [
        pytest.param("bfloat16", "native", False, marks=WITH_KERNELS),
        pytest.param("bfloat16", "native", True, marks=WITH_KERNELS),
        ("float16", "xla", False),
    ],
)
def test_an_lstm_trains_in_half_precision(dtype, implementation, jit, policy):
    """tensorflow#57411, keras#20605."""
    policy(f"mixed_{dtype}")
    tokens = keras.Input((None,), dtype="int32")
    sequences = layers.LSTM(UNITS, recurrent_dropout=0.1)(keras.layers.Embedding(9, FEATURES, mask_zero=True)(tokens))
    model = keras.Model(tokens, keras.layers.Dense(1, dtype="float32")(sequences))
    assert {row.implementation for row in keras_seq.explain(model, print_fn=None)} == {implementation}
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=jit)
    losses = model.fit(TOKENS, np.ones((BATCH, 1)), epochs=8, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))
    assert losses[-1] < losses[0]


# 11. Details of Keras 3.15.


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_use_cudnn_is_in_the_config(kind):
    """Keras 3.15 loses it."""
    layer = getattr(layers, kind)(UNITS, use_cudnn=False)
    assert layer.get_config()["use_cudnn"] is False
    copy = layers.Bidirectional.from_config(layers.Bidirectional(layer).get_config())
    assert copy.forward_layer.use_cudnn is copy.backward_layer.use_cudnn is False


@pytest.mark.parametrize("name", [*KINDS, "stack", "RNN", "Bidirectional"])
def test_reset_state_takes_states(name):
    """Keras 3.15 documents it and raises a TypeError; a stack of cells it cannot reset at all."""
    layer, sequences = MASKED[name](stateful=True), draw(BATCH, TIME, FEATURES)
    first = np.array(layer(sequences))
    states = states_of(layer)
    layer.reset_state(states=states)
    assert_close(layer.states, states, 0)
    expected = layer(sequences, initial_state=states)
    layer.reset_state(states)
    assert_close(layer(sequences), expected, 1e-6)
    layer.reset_state()
    assert_close(layer(sequences), first, 0)

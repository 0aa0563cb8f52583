# SPDX-License-Identifier: Apache-2.0
"""Implementation "cudnn", tested without a GPU: which arguments cuDNN gets, and what becomes of its results.

Two things are replaced: the list of devices, and the one TensorFlow operation that needs a GPU, by cuDNN's equations as
its documentation states them. All else, in keras_seq and in Keras, is the code that runs on a GPU.
"""

import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import STATES, assert_close, draw, upstream

import keras_seq
from keras_seq import layers, ops
from keras_seq.ops import native

BATCH, TIME, FEATURES, UNITS = 3, 5, 4, 6
RIGHT = np.arange(TIME) < np.array([[5], [3], [1]])
LEFT = RIGHT[:, ::-1]
EMPTY = RIGHT & [[True], [True], [False]]  # the last sequence has no step
every_kind = pytest.mark.parametrize("kind", ["LSTM", "GRU"])  # that cuDNN computes


def cudnn_rnn(*, input, input_h, input_c, params, is_training, rnn_mode, sequence_lengths, time_major):
    """The operation `CudnnRNNV3` for one layer and one direction; its reserve space is None."""
    assert is_training
    assert not time_major
    (_, time, features), units = input.shape, input_h.shape[-1]
    gates = {"lstm": 4, "gru": 3}[rnn_mode]
    sizes = [units * features] * gates + [units * units] * gates + [units] * 2 * gates
    parts = tf.split(params, sizes)
    w = [tf.reshape(part, (units, features)) for part in parts[:gates]]
    r = [tf.reshape(part, (units, units)) for part in parts[gates : 2 * gates]]
    b_w, b_r = parts[2 * gates : 3 * gates], parts[3 * gates :]
    h, c, outputs = input_h[:, 0], input_c[:, 0] if rnn_mode == "lstm" else None, []
    for t in range(time):
        x = input[:, t]
        from_x = [tf.linalg.matmul(x, w[g], transpose_b=True) + b_w[g] for g in range(gates)]
        from_h = [tf.linalg.matmul(h, r[g], transpose_b=True) + b_r[g] for g in range(gates)]
        if rnn_mode == "lstm":  # gates i, f, g, o
            i, f, g, o = (a + b for a, b in zip(from_x, from_h, strict=True))
            new_c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            new_h = tf.sigmoid(o) * tf.tanh(new_c)
        else:  # gates r, z, h
            reset, keep = (tf.sigmoid(from_x[g] + from_h[g]) for g in range(2))
            new_c, new_h = None, (1 - keep) * tf.tanh(from_x[2] + reset * from_h[2]) + keep * h
        visible = (t < sequence_lengths)[:, None]
        h = tf.where(visible, new_h, h)
        c = None if c is None else tf.where(visible, new_c, c)
        outputs.append(tf.where(visible, new_h, 0))
    states = [tf.zeros(0) if s is None else s[:, None] for s in (h, c)]
    return (tf.stack(outputs, axis=1), *states, None, None)


@pytest.fixture
def cudnn_calls(monkeypatch):
    """Pretend that there is a GPU. Return a list that collects the arguments of each call of cuDNN."""
    calls = []

    def record(**arguments):
        calls.append(arguments)
        return cudnn_rnn(**arguments)

    monkeypatch.delenv("KERAS_SEQ_IMPLEMENTATION", raising=False)
    monkeypatch.setattr(native, "unavailable", lambda kind=None: "TensorFlow sees a GPU, and they run on a CPU")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: [f"one {kind}"])
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: {"is_cuda_build": True, "is_rocm_build": False})
    monkeypatch.setattr(tf.raw_ops, "CudnnRNNV3", record)
    return calls


def build(layer):
    """Build a layer, fill its weights with random numbers, and return it."""
    layer.build((None, None, FEATURES))
    layer.set_weights([draw(*weight.shape, seed=i) / 2 for i, weight in enumerate(layer.weights)])
    return layer


def run_layer(layer, sequences, mask=None, states=()):
    """Outputs, states and the gradients of weights, inputs and initial states."""
    variables = [variable.value for variable in layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch([sequences, *states])
        outputs = tf.nest.flatten(layer(sequences, mask=mask, initial_state=list(states) or None))
    upstreams = [upstream(output) for output in outputs]
    return outputs, tape.gradient(outputs, [sequences, *variables, *states], upstreams)


def assert_matches_keras(kind, masks, *, in_graph, with_states=True, **options):
    """Compare a layer on cuDNN with one of Keras without it, on each mask.

    Which masks cuDNN can take is known only when the graph runs.
    """
    options |= {"return_sequences": True, "return_state": True}
    ours = build(getattr(layers, kind)(UNITS, **options))
    theirs = build(getattr(keras.layers, kind)(UNITS, use_cudnn=False, **options))
    assert ours.choose_implementation().implementation == "cudnn"
    sequences = tf.constant(draw(BATCH, TIME, FEATURES))
    states = [tf.constant(draw(BATCH, UNITS, seed=10 + i)) for i in range(STATES[kind] * with_states)]

    def run(*arguments):
        return run_layer(ours, *arguments)

    run = tf.function(run) if in_graph else run
    for mask in masks:
        mask = None if mask is None else tf.constant(mask)
        assert_close(run(sequences, mask, states), run_layer(theirs, sequences, mask, states), 1e-5)


@every_kind
@pytest.mark.parametrize("reverse", [False, True])
def test_results_in_a_graph_match_keras(cudnn_calls, kind, reverse):
    assert_matches_keras(kind, [RIGHT, LEFT, EMPTY], in_graph=True, go_backwards=reverse)
    assert len(cudnn_calls) == 1  # one graph serves all masks


@every_kind
@pytest.mark.parametrize("reverse", [False, True])
def test_results_in_eager_mode_match_keras(cudnn_calls, kind, reverse):
    assert_matches_keras(kind, [None, RIGHT], in_graph=False, go_backwards=reverse)
    assert len(cudnn_calls) == 2
    options = {"go_backwards": reverse, "zero_output_for_mask": True}
    assert_matches_keras(kind, [RIGHT, EMPTY], in_graph=False, with_states=False, **options)
    assert len(cudnn_calls) == 3


@every_kind
@pytest.mark.parametrize("mask", [None, RIGHT], ids=["no mask", "right"])
def test_cudnn_gets_the_arguments_that_keras_passes(cudnn_calls, kind, mask):
    initial = [draw(BATCH, UNITS, seed=10 + i) for i in range(STATES[kind])]
    for module in (layers, keras.layers):
        layer = build(getattr(module, kind)(UNITS, return_sequences=True))
        layer(draw(BATCH, TIME, FEATURES), mask=mask, initial_state=initial)
    ours, theirs = cudnn_calls
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_bidirectional_layers_and_stacks_run_on_cudnn(cudnn_calls):
    ours, theirs = (
        build(module.Bidirectional(module.LSTM(UNITS, return_sequences=True))) for module in (layers, keras.layers)
    )
    theirs.forward_layer.use_cudnn = theirs.backward_layer.use_cudnn = False
    sequences = tf.constant(draw(BATCH, TIME, FEATURES))
    assert_close(run_layer(ours, sequences, RIGHT), run_layer(theirs, sequences, RIGHT), 1e-5)
    assert len(cudnn_calls) == 2
    layers.GRU(UNITS, num_layers=3)(sequences)
    assert len(cudnn_calls) == 5


def test_batch_and_time_may_be_dynamic(cudnn_calls, monkeypatch):
    monkeypatch.setattr(
        tf.raw_ops,
        "CudnnRNNV3",
        lambda **a: (tf.repeat(a["input"][:, :, :1], UNITS, axis=2), a["input_h"], a["input_c"], None, None),
    )
    layer = build(layers.LSTM(UNITS, return_sequences=True, go_backwards=True))
    signature = [tf.TensorSpec((None, None, FEATURES)), tf.TensorSpec((None, None), "bool")]
    run = tf.function(lambda sequences, mask: layer(sequences, mask=mask), input_signature=signature)
    assert run.get_concrete_function().output_shapes == [None, None, UNITS]
    assert run(draw(BATCH, TIME, FEATURES), RIGHT).shape == (BATCH, TIME, UNITS)


def test_layers_with_recurrent_weight_dropout_run_on_cudnn(cudnn_calls):
    layer = build(layers.LSTM(UNITS, recurrent_weight_dropout=0.5, use_bias=True))
    assert layer.choose_implementation().implementation == "cudnn"
    layer(draw(BATCH, TIME, FEATURES), training=True)
    recurrent = cudnn_calls[0]["params"][4 * UNITS * FEATURES :][: 4 * UNITS * UNITS].numpy()
    dropped = recurrent == 0
    assert 0.3 < dropped.mean() < 0.7
    kernel = np.asarray(layer.cell.recurrent_kernel).reshape(UNITS, 4, UNITS).transpose(1, 2, 0).ravel()
    np.testing.assert_allclose(recurrent[~dropped], 2 * kernel[~dropped], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_cudnn_computes_in_the_dtype_of_the_layer(cudnn_calls, dtype):
    layer = layers.GRU(UNITS, dtype=keras.DTypePolicy(dtype), recurrent_initializer="glorot_uniform")
    assert layer(draw(BATCH, TIME, FEATURES)).dtype == dtype
    assert cudnn_calls[0]["params"].dtype == dtype


NOT_COVERED = [
    (layers.LSTM, {"use_bias": False}, "cuDNN has no recurrence without a bias"),
    (layers.LSTM, {"recurrent_dropout": 0.1, "zoneout": 0.1}, "cuDNN has no recurrent dropout and no zoneout"),
    (layers.GRU, {"unroll": True}, "cuDNN has no unrolled steps"),
    (layers.GRU, {"reset_after": False}, "cuDNN has no GRU with reset_after=False"),
    (layers.GRU, {"activation": "relu"}, "has no GRU with the activation.* relu, sigmoid"),
    (layers.LSTM, {"recurrent_activation": "hard_sigmoid"}, "has no LSTM with the activation.* tanh, hard_sigmoid"),
    (layers.LSTM, {"peephole": True}, "has no LSTM with peepholes"),
    (layers.SimpleRNN, {}, "has no SimpleRNN"),
    (layers.AttentionDecoder, {}, "has no LSTM .* with attention"),
]


@pytest.mark.parametrize(("make", "options", "reason"), NOT_COVERED)
def test_what_cudnn_lacks_runs_on_xla_and_the_reason_is_reported(cudnn_calls, make, options, reason):
    sequences = draw(BATCH, TIME, FEATURES)

    def run(**implementation):
        layer = make(UNITS, **options, **implementation)
        return layer, layer(*[sequences] * (2 if make is layers.AttentionDecoder else 1), training=True)

    choice = run()[0].choose_implementation()
    assert choice.implementation == "xla"
    assert re.search(reason, choice.reason)
    with pytest.raises(NotImplementedError, match=f"`implementation` asks for 'cudnn', but .*{reason}"):
        run(implementation="cudnn")
    assert not cudnn_calls


def test_layers_with_recurrent_dropout_run_on_cudnn_at_inference(cudnn_calls):
    layer = layers.LSTM(UNITS, recurrent_dropout=0.3)
    layer(draw(BATCH, TIME, FEATURES), training=True)
    assert not cudnn_calls
    layer(draw(BATCH, TIME, FEATURES))
    assert len(cudnn_calls) == 1


def test_use_cudnn_false_rules_cudnn_out(cudnn_calls):
    layer = layers.LSTM(UNITS, use_cudnn=False)
    layer(draw(BATCH, TIME, FEATURES))
    assert not cudnn_calls
    assert layer.choose_implementation() == ("xla", "`use_cudnn=False` rules cuDNN out")
    assert layers.LSTM(UNITS, use_cudnn=True).choose_implementation().implementation == "cudnn"


def test_without_input_feeding_the_cell_of_a_decoder_runs_on_cudnn(cudnn_calls):
    decoder = layers.AttentionDecoder(UNITS, input_feeding=False, implementation="cudnn")
    decoder(draw(BATCH, TIME, FEATURES), draw(BATCH, 7, FEATURES))
    assert len(cudnn_calls) == 1
    assert decoder.choose_implementation().implementation == "cudnn"


def test_calls_that_xla_compiles_run_the_scan(cudnn_calls):
    sequences = tf.constant(draw(BATCH, TIME, FEATURES))
    layer = build(layers.LSTM(UNITS))
    inner = tf.function(lambda x: layer(x))
    compiled = tf.function(lambda x: inner(x), jit_compile=True)(sequences)
    assert not cudnn_calls
    assert_close(compiled, tf.function(lambda x: layer(x))(sequences), 1e-5)
    assert len(cudnn_calls) == 1
    explicit = build(layers.LSTM(UNITS, implementation="cudnn"))
    with pytest.raises(NotImplementedError, match=r"XLA compiles this call .`jit_compile`."):
        tf.function(lambda x: explicit(x), jit_compile=True)(sequences)


def test_keras_does_not_compile_models_that_ask_for_cudnn(cudnn_calls, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda: [tf.config.PhysicalDevice("GPU:0", "GPU")])
    for implementation, compiled in [("auto", True), ("xla", True), ("cudnn", False)]:
        model = keras.Sequential([layers.Bidirectional(layers.LSTM(UNITS, implementation=implementation))])
        model.compile(loss="mse")
        assert model.jit_compile == compiled


def test_explain_and_each_way_to_ask_for_an_implementation(cudnn_calls, monkeypatch):
    [row] = keras_seq.explain(layers.LSTM(UNITS, name="lstm"), print_fn=None)
    assert row[:3] == ("lstm", "LSTM", "cudnn")
    assert "cuDNN covers it" in row.reason
    with ops.use_implementation("xla"):
        layers.LSTM(UNITS)(draw(BATCH, TIME, FEATURES))
    assert not cudnn_calls
    with ops.use_implementation("cudnn"):
        assert layers.LSTM(UNITS).choose_implementation() == ("cudnn", "asked for by `use_implementation`")
    monkeypatch.setenv("KERAS_SEQ_IMPLEMENTATION", "cudnn")
    with pytest.raises(NotImplementedError, match=r"KERAS_SEQ_IMPLEMENTATION asks for 'cudnn', but .*SimpleRNN"):
        layers.SimpleRNN(UNITS)(draw(BATCH, TIME, FEATURES))


def test_a_device_without_cudnn_runs_the_scan(cudnn_calls, monkeypatch):
    """Here the operation of TensorFlow is not replaced; it raises an error on a CPU."""
    monkeypatch.undo()
    monkeypatch.setattr(native, "unavailable", lambda kind=None: "TensorFlow sees a GPU, and they run on a CPU")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: [f"one {kind}"])
    layer = build(layers.GRU(UNITS, go_backwards=True))
    assert layer.choose_implementation().implementation == "cudnn"
    expected = build(layers.GRU(UNITS, go_backwards=True, implementation="xla"))
    for mask in (None, RIGHT):
        assert_close(layer(draw(BATCH, TIME, FEATURES), mask=mask), expected(draw(BATCH, TIME, FEATURES), mask=mask), 0)


def test_asking_for_cudnn_without_a_gpu_raises():
    reason = "Keras finds no GPU with cuDNN on its tensorflow backend"
    with pytest.raises(NotImplementedError, match=f"`implementation` asks for 'cudnn', but {reason}"):
        layers.LSTM(UNITS, implementation="cudnn")(draw(BATCH, TIME, FEATURES))


def test_convert_compiles_the_copy_only_if_keras_compiles_the_original(cudnn_calls, monkeypatch):
    """With `jit_compile="auto"` Keras compiles a model on a GPU if all layers allow it; its LSTM does not."""
    gpu = types.SimpleNamespace(device_type="GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [gpu])
    model = keras.Sequential([keras.Input((TIME, FEATURES)), keras.layers.LSTM(UNITS)])
    model.compile("sgd", "mse")
    copy = keras_seq.convert(model)
    assert (copy.jit_compile, model.jit_compile) == (False, False)
    model = keras.Sequential([keras.Input((TIME, FEATURES)), layers.LSTM(UNITS)])
    model.compile("sgd", "mse")
    assert model.jit_compile  # no layer of keras_seq rules XLA out

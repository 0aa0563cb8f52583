# SPDX-License-Identifier: Apache-2.0
"""Which implementation runs: the one that is asked for, or one that is chosen and explained."""

import functools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import KINDS, draw, draw_states, needs_kernels

import keras_seq
from keras_seq import layers, ops
from keras_seq.ops import native
from keras_seq.ops.native_installation import how_to_rebuild

RECURRENT = [layers.SimpleRNN, layers.GRU, layers.LSTM]
MAKERS = [*RECURRENT, layers.AttentionDecoder]
ONE = np.ones((1, 1), "float32")
DRAWS = {"KerasSeq>DropoutMask", "KerasSeq>Dropout"}  # the operations that draw masks

# Sequences that are whole, padded on the right, on the left, with gaps, nothing but padding.
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
(BATCH, TIME), FEATURES, UNITS, RATE = MASK.shape, 3, 6, 0.4

pytestmark = pytest.mark.usefixtures("no_forced_implementation")


class OtherAttention(layers.LuongAttention):
    def __init__(self):
        super().__init__("general")

    def energies(self, query, keys, state):
        return 2 * super().energies(query, keys, state)


def run(layer):
    sequences = np.ones((1, 2, 3), "float32")
    return layer(sequences, sequences) if isinstance(layer, layers.AttentionDecoder) else layer(sequences)


@needs_kernels
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("implementation", ["auto", "xla", "native", 1, 2])
def test_a_layer_runs_the_implementation_it_is_given(make, implementation):
    layer = make(4, implementation=implementation)
    assert layer.implementation == ("auto" if implementation in (1, 2) else implementation)
    run(layer)
    assert layer.choose_implementation().implementation == ("xla" if implementation == "xla" else "native")


def tanh(x):
    return 0.5 * keras.ops.tanh(x)


@needs_kernels
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (layers.SimpleRNN, {}),
        (layers.GRU, {"layer_norm": True}),
        *((layers.LSTM, {option: 2}) for option in ("peephole", "layer_norm", "projection_units")),
    ],
)
@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (keras.layers.LeakyReLU(), "LeakyReLU"),  # a callable without a name
        (functools.partial(keras.activations.relu, max_value=1.0), "partial"),
        (tanh, "test_implementation.tanh"),  # not the function with this name that the kernels have
    ],
)
def test_any_callable_can_be_an_activation(make, options, activation, name):
    layer = make(4, activation=activation, **options)
    run(layer)
    choice = layer.choose_implementation()
    assert choice.implementation == "xla"
    assert name in choice.reason


def test_an_attentional_activation_is_not_mistaken_for_its_namesake():
    sequences = draw(2, 3, 4)
    results = []
    for implementation in ("auto", "xla"):
        keras.utils.set_random_seed(0)
        options = {"attend": "after", "attentional_units": 2, "implementation": implementation}
        layer = layers.AttentionDecoder(4, attentional_activation=tanh, **options)
        results.append(np.asarray(layer(sequences, sequences)))
    np.testing.assert_allclose(*results, atol=1e-6)


@needs_kernels
@pytest.mark.parametrize(
    ("make", "options", "reason"),
    [
        (layers.GRU, {"activation": "elu"}, "GRU with the activation.* elu, sigmoid"),
        (layers.LSTM, {"recurrent_activation": "softsign"}, "LSTM with the activation.* tanh, softsign"),
        (layers.SimpleRNN, {"activation": "gelu"}, "SimpleRNN with the activation.* gelu"),
        (layers.LSTM, {"dtype": "mixed_float16"}, "float16"),
        (layers.AttentionDecoder, {"attention": OtherAttention()}, "attention that is not of keras_seq"),
        (layers.AttentionDecoder, {"cell": layers.GRUCell(4, activation="elu")}, "GRU with .* elu.* with attention"),
    ],
)
def test_a_layer_without_a_kernel_reports_why_and_runs_on_xla(make, options, reason):
    choice = make(4, **options).choose_implementation()
    assert choice.implementation == "xla"
    assert re.search(f"no native kernel for .*{reason}", choice.reason)
    run(make(4, **options))
    layer = make(4, implementation="native", **options)
    for call in (run, keras_seq.explain):
        with pytest.raises(NotImplementedError, match=f"'native', but there is no native kernel for .*{reason}"):
            call(layer)


@pytest.mark.parametrize("make", RECURRENT)
def test_without_the_library_layers_run_on_xla(make, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.setattr(native, "_loaded", None)
    reason = f"the native kernels were not built; {how_to_rebuild()}"
    assert make(4).choose_implementation() == ("xla", reason)
    run(make(4))
    with pytest.raises(NotImplementedError) as error:
        run(make(4, implementation="native"))
    assert f"`implementation` asks for 'native', but {reason}. Use 'auto' or 'xla'." in str(error.value)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("implementation", ["cuda", 3, None])
def test_an_unknown_implementation_raises(make, implementation):
    with pytest.raises(ValueError, match=f"`implementation` must be one of .*Received: {implementation!r}"):
        make(4, implementation=implementation)


def test_functions_check_their_implementation_argument():
    sequences = np.ones((1, 2, 1), "float32")
    ops.simple_rnn(sequences, ONE, ONE, implementation="xla")
    with pytest.raises(NotImplementedError):
        ops.simple_rnn(sequences, ONE, ONE, activation="gelu", implementation="native")
    with pytest.raises(ValueError, match="`implementation`"):
        ops.simple_rnn(sequences, ONE, ONE, implementation="cuda")


def test_the_environment_variable_replaces_auto(monkeypatch):
    monkeypatch.setenv("KERAS_SEQ_IMPLEMENTATION", "xla")
    assert "KERAS_SEQ_IMPLEMENTATION" in layers.LSTM(4).choose_implementation().reason
    assert "`implementation`" in layers.LSTM(4, implementation="xla").choose_implementation().reason
    monkeypatch.setenv("KERAS_SEQ_IMPLEMENTATION", "native")
    with pytest.raises(NotImplementedError, match="KERAS_SEQ_IMPLEMENTATION"):
        run(layers.LSTM(4, activation="elu"))
    run(layers.LSTM(4, activation="elu", implementation="xla"))
    monkeypatch.setenv("KERAS_SEQ_IMPLEMENTATION", "cuda")
    with pytest.raises(ValueError, match=r"KERAS_SEQ_IMPLEMENTATION must be one of .*'cuda'"):
        run(layers.LSTM(4))


@needs_kernels
def test_use_implementation_replaces_auto():
    layer = layers.GRU(4)
    with ops.use_implementation("xla"):
        assert layer.choose_implementation() == ("xla", "asked for by `use_implementation`")
        with ops.use_implementation("auto"):
            assert layer.choose_implementation().implementation == "native"
    assert layer.choose_implementation().implementation == "native"
    with pytest.raises(ValueError, match="cuda"), ops.use_implementation("cuda"):
        pass


@needs_kernels
def test_explain_has_a_row_for_each_recurrent_layer(capsys):
    shared = layers.GRU(4, name="shared", return_sequences=True)
    inner = keras.Sequential([layers.SimpleRNN(4, name="deep", return_sequences=True)])
    model = keras.Sequential(
        [
            layers.Bidirectional(layers.LSTM(4, name="lstm", return_sequences=True, implementation="xla")),
            shared,
            inner,
            keras.layers.Dense(4),
            shared,
            keras.layers.GRU(4, name="foreign"),
        ]
    )
    explained = keras_seq.explain(model)
    rows = [(row.layer, row.kind, row.implementation) for row in explained]
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["layer", "kind", "implementation", "reason"]
    assert [line.split(maxsplit=3) for line in lines] == [list(row) for row in explained]
    assert rows == [
        ("forward_lstm", "LSTM", "xla"),
        ("backward_lstm", "LSTM", "xla"),
        ("shared", "GRU", "native"),
        ("deep", "SimpleRNN", "native"),
        ("foreign", "GRU", "keras"),
    ]
    assert all(row.reason for row in explained)
    assert keras_seq.explain(keras.layers.Dense(4)) == []
    assert capsys.readouterr().out == "no recurrent layer\n"
    decoder = layers.AttentionDecoder(4, name="decoder")
    assert [row.layer for row in keras_seq.explain(decoder, print_fn=None)] == ["decoder"]
    assert not capsys.readouterr().out


def operations(function, *shapes):
    """The types of all operations in the graph of a function, and in the graphs of the functions that it calls."""
    specs = [tf.TensorSpec(shape) for shape in shapes]
    graph = tf.function(function).get_concrete_function(*specs).graph.as_graph_def()
    inner = [node for called in graph.library.function for node in called.node_def]
    return {node.op for node in [*graph.node, *inner]}


OPTIONS_WITH_KERNELS = {
    "plain": {},
    "recurrent_dropout": {"recurrent_dropout": RATE},
    "recurrent_dropout a step": {"recurrent_dropout": RATE, "dropout_mode": "naive"},
    "everything": {
        "dropout": RATE,
        "recurrent_dropout": RATE,
        "recurrent_weight_dropout": RATE,
        "zoneout": RATE,
        "seed": 7,
        "num_layers": 2,
        "residual": True,
        "output_dropout": RATE,
    },
    "unroll": {"unroll": True},
    "no bias": {"use_bias": False},
    "backwards": {"go_backwards": True, "zero_output_for_mask": True},
    "learned state": {"initial_state_initializer": "zeros", "recompute": True},
    "bfloat16": {"dtype": "mixed_bfloat16", "recurrent_dropout": RATE},
    "float64": {"dtype": "float64"},
    "Keras's implementation": {"implementation": 1},
}
WITHOUT_KERNELS = {
    "GRU, activation": (lambda **o: layers.GRU(UNITS, activation="elu", **o), "GRU with .* elu, sigmoid"),
    "LSTM, gates": (lambda **o: layers.LSTM(UNITS, recurrent_activation="elu", **o), "LSTM with .* tanh, elu"),
    "SimpleRNN": (lambda **o: layers.SimpleRNN(UNITS, activation="gelu", **o), "SimpleRNN with .* gelu"),
    "LSTM, projection": (
        lambda **o: layers.LSTM(UNITS, projection_units=2, activation="elu", **o),
        "LSTM with a projection, the activation.* elu, sigmoid",
    ),
    "float16": (lambda **o: layers.LSTM(UNITS, dtype="mixed_float16", **o), "no native kernel for float16"),
    "cell of Keras": (lambda **o: layers.RNN(keras.layers.LSTMCell(UNITS), **o), "LSTMCell, which is not a cell of"),
}


def native_operations(layer):
    """The native recurrences in the graph of a call, which are the same with states, a mask and training as without."""
    shape = (BATCH, TIME, FEATURES)
    layer(draw(*shape))
    states = draw_states(layer, BATCH)
    with_all, with_none = (
        {operation for operation in operations(call, shape) if "KerasSeq" in operation and operation not in DRAWS}
        for call in (lambda x: layer(x, initial_state=states, mask=MASK, training=True), layer)
    )
    assert with_all == with_none
    return with_all


@needs_kernels
@pytest.mark.parametrize("name", OPTIONS_WITH_KERNELS)
@pytest.mark.parametrize("kind", [*KINDS, "Bidirectional"])
def test_native_kernels_run_whatever_the_options(kind, name):
    """Layers of Keras lose their fast path here (tensorflow#38236, #40944; keras#8935, #20902; keras PR 22874)."""
    if kind == "Bidirectional":
        kind, options = "LSTM", {**OPTIONS_WITH_KERNELS[name], "go_backwards": False}
        layer = layers.Bidirectional(layers.LSTM(UNITS, **options))
    else:
        layer = getattr(layers, kind)(UNITS, **OPTIONS_WITH_KERNELS[name])
    assert {row[2:] for row in keras_seq.explain(layer, print_fn=None)} == {("native", "a kernel covers it")}
    assert native_operations(layer) == {f"KerasSeq>{kind}"}


@pytest.mark.parametrize("name", WITHOUT_KERNELS)
def test_without_a_kernel_explain_and_the_error_give_the_reason(name):
    """See keras PR 22874 and keras#20902."""
    make, reason = WITHOUT_KERNELS[name]
    [row] = keras_seq.explain(make(), print_fn=None)
    assert row.implementation == "xla"
    layer = make()
    with pytest.raises(NotImplementedError, match=f"'native', but .*{reason}") as error:
        make(implementation="native")(draw(BATCH, TIME, FEATURES))
    assert row.reason in str(error.value)
    assert not native_operations(layer)


def test_explain_reports_layers_of_keras():
    """So that one that was forgotten in a model is noticed (keras PR 22874)."""
    model = keras.Sequential([layers.Bidirectional(layers.GRU(UNITS)), keras.layers.RepeatVector(2)])
    model.add(keras.layers.Bidirectional(keras.layers.LSTM(UNITS)))
    rows = keras_seq.explain(model, print_fn=None)
    assert [row.implementation == "keras" for row in rows] == [False, False, True, True]
    assert all("keras_seq.convert" in row.reason for row in rows[2:])


def test_explain_checks_its_argument():
    with pytest.raises(ValueError, match=r"`layer_or_model` must be a Keras layer or model. Received: 'lstm'"):
        ops.explain("lstm")

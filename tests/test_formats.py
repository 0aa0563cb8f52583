# SPDX-License-Identifier: Apache-2.0
"""Models in LiteRT's interpreter and in ONNX Runtime give what they give in Keras, for any batch and length."""

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import keras_seq
from keras_seq import layers

TOLERANCE = 1e-5
FEATURES = 3
FORMATS = ["litert", "onnx"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:In the future `np:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tf2onnx"),
]


def load(path):
    """A function `(signature, **inputs)` that runs an export, and returns a dict of arrays."""
    if path.suffix == ".tflite":
        litert = pytest.importorskip("ai_edge_litert.interpreter")
        interpreter = litert.Interpreter(str(path))
        return lambda key, **inputs: interpreter.get_signature_runner(key)(**inputs)
    onnxruntime = pytest.importorskip("onnxruntime")
    files = {path.stem: path} if path.is_file() else {file.stem: file for file in path.iterdir()}
    sessions = {key: onnxruntime.InferenceSession(str(file)) for key, file in files.items()}

    def run(key, **inputs):
        session = sessions[key if key in sessions else path.stem]
        return dict(zip([y.name for y in session.get_outputs()], session.run(None, inputs), strict=True))

    return run


def export(model, folder, format, **options):
    pytest.importorskip("tf2onnx" if format == "onnx" else "ai_edge_litert")
    path = folder / ("model.tflite" if format == "litert" else "model.onnx")
    keras_seq.export(model, path, format=format, **options)
    return load(path)


def draw_inputs(tensor, batch, time, seed=0):
    """An array for an input of a model, whose unknown sizes are those of batch and time."""
    rng = np.random.default_rng(seed)
    shape = [batch, *(time if size is None else size for size in tensor.shape[1:])]
    if tensor.dtype == "int32":
        return (rng.integers(1, 9, shape) * (rng.random(shape) < 0.7)).astype("int32")  # masked anywhere
    return (rng.normal(size=shape) * (rng.random(shape[:2]) < 0.7)[..., None]).astype("float32")


def check(model, folder, format, sizes=((2, 5), (3, 1), (1, 7))):
    run = export(model, folder, format)
    for batch, time in sizes:
        arrays = [draw_inputs(tensor, batch, time, seed=batch) for tensor in model.inputs]
        results = run("serving_default", **{x.name: a for x, a in zip(model.inputs, arrays, strict=True)})
        expected = keras.tree.flatten(model(arrays if len(arrays) > 1 else arrays[0]))
        assert len(results) == len(expected)
        for i, value in enumerate(expected):
            np.testing.assert_allclose(results[f"output_{i}"], np.asarray(value), rtol=TOLERANCE, atol=TOLERANCE)


@st.composite
def stacks(draw):
    """The source of a model, and for each of its layers the kind, options and merge mode, if there are two directions.

    Objects of Keras draw seeds, so `make` makes them.
    """
    specs = []
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(["LSTM", "GRU", "SimpleRNN", "MGU"]))
        options = {name: draw(st.booleans()) for name in ("go_backwards", "zero_output_for_mask", "use_bias")}
        options |= {"num_layers": draw(st.integers(1, 2)), "zoneout": draw(st.sampled_from([0.0, 0.2]))}
        options["initial_state_initializer"] = draw(st.sampled_from([None, "random_normal"]))
        if kind == "LSTM":
            options |= {name: draw(st.booleans()) for name in ("peephole", "layer_norm")}
            options["projection_units"] = draw(st.sampled_from([None, 2]))
        if kind == "GRU":
            options |= {"reset_after": draw(st.booleans()), "layer_norm": draw(st.booleans())}
        specs.append((kind, options, draw(st.sampled_from([None, "concat", "sum", "ave", "mul"]))))
    return draw(st.sampled_from(["tokens", "masking", "sequences"])), specs, draw(st.booleans())


def make(source, specs, return_sequences):
    """A model on tokens with masks, on sequences with `Masking`, or without masks."""
    if source == "tokens":
        stack = [keras.Input((None,), dtype="int32")]
        stack += [keras.layers.Embedding(9, FEATURES, mask_zero=True, embeddings_initializer="random_normal")]
    else:
        stack = [keras.Input((None, FEATURES))]
        stack += [keras.layers.Masking()] if source == "masking" else []
    for i, (kind, options, merge_mode) in enumerate(specs):
        is_last = i + 1 == len(specs)
        options = {**options, "go_backwards": options["go_backwards"] and not merge_mode}
        layer = getattr(layers, kind)(3, return_sequences=return_sequences or not is_last, **options)
        stack.append(layers.Bidirectional(layer, merge_mode=merge_mode) if merge_mode else layer)
    return keras.Sequential(stack)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=6, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(stack=stacks())
def test_any_stack_gives_what_it_gives_in_keras(format, tmp_path_factory, stack):
    check(make(*stack), tmp_path_factory.mktemp("export"), format)


def attending(**options):
    sequences, memory = keras.Input((None, FEATURES), name="sequences"), keras.Input((None, 4), name="memory")
    mask = keras.ops.any(keras.ops.not_equal(memory, 0), axis=-1)
    decoder = layers.AttentionDecoder(3, return_state=True, **options)
    return keras.Model([sequences, memory], decoder(sequences, memory, memory_mask=mask))


ATTENDING = {
    "Bahdanau": lambda: attending(),
    "Luong with input feeding": lambda: attending(
        attention=layers.LuongAttention("general"), cell="lstm", attend="after", attentional_units=5
    ),
    "coverage": lambda: attending(attention=layers.BahdanauAttention(4, coverage=True)),
    "monotonic after the cell": lambda: attending(attention=layers.MonotonicAttention(4), input_feeding=False),
}
OTHERS = {
    "TimeDistributed": lambda: keras.Sequential(
        [
            keras.Input((None, 4), dtype="int32"),
            keras.layers.Embedding(9, FEATURES, mask_zero=True),
            layers.TimeDistributed(layers.GRU(3)),
            layers.LSTM(3, return_state=True),
        ]
    ),
    "CRF": lambda: keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(9, FEATURES, mask_zero=True),
            layers.CRF(4),
        ]
    ),
    "unroll": lambda: keras.Sequential([keras.Input((4, FEATURES)), layers.GRU(3, unroll=True)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", [*ATTENDING, *OTHERS])
def test_attention_and_other_layers_give_what_they_give_in_keras(name, format, tmp_path):
    check((ATTENDING | OTHERS)[name](), tmp_path, format)


@pytest.mark.slow
def test_onnx_takes_empty_batches_and_empty_sequences(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, FEATURES)), layers.Bidirectional(layers.LSTM(3, return_sequences=True))]
    )
    check(model, tmp_path, "onnx", sizes=((0, 3), (2, 0)))


SOURCES = np.array([[4, 5, 6, 3], [5, 3, 0, 0]], "int32")
TARGETS = np.array([[4, 5, 3], [5, 6, 3]], "int32")


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_client_decodes_and_scores_with_the_functions_of_a_seq2seq(format, tmp_path):
    """Greedy search by `encode` and `step` finds the tokens of `generate`; `score` is that of the model."""
    keras.utils.set_random_seed(1)
    model = keras_seq.Seq2Seq(keras_seq.Encoder(9, 4, 6), keras_seq.Decoder(9, 4, 6, num_layers=2))
    path = tmp_path / ("model.tflite" if format == "litert" else "model")
    keras_seq.export(model, path, format=format)
    run = load(path)
    scores = run("score", inputs=SOURCES, targets=TARGETS)["log_probabilities"]
    np.testing.assert_allclose(scores, model.score(SOURCES, TARGETS), rtol=TOLERANCE, atol=TOLERANCE)
    for source in SOURCES[:, :2]:
        source = np.append(source[source != 3], 3).astype("int32")[None]
        inputs = run("encode", inputs=source)
        limit, outputs = int(inputs.pop("limits")[0]), []
        while len(outputs) < limit and outputs[-1:] != [3]:
            results = run("step", **inputs)
            outputs.append(int(np.argmax(results["log_probabilities"])))
            inputs["tokens"] = np.array(outputs[-1:], "int32")
            states = {name.removeprefix("next_"): x for name, x in results.items() if "state" in name}
            inputs |= states
        np.testing.assert_array_equal(outputs, model.generate(source)[0][: len(outputs)])


def strings():
    vectorizer = keras_seq.data.text_vectorizer(["abc"])
    return keras_seq.Seq2Seq(keras_seq.Encoder(7, 4, 5), keras_seq.Decoder(7, 4, 5), vectorizer, vectorizer)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (strings, r"`model` must not read strings.*the input 'inputs' of 'encode'. With `token_ids=True`"),
        (
            lambda: keras.Sequential([keras.Input((4, 3), batch_size=2), layers.GRU(3, stateful=True, name="kept")]),
            "`model` must have no stateful layers.*the layer 'kept' with stateful=True",
        ),
        (
            lambda: keras.Sequential([keras.Input((4, 3)), layers.GRU(3, dtype="mixed_bfloat16", name="low")]),
            "`model` must compute in float32.*the layer 'low' with the dtype policy 'mixed_bfloat16'",
        ),
    ],
)
def test_what_a_format_cannot_hold_raises_one_error_before_anything_is_written(make, message, format, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(make(), tmp_path, format)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_operation_that_litert_does_not_have_is_named_and_an_earlier_file_stays(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"earlier")
    model = keras.Sequential([keras.Input((None, FEATURES)), keras.layers.LSTM(3)])
    with pytest.raises(ValueError, match=r"operations TensorList.*`keras_seq.convert` turns them"):
        export(model, tmp_path, "litert")
    assert (tmp_path / "model.tflite").read_bytes() == b"earlier"
    check(keras_seq.convert(model), tmp_path, "litert")


@pytest.mark.parametrize("format", FORMATS)
def test_the_name_of_the_file_is_checked(format, tmp_path):
    model = keras.Sequential([keras.Input((None, FEATURES)), layers.GRU(3)])
    with pytest.raises(ValueError, match=r"`path` must end with '\.(tflite|onnx)'"):
        keras_seq.export(model, tmp_path / "model.bin", format=format)
    assert not list(tmp_path.iterdir())

# SPDX-License-Identifier: Apache-2.0
"""A decoder's steps in a search equal its call over whole sequences, whatever runs them."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_kernels
from small_seq2seq import make_model, random_words

import keras_seq
from keras_seq import Decoder, layers
from keras_seq.layers.search_step import start_search
from keras_seq.ops.implementation import use_implementation

SOURCES, POSITIONS, TIME, VOCABULARY, FEATURES, SUMMARY = 3, 5, 4, 7, 8, 4
rng = np.random.default_rng(0)
MEMORY = rng.normal(size=(SOURCES, POSITIONS, FEATURES)).astype("float32")
STARTS = rng.normal(size=(SOURCES, SUMMARY)).astype("float32")
MASK = np.arange(POSITIONS)[None] < np.array([5, 2, 3])[:, None]

DECODERS = {
    "lstm": lambda **k: Decoder(VOCABULARY, 3, 6, **k),
    "gru": lambda **k: Decoder(VOCABULARY, 3, 6, cell="gru", **k),
    "mgu": lambda **k: Decoder(VOCABULARY, 3, 17, cell="mgu", **k),
    "rnn": lambda **k: Decoder(VOCABULARY, 3, 6, cell="rnn", **k),
    "many tokens": lambda **k: Decoder(300, 3, 6, **k),
    "normalized energies": lambda **k: Decoder(
        VOCABULARY, 3, 6, attention=layers.BahdanauAttention(5, normalize=True), **k
    ),
    "coverage": lambda **k: Decoder(VOCABULARY, 3, 6, attention=layers.BahdanauAttention(5, coverage=True), **k),
    "monotonic": lambda **k: Decoder(VOCABULARY, 3, 6, attention="monotonic", **k),
    "luong": lambda **k: Decoder(VOCABULARY, 3, 6, attention="luong", **k),
    "luong before": lambda **k: Decoder(
        VOCABULARY, 3, 6, attention=layers.LuongAttention("general", scale=True), attend="before", **k
    ),
    "luong, not fed": lambda **k: Decoder(VOCABULARY, 3, 17, cell="gru", attention="luong", input_feeding=False, **k),
    "additive after": lambda **k: Decoder(300, 3, 6, cell="mgu", attend="after", **k),
    "coverage after": lambda **k: Decoder(
        VOCABULARY, 3, 6, attention=layers.BahdanauAttention(5, coverage=True), attend="after", **k
    ),
    "monotonic after": lambda **k: Decoder(VOCABULARY, 3, 6, attention="monotonic", attend="after", **k),
    "coverage, not fed": lambda **k: Decoder(
        VOCABULARY, 3, 6, attention=layers.BahdanauAttention(5, coverage=True), input_feeding=False, **k
    ),
    "monotonic, not fed": lambda **k: Decoder(VOCABULARY, 3, 6, attention="monotonic", input_feeding=False, **k),
    "concat before": lambda **k: Decoder(
        VOCABULARY, 3, 6, cell="gru", attention=layers.LuongAttention("concat", units=4), attend="before", **k
    ),
    "no attention": lambda **k: Decoder(VOCABULARY, 3, 6, cell="gru", attention=None, **k),
    "maxout": lambda **k: Decoder(VOCABULARY, 3, 6, cell="gru", readout="maxout", layer_norm=True, **k),
}


ON_XLA = {
    "cell of Keras": lambda **k: Decoder(VOCABULARY, 3, 6, cell=keras.layers.LSTMCell(6), attention="luong", **k),
    "layer_norm, not fed": lambda **k: Decoder(
        VOCABULARY, 3, 6, cell=layers.LSTMCell(6, layer_norm=True), attention="luong", input_feeding=False, **k
    ),
}


def make(name, **options):
    keras.utils.set_random_seed(1)  # the error in bfloat16 grows with the weights
    decoder = (DECODERS | ON_XLA)[name](**options)
    decoder.build((None, None), (None, None, FEATURES), (None, SUMMARY))
    return decoder


def teacher_forced(decoder, tokens, beams, mask):
    """Return logits and attention weights of the decoder's call, (rows, time, ...)."""
    mask = None if mask is None else np.repeat(mask, beams, 0)
    repeated = np.repeat(MEMORY, beams, 0), np.repeat(STARTS, beams, 0)
    return decoder(tokens, *repeated, memory_mask=mask, return_attention_scores=True)


def step_by_step(decoder, tokens, beams, mask, is_live=None):
    step, state, memory = decoder.start_search(tf.constant(MEMORY), tf.constant(STARTS), mask, beams)
    assert {len(x) for x in memory.values()} <= {SOURCES}
    state = [np.repeat(x, beams, axis=0) for x in state]
    results = []
    for t in range(TIME):
        logits, state, weights = step(tf.constant(tokens[:, t]), state, memory, is_live)
        results.append((logits, weights))
    return [np.stack(x, axis=1) for x in zip(*results, strict=True)]


def draw_tokens(decoder, beams):
    return rng.integers(1, decoder.vocabulary_size, size=(SOURCES * beams, TIME)).astype("int32")


@pytest.mark.parametrize(("beams", "mask"), [(1, None), (3, MASK)], ids=["greedy", "beams"])
@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        *((name, "auto") for name in DECODERS),
        ("lstm", "xla"),
        ("gru", "xla"),
        ("many tokens", "xla"),
        ("no attention", "xla"),
    ],
)
def test_steps_equal_the_teacher_forced_call(name, implementation, mask, beams):
    decoder = make(name, implementation=implementation)
    tokens = draw_tokens(decoder, beams)
    for actual, expected in zip(
        step_by_step(decoder, tokens, beams, mask), teacher_forced(decoder, tokens, beams, mask), strict=True
    ):
        np.testing.assert_allclose(actual, expected, atol=2e-6)


@pytest.mark.parametrize("implementation", [pytest.param("native", marks=needs_kernels), "xla"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_zoneout_takes_its_expected_value(cell, implementation):
    cell = {"lstm": layers.LSTMCell, "gru": layers.GRUCell}[cell](6, zoneout=0.4)
    layer, embedding = layers.AttentionDecoder(6, cell, implementation=implementation), keras.layers.Embedding(9, 3)
    tokens = rng.integers(0, 9, (SOURCES, TIME))
    expected = layer(embedding(tokens), MEMORY, memory_mask=MASK)
    step, memory = start_search(layer, embedding, MEMORY, MASK)
    state = layer.get_initial_state(MEMORY)
    for t in range(TIME):
        output, state, _ = step(tokens[:, t], state, memory)
        np.testing.assert_allclose(output, expected[:, t], atol=2e-6)


@pytest.mark.parametrize("name", DECODERS)
def test_rows_that_are_not_live_do_not_change_the_others(name):
    decoder = make(name)
    tokens = draw_tokens(decoder, 2)
    live = np.array([True, False, True, True, False, False])
    expected, _ = step_by_step(decoder, tokens, 2, MASK)
    actual, _ = step_by_step(decoder, tokens, 2, MASK, live)
    np.testing.assert_array_equal(actual[live], expected[live])


@needs_kernels
@pytest.mark.parametrize(("beams", "mask"), [(1, None), (3, MASK)], ids=["greedy", "beams"])
@pytest.mark.parametrize("name", DECODERS)
def test_native_steps_equal_those_on_xla(name, mask, beams):
    results, live = [], np.arange(SOURCES * beams) != 1
    tokens = draw_tokens(make(name), beams)
    for implementation in ("native", "xla"):
        decoder = make(name, dtype="float64", implementation=implementation)
        step, state, memory = decoder.start_search(tf.constant(MEMORY), tf.constant(STARTS), mask, beams)
        state = [np.repeat(x, beams, axis=0) for x in state]
        for t in range(TIME):
            logits, state, weights = step(tf.constant(tokens[:, t]), state, memory, live)
            results.append([np.array(x)[live] for x in (logits, weights, *state)])
    for native, xla in zip(results[:TIME], results[TIME:], strict=True):
        for actual, expected in zip(native, xla, strict=True):
            np.testing.assert_allclose(actual, expected, atol=1e-11)


@needs_kernels
@pytest.mark.parametrize(
    "options",
    [
        {"attention": "luong"},
        {"attention": "luong", "input_feeding": False, "num_layers": 2},
        {"attention": layers.LuongAttention("general"), "attend": "before"},
        {"attention": layers.BahdanauAttention(5, coverage=True)},
        {"attention": "monotonic", "attend": "after"},
    ],
    ids=str,
)
def test_generate_gives_the_same_texts(options):
    model, words, texts = make_model(**options), random_words(20), {}
    for implementation in ("native", "xla"):
        with use_implementation(implementation):
            texts[implementation] = [model.generate(words, sampler=name) for name in ("greedy", "beam")]
    assert texts["native"] == texts["xla"]
    assert len({text for of_sampler in texts["native"] for text in of_sampler}) > 3


@pytest.mark.parametrize("policy", ["float64", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "name", ["lstm", "no attention", "luong", "luong, not fed", "coverage", "monotonic after", "maxout"]
)
def test_steps_in_other_dtypes(name, policy):
    decoder = make(name, dtype=policy)
    tokens = draw_tokens(decoder, 2)
    actual, expected = step_by_step(decoder, tokens, 2, MASK)[0], teacher_forced(decoder, tokens, 2, MASK)[0]
    tolerance = 1e-11 if policy == "float64" else 2e-2
    np.testing.assert_allclose(actual.astype("float64"), np.array(expected, "float64"), atol=tolerance)


@pytest.mark.parametrize("cell", [layers.LSTMCell, layers.GRUCell])
def test_layer_normalisation_without_attention(cell):
    layer, embedding = layers.RNN(cell(6, layer_norm=True), return_sequences=True), keras.layers.Embedding(9, 3)
    tokens = rng.integers(0, 9, (SOURCES, TIME))
    expected = layer(embedding(tokens))
    step, memory = start_search(layer, embedding)
    state = [np.zeros((SOURCES, size), "float32") for size in keras.tree.flatten(layer.cell.state_size)]
    for t in range(TIME):
        output, state, _ = step(tokens[:, t], state, memory)
        np.testing.assert_allclose(output, expected[:, t], atol=2e-6)


@needs_kernels
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("lstm", {}, "native"),
        ("no attention", {}, "native"),
        ("luong", {}, "native"),
        ("luong, not fed", {}, "native"),
        ("coverage", {}, "native"),
        ("monotonic", {}, "native"),
        ("luong", {"implementation": "xla"}, "xla"),
        ("cell of Keras", {}, "xla"),
        ("layer_norm, not fed", {}, "native"),
    ],
)
def test_explain_tells_what_runs_the_steps(name, options, expected):
    decoder = make(name, **options)

    @tf.function
    def take_step():
        step, state, memory = decoder.start_search(tf.constant(MEMORY), tf.constant(STARTS), MASK)
        return step(tf.zeros([SOURCES], tf.int32), state, memory)[0]

    operations = take_step.get_concrete_function().graph.get_operations()
    is_native = any(op.type.startswith("KerasSeq>") for op in operations)
    row = next(row for row in keras_seq.explain(decoder, print_fn=None) if row.kind == "Decoder")
    assert row.implementation == expected == ("native" if is_native else "xla")
    assert row.reason.startswith("steps of a search; ") and "then all steps attend" not in row.reason


@needs_kernels
class TestPackedWeights:
    """The native ops keep packed weights between calls, as long as the weights are the same."""

    def make_layer_and_function(self):
        layer = layers.LSTM(8, return_sequences=True, implementation="native")
        layer.build((None, None, 5))
        return layer, tf.function(layer, input_signature=[tf.TensorSpec([None, None, 5])])

    def expected(self, layer, x):
        keras_layer = keras.layers.LSTM(8, return_sequences=True)
        keras_layer.build((None, None, 5))
        keras_layer.set_weights(layer.get_weights())
        return keras_layer(x)

    CHANGES = {
        "assign": lambda w: w.assign(ops_like(w)),
        "assign_add": lambda w: w.assign_add(ops_like(w)),
        "assign a part": lambda w: w.value[1, 2:4].assign([7.0, -7.0]),
        "scatter": lambda w: w.value.scatter_nd_update([[0, 0]], [3.0]),
        "raw": lambda w: tf.raw_ops.AssignVariableOp(resource=w.value.handle, value=ops_like(w)),
    }

    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("graph", [True, False])
    def test_a_changed_weight_is_seen(self, change, graph):
        layer, function = self.make_layer_and_function()
        call = function if graph else layer
        x = rng.normal(size=(2, 3, 5)).astype("float32")
        for _ in range(3):  # packs them in the second call
            np.testing.assert_allclose(call(x), self.expected(layer, x), atol=1e-6)
        for weight in (layer.cell.kernel, layer.cell.recurrent_kernel):
            self.CHANGES[change](weight)
            for _ in range(3):
                np.testing.assert_allclose(call(x), self.expected(layer, x), atol=1e-6)

    def test_training_between_predictions_is_seen(self):
        layer, function = self.make_layer_and_function()
        model = keras.Sequential([layer, keras.layers.Dense(1)])
        for optimizer in ("sgd", "adam"):
            model.compile(optimizer, "mse", jit_compile=optimizer == "sgd")
            x = rng.normal(size=(4, 3, 5)).astype("float32")
            for _ in range(3):
                function(x), function(x)
                before = layer.get_weights()
                model.train_on_batch(x, np.ones((4, 3, 1)))
                assert np.abs(before[0] - layer.get_weights()[0]).max() > 1e-5
                np.testing.assert_allclose(function(x), self.expected(layer, x), atol=1e-6)

    @pytest.mark.parametrize("units", [7, 16])
    def test_a_changed_weight_in_bfloat16_is_seen(self, units):
        kernel, recurrent = (tf.Variable(tf.zeros((rows, 4 * units), "bfloat16")) for rows in (5, units))
        x = tf.cast(rng.normal(size=(2, 3, 5)), "bfloat16")

        @tf.function
        def call(dtype, implementation):
            arguments = [tf.cast(a, dtype) for a in (x, kernel, recurrent)]
            return keras_seq.ops.lstm(*arguments, recompute=True, implementation=implementation)[0]

        for _ in range(3):
            for weight in (kernel, recurrent):
                weight.assign(tf.cast(rng.normal(size=weight.shape), "bfloat16"))
            first, *others = [call("bfloat16", "native") for _ in range(4)]  # the second one packs for later calls
            np.testing.assert_allclose(tf.cast(first, "float32"), call("float32", "xla"), atol=2e-2)
            for other in others:
                np.testing.assert_array_equal(tf.cast(other, "float32"), tf.cast(first, "float32"))

    def test_layers_with_equal_attributes_do_not_share_weights(self):
        pairs = [self.make_layer_and_function() for _ in range(2)]
        x = rng.normal(size=(2, 3, 5)).astype("float32")
        for _ in range(3):
            for layer, function in pairs:
                np.testing.assert_allclose(layer(x), self.expected(layer, x), atol=1e-6)
                np.testing.assert_allclose(function(x), self.expected(layer, x), atol=1e-6)

    def test_the_same_buffer_in_another_shape_is_another_weight(self):
        weights = tf.constant(rng.normal(size=24), "float32")
        recurrent = {n: tf.constant(rng.normal(size=(n, n)), "float32") for n in (4, 6)}

        for units in (4, 4, 6, 6, 4):
            kernel = tf.reshape(weights, (-1, units))
            x = rng.normal(size=(1, 1, kernel.shape[0])).astype("float32")
            outputs, _ = keras_seq.ops.simple_rnn(x, kernel, recurrent[units], recompute=True)
            np.testing.assert_allclose(outputs[:, 0], np.tanh(x[:, 0] @ kernel), atol=1e-6)

    def test_threads_see_the_weights_of_some_moment(self):
        """Weights are all equal, so an output shows which weights a call used; mixtures would show too."""
        layer, function = self.make_layer_and_function()
        x = np.ones((1, 1, 5), "float32")
        values = np.linspace(-0.3, 0.3, 4)
        allowed = []
        for value in values:
            layer.set_weights([np.full(w.shape, value) for w in layer.get_weights()])
            allowed.append(np.array(self.expected(layer, x))[0, 0, 0])
        wrong = []

        def predict():
            for _ in range(200):
                out = np.array(function(x))
                if np.abs(out - out[0, 0, 0]).max() > 1e-6:
                    wrong.append(out)

        threads = [threading.Thread(target=predict) for _ in range(4)]
        for thread in threads:
            thread.start()
        for i in range(100):
            layer.cell.kernel.assign(np.full(layer.cell.kernel.shape, values[i % 4]))
        for thread in threads:
            thread.join()
        assert not wrong
        np.testing.assert_allclose(function(x), self.expected(layer, x), atol=1e-6)


@needs_kernels
@pytest.mark.parametrize("name", ["lstm", "no attention", "luong", "luong, not fed"])
def test_a_gradient_through_native_steps_is_one_clear_error(name):
    decoder = make(name, implementation="native")
    step, state, memory = decoder.start_search(tf.constant(MEMORY), tf.constant(STARTS), None, 1)
    with tf.GradientTape() as tape:
        tape.watch(state)
        logits, *_ = step(tf.constant([1, 2, 3]), state, memory)
    with pytest.raises(NotImplementedError, match="No gradient flows through the native steps of a search"):
        tape.gradient(logits, state)


def ops_like(weight):
    return tf.constant(rng.normal(size=weight.shape), "float32")

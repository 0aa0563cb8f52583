# SPDX-License-Identifier: Apache-2.0
"""Attention after the cell, with input feeding, against the equations of Luong et al. (2015) and TensorFlow Addons."""

import keras
import numpy as np
import pytest
import references
import tensorflow as tf
from attentions import ATTENTIONS, CELLS, MASK, MEMORY_MASK, fill
from conftest import MinimalCell, assert_close, run_with_gradients

import keras_seq
from keras_seq import layers

TOLERANCE = 1e-11
BATCH, TIME, SOURCE, FEATURES, MEMORY, UNITS, ATTENTIONAL = 2, 3, 4, 2, 3, 3, 5
RNG = np.random.default_rng(1)
INPUTS, SOURCES = RNG.normal(size=(BATCH, TIME, FEATURES)), RNG.normal(size=(BATCH, SOURCE, MEMORY))

ORDERS = {
    "luong": {"attend": "after", "attentional_units": ATTENTIONAL},
    "wrapper": {"attend": "after"},
    "wrapper with a layer": {"attend": "after", "attentional_units": ATTENTIONAL, "attentional_activation": None},
    "not fed": {"input_feeding": False, "attentional_units": ATTENTIONAL},
}
every_order = pytest.mark.parametrize("order", ORDERS)


def make_decoder(cell, attention, order, **options):
    attention = ATTENTIONS[attention][0](dtype="float64")
    options |= {"return_state": True, "dtype": "float64", **ORDERS[order]}
    decoder = layers.AttentionDecoder(UNITS, cell, attention, **options)
    decoder.build(INPUTS.shape, SOURCES.shape)
    return fill(decoder)


def named_weights(decoder):
    """The attentional kernel or None, the weights of the cell, and those of the attention."""
    kernel = np.array(decoder.attentional_kernel) if decoder.attentional_units else None
    return kernel, decoder.cell.get_weights(), decoder.attention.get_weights()


@pytest.mark.parametrize(("attention", "cell"), [("general", "lstm"), ("bahdanau", "rnn"), ("coverage", "gru")])
@pytest.mark.parametrize("order", ["luong", "wrapper", "wrapper with a layer"])
def test_values_and_gradients_match_numpy(order, cell, attention):
    decoder = make_decoder(cell, attention, order)
    states = [np.random.default_rng(i).normal(size=(BATCH, size)) for i, size in enumerate(decoder.state_size)]
    activation = np.tanh if order == "luong" else (lambda x: x)
    kernels = int(decoder.attentional_units is not None)

    def expected(inputs, memory, *rest):
        state, weights = list(rest[: len(states)]), rest[len(states) :]
        hidden, attentions, state, attention_weights = references.attention_wrapper(
            CELLS[cell], inputs, memory, *weights[kernels : kernels + 3], *weights[:kernels],
            attend=ATTENTIONS[attention][1](memory, *weights[kernels + 3 :], mask=MEMORY_MASK), initial_state=state,
            activation=activation,
        )  # fmt: skip
        outputs = attentions if kernels else np.concatenate([hidden, attentions], axis=-1)
        return [outputs, attention_weights, *state, attentions[:, -1]]

    def run(inputs, memory, *state):
        state = [*state, *decoder.initial_attention_state(memory)]
        results = decoder(
            inputs, memory, initial_state=state, memory_mask=MEMORY_MASK, return_attention_scores=True
        )  # the last state is the coverage, if there is one
        return results[: 3 + len(states)]

    arguments = [INPUTS, SOURCES, *states]
    outputs, gradients = run_with_gradients(run, arguments, decoder.trainable_variables)
    arguments = [*arguments, *decoder.get_weights()]
    assert_close(outputs, expected(*arguments), TOLERANCE)
    assert_close(gradients, references.numerical_gradients(expected, arguments), TOLERANCE)


def test_attentional_vector_without_input_feeding():
    decoder = make_decoder("gru", "general", "not fed")
    attentional, weights, of_attention = named_weights(decoder)
    attend = ATTENTIONS["general"][1](SOURCES, *of_attention, mask=None)
    joined, state, attention_weights = references.any_attention_decoder(
        references.gru, INPUTS, *weights, attend=attend, input_feeding=False
    )
    expected = [np.tanh(joined @ attentional), attention_weights, *state]
    assert_close(decoder(INPUTS, SOURCES, return_attention_scores=True), expected, TOLERANCE)


def make_cell(kind):
    return {
        "lstm": lambda: layers.LSTMCell(UNITS, dtype="float64"),
        "zoneout": lambda: layers.LSTMCell(UNITS, zoneout=[0.1, 0], dtype="float64"),
        "normalized": lambda: layers.GRUCell(UNITS, layer_norm=True, dtype="float64"),
        "keras": lambda: keras.layers.GRUCell(UNITS, dtype="float64"),
        "minimal": lambda: MinimalCell(UNITS, dtype="float64"),  # its output and state differ in size
        "stack": lambda: keras.layers.StackedRNNCells(
            [layers.LSTMCell(UNITS, dtype="float64"), keras.layers.GRUCell(UNITS, dtype="float64")]
        ),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        ("lstm", "general"),
        ("zoneout", "coverage"),
        ("normalized", "monotonic, hard"),
        ("keras", "coverage"),
        ("minimal", "general"),
        ("stack", "coverage"),
    ],
)
@every_order
def test_layer_decoder_and_single_steps_agree(kind, attention, order):
    """Also at masked steps, which leave all states unchanged and repeat the output."""
    cell = layers.AttentionCell(
        make_cell(kind), ATTENTIONS[attention][0](dtype="float64"), dtype="float64", **ORDERS[order]
    )
    options = {"return_sequences": True, "return_state": True, "dtype": "float64"}
    layer = layers.RNN(cell, **options)
    masks = {"mask": MASK, "memory_mask": MEMORY_MASK}
    layer(INPUTS, memory=SOURCES)
    fill(layer)
    outputs, *states = layer(INPUTS, memory=SOURCES, **masks)
    assert outputs.shape[-1] == cell.output_size
    decoder = layers.AttentionDecoder(
        cell.cell_output_size, make_cell(kind), ATTENTIONS[attention][0](dtype="float64"), return_state=True,
        dtype="float64", **ORDERS[order],
    )  # fmt: skip
    decoder(INPUTS, SOURCES)
    decoder.set_weights(layer.get_weights())
    assert_close([outputs, *states], decoder(INPUTS, SOURCES, **masks), 0)

    keys = cell.project_memory(SOURCES)
    for row in range(BATCH):
        memory = SOURCES[row : row + 1]
        state = cell.get_initial_state(memory=memory)
        expected = np.zeros(outputs.shape[-1])  # until the first unmasked step
        for t in range(TIME):
            if MASK[row, t]:
                step = {"keys": keys[row : row + 1], "memory_mask": MEMORY_MASK[row : row + 1]}
                output, state = cell(INPUTS[row : row + 1, t], state, memory, **step)
                expected = output[0]
            assert_close(outputs[row, t], expected, 1e-13)
        assert_close([s[row : row + 1] for s in states], state, 1e-13)


def test_a_keras_cell_gives_the_same_numbers():
    results = []
    for module in (layers, keras.layers):
        decoder = make_decoder(module.LSTMCell(UNITS, dtype="float64"), "general", "luong")

        def run(inputs, memory, decoder=decoder):
            return decoder(inputs, memory, mask=MASK, memory_mask=MEMORY_MASK)

        results.append(run_with_gradients(run, [INPUTS, SOURCES], decoder.trainable_variables))
    assert_close(*results, TOLERANCE)


@pytest.mark.parametrize("order", ["luong", "wrapper"])
def test_zoneout_in_training_acts_before_the_attention(order):
    """With a rate close to 1 the state stays the same, so every step attends with it."""
    cell = layers.LSTMCell(UNITS, zoneout=[0.999, 0], dtype="float64", seed=1)
    decoder = make_decoder(cell, "general", order)
    state = [np.ones((BATCH, UNITS))] * 2
    outputs, hidden, *_ = decoder(INPUTS, SOURCES, initial_state=state, training=True)
    assert_close(hidden, state[0], 0)
    kernel, _, of_attention = named_weights(decoder)
    context, _ = ATTENTIONS["general"][1](SOURCES, *of_attention, mask=None)(state[0])
    expected = np.concatenate([state[0], context], axis=-1)
    expected = expected if kernel is None else np.tanh(expected @ kernel)
    assert_close(outputs, np.repeat(expected[:, None], TIME, axis=1), TOLERANCE)


@pytest.mark.parametrize("kind", ["lstm", "keras"])
@pytest.mark.parametrize("order", ["luong", "wrapper"])
def test_calls_continue_from_the_returned_states(kind, order):
    decoder = make_decoder(make_cell(kind), "coverage", order)
    outputs, *states = decoder(INPUTS, SOURCES)
    first, *between = decoder(INPUTS[:, :2], SOURCES)
    second, *after = decoder(INPUTS[:, 2:], SOURCES, initial_state=between)
    assert_close([np.concatenate([first, second], axis=1), *after], [outputs, *states], 1e-13)


@every_order
def test_options_of_rnn(order):
    cell = layers.AttentionCell(
        make_cell("lstm"), ATTENTIONS["coverage"][0](dtype="float64"), dtype="float64", **ORDERS[order]
    )
    options = {"dtype": "float64", "return_sequences": True, "return_state": True}
    plain, backwards, zeros, unrolled = (
        layers.RNN(cell, **options, **changes)
        for changes in ({}, {"go_backwards": True}, {"zero_output_for_mask": True}, {"unroll": True})
    )
    masks = {"memory": SOURCES, "memory_mask": MEMORY_MASK, "mask": MASK}
    expected = plain(INPUTS, **masks)
    assert_close(backwards(INPUTS, **masks), plain(INPUTS[:, ::-1], **(masks | {"mask": MASK[:, ::-1]})), 0)
    assert_close(zeros(INPUTS, **masks)[0], expected[0] * MASK[:, :, None], 0)
    assert_close(unrolled(INPUTS, **masks), expected, 1e-13)
    symbolic = plain(keras.Input((TIME, FEATURES)), memory=keras.Input((SOURCE, MEMORY)))
    assert [x.shape[1:] for x in symbolic] == [tuple(x.shape[1:]) for x in expected]


@pytest.mark.parametrize(("order", "mode"), [("wrapper", "graph"), ("luong", "jit")])
def test_compiled_training_draws_the_same_masks_as_eager_training(order, mode):
    """Dropout and zoneout masks from the same seed."""
    results = []
    for run_mode in ("eager", mode):
        options = {"dropout": 0.5, "recurrent_dropout": 0.5, "zoneout": 0.3, "seed": 3, "dtype": "float64"}
        attention = ATTENTIONS["coverage"][0](dtype="float64")
        decoder = layers.AttentionDecoder(
            UNITS, layers.GRUCell(UNITS, **options), attention, dtype="float64", **ORDERS[order]
        )
        decoder.build(INPUTS.shape, SOURCES.shape)
        fill(decoder)

        def run(inputs, memory, decoder=decoder):
            return decoder(inputs, memory, mask=tf.constant(MASK), training=True)

        results.append(run_with_gradients(run, [INPUTS, SOURCES], decoder.trainable_variables, run_mode))
    assert_close(*results, 1e-11)
    assert not np.allclose(results[0][0][0], decoder(INPUTS, SOURCES, mask=MASK))


def test_choice_of_implementation():
    expected = layers.GRU(UNITS).choose_implementation().implementation
    after = layers.AttentionDecoder(UNITS, "gru", "luong", attend="after")
    assert after.choose_implementation().implementation == expected
    not_fed = layers.AttentionDecoder(UNITS, "gru", "luong", input_feeding=False, attentional_units=2)
    assert not_fed.choose_implementation().implementation == expected
    options = {"attend": "after", "attentional_units": 2, "attentional_activation": "gelu"}
    with pytest.raises(
        NotImplementedError, match="'native', but there is no native kernel for attentional vectors with"
    ):
        layers.AttentionDecoder(UNITS, "gru", **options, implementation="native")(INPUTS, SOURCES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attend": "first"}, r"`attend` must be one of \('before', 'after'\). Received: 'first'"),
        ({"attend": "before", "input_feeding": False}, "`attend='before'` needs `input_feeding=True`"),
        ({"attentional_units": 4}, "`attentional_units` needs `attend='after'`. Received: 4 with attend='before'"),
        ({"attend": "after", "attentional_units": 0}, "`attentional_units` must be a positive integer. Received: 0"),
    ],
)
def test_invalid_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        layers.AttentionDecoder(UNITS, **options)
    with pytest.raises(ValueError, match=message):
        layers.AttentionCell(layers.GRUCell(UNITS), layers.LuongAttention("general"), **options)


def test_number_of_states_is_checked():
    decoder = layers.AttentionDecoder(UNITS, "gru", "luong", attend="after")
    decoder(INPUTS, SOURCES)
    with pytest.raises(ValueError, match="`states` must be a list of 2: 1 of the cell and 1 of the attention"):
        decoder.step(INPUTS[:, 0], [np.zeros((BATCH, UNITS))], SOURCES, decoder.project_memory(SOURCES))


class TestDecoder:
    """`keras_seq.Decoder`: "luong" follows the paper."""

    @staticmethod
    def make(**options):
        options = {"attention": "luong", "cell": "gru", **options}
        decoder = keras_seq.Decoder(9, 4, UNITS, **options)
        tokens = np.array([[2, 5, 4], [2, 6, 3]])
        memory, summary = SOURCES.astype("float32"), np.ones((BATCH, 2), "float32")
        decoder(tokens, memory, summary)
        return decoder, tokens, memory, summary

    def test_luong_follows_the_paper(self):
        decoder, tokens, memory, summary = self.make(dtype="float64")
        fill(decoder)
        logits, weights = decoder(tokens, memory, summary, return_attention_scores=True)
        layer = decoder.recurrent_layer
        attentional, of_cell, (key_kernel,) = named_weights(layer)
        embedded = decoder.embedding.get_weights()[0][tokens]
        [kernel, bias] = decoder.bridges[0].get_weights()
        _, attentions, _, attention_weights = references.attention_wrapper(
            references.gru, embedded, memory, *of_cell, attentional,
            attend=references.luong(memory, key_kernel, score="general"),
            initial_state=[np.tanh(summary @ kernel + bias)],
        )  # fmt: skip
        kernel, bias = decoder.readout.get_weights()
        assert_close([logits, weights], [attentions @ kernel + bias, attention_weights], 1e-11)

    @pytest.mark.parametrize("options", [{}, {"input_feeding": False}, {"attention": "bahdanau", "attend": "after"}])
    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
    def test_single_steps_equal_the_teacher_forced_call(self, options, policy):
        decoder, tokens, memory, summary = self.make(**options, dtype=policy)
        mask = MEMORY_MASK
        logits, weights = decoder(tokens, memory, summary, memory_mask=mask, return_attention_scores=True)
        memory, summary = (keras.ops.cast(x, decoder.compute_dtype) for x in (memory, summary))
        (step, state, searched), steps = decoder.start_search(memory, summary, mask), []
        for t in range(TIME):
            step_logits, state, step_weights = step(tokens[:, t], state, searched)
            steps.append([keras.ops.cast(x, "float32") for x in (step_logits, step_weights)])
        expected = [keras.ops.cast(x, "float32") for x in (logits, weights)]
        tolerance = 1e-6 if policy == "float32" else 2e-2
        assert_close([np.stack(x, axis=1) for x in zip(*steps, strict=True)], expected, tolerance)

    @pytest.mark.parametrize(
        ("options", "attend"),
        [
            ({"attention": "bahdanau"}, "before"),
            ({"attention": "monotonic"}, "before"),
            ({"attention": "bahdanau", "input_feeding": False}, "after"),
            ({"attention": layers.LuongAttention("general")}, "after"),
            ({"attention": "luong", "attend": "before"}, "before"),
        ],
    )
    def test_default_order_of_each_attention(self, options, attend):
        decoder, *arguments = self.make(**options)
        assert decoder.recurrent_layer.attend == attend
        assert decoder.recurrent_layer.attentional_units == (UNITS if attend == "after" else None)
        config = decoder.get_config()
        twin = keras_seq.Decoder.from_config(config)
        assert twin.get_config() == config
        twin(*arguments)
        twin.set_weights(decoder.get_weights())
        assert_close(twin(*arguments), decoder(*arguments), 0)

    def test_order_without_attention_raises(self):
        with pytest.raises(ValueError, match="`attend` must be None and `input_feeding` True if `attention` is None"):
            keras_seq.Decoder(9, 4, 4, attention=None, attend="after")

# SPDX-License-Identifier: Apache-2.0
"""Cells that attend: any cell, any attention, by `RNN`, by `AttentionDecoder` and step by step, against NumPy."""

import keras
import numpy as np
import pytest
import references
import tensorflow as tf
from conftest import assert_close, run_with_gradients
from test_rnn import MinimalCell

import keras_seq
from keras_seq import layers

TOLERANCE = 1e-11
BATCH, TIME, SOURCE, FEATURES, MEMORY, UNITS, ATTENTION = 2, 3, 4, 2, 3, 3, 2
MASK = np.array([[True, True, False], [False, True, True]])
MEMORY_MASK = np.array([[True, True, False, True], [True, False, True, False]])
CELLS = {"rnn": references.simple_rnn, "gru": references.gru, "lstm": references.lstm}
RNG = np.random.default_rng(0)
INPUTS, SOURCES = RNG.normal(size=(BATCH, TIME, FEATURES)), RNG.normal(size=(BATCH, SOURCE, MEMORY))


def noiseless(**options):
    return layers.MonotonicAttention(ATTENTION, noise_std=0, **options)


# How each is made, and its steps in NumPy, from the memory and the weights in the order of the layer.
ATTENTIONS = {
    "bahdanau": (lambda **o: layers.BahdanauAttention(ATTENTION, **o), references.bahdanau),
    "normalized": (lambda **o: layers.BahdanauAttention(ATTENTION, normalize=True, **o), references.bahdanau),
    "coverage": (
        lambda **o: layers.BahdanauAttention(ATTENTION, coverage=True, **o),
        lambda memory, *w, mask: references.bahdanau(memory, *w[:-1], coverage_kernel=w[-1], mask=mask),
    ),
    "normalized coverage": (
        lambda **o: layers.BahdanauAttention(ATTENTION, normalize=True, coverage=True, **o),
        lambda memory, *w, mask: references.bahdanau(memory, *w[:-1], coverage_kernel=w[-1], mask=mask),
    ),
    "dot": (
        lambda **o: layers.LuongAttention(scale=0.3, **o),
        lambda memory, mask: references.luong(memory, score="dot", scale=0.3, mask=mask),
    ),
    "general": (
        lambda **o: layers.LuongAttention("general", scale=True, **o),
        lambda memory, kernel, scale, mask: references.luong(memory, kernel, score="general", scale=scale, mask=mask),
    ),
    "concat": (
        lambda **o: layers.LuongAttention("concat", ATTENTION, scale=True, **o),
        lambda memory, *w, mask: references.luong(memory, *w[:-1], score="concat", scale=w[-1], mask=mask),
    ),
    "monotonic, soft": (noiseless, lambda *a, mask: references.monotonic(*a, training=True, mask=mask)),
    "monotonic, hard": (noiseless, lambda *a, mask: references.monotonic(*a, training=False, mask=mask)),
}
every_attention = pytest.mark.parametrize("attention", ATTENTIONS)
either_feeding = pytest.mark.parametrize("input_feeding", [True, False])


def fill(layer, seed=0):
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    return layer


def make_decoder(cell, attention, input_feeding=True, **options):
    attention = ATTENTIONS[attention][0](dtype="float64")
    decoder = layers.AttentionDecoder(
        UNITS, cell, attention, input_feeding, return_state=True, dtype="float64", **options
    )
    decoder.build(INPUTS.shape, SOURCES.shape)
    return fill(decoder)


def decode_with(decoder, training=False, **masks):
    def decode(inputs, memory, *state):
        state = list(state) or None
        return decoder(inputs, memory, initial_state=state, return_attention_scores=True, training=training, **masks)

    return decode


@every_attention
@either_feeding
def test_values_and_gradients(attention, input_feeding):
    cell = list(CELLS)[list(ATTENTIONS).index(attention) % len(CELLS)]
    decoder, look = make_decoder(cell, attention, input_feeding), ATTENTIONS[attention][1]
    states = [np.random.default_rng(i).normal(size=(BATCH, size)) for i, size in enumerate(decoder.state_size)]

    def expected(inputs, memory, *rest):
        state, weights = list(rest[: len(states)]), rest[len(states) :]
        look_at = look(memory, *weights[3:], mask=MEMORY_MASK)
        outputs, state, attention_weights = references.attentive(
            CELLS[cell], inputs, memory, *weights[:3], look=look_at, input_feeding=input_feeding, initial_state=state
        )
        return [outputs, attention_weights, *state]

    arguments = [INPUTS, SOURCES, *states]
    run = decode_with(decoder, attention.endswith("soft"), memory_mask=MEMORY_MASK)

    def without_attention_state(*arguments):
        return run(*arguments)[: 2 + len(states)]

    outputs, gradients = run_with_gradients(without_attention_state, arguments, decoder.trainable_variables)
    arguments = [*arguments, *decoder.get_weights()]
    assert_close(outputs, expected(*arguments), TOLERANCE)
    assert_close(gradients, references.numerical_gradients(expected, arguments), TOLERANCE)


def test_extended_cells_have_their_hand_written_derivatives():
    cell = layers.LSTMCell(UNITS + 1, peephole=True, projection_units=UNITS, zoneout=[0.2, 0.1], dtype="float64")
    decoder = make_decoder(cell, "bahdanau")

    def expected(inputs, memory, kernel, recurrent_kernel, bias, peephole, projection, *weights):
        zoneout = [np.full((BATCH, UNITS), 0.2), np.full((BATCH, UNITS + 1), 0.1)]
        outputs, state, attention_weights = references.attentive(
            references.extended_lstm, inputs, memory, kernel, recurrent_kernel, bias, peephole=peephole,
            projection=projection, zoneout_masks=zoneout, look=references.bahdanau(memory, *weights),
        )  # fmt: skip
        return [outputs, attention_weights, *state]

    outputs, gradients = run_with_gradients(decode_with(decoder), [INPUTS, SOURCES], decoder.trainable_variables)
    arguments = [INPUTS, SOURCES, *decoder.get_weights()]
    assert_close(outputs, expected(*arguments), TOLERANCE)
    assert_close(gradients, references.numerical_gradients(expected, arguments), TOLERANCE)


def test_normalisation_is_of_inputs_and_context_together():
    decoder = make_decoder(layers.GRUCell(UNITS, layer_norm=True, dtype="float64"), "bahdanau")
    kernel, recurrent_kernel, bias, input_gamma, recurrent_gamma, *weights = decoder.get_weights()
    norms = {"input_gamma": input_gamma, "recurrent_gamma": recurrent_gamma}
    look = references.bahdanau(SOURCES, *weights)
    outputs, state, attention_weights = references.attentive(
        references.layer_norm_gru, INPUTS, SOURCES, kernel, recurrent_kernel, bias, look=look, norms=norms
    )
    assert_close(decode_with(decoder)(INPUTS, SOURCES), [outputs, attention_weights, *state], TOLERANCE)


@either_feeding
def test_cells_of_keras_give_the_numbers_of_ours(input_feeding):
    ours, theirs = (module.LSTMCell(UNITS, dtype="float64") for module in (layers, keras.layers))
    results = []
    for cell in (ours, theirs):
        decoder = make_decoder(cell, "bahdanau", input_feeding)
        run = decode_with(decoder, mask=MASK, memory_mask=MEMORY_MASK)
        results.append(run_with_gradients(run, [INPUTS, SOURCES], decoder.trainable_variables))
    assert_close(*results, TOLERANCE)


def make_cell(kind):
    return {
        "lstm": lambda: layers.LSTMCell(UNITS, zoneout=0.1, dtype="float64"),
        "normalized": lambda: layers.GRUCell(UNITS, layer_norm=True, dtype="float64"),
        "keras": lambda: keras.layers.GRUCell(UNITS, dtype="float64"),
        "minimal": lambda: MinimalCell(UNITS, dtype="float64"),  # its output is of another size than its state
        "stack": lambda: keras.layers.StackedRNNCells(
            [layers.LSTMCell(UNITS, dtype="float64"), keras.layers.GRUCell(UNITS, dtype="float64")]
        ),
    }[kind]()


@pytest.mark.parametrize("attention", ["bahdanau", "coverage", "general", "monotonic, hard"])
@pytest.mark.parametrize(
    "kind", ["lstm", "normalized", "keras", *(pytest.param(k, marks=pytest.mark.slow) for k in ("minimal", "stack"))]
)
@either_feeding
def test_a_layer_a_decoder_and_steps_are_one(kind, attention, input_feeding):
    cell = layers.AttentionCell(
        make_cell(kind), ATTENTIONS[attention][0](dtype="float64"), input_feeding, dtype="float64"
    )
    options = {"return_sequences": True, "return_state": True, "dtype": "float64", "implementation": "xla"}
    layer = layers.RNN(cell, **options)
    masks = {"mask": MASK, "memory_mask": MEMORY_MASK}
    layer(INPUTS, memory=SOURCES)
    outputs, *states = layer(INPUTS, memory=SOURCES, **masks) if fill(layer) else None
    attention = ATTENTIONS[attention][0](dtype="float64")
    decoder = layers.AttentionDecoder(
        cell.cell_output_size, make_cell(kind), attention, input_feeding, return_state=True, dtype="float64",
        implementation="xla",
    )  # fmt: skip
    decoder(INPUTS, SOURCES)
    decoder.set_weights(layer.get_weights())
    assert_close([outputs, *states], decoder(INPUTS, SOURCES, **masks), 0)

    keys = cell.project_memory(SOURCES)
    for row in range(BATCH):  # the steps that are not masked, of one sequence
        memory, visible = SOURCES[row : row + 1], np.flatnonzero(MASK[row])
        state = cell.get_initial_state(memory=memory)
        shown = np.zeros(outputs.shape[-1])  # before the first one
        for t in range(TIME):
            if t in visible:
                step = {"keys": keys[row : row + 1], "memory_mask": MEMORY_MASK[row : row + 1]}
                output, state = cell(INPUTS[row : row + 1, t], state, memory, **step)
                shown = output[0]
            assert_close(outputs[row, t], shown, 1e-13)
        assert_close([s[row : row + 1] for s in states], state, 1e-13)


@pytest.mark.parametrize("attention", ATTENTIONS)
@either_feeding
def test_parts_compute_in_the_dtype_of_the_decoder(attention, input_feeding):
    """As Keras's layers within layers do: an attention made in float32 runs at the precision of its decoder."""
    decoders = []
    for dtype in ("float32", "float64"):
        attending = ATTENTIONS[attention][0](dtype=dtype)
        decoders.append(layers.AttentionDecoder(SOURCES.shape[-1], "gru", attending, input_feeding, dtype="float64"))
        decoders[-1](INPUTS, SOURCES)
    made_single, made_double = decoders
    fill(made_single)
    made_double.set_weights(made_single.get_weights())
    outputs = made_single(INPUTS, SOURCES)
    assert_close(outputs, made_double(INPUTS, SOURCES), 1e-13)

    keys, state = made_single.attention.project_memory(SOURCES), made_single.get_initial_state(SOURCES)
    for t in range(INPUTS.shape[1]):
        output, state, _ = made_single.step(INPUTS[:, t], state, SOURCES, keys)
        assert_close(output, outputs[:, t], 1e-13)


@pytest.mark.parametrize("kind", ["lstm", "keras"])
@either_feeding
def test_a_run_goes_on_from_its_states(kind, input_feeding):
    """Also those of the attention, which knows where it has been; without them it starts afresh."""
    decoder = make_decoder(make_cell(kind), "coverage", input_feeding, implementation="xla")
    outputs, *states = decoder(INPUTS, SOURCES)
    first, *between = decoder(INPUTS[:, :2], SOURCES)
    second, *after = decoder(INPUTS[:, 2:], SOURCES, initial_state=between)
    assert_close([np.concatenate([first, second], axis=1), *after], [outputs, *states], 1e-13)
    afresh, *_ = decoder(INPUTS[:, 2:], SOURCES, initial_state=between[:-1])
    assert not np.allclose(afresh, second)


@pytest.mark.parametrize("kind", ["lstm", "keras"])
def test_options_of_the_layer(kind):
    cell = layers.AttentionCell(make_cell(kind), ATTENTIONS["coverage"][0](dtype="float64"), dtype="float64")
    options = {"dtype": "float64", "return_sequences": True, "return_state": True}
    plain, backwards, zeros, last, unrolled = (
        layers.RNN(cell, **(options | changes))
        for changes in (
            {},
            {"go_backwards": True},
            {"zero_output_for_mask": True},
            {"return_sequences": False, "return_state": False},
            {"unroll": True},
        )
    )
    masks = {"memory": SOURCES, "memory_mask": MEMORY_MASK, "mask": MASK}
    expected = plain(INPUTS, **masks)
    assert_close(backwards(INPUTS, **masks), plain(INPUTS[:, ::-1], **(masks | {"mask": MASK[:, ::-1]})), 0)
    assert_close(zeros(INPUTS, **masks)[0], expected[0] * MASK[:, :, None], 0)
    assert_close(last(INPUTS, **masks), expected[0][:, -1], 0)
    assert_close(unrolled(INPUTS, **masks), expected, 1e-13)


@pytest.mark.parametrize("kind", ["RNN", "AttentionDecoder"])
def test_masks_that_come_with_tensors(kind):
    """Those of an Embedding are those given, and either goes on with the outputs."""
    tokens, memory_tokens = np.array([[1, 2, 0], [3, 0, 0]]), np.array([[1, 2, 3, 0], [4, 0, 0, 0]])
    embedding = keras.layers.Embedding(5, 6, mask_zero=True)
    parts = layers.GRUCell(UNITS), layers.BahdanauAttention(ATTENTION, coverage=True)
    if kind == "RNN":
        layer = layers.RNN(layers.AttentionCell(*parts), return_sequences=True, return_state=True)
    else:
        layer = layers.AttentionDecoder(UNITS, *parts, return_state=True)
    target, source = keras.Input((3,), dtype="int32"), keras.Input((4,), dtype="int32")
    outputs = layer(embedding(target), memory=embedding(source))
    assert [tuple(x.shape) for x in outputs] == [(None, 3, UNITS), (None, UNITS), (None, 4)]
    implicit = keras.Model([target, source], outputs)([tokens, memory_tokens])
    masks = {"mask": tokens > 0, "memory_mask": memory_tokens > 0}
    explicit = layer(np.array(embedding(tokens)), memory=np.array(embedding(memory_tokens)), **masks)
    assert_close(implicit, explicit, 1e-6)
    for results in (explicit, layer(embedding(tokens), memory=embedding(memory_tokens))):
        np.testing.assert_array_equal(results[0]._keras_mask, tokens > 0)
        assert all(getattr(state, "_keras_mask", None) is None for state in results[1:])


def test_learned_initial_state():
    cell = layers.AttentionCell(layers.GRUCell(UNITS), layers.BahdanauAttention(ATTENTION, coverage=True))
    layer = layers.RNN(cell, return_sequences=True, initial_state_initializer="ones")
    outputs = layer(INPUTS, memory=SOURCES)
    plain = layers.RNN(cell, return_sequences=True)
    assert_close(outputs, plain(INPUTS, memory=SOURCES, initial_state=[np.ones((BATCH, UNITS))]), 1e-6)


@pytest.mark.parametrize("kind", ["ours", "keras", "stack"])
def test_dropout(kind):
    """Drawn anew in each call of training, one mask a sequence; none at inference."""
    rates = {"dropout": 0.5, "recurrent_dropout": 0.5}
    makers = {
        "ours": lambda: layers.GRUCell(8, **rates),
        "keras": lambda: keras.layers.GRUCell(8, **rates),
        "stack": lambda: keras.layers.StackedRNNCells([layers.GRUCell(8, **rates), keras.layers.LSTMCell(8, **rates)]),
    }
    layer = layers.RNN(layers.AttentionCell(makers[kind](), layers.BahdanauAttention(4)), return_sequences=True)
    layer(INPUTS, memory=SOURCES)
    run = tf.function(lambda training: layer(tf.constant(INPUTS, tf.float32), memory=SOURCES, training=training))
    assert_close(run(False), run(False), 0)
    assert not np.allclose(run(True), run(True))
    assert_close(layer(INPUTS, memory=SOURCES), run(False), 1e-5)  # no mask is left over from the graph


def identity_cell(kind, **options):
    """A cell whose output is its input `[x, context]`: what is zero there has been dropped."""
    cell = layers.SimpleRNNCell(FEATURES + MEMORY, "linear", use_bias=False, kernel_initializer="identity",
                                recurrent_initializer="zeros", seed=1, **options)  # fmt: skip
    return keras.layers.StackedRNNCells([cell]) if kind == "stack" else cell


@pytest.mark.parametrize("mode", ["variational", "naive"])
@pytest.mark.parametrize("attention", ["bahdanau", "coverage"])  # fused, and by the scan of any attention
@pytest.mark.parametrize("kind", ["cell", "stack"])
def test_dropout_drops_inputs_and_never_the_context(kind, attention, mode):
    inputs, sources = np.ones((400, 2, FEATURES)), np.ones((400, SOURCE, MEMORY))  # every context is of ones
    cell = layers.AttentionCell(identity_cell(kind, dropout=0.5, dropout_mode=mode), ATTENTIONS[attention][0]())
    layer = layers.RNN(cell, return_sequences=True)
    outputs = [np.array(layer(inputs, memory=sources, training=True))]
    state = cell.get_initial_state(memory=sources)
    outputs.append(np.array(cell(inputs[:, 0], state, sources, training=True)[0])[:, None])
    for output in outputs:
        x, context = np.split(output, [FEATURES], axis=-1)
        np.testing.assert_array_equal(np.unique(x), [0, 2])
        assert abs(np.mean(x == 0) - 0.5) < 5 * 0.5 / x[:, 0].size ** 0.5
        assert_close(context, np.ones_like(context), 1e-6)
    x = outputs[0][..., :FEATURES]
    assert np.array_equal(x[:, 0], x[:, 1]) == (mode == "variational")


DROPPED = {"dropout": 0.5, "recurrent_dropout": 0.5, "recurrent_weight_dropout": 0.5, "dtype": "float64"}


@pytest.mark.parametrize("attention", ["bahdanau", "coverage", "general"])
@pytest.mark.parametrize("kind", ["plain", "normalized", "stack"])
def test_every_path_draws_and_applies_the_same_masks(kind, attention):
    """Whole sequences at once, by Keras's protocol in the scan, and step by step."""

    def make_cell(seed, **options):
        cell = layers.GRUCell(UNITS, layer_norm=kind == "normalized", seed=seed, **options)
        if kind != "stack":
            return cell
        return keras.layers.StackedRNNCells([cell, layers.LSTMCell(UNITS, dtype="float64")])

    decoder, stepping = (make_decoder(make_cell(1, **DROPPED), attention) for _ in range(2))
    cell = make_cell(1, **DROPPED)
    first = cell.cells[0] if kind == "stack" else cell
    masks = first.draw_dropout_masks(INPUTS, training=True)

    # The same decoder at inference, with the masks in its inputs and kernel.
    plain = make_decoder(make_cell(1, dtype="float64"), attention)
    outputs, *_ = decoder(INPUTS, SOURCES, training=True)
    inner = stepping.cell.cells[0] if kind == "stack" else stepping.cell
    inner.get_dropout_mask(INPUTS[:, 0])
    inner.get_recurrent_dropout_mask(np.ones((BATCH, UNITS)))
    state = stepping.get_initial_state(SOURCES)
    for t in range(TIME):
        output, state, _ = stepping.step(INPUTS[:, t], state, SOURCES, training=True)
        assert_close(outputs[:, t], output, 1e-12)

    kernel = (plain.cell.cells[0] if kind == "stack" else plain.cell).recurrent_kernel
    kernel.assign(kernel * masks.recurrent_kernel)
    state = plain.get_initial_state(SOURCES)
    output, _, _ = plain.step(INPUTS[:, 0] * masks.inputs[:, 0], state, SOURCES)
    assert_close(outputs[:, 0], output, 1e-12)  # of the first step, whose previous output is zero


def test_a_cell_of_keras_drops_what_it_is_given():
    """The context too: its dropout is part of its `call`."""
    cell = keras.layers.SimpleRNNCell(FEATURES + MEMORY, "linear", use_bias=False, kernel_initializer="identity",
                                      recurrent_initializer="zeros", seed=1, dropout=0.5)  # fmt: skip
    cell = layers.AttentionCell(cell, layers.BahdanauAttention(ATTENTION))
    inputs, sources = np.ones((400, 2, FEATURES)), np.ones((400, SOURCE, MEMORY))
    outputs = np.array(layers.RNN(cell, return_sequences=True)(inputs, memory=sources, training=True))
    assert abs(np.mean(outputs[..., FEATURES:] == 0) - 0.5) < 5 * 0.5 / (400 * MEMORY) ** 0.5


def test_compiled():
    decoder = make_decoder("gru", "monotonic, soft")
    run = decode_with(decoder, training=True, mask=tf.constant(MASK), memory_mask=tf.constant(MEMORY_MASK))
    arguments = [INPUTS, SOURCES]
    expected = run_with_gradients(run, arguments, decoder.trainable_variables)
    assert_close(run_with_gradients(run, arguments, decoder.trainable_variables, "jit"), expected, 1e-11)


@every_attention
@either_feeding
def test_a_source_that_is_all_masked_is_no_source(attention, input_feeding):
    decoder = make_decoder("gru", attention, input_feeding, implementation="xla")
    run = decode_with(decoder, attention.endswith("soft"), memory_mask=np.array([[True] * SOURCE, [False] * SOURCE]))
    (outputs, attention_weights, *states), gradients = run_with_gradients(
        run, [INPUTS, SOURCES], decoder.trainable_variables
    )
    assert all(np.all(np.isfinite(x)) for x in [outputs, attention_weights, *states, *gradients])
    assert not np.any(attention_weights[1])
    assert not np.any(gradients[1][1])  # of the memory that nobody may look at
    assert_close(outputs[1], run(INPUTS, 0 * SOURCES)[0][1], 1e-12)


def test_what_runs():
    def choose(cell, attention, input_feeding=True, **options):
        decoder = layers.AttentionDecoder(UNITS, cell, ATTENTIONS[attention][0](), input_feeding, **options)
        layer = layers.RNN(layers.AttentionCell(decoder.cell, decoder.attention, input_feeding), **options)
        [row] = keras_seq.explain(layer, print_fn=None)
        assert (row.implementation, row.reason) == decoder.choose_implementation()
        return row

    of_cell = layers.GRU(UNITS).choose_implementation().implementation
    row = choose("gru", "general", input_feeding=False)
    assert row.implementation == of_cell
    assert row.reason.endswith("; then all steps attend")
    assert choose("gru", "general").implementation == "xla"
    assert (
        "MinimalCell"
        in layers.RNN(layers.AttentionCell(MinimalCell(2), layers.LuongAttention("general")))
        .choose_implementation()
        .reason
    )
    normalized = choose(layers.GRUCell(UNITS, layer_norm=True), "bahdanau")
    assert (normalized.implementation, normalized.reason) == (
        "xla",
        "there is no native kernel for GRU with layer_norm",
    )
    assert choose("lstm", "bahdanau", implementation="xla").reason == "asked for by `implementation`"
    with pytest.raises(NotImplementedError, match="'native', but there is no native kernel for"):
        choose("gru", "coverage", implementation="native")
    [decoder] = [layers.AttentionDecoder(UNITS, "gru", "luong", implementation="native")]
    with pytest.raises(NotImplementedError, match="'native', but there is no native kernel for"):
        decoder(INPUTS, SOURCES)


def test_a_subclass_runs_what_it_says():
    class Sharpened(layers.BahdanauAttention):
        def energies(self, query, keys, state):
            return 5 * super().energies(query, keys, state)

    class Doubled(layers.GRUCell):
        def call(self, inputs, states, training=False):
            return super().call(2 * inputs, states, training=training)

    for cell, attention in ((layers.GRUCell(UNITS), Sharpened(2)), (Doubled(UNITS), layers.BahdanauAttention(2))):
        decoder = layers.AttentionDecoder(UNITS, cell, attention)
        outputs = decoder(INPUTS, SOURCES)
        states = decoder.get_initial_state(SOURCES)
        for t in range(TIME):
            output, states, _ = decoder.step(INPUTS[:, t], states, SOURCES, decoder.project_memory(SOURCES))
            assert_close(outputs[:, t], output, 1e-5)


CELL = layers.AttentionCell(layers.GRUCell(UNITS), layers.BahdanauAttention(2, coverage=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layers.AttentionCell("gru", layers.BahdanauAttention(2)), "`cell` must be a recurrent cell.*'gru'"),
        (lambda: layers.AttentionCell(layers.GRUCell(2), keras.layers.Attention()), "`attention` must be an attention"),
        (
            lambda: layers.AttentionDecoder(2, attention="keys"),
            r"`attention` must be one of \['bahdanau', 'luong', 'mon",
        ),
        (lambda: layers.AttentionDecoder(4, layers.GRUCell(3)), "`units` must be the size of the cell's output, 3"),
        (
            lambda: layers.AttentionDecoder(3, layers.GRUCell(3), dropout=0.1),
            "`dropout`, .* for a `cell` given by name",
        ),
        (lambda: layers.RNN(CELL, stateful=True), "`stateful=True` excludes an `AttentionCell`"),
        (lambda: layers.RNN(CELL)(INPUTS), "`memory` must be given to a layer with an `AttentionCell`"),
        (
            lambda: layers.GRU(3)(INPUTS, memory=SOURCES),
            "`memory` is for a layer with an `AttentionCell`. Received: cell=",
        ),
        (
            lambda: layers.RNN(CELL)(INPUTS, memory=SOURCES[0]),
            r"`memory` must be \(batch, source, features\). .*\(4, 3\)",
        ),
        (
            lambda: layers.RNN(CELL)(INPUTS, memory=SOURCES[:1]),
            r"`memory` and `inputs` must have the same batch size.*\(1, 4, 3\)",
        ),
        (
            lambda: layers.RNN(CELL)(INPUTS, memory=SOURCES, memory_mask=MASK),
            r"`memory_mask` must have shape \(batch, source\) = \(2, 4\). Received: shape \(2, 3\)",
        ),
        (
            lambda: CELL(INPUTS[:, 0], [np.zeros((2, UNITS))], SOURCES),
            "`states` must be a list of 2: 1 of the cell and 1 of the attention. Received: 1",
        ),
        (lambda: CELL.get_initial_state(), "`get_initial_state` needs `memory`, or a `batch_size`"),
        (
            lambda: layers.AttentionDecoder(3, keras.layers.GRUCell(3))(
                INPUTS, SOURCES, initial_state=[np.ones((2, 3))] * 2
            ),
            "`states` must be a list of 1: 1 of the cell. Received: 2",
        ),
        (
            lambda: layers.AttentionDecoder(2, "gru", layers.LuongAttention())(INPUTS, SOURCES),
            "needs query and key of the same size",
        ),
    ],
)
def test_hostile_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class FailingCell(keras.layers.GRUCell):
    """A cell of Keras that fails as long as it is told to."""

    fails = True

    def call(self, inputs, states, training=False):
        result = super().call(inputs, states, training)
        if self.fails:
            raise RuntimeError("the cell failed")
        return result


@pytest.mark.parametrize("kind", ["decoder", "RNN", "no input feeding", "RNN without attention"])
def test_a_cell_that_fails_while_traced_leaves_no_masks(kind):
    cell = FailingCell(UNITS, dropout=0.5, recurrent_dropout=0.5)
    attention = layers.BahdanauAttention(ATTENTION)
    if kind == "RNN":
        layer = layers.RNN(layers.AttentionCell(cell, attention))
    elif kind == "RNN without attention":
        layer = layers.RNN(cell)
    else:
        layer = layers.AttentionDecoder(UNITS, cell, attention, input_feeding=kind == "decoder")

    def run():
        memory = {} if kind == "RNN without attention" else {"memory": SOURCES}
        return layer(INPUTS, **memory, training=True)

    cell.fails = False
    run()
    cell.fails = True
    with pytest.raises(RuntimeError, match="the cell failed"):
        tf.function(run, autograph=False)()
    cell.fails = False
    assert np.isfinite(run()).all()

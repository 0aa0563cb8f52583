# SPDX-License-Identifier: Apache-2.0
"""The language model: training on streams with carried state, generation and scores."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq
from keras_seq.data import END_ID, START_ID, stream_batches
from keras_seq.training import BitsPerToken, Perplexity

TEXTS = ["the cat sat on the mat", "a mat", "", "that cat ate", "e"]
REGULARIZATION = {
    "embedding_dropout": 0.3,
    "input_dropout": 0.3,
    "hidden_dropout": 0.3,
    "output_dropout": 0.3,
    "recurrent_dropout": 0.3,
    "recurrent_weight_dropout": 0.3,
    "zoneout": 0.3,
}


def make_model(seed=1, text=True, **arguments):
    """A model of characters whose predictions are far from uniform."""
    keras.utils.set_random_seed(seed)
    vectorizer = keras_seq.data.text_vectorizer(["the cat sat on the mat"])
    size = vectorizer.vocabulary_size()
    arguments = {
        "embedding_dim": 6,
        "units": 8,
        "embeddings_initializer": keras.initializers.RandomNormal(seed=seed),
    } | arguments
    model = keras_seq.LanguageModel(
        None if text else size, vectorizer=vectorizer if text else None, seed=seed, **arguments
    )
    model.readout.bias.assign(np.random.default_rng(seed).normal(size=size))
    return model


def ids_of(model, text):
    return [int(i) for i in model.vectorizer([text]).to_list()[0]]


def log_probabilities(model, tokens, state=None):
    """Log-probabilities (time, vocabulary) by `call`, in float64, and the state."""
    logits, state = model(np.array([tokens], "int32"), initial_state=state, return_state=True)
    logits = np.asarray(logits[0], "float64")
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), state


def document_log_probabilities(model, ids):
    """The log-probability of each target of a document."""
    table, _ = log_probabilities(model, [START_ID, *ids])
    return [row[target] for row, target in zip(table, [*ids, END_ID], strict=True)]


@pytest.mark.parametrize("arguments", [{"cell": "gru", "num_layers": 2}, {"cell": keras.layers.LSTMCell(8)}])
def test_a_carried_state_continues_a_pass(arguments):
    model = make_model(**arguments)
    tokens = np.random.default_rng(0).integers(4, 10, (3, 9)).astype("int32")
    logits, state = model(tokens, return_state=True)
    first, carried = model(tokens[:, :4], return_state=True)
    second, last = model(tokens[:, 4:], initial_state=carried, return_state=True)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), logits, atol=1e-6)
    for actual, expected in zip(last, state, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_the_state_is_reset_where_a_document_starts():
    model = make_model(num_layers=2)
    tokens = np.random.default_rng(0).integers(4, 10, (2, 5)).astype("int32")
    state = [np.ones((2, 8), "float32")] * 4
    logits = model((tokens, np.array([True, False])), initial_state=state)
    np.testing.assert_array_equal(logits[0], model(tokens)[0])
    np.testing.assert_array_equal(logits[1], model(tokens, initial_state=state)[1])


@pytest.mark.parametrize(("batch_size", "window"), [(2, 3), (9, 50)])
def test_the_evaluation_of_streams_is_that_of_separate_documents(batch_size, window):
    model = make_model()
    model.compile(metrics=[BitsPerToken(), Perplexity()])
    results = model.evaluate(TEXTS, batch_size=batch_size, window=window, return_dict=True, verbose=0)
    loss = -np.mean(np.concatenate([document_log_probabilities(model, ids_of(model, text)) for text in TEXTS]))
    assert results["loss"] == pytest.approx(loss, rel=1e-5)
    assert results["bits_per_token"] == pytest.approx(loss / math.log(2), rel=1e-5)
    assert results["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


@pytest.mark.parametrize("batch_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_training_carries_the_state_and_validation_does_not_disturb_it(batch_size):
    """Without an update, the loss of training is that of evaluation: over epochs and validations."""
    model = make_model()
    model.compile(keras.optimizers.SGD(0.0))
    expected = model.evaluate(TEXTS, verbose=0)[0]
    streams = stream_batches(TEXTS, batch_size, 4, vectorizer=model.vectorizer, cut=False)
    options = {"steps_per_epoch": 1, "validation_data": TEXTS[1:3], "verbose": 0}
    losses = model.fit(streams.repeat(), epochs=len(streams), **options).history["loss"]
    counts = [np.count_nonzero(targets) for _, targets in streams]
    assert np.average(losses, weights=counts) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_callback_may_fit_and_evaluate_the_model():
    """In the middle of streams, with as many others and with more. Without an update the losses stay the same."""
    model = make_model()
    model.compile(keras.optimizers.SGD(0.0))
    streams = stream_batches(TEXTS, 2, 4, vectorizer=model.vectorizer, cut=False)
    options = {"verbose": 0, "epochs": 3, "steps_per_epoch": 1}
    expected = model.fit(streams.repeat(), **options).history["loss"]

    def run(epoch, logs):
        model.fit(TEXTS[:2], batch_size=2 + epoch, window=4, verbose=0)
        model.evaluate(TEXTS, batch_size=2, verbose=0)

    callback = keras.callbacks.LambdaCallback(on_epoch_end=run)
    losses = model.fit(streams.repeat(), callbacks=[callback], **options).history["loss"]
    assert losses == pytest.approx(expected, rel=1e-6)


def test_batches_one_by_one_carry_the_state():
    model = make_model()
    model.compile(keras.optimizers.SGD(0.0))
    expected = model.evaluate(TEXTS, verbose=0)[0]
    streams = stream_batches(TEXTS, 2, 4, vectorizer=model.vectorizer, cut=False)
    counts = [np.count_nonzero(targets) for _, targets in streams]
    for run in (model.train_on_batch, model.test_on_batch):
        losses = [run(x, y)[0] for x, y in streams]
        assert np.average(losses, weights=counts) == pytest.approx(expected, rel=1e-5)


def test_no_gradient_flows_through_the_carried_state():
    model = make_model()
    model.compile(keras.optimizers.SGD(1.0))
    batches = list(stream_batches(TEXTS[:1], 1, 8, vectorizer=model.vectorizer))
    (tokens, is_start), targets = batches[0]
    _, state = model(tokens, return_state=True)
    before = model.get_weights()
    with tf.GradientTape() as tape:
        loss = model.compute_loss(y=batches[1][1], y_pred=model(batches[1][0][0], initial_state=state))
    expected = tape.gradient(loss, model.trainable_weights)
    model.test_on_batch((tokens, is_start), targets)  # does not touch the state of training
    model.optimizer.learning_rate = 0.0
    model.train_on_batch((tokens, is_start), targets)
    model.optimizer.learning_rate = 1.0
    model.train_on_batch(*batches[1])
    for weight, old, gradient in zip(model.trainable_weights, before, expected, strict=True):
        np.testing.assert_allclose(old - weight.numpy(), tf.convert_to_tensor(gradient), atol=1e-5)


@pytest.mark.slow
def test_the_training_step_is_traced_again_only_for_another_batch_size():
    traces = []

    class Counted(keras_seq.LanguageModel):
        def run_batch(self, x, training, **options):
            if training and not tf.executing_eagerly():
                traces.append(x[0].shape)
            return super().run_batch(x, training, **options)

    model = Counted(9, 4, 5)
    model.compile("adam")
    documents = [[4, 5, 6, 7] * 5, [8, 8]]
    counts = []
    for batch_size in (2, 2, 3):
        model.fit(documents, batch_size=batch_size, window=4, epochs=2, validation_data=documents, verbose=0)
        counts.append(len(traces))
    assert counts[1:] == [counts[0], counts[0] + 1]


def test_the_carried_state_is_neither_a_weight_nor_saved(tmp_path):
    model = make_model()
    model.compile("adam")
    shapes = [weight.shape for weight in model.weights]
    model.fit(TEXTS, batch_size=2, window=4, verbose=0, validation_data=TEXTS)
    assert [weight.shape for weight in model.weights] == shapes
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.score(TEXTS), model.score(TEXTS))
    assert loaded.optimizer.iterations == model.optimizer.iterations


@pytest.mark.slow
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_learns_documents_by_heart(tie_embeddings):
    model = make_model(units=32, embedding_dim=16, tie_embeddings=tie_embeddings)
    model.compile(keras.optimizers.Adam(0.02))
    model.fit(TEXTS[:2] * 40, batch_size=2, window=8, epochs=4, verbose=0)
    assert model.generate("the c") == "at sat on the mat"
    assert model.generate(["a", "the ca"]) == [" mat", "t sat on the mat"]


def greedy_by_single_steps(model, prompt, max_length):
    """The greedy continuation of token ids and its log-probability, by one call for each token."""
    table, state = log_probabilities(model, [START_ID, *prompt])
    output, total = [], 0.0
    while True:
        row = table[-1].copy()
        row[[0, START_ID]] = -np.inf
        output.append(int(np.argmax(row)))
        total += row[output[-1]]
        if output[-1] == END_ID or len(output) == max_length:
            return output, total
        table, state = log_probabilities(model, output[-1:], state)


@pytest.mark.parametrize(
    "arguments", [{}, {"cell": "gru", "num_layers": 2, "units": [9, 6], "tie_embeddings": True, "zoneout": 0.2}]
)
def test_generation_is_that_of_single_steps(arguments):
    model = make_model(**arguments)
    prompts = ["the cat", "a", None, "sat on the mat, the mat"]
    results = model.generate(prompts, max_length=12, return_dict=True)
    for i, prompt in enumerate(prompts):
        ids = [] if prompt is None else ids_of(model, prompt)
        output, log_probability = greedy_by_single_steps(model, ids, 12)
        assert np.trim_zeros(results["token_ids"][i]).tolist() == output
        assert results["log_probabilities"][i] == pytest.approx(log_probability, rel=1e-5)


@pytest.mark.parametrize("sampler", ["random", pytest.param("beam", marks=pytest.mark.slow)])
def test_a_continuation_does_not_depend_on_the_other_prompts(sampler):
    model = make_model()
    prompts = ["the cat", "a", "sat on the mat, the mat", "e"]
    outputs = model.generate(prompts, max_length=15, sampler=sampler, seed=3)
    assert model.generate(prompts, max_length=15, sampler=sampler, seed=3, batch_size=1) == outputs
    assert model.generate(prompts[0], max_length=15, sampler=sampler, seed=3) == outputs[0]


@pytest.mark.slow
def test_a_generated_document_has_the_score_of_its_log_probability():
    model = make_model()
    results = model.generate([None] * 4, max_length=300, sampler="random", seed=1, return_dict=True)
    assert np.all(np.any(results["token_ids"] == END_ID, axis=1))
    np.testing.assert_allclose(model.score(results["token_ids"]), results["log_probabilities"], rtol=1e-5)


def make_ids_model(model):
    """The same model of token ids."""
    copy = make_model(text=False)
    copy.set_weights(model.get_weights())
    return copy


def test_token_ids_in_place_of_strings():
    model = make_model()
    ids_model = make_ids_model(model)
    ids = ids_of(model, "the cat")
    continuation = ids_model.generate(ids, max_length=9)
    assert continuation.shape == (9,)
    assert model.generate("the cat", max_length=9, return_dict=True)["token_ids"][0].tolist() == continuation.tolist()
    np.testing.assert_array_equal(ids_model.generate([[*ids, END_ID]], max_length=9), [continuation])
    for documents in ([ids_of(model, text) for text in TEXTS], tf.ragged.constant([ids_of(model, t) for t in TEXTS])):
        np.testing.assert_array_equal(ids_model.score(documents), model.score(TEXTS))


@pytest.mark.parametrize("window", [4, 100])
def test_scores_are_sums_of_log_probabilities_by_call(window):
    model = make_model(num_layers=2)
    results = model.score(TEXTS, batch_size=2, window=window, return_dict=True)
    for i, text in enumerate(TEXTS):
        expected = document_log_probabilities(model, ids_of(model, text))
        length = len(expected)
        np.testing.assert_allclose(results["token_log_probabilities"][i, :length], expected, rtol=1e-4)
        assert not results["token_log_probabilities"][i, length:].any()
        assert results["token_ids"][i, :length].tolist() == [*ids_of(model, text), END_ID]
        assert results["log_probabilities"][i] == pytest.approx(sum(expected), rel=1e-5)


def test_embeddings_of_a_tied_readout_get_both_gradients():
    model = make_model(tie_embeddings=True, embedding_dim=8)
    tokens, direction = np.array([[4, 5, 6, 4]]), np.random.default_rng(0).normal(size=(10, 8)).astype("float32")
    size = model.vocabulary_size
    assert not any(weight.shape == (8, size) for weight in model.weights)
    direction = np.resize(direction, (size, 8))

    def loss():
        return tf.reduce_sum(tf.cast(model(tokens), "float32") ** 2)

    with tf.GradientTape() as tape:
        value = loss()
    gradient = np.asarray(tf.convert_to_tensor(tape.gradient(value, model.embedding.embeddings.value)))
    values, step = model.embedding.embeddings.numpy(), 1e-3
    differences = []
    for sign in (1, -1):
        model.embedding.embeddings.assign(values + sign * step * direction)
        differences.append(float(loss()))
    assert np.sum(gradient * direction) == pytest.approx((differences[0] - differences[1]) / (2 * step), rel=1e-2)


def test_activation_regularization_in_float64():
    model = keras_seq.LanguageModel(9, 4, 8, dtype="float64", ar=2.0, tar=1.0, seed=0)
    model.compile("adam")
    tokens, is_start, targets = np.array([[2, 4, 5]]), np.array([True]), np.array([[4, 5, 3]])
    logits = model((tokens, is_start), training=True)
    crossentropy = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
    expected = np.mean(crossentropy) + sum(map(float, model.losses))
    loss = model.train_on_batch((tokens, is_start), targets, return_dict=True)["loss"]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_activation_regularization_is_a_loss_of_training_only():
    model = make_model(ar=2.0, tar=3.0)
    tokens = np.array([[4, 5, 6, 0], [5, 0, 0, 0]], "int32")
    model(tokens)
    assert model.losses == []
    model(tokens, training=True)
    outputs = np.asarray(model.recurrent_layers[0](model.embedding(tokens), mask=tokens != 0)[0])
    visible = [*outputs[0, :3], outputs[1, 0]]
    changes = np.diff(outputs[0, :3], axis=0)
    expected = [3 * np.mean(np.square(changes)), 2 * np.mean(np.square(visible))]
    np.testing.assert_allclose(model.losses, expected, rtol=1e-5)


FAST = ("embedding_dropout", "hidden_dropout", "recurrent_weight_dropout", "zoneout")


@pytest.mark.parametrize(
    ("name", "rate"),
    [pytest.param(*r, marks=() if r[0] in FAST else pytest.mark.slow) for r in REGULARIZATION.items()],
)
def test_dropout_acts_in_training_only(name, rate):
    arguments = {name: rate, "num_layers": 2}
    model, plain = make_model(**arguments), make_model(num_layers=2)
    tokens = np.random.default_rng(0).integers(4, 10, (2, 6)).astype("int32")
    assert np.abs(model(tokens, training=True) - model(tokens, training=True)).max() > 1e-3
    np.testing.assert_array_equal(model(tokens), model(tokens))
    if name != "zoneout":  # at inference, zoneout takes the expectation
        np.testing.assert_array_equal(model(tokens), plain(tokens))
    same = make_model(**arguments)
    np.testing.assert_array_equal(same(tokens, training=True), make_model(**arguments)(tokens, training=True))


def test_naive_dropout_draws_new_masks_at_every_step():
    tokens = np.full((1, 40), 4, "int32")
    shares = {}
    for mode in ("naive", "variational"):
        model = make_model(output_dropout=0.5, dropout_mode=mode)
        dropped = model.dropouts[-1](np.ones((1, 40, 8), "float32"), training=True)
        shares[mode] = np.all(np.asarray(dropped) == np.asarray(dropped)[:, :1])
        assert np.all(np.isfinite(model(tokens, training=True)))
    assert shares == {"naive": False, "variational": True}


def test_every_argument_is_in_the_configuration():
    arguments = REGULARIZATION | {
        "embedding_dim": 5,
        "units": [7, 5],
        "cell": "gru",
        "num_layers": 2,
        "zoneout": 0.1,
        "dropout_mode": "naive",
        "ar": 1.0,
        "tar": 2.0,
        "tie_embeddings": True,
        "embeddings_initializer": keras.initializers.RandomNormal(stddev=0.3, seed=2),
        "implementation": "xla",
    }
    model = make_model(**arguments)
    config = model.get_config()
    copy = keras_seq.LanguageModel.from_config(config)
    assert copy.get_config() == config
    for name, value in arguments.items():
        if name != "embeddings_initializer":
            assert getattr(copy, name) == value
    assert config["embeddings_initializer"]["config"]["stddev"] == 0.3
    assert copy.vectorizer.get_vocabulary() == model.vectorizer.get_vocabulary()


def test_a_cell_object_is_copied_and_saved(tmp_path):
    cell = keras_seq.layers.LSTMCell(7, layer_norm=True, seed=1)
    model = make_model(cell=cell, units=None, num_layers=2)
    assert not cell.built
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras").score(TEXTS), model.score(TEXTS))
    assert len(keras_seq.explain(model, print_fn=None)) == 3  # the steps of a search, and two layers


def test_explain_shows_native_kernels(no_forced_implementation):
    rows = keras_seq.explain(make_model(num_layers=2, recurrent_weight_dropout=0.1, zoneout=0.1), print_fn=None)
    assert [row.implementation for row in rows] == ["native"] * 3
    assert "steps of a search" in rows[0].reason


@pytest.fixture(scope="module")
def compiled_model():
    model = make_model()
    model.compile("adam")
    return model


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.generate(""), "`prompt` must not be empty. Leave it out"),
        (lambda model: model.generate(["a", ""]), "`prompt` must not be empty. Leave it out"),
        (lambda model: model.generate([]), "`prompt` must contain at least one"),
        (lambda model: make_model(text=False).generate("a"), "`prompt` must be sequences of token ids"),
        (lambda model: make_model(text=False).generate([[99]]), "`prompt` must be token ids less than .* Received: 99"),
        (lambda model: model.generate("a", max_length=0), "`max_length` must be a positive integer"),
        (lambda model: model.fit([]), "`x` must contain at least one document"),
        (lambda model: model.fit(TEXTS, batch_size=0), "`batch_size` must be a positive integer"),
        (lambda model: model.fit(TEXTS, TEXTS), "`y`"),
        (lambda model: model.fit(tf.data.Dataset.from_tensors((["a"], ["b"]))), "static batch size"),
        (lambda model: model.evaluate(TEXTS, TEXTS), "`y` must be None"),
        (lambda model: model.fit(TEXTS, validation_split=0.5), "`validation_split` must be 0: .* `validation_data`"),
        (lambda model: model.fit(TEXTS, class_weight={4: 2.0}), "`class_weight` must be None"),
        (lambda model: model.fit(TEXTS, sample_weight=np.ones(len(TEXTS))), "`sample_weight` must be None"),
        (lambda model: model.fit(TEXTS, window=-1), "`window` must be a positive integer"),
        (lambda model: model.score(TEXTS, window=0), "`window` must be a positive integer"),
        (lambda model: keras_seq.LanguageModel(), "`vocabulary_size` must be a positive integer"),
        (lambda model: make_model(num_layers=0), "`num_layers` must be a positive integer"),
        (lambda model: make_model(num_layers=2, units=[4]), "`units` must be one number, or 2"),
        (lambda model: make_model(cell="lstn"), "`cell` must be one of"),
        (lambda model: make_model(dropout_mode="x"), "`dropout_mode` must be"),
        (lambda model: make_model(output_dropout=1.5), "`output_dropout` must be"),
        (lambda model: make_model(hidden_dropout=-1), "`hidden_dropout` must be"),
        (lambda model: make_model(tar=-1), "`tar` must be"),
        (
            lambda model: keras_seq.LanguageModel(5, vectorizer=model.vectorizer),
            "`vocabulary_size` must be None or at least",
        ),
        (lambda model: model([np.ones((1, 2)), np.ones((1, 2))]), "`inputs` must be"),
    ],
)
def test_bad_input_is_one_clear_error(call, message, compiled_model):
    with pytest.raises(ValueError, match=message):
        call(compiled_model)


def test_a_matrix_of_initial_embeddings_is_not_a_part_of_the_configuration(tmp_path):
    matrix = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
    model = keras_seq.LanguageModel(9, 4, 5, embeddings_initializer=matrix)
    np.testing.assert_array_equal(model.embedding.embeddings, matrix)
    assert len(str(model.get_config())) < 2000
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras").embedding.embeddings, matrix)

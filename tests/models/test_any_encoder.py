# SPDX-License-Identifier: Apache-2.0
"""`Seq2Seq` with any Keras layer or model as its encoder.

The reference is `keras_seq.Encoder` where the encoder is made of the same layers; else Keras and NumPy.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq
from keras_seq.models.encoding import encode

layers = keras.layers
VECTORIZER = keras_seq.data.text_vectorizer(["abcd"])
WORDS = ["cab", "b", "dad"]
IMAGES = np.random.default_rng(0).random((3, 5, 4, 2)).astype("float32")
SERIES = [np.random.default_rng(i).normal(size=(time, 2)).astype("float32") for i, time in enumerate((3, 4, 6))]


class Returning(layers.Layer):
    """An encoder that returns what a function makes of its input."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)

    def compute_output_spec(self, x):
        return self.function(x)


def make_model(encoder, attention="bahdanau", vectorizer=VECTORIZER, **options):
    decoder = keras_seq.Decoder(VECTORIZER.vocabulary_size(), 4, 5, cell="gru", attention=attention)
    return keras_seq.Seq2Seq(encoder, decoder, target_vectorizer=vectorizer, **options)


def make_cnn():
    return keras.Sequential([keras.Input((5, 4, 2)), layers.Conv2D(6, 2, activation="relu")])


def assert_equal(results, expected):
    assert results.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(results[name], expected[name], err_msg=name)


class TestEncode:
    memory = np.arange(24, dtype="float32").reshape(2, 3, 4)
    mask = np.array([[True, True, False], [True, False, False]])

    def run(self, function, source=None):
        return encode(Returning(function), self.memory if source is None else source)

    def test_no_positions_are_summarized_by_zeros(self):
        _, _, summary = self.run(lambda x: x[:, :0])
        np.testing.assert_array_equal(summary, np.zeros((2, 4)))

    def test_a_memory_alone_is_summarized_by_its_mean(self):
        memory, mask, summary = self.run(lambda x: 2 * x)
        np.testing.assert_array_equal(memory, 2 * self.memory)
        assert mask is None
        np.testing.assert_allclose(summary, 2 * self.memory.mean(1), rtol=1e-6)

    def test_masked_positions_do_not_count_in_the_mean(self):
        memory = np.where(self.mask[..., None], self.memory, np.nan)
        for excluded in ([True, True, True], [False] * 3):  # of the second source
            mask = self.mask & np.array([[True] * 3, excluded])
            _, result, summary = self.run(lambda x, m=mask: {"memory": x, "mask": tf.constant(m)}, memory)
            np.testing.assert_array_equal(result, mask)
            np.testing.assert_allclose(summary[0], self.memory[0, :2].mean(0), rtol=1e-6)
            np.testing.assert_allclose(summary[1], self.memory[1, 0] if any(excluded) else np.zeros(4), rtol=1e-6)

    @pytest.mark.parametrize("form", [lambda m, *s: (m, *s), lambda m, *s: {"memory": m, "states": {"h": s}}])
    def test_states_are_concatenated(self, form):
        _, _, summary = self.run(lambda x: form(x, x[:, 0, :1], x[:, 1]))
        np.testing.assert_array_equal(summary, np.concatenate([self.memory[:, 0, :1], self.memory[:, 1]], -1))

    def test_a_feature_map_is_flattened_with_its_mask(self):
        grid = np.random.default_rng(0).random((2, 3, 4, 5)).astype("float32")
        grid_mask = grid[..., 0] > 0.5
        memory, mask, _ = self.run(lambda x: {"memory": x, "mask": tf.constant(grid_mask)}, grid)
        np.testing.assert_array_equal(memory, grid.reshape(2, 12, 5))
        np.testing.assert_array_equal(mask, grid_mask.reshape(2, 12))
        memory, _, _ = self.run(lambda x: x, np.zeros((0, 2, 3, 4, 5), "float32"))
        assert memory.shape == (0, 24, 5)
        symbolic = encode(layers.Conv2D(5, 1), keras.KerasTensor((None, None, 4, 2)))
        assert (symbolic.memory.shape, symbolic.summary.shape) == ((None, None, 5), (None, 5))

    def test_the_mask_of_keras_is_taken(self):
        ids = np.array([[4, 5, 0], [4, 0, 0]])
        encoder = keras.Sequential([layers.Embedding(7, 3, mask_zero=True), layers.LSTM(4, return_sequences=True)])
        np.testing.assert_array_equal(encode(encoder, ids).mask, ids != 0)
        series = np.array([[[1.0], [2.0]], [[3.0], [0.0]]])
        encoder = keras.Sequential([layers.Masking(), layers.GRU(2, return_sequences=True, return_state=True)])
        memory, mask, summary = encode(encoder, series)
        np.testing.assert_array_equal(mask, [[True, True], [True, False]])
        np.testing.assert_array_equal(summary[1], memory[1, 0])  # the state after its only step

    def test_training_is_passed_to_encoders_that_take_it(self):
        x = np.ones((1, 50, 4), "float32")
        assert (encode(layers.Dropout(0.5, seed=0), x, training=True).memory.numpy() == 0).any()
        assert (encode(layers.Dropout(0.5, seed=0), x, training=False).memory.numpy() == 1).all()

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (lambda x: x[:, 0], r"memory of shape \(2, 4\).*return `x\[:, None\]`"),
            (lambda x: (), "Received: None as memory"),
            (lambda x: None, "Received: None as memory"),
            (lambda x: {"states": x}, r"keys \['states'\]"),
            (lambda x: {"memory": x, "masks": x}, r"keys \['masks', 'memory'\]"),
            (lambda x: (x, x), r"state of shape \(2, 3, 4\)"),
            (lambda x: (x, "state"), "'state' as state"),
            (lambda x: (x, x[:1, 0]), r"state of shape \(1, 4\)"),
            (lambda x: (x, x[:, 0, :0]), r"state of shape \(2, 0\)"),
            (lambda x: x[..., :0], r"memory of shape \(2, 3, 0\), in which the number of features.*at least 1"),
            (lambda x: tf.cast(x, "int32"), "memory of dtype"),
            (lambda x: {"memory": x, "mask": x[..., 0]}, "tensor of booleans. Received: dtype .*float32"),
            (lambda x: {"memory": x, "mask": [True]}, "tensor of booleans"),
            (lambda x: {"memory": x, "mask": x[:, :2, 0] > 0}, r"shape \(2, 3\).*shape \(2, 2\)"),
        ],
    )
    def test_anything_else_is_one_clear_error(self, function, message):
        with pytest.raises(ValueError, match=f"(?s)encoder.*{message}"):
            self.run(function)


def make_pair(attention="bahdanau", cell="lstm", dtype=None):
    """Two models with the same weights: with an `Encoder`, and with a functional encoder of the same layers."""
    own = keras_seq.Encoder(VECTORIZER.vocabulary_size(), 3, 4, cell=cell, bidirectional=False, dtype=dtype)
    tokens = keras.Input((None,), dtype="int32")
    embedded = layers.Embedding(VECTORIZER.vocabulary_size(), 3, mask_zero=True, dtype=dtype)(tokens)
    layer = {"lstm": keras_seq.layers.LSTM, "gru": keras_seq.layers.GRU}[cell]
    outputs = layer(4, return_sequences=True, return_state=True, dtype=dtype)(embedded)
    models = []
    for encoder in (own, keras.Model(tokens, outputs)):
        decoder = keras_seq.Decoder(VECTORIZER.vocabulary_size(), 4, 5, cell=cell, attention=attention, dtype=dtype)
        models.append(keras_seq.Seq2Seq(encoder, decoder, target_vectorizer=VECTORIZER))
    models[1].set_weights(models[0].get_weights())
    return models


IDS = np.array([[7, 3, 0, 0], [6, 6, 3, 0], [4, 5, 6, 3]], "int32")  # in the order in which they are decoded


@pytest.mark.parametrize(
    "attention",
    ["bahdanau", *(pytest.param(name, marks=pytest.mark.slow) for name in ("luong", "monotonic", None))],
)
def test_an_encoder_of_the_same_layers_gives_the_same_numbers(attention):
    own, functional = make_pair(attention)
    inputs, _ = functional.prepare(IDS, WORDS)
    np.testing.assert_array_equal(functional(inputs), own(inputs))
    for sampler in ("greedy", "beam"):
        expected = own.generate(IDS, return_dict=True, sampler=sampler, max_length=6)
        assert_equal(functional.generate(IDS, return_dict=True, sampler=sampler, max_length=6), expected)
    np.testing.assert_array_equal(functional.score(IDS, WORDS), own.score(IDS, WORDS))
    assert functional.start_search(tf.constant(IDS)).limits.numpy().tolist() == [14, 16, 18]  # as many as of tokens


@pytest.mark.slow
@pytest.mark.parametrize("coverage", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_is_the_same_as_with_an_encoder_of_the_same_layers(jit_compile, coverage):
    attention = keras_seq.layers.BahdanauAttention(4, coverage=coverage)
    results = []
    for model in make_pair(attention):
        sampling = keras_seq.training.ScheduledSampling(0.5, mode="parallel", seed=1)
        model.compile(keras.optimizers.SGD(0.5), scheduled_sampling=sampling, jit_compile=jit_compile)
        model.fit(IDS, WORDS, epochs=2, shuffle=False, verbose=0)
        results.append(model.get_weights())
    for weights, expected in zip(*results, strict=True):
        np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-5)


def test_a_vectorizer_makes_the_token_ids_of_any_encoder():
    encoder = keras.Sequential([layers.Embedding(8, 3, mask_zero=True), layers.LSTM(4, return_sequences=True)])
    decoder = keras_seq.Decoder(VECTORIZER.vocabulary_size(), 4, 5)
    model = keras_seq.Seq2Seq(encoder, decoder, VECTORIZER, VECTORIZER)
    assert model.built and len(model.generate(WORDS, max_length=3)) == 3
    assert model.start_search(tf.constant([[4, 5, 3]])).limits.numpy().tolist() == [16]


class TestMemoriesOfAllKinds:
    @pytest.mark.parametrize(
        ("make_encoder", "source", "positions"),
        [
            (make_cnn, IMAGES, 12),
            pytest.param(lambda: layers.Conv2D(6, 2), IMAGES, 12, marks=pytest.mark.slow),
            pytest.param(lambda: layers.Dense(5), np.stack([SERIES[0]] * 3), 3, marks=pytest.mark.slow),
            pytest.param(
                lambda: layers.GRU(4, return_sequences=True, return_state=True), SERIES, 6, marks=pytest.mark.slow
            ),
            pytest.param(
                lambda: keras_seq.layers.Bidirectional(
                    keras_seq.layers.LSTM(4, return_sequences=True, return_state=True)
                ),
                SERIES,
                6,
                marks=pytest.mark.slow,
            ),
            (lambda: layers.Embedding(9, 4, mask_zero=True), IDS, 4),
        ],
    )
    def test_a_model_is_built_trained_saved_and_loaded(self, make_encoder, source, positions, tmp_path):
        model = make_model(make_encoder())
        model.compile("adam")
        model.fit(source, WORDS, verbose=0)
        results = model.generate(source, return_dict=True, max_length=4)
        assert results["attention_weights"].shape[-1] == positions
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.source_spec == model.source_spec
        assert_equal(loaded.generate(source, return_dict=True, max_length=4), results)
        np.testing.assert_array_equal(loaded.score(source, WORDS), model.score(source, WORDS))

    def test_a_frozen_encoder_stays_as_it_is(self):
        encoder = make_cnn()
        encoder.trainable = False
        model = make_model(encoder)
        before, decoder_before = encoder.get_weights(), model.decoder.get_weights()
        model.compile("adam", run_eagerly=True)
        model.fit(IMAGES, WORDS, verbose=0)
        for weights, expected in zip(encoder.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weights, expected)
        assert any((a != b).any() for a, b in zip(model.decoder.get_weights(), decoder_before, strict=True))

    @pytest.mark.slow
    def test_strings_if_the_encoder_reads_them(self, tmp_path):
        vectorize = layers.TextVectorization(split="character")
        vectorize.adapt(WORDS)
        embedding = layers.Embedding(9, 4, mask_zero=True)
        model = make_model(keras.Sequential([keras.Input((), dtype="string"), vectorize, embedding]))
        model.compile("adam")
        data = tf.data.Dataset.from_tensor_slices((WORDS, WORDS)).batch(2)
        for arguments in ((WORDS, WORDS), (np.array(WORDS), WORDS), (data,)):
            model.fit(*arguments, verbose=0)
        results = model.generate(WORDS, max_length=4)
        assert model.generate(WORDS[0], max_length=4) == results[0]
        assert model.generate(data, max_length=4) == results


@pytest.mark.parametrize("encoder", [layers.GRU(5, return_sequences=True), layers.Dense(5)], ids=["gru", "dense"])
def test_sources_of_other_features_are_refused_and_forgotten(encoder):
    model = make_model(encoder)
    model.generate(SERIES)
    spec = model.source_spec
    wrong = [np.concatenate([rows, rows], axis=-1) for rows in SERIES]
    for call in (model.generate, lambda x: model.score(x, WORDS)):
        with pytest.raises(ValueError, match=r"must be sources that the encoder takes. Received: \(None, None, 4\)"):
            call(wrong)
    assert model.source_spec == spec


def make_dict_model(**options):
    keras.utils.set_random_seed(0)
    image, size = keras.Input((5, 4, 2), name="image"), keras.Input((), name="size", dtype="int32")
    memory = layers.Conv2D(6, 2)(image)
    state = layers.Dense(3)(keras.ops.cast(size[:, None], "float32"))
    return make_model(keras.Model([image, size], (memory, state)), **options)


DICT = {"image": IMAGES.astype("float64"), "size": [3, 1, 2]}


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        rows = slice(2 * index, 2 * index + 2)
        return {"image": IMAGES[rows], "size": np.array(DICT["size"][rows])}, WORDS[rows]


class TestFormsOfData:
    """Of several inputs by name: all forms that `fit` takes give the same model."""

    def train(self, *arguments, **options):
        model = make_dict_model()
        model.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
        model.fit(*arguments, batch_size=2 if len(arguments) == 2 else None, shuffle=False, verbose=0, **options)
        return model

    @pytest.mark.parametrize(
        "form",
        ["dataset", *(pytest.param(form, marks=pytest.mark.slow) for form in ("generator", "pydataset", "prepared"))],
    )
    def test_every_form_gives_the_same_model(self, form):
        expected = self.train(DICT, WORDS)
        batches = Batches(workers=0)
        data = {
            "dataset": lambda: [tf.data.Dataset.from_tensor_slices((DICT, WORDS)).batch(2)],
            "generator": lambda: [batches[i] for i in (0, 1)].__iter__(),
            "pydataset": lambda: [batches],
            "prepared": lambda: list(expected.prepare(DICT, WORDS)),
        }[form]()
        model = self.train(data, steps_per_epoch=2) if form == "generator" else self.train(*data)
        for weights, other in zip(model.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(weights, other, atol=1e-6)

    def test_all_that_a_model_does_takes_dicts(self, capsys):
        model = make_dict_model()
        model.compile("adam", run_eagerly=True)
        report = keras_seq.training.DecodingReport(DICT, WORDS, separator="")
        options = {"callbacks": [report], "validation_split": 0.34, "sample_weight": np.array([1.0, 2.0, 0.5])}
        history = model.fit(DICT, WORDS, verbose=0, **options).history
        assert {"val_loss", "val_sequence_error_rate"} <= history.keys()
        assert "source 2 → " in capsys.readouterr().out
        model.train_on_batch(DICT, WORDS, class_weight={4: 2.0})
        results = model.generate(DICT, return_dict=True, max_length=4)
        datasets = [tf.data.Dataset.from_tensor_slices(part).batch(2) for part in (DICT, (DICT, WORDS))]
        for data in [*datasets, Batches(workers=0)]:
            assert_equal(model.generate(data, return_dict=True, max_length=4), results)
        assert model.predict(DICT, verbose=0).shape == (3,)
        inputs, targets = model.prepare(DICT, WORDS)
        logits = model.predict(inputs, verbose=0)
        np.testing.assert_allclose(logits, model(inputs), atol=1e-6)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits) * tf.cast(targets != 0, "float32")
        np.testing.assert_allclose(model.score(DICT, WORDS), -losses.numpy().sum(1), rtol=1e-5)
        assert model.evaluate(DICT, WORDS, verbose=0)[0] == pytest.approx(
            losses.numpy().sum() / (targets.numpy() != 0).sum(), rel=1e-5
        )


class TestUnequalShapes:
    def make_model(self):
        encoder = keras.Sequential([layers.Masking(), layers.GRU(4, return_sequences=True)])
        return make_model(encoder, source_spec=keras.KerasTensor((None, None, 2)))

    @pytest.mark.slow
    def test_lists_ragged_tensors_and_padded_arrays_are_the_same(self):
        model = self.make_model()
        ragged = tf.ragged.stack([tf.constant(row) for row in SERIES])
        padded = np.zeros((3, 6, 2))
        for row, values in zip(padded, SERIES, strict=True):
            row[: len(values)] = values
        expected = model.generate(padded, return_dict=True, max_length=4)
        assert_equal(model.generate(SERIES, return_dict=True, max_length=4), expected)
        assert_equal(model.generate(ragged, return_dict=True, max_length=4), expected)
        batches = tf.data.Dataset.from_tensor_slices((ragged, WORDS)).ragged_batch(2)
        np.testing.assert_array_equal(model.generate(batches, max_length=4), expected["text"])
        model.compile("adam", run_eagerly=True)
        losses = [model.evaluate(data, WORDS, verbose=0)[0] for data in (SERIES, ragged, padded)]
        assert losses == pytest.approx([model.evaluate(batches, verbose=0)[0]] * 3, rel=1e-5)

    def test_an_output_does_not_depend_on_mates_if_the_encoder_masks(self):
        model = self.make_model()
        together = model.generate(SERIES, return_dict=True, max_length=4)
        for i, series in enumerate(SERIES):
            alone = model.generate([series], return_dict=True, max_length=4)
            np.testing.assert_allclose(alone["log_probabilities"], together["log_probabilities"][i : i + 1], rtol=1e-5)

    @pytest.mark.slow
    def test_the_first_sources_decide_until_others_differ(self):
        model = make_model(layers.Dense(5))
        model.generate(SERIES[0][None], max_length=2)
        assert model.source_spec == tf.TensorSpec([None, 3, 2], tf.float32, "inputs")
        model.generate(SERIES[2][None], max_length=2)
        assert model.source_spec == tf.TensorSpec([None, None, 2], tf.float32, "inputs")
        with pytest.raises(ValueError, match=r"sources that the encoder takes. Received: \(None, 6, 1\)"):
            model.generate(SERIES[2][None, :, :1])
        assert model.source_spec == tf.TensorSpec([None, None, 2], tf.float32, "inputs")
        clone = keras.models.clone_model(model)
        assert clone.source_spec == model.source_spec
        clone.generate(np.ones((1, 9, 2)), max_length=2)


class TestEnsembles:
    def test_members_may_have_different_encoders(self):
        members = [make_model(make_cnn()), make_model(make_cnn(), "luong"), make_dict_model()]
        results = keras_seq.Ensemble(members[:2]).generate(IMAGES, return_dict=True, max_length=4)
        assert results["attention_weights"].shape == (3, results["token_ids"].shape[1], 12)
        both = [np.exp(m.score(IMAGES, WORDS, return_dict=True)["token_log_probabilities"]) for m in members[:2]]
        expected = np.log(np.mean(both, 0)).sum(1)
        np.testing.assert_allclose(keras_seq.Ensemble(members[:2]).score(IMAGES, WORDS), expected, rtol=1e-5)
        with pytest.raises(ValueError, match=r"same sources. Received: models 0 and 1"):
            keras_seq.Ensemble([members[0], members[2]])
        with pytest.raises(ValueError, match="sources of unknown shape"):
            keras_seq.Ensemble([members[0], make_model(layers.Dense(4))])

    @pytest.mark.parametrize("size", [5, pytest.param(None, marks=pytest.mark.slow)])
    def test_attention_over_other_positions_is_an_error(self, size):
        encoders = [keras.Sequential([keras.Input((size, 4, 2)), layers.Conv2D(6, n)]) for n in (1, 2)]
        ensemble = keras_seq.Ensemble([make_model(encoder) for encoder in encoders])
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="same number of positions"):
            ensemble.generate(IMAGES, max_length=2)
        without = keras_seq.Ensemble([make_model(encoders[0]), make_model(encoders[1], attention=None)])
        assert without.generate(IMAGES, return_dict=True, max_length=2)["attention_weights"].shape[-1] == 20


class TestErrors:
    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (IMAGES[0, 0, 0, 0], "must have a batch as first axis"),
            (IMAGES[..., :1], r"shape \(batch, 5, 4, 2\). Received: dtype float32, shape \(batch, 5, 4, 1\)"),
            (IMAGES[0], r"Received: dtype float32, shape \(batch, 4, 2\)"),
            ({"image": IMAGES}, r"must be an array. Received: a dict with the keys \['image'\]"),
            (["a", "b"], "Received: dtype string"),
            ([IMAGES[0], IMAGES[0, 0]], "arrays of the same rank"),
            ([object()] * 3, "must be an array"),
            ({}, "a dict from names to arrays"),
        ],
    )
    def test_sources_of_another_form(self, source, message):
        model = make_model(make_cnn())
        for call in (model.generate, lambda x: model.prepare(x, WORDS), lambda x: model.score(x, WORDS)):
            with pytest.raises(ValueError, match=message):
                call(source)

    def test_a_dict_of_other_inputs(self):
        model = make_dict_model()
        with pytest.raises(ValueError, match=r"keys \['image', 'size'\]. Received: a dict with the keys \['image'\]"):
            model.generate({"image": IMAGES})
        with pytest.raises(ValueError, match=r"\['size'\] must have dtype int32.*Received: dtype float32"):
            model.generate({"image": IMAGES, "size": [0.5, 1.0, 2.0]})
        with pytest.raises(ValueError, match=r"\['size'\] must be integers of dtype int32.*4294967296"):
            model.generate({"image": IMAGES, "size": [0, 1, 2**32]})
        with pytest.raises(ValueError, match=r"same number of sources. Received: \[3, 2\]"):
            model.generate({"image": IMAGES, "size": [0, 1]})

    def test_arguments(self):
        with pytest.raises(ValueError, match=r"`encoder` must be a Keras layer or model. Received: 'cnn'"):
            make_model("cnn")
        with pytest.raises(ValueError, match=r"`source_spec` must be .* Received: 3"):
            make_model(make_cnn(), source_spec=3)
        with pytest.raises(ValueError, match="`source_spec` must be None if sources are tokens"):
            make_model(keras_seq.Encoder(9, 4, 4), source_spec=keras.KerasTensor((None, None)))

    def test_an_encoder_that_returns_too_little_fails_at_once(self):
        with pytest.raises(ValueError, match="return `x\\[:, None\\]`"):
            make_model(keras.Sequential([keras.Input((5, 4, 2)), layers.Flatten()]))
        model = make_model(layers.Flatten())
        with pytest.raises(ValueError, match="return `x\\[:, None\\]`"):
            model.generate(IMAGES)
        with pytest.raises(ValueError, match="shapes of the sources are not known"):
            model.source_spec  # noqa: B018

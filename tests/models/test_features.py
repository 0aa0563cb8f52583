# SPDX-License-Identifier: Apache-2.0
"""`Seq2Seq` with conditioning features: sources that come with tags and real vectors."""

import keras
import numpy as np
import pytest
import seq2seq_in_numpy as reference
import tensorflow as tf
from conftest import mostly_slow, needs_kernels

import keras_seq
from keras_seq import Decoder, Encoder, Ensemble, Seq2Seq, layers
from keras_seq.decoding import BeamSampler

VECTORIZER = keras_seq.data.text_vectorizer(["abcd"])
SIZE = VECTORIZER.vocabulary_size()
SOURCES = {
    "source": ["cab", "b", "dad", "aac"],
    "language": ["fre", "hun", "eng", "fre"],
    "pos": [7, 12, 9, 12],
    "style": [[0.5, -1.0], [0.0, 2.0], [1.0, 1.0], [-0.3, 0.1]],
}
TARGETS = ["abc", "b", "dd", "cba"]


def make_features():
    return {
        "style": 2,
        "language": keras.layers.StringLookup(vocabulary=["fre", "hun"]),
        "pos": keras.layers.IntegerLookup(vocabulary=[7, 9, 12]),
    }


def make_model(vectorizer=VECTORIZER, features=None, seed=0, units=(4, 5), cells=("gru", "gru"), dtype=None, **options):
    """A model with large random weights, so that no part of it is lost in the others."""
    encoder = Encoder(SIZE, 3, units[0], cell=cells[0], dtype=dtype)
    decoder = Decoder(SIZE, 3, units[1], cell=cells[1], dtype=dtype, **options)
    features = make_features() if features is None else features
    model = Seq2Seq(encoder, decoder, vectorizer, vectorizer, features=features, features_dim=3, dtype=dtype)
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape) * (1 / weight.shape[0] ** 0.5 if "kernel" in weight.path else 1))
    return model


def take(sources, rows):
    return {name: [values[row] for row in rows] for name, values in sources.items()}


def numbers(prepared):
    return [np.asarray(leaf).tolist() for leaf in keras.tree.flatten(prepared)]


MODEL = make_model()
CELLS = {"lstm": ("lstm", "lstm"), "gru": ("gru", "gru"), "rnn": ("rnn", "mgu")}


class TestAgainstNumpy:
    @pytest.mark.parametrize(
        "cells_and_attention", mostly_slow([("gru", "bahdanau"), ("lstm", "luong"), ("rnn", None)])
    )
    def test_logits_and_search(self, cells_and_attention):
        cells, attention = cells_and_attention
        model = make_model(cells=CELLS[cells], attention=attention)
        indices = {"language": [1, 2, 0, 1], "pos": [1, 3, 2, 3]}
        beam = BeamSampler(4, num_return_sequences=3, length_penalty=0.8)
        results = model.generate(SOURCES, sampler=beam, max_length=5, return_dict=True)
        scores = model.score(SOURCES, TARGETS)
        vocabulary = VECTORIZER.get_vocabulary()
        for row, text in enumerate(SOURCES["source"]):
            ids = (*map(vocabulary.index, text), reference.END)
            target = (*map(vocabulary.index, TARGETS[row]), reference.END)
            features = {"style": np.array(SOURCES["style"][row]), **{name: i[row] for name, i in indices.items()}}
            expected = reference.NumpySeq2Seq(model, CELLS[cells], attention, features=features)
            np.testing.assert_allclose(scores[row], reference.log_probability(expected, ids, target), rtol=2e-5)
            ranking = reference.beam(expected, ids, 5, 4, length_penalty=0.8)[:3]
            np.testing.assert_allclose(results["scores"][row], [score for score, _ in ranking], rtol=2e-5)
            for output, (_, best) in zip(results["token_ids"][row], ranking, strict=True):
                assert tuple(output[output > 0].tolist()) == best


SOURCE_COUNT, POSITIONS, TIME, FEATURES = 3, 5, 4, 2
rng = np.random.default_rng(0)
MEMORY = rng.normal(size=(SOURCE_COUNT, POSITIONS, 8)).astype("float32")
STARTS = rng.normal(size=(SOURCE_COUNT, 4)).astype("float32")
VECTORS = rng.normal(size=(SOURCE_COUNT, FEATURES)).astype("float32")
MASK = np.arange(POSITIONS)[None] < np.array([5, 2, 3])[:, None]
DECODERS = {
    "additive attention": {"cell": "lstm"},
    "many tokens": {"vocabulary_size": 300},
    "luong": {"attention": "luong"},
    "concat before": {"attention": layers.LuongAttention("concat", units=4), "attend": "before", "cell": "gru"},
    "monotonic": {"attention": "monotonic"},
    "no attention": {"attention": None, "cell": "gru"},
    "two layers": {"num_layers": 2, "cell": "gru"},
    "two layers without attention": {"attention": None, "num_layers": 2, "residual": True},
    "a stack": {"attention": None, "cell": layers.LSTM(6, num_layers=2), "units": None},
    "normalized products": {"attention": None, "cell": layers.LSTMCell(6, layer_norm=True), "units": None},
    "normalized products and attention": {"cell": layers.GRUCell(6, layer_norm=True), "units": None},
    "a cell of Keras": {"attention": None, "cell": keras.layers.GRUCell(6), "units": None},
    "a cell of Keras that attends": {"cell": keras.layers.GRUCell(6), "units": None},
}


class TestDecoder:
    def make(self, vocabulary_size=7, units=6, **options):
        decoder = Decoder(vocabulary_size, 3, units, **options)
        decoder.build((None, None), (None, None, 8), (None, 4), (None, FEATURES))
        return decoder

    @pytest.mark.parametrize("beams", [3, pytest.param(1, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("implementation", ["auto", pytest.param("xla", marks=pytest.mark.slow)])
    @pytest.mark.parametrize("name", mostly_slow(DECODERS))
    def test_steps_equal_the_call_over_whole_sequences(self, name, implementation, beams):
        decoder = self.make(**DECODERS[name], implementation=implementation)
        tokens = rng.integers(1, decoder.vocabulary_size, (SOURCE_COUNT * beams, TIME)).astype("int32")
        memory, starts, vectors, mask = (np.repeat(x, beams, 0) for x in (MEMORY, STARTS, VECTORS, MASK))
        expected = decoder(tokens, memory, starts, memory_mask=mask, features=vectors)
        step, state, tensors = decoder.start_search(MEMORY, STARTS, MASK, beams, features=tf.constant(VECTORS))
        assert {len(x) for x in tensors.values()} == {SOURCE_COUNT}  # as a search takes sources out of the batch
        state = [np.repeat(x, beams, axis=0) for x in state]
        for t in range(TIME):
            logits, state, _ = step(tf.constant(tokens[:, t]), state, tensors)
            np.testing.assert_allclose(logits, expected[:, t], atol=2e-6)

    @pytest.mark.parametrize("name", mostly_slow(["additive attention", "luong", "two layers without attention"]))
    def test_training_steps_equal_the_call_over_whole_sequences(self, name):
        decoder = self.make(**DECODERS[name], dropout=0.3, seed=1)
        tokens = rng.integers(1, 7, (SOURCE_COUNT, TIME)).astype("int32")
        with decoder.training_step_function(MEMORY, MASK, features=VECTORS) as step:
            state, results = decoder.get_initial_state(STARTS, MEMORY), []
            for t in range(TIME):
                logits, state, _ = step(tokens[:, t], state)
                results.append(logits)
        expected = decoder(tokens, MEMORY, STARTS, memory_mask=MASK, features=VECTORS, training=True)
        np.testing.assert_allclose(np.stack(results, 1), expected, atol=2e-6)

    @needs_kernels
    def test_the_steps_stay_one_native_op(self):
        decoder = self.make()

        @tf.function(autograph=False)
        def take_step():
            step, state, memory = decoder.start_search(MEMORY, STARTS, MASK, features=tf.constant(VECTORS))
            return step(tf.zeros([SOURCE_COUNT], tf.int32), state, memory)[0]

        operations = [op.type for op in take_step.get_concrete_function().graph.get_operations()]
        assert "KerasSeq>AttentionDecoder" in operations


class TestJoining:
    def test_a_model_that_multiplies_features_by_zero_is_the_model_without(self):
        plain = make_model(features={})
        model = make_model()
        for part in ("encoder", "decoder"):
            for weight, other in zip(getattr(model, part).weights, getattr(plain, part).weights, strict=True):
                added = weight.shape[0] - other.shape[0]
                values = np.insert(np.array(other), [3] * added, 0.0, axis=0)  # after the 3 of the embedding
                weight.assign(values)
        inputs, _ = model.prepare(SOURCES, TARGETS)
        np.testing.assert_allclose(model(inputs), plain((inputs[0]["source"], inputs[1])), atol=1e-6)

    def test_each_feature_counts_in_encoder_and_decoder(self):
        inputs, _ = MODEL.prepare(SOURCES, TARGETS)
        for name in ("language", "pos", "style"):
            (source, decoder_inputs), _ = MODEL.prepare(
                {**SOURCES, name: SOURCES[name][1:] + SOURCES[name][:1]}, TARGETS
            )
            assert np.abs(MODEL((source, decoder_inputs)) - MODEL(inputs)).max() > 1e-3
            memories = [MODEL._encode(s)[0].memory for s in (source, inputs[0])]
            assert np.abs(memories[0] - memories[1])[..., 0].max() > 1e-3

    @pytest.mark.slow
    def test_the_names_decide_about_the_order_of_the_features_not_the_dict(self):
        model = make_model(features=dict(reversed(make_features().items())))
        inputs, _ = model.prepare(SOURCES, TARGETS)
        np.testing.assert_array_equal(model(inputs), MODEL(inputs))

    @pytest.mark.slow
    def test_unknown_tags_are_those_of_the_lookup(self):
        other = {**SOURCES, "language": ["fre", "hun", "swa", "fre"]}
        np.testing.assert_array_equal(MODEL.score(SOURCES, TARGETS), MODEL.score(other, TARGETS))
        two = keras.layers.StringLookup(vocabulary=["fre"], num_oov_indices=2)
        model = make_model(features={"language": two})
        (source, _), _ = model.prepare({"source": list("abc"), "language": ["fre", "x", "y"]}, list("abc"))
        np.testing.assert_array_equal(source["features"]["language"], two(["fre", "x", "y"]))

    @pytest.mark.slow
    def test_an_encoder_of_another_kind_leaves_features_to_the_decoder_unless_it_takes_them(self):
        class Taking(keras.layers.Layer):
            def call(self, x, features=None):
                return keras.ops.concatenate([x, keras.ops.zeros_like(x[..., :1]) + features[:, None]], -1)

        images = rng.random((2, 3, 4)).astype("float32")
        sources, outputs = {"source": images, "language": ["fre", "hun"]}, {}
        for encoder in (keras.layers.Dense(5), Taking()):
            decoder = Decoder(SIZE, 3, 4, attention=None)
            features = {"language": make_features()["language"]}
            model = Seq2Seq(encoder, decoder, target_vectorizer=VECTORIZER, features=features, features_dim=2)
            model.score(sources, ["a", "b"])
            (source, _), _ = model.prepare(sources, ["a", "b"])
            outputs[type(encoder)] = model._encode(source)[0].memory, model.feature_embedding(source["features"])
        assert outputs[keras.layers.Dense][0].shape == (2, 3, 5)
        memory, vectors = outputs[Taking]
        np.testing.assert_array_equal(memory[..., :4], images)
        np.testing.assert_array_equal(memory[..., 4:], np.repeat(np.array(vectors)[:, None], 3, axis=1))


class TestForms:
    expected = MODEL.generate(SOURCES, max_length=4, return_dict=True)["log_probabilities"]

    def test_every_form_of_sources_gives_the_same(self):
        forms = {
            "arrays": {name: np.array(values) for name, values in SOURCES.items()},
            "tensors": {name: tf.constant(values) for name, values in SOURCES.items()},
            "objects": {**SOURCES, "language": np.array(SOURCES["language"], object)},
            "dtypes": {**SOURCES, "pos": np.array(SOURCES["pos"], "uint8"), "style": np.array(SOURCES["style"], "f8")},
            "bytes": {**SOURCES, "language": [tag.encode() for tag in SOURCES["language"]]},
            "pairs": tf.data.Dataset.from_tensor_slices((SOURCES, TARGETS)).batch(3),
            "dataset": tf.data.Dataset.from_tensor_slices(SOURCES).batch(1),
            "generator": (take(SOURCES, rows) for rows in ([0, 1], [2], [3])),
            "order": dict(reversed(SOURCES.items())),
        }
        for name, sources in forms.items():
            results = MODEL.generate(sources, max_length=4, return_dict=True)
            np.testing.assert_allclose(results["log_probabilities"], self.expected, rtol=1e-5, err_msg=name)

    def test_one_source_at_a_time(self):
        for row, text in enumerate(MODEL.generate(SOURCES, max_length=4)):
            one = {name: values[row] for name, values in SOURCES.items()}
            assert MODEL.generate(one, max_length=4) == text
            assert MODEL.generate(take(SOURCES, [row]), max_length=4) == [text]
            np.testing.assert_allclose(MODEL.score(one, TARGETS[row]), MODEL.score(SOURCES, TARGETS)[[row]], rtol=1e-5)

    @pytest.mark.slow
    def test_many_sources_in_batches_by_length(self):
        rows = np.random.default_rng(0).integers(0, 4, 300)
        results = MODEL.generate(take(SOURCES, rows), max_length=4, batch_size=2, return_dict=True)
        np.testing.assert_allclose(results["log_probabilities"], self.expected[rows], rtol=1e-5)
        assert len(results["text"]) == 300

    def test_prepared_data_are_recognized(self):
        prepared = MODEL.prepare(SOURCES, TARGETS, [1.0, 2.0, 0.5, 0.0])
        assert numbers(MODEL.prepare(*prepared)) == numbers(prepared)
        source = prepared[0][0]["features"]
        assert numbers([source["language"], source["pos"]]) == [[1, 2, 0, 1], [1, 3, 2, 3]]
        np.testing.assert_allclose(MODEL.predict(prepared[0], verbose=0), MODEL(prepared[0]), atol=1e-6)
        batches = tf.data.Dataset.from_tensors(prepared)
        assert numbers(next(iter(MODEL._pairs.data(batches)[0]))) == numbers(prepared)

    @pytest.mark.slow
    def test_token_ids_and_ragged_sources(self):
        model = make_model(vectorizer=None)
        (source, _), _ = MODEL.prepare(SOURCES, TARGETS)
        expected = MODEL.generate(SOURCES, max_length=4, return_dict=True)["token_ids"]
        lists = [[token for token in row if token] for row in source["source"].numpy().tolist()]
        for ids in (source["source"], lists, tf.ragged.constant(lists)):
            np.testing.assert_array_equal(model.generate({**SOURCES, "source": ids}, max_length=4), expected)

    def test_fit_and_evaluate(self):
        model = make_model()
        model.compile(keras.optimizers.SGD(0.0), metrics=[])
        sources = {name: values * 2 for name, values in SOURCES.items()}
        scores = MODEL.score(sources, TARGETS * 2, return_dict=True)
        loss = -scores["log_probabilities"].sum() / (scores["token_ids"] > 0).sum()
        history = model.fit(sources, TARGETS * 2, validation_split=0.5, verbose=0).history
        np.testing.assert_allclose([history["loss"], history["val_loss"]], [[loss]] * 2, rtol=1e-5)
        assert model.test_on_batch(SOURCES, TARGETS) == pytest.approx(loss, rel=1e-5)

    @pytest.mark.slow
    def test_training_on_data_of_every_form(self):
        model = make_model()
        model.compile(keras.optimizers.SGD(0.0), metrics=[])
        sources = {name: values * 2 for name, values in SOURCES.items()}
        loss = model.evaluate(sources, TARGETS * 2, verbose=0)
        dataset = tf.data.Dataset.from_tensor_slices((sources, TARGETS * 2)).batch(3)

        class Batches(keras.utils.PyDataset):
            num_batches = 2

            def __getitem__(self, index):
                return take(SOURCES, range(2 + index)), TARGETS[: 2 + index]

        history = model.fit(dataset, validation_data=(sources, TARGETS * 2, [1.0] * 8), verbose=0).history
        np.testing.assert_allclose([history["loss"], history["val_loss"]], [[loss]] * 2, rtol=1e-5)
        batches = Batches()
        expected = model.evaluate(take(SOURCES, [0, 1, 0, 1, 2]), [TARGETS[i] for i in (0, 1, 0, 1, 2)], verbose=0)
        assert model.evaluate(batches, verbose=0) == pytest.approx(expected, rel=1e-5)
        assert model.evaluate(iter([batches[0], batches[1]]), steps=2, verbose=0) == pytest.approx(expected, rel=1e-5)
        assert model.train_on_batch(SOURCES, TARGETS) == pytest.approx(loss, rel=1e-5)
        for mode in ("sequential", "parallel"):
            sampling = keras_seq.training.ScheduledSampling(0.5, mode=mode, seed=1)
            model.compile(keras.optimizers.SGD(0.5), scheduled_sampling=sampling)
            before = [np.array(weight) for weight in model.feature_embedding.weights]
            report = keras_seq.training.DecodingReport(SOURCES, TARGETS, samples=1)
            model.fit(SOURCES, TARGETS, callbacks=[report], verbose=0)
            for weight, old in zip(model.feature_embedding.weights, before, strict=True):
                assert np.isfinite(weight).all() and np.abs(weight - old).max() > 0

    def test_nothing(self):
        empty = {name: [] for name in SOURCES}
        with pytest.raises(ValueError, match="at least one source"):
            MODEL.generate(empty)
        results = MODEL.decode(
            {
                **{name: tf.constant([], tf.string) for name in ("source", "language")},
                "pos": tf.constant([], tf.int64),
                "style": tf.zeros((0, 2)),
            }
        )
        assert results["text"].shape == (0,)


BAD_SOURCES = {
    "no dict": (SOURCES["source"], r"dict with the keys \['source', 'language', 'pos', 'style'\].*Received: \['cab'"),
    "a missing feature": (
        take({k: SOURCES[k] for k in ("source", "pos", "style")}, range(4)),
        r"without \['language'\]",
    ),
    "another feature": ({**SOURCES, "speaker": [1] * 4}, r"a dict with \['speaker'\]"),
    "no source": ({name: SOURCES[name] for name in ("language", "pos", "style")}, r"without \['source'\]"),
    "fewer tags": ({**SOURCES, "language": ["fre"] * 3}, r"as many values.*Received: \[4, 3, 4, 4\]"),
    "one tag": ({**SOURCES, "language": "fre"}, r"\['language'\] must be strings, shape \(batch,\).*shape \(\)"),
    "numbers as texts": ({**SOURCES, "language": [1, 2, 0, 1]}, r"\['language'\] must be strings.*int32"),
    "texts as numbers": ({**SOURCES, "pos": ["7"] * 4}, r"\['pos'\] must be integers.*string"),
    "real tags": ({**SOURCES, "pos": [7.0] * 4}, r"\['pos'\] must be integers.*float32"),
    "tags of two axes": ({**SOURCES, "pos": [[7]] * 4}, r"\['pos'\] must be integers.*shape \(4, 1\)"),
    "None": ({**SOURCES, "language": ["fre", None, "fre", "hun"]}, r"\['language'\] must be strings"),
    "a vector of another size": ({**SOURCES, "style": [[1.0]] * 4}, r"\['style'\].*shape \(batch, 2\).*\(4, 1\)"),
    "ragged vectors": ({**SOURCES, "style": [[1.0], [1.0, 2.0]] * 2}, r"\['style'\].*shape \(batch, 2\).*\(4, None\)"),
    "NaN": ({**SOURCES, "style": [[1.0, 2.0]] * 3 + [[np.nan, 0.0]]}, r"\['style'\] must be finite.*rows \[3\]"),
    "infinity": ({**SOURCES, "style": [[1.0, -np.inf]] + [[1.0, 0.0]] * 3}, r"\['style'\] must be finite.*rows \[0\]"),
    "texts as vectors": ({**SOURCES, "style": [["a", "b"]] * 4}, r"\['style'\] must be finite numbers.*string"),
    "prepared sources": (MODEL.prepare(SOURCES, TARGETS)[0][0], r"dict with the keys|indices"),
}


class TestHostile:
    @pytest.mark.parametrize("name", [name for name in BAD_SOURCES if name != "prepared sources"])
    def test_bad_sources_are_one_clear_error(self, name):
        sources, message = BAD_SOURCES[name]
        with pytest.raises(ValueError, match=f"(?s)`x` .sources.*{message}"):
            MODEL.prepare(sources, TARGETS)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", BAD_SOURCES)
    def test_bad_sources_of_a_search_and_of_scores_are_one_clear_error(self, name):
        sources, message = BAD_SOURCES[name]
        with pytest.raises(ValueError, match=f"(?s)`inputs`.*{message}"):
            MODEL.generate(sources)
        with pytest.raises(ValueError, match=f"(?s)`sources`.*{message}"):
            MODEL.score(sources, TARGETS)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"language": ["fre"] * 3}, "as many values"),
            ({"style": [[1.0, np.nan]] * 4}, "finite"),
        ],
    )
    def test_bad_values_in_a_dataset(self, change, message):
        batch = {name: tf.constant(values) for name, values in {**SOURCES, **change}.items()}
        dataset = tf.data.Dataset.from_tensors((batch, TARGETS))
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            next(iter(MODEL._pairs.data(dataset)[0]))

    @pytest.mark.parametrize("index", [-1, 3])
    def test_bad_prepared_indices(self, index):
        (source, decoder_inputs), target = MODEL.prepare(SOURCES, TARGETS)
        source["features"]["language"] = np.array([0, 1, 2, index])
        with pytest.raises(ValueError, match=r"\['language'\] must be indices from 0 to 2.*between \["):
            MODEL.prepare((source, decoder_inputs), target)

    def test_tags_outside_a_vocabulary_that_has_no_index_for_them(self):
        strict = keras.layers.StringLookup(vocabulary=["fre"], num_oov_indices=0)
        model = make_model(features={"language": strict})
        for texts in (["a"], ["a", "b"]):
            with pytest.raises(ValueError, match=r"(?s)`inputs`\['language'\].*num_oov_indices=0.*Received: \['hun'\]"):
                model.generate({"source": texts, "language": ["hun"] * len(texts)})

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            (3, "`features` must be a dict"),
            ({"größe": 3}, "identifiers in ASCII .*'größe'"),
            ({"source": 3}, "identifiers in ASCII other than source and features.*'source'"),
            ({"part of speech": 3}, "identifiers.*'part of speech'"),
            ({1: 3}, "identifiers.*1"),
            ({"a": 0}, r"`features\['a'\]`.*Received: 0"),
            ({"a": None}, r"`features\['a'\]`.*Received: None"),
            ({"a": True}, r"`features\['a'\]`.*Received: True"),
            ({"a": ["fre", "hun"]}, r"`features\['a'\]`.*Received: \['fre', 'hun'\]"),
            ({"a": keras.layers.StringLookup()}, "StringLookup with 0 tags"),
            ({"a": keras.layers.StringLookup(vocabulary=["a"], output_mode="one_hot")}, "output_mode='one_hot'"),
        ],
    )
    def test_bad_features_are_one_clear_error(self, features, message):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            make_model(features=features)

    def test_bad_sizes_and_parts(self):
        with pytest.raises(ValueError, match=r"`features_dim` must be a positive integer. Received: 0"):
            Seq2Seq(Encoder(9, 2, 2), Decoder(9, 2, 2), features={"a": 1}, features_dim=0)
        with pytest.raises(ValueError, match=r"Encoder must be new.* 16 .*built for 9"):
            Seq2Seq(MODEL.encoder, Decoder(9, 2, 2), features={"a": 1})
        with pytest.raises(ValueError, match=r"Encoder must be new.* 0 .*built for 9"):
            Seq2Seq(MODEL.encoder, MODEL.decoder)


class TestModels:
    @pytest.mark.slow
    def test_a_file_has_the_vocabularies_of_learned_lookups(self, tmp_path):
        lookup = keras.layers.IntegerLookup()
        lookup.adapt(np.array([7, 9, 9, 12, 12, 12]))
        model = make_model(features={"pos": lookup, "style": 2})
        model.compile("adam", sampler="beam")
        sources = {name: SOURCES[name] for name in ("source", "pos", "style")}
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        lookup.adapt(np.arange(100))  # the model has its own
        results = [m(m.prepare(sources, TARGETS)[0]) for m in (model, loaded)]
        np.testing.assert_array_equal(*results)
        assert list(model.features) == ["pos", "style"] and model.features["style"] == 2
        assert model.features["pos"].get_vocabulary() == [-1, 12, 9, 7]

    @pytest.mark.slow
    def test_convert(self):
        converted = keras_seq.convert(MODEL)
        inputs, _ = converted.prepare(SOURCES, TARGETS)
        np.testing.assert_array_equal(converted(inputs), MODEL(inputs))

    @pytest.mark.slow
    def test_an_ensemble_averages_members_of_the_same_features(self):
        members = [MODEL, make_model(seed=1, cells=("lstm", "lstm"), attention="luong")]
        model = Ensemble(members)
        inputs, _ = model.prepare(SOURCES, TARGETS)
        probabilities = np.mean([tf.nn.softmax(m(inputs)) for m in members], axis=0)
        np.testing.assert_allclose(np.exp(model(inputs)), probabilities, atol=1e-6)
        results = model.generate(SOURCES, max_length=3, return_dict=True)
        (source, decoder_inputs), target = model.prepare(SOURCES, results["token_ids"])
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(target, model((source, decoder_inputs)))
        expected = -np.where(target == 0, 0.0, losses).sum(1)
        np.testing.assert_allclose(results["log_probabilities"], expected, rtol=1e-5)

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            ({}, r"the features \['language', 'pos', 'style'\] and \[\]"),
            ({**make_features(), "style": 3}, "a feature 'style' of vectors of 2 and 3"),
            ({**make_features(), "style": make_features()["pos"]}, "a feature 'style' of real vectors and tags"),
            (
                {**make_features(), "language": keras.layers.StringLookup(vocabulary=["hun", "fre"])},
                r"a feature 'language' of lookups with vocabulary=\['fre', 'hun'\] and \['hun', 'fre'\]",
            ),
        ],
    )
    def test_members_of_other_features_are_one_clear_error(self, features, message):
        with pytest.raises(ValueError, match=f"`models` must have the same features.*{message}"):
            Ensemble([MODEL, make_model(features=features)])

    def test_text_layers_do_not_turn_off_xla(self):
        assert MODEL.supports_jit
        assert len(MODEL.text_layers) == 5  # two vectorizers, a detokenizer and two lookups

# SPDX-License-Identifier: Apache-2.0
"""The sequence-to-sequence model from the view of a user."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq
from keras_seq.training import InverseSigmoidGrowth, ScheduledSampling

LETTERS = "abcdefgh"


def random_words(count, seed=0):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(LETTERS), rng.integers(1, 8))) for _ in range(count)]


def make_model(units=16, seed=0, vectorizers=True, **decoder):
    keras.utils.set_random_seed(seed)
    vectorizer = keras_seq.data.text_vectorizer([LETTERS])
    size = vectorizer.vocabulary_size()
    encoder_options = {"cell": decoder["cell"]} if "cell" in decoder else {}
    return keras_seq.Seq2Seq(
        keras_seq.Encoder(size, 8, units, **encoder_options),
        keras_seq.Decoder(size, 8, units, **decoder),
        *([vectorizer, vectorizer] if vectorizers else []),
    )


def make_pairs(words, batch_size=32):
    return tf.data.Dataset.from_tensor_slices((words, [word[::-1] for word in words])).batch(batch_size)


@pytest.mark.slow
def test_learns_to_reverse():
    """A standard toy task: all unseen words are correct."""
    words = random_words(4000)
    unseen = sorted(set(random_words(300, seed=1)) - set(words))
    model = make_model(units=48)
    model.compile(keras.optimizers.Adam(1e-2, global_clipnorm=1.0))
    model.fit(make_pairs(words, 64), epochs=8, verbose=0)
    model.optimizer.learning_rate = 2e-3
    model.fit(make_pairs(words, 64), epochs=3, verbose=0)
    assert model.generate(unseen) == [word[::-1] for word in unseen]


COMBINATIONS = [(cell, attention) for cell in ("lstm", "gru", "rnn") for attention in ("bahdanau", None)]
QUICK = [("gru", "bahdanau")]


@pytest.mark.parametrize(
    ("cell", "attention"), [*QUICK, *(pytest.param(*c, marks=pytest.mark.slow) for c in COMBINATIONS if c not in QUICK)]
)
def test_every_cell_trains_with_and_without_attention(cell, attention):
    model = make_model(cell=cell, attention=attention)
    model.compile(keras.optimizers.Adam(1e-2))
    losses = model.fit(make_pairs(random_words(64)), epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.95 * losses[0]
    results = model.generate(["abc", "a"], return_dict=True)
    assert results["attention_weights"].shape[2] == (0 if attention is None else 4)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["bahdanau", None])
def test_compiled_and_graph_training_give_the_same_loss(attention):
    losses = []
    for jit_compile in (False, True):
        model = make_model(attention=attention)
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=jit_compile)
        words = [word for word in random_words(400) if len(word) == 5]  # one shape, one compilation
        losses.append(model.fit(make_pairs(words, 16), epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_padding_changes_neither_loss_nor_output():
    model = make_model(attention="bahdanau")
    model.compile("adam")
    inputs, targets = prepare_arrays(model, ["abc", "hgfed", "b"])
    source, decoder_inputs = inputs
    loss = model.test_on_batch((source, decoder_inputs), targets)
    logits = model((source, decoder_inputs)).numpy()

    def pad(ids, count):
        return np.pad(ids, [(0, 0), (0, count)])

    padded = (pad(source, 4), pad(decoder_inputs, 3))
    np.testing.assert_allclose(model.test_on_batch(padded, pad(targets, 3)), loss, rtol=1e-5)
    np.testing.assert_allclose(model(padded).numpy()[:, : logits.shape[1]], logits, atol=1e-5)


def prepare_arrays(model, words):
    inputs, targets = model.prepare(words, [word[::-1] for word in words])
    return tuple(np.asarray(ids) for ids in inputs), np.asarray(targets)


def test_padding_changes_no_gradient():
    model = make_model()
    (source, decoder_inputs), targets = prepare_arrays(model, ["abc", "hgfed", "b"])
    loss = keras_seq.training.masked_crossentropy()

    def compute_gradients(padding):
        ids = [tf.pad(ids, [(0, 0), (0, padding)]) for ids in (source, decoder_inputs, targets)]
        with tf.GradientTape() as tape:
            value = loss(ids[2], model((ids[0], ids[1]), training=True))
        return tape.gradient(value, [v.value for v in model.trainable_variables])

    for expected, padded in zip(compute_gradients(0), compute_gradients(3), strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(padded), tf.convert_to_tensor(expected), atol=1e-6)


def test_generate_equals_greedy_search_with_the_teacher_forced_model():
    """Against a Python loop that calls the model on all previous tokens, one sequence at a time."""
    model = make_model(seed=3)
    words = random_words(5, seed=2)
    results = model.generate(words, max_length=6, return_dict=True)
    for row, word in enumerate(words):
        source = np.asarray(model.prepare([word], [""])[0][0])
        tokens, score = [2], 0.0
        while len(tokens) <= 6 and tokens[-1] != 3:
            logits = model((source, np.array([tokens]))).numpy()[0, -1].astype("float64")
            log_probabilities = logits - np.log(np.exp(logits).sum())
            log_probabilities[[0, 2]] = -np.inf  # padding and [START] are never chosen
            tokens.append(int(log_probabilities.argmax()))
            score += log_probabilities.max()
        expected = tokens[1:]
        assert results["token_ids"][row, : len(expected)].tolist() == expected
        assert not results["token_ids"][row, len(expected) :].any()
        assert results["log_probabilities"][row] == pytest.approx(score, rel=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("attention", ["bahdanau", "luong", "monotonic", "coverage"])
def test_search_in_mixed_precision_scores_like_the_teacher_forced_model(attention, policy):
    """A search runs outside `__call__`, where Keras does not cast weights."""
    keras.config.set_dtype_policy(policy)
    try:
        if attention == "coverage":
            attention = keras_seq.layers.BahdanauAttention(8, normalize=True, coverage=True)
        model = make_model(attention=attention)
    finally:
        keras.config.set_dtype_policy("float32")
    results = model.generate(["abc", "fedcba"], max_length=5, return_dict=True)
    source = model.prepare(["abc", "fedcba"], ["", ""])[0][0]
    ids = results["token_ids"]
    logits = model((source, np.pad(ids[:, :-1], [(0, 0), (1, 0)], constant_values=2)))
    scores = keras.ops.take_along_axis(keras.ops.log_softmax(keras.ops.cast(logits, "float32")), ids[..., None], -1)
    expected = np.sum(np.where(ids > 0, np.asarray(scores)[..., 0], 0), axis=1)
    np.testing.assert_allclose(results["log_probabilities"], expected, rtol=0.02)


def test_an_output_does_not_depend_on_the_rest_of_the_batch():
    model = make_model(seed=1)
    words = random_words(20, seed=5)
    alone = [model.generate([word])[0] for word in words]
    assert model.generate(words) == alone
    assert model.generate(words, batch_size=7) == alone


def test_generation_is_not_traced_for_each_size():
    model = make_model()
    for words in (["a"], ["abc", "d"], ["abcdefgh"] * 3):
        model.generate(words)
    assert len(model._functions) == 2  # from one string to a string, and from the ids of several


def test_attention_weights_are_distributions_over_the_source():
    model = make_model()
    words = ["abcdefg", "a", ""]
    results = model.generate(words, return_dict=True)
    weights, ids = results["attention_weights"], results["token_ids"]
    for row, word in enumerate(words):
        steps, source = int((ids[row] != 0).sum()), len(word) + 1  # including [END]
        np.testing.assert_allclose(weights[row, :steps].sum(-1), 1, atol=1e-5)
        assert not weights[row, :, source:].any()
        assert not weights[row, steps:].any()


def test_token_ids_without_vectorizers():
    model = make_model(vectorizers=False, attention=None)
    model.compile("adam")
    source, target = np.array([[4, 5, 3], [6, 3, 0]]), np.array([[5, 4, 3], [6, 3, 0]])
    model.fit(source, target, verbose=0)
    model.fit(tf.data.Dataset.from_tensor_slices((source, target)).batch(2), verbose=0)
    ids = model.generate(source)
    assert ids.shape[0] == 2
    assert ids.dtype == np.int32
    (_, decoder_inputs), targets = model.prepare(source, target)
    assert np.asarray(decoder_inputs).tolist() == [[2, 5, 4], [2, 6, 3]]
    assert np.asarray(targets).tolist() == target.tolist()


def test_fit_turns_off_the_autotuning_of_its_data(monkeypatch):
    model, datasets = make_model(), []
    model.compile("adam")
    monkeypatch.setattr(keras.Model, "fit", lambda self, x, *args, **kwargs: datasets.append(x))
    options = tf.data.Options()
    options.autotune.enabled = True
    model.fit(make_pairs(random_words(4)))
    model.fit(make_pairs(random_words(4)).with_options(options))
    assert [dataset.options().autotune.enabled for dataset in datasets] == [False, True]


def test_sample_weights_reach_the_loss():
    model = make_model()
    model.compile("adam")
    words = ["abc", "hgf"]
    data = tf.data.Dataset.from_tensors((words, words, [1.0, 0.0]))
    weighted, _ = model.evaluate(data, verbose=0)
    loss, _ = model.evaluate(tf.data.Dataset.from_tensors((words[:1], words[:1])), verbose=0)
    assert weighted == pytest.approx(
        loss / 2, rel=1e-5
    )  # Keras divides by the number of tokens, not by the sum of weights


class TestScheduledSampling:
    """Predictions replace some of the decoder's inputs in training."""

    @staticmethod
    def make_model_and_data(**decoder):
        """A model without vectorizers, and `(source, decoder inputs)` and targets with padding."""
        rng = np.random.default_rng(0)
        source, target = rng.integers(4, 12, (6, 5)), rng.integers(4, 12, (6, 8))
        source[0, 3:] = target[0, 4:] = 0
        model = make_model(vectorizers=False, **decoder)
        for variable in model.trainable_variables:
            variable.assign(
                variable * (20 if "embeddings" in variable.path else 2)
            )  # so that the tokens differ in probability
        inputs, targets = model.prepare(source, target)
        return model, tuple(np.asarray(ids) for ids in inputs), np.asarray(targets)

    @staticmethod
    def make_successor_model(**options):
        """A decoder with hand-set weights that predicts the successor of its input, and 4 after 11."""
        model, inputs, targets = TestScheduledSampling.make_model_and_data(cell="rnn", attention=None, **options)
        decoder, successor = model.decoder, np.eye(12)[[5, 5, 5, 5, 5, 6, 7, 8, 9, 10, 11, 4]]
        decoder.embedding.set_weights([np.eye(12, 8, k=-4)])  # one-hot for letters, zero for special tokens
        decoder.recurrent_layer.set_weights([np.eye(8, 16), np.zeros((16, 16)), np.zeros(16)])
        decoder.readout.set_weights([np.eye(16, 8) @ successor[4:], 0.1 * successor[0]])
        return model, inputs, targets, successor.argmax(-1)

    @staticmethod
    def run_training_pass(model, inputs, monkeypatch):
        """Returns the logits of a call in training, and the decoder's inputs in its last pass."""
        decoder_inputs, call = [], model.decoder.call
        with monkeypatch.context() as patch:

            def record(tokens, *args, **kwargs):
                decoder_inputs.append(tokens)
                return call(tokens, *args, **kwargs)

            patch.setattr(model.decoder, "call", record)
            return np.array(model(inputs, training=True)), np.asarray(decoder_inputs[-1])

    @staticmethod
    def train(model, inputs, targets, steps=4):
        """Runs training steps and returns their losses."""
        results = []
        for _ in range(steps):
            model.reset_metrics()
            results.append(float(model.train_on_batch(inputs, targets)[0]))
        return results

    @pytest.mark.parametrize("mode", ["parallel", "sequential"])
    def test_probability_0_is_teacher_forcing(self, mode):
        """Also with the same dropout masks: the additional pass does not advance the seeds."""
        logits = []
        for sampling in (None, ScheduledSampling(0.0, mode)):
            model, inputs, _ = self.make_model_and_data(dropout=0.2, recurrent_dropout=0.3)
            model.compile(scheduled_sampling=sampling)
            logits.append([np.asarray(model(inputs, training=True)) for _ in range(2)])
        np.testing.assert_array_equal(*logits)
        assert np.any(logits[0][0] != logits[0][1])

    def test_mixed_inputs_of_a_known_model(self, monkeypatch):
        model, inputs, _, successor = self.make_successor_model()
        decoder_inputs = inputs[1]
        fed = {}
        for mode in ("parallel", "sequential"):
            model.compile(scheduled_sampling=ScheduledSampling(1.0, mode, "argmax"))
            _, fed[mode] = self.run_training_pass(model, inputs, monkeypatch)
        chain = np.array([2, 5, 6, 7, 8, 9, 10, 11])  # [START], then the successor of each prediction
        from_truth = np.concatenate([decoder_inputs[:, :1], successor[decoder_inputs[:, :-1]]], axis=1)
        is_token = decoder_inputs != 0
        np.testing.assert_array_equal(fed["sequential"], np.where(is_token, chain, 0))
        np.testing.assert_array_equal(fed["parallel"], np.where(is_token, from_truth, 0))

    @pytest.mark.parametrize(("cell", "attention"), [("lstm", "bahdanau"), ("gru", None)])
    def test_sequential_argmax_with_probability_1_is_greedy_search(self, cell, attention, monkeypatch):
        model, inputs, _ = self.make_model_and_data(cell=cell, attention=attention)
        model.compile(scheduled_sampling=ScheduledSampling(1.0, "sequential", "argmax"))
        _, fed = self.run_training_pass(model, inputs, monkeypatch)
        memory, summary = model.encoder(inputs[0])
        step, state, memory = model.decoder.start_search(memory, summary, inputs[0] != 0)
        token = np.full(6, 2)
        for t in range(1, 8):
            logits, state, _ = step(token, state, memory)
            token = np.array(logits)
            token[:, [0, 2]] = -np.inf
            token = np.where(inputs[1][:, t] == 0, 0, token.argmax(-1))
            np.testing.assert_array_equal(fed[:, t], token)

    @pytest.mark.parametrize(("cell", "attention"), [("lstm", "bahdanau"), ("gru", None)])
    def test_sequential_inputs_are_the_predictions_of_the_trained_pass(self, cell, attention, monkeypatch):
        """So the loop uses the dropout masks of that pass, shared by all its steps."""
        options = {"dropout": 0.3, "recurrent_dropout": 0.4}
        model, inputs, _ = self.make_model_and_data(cell=cell, attention=attention, **options)
        model.compile(scheduled_sampling=ScheduledSampling(0.5, "sequential", "argmax", seed=1))
        logits, fed = self.run_training_pass(model, inputs, monkeypatch)
        logits[:, :, [0, 2]] = -np.inf
        draws = ScheduledSampling(0.5, seed=1).draw(inputs[1], 0)
        predicted = np.where(draws.replaced[:, 1:], logits[:, :-1].argmax(-1), inputs[1][:, 1:])
        np.testing.assert_array_equal(fed[:, 1:], predicted)
        assert np.any(fed != inputs[1])

    @pytest.mark.parametrize(
        ("cell", "attention"), [("gru", "bahdanau"), ("lstm", None), ("lstm", "coverage"), ("lstm", "luong")]
    )
    def test_single_steps_in_training_equal_the_fused_pass(self, cell, attention):
        if attention == "coverage":  # with a state
            attention = keras_seq.layers.BahdanauAttention(16, coverage=True)
        model, (source, tokens), _ = self.make_model_and_data(
            cell=cell, attention=attention, dropout=0.3, recurrent_dropout=0.4
        )
        memory, summary = model.encoder(source)
        with model.decoder.training_step_function(memory, source != 0) as step:
            state, logits = model.decoder.get_initial_state(summary, memory), []
            for token in tokens.T:
                of_step, state, _ = step(token, state)
                logits.append(of_step)
        fused = model.decoder(tokens, memory, summary, memory_mask=source != 0, training=True)
        np.testing.assert_allclose(np.stack(logits, axis=1), fused, atol=1e-5)
        other = model.decoder(tokens, memory, summary, memory_mask=source != 0, training=True)
        assert np.abs(np.asarray(other - fused)).max() > 1e-3  # each call draws its own masks

    def test_repeated_parallel_mixing_becomes_sequential(self):
        """With the same draws, each pass is correct for one more step (Duckworth et al. 2019)."""
        model, (source, tokens), _ = self.make_model_and_data()
        sampling = ScheduledSampling(0.7, "sequential", seed=2)
        draws = sampling.draw(tokens, 0)
        memory, summary = model.encoder(source)
        with model.decoder.training_step_function(memory, source != 0) as step:
            expected = sampling.mix_sequential(tokens, step, model.decoder.get_initial_state(summary, memory), draws)
        mixed, passes = tokens, []
        for _ in range(7):
            logits = model.decoder(mixed, memory, summary, memory_mask=source != 0)
            mixed = np.where(draws.replaced, sampling.mix_parallel(tokens, logits, draws), tokens)
            passes.append(mixed)
        np.testing.assert_array_equal(mixed, expected)
        assert np.any(passes[0] != mixed)

    @pytest.mark.parametrize("mode", ["parallel", "sequential"])
    def test_gradients_equal_teacher_forcing_on_the_mixed_inputs(self, mode, monkeypatch):
        model, inputs, targets = self.make_model_and_data()
        variables = [v.value for v in model.trainable_variables]

        def compute_gradients(fed=None):
            """Gradients of a call on `inputs`, or with `fed` as the decoder's inputs."""
            with tf.GradientTape() as tape:
                if fed is None:
                    logits = model(inputs, training=True)
                else:
                    memory, summary = model.encoder(inputs[0], training=True)
                    logits = model.decoder(fed, memory, summary, memory_mask=inputs[0] != 0, training=True)
                loss = model.loss(targets, logits)
            return [np.asarray(tf.convert_to_tensor(g)) for g in tape.gradient(loss, variables)]

        sampling = ScheduledSampling(0.6, mode, seed=4)
        model.compile(scheduled_sampling=sampling)
        _, mixed = self.run_training_pass(model, inputs, monkeypatch)
        model.compile(scheduled_sampling=ScheduledSampling.from_config(sampling.get_config()))  # draws the same again
        sampled = compute_gradients()
        model.compile()
        for a, b, truth in zip(sampled, compute_gradients(mixed), compute_gradients(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
            assert np.abs(b - truth).max() > 1e-4

    @pytest.mark.parametrize(
        ("mode", "jit_compile"),
        [
            pytest.param("parallel", True, marks=pytest.mark.slow),
            ("sequential", False),
            pytest.param("sequential", True, marks=pytest.mark.slow),
        ],
    )
    def test_schedule_follows_the_iterations_of_the_optimizer(self, mode, jit_compile):
        """Every training step draws anew; evaluation and search do not sample."""
        model, inputs, targets = self.make_model_and_data()
        model.compile("adam")
        teacher_forced = model.test_on_batch(inputs, targets)[0]
        outputs = model.generate(inputs[0])
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 0.5])  # 0.0 up to step 1, then 0.5
        frozen = keras.optimizers.SGD(0.0)
        model.compile(frozen, jit_compile=jit_compile, scheduled_sampling=ScheduledSampling(schedule, mode, seed=1))
        losses = self.train(model, inputs, targets, steps=5)
        np.testing.assert_allclose(losses[:2], teacher_forced, rtol=1e-5)
        assert len({*losses[1:]}) == 4
        assert model.test_on_batch(inputs, targets)[0] == pytest.approx(teacher_forced, rel=1e-5)
        np.testing.assert_array_equal(model.generate(inputs[0]), outputs)

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", ["parallel", "sequential"])
    def test_a_loaded_model_keeps_its_scheduled_sampling(self, mode, tmp_path):
        model = make_model()
        schedule = InverseSigmoidGrowth(20)
        model.compile("adam", scheduled_sampling=ScheduledSampling(schedule, mode, "argmax", seed=7))
        model.fit(make_pairs(random_words(64)), verbose=0)  # strings
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.scheduled_sampling.get_config() == model.scheduled_sampling.get_config()
        assert float(loaded.scheduled_sampling.probability(loaded.optimizer.iterations)) == float(schedule(2))

    def test_a_loaded_model_without_scheduled_sampling_has_none(self, tmp_path):
        model = make_model()
        model.save(tmp_path / "plain.keras")
        assert not keras.saving.load_model(tmp_path / "plain.keras").compiled
        model.compile(scheduled_sampling=ScheduledSampling(0.5))
        model.compile("adam")
        model.save(tmp_path / "model.keras")
        assert keras.saving.load_model(tmp_path / "model.keras").scheduled_sampling is None

    def test_invalid_scheduled_sampling(self):
        with pytest.raises(ValueError, match=r"`scheduled_sampling` must be a `keras_seq.training.ScheduledSampling`"):
            make_model().compile(scheduled_sampling=0.5)


class TestErrors:
    def test_strings_need_a_vectorizer(self):
        with pytest.raises(ValueError, match="source_vectorizer"):
            make_model(vectorizers=False).fit(["abc"], ["abc"])
        with pytest.raises(ValueError, match="token ids"):
            make_model(vectorizers=False).generate(["abc"])

    def test_vectorizers_need_strings(self):
        with pytest.raises(ValueError, match="must be strings"):
            make_model().generate([4, 5])

    def test_empty_inputs(self):
        with pytest.raises(ValueError, match="at least one"):
            make_model().generate([])

    def test_call_without_decoder_inputs(self):
        with pytest.raises(ValueError, match="decoder_inputs"):
            make_model()(tf.constant([[1, 2]]))

    def test_vocabulary_larger_than_the_embedding(self):
        vectorizer = keras_seq.data.text_vectorizer([LETTERS])
        parts = keras_seq.Encoder(5, 4, 4), keras_seq.Decoder(50, 4, 4)
        with pytest.raises(ValueError, match=r"`source_vectorizer` must have at most 5 tokens.* with 12 tokens"):
            keras_seq.Seq2Seq(*parts, vectorizer, vectorizer)

    @pytest.mark.parametrize("attention", ["dot", 3])
    def test_unknown_attention(self, attention):
        with pytest.raises(ValueError, match=r"attention.*bahdanau"):
            keras_seq.Decoder(10, 4, 4, attention=attention)

    def test_unknown_cell(self):
        with pytest.raises(ValueError, match=r"cell.*gru.*lstm.*rnn"):
            keras_seq.Encoder(10, 4, 4, cell="qrnn")

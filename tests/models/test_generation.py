# SPDX-License-Identifier: Apache-2.0
"""`generate`: samplers, processors, seeds, batches of similar length, results and progress."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_seq2seq import make_model, random_words

import keras_seq
from keras_seq.decoding import BeamSampler, GreedySampler, RandomSampler
from keras_seq.models.token_rows import TokenRows, in_order, length_batches

UNKNOWN = 1


@pytest.fixture(scope="module")
def model():
    return make_model()


class TestBatches:
    def test_an_output_depends_neither_on_mates_nor_on_batch_size(self, model):
        words = [*random_words(20), "a" * 150, "", "?z\0"]
        alone = [model.generate([word], return_dict=True) for word in words]
        for batch_size in (1, 3, 256):
            together = model.generate(words, batch_size=batch_size, return_dict=True)
            assert together["text"].tolist() == [results["text"][0] for results in alone]
            for row, results in enumerate(alone):
                _, steps, source = results["attention_weights"].shape
                assert together["token_ids"][row, :steps].tolist() == results["token_ids"][0].tolist()
                assert not together["token_ids"][row, steps:].any()
                np.testing.assert_allclose(
                    together["log_probabilities"][row], results["log_probabilities"][0], atol=1e-5
                )
                weights = together["attention_weights"][row]
                np.testing.assert_allclose(weights[:steps, :source], results["attention_weights"][0], atol=1e-5)
                assert not weights[steps:].any()
                assert not weights[:, source:].any()

    @pytest.mark.parametrize("seed", range(8))
    def test_batches_hold_every_sequence_once_and_little_padding(self, seed):
        rng = np.random.default_rng(seed)
        lengths = rng.choice(
            [0, 1, 7, 8, 9, 400, 10_000], rng.integers(1, 600), p=[0.1, 0.2, 0.2, 0.2, 0.2, 0.09, 0.01]
        )
        batch_size = int(rng.choice([1, 2, 50, 256]))
        batches = list(length_batches(lengths, batch_size))
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(len(lengths)))
        for batch in batches:
            assert len(batch) <= batch_size
            assert len(batch) == 1 or len(batch) * lengths[batch].max() <= 2 * lengths[batch].sum() + 256

    def test_one_long_word_makes_no_short_one_pay(self):
        lengths = np.array([8] * 100 + [400] + [8] * 155)
        batches = list(length_batches(lengths, 256))
        assert [lengths[batch].max() for batch in batches] == [8, 400]

    def test_lengths_alike_fill_the_batches(self):
        lengths = np.random.default_rng(0).integers(3, 12, 1000)
        assert [len(batch) for batch in length_batches(lengths, 256)] == [256, 256, 256, 232]

    @pytest.mark.parametrize("is_ragged", [False, True])
    def test_rows_drop_the_padding_after_the_last_token_alone(self, is_ragged):
        rng = np.random.default_rng(1)
        ids = rng.integers(0, 3, (40, 7)).astype("int32") * (np.arange(7) < rng.integers(0, 8, 40)[:, None])
        expected = ["".join(map(str, row)).rstrip("0") for row in ids]
        tensor = tf.constant(ids, tf.int32)
        if is_ragged:
            tensor = tf.RaggedTensor.from_tensor(tensor, lengths=[min(len(row) + 1, 7) for row in expected])
        rows = TokenRows.from_ids(tensor)
        assert rows.lengths.tolist() == [len(row) for row in expected]
        indices = rng.permutation(40)[:9]
        padded = rows.padded(indices)
        assert padded.shape == (9, max(len(expected[i]) for i in indices))
        assert ["".join(map(str, row)).rstrip("0") for row in padded] == [expected[i] for i in indices]

    def test_results_are_put_back_in_order(self):
        first = {"a": np.array([[1, 2], [3, 4]]), "b": np.array([1.0, 2.0])}
        second = {"a": np.array([[5]]), "b": np.array([3.0])}
        merged = in_order([(np.array([2, 0]), first), (np.array([1]), second)])
        assert merged["a"].tolist() == [[3, 4], [5, 0], [1, 2]]
        assert merged["b"].tolist() == [2.0, 3.0, 1.0]

    def test_a_generator_is_read_as_it_is_needed(self, model, monkeypatch):
        monkeypatch.setattr("keras_seq.models.token_side.TokenSide.window", 2)
        words, decoded = random_words(20), []

        def note(*args, **kwargs):
            decoded.append(read)
            return in_order(*args, **kwargs)

        read = 0

        def batches():
            nonlocal read
            for start in range(0, 20, 4):
                read += 4
                yield words[start : start + 4]

        positions = [(positions, read) for positions, _ in model._source_batches(batches(), 3)]
        assert np.sort(np.concatenate([p for p, _ in positions])).tolist() == list(range(20))
        assert positions[0][1] == 8  # not 20
        assert model.generate(batches(), batch_size=3) == model.generate(words)


class TestSeeds:
    def test_a_seed_gives_the_same_text_whatever_happened_before(self, model):
        words = random_words(12)
        sampler = RandomSampler(temperature=2.0, seed=8)
        first = model.generate(words, sampler=sampler, seed=5)
        model.generate(words, sampler=sampler)
        for options in ({}, {"batch_size": 1}, {"batch_size": 5}):
            assert model.generate(words, sampler="random", seed=5, **options) != first
            assert model.generate(words, sampler=RandomSampler(temperature=2.0), seed=5, **options) == first
        assert model.generate(iter([words[:5], words[5:]]), sampler=sampler, seed=np.int64(5)) == first

    def test_seeds_of_any_size_differ(self, model):
        seeds = [0, 1, -1, 2**31, 2**32, 2**33 + 1, -(2**40)]
        outputs = [tuple(model.generate(["abc"] * 9, sampler=RandomSampler(3.0), seed=seed)) for seed in seeds]
        assert len(set(outputs)) == len(seeds)

    def test_without_a_seed_the_sampler_goes_on(self, model):
        words = ["abc"] * 9
        sampler, same = RandomSampler(3.0, seed=7), RandomSampler(3.0, seed=7)
        first, second = (model.generate(words, sampler=sampler) for _ in range(2))
        assert first != second
        assert [first, second] == [model.generate(words, sampler=same) for _ in range(2)]

    def test_equal_sources_have_different_samples(self, model):
        assert len(set(model.generate(["abc"] * 20, sampler=RandomSampler(3.0), seed=1))) > 5


class TestDefaultSampler:
    def test_it_is_saved_with_the_model(self, tmp_path):
        model = make_model()
        words = random_words(10)
        model.compile(sampler=RandomSampler(3.0))
        expected = model.generate(words, seed=1)
        assert expected == model.generate(words, sampler=RandomSampler(3.0), seed=1)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.sampler.get_config() == model.sampler.get_config()
        assert loaded.generate(words, seed=1) == expected

    def test_it_is_greedy(self, model):
        words = random_words(10)
        assert not model.compiled
        assert model.generate(words) == model.generate(words, sampler="greedy")

    def test_it_is_an_argument_of_compile(self):
        model = make_model()
        model.compile()
        assert isinstance(model.sampler, GreedySampler)
        model.compile(sampler="beam")
        assert isinstance(model.sampler, BeamSampler)

    def test_invalid_samplers(self, model):
        for sampler in ("best", 3, GreedySampler, ["greedy"]):
            with pytest.raises(ValueError, match="sampler"):
                model.generate(["a"], sampler=sampler)
            with pytest.raises(ValueError, match="sampler"):
                model.compile(sampler=sampler)
        with pytest.raises(ValueError, match="num_beams"):
            model.generate(["a"], sampler=BeamSampler(11))  # 12 tokens without padding and [START]


class TestResults:
    def test_several_outputs_of_each_source(self, model):
        words = ["abc", "", "hedgefad"]
        sampler = BeamSampler(4, num_return_sequences=3)
        results = model.generate(words, sampler=sampler, return_dict=True)
        steps = results["token_ids"].shape[2]
        assert {name: value.shape for name, value in results.items()} == {
            "text": (3, 3),
            "token_ids": (3, 3, steps),
            "log_probabilities": (3, 3),
            "scores": (3, 3),
            "attention_weights": (3, 3, steps, 9),
        }
        assert results["text"].dtype.kind == "U"
        assert (np.diff(results["scores"], axis=1) <= 0).all()
        assert model.generate(words, sampler=sampler) == results["text"].tolist()

    @pytest.mark.slow
    def test_several_outputs_of_one_string(self, model):
        sampler = BeamSampler(4, num_return_sequences=3)
        assert model.generate("abc", sampler=sampler) == model.generate(["abc", "d"], sampler=sampler)[0]

    @pytest.mark.slow
    def test_several_outputs_as_ids(self):
        model = make_model(vectorizers=False)
        ids = model.generate([[4, 5, 3], [3]], sampler=BeamSampler(2, num_return_sequences=2))
        assert ids.shape[:2] == (2, 2)
        assert ids.dtype == np.int32

    def test_without_attention_there_are_no_attention_weights(self):
        model = make_model(attention=None)
        assert model.generate(["abc", "b"], return_dict=True)["attention_weights"].shape[2] == 0


def test_coverage_needs_attention():
    model = make_model(attention=None)
    assert len(model.generate(["abc"], 2, sampler=BeamSampler(2))) == 1
    with pytest.raises(ValueError, match=r"`sampler` must not read attention weights.*'coverage_penalty': 0\.5"):
        model.generate(["abc"], 2, sampler=BeamSampler(2, coverage_penalty=0.5))


class TestLength:
    def test_outputs_stop_at_the_limit(self, model):
        for limit in (1, 2, 7):
            ids = model.generate(random_words(20), limit, return_dict=True)["token_ids"]
            assert ids.shape[1] == limit

    @pytest.mark.parametrize("limit", [100_001, 10**6, 2**31 - 1, 2**31, 0, 2.0])
    def test_invalid_limits(self, model, limit):
        with pytest.raises(ValueError, match=r"`max_length` must be a positive integer(, at most 100000)?\."):
            model.generate(["a"], limit)

    def test_default_limit(self, model):
        ids = tf.constant([[4, 5, 3, 0], [0, 0, 0, 0]])
        assert model.start_search(ids, 1).limits.numpy().tolist() == [16, 10]
        assert model.start_search(tf.ones([1, 49_995], tf.int32), 1).limits.numpy().tolist() == [100_000]
        assert model.start_search(tf.ones([1, 49_996], tf.int32), 1).limits.numpy().tolist() == [100_000]

    def test_a_source_of_10000_characters(self, model):
        words = ["abc", "ab" * 5000, "a"]
        outputs = model.generate(words, 20)
        assert outputs == [model.generate(word, 20) for word in words]

    @pytest.mark.slow
    def test_a_source_of_10000_characters_with_its_default_limit(self):
        model = make_model(vectorizers=False)
        model.decoder.readout.bias.assign(tf.one_hot(3, 12) * -99.0)  # never ends
        ids = model.generate([[4, 5] * 5000, [4]])  # with attention weights the results would take gigabytes
        assert np.count_nonzero(ids, axis=1).tolist() == [20_010, 12]


class TestProcessors:
    @pytest.mark.parametrize(
        "sampler",
        ["greedy", *(pytest.param(s, marks=pytest.mark.slow) for s in (RandomSampler(3.0), BeamSampler(3)))],
        ids=["greedy", "random", "beam"],
    )
    def test_they_change_what_is_chosen(self, model, sampler):
        def forbid_a_to_d(log_probabilities, tokens, step):
            is_forbidden = tf.range(12)[None] >= 8  # the ids of a, b, c and d
            return tf.where(is_forbidden | (tf.range(12)[None] == UNKNOWN), -np.inf, log_probabilities)

        words = random_words(20)
        assert set("abcd") & set("".join(model.generate(words)))
        outputs = model.generate(words, sampler=sampler, processors=[forbid_a_to_d], seed=1)
        assert set("".join(outputs)) <= set("efgh")

    def test_their_arguments_are_checked(self, model):
        processors = [keras_seq.decoding.ForcedPrefix([4, 5, 6])]
        assert model.generate("a", 4, processors=processors).startswith("hgf")
        with pytest.raises(ValueError, match="prefix"):
            model.generate("a", 2, processors=processors)
        with pytest.raises(ValueError, match="12"):
            model.generate("a", processors=[keras_seq.decoding.ForcedPrefix([12])])
        for processors in ([3], [None], ["a"]):
            with pytest.raises(ValueError, match="`processors` must be"):
                model.generate("a", processors=processors)

    @pytest.mark.parametrize(
        ("change", "received"),
        [
            (lambda values: values[:, :3], r"dtype float32, shape \(None, 3\)"),
            (lambda values: values > 0, r"dtype bool, shape \(None, 12\)"),
            (lambda values: None, "None"),
        ],
    )
    def test_their_results_are_checked(self, model, change, received):
        expected = rf"`processors` must return log-probabilities .*here \(None, 12\). Received from .*: {received}"
        with pytest.raises(ValueError, match=expected):
            model.generate("a", processors=[lambda values, tokens, step: change(values)])

    def test_they_may_return_another_float_dtype(self, model):
        def double(log_probabilities, tokens, step):
            return tf.cast(log_probabilities, tf.float64)

        assert model.generate(["ab"], processors=[double]) == model.generate(["ab"])


class TestProgress:
    def test_a_bar_counts_the_sources(self, model, capsys):
        words = random_words(10)
        model.generate(words, batch_size=4, verbose=1)
        shown = capsys.readouterr().out
        assert "4/10" in shown.replace("\x1b[1m", "").replace("\x1b[0m", "")
        assert "10/10" in shown.replace("\x1b[1m", "").replace("\x1b[0m", "")
        model.generate(iter([words, words]), verbose=1)  # of unknown length
        assert "20/Unknown" in capsys.readouterr().out.replace("\x1b[1m", "").replace("\x1b[0m", "")
        model.predict(words, batch_size=4, verbose=2)
        shown = capsys.readouterr().out
        assert shown.count("\n") == 1
        assert "10/10" in shown

    def test_short_work_is_silent(self, model, capsys):
        words = random_words(10)
        for verbose in (0, "auto"):
            model.generate(words, batch_size=4, verbose=verbose)
            model.predict(words, batch_size=4, verbose=verbose)
        assert capsys.readouterr() == ("", "")

    def test_auto_shows_a_bar_when_it_takes_long(self, model, capsys, monkeypatch):
        monkeypatch.setattr("keras_seq.models.progress._SILENT_SECONDS", -1.0)
        model.generate(random_words(10), batch_size=4)
        assert "10/10" in capsys.readouterr().out.replace("\x1b[1m", "").replace("\x1b[0m", "")
        model.generate("abc")
        assert capsys.readouterr().out == ""  # one batch

    @pytest.mark.parametrize("verbose", [3, "yes", None])
    def test_invalid_verbose(self, model, verbose):
        with pytest.raises(ValueError, match=r'`verbose` must be 0, 1, 2 or "auto"\. Received: '):
            model.generate(["a"], verbose=verbose)


@pytest.mark.parametrize("seed", [1.5, "1", True])
def test_invalid_seeds(model, seed):
    with pytest.raises(ValueError, match="`seed` must be an integer or None"):
        model.generate(["a"], seed=seed)


class TestXLA:
    """`decode` in a function that XLA compiles."""

    @pytest.mark.slow
    @pytest.mark.parametrize("implementation", ["native", "xla"])
    @pytest.mark.parametrize(
        ("attention", "sampler"),
        [
            ("bahdanau", GreedySampler()),
            ("bahdanau", RandomSampler()),
            ("bahdanau", BeamSampler(3, 0.6, num_return_sequences=2)),
            ("luong", BeamSampler(3, 0.6, num_return_sequences=2)),
        ],
    )
    def test_gives_what_it_gives_without(self, attention, sampler, implementation):
        model = make_model(vectorizers=False, attention=attention)
        sources, options = tf.constant([[4, 5, 3], [6, 3, 0]]), {"sampler": sampler, "seed": tf.constant([1, 2])}

        @tf.function(jit_compile=True)
        def decode(sources):
            return model.decode(sources, 6, drop_ended=False, **options)

        with keras_seq.ops.use_implementation(implementation):
            compiled, expected = decode(sources), model.decode(sources, 6, **options)
        for name, value in expected.items():
            result = compiled[name].numpy()
            if name in ("token_ids", "attention_weights"):
                axis = value.shape.rank - (1 if name == "token_ids" else 2)
                assert result.shape[axis] == 6
                result, rest = np.split(result, [value.shape[axis]], axis=axis)
                assert not rest.any()
            np.testing.assert_allclose(result, value, atol=1e-5)

    @pytest.mark.parametrize("options", [{"max_length": 6}, {"drop_ended": False}])
    def test_what_it_cannot_compile_is_an_error(self, options):
        model = make_model(vectorizers=False)
        decode = tf.function(lambda sources: model.decode(sources, **options), jit_compile=True, autograph=False)
        with pytest.raises(ValueError, match="`drop_ended` must be False and `max_length` a positive Python integer"):
            decode(tf.constant([[4, 5, 3]]))


class TestExport:
    @pytest.mark.slow
    @pytest.mark.parametrize("size", [12, 5])
    def test_endpoints_give_what_generate_gives(self, size, tmp_path):
        model = make_model(size=size)
        words = ["abc", "", "bedfag"]
        model.export(tmp_path / "saved")
        signatures = tf.saved_model.load(tmp_path / "saved").signatures
        num_beams = min(5, size - 2)
        beam = BeamSampler(num_beams, num_return_sequences=num_beams)
        with keras_seq.ops.use_implementation("xla"):  # as exported
            expected = {
                "generate_attention": model.generate(words, return_dict=True),
                "generate_beam": model.generate(words, return_dict=True, sampler=beam),
            }
        del expected["generate_attention"]["scores"], expected["generate_beam"]["attention_weights"]
        names = ("text", "log_probabilities")
        expected["serving_default"] = {name: expected["generate_attention"][name] for name in names}
        for name, results in expected.items():
            exported = signatures[name](inputs=tf.constant(words))
            assert exported.keys() == results.keys()
            for key, value in exported.items():
                if key == "text":
                    assert np.char.decode(value.numpy().astype("S")).tolist() == results[key].tolist()
                elif value.dtype == tf.int32:
                    np.testing.assert_array_equal(value, results[key])
                else:
                    np.testing.assert_allclose(value, results[key], atol=1e-5)
            empty = signatures[name](inputs=tf.zeros([0], tf.string))
            assert {key: value.shape[0] for key, value in empty.items()} == dict.fromkeys(results, 0)


def test_odd_arguments(model):
    words = random_words(3)
    assert model.generate(words, batch_size=np.int8(2)) == model.generate(words)
    for sampler in ([], 0, "", False):
        with pytest.raises(ValueError, match="`sampler` must be"):
            model.generate(words, sampler=sampler)
    for scalar in (tf.constant("abc"), np.array("abc")):
        assert model.generate(scalar) == model.generate("abc")


def test_a_sampler_by_name_draws_anew_in_each_call_and_makes_no_variable(model, monkeypatch):
    made = []
    monkeypatch.setattr(keras.random, "SeedGenerator", lambda *args: made.append(args))
    keras.utils.set_random_seed(4)
    first = [model.generate(["abcabc"] * 8, sampler="random") for _ in range(2)]
    keras.utils.set_random_seed(4)
    again = [model.generate(["abcabc"] * 8, sampler="random") for _ in range(2)]
    assert first[0] != first[1]
    assert again == first
    assert not made

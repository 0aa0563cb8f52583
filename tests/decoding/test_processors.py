# SPDX-License-Identifier: Apache-2.0
"""Processors do to every drawn history what a slow reference in plain Python does, in every mode of TensorFlow."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import MODES
from processor_references import END, PROCESSORS, VOCABULARY, every_processor, process_row

from keras_seq.data import text_to_ids, text_vectorizer
from keras_seq.decoding import (
    AllowedTokens,
    ForbiddenTokens,
    ForcedPrefix,
    Lexicon,
    MinLength,
    NoRepeatNGram,
    RepetitionPenalty,
    check_processors,
)


def run(processor, log_probabilities, tokens, step, mode="eager"):
    arguments = [tf.constant(log_probabilities), tf.constant(tokens), tf.constant(step)]
    if mode == "eager":
        return processor(*arguments).numpy()
    shapes = [tf.TensorSpec([None] * x.shape.rank, x.dtype) if mode == "graph" else x for x in arguments]
    function = tf.function(lambda *args: processor(*args), input_signature=shapes if mode == "graph" else None)
    if mode == "jit":
        function = tf.function(lambda *args: processor(*args), jit_compile=True)
    return function(*arguments).numpy()


def draw(random, rows, capacity, step, vocabulary_size, tokens=None):
    """Log-probabilities and histories, drawn from a few tokens so that they repeat, with zeros after `step`."""
    log_probabilities = np.log(random.dirichlet(np.full(vocabulary_size, 0.5), rows) + 1e-30).astype("float32")
    history = random.choice(np.arange(vocabulary_size) if tokens is None else tokens, (rows, capacity))
    return log_probabilities, np.where(np.arange(capacity) < step, history, 0).astype("int32")


def assert_processed(processor, log_probabilities, tokens, step, mode="eager"):
    results = run(processor, log_probabilities, tokens, step, mode)
    assert results.dtype == np.float32
    expected = [process_row(processor, *row) for row in zip(log_probabilities, tokens[:, :step].tolist(), strict=True)]
    np.testing.assert_array_equal(results, np.reshape(expected, log_probabilities.shape))


@pytest.mark.parametrize("mode", MODES)
@every_processor
def test_does_what_the_reference_does(processor, mode):
    random = np.random.default_rng(0)
    shapes = [(4, 5, 3), (1, 6, 0), (3, 4, 4), (1, 1, 0), (2, 9, 8)]  # step 0, capacity equal to step, one row
    for rows, capacity, step in shapes if mode == "eager" else shapes[:1]:
        assert_processed(processor, *draw(random, rows, capacity, step, VOCABULARY), step, mode)


@every_processor
def test_a_graph_takes_every_shape(processor):
    """One trace serves all batch sizes, capacities and steps, also none."""
    shapes = [
        tf.TensorSpec([None, VOCABULARY], tf.float32),
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([], tf.int32),
    ]
    function = tf.function(lambda *args: processor(*args), input_signature=shapes)
    random = np.random.default_rng(1)
    for rows, capacity, step in ((3, 4, 2), (1, 1, 1), (6, 9, 9), (5, 2, 0), (0, 3, 1)):
        log_probabilities, tokens = draw(random, rows, capacity, step, VOCABULARY)
        results = function(log_probabilities, tokens, step).numpy()
        np.testing.assert_array_equal(results, run(processor, log_probabilities, tokens, step))
    assert function.experimental_get_tracing_count() == 1
    assert function.get_concrete_function().output_shapes == shapes[0].shape


@every_processor
def test_a_row_does_not_depend_on_the_others(processor):
    log_probabilities, tokens = draw(np.random.default_rng(2), 6, 5, 4, VOCABULARY)
    together = run(processor, log_probabilities, tokens, 4)
    for row in range(6):
        alone = run(processor, log_probabilities[row : row + 1], tokens[row : row + 1, :4], 4)
        np.testing.assert_array_equal(together[row], alone[0])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 10**6])
def test_no_repeat_n_gram_on_drawn_histories(size):
    random = np.random.default_rng(size)
    for step in range(12):
        assert_processed(NoRepeatNGram(size), *draw(random, 5, 12, step, 5, tokens=[1, 4]), step)


@pytest.mark.parametrize("mode", MODES)
def test_no_repeat_n_gram_longer_than_any_history(mode):
    arrays = draw(np.random.default_rng(3), 2, 6, 6, 5)
    assert_processed(NoRepeatNGram(10**6), *arrays, 6, mode)


@every_processor
def test_what_stands_after_the_history_changes_nothing(processor):
    log_probabilities, tokens = draw(np.random.default_rng(4), 4, 6, 3, VOCABULARY)
    dirty = tokens + np.where(np.arange(6) < 3, 0, 5).astype("int32")
    np.testing.assert_array_equal(
        run(processor, log_probabilities, tokens, 3), run(processor, log_probabilities, dirty, 3)
    )


@pytest.mark.parametrize(
    "processor",
    [NoRepeatNGram(2), RepetitionPenalty(0.5), ForbiddenTokens([49_999, 1]), ForcedPrefix([49_999]), MinLength(9)],
    ids=lambda processor: type(processor).__name__,
)
def test_a_vocabulary_of_50000(processor):
    random = np.random.default_rng(5)
    for step in (0, 6):
        assert_processed(processor, *draw(random, 2, 8, step, 50_000, tokens=[7, 40_000, 49_999]), step)


def test_repetition_penalty_multiplies_negative_values_and_divides_positive_ones():
    results = RepetitionPenalty(2.0)([[-3.0, -1.0, 4.0, -np.inf, 0.0]], tf.constant([[0, 2, 3, 4, 1]]), 4)
    np.testing.assert_array_equal(results, [[-6, -1, 2, -np.inf, 0]])


def test_a_forced_prefix_is_chosen_although_an_earlier_processor_forbids_it():
    values = ForbiddenTokens([1])(np.log([[0.5, 0.5]]), [[0]], 0)
    np.testing.assert_array_equal(ForcedPrefix([1])(values, [[0]], 0), [[-np.inf, 0]])


# Lexicons


def assert_follows(lexicon, histories):
    """Compares what follows each history with the reference, several histories of one length at once."""
    for length in sorted(set(map(len, histories))):
        tokens = np.pad(np.array([ids for ids in histories if len(ids) == length], "int32"), [(0, 0), (0, 2)])
        log_probabilities = np.full((len(tokens), lexicon.vocabulary_size), -1.5, "float32")
        assert_processed(lexicon, log_probabilities, tokens, length)


def test_lexicon_on_drawn_sequences():
    random = np.random.default_rng(6)
    for _ in range(12):
        tokens = np.setdiff1d(np.arange(random.integers(5, 9)), [END])
        sequences = [random.choice(tokens, random.integers(0, 6)).tolist() for _ in range(random.integers(1, 30))]
        prefixes = [ids[:end] for ids in sequences for end in range(len(ids) + 1)]
        others = [random.choice(tokens, random.integers(0, 8)).tolist() for _ in range(20)]
        assert_follows(Lexicon(sequences, vocabulary_size=9), [*prefixes, *others])


@pytest.mark.parametrize("sequences", [[[]], [[0]], [[4] * 300], [[4], [4] * 3000]], ids=["[]", "0", "300", "3000"])
def test_lexicon_of_unusual_sequences(sequences):
    assert_follows(Lexicon(sequences, vocabulary_size=6), [[], [0], [4], [4, 4], [4] * 299, [4] * 300, [4] * 301])


def test_lexicon_with_another_end_token():
    assert_follows(Lexicon([[3, 1], [3]], vocabulary_size=5, end_id=0), [[], [3], [3, 1], [1], [3, 1, 0]])


@pytest.mark.parametrize("sequences", [[[4, 5], [5, 4, 4]], [[4, 5, 4]]], ids=["in the lexicon", "in a history"])
def test_lexicon_with_equal_hashes_of_different_prefixes(sequences, monkeypatch):
    """If the first factors that are drawn are equal, 4 5 and 5 4 have one hash."""
    default_rng = np.random.default_rng

    class EqualFactors:
        def integers(self, low, high, size, dtype):
            return np.ones(size, dtype)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: default_rng(seed) if seed else EqualFactors())
    assert_follows(Lexicon(sequences, vocabulary_size=6), [[4, 5], [5, 4], [4], [5], [5, 4, 4]])


def test_lexicon_of_ragged_ids():
    vectorizer = text_vectorizer(["cat", "dog"])
    ids = text_to_ids(vectorizer, tf.constant(["cat", "", "dog"]))
    assert Lexicon(ids, vocabulary_size=10).sequences == Lexicon(ids.to_list(), vocabulary_size=10).sequences


@pytest.mark.parametrize("mode", ["graph", pytest.param("jit", marks=pytest.mark.slow)])
def test_lexicon_of_a_large_vocabulary(mode):
    random = np.random.default_rng(7)
    sequences = random.integers(4, 50_000, (200, 3)).tolist()
    lexicon = Lexicon(sequences, vocabulary_size=50_000)
    results = run(lexicon, np.zeros((200, 50_000), "float32"), np.array(sequences, "int32"), 1, mode)
    for row, ids in zip(results, sequences, strict=True):
        assert set(np.flatnonzero(row == 0)) == {other[1] for other in sequences if other[0] == ids[0]}


@pytest.mark.slow
def test_lexicon_of_100000_words():
    random = np.random.default_rng(8)
    lengths = random.integers(1, 15, 100_000)
    words = [ids[:length] for ids, length in zip(random.integers(4, 40, (100_000, 15)).tolist(), lengths, strict=True)]
    lexicon = Lexicon(words, vocabulary_size=40)
    following = {}
    for word in words:
        for length in range(len(word) + 1):
            following.setdefault(tuple(word[:length]), set()).add([*word, END][length])
    for length in range(16):
        histories = [word[:length] for word in words if len(word) >= length][:2000]
        histories += random.integers(4, 40, (500, length)).tolist()
        tokens = np.array(histories, "int32")  # (rows, length)
        results = run(lexicon, np.zeros((len(tokens), 40), "float32"), tokens, length)
        for history, row in zip(histories, results, strict=True):
            assert set(np.flatnonzero(row == 0)) == following.get(tuple(history), set())


def test_a_lexicon_is_part_of_a_saved_model(tmp_path):
    lexicon, arrays = PROCESSORS["Lexicon"], draw(np.random.default_rng(10), 8, 4, 1, VOCABULARY)
    module = tf.Module()
    shapes = [tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None, None], tf.int32)]
    module.process = tf.function(lambda log_probabilities, tokens: lexicon(log_probabilities, tokens, 1), shapes)
    tf.saved_model.save(module, tmp_path)
    results = tf.saved_model.load(tmp_path).process(*arrays)
    np.testing.assert_array_equal(results, run(lexicon, *arrays, 1))


# Configs and arguments


@every_processor
def test_survives_serialization(processor):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(processor)))
    restored = keras.saving.deserialize_keras_object(config)
    assert type(restored) is type(processor)
    assert restored.get_config() == processor.get_config()
    arrays = draw(np.random.default_rng(9), 8, 4, 2, VOCABULARY)
    np.testing.assert_array_equal(run(restored, *arrays, 2), run(processor, *arrays, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinLength(-1), "`min_length` must be an integer of at least 0.* Received: -1"),
        (lambda: MinLength(True), "`min_length` must be an integer of at least 0.* Received: True"),
        (lambda: MinLength(2.0), "`min_length` must be an integer of at least 0.* Received: 2.0"),
        (lambda: MinLength(2, end_id=None), "`end_id` must be an integer of at least 0.* Received: None"),
        (lambda: NoRepeatNGram(0), "`size` must be a positive integer. Received: 0"),
        (lambda: NoRepeatNGram("2"), "`size` must be a positive integer. Received: '2'"),
        (lambda: RepetitionPenalty(float("nan")), "`penalty` must be .* greater than 0. Received: nan"),
        (lambda: RepetitionPenalty(float("inf")), "`penalty` must be .* greater than 0. Received: inf"),
        (lambda: RepetitionPenalty(0), "`penalty` must be .* greater than 0. Received: 0"),
        (lambda: RepetitionPenalty(True), "`penalty` must be .* greater than 0. Received: True"),
        (lambda: ForcedPrefix([]), r"`token_ids` must be one or more integers .*Received: \[\]"),
        (lambda: ForcedPrefix([4, True]), r"`token_ids` must be one or more integers .*Received: \[4, True\]"),
        (lambda: ForcedPrefix([4.0]), r"`token_ids` must be one or more integers .*Received: \[4.0\]"),
        (lambda: ForcedPrefix([[4]]), r"`token_ids` must be one or more integers .*Received: \[\[4\]\]"),
        (lambda: ForcedPrefix("cat"), "`token_ids` must be one or more integers .*text_to_ids.*Received: 'cat'"),
        (lambda: ForcedPrefix(4), "`token_ids` must be one or more integers .*Received: 4"),
        (lambda: ForbiddenTokens([-1]), r"`token_ids` must be one or more integers .*Received: \[-1\]"),
        (lambda: ForbiddenTokens([2**31]), r"`token_ids` must be one or more integers .*Received: \[2147483648\]"),
        (lambda: ForbiddenTokens(tf.constant([0.5])), "`token_ids` must be one or more integers .*Received: "),
        (lambda: AllowedTokens([4]), r"`function` must be a function of \(tokens, step\). Received: \[4\]"),
        (lambda: Lexicon([], 9), r"`sequences` must be one or more sequences of integers.*Received: \[\]"),
        (lambda: Lexicon([4, 5], 9), r"`sequences` must be one or more sequences of integers.*Received: \[4, 5\]"),
        (lambda: Lexicon(4, 9), r"`sequences` must be one or more sequences of integers.*Received: \[4\]"),
        (lambda: Lexicon("cat", 9), r"`sequences` must be .*text_to_ids.*Received: \['c', 'a', 't'\]"),
        (lambda: Lexicon([[4.5]], 9), r"`sequences` must be one or more sequences of integers.*Received: \[\[4.5\]\]"),
        (
            lambda: Lexicon([[True]], 9),
            r"`sequences` must be one or more sequences of integers.*Received: \[\[True\]\]",
        ),
        (
            lambda: Lexicon([[[4]]], 9),
            r"`sequences` must be one or more sequences of integers.*Received: \[\[\[4\]\]\]",
        ),
        (lambda: Lexicon([[4, 9]], 9), r"`sequences` must contain ids from 0 to 8.*Received: \[4, 9\]"),
        (lambda: Lexicon([[-1]], 9), r"`sequences` must contain ids from 0 to 8.*Received: \[-1\]"),
        (lambda: Lexicon([[4, 3]], 9), r"`sequences` must not contain `end_id`=3. Received: \[4, 3\]"),
        (lambda: Lexicon([[4]], 0), "`vocabulary_size` must be a positive integer. Received: 0"),
        (lambda: Lexicon([[0]], 3), "`end_id` must be less than the vocabulary size 3. Received: 3"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("processor", "arguments", "message"),
    [
        (MinLength(5), {"max_length": 4}, "`min_length` must be at most `max_length`=4. Received: 5"),
        (MinLength(5), {"vocabulary_size": 3}, "`end_id` must be less than the vocabulary size 3. Received: 3"),
        (ForcedPrefix([4, 5]), {"max_length": 1}, r"at least 2, the length of the forced prefix \[4, 5\]. Received: 1"),
        (ForcedPrefix([4, 5]), {"vocabulary_size": 5}, "`token_ids` must be less than the vocabulary size 5.*: 5"),
        (ForcedPrefix([4, 2]), {"forbidden_ids": (0, 2)}, "`token_ids` must not contain .* never chooses.*: 2"),
        (ForbiddenTokens([9]), {"vocabulary_size": 9}, "`token_ids` must be less than the vocabulary size 9.*: 9"),
        (Lexicon([[4] * 9], 9), {"max_length": 8}, "`max_length` must be at least 9, the length of the longest.*: 8"),
        (Lexicon([[4]], 9), {"vocabulary_size": 8}, "`vocabulary_size` of the lexicon must be 8.*: 9"),
        (Lexicon([[4, 2]], 9), {"forbidden_ids": (0, 2)}, "`sequences` must not contain .* never chooses.*: 2"),
        (ForcedPrefix, {}, r"`processors` must be functions of \(log_probabilities, tokens, step\).*Received: <class"),
        (None, {}, r"`processors` must be functions of \(log_probabilities, tokens, step\).*Received: None"),
        (["greedy"], {}, r"`processors` must be functions of \(log_probabilities, tokens, step\).*Received: 'greedy'"),
    ],
)
def test_what_a_search_cannot_do_is_an_error(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        check_processors(processor, **arguments)


@every_processor
def test_what_a_search_can_do_is_checked_without_error(processor):
    assert check_processors(processor) == (processor,)
    assert check_processors([processor], 4, VOCABULARY, [2]) == (processor,)


def test_functions_are_processors():
    def identity(log_probabilities, tokens, step):
        return log_probabilities

    assert check_processors([identity, MinLength(1)], 4, 4)[0] is identity


def test_a_lexicon_for_another_vocabulary_is_an_error():
    with pytest.raises(ValueError, match=r"`vocabulary_size` must be the number of tokens .*Received: 7"):
        PROCESSORS["Lexicon"](np.zeros((1, 8)), [[0]], 0)


@pytest.mark.parametrize("returned", [np.ones((2, VOCABULARY)), np.ones((1, 3), bool)], ids=["numbers", "shape"])
def test_a_function_that_does_not_return_booleans_of_every_token_is_an_error(returned):
    with pytest.raises(ValueError, match=r"`function` must return booleans \(rows, vocabulary\).*Received: dtype"):
        AllowedTokens(lambda tokens, step: returned)(np.zeros((2, VOCABULARY)), [[0], [0]], 0)

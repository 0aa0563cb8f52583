# SPDX-License-Identifier: Apache-2.0
"""Length buckets of streams: every pair once, short with short, in an order that depends on seed and epoch alone."""

import collections
import functools
import itertools
import json
import os
import random
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from peak_memory import run_alone

import keras_seq
from keras_seq.data import bucket_by_length, bucketed_batches, epoch_order, text_vectorizer
from keras_seq.data.bucketing import cut_by_length

FORMS = {
    "dataset": lambda pairs: tf.data.Dataset.from_tensor_slices(tuple(map(list, zip(*pairs, strict=True)))),
    "function": lambda pairs: lambda: iter(pairs),
    "sequence": lambda pairs: pairs,
}

SOME = ["function", *(pytest.param(form, marks=pytest.mark.slow) for form in ("dataset", "sequence"))]


@pytest.fixture(autouse=True)
def leaves_no_epochs():
    yield
    epoch_order.end_training()


@functools.cache
def make_pairs(count=400, seed=0):
    """Distinct pairs: sources of characters, targets of whitespace-separated tokens."""
    draw = random.Random(seed)
    return [
        (f"{i:04}{'é' * draw.randrange(12)}", " ".join("y" * draw.randrange(1, 20)) + f" {i}") for i in range(count)
    ]


def epoch(dataset):
    """The batches of an epoch, each a list of pairs of strings."""
    return [[tuple(v.decode() for v in pair) for pair in zip(*b, strict=True)] for b in dataset.as_numpy_iterator()]


def flat(batches):
    return [pair for batch in batches for pair in batch]


def length(pair):
    return max(len(pair[0]), len(pair[1].split()))


@settings(deadline=None, max_examples=100)
@given(
    lengths=st.lists(st.integers(0, 30), max_size=80),
    batch_size=st.integers(1, 9),
    max_tokens=st.none() | st.integers(1, 90),
    seed=st.none() | st.integers(0, 3),
)
def test_a_pool_is_cut_into_batches_that_follow_one_another_in_length(lengths, batch_size, max_tokens, seed):
    generator = None if seed is None else np.random.default_rng(seed)
    indices, bounds = cut_by_length(np.array(lengths, int)[:, None], batch_size, max_tokens, generator)
    batches = [[lengths[i] for i in indices[begin:end]] for begin, end in bounds]
    assert sorted(indices) == list(range(len(lengths)))
    in_order = sorted(batches, key=lambda batch: (batch[0], batch[-1], -len(batch)))
    assert flat(in_order) == sorted(lengths)
    if generator is None:
        assert batches == in_order
    sizes = [len(batch) for batch in in_order]
    assert max(sizes, default=0) <= batch_size
    if max_tokens is None:
        assert all(size == batch_size for size in sizes[:-1])
        return
    for batch, following in itertools.zip_longest(in_order, in_order[1:]):
        assert len(batch) == 1 or len(batch) * max(batch) <= max_tokens
        if following and len(batch) < batch_size:  # another pair would not fit
            assert (len(batch) + 1) * following[0] > max_tokens


@pytest.mark.parametrize("form", SOME)
def test_an_epoch_has_every_pair_once_and_a_seed_and_an_epoch_give_its_order(form):
    pairs = make_pairs()
    dataset = bucketed_batches(FORMS[form](pairs), 16, seed=1, num_pairs=len(pairs))
    epochs = [epoch(dataset) for _ in range(2)]
    for batches in epochs:
        assert sorted(flat(batches)) == pairs
        assert len(batches) == len(dataset)
        assert sorted(map(len, batches))[1:] == [16] * (len(dataset) - 1)
        # They are one pool: in order of length, each batch begins where the one before ends.
        spans = sorted([min(map(length, batch)), max(map(length, batch))] for batch in batches)
        assert list(itertools.chain(*spans)) == sorted(itertools.chain(*spans))
        assert [span[0] for span in spans] != [min(map(length, batch)) for batch in batches]
    common = {frozenset(batch) for batch in epochs[0]} & {frozenset(batch) for batch in epochs[1]}
    assert len(common) < len(epochs[0]) / 2
    keras.utils.set_random_seed(0)  # does not count
    again = bucketed_batches(FORMS[form](pairs), 16, seed=1)
    epoch_order.start_epoch(1, seed=7)  # as `BackupAndRestore` does in a new process
    assert epoch(again) == epochs[1]


def test_pools_keep_the_order_of_the_data_without_shuffle():
    pairs = make_pairs(count=9000)
    batches = epoch(bucketed_batches(FORMS["dataset"](pairs), 1024, shuffle=False))
    assert list(map(len, batches)) == [1024] * 8 + [808]  # a pool of 8192, and the rest
    for pool in (pairs[:8192], pairs[8192:]):
        expected = sorted(pool, key=lambda pair: (length(pair), len(pair[0]) + len(pair[1].split())))  # stable
        assert flat(batches[: -(-len(pool) // 1024)]) == expected
        batches = batches[8:]


def test_the_buffer_mixes_pairs_of_different_pools():
    pairs = [("x", str(i)) for i in range(30_000)]
    stream = bucketed_batches(lambda: iter(pairs), 1024, buffer_size=10_000, seed=1)
    places = np.concatenate([targets.astype(int) for _, targets in stream.as_numpy_iterator()])
    assert (places[:8192] >= 8192).sum() > 1000
    assert places[:1024].max() < 10_000 + 8192  # pairs come from the buffer only


def padding(batches):
    lengths = [np.array([(len(source), len(target.split())) for source, target in batch]) for batch in batches]
    padded = sum(batch.max(axis=0).sum() * len(batch) for batch in lengths)
    return 1 - sum(batch.sum() for batch in lengths) / padded


def test_padding_is_that_of_buckets_of_lists():
    draw = random.Random(0)
    sources = ["x" * int(draw.lognormvariate(3, 0.6) + 1) for _ in range(2000)]
    pairs = [(source, " ".join(source)) for source in sources]
    unsorted = [pairs[i : i + 16] for i in range(0, len(pairs), 16)]
    streamed = epoch(bucketed_batches(FORMS["dataset"](pairs), 16))
    listed = epoch(bucket_by_length(*zip(*pairs, strict=True), 16))
    assert padding(streamed) < padding(unsorted) / 8
    assert padding(streamed) <= padding(listed)
    assert len(streamed) <= len(listed)


@pytest.mark.parametrize("form", SOME)
def test_workers_share_the_pairs(form):
    pairs = make_pairs()
    shards = [
        bucketed_batches(FORMS[form](pairs), 16, num_shards=3, index=index, num_pairs=len(pairs)) for index in range(3)
    ]
    batches = [epoch(shard) for shard in shards]
    assert [len(shard) for shard in shards] == [len(shard) for shard in batches] == [9, 9, 9]
    assert [sorted(flat(shard)) for shard in batches] == [pairs[index::3] for index in range(3)]
    policies = tf.data.experimental.AutoShardPolicy
    assert shards[0].options().experimental_distribute.auto_shard_policy == policies.OFF
    alone = bucketed_batches(pairs)
    assert alone.options().experimental_distribute.auto_shard_policy == policies.DATA


def test_short_pairs_make_large_batches_of_few_tokens():
    batches = epoch(bucketed_batches(FORMS["sequence"](make_pairs()), 128, max_tokens=256))
    sizes = collections.defaultdict(list)
    for batch in batches:
        longest = max(map(length, batch))
        assert len(batch) * longest <= 256
        sizes[longest].append(len(batch))
    assert max(sizes[min(sizes)]) > 2 * max(sizes[max(sizes)])


def test_lengths_are_those_of_tokens():
    texts = ["e\u0301" * 5, "abcdef", "a b c", "a b c d e f g"]  # code points: 10, 6, 5, 13; graphemes: 5, 6, 5, 13
    words = text_vectorizer(["a b"], split="whitespace")
    for split, expected in ((("character",) * 2, [2, 1, 0, 3]), (("grapheme",) * 2, [0, 2, 1, 3]), ((words, words), 0)):
        batches = epoch(bucketed_batches([(text, "") for text in texts], 1, split=split, shuffle=False))
        order = [texts.index(batch[0][0]) for batch in batches]
        assert order == (expected or [0, 1, 2, 3])  # words: 1, 1, 3, 7


@pytest.mark.parametrize("form", SOME)
def test_rows_of_token_ids_become_ragged_batches(form):
    draw = random.Random(0)
    rows = [([4] * draw.randint(1, 9), [i, *[5] * draw.randint(0, 9)]) for i in range(100)]
    spec = (tf.TensorSpec([None], tf.int64),) * 2
    pairs = {
        "dataset": lambda: tf.data.Dataset.from_generator(lambda: rows, output_signature=spec),
        "function": lambda: lambda: iter(rows),
        "sequence": lambda: rows,
    }[form]()
    seen = []
    for sources, targets in bucketed_batches(pairs, 8, seed=1):
        assert max(sources.bounding_shape(axis=1), targets.bounding_shape(axis=1)) <= 10
        seen += zip(sources.to_list(), targets.to_list(), strict=True)
    assert sorted(seen, key=lambda pair: pair[1][0]) == rows


@pytest.mark.parametrize("form", [pytest.param("function", marks=pytest.mark.slow), "sequence"])
def test_features_and_weights_stay_with_their_pair(form):
    elements = [
        {"word": "x" * i, "tag": f"t{i}", "age": np.full(3, i, "float32"), "target": f"{i}", "weight": i / 2}
        for i in range(1, 50)
    ]
    keys = ({"source": "word", "language": "tag", "age": "age"}, "target", "weight")
    seen = []
    for sources, targets, weights in bucketed_batches(FORMS[form](elements), 8, keys=keys).as_numpy_iterator():
        for i, target in enumerate(targets):
            number = int(target)
            assert sources["source"][i] == b"x" * number
            assert sources["language"][i] == b"t%d" % number
            np.testing.assert_array_equal(sources["age"][i], np.full(3, number))
            assert weights[i] == number / 2
            seen.append(number)
    assert sorted(seen) == list(range(1, 50))


def test_an_iterator_is_read_once():
    dataset = bucketed_batches(iter(make_pairs()), 16)
    assert sorted(flat(epoch(dataset))) == make_pairs()
    with pytest.raises(tf.errors.InvalidArgumentError, match="`pairs` must be a function that returns a new iterator"):
        epoch(dataset)


MEMORY = """
import json
from peak_memory import peak_growth
from keras_seq.data import bucketed_batches

def pairs(count):
    return ((f"{i:09} {'x' * 200}", f"{'y ' * 100}{i}") for i in range(count))

def read(count):
    return sum(len(targets) for _, targets in bucketed_batches(lambda: pairs(count), 128, buffer_size=10_000))

read(30_000)
results = []
growth = peak_growth(lambda: results.append(read(400_000)))
print(json.dumps({"pairs": results[0], "bytes": growth}))
"""


@pytest.mark.slow
def test_a_stream_is_read_in_constant_memory():
    results = run_alone(MEMORY)
    assert results["pairs"] == 400_000
    assert results["bytes"] < 90e6  # the pairs have 168 MB; of 100,000 and of 600,000 it is about 50


@pytest.mark.slow
def test_seq2seq_fit_on_a_stream_equals_fit_on_its_batches():
    draw = random.Random(0)
    texts = ["".join(draw.choices("abc", k=draw.randint(1, 9))) for _ in range(200)]

    def train(data):
        keras.utils.set_random_seed(0)
        letters = text_vectorizer(["abc"])
        model = keras_seq.Seq2Seq(keras_seq.Encoder(7, 4, 8), keras_seq.Decoder(7, 4, 8), letters, letters)
        model.compile()
        return model.fit(data, epochs=2, verbose=0).history["loss"]

    stream = bucketed_batches(lambda: zip(texts, texts, strict=True), 16, seed=3, num_pairs=200)
    batches = itertools.cycle([list(stream), list(stream)])  # of two epochs
    stream = bucketed_batches(lambda: zip(texts, texts, strict=True), 16, seed=3, num_pairs=200)
    signature = (tf.TensorSpec([None], tf.string),) * 2
    epochs = tf.data.Dataset.from_generator(lambda: next(batches), output_signature=signature)
    losses = train(stream)
    np.testing.assert_allclose(losses, train(epochs.apply(tf.data.experimental.assert_cardinality(13))), rtol=1e-5)
    assert losses[1] < losses[0]


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 20:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_training_on_a_stream_resumes_exactly(tmp_path):
    pairs = [("ab" * (i % 5 + 1), "ba" * (i % 3 + 1)) for i in range(100)]

    def train(folder, seed=0, interrupt=False):
        keras.utils.set_random_seed(seed)
        letters = text_vectorizer(["ab"])
        parts = keras_seq.Encoder(6, 4, 8, dropout=0.5), keras_seq.Decoder(6, 4, 8)
        model = keras_seq.Seq2Seq(*parts, letters, letters)
        model.compile()
        batches = bucketed_batches(lambda: iter(pairs), 8, buffer_size=40, seed=5, num_pairs=100)
        callbacks = [keras_seq.training.BackupAndRestore(tmp_path / folder), *([Interrupt()] if interrupt else [])]
        model.fit(batches, epochs=3, callbacks=callbacks, verbose=0)
        return model.get_weights()

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("interrupted", interrupt=True)
    for a, b in zip(train("interrupted", seed=1), whole, strict=True):
        np.testing.assert_array_equal(a, b)


WORKER = """
import json, os, sys
import tensorflow as tf
from keras_seq.data import bucketed_batches

strategy = tf.distribute.MultiWorkerMirroredStrategy()
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
pairs = [(f"{i:03}" + "x" * (i * 7 % 20), str(i)) for i in range(100)]

def read(batches):
    return [[t.decode() for t in strategy.experimental_local_results(targets)[0].numpy()] for _, targets in batches]

# The same batches in both workers: each takes its half of every batch.
auto = read(strategy.experimental_distribute_dataset(bucketed_batches(pairs, 16, seed=1)))
# Each worker has pairs of its own, and batches of its share of `batch_size`.
own = bucketed_batches(pairs, 16, seed=1, num_shards=2, index=index)
own = read(strategy.experimental_distribute_dataset(own))
with open(sys.argv[1], "w") as file:
    json.dump([auto, own], file)
"""


@pytest.mark.slow
def test_workers_of_a_strategy_read_each_pair_once(tmp_path):
    with socket.socket() as first, socket.socket() as second:
        ports = []
        for listener in (first, second):
            listener.bind(("localhost", 0))
            ports.append(listener.getsockname()[1])
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    processes = []
    for index in range(2):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        environment = {**os.environ, "TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": "-1"}
        command = [sys.executable, "-c", WORKER, tmp_path / f"{index}.json"]
        processes.append(subprocess.Popen(command, env=environment))
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    workers = [json.loads((tmp_path / f"{index}.json").read_text()) for index in range(2)]
    for batches in zip(*workers, strict=True):  # of one kind of sharding, those of both workers
        assert sorted(flat(flat(batches)), key=int) == [str(i) for i in range(100)]
        assert len(batches[0]) == len(batches[1])
        assert sorted(map(len, flat(batches)))[-8:] == [8] * 8
        assert max(map(len, flat(batches))) == 8
    pairs = [(f"{i:03}" + "x" * (i * 7 % 20), str(i)) for i in range(100)]
    whole = [[target for _, target in batch] for batch in epoch(bucketed_batches(pairs, 16, seed=1))]
    assert [a + b for a, b in zip(workers[0][0], workers[1][0], strict=True)] == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pairs": 3}, "`pairs` must be a `tf.data.Dataset`, .* Received: 3"),
        ({"pairs": "ab"}, "`pairs` must be a `tf.data.Dataset`, .* Received: 'ab'"),
        ({"pairs": []}, "`pairs` must contain at least one pair. Received: none"),
        ({"pairs": lambda: iter(())}, "`pairs` must contain at least one pair. Received: none"),
        ({"pairs": ["ab"]}, r"`pairs` must consist of `\(source, target\)` .* Received: 'ab'"),
        ({"pairs": [("a", "b", 1, 2)]}, r"`pairs` must consist of `\(source, target\)` .* Received: \('a'"),
        ({"pairs": [{"en": "a", "de": "b"}]}, "Use `keys` to choose parts of a dict. Received"),
        ({"pairs": [("a", None)]}, "`pairs` must contain strings, or arrays of numbers. Received"),
        ({"pairs": [("a", ["b"])]}, "`pairs` must contain strings, or arrays of numbers. Received"),
        ({"keys": ("a", "b")}, r"`keys` must be a pair of keys of the elements, \[\]. Received: \('a', 'b'\)"),
        ({"pairs": [{"a": "x"}], "keys": ("a", "b")}, r"`keys` must .* \['a'\]. Received: \('a', 'b'\)"),
        ({"pairs": [{"a": "x"}], "keys": "a"}, r"`keys` must be a pair .* Received: 'a'"),
        ({"pairs": tf.data.Dataset.from_tensors((["a"], ["b"]))}, r"Use `dataset.unbatch\(\)` if it is batched"),
        ({"pairs": tf.data.Dataset.from_tensors("a")}, "`pairs` must consist of"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer. Received: 0"),
        ({"buffer_size": 1.5}, r"`buffer_size` must be a positive integer. Received: 1\.5"),
        ({"max_tokens": 0}, "`max_tokens` must be a positive integer. Received: 0"),
        ({"num_pairs": True}, "`num_pairs` must be a positive integer. Received: True"),
        ({"num_shards": 2, "index": 2}, "`index` must be an integer from 0 to 1, `num_shards` - 1. Received: 2"),
        ({"split": "character"}, "`split` must be a pair of values"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        bucketed_batches(**{"pairs": [("a", "b")], **arguments})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", [10, 10_000])
def test_a_wrong_number_of_pairs_raises(form, number):
    """With too small a number, `fit` would never see some of the pairs."""
    with pytest.raises(
        (ValueError, tf.errors.InvalidArgumentError), match=f"`num_pairs` must be .* Received: {number},"
    ):
        epoch(bucketed_batches(FORMS[form](make_pairs()), 16, num_pairs=number))


def test_a_wrong_number_of_pairs_of_a_dataset_that_does_not_know_its_own():
    with pytest.raises(tf.errors.FailedPreconditionError, match="expected to contain 625 elements but contained only"):
        epoch(bucketed_batches(FORMS["dataset"](make_pairs()).filter(lambda *_: True), 16, num_pairs=10_000))


@pytest.mark.parametrize("form", ["function", "sequence"])
def test_whole_numbers_as_the_first_weights_keep_the_fractions_of_later_ones(form):
    pairs = [("a", "A", 1), ("b", "B", 0.5), ("c", "C", True)]
    (_, _, weights), *_ = bucketed_batches(FORMS[form](pairs), 3, shuffle=False)
    assert weights.numpy().tolist() == [1, 0.5, 1]


def pairs_of(form, pairs):
    return pairs if form == "sequence" else lambda: iter(pairs)


@pytest.mark.parametrize("form", ["function", "sequence"])
def test_later_pairs_keep_their_values(form):
    """A dict in another order, numbers of a kind that holds more, and rows without a token."""
    first, second = {"source": "a", "tag": "x"}, {"tag": "y", "source": "b"}
    pairs = pairs_of(form, [(first, [], 1.5), (second, [4, 5], 2)])
    [(sources, targets, weights)] = bucketed_batches(pairs, 2, shuffle=False)
    assert [sources["source"].numpy().tolist(), sources["tag"].numpy().tolist()] == [[b"a", b"b"], [b"x", b"y"]]
    assert (targets.dtype, targets.to_list(), weights.numpy().tolist()) == (tf.int64, [[], [4, 5]], [1.5, 2.0])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([({"source": "a", "f": [1]}, "b"), ({"source": "c", "f": [0.5]}, "d")], "numbers of one kind. Received"),
        ([([4], "b"), ([4.5], "d")], "numbers of one kind. Received: float64 where the first pair has int64"),
        ([({"source": "a", "f": 1}, "b"), ({"source": "c", "g": 1}, "d")], "a dict with the keys"),
        ([({"source": "a"}, "b"), ("c", "d")], "a dict with the keys"),
        ([("a", "b"), ({"source": "c"}, "d")], "a source and a target, as the first one"),
        ([("a", "b"), "cd"], "a source and a target, as the first one. Received: 'cd'"),
        ([("a", "b"), ("c", "d", 1)], "a source and a target, as the first one. Received"),
        ([("a", "b"), ("c", None)], "strings where the first one has. Received: None"),
    ],
)
def test_later_pairs_unlike_the_first_raise(pairs, message):
    with pytest.raises(tf.errors.OpError, match=message):
        epoch(bucketed_batches(pairs, 2, shuffle=False))


@pytest.mark.parametrize("make", [iter, lambda pairs: (pair for pair in pairs)])
def test_a_function_that_returns_the_same_iterator_again_raises(make):
    """It was read in part: its first pair would be missing, and all in the second epoch."""
    iterator = make([("a", "b"), ("c", "d")])
    with pytest.raises(tf.errors.OpError, match="returns a new iterator in each call"):
        epoch(bucketed_batches(lambda: iterator, 2))

# SPDX-License-Identifier: Apache-2.0
import collections
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_seq.data import bucket_by_length, text_vectorizer


def make_pairs(count, longest, seed=0):
    """Distinct pairs: sources of characters, targets of whitespace-separated tokens."""
    rng = random.Random(seed)
    sources = [f"{i:04}{'x' * rng.randrange(longest)}" for i in range(count)]
    targets = [" ".join("y" * rng.randrange(1, longest)) + f" {i}" for i in range(count)]
    return sources, targets


def length(source, target):
    return max(len(source), len(target.split()))


def epoch(dataset):
    """The batches of an epoch, each a list of pairs."""
    return [[(s.decode(), t.decode()) for s, t in zip(*batch, strict=True)] for batch in dataset.as_numpy_iterator()]


def flat(batches):
    return [pair for batch in batches for pair in batch]


@settings(deadline=None, max_examples=20)
@given(
    count=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    boundaries=st.none() | st.lists(st.integers(1, 30), unique=True, max_size=5).map(sorted),
    shuffle=st.booleans(),
)
def test_an_epoch_has_every_pair_once_in_batches_of_one_bucket(count, batch_size, boundaries, shuffle):
    sources, targets = make_pairs(count, longest=20)
    pairs = list(zip(sources, targets, strict=True))
    dataset = bucket_by_length(sources, targets, batch_size, boundaries=boundaries, shuffle=shuffle)
    for _ in range(2):
        batches = epoch(dataset)
        assert len(batches) == dataset.cardinality() == len(dataset)
        assert sorted(flat(batches)) == pairs
        assert max(map(len, batches)) <= batch_size
        if boundaries is not None:
            buckets = [{sum(length(*pair) >= b for b in boundaries) for pair in batch} for batch in batches]
            assert all(len(bucket) == 1 for bucket in buckets)
            sizes = collections.Counter(sum(length(*pair) >= b for b in boundaries) for pair in pairs)
            assert len(batches) == sum(-(-size // batch_size) for size in sizes.values())


def test_graphemes_are_counted_as_users_see_them():
    family, accented, plain = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "e\u0301e\u0301", "abc"
    dataset = bucket_by_length(
        [family, accented, plain], ["x"] * 3, 1, boundaries=[2, 3], split=("grapheme", "character"), shuffle=False
    )
    assert [pair[0] for pair in flat(epoch(dataset))] == [family, accented, plain]  # of 1, 2 and 3 graphemes


def test_batches_equal_those_of_bucket_by_sequence_length():
    sources, targets = make_pairs(200, longest=30)
    boundaries = [8, 12, 13, 25]

    def element_length(source, target):
        return tf.maximum(tf.strings.length(source, "UTF8_CHAR"), tf.size(tf.strings.split(target)))

    reference = tf.data.Dataset.from_tensor_slices((sources, targets)).bucket_by_sequence_length(
        element_length, boundaries, [7] * 5, no_padding=True
    )
    dataset = bucket_by_length(sources, targets, 7, boundaries=boundaries, shuffle=False)
    # TensorFlow emits a batch when it is full; here batches are in the order of their buckets.
    assert sorted(epoch(dataset)) == sorted(epoch(reference))
    assert dataset.element_spec == reference.element_spec


@pytest.mark.parametrize(
    ("split", "sizes"),
    [
        (("character", "whitespace"), {"ab"}),  # the longer text counts, here the one of length 2
        (("whitespace", "whitespace"), set()),
        (("character", "character"), {"ab", "é"}),
        (("whitespace", "character"), {"é"}),
    ],
)
def test_split_sets_how_lengths_are_counted(split, sizes):
    # Characters and tokens: "ab" 2 and 1, "é" 1 (two bytes) and 1, "cd" 2 and 1.
    dataset = bucket_by_length(["ab", "é"], ["c", "cd"], 2, boundaries=[2], split=split, shuffle=False)
    last = {source for source, _ in epoch(dataset)[-1]}
    assert last == (sizes or {"ab", "é"})
    assert len(dataset) == (2 if len(sizes) == 1 else 1)


def test_each_epoch_is_shuffled_anew():
    pairs = make_pairs(400, longest=30)
    dataset = bucket_by_length(*pairs, 8, seed=1)
    first, second = epoch(dataset), epoch(dataset)
    assert flat(first) != flat(second)
    # Not only the order of the batches changes, but also the pairs in them.
    common = {frozenset(batch) for batch in first} & {frozenset(batch) for batch in second}
    assert len(common) < len(first) / 4
    # The order of batches is independent of their lengths.
    longest = [max(length(*pair) for pair in batch) for batch in first]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.5
    assert longest != sorted(longest)


def test_a_seed_reproduces_all_epochs():
    pairs = make_pairs(100, longest=30)

    def two_epochs(seed):
        dataset = bucket_by_length(*pairs, 8, seed=seed)
        return epoch(dataset), epoch(dataset)

    assert two_epochs(1) == two_epochs(1)
    assert two_epochs(1) != two_epochs(2)
    assert two_epochs(None) != two_epochs(None)


def test_without_shuffle_batches_are_ordered_by_bucket_then_by_data():
    sources = ["aaa", "b", "cccc", "d", "e"]
    dataset = bucket_by_length(sources, list("vwxyz"), 2, boundaries=[2, 4], shuffle=False)
    batches = [[source for source, _ in batch] for batch in epoch(dataset)]
    assert batches == [["b", "d"], ["e"], ["aaa"], ["cccc"]]


def padding(dataset):
    """The fraction of padding among the tokens of an epoch."""
    lengths = [np.array([(len(source), len(target.split())) for source, target in batch]) for batch in epoch(dataset)]
    padded = sum(batch.max(axis=0).sum() * len(batch) for batch in lengths)
    return 1 - sum(batch.sum() for batch in lengths) / padded


def test_default_boundaries_reduce_padding_and_keep_batches_full():
    rng = random.Random(0)
    sources = ["x" * int(rng.lognormvariate(3, 0.6) + 1) for _ in range(4000)]
    targets = [" ".join(source) for source in sources]
    one = bucket_by_length(sources, targets, 16, boundaries=[], seed=0)
    many = bucket_by_length(sources, targets, 16, seed=0)
    assert padding(many) < padding(one) / 5
    assert len(many) < 1.1 * len(one)


def test_keras_knows_the_number_of_steps():
    pairs = make_pairs(50, longest=30)
    dataset = bucket_by_length(*pairs, 8).map(lambda s, t: (tf.strings.length(s)[:, None], t))
    model = keras.Sequential([keras.layers.Identity()])
    steps = []
    at_begin = keras.callbacks.LambdaCallback(on_predict_begin=lambda _: None)
    at_begin.on_predict_begin = lambda logs=None: steps.append(at_begin.params["steps"])
    model.predict(dataset, verbose=0, callbacks=[at_begin])
    assert steps == [len(dataset)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sources": ["a"]}, "`sources` and `targets` must have the same length.* Received: 1 sources and 2 targets"),
        ({"sources": [], "targets": []}, "at least 1. Received: 0 sources and 0 targets"),
        ({"sources": ["a", 1]}, "`sources` must contain strings. Received: 1"),
        ({"targets": [b"a", "b"]}, "`targets` must contain strings. Received: b'a'"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer. Received: 0"),
        ({"batch_size": 2.0}, r"`batch_size` must be a positive integer. Received: 2\.0"),
        ({"boundaries": [3, 3]}, r"`boundaries` must be .* in ascending order. Received: \[3, 3\]"),
        ({"boundaries": 3}, "`boundaries` must be lengths in ascending order. Received: 3"),
        ({"split": "character"}, r"`split` must be a pair of values from \['character', .* Received: 'character'"),
        (
            {"split": ("character", "bytes")},
            r"`split` must be a pair of .* Received: \('character', 'bytes'\)",
        ),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        bucket_by_length(**{"sources": ["a", "b"], "targets": ["A", "B"], "batch_size": 2, **arguments})


def test_graphemes_and_the_tokens_of_a_vectorizer_are_counted():
    sources = ["e\u0301" * 3, "abcd"]  # 3 and 4 graphemes, 6 and 4 code points
    targets = ["x y", "x"]
    words = text_vectorizer(targets, split="whitespace")
    for split, shorter in ((("grapheme", "whitespace"), 0), (("character", words), 1), ((words, words), 1)):
        batches = epoch(bucket_by_length(sources, targets, 2, boundaries=[2, 4, 5], split=split, shuffle=False))
        assert batches == [[(sources[i], targets[i])] for i in (shorter, 1 - shorter)]


def test_features_stay_with_their_pair():
    sources = {"source": ["a", "see", "be", "eye"], "language": ["k", "l", "m", "n"], "age": np.eye(4, 2)}
    targets = ["A", "S", "B", "E"]
    batches = bucket_by_length(sources, targets, 2, boundaries=[3], seed=1).as_numpy_iterator()
    rows = {}
    for inputs, batch_targets in batches:
        for i, target in enumerate(batch_targets):
            rows[target.decode()] = [
                inputs["source"][i].decode(),
                inputs["language"][i].decode(),
                list(inputs["age"][i]),
            ]
    assert rows == {
        "A": ["a", "k", [1, 0]],
        "S": ["see", "l", [0, 1]],
        "B": ["be", "m", [0, 0]],
        "E": ["eye", "n", [0, 0]],
    }


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"text": ["a"]}, r"`sources`, if a dict, must have the key 'source'. Received: the keys \['text'\]"),
        ({"source": ["a"], "tag": ["x", "y"]}, r"`sources`\['tag'\] must have a value for each of the 1 pairs"),
    ],
)
def test_a_dict_of_sources_without_its_parts_raises(sources, message):
    with pytest.raises(ValueError, match=message):
        bucket_by_length(sources, ["b"], 1)

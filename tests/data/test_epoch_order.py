# SPDX-License-Identifier: Apache-2.0
"""The order of the data in epoch k depends on the seed and k alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_seq.data import bucket_by_length, epoch_order, shuffled_batches, stream_batches

TEXTS = [chr(97 + i % 26) * (i % 7 + 1) for i in range(60)]
DATASETS = {
    "bucket_by_length": lambda seed: bucket_by_length(TEXTS, TEXTS, 4, seed=seed).map(lambda x, y: x),
    "stream_batches": lambda seed: stream_batches([[i] * 3 for i in range(4, 40)], 2, 4, shuffle=True, seed=seed).map(
        lambda x, y: y
    ),
    "shuffled_batches": lambda seed: shuffled_batches(np.arange(30), 4, seed=seed),
}


@pytest.fixture(autouse=True)
def leaves_no_epochs():
    yield
    epoch_order.end_training()


def read(dataset):
    return [batch.tolist() for batch in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("kind", DATASETS)
def test_an_epoch_has_the_same_order_whether_or_not_those_before_it_ran(kind):
    whole = DATASETS[kind](1)
    epochs = [read(whole) for _ in range(3)]
    assert len({str(epoch) for epoch in epochs}) == 3
    for epoch in (2, 0):
        dataset = DATASETS[kind](1)
        epoch_order.start_epoch(epoch, seed=7)
        assert read(dataset) == epochs[epoch]


def test_iterations_within_an_epoch_of_a_training_differ_and_can_be_repeated():
    dataset = DATASETS["shuffled_batches"](1)
    epoch_order.start_epoch(3, seed=7)
    first, second = read(dataset), read(dataset)
    assert first != second
    epoch_order.start_epoch(3, seed=7)
    assert [read(dataset), read(dataset)] == [first, second]


def test_after_a_training_the_epochs_go_on():
    dataset, counted = (DATASETS["shuffled_batches"](1) for _ in range(2))
    expected = [read(counted) for _ in range(4)]
    epoch_order.start_epoch(2, seed=7)
    assert read(dataset) == expected[2]
    epoch_order.end_training()
    epoch_order.end_training()
    assert read(dataset) == expected[3]


def test_without_a_seed_the_order_is_that_of_the_training_or_random():
    first, second = (DATASETS["shuffled_batches"](None) for _ in range(2))
    assert read(first) != read(second)
    epoch_order.start_epoch(0, seed=7)
    assert read(first) == read(second)
    repeated = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        repeated.append(read(DATASETS["shuffled_batches"](None)))
    assert repeated[0] == repeated[1]


def test_an_iterator_that_nobody_reads_is_no_epoch():
    dataset, counted = (DATASETS["bucket_by_length"](1) for _ in range(2))
    expected = [read(counted) for _ in range(2)]
    for epoch in expected:
        iter(dataset)  # Keras makes one at the end of each epoch
        assert read(dataset) == epoch


def test_any_structure_of_arrays_is_batched_together():
    arrays = {"a": np.arange(7), "b": (tf.range(7.0), np.array([f"{i}" for i in range(7)]))}
    seen = []
    for batch in shuffled_batches(arrays, 3, seed=0).as_numpy_iterator():
        np.testing.assert_array_equal(batch["a"], batch["b"][0])
        assert [int(text) for text in batch["b"][1]] == batch["a"].tolist()
        seen.append(batch["a"])
    assert sorted(map(len, seen)) == [1, 3, 3]
    assert sorted(np.concatenate(seen)) == list(range(7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((np.ones(2), np.ones(3)),), r"the same number of samples, .* Received: \[2, 3\]"),
        ((np.ones((0, 2)),), r"at least 1, .* Received: \[0\]"),
        ((1.0,), r"on their first axes. Received: \[None\]"),
        ((np.ones(2), 0), "`batch_size` must be a positive integer. Received: 0"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        shuffled_batches(*arguments)

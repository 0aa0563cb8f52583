# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_seq.data import END_ID, PAD_ID, START_ID, stream_batches, text_vectorizer

DOCUMENTS = st.lists(st.lists(st.integers(4, 9), max_size=12), min_size=1, max_size=7)


def read_epoch(dataset):
    """The pieces of documents that the streams of an epoch hold: `(inputs, targets, begins in the middle)`."""
    batches = list(dataset.as_numpy_iterator())
    assert len(batches) == len(dataset)
    pieces = []
    for row in range(len(batches[0][1])):
        for step, ((tokens, is_start), targets) in enumerate(batches):
            assert not step or not is_start[row] or tokens[row, 0] == START_ID
            if is_start[row]:
                pieces.append(([], [], tokens[row, 0] != START_ID))
            lengths = [np.count_nonzero(ids[row]) for ids in (tokens, targets)]
            assert lengths[0] == lengths[1]
            for piece, ids in zip(pieces[-1], (tokens, targets), strict=False):
                assert np.all(ids[row, lengths[0] :] == PAD_ID)
                piece.extend(ids[row, : lengths[0]].tolist())
    return pieces


@settings(deadline=None, max_examples=5)
@given(documents=DOCUMENTS, batch_size=st.integers(1, 5), window=st.integers(1, 6), shuffle=st.booleans())
def test_whole_documents_are_read_once_in_an_epoch(documents, batch_size, window, shuffle):
    dataset = stream_batches(documents, batch_size, window, cut=False, shuffle=shuffle)
    for _ in range(2):
        pieces = [(inputs, targets) for inputs, targets, _ in read_epoch(dataset)]
        assert sorted(pieces) == sorted(([START_ID, *ids], [*ids, END_ID]) for ids in documents)
    # Longest first is at most 4/3 as long as the best division (Graham 1969), which is at least the mean.
    sizes = [len(ids) // window + 1 for ids in documents]
    streams = min(batch_size, len(documents))
    assert max(sizes) <= len(dataset) <= max(max(sizes), 4 / 3 * (sum(sizes) / streams + max(sizes)))


@settings(deadline=None, max_examples=5)
@given(documents=DOCUMENTS, batch_size=st.integers(1, 9), window=st.integers(1, 6), shuffle=st.booleans())
def test_cut_streams_read_every_token_once_and_are_equally_long(documents, batch_size, window, shuffle):
    dataset = stream_batches(documents, batch_size, window, shuffle=shuffle)
    assert len(dataset) == -(-sum(len(ids) // window + 1 for ids in documents) // batch_size)
    for _ in range(2):
        joined = []  # a piece that begins in the middle continues the one before, in the stream before
        for inputs, targets, is_middle in read_epoch(dataset):
            if is_middle and inputs:
                joined[-1][0].extend(inputs)
                joined[-1][1].extend(targets)
            elif inputs:
                joined.append((inputs, targets))
        assert sorted(joined) == sorted(([START_ID, *ids], [*ids, END_ID]) for ids in documents)


def test_one_long_document_fills_all_streams():
    [((tokens, is_start), targets)] = stream_batches([[*range(4, 11)]], batch_size=4, window=2)
    assert tokens.numpy().tolist() == [[2, 4], [5, 6], [7, 8], [9, 10]]
    assert targets.numpy().tolist() == [[4, 5], [6, 7], [8, 9], [10, 3]]
    assert is_start.numpy().all()


def test_the_batch_size_is_static():
    spec = stream_batches([[4, 5]], batch_size=3, window=2).element_spec
    assert spec == (
        (tf.TensorSpec([3, 2], tf.int32), tf.TensorSpec([3], tf.bool)),
        tf.TensorSpec([3, 2], tf.int32),
    )


def test_a_seed_repeats_the_order_of_all_epochs_and_epochs_differ():
    documents = [[i] * 3 for i in range(4, 40)]

    def epochs(seed):
        dataset = stream_batches(documents, 2, 4, shuffle=True, seed=seed)
        return [[np.array(targets) for _, targets in dataset] for _ in range(2)]

    first, second = epochs(1)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal((first, second), epochs(1))
    assert not np.array_equal(first, epochs(2)[0])


def test_strings_and_token_ids_in_any_form_give_the_same_streams():
    vectorizer = text_vectorizer(["ab"])
    texts = ["ab", "", "bba?"]
    ids = [np.array(row.numpy()) for row in vectorizer(texts)]
    padded = np.array([[*row, END_ID, 0, 0, 0, 0][:5] for row in ids])
    expected = [np.array(batch[1]) for batch in stream_batches(texts, 2, 3, vectorizer=vectorizer)]
    for documents in (ids, padded, tf.constant(padded), tf.ragged.constant([row.tolist() for row in ids])):
        np.testing.assert_array_equal([np.array(batch[1]) for batch in stream_batches(documents, 2, 3)], expected)
    for single in ("ab", np.array("ab"), tf.constant("ab")):
        [(_, targets)] = stream_batches(single, 1, 3, vectorizer=vectorizer)
        assert targets.numpy().tolist() == [[*ids[0], END_ID]]
    for single in (ids[0], ids[0].tolist(), tf.constant(ids[0])):
        [(_, targets)] = stream_batches(single, 1, 3)
        assert targets.numpy().tolist() == [[*ids[0], END_ID]]


@pytest.mark.parametrize(
    ("documents", "arguments", "message"),
    [
        ([], {}, "`documents` must contain at least one document"),
        (["a"], {}, "unless there is a vectorizer"),
        ([[4], "a"], {}, "Received: 'a'"),
        ([[4.5]], {}, "integer token ids"),
        ([[[4]]], {}, "integer token ids"),
        ([[4, 3, 5]], {}, "Received: 3 at position 1"),
        ([[4, 0, 5]], {}, "Received: 0 at position 1"),
        ([[2, 4]], {}, "Received: 2 at position 0"),
        ([[4, -1]], {}, "Received: -1 at position 1"),
        ([[2**32 + 5]], {}, "less than 2\\^31. Received: 4294967301"),
        ([np.array([2**63 + 7], "uint64")], {}, "less than 2\\^31"),
        (tf.data.Dataset.from_tensors([4]).repeat(), {}, "must be finite"),
        ([[4]], {"batch_size": 0}, "`batch_size` must be a positive integer. Received: 0"),
        ([[4]], {"window": 1.5}, "`window` must be a positive integer. Received: 1.5"),
    ],
)
def test_bad_arguments_are_named(documents, arguments, message):
    with pytest.raises(ValueError, match=message):
        stream_batches(documents, **arguments)

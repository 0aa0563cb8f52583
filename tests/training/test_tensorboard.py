# SPDX-License-Identifier: Apache-2.0
"""What `TensorBoardSamples` writes, read back from the event files by TensorBoard."""

import functools
import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_seq
from keras_seq.training import TensorBoardSamples

WORDS, SOUNDS = ["cat", "a*"], ["K AE T", "AE"]


def written(folder):
    """Returns a dict from (tag, step) to the arrays that are in the event files."""
    events = EventAccumulator(str(folder / "samples"), size_guidance={"tensors": 0})
    events.Reload()
    return {
        (tag, event.step): tf.make_ndarray(event.tensor_proto)
        for tag in events.Tags()["tensors"]
        for event in events.Tensors(tag)
    }


@functools.cache
def small_model():
    source = keras_seq.data.text_vectorizer(WORDS)
    target = keras_seq.data.text_vectorizer(SOUNDS, split="whitespace")
    parts = (
        keras_seq.Encoder(source.vocabulary_size(), 4, 4, cell="rnn"),
        keras_seq.Decoder(target.vocabulary_size(), 4, 4, cell="rnn", attention="bahdanau"),
    )
    model = keras_seq.Seq2Seq(*parts, source, target)
    model.compile()
    return model


def report(callback, model, epochs):
    """Calls a callback as `fit` does."""
    callback.set_model(model)
    callback.on_train_begin()
    for epoch in range(epochs):
        callback.on_epoch_end(epoch)
    callback.on_train_end()


def test_bytes_that_are_not_utf8(tmp_path):
    report(TensorBoardSamples(tmp_path, [b"c\xfft", b"a"], [b"K", b"\xfe"]), small_model(), epochs=1)
    cells = written(tmp_path)["samples", 0]
    assert [[cells[row, column].decode() for column in (0, 2)] for row in (1, 2)] == [
        ["c\ufffdt", "K"],
        ["a", "\ufffd"],
    ]


def test_samples_and_heat_maps_of_every_second_epoch(tmp_path):
    model = small_model()
    callback = TensorBoardSamples(tmp_path, WORDS, SOUNDS, every=2)
    report(callback, model, epochs=4)
    values = written(tmp_path)
    tags = ["samples", *(f"attention/{i + 1}" for i in range(2))]
    assert set(values) == {(tag, step) for tag in tags for step in (1, 3)}
    outputs = model.generate(WORDS)
    table = [[cell.decode() for cell in row] for row in values["samples", 3]]
    assert table[0] == ["source", "output", "reference"]
    assert table[1:] == [
        [word.replace("*", r"\*"), re.sub(r"([\[\]])", r"\\\1", output), sound]
        for word, output, sound in zip(WORDS, outputs, SOUNDS, strict=True)
    ]
    for i in range(2):
        width, height, image = values[f"attention/{i + 1}", 3][:3]
        pixels = tf.io.decode_png(image).numpy()
        assert pixels.shape == (int(height), int(width), 3)
        blue = (pixels[..., 2] > pixels[..., 0]) & (pixels[..., 0] < 250)
        assert blue.any()  # the heat map is not blank


def test_sources_without_vectorizers_attention_or_references(tmp_path):
    parts = keras_seq.Encoder(7, 4, 4, cell="rnn"), keras_seq.Decoder(7, 4, 4, cell="rnn", attention=None)
    model = keras_seq.Seq2Seq(*parts)
    model.compile(sampler=keras_seq.decoding.BeamSampler(2, num_return_sequences=2))
    sources = np.array([[4, 5], [6, 4]])
    callback = TensorBoardSamples(tmp_path, sources)
    report(callback, model, epochs=1)
    values = written(tmp_path)
    assert set(values) == {("samples", 0)}
    ids = model.generate(sources)[:, 0]  # the best
    outputs = [" ".join(str(n) for n in row if n) for row in ids]
    expected = [["source", "output"], *zip(["4 5", "6 4"], outputs, strict=True)]
    assert [[cell.decode() for cell in row] for row in values["samples", 0]] == [list(row) for row in expected]


def test_labels_of_heat_maps(tmp_path):
    """Tokens and `[END]`; positions where the memory of an encoder has others."""
    callback = TensorBoardSamples(tmp_path, ["cat", "a"])
    callback.set_model(small_model())
    assert callback._source_tokens(np.zeros((2, 3, 4))) == [["c", "a", "t", "[END]"], ["a", "[END]"]]
    weights = np.zeros((2, 3, 2))
    weights[0, :, 1] = weights[1, :, 0] = 1
    assert callback._source_tokens(weights) == [["1", "2"], ["1"]]
    images = TensorBoardSamples(tmp_path, np.zeros((2, 5, 3)))
    images.set_model(small_model())
    assert images._source_tokens(weights) == [["1", "2"], ["1"]]
    assert images._source_names(2) == ["source 1", "source 2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "`every` must be a positive integer. Received: 0"),
        ({"references": ["K"]}, "`sources` and `references` must have the same length. Received: 2 sources and 1 ref"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TensorBoardSamples("logs", WORDS, **arguments)


@pytest.mark.parametrize("package", ["tensorboard", "matplotlib"])
def test_without_a_package_the_error_names_the_extra(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=re.escape("pip install 'keras_seq[tensorboard]'")):
        TensorBoardSamples("logs", WORDS)


@pytest.mark.slow
def test_in_fit_beside_the_callback_of_keras(tmp_path):
    words, sounds = ["undo", "seen"] * 4, ["do un", "n see"] * 4
    vectorizer = keras_seq.data.subword_vectorizer(words + sounds, 30)
    size = vectorizer.vocabulary_size()
    parts = keras_seq.Encoder(size, 4, 4), keras_seq.Decoder(size, 4, 4, attention="luong")
    model = keras_seq.Seq2Seq(*parts, vectorizer, vectorizer)
    model.compile()
    callbacks = [keras.callbacks.TensorBoard(tmp_path), TensorBoardSamples(tmp_path, words[:2])]
    model.fit(words, sounds, epochs=3, verbose=0, callbacks=callbacks)
    assert {path.name for path in tmp_path.iterdir()} == {"train", "samples"}
    assert {tag: step for tag, step in written(tmp_path)} == {"samples": 2, "attention/1": 2, "attention/2": 2}

# SPDX-License-Identifier: Apache-2.0
"""The three modes: for each given line, the probabilities of the words of the next line and the words that are said."""

import keras
import numpy as np
import tensorflow as tf

from keras_seq.data import text_to_ids

END_ID = 3  # STOP, in the vocabularies of keras_seq
MODES = ("prediction", "transcription", "generation")


def to_ids(vectorizer, texts, length=None, end=(), padding=0):
    """Returns token ids (texts, length), by default as long as the longest text; `end` is added to each text."""
    rows = [[*row, *end] for row in text_to_ids(vectorizer, tf.constant(texts)).to_list()]
    return keras.utils.pad_sequences(rows, length, padding="post", value=padding)


def transcription_arrays(vectorizer, pairs, length):
    """Returns what transcription reads and should say: given lines filled up with STOP, next lines and one STOP."""
    givens, afters = zip(*pairs, strict=True)
    return to_ids(vectorizer, givens, length, padding=END_ID), to_ids(vectorizer, afters, length, end=[END_ID])


def predict(language_model, pairs):
    """Returns, for each pair, the probabilities (words + 1, vocabulary) of each word after the true words before it."""
    tokens = to_ids(language_model.vectorizer, [f"{given} / {after}" for given, after in pairs])
    probabilities = keras.ops.softmax(language_model(np.pad(tokens, ((0, 0), (1, 0)), constant_values=2))).numpy()
    starts = [len(given.split()) + 1 for given, _ in pairs]  # where the model has read [START], the line and /
    ends = [start + len(after.split()) + 1 for start, (_, after) in zip(starts, pairs, strict=True)]
    return [row[start:end] for row, start, end in zip(probabilities, starts, ends, strict=True)]


def transcribe(transcriber, vectorizer, pairs, length):
    """Returns the probabilities (length, vocabulary) of all words at once: one output for each word that is read."""
    inputs, _ = transcription_arrays(vectorizer, pairs, length)
    return list(keras.ops.softmax(transcriber(inputs)).numpy())


def generate(language_model, pairs, length):
    """Returns the probabilities of each word after the model's own words, until STOP or `length` words."""
    texts = language_model.generate([f"{given} /" for given, _ in pairs], max_length=length, sampler="greedy")
    own = [(given, text) for (given, _), text in zip(pairs, texts, strict=True)]
    return [row[:length] for row in predict(language_model, own)]


def run_modes(language_model, transcriber, pairs, length):
    """Returns a dict from modes to lists of probabilities (steps, vocabulary), one for each pair."""
    return {
        "prediction": predict(language_model, pairs),
        "transcription": transcribe(transcriber, language_model.vectorizer, pairs, length),
        "generation": generate(language_model, pairs, length),
    }


def said(probabilities):
    """Returns the ids of the most likely words, up to STOP."""
    ids = probabilities.argmax(axis=-1)
    stops = np.flatnonzero(ids == END_ID)
    return ids[: stops[0] + 1] if len(stops) else ids


def score(results, vectorizer, pairs, following):
    """Returns, for each mode, the percentages of words at their place and of lines that do follow the given line."""
    lines = [[after, *following[given]] for given, after in pairs]  # the true one, then all that may follow
    ids = [[tuple(row[row > 0]) for row in to_ids(vectorizer, group, end=[END_ID])] for group in lines]
    scores = {}
    for mode, rows in results.items():
        words, is_line = [], []
        for row, (truth, *possible) in zip(rows, ids, strict=True):
            best = row.argmax(axis=-1)
            words += [t < len(best) and best[t] == word for t, word in enumerate(truth)]
            is_line.append(tuple(said(row)) in possible)
        scores[mode] = {"words": 100 * float(np.mean(words)), "lines": 100 * float(np.mean(is_line))}
    return scores

# SPDX-License-Identifier: Apache-2.0
"""A processor of every kind, and what each should return, computed slowly in plain Python."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_seq.decoding import (
    AllowedTokens,
    ForbiddenTokens,
    ForcedPrefix,
    Lexicon,
    MinLength,
    NoRepeatNGram,
    RepetitionPenalty,
)

END = 3
VOCABULARY = 7
LEXICON = [[4, 5, 6], [4, 5], [], [6], [0, 0], [4, 5, 6], [0, 0, 0, 1]]  # END after 4 5, twice 4 5 6


@keras.saving.register_keras_serializable("tests")
def larger_than_the_last(tokens, step):
    last = tf.where(step > 0, tokens[:, tf.maximum(step, 1) - 1], -1)  # (rows,)
    return tf.range(VOCABULARY) > last[:, None]


PROCESSORS = {
    "MinLength": MinLength(2),
    "NoRepeatNGram": NoRepeatNGram(2),
    "RepetitionPenalty": RepetitionPenalty(1.7),
    "ForcedPrefix": ForcedPrefix([5, 0, 4]),
    "ForbiddenTokens": ForbiddenTokens([6, 0, 6]),
    "AllowedTokens": AllowedTokens(larger_than_the_last),
    "Lexicon": Lexicon(LEXICON, VOCABULARY),
}
every_processor = pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)


def process_row(processor, log_probabilities, history):
    """The reference: what a processor returns for one row, computed token by token."""
    allowed = {
        MinLength: lambda p, token: token != p.end_id or len(history) >= p.min_length,
        NoRepeatNGram: lambda p, token: is_new_n_gram([*history, token], p.size),
        ForbiddenTokens: lambda p, token: token not in p.token_ids,
        AllowedTokens: lambda p, token: not history or token > history[-1],
        Lexicon: lambda p, token: any([*ids, p.end_id][: len(history) + 1] == [*history, token] for ids in p.sequences),
    }
    row = np.array(log_probabilities)
    if isinstance(processor, RepetitionPenalty):
        for token in set(history):
            row[token] *= np.float32(processor.penalty)
    elif isinstance(processor, ForcedPrefix):
        if len(history) < len(processor.token_ids):
            row[:] = -np.inf
            row[processor.token_ids[len(history)]] = 0
    else:
        for token in range(len(row)):
            if not allowed[type(processor)](processor, token):
                row[token] = -np.inf
    return row


def is_new_n_gram(sequence, size):
    n_grams = [tuple(sequence[start : start + size]) for start in range(len(sequence) - size + 1)]
    return not n_grams or n_grams[-1] not in n_grams[:-1]

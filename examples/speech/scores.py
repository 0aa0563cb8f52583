# SPDX-License-Identifier: Apache-2.0
"""How good transcriptions are, and where attention looks."""

import numpy as np
from speech import FRAME_SECONDS, VOICES

import keras_seq


def score(outputs, utterances):
    """Returns the digit error rate, edit distance over digits, and the share of strings with an error, in percent."""
    rates = keras_seq.training.error_rates(outputs, [utterance.digits for utterance in utterances], separator="")
    return {"digit_error_rate": rates.token, "string_error_rate": rates.sequence}


def score_by_voice(outputs, utterances):
    """Returns the digit error rate of each variant of the test."""
    pairs = {voice: ([], []) for voice in VOICES["test"]}
    for text, utterance in zip(outputs, utterances, strict=True):
        for part, item in zip(pairs[utterance.voice.partition("+")[2]], (text, utterance), strict=True):
            part.append(item)
    return {voice: score(*pair)["digit_error_rate"] for voice, pair in pairs.items() if pair[0]}


def distance_to_words(outputs, weights, utterances):
    """Returns the median distance between the frame with the largest weight and the start of the digit's word, in ms.

    Only strings without an error count.
    """
    distances = []
    for text, rows, utterance in zip(outputs, weights, utterances, strict=True):
        if text == utterance.digits:
            seconds = (np.argmax(rows[: len(text)], axis=1) + 0.5) * FRAME_SECONDS
            distances.extend(np.abs(seconds - utterance.starts))
    return 1000 * float(np.median(distances)) if distances else None

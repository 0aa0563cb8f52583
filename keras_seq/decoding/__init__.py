# SPDX-License-Identifier: Apache-2.0
"""Search: chooses output tokens step by step. The model is only a function of one step."""

from keras_seq.decoding.greedy import greedy_search
from keras_seq.decoding.lexicon import Lexicon
from keras_seq.decoding.processors import (
    AllowedTokens,
    ForbiddenTokens,
    ForcedPrefix,
    MinLength,
    NoRepeatNGram,
    Processor,
    RepetitionPenalty,
    check_processors,
)

__all__ = [
    "AllowedTokens",
    "ForbiddenTokens",
    "ForcedPrefix",
    "Lexicon",
    "MinLength",
    "NoRepeatNGram",
    "Processor",
    "RepetitionPenalty",
    "check_processors",
    "greedy_search",
]

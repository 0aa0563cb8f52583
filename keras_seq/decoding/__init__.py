# SPDX-License-Identifier: Apache-2.0
"""Search: chooses output tokens step by step. The model is only a function of one step."""

from keras_seq.decoding.beam import BeamSampler
from keras_seq.decoding.greedy import GreedySampler
from keras_seq.decoding.lexicon import Lexicon
from keras_seq.decoding.loop import search
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
from keras_seq.decoding.random_sampler import RandomSampler
from keras_seq.decoding.registry import get_sampler
from keras_seq.decoding.sampler import Hypotheses, Sampler
from keras_seq.decoding.top_k import TopKSampler
from keras_seq.decoding.top_p import TopPSampler

__all__ = [
    "AllowedTokens",
    "BeamSampler",
    "ForbiddenTokens",
    "ForcedPrefix",
    "GreedySampler",
    "Hypotheses",
    "Lexicon",
    "MinLength",
    "NoRepeatNGram",
    "Processor",
    "RandomSampler",
    "RepetitionPenalty",
    "Sampler",
    "TopKSampler",
    "TopPSampler",
    "check_processors",
    "get_sampler",
    "search",
]

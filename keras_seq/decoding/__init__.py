# SPDX-License-Identifier: Apache-2.0
"""Search: chooses output tokens step by step. The model is only a function of one step."""

from keras_seq.decoding.beam import BeamSampler
from keras_seq.decoding.greedy import GreedySampler
from keras_seq.decoding.loop import search
from keras_seq.decoding.random_sampler import RandomSampler
from keras_seq.decoding.registry import get_sampler
from keras_seq.decoding.sampler import Hypotheses, Sampler
from keras_seq.decoding.top_k import TopKSampler
from keras_seq.decoding.top_p import TopPSampler

__all__ = [
    "BeamSampler",
    "GreedySampler",
    "Hypotheses",
    "RandomSampler",
    "Sampler",
    "TopKSampler",
    "TopPSampler",
    "get_sampler",
    "search",
]

# SPDX-License-Identifier: Apache-2.0
"""Samplers by name."""

from keras_seq.decoding.beam import BeamSampler
from keras_seq.decoding.greedy import GreedySampler
from keras_seq.decoding.random_sampler import RandomSampler
from keras_seq.decoding.sampler import Sampler
from keras_seq.decoding.top_k import TopKSampler
from keras_seq.decoding.top_p import TopPSampler

_SAMPLERS = {
    "greedy": GreedySampler,
    "random": RandomSampler,
    "top_k": TopKSampler,
    "top_p": TopPSampler,
    "beam": BeamSampler,
}


def get_sampler(identifier):
    """Returns a sampler, given itself or its name.

    Args:
        identifier: a `Sampler`, or "greedy", "random", "top_k", "top_p" or "beam" for one with default arguments.

    Raises:
        ValueError: if it is anything else.

    Example:
        >>> get_sampler("top_k").k
        5
    """
    if isinstance(identifier, Sampler):
        return identifier
    if isinstance(identifier, str) and identifier in _SAMPLERS:
        return _SAMPLERS[identifier]()
    names = ", ".join(repr(name) for name in _SAMPLERS)
    raise ValueError(f"`sampler` must be a `Sampler` or one of {names}. Received: {identifier!r}")

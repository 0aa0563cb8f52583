# SPDX-License-Identifier: Apache-2.0
"""Search: from a model that scores the next token to a sequence. It sees the model as a step function only."""

from keras_seq.decoding.greedy import greedy_search

__all__ = ["greedy_search"]

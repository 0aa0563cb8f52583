# SPDX-License-Identifier: Apache-2.0
"""Search: chooses output tokens step by step. The model is only a function of one step."""

from keras_seq.decoding.greedy import greedy_search

__all__ = ["greedy_search"]

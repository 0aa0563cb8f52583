# SPDX-License-Identifier: Apache-2.0
"""Losses and metrics that know padding."""

from keras_seq.training.losses import masked_crossentropy
from keras_seq.training.metrics import TokenAccuracy

__all__ = ["TokenAccuracy", "masked_crossentropy"]

# SPDX-License-Identifier: Apache-2.0
"""Training: losses and metrics that ignore padding, scheduled sampling, error rates and callbacks."""

from keras_seq.training.callbacks import DecodingReport
from keras_seq.training.crf import CRFAccuracy, CRFLoss
from keras_seq.training.losses import masked_crossentropy
from keras_seq.training.metrics import Perplexity, TokenAccuracy
from keras_seq.training.scheduled_sampling import ExponentialGrowth, InverseSigmoidGrowth, ScheduledSampling
from keras_seq.training.scores import ErrorRates, error_rates

__all__ = [
    "CRFAccuracy",
    "CRFLoss",
    "DecodingReport",
    "ErrorRates",
    "ExponentialGrowth",
    "InverseSigmoidGrowth",
    "Perplexity",
    "ScheduledSampling",
    "TokenAccuracy",
    "error_rates",
    "masked_crossentropy",
]

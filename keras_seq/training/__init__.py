# SPDX-License-Identifier: Apache-2.0
"""Training: losses, metrics, outputs of forecasters, scheduled sampling, error rates and callbacks."""

from keras_seq.training.adam import Adam
from keras_seq.training.callbacks import DecodingReport
from keras_seq.training.crf import CRFAccuracy, CRFLoss
from keras_seq.training.likelihoods import Gaussian, Likelihood, Point, Quantiles, StudentT
from keras_seq.training.losses import MaskedCrossentropy, masked_crossentropy
from keras_seq.training.metrics import BitsPerToken, Perplexity, SequenceAccuracy, TokenAccuracy
from keras_seq.training.scheduled_sampling import ExponentialGrowth, InverseSigmoidGrowth, ScheduledSampling
from keras_seq.training.scores import ErrorRates, error_rates

__all__ = [
    "Adam",
    "BitsPerToken",
    "CRFAccuracy",
    "CRFLoss",
    "DecodingReport",
    "ErrorRates",
    "ExponentialGrowth",
    "Gaussian",
    "InverseSigmoidGrowth",
    "Likelihood",
    "MaskedCrossentropy",
    "Perplexity",
    "Point",
    "Quantiles",
    "ScheduledSampling",
    "SequenceAccuracy",
    "StudentT",
    "TokenAccuracy",
    "error_rates",
    "masked_crossentropy",
]

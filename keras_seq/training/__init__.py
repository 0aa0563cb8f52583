# SPDX-License-Identifier: Apache-2.0
"""Training: losses, metrics, callbacks, backups, Adam, scheduled sampling, scores, outputs of forecasters."""

from keras_seq.training.adam import Adam
from keras_seq.training.averaging import CheckpointAveraging, average_checkpoints
from keras_seq.training.backup import BackupAndRestore
from keras_seq.training.callbacks import DecodingReport, order_callbacks
from keras_seq.training.crf import CRFAccuracy, CRFLoss
from keras_seq.training.data_parallel import data_parallel
from keras_seq.training.likelihoods import Gaussian, Likelihood, Point, Quantiles, StudentT
from keras_seq.training.losses import MaskedCrossentropy, SmoothedCrossentropy, masked_crossentropy
from keras_seq.training.metrics import BitsPerToken, Perplexity, SequenceAccuracy, TokenAccuracy
from keras_seq.training.scheduled_sampling import ExponentialGrowth, InverseSigmoidGrowth, ScheduledSampling
from keras_seq.training.scores import ErrorRates, bleu, chrf, error_rates
from keras_seq.training.tensorboard import TensorBoardSamples

__all__ = [
    "Adam",
    "BackupAndRestore",
    "BitsPerToken",
    "CRFAccuracy",
    "CRFLoss",
    "CheckpointAveraging",
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
    "SmoothedCrossentropy",
    "StudentT",
    "TensorBoardSamples",
    "TokenAccuracy",
    "average_checkpoints",
    "bleu",
    "chrf",
    "data_parallel",
    "error_rates",
    "masked_crossentropy",
    "order_callbacks",
]

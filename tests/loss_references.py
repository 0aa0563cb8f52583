# SPDX-License-Identifier: Apache-2.0
"""Losses over sequences in NumPy, to compare with: simple instead of fast."""

import itertools

import numpy as np


def crf_log_likelihood(scores, transitions, start, end, mask, tags):
    """The log-probability of each tag given the true tag before, in a conditional random field (Lafferty et al. 2001).

    `future` is the sum over all tags after a step, of the exponential of their scores. Masked steps are left out, and
    zero in the results (batch, time).
    """
    results = np.zeros(mask.shape, np.result_type(scores, transitions, start, end))
    for b, visible in enumerate(mask):
        steps, future = [None, *np.flatnonzero(visible)], np.exp(end)
        for before, t in reversed(list(itertools.pairwise(steps))):
            factors = np.exp(start)[None] if before is None else np.exp(transitions)
            joint = factors * np.exp(scores[b, t]) * future  # (tags before, tags)
            row = 0 if before is None else tags[b, before]
            future = joint.sum(axis=1)
            results[b, t] = np.log(joint[row, tags[b, t]] / future[row])
    return results


def readout_crossentropy(features, kernel, bias, targets, weights, smoothing):
    """Loss, losses and predictions of `keras_seq.ops.readout_crossentropy`, and the gradients, for all rows at once."""
    vocabulary = kernel.shape[1]
    logits = features.astype("float64") @ kernel + bias
    shifted = logits - logits.max(-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    is_row = targets >= 0
    one_hot = np.eye(vocabulary)[np.where(is_row, targets, 0)]
    wanted, factors = (1 - smoothing) * one_hot + smoothing / vocabulary, (weights * is_row)[..., None]
    d_logits = (factors * (np.exp(log_probabilities) - wanted)).reshape(-1, vocabulary)
    return (
        -(factors * wanted * log_probabilities).sum(),
        -(one_hot * log_probabilities).sum(-1) * is_row,
        np.where(is_row, logits.argmax(-1), -1),
        (d_logits @ kernel.T).reshape(features.shape),
        features.reshape(-1, features.shape[-1]).T @ d_logits,
        d_logits.sum(0),
    )

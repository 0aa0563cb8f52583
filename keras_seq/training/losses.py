# SPDX-License-Identifier: Apache-2.0
"""Losses of token sequences."""

import keras

from keras_seq.data.vocabulary import PAD_ID


def masked_crossentropy():
    """Keras's sparse cross-entropy from logits, averaged over the tokens of a batch that are not padding.

    Sample weights (batch, time) multiply the loss of a token. The sum is divided by the number of tokens, not by that
    of their weights, as in all losses of Keras.

    Returns:
        A `keras.losses.SparseCategoricalCrossentropy` of targets (batch, time) and logits (batch, time, vocabulary).

    Example:
        >>> import numpy as np
        >>> targets, logits = np.array([[4, 5, 0]]), np.zeros((1, 3, 8), "float32")
        >>> bool(np.isclose(masked_crossentropy()(targets, logits), np.log(8)))
        True
    """
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=PAD_ID)

# SPDX-License-Identifier: Apache-2.0
"""Losses for token sequences."""

import keras

from keras_seq.data.vocabulary import PAD_ID


def masked_crossentropy():
    """Creates the cross-entropy loss, averaged over all tokens of a batch except padding.

    Sample weights (batch, time) multiply the losses of the tokens. As in all losses of Keras, the sum is divided by the
    number of tokens, not by the sum of their weights.

    Returns:
        A `keras.losses.SparseCategoricalCrossentropy` for targets (batch, time) and logits (batch, time, vocabulary).

    Example:
        >>> import numpy as np
        >>> targets, logits = np.array([[4, 5, 0]]), np.zeros((1, 3, 8), "float32")
        >>> bool(np.isclose(masked_crossentropy()(targets, logits), np.log(8)))
        True
    """
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=PAD_ID)

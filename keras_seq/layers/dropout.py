# SPDX-License-Identifier: Apache-2.0
"""Dropout for sequences."""

import keras


@keras.saving.register_keras_serializable("keras_seq")
class LockedDropout(keras.layers.SpatialDropout1D):
    """Dropout with one mask a sequence: a feature is dropped at every step or at none (Gal & Ghahramani 2016).

    `y_t = m * x_t`, each entry of m 0 with probability `rate`, else `1 / (1 - rate)`; m is drawn anew for every
    sequence in the batch and every call.

    Args:
        rate: fraction of the features to drop, in [0, 1].
        seed: of the masks.

    Call arguments:
        inputs: (batch, time, features).
        training: whether to drop; at inference the inputs are returned as they are.

    Returns:
        (batch, time, features).

    Example:
        >>> import numpy as np
        >>> y = LockedDropout(0.5, seed=1)(np.ones((1, 3, 8)), training=True)
        >>> bool(np.all(y[:, 0] == y[:, 2]))
        True
    """

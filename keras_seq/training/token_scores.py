# SPDX-License-Identifier: Apache-2.0
"""What losses and metrics of tokens need of predictions, where not all logits are there at once."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class TokenScores:
    """What a metric can be given as `y_pred` in the place of logits (batch, time, vocabulary).

    It is a single leaf for Keras, which hands it on as it is.

    Attributes:
        losses: cross-entropies of the targets (batch, time), 0 for padding.
        predictions: the most likely token ids (batch, time).
    """

    losses: Any
    predictions: Any

# SPDX-License-Identifier: Apache-2.0
"""A small forecaster with inputs of all kinds."""

import numpy as np
from conftest import draw

import keras_seq

BATCH, TIME, HORIZON, SERIES = 5, 7, 3, 2


def make_inputs(batch=BATCH, steps=HORIZON):
    """Inputs of all kinds, with missing values that are NaN."""
    past = 10 + 3 * draw(batch, TIME, SERIES)
    mask = np.random.default_rng(1).random(past.shape) > 0.2
    return {
        "past": np.where(mask, past, np.nan),
        "past_mask": mask,
        "past_covariates": draw(batch, TIME, 3, seed=2),
        "future_covariates": draw(batch, steps, 1, seed=3),
        "static": draw(batch, 2, seed=4),
    }


def make_targets(batch=BATCH):
    return 10 + 3 * draw(batch, HORIZON, SERIES, seed=5)


def make_model(cell="gru", inputs=None, **options):
    """A model with 4 units that is built."""
    model = keras_seq.Forecaster(HORIZON, 4, cell, **{"seed": 0, **options})
    inputs = make_inputs() if inputs is None else inputs
    model.build({name: value.shape for name, value in inputs.items()})
    for i, weight in enumerate(model.trainable_weights):  # biases too, and large enough to matter
        weight.assign(0.5 * draw(*weight.shape, seed=i))
    return model

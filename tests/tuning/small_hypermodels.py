# SPDX-License-Identifier: Apache-2.0
"""Words and how to spell them, hypermodels of small models, and functions that build them."""

import keras
import keras_tuner
import numpy as np

from keras_seq import data
from keras_seq.tuning import ChoiceHyperModel

RANGES = {"units": (8, 16), "embedding_dim": (4, 8), "dropout": (0.0, 0.2), "learning_rate": (1e-3, 1e-2)}


def make_pairs():
    """Words of random letters, and how to spell them."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(3, 9))) for _ in range(200)]
    return words, [" ".join(word.upper()) for word in words]


PAIRS = make_pairs()
VECTORIZERS = data.text_vectorizer(PAIRS[0]), data.text_vectorizer(PAIRS[1], split="whitespace")
X, Y = np.ones((12, 1)), np.ones((12, 1))


def build_with(hypermodel, **values):
    hp = keras_tuner.HyperParameters()
    for name, value in values.items():
        hp.Fixed(name, value)
    return hypermodel.build(hp)


class CustomHyperModel(ChoiceHyperModel):
    def __init__(self, training=None, **choices):
        super().__init__(choices, **(training or {}))

    def make_model(self, hp, **chosen):
        self.chosen = chosen
        return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])

    def compile_model(self, model, optimizer):
        model.compile(optimizer, "mse")

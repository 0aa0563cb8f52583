# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation on several workers."""

from keras_seq.training.data_parallel import data_parallel


class DataParallelTraining:
    """The part of a model that trains and evaluates on several workers, a mixin. See `data_parallel`."""

    def fit(self, *args, **kwargs):
        with data_parallel(self):
            return super().fit(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        with data_parallel(self):
            return super().evaluate(*args, **kwargs)

    def train_on_batch(self, *args, **kwargs):
        with data_parallel(self):
            return super().train_on_batch(*args, **kwargs)

    def test_on_batch(self, *args, **kwargs):
        with data_parallel(self):
            return super().test_on_batch(*args, **kwargs)

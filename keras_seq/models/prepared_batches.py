# SPDX-License-Identifier: Apache-2.0
"""A `keras.utils.PyDataset` whose batches are converted for a training step."""

import keras


class PreparedBatches(keras.utils.PyDataset):
    """A PyDataset of prepared batches. It uses threads, because TensorFlow does not survive a fork.

    Args:
        batches: the `keras.utils.PyDataset` of the user.
        prepare: function of a batch and its index that returns the prepared batch.
    """

    def __init__(self, batches, prepare):
        super().__init__(workers=batches.workers, max_queue_size=batches.max_queue_size)
        self.batches = batches
        self.prepare = prepare

    def __getitem__(self, index):
        return self.prepare(self.batches[index], index)

    @property
    def num_batches(self):
        return self.batches.num_batches

    def on_epoch_begin(self):
        self.batches.on_epoch_begin()

    def on_epoch_end(self):
        self.batches.on_epoch_end()

# SPDX-License-Identifier: Apache-2.0
"""The order of the data in each epoch, computed from a seed and the number of the epoch alone."""

import random
import weakref

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf

_LARGEST_SEED = 2**63 - 1
_orders = weakref.WeakSet()  # those of all datasets that exist


class EpochOrder:
    """Numbers the epochs of a dataset, and gives each a random generator of its own.

    Each iteration over the dataset is an epoch, counted from 0. While a training runs with
    `keras_seq.training.BackupAndRestore`, the epochs are those of the training. So epoch k has the same order whether
    or not the epochs before it ran in this process. `tf.data.Dataset.shuffle` only counts.

    Args:
        seed: integer, or None for a random one.
    """

    def __init__(self, seed=None):
        self._has_seed = seed is not None
        # Keras draws default seeds so too: `keras.utils.set_random_seed` makes them reproducible.
        self._seed = draw_seed() if seed is None else int(seed) & _LARGEST_SEED
        self._epoch = 0
        self._iteration = 0  # of the epoch
        self._is_training = False
        _orders.add(self)

    def start_epoch(self, epoch, seed):
        """Sets the number of the epoch that the next iteration is, and the seed unless it was given."""
        self._epoch, self._iteration, self._is_training = epoch, 0, True
        self._seed = self._seed if self._has_seed else seed

    def share_seed(self, seed):
        """Sets the seed unless it was given."""
        self._seed = self._seed if self._has_seed else seed

    def end_training(self):
        """Counts from here."""
        if self._is_training:
            self._epoch, self._iteration, self._is_training = self._epoch + 1, 0, False

    def generator(self):
        """Returns the NumPy generator of an iteration that begins."""
        generator = np.random.default_rng([self._seed, self._epoch, self._iteration])
        if self._is_training:
            self._iteration += 1  # the callback counts the epochs
        else:
            self._epoch += 1
        return generator


def draw_seed():
    """Returns a random seed, reproducible after `keras.utils.set_random_seed`."""
    return random.randint(0, 2**31 - 1)


def start_epoch(epoch, seed):
    """Sets the epoch of all datasets that exist. `seed` is for those that were made without a seed."""
    for order in list(_orders):
        order.start_epoch(epoch, seed)


def share_seed(seed):
    """Sets the seed of all datasets that exist and were made without one, for workers that shuffle alike."""
    for order in list(_orders):
        order.share_seed(seed)


def end_training():
    """Has all datasets count their epochs themselves again."""
    for order in list(_orders):
        order.end_training()


def index_batches(arrange, num_batches, shuffle, seed):
    """Returns a dataset of batches of indices, int64 (batch,), arranged anew for each epoch.

    Args:
        arrange: function of a NumPy generator that returns a list of arrays of indices, the batches of an epoch. If
            `shuffle` is False it is called once, with None.
        num_batches: their number.
        shuffle: whether to arrange each epoch anew.
        seed: see `EpochOrder`.
    """
    order = EpochOrder(seed) if shuffle else None

    def flatten(batches):
        return np.concatenate(batches).astype("int64"), np.cumsum([0, *map(len, batches)])

    def arrange_epoch(_):
        if order is None:
            indices, ends = map(tf.constant, fixed)
        else:
            indices, ends = tf.numpy_function(lambda: flatten(arrange(order.generator())), [], [tf.int64, tf.int64])
        bounds = tf.data.Dataset.from_tensor_slices((ends[:-1], ends[1:]))
        return bounds.map(lambda begin, end: tf.ensure_shape(indices[begin:end], [None]))

    fixed = None if shuffle else flatten(arrange(None))
    # A dataset of one element, which is computed when an iteration begins.
    batches = tf.data.Dataset.range(1).flat_map(tf.autograph.experimental.do_not_convert(arrange_epoch))
    return batches.apply(tf.data.experimental.assert_cardinality(num_batches))


def shuffled_batches(arrays, batch_size=32, *, seed=None):
    """Batches arrays in an order that is shuffled anew in every epoch, and that a restarted training finds again.

    The order of epoch k depends on `seed` and k alone. `keras.Model.fit` shuffles arrays in an order that depends on
    what ran before in the process, so with arrays `keras_seq.training.BackupAndRestore` cannot be exact. The models of
    keras_seq do this for the arrays that you pass to `fit`.

    Args:
        arrays: array or tensor with the samples on the first axis, or nested tuples and dicts of them: `(x, y)`,
            `(x, y, sample_weight)`.
        batch_size: number of samples in a batch. The last batch of an epoch may be smaller.
        seed: integer that makes the order of all epochs reproducible. Defaults to a random one.

    Returns:
        A `tf.data.Dataset` of batches with the structure of `arrays`, of known cardinality.

    Raises:
        ValueError: if the arrays differ in their number of samples, or if there are none.

    Example:
        >>> import numpy as np
        >>> batches = shuffled_batches((np.arange(5), np.arange(5) ** 2), batch_size=2, seed=1)
        >>> len(batches)
        3
        >>> sorted(int(y) for _, squares in batches for y in squares)
        [0, 1, 4, 9, 16]
    """
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a positive integer. Received: {batch_size!r}")
    arrays = keras.tree.map_structure(tf.convert_to_tensor, arrays)
    counts = [array.shape[0] if array.shape.rank else None for array in keras.tree.flatten(arrays)]
    if len(set(counts)) != 1 or not counts[0]:
        raise ValueError(
            f"`arrays` must have the same number of samples, at least 1, on their first axes. Received: {counts}"
        )
    starts = np.arange(batch_size, counts[0], batch_size)

    def arrange(generator):
        return np.split(generator.permutation(counts[0]), starts)

    def gather(indices):
        return keras.tree.map_structure(lambda array: tf.gather(array, indices), arrays)

    batches = index_batches(arrange, len(starts) + 1, True, seed)
    return batches.map(gather, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

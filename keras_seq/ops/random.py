# SPDX-License-Identifier: Apache-2.0
"""Seeds for the parts of a layer or model, and random masks for dropout and zoneout.

A layer that draws one stream of random numbers takes its seed as it is, as in Keras. A layer or model of several parts
gives each part its own seed: `child_seed`.
"""

import hashlib
import math
import numbers
from collections.abc import Callable
from typing import Any

import keras
from keras import backend, ops

from keras_seq.ops import native
from keras_seq.ops.equations.protocol import Tensor
from keras_seq.ops.export_mode import is_portable_export


def check_rate(name: str, rate: float) -> float:
    """Return a dropout rate as a float after checking it. `name` is the argument that the message names."""
    if not isinstance(rate, numbers.Real) or not 0 <= rate < 1:
        raise ValueError(f"`{name}` must be a number in [0, 1). Received: {rate!r}")
    return float(rate)


def child_seed(seed: int | None, *path: str | int) -> int | None:
    """Derive the seed of one part from the seed of the whole.

    The result is a hash of seed and path, so parts draw independent numbers, and the same ones in every run. With
    `seed + 1` instead, the second part of a layer with seed 1 would draw the numbers of a layer with seed 2.

    Args:
        seed: an integer, or None.
        *path: names and numbers that distinguish this part from all others of the same whole.

    Returns:
        An integer in [0, 2^31), or None if `seed` is None.

    Example:
        >>> child_seed(7, "Encoder", "layer", 0) == child_seed(7, "Encoder", "layer", 1)
        False
    """
    if seed is None:
        return None
    if not isinstance(seed, int):
        raise ValueError(f"`seed` must be an integer or None. Received: {seed!r}")
    digest = hashlib.sha256(repr((int(seed), *path)).encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def with_child_seeds(config: Any, *path: str | int) -> Any:
    """Return a configuration in which each seed, at any depth, is replaced by its `child_seed`."""
    if isinstance(config, dict):
        return {
            key: child_seed(value, *path)
            if key == "seed" and isinstance(value, int)
            else with_child_seeds(value, *path)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(with_child_seeds(value, *path) for value in config)
    return config


def child_initializer(initializer: Callable, *path: str | int) -> Callable:
    """Return a copy of an initializer that draws other numbers, for one of several weights.

    Keras's initializers return the same numbers in every call. The copy of an initializer without a seed gets a new
    random seed; the copy of one with a seed gets the `child_seed`. An initializer that takes no seed is returned as it
    is.
    """
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    return type(initializer).from_config(with_child_seeds(config, *path)) if "seed" in config else initializer


def draw_same_numbers(initializer: Callable, other: Callable) -> bool:
    """Whether two initializers draw the same numbers: they are one object, or equal and have a seed."""
    if initializer is other:
        return True
    if type(initializer) is not type(other) or not hasattr(initializer, "get_config"):
        return False
    config = initializer.get_config()
    return config.get("seed") is not None and config == other.get_config()


def dropout_mask(
    shape: tuple,
    rate: float,
    seed_generator: keras.random.SeedGenerator,
    dtype: str | None = None,
    scale: bool = True,
) -> Tensor:
    """Draw a mask whose entries are 0 with probability `rate`, and 1/(1 - rate) otherwise.

    On TensorFlow, each replica of a `tf.distribute.Strategy` draws a mask of its own. Probabilities are multiples of
    2^-16, the nearest to `rate` but never 1. One seed gives one mask whether the call runs eagerly, in a graph or
    compiled by XLA, with or without the native library; TensorFlow 2.21 behaves so without promising it.

    Args:
        shape: a tuple of numbers and, on TensorFlow, scalar tensors.
        rate: the probability of a 0, a number at least 0 and less than 1.
        seed_generator: every call advances it once.
        dtype: the dtype of the mask; by default `keras.config.floatx()`.
        scale: whether the other entries are 1/(1 - rate) instead of 1.

    Returns:
        A tensor with this shape and dtype.

    Example:
        >>> import numpy as np
        >>> mask = dropout_mask((2, 1000), 0.75, keras.random.SeedGenerator(1))
        >>> np.unique(mask).tolist()
        [0.0, 4.0]
    """
    return RandomMask(shape, rate, seed_generator).as_tensor(0.0, 1 / (1 - rate) if scale else 1.0, dtype)


class RandomMask:
    """Which entries of a tensor are dropped. One object can make several tensors of one random choice.

    Args:
        shape, rate, seed_generator: see `dropout_mask`.
    """

    def __init__(self, shape: tuple, rate: float, seed_generator: keras.random.SeedGenerator):
        self._shape = shape
        self._rate = rate
        if backend.backend() == "tensorflow":
            self._seed = _next_seed(seed_generator)
            self._threshold = min(round(rate * 2**16), 2**16 - 1)
            self._is_kept = None
        else:
            self._is_kept = keras.random.uniform(shape, dtype="float32", seed=seed_generator) >= rate

    def as_tensor(self, dropped: float, kept: float, dtype: str | None = None) -> Tensor:
        """Return a tensor with one value where an entry is dropped, and another one where it is kept."""
        dtype = dtype or backend.floatx()
        if self._is_kept is None and native.draws_masks(dtype) and not is_portable_export():
            return native.draw_mask(self._shape, self._seed, self._threshold, (dropped, kept), dtype)
        mask = ops.cast(self._draw(), dtype)
        mask = mask if kept - dropped == 1 else mask * (kept - dropped)
        return mask + dropped if dropped else mask

    def drop(
        self,
        x: Tensor,  # of the shape of the mask
    ) -> Tensor:  # of the same shape
        """Set the dropped entries of a tensor to 0 and multiply the others by 1/(1 - rate)."""
        dtype, values = backend.standardize_dtype(x.dtype), (0.0, 1 / (1 - self._rate))
        if self._is_kept is None and native.draws_masks(dtype, multiply=True) and not is_portable_export():
            return native.drop(x, self._seed, self._threshold, values)
        return x * self.as_tensor(*values, dtype)

    def _draw(self) -> Tensor:
        """Return booleans, True = keep."""
        return _keep_on_tensorflow(self._shape, self._seed, self._threshold) if self._is_kept is None else self._is_kept


def _keep_on_tensorflow(shape: tuple, seed: Tensor, threshold: int) -> Tensor:
    """Compare 16 random bits for each entry, four entries to a word, with a threshold.

    This is what the native op `KerasSeq>DropoutMask` computes, for where it cannot run. On 2 CPU cores, a single mask
    (64, 50, 512) takes 2.0 ms in a graph and 2.6 ms compiled by XLA. `keras.random.dropout` takes 3.5 and 260 ms: it
    lets TensorFlow choose the algorithm, and XLA fuses the derivation of the key into the loop over the entries. Floats
    from a named algorithm take 3.2 and 2.3 ms, but inside a model no less than Keras's: the compiled training step of
    an LSTM with 512 units and two such masks took 243 ms with them, 246 with Keras's, 216 with these words, and 212
    without masks.
    """
    import tensorflow as tf

    size = math.prod(shape)
    words = tf.random.stateless_uniform([-(-size // 4)], seed, minval=None, maxval=None, dtype="uint64", alg="philox")
    bits = tf.reshape(tf.bitcast(words, "uint16"), [-1])[:size]
    return tf.reshape(bits >= tf.constant(threshold, "uint16"), shape)


def _next_seed(seed_generator: keras.random.SeedGenerator) -> Tensor:
    """Advance a seed generator, whose state all replicas share, and return the seed of this replica."""
    import tensorflow as tf

    seed, context = seed_generator.next(), tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return seed
    replica = tf.cast(context.replica_id_in_sync_group, seed.dtype)
    return seed + tf.stack([tf.zeros_like(replica), replica * 2**40])  # further than a generator counts

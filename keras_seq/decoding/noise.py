# SPDX-License-Identifier: Apache-2.0
"""Random numbers that depend on a seed, a position and a step only.

A generator of TensorFlow draws a whole tensor from one seed, so the numbers of a source would depend on the size of its
batch and on which of its batch mates have ended. Here each number is a hash. The integer arithmetic gives the same
numbers eagerly, in a graph and compiled by XLA.
"""

from keras_seq._lazy_tensorflow import tf

_GOLDEN_RATIO = 0x9E3779B9  # its multiples spread evenly over the 32-bit integers


def hash_keys(seed, positions):
    """Returns a key for each position, uint32 (positions, 2). Positions with one seed never have the same key.

    Args:
        seed: int32 (2,).
        positions: int32 (positions,).
    """
    words = tf.bitcast(tf.cast(seed, tf.int32), tf.uint32)
    positions = tf.bitcast(tf.cast(positions, tf.int32), tf.uint32)
    first = _mix(_mix(words[0] + _uint32(_GOLDEN_RATIO)) + words[1])
    second = _mix(_mix(words[1] + _uint32(0x85EBCA6B)) + words[0])
    return tf.stack([_mix(positions + first), _mix(_mix(positions ^ second) + first)], axis=-1)


def uniform(keys, step):
    """Returns a number in the open interval (0, 1) for each key, float32: an odd multiple of 2^-24.

    Args:
        keys: uint32 (rows, 2).
        step: int32 scalar.
    """
    counter = tf.bitcast(step, tf.uint32) * _uint32(_GOLDEN_RATIO)
    bits = _mix(_mix(keys[:, 0] + counter) ^ keys[:, 1])
    return (tf.cast(tf.bitwise.right_shift(bits, _uint32(9)), tf.float32) + 0.5) * 2.0**-23


def _mix(x):
    """Permutes the 32-bit integers such that each bit of the result depends on all bits of x: Wellons's lowbias32."""
    x = (x ^ tf.bitwise.right_shift(x, _uint32(16))) * _uint32(0x7FEB352D)
    x = (x ^ tf.bitwise.right_shift(x, _uint32(15))) * _uint32(0x846CA68B)
    return x ^ tf.bitwise.right_shift(x, _uint32(16))


def _uint32(value):
    return tf.constant(value, tf.uint32)

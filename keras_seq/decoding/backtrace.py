# SPDX-License-Identifier: Apache-2.0
"""Finds the best hypotheses in what a beam search recorded at each step."""

import math

from keras_seq._lazy_tensorflow import tf
from keras_seq.decoding.sampler import Hypotheses


def trace_back(records, attention_weights, steps, number):
    """Returns the best finished hypotheses of each source, `(Hypotheses, lengths)`.

    The cost is linear in the number of steps.

    Args:
        records: dict of tensors. `tokens`, `beams` and `log_probabilities` (time, sources, 2 * beams) describe first
            the continuations that lived on, in the order of the beams of the next step, then those that could end:
            their token, the beam that they continue, and the log-probability of the token. `scores` (time, sources,
            beams) are those of the latter, -inf if they did not end.
        attention_weights: float32 (time, sources, beams, positions), or None.
        steps: int32 (sources,), the number of steps of each source.
        number: number of hypotheses to return.
    """
    time, sources, beams = (tf.shape(records["scores"])[axis] for axis in range(3))
    is_valid = tf.range(time)[:, None] < steps
    scores = tf.where(is_valid[:, :, None], records["scores"], -math.inf)
    scores = tf.reshape(tf.transpose(scores, [1, 0, 2]), [sources, time * beams])
    count = tf.minimum(number, time * beams)
    scores, indices = tf.math.top_k(scores, count)
    ends, last_slots = indices // beams, beams + indices % beams  # (sources, n)
    slots = _trace_slots(records["beams"], ends, last_slots)  # (time, sources, n)

    def along(values):
        return tf.gather(values, slots, batch_dims=2)

    # With a limit of 0, the empty output is certain.
    scores = tf.where(tf.equal(steps, 0)[:, None] & tf.equal(tf.range(count), 0), 0.0, scores)
    lengths = tf.minimum(tf.where(scores > -math.inf, ends + 1, 0), steps[:, None])
    is_chosen = tf.range(time)[:, None, None] < lengths  # (time, sources, n)
    token_ids = tf.transpose(tf.where(is_chosen, along(records["tokens"]), 0), [1, 2, 0])
    sums = tf.reduce_sum(tf.where(is_chosen, along(records["log_probabilities"]), 0.0), axis=0)
    sums = tf.where(scores > -math.inf, sums, -math.inf)
    if attention_weights is not None:
        weights = tf.gather(attention_weights, along(records["beams"]), batch_dims=2)  # (time, sources, n, positions)
        attention_weights = tf.transpose(tf.where(is_chosen[..., None], weights, 0.0), [1, 2, 0, 3])
    return Hypotheses(token_ids, sums, scores, attention_weights), lengths


def _trace_slots(beams, ends, last_slots):
    """Returns where each hypothesis stands in the records of each step, int32 (time, sources, n); 0 after its end."""
    time = tf.shape(beams)[0]

    def trace(t, slots, trail):
        slots = tf.where(tf.equal(ends, t), last_slots, slots)
        return t - 1, tf.gather(beams[t], slots, batch_dims=1), trail.write(t, slots)

    trail = tf.TensorArray(tf.int32, size=time)
    loop = (time - 1, tf.zeros_like(ends), trail)
    invariants = (tf.TensorShape([]), tf.TensorShape([None, None]), None)
    return tf.while_loop(lambda t, *_: t >= 0, trace, loop, shape_invariants=invariants)[2].stack()


def drop_duplicates(results, number):
    """Returns the best `number` distinct hypotheses of `(Hypotheses, lengths)`, which are sorted. See `trace_back`."""
    hypotheses, lengths = results
    count, token_ids = tf.shape(lengths)[1], hypotheses.token_ids
    is_same = tf.reduce_all(tf.equal(token_ids[:, :, None], token_ids[:, None]), axis=-1)  # (sources, n, n)
    is_same &= tf.equal(lengths[:, :, None], lengths[:, None])
    is_earlier = tf.range(count) < tf.range(count)[:, None]
    is_repeated = tf.reduce_any(is_same & is_earlier, axis=-1)
    scores = tf.where(is_repeated, -math.inf, hypotheses.scores)
    _, order = tf.math.top_k(scores, tf.minimum(number, count))

    def pick(values, empty):
        if values is None:
            return None
        is_empty = tf.reshape(is_repeated, tf.concat([tf.shape(lengths), tf.ones(tf.rank(values) - 2, tf.int32)], 0))
        return tf.gather(tf.where(is_empty, tf.cast(empty, values.dtype), values), order, batch_dims=1)

    picked = (pick(values, empty) for values, empty in zip(hypotheses, (0, -math.inf, -math.inf, 0), strict=True))
    return Hypotheses(*picked), pick(lengths, 0)

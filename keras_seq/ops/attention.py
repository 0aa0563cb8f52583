# SPDX-License-Identifier: Apache-2.0
"""Attention as functions of tensors: energies, attention weights, contexts."""

from keras import backend, ops

from keras_seq.ops.equations.protocol import Tensor


def additive_energies(
    query: Tensor,  # (..., attention_units), projected
    keys: Tensor,  # (..., source, attention_units), projected
    score_vector: Tensor,  # (attention_units,)
) -> tuple[Tensor, Tensor]:  # (..., source), (..., source, attention_units)
    """Compute the energies of Bahdanau et al. (2015), `e_s = v . tanh(k_s + q)`, and `tanh(k_s + q)`."""
    hidden = ops.tanh(keys + ops.expand_dims(query, axis=-2))
    if len(query.shape) == 2:  # one step; see `weighted_sum`
        return ops.sum(ops.multiply(hidden, score_vector), axis=-1), hidden
    return ops.squeeze(ops.matmul(hidden, ops.expand_dims(score_vector, axis=-1)), axis=-1), hidden


def masked_softmax(
    energies: Tensor,  # (..., source)
    mask: Tensor | None = None,  # (..., source), 1 = keep
) -> Tensor:  # (..., source)
    """Compute the softmax over the positions that the mask keeps, and exactly 0 elsewhere. It may keep none."""
    if mask is not None:
        lowest = -6e4 if backend.standardize_dtype(energies.dtype) == "float16" else -1e30  # finite
        energies = ops.where(mask > 0, energies, lowest)
    # Keras's softmax warns about an axis of size 1.
    weights = ops.ones_like(energies) if energies.shape[-1] == 1 else ops.softmax(energies, axis=-1)
    return weights if mask is None else weights * mask


def weighted_sum(
    weights: Tensor,  # (batch, [time,] source)
    memory: Tensor,  # (batch, source, features)
) -> Tensor:  # (batch, [time,] features)
    """Compute the contexts `sum_s a_s m_s`."""
    if len(weights.shape) == 3:
        return ops.matmul(weights, memory)
    # One step. At (1, 20, 256) TensorFlow's matrix product takes 48 us and this 7; at (64, 30, 512) 135 and 175.
    return ops.sum(ops.multiply(ops.expand_dims(weights, axis=-1), memory), axis=1)


def monotonic_weights(
    energies: Tensor,  # (batch, source)
    previous: Tensor,  # (batch, source), the weights a' of the step before
    mask: Tensor | None = None,  # (batch, source), 1 = keep; the reader does not stop elsewhere
) -> Tensor:  # (batch, source)
    """Compute the probability that a reader who never turns back stops at each position (Raffel et al. 2017, eq. 10).

    The reader starts where it stopped before, looks at one position after the other, and stops at position j with
    probability `p_j = sigmoid(e_j)`: `a_j = p_j sum_{k <= j} a'_k prod_{k <= l < j} (1 - p_l)`. The weights sum to
    less than those of a' by the probability that the reader runs off the end.

    The paper divides running products, which gives 0 / 0 behind a certain stop. Here each product is the exponential
    of its own sum, which takes source * source numbers for each sequence.
    """
    dtype = energies.dtype
    energies = ops.cast(energies, backend.result_type(dtype, "float32"))  # long sums need the digits
    stop, log_pass = ops.sigmoid(energies), -ops.softplus(energies)
    if mask is not None:
        stop, log_pass = (ops.where(mask > 0, x, 0.0) for x in (stop, log_pass))
    before = ops.pad(log_pass[:, :-1], [[0, 0], [1, 0]])
    position = ops.arange(ops.shape(energies)[-1])
    k, j = position[:, None], position
    passed = ops.cumsum(ops.where(k < j, before[:, None], 0.0), axis=-1)  # (batch, k, j), the sum over k <= l < j
    reach = ops.where(k <= j, ops.exp(passed), 0.0)
    return ops.cast(stop * weighted_sum(ops.cast(previous, stop.dtype), reach), dtype)


def first_stop(
    energies: Tensor,  # (batch, source)
    previous: Tensor,  # (batch, source), the result of the step before
    mask: Tensor | None = None,  # (batch, source), 1 = keep
) -> Tensor:  # (batch, source)
    """Return 1 where the reader of `monotonic_weights` stops if it does wherever p > 1/2, and 0 elsewhere.

    The result is all 0 once the reader has run off the end.
    """
    stops = ops.logical_and(energies > 0, ops.cumsum(previous, axis=-1) > 0)
    if mask is not None:
        stops = ops.logical_and(stops, mask > 0)
    stops = ops.cast(stops, "int32")
    return ops.cast(stops * ops.cast(ops.cumsum(stops, axis=-1) == 1, "int32"), energies.dtype)

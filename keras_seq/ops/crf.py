# SPDX-License-Identifier: Apache-2.0
"""A linear-chain conditional random field (Lafferty et al. 2001) as functions of tensors.

Given the inputs, the tags of a sequence form a Markov chain. So the log-probabilities of each tag given the tag before
describe the field completely. One loop over time computes them; the functions below only read them.
"""

from keras import backend, ops

from keras_seq.ops.equations.protocol import Tensor
from keras_seq.ops.masks import as_bool_mask, check_step_mask
from keras_seq.ops.time_loop import time_loop


def crf_log_probabilities(
    scores: Tensor,  # (batch, time, tags)
    transitions: Tensor,  # (tags, tags)
    start: Tensor | None = None,  # (tags,)
    end: Tensor | None = None,  # (tags,)
    mask: Tensor | None = None,  # (batch, time)
) -> Tensor:  # (batch, time, tags, tags)
    """Computes the log-probability of each tag given the tag before, in a linear-chain conditional random field.

    The field gives a sequence of tags y the probability
    `p(y) = exp(start[y_1] + sum_t scores[t, y_t] + sum_t transitions[y_{t-1}, y_t] + end[y_T]) / Z`, where Z makes all
    sequences sum to 1. It equals the product of `p(y_t | y_{t-1})`, which are the results. Masked steps are left out:
    the step before is the last unmasked one.

    Args:
        scores: (batch, time, tags), the score of each tag by itself. Values at masked steps do not matter.
        transitions: (tags, tags), the score of each tag (column) after another (row).
        start: (tags,), the score of each tag as the first one, or None for zeros.
        end: (tags,), the score of each tag as the last one, or None for zeros.
        mask: (batch, time) booleans, True = keep, or None.

    Returns:
        `log p(y_t = j | y_{t-1} = i)` at [t, i, j], (batch, time, tags, tags), in float32 at least. At the first
        unmasked step it is the same for all i. Masked steps are zero. The other functions recognise them
        by that, because several tags cannot all have the probability 1.

    Example:
        >>> import numpy as np
        >>> scores, transitions = np.zeros((1, 2, 2)), np.log([[1.0, 3.0], [1.0, 1.0]])
        >>> np.exp(crf_log_probabilities(scores, transitions)[0, 1]).round(2).tolist()  # after the tags 0 and 1
        [[0.25, 0.75], [0.5, 0.5]]
    """
    scores = ops.convert_to_tensor(scores)
    dtype = backend.result_type(scores.dtype, "float32")
    scores, transitions, start, end = (
        x if x is None else ops.cast(x, dtype) for x in (scores, transitions, start, end)
    )
    mask = ops.ones(ops.shape(scores)[:2], "bool") if mask is None else as_bool_mask(mask)
    check_step_mask(scores, mask)
    scores = ops.where(ops.expand_dims(mask, axis=-1), scores, 0)  # NaN in a masked step must reach nothing
    if end is not None:
        scores = scores + ops.where(ops.expand_dims(_is_first(mask, reverse=True), axis=-1), end, 0)
    first = ops.zeros_like(transitions) if start is None else ops.broadcast_to(start, ops.shape(transitions))
    before = ops.where(ops.expand_dims(_is_first(mask), axis=(2, 3)), first, transitions)
    potentials = ops.expand_dims(scores, axis=2) + before  # (batch, time, tags, tags)
    futures = _future_scores(potentials, mask)
    return ops.where(ops.expand_dims(mask, axis=(2, 3)), _log_softmax(potentials + ops.expand_dims(futures, axis=2)), 0)


def _is_first(mask: Tensor, reverse: bool = False) -> Tensor:
    """Return where the first unmasked step of each sequence is, or with `reverse` the last one."""
    counts = ops.cast(ops.flip(mask, axis=1) if reverse else mask, "int32")
    is_first = ops.logical_and(counts > 0, ops.cumsum(counts, axis=1) == 1)
    return ops.flip(is_first, axis=1) if reverse else is_first


def _future_scores(
    potentials: Tensor,  # (batch, time, tags, tags)
    mask: Tensor,  # (batch, time) booleans
) -> Tensor:  # (batch, time, tags)
    """Compute the logarithm of the sum over all tags after each step: the backward algorithm.

    The results lack a constant in each step, so that they stay small in long sequences. Nothing that reads them depends
    on it. Autodiff finds the derivative: forward-backward by hand took as long, in a graph and under jit.
    """

    def step(future, slices):
        potential, visible = slices
        before = ops.logsumexp(potential + ops.expand_dims(future, axis=1), axis=-1)
        before = before - ops.expand_dims(ops.stop_gradient(_max(before, axis=-1)), axis=-1)
        return ops.where(visible, before, future), future

    sequences = _time_first(potentials), ops.expand_dims(_time_first(mask), axis=-1)
    return _batch_first(time_loop(step, _zeros(potentials), sequences, reverse=True)[1])


def crf_mask(
    log_probabilities: Tensor,  # (batch, time, tags, tags)
) -> Tensor:  # (batch, time) booleans
    """Returns which steps count, True = keep. With a single tag, these are all steps: its log-probabilities are zero.

    Args:
        log_probabilities: the result of `crf_log_probabilities`.
    """
    first_row = log_probabilities[:, :, 0]
    if first_row.shape[-1] == 1:
        return ops.ones(ops.shape(first_row)[:2], "bool")
    return ops.any(ops.not_equal(first_row, 0), axis=-1)


def crf_log_likelihood(
    log_probabilities: Tensor,  # (batch, time, tags, tags)
    tags: Tensor,  # (batch, time)
) -> Tensor:  # (batch, time)
    """Computes the log-probability of each tag of given sequences, given the true tag before.

    The sum over time is the log-probability of the sequence.

    Args:
        log_probabilities: the result of `crf_log_probabilities`.
        tags: integers (batch, time), the true tags. Those of masked steps do not matter.

    Returns:
        (batch, time), zero at masked steps. NaN at a tag that does not exist, and at the step after it.

    Example:
        >>> import numpy as np
        >>> log_probabilities = crf_log_probabilities(np.zeros((1, 3, 2)), np.zeros((2, 2)))
        >>> np.exp(crf_log_likelihood(log_probabilities, np.array([[0, 1, 1]]))).tolist()
        [[0.5, 0.5, 0.5]]
    """
    mask, size = crf_mask(log_probabilities), log_probabilities.shape[-1]
    tags = ops.where(mask, ops.cast(tags, "int32"), 0)
    before = _previous(tags, mask)
    exists = ops.logical_and(ops.minimum(before, tags) >= 0, ops.maximum(before, tags) < size)
    pairs = ops.where(exists, before * size + tags, 0)  # the number of a pair with another tag is that of a wrong pair
    batch, time = ops.shape(log_probabilities)[:2]
    flat = ops.reshape(log_probabilities, (batch, time, size * size))
    chosen = ops.squeeze(ops.take_along_axis(flat, ops.expand_dims(pairs, axis=-1), axis=-1), axis=-1)
    return ops.where(ops.logical_or(exists, ops.logical_not(mask)), chosen, float("nan"))


def crf_decode(
    log_probabilities: Tensor,  # (batch, time, tags, tags)
) -> tuple[Tensor, Tensor]:  # (batch, time), (batch,)
    """Finds the most likely tags of each sequence (Viterbi 1967).

    Args:
        log_probabilities: the result of `crf_log_probabilities`.

    Returns:
        `(tags, log_probability)`: int32 (batch, time), 0 at masked steps, and the log-probability of the whole
        sequence (batch,).

    Example:
        >>> import numpy as np
        >>> scores = np.log([[[3.0, 1.0], [1.0, 1.0]]])
        >>> tags, log_probability = crf_decode(crf_log_probabilities(scores, np.log([[3.0, 1.0], [1.0, 3.0]])))
        >>> np.asarray(tags).tolist(), np.exp(log_probability).round(4).tolist()  # 3 * 3 of 3 * (3 + 1) + 1 + 3
        ([[0, 0]], [0.5625])
    """
    log_probabilities = ops.convert_to_tensor(log_probabilities)
    visible = ops.expand_dims(_time_first(crf_mask(log_probabilities)), axis=-1)

    def forward(carry, slices):
        (best, total), (log_probability, visible) = carry, slices
        candidates = ops.expand_dims(best, axis=-1) + log_probability
        new = _max(candidates, axis=1)
        # Summed apart, so that the others stay small and exact in long sequences.
        largest = ops.expand_dims(_max(new, axis=-1), axis=-1)
        carry = ops.where(visible, new - largest, best), ops.where(visible, total + largest, total)
        return carry, ops.cast(ops.argmax(candidates, axis=1), "int32")

    sequences = _time_first(log_probabilities), visible
    zeros = _zeros(log_probabilities)
    (best, total), origins = time_loop(forward, (zeros, zeros[:, :1]), sequences)  # origins: the tag before each tag

    def backward(tag, slices):
        origin, visible = slices
        return ops.where(visible, ops.take_along_axis(origin, tag, axis=1), tag), ops.where(visible, tag, 0)

    last = ops.cast(ops.argmax(best, axis=-1, keepdims=True), "int32")
    _, tags = time_loop(backward, last, (origins, visible), reverse=True)
    return ops.transpose(tags[:, :, 0]), total[:, 0]


def crf_marginals(
    log_probabilities: Tensor,  # (batch, time, tags, tags)
) -> Tensor:  # (batch, time, tags)
    """Computes the probability of each tag at each step.

    Args:
        log_probabilities: the result of `crf_log_probabilities`.

    Returns:
        (batch, time, tags). They sum to 1 over the tags, or are zero at masked steps.

    Example:
        >>> import numpy as np
        >>> scores = np.log([[[3.0, 1.0], [1.0, 1.0]]])
        >>> crf_marginals(crf_log_probabilities(scores, np.zeros((2, 2)))).numpy().round(2).tolist()
        [[[0.75, 0.25], [0.5, 0.5]]]
    """
    log_probabilities = ops.convert_to_tensor(log_probabilities)
    visible = ops.expand_dims(_time_first(crf_mask(log_probabilities)), axis=-1)

    def step(probabilities, slices):
        conditionals, visible = slices
        new = ops.sum(ops.expand_dims(probabilities, axis=-1) * conditionals, axis=1)
        return ops.where(visible, new, probabilities), ops.where(visible, new, 0)

    # Before the first step any distribution serves: all rows are equal there.
    uniform = _zeros(log_probabilities) + 1 / log_probabilities.shape[-1]
    _, marginals = time_loop(step, uniform, (ops.exp(_time_first(log_probabilities)), visible))
    return _batch_first(marginals)


def _previous(
    tags: Tensor,  # (batch, time)
    mask: Tensor,  # (batch, time) booleans
) -> Tensor:  # (batch, time)
    """Return the tag of the last unmasked step before each unmasked step, and any tag elsewhere."""
    time = ops.shape(tags)[1]
    # Sorted, the unmasked steps come first, in their order.
    order = ops.argsort(ops.where(mask, 0, time) + ops.arange(time), axis=1)
    ranks = ops.cumsum(ops.cast(mask, "int32"), axis=1)  # counted from 1
    return ops.take_along_axis(ops.take_along_axis(tags, order, axis=1), ops.maximum(ranks - 2, 0), axis=1)


def _log_softmax(x: Tensor) -> Tensor:
    # Keras's own warns about a single tag. The largest is subtracted first: beside -1e30, log(tags) would be lost, and
    # a tag that all others exclude in this way would make its step look masked.
    x = x - ops.expand_dims(ops.stop_gradient(_max(x, axis=-1)), axis=-1)
    return x - ops.log(ops.sum(ops.exp(x), axis=-1, keepdims=True))


def _max(x: Tensor, axis: int) -> Tensor:
    return ops.max(
        x, axis=axis, initial=-float("inf")
    )  # without it Keras asserts that there are numbers: no empty batch


def _zeros(log_probabilities: Tensor) -> Tensor:
    """Return zeros (batch, tags)."""
    return ops.zeros((ops.shape(log_probabilities)[0], log_probabilities.shape[-1]), log_probabilities.dtype)


def _time_first(x: Tensor) -> Tensor:
    return ops.swapaxes(x, 0, 1)


_batch_first = _time_first

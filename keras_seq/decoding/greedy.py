# SPDX-License-Identifier: Apache-2.0
"""Greedy search: take the likeliest token at each step."""

from typing import NamedTuple

from keras import ops, tree


class Hypotheses(NamedTuple):
    """What a search found, one hypothesis a sequence."""

    token_ids: object  # (batch, time) int32, closed by the end token where it was reached, then 0
    log_probabilities: object  # (batch,) float32, the natural logarithm, of the whole sequence
    attention_weights: object  # (batch, time, source), 0 after the end


def greedy_search(step, state, first_tokens, limits, *, end_id, forbidden_ids=()):
    """Decode a batch in one loop of the graph, until each sequence has ended or has met its limit.

    Args:
        step: function `(token_ids, state) -> (logits, state, attention_weights)`, token_ids (batch,), logits (batch,
            vocabulary), attention_weights (batch, source), where the source may be 0 long.
        state: nested tensors (batch, ...): what `step` starts from.
        first_tokens: (batch,) int32, the first input of `step`.
        limits: (batch,) int32, the most tokens of each sequence, the end token counted.
        end_id: the token that ends a sequence.
        forbidden_ids: tokens that are never chosen.

    Returns:
        `Hypotheses`. One sequence does not depend on what else is in the batch.
    """
    batch, limit = ops.shape(first_tokens)[0], ops.max(limits, initial=0)
    positions = ops.arange(limit, dtype="int32")[None]  # (1, limit)
    logits, _, weights = step(first_tokens, state)  # for its shapes: the graph drops it
    allowed = _allowed(logits.shape[-1], forbidden_ids)
    ids = ops.zeros((batch, limit), "int32")
    attention_weights = ops.zeros((batch, limit, ops.shape(weights)[-1]), weights.dtype)
    scores = ops.zeros((batch,), "float32")

    def unfinished(t, tokens, finished, *_):
        return ops.logical_and(t < limit, ops.logical_not(ops.all(finished)))

    def body(t, tokens, finished, ids, scores, attention_weights, *flat_state):
        logits, new_state, weights = step(tokens, tree.pack_sequence_as(state, flat_state))
        log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)  # (batch, vocabulary)
        tokens = ops.cast(ops.argmax(ops.where(allowed, log_probabilities, -1e30), axis=-1), "int32")
        chosen = ops.take_along_axis(log_probabilities, tokens[:, None], axis=-1)[:, 0]
        scores = scores + ops.where(finished, 0.0, chosen)
        tokens = ops.where(finished, 0, tokens)
        here = positions == t  # (1, limit)
        ids = ops.where(here, tokens[:, None], ids)
        written = ops.logical_and(here, ops.logical_not(finished[:, None]))  # (batch, limit)
        attention_weights = ops.where(written[:, :, None], weights[:, None], attention_weights)
        finished = finished | (tokens == end_id) | (t + 1 >= limits)
        return (t + 1, tokens, finished, ids, scores, attention_weights, *tree.flatten(new_state))

    start = (ops.convert_to_tensor(0), first_tokens, limits <= 0, ids, scores, attention_weights)
    steps, _, _, ids, scores, attention_weights, *_ = ops.while_loop(unfinished, body, (*start, *tree.flatten(state)))
    return Hypotheses(ids[:, :steps], scores, attention_weights[:, :steps])


def _allowed(vocabulary_size, forbidden_ids):
    """(1, vocabulary) booleans."""
    return ops.convert_to_tensor([[token not in forbidden_ids for token in range(vocabulary_size)]])

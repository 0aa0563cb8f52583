# SPDX-License-Identifier: Apache-2.0
"""Greedy search: take the most likely token at each step."""

from typing import NamedTuple

from keras import ops, tree


class Hypotheses(NamedTuple):
    """The results of a search, one hypothesis per sequence."""

    token_ids: object  # (batch, time) int32, with the end token if it was reached, then 0
    log_probabilities: object  # (batch,) float32, natural logarithm of the probability of the whole sequence
    attention_weights: object  # (batch, time, source), 0 after the end


def greedy_search(step, state, first_tokens, limits, *, end_id, forbidden_ids=()):
    """Decodes a batch in one loop of the graph, until every sequence has ended or reached its limit.

    Args:
        step: function `(token_ids, state) -> (logits, state, attention_weights)` with token_ids of shape (batch,),
            logits (batch, vocabulary) and attention_weights (batch, source). The source may have length 0.
        state: nested tensors (batch, ...), the first state of `step`.
        first_tokens: int32 tensor (batch,), the first input of `step`.
        limits: int32 tensor (batch,), maximum number of tokens of each sequence, including the end token.
        end_id: id of the token that ends a sequence.
        forbidden_ids: ids of tokens that are never chosen.

    Returns:
        `Hypotheses`. A sequence does not depend on the others in the batch.
    """
    batch, max_steps = ops.shape(first_tokens)[0], ops.max(limits, initial=0)
    positions = ops.arange(max_steps, dtype="int32")[None]  # (1, max_steps)
    logits, _, step_weights = step(first_tokens, state)  # only its shapes are used: the graph drops the values
    allowed = _allowed_tokens(logits.shape[-1], forbidden_ids)
    ids = ops.zeros((batch, max_steps), "int32")
    attention_weights = ops.zeros((batch, max_steps, ops.shape(step_weights)[-1]), step_weights.dtype)
    scores = ops.zeros((batch,), "float32")

    def is_unfinished(t, tokens, finished, *_):
        return ops.logical_and(t < max_steps, ops.logical_not(ops.all(finished)))

    def body(t, tokens, finished, ids, scores, attention_weights, *flat_state):
        logits, new_state, step_weights = step(tokens, tree.pack_sequence_as(state, flat_state))
        log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)  # (batch, vocabulary)
        tokens = ops.cast(ops.argmax(ops.where(allowed, log_probabilities, -1e30), axis=-1), "int32")
        token_scores = ops.take_along_axis(log_probabilities, tokens[:, None], axis=-1)[:, 0]
        scores = scores + ops.where(finished, 0.0, token_scores)
        tokens = ops.where(finished, 0, tokens)
        is_current = positions == t  # (1, max_steps)
        ids = ops.where(is_current, tokens[:, None], ids)
        is_written = ops.logical_and(is_current, ops.logical_not(finished[:, None]))  # (batch, max_steps)
        attention_weights = ops.where(is_written[:, :, None], step_weights[:, None], attention_weights)
        finished = finished | (tokens == end_id) | (t + 1 >= limits)
        return (t + 1, tokens, finished, ids, scores, attention_weights, *tree.flatten(new_state))

    initial = (ops.convert_to_tensor(0), first_tokens, limits <= 0, ids, scores, attention_weights)
    final = ops.while_loop(is_unfinished, body, (*initial, *tree.flatten(state)))
    steps, _, _, ids, scores, attention_weights, *_ = final
    return Hypotheses(ids[:, :steps], scores, attention_weights[:, :steps])


def _allowed_tokens(vocabulary_size, forbidden_ids):
    """Booleans (1, vocabulary), False for the forbidden ids."""
    return ops.convert_to_tensor([[token not in forbidden_ids for token in range(vocabulary_size)]])

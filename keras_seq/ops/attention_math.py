# SPDX-License-Identifier: Apache-2.0
"""Attention, and a recurrence that attends before each step: equations and derivatives, as in `cell_math`."""

import dataclasses
from typing import NamedTuple

from keras import ops

from keras_seq.ops.cell_math import RecurrentWeights, contract_time


class AttentionWeights(NamedTuple):
    """What every step of an attention decoder reads beside its inputs."""

    cell: RecurrentWeights
    context_kernel: object  # (memory_units, gates * units), the rows of the input kernel that meet the context
    query_kernel: object  # (units, attention_units)
    score_vector: object  # (attention_units,)
    keys: object  # (batch, source, attention_units), the memory times the key kernel
    memory: object  # (batch, source, memory_units)
    memory_mask: object = None  # (batch, source), 1 = keep, of the memory's dtype


def additive_energies(query, keys, score_vector):
    """The scores of Bahdanau et al. (2015): `e_s = v . tanh(k_s + q)`.

    Args:
        query: (..., attention_units), projected.
        keys: (..., source, attention_units), projected.
        score_vector: (attention_units,).

    Returns:
        The energies (..., source), and `tanh(k_s + q)` (..., source, attention_units).
    """
    hidden = ops.tanh(keys + ops.expand_dims(query, axis=-2))
    return ops.squeeze(ops.matmul(hidden, ops.expand_dims(score_vector, axis=-1)), axis=-1), hidden


def masked_softmax(energies, mask=None):
    """Softmax over the last axis where `mask` is 1, and exactly 0 elsewhere; all 0 where nothing is left."""
    if mask is None and energies.shape[-1] != 1:  # of a single position, Keras's softmax warns
        return ops.softmax(energies, axis=-1)
    kept = ops.ones_like(energies, "bool") if mask is None else mask > 0
    # The floor keeps the peak of a fully masked row finite; the inner `where` keeps its exponentials so.
    peak = ops.stop_gradient(ops.max(ops.where(kept, energies, -1e9), axis=-1, keepdims=True))
    weights = ops.where(kept, ops.exp(ops.where(kept, energies - peak, 0.0)), 0.0)
    total = ops.sum(weights, axis=-1, keepdims=True)
    return weights / ops.where(total > 0, total, 1.0)


@dataclasses.dataclass(frozen=True)
class AdditiveAttention:
    """A cell that looks at a memory before each step (Bahdanau, Cho & Bengio 2015).

    `a = softmax(v . tanh(k + h W_q))`, `context = sum_s a_s m_s`, then the cell on `x + context W_c`. Emits `a`
    (batch, source). The derivative computes `tanh(k + q)` again, so that memory does not grow with
    target * source * units.
    """

    cell: object

    @property
    def gates(self):
        return self.cell.gates

    @property
    def states(self):
        return self.cell.states

    @property
    def differentiable(self):
        return self.cell.differentiable

    def project(self, inputs, kernel, bias, weights):
        return self.cell.project(inputs, kernel, bias, weights.cell)

    def state_sizes(self, units):
        return self.cell.state_sizes(units)

    def prepare(self, weights):
        return weights._replace(cell=self.cell.prepare(weights.cell))

    def step(self, inputs, state, weights):
        query = ops.matmul(state[0], weights.query_kernel)
        energies, _ = additive_energies(query, weights.keys, weights.score_vector)
        alignment = masked_softmax(energies, weights.memory_mask)
        context = _attend(alignment, weights.memory)
        state, _, residuals = self.cell.step(inputs + ops.matmul(context, weights.context_kernel), state, weights.cell)
        return state, (alignment,), (query, *residuals)

    def prepare_backward(self, weights):
        return weights._replace(
            cell=self.cell.prepare_backward(weights.cell),
            context_kernel=ops.transpose(weights.context_kernel),
            query_kernel=ops.transpose(weights.query_kernel),
        )

    def dropout_mask(self, weights):
        return self.cell.dropout_mask(weights.cell)

    def with_dropout_mask(self, weights, mask):
        return weights._replace(cell=self.cell.with_dropout_mask(weights.cell, mask))

    def zero_sums(self, weights):
        return ops.zeros_like(weights.keys), ops.zeros_like(weights.score_vector)

    def coefficients(self, trace, weights):
        query, *residuals = trace.residuals
        inner = self.cell.coefficients(trace._replace(residuals=residuals), weights.cell)
        return inner, query, *trace.emitted

    def step_backward(self, d_state, d_emitted, coefficients, weights, sums):
        (inner, query, alignment), (d_alignment,) = coefficients, d_emitted
        d_inputs, d_previous, _, _ = self.cell.step_backward(d_state, (), inner, weights.cell, ())
        d_context = ops.matmul(d_inputs, weights.context_kernel)  # (batch, memory_units)
        d_alignment = d_alignment + ops.squeeze(ops.matmul(weights.memory, d_context[:, :, None]), axis=-1)
        centre = ops.sum(alignment * d_alignment, axis=-1, keepdims=True)
        d_energies = alignment * (d_alignment - centre)  # (batch, source)

        _, hidden = additive_energies(query, weights.keys, weights.score_vector)
        d_score = ops.einsum("bs,bsa->a", d_energies, hidden)
        d_hidden = d_energies[:, :, None] * (weights.score_vector * (1 - hidden * hidden))
        d_query = ops.sum(d_hidden, axis=1)  # (batch, attention_units)

        d_previous = (d_previous[0] + ops.matmul(d_query, weights.query_kernel), *d_previous[1:])
        d_keys, d_score_vector = sums
        return d_inputs, d_previous, (d_query, d_context), (d_keys + d_hidden, d_score_vector + d_score)

    def weight_gradients(self, trace, d_inputs, kept, sums, weights):
        d_query, d_context = kept
        d_keys, d_score_vector = sums
        (alignment,) = trace.emitted  # (time, batch, source)
        trace = trace._replace(residuals=trace.residuals[1:])
        context = ops.einsum("tbs,bsd->tbd", alignment, weights.memory)
        return AttentionWeights(
            cell=self.cell.weight_gradients(trace, d_inputs, (), (), weights.cell),
            context_kernel=contract_time(context, d_inputs),
            query_kernel=contract_time(trace.previous[0], d_query),
            score_vector=d_score_vector,
            keys=d_keys,
            memory=ops.einsum("tbs,tbd->bsd", alignment, d_context),
        )


def _attend(alignment, memory):
    """The context `sum_s a_s m_s`: (batch, source), (batch, source, memory_units) -> (batch, memory_units)."""
    return ops.squeeze(ops.matmul(ops.expand_dims(alignment, axis=1), memory), axis=1)

# SPDX-License-Identifier: Apache-2.0
"""Attention, and recurrences that attend in each step: equations and derivatives, as in `cell_equations`."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from keras import backend, ops

from keras_seq.ops.cell_equations import RecurrentWeights, contract_time, zone_out


class AttentionWeights(NamedTuple):
    """What every step of an attention decoder reads beside its inputs."""

    cell: RecurrentWeights
    context_kernel: object  # (memory_units, gates * units), the rows of the input kernel that meet what is fed
    query_kernel: object  # (units, attention_units); None in `AnyAttentionEquations`, whose `attend` has its own
    score_vector: object  # (attention_units,), likewise
    keys: object  # (batch, source, attention_units), the projected memory
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
    if len(query.shape) == 2:  # of one step; as in `attend`
        return ops.sum(ops.multiply(hidden, score_vector), axis=-1), hidden
    return ops.squeeze(ops.matmul(hidden, ops.expand_dims(score_vector, axis=-1)), axis=-1), hidden


def masked_softmax(energies, mask=None):
    """Softmax over the last axis where `mask` is 1, and exactly 0 elsewhere; all 0 where nothing is left."""
    if mask is not None:
        lowest = -6e4 if backend.standardize_dtype(energies.dtype) == "float16" else -1e30  # finite
        energies = ops.where(mask > 0, energies, lowest)
    # Of a single position Keras's softmax warns.
    weights = ops.ones_like(energies) if energies.shape[-1] == 1 else ops.softmax(energies, axis=-1)
    return weights if mask is None else weights * mask


def attend(weights, memory):
    """The contexts `sum_s a_s m_s`: (batch, [time,] source), (batch, source, features) -> (batch, [time,] features)."""
    if len(weights.shape) == 3:
        return ops.matmul(weights, memory)
    # Of one step. TensorFlow's product takes 48 us for (1, 20, 256) where this takes 7; for (64, 30, 512) 135 and 175.
    return ops.sum(ops.multiply(ops.expand_dims(weights, axis=-1), memory), axis=1)


def monotonic_weights(energies, previous, mask=None):
    """Where a reader that never turns back stops, by expectation (Raffel et al. 2017, equation 10).

    From where it stopped before, it looks at one position after the other and stops at each with probability
    `p_j = sigmoid(e_j)`: `a_j = p_j sum_{k <= j} a'_k prod_{k <= l < j} (1 - p_l)`. Each product is the exponential of
    a sum of its own, for a quotient of running products, as in the paper, is 0 / 0 behind a certain stop; so it takes
    source * source numbers a sequence.

    Args:
        energies: (batch, source).
        previous: a', (batch, source).
        mask: (batch, source), 1 = keep; the reader does not stop elsewhere.

    Returns:
        a, (batch, source), whose sum is less than that of a' by the probability that the reader runs off the end.
    """
    dtype = energies.dtype
    energies = ops.cast(energies, backend.result_type(dtype, "float32"))  # sums want digits
    stop, log_pass = ops.sigmoid(energies), -ops.softplus(energies)
    if mask is not None:
        stop, log_pass = (ops.where(mask > 0, x, 0.0) for x in (stop, log_pass))
    before = ops.pad(log_pass[:, :-1], [[0, 0], [1, 0]])
    position = ops.arange(ops.shape(energies)[-1])
    k, j = position[:, None], position
    passed = ops.cumsum(ops.where(k < j, before[:, None], 0.0), axis=-1)  # (batch, k, j), the sum over k <= l < j
    reach = ops.where(k <= j, ops.exp(passed), 0.0)
    return ops.cast(stop * attend(ops.cast(previous, stop.dtype), reach), dtype)


def first_stop(energies, previous, mask=None):
    """Where the reader of `monotonic_weights` stops if it does wherever p > 1/2: 1 there, else 0.

    All 0 once it has run off the end.
    """
    stops = ops.logical_and(energies > 0, ops.cumsum(previous, axis=-1) > 0)
    if mask is not None:
        stops = ops.logical_and(stops, mask > 0)
    stops = ops.cast(stops, "int32")
    return ops.cast(stops * ops.cast(ops.cumsum(stops, axis=-1) == 1, "int32"), energies.dtype)


@dataclasses.dataclass(frozen=True)
class _AttentionEquations:
    """A recurrence around that of `cell`, which attends in each step."""

    cell: object

    fed = None  # how many features enter the cell beside the inputs; None: as many as the memory has
    leading = 0  # how many of its own states come before those of the cell

    @property
    def gates(self):
        return self.cell.gates

    @property
    def states(self):
        return self.cell.states

    def project(self, inputs, kernel, bias, weights):
        return self.cell.project(inputs, kernel, bias, weights.cell)

    def state_sizes(self, units):
        return self.cell.state_sizes(units)

    def prepare(self, weights):
        return weights._replace(cell=self.cell.prepare(weights.cell))

    def dropout_mask(self, weights):
        return self.cell.dropout_mask(weights.cell)

    def with_dropout_mask(self, weights, mask):
        return weights._replace(cell=self.cell.with_dropout_mask(weights.cell, mask))


@dataclasses.dataclass(frozen=True)
class AdditiveAttentionEquations(_AttentionEquations):
    """A cell that looks at a memory before each step (Bahdanau, Cho & Bengio 2015).

    `a = softmax(v . tanh(k + h W_q))`, `context = sum_s a_s m_s`, then the cell on `x + context W_c`. Emits `a`
    (batch, source). The derivative computes `tanh(k + q)` again, so that memory does not grow with
    target * source * units.
    """

    @property
    def differentiable(self):
        return self.cell.differentiable

    def step(self, inputs, state, weights):
        query = ops.matmul(state[0], weights.query_kernel)
        energies, _ = additive_energies(query, weights.keys, weights.score_vector)
        attention_weights = masked_softmax(energies, weights.memory_mask)
        context = attend(attention_weights, weights.memory)
        state, _, residuals = self.cell.step(inputs + ops.matmul(context, weights.context_kernel), state, weights.cell)
        return state, (attention_weights,), (query, *residuals)

    def prepare_backward(self, weights):
        return weights._replace(
            cell=self.cell.prepare_backward(weights.cell),
            context_kernel=ops.transpose(weights.context_kernel),
            query_kernel=ops.transpose(weights.query_kernel),
        )

    def zero_sums(self, weights):
        return ops.zeros_like(weights.keys), ops.zeros_like(weights.score_vector)

    def coefficients(self, trace, weights):
        query, *residuals = trace.residuals
        inner = self.cell.coefficients(trace._replace(residuals=residuals), weights.cell)
        return inner, query, *trace.emitted

    def step_backward(self, d_state, d_emitted, coefficients, weights, sums):
        (inner, query, attention_weights), (d_attention_weights,) = coefficients, d_emitted
        d_inputs, d_previous, kept, _ = self.cell.step_backward(d_state, (), inner, weights.cell, ())
        d_context = ops.matmul(d_inputs, weights.context_kernel)  # (batch, memory_units)
        d_attention_weights = d_attention_weights + ops.squeeze(
            ops.matmul(weights.memory, d_context[:, :, None]), axis=-1
        )
        centre = ops.sum(attention_weights * d_attention_weights, axis=-1, keepdims=True)
        d_energies = attention_weights * (d_attention_weights - centre)  # (batch, source)

        _, hidden = additive_energies(query, weights.keys, weights.score_vector)
        d_score = ops.einsum("bs,bsa->a", d_energies, hidden)
        d_hidden = d_energies[:, :, None] * (weights.score_vector * (1 - hidden * hidden))
        d_query = ops.sum(d_hidden, axis=1)  # (batch, attention_units)

        d_previous = (d_previous[0] + ops.matmul(d_query, weights.query_kernel), *d_previous[1:])
        d_keys, d_score_vector = sums
        return d_inputs, d_previous, (d_query, d_context, kept), (d_keys + d_hidden, d_score_vector + d_score)

    def weight_gradients(self, trace, d_inputs, kept, sums, weights):
        d_query, d_context, kept_of_cell = kept
        d_keys, d_score_vector = sums
        (attention_weights,) = trace.emitted  # (time, batch, source)
        trace = trace._replace(residuals=trace.residuals[1:])
        context = ops.einsum("tbs,bsd->tbd", attention_weights, weights.memory)
        return AttentionWeights(
            cell=self.cell.weight_gradients(trace, d_inputs, kept_of_cell, (), weights.cell),
            context_kernel=contract_time(context, d_inputs),
            query_kernel=contract_time(trace.previous[0], d_query),
            score_vector=d_score_vector,
            keys=d_keys,
            memory=ops.einsum("tbs,tbd->bsd", attention_weights, d_context),
        )


@dataclasses.dataclass(frozen=True)
class AnyAttentionEquations(_AttentionEquations):
    """A cell that looks at a memory before each step, by any attention. Automatic differentiation finds its derivative.

    Its states are those of the cell, then those of the attention. What the attention draws comes with the inputs, after
    them. Without a context kernel nothing has projected the inputs, and the cell's step takes the pair (x, context).
    """

    attend: Callable  # as of `layers.attention.AttentionMechanism`
    attention_states: int  # how many states the attention has
    width: int  # of the inputs of the cell
    query: int = 0  # which state of the cell asks

    differentiable = False

    @property
    def states(self):
        return self.cell.states + self.attention_states

    def step(self, inputs, state, weights):
        inputs, drawn = inputs[..., : self.width], inputs[..., self.width :]
        cell_state, attention_state = state[: self.cell.states], state[self.cell.states :]
        context, attention_weights, attention_state = self.attend(
            cell_state[self.query],
            weights.memory,
            weights.keys,
            weights.memory_mask,
            attention_state,
            drawn if drawn.shape[-1] != 0 else None,
        )
        if weights.context_kernel is None:
            inputs = inputs, context
        else:
            inputs = inputs + ops.matmul(context, weights.context_kernel)
        cell_state, _, _ = self.cell.step(inputs, cell_state, weights.cell)
        return (*cell_state, *attention_state), (attention_weights,), ()


@dataclasses.dataclass(frozen=True)
class InputFeedingEquations(_AttentionEquations):
    """A cell that looks at a memory after each step and feeds its output to the next one (Luong et al. 2015).

    `h_t = cell([x_t, o_{t-1}])`, then `o_t = attend(h_t)`; of o the last `fed` features enter the cell. Automatic
    differentiation finds the derivative. Its states are o, those of the cell, then those of the attention. The inputs
    are followed by the zoneout masks of the cell, which act before the attention, and by what the attention draws.
    """

    attend: Callable  # of h and the rest as in `AnyAttentionEquations`, to an output in the place of the context
    attention_states: int  # how many states the attention has
    width: int  # of the inputs of the cell
    fed: int
    zoneout: tuple = ()  # the width of each state's zoneout mask, 0 where it has none

    differentiable = False
    leading = 1

    @property
    def states(self):
        return 1 + self.cell.states + self.attention_states

    def step(self, inputs, state, weights):
        inputs, *masks, drawn = _cut(inputs, (self.width, *self.zoneout))
        output, *cell_state = state[: 1 + self.cell.states]
        fed = output[..., output.shape[-1] - self.fed :]
        kernel = weights.context_kernel
        inputs = (inputs, fed) if kernel is None else inputs + ops.matmul(fed, kernel)
        new_state, _, _ = self.cell.step(inputs, tuple(cell_state), weights.cell)
        new_state = zone_out(masks, cell_state, new_state) if masks else new_state
        output, attention_weights, attention_state = self.attend(
            new_state[0],
            weights.memory,
            weights.keys,
            weights.memory_mask,
            state[1 + self.cell.states :],
            drawn,
        )
        return (output, *new_state, *attention_state), (attention_weights,), ()


def _cut(inputs, widths):
    """The last axis in parts of these widths, and the rest of it; None where a part has no width."""
    parts, start = [], 0
    for width in widths:
        parts.append(inputs[..., start : start + width] if width else None)
        start += width
    rest = inputs[..., start:]
    return [*parts, rest if rest.shape[-1] != 0 else None]

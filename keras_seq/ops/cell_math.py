# SPDX-License-Identifier: Apache-2.0
"""One step of each recurrence, and its derivative: the only Python home of each equation.

A recurrence is an object with a few functions of tensors. `scan.py` runs them over time; the layers and the search
run `step` alone.

- `project(inputs, weights)`: the input product of all steps, before the loop.
- `state_sizes(units)`: the size of each state.
- `prepare(weights)`, `prepare_backward(weights)`: what every step reads, computed once before the loop.
- `step(inputs, state, prepared)` returns the new state, the tensors it emits beside it, and the residuals: what the
  derivative needs that cannot be had from states and emitted tensors.
- `dropout_mask(weights)`, `with_dropout_mask(weights, mask)`: the mask among the weights, and the weights, or what
  `prepare` and `prepare_backward` made of them, with another one.
- `coefficients(trace, weights)`, over all steps at once: the numbers by which the derivative of a step multiplies.
- `step_backward(d_state, d_emitted, coefficients, prepared, sums)` is the transpose of the derivative of `step`. It
  returns the gradients of the inputs and of the previous state, whatever `weight_gradients` needs of this step, and
  the running sums with this step added.
- `weight_gradients(trace, d_inputs, kept, sums, weights)` comes after the loop, over all steps at once.

Shapes: the `inputs` of a step (batch, gates * units) are projected already; each state is (batch, units). In
`coefficients` and `weight_gradients` everything has a leading time axis.

A recurrence whose `differentiable` is false has no derivative here; automatic differentiation finds it.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from keras import activations, ops

# dy/dx of each activation as a function of its value y: what lets the backward pass do without x.
_SLOPES = {
    activations.linear: ops.ones_like,
    activations.relu: lambda y: ops.cast(y > 0, y.dtype),
    activations.sigmoid: lambda y: y * (1 - y),
    activations.tanh: lambda y: 1 - y * y,
}


class RecurrentWeights(NamedTuple):
    """What multiplies the previous output in every step."""

    kernel: object  # (units, gates * units)
    bias: object = None  # (gates * units,), only the GRU with reset_after has one
    # Scaled by 1 / (1 - rate): (batch, units), one a sequence, or over a scan (time, batch, units), one a step.
    dropout_mask: object = None
    further: object = None  # a dict of tensors, of the cells that have more; each names its own


class Trace(NamedTuple):
    """All steps of the forward pass, each tensor with a leading time axis."""

    previous: tuple  # the state before
    state: tuple  # the state after
    candidate: tuple  # the state that `step` returned, before zoneout; `state` itself where there is no zoneout
    emitted: tuple
    residuals: tuple


def has_slope(*functions):
    """Whether the hand-written derivatives cover these activations."""
    return all(function in _SLOPES for function in functions)


def _slope(activation, value):
    return _SLOPES[activation](value)


def _drop(hidden, mask):
    return hidden if mask is None else hidden * mask


def _through_kernel(d_product, weights):
    """The gradient of the previous output by its product with the kernel, which comes transposed."""
    return _drop(ops.matmul(d_product, weights.kernel), weights.dropout_mask)


def zone_out(masks, state, candidate):
    """Zoneout (Krueger et al. 2017) of each state: `m s_{t-1} + (1 - m) s~_t`, where its mask m is not None."""
    return tuple(
        new if m is None else m * old + (1 - m) * new for m, old, new in zip(masks, state, candidate, strict=True)
    )


def contract_time(a, b):
    """The weight gradient `sum_t a_t' b_t` of (time, batch, i) and (time, batch, j), as one matrix product."""
    a = ops.reshape(a, (-1, a.shape[-1]))
    b = ops.reshape(b, (-1, b.shape[-1]))
    return ops.matmul(ops.transpose(a), b)


def _add_bias(projected, bias):
    return projected if bias is None else projected + bias


class _Recurrence:
    """What the classic cells share: one recurrent kernel, one product with it a step."""

    def split_bias(self, bias):
        """The bias of the input product and that of the recurrent product, or None."""
        return bias, None

    def project(self, inputs, kernel, bias, weights):
        """`x W + b` of any number of steps: (..., features) -> (..., gates * units)."""
        return _add_bias(ops.matmul(inputs, kernel), bias)

    def state_sizes(self, units):
        return (units,) * self.states

    def prepare(self, weights):
        return weights

    def prepare_backward(self, weights):
        return weights._replace(kernel=ops.transpose(weights.kernel))

    def dropout_mask(self, weights):
        return weights.dropout_mask

    def with_dropout_mask(self, weights, mask):
        return weights._replace(dropout_mask=mask)

    def zero_sums(self, weights):
        return ()

    def weight_gradients(self, trace, d_inputs, kept, sums, weights):
        h = _drop(trace.previous[0], weights.dropout_mask)
        return RecurrentWeights(kernel=contract_time(h, d_inputs))


@dataclasses.dataclass(frozen=True)
class SimpleRNN(_Recurrence):
    """The vanilla recurrence of Elman (1990): `h' = f(x + h U)`."""

    activation: Callable = activations.tanh

    gates = 1
    states = 1

    @property
    def differentiable(self):
        return has_slope(self.activation)

    def step(self, inputs, state, weights):
        (h,) = state
        h = self.activation(inputs + ops.matmul(_drop(h, weights.dropout_mask), weights.kernel))
        return (h,), (), ()

    def coefficients(self, trace, weights):
        return (_slope(self.activation, trace.candidate[0]),)

    def step_backward(self, d_state, d_emitted, coefficients, weights, sums):
        (dh,), (slope,) = d_state, coefficients
        d_inputs = dh * slope
        return d_inputs, (_through_kernel(d_inputs, weights),), (), sums


@dataclasses.dataclass(frozen=True)
class LSTM(_Recurrence):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    Gates in the order of Keras: `i, f, g, o = split(x + h U)`, then `c' = s(f) c + s(i) f(g)`, `h' = s(o) f(c')`.
    """

    activation: Callable = activations.tanh
    recurrent_activation: Callable = activations.sigmoid

    gates = 4
    states = 2

    @property
    def differentiable(self):
        return has_slope(self.activation, self.recurrent_activation)

    def step(self, inputs, state, weights):
        h, c = state
        gates = inputs + ops.matmul(_drop(h, weights.dropout_mask), weights.kernel)
        i, f, g, o = ops.split(gates, 4, axis=-1)
        i, f, o = (self.recurrent_activation(gate) for gate in (i, f, o))
        g = self.activation(g)
        c = f * c + i * g
        h = o * self.activation(c)
        return (h, c), (), (i, f, g, o)

    def coefficients(self, trace, weights):
        c_previous, c = trace.previous[1], trace.candidate[1]
        i, f, g, o = trace.residuals
        squashed = self.activation(c)
        gates = [
            g * _slope(self.recurrent_activation, i),
            c_previous * _slope(self.recurrent_activation, f),
            i * _slope(self.activation, g),
            squashed * _slope(self.recurrent_activation, o),
        ]
        return ops.concatenate(gates, axis=-1), o * _slope(self.activation, squashed), f

    def step_backward(self, d_state, d_emitted, coefficients, weights, sums):
        (dh, dc), (gates, squash, f) = d_state, coefficients
        dc = dc + dh * squash
        d_inputs = ops.concatenate([dc, dc, dc, dh], axis=-1) * gates  # (batch, 4 * units)
        return d_inputs, (_through_kernel(d_inputs, weights), dc * f), (), sums


@dataclasses.dataclass(frozen=True)
class ExtendedLSTM(LSTM):
    """An LSTM with one or several extensions.

    Peepholes (Gers & Schmidhuber 2000), a projected state (Sak et al. 2014), layer normalisation N (Ba et al. 2016,
    equations 20 to 22):
    `i, f, g, o = split(N(x W) + N(h U) + b)`, `c' = s(f + p_f c) c + s(i + p_i c) f(g)`,
    `h' = (s(o + p_o c') f(N(c'))) P`. N has a gain for each entry; the one of c' has a shift too, the others have b.
    """

    peephole: bool = False
    projection_units: int | None = None
    layer_norm: bool = False

    differentiable = False

    def project(self, inputs, kernel, bias, weights):
        return _add_bias(self._normalize(ops.matmul(inputs, kernel), weights, "input"), bias)

    def state_sizes(self, units):
        return self.projection_units or units, units

    def step(self, inputs, state, weights):
        h, c = state
        product = ops.matmul(_drop(h, weights.dropout_mask), weights.kernel)
        i, f, g, o = ops.split(inputs + self._normalize(product, weights, "recurrent"), 4, axis=-1)
        if self.peephole:
            to_i, to_f, to_o = ops.unstack(weights.further["peephole_kernel"], 3, axis=0)
            i, f = i + to_i * c, f + to_f * c
        c = self.recurrent_activation(f) * c + self.recurrent_activation(i) * self.activation(g)
        if self.peephole:
            o = o + to_o * c
        h = self.recurrent_activation(o) * self.activation(self._normalize(c, weights, "state"))
        if self.projection_units:
            h = ops.matmul(h, weights.further["projection_kernel"])
        return (h, c), (), ()

    def _normalize(self, x, weights, name):
        if not self.layer_norm:
            return x
        return _layer_normalize(x, weights.further[f"{name}_gamma"], weights.further.get(f"{name}_beta"))


def _layer_normalize(x, gamma, beta=None):
    """Mean 0 and variance 1 over the last axis, times gamma, plus beta; epsilon as of `LayerNormalization`."""
    return ops.layer_normalization(x, gamma, beta, epsilon=1e-3)


class _GRUKernels(NamedTuple):
    """The recurrent kernel of a GRU that resets before the product, which is two products."""

    update_reset: object  # (units, 2 * units), or its transpose
    candidate: object  # (units, units), or its transpose
    dropout_mask: object
    further: object


@dataclasses.dataclass(frozen=True)
class GRU(_Recurrence):
    """The gated recurrent unit of Cho et al. (2014), gates in the order of Keras: `z, r, g`.

    `h' = z h + (1 - z) g` with `z = s(x_z + h U_z)`, `r = s(x_r + h U_r)` and, with `reset_after` (as cuDNN),
    `g = f(x_g + r (h U_g + b_g))`, else `g = f(x_g + (r h) U_g)`.
    """

    activation: Callable = activations.tanh
    recurrent_activation: Callable = activations.sigmoid
    reset_after: bool = True

    gates = 3
    states = 1

    @property
    def differentiable(self):
        return has_slope(self.activation, self.recurrent_activation)

    def split_bias(self, bias):
        if bias is None or not self.reset_after:
            return bias, None
        return tuple(ops.unstack(ops.convert_to_tensor(bias), 2, axis=0))

    def prepare(self, weights):
        if self.reset_after:
            return weights
        units = weights.kernel.shape[0]
        kernels = weights.kernel[:, : 2 * units], weights.kernel[:, 2 * units :]
        return _GRUKernels(*kernels, weights.dropout_mask, weights.further)

    def step(self, inputs, state, weights):
        (h,) = state
        x_z, x_r, x_g = ops.split(inputs, 3, axis=-1)
        dropped = _drop(h, weights.dropout_mask)
        if self.reset_after:
            product = self._normalize(ops.matmul(dropped, weights.kernel), weights, "zrg")
            h_z, h_r, h_g = ops.split(_add_bias(product, weights.bias), 3, axis=-1)
        else:
            product = self._normalize(ops.matmul(dropped, weights.update_reset), weights, "zr")
            h_z, h_r = ops.split(product, 2, axis=-1)
        z = self.recurrent_activation(x_z + h_z)
        r = self.recurrent_activation(x_r + h_r)
        if self.reset_after:
            reset = r * h_g
        else:
            reset = self._normalize(ops.matmul(r * dropped, weights.candidate), weights, "g")
        g = self.activation(x_g + reset)
        h = z * h + (1 - z) * g
        return (h,), (), (z, r, g, h_g) if self.reset_after else (z, r, g)

    def _normalize(self, product, weights, gates):
        """A product of the gates named, as a variant wants it."""
        return product

    def prepare_backward(self, weights):
        if self.reset_after:
            return super().prepare_backward(weights)
        kernels = self.prepare(weights)
        return kernels._replace(
            update_reset=ops.transpose(kernels.update_reset), candidate=ops.transpose(kernels.candidate)
        )

    def coefficients(self, trace, weights):
        (h,), (z, r, g, *h_g) = trace.previous, trace.residuals
        to_z = (h - g) * _slope(self.recurrent_activation, z)
        to_g = (1 - z) * _slope(self.activation, g)
        if self.reset_after:
            to_r = to_g * h_g[0] * _slope(self.recurrent_activation, r)
            inputs, products = [to_z, to_r, to_g], [to_z, to_r, to_g * r]
            return z, ops.concatenate(inputs, axis=-1), ops.concatenate(products, axis=-1)
        return z, r, to_z, to_g, _drop(h, weights.dropout_mask) * _slope(self.recurrent_activation, r)

    def step_backward(self, d_state, d_emitted, coefficients, weights, sums):
        (dh,), (z, *others) = d_state, coefficients
        if self.reset_after:
            inputs, products = others
            thrice = ops.concatenate([dh, dh, dh], axis=-1)
            return thrice * inputs, (dh * z + _through_kernel(thrice * products, weights),), (), sums
        r, to_z, to_g, to_r = others
        d_g = dh * to_g
        d_reset = ops.matmul(d_g, weights.candidate)
        d_gates = ops.concatenate([dh * to_z, d_reset * to_r], axis=-1)
        d_dropped = d_reset * r + ops.matmul(d_gates, weights.update_reset)
        d_previous = dh * z + _drop(d_dropped, weights.dropout_mask)
        return ops.concatenate([d_gates, d_g], axis=-1), (d_previous,), (), sums

    def weight_gradients(self, trace, d_inputs, kept, sums, weights):
        h = _drop(trace.previous[0], weights.dropout_mask)
        units = h.shape[-1]
        r = trace.residuals[1]
        d_gates, d_g = d_inputs[..., : 2 * units], d_inputs[..., 2 * units :]
        if self.reset_after:
            d_projected = ops.concatenate([d_gates, d_g * r], axis=-1)
            d_bias = None if weights.bias is None else ops.sum(d_projected, axis=(0, 1))
            return RecurrentWeights(kernel=contract_time(h, d_projected), bias=d_bias)
        d_kernels = [contract_time(h, d_gates), contract_time(r * h, d_g)]
        return RecurrentWeights(kernel=ops.concatenate(d_kernels, axis=-1))


@dataclasses.dataclass(frozen=True)
class LayerNormGRU(GRU):
    """A GRU with layer normalisation N of both products, z and r together, g by itself (Ba et al. 2016, appendix).

    `z, r = s(N(x W_zr) + N(h U_zr) + b)` and `g = f(N(x W_g) + b_g + r (N(h U_g) + c_g))` with `reset_after`, else
    `g = f(N(x W_g) + b_g + N((r h) U_g))`. N has a gain for each entry; b is the shift.
    """

    differentiable = False

    def project(self, inputs, kernel, bias, weights):
        return _add_bias(self._normalize(ops.matmul(inputs, kernel), weights, "zrg", "input"), bias)

    def _normalize(self, product, weights, gates, name="recurrent"):
        gamma = weights.further[f"{name}_gamma"]  # (3 * units,)
        units = gamma.shape[0] // 3
        if gates == "zrg":
            parts = ("zr", product[..., : 2 * units]), ("g", product[..., 2 * units :])
            return ops.concatenate([self._normalize(part, weights, g, name) for g, part in parts], axis=-1)
        return _layer_normalize(product, gamma[: 2 * units] if gates == "zr" else gamma[2 * units :])


@dataclasses.dataclass(frozen=True)
class Probed(_Recurrence):
    """A recurrence whose new output h' is that of `cell` plus a probe, which comes with the inputs, after them.

    With a probe of zeros the numbers are those of `cell`, and the gradient of the probe is that of each h_t.
    """

    cell: object

    differentiable = False

    def __getattr__(self, name):
        return getattr(self.cell, name)

    def prepare(self, weights):
        return self.cell.prepare(weights)

    def step(self, inputs, state, weights):
        size = state[0].shape[-1]
        state, emitted, residuals = self.cell.step(inputs[..., :-size], state, weights)
        return (state[0] + inputs[..., -size:], *state[1:]), emitted, residuals

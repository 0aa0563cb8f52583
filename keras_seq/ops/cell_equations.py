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

from keras import activations, backend, ops

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
    extra: object = None  # a dict of tensors, of the cells that have more; each names its own


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


def _has_default_activations(equations):
    return equations.activation is activations.tanh and equations.recurrent_activation is activations.sigmoid


class _Equations:
    """What the classic cells share: one recurrent kernel, one product with it a step."""

    def native_kernel(self):
        """The name and the attributes of the native kernel for these equations, or None.

        Implementations check the exact type, because a subclass computes something else.
        """
        return None

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
class SimpleRNNEquations(_Equations):
    """The vanilla recurrence of Elman (1990): `h' = f(x + h U)`."""

    activation: Callable = activations.tanh

    gates = 1
    states = 1

    @property
    def differentiable(self):
        return has_slope(self.activation)

    def native_kernel(self):
        if type(self) is not SimpleRNNEquations:
            return None
        if self.activation not in (activations.tanh, activations.relu, activations.linear):
            return None
        return "SimpleRNN", {"activation": self.activation.__name__}

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
class LSTMEquations(_Equations):
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

    def native_kernel(self):
        return ("LSTM", {}) if type(self) is LSTMEquations and _has_default_activations(self) else None

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
        i, f, g, o, *_ = trace.residuals
        squashed = self._squash(c, weights)
        gates = [
            g * _slope(self.recurrent_activation, i),
            c_previous * _slope(self.recurrent_activation, f),
            i * _slope(self.activation, g),
            squashed * _slope(self.recurrent_activation, o),
        ]
        return ops.concatenate(gates, axis=-1), o * _slope(self.activation, squashed), f

    def _squash(self, c, weights):
        """What the output gate lets through."""
        return self.activation(c)

    def step_backward(self, d_state, d_emitted, coefficients, weights, sums):
        (dh, dc), (gates, squash, f) = d_state, coefficients
        dc = dc + dh * squash
        d_inputs = ops.concatenate([dc, dc, dc, dh], axis=-1) * gates  # (batch, 4 * units)
        return d_inputs, (_through_kernel(d_inputs, weights), dc * f), (), sums


@dataclasses.dataclass(frozen=True)
class ExtendedLSTMEquations(LSTMEquations):
    """An LSTM with one or several extensions.

    Peepholes (Gers & Schmidhuber 2000), a projected state (Sak et al. 2014), layer normalisation N (Ba et al. 2016,
    equations 20 to 22):
    `i, f, g, o = split(N(x W) + N(h U) + b)`, `c' = s(f + p_f c) c + s(i + p_i c) f(g)`,
    `h' = (s(o + p_o c') f(N(c'))) P`. N has a gain for each entry; the one of c' has a shift too, the others have b.
    """

    peephole: bool = False
    projection_units: int | None = None
    layer_norm: bool = False

    def project(self, inputs, kernel, bias, weights):
        product = ops.matmul(inputs, kernel)
        if self.layer_norm:
            product = weights.extra["input_gamma"] * _standardize(product)[0]
        return _add_bias(product, bias)

    def state_sizes(self, units):
        return self.projection_units or units, units

    def step(self, inputs, state, weights):
        (h, c), extra = state, weights.extra
        product, norm = ops.matmul(_drop(h, weights.dropout_mask), weights.kernel), ()
        if self.layer_norm:
            norm = _standardize(product)
            product = extra["recurrent_gamma"] * norm[0]
        i, f, g, o = ops.split(inputs + product, 4, axis=-1)
        if self.peephole:
            to_i, to_f, to_o = ops.unstack(extra["peephole_kernel"], 3, axis=0)
            i, f = i + to_i * c, f + to_f * c
        i, f, g = self.recurrent_activation(i), self.recurrent_activation(f), self.activation(g)
        c = f * c + i * g
        o = self.recurrent_activation(o + to_o * c if self.peephole else o)
        h = o * self._squash(c, weights)
        if self.projection_units:
            h = ops.matmul(h, extra["projection_kernel"])
        return (h, c), (), (i, f, g, o, *norm)

    def _squash(self, c, weights):
        if self.layer_norm:
            c = weights.extra["state_gamma"] * _standardize(c)[0] + weights.extra["state_beta"]
        return self.activation(c)

    def prepare_backward(self, weights):
        extra = dict(weights.extra)
        if self.projection_units:
            extra["projection_kernel"] = ops.transpose(extra["projection_kernel"])
        return super().prepare_backward(weights)._replace(extra=extra)

    def coefficients(self, trace, weights):
        norms = (trace.residuals[4:], _standardize(trace.candidate[1])) if self.layer_norm else ()
        return *super().coefficients(trace, weights), norms

    def step_backward(self, d_state, d_emitted, coefficients, weights, sums):
        (dh, dc), (gates, squash, f, norms), extra = d_state, coefficients, weights.extra
        d_squashed = ops.matmul(dh, extra["projection_kernel"]) if self.projection_units else dh
        d_norm = d_squashed * squash
        dc = dc + (_standardize_backward(d_norm * extra["state_gamma"], *norms[1]) if self.layer_norm else d_norm)
        d_o = d_squashed * gates[:, 3 * f.shape[-1] :]
        if self.peephole:
            to_i, to_f, to_o = ops.unstack(extra["peephole_kernel"], 3, axis=0)
            dc = dc + d_o * to_o
        d_inputs = ops.concatenate([dc, dc, dc, d_squashed], axis=-1) * gates  # (batch, 4 * units)
        d_product = d_inputs
        if self.layer_norm:
            d_product = _standardize_backward(d_inputs * extra["recurrent_gamma"], *norms[0])
        d_previous = dc * f
        if self.peephole:
            d_i, d_f, *_ = ops.split(d_inputs, 4, axis=-1)
            d_previous = d_previous + d_i * to_i + d_f * to_f
        kept = (dh if self.projection_units else (), (d_norm, d_product) if self.layer_norm else ())
        return d_inputs, (_through_kernel(d_product, weights), d_previous), kept, sums

    def weight_gradients(self, trace, d_inputs, kept, sums, weights):
        dh, of_norms = kept
        c_previous, c, o = trace.previous[1], trace.candidate[1], trace.residuals[3]
        extra = dict.fromkeys(weights.extra)  # that of `input_gamma` comes from `project`
        if self.projection_units:
            extra["projection_kernel"] = contract_time(o * self._squash(c, weights), dh)
        if self.peephole:
            d_i, d_f, _, d_o = ops.split(d_inputs, 4, axis=-1)
            met = [(d_i, c_previous), (d_f, c_previous), (d_o, c)]
            extra["peephole_kernel"] = ops.stack([ops.sum(d * x, axis=(0, 1)) for d, x in met])
        d_product = d_inputs
        if self.layer_norm:
            d_norm, d_product = of_norms
            extra["recurrent_gamma"] = ops.sum(d_inputs * trace.residuals[4], axis=(0, 1))
            extra["state_gamma"] = ops.sum(d_norm * _standardize(c)[0], axis=(0, 1))
            extra["state_beta"] = ops.sum(d_norm, axis=(0, 1))
        return super().weight_gradients(trace, d_product, (), (), weights)._replace(extra=extra)


def _standardize(x):
    """Mean 0 and variance 1 over the last axis, in float32 at least; and the factors 1 / deviation (..., 1)."""
    precise = ops.cast(x, backend.result_type(x.dtype, "float32"))
    centred = precise - ops.mean(precise, axis=-1, keepdims=True)
    # The epsilon is that of `keras.layers.LayerNormalization`.
    factor = ops.rsqrt(ops.mean(ops.square(centred), axis=-1, keepdims=True) + 1e-3)
    return ops.cast(centred * factor, x.dtype), ops.cast(factor, x.dtype)


def _standardize_backward(d, standard, factor):
    """The gradient of x from that of `standard`, the first result of `_standardize`."""
    along = ops.mean(d * standard, axis=-1, keepdims=True)
    return factor * (d - ops.mean(d, axis=-1, keepdims=True) - standard * along)


class _GRUKernels(NamedTuple):
    """The recurrent kernel of a GRU that resets before the product, which is two products."""

    update_reset: object  # (units, 2 * units), or its transpose
    candidate: object  # (units, units), or its transpose
    dropout_mask: object
    extra: object


@dataclasses.dataclass(frozen=True)
class GRUEquations(_Equations):
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

    def native_kernel(self):
        if type(self) is not GRUEquations or not _has_default_activations(self):
            return None
        return "GRU", {"reset_after": self.reset_after}

    def split_bias(self, bias):
        if bias is None or not self.reset_after:
            return bias, None
        return tuple(ops.unstack(ops.convert_to_tensor(bias), 2, axis=0))

    def prepare(self, weights):
        if self.reset_after:
            return weights
        units = weights.kernel.shape[0]
        kernels = weights.kernel[:, : 2 * units], weights.kernel[:, 2 * units :]
        return _GRUKernels(*kernels, weights.dropout_mask, weights.extra)

    def step(self, inputs, state, weights):
        (h,) = state
        x_z, x_r, x_g = ops.split(inputs, 3, axis=-1)
        dropped = _drop(h, weights.dropout_mask)
        if self.reset_after:
            product, *norm = self._normalize(ops.matmul(dropped, weights.kernel), weights, "zrg")
            h_z, h_r, h_g = ops.split(_add_bias(product, weights.bias), 3, axis=-1)
        else:
            product, *norm = self._normalize(ops.matmul(dropped, weights.update_reset), weights, "zr")
            h_z, h_r = ops.split(product, 2, axis=-1)
        z = self.recurrent_activation(x_z + h_z)
        r = self.recurrent_activation(x_r + h_r)
        if self.reset_after:
            residuals = z, r, h_g, *norm
            reset = r * h_g
        else:
            reset, *norm_of_g = self._normalize(ops.matmul(r * dropped, weights.candidate), weights, "g")
            residuals = z, r, *norm, *norm_of_g
        g = self.activation(x_g + reset)
        h = z * h + (1 - z) * g
        return (h,), (), (g, *residuals)

    def _normalize(self, product, weights, gates):
        """A product of the gates named as a variant wants it, and what `_normalize_backward` needs."""
        return (product,)

    def _normalize_backward(self, d, weights, norms, gates):
        """The gradient of the product from that of what `_normalize` made of it."""
        return d

    def prepare_backward(self, weights):
        if self.reset_after:
            return super().prepare_backward(weights)
        kernels = self.prepare(weights)
        return kernels._replace(
            update_reset=ops.transpose(kernels.update_reset), candidate=ops.transpose(kernels.candidate)
        )

    def coefficients(self, trace, weights):
        (h,), (g, z, r, *others) = trace.previous, trace.residuals
        to_z = (h - g) * _slope(self.recurrent_activation, z)
        to_g = (1 - z) * _slope(self.activation, g)
        if self.reset_after:
            h_g, *norms = others
            to_r = to_g * h_g * _slope(self.recurrent_activation, r)
            inputs, products = [to_z, to_r, to_g], [to_z, to_r, to_g * r]
            return tuple(norms), z, ops.concatenate(inputs, axis=-1), ops.concatenate(products, axis=-1)
        to_r = _drop(h, weights.dropout_mask) * _slope(self.recurrent_activation, r)
        return tuple(others), z, r, to_z, to_g, to_r

    def step_backward(self, d_state, d_emitted, coefficients, weights, sums):
        (dh,), (norms, z, *others) = d_state, coefficients
        if self.reset_after:
            inputs, products = others
            thrice = ops.concatenate([dh, dh, dh], axis=-1)
            d_product = self._normalize_backward(thrice * products, weights, norms, "zrg")
            d_previous = dh * z + _through_kernel(d_product, weights)
            return thrice * inputs, (d_previous,), self._kept(d_product), sums
        r, to_z, to_g, to_r = others
        d_g = dh * to_g
        d_product_g = self._normalize_backward(d_g, weights, norms[2:], "g")
        d_reset = ops.matmul(d_product_g, weights.candidate)
        d_gates = ops.concatenate([dh * to_z, d_reset * to_r], axis=-1)
        d_product = self._normalize_backward(d_gates, weights, norms[:2], "zr")
        d_dropped = d_reset * r + ops.matmul(d_product, weights.update_reset)
        d_previous = dh * z + _drop(d_dropped, weights.dropout_mask)
        return ops.concatenate([d_gates, d_g], axis=-1), (d_previous,), self._kept(d_product, d_product_g), sums

    def _kept(self, *d_products):
        """The gradients of the products where `weight_gradients` needs them beside those of the inputs."""
        return ()

    def weight_gradients(self, trace, d_inputs, kept, sums, weights):
        h, r = _drop(trace.previous[0], weights.dropout_mask), trace.residuals[2]
        if self.reset_after:
            d_projected = self._d_projected(trace, d_inputs)
            d_bias = None if weights.bias is None else ops.sum(d_projected, axis=(0, 1))
            return RecurrentWeights(kernel=contract_time(h, *kept or (d_projected,)), bias=d_bias)
        cut = 2 * h.shape[-1]
        d_gates, d_g = kept or (d_inputs[..., :cut], d_inputs[..., cut:])
        d_kernels = [contract_time(h, d_gates), contract_time(r * h, d_g)]
        return RecurrentWeights(kernel=ops.concatenate(d_kernels, axis=-1))

    def _d_projected(self, trace, d_inputs):
        """The gradient of what is added to the inputs: the recurrent product, and its bias."""
        if not self.reset_after:
            return d_inputs
        d_z, d_r, d_g = ops.split(d_inputs, 3, axis=-1)
        return ops.concatenate([d_z, d_r, d_g * trace.residuals[2]], axis=-1)


@dataclasses.dataclass(frozen=True)
class LayerNormGRUEquations(GRUEquations):
    """A GRU with layer normalisation N of both products, z and r together, g by itself (Ba et al. 2016, appendix).

    `z, r = s(N(x W_zr) + N(h U_zr) + b)` and `g = f(N(x W_g) + b_g + r (N(h U_g) + c_g))` with `reset_after`, else
    `g = f(N(x W_g) + b_g + N((r h) U_g))`. N has a gain for each entry; b is the shift.
    """

    def project(self, inputs, kernel, bias, weights):
        return _add_bias(self._normalize(ops.matmul(inputs, kernel), weights, "zrg", "input")[0], bias)

    def _normalize(self, product, weights, gates, name="recurrent"):
        parts = self._parts(product, gates)
        norms = [_standardize(part) for part in parts]
        standard = ops.concatenate([standard for standard, _ in norms], axis=-1)
        gains = self._gains(weights.extra[f"{name}_gamma"], gates)
        return gains * standard, standard, ops.concatenate([factor for _, factor in norms], axis=-1)

    def _normalize_backward(self, d, weights, norms, gates):
        standard, factors = norms
        d = d * self._gains(weights.extra["recurrent_gamma"], gates)
        parts = zip(self._parts(d, gates), self._parts(standard, gates), strict=True)
        found = [_standardize_backward(d, s, factors[..., i : i + 1]) for i, (d, s) in enumerate(parts)]
        return ops.concatenate(found, axis=-1)

    def _kept(self, *d_products):
        return d_products

    def weight_gradients(self, trace, d_inputs, kept, sums, weights):
        standard = trace.residuals[4] if self.reset_after else ops.concatenate(trace.residuals[3::2], axis=-1)
        d_gamma = ops.sum(self._d_projected(trace, d_inputs) * standard, axis=(0, 1))
        extra = dict.fromkeys(weights.extra) | {"recurrent_gamma": d_gamma}  # `project` gives that of `input_gamma`
        return super().weight_gradients(trace, d_inputs, kept, sums, weights)._replace(extra=extra)

    @staticmethod
    def _parts(x, gates):
        """What is normalised together."""
        cut = x.shape[-1] // 3 * 2
        return [x[..., :cut], x[..., cut:]] if gates == "zrg" else [x]

    @staticmethod
    def _gains(gamma, gates):
        cut = gamma.shape[0] // 3 * 2
        return {"zrg": gamma, "zr": gamma[:cut], "g": gamma[cut:]}[gates]

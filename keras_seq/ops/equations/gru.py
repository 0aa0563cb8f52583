# SPDX-License-Identifier: Apache-2.0
"""One step of the gated recurrent unit, plain and with layer normalization."""

import dataclasses
from typing import NamedTuple, TypeAlias

from keras import ops

from keras_seq.ops.equations.cell import (
    GatedEquations,
    add_bias,
    contract_time,
    drop,
    hidden_gradient,
    name_activations,
    slope,
)
from keras_seq.ops.equations.layer_norm import standardize, standardize_backward
from keras_seq.ops.equations.protocol import RecurrentWeights, State, Step, StepGradients, StepMasks, Tensor, Trace


class _ResetBeforeWeights(NamedTuple):
    """The recurrent kernel of a GRU that resets before the product, which is two products."""

    update_reset: Tensor  # (units, 2 * units), or its transpose
    candidate: Tensor  # (units, units), or its transpose
    extra: dict[str, Tensor] | None


_Weights: TypeAlias = RecurrentWeights | _ResetBeforeWeights


@dataclasses.dataclass(frozen=True)
class GRUEquations(GatedEquations):
    """The gated recurrent unit of Cho et al. (2014), gates in the order of Keras: `z, r, g`.

    `h' = z h + (1 - z) g` with `z = s(x_z + h U_z)`, `r = s(x_r + h U_r)` and, with `reset_after` (as cuDNN),
    `g = f(x_g + r (h U_g + b_g))`, else `g = f(x_g + (r h) U_g)`.
    """

    reset_after: bool = True

    gates = 3
    states = 1

    def native_kernel(self) -> tuple[str, dict] | None:
        return self.native_op("GRU", reset_after=self.reset_after)

    def split_bias(self, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if bias is None or not self.reset_after:
            return bias, None
        return tuple(ops.unstack(ops.convert_to_tensor(bias), 2, axis=0))

    def prepare(self, weights: RecurrentWeights) -> _Weights:
        if self.reset_after:
            return weights
        units = weights.kernel.shape[0]
        return _ResetBeforeWeights(weights.kernel[:, : 2 * units], weights.kernel[:, 2 * units :], weights.extra)

    def step(self, weights: _Weights, masks: StepMasks, inputs: Tensor, state: State) -> Step:
        (h,) = state
        x_z, x_r, x_g = ops.split(inputs, 3, axis=-1)
        dropped = drop(h, masks)
        if self.reset_after:
            product, *norm = self._normalize(weights, ops.matmul(dropped, weights.kernel), "zrg")
            h_z, h_r, h_g = ops.split(add_bias(product, weights.bias), 3, axis=-1)
        else:
            product, *norm = self._normalize(weights, ops.matmul(dropped, weights.update_reset), "zr")
            h_z, h_r = ops.split(product, 2, axis=-1)
        z = self.recurrent_activation(x_z + h_z)
        r = self.recurrent_activation(x_r + h_r)
        if self.reset_after:
            residuals = z, r, h_g, *norm
            reset = r * h_g
        else:
            reset, *candidate_norm = self._normalize(weights, ops.matmul(r * dropped, weights.candidate), "g")
            residuals = z, r, *norm, *candidate_norm
        g = self.activation(x_g + reset)
        return Step((z * h + (1 - z) * g,), residuals=(g, *residuals))

    def _normalize(self, weights: _Weights, product: Tensor, gates: str) -> tuple[Tensor, ...]:
        """Normalize a product of the named gates; return it and what `_normalize_backward` needs."""
        return (product,)

    def _normalize_backward(self, weights: _Weights, d_normalized: Tensor, norms: tuple, gates: str) -> Tensor:
        """Return the gradient of the product from that of the normalized product."""
        return d_normalized

    def prepare_backward(self, weights: RecurrentWeights) -> _Weights:
        if self.reset_after:
            return super().prepare_backward(weights)
        kernels = self.prepare(weights)
        return kernels._replace(
            update_reset=ops.transpose(kernels.update_reset), candidate=ops.transpose(kernels.candidate)
        )

    def coefficients(self, weights: RecurrentWeights, masks: StepMasks, trace: Trace) -> tuple:
        (h,), (g, z, r, *others) = trace.previous, trace.residuals
        to_z = (h - g) * slope(self.recurrent_activation, z)
        to_g = (1 - z) * slope(self.activation, g)
        if self.reset_after:
            h_g, *norms = others
            to_r = to_g * h_g * slope(self.recurrent_activation, r)
            inputs, products = [to_z, to_r, to_g], [to_z, to_r, to_g * r]
            return tuple(norms), z, ops.concatenate(inputs, axis=-1), ops.concatenate(products, axis=-1)
        to_r = drop(h, masks) * slope(self.recurrent_activation, r)
        return tuple(others), z, r, to_z, to_g, to_r

    def step_backward(
        self, weights: _Weights, masks: StepMasks, coefficients: tuple, d_state: State, d_emitted: tuple, sums: tuple
    ) -> StepGradients:
        (dh,), (norms, z, *others) = d_state, coefficients
        if self.reset_after:
            inputs, products = others
            thrice = ops.concatenate([dh, dh, dh], axis=-1)
            d_product = self._normalize_backward(weights, thrice * products, norms, "zrg")
            d_previous = dh * z + hidden_gradient(weights, masks, d_product)
            return StepGradients(thrice * inputs, (d_previous,), self._save(d_product), sums)
        r, to_z, to_g, to_r = others
        d_g = dh * to_g
        d_product_g = self._normalize_backward(weights, d_g, norms[2:], "g")
        d_reset = ops.matmul(d_product_g, weights.candidate)
        d_gates = ops.concatenate([dh * to_z, d_reset * to_r], axis=-1)
        d_product = self._normalize_backward(weights, d_gates, norms[:2], "zr")
        d_dropped = d_reset * r + ops.matmul(d_product, weights.update_reset)
        d_previous = dh * z + drop(d_dropped, masks)
        d_inputs = ops.concatenate([d_gates, d_g], axis=-1)
        return StepGradients(d_inputs, (d_previous,), self._save(d_product, d_product_g), sums)

    def _save(self, *d_products: Tensor) -> tuple:
        """Return the gradients of the products where `weight_gradients` needs them beside those of the inputs."""
        return ()

    def weight_gradients(
        self, weights: RecurrentWeights, masks: StepMasks, trace: Trace, d_inputs: Tensor, saved: tuple, sums: tuple
    ) -> RecurrentWeights:
        h, r = drop(trace.previous[0], masks), trace.residuals[2]
        if self.reset_after:
            d_normalized = self._normalized_gradient(trace, d_inputs)
            d_bias = None if weights.bias is None else ops.sum(d_normalized, axis=(0, 1))
            return RecurrentWeights(kernel=contract_time(h, *saved or (d_normalized,)), bias=d_bias)
        cut = 2 * h.shape[-1]
        d_gates, d_g = saved or (d_inputs[..., :cut], d_inputs[..., cut:])
        d_kernels = [contract_time(h, d_gates), contract_time(r * h, d_g)]
        return RecurrentWeights(kernel=ops.concatenate(d_kernels, axis=-1))

    def _normalized_gradient(self, trace: Trace, d_inputs: Tensor) -> Tensor:
        """Return the gradient of the normalized recurrent product, over all steps."""
        if not self.reset_after:
            return d_inputs
        d_z, d_r, d_g = ops.split(d_inputs, 3, axis=-1)
        return ops.concatenate([d_z, d_r, d_g * trace.residuals[2]], axis=-1)


@dataclasses.dataclass(frozen=True)
class LayerNormGRUEquations(GRUEquations):
    """A GRU with layer normalization N of both products (Ba et al. 2016, appendix).

    `z, r = s(N(x W_zr) + N(h U_zr) + b)` and `g = f(N(x W_g) + b_g + r (N(h U_g) + c_g))` with `reset_after`, else
    `g = f(N(x W_g) + b_g + N((r h) U_g))`. z and r are normalized together, g by itself. N has a gain for each entry;
    b is the shift.
    """

    normalizes_inputs = True
    is_standard = False

    def describe(self) -> str:
        name = "GRU with layer_norm"
        if self.native_kernel() is None:
            name += ", " + name_activations(self.activation, self.recurrent_activation)
        return name

    def finish_input_product(self, weights: RecurrentWeights, product: Tensor, bias: Tensor | None) -> Tensor:
        return add_bias(self._normalize(weights, product, "zrg", "input")[0], bias)

    def _normalize(self, weights: _Weights, product: Tensor, gates: str, name: str = "recurrent") -> tuple[Tensor, ...]:
        parts = [standardize(part) for part in self._split_normalized(product, gates)]
        standard = ops.concatenate([standard for standard, _ in parts], axis=-1)
        gains = self._gains(weights.extra[f"{name}_gamma"], gates)
        return gains * standard, standard, ops.concatenate([factor for _, factor in parts], axis=-1)

    def _normalize_backward(self, weights: _Weights, d_normalized: Tensor, norms: tuple, gates: str) -> Tensor:
        standard, factors = norms
        d_standard = d_normalized * self._gains(weights.extra["recurrent_gamma"], gates)
        pairs = zip(self._split_normalized(d_standard, gates), self._split_normalized(standard, gates), strict=True)
        parts = [standardize_backward(d, s, factors[..., i : i + 1]) for i, (d, s) in enumerate(pairs)]
        return ops.concatenate(parts, axis=-1)

    def _save(self, *d_products: Tensor) -> tuple:
        return d_products

    def weight_gradients(
        self, weights: RecurrentWeights, masks: StepMasks, trace: Trace, d_inputs: Tensor, saved: tuple, sums: tuple
    ) -> RecurrentWeights:
        standard = trace.residuals[4] if self.reset_after else ops.concatenate(trace.residuals[3::2], axis=-1)
        d_gamma = ops.sum(self._normalized_gradient(trace, d_inputs) * standard, axis=(0, 1))
        # Autodiff finds the gradient of `input_gamma`, which `input_product` reads.
        extra = dict.fromkeys(weights.extra) | {"recurrent_gamma": d_gamma}
        return super().weight_gradients(weights, masks, trace, d_inputs, saved, sums)._replace(extra=extra)

    @staticmethod
    def _split_normalized(x: Tensor, gates: str) -> list[Tensor]:
        """Split a product into the parts that are normalized by themselves."""
        cut = x.shape[-1] // 3 * 2
        return [x[..., :cut], x[..., cut:]] if gates == "zrg" else [x]

    @staticmethod
    def _gains(gamma: Tensor, gates: str) -> Tensor:
        cut = gamma.shape[0] // 3 * 2
        return {"zrg": gamma, "zr": gamma[:cut], "g": gamma[cut:]}[gates]

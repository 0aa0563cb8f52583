# SPDX-License-Identifier: Apache-2.0
"""One step of long short-term memory, plain and with extensions."""

import dataclasses

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


@dataclasses.dataclass(frozen=True)
class LSTMEquations(GatedEquations):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    Gates in the order of Keras: `i, f, g, o = split(x + h U)`, then `c' = s(f) c + s(i) f(g)`, `h' = s(o) f(c')`.
    """

    gates = 4
    states = 2

    def native_kernel(self) -> tuple[str, dict] | None:
        return self.native_op("LSTM")

    def step(self, weights: RecurrentWeights, masks: StepMasks, inputs: Tensor, state: State) -> Step:
        h, c = state
        i, f, g, o = ops.split(inputs + ops.matmul(drop(h, masks), weights.kernel), 4, axis=-1)
        i, f, o = (self.recurrent_activation(gate) for gate in (i, f, o))
        g = self.activation(g)
        c = f * c + i * g
        h = o * self.activation(c)
        return Step((h, c), residuals=(i, f, g, o))

    def coefficients(self, weights: RecurrentWeights, masks: StepMasks, trace: Trace) -> tuple:
        c_previous, c = trace.previous[1], trace.candidate[1]
        i, f, g, o, *_ = trace.residuals
        squashed = self._squash(weights, c)
        gates = [
            g * slope(self.recurrent_activation, i),
            c_previous * slope(self.recurrent_activation, f),
            i * slope(self.activation, g),
            squashed * slope(self.recurrent_activation, o),
        ]
        return ops.concatenate(gates, axis=-1), o * slope(self.activation, squashed), f

    def _squash(self, weights: RecurrentWeights, c: Tensor) -> Tensor:
        """Return what the output gate multiplies."""
        return self.activation(c)

    def step_backward(
        self,
        weights: RecurrentWeights,
        masks: StepMasks,
        coefficients: tuple,
        d_state: State,
        d_emitted: tuple,
        sums: tuple,
    ) -> StepGradients:
        (dh, dc), (gates, squash, f) = d_state, coefficients
        dc = dc + dh * squash
        d_inputs = ops.concatenate([dc, dc, dc, dh], axis=-1) * gates  # (batch, 4 * units)
        return StepGradients(d_inputs, (hidden_gradient(weights, masks, d_inputs), dc * f), (), sums)


@dataclasses.dataclass(frozen=True)
class ExtendedLSTMEquations(LSTMEquations):
    """An LSTM with one or several extensions.

    Peepholes (Gers & Schmidhuber 2000), a projected state (Sak et al. 2014), layer normalization N (Ba et al. 2016,
    equations 20 to 22):
    `i, f, g, o = split(N(x W) + N(h U) + b)`, `c' = s(f + p_f c) c + s(i + p_i c) f(g)`,
    `h' = (s(o + p_o c') f(N(c'))) P`. Each N has a gain for every entry; the N of c' also has a shift, the others
    share b.
    """

    peephole: bool = False
    projection_units: int | None = None
    layer_norm: bool = False

    is_standard = False

    @property
    def normalizes_inputs(self) -> bool:
        return self.layer_norm

    def describe(self) -> str:
        parts = {"peepholes": self.peephole, "a projection": self.projection_units, "layer_norm": self.layer_norm}
        names = [name for name, present in parts.items() if present]
        if self.native_kernel() is None:
            names.append(name_activations(self.activation, self.recurrent_activation))
        return "LSTM with " + ", ".join(names)

    def state_sizes(self, units: int) -> tuple[int, int]:
        return self.projection_units or units, units

    def finish_input_product(self, weights: RecurrentWeights, product: Tensor, bias: Tensor | None) -> Tensor:
        if self.layer_norm:
            product = weights.extra["input_gamma"] * standardize(product)[0]
        return add_bias(product, bias)

    def step(self, weights: RecurrentWeights, masks: StepMasks, inputs: Tensor, state: State) -> Step:
        (h, c), extra = state, weights.extra
        product, norm = ops.matmul(drop(h, masks), weights.kernel), ()
        if self.layer_norm:
            norm = standardize(product)
            product = extra["recurrent_gamma"] * norm[0]
        i, f, g, o = ops.split(inputs + product, 4, axis=-1)
        if self.peephole:
            to_i, to_f, to_o = ops.unstack(extra["peephole_kernel"], 3, axis=0)
            i, f = i + to_i * c, f + to_f * c
        i, f, g = self.recurrent_activation(i), self.recurrent_activation(f), self.activation(g)
        c = f * c + i * g
        o = self.recurrent_activation(o + to_o * c if self.peephole else o)
        h = o * self._squash(weights, c)
        if self.projection_units:
            h = ops.matmul(h, extra["projection_kernel"])
        return Step((h, c), residuals=(i, f, g, o, *norm))

    def _squash(self, weights: RecurrentWeights, c: Tensor) -> Tensor:
        if self.layer_norm:
            c = weights.extra["state_gamma"] * standardize(c)[0] + weights.extra["state_beta"]
        return self.activation(c)

    def prepare_backward(self, weights: RecurrentWeights) -> RecurrentWeights:
        extra = dict(weights.extra)
        if self.projection_units:
            extra["projection_kernel"] = ops.transpose(extra["projection_kernel"])
        return super().prepare_backward(weights)._replace(extra=extra)

    def coefficients(self, weights: RecurrentWeights, masks: StepMasks, trace: Trace) -> tuple:
        norms = (trace.residuals[4:], standardize(trace.candidate[1])) if self.layer_norm else ()
        return *super().coefficients(weights, masks, trace), norms

    def step_backward(
        self,
        weights: RecurrentWeights,
        masks: StepMasks,
        coefficients: tuple,
        d_state: State,
        d_emitted: tuple,
        sums: tuple,
    ) -> StepGradients:
        (dh, dc), (gates, squash, f, norms), extra = d_state, coefficients, weights.extra
        d_squashed = ops.matmul(dh, extra["projection_kernel"]) if self.projection_units else dh
        d_norm = d_squashed * squash
        dc = dc + (standardize_backward(d_norm * extra["state_gamma"], *norms[1]) if self.layer_norm else d_norm)
        d_o = d_squashed * gates[:, 3 * f.shape[-1] :]
        if self.peephole:
            to_i, to_f, to_o = ops.unstack(extra["peephole_kernel"], 3, axis=0)
            dc = dc + d_o * to_o
        d_inputs = ops.concatenate([dc, dc, dc, d_squashed], axis=-1) * gates  # (batch, 4 * units)
        d_product = d_inputs
        if self.layer_norm:
            d_product = standardize_backward(d_inputs * extra["recurrent_gamma"], *norms[0])
        d_previous = dc * f
        if self.peephole:
            d_i, d_f, *_ = ops.split(d_inputs, 4, axis=-1)
            d_previous = d_previous + d_i * to_i + d_f * to_f
        saved = (dh if self.projection_units else (), (d_norm, d_product) if self.layer_norm else ())
        return StepGradients(d_inputs, (hidden_gradient(weights, masks, d_product), d_previous), saved, sums)

    def weight_gradients(
        self, weights: RecurrentWeights, masks: StepMasks, trace: Trace, d_inputs: Tensor, saved: tuple, sums: tuple
    ) -> RecurrentWeights:
        dh, d_norms = saved
        c_previous, c, o = trace.previous[1], trace.candidate[1], trace.residuals[3]
        extra = dict.fromkeys(
            weights.extra
        )  # autodiff finds the gradient of `input_gamma`, which `input_product` reads
        if self.projection_units:
            extra["projection_kernel"] = contract_time(o * self._squash(weights, c), dh)
        if self.peephole:
            d_i, d_f, _, d_o = ops.split(d_inputs, 4, axis=-1)
            pairs = [(d_i, c_previous), (d_f, c_previous), (d_o, c)]
            extra["peephole_kernel"] = ops.stack([ops.sum(d * x, axis=(0, 1)) for d, x in pairs])
        d_product = d_inputs
        if self.layer_norm:
            d_norm, d_product = d_norms
            extra["recurrent_gamma"] = ops.sum(d_inputs * trace.residuals[4], axis=(0, 1))
            extra["state_gamma"] = ops.sum(d_norm * standardize(c)[0], axis=(0, 1))
            extra["state_beta"] = ops.sum(d_norm, axis=(0, 1))
        return super().weight_gradients(weights, masks, trace, d_product, (), ())._replace(extra=extra)

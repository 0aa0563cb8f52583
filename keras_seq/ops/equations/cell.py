# SPDX-License-Identifier: Apache-2.0
"""What the equations of all keras_seq cells share: one kernel, one recurrent kernel, and one product with it a step."""

import dataclasses
from collections.abc import Callable

from keras import activations, backend, ops

from keras_seq.ops.equations.protocol import RecurrentWeights, State, StepMasks, Tensor, Trace

# dy/dx of each activation as a function of its value y, so that the backward pass needs no x.
_SLOPES = {
    activations.linear: ops.ones_like,
    activations.relu: lambda y: ops.cast(y > 0, y.dtype),
    activations.sigmoid: lambda y: y * (1 - y),
    activations.tanh: lambda y: 1 - y * y,
}
_NATIVE_ACTIVATIONS = (
    activations.tanh,
    activations.relu,
    activations.linear,
    activations.sigmoid,
    activations.hard_sigmoid,
)


class CellEquations:
    """The parts of `DifferentiableEquations` that simple cells have in common, and the input product.

    A subclass is a frozen dataclass of the cell's arguments, so that equal cells have equal equations.
    """

    gates: int  # how many blocks of `units` columns the kernels have
    states: int
    applies_zoneout = False
    normalizes_inputs = False  # whether the product of all inputs is normalized, with what attention feeds
    is_standard = False  # whether a cell has gates with Keras's default activations, and no extension

    def native_kernel(self) -> tuple[str, dict] | None:
        """Return the name and the attributes of the native op for these equations, or None."""
        return None

    def describe(self) -> str:
        """Return a short name for messages, such as "LSTM with peepholes"."""
        name = type(self).__name__.removesuffix("Equations")
        functions = [getattr(self, name, None) for name in ("activation", "recurrent_activation")]
        return f"{name} with {name_activations(*(function for function in functions if function is not None))}"

    def split_bias(self, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the bias of the input product and the bias of the recurrent product."""
        return bias, None

    def state_sizes(self, units: int) -> tuple[int, ...]:
        """Return the size of each state."""
        return (units,) * self.states

    def input_product(
        self,
        weights: RecurrentWeights,
        inputs: Tensor,  # (..., features)
        kernel: Tensor,  # (features, gates * units)
        bias: Tensor | None,  # (gates * units,)
    ) -> Tensor:  # (..., gates * units)
        """Compute the input product `x W + b` of any number of steps."""
        return self.finish_input_product(weights, ops.matmul(inputs, kernel), bias)

    def finish_input_product(
        self,
        weights: RecurrentWeights,
        product: Tensor,  # (..., gates * units)
        bias: Tensor | None,  # (gates * units,)
    ) -> Tensor:  # (..., gates * units)
        """Compute `x W + b` from `x W`."""
        return add_bias(product, bias)

    def prepare(self, weights: RecurrentWeights) -> RecurrentWeights:
        return weights

    def prepare_backward(self, weights: RecurrentWeights) -> RecurrentWeights:
        return weights._replace(kernel=ops.transpose(weights.kernel))

    def zero_sums(self, weights: RecurrentWeights) -> tuple:
        return ()

    def weight_gradients(
        self, weights: RecurrentWeights, masks: StepMasks, trace: Trace, d_inputs: Tensor, saved: tuple, sums: tuple
    ) -> RecurrentWeights:
        h = drop(trace.previous[0], masks)
        return RecurrentWeights(kernel=contract_time(h, d_inputs))


@dataclasses.dataclass(frozen=True)
class GatedEquations(CellEquations):
    """Cell equations with an activation of the candidate and one of the gates."""

    activation: Callable = activations.tanh
    recurrent_activation: Callable = activations.sigmoid

    @property
    def differentiable(self) -> bool:
        return has_slope(self.activation, self.recurrent_activation)

    @property
    def is_standard(self) -> bool:
        return self.activation is activations.tanh and self.recurrent_activation is activations.sigmoid

    def native_op(self, name: str, **attributes: bool) -> tuple[str, dict] | None:
        """Return what `native_kernel` returns: the native op of this name, unless it lacks an activation."""
        names = native_activations(activation=self.activation, recurrent_activation=self.recurrent_activation)
        return None if names is None else (name, names | attributes)


def has_slope(*functions: Callable) -> bool:
    """Whether the hand-written derivatives cover these activations."""
    return all(function in _SLOPES for function in functions)


def native_activations(**functions: Callable) -> dict[str, str] | None:
    """Return the names of activations as attributes of a native op, or None if the kernels lack one of them."""
    if any(function not in _NATIVE_ACTIVATIONS for function in functions.values()):
        return None
    return {attribute: function.__name__ for attribute, function in functions.items()}


def activation_name(function: Callable) -> str:
    """Return the name of an activation, which may be any callable. No other one has the name of a native one."""
    name = getattr(function, "__name__", str(function))
    is_namesake = function not in _NATIVE_ACTIVATIONS and name in {native.__name__ for native in _NATIVE_ACTIVATIONS}
    return f"{function.__module__}.{name}" if is_namesake else name


def name_activations(*functions: Callable) -> str:
    """Return a phrase for messages with the names of activations."""
    return f"the activation(s) {', '.join(map(activation_name, functions))}"


def slope(activation: Callable, value: Tensor) -> Tensor:
    """Return the derivative of an activation where its value is `value`."""
    return _SLOPES[activation](value)


def drop(
    hidden: Tensor,  # ([time,] batch, units)
    masks: StepMasks,
) -> Tensor:
    """Apply the recurrent dropout mask to h, or to the gradient of the dropped h."""
    return hidden if masks.recurrent_dropout_mask is None else hidden * masks.recurrent_dropout_mask


def hidden_gradient(
    weights: RecurrentWeights,  # with the kernel transposed
    masks: StepMasks,
    d_product: Tensor,  # (batch, gates * units)
) -> Tensor:  # (batch, units)
    """Return the gradient of the previous h through the recurrent product."""
    return drop(ops.matmul(d_product, weights.kernel), masks)


def zone_out(
    masks: tuple[Tensor | None, ...],  # for each state the share m that is kept, or None
    state: State,
    candidate: State,
) -> State:
    """Apply zoneout (Krueger et al. 2017) to each state: `m s_{t-1} + (1 - m) s~_t`."""
    return tuple(
        new if m is None else m * old + (1 - m) * new for m, old, new in zip(masks, state, candidate, strict=True)
    )


def contract_time(
    a: Tensor,  # (time, batch, i)
    b: Tensor,  # (time, batch, j)
) -> Tensor:  # (i, j)
    """Compute the weight gradient `sum_t a_t' b_t` as one matrix product."""
    if backend.backend() == "jax":  # a batch on several devices stays an axis of its own
        return ops.tensordot(a, b, axes=((0, 1), (0, 1)))
    a = ops.reshape(a, (-1, a.shape[-1]))
    b = ops.reshape(b, (-1, b.shape[-1]))
    return ops.matmul(ops.transpose(a), b)


def add_bias(product: Tensor, bias: Tensor | None) -> Tensor:
    """Add a bias, if there is one."""
    return product if bias is None else product + bias

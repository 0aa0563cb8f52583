# SPDX-License-Identifier: Apache-2.0
"""The arguments of one recurrence, and the checks that they pass before an implementation gets them."""

from typing import Any, NamedTuple

from keras import backend, ops

from keras_seq.ops.equations.protocol import Equations, State, Tensor
from keras_seq.ops.masks import shapes_match


class RecurrentCall(NamedTuple):
    """Equations over whole sequences. Two calls that run side by side may differ in all of these fields."""

    equations: Equations
    inputs: Tensor  # (batch, time, features)
    kernel: Tensor | None = None  # (features, gates * units); None for a foreign cell
    recurrent_kernel: Tensor | None = None  # (units, gates * units)
    bias: Tensor | None = None  # (gates * units,), or (2, 3 * units) of a GRU with `reset_after`
    initial_state: State | None = None  # each (batch, units); None for zeros
    recurrent_dropout_mask: Tensor | None = None  # (batch, units) or (batch, time, units)
    zoneout_masks: tuple[Tensor | None, ...] | None = None  # for each state, shapes as of the recurrent dropout mask
    extra_weights: dict[str, Tensor] | None = None
    reverse: bool = False
    probe: Tensor | None = None  # (batch, time, size of h), zeros that are added to each h

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return self.equations.state_sizes(self.kernel.shape[-1] // self.equations.gates)

    def zero_state(self, batch: int | Tensor) -> State:
        """Return the initial state that None stands for."""
        return tuple(ops.zeros((batch, size), self.inputs.dtype) for size in self.state_sizes)

    def split_bias(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the bias of the input product and the bias of the recurrent product."""
        return (None, None) if self.kernel is None else self.equations.split_bias(self.bias)

    def prepare(self) -> "RecurrentCall":
        """Check the arguments and cast them to one dtype."""
        if self.kernel is None:  # a foreign cell, which casts and checks what it reads
            return self
        inputs, kernel = ops.convert_to_tensor(self.inputs), ops.convert_to_tensor(self.kernel)
        call = self._replace(inputs=inputs, kernel=kernel)
        dtype = backend.result_type(inputs.dtype, kernel.dtype)

        def cast(x):
            return None if x is None else ops.cast(x, dtype)

        return call._replace(
            inputs=cast(inputs),
            kernel=cast(kernel),
            recurrent_kernel=cast(self.recurrent_kernel),
            bias=cast(self.bias),
            initial_state=call._prepare_state(cast),
            recurrent_dropout_mask=call._prepare_mask(
                "recurrent_dropout_mask", self.recurrent_dropout_mask, call.state_sizes[0], dtype
            ),
            zoneout_masks=call._prepare_zoneout(dtype),
            extra_weights={name: cast(w) for name, w in (self.extra_weights or {}).items()} or None,
        )

    def _prepare_state(self, cast: Any) -> State | None:
        if self.initial_state is None:
            return None
        shapes = " and ".join(f"(batch, {size})" for size in dict.fromkeys(self.state_sizes))
        self._check_list("initial_state", self.initial_state, f"{self.equations.states} tensor(s) of shape {shapes}")
        return tuple(cast(s) for s in self.initial_state)

    def _prepare_zoneout(self, dtype: str) -> tuple[Tensor | None, ...] | None:
        if self.zoneout_masks is None:
            return None
        expected = f"{self.equations.states} entries, None or of shape (batch, units) or (batch, time, units)"
        self._check_list("zoneout_masks", self.zoneout_masks, expected)
        masks = tuple(
            self._prepare_mask(f"zoneout_masks[{i}]", mask, self.state_sizes[i], dtype)
            for i, mask in enumerate(self.zoneout_masks)
        )
        return None if all(mask is None for mask in masks) else masks

    def _check_list(self, name: str, value: Any, expected: str) -> None:
        is_list = isinstance(value, (list, tuple))
        if not is_list or len(value) != self.equations.states:
            received = f"{len(value)} of them" if is_list else f"a tensor of shape {ops.convert_to_tensor(value).shape}"
            raise ValueError(f"`{name}` must be a list of {expected}. Received: {received}")

    def _prepare_mask(self, name: str, mask: Tensor | None, units: int, dtype: str) -> Tensor | None:
        """Check a mask (batch, units) or (batch, time, units), cast it, and stop its gradient."""
        if mask is None:
            return None
        batch, time, _ = self.inputs.shape
        mask = ops.stop_gradient(ops.cast(mask, dtype))
        expected = [(batch, units), (batch, time, units)]
        if not any(shapes_match(mask.shape, shape) for shape in expected):
            raise ValueError(
                f"`{name}` must have shape (batch, units) = {expected[0]} or (batch, time, units) = {expected[1]}. "
                f"Received: shape {tuple(mask.shape)}"
            )
        return mask

    def layout(self) -> tuple:
        """Return what all directions of a native call must have in common: the equations and the shapes."""
        tensors = {
            name: getattr(self, name)
            for name in ("inputs", "kernel", "recurrent_kernel", "bias", "recurrent_dropout_mask")
        }
        for name in ("initial_state", "zoneout_masks"):
            tensors |= {f"{name}[{i}]": x for i, x in enumerate(getattr(self, name) or ())}
        return self.equations, {name: tuple(x.shape) for name, x in tensors.items() if x is not None}

# SPDX-License-Identifier: Apache-2.0
"""The arguments of one recurrence, and the checks that they pass before an implementation gets them."""

from typing import Any, NamedTuple

from keras import backend, ops

from keras_seq.ops.equations.protocol import Equations, State, Tensor
from keras_seq.ops.masks import as_bool_mask, has_started, shapes_match, zero_masked_rows


class RecurrentCall(NamedTuple):
    """Equations over whole sequences. Two calls that run side by side may differ in all of these fields."""

    equations: Equations
    inputs: Tensor  # (batch, time, features)
    kernel: Tensor | None = None  # (features, gates * units); None for a foreign cell and in a search
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
        if self.kernel is None:  # a foreign cell casts and checks what it reads
            return self
        inputs, kernel = ops.convert_to_tensor(self.inputs), ops.convert_to_tensor(self.kernel)
        call = self._replace(inputs=inputs, kernel=kernel)
        dtype = backend.result_type(inputs.dtype, kernel.dtype)

        def cast(x):
            return None if x is None else ops.cast(x, dtype)

        def cast_mask(name, mask, units):
            return None if mask is None else _check_unit_mask(name, ops.stop_gradient(cast(mask)), inputs, units)

        sizes, state, zoneout_masks = call.state_sizes, self.initial_state, self.zoneout_masks
        if state is not None:
            shapes = " and ".join(f"(batch, {size})" for size in dict.fromkeys(sizes))
            _check_one_for_each_state("initial_state", state, f"{len(sizes)} tensor(s) of shape {shapes}", len(sizes))
            state = tuple(cast(s) for s in state)
        if zoneout_masks is not None:
            expected = f"{len(sizes)} entries, None or of shape (batch, units) or (batch, time, units)"
            _check_one_for_each_state("zoneout_masks", zoneout_masks, expected, len(sizes))
            named = ((f"zoneout_masks[{i}]", mask, sizes[i]) for i, mask in enumerate(zoneout_masks))
            zoneout_masks = tuple(cast_mask(*mask) for mask in named)
        has_zoneout = zoneout_masks is not None and any(mask is not None for mask in zoneout_masks)
        return call._replace(
            inputs=cast(inputs),
            kernel=cast(kernel),
            recurrent_kernel=cast(self.recurrent_kernel),
            bias=cast(self.bias),
            initial_state=state,
            recurrent_dropout_mask=cast_mask("recurrent_dropout_mask", self.recurrent_dropout_mask, sizes[0]),
            zoneout_masks=zoneout_masks if has_zoneout else None,
            extra_weights={name: cast(w) for name, w in (self.extra_weights or {}).items()} or None,
        )

    def mask_outputs(
        self,
        outputs: Tensor,  # (batch, time, units), the state h after each step
        mask: Tensor | None,  # (batch, time), True = keep
        zero_output_for_mask: bool,
    ) -> Tensor:  # (batch, time, units)
        """Give the outputs of masked steps the values that Keras gives them.

        With `zero_output_for_mask` these are zero. Else a masked step repeats the output of the last step that counts,
        and is zero before the first one. Only with an initial state does that differ from the state.
        """
        if mask is None or not (zero_output_for_mask or self.initial_state is not None):
            return outputs
        mask = as_bool_mask(mask)
        visible = mask if zero_output_for_mask else has_started(mask, self.reverse)
        return zero_masked_rows(outputs, visible)

    def layout(self) -> tuple:
        """Return what all directions of a native call must have in common: the equations and the shapes."""
        tensors = {
            name: getattr(self, name)
            for name in ("inputs", "kernel", "recurrent_kernel", "bias", "recurrent_dropout_mask")
        }
        for name in ("initial_state", "zoneout_masks"):
            tensors |= {f"{name}[{i}]": x for i, x in enumerate(getattr(self, name) or ())}
        tensors |= self.extra_weights or {}
        return self.equations, {name: tuple(x.shape) for name, x in tensors.items() if x is not None}


def _check_one_for_each_state(name: str, value: Any, expected: str, states: int) -> None:
    """Check that a value is a list with an entry for each state."""
    is_list = isinstance(value, (list, tuple))
    if not is_list or len(value) != states:
        received = f"{len(value)} of them" if is_list else f"a tensor of shape {ops.convert_to_tensor(value).shape}"
        raise ValueError(f"`{name}` must be a list of {expected}. Received: {received}")


def _check_unit_mask(
    name: str,
    mask: Tensor,  # (batch, units) or (batch, time, units)
    inputs: Tensor,  # (batch, time, features)
    units: int,
) -> Tensor:
    """Return the mask after checking its shape."""
    batch, time, _ = inputs.shape
    expected = [(batch, units), (batch, time, units)]
    if not any(shapes_match(mask.shape, shape) for shape in expected):
        raise ValueError(
            f"`{name}` must have shape (batch, units) = {expected[0]} or (batch, time, units) = {expected[1]}. "
            f"Received: shape {tuple(mask.shape)}"
        )
    return mask

# SPDX-License-Identifier: Apache-2.0
"""The cases of the layer benchmark: a layer, a shape and a pass."""

from typing import NamedTuple


class Pass(NamedTuple):
    title: str
    backward: bool  # whether to compute the gradients of inputs and weights
    recurrent_dropout: float


PASSES = {
    "forward": Pass("forward", False, 0.0),
    "training": Pass("forward + backward", True, 0.0),
    "dropout": Pass("forward + backward, recurrent_dropout=0.3", True, 0.3),
}

GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}

SHAPES = [
    (64, 50, 256, 256),
    (64, 50, 512, 512),
    (32, 100, 1024, 1024),
    (32, 25, 128, 128),
    (1, 100, 512, 512),
    (128, 30, 650, 650),
]


class Case(NamedTuple):
    layer: str  # a key of GATES
    shape: tuple  # batch, time, features, units
    kind: str  # a key of PASSES

    @property
    def backward(self):
        return PASSES[self.kind].backward

    @property
    def recurrent_dropout(self):
        return PASSES[self.kind].recurrent_dropout

    @property
    def tiny(self):
        """The same case with a tiny shape."""
        return self._replace(shape=(2, 3, 8, 8))

    @property
    def flops(self):
        """Floating-point operations of the matrix products; the backward pass has twice those of the forward pass."""
        batch, time, features, units = self.shape
        forward = 2 * batch * time * GATES[self.layer] * units * (features + units)
        return 3 * forward if self.backward else forward

    @property
    def permanent_bytes(self):
        """Bytes of the inputs and the weights in float32, without biases."""
        batch, time, features, units = self.shape
        return 4 * (batch * time * features + GATES[self.layer] * units * (features + units))

    def __str__(self):
        return f"{self.layer} {self.shape}, {PASSES[self.kind].title}"

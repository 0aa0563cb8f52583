# SPDX-License-Identifier: Apache-2.0
"""What is run: a layer, a shape, a pass."""

from typing import NamedTuple


class Pass(NamedTuple):
    title: str
    backward: bool  # with the gradients of inputs and weights
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
    layer: str  # of GATES
    shape: tuple  # batch, time, features, units
    kind: str  # of PASSES

    @property
    def backward(self):
        return PASSES[self.kind].backward

    @property
    def recurrent_dropout(self):
        return PASSES[self.kind].recurrent_dropout

    @property
    def tiny(self):
        """The same of next to no size."""
        return self._replace(shape=(2, 3, 8, 8))

    @property
    def flops(self):
        """Floating-point operations of the matrix products alone; the backward pass has two for each one forward."""
        batch, time, features, units = self.shape
        forward = 2 * batch * time * GATES[self.layer] * units * (features + units)
        return 3 * forward if self.backward else forward

    @property
    def held(self):
        """Bytes of the inputs and the weights in float32, but for the biases."""
        batch, time, features, units = self.shape
        return 4 * (batch * time * features + GATES[self.layer] * units * (features + units))

    def __str__(self):
        return f"{self.layer} {self.shape}, {PASSES[self.kind].title}"

# SPDX-License-Identifier: Apache-2.0
"""The contenders of the seq2seq benchmark: a training step of the same model in several frameworks.

The model has embeddings, a bidirectional GRU encoder, a tanh layer from its last states to the first state of the
decoder, additive attention, a GRU decoder, softmax cross-entropy, and Adam. That of keras_seq is a `Seq2Seq`, those of
Keras and PyTorch are written with their layers. A maker is a function `(case) -> step`, where `step()` runs a training
step with teacher forcing and returns its loss. A maker raises a `ValueError` if its model has another number of
parameters.
"""

import functools
import os
from typing import NamedTuple

import numpy as np
from contest import Contender

START, FIRST_TOKEN = 2, 4  # ids below 4 are special in keras_seq: padding, unknown, start and end
SIZES = [(128, 10, 9, 50, 128, 256), (64, 30, 30, 8000, 256, 512)]


class Case(NamedTuple):
    batch: int
    source: int  # tokens
    target: int  # tokens
    vocabulary: int  # tokens, of source and target each
    embedding: int
    units: int

    @property
    def tiny(self):
        """The same case with tiny sizes."""
        return Case(2, 3, 3, 8, 8, 8)

    @property
    def parameters(self):
        """Number of parameters of the model."""
        memory = 2 * self.units
        encoder = 2 * self.gru(self.embedding)
        bridge = (memory + 1) * self.units
        attention = (memory + self.units + 1) * self.units
        decoder = self.gru(self.embedding + memory)
        readout = (self.units + 1) * self.vocabulary
        return 2 * self.vocabulary * self.embedding + encoder + bridge + attention + decoder + readout

    def gru(self, features):
        """Returns the number of parameters of a GRU, with a bias for the input and one for the recurrent product."""
        return 3 * self.units * (features + self.units + 2)

    @property
    def permanent_bytes(self):
        """Bytes of the weights and the two moments of Adam in float32."""
        return 3 * 4 * self.parameters

    def draw(self):
        """Returns random token ids of sources, of what the decoder reads, and of targets, without any padding."""
        random = np.random.default_rng(0)
        source, target = (
            random.integers(FIRST_TOKEN, self.vocabulary, size=(self.batch, n), dtype="int32")
            for n in (self.source, self.target)
        )
        return source, np.insert(target[:, :-1], 0, START, axis=1), target

    def __str__(self):
        return f"training step {tuple(self)}"


def keras_seq_step(jit_compile, implementation, case):
    import keras_seq

    sizes = (case.vocabulary, case.embedding, case.units, "gru")
    parts = [make(*sizes, implementation=implementation) for make in (keras_seq.Encoder, keras_seq.Decoder)]
    for layer in [*parts[0].recurrent_layers, *parts[1].recurrent_layers()]:
        getattr(layer, "forward_layer", layer).choose_implementation()  # raises here rather than during tracing
    model = keras_seq.Seq2Seq(*parts)
    _check_parameters(case, model.count_params())
    model.compile("adam", metrics=None, jit_compile=jit_compile)
    source, inputs, target = case.draw()
    return functools.partial(model.train_on_batch, (source, inputs), target)


def keras_step(jit_compile, case):
    import keras
    from keras import layers, ops

    class AttentionCell(layers.Layer):
        """A GRU cell with attention. The memory is part of the state, because `layers.RNN` has no constants."""

        def __init__(self):
            super().__init__()
            self.cell = layers.GRUCell(case.units)
            self.query = layers.Dense(case.units, use_bias=False)
            self.score = layers.Dense(1, use_bias=False)
            self.shapes = [(case.source, case.units), (case.source, 2 * case.units), (case.source,)]
            self.state_size = [case.units, *map(int, map(np.prod, self.shapes))]
            self.output_size = case.units

        def build(self, input_shape):
            self.cell.build((None, input_shape[-1] + 2 * case.units))
            self.query.build((None, case.units))
            self.score.build((None, None, case.units))

        def call(self, inputs, states, training=False):
            state, *constants = states
            keys, memory, mask = (ops.reshape(c, (-1, *s)) for c, s in zip(constants, self.shapes, strict=True))
            energies = self.score(ops.tanh(keys + self.query(state)[:, None]))[..., 0]  # (batch, source)
            weights = ops.softmax(energies + 1e9 * (mask - 1))
            context = ops.sum(weights[..., None] * memory, axis=1)
            output, [state] = self.cell(ops.concatenate([inputs, context], axis=-1), [state], training=training)
            return output, [state, *constants]

    def decode(inputs, memory, state, mask):
        keys = layers.Dense(case.units, use_bias=False)(memory)
        constants = [layers.Flatten()(keys), layers.Flatten()(memory), ops.cast(mask, "float32")]
        return layers.RNN(AttentionCell(), return_sequences=True)(inputs, initial_state=[state, *constants])

    source = keras.Input((case.source,), dtype="int32")
    inputs = keras.Input((case.target,), dtype="int32")
    mask = keras.Input((case.source,), dtype="bool")
    encoder = layers.Bidirectional(layers.GRU(case.units, return_sequences=True, return_state=True))
    memory, *states = encoder(layers.Embedding(case.vocabulary, case.embedding)(source))
    state = layers.Dense(case.units, activation="tanh")(layers.Concatenate()(states))
    outputs = decode(layers.Embedding(case.vocabulary, case.embedding)(inputs), memory, state, mask)
    model = keras.Model([source, inputs, mask], layers.Dense(case.vocabulary)(outputs))
    _check_parameters(case, model.count_params())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, jit_compile=jit_compile)
    source, inputs, target = case.draw()
    return functools.partial(model.train_on_batch, [source, inputs, np.ones(source.shape, bool)], target)


def torch_model(case):
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            units, memory = case.units, 2 * case.units
            self.source_embedding = nn.Embedding(case.vocabulary, case.embedding)
            self.target_embedding = nn.Embedding(case.vocabulary, case.embedding)
            self.encoder = nn.GRU(case.embedding, units, batch_first=True, bidirectional=True)
            self.bridge = nn.Linear(memory, units)
            self.key = nn.Linear(memory, units, bias=False)
            self.query = nn.Linear(units, units, bias=False)
            self.score = nn.Linear(units, 1, bias=False)
            self.cell = nn.GRUCell(case.embedding + memory, units)
            self.readout = nn.Linear(units, case.vocabulary)

        def forward(self, source, target, mask):
            memory, states = self.encoder(self.source_embedding(source))
            state = torch.tanh(self.bridge(torch.cat([*states], -1)))
            keys, outputs = self.key(memory), []
            for inputs in self.target_embedding(target).unbind(1):
                energies = self.score(torch.tanh(keys + self.query(state)[:, None]))[..., 0]  # (batch, source)
                weights = energies.masked_fill(~mask, -1e9).softmax(-1)
                context = torch.bmm(weights[:, None], memory)[:, 0]
                state = self.cell(torch.cat([inputs, context], -1), state)
                outputs.append(state)
            return self.readout(torch.stack(outputs, 1))

    return Model()


def torch_step(case):
    import torch

    torch.set_num_threads(os.cpu_count())
    model = torch_model(case)
    _check_parameters(case, sum(weight.numel() for weight in model.parameters()))
    optimizer = torch.optim.Adam(model.parameters())
    source, inputs, target = (torch.from_numpy(ids).long() for ids in case.draw())
    mask = torch.ones(source.shape, dtype=torch.bool)

    def step():
        optimizer.zero_grad()
        logits = model(source, inputs, mask)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _check_parameters(case, count):
    if count != case.parameters:
        raise ValueError(f"The model must have {case.parameters:,} parameters, like the others. Received: {count:,}")


CONTENDERS = [
    Contender("native", functools.partial(keras_seq_step, False, "native")),
    Contender("native-jit", functools.partial(keras_seq_step, True, "native")),
    Contender("xla", functools.partial(keras_seq_step, False, "xla")),
    Contender("xla-jit", functools.partial(keras_seq_step, True, "xla")),
    Contender("keras", functools.partial(keras_step, False)),
    Contender("keras-jit", functools.partial(keras_step, True)),
    Contender("torch", torch_step),
]
LEGEND = (
    "A bidirectional GRU encoder, additive attention, a GRU decoder, softmax and Adam. native, xla: keras_seq.Seq2Seq "
    "with that implementation, without metrics; keras: keras.layers.GRU and keras.layers.RNN over an attention cell. "
    "In a TensorFlow graph; -jit: under `jit_compile=True`. PyTorch: eager."
)

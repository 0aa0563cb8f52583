# SPDX-License-Identifier: Apache-2.0
"""The teacher-forced attention decoder: a recurrence that looks at a memory before each step."""

import keras
from keras import ops

from keras_seq.layers.attention import BahdanauAttention
from keras_seq.layers.cells import make_cell
from keras_seq.ops import recurrence
from keras_seq.ops.attention_math import AdditiveAttention, AttentionWeights
from keras_seq.ops.cell_math import RecurrentWeights
from keras_seq.ops.implementation import check_implementation, choose_implementation


@keras.saving.register_keras_serializable("keras_seq")
class AttentionDecoder(keras.layers.Layer):
    """A recurrent layer that attends to a memory before each step (Bahdanau, Cho & Bengio 2015).

    `a_t = softmax_s(v . tanh(h_{t-1} W_q + m_s W_k))`, `context_t = sum_s a_ts m_s`, then the cell on
    `[x_t, context_t]`. Called on whole target sequences (teacher forcing) it is one scan, whose derivative computes
    the `tanh` again instead of keeping target * source * units numbers; `step` runs one step for a search.

    Args:
        units: size of the state and of the output.
        cell: "lstm", "gru" or "rnn".
        attention: a `BahdanauAttention`; `BahdanauAttention(units)` by default.
        dropout: fraction of the features of the inputs to drop, one mask a sequence.
        recurrent_dropout: fraction of the previous output's units to drop in the recurrent product, likewise.
        seed: of the dropout masks.
        return_state: whether to return the final state too.
        implementation: "auto", "native" or "xla" (`keras_seq.explain` tells which runs).

    Call arguments:
        inputs: (batch, time, features).
        memory: (batch, source, memory features).
        initial_state: list of states, each (batch, units); zeros by default.
        inputs_mask: (batch, time) booleans, True = keep. A masked step leaves the state as it was.
        memory_mask: (batch, source) booleans, True = keep. Where all is masked, the context is zero.
        return_attention_scores: whether to return the weights a too.
        training: whether to apply dropout.

    Returns:
        The outputs (batch, time, units), or a tuple of them, with `return_attention_scores` the weights (batch,
        time, source), and with `return_state` the final states.

    Example:
        >>> import numpy as np
        >>> decoder = AttentionDecoder(4, cell="gru")
        >>> inputs, memory = np.ones((2, 3, 5)), np.ones((2, 6, 8))
        >>> outputs, weights = decoder(inputs, memory, return_attention_scores=True)
        >>> outputs.shape, weights.shape
        (TensorShape([2, 3, 4]), TensorShape([2, 3, 6]))
    """

    def __init__(
        self,
        units,
        cell="lstm",
        attention=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        return_state=False,
        implementation="auto",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units = units
        self.cell_type = cell
        self.cell = make_cell(
            cell, units, dropout=dropout, recurrent_dropout=recurrent_dropout, seed=seed, dtype=self.dtype_policy
        )
        self.attention = BahdanauAttention(units, dtype=self.dtype_policy) if attention is None else attention
        self.return_state = return_state
        self.implementation = check_implementation(implementation)
        self.supports_masking = True

    @property
    def state_size(self):
        """The sizes of the states, a list."""
        sizes = self.cell.state_size
        return list(sizes) if isinstance(sizes, (list, tuple)) else [sizes]

    def choose_implementation(self):
        """The implementation that runs, and why: a `Choice` of `keras_seq.ops.implementation`."""
        equations = AdditiveAttention(self.cell.equations)
        return choose_implementation(self.implementation, equations, self.compute_dtype)

    def build(self, inputs_shape, memory_shape):
        self.cell.build((inputs_shape[0], inputs_shape[-1] + memory_shape[-1]))
        if not self.attention.built:  # it is when it comes from the config of a built decoder
            self.attention.build([(inputs_shape[0], inputs_shape[1], self.units), memory_shape])

    def get_initial_state(self, batch_size):
        """Zeros, a list of (batch_size, units)."""
        return [ops.zeros((batch_size, size), dtype=self.compute_dtype) for size in self.state_size]

    def call(
        self,
        inputs,
        memory,
        initial_state=None,
        inputs_mask=None,
        memory_mask=None,
        return_attention_scores=False,
        training=False,
    ):
        drawn = self.cell.over(inputs, training=training)
        bias, recurrent_bias = self.cell.split_bias()
        outputs, state, weights = recurrence.attention_decoder(
            drawn.cell,
            drawn.inputs,
            memory,
            kernel=drawn.kernel,
            recurrent_kernel=drawn.recurrent_kernel,
            bias=bias,
            recurrent_bias=recurrent_bias,
            query_kernel=self.attention.query_kernel,
            score_vector=self.attention.score_vector,
            keys=self.attention.project_memory(memory),
            memory_mask=memory_mask,
            recurrent_dropout_mask=drawn.recurrent_dropout_mask,
            initial_state=initial_state,
            mask=inputs_mask,
            recompute=not training,
            implementation=self.implementation,
        )
        results = (outputs,)
        if return_attention_scores:
            results += (weights,)
        if self.return_state:
            results += tuple(state)
        return results if len(results) > 1 else outputs

    def step(self, inputs, states, memory, keys, memory_mask=None):
        """One step at inference, for a search.

        Args:
            inputs: (batch, features).
            states: list of (batch, units).
            memory: (batch, source, memory features).
            keys: `self.attention.project_memory(memory)`, computed once.
            memory_mask: (batch, source) booleans, True = keep.

        Returns:
            `(output, states, weights)`: (batch, units), a list of (batch, units), and (batch, source).
        """
        features = inputs.shape[-1]
        bias, recurrent_bias = self.cell.split_bias()
        kernel = ops.convert_to_tensor(self.cell.kernel)
        projected = ops.matmul(inputs, kernel[:features])
        if bias is not None:
            projected = projected + bias
        equations = AdditiveAttention(self.cell.equations)
        weights = AttentionWeights(
            cell=RecurrentWeights(self.cell.recurrent_kernel, recurrent_bias),
            context_kernel=kernel[features:],
            query_kernel=self.attention.query_kernel,
            score_vector=self.attention.score_vector,
            keys=keys,
            memory=memory,
            memory_mask=None if memory_mask is None else ops.cast(memory_mask, memory.dtype),
        )
        states, (alignment,), _ = equations.step(projected, tuple(states), equations.prepare(weights))
        return states[0], list(states), alignment

    def compute_mask(self, inputs, previous_mask=None):
        return previous_mask

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "cell": self.cell_type,
            "attention": keras.saving.serialize_keras_object(self.attention),
            "dropout": self.cell.dropout,
            "recurrent_dropout": self.cell.recurrent_dropout,
            "seed": self.cell.seed,
            "return_state": self.return_state,
            "implementation": self.implementation,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["attention"] = keras.saving.deserialize_keras_object(config["attention"])
        return cls(**config)

# SPDX-License-Identifier: Apache-2.0
"""The decoder: from a memory and the tokens so far to scores of the next token."""

import contextlib

import keras
from keras import ops

from keras_seq.layers import AttentionDecoder, LockedDropout, LuongAttention
from keras_seq.layers.recurrent import make_layer
from keras_seq.ops.masks import zero_masked_positions
from keras_seq.ops.random import child_seed


@keras.saving.register_keras_serializable("keras_seq")
class Decoder(keras.layers.Layer):
    """A recurrent language model of the target, told of the source by attention or by its first state alone.

    The first state is `tanh(summary W + b)`. Without attention it is all that the decoder knows of the source
    (Sutskever, Vinyals & Le 2014). With it, each step looks at the memory, in one of two orders:

    - `attend="before"` (Bahdanau, Cho & Bengio 2015): the last output asks, and the cell reads the context. The logits
      are made of the cell's output.
    - `attend="after"` (Luong, Pham & Manning 2015): the new output h asks, and the logits are made of the attentional
      vector `tanh([h, context] W)` of `units` numbers. With `input_feeding` the next step reads this vector beside its
      token; without, the cell runs over the whole target first, which is faster.

    Args:
        vocabulary_size: number of target tokens, the special ones included.
        embedding_dim: size of an embedding.
        units: size of the state.
        cell: "lstm", "gru" or "rnn".
        attention: "bahdanau", "luong" (`LuongAttention("general")`), "monotonic", an attention layer of
            `keras_seq.layers`, or None.
        dropout: fraction of the features to drop, one mask a sequence, from the embeddings and from the outputs.
        recurrent_dropout: as of `keras_seq.layers.LSTM`.
        seed: of the dropout masks, and of the noise of an attention given by name. All parts draw their own numbers,
            also beside an `Encoder` with the same seed.
        implementation: as of `keras_seq.layers.LSTM`.
        attend: "before" or "after" the cell. By default that of the paper: "after" for "luong" and a `LuongAttention`,
            and for `input_feeding=False`, else "before".
        input_feeding: whether the cell reads what the attention saw.

    Call arguments:
        tokens: (batch, time) integers, the target shifted right.
        memory: (batch, source, features).
        summary: (batch, state features).
        mask: (batch, time) booleans, True = keep. Masked steps cost a kernel nothing; their logits mean nothing.
        memory_mask: (batch, source) booleans, True = keep.
        return_attention_scores: whether to return the attention weights too.
        training: whether to apply dropout.

    Returns:
        Logits (batch, time, vocabulary); with `return_attention_scores` also the weights (batch, time, source), or
        (batch, time, 0) without attention.

    Example:
        >>> import numpy as np
        >>> decoder = Decoder(vocabulary_size=12, embedding_dim=8, units=16)
        >>> logits = decoder(np.array([[2, 4, 5]]), np.ones((1, 6, 32), "float32"), np.ones((1, 64), "float32"))
        >>> logits.shape
        TensorShape([1, 3, 12])
    """

    def __init__(
        self,
        vocabulary_size,
        embedding_dim,
        units,
        cell="lstm",
        attention="bahdanau",
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        implementation="auto",
        *,
        attend=None,
        input_feeding=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.embedding_dim = embedding_dim
        self.units = units
        self.cell = cell
        self.attention = attention
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.seed = seed
        self.implementation = implementation
        self.attend = attend
        self.input_feeding = input_feeding
        self.embedding = keras.layers.Embedding(vocabulary_size, embedding_dim, dtype=self.dtype_policy)
        seeds = {part: child_seed(seed, "Decoder", part) for part in ("input_dropout", "recurrence", "output_dropout")}
        self.input_dropout = LockedDropout(dropout, seed=seeds["input_dropout"], dtype=self.dtype_policy)
        self.recurrence = self._make_recurrence(seeds["recurrence"])
        state_sizes = self.recurrence.state_size
        self.bridges = [keras.layers.Dense(n, activation="tanh", dtype=self.dtype_policy) for n in state_sizes]
        self.output_dropout = LockedDropout(dropout, seed=seeds["output_dropout"], dtype=self.dtype_policy)
        self.readout = keras.layers.Dense(vocabulary_size, dtype=self.dtype_policy)
        self.supports_masking = True

    def _make_recurrence(self, seed):
        options = {
            "recurrent_dropout": self.recurrent_dropout,
            "seed": seed,
            "implementation": self.implementation,
            "dtype": self.dtype_policy,
        }
        if self.attention is None:
            if self.attend is not None or not self.input_feeding:
                raise ValueError(
                    "`attend` and `input_feeding` need an `attention`. Received: attention=None, "
                    f"attend={self.attend!r}, input_feeding={self.input_feeding}"
                )
            return make_layer(self.cell, self.units, return_sequences=True, **options)
        attend = self.attend
        if attend is None and (self.attention == "luong" or isinstance(self.attention, LuongAttention)):
            attend = "after"
        after = attend == "after" or (attend is None and not self.input_feeding)
        return AttentionDecoder(
            self.units,
            cell=self.cell,
            attention=self.attention,
            input_feeding=self.input_feeding,
            attend=attend,
            attentional_units=self.units if after else None,
            **options,
        )

    def build(self, tokens_shape, memory_shape, summary_shape):
        self.embedding.build((None, None))
        inputs_shape = (None, None, self.embedding_dim)
        if self.attention is None:
            self.recurrence.build(inputs_shape)
        else:
            self.recurrence.build(inputs_shape, (None, None, memory_shape[-1]))
        for bridge in self.bridges:
            bridge.build((None, summary_shape[-1]))
        self.readout.build((None, None, self.units))

    def call(self, tokens, memory, summary, mask=None, memory_mask=None, return_attention_scores=False, training=False):
        inputs = self.input_dropout(self.embedding(tokens), training=training)
        initial_state = self.start(summary)
        if self.attention is None:
            outputs = self.recurrence(inputs, initial_state=initial_state, mask=mask, training=training)
            weights = ops.zeros((*ops.shape(outputs)[:2], 0), outputs.dtype)
        else:
            outputs, weights = self.recurrence(
                inputs,
                memory,
                initial_state=initial_state,
                mask=mask,
                memory_mask=memory_mask,
                return_attention_scores=True,
                training=training,
            )
        logits = self.readout(self.output_dropout(outputs, training=training))
        logits = ops.copy(logits)  # without the mask that Keras attached: the loss leaves out padding itself
        return (logits, weights) if return_attention_scores else logits

    def start(self, summary, memory=None):
        """The first state, a list of (batch, units), from the encoder's summary.

        With a memory those of the attention follow, which a search needs: with `attend="after"` and input feeding, with
        coverage, and if monotonic it has one.
        """
        state = [bridge(summary) for bridge in self.bridges]
        if memory is None or self.attention is None:
            return state
        return [*state, *self.recurrence.initial_attention_state(memory)]

    def stepper(self, memory, memory_mask=None):
        """The decoder as a search sees it: one step at inference over a memory whose keys are computed once.

        Args:
            memory: (batch, source, features).
            memory_mask: (batch, source) booleans, True = keep.

        Returns:
            Function `(tokens, state) -> (logits, state, weights)`: tokens (batch,), state `start(summary, memory)`,
            logits (batch, vocabulary), weights (batch, source), or (batch, 0) without attention.
        """
        return self._stepper(memory, memory_mask)

    @contextlib.contextmanager
    def training_stepper(self, memory, memory_mask=None):
        """`stepper` in training, for the steps within a `with` block.

        Its dropout masks hold in all steps, and are those that the next `call` in training draws. Any noise of the
        attention is not: each step draws its own.
        """
        batch, dtype = ops.shape(memory)[0], self.compute_dtype
        inputs, outputs = ops.ones((batch, self.embedding_dim), dtype), ops.ones((batch, self.units), dtype)
        cell = self.recurrence.cell
        with keras.StatelessScope():  # in it seeds stand still
            masks = (
                self.input_dropout(inputs[:, None], training=True)[:, 0],
                self.output_dropout(outputs[:, None], training=True)[:, 0],
            )
            cell.get_dropout_mask(inputs)  # as in a loop of Keras, the cell keeps its masks until they are reset
            cell.get_recurrent_dropout_mask(outputs)
        try:
            yield self._stepper(memory, memory_mask, masks)
        finally:
            cell.reset_dropout_mask()
            cell.reset_recurrent_dropout_mask()

    def _stepper(self, memory, memory_mask, masks=None):
        """The steps at inference, or in training with masks of inputs (batch, embedding_dim) and outputs."""
        keys = None
        if self.attention is not None:
            memory = zero_masked_positions(memory, memory_mask)
            keys = self.recurrence.project_memory(memory)
        training = masks is not None

        def step(tokens, state):
            inputs = self.embedding(tokens)  # (batch, embedding_dim)
            if training:
                inputs = inputs * masks[0]
            if keys is None:
                output, state = self.recurrence.cell(inputs, state, training=training)
                weights = ops.zeros((ops.shape(output)[0], 0), output.dtype)
            else:
                output, state, weights = self.recurrence.step(inputs, state, memory, keys, memory_mask, training)
            if training:
                output = output * masks[1]
            return self.readout(output), state, weights

        return step

    def compute_output_spec(
        self, tokens, memory, summary, mask=None, memory_mask=None, return_attention_scores=False, training=False
    ):
        logits = keras.KerasTensor((*tokens.shape, self.vocabulary_size), dtype=self.compute_dtype)
        if not return_attention_scores:
            return logits
        source = 0 if self.attention is None else memory.shape[1]
        return logits, keras.KerasTensor((*tokens.shape, source), dtype=self.compute_dtype)

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def get_config(self):
        names = "vocabulary_size embedding_dim units cell attention dropout recurrent_dropout seed implementation"
        config = {name: getattr(self, name) for name in [*names.split(), "attend", "input_feeding"]}
        if isinstance(self.attention, keras.layers.Layer):
            config["attention"] = keras.saving.serialize_keras_object(self.attention)
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        if isinstance(config["attention"], dict):
            config = {**config, "attention": keras.saving.deserialize_keras_object(config["attention"])}
        return cls(**config)

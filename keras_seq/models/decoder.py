# SPDX-License-Identifier: Apache-2.0
"""The decoder: maps a memory and the previous tokens to logits of the next token."""

import contextlib

import keras
from keras import ops

from keras_seq.layers import AttentionDecoder, LockedDropout, LuongAttention
from keras_seq.layers.recurrent_layer import make_layer
from keras_seq.layers.search_step import choose_search_implementation, start_search
from keras_seq.ops.masks import zero_masked_positions
from keras_seq.ops.random import child_seed


@keras.saving.register_keras_serializable("keras_seq")
class Decoder(keras.layers.Layer):
    """A recurrent language model of the target, conditioned on the source.

    The initial state is `tanh(summary W + b)`. Without attention, it is the only information about the source
    (Sutskever, Vinyals & Le 2014). With attention, each step also attends to the memory, in one of two orders:

    - `attend="before"` (Bahdanau, Cho & Bengio 2015): the query is the previous output of the cell, and the cell reads
      the context. The logits are computed from the cell's output.
    - `attend="after"` (Luong, Pham & Manning 2015): the query is the new output h of the cell. The logits are computed
      from the attentional vector `tanh([h, context] W)` of size `units`. With `input_feeding`, the next step reads this
      vector beside its token. Without it, the cell first runs over the whole target, which is faster.

    Args:
        vocabulary_size: number of target tokens, including the special ones.
        embedding_dim: size of the embeddings.
        units: size of the state.
        cell: "lstm", "gru", "mgu" or "simple_rnn".
        attention: "bahdanau", "luong" (`LuongAttention("general")`), "monotonic", an attention layer of
            `keras_seq.layers`, or None.
        dropout: fraction of the features of embeddings and outputs to drop. All time steps share a mask.
        recurrent_dropout: see `keras_seq.layers.LSTM`.
        seed: random seed of the dropout masks, and of the noise of an attention given by name. Each part draws its own
            numbers, which also differ from those of an `Encoder` with the same seed.
        implementation: see `keras_seq.layers.LSTM`.
        attend: whether to attend "before" or "after" the cell. The default is "after" for "luong", a `LuongAttention`
            and `input_feeding=False`, else "before", as in the papers.
        input_feeding: whether the cell reads the context or the attentional vector.

    Call arguments:
        tokens: integers (batch, time), the target shifted right.
        memory: tensor (batch, source, features).
        summary: tensor (batch, state features).
        mask: booleans (batch, time), True = keep. The native kernels skip masked steps. Ignore the logits of masked
            steps.
        memory_mask: booleans (batch, source), True = keep.
        return_attention_scores: whether to also return the attention weights.
        training: whether to apply dropout.

    Returns:
        Logits (batch, time, vocabulary). With `return_attention_scores`, also the attention weights (batch, time,
        source), or (batch, time, 0) without attention.

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
        self.recurrent_layer = self._make_recurrent_layer(seeds["recurrence"])
        state_sizes = self.recurrent_layer.state_size
        self.bridges = [keras.layers.Dense(n, activation="tanh", dtype=self.dtype_policy) for n in state_sizes]
        self.output_dropout = LockedDropout(dropout, seed=seeds["output_dropout"], dtype=self.dtype_policy)
        self.readout = keras.layers.Dense(vocabulary_size, dtype=self.dtype_policy)
        self.supports_masking = True

    def _make_recurrent_layer(self, seed):
        options = {
            "recurrent_dropout": self.recurrent_dropout,
            "seed": seed,
            "implementation": self.implementation,
            "dtype": self.dtype_policy,
        }
        if self.attention is None:
            if self.attend is not None or not self.input_feeding:
                raise ValueError(
                    "`attend` must be None and `input_feeding` True if `attention` is None. Received: "
                    f"attend={self.attend!r}, input_feeding={self.input_feeding}"
                )
            return make_layer(self.cell, self.units, return_sequences=True, **options)
        attend = self.attend
        if attend is None and (self.attention == "luong" or isinstance(self.attention, LuongAttention)):
            attend = "after"
        attends_after = attend == "after" or (attend is None and not self.input_feeding)
        return AttentionDecoder(
            self.units,
            cell=self.cell,
            attention=self.attention,
            input_feeding=self.input_feeding,
            attend=attend,
            attentional_units=self.units if attends_after else None,
            **options,
        )

    def build(self, tokens_shape, memory_shape, summary_shape):
        self.embedding.build((None, None))
        inputs_shape = (None, None, self.embedding_dim)
        if self.attention is None:
            self.recurrent_layer.build(inputs_shape)
        else:
            self.recurrent_layer.build(inputs_shape, (None, None, memory_shape[-1]))
        for bridge in self.bridges:
            bridge.build((None, summary_shape[-1]))
        self.readout.build((None, None, self.units))

    def call(self, tokens, memory, summary, mask=None, memory_mask=None, return_attention_scores=False, training=False):
        inputs = self.input_dropout(self.embedding(tokens), training=training)
        initial_state = self.get_initial_state(summary)
        if self.attention is None:
            outputs = self.recurrent_layer(inputs, initial_state=initial_state, mask=mask, training=training)
            weights = ops.zeros((*ops.shape(outputs)[:2], 0), outputs.dtype)
        else:
            outputs, weights = self.recurrent_layer(
                inputs,
                memory,
                initial_state=initial_state,
                mask=mask,
                memory_mask=memory_mask,
                return_attention_scores=True,
                training=training,
            )
        logits = self.readout(self.output_dropout(outputs, training=training))
        logits = ops.copy(logits)  # the copy has no mask, because the loss itself excludes padding
        return (logits, weights) if return_attention_scores else logits

    def get_initial_state(self, summary, memory=None):
        """Returns the initial state, a list of tensors (batch, units), from the encoder's summary.

        Given a memory, the list continues with the states of the attention, which a search needs. There are some with
        input feeding after the cell, coverage or monotonic attention.
        """
        state = [bridge(summary) for bridge in self.bridges]
        if memory is None or self.attention is None:
            return state
        return [*state, *self.recurrent_layer.initial_attention_state(memory)]

    def start_search(self, memory, summary, memory_mask=None, num_beams=1):
        """Prepares a search: computes what all of its steps share.

        Args:
            memory: tensor (batch, source, features).
            summary: tensor (batch, state features).
            memory_mask: booleans (batch, source), True = keep.
            num_beams: how many hypotheses of each source a step continues.

        Returns:
            `(step, state, memory)`: the step function of `keras_seq.decoding.search`, its first state, and what it
            reads of each source. The function is `step(tokens, state, memory, is_live=None) -> (logits, state,
            attention_weights)`. Its rows are the sources, each repeated for its beams: tokens (rows,), logits (rows,
            vocabulary), attention weights (rows, source), or (rows, 0) without attention. The memory keeps one row for
            each source.
        """
        run_layer, tensors = start_search(self.recurrent_layer, self.embedding, memory, memory_mask, num_beams)

        def step(tokens, state, memory, is_live=None):
            output, state, weights = run_layer(tokens, state, memory, is_live)
            return self.readout(output), state, weights

        return step, self.get_initial_state(summary, memory), tensors

    def choose_implementation(self):
        """Return what runs the steps of a search, and why: a `Choice` of `keras_seq.ops.implementation`."""
        return choose_search_implementation(self.recurrent_layer)

    @contextlib.contextmanager
    def training_step_function(self, memory, memory_mask=None):
        """Yields a function that runs one step of the decoder in training mode, for use in a `with` block.

        It is `step(tokens, state) -> (logits, state, weights)`, with tokens (batch,), and `get_initial_state(summary,
        memory)` as its first state. All steps share their dropout masks, which are the masks that the next `call` in
        training draws. Noise of the attention is drawn anew in each step.
        """
        batch, dtype = ops.shape(memory)[0], self.compute_dtype
        inputs, outputs = ops.ones((batch, self.embedding_dim), dtype), ops.ones((batch, self.units), dtype)
        cell = self.recurrent_layer.cell
        with keras.StatelessScope():  # does not advance the seeds
            masks = (
                self.input_dropout(inputs[:, None], training=True)[:, 0],
                self.output_dropout(outputs[:, None], training=True)[:, 0],
            )
            cell.get_dropout_mask(inputs)  # the cell keeps its masks until they are reset
            cell.get_recurrent_dropout_mask(outputs)
        try:
            yield self._training_step(memory, memory_mask, *masks)
        finally:
            cell.reset_dropout_mask()
            cell.reset_recurrent_dropout_mask()

    def _training_step(self, memory, memory_mask, input_mask, output_mask):
        """Returns the function of a step, with dropout masks for inputs (batch, embedding_dim) and outputs."""
        keys = None
        if self.attention is not None:
            memory = zero_masked_positions(memory, memory_mask)
            keys = self.recurrent_layer.project_memory(memory)

        def step(tokens, state):
            inputs = self.embedding(tokens) * input_mask  # (batch, embedding_dim)
            if keys is None:
                output, state = self.recurrent_layer.cell(inputs, state, training=True)
                weights = ops.zeros((ops.shape(output)[0], 0), output.dtype)
            else:
                output, state, weights = self.recurrent_layer.step(inputs, state, memory, keys, memory_mask, True)
            return self.readout(output * output_mask), state, weights

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

# SPDX-License-Identifier: Apache-2.0
"""The decoder: maps a memory and the previous tokens to logits of the next token."""

import contextlib
import functools

import keras
from keras import ops, tree

from keras_seq.layers import AttentionDecoder, LockedDropout
from keras_seq.layers.foreign_cell import pack_states
from keras_seq.layers.recurrent_layer import CellArgument, output_units
from keras_seq.layers.search_step import choose_search_implementation, start_search
from keras_seq.layers.training_step import training_step
from keras_seq.models.decoder_layers import make_decoder_layers
from keras_seq.models.token_embedding import build_embedding, make_embedding, make_readout, serialize_initializer
from keras_seq.ops.implementation import Choice
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

    With several layers, the first one attends "before", and the others read its outputs; or the last one attends
    "after", and what it attended is fed to its own cell. The states of all layers start from the summary.

    Args:
        vocabulary_size: number of target tokens, including the special ones.
        embedding_dim: size of the embeddings.
        units: size of the output of each layer. It may be None if `cell` is an object, which has its own.
        cell: "lstm", "gru", "mgu" or "simple_rnn" ("rnn" is the same); a cell of keras_seq, of Keras or your own, as
            `keras_seq.layers.LSTMCell(256, layer_norm=True)`; or a recurrent layer of keras_seq or Keras. An object is
            copied for each layer. Copies have their own weights, initial values and seeds.
        attention: "bahdanau", "luong" (`LuongAttention("general")`), "monotonic", an attention layer of
            `keras_seq.layers`, or None.
        dropout: fraction of the features to drop: of the embeddings, between layers, and of the outputs. All time steps
            share a mask.
        recurrent_dropout: see `keras_seq.layers.LSTM`. An object has its own.
        seed: random seed of the dropout masks, and of the noise of an attention given by name. Each part draws its own
            numbers, which also differ from those of an `Encoder` with the same seed.
        implementation: see `keras_seq.layers.LSTM`.
        attend: whether to attend "before" or "after" the cell. The default is "after" for "luong", a `LuongAttention`
            and `input_feeding=False`, else "before", as in the papers.
        input_feeding: whether the cell reads the context or the attentional vector.
        num_layers: number of recurrent layers; 1 if `cell` is a layer, which may be a stack itself.
        residual: whether each layer adds its inputs to its outputs (Wu et al. 2016), except the first one and the one
            that attends.
        embeddings_initializer: initializer of the embeddings, or a matrix (vocabulary_size, embedding_dim) of their
            initial values. A matrix is saved with the weights, not in the configuration.
        tie_embeddings: whether logits are products with the embeddings instead of with a matrix of their own (Press &
            Wolf 2017). If outputs and embeddings differ in size, a linear layer maps the outputs first.

    Call arguments:
        tokens: integers (batch, time), the target shifted right.
        memory: tensor (batch, source, features).
        summary: tensor (batch, state features).
        mask: booleans (batch, time), True = keep. The native kernels skip masked steps. Ignore the logits of masked
            steps.
        memory_mask: booleans (batch, source), True = keep.
        return_attention_scores: whether to also return the attention weights.
        training: whether to apply dropout.
        return_features: whether to return what the readout reads (batch, time, units) in the place of the logits, for a
            loss that does not need all logits at once.

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
        num_layers=1,
        residual=False,
        embeddings_initializer="uniform",
        tie_embeddings=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.embedding_dim = embedding_dim
        self._cell_argument = CellArgument(cell)
        self.attention = attention
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.seed = seed
        self.implementation = implementation
        self.attend = attend
        self.input_feeding = input_feeding
        self.num_layers = num_layers
        self.residual = residual
        self.tie_embeddings = tie_embeddings
        self.supports_masking = True
        options = {"tied": tie_embeddings, "dtype": self.dtype_policy}
        self.embedding = make_embedding(vocabulary_size, embedding_dim, embeddings_initializer, **options)
        self.input_dropout = self._make_dropout("input_dropout")
        layers = self._make_layers(units)
        self.layer_dropouts = [self._make_dropout("layer_dropout", i) for i in range(len(layers) - 1)]
        sizes = tree.flatten([layer.state_size for layer in layers])
        self.bridges = [keras.layers.Dense(n, activation="tanh", dtype=self.dtype_policy) for n in sizes]
        self.output_dropout = self._make_dropout("output_dropout")
        self.readout = make_readout(self.embedding, tie_embeddings, self.dtype_policy)
        self.units = output_units(layers[-1].cell)

    def _make_dropout(self, *path):
        return LockedDropout(self.dropout, seed=child_seed(self.seed, "Decoder", *path), dtype=self.dtype_policy)

    def _make_layers(self, units):
        names = "attention attend input_feeding seed recurrent_dropout implementation"
        options = {name: getattr(self, name) for name in names.split()}
        layers, self._has_residual = make_decoder_layers(
            self.cell, units, self.num_layers, self.residual, dtype=self.dtype_policy, **options
        )
        # The layer that attends, else the first one. Files of earlier versions have its weights by this name.
        self.recurrent_layer = next((layer for layer in layers if isinstance(layer, AttentionDecoder)), layers[0])
        self.other_layers = [layer for layer in layers if layer is not self.recurrent_layer]
        return layers

    @property
    def cell(self):
        """The argument `cell`, a name or the object that was given."""
        return self._cell_argument.cell

    @property
    def embeddings_initializer(self):
        """The initializer of the embeddings; the default one in the place of a matrix, once it is in the weights."""
        return self.embedding.embeddings_initializer

    @property
    def layers(self):
        """The layers with weights, in the order in which they run; `summary(expand_nested=True)` shows them."""
        return [self.embedding, *self.bridges, *self.recurrent_layers(), self.readout]

    def recurrent_layers(self):
        """Return the recurrent layers, a list from the first to the last one."""
        if getattr(self.recurrent_layer, "attend", "before") == "after":
            return [*self.other_layers, self.recurrent_layer]
        return [self.recurrent_layer, *self.other_layers]

    def build(self, tokens_shape, memory_shape, summary_shape):
        build_embedding(self.embedding)
        features = self.embedding_dim
        for layer in self.recurrent_layers():
            memory_shapes = [(None, None, memory_shape[-1])] if isinstance(layer, AttentionDecoder) else []
            layer.build((None, None, features), *memory_shapes)
            features = output_units(layer.cell)
        for bridge in self.bridges:
            bridge.build((None, summary_shape[-1]))
        self.readout.build((None, None, features))

    def call(
        self,
        tokens,
        memory,
        summary,
        mask=None,
        memory_mask=None,
        return_attention_scores=False,
        training=False,
        return_features=False,
    ):
        def run(layer, inputs, state):
            options = {"mask": mask, "training": training}
            if isinstance(layer, AttentionDecoder):
                options |= {"memory_mask": memory_mask, "return_attention_scores": True}
                outputs, weights = layer(inputs, memory, initial_state=state, **options)
            else:
                outputs = layer(inputs, initial_state=pack_states(layer.cell, state), **options)[0]
                weights = ops.zeros((*ops.shape(outputs)[:2], 0), outputs.dtype)
            return outputs, state, weights

        inputs = self.input_dropout(self.embedding(tokens), training=training)
        dropouts = [functools.partial(dropout, training=training) for dropout in self.layer_dropouts]
        outputs, _, weights = self._run_layers(run, inputs, self.get_initial_state(summary, memory), dropouts)
        features = self.output_dropout(outputs, training=training)
        results = features if return_features else self.readout(features)
        results = ops.copy(results)  # the copy has no mask, because the loss itself excludes padding
        return (results, weights) if return_attention_scores else results

    def _run_layers(self, run, outputs, state, dropouts=None):
        """Runs the layers one on another, over whole sequences or one step.

        Args:
            run: function `(layer, inputs, state) -> (outputs, state, attention_weights)`.
            outputs: what the first layer reads.
            state: list of tensors; see `get_initial_state`.
            dropouts: functions, one between any two layers.

        Returns:
            `(outputs, state, attention_weights)` of the last layer, all layers, and the one that attends.
        """
        new_state, attention_weights = [], None
        for i, layer in enumerate(self.recurrent_layers()):
            attends = isinstance(layer, AttentionDecoder)
            count = len(tree.flatten(layer.state_size)) + (layer.attention_states if attends else 0)
            inputs = dropouts[i - 1](outputs) if i and dropouts else outputs
            outputs, layer_state, weights = run(layer, inputs, state[:count])
            if i and self._has_residual and not attends:
                outputs = outputs + inputs
            if layer is self.recurrent_layer:
                attention_weights = weights
            state = state[count:]
            new_state += layer_state
        return outputs, new_state, attention_weights

    def get_initial_state(self, summary, memory=None):
        """Returns the initial state, a list of tensors (batch, units), from the encoder's summary.

        It has the states of the first layer, then those of the second one, and so on. Given a memory, those of the
        layer that attends are followed by the states of the attention, which a search needs. There are some with input
        feeding after the cell, coverage or monotonic attention.
        """
        state = [bridge(summary) for bridge in self.bridges]
        if memory is None or self.attention is None:
            return state
        position = 0
        for layer in self.recurrent_layers():
            position += len(tree.flatten(layer.state_size))
            if layer is self.recurrent_layer:
                break
        return [*state[:position], *self.recurrent_layer.initial_attention_state(memory), *state[position:]]

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
        steps, tensors = {}, {}
        for i, layer in enumerate(self.recurrent_layers()):
            embedding = None if i else self.embedding
            steps[layer], attended = start_search(layer, embedding, memory, memory_mask, num_beams)
            tensors |= attended

        def step(tokens, state, memory, is_live=None):
            output, state, weights = self._run_layers(
                lambda layer, inputs, state: steps[layer](inputs, state, memory, is_live), tokens, state
            )
            return self.readout(output), state, weights

        return step, self.get_initial_state(summary, memory), tensors

    def choose_implementation(self):
        """Return what runs the steps of a search, and why: a `Choice` of `keras_seq.ops.implementation`."""
        choices = [choose_search_implementation(layer) for layer in self.recurrent_layers()]
        return Choice(*("; ".join(dict.fromkeys(parts)) for parts in zip(*choices, strict=True)))

    @contextlib.contextmanager
    def training_step_function(self, memory, memory_mask=None):
        """Yields a function that runs one step of the decoder in training mode, for use in a `with` block.

        It is `step(tokens, state) -> (logits, state, weights)`, with tokens (batch,), and `get_initial_state(summary,
        memory)` as its first state. All steps share their dropout masks, which are the masks that the next `call` in
        training draws. Noise of the attention and zoneout are drawn anew in each step.
        """
        batch, dtype = ops.shape(memory)[0], self.compute_dtype
        sizes = [self.embedding_dim, *(output_units(layer.cell) for layer in self.recurrent_layers())]
        ones = [ops.ones((batch, size), dtype) for size in sizes]
        dropouts = [self.input_dropout, *self.layer_dropouts, self.output_dropout]
        with keras.StatelessScope():  # does not advance the seeds
            masks = [drop(x[:, None], training=True)[:, 0] for drop, x in zip(dropouts, ones, strict=True)]
        between = [functools.partial(ops.multiply, mask) for mask in masks[1:-1]]
        with contextlib.ExitStack() as stack:
            steps = {
                layer: stack.enter_context(training_step(layer, inputs, memory, memory_mask))
                for layer, inputs in zip(self.recurrent_layers(), ones[:-1], strict=True)
            }

            def step(tokens, state):
                inputs = self.embedding(tokens) * masks[0]  # (batch, embedding_dim)
                output, state, weights = self._run_layers(
                    lambda layer, inputs, state: steps[layer](inputs, state), inputs, state, between
                )
                return self.readout(output * masks[-1]), state, weights

            yield step

    def compute_output_shape(self, tokens_shape, memory_shape=None, summary_shape=None):
        return *tokens_shape, self.vocabulary_size

    def compute_output_spec(
        self,
        tokens,
        memory,
        summary,
        mask=None,
        memory_mask=None,
        return_attention_scores=False,
        training=False,
        return_features=False,
    ):
        size = self.units if return_features else self.vocabulary_size
        results = keras.KerasTensor((*tokens.shape, size), dtype=self.compute_dtype)
        if not return_attention_scores:
            return results
        source = 0 if self.attention is None else memory.shape[1]
        return results, keras.KerasTensor((*tokens.shape, source), dtype=self.compute_dtype)

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def get_config(self):
        names = (
            "vocabulary_size embedding_dim units attention dropout recurrent_dropout seed implementation attend "
            "input_feeding num_layers residual tie_embeddings"
        )
        config = {name: getattr(self, name) for name in names.split()}
        config["cell"] = self._cell_argument.get_config()
        config["embeddings_initializer"] = serialize_initializer(self.embedding)
        if isinstance(self.attention, keras.layers.Layer):
            config["attention"] = keras.saving.serialize_keras_object(self.attention)
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        if isinstance(config["attention"], dict):
            config = {**config, "attention": keras.saving.deserialize_keras_object(config["attention"])}
        return cls(**CellArgument.restore(config))

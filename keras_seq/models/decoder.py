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
from keras_seq.models.copying import PointerGenerator
from keras_seq.models.decoder_layers import make_decoder_layers
from keras_seq.models.deep_readout import compute_contexts, make_deep_readout, readable_memory
from keras_seq.models.features import append_features
from keras_seq.models.layer_norms import make_layer_norms
from keras_seq.models.token_dropout import TokenDropout
from keras_seq.models.token_embedding import build_embedding, make_embedding, make_readout, serialize_initializer
from keras_seq.ops.implementation import Choice
from keras_seq.ops.random import check_rate, child_seed


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
        copy: whether the decoder also copies tokens of the source, by its attention weights (pointer-generator; See,
            Liu & Manning 2017). Sources and targets must share one vocabulary: `P(w) = p_gen P_vocabulary(w) +
            (1 - p_gen) sum of the attention weights over the source positions that hold w`, where p_gen is a sigmoid of
            a linear function of context, embedding of the previous token, and s or t. Masked positions, padding and
            `[START]` are not copied, and P is normalized over the others; `[END]` and `[UNK]` are copied as any token.
        readout: how logits follow from the output s of the last layer. "linear": `s W + b`. "maxout": a deep readout
            (Bahdanau et al. 2015, appendix A.2.2), `t W + b` with `u = [s, e, c] U + d` and
            `t_j = max(u_j, u_{j + readout_units})`, for the embedding e of the previous token and the context c of the
            step, which is not there without attention. "tanh": `t = tanh([s, e, c] U + d)`.
        readout_units: size of t, by default that of s. `dropout` drops features of t, in the place of the outputs.
        layer_norm: whether to normalize the outputs of each recurrent layer (Ba, Kiros & Hinton 2016), after its
            residual connection. The recurrences are the same. Layer normalization inside a recurrence is an option of
            the cell, `keras_seq.layers.LSTMCell(256, layer_norm=True)`.
        token_dropout: probability that a token is replaced by `[UNK]` in training, each one independently (Bowman et
            al. 2016). `[START]` and padding stay. With scheduled sampling, predictions are replaced as true tokens are.

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
            loss that does not need all logits at once. Not for a decoder that copies, whose logits the readout alone
            does not determine.
        source_tokens: integers (batch, source), the source token at each position of the memory, if the decoder copies.
        features: tensor (batch, n) that is appended to the embedding at every step, or None.

    Returns:
        Logits (batch, time, vocabulary); those of a decoder that copies are log-probabilities, float32 under every
        dtype policy but float64. With `return_attention_scores`, also the attention weights (batch, time,
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
        copy=False,
        readout="linear",
        readout_units=None,
        layer_norm=False,
        token_dropout=0.0,
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
        self.copy = copy
        if copy and attention is None:
            raise ValueError("`copy=True` needs an `attention`, whose weights choose what to copy. Received: None")
        self.readout_units = readout_units
        self.layer_norm = layer_norm
        self.token_dropout = check_rate("token_dropout", token_dropout)
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
        self.pointer_generator = PointerGenerator(vocabulary_size, dtype=self.dtype_policy) if copy else None
        self._readout_name = readout  # the attribute `readout` is the layer
        self.deep_readout = make_deep_readout(readout, readout_units, self.units, self.dtype_policy)
        self.layer_norms = make_layer_norms(layer_norm, len(layers), self.dtype_policy)
        self._token_dropout = None
        if token_dropout:  # else it draws no seed, which would change those of what is made after it
            self._token_dropout = TokenDropout(token_dropout, child_seed(seed, "Decoder", "token_dropout"))

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
        deep_readout = [] if self.deep_readout is None else [self.deep_readout]
        copying = [self.pointer_generator] if self.copy else []
        return [
            *(self.embedding, *self.bridges, *self.recurrent_layers()),
            *(*self.layer_norms, *deep_readout, self.readout, *copying),
        ]

    def recurrent_layers(self):
        """Return the recurrent layers, a list from the first to the last one."""
        if getattr(self.recurrent_layer, "attend", "before") == "after":
            return [*self.other_layers, self.recurrent_layer]
        return [self.recurrent_layer, *self.other_layers]

    def build(self, tokens_shape, memory_shape, summary_shape, features_shape=None):
        build_embedding(self.embedding)
        self.features_units = features_shape[-1] if features_shape else 0
        self._memory_units = memory_shape[-1]
        features = self.embedding_dim + self.features_units
        for i, layer in enumerate(self.recurrent_layers()):
            memory_shapes = [(None, None, memory_shape[-1])] if isinstance(layer, AttentionDecoder) else []
            layer.build((None, None, features), *memory_shapes)
            features = output_units(layer.cell)
            if self.layer_norm:
                self.layer_norms[i].build((None, None, features))
        for bridge in self.bridges:
            bridge.build((None, summary_shape[-1]))
        if self.deep_readout is not None:
            sizes = [features, self.embedding_dim, *([] if self.attention is None else [memory_shape[-1]])]
            self.deep_readout.build(*((None, None, size) for size in sizes))
            features = self.deep_readout.units
        self.readout.build((None, None, features))
        if self.copy:
            self.pointer_generator.build(self.embedding_dim, features, memory_shape[-1])

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
        source_tokens=None,
        features=None,
    ):
        shared = self._read_source(memory, memory_mask, source_tokens)
        if self.copy and return_features:
            raise ValueError("`return_features` must be False for a decoder with `copy=True`. Received: True")

        def run(layer, inputs, state):
            options = {"mask": mask, "training": training}
            if isinstance(layer, AttentionDecoder):
                options |= {"memory_mask": memory_mask, "return_attention_scores": True}
                outputs, weights = layer(inputs, memory, initial_state=state, **options)
            else:
                outputs = layer(inputs, initial_state=pack_states(layer.cell, state), **options)[0]
                weights = ops.zeros((*ops.shape(outputs)[:2], 0), outputs.dtype)
            return outputs, state, weights

        if self._token_dropout is not None:
            tokens = self._token_dropout(tokens, training=training)
        inputs = append_features(self.embedding(tokens), features)
        inputs = self.input_dropout(inputs, training=training)
        dropouts = [functools.partial(dropout, training=training) for dropout in self.layer_dropouts]
        outputs, _, weights = self._run_layers(run, inputs, self.get_initial_state(summary, memory), dropouts)
        outputs = self._read_out(outputs, inputs, weights, shared)
        outputs = self.output_dropout(outputs, training=training)
        results = outputs if return_features else self._compute_logits(outputs, inputs, weights, shared)
        results = ops.copy(results)  # the copy has no mask, because the loss itself excludes padding
        return (results, weights) if return_attention_scores else results

    def _read_source(self, memory, memory_mask, source_tokens):
        """Returns what the logits of all steps read of the sources, beside the outputs: a dict of tensors."""
        if self.copy == (source_tokens is None):
            received = None if source_tokens is None else f"a tensor of shape {tuple(source_tokens.shape)}"
            raise ValueError(
                "`source_tokens` must be the token ids of the sources (batch, source) if the decoder has `copy=True`, "
                f"else None. Received: {received} with copy={self.copy}"
            )
        shared = {}
        if self.deep_readout is not None and self.attention is not None:
            shared["readout_memory"] = readable_memory(memory, memory_mask, self.compute_dtype)
        if self.copy:
            shared["copied"] = self.pointer_generator.read_source(memory, source_tokens, memory_mask)
        return shared

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
            if self.layer_norm:
                outputs = self.layer_norms[i](outputs)
            if layer is self.recurrent_layer:
                attention_weights = weights
            state = state[count:]
            new_state += layer_state
        return outputs, new_state, attention_weights

    def _read_out(self, outputs, inputs, attention_weights, shared, num_beams=1):
        """Returns what the readout reads, for all steps or one step in which beams share what is `shared`."""
        if self.deep_readout is None:
            return outputs
        embeddings = inputs[..., : self.embedding_dim]  # without features
        if self.attention is None:
            return self.deep_readout(outputs, embeddings)
        contexts = compute_contexts(attention_weights, shared["readout_memory"], num_beams)
        return self.deep_readout(outputs, embeddings, contexts)

    def _compute_logits(self, outputs, inputs, attention_weights, shared, num_beams=1):
        """Returns the logits for what `_read_out` returns; see there."""
        logits = self.readout(outputs)
        if not self.copy:
            return logits
        embeddings = inputs[..., : self.embedding_dim]
        return self.pointer_generator.mix(logits, outputs, embeddings, attention_weights, shared["copied"], num_beams)

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

    def start_search(self, memory, summary, memory_mask=None, num_beams=1, source_tokens=None, features=None):
        """Prepares a search: computes what all of its steps share.

        Args:
            memory: tensor (batch, source, features).
            summary: tensor (batch, state features).
            memory_mask: booleans (batch, source), True = keep.
            num_beams: how many hypotheses of each source a step continues.
            source_tokens: see the call arguments.
            features: tensor (batch, n), as in a call, or None.

        Returns:
            `(step, state, memory)`: the step function of `keras_seq.decoding.search`, its first state, and what it
            reads of each source. The function is `step(tokens, state, memory, is_live=None) -> (logits, state,
            attention_weights)`. Its rows are the sources, each repeated for its beams: tokens (rows,), logits (rows,
            vocabulary), attention weights (rows, source), or (rows, 0) without attention. The memory keeps one row for
            each source.
        """
        step, tensors = self._prepare_steps(memory, memory_mask, num_beams, source_tokens, features)
        return step, self.get_initial_state(summary, memory), tensors

    def search_step(self, has_mask):
        """Returns the step function of `start_search` without a source, for memories with a mask or without."""
        features = ops.zeros((1, self.features_units)) if self.features_units else None
        source_tokens = ops.zeros((1, 1), "int32") if self.copy else None
        memory = ops.zeros((1, 1, self._memory_units), self.compute_dtype)  # nothing of it is in the function
        return self._prepare_steps(memory, ops.ones((1, 1), "bool") if has_mask else None, 1, source_tokens, features)[
            0
        ]

    def _prepare_steps(self, memory, memory_mask, num_beams, source_tokens, features):
        """Returns the step function of a search and what it reads of each source."""
        steps, tensors = {}, {}
        for i, layer in enumerate(self.recurrent_layers()):
            joined = {} if i else {"embedding": self.embedding, "features": features}
            steps[layer], read = start_search(
                layer, memory=memory, memory_mask=memory_mask, num_beams=num_beams, **joined
            )
            tensors |= read
        tensors |= self._read_source(memory, memory_mask, source_tokens)

        def step(tokens, state, memory, is_live=None):
            output, state, weights = self._run_layers(
                lambda layer, inputs, state: steps[layer](inputs, state, memory, is_live), tokens, state
            )
            inputs = self.embedding(tokens) if self.copy or self.deep_readout is not None else None
            output = self._read_out(output, inputs, weights, memory, num_beams)
            return self._compute_logits(output, inputs, weights, memory, num_beams), state, weights

        return step, tensors

    def choose_implementation(self):
        """Return what runs the steps of a search, and why: a `Choice` of `keras_seq.ops.implementation`."""
        choices = [choose_search_implementation(layer) for layer in self.recurrent_layers()]
        return Choice(*("; ".join(dict.fromkeys(parts)) for parts in zip(*choices, strict=True)))

    @contextlib.contextmanager
    def training_step_function(self, memory, memory_mask=None, source_tokens=None, features=None):
        """Yields a function that runs one step of the decoder in training mode, for use in a `with` block.

        It is `step(tokens, state) -> (logits, state, weights)`, with tokens (batch,), and `get_initial_state(summary,
        memory)` as its first state. All steps share their dropout masks, which are the masks that the next `call` in
        training draws. Noise of the attention and zoneout are drawn anew in each step. Token dropout is that of
        `draw_dropped_tokens`, not a part of the steps.
        """
        batch, dtype = ops.shape(memory)[0], self.compute_dtype
        size = self.embedding_dim + (0 if features is None else features.shape[-1])
        sizes = [size, *(output_units(layer.cell) for layer in self.recurrent_layers())]
        if self.deep_readout is not None:
            sizes[-1] = self.deep_readout.units
        ones = [ops.ones((batch, size), dtype) for size in sizes]
        dropouts = [self.input_dropout, *self.layer_dropouts, self.output_dropout]
        shared = self._read_source(memory, memory_mask, source_tokens)
        with keras.StatelessScope():  # does not advance the seeds
            masks = [drop(x[:, None], training=True)[:, 0] for drop, x in zip(dropouts, ones, strict=True)]
        between = [functools.partial(ops.multiply, mask) for mask in masks[1:-1]]
        with contextlib.ExitStack() as stack:
            steps = {
                layer: stack.enter_context(training_step(layer, inputs, memory, memory_mask))
                for layer, inputs in zip(self.recurrent_layers(), ones[:-1], strict=True)
            }

            def step(tokens, state):
                inputs = append_features(self.embedding(tokens), features) * masks[0]  # (batch, features)
                output, state, weights = self._run_layers(
                    lambda layer, inputs, state: steps[layer](inputs, state), inputs, state, between
                )
                output = self._read_out(output, inputs, weights, shared) * masks[-1]
                return self._compute_logits(output, inputs, weights, shared), state, weights

            yield step

    def draw_dropped_tokens(self, tokens):
        """Returns which tokens (batch, time) the next `call` in training replaces by `[UNK]`, booleans."""
        if self._token_dropout is None:
            return ops.zeros_like(tokens, dtype="bool")
        with keras.StatelessScope():  # does not advance the seed
            return self._token_dropout.draw(tokens)

    def compute_output_shape(self, tokens_shape, memory_shape=None, summary_shape=None, features_shape=None):
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
        source_tokens=None,
        features=None,
    ):
        units = self.units if self.deep_readout is None else self.deep_readout.units
        size = units if return_features else self.vocabulary_size
        dtype = self.pointer_generator.logits_dtype if self.copy else self.compute_dtype
        results = keras.KerasTensor((*tokens.shape, size), dtype=dtype)
        if not return_attention_scores:
            return results
        source = 0 if self.attention is None else memory.shape[1]
        return results, keras.KerasTensor((*tokens.shape, source), dtype=self.compute_dtype)

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def get_config(self):
        names = (
            "vocabulary_size embedding_dim units attention dropout recurrent_dropout seed implementation attend "
            "input_feeding num_layers residual tie_embeddings copy readout_units layer_norm token_dropout"
        )
        config = {name: getattr(self, name) for name in names.split()}
        config["readout"] = self._readout_name
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

# SPDX-License-Identifier: Apache-2.0
"""The language model: predicts each token of a document from those before it."""

import keras
import numpy as np
from keras import ops, tree

from keras_seq._lazy_tensorflow import tf
from keras_seq._private_api import set_mask
from keras_seq.data.streams import Streams, add_special_ids, document_ids, is_document, list_documents
from keras_seq.data.vocabulary import PAD_ID, START_ID
from keras_seq.decoding.checks import check_count
from keras_seq.layers import ActivationRegularization, EmbeddingDropout, LockedDropout
from keras_seq.layers.recurrent_layer import output_units, resolve_layer
from keras_seq.layers.search_step import choose_search_implementation, start_search
from keras_seq.models.carried_state import CarriedState
from keras_seq.models.function_cache import compile_once
from keras_seq.models.generation import GenerativeModel, SearchStart
from keras_seq.models.token_embedding import build_embedding, make_embedding, make_readout, serialize_initializer
from keras_seq.models.token_loss import TokenLoss
from keras_seq.models.token_rows import TokenRows, in_order, length_batches
from keras_seq.models.token_side import TokenSide
from keras_seq.ops.implementation import Choice, implementation_in_use
from keras_seq.ops.random import check_rate, child_seed
from keras_seq.training import Perplexity, masked_crossentropy

_MAX_LENGTH = 200  # default of `generate`


@keras.saving.register_keras_serializable("keras_seq")
class LanguageModel(TokenLoss, GenerativeModel):
    """A recurrent language model (Mikolov et al. 2010), with the regularization of AWD-LSTM (Merity et al. 2018)."""

    def __init__(
        self,
        vocabulary_size=None,
        embedding_dim=64,
        units=256,
        cell="lstm",
        num_layers=1,
        *,
        vectorizer=None,
        embedding_dropout=0.0,
        input_dropout=0.0,
        hidden_dropout=0.0,
        output_dropout=0.0,
        recurrent_dropout=0.0,
        recurrent_weight_dropout=0.0,
        zoneout=0.0,
        dropout_mode="variational",
        ar=0.0,
        tar=0.0,
        tie_embeddings=False,
        embeddings_initializer="uniform",
        seed=None,
        implementation="auto",
        **kwargs,
    ):
        vocabulary_size = _check_vocabulary(vocabulary_size, vectorizer)
        prompts, continuations = (
            TokenSide(name, f"`{name}`", vectorizer, vocabulary_size, adds_end=adds_end)
            for name, adds_end in (("prompt", False), ("documents", True))
        )
        super().__init__(prompts, continuations, **kwargs)
        self.vocabulary_size = vocabulary_size
        self.embedding_dim = embedding_dim
        self.units = units
        self._get_cell = lambda: cell  # the layers copy it, so it is not itself a part of the model
        self.num_layers = num_layers
        self.embedding_dropout = check_rate("embedding_dropout", embedding_dropout)
        self.input_dropout = check_rate("input_dropout", input_dropout)
        self.hidden_dropout = check_rate("hidden_dropout", hidden_dropout)
        self.output_dropout = check_rate("output_dropout", output_dropout)
        self.recurrent_dropout = recurrent_dropout
        self.recurrent_weight_dropout = recurrent_weight_dropout
        self.zoneout = zoneout
        if dropout_mode not in ("variational", "locked", "naive"):
            raise ValueError(f'`dropout_mode` must be "variational", "locked" or "naive". Received: {dropout_mode!r}')
        self.dropout_mode = dropout_mode
        self.ar = ar
        self.tar = tar
        self.tie_embeddings = tie_embeddings
        self.embeddings_initializer = embeddings_initializer
        self.seed = seed
        self.implementation = implementation
        self._make_layers()
        self.build()

    def _make_layers(self):
        policy, seed = self.dtype_policy, self.seed
        self.embedding = make_embedding(
            self.vocabulary_size,
            self.embedding_dim,
            self.embeddings_initializer,
            tied=self.tie_embeddings,
            dtype=policy,
        )
        self.embeddings_initializer = serialize_initializer(self.embedding)  # a matrix is not kept
        token_seed = child_seed(seed, "LanguageModel", "embedding_dropout")
        self.token_dropout = EmbeddingDropout(self.embedding, self.embedding_dropout, token_seed, dtype=policy)
        self.recurrent_layers = self._make_recurrent_layers()
        rates = [self.input_dropout, *[self.hidden_dropout] * (len(self.recurrent_layers) - 1), self.output_dropout]
        dropout = keras.layers.Dropout if self.dropout_mode == "naive" else LockedDropout
        self.dropouts = [
            dropout(rate, seed=child_seed(seed, "LanguageModel", "dropout", i), dtype=policy)
            for i, rate in enumerate(rates)
        ]
        self.temporal_regularization = ActivationRegularization(tar=self.tar, dtype=policy)
        self.output_regularization = ActivationRegularization(ar=self.ar, dtype=policy)
        self.readout = make_readout(self.embedding, self.tie_embeddings, dtype=policy)
        sizes = tree.flatten([layer.state_size for layer in self.recurrent_layers])
        self._training_state = CarriedState(sizes, self.compute_dtype)
        self._evaluation_state = CarriedState(sizes, self.compute_dtype)

    def _make_recurrent_layers(self):
        """Returns the recurrent layers, one for each layer of the model: dropouts lie between them."""
        options = {"recurrent_weight_dropout": self.recurrent_weight_dropout, "zoneout": self.zoneout}
        if self.recurrent_dropout:
            options |= {"recurrent_dropout": self.recurrent_dropout, "dropout_mode": self.dropout_mode}
        count = check_count("num_layers", self.num_layers)
        units = self.units if isinstance(self.units, (list, tuple)) else [self.units] * count
        if len(units) != count:
            raise ValueError(f"`units` must be one number, or {count}, one for each layer. Received: {self.units}")
        return [
            resolve_layer(
                self.cell,
                size,
                seed=child_seed(self.seed, "LanguageModel", "layer", i),
                path=("LanguageModel", "layer", i),
                implementation=self.implementation,
                dtype=self.dtype_policy,
                **options,
            )
            for i, size in enumerate(units)
        ]

    def build(self, input_shape=None):
        build_embedding(self.embedding)
        self.token_dropout.build((None, None))
        features = self.embedding_dim
        for layer in self.recurrent_layers:
            layer.build((None, None, features))
            features = output_units(layer.cell)
        self.readout.build((None, None, features))

    @property
    def cell(self):
        """The argument `cell`."""
        return self._get_cell()

    @property
    def vectorizer(self):
        """The layer that maps strings to token ids, or None."""
        return self.target_vectorizer

    @property
    def has_attention(self):
        return False

    def choose_implementation(self):
        """Return what runs the steps of a search, and why: a `Choice` of `keras_seq.ops.implementation`."""
        choices = [choose_search_implementation(layer) for layer in self.recurrent_layers]
        return Choice(*("; ".join(dict.fromkeys(parts)) for parts in zip(*choices, strict=True)))

    def compile(self, optimizer="adam", loss="auto", metrics="auto", *, sampler="greedy", **kwargs):
        """Configures the model for training.

        Args:
            optimizer: see `keras.Model.compile`.
            loss: see `keras.Model.compile`. "auto" stands for `keras_seq.training.masked_crossentropy()`, a mean over
                tokens.
            metrics: see `keras.Model.compile`. "auto" stands for `keras_seq.training.Perplexity()`. For models of
                characters you can use `keras_seq.training.BitsPerToken()`.
            sampler: how `generate` chooses tokens by default; see there.
            **kwargs: other arguments of `keras.Model.compile`.
        """
        loss = masked_crossentropy() if loss == "auto" else loss
        metrics = [Perplexity()] if metrics == "auto" else metrics
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, sampler=sampler, **kwargs)

    def get_initial_state(self, batch_size):
        """Returns the state in which documents begin, a list of tensors (batch, size)."""
        return tree.flatten([layer.get_initial_state(batch_size) for layer in self.recurrent_layers])

    def call(self, inputs, initial_state=None, return_state=False, training=False):
        tokens, is_start = inputs if _is_pair(inputs) else (inputs, None)
        if is_start is not None:
            begin = self.get_initial_state(ops.shape(tokens)[0])
            state = begin if initial_state is None else initial_state
            is_start = ops.expand_dims(is_start, axis=1)
            initial_state = [ops.where(is_start, *pair) for pair in zip(begin, state, strict=True)]
        outputs, state = self._run_layers(tokens, initial_state, training)
        mask = ops.not_equal(tokens, PAD_ID)
        if training:
            outputs = self.temporal_regularization(outputs, mask=mask)
        outputs = self.dropouts[-1](outputs, training=training)
        if training:
            outputs = self.output_regularization(outputs, mask=mask)
        set_mask(outputs, None)  # the loss itself excludes padding
        logits = self.readout(outputs)
        return (logits, state) if return_state else logits

    def _run_layers(self, tokens, state, training):
        """Returns the outputs of the last layer (batch, time, units) and the new state."""
        mask = ops.not_equal(tokens, PAD_ID)  # (batch, time)
        outputs, new_state = self.token_dropout(tokens, training=training), []
        for i, layer in enumerate(self.recurrent_layers):
            outputs = self.dropouts[i](outputs, training=training)
            first = None if state is None else self._state_of_layer(state, i)
            outputs, *final = layer(outputs, initial_state=first, mask=mask, training=training)
            new_state += tree.flatten(final)
        return outputs, new_state

    def _state_of_layer(self, state, index):
        """Returns the part of a state that belongs to a layer, in the structure that the layer takes."""
        sizes = [layer.state_size for layer in self.recurrent_layers[: index + 1]]
        first, last = len(tree.flatten(sizes[:-1])), len(tree.flatten(sizes))
        return tree.pack_sequence_as(sizes[-1], state[first:last])

    def run_batch(self, x, training):
        carried = self._training_state if training else self._evaluation_state
        logits, state = self(x, initial_state=carried.read(), return_state=True, training=training)
        carried.assign(state)
        return logits

    def fit(self, x=None, y=None, batch_size=32, *, window=64, validation_data=None, shuffle=True, seed=None, **kwargs):
        """Trains the model on documents."""
        _check_none(y=y)
        x = self._streams(x, "`x`", batch_size, window, shuffle=shuffle, seed=self.seed if seed is None else seed)
        if validation_data is not None:
            validation_data = self._streams(validation_data, "`validation_data`", batch_size, window, cut=False)
        self._training_state.start(_batch_size(x))
        return super().fit(x, validation_data=validation_data, shuffle=False, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=32, window=64, sample_weight=None, **kwargs):
        """Computes the loss and metrics for documents."""
        _check_none(y=y, sample_weight=sample_weight)
        x = self._streams(x, "`x`", batch_size, window, cut=False)
        self._evaluation_state.start(_batch_size(x))
        return super().evaluate(x, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """Trains on one batch of streams. The state goes on from the batch before, if that had as many streams."""
        self._training_state.ensure(len(x[0]))
        return super().train_on_batch(x, y, sample_weight, class_weight, return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """Evaluates one batch of streams. The state goes on from the batch before, if that had as many streams."""
        self._evaluation_state.ensure(len(x[0]))
        return super().test_on_batch(x, y, sample_weight, return_dict)

    def _streams(self, documents, label, batch_size, window, *, cut=True, **order):
        """Returns the batches of streams of documents, or those that are given."""
        if isinstance(documents, tf.data.Dataset) and isinstance(documents.element_spec, tuple):
            return documents
        return Streams(*self._document_ids(documents, label), batch_size, window, cut).dataset(**order)

    def _document_ids(self, documents, label):
        """Returns the token ids of all documents, one after the other, and their lengths."""
        values, lengths = document_ids(documents, self.vectorizer, label)
        if values.size and values.max() >= self.vocabulary_size:
            raise ValueError(
                f"{label} must be token ids less than the vocabulary size, {self.vocabulary_size}. "
                f"Received: {values.max()}"
            )
        return values, lengths

    def generate(
        self,
        prompt=None,
        max_length=_MAX_LENGTH,
        batch_size=256,
        return_dict=False,
        *,
        sampler=None,
        processors=(),
        seed=None,
        verbose="auto",
    ):
        """Continues prompts."""
        is_single = prompt is None or is_document(prompt)
        prompts = [prompt] if is_single else prompt
        options = {"sampler": sampler, "processors": processors, "seed": seed, "verbose": verbose}
        outputs = super().generate(prompts, max_length, batch_size, return_dict, **options)
        return outputs[0] if is_single and not return_dict else outputs

    def _source_batches(self, inputs, batch_size):
        prompts = list_documents(inputs, "`prompt`")
        is_given = np.array([prompt is not None for prompt in prompts])
        lengths = np.zeros(len(prompts), "int64")
        values = np.zeros(0, "int32")
        if is_given.any():
            values, lengths[is_given] = self._document_ids([p for p in prompts if p is not None], "`prompt`")
        if np.any(is_given & (lengths == 0)):
            raise ValueError(
                "`prompt` must not be empty. Leave it out, or pass None, to begin a document. Received: ''"
            )
        rows = TokenRows(values, lengths)
        for indices in length_batches(lengths, batch_size):
            yield indices.astype("int32"), tf.constant(rows.padded(indices))

    def decode(self, inputs, max_length=0, **options):
        return super().decode(inputs, max_length, **{**options, "return_attention_weights": False})

    def start_search(self, source_ids, num_beams=1):
        """Runs the layers over prompts, up to the last token of each.

        Args:
            source_ids: int32 token ids (batch, time), 0 = padding. An empty prompt begins a document.
            num_beams: number of rows of each prompt in a step.

        Returns:
            A `SearchStart`.
        """
        is_token = source_ids != PAD_ID
        lengths = tf.reduce_sum(tf.cast(is_token, tf.int32), axis=1)
        tokens = tf.pad(source_ids, [[0, 0], [1, 0]], constant_values=START_ID)  # (batch, 1 + time)
        _, state = self._run_layers(tf.where(is_token, tokens[:, :-1], PAD_ID), None, training=False)
        last = tf.gather(tokens, lengths, batch_dims=1)
        embeddings = [self.embedding, *[None] * (len(self.recurrent_layers) - 1)]
        steps = [start_search(*pair)[0] for pair in zip(self.recurrent_layers, embeddings, strict=True)]

        def step(tokens, state, memory, is_live=None):
            outputs, new_state = tokens, []
            for i, run_layer in enumerate(steps):
                outputs, final, _ = run_layer(outputs, self._state_of_layer(state, i), {}, is_live)
                new_state += final
            return self.readout(outputs), new_state, None

        return SearchStart(step, state, {}, last, tf.fill(tf.shape(last), _MAX_LENGTH))

    def score(self, documents, batch_size=32, return_dict=False, *, window=64):
        """Computes the natural logarithm of the probability of each document, with teacher forcing."""
        check_count("batch_size", batch_size)
        check_count("window", window)
        values, lengths = self._document_ids(documents, "`documents`")
        rows = TokenRows(add_special_ids(values, lengths), lengths + 2)
        specs = [tf.TensorSpec([None, None], tf.int32)]
        specs += [tf.TensorSpec([None, state.shape[1]], state.dtype) for state in self.get_initial_state(1)]
        compute = self._functions.get(
            ("score", implementation_in_use()), lambda: compile_once(self._score_window, specs)
        )
        batches = []
        for indices in length_batches(rows.lengths, batch_size):
            ids, state, scores = rows.padded(indices), self.get_initial_state(len(indices)), []
            for first in range(0, ids.shape[1] - 1, window):
                part, *state = compute(tf.constant(ids[:, first : first + window + 1]), *state)
                scores.append(part.numpy())
            batches.append((indices, {"token_log_probabilities": np.concatenate(scores, 1), "token_ids": ids[:, 1:]}))
        results = in_order(batches)
        results["log_probabilities"] = results["token_log_probabilities"].sum(axis=1)
        return results if return_dict else results["log_probabilities"]

    def _score_window(self, ids, *state):
        """Computes the log-probabilities (batch, time) of ids (batch, 1 + time), zeros for padding, and the state."""
        tokens, targets = tf.where(ids[:, 1:] == PAD_ID, PAD_ID, ids[:, :-1]), ids[:, 1:]
        logits, state = self(tokens, initial_state=list(state), return_state=True, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, ops.cast(logits, "float32"))
        return tf.where(targets == PAD_ID, 0.0, -losses), *state

    def get_config(self):
        names = (
            "vocabulary_size embedding_dim cell num_layers vectorizer embedding_dropout input_dropout hidden_dropout "
            "output_dropout recurrent_dropout recurrent_weight_dropout dropout_mode ar tar tie_embeddings "
            "embeddings_initializer seed implementation"
        )
        config = {name: getattr(self, name) for name in names.split()}
        config |= {name: _plain(getattr(self, name)) for name in ("units", "zoneout")}
        serialized = {
            name: keras.saving.serialize_keras_object(config[name])
            for name in ("cell", "vectorizer")
            if isinstance(config[name], keras.layers.Layer)
        }
        return {"name": self.name, "trainable": self.trainable, "dtype": self.dtype_policy.name, **config, **serialized}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        restored = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("cell", "vectorizer")
            if isinstance(config[name], dict)
        }
        return cls(**{**config, **restored})


def _plain(value):
    """Returns a number, or a list of numbers. Keras wraps lists in attributes."""
    return list(value) if isinstance(value, (list, tuple)) else value


def _check_vocabulary(vocabulary_size, vectorizer):
    """Returns the size of the vocabulary, by default that of the vectorizer."""
    if vectorizer is None:
        return check_count("vocabulary_size", vocabulary_size)
    size = vectorizer.vocabulary_size()
    if vocabulary_size is not None and vocabulary_size < size:
        raise ValueError(
            f"`vocabulary_size` must be None or at least {size}, the size of the vocabulary of `vectorizer`. "
            f"Received: {vocabulary_size}"
        )
    return size if vocabulary_size is None else vocabulary_size


def _is_pair(inputs):
    """Whether the inputs of a call are `(tokens, is_start)`, rather than tokens."""
    if not isinstance(inputs, (list, tuple)):
        return False
    if [len(getattr(x, "shape", ())) for x in inputs] != [2, 1]:
        raise ValueError(
            "`inputs` must be token ids (batch, time), or a pair `(tokens, is_start)` of shapes (batch, time) and "
            f"(batch,). Received: {inputs}"
        )
    return True


def _check_none(**arguments):
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"`{name}` must be None: the targets of a language model are the tokens of `x`. Received: {name} of "
                f"type {type(value).__name__}"
            )


def _batch_size(streams):
    """Returns the number of streams of a dataset of batches, or raises a ValueError."""
    spec = streams.element_spec
    try:
        (tokens, is_start), targets = spec
        sizes = {tokens.shape[0], is_start.shape[0], targets.shape[0]}
    except (TypeError, ValueError, AttributeError, IndexError):
        sizes = {None}
    if len(sizes) > 1 or None in sizes:
        raise ValueError(
            "`x` must be documents, or batches `((tokens, is_start), targets)` of a static batch size, as from "
            f"`keras_seq.data.stream_batches`. Received: a dataset of {spec}"
        )
    return sizes.pop()

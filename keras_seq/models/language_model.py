# SPDX-License-Identifier: Apache-2.0
"""The language model: predicts each token of a document from those before it."""

import keras
from keras import ops, tree

from keras_seq._lazy_tensorflow import tf
from keras_seq._private_api import set_mask
from keras_seq.data.vocabulary import PAD_ID, START_ID
from keras_seq.decoding.checks import check_count
from keras_seq.layers import ActivationRegularization, EmbeddingDropout, LockedDropout
from keras_seq.layers.recurrent_layer import CellArgument, output_units, resolve_layer
from keras_seq.layers.search_step import choose_search_implementation, start_search
from keras_seq.models.continuation import DEFAULT_LENGTH, Continuation
from keras_seq.models.layer_norms import make_layer_norms
from keras_seq.models.search_start import SearchStart
from keras_seq.models.streams import StreamTraining
from keras_seq.models.token_embedding import build_embedding, make_embedding, make_readout, serialize_initializer
from keras_seq.ops.implementation import Choice
from keras_seq.ops.random import check_rate, child_seed


@keras.saving.register_keras_serializable("keras_seq")
class LanguageModel(StreamTraining, Continuation):
    """A recurrent language model (Mikolov et al. 2010), with the regularization of AWD-LSTM (Merity et al. 2018).

    It predicts each token of a document from all tokens before it. The first input is `[START]`, the last target is
    `[END]`. Compile, fit, evaluate and save it like any Keras model. Call `generate` to continue prompts, and `score`
    for the probability of documents.

    With a vectorizer, the documents are strings, and its vocabulary is saved in the `.keras` file and the SavedModel.
    Without one they are sequences of token ids: 0 is padding, 1 an unknown token, 2 is `[START]` and 3 is `[END]`,
    which the model adds itself.

    The model trains on streams of documents by truncated backpropagation through time: it reads them window by window,
    carries the state of each stream from one window to the next, without its gradient, and resets it where a document
    starts. See `keras_seq.data.stream_batches`. The carried states belong to neither the weights nor the saved model.

    The five dropouts of AWD-LSTM are arguments: `embedding_dropout` (dropoute in its code), `input_dropout` (dropouti),
    `hidden_dropout` (dropouth), `output_dropout` (dropout) and `recurrent_weight_dropout` (wdrop). So are its
    activation regularization `ar` (alpha) and `tar` (beta), and `tie_embeddings`. AWD-LSTM itself is
    `LanguageModel(vocabulary_size, 400, [1150, 1150, 400], num_layers=3, embedding_dropout=0.1, input_dropout=0.65,
    hidden_dropout=0.3, output_dropout=0.4, recurrent_weight_dropout=0.5, ar=2, tar=1, tie_embeddings=True)`.

    Args:
        vocabulary_size: number of tokens, including the four special ones. Defaults to that of the vectorizer.
        embedding_dim: size of the embeddings.
        units: size of the state of each layer, or a list with one for each layer. None if `cell` is an object.
        cell: "lstm", "gru", "mgu" or "simple_rnn"; a recurrent cell of keras_seq, of Keras or your own; or a recurrent
            layer, which has its own number of cells. Objects are copied.
        num_layers: number of layers; each one reads the outputs of the one below.
        vectorizer: layer from `keras_seq.data.text_vectorizer` or `subword_vectorizer`, or None if documents are
            token ids.
        embedding_dropout: fraction of the distinct tokens of a window whose embeddings are dropped, at all their
            positions; see `keras_seq.layers.EmbeddingDropout`.
        input_dropout: fraction of the features of the embeddings to drop.
        hidden_dropout: fraction of the features to drop between two layers.
        output_dropout: fraction of the outputs of the last layer to drop.
        recurrent_dropout: fraction of the units of the previous h to drop in the recurrent product; see
            `keras_seq.layers.LSTM`. Like the next two it needs a cell given by name.
        recurrent_weight_dropout: fraction of the entries of the recurrent kernel to drop; see `keras_seq.layers.LSTM`.
        zoneout: probability that a unit keeps its state; see `keras_seq.layers.LSTM`.
        dropout_mode: "variational" or "locked" if all steps of a window share the masks of `input_dropout`,
            `hidden_dropout`, `output_dropout` and `recurrent_dropout`; "naive" if each step draws its own. "locked"
            excludes `recurrent_dropout`.
        ar: coefficient of activation regularization, on the outputs of the last layer after dropout; see
            `keras_seq.layers.ActivationRegularization`. It is a part of the loss in training only.
        tar: coefficient of temporal activation regularization, on these outputs before dropout. In training
            only, too.
        tie_embeddings: whether the readout multiplies with the transposed embeddings (Press & Wolf 2017). If the last
            layer has another size than the embeddings, a projection comes between.
        embeddings_initializer: initializer of the embeddings, or a matrix (vocabulary_size, embedding_dim).
        layer_norm: whether to normalize the outputs of each layer (Ba, Kiros & Hinton 2016); see `Decoder`.
        seed: random seed of all masks. Each part draws its own numbers.
        implementation: see `keras_seq.layers.LSTM`.
        **kwargs: arguments of `keras.Model`.

    Call arguments:
        inputs: token ids (batch, time), 0 = padding, or a pair `(tokens, is_start)`, where `is_start` (batch,) is True
            for rows whose state is reset before the first step.
        initial_state: list of tensors (batch, size), by default the state in which documents begin.
        return_state: whether to return the state after the last step, which continues with the next call.
        training: whether to apply dropout and activation regularization.
        return_features: whether to return what the readout reads (batch, time, features) in the place of the logits.

    Returns:
        Logits (batch, time, vocabulary) of the next tokens. Ignore those of padding. With `return_state`, a pair
        `(logits, state)`.

    Raises:
        ValueError: if an argument is invalid.

    Example:
        >>> import keras_seq
        >>> documents = ["the cat sat on the mat", "that cat", "a mat"]
        >>> vectorizer = keras_seq.data.text_vectorizer(documents)
        >>> model = keras_seq.LanguageModel(embedding_dim=8, units=16, vectorizer=vectorizer)
        >>> model.compile("adam")
        >>> history = model.fit(documents, batch_size=2, window=8, verbose=0)
        >>> text = model.generate("the ", sampler="random", max_length=20)
        >>> model.score(["the cat", "the mat"]).shape
        (2,)
    """

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
        layer_norm=False,
        seed=None,
        implementation="auto",
        **kwargs,
    ):
        vocabulary_size = _check_vocabulary(vocabulary_size, vectorizer)
        super().__init__(vectorizer, vocabulary_size, **kwargs)
        self.embedding_dim = embedding_dim
        self.units = units
        self._cell_argument = CellArgument(cell)
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
        self.layer_norm = layer_norm
        self.seed = seed
        self.implementation = implementation
        self._make_layers(embeddings_initializer)
        self.build()

    def _make_layers(self, embeddings_initializer):
        policy, seed = self.dtype_policy, self.seed
        self.embedding = make_embedding(
            self.vocabulary_size,
            self.embedding_dim,
            embeddings_initializer,
            tied=self.tie_embeddings,
            dtype=policy,
        )
        token_seed = child_seed(seed, "LanguageModel", "embedding_dropout")
        self.token_dropout = EmbeddingDropout(self.embedding, self.embedding_dropout, token_seed, dtype=policy)
        self.recurrent_layers = self._make_recurrent_layers()
        rates = [self.input_dropout, *[self.hidden_dropout] * (len(self.recurrent_layers) - 1), self.output_dropout]
        dropout = keras.layers.Dropout if self.dropout_mode == "naive" else LockedDropout
        self.dropouts = [
            dropout(rate, seed=child_seed(seed, "LanguageModel", "dropout", i), dtype=policy)
            for i, rate in enumerate(rates)
        ]
        self.layer_norms = make_layer_norms(self.layer_norm, len(self.recurrent_layers), policy)
        self.temporal_regularization = ActivationRegularization(tar=self.tar, dtype=policy)
        self.output_regularization = ActivationRegularization(ar=self.ar, dtype=policy)
        self.readout = make_readout(self.embedding, self.tie_embeddings, dtype=policy)
        self.start_states(tree.flatten([layer.state_size for layer in self.recurrent_layers]))

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
        for i, (dropout, layer) in enumerate(zip(self.dropouts[:-1], self.recurrent_layers, strict=True)):
            dropout.build((None, None, features))  # for the shapes of `summary`
            layer.build((None, None, features))
            features = output_units(layer.cell)
            if self.layer_norm:
                self.layer_norms[i].build((None, None, features))
        for layer in (self.dropouts[-1], self.temporal_regularization, self.output_regularization, self.readout):
            layer.build((None, None, features))

    @property
    def cell(self):
        """The argument `cell`."""
        return self._cell_argument.cell

    @property
    def embeddings_initializer(self):
        """The initializer of the embeddings. A matrix of initial values is not kept."""
        return self.embedding.embeddings_initializer

    def choose_implementation(self):
        """Return what runs the steps of a search, and why: a `Choice` of `keras_seq.ops.implementation`."""
        choices = [choose_search_implementation(layer) for layer in self.recurrent_layers]
        return Choice(*("; ".join(dict.fromkeys(parts)) for parts in zip(*choices, strict=True)))

    def get_initial_state(self, batch_size):
        """Returns the state in which documents begin, a list of tensors (batch, size)."""
        return tree.flatten([layer.get_initial_state(batch_size) for layer in self.recurrent_layers])

    def call(self, inputs, initial_state=None, return_state=False, training=False, return_features=False):
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
        results = outputs if return_features else self.readout(outputs)
        return (results, state) if return_state else results

    def _run_layers(self, tokens, state, training):
        """Returns the outputs of the last layer (batch, time, units) and the new state."""
        mask = ops.not_equal(tokens, PAD_ID)  # (batch, time)
        outputs, new_state = self.token_dropout(tokens, training=training), []
        for i, layer in enumerate(self.recurrent_layers):
            outputs = self.dropouts[i](outputs, training=training)
            first = None if state is None else self._state_of_layer(state, i)
            outputs, *final = layer(outputs, initial_state=first, mask=mask, training=training)
            outputs = self.layer_norms[i](outputs) if self.layer_norm else outputs
            new_state += tree.flatten(final)
        return outputs, new_state

    def _state_of_layer(self, state, index):
        """Returns the part of a state that belongs to a layer, in the structure that the layer takes."""
        sizes = [layer.state_size for layer in self.recurrent_layers[: index + 1]]
        first, last = len(tree.flatten(sizes[:-1])), len(tree.flatten(sizes))
        return tree.pack_sequence_as(sizes[-1], state[first:last])

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
        return SearchStart(self.search_step({}), state, {}, last, tf.fill(tf.shape(last), DEFAULT_LENGTH))

    def search_step(self, memory):
        embeddings = [self.embedding, *[None] * (len(self.recurrent_layers) - 1)]
        steps = [start_search(*pair)[0] for pair in zip(self.recurrent_layers, embeddings, strict=True)]

        def step(tokens, state, memory, is_live=None):
            outputs, new_state = tokens, []
            for i, run_layer in enumerate(steps):
                outputs, final, _ = run_layer(outputs, self._state_of_layer(state, i), {}, is_live)
                outputs = self.layer_norms[i](outputs) if self.layer_norm else outputs
                new_state += final
            return self.readout(outputs), new_state, None

        return step

    def get_config(self):
        names = (
            "vocabulary_size embedding_dim num_layers vectorizer embedding_dropout input_dropout hidden_dropout "
            "output_dropout recurrent_dropout recurrent_weight_dropout dropout_mode ar tar tie_embeddings layer_norm "
            "seed implementation"
        )
        config = {name: getattr(self, name) for name in names.split()}
        config |= {name: _plain(getattr(self, name)) for name in ("units", "zoneout")}
        config["cell"] = self._cell_argument.get_config()
        config["embeddings_initializer"] = serialize_initializer(self.embedding)
        config["vectorizer"] = keras.saving.serialize_keras_object(self.vectorizer)
        return {"name": self.name, "trainable": self.trainable, "dtype": self.dtype_policy.name, **config}

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

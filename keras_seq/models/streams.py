# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation on streams of documents, whose state is carried from batch to batch."""

import contextlib

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.streams import Streams
from keras_seq.models.token_loss import TokenLoss
from keras_seq.training import Perplexity
from keras_seq.training.callbacks import order_callbacks
from keras_seq.training.data_parallel import run_on_replicas
from keras_seq.training.losses import resolve_loss


class StreamTraining(TokenLoss):
    """The part of a `LanguageModel` that trains and evaluates, a mixin."""

    def compile(
        self, optimizer="adam", loss="auto", metrics="auto", *, label_smoothing=0.0, sampler="greedy", **kwargs
    ):
        """Configures the model for training.

        Args:
            optimizer: see `keras.Model.compile`. "adam" stands for `keras_seq.training.Adam()`, which computes the same
                as Keras's in less time.
            loss: see `keras.Model.compile`. "auto" stands for
                `keras_seq.training.masked_crossentropy(label_smoothing)`, a mean over tokens.
            metrics: see `keras.Model.compile`. "auto" stands for `keras_seq.training.Perplexity()`. For models of
                characters you can use `keras_seq.training.BitsPerToken()`.
            label_smoothing: see `keras_seq.training.masked_crossentropy`. Only with `loss="auto"`.
            sampler: how `generate` chooses tokens by default; see there.
            **kwargs: other arguments of `keras.Model.compile`.
        """
        loss = resolve_loss(loss, label_smoothing)
        metrics = [Perplexity()] if metrics == "auto" else metrics
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, sampler=sampler, **kwargs)

    def start_states(self, sizes):
        """Makes the carried states, whose tensors have these sizes. Training and evaluation have their own."""
        self._training_state = CarriedState(sizes, self.compute_dtype)
        self._evaluation_state = CarriedState(sizes, self.compute_dtype)

    def run_batch(self, x, training, **options):
        carried = self._training_state if training else self._evaluation_state
        results, state = self(x, initial_state=carried.read(), return_state=True, training=training, **options)
        carried.assign(state)
        return results

    def fit(
        self,
        x=None,
        y=None,
        batch_size=32,
        *,
        window=64,
        callbacks=None,
        validation_data=None,
        shuffle=True,
        seed=None,
        **kwargs,
    ):
        """Trains the model on documents, by truncated backpropagation through time.

        Args:
            x: the documents, in a form that `keras_seq.data.stream_batches` takes: strings, or sequences of token ids,
                as a list, array, tensor, `tf.data.Dataset` or generator; a single string or sequence of token ids is
                one document. Or the `tf.data.Dataset` that it returns.
            y: None. The targets are the tokens of `x`.
            batch_size: number of streams. Not used for a dataset of streams, like `window`, `shuffle` and `seed`.
            window: number of steps through which gradients flow.
            callbacks: see `keras.Model.fit`.
            validation_data: documents or a dataset of streams, as in `x`. No document of these is cut.
            shuffle: whether to shuffle the documents in every epoch.
            seed: seed of their order. Defaults to that of the model.
            **kwargs: other arguments of `keras.Model.fit`: `epochs`, `verbose`, ..., but no
                `validation_split`, `sample_weight` and `class_weight`.

        Returns:
            A `keras.callbacks.History`. Its `loss` and `val_loss` are means over tokens.

        Raises:
            ValueError: if the data have another form, or if token ids are outside the vocabulary.
        """
        _check_none(y=y)
        callbacks = order_callbacks(callbacks, kwargs.get("steps_per_epoch"))
        if kwargs.get("validation_split"):
            raise ValueError(
                "`validation_split` must be 0: documents are joined to streams. Pass the held-out documents as "
                f"`validation_data`. Received: {kwargs['validation_split']}"
            )
        for name in ("sample_weight", "class_weight"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"`{name}` must be None: all tokens of a language model have the same weight. Received: {name} of "
                    f"type {type(kwargs[name]).__name__}"
                )
        x = self._streams(x, "`x`", batch_size, window, shuffle=shuffle, seed=self.seed if seed is None else seed)
        if validation_data is not None:
            validation_data = self._streams(validation_data, "`validation_data`", batch_size, window, cut=False)
        with self.distribute_strategy.scope(), self._training_state.started(self._rows(x)):
            return super().fit(x, callbacks=callbacks, validation_data=validation_data, shuffle=False, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=32, window=64, sample_weight=None, **kwargs):
        """Computes the loss and metrics for documents.

        The loss is a mean over all tokens, `[END]` included. Its exponential is the perplexity
        (`keras_seq.training.Perplexity`), and divided by log(2) it is in bits per token
        (`keras_seq.training.BitsPerToken`). It depends on neither the batch size nor the window, because each document
        is read from its start.

        Args:
            x: documents or a dataset of streams; see `fit`.
            y: None.
            batch_size: maximum number of documents to read side by side.
            window: number of steps to compute at once.
            sample_weight: None.
            **kwargs: other arguments of `keras.Model.evaluate`: `verbose`, `return_dict`, `callbacks`.

        Returns:
            See `keras.Model.evaluate`.
        """
        _check_none(y=y, sample_weight=sample_weight)
        x = self._streams(x, "`x`", batch_size, window, cut=False)
        with self.distribute_strategy.scope(), self._evaluation_state.started(self._rows(x)):
            return super().evaluate(x, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """Trains on one batch of streams. The state goes on from the batch before, if that had as many streams."""
        with self.distribute_strategy.scope():
            self._training_state.ensure(len(x[0]))
            return super().train_on_batch(x, y, sample_weight, class_weight, return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """Evaluates one batch of streams. The state goes on from the batch before, if that had as many streams."""
        with self.distribute_strategy.scope():
            self._evaluation_state.ensure(len(x[0]))
            return super().test_on_batch(x, y, sample_weight, return_dict)

    def _streams(self, documents, label, batch_size, window, *, cut=True, **order):
        """Returns the batches of streams of documents, or those that are given."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        if not (isinstance(documents, tf.data.Dataset) and isinstance(documents.element_spec, tuple)):
            ids = self._document_ids(documents, label)
            documents = Streams(*ids, batch_size, window, cut, multiple=replicas).dataset(**order)
        if replicas == 1:
            return documents
        # Each replica gets the same rows of all batches, and keeps the state of these streams.
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return documents.with_options(options)

    def _rows(self, streams):
        """Returns the number of streams of each replica."""
        batch_size, replicas = _batch_size(streams), self.distribute_strategy.num_replicas_in_sync
        if batch_size % replicas:
            raise ValueError(
                f"`batch_size` must be a multiple of {replicas}, the number of replicas: each reads its own streams. "
                f"Received: {batch_size}"
            )
        return batch_size // replicas


class CarriedState:
    """The recurrent state of each stream, a list of tensors (batch, size). Each replica has that of its own streams.

    Keras does not see the variables, so they are neither weights nor saved. Their batch size is open: the same training
    step serves streams of any number.

    Args:
        sizes: list of integers.
        dtype: dtype of the state.
    """

    def __init__(self, sizes, dtype):
        self._sizes = sizes
        self._dtype = dtype
        self._variables = None  # made before the training step is traced
        self._batch_size = None

    def start(self, batch_size):
        """Sets the state of `batch_size` streams of each replica to zeros."""
        if self._variables is None:
            of_replica = {
                "synchronization": tf.VariableSynchronization.ON_READ,
                "aggregation": tf.VariableAggregation.NONE,
            }
            self._variables = [
                tf.Variable(tf.zeros([1, size], self._dtype), trainable=False, shape=[None, size], **of_replica)
                for size in self._sizes
            ]
        run_on_replicas(self._clear, tf.constant(batch_size))
        self._batch_size = batch_size

    @contextlib.contextmanager
    def started(self, batch_size):
        """Sets the state of `batch_size` streams to zeros, and afterwards to what it was: a callback may call `fit`."""
        outer = None if self._variables is None else run_on_replicas(self.read), self._batch_size
        self.start(batch_size)
        try:
            yield
        finally:
            state, self._batch_size = outer
            if state is not None:
                run_on_replicas(self.assign, state)

    def ensure(self, batch_size):
        """Sets the state to zeros unless it is one of `batch_size` streams."""
        if batch_size != self._batch_size:
            self.start(batch_size)

    def _clear(self, batch_size):
        self.assign([tf.zeros([batch_size, size], self._dtype) for size in self._sizes])

    def read(self):
        """Returns the state. Called on a replica, like `assign`."""
        return [variable.read_value() for variable in self._variables]

    def assign(self, state):
        for variable, value in zip(self._variables, state, strict=True):
            variable.assign(value)


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

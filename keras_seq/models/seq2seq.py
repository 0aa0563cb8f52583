# SPDX-License-Identifier: Apache-2.0
"""The sequence-to-sequence model: an encoder, a decoder and the vocabularies of both sides."""

import warnings

import keras
from keras import ops

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.vocabulary import END_ID, PAD_ID, START_ID
from keras_seq.models.evaluation import Evaluation
from keras_seq.models.generation import MAX_LENGTH, GenerativeModel, SearchStart
from keras_seq.models.token_side import source_side, target_side
from keras_seq.models.training_pairs import TrainingPairs
from keras_seq.training import ScheduledSampling
from keras_seq.training.callbacks import order_callbacks


@keras.saving.register_keras_serializable("keras_seq")
class Seq2Seq(Evaluation, GenerativeModel):
    """A sequence-to-sequence model, trained with teacher forcing (Sutskever, Vinyals & Le 2014).

    Compile, fit, evaluate and save it like any Keras model. Call `generate` to decode sources, and `score` for the
    probability of given targets.

    With vectorizers, the model maps strings to strings, and its vocabularies are saved in the `.keras` file and the
    SavedModel. The model adds `[END]` to sources and targets. Without vectorizers, it maps token ids to token ids: 0 is
    padding, 2 is `[START]` and 3 is `[END]`. The targets of `fit` must then end with 3.

    The decoder's input is the target shifted right by one, beginning with `[START]`. The loss that `fit` and `evaluate`
    report is a mean over tokens.

    Args:
        encoder: an `Encoder`.
        decoder: a `Decoder`.
        source_vectorizer: layer from `keras_seq.data.text_vectorizer`, or None if sources are token ids.
        target_vectorizer: layer from `keras_seq.data.text_vectorizer`, or None if targets are token ids.
        **kwargs: arguments of `keras.Model`.

    Call arguments:
        inputs: `(source, decoder_inputs)`, integers (batch, source) and (batch, time).
        training: whether to apply dropout and scheduled sampling.

    Returns:
        Logits (batch, time, target vocabulary). Ignore those of padding, after `[END]`.

    Example:
        >>> import keras_seq, tensorflow as tf
        >>> words, sounds = ["cat", "tack", "act"], ["K AE T", "T AE K", "AE K T"]
        >>> source = keras_seq.data.text_vectorizer(words)
        >>> target = keras_seq.data.text_vectorizer(sounds, split="whitespace")
        >>> model = keras_seq.Seq2Seq(
        ...     keras_seq.Encoder(source.vocabulary_size(), embedding_dim=8, units=16),
        ...     keras_seq.Decoder(target.vocabulary_size(), embedding_dim=8, units=16),
        ...     source,
        ...     target,
        ... )
        >>> model.compile("adam")
        >>> history = model.fit(tf.data.Dataset.from_tensor_slices((words, sounds)).batch(3), verbose=0)
        >>> len(model.generate(["cat", "tact"]))
        2
    """

    scheduled_sampling = None  # set by `compile`

    def __init__(self, encoder, decoder, source_vectorizer=None, target_vectorizer=None, **kwargs):
        for side, vectorizer, part in (("source", source_vectorizer, encoder), ("target", target_vectorizer, decoder)):
            if vectorizer is not None and vectorizer.vocabulary_size() > part.vocabulary_size:
                raise ValueError(
                    f"`{side}_vectorizer` must have at most {part.vocabulary_size} tokens, the `vocabulary_size` of "
                    f"the {type(part).__name__}. Received: a vectorizer with {vectorizer.vocabulary_size()} tokens"
                )
        super().__init__(
            source_side(source_vectorizer, encoder.vocabulary_size),
            target_side(target_vectorizer, decoder.vocabulary_size),
            **kwargs,
        )
        self.encoder = encoder
        self.decoder = decoder
        self._pairs = TrainingPairs(self._sides.source, self._sides.target)
        self.build()

    def build(self, input_shape=None):
        # Encoder and decoder may be built already if they come from a file or another model.
        if not self.encoder.built:
            self.encoder.build((None, None))
        if not self.decoder.built:
            memory_shape = (None, None, self.encoder.memory_units)
            self.decoder.build((None, None), memory_shape, (None, self.encoder.summary_units))

    def compile(
        self, optimizer="adam", loss="auto", metrics="auto", *, scheduled_sampling=None, sampler="greedy", **kwargs
    ):
        """Configures the model for training.

        A training step minimizes the loss of its batch. The loss that `fit` and `evaluate` report weights each batch by
        its number of target tokens without padding, so with `loss="auto"` it is the mean over all tokens.

        Args:
            optimizer: see `keras.Model.compile`.
            loss: see `keras.Model.compile`. "auto" stands for `keras_seq.training.masked_crossentropy()`, a mean over
                tokens.
            metrics: see `keras.Model.compile`. "auto" stands for `keras_seq.training.TokenAccuracy()`. You can also use
                `keras_seq.training.Perplexity()`.
            scheduled_sampling: a `keras_seq.training.ScheduledSampling`, used in every call with `training=True`, or
                None for teacher forcing only. Its schedule counts the iterations of the optimizer.
            sampler: how `generate` chooses tokens by default; see there.
            **kwargs: other arguments of `keras.Model.compile`.
        """
        if not isinstance(scheduled_sampling, ScheduledSampling | None):
            raise ValueError(
                "`scheduled_sampling` must be a `keras_seq.training.ScheduledSampling` or None. "
                f"Received: {scheduled_sampling!r}"
            )
        self.scheduled_sampling = scheduled_sampling
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, sampler=sampler, **kwargs)

    def get_compile_config(self):
        config = super().get_compile_config()  # empty if the model is not compiled
        sampling = keras.saving.serialize_keras_object(self.scheduled_sampling)
        return {**config, "scheduled_sampling": sampling} if config else config

    def call(self, inputs, training=False):
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
            raise ValueError(
                "`inputs` must be a pair `(source, decoder_inputs)` of token ids. Use `prepare` to convert strings. "
                f"Received: {inputs}"
            )
        source, decoder_inputs = inputs
        memory, summary = self.encoder(source, training=training)
        masks = {"mask": _decoder_mask(decoder_inputs), "memory_mask": ops.not_equal(source, PAD_ID)}
        if training and self.scheduled_sampling is not None:
            decoder_inputs = self._mix_inputs(decoder_inputs, memory, summary, masks)
        return self.decoder(decoder_inputs, memory, summary, **masks, training=training)

    def _mix_inputs(self, tokens, memory, summary, masks):
        """Replaces some of the decoder's inputs (batch, time) by predictions, by scheduled sampling."""
        sampling = self.scheduled_sampling
        draws = sampling.draw(tokens, self.optimizer.iterations)
        if sampling.mode == "sequential":
            with self.decoder.training_step_function(memory, masks["memory_mask"]) as step:
                return sampling.mix_sequential(tokens, step, self.decoder.get_initial_state(summary, memory), draws)
        with keras.StatelessScope():  # does not advance the seeds, so the trained pass draws the same masks
            logits = self.decoder(tokens, memory, summary, **masks, training=True)
        return sampling.mix_parallel(tokens, logits, draws)

    def train_step(self, data):
        # As in Keras, except that batches are weighted by their tokens in the reported loss.
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred, sample_weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        self._track_loss(loss, y)
        if self.trainable_weights:
            gradients = tape.gradient(scaled_loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=None,
        class_weight=None,
        sample_weight=None,
        **kwargs,
    ):
        """Trains the model on pairs of source and target.

        Pass sources as `x` and targets as `y`, or batches of pairs as `x`. Sources and targets are strings (batch,) or
        token ids (batch, time), as lists, NumPy arrays, tensors or ragged tensors. Target token ids must end with 3,
        `[END]`. If a string contains the text "[END]", it is read as an unknown token.

        Args:
            x: one of

                - the sources; pass the targets as `y`.
                - a `tf.data.Dataset`, `keras.utils.PyDataset` or generator of batches `(sources, targets)` or
                  `(sources, targets, sample_weight)`. A `PyDataset` loads its batches in threads, even with
                  `use_multiprocessing`.
                - prepared data: `(source ids, decoder inputs)` from `prepare`, with the target ids as `y`; or a
                  `tf.data.Dataset`, `PyDataset` or generator of batches that `prepare` returns.
            y: the targets, if `x` contains the sources.
            batch_size: number of pairs per step, if `x` contains the sources. Defaults to 32.
            epochs: see `keras.Model.fit`.
            verbose: see `keras.Model.fit`.
            callbacks: see `keras.Model.fit`.
            validation_split: see `keras.Model.fit`. Only if `x` contains the sources.
            validation_data: `(sources, targets)`, `(sources, targets, sample_weight)`, or batches as in `x`.
            shuffle: see `keras.Model.fit`. Defaults to True, except for datasets and generators, which you shuffle
                yourself.
            class_weight: dict that maps target token ids to their weights in the training loss. Other tokens have
                weight 1. Cannot be combined with `sample_weight` or `validation_split`.
            sample_weight: weights (batch,), one per pair; or weights (batch, time), one per token, if the targets are
                token ids.
            **kwargs: other arguments of `keras.Model.fit`: `initial_epoch`, `steps_per_epoch`, `validation_steps`, ...

        Returns:
            A `keras.callbacks.History`. Its `loss` and `val_loss` are means over tokens; see `evaluate`.

        Raises:
            ValueError: if the data have another form, or if token ids are outside the vocabulary.
            tf.errors.InvalidArgumentError: if values in a `tf.data.Dataset` are invalid. They are checked in its graph.
        """
        if class_weight is not None and validation_split:
            raise ValueError(
                "`class_weight` cannot be combined with `validation_split`. Use `validation_data` instead. "
                f"Received: validation_split={validation_split}"
            )
        if shuffle is None:
            shuffle = y is not None or getattr(x, "num_batches", None) is not None  # arrays or a finite PyDataset
        x, y, sample_weight = self._pairs.data(x, y, sample_weight, class_weight)
        if validation_data is not None:
            validation_data = self._pairs.validation_data(validation_data)
        return super().fit(
            x,
            y,
            batch_size,
            epochs,
            verbose=verbose,
            callbacks=order_callbacks(callbacks),
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            sample_weight=sample_weight,
            **kwargs,
        )

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """Trains on one batch of sources `x` and targets `y` as in `fit`. See `keras.Model.train_on_batch`."""
        x, y, sample_weight = self._pairs.arrays(x, y, sample_weight, class_weight)
        return super().train_on_batch(x, y, sample_weight, return_dict=return_dict)

    def start_search(self, source_ids, num_beams=1):
        mask = ops.not_equal(source_ids, PAD_ID)  # (batch, source)
        memory, summary = self.encoder(source_ids)
        step, state, memory = self.decoder.start_search(memory, summary, mask, num_beams)
        lengths = ops.sum(ops.cast(mask, "int32"), axis=1)
        # The limit depends only on the length of each source, not on the rest of the batch.
        limits = ops.minimum(2 * lengths + 10, MAX_LENGTH)
        return SearchStart(step, state, memory, tf.fill(tf.shape(limits), START_ID), limits, mask)

    @property
    def has_attention(self):
        return self.decoder.attention is not None

    def get_config(self):
        parts = ("encoder", "decoder", "source_vectorizer", "target_vectorizer")
        serialized = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in parts}
        return {"name": self.name, "trainable": self.trainable, "dtype": self.dtype_policy.name, **serialized}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = ("encoder", "decoder", "source_vectorizer", "target_vectorizer")
        restored = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects) for name in parts
        }
        return cls(**{**config, **restored})


def _decoder_mask(decoder_inputs):
    """Returns the mask of the decoder's inputs: True up to the last token other than [END] and padding."""
    is_text = ops.logical_and(ops.not_equal(decoder_inputs, PAD_ID), ops.not_equal(decoder_inputs, END_ID))
    return ops.flip(ops.cumsum(ops.flip(ops.cast(is_text, "int32"), axis=1), axis=1), axis=1) > 0

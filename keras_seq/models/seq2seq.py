# SPDX-License-Identifier: Apache-2.0
"""The sequence-to-sequence model: an encoder, a decoder, and the vocabularies of both sides."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_seq import export
from keras_seq._lazy_tensorflow import tf
from keras_seq.data.vocabulary import END_ID, PAD_ID, START_ID, detokenizer
from keras_seq.decoding import greedy_search
from keras_seq.models.token_side import TokenSide, source_batches
from keras_seq.models.training_pairs import TrainingPairs, holds_call_inputs
from keras_seq.training import ScheduledSampling, TokenAccuracy, masked_crossentropy
from keras_seq.training.callbacks import reports_first


@keras.saving.register_keras_serializable("keras_seq")
class Seq2Seq(keras.Model):
    """Maps sequences to sequences: trained by teacher forcing, decoded by search, with strings in and out.

    Compiled, fitted, evaluated and saved as any Keras model. The loss that `fit` and `evaluate` report is a mean over
    tokens. The decoder's input is the target shifted right by one,
    `[START]` first; `[END]` closes the target. With vectorizers the model takes and returns strings, and carries
    its vocabularies into the `.keras` file and the SavedModel. Without, it takes token ids: 0 is padding, 2 is
    `[START]`, 3 is `[END]`, and the targets given to `fit` end with 3.

    Args:
        encoder: an `Encoder`.
        decoder: a `Decoder`.
        source_vectorizer: a layer from `keras_seq.data.text_vectorizer`, or None for token ids.
        target_vectorizer: likewise.
        **kwargs: those of `keras.Model`.

    Call arguments:
        inputs: `(source, decoder_inputs)`, integers (batch, source) and (batch, time).
        training: whether to apply dropout.

    Returns:
        Logits (batch, time, target vocabulary). Those of padding, after `[END]`, mean nothing.

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

    scheduled_sampling = None  # until compiled with one

    def __init__(self, encoder, decoder, source_vectorizer=None, target_vectorizer=None, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.decoder = decoder
        for side, vectorizer, part in (("source", source_vectorizer, encoder), ("target", target_vectorizer, decoder)):
            if vectorizer is not None and vectorizer.vocabulary_size() > part.vocabulary_size:
                raise ValueError(
                    f"`{side}_vectorizer` has {vectorizer.vocabulary_size()} tokens, more than the "
                    f"{part.vocabulary_size} of the {type(part).__name__.lower()}'s `vocabulary_size`."
                )
        self._vocabularies = _Vocabularies(source_vectorizer, target_vectorizer)
        self._pairs = TrainingPairs(
            TokenSide("source", "`x` (sources)", source_vectorizer, encoder.vocabulary_size),
            TokenSide("target", "`y` (targets)", target_vectorizer, decoder.vocabulary_size),
        )
        limit = tf.TensorSpec([], tf.int32)
        # Traced once: neither batch size nor lengths are part of the signature.
        decode = tf.function(self.decode, input_signature=[self.source_spec, limit])
        self._compiled_decode = _Hidden(decode)  # from an export: its traces may hold native operations
        self.build()

    @property
    def source_vectorizer(self):
        """The layer from source strings to token ids, or None."""
        return self._vocabularies.source

    @property
    def target_vectorizer(self):
        """The layer from target strings to token ids, or None."""
        return self._vocabularies.target

    @property
    def text_layers(self):
        """The layers that handle strings: they run before a training step and after a search."""
        return self._vocabularies.layers

    @property
    def source_spec(self):
        """What `generate` decodes: strings (batch,), or int32 token ids (batch, source)."""
        if self.source_vectorizer is None:
            return tf.TensorSpec([None, None], tf.int32, name="inputs")
        return tf.TensorSpec([None], tf.string, name="inputs")

    def build(self, input_shape=None):
        # A part that comes from a file, or from another model, may be built already.
        if not self.encoder.built:
            self.encoder.build((None, None))
        if not self.decoder.built:
            memory_shape = (None, None, self.encoder.memory_units)
            self.decoder.build((None, None), memory_shape, (None, self.encoder.summary_units))

    def compile(self, optimizer="adam", loss="auto", metrics="auto", *, scheduled_sampling=None, **kwargs):
        """Configures the model for training. Arguments are those of `keras.Model.compile`, except as below.

        A training step minimizes the loss of its batch. What `fit` and `evaluate` report weighs each batch by its
        number of target tokens, padding left out; so with the loss "auto" it is the mean over all tokens.

        Args:
            optimizer: as of Keras.
            loss: as of Keras, or "auto": `keras_seq.training.masked_crossentropy()`, a mean over tokens.
            metrics: as of Keras, or "auto": `keras_seq.training.TokenAccuracy()`. `keras_seq.training.Perplexity()`
                is another.
            scheduled_sampling: a `keras_seq.training.ScheduledSampling`, which then acts in every call with
                `training=True`, or None for the truth alone. Its steps are those of the optimizer.
            **kwargs: those of `keras.Model.compile`.
        """
        if not isinstance(scheduled_sampling, ScheduledSampling | None):
            raise ValueError(
                "`scheduled_sampling` must be a `keras_seq.training.ScheduledSampling` or None. "
                f"Received: {scheduled_sampling!r}"
            )
        self.scheduled_sampling = scheduled_sampling
        loss = masked_crossentropy() if loss == "auto" else loss
        metrics = [TokenAccuracy()] if metrics == "auto" else metrics
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def get_compile_config(self):
        config = super().get_compile_config()  # empty where the model is not compiled
        sampling = keras.saving.serialize_keras_object(self.scheduled_sampling)
        return {**config, "scheduled_sampling": sampling} if config else config

    def compile_from_config(self, config):
        # Keras leaves this to every model with a `compile` of its own.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def call(self, inputs, training=False):
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
            raise ValueError(
                "`inputs` must be a pair (source, decoder_inputs) of token ids; `prepare` makes it from strings. "
                f"Received: {inputs}"
            )
        source, decoder_inputs = inputs
        memory, summary = self.encoder(source, training=training)
        masks = {"mask": _before_padding(decoder_inputs), "memory_mask": ops.not_equal(source, PAD_ID)}
        if training and self.scheduled_sampling is not None:
            decoder_inputs = self._mix_inputs(decoder_inputs, memory, summary, masks)
        return self.decoder(decoder_inputs, memory, summary, **masks, training=training)

    def _mix_inputs(self, tokens, memory, summary, masks):
        """The decoder's inputs (batch, time) with predictions among them, as `scheduled_sampling` has it."""
        sampling = self.scheduled_sampling
        draws = sampling.draw(tokens, self.optimizer.iterations)
        if sampling.mode == "sequential":
            with self.decoder.training_stepper(memory, masks["memory_mask"]) as step:
                return sampling.mix_sequential(tokens, step, self.decoder.start(summary, memory), draws)
        with keras.StatelessScope():  # in it seeds stand still, so that the pass that is trained draws the same masks
            logits = self.decoder(tokens, memory, summary, **masks, training=True)
        return sampling.mix_parallel(tokens, logits, draws)

    def prepare(self, source, target, sample_weight=None):
        """What a training step takes, from what a user has.

        To prepare again what is prepared changes nothing: instead of the sources it may be given the pair
        `(source ids, decoder inputs)`, with the target ids.

        Args:
            source: strings (batch,) or token ids (batch, source).
            target: strings (batch,) or token ids (batch, time). Token ids of a sequence must end with 3,
                `[END]`. This is not checked: a model that never sees it does not learn to stop.
            sample_weight: one weight a sequence, (batch,), or where the targets are token ids one a token, (batch,
                time), or None.

        Returns:
            `((source ids, decoder inputs), target ids)`, int32 tensors, and where given the weights, one a token.

        Raises:
            ValueError: for anything else, and for token ids outside the vocabulary.
        """
        return self._pairs.prepare(source, target, sample_weight)

    def train_step(self, data):
        # Keras's, except for how batches are weighed in the reported loss.
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

    def test_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        self._track_loss(self.compute_loss(x, y, y_pred, sample_weight, training=False), y)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def _track_loss(self, loss, target):
        """Adds the loss of a batch, a mean over its tokens, to that of the epoch, a mean over all tokens."""
        tokens = ops.sum(ops.cast(ops.not_equal(target, PAD_ID), "float32"))
        # Under a distribution strategy Keras divides the loss of a replica by their number.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        reported = next(metric for metric in self.metrics if metric.name == "loss")  # Keras's own, which `fit` shows
        reported.update_state(loss * ops.cast(replicas, loss.dtype), sample_weight=tokens)

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
        """Trains the model on pairs (source, target). Arguments are those of `keras.Model.fit`, except as below.

        Sources and targets are each strings, shape (batch,), or token ids, shape (batch, time): lists, NumPy arrays,
        tensors or ragged tensors. Targets of token ids end with 3, `[END]`. A text cannot hold a special token: `[END]`
        in it counts as an unknown token.

        Args:
            x: one of

                - the sources, with the targets in `y`;
                - a `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator of batches `(sources, targets)` or
                  `(sources, targets, sample_weight)`. A PyDataset loads its batches in threads, also with
                  `use_multiprocessing`;
                - what `prepare` makes of any of these: `(source ids, decoder inputs)`, with target ids in `y`, or
                  batches of that.
            y: the targets, where `x` holds the sources.
            batch_size: pairs in a step, where `x` holds the sources; 32 by default.
            epochs: as of Keras.
            verbose: as of Keras.
            callbacks: as of Keras.
            validation_split: as of Keras, where `x` holds the sources.
            validation_data: `(sources, targets)`, `(sources, targets, sample_weight)`, or batches as for `x`.
            shuffle: as of Keras; by default True, except for datasets and generators, which shuffle themselves.
            class_weight: a dict from target token ids to the weights of these tokens in the training loss; other tokens
                weigh 1. Not together with `sample_weight` or `validation_split`.
            sample_weight: one weight a pair, shape (batch,), or, where the targets are token ids, one a token, shape
                (batch, time) as the targets.
            **kwargs: as of Keras: `initial_epoch`, `steps_per_epoch`, `validation_steps`, ...

        Returns:
            The `History`. Its `loss` and `val_loss` are means over the tokens: see `evaluate`.

        Raises:
            ValueError: for data of any other form, and for token ids outside the vocabulary. Batches of a
                `tf.data.Dataset` are checked in its graph: what is wrong with their values is an
                `InvalidArgumentError`.
        """
        if class_weight is not None and validation_split:
            raise ValueError("`class_weight` cannot be given with `validation_split`: use `validation_data`.")
        if shuffle is None:
            shuffle = y is not None or getattr(x, "num_batches", None) is not None  # arrays, and a finite PyDataset
        x, y, sample_weight = self._pairs.data(x, y, sample_weight, class_weight)
        if validation_data is not None:
            validation_data = self._pairs.validation_data(validation_data)
        return super().fit(
            x,
            y,
            batch_size,
            epochs,
            verbose=verbose,
            callbacks=reports_first(callbacks),
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            sample_weight=sample_weight,
            **kwargs,
        )

    def evaluate(self, x=None, y=None, batch_size=None, verbose="auto", sample_weight=None, **kwargs):
        """Returns loss and metrics for pairs (source, target), teacher-forced.

        The loss is a mean over all tokens but padding, as that of `keras_seq.training.masked_crossentropy` is over a
        batch, so it does not depend on the batch size. Without regularization losses and sample weights its exponential
        is the perplexity (`keras_seq.training.Perplexity`). Sample weights multiply the loss of a token; the sum is
        divided by the number of tokens.

        Args:
            x: as of `fit`.
            y: as of `fit`.
            batch_size: as of `fit`.
            verbose: as of `keras.Model.evaluate`.
            sample_weight: as of `fit`.
            **kwargs: as of `keras.Model.evaluate`: `steps`, `callbacks`, `return_dict`.

        Returns:
            As `keras.Model.evaluate`.
        """
        x, y, sample_weight = self._pairs.data(x, y, sample_weight)
        return super().evaluate(x, y, batch_size, verbose=verbose, sample_weight=sample_weight, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """Trains on one batch, of sources and targets as in `fit`; arguments are those of `keras.Model`."""
        x, y, sample_weight = self._pairs.arrays(x, y, sample_weight, class_weight)
        return super().train_on_batch(x, y, sample_weight, return_dict=return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """Evaluates one batch, of sources and targets as in `fit`; arguments are those of `keras.Model`."""
        return super().test_on_batch(*self._pairs.arrays(x, y, sample_weight), return_dict=return_dict)

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Predicts: decodes sources as `generate` does, or runs `call` on its own inputs.

        As in Keras, targets among the data are not used.

        Args:
            x: sources in any form that `generate` takes; or `(source ids, decoder inputs)`, which `prepare` returns
                first, or a `tf.data.Dataset` of batches that begin with it.
            batch_size: as of Keras.
            verbose: as of Keras; decoding shows no progress.
            steps: as of Keras, for call inputs.
            callbacks: as of Keras, for call inputs.

        Returns:
            Of sources, what `generate` returns, as a NumPy array. Of `(source ids, decoder inputs)` the logits (batch,
            time, target vocabulary) of teacher forcing, a NumPy array.
        """
        if holds_call_inputs(x):
            return super().predict(x, batch_size, verbose=verbose, steps=steps, callbacks=callbacks)
        if steps is not None or callbacks is not None:
            raise ValueError("`predict` takes `steps` and `callbacks` only with `(source ids, decoder inputs)`.")
        return np.asarray(self.generate(x, batch_size=256 if batch_size is None else batch_size))

    def predict_on_batch(self, x):
        """As `predict`, on one batch."""
        return super().predict_on_batch(x) if holds_call_inputs(x) else np.asarray(self.generate(x))

    def generate(self, inputs, max_length=None, batch_size=256, return_dict=False):
        """Decodes greedily: each step takes the most likely token, padding and `[START]` left out.

        Args:
            inputs: the sources: strings, or token ids (batch, source) where the model has no source vectorizer, as a
                list, an array or a tensor; a single string; or a `tf.data.Dataset`, `keras.utils.PyDataset` or
                generator of batches of sources, or of tuples `(sources, targets, ...)`, whose sources are decoded.
            max_length: the most tokens of an output, `[END]` counted. By default 10 more than twice the source's.
            batch_size: how many sequences are decoded at once, where `inputs` does not come in batches.
            return_dict: whether to return more than the outputs.

        Returns:
            Strings, a list; or token ids (batch, time), a NumPy array, where the model has no target vectorizer. Of a
            single string one output, not a batch of one.
            With `return_dict` a dict of NumPy arrays: `text` (batch,) where there is a target vectorizer,
            `token_ids` (batch, time) int32, `log_probabilities` (batch,), the natural logarithm of each output's
            probability, and `attention_weights` (batch, time, source), source and target tokens with their `[END]`. Of
            a single string it holds a batch of one.

        Raises:
            ValueError: for inputs of the other kind, and for none; for token ids outside the vocabulary; for a
                `max_length` or `batch_size` that is no positive integer.
        """
        for name, value in (("max_length", max_length), ("batch_size", batch_size)):
            is_count = isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 < value < 2**31
            if not is_count and not (name == "max_length" and value is None):
                raise ValueError(f"`{name}` must be a positive integer, less than 2**31. Received: {value!r}")
        limit = tf.constant(0 if max_length is None else max_length, tf.int32)
        is_single = isinstance(inputs, (str, bytes))
        batches = []
        for sources in source_batches(self._pairs.source, [inputs] if is_single else inputs, batch_size):
            decoded = self._compiled_decode.function(sources, limit)
            batches.append({name: value.numpy() for name, value in decoded.items()})
        results = {name: _stack([batch[name] for batch in batches]) for name in batches[0]}
        if "text" in results:
            results["text"] = np.array([text.decode() for text in results["text"]])
        if return_dict:
            return results
        outputs = results["text"].tolist() if "text" in results else results["token_ids"]
        return outputs[0] if is_single else outputs

    def decode(self, inputs, max_length=0):
        """Search as a function of tensors, for `generate` and for export; arguments and dict as of `generate`.

        Args:
            inputs: strings (batch,) or token ids (batch, source).
            max_length: int32 scalar; 0 stands for the default.
        """
        source = inputs if self.source_vectorizer is None else self._pairs.source.close_texts(inputs)
        mask = ops.not_equal(source, PAD_ID)  # (batch, source)
        memory, summary = self.encoder(source)
        lengths = ops.sum(ops.cast(mask, "int32"), axis=1)
        # The limit follows from each source alone, not from what else is in the batch.
        limits = tf.where(max_length > 0, max_length, 2 * lengths + 10)
        found = greedy_search(
            self.decoder.stepper(memory, mask),
            self.decoder.start(summary, memory),
            tf.fill([tf.shape(source)[0]], START_ID),
            limits,
            end_id=END_ID,
            forbidden_ids=(PAD_ID, START_ID),
        )
        results = {
            "token_ids": found.token_ids,
            "log_probabilities": found.log_probabilities,
            "attention_weights": found.attention_weights,
        }
        if self._vocabularies.detokenizer is not None:
            results["text"] = self._vocabularies.detokenizer(found.token_ids)
        return results

    def export(self, path):
        """Write a SavedModel that maps strings to strings with TensorFlow alone: see `keras_seq.export`."""
        export.export_saved_model(self, path)

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


class _Hidden:
    """A function that TensorFlow does not find when it saves what the model holds."""

    def __init__(self, function):
        self.function = function


class _Vocabularies:
    """The layers that handle strings, out of Keras's sight.

    Were they layers of the model, it would not support XLA, though no training step ever calls them.
    """

    def __init__(self, source, target):
        self.source = source
        self.target = target
        self.detokenizer = None if target is None else detokenizer(target)
        for layer in self.layers:
            layer.build((None,))  # an export asks for built layers

    @property
    def layers(self):
        return [layer for layer in (self.source, self.target, self.detokenizer) if layer is not None]


def _before_padding(decoder_inputs):
    """Where the target has tokens, given the decoder's inputs: none after the final [END], and none after padding."""
    says = ops.logical_and(ops.not_equal(decoder_inputs, PAD_ID), ops.not_equal(decoder_inputs, END_ID))
    return ops.flip(ops.cumsum(ops.flip(ops.cast(says, "int32"), axis=1), axis=1), axis=1) > 0


def _stack(arrays):
    """Arrays that differ in length beyond the first axis as one, padded with zeros."""
    shape = np.max([array.shape[1:] for array in arrays], axis=0).astype(int) if arrays[0].ndim > 1 else ()
    padded = [np.pad(a, [(0, 0), *((0, n - m) for n, m in zip(shape, a.shape[1:], strict=True))]) for a in arrays]
    return np.concatenate(padded)

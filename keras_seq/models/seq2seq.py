# SPDX-License-Identifier: Apache-2.0
"""The sequence-to-sequence model: an encoder, a decoder and the vocabularies of both sides."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_seq import export
from keras_seq._lazy_tensorflow import tf
from keras_seq.data.vocabulary import END_ID, PAD_ID, START_ID, detokenizer
from keras_seq.decoding import greedy_search
from keras_seq.models.evaluation import Evaluation
from keras_seq.models.token_side import TokenSide, source_batches
from keras_seq.models.training_pairs import TrainingPairs, holds_call_inputs
from keras_seq.training import ScheduledSampling, TokenAccuracy, masked_crossentropy
from keras_seq.training.callbacks import order_callbacks


@keras.saving.register_keras_serializable("keras_seq")
class Seq2Seq(Evaluation, keras.Model):
    """A sequence-to-sequence model, trained with teacher forcing (Sutskever, Vinyals & Le 2014).

    Compile, fit, evaluate and save it like any Keras model. Call `generate` to decode sources.

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
        super().__init__(**kwargs)
        self.encoder = encoder
        self.decoder = decoder
        for side, vectorizer, part in (("source", source_vectorizer, encoder), ("target", target_vectorizer, decoder)):
            if vectorizer is not None and vectorizer.vocabulary_size() > part.vocabulary_size:
                raise ValueError(
                    f"`{side}_vectorizer` must have at most {part.vocabulary_size} tokens, the `vocabulary_size` of "
                    f"the {type(part).__name__}. Received: a vectorizer with {vectorizer.vocabulary_size()} tokens"
                )
        self._vocabularies = _Vocabularies(source_vectorizer, target_vectorizer)
        self._pairs = TrainingPairs(
            TokenSide("source", "`x` (sources)", source_vectorizer, encoder.vocabulary_size),
            TokenSide("target", "`y` (targets)", target_vectorizer, decoder.vocabulary_size),
        )
        limit = tf.TensorSpec([], tf.int32)
        # Traced once, because batch size and lengths are not part of the signature.
        decode = tf.function(self.decode, input_signature=[self.source_spec, limit])
        self._compiled_decode = _UntrackedFunction(decode)  # not exported, because its traces may use native ops
        self.build()

    @property
    def source_vectorizer(self):
        """The layer that maps source strings to token ids, or None."""
        return self._vocabularies.source

    @property
    def target_vectorizer(self):
        """The layer that maps target strings to token ids, or None."""
        return self._vocabularies.target

    @property
    def text_layers(self):
        """The layers that process strings, before a training step and after a search."""
        return self._vocabularies.layers

    @property
    def source_spec(self):
        """The `tf.TensorSpec` of the sources: strings (batch,) or int32 token ids (batch, source)."""
        if self.source_vectorizer is None:
            return tf.TensorSpec([None, None], tf.int32, name="inputs")
        return tf.TensorSpec([None], tf.string, name="inputs")

    def build(self, input_shape=None):
        # Encoder and decoder may be built already if they come from a file or another model.
        if not self.encoder.built:
            self.encoder.build((None, None))
        if not self.decoder.built:
            memory_shape = (None, None, self.encoder.memory_units)
            self.decoder.build((None, None), memory_shape, (None, self.encoder.summary_units))

    def compile(self, optimizer="adam", loss="auto", metrics="auto", *, scheduled_sampling=None, **kwargs):
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
            **kwargs: other arguments of `keras.Model.compile`.
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
        config = super().get_compile_config()  # empty if the model is not compiled
        sampling = keras.saving.serialize_keras_object(self.scheduled_sampling)
        return {**config, "scheduled_sampling": sampling} if config else config

    def compile_from_config(self, config):
        # Required by Keras of every model that overrides `compile`.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

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

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Decodes sources like `generate`, or computes logits from prepared inputs.

        As in Keras, targets in the data are ignored.

        Args:
            x: sources in a form that `generate` takes; or the inputs of `call`, `(source ids, decoder inputs)` from
                `prepare`, or a `tf.data.Dataset` of batches that begin with them.
            batch_size: see `keras.Model.predict`. Defaults to 256 for sources.
            verbose: see `keras.Model.predict`. Decoding shows no progress.
            steps: see `keras.Model.predict`. Only for the inputs of `call`.
            callbacks: see `keras.Model.predict`. Only for the inputs of `call`.

        Returns:
            For sources, the outputs of `generate` as a NumPy array. For `(source ids, decoder inputs)`, the teacher-
            forced logits (batch, time, target vocabulary), a NumPy array.
        """
        if holds_call_inputs(x):
            return super().predict(x, batch_size, verbose=verbose, steps=steps, callbacks=callbacks)
        if steps is not None or callbacks is not None:
            raise ValueError(
                "`steps` and `callbacks` must be None unless `x` contains `(source ids, decoder inputs)`. "
                f"Received: steps={steps!r}, callbacks={callbacks!r}"
            )
        return np.asarray(self.generate(x, batch_size=256 if batch_size is None else batch_size))

    def predict_on_batch(self, x):
        """Decodes one batch of sources, or computes its logits. See `predict`."""
        return super().predict_on_batch(x) if holds_call_inputs(x) else np.asarray(self.generate(x))

    def generate(self, inputs, max_length=None, batch_size=256, return_dict=False):
        """Decodes sources by greedy search: each step takes the most likely token, except padding and `[START]`.

        Args:
            inputs: the sources. Strings, or token ids (batch, source) if the model has no source vectorizer, as a list,
                array or tensor; a single string; or a `tf.data.Dataset`, `keras.utils.PyDataset` or generator of
                batches of sources or of tuples `(sources, targets, ...)`, of which only the sources are used.
            max_length: maximum number of tokens of an output, including `[END]`. Defaults to twice the length of the
                source plus 10.
            batch_size: number of sequences to decode at once, if `inputs` are not batched.
            return_dict: whether to return a dict with scores and attention weights.

        Returns:
            A list of strings, or a NumPy array of token ids (batch, time) if the model has no target vectorizer. For a
            single string, one output instead of a batch.

            With `return_dict`, a dict of NumPy arrays, also for a single string:

            - `text` (batch,), if the model has a target vectorizer.
            - `token_ids` (batch, time), int32.
            - `log_probabilities` (batch,), the natural logarithm of the probability of each output.
            - `attention_weights` (batch, time, source), where source and target include `[END]`.

        Raises:
            ValueError: if `inputs` have another form or are empty, if token ids are outside the vocabulary, or if
                `max_length` or `batch_size` is not a positive integer.
        """
        for name, value in (("max_length", max_length), ("batch_size", batch_size)):
            is_count = isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 < value < 2**31
            if not is_count and not (name == "max_length" and value is None):
                raise ValueError(f"`{name}` must be a positive integer less than 2**31. Received: {value!r}")
        limit = tf.constant(0 if max_length is None else max_length, tf.int32)
        is_single = isinstance(inputs, (str, bytes))
        batches = []
        for sources in source_batches(self._pairs.source, [inputs] if is_single else inputs, batch_size):
            decoded = self._compiled_decode.function(sources, limit)
            batches.append({name: value.numpy() for name, value in decoded.items()})
        results = {name: _concatenate_padded([batch[name] for batch in batches]) for name in batches[0]}
        if "text" in results:
            results["text"] = np.array([text.decode() for text in results["text"]])
        if return_dict:
            return results
        outputs = results["text"].tolist() if "text" in results else results["token_ids"]
        return outputs[0] if is_single else outputs

    def decode(self, inputs, max_length=0):
        """Decodes a batch within a graph, for `generate` and for export.

        Args:
            inputs: strings (batch,) or token ids (batch, source), a tensor.
            max_length: int32 scalar, the maximum number of tokens; 0 for the default of `generate`.

        Returns:
            A dict of tensors; see `generate`.
        """
        source = inputs if self.source_vectorizer is None else self._pairs.source.texts_to_ids(inputs)
        mask = ops.not_equal(source, PAD_ID)  # (batch, source)
        memory, summary = self.encoder(source)
        lengths = ops.sum(ops.cast(mask, "int32"), axis=1)
        # The limit depends only on the length of each source, not on the rest of the batch.
        limits = tf.where(max_length > 0, max_length, 2 * lengths + 10)
        hypotheses = greedy_search(
            self.decoder.step_function(memory, mask),
            self.decoder.get_initial_state(summary, memory),
            tf.fill([tf.shape(source)[0]], START_ID),
            limits,
            end_id=END_ID,
            forbidden_ids=(PAD_ID, START_ID),
        )
        results = {
            "token_ids": hypotheses.token_ids,
            "log_probabilities": hypotheses.log_probabilities,
            "attention_weights": hypotheses.attention_weights,
        }
        if self._vocabularies.detokenizer is not None:
            results["text"] = self._vocabularies.detokenizer(hypotheses.token_ids)
        return results

    def export(self, path):
        """Writes a SavedModel that maps strings to strings and runs with TensorFlow alone. See `keras_seq.export`."""
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


class _UntrackedFunction:
    """Holds a function that TensorFlow must not track, so that it is not saved with the model."""

    def __init__(self, function):
        self.function = function


class _Vocabularies:
    """Holds the layers that process strings, so that Keras does not track them.

    As layers of the model they would turn off XLA, although no training step calls them.
    """

    def __init__(self, source, target):
        self.source = source
        self.target = target
        self.detokenizer = None if target is None else detokenizer(target)
        for layer in self.layers:
            layer.build((None,))  # an export needs built layers

    @property
    def layers(self):
        return [layer for layer in (self.source, self.target, self.detokenizer) if layer is not None]


def _decoder_mask(decoder_inputs):
    """Returns the mask of the decoder's inputs: True up to the last token other than [END] and padding."""
    is_text = ops.logical_and(ops.not_equal(decoder_inputs, PAD_ID), ops.not_equal(decoder_inputs, END_ID))
    return ops.flip(ops.cumsum(ops.flip(ops.cast(is_text, "int32"), axis=1), axis=1), axis=1) > 0


def _concatenate_padded(arrays):
    """Concatenates arrays along the first axis, padding the other axes with zeros."""
    shape = np.max([array.shape[1:] for array in arrays], axis=0).astype(int) if arrays[0].ndim > 1 else ()
    padded = [np.pad(a, [(0, 0), *((0, n - m) for n, m in zip(shape, a.shape[1:], strict=True))]) for a in arrays]
    return np.concatenate(padded)

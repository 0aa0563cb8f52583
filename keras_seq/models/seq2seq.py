# SPDX-License-Identifier: Apache-2.0
"""The sequence-to-sequence model: an encoder, a decoder, and the vocabularies of both sides."""

import keras
import numpy as np
from keras import ops
from keras.src.utils.module_utils import tensorflow as tf  # imported when it is used

from keras_seq import export
from keras_seq.data.vocabulary import END_ID, PAD_ID, START_ID, detokenizer
from keras_seq.decoding import greedy_search
from keras_seq.training import ScheduledSampling, TokenAccuracy, masked_crossentropy


@keras.saving.register_keras_serializable("keras_seq")
class Seq2Seq(keras.Model):
    """Maps sequences to sequences: trained by teacher forcing, decoded by search, with strings in and out.

    Compiled, fitted, evaluated and saved as any Keras model. The decoder's input is the target shifted right by one,
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
        """As `keras.Model.compile`; "auto" is cross-entropy and token accuracy that leave out padding.

        Args:
            optimizer: as of Keras.
            loss: as of Keras, or "auto".
            metrics: as of Keras, or "auto".
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

        Args:
            source: strings (batch,) or token ids (batch, source).
            target: strings (batch,) or token ids (batch, time), each sequence closed by `[END]`.
            sample_weight: (batch,), one a sequence, or None.

        Returns:
            `((source ids, decoder inputs), target ids)`, and where given the weights, one a token.
        """
        source = self._token_ids(source, self.source_vectorizer, "source")
        target = self._token_ids(target, self.target_vectorizer, "target")
        start = tf.fill([tf.shape(target)[0], 1], tf.cast(START_ID, target.dtype))
        prepared = ((source, tf.concat([start, target[:, :-1]], axis=1)), target)
        if sample_weight is None:
            return prepared
        # One weight a token: where the loss leaves out tokens, Keras does not broadcast the weights of sequences.
        return (*prepared, tf.convert_to_tensor(sample_weight)[:, None] * tf.ones_like(target, keras.config.floatx()))

    def _token_ids(self, texts, vectorizer, name):
        """Token ids (batch, time) closed by `[END]`, of strings, or the ids that were given."""
        texts = tf.convert_to_tensor(texts)
        if texts.dtype != tf.string:
            return texts
        if vectorizer is None:
            raise ValueError(f"`{name}` holds strings, but the model has no `{name}_vectorizer`.")
        ids = vectorizer(texts)  # ragged
        end = tf.fill([tf.shape(texts)[0], 1], tf.cast(END_ID, ids.dtype))
        return tf.concat([ids, end], axis=1).to_tensor(PAD_ID)

    def fit(self, x=None, y=None, batch_size=None, epochs=1, *, validation_data=None, **kwargs):
        """As `keras.Model.fit`, on `(source, target)` pairs, strings or token ids.

        Args:
            x: a `tf.data.Dataset` of batches `(source, target)`, or the sources.
            y: the targets, where `x` holds the sources.
            batch_size: pairs in a step, where `x` holds the sources; 32 by default.
            epochs: passes over the data.
            validation_data: a dataset or a tuple, likewise.
            **kwargs: those of `keras.Model.fit`.

        Returns:
            The `History`.
        """
        if y is None:
            kwargs.setdefault("shuffle", False)  # a dataset shuffles itself; Keras warns of its own default
        x, y = self._prepare_data(x, y)
        if isinstance(validation_data, tuple):
            validation_data = self.prepare(*validation_data)
        elif validation_data is not None:
            validation_data, _ = self._prepare_data(validation_data, None)
        return super().fit(x, y, batch_size, epochs, validation_data=validation_data, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=None, **kwargs):
        """As `keras.Model.evaluate`, on `(source, target)` pairs, strings or token ids; arguments as of `fit`."""
        return super().evaluate(*self._prepare_data(x, y), batch_size, **kwargs)

    def _prepare_data(self, x, y):
        if y is not None:
            inputs, targets = self.prepare(x, y)
            return tuple(np.asarray(ids) for ids in inputs), np.asarray(targets)
        if isinstance(x, tf.data.Dataset):
            if isinstance(x.element_spec[0], tf.TensorSpec):
                x = x.map(self.prepare, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
            x = _untuned(x)
        return x, None

    def generate(self, inputs, max_length=None, batch_size=256, return_dict=False):
        """Decode greedily.

        Args:
            inputs: strings, or token ids (batch, source) where the model has no source vectorizer.
            max_length: the most tokens of an output, `[END]` counted. By default 10 more than twice the source's.
            batch_size: how many sequences are decoded at once.
            return_dict: whether to return more than the outputs.

        Returns:
            Strings, a list; or token ids (batch, time), a NumPy array, where the model has no target vectorizer.
            With `return_dict` a dict of NumPy arrays: `text` (batch,) where there is a target vectorizer,
            `token_ids` (batch, time) int32, `log_probabilities` (batch,), the natural logarithm of each output's
            probability, and `attention_weights` (batch, time, source), source and target tokens with their `[END]`.

        Raises:
            ValueError: for inputs of the other kind, and for none.
        """
        inputs = self._checked_inputs(inputs)
        limit = tf.constant(0 if max_length is None else max_length, tf.int32)
        batches = []
        for start in range(0, len(inputs), batch_size):
            decoded = self._compiled_decode.function(tf.constant(inputs[start : start + batch_size]), limit)
            batches.append({name: value.numpy() for name, value in decoded.items()})
        results = {name: _stack([batch[name] for batch in batches]) for name in batches[0]}
        if "text" in results:
            results["text"] = np.array([text.decode() for text in results["text"]])
        if return_dict:
            return results
        return results["text"].tolist() if "text" in results else results["token_ids"]

    def _checked_inputs(self, inputs):
        inputs = np.asarray(inputs)
        spec = self.source_spec
        if inputs.ndim != spec.shape.rank or len(inputs) == 0:
            expected = "a list of strings" if spec.dtype == tf.string else "token ids of shape (batch, source)"
            raise ValueError(f"`inputs` must be {expected}, at least one. Received: an array of shape {inputs.shape}")
        is_text = inputs.dtype.kind in "UOST"
        if is_text and spec.dtype != tf.string:
            raise ValueError("`inputs` holds strings, but the model has no `source_vectorizer`.")
        if not is_text and spec.dtype == tf.string:
            raise ValueError(f"`inputs` must hold strings: the model has a vectorizer. Received: {inputs.dtype}")
        return inputs.astype(object) if is_text else inputs.astype("int32")

    def decode(self, inputs, max_length=0):
        """Search as a function of tensors, for `generate` and for export; arguments and dict as of `generate`.

        Args:
            inputs: strings (batch,) or token ids (batch, source).
            max_length: int32 scalar; 0 stands for the default.
        """
        source = self._token_ids(inputs, self.source_vectorizer, "inputs")
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
            "attention_weights": found.alignments,
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


def _untuned(dataset):
    """The dataset without tf.data's tuner, unless the user asked for it.

    The thread of the tuner sleeps twice as long each time, and in TensorFlow 2.21 an epoch may end by waiting for it to
    wake: epochs of 4.9 s took 5.25, and one 10.4. Tuning would gain little; what is `AUTOTUNE` uses all cores.
    """
    if dataset.options().autotune.enabled is not None:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _stack(arrays):
    """Arrays that differ in length beyond the first axis as one, padded with zeros."""
    shape = np.max([array.shape[1:] for array in arrays], axis=0).astype(int) if arrays[0].ndim > 1 else ()
    padded = [np.pad(a, [(0, 0), *((0, n - m) for n, m in zip(shape, a.shape[1:], strict=True))]) for a in arrays]
    return np.concatenate(padded)

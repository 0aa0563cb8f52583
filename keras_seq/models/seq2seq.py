# SPDX-License-Identifier: Apache-2.0
"""The sequence-to-sequence model: an encoder, a decoder and the vocabularies of both sides."""

import contextlib

import keras
from keras import ops

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.vocabulary import END_ID, PAD_ID, START_ID, UNKNOWN_ID
from keras_seq.models.array_side import ArraySide, deserialize_spec, serialize_spec
from keras_seq.models.copying import check_copying, check_positions
from keras_seq.models.encoder import Encoder
from keras_seq.models.encoding import encode
from keras_seq.models.evaluation import Evaluation
from keras_seq.models.feature_side import FeatureSide, without_features
from keras_seq.models.features import (
    FeatureEmbedding,
    check_built,
    deserialize_features,
    make_features,
    serialize_features,
)
from keras_seq.models.generation import MAX_LENGTH, GenerativeModel
from keras_seq.models.search_start import SearchStart
from keras_seq.models.shuffled_arrays import shuffle_arrays
from keras_seq.models.token_side import source_side, target_side
from keras_seq.models.training_pairs import TrainingPairs
from keras_seq.training import ScheduledSampling
from keras_seq.training.callbacks import order_callbacks

_PARTS = ("encoder", "decoder", "source_vectorizer", "target_vectorizer")


@keras.saving.register_keras_serializable("keras_seq")
class Seq2Seq(Evaluation, GenerativeModel):
    """A sequence-to-sequence model, trained with teacher forcing (Sutskever, Vinyals & Le 2014).

    Compile, fit, evaluate and save it like any Keras model. Call `generate` to decode sources, and `score` for the
    probability of given targets.

    With vectorizers, the model maps strings to strings, and its vocabularies are saved in the `.keras` file and the
    SavedModel. The model adds `[END]` to sources and targets. Without vectorizers, it maps token ids to token ids: 0 is
    padding, 2 is `[START]` and 3 is `[END]`. The targets of `fit` must then end with 3.

    The encoder can be any Keras layer or model, for example a CNN over images. It returns one of

    - the memory, which attention reads: (batch, positions, features). The axes of a feature map (batch, height, width,
      features) are flattened to positions.
    - a tuple `(memory, *states)`, as a recurrent layer with `return_sequences=True` and `return_state=True` does.
      States are (batch, features).
    - a dict with "memory" and optionally "mask", booleans (batch, positions), and "states".

    The decoder's initial state is computed from the states; without states, from the mean of the memory. Positions that
    the mask excludes do not count. Unless a dict has a mask, it is the Keras mask of the memory, as after an
    `Embedding` with `mask_zero=True` or a `Masking` layer. Sources are then what the encoder takes: arrays (batch, ...)
    of any dtype, or a dict of arrays. Arrays of unequal shapes, in a list or a ragged tensor, are padded with zeros at
    the end; the encoder must mask this padding itself. If the encoder has no `keras.Input` and there is no
    `source_spec`, the first sources build the model.

    With `features`, one model serves several languages, speakers or styles. Sources are then a dict everywhere, in
    `fit`, `generate`, `score` and in the signatures of an export: `{"source": texts, "language": tags, ...}`, with a
    value of each feature for each source, tags (batch,) or real vectors (batch, n). Each tag has an embedding of
    `features_dim`; a real vector is mapped to this size by a linear layer. They are appended to the embeddings of an
    `Encoder` at every position, and to those of the decoder at every step. Another encoder gets them if its `call` has
    an argument `features`, (batch, number of features * features_dim), after its first one. A tag outside the
    vocabulary becomes the index that its lookup has for that, whose embedding is trained only if there are such tags in
    the training data.

    The decoder's input is the target shifted right by one, beginning with `[START]`. The loss that `fit` and `evaluate`
    report is a mean over tokens.

    Args:
        encoder: an `Encoder`, or any Keras layer or model that returns a memory, as described above.
        decoder: a `Decoder`.
        source_vectorizer: layer from `keras_seq.data.text_vectorizer` or `subword_vectorizer`, or None if sources are
            not strings.
        target_vectorizer: layer from these, or None if targets are token ids.
        source_spec: dtype and shape of the sources, with the batch as first axis: a `tf.TensorSpec`,
            `keras.KerasTensor` or `keras.InputSpec`, or a dict of them. By default those of the encoder's `keras.Input`
            if it has one, else those of the first sources that the model sees. Only for encoders other than `Encoder`.
        features: conditioning features, a dict from names to what they are: a `keras.layers.StringLookup` or
            `IntegerLookup` with a vocabulary, for tags; or an integer n, for real vectors of n dimensions. Sources are
            then a dict, as described above.
        features_dim: size of the embedding of each feature.
        **kwargs: arguments of `keras.Model`.

    Call arguments:
        inputs: `(source, decoder_inputs)`: integers (batch, source), or what the encoder takes; and integers (batch,
            time). With `features`, the source is what `prepare` returns.
        training: whether to apply dropout and scheduled sampling.
        return_features: whether to return what the decoder's readout reads in the place of the logits; see `Decoder`.

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

        Captions of images: a CNN is the encoder, and attention reads its feature map.

        >>> import keras, numpy as np
        >>> images = np.random.default_rng(0).random((3, 8, 8, 1))
        >>> cnn = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(16, 3, activation="relu")])
        >>> model = keras_seq.Seq2Seq(cnn, keras_seq.Decoder(9, 8, 16), target_vectorizer=source)
        >>> model.compile("adam")
        >>> history = model.fit(images, words, verbose=0)
        >>> model.generate(images, return_dict=True)["attention_weights"].shape[-1]  # 6 * 6 positions
        36

        One model for two languages:

        >>> model = keras_seq.Seq2Seq(
        ...     keras_seq.Encoder(source.vocabulary_size(), embedding_dim=8, units=16),
        ...     keras_seq.Decoder(target.vocabulary_size(), embedding_dim=8, units=16),
        ...     source,
        ...     target,
        ...     features={"language": keras.layers.StringLookup(vocabulary=["eng", "fre"])},
        ... )
        >>> model.compile("adam")
        >>> history = model.fit({"source": words, "language": ["eng", "eng", "fre"]}, sounds, verbose=0)
        >>> len(model.generate({"source": ["cat", "cat"], "language": ["eng", "fre"]}))
        2
    """

    scheduled_sampling = None  # set by `compile`

    def __init__(
        self,
        encoder,
        decoder,
        source_vectorizer=None,
        target_vectorizer=None,
        *,
        source_spec=None,
        features=None,
        features_dim=16,
        **kwargs,
    ):
        source = self._make_source_side(encoder, source_vectorizer, source_spec)
        target = target_side(target_vectorizer, decoder.vocabulary_size)
        for side in (source, target):
            if side.vectorizer is not None and side.vectorizer.vocabulary_size() > side.vocabulary_size:
                part = encoder if side is source else decoder
                raise ValueError(
                    f"`{side.name}_vectorizer` must have at most {side.vocabulary_size} tokens, the `vocabulary_size` "
                    f"of the {type(part).__name__}. Received: a vectorizer with {side.vectorizer.vocabulary_size()} "
                    "tokens"
                )
        if decoder.copy:
            check_copying(source, target)
        source = FeatureSide(source, make_features(features)) if features else source
        # Sources are passed as they are, for the encoder to cast.
        super().__init__(source, target, **{"autocast": False, **kwargs})
        self.feature_embedding = None
        if features:
            self.feature_embedding = FeatureEmbedding(source.features, features_dim, dtype=self.dtype_policy)
        self.encoder = encoder
        self.decoder = decoder
        self._pairs = TrainingPairs(source, target)
        if source.spec is not None:
            self.build()

    @property
    def features(self):
        """The conditioning features, a dict of lookups and numbers of dimensions."""
        features = without_features(self._sides.source)[1]
        return {name: feature.size if feature.lookup is None else feature.lookup for name, feature in features.items()}

    @property
    def _encoder_side(self):
        """The side of what the encoder reads."""
        return without_features(self._sides.source)[0]

    def _make_source_side(self, encoder, vectorizer, spec):
        """Returns the side of the sources: tokens if there is a vectorizer or an `Encoder`, else arrays."""
        if not isinstance(encoder, keras.layers.Layer):
            raise ValueError(f"`encoder` must be a Keras layer or model. Received: {encoder!r}")
        if isinstance(encoder, Encoder) or vectorizer is not None:
            if spec is not None:
                raise ValueError(f"`source_spec` must be None if sources are tokens. Received: {spec!r}")
            is_own = isinstance(encoder, Encoder)
            return source_side(vectorizer, encoder.vocabulary_size if is_own else vectorizer.vocabulary_size())
        spec = _input_spec(encoder) if spec is None else spec
        return ArraySide("source", "`x` (sources)", self._accept, spec, is_fixed=spec is not None)

    def build(self, input_shape=None):
        spec = self._encoder_side.spec
        if spec is not None:  # else `call` builds encoder and decoder
            self._build_parts(spec)

    def _build_parts(self, spec):
        """Builds encoder and decoder for such sources, or raises a ValueError if the encoder cannot read them."""
        source = keras.tree.map_structure(lambda leaf: keras.KerasTensor(leaf.shape, leaf.dtype.name), spec)
        # The first sources may come after the scope of the strategy in which the model was made.
        with contextlib.nullcontext() if tf.distribute.has_strategy() else self.distribute_strategy.scope():
            features = None if self.feature_embedding is None else self.feature_embedding.symbolic_output()
            encoding = encode(self.encoder, source, features=features)
            if not self.decoder.built:  # it is if it comes from a file or another model
                shapes = [None if x is None else tuple(x.shape) for x in (encoding.memory, encoding.summary, features)]
                self.decoder.build((None, None), *shapes)
        check_built((self.encoder, self.decoder), features)

    def _accept(self, spec):
        """Builds encoder and decoder for the first sources, and checks others, or raises an error."""
        self._build_parts(spec)
        if self._encoder_side.spec is not None:
            self._check_encoder(spec)

    def _check_encoder(self, spec):
        """Raises an error if the encoder cannot read such sources, which many layers of Keras find when they run."""

        def run(source):
            with keras.StatelessScope():  # leaves no losses and updates in the encoder
                features = None
                if self.feature_embedding is not None:
                    batch = ops.shape(tf.nest.flatten(source)[0])[0]
                    features = ops.zeros((batch, self.feature_embedding.units), self.feature_embedding.compute_dtype)
                return encode(self.encoder, source, features=features).summary

        tf.function(run, input_signature=[spec], autograph=False).get_concrete_function()

    def compile(
        self,
        optimizer="adam",
        loss="auto",
        metrics="auto",
        *,
        label_smoothing=0.0,
        scheduled_sampling=None,
        sampler="greedy",
        **kwargs,
    ):
        """Configures the model for training.

        A training step minimizes the loss of its batch. The loss that `fit` and `evaluate` report weights each batch by
        its number of target tokens without padding, so with `loss="auto"` it is the mean over all tokens.

        Args:
            optimizer: see `keras.Model.compile`. "adam" stands for `keras_seq.training.Adam()`, which computes the same
                as Keras's in less time.
            loss: see `keras.Model.compile`. "auto" stands for
                `keras_seq.training.masked_crossentropy(label_smoothing)`, a mean over tokens.
            metrics: see `keras.Model.compile`. "auto" stands for `keras_seq.training.TokenAccuracy()`. You can also use
                `keras_seq.training.SequenceAccuracy()` and `Perplexity()`.
            label_smoothing: see `keras_seq.training.masked_crossentropy`. Only with `loss="auto"`.
            scheduled_sampling: a `keras_seq.training.ScheduledSampling`, used in every call with `training=True`, or
                None for teacher forcing only. Its schedule counts the iterations of the optimizer.
            sampler: how `generate` chooses tokens by default; see there.
            **kwargs: other arguments of `keras.Model.compile`. With `jit_compile="auto"` Keras does not use XLA on a
                CPU, and that serves batches of similar length: XLA compiles the step again for each shape, which takes
                seconds, and then saves a few percent of each step. `jit_compile=True` pays where all batches have one
                shape, as arrays have.
        """
        if not isinstance(scheduled_sampling, ScheduledSampling | None):
            raise ValueError(
                "`scheduled_sampling` must be a `keras_seq.training.ScheduledSampling` or None. "
                f"Received: {scheduled_sampling!r}"
            )
        self.scheduled_sampling = scheduled_sampling
        options = {"label_smoothing": label_smoothing, "sampler": sampler, **kwargs}
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **options)

    def get_compile_config(self):
        config = super().get_compile_config()  # empty if the model is not compiled
        sampling = keras.saving.serialize_keras_object(self.scheduled_sampling)
        return {**config, "scheduled_sampling": sampling} if config else config

    def call(self, inputs, training=False, return_features=False):
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
            raise ValueError(
                "`inputs` must be a pair `(source, decoder_inputs)`, as `prepare` returns for sources and targets. "
                f"Received: {inputs}"
            )
        source, decoder_inputs = inputs
        source = self._sides.source.cast(source)
        (memory, memory_mask, summary), features = self._encode(source, training)
        sources = {"memory_mask": memory_mask, "features": features, **self._source_tokens(source, memory)}
        mask = _decoder_mask(decoder_inputs)
        if training and self.scheduled_sampling is not None:
            decoder_inputs = self._mix_inputs(decoder_inputs, memory, summary, mask, sources)
        options = {"mask": mask, **sources, "training": training, "return_features": return_features}
        return self.decoder(decoder_inputs, memory, summary, **options)

    def _encode(self, source, training=False):
        """Returns the `Encoding` of a batch of sources, and the vectors of their features (batch, n) or None."""
        features = None
        if self.feature_embedding is not None:
            source, features = source["source"], self.feature_embedding(source["features"])
        return encode(self.encoder, source, training, features), features

    def _source_tokens(self, source, memory):
        """Returns the argument `source_tokens` of a decoder that copies, as a dict; an empty one for others."""
        if not self.decoder.copy:
            return {}
        tokens = source if self.feature_embedding is None else source["source"]
        if not isinstance(self.encoder, Encoder):  # its memory has a position per token
            tokens = check_positions(tokens, memory)
        return {"source_tokens": tokens}

    @property
    def readout(self):
        """The layer that maps the decoder's outputs to logits, or None if these are not all that logits depend on."""
        return None if self.decoder.copy else self.decoder.readout

    def _mix_inputs(self, tokens, memory, summary, mask, sources):
        """Replaces some of the decoder's inputs (batch, time) by predictions, by scheduled sampling."""
        sampling = self.scheduled_sampling
        draws = sampling.draw(tokens, self.optimizer.iterations)
        if sampling.mode == "sequential":
            if self.decoder.token_dropout:  # the trained pass drops the same tokens
                dropped = self.decoder.draw_dropped_tokens(tokens)
                tokens = ops.where(dropped, ops.cast(UNKNOWN_ID, tokens.dtype), tokens)
                draws = draws._replace(replaced=ops.logical_and(draws.replaced, ops.logical_not(dropped)))
            with self.decoder.training_step_function(memory, **sources) as step:
                return sampling.mix_sequential(tokens, step, self.decoder.get_initial_state(summary, memory), draws)
        with keras.StatelessScope():  # does not advance the seeds, so the trained pass draws the same masks
            logits = self.decoder(tokens, memory, summary, mask=mask, **sources, training=True)
        return sampling.mix_parallel(tokens, logits, draws)

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
        seed=None,
        **kwargs,
    ):
        """Trains the model on pairs of source and target.

        Pass sources as `x` and targets as `y`, or batches of pairs as `x`. Sources and targets are strings (batch,) or
        token ids (batch, time), as lists, NumPy arrays, tensors or ragged tensors. Sources of other encoders than
        `Encoder` are arrays (batch, ...), lists of arrays of unequal shapes, or a dict of these. With `features`,
        sources are a dict of the sources and the features. Target token ids must end with 3, `[END]`. If a string
        contains the text "[END]", it is read as an unknown token.

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
            seed: integer that makes the order of all epochs reproducible, if `x` contains the sources. Defaults to a
                random one. The order of an epoch depends on the seed and its number alone.
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
        callbacks = order_callbacks(callbacks, kwargs.get("steps_per_epoch"))
        x, y, sample_weight = self._pairs.data(x, y, sample_weight, class_weight)
        if validation_data is not None:
            validation_data = self._pairs.validation_data(validation_data)
        arguments = shuffle_arrays(
            x,
            y,
            batch_size,
            sample_weight=sample_weight,
            shuffle=shuffle,
            seed=seed,
            validation_split=validation_split,
            validation_data=validation_data,
            **kwargs,
        )
        return super().fit(epochs=epochs, verbose=verbose, callbacks=callbacks, **arguments)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """Trains on one batch of sources `x` and targets `y` as in `fit`. See `keras.Model.train_on_batch`."""
        x, y, sample_weight = self._pairs.arrays(x, y, sample_weight, class_weight)
        return super().train_on_batch(x, y, sample_weight, return_dict=return_dict)

    def start_search(self, source, num_beams=1):
        (memory, mask, summary), features = self._encode(source)
        sources = {"memory_mask": mask, "features": features, **self._source_tokens(source, memory)}
        step, state, tensors = self.decoder.start_search(memory, summary, num_beams=num_beams, **sources)
        if mask is None:
            mask = ops.ones(ops.shape(memory)[:2], "bool")
        lengths = ops.sum(ops.cast(mask, "int32"), axis=1)
        # The limit depends only on the length of each source, not on the rest of the batch.
        limits = ops.minimum(2 * lengths + 10, MAX_LENGTH)
        return SearchStart(step, state, tensors, tf.fill(tf.shape(limits), START_ID), limits, mask)

    def search_step(self, memory):
        return self.decoder.search_step(has_mask="mask" in memory)

    @property
    def has_attention(self):
        return self.decoder.attention is not None

    def get_config(self):
        serialized = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in _PARTS}
        config = {"name": self.name, "trainable": self.trainable, "dtype": self.dtype_policy.name, **serialized}
        if isinstance(self._encoder_side, ArraySide):
            config["source_spec"] = serialize_spec(self._encoder_side.spec)
            config["has_fixed_sources"] = self._encoder_side.is_fixed
        if self.feature_embedding is not None:
            config["features"] = serialize_features(without_features(self._sides.source)[1])
            config["features_dim"] = self.feature_embedding.features_dim
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        restored = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects) for name in _PARTS
        }
        config = {**config, **restored}
        has_fixed_sources = config.pop("has_fixed_sources", True)
        if config.get("source_spec") is not None:
            config["source_spec"] = deserialize_spec(config["source_spec"])
        if "features" in config:
            config["features"] = deserialize_features(config["features"], custom_objects)
        model = cls(**config)
        if not has_fixed_sources:  # the first sources decided about their spec, and others may differ
            without_features(model.sides.source)[0].is_fixed = False
        return model


def _input_spec(encoder):
    """Returns the inputs of a functional or sequential model, a KerasTensor or a dict of them, or None."""
    inputs = getattr(encoder, "inputs", None) if isinstance(encoder, keras.Model) else None
    if not inputs:
        return None
    if not isinstance(encoder, keras.Sequential) and isinstance(encoder.input, dict):
        return encoder.input
    return inputs[0] if len(inputs) == 1 else {tensor.name: tensor for tensor in inputs}


def _decoder_mask(decoder_inputs):
    """Returns the mask of the decoder's inputs: True up to the last token other than [END] and padding."""
    is_text = ops.logical_and(ops.not_equal(decoder_inputs, PAD_ID), ops.not_equal(decoder_inputs, END_ID))
    return ops.flip(ops.cumsum(ops.flip(ops.cast(is_text, "int32"), axis=1), axis=1), axis=1) > 0

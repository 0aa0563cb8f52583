# SPDX-License-Identifier: Apache-2.0
"""The ensemble: several sequence-to-sequence models that choose each token together."""

import collections.abc
import math

import keras
from keras import ops, tree

from keras_seq._lazy_tensorflow import tf
from keras_seq._private_api import inside_xla
from keras_seq.models.array_side import ArraySide
from keras_seq.models.encoder import Encoder
from keras_seq.models.evaluation import Evaluation
from keras_seq.models.feature_side import FeatureSide, feature_difference, without_features
from keras_seq.models.generation import GenerativeModel
from keras_seq.models.seq2seq import Seq2Seq
from keras_seq.models.token_side import TokenSide, require
from keras_seq.models.training_pairs import TrainingPairs

_AVERAGES = ("probabilities", "log_probabilities")
_TEXT_OPTIONS = ("standardize", "split", "ngrams", "encoding", "output_sequence_length")  # of a TextVectorization


@keras.saving.register_keras_serializable("keras_seq")
class Ensemble(Evaluation, GenerativeModel):
    """Several trained models that predict each token together, by the average of their probabilities.

    The members may differ in everything except their sources and vocabularies: in encoders, cells, sizes, attention,
    dtype and initial weights. An ensemble usually makes fewer errors than each of its members (Sutskever, Vinyals & Le
    2014), and costs as much as all of them. It generates, scores, evaluates, saves and exports like a `Seq2Seq`.

    The members' weights are used where they are, not copied: if you train a member further, the ensemble changes too.
    The ensemble itself does not train. Its attention weights are the mean over those members that have attention; their
    memories must have the same positions. The default limit of an output is that of the first member.

    Args:
        models: list of `Seq2Seq`, the members, with the same tokens in their vocabularies.
        average: what to average over the members. "probabilities" is the arithmetic mean: a token is likely if some
            members find it likely. "log_probabilities" is the geometric mean, normalized again: a token is unlikely if
            one member finds it unlikely.
        **kwargs: arguments of `keras.Model`.

    Call arguments:
        inputs: `(source, decoder_inputs)`, integers (batch, source) and (batch, time).
        training: whether the members apply dropout and scheduled sampling.

    Returns:
        The logarithm of the averaged probabilities (batch, time, target vocabulary), float32. They serve as logits: a
        softmax returns the averaged probabilities. Ignore those of padding, after `[END]`.

    Raises:
        ValueError: if `models` is empty, contains anything but `Seq2Seq`, or one model twice, or models whose
            vocabularies differ; or if `average` is unknown.

    Example:
        >>> import keras_seq
        >>> letters = keras_seq.data.text_vectorizer(["cat", "act"])
        >>> size = letters.vocabulary_size()
        >>> members = [
        ...     keras_seq.Seq2Seq(
        ...         keras_seq.Encoder(size, embedding_dim=4, units=units),
        ...         keras_seq.Decoder(size, embedding_dim=4, units=units, cell=cell),
        ...         letters,
        ...         letters,
        ...     )
        ...     for units, cell in [(8, "lstm"), (6, "gru")]
        ... ]
        >>> model = Ensemble(members)
        >>> len(model.generate(["cat", "tact"]))
        2
    """

    def __init__(self, models, average="probabilities", **kwargs):
        if average not in _AVERAGES:
            raise ValueError(f'`average` must be "probabilities" or "log_probabilities". Received: {average!r}')
        models = _check_models(models)
        sides = models[0].sides
        super().__init__(_shared_source_side(models), sides.target, **{"autocast": False, **kwargs})
        self.models = models
        self.average = average
        self._pairs = TrainingPairs(self._sides.source, self._sides.target)
        self.build()

    def build(self, input_shape=None):
        """Does nothing: the members are built."""

    def call(self, inputs, training=False):
        return _average_logits([model(inputs, training=training) for model in self.models], self.average)

    @property
    def has_attention(self):
        return any(model.has_attention for model in self.models)

    def start_search(self, source, num_beams=1):
        """Encodes sources with each member. State and memory are tuples with one item per member."""
        started = [model.start_search(source, num_beams) for model in self.models]
        steps, states, memories, *_ = zip(*started, strict=True)
        attending = [start for start, model in zip(started, self.models, strict=True) if model.has_attention]
        mask = attending[0].memory_mask if attending else None
        if not all(isinstance(model.encoder, Encoder) for model in self.models):  # its memory has a position per token
            mask = _check_positions([start.memory_mask for start in attending]) if attending else None
        return started[0]._replace(step=self._join_steps(steps), state=states, memory=memories, memory_mask=mask)

    def search_step(self, memory):
        return self._join_steps([model.search_step(part) for model, part in zip(self.models, memory, strict=True)])

    def _join_steps(self, steps):
        """Returns the step function that averages those of the members."""

        def step(tokens, state, memory, is_live=None):
            members = zip(steps, state, memory, strict=True)
            results = [run_member(tokens, *member, is_live) for run_member, *member in members]
            logits, states, attention_weights = zip(*results, strict=True)
            return _average_logits(logits, self.average), states, self._average_attention(attention_weights)

        return step

    def fit(self, *args, **kwargs):
        """Raises a NotImplementedError: an ensemble averages models that are trained already."""
        raise NotImplementedError(
            "An `Ensemble` cannot be trained. Train its members, each with `model.fit(...)`: the ensemble uses their "
            "weights."
        )

    def train_on_batch(self, *args, **kwargs):
        """Raises a NotImplementedError, as `fit` does."""
        self.fit()

    def _average_attention(self, attention_weights):
        """Returns the mean of the attention weights (rows, source) of the members that have attention."""
        attended = [
            ops.cast(weights, "float32")
            for model, weights in zip(self.models, attention_weights, strict=True)
            if model.has_attention
        ]
        return ops.mean(ops.stack(attended), axis=0) if attended else attention_weights[0]

    def get_config(self):
        models = [keras.saving.serialize_keras_object(model) for model in self.models]
        for model, config in zip(self.models, models, strict=True):
            for part in ("encoder", "decoder", "source_vectorizer", "target_vectorizer"):
                if config["config"].get(part) is not None:
                    # Keras marks shared objects within one model only. Unmarked, a shared encoder would not load.
                    config["config"][part]["shared_object_id"] = id(getattr(model, part))
        shared = {"name": self.name, "trainable": self.trainable, "dtype": self.dtype_policy.name}
        return {**shared, "models": models, "average": self.average}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        models = [
            keras.saving.deserialize_keras_object(model, custom_objects=custom_objects) for model in config["models"]
        ]
        return cls(**{**config, "models": models})


def _shared_source_side(models):
    """Returns the side of the sources that all members read. If it takes sources of other shapes, so do the members."""
    side, features = without_features(models[0].sides.source)
    if not isinstance(side, ArraySide):
        return models[0].sides.source
    sides = [without_features(model.sides.source)[0] for model in models]

    def accept(spec):
        for member in sides:
            member.observe(spec)

    shared = ArraySide(side.name, side.label, accept, side.spec, side.is_fixed)
    return FeatureSide(shared, features) if features else shared


def _check_positions(masks):
    """Returns the first mask (sources, positions), and raises an error if others have other numbers of positions."""
    message = (
        "The members of an `Ensemble` that attend must have memories with the same number of positions, because their "
        "attention weights are averaged."
    )
    if not all(mask.shape.is_compatible_with(masks[0].shape) for mask in masks):
        raise ValueError(f"{message} Received: {[mask.shape[1] for mask in masks]}")
    if inside_xla():  # all sizes are known
        return masks[0]
    positions = tf.stack([tf.shape(mask)[1] for mask in masks])
    with tf.control_dependencies([require(tf.reduce_all(positions == positions[0]), message, positions)]):
        return tf.identity(masks[0])


def _average_logits(logits, average):
    """Returns the logarithm of the average of several models' probabilities.

    Args:
        logits: list of tensors (..., vocabulary), one per model, of any float dtype.
        average: "probabilities" or "log_probabilities".

    Returns:
        Normalized log-probabilities (..., vocabulary), float32.
    """
    log_probabilities = ops.stack([ops.log_softmax(ops.cast(values, "float32")) for values in logits])
    if average == "probabilities":
        return ops.logsumexp(log_probabilities, axis=0) - math.log(len(logits))  # probabilities may underflow
    return ops.log_softmax(ops.mean(log_probabilities, axis=0))


def _check_models(models):
    """Returns the members of an ensemble as a list, and raises a ValueError if they cannot be averaged."""
    is_iterable = isinstance(models, collections.abc.Iterable) and not isinstance(models, (str, bytes))
    members = list(models) if is_iterable else [models]
    expected = "`models` must be a list of at least one `Seq2Seq`."
    if not is_iterable or not members:
        raise ValueError(f"{expected} Received: {models!r}")
    for i, model in enumerate(members):
        if not isinstance(model, Seq2Seq):
            raise ValueError(f"{expected} Received: {model!r} at index {i}")
        first = next(j for j, other in enumerate(members) if other is model)
        if first < i:
            raise ValueError(f"`models` must be different objects. Received: the same model at indices {first} and {i}")
        for side in ("source", "target"):
            sides = [getattr(m.sides, side) for m in (members[0], model)]
            difference = feature_difference(*sides)
            if difference is not None:
                raise ValueError(f"`models` must have the same features. Received: models 0 and {i}, with {difference}")
            sides = [without_features(side)[0] for side in sides]
            if all(isinstance(side, TokenSide) for side in sides):
                what, difference = f"{side} vocabulary", _vocabulary_difference(members[0], model, side)
            else:
                what, difference = "sources", _source_difference(*sides)
            if difference is not None:
                raise ValueError(f"`models` must have the same {what}. Received: models 0 and {i}, with {difference}")
    return members


def _source_difference(side, other):
    """Describes how the sources of two models differ, or returns None if they may be the same."""
    specs = [s.spec for s in (side, other)]
    if None in specs:
        return "sources of unknown shape. Train the members first, or give each a `source_spec`"
    forms = [tree.map_structure(lambda leaf: (leaf.dtype.name, leaf.shape.rank), spec) for spec in specs]
    return None if forms[0] == forms[1] else f"sources of (dtype, rank) {forms[0]} and {forms[1]}"


def _vocabulary_difference(model, other, side):
    """Describes how the vocabularies of two models differ, or returns None if they are the same."""
    vectorizers = [getattr(m, f"{side}_vectorizer") for m in (model, other)]
    are_texts = [vectorizer is not None for vectorizer in vectorizers]
    if are_texts[0] != are_texts[1]:
        return " and ".join(f"a `{side}_vectorizer`" if is_text else f"no `{side}_vectorizer`" for is_text in are_texts)
    if vectorizers[0] is not vectorizers[1]:
        difference = _vectorizer_difference(*vectorizers)
        if difference is not None:
            return difference
    sizes = [getattr(m.sides, side).vocabulary_size for m in (model, other)]
    return None if sizes[0] == sizes[1] else f"a `vocabulary_size` of {sizes[0]} and {sizes[1]}"


def _vectorizer_difference(vectorizer, other):
    vocabularies = [v.get_vocabulary() for v in (vectorizer, other)]
    for token_id, tokens in enumerate(zip(*vocabularies, strict=False)):
        if tokens[0] != tokens[1]:
            return f"the tokens {str(tokens[0])!r} and {str(tokens[1])!r} of id {token_id}"
    sizes = [len(vocabulary) for vocabulary in vocabularies]
    if sizes[0] != sizes[1]:
        return f"{sizes[0]} and {sizes[1]} tokens"
    for name in _TEXT_OPTIONS:
        options = [v.get_config()[name] for v in (vectorizer, other)]
        if options[0] != options[1]:
            return f"vectorizers with {name}={options[0]!r} and {options[1]!r}"
    return None

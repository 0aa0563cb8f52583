# SPDX-License-Identifier: Apache-2.0
"""Conditioning features: what a model knows of a source beside the source itself, such as its language."""

import collections.abc
import dataclasses
import functools
import numbers

import keras
import numpy as np
from keras import ops

from keras_seq._lazy_tensorflow import tf
from keras_seq.models.token_side import as_tensor, require, shorten

RESERVED_NAMES = ("source", "features")  # keys of the sources themselves, and of prepared features
_FORMS = (
    "a `keras.layers.StringLookup` or `IntegerLookup` with a vocabulary and `output_mode='int'`, or the number of "
    "dimensions of real vectors"
)


@dataclasses.dataclass(frozen=True)
class TagFeature:
    """A tag of each source, a string or an integer, that becomes an index in a vocabulary.

    Args:
        name: name of the feature.
        lookup: `keras.layers.StringLookup` or `IntegerLookup` with a vocabulary.
    """

    name: str
    lookup: object

    @functools.cached_property
    def size(self):
        """Number of indices, with those of unknown tags."""
        return self.lookup.vocabulary_size()

    @property
    def spec(self):
        """The `tf.TensorSpec` of prepared values: indices (batch,)."""
        return tf.TensorSpec([None], tf.int32, self.name)

    @property
    def signature(self):
        """The `tf.TensorSpec` of what users pass."""
        return tf.TensorSpec([None], tf.string if self._are_texts else tf.int64, self.name)

    @property
    def _are_texts(self):
        return isinstance(self.lookup, keras.layers.StringLookup)

    def check_form(self, values, label):
        """Returns tags (batch,) as a tensor, and raises a ValueError if they have another form."""
        expected = f"{'strings' if self._are_texts else 'integers'}, shape (batch,)"
        tags = _as_tensor(values, label, expected, self.signature)
        if tags.dtype != self.signature.dtype and not (tags.dtype.is_integer and not self._are_texts):
            raise ValueError(f"{label} must be {expected}. Received: dtype {tags.dtype.name}, shape {tags.shape}")
        tags = tf.cast(tags, self.signature.dtype)
        if self.lookup.num_oov_indices == 0 and tf.executing_eagerly():
            self._check_tags(tags, label)
        return tags

    def _check_tags(self, tags, label):
        try:
            self.look_up(tags)
        except tf.errors.InvalidArgumentError as error:  # a lookup without indices for unknown tags
            known = self.lookup.get_vocabulary(include_special_tokens=False)
            unknown = sorted({tag for tag in tags.numpy().tolist() if _as_text(tag) not in map(str, known)})
            raise ValueError(
                f"{label} must be tags of the vocabulary, because the lookup has `num_oov_indices=0`. "
                f"Received: {shorten([*map(_as_text, unknown)])}"
            ) from error

    def convert(self, values, label):
        """Returns tags (batch,) as int32 indices (batch,), also in a graph."""
        return self.look_up(self.check_form(values, label))

    def look_up(self, tags):
        """Returns a tensor of tags as int32 indices, without checks."""
        return tf.cast(self.lookup(tf.cast(tags, self.signature.dtype)), tf.int32)

    def check(self, indices, label):
        """Returns prepared values, and raises an error unless they are indices."""
        expected = f"indices from 0 to {self.size - 1}, shape (batch,), as `prepare` returns"
        indices = _as_tensor(indices, label, expected, self.spec)
        if not indices.dtype.is_integer:
            raise ValueError(f"{label} must be {expected}. Received: dtype {indices.dtype.name}")
        received = tf.stack([tf.reduce_min(indices), tf.reduce_max(indices)])
        is_right = tf.reduce_all((indices >= 0) & (indices < self.size))
        with tf.control_dependencies([require(is_right, f"{label} must be {expected}.", received, "indices between")]):
            return tf.cast(indices, tf.int32)

    def make_layer(self, features_dim, dtype):
        return keras.layers.Embedding(self.size, features_dim, dtype=dtype, name=self.name)

    def serialize(self):
        return keras.saving.serialize_keras_object(self.lookup)

    def difference(self, other):
        """Describes how another feature differs, or returns None."""
        if not isinstance(other, TagFeature):
            return "tags and real vectors"
        configs = [{k: v for k, v in f.lookup.get_config().items() if k != "name"} for f in (self, other)]
        names = [key for key in configs[0] if configs[0][key] != configs[1].get(key)]
        if names:
            return f"lookups with {names[0]}={shorten(configs[0][names[0]])} and {shorten(configs[1].get(names[0]))}"
        return None


@dataclasses.dataclass(frozen=True)
class VectorFeature:
    """A real vector of each source.

    Args:
        name: name of the feature.
        size: number of dimensions.
    """

    name: str
    size: int

    lookup = None

    @property
    def spec(self):
        """The `tf.TensorSpec` of vectors (batch, dimensions)."""
        return tf.TensorSpec([None, self.size], keras.config.floatx(), self.name)

    @property
    def signature(self):
        """The `tf.TensorSpec` of what users pass."""
        return self.spec

    def convert(self, values, label):
        """Returns vectors (batch, dimensions) as floats, also in a graph, and checks that they are finite."""
        expected = f"finite numbers, shape (batch, {self.size})"
        vectors = _as_tensor(values, label, expected, self.spec)
        if not (vectors.dtype.is_floating or vectors.dtype.is_integer or vectors.dtype.is_bool):
            raise ValueError(f"{label} must be {expected}. Received: dtype {vectors.dtype.name}")
        vectors = self.look_up(vectors)
        is_finite = tf.math.is_finite(vectors)
        rows = tf.reshape(tf.where(~tf.reduce_all(is_finite, axis=1))[:5], [-1])
        checks = [require(tf.reduce_all(is_finite), f"{label} must be {expected}.", rows, "others in rows")]
        with tf.control_dependencies(checks):
            return tf.identity(vectors)

    check = check_form = convert

    def look_up(self, vectors):
        """Returns a tensor of vectors in the dtype of the feature, without checks."""
        return tf.cast(vectors, self.spec.dtype)

    def make_layer(self, features_dim, dtype):
        return keras.layers.Dense(features_dim, dtype=dtype, name=self.name)

    def serialize(self):
        return self.size

    def difference(self, other):
        """Describes how another feature differs, or returns None."""
        if not isinstance(other, VectorFeature):
            return "real vectors and tags"
        return None if self.size == other.size else f"vectors of {self.size} and {other.size} dimensions"


def make_features(features):
    """Returns the features of the argument `features` of a model, a dict from names to features, sorted by name."""
    if not isinstance(features, collections.abc.Mapping):
        raise ValueError(f"`features` must be a dict from names to {_FORMS}. Received: {features!r}")
    for name in features:
        # TensorFlow takes no other characters than those of ASCII in the names of layers.
        is_name = isinstance(name, str) and name.isascii() and name.isidentifier()
        if not is_name or name in RESERVED_NAMES:
            raise ValueError(
                "The names in `features` must be Python identifiers in ASCII other than "
                f"{' and '.join(RESERVED_NAMES)}. Received: {name!r}"
            )
    return {name: _make_feature(name, features[name]) for name in sorted(features)}


def serialize_features(features):
    """Returns features for a configuration."""
    return {name: feature.serialize() for name, feature in features.items()}


def deserialize_features(config, custom_objects=None):
    """Returns the argument `features` of a model from what `serialize_features` returned."""
    return {
        name: keras.saving.deserialize_keras_object(value, custom_objects) if isinstance(value, dict) else value
        for name, value in config.items()
    }


class FeatureEmbedding(keras.layers.Layer):
    """Maps the features of sources to one vector: an embedding of each tag, a linear layer for real vectors.

    Args:
        features: dict of features; see `make_features`.
        features_dim: size of what each feature becomes.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        values: dict of prepared values: indices (batch,) or vectors (batch, dimensions).

    Returns:
        Tensor (batch, number of features * features_dim), in the order of the names.
    """

    def __init__(self, features, features_dim, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(features_dim, numbers.Integral) or isinstance(features_dim, bool) or features_dim < 1:
            raise ValueError(f"`features_dim` must be a positive integer. Received: {features_dim!r}")
        self.features_dim = int(features_dim)
        self.units = len(features) * self.features_dim
        self._names = tuple(features)
        self._shapes = {name: tuple(feature.spec.shape) for name, feature in features.items()}
        self.parts = [feature.make_layer(self.features_dim, self.dtype_policy) for feature in features.values()]

    def build(self, values_shape=None):
        for part, shape in zip(self.parts, self._shapes.values(), strict=True):
            part.build(shape)

    def symbolic_output(self):
        """Builds the layer, and returns a `keras.KerasTensor` like its output."""
        self.build(self._shapes)
        return keras.KerasTensor(self.compute_output_shape(), self.compute_dtype)

    def call(self, values):
        return ops.concatenate([part(values[name]) for name, part in zip(self._names, self.parts, strict=True)], -1)

    def compute_output_shape(self, values_shape=None):
        return None, self.units


def append_features(inputs, features):
    """Returns inputs with features at each step.

    Args:
        inputs: tensor (batch, time, size), or (batch, size).
        features: tensor (batch, n), or None.

    Returns:
        Tensor (batch, time, size + n), or (batch, size + n); without features the inputs.
    """
    if features is None:
        return inputs
    features = ops.cast(features, inputs.dtype)
    if len(inputs.shape) == 3:
        features = ops.broadcast_to(features[:, None], (*ops.shape(inputs)[:2], features.shape[-1]))
    return ops.concatenate([inputs, features], axis=-1)


def check_built(parts, features):
    """Raises a ValueError if an encoder or decoder was built for another size of features, None if there are none."""
    units = 0 if features is None else features.shape[-1]
    for part in parts:
        built = getattr(part, "features_units", units)
        if built != units:
            raise ValueError(
                f"The {type(part).__name__} must be new, or built for {units} dimensions of features (`features_dim` "
                f"of each). Received: one that was built for {built}"
            )


def _make_feature(name, feature):
    if isinstance(feature, numbers.Integral) and not isinstance(feature, bool) and feature > 0:
        return VectorFeature(name, int(feature))
    if isinstance(feature, (keras.layers.StringLookup, keras.layers.IntegerLookup)):
        tags = feature.get_vocabulary(include_special_tokens=False)
        if len(tags) > 0 and feature.output_mode == "int" and not feature.invert:
            return TagFeature(name, _copy_lookup(feature, tags))
        feature = f"a {type(feature).__name__} with {len(tags)} tags and output_mode={feature.output_mode!r}"
    raise ValueError(f"`features[{name!r}]` must be {_FORMS}. Received: {feature}")


def _copy_lookup(lookup, tags):
    """Returns a copy with the vocabulary in its configuration, where Keras puts it only if it was an argument."""
    config = keras.saving.serialize_keras_object(lookup)
    config["config"]["vocabulary"] = [tag.item() if isinstance(tag, np.integer) else tag for tag in tags]
    if isinstance(lookup, keras.layers.StringLookup):
        config["config"]["vocabulary"] = [str(tag) for tag in tags]
    config.pop("shared_object_id", None)
    config.pop("build_config", None)
    return keras.saving.deserialize_keras_object(config)


def _as_tensor(values, label, expected, spec):
    """Returns values as a tensor of the shape of a spec, and raises a ValueError if they have another one."""
    try:
        tensor = as_tensor(values, label)
    except ValueError:
        raise ValueError(f"{label} must be {expected}. Received: {shorten(values)}") from None
    if not isinstance(tensor, tf.RaggedTensor) and tensor.shape == (0,):
        return tf.zeros([0, *spec.shape[1:]], spec.dtype)  # an empty list has no dtype
    if isinstance(tensor, tf.RaggedTensor) or not tensor.shape.is_compatible_with(spec.shape):
        raise ValueError(
            f"{label} must be {expected}. Received: dtype {tensor.dtype.name}, shape {tuple(tensor.shape)}"
        )
    return tf.ensure_shape(tensor, spec.shape)


def _as_text(tag):
    return tag.decode(errors="replace") if isinstance(tag, bytes) else str(tag)

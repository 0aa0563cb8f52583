# SPDX-License-Identifier: Apache-2.0
"""Sources with conditioning features: a side made of the side of the sources and the features."""

import collections.abc

import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.models.array_side import named_spec
from keras_seq.models.token_side import require, shorten


class FeatureSide:
    """Converts sources with features, a dict `{"source": sources, name: values, ...}`, to tensors.

    What the model takes is nested, `{"source": source, "features": {name: values, ...}}`, so prepared sources are
    recognized by their form: integers may be tags or indices.

    Args:
        source: `TokenSide` or `ArraySide` of the sources themselves.
        features: dict of features; see `keras_seq.models.features.make_features`.
    """

    def __init__(self, source, features):
        self.source = source
        self.features = features
        self.name = source.name
        self.label = source.label
        self.vectorizer = source.vectorizer
        self.window = source.window

    @property
    def vocabulary_size(self):
        return self.source.vocabulary_size

    @property
    def layers(self):
        lookups = [feature.lookup for feature in self.features.values() if feature.lookup is not None]
        return [*self.source.layers, *lookups]

    @property
    def spec(self):
        """The specs of prepared sources, or None if the shapes of the sources are not known."""
        return None if self.source.spec is None else self._nested(self.source.spec)

    def signature(self, sources=None):
        """Returns the nested `tf.TensorSpec`s of given sources, by default of those that users pass."""
        if sources is None or not _is_prepared(sources):
            spec = {"source": _rename(self.source.signature())}
            return spec | {name: feature.signature for name, feature in self.features.items()}
        return self._nested(self.source.signature(sources["source"]))

    def _nested(self, spec):
        features = {name: feature.spec for name, feature in self.features.items()}
        return {"source": _rename(spec), "features": features}

    def convert(self, values, label=None):
        """Returns prepared sources as tensors, also in a graph, and checks them. See `TokenSide.convert`."""
        label = label or self.label
        is_prepared = _is_prepared(values)
        given = self._features_of(values, label, takes_prepared=True)
        source = self.source.convert(values["source"], _label(label, "source"))
        features = {}
        for name, feature in self.features.items():
            convert = feature.check if is_prepared else feature.convert
            features[name] = convert(given[name], _label(label, name))
        counts = tf.stack([tf.shape(part)[0] for part in (_first_leaf(source), *features.values())])
        check = self._check_lengths(counts, label)
        if not tf.executing_eagerly():
            with tf.control_dependencies([check]):
                features = {name: tf.identity(values) for name, values in features.items()}
        return {"source": source, "features": features}

    def check_sources(self, inputs, label="`inputs`"):
        """Returns what users pass as tensors, and raises a ValueError if they have another form."""
        given = self._features_of(inputs, label)
        checked = {"source": self.source.check_sources(inputs["source"], _label(label, "source"))}
        for name, feature in self.features.items():
            checked[name] = feature.check_form(given[name], _label(label, name))
        self._check_lengths([part.shape[0] for part in checked.values()], label)
        return checked

    def rows(self, values, label):
        """Returns values that `convert` takes as `FeatureRows`. Not for use in a graph."""
        given = self._features_of(values, label)
        return self._join(self.source.rows(values["source"], _label(label, "source")), given, label)

    def source_rows(self, inputs, size, label="`inputs`"):
        """Yields the sources of a search as `FeatureRows`, about `size` at a time."""
        given = self._features_of(inputs, label)
        parts = [*self.source.source_rows(inputs["source"], size, _label(label, "source"))]
        if parts:
            yield self._join(type(parts[0]).concatenate(parts), given, label)
        else:
            self._join([], given, label)

    def _join(self, rows, given, label):
        features = {
            name: feature.convert(given[name], _label(label, name)).numpy() for name, feature in self.features.items()
        }
        self._check_lengths([len(rows), *map(len, features.values())], label)
        return FeatureRows(rows, features)

    def _check_lengths(self, counts, label):
        names = ", ".join(["source", *self.features])
        message = f"{label} must have as many values of each feature as sources ({names})."
        counts = tf.convert_to_tensor(counts)
        return require(tf.reduce_all(counts == counts[0]), message, counts)

    def cast(self, source):
        """Returns a batch of prepared sources, or of what users pass, as prepared sources, without checks of values."""
        given = self._features_of(source, self.label, takes_prepared=True)
        if _is_prepared(source):
            features = {name: given[name] for name in self.features}
        else:
            features = {
                name: feature.look_up(tf.convert_to_tensor(given[name])) for name, feature in self.features.items()
            }
        return {"source": self.source.cast(source["source"]), "features": features}

    def map_tokens(self, function, source):
        """Returns prepared sources with a function applied to the token ids in them, if there are any."""
        return {**source, "source": self.source.map_tokens(function, source["source"])}

    def are_call_inputs(self, x):
        """Whether `x` is `(source, decoder inputs)`, the inputs of the model's `call`."""
        is_pair = isinstance(x, (tuple, list)) and len(x) == 2
        return is_pair and _is_prepared(x[0]) and len(getattr(x[1], "shape", ())) == 2

    def _features_of(self, values, label, takes_prepared=False):
        """Returns the dict with the features in it, and raises a ValueError if there are not exactly these."""
        if takes_prepared and _is_prepared(values):
            label, given, expected = f"{label}['features']", values["features"], [*self.features]
        else:
            given, expected = values, ["source", *self.features]
        if isinstance(given, collections.abc.Mapping) and set(given) == set(expected):
            return given
        if isinstance(given, collections.abc.Mapping):
            problems = {"without": set(expected) - set(given), "with": set(given) - set(expected)}
            received = " and ".join(f"{how} {sorted(map(str, names))}" for how, names in problems.items() if names)
            received = f"a dict {received}"
        else:
            received = shorten(given)
        raise ValueError(
            f"{label} must be a dict with the keys {expected}, because the model has `features`. Received: {received}"
        )


class FeatureRows:
    """Several sources with their features.

    Args:
        source: `TokenRows` or `ArrayRows`.
        features: dict of arrays (sources, ...), prepared values.
    """

    def __init__(self, source, features):
        self.source = source
        self.features = features

    @property
    def lengths(self):
        return self.source.lengths

    @classmethod
    def concatenate(cls, parts):
        if len(parts) == 1:
            return parts[0]
        source = type(parts[0].source).concatenate([part.source for part in parts])
        return cls(source, {name: np.concatenate([p.features[name] for p in parts]) for name in parts[0].features})

    def __len__(self):
        return len(self.source)

    def padded(self, indices):
        """Returns the sources with these indices as prepared arrays, padded to the longest source."""
        features = {name: values[indices] for name, values in self.features.items()}
        return {"source": self.source.padded(indices), "features": features}


def without_features(side):
    """Returns the side of the sources themselves, and the dict of their features, which may be empty."""
    return (side.source, side.features) if isinstance(side, FeatureSide) else (side, {})


def feature_difference(side, other):
    """Describes how the features of two sides differ, or returns None."""
    features = [without_features(s)[1] for s in (side, other)]
    if list(features[0]) != list(features[1]):
        return f"the features {[*features[0]]} and {[*features[1]]}"
    for name in features[0]:
        difference = features[0][name].difference(features[1][name])
        if difference is not None:
            return f"a feature {name!r} of {difference}"
    return None


def _is_prepared(values):
    return isinstance(values, collections.abc.Mapping) and values.keys() == {"source", "features"}


def _label(label, name):
    return f"{label}[{name!r}]"


def _rename(spec):
    """Returns specs named after the key of the sources."""
    return named_spec(spec, "source")


def _first_leaf(values):
    while isinstance(values, collections.abc.Mapping):
        values = next(iter(values.values()))
    return values

# SPDX-License-Identifier: Apache-2.0
"""Sources that are arrays: images, series, feature vectors, or dicts of several of them."""

import collections.abc

import keras
import numpy as np
from keras import tree

from keras_seq._lazy_tensorflow import tf
from keras_seq.models.array_rows import ArrayRows, map_leaves
from keras_seq.models.token_side import require, shorten


class ArraySide:
    """Converts sources to tensors of the dtypes and shapes that an encoder takes.

    Sources are arrays (sources, ...) of any dtype and rank, or dicts of them. Arrays of unequal shapes, in a list or a
    ragged tensor, are padded with zeros at the end.

    Args:
        name: "source".
        label: name in error messages.
        accept: function of a new spec, called before the side takes it. It raises a ValueError if the encoder cannot
            read such sources.
        spec: `tf.TensorSpec` or `keras.KerasTensor` of the sources, or nested dicts of them, with the batch as first
            axis. None if the first sources decide.
        is_fixed: whether sources must have the sizes of `spec`. Otherwise an axis in which sources differ becomes None.
    """

    vectorizer = None
    layers = ()  # that process strings
    window = 1  # batches whose sources are sorted by length together: arrays may be large

    def __init__(self, name, label, accept, spec=None, is_fixed=False):
        self.name = name
        self.label = label
        self.accept = accept
        self.spec = None if spec is None else named_spec(spec)
        self.is_fixed = is_fixed

    def convert(self, values, label=None):
        """Returns values as tensors (batch, ...) that the encoder takes, also in a graph, and checks them.

        Args:
            values: arrays, tensors, ragged tensors or lists (batch, ...), or dicts of them.
            label: name of the values in error messages, by default that of the side.
        """
        label = label or self.label
        if tf.executing_eagerly():
            rows = self.rows(values, label)
            with tf.device("CPU"):  # all data of `fit` may not fit into the memory of a GPU
                return tree.map_structure(tf.convert_to_tensor, rows.padded(np.arange(len(rows))))
        tensors = map_leaves(_as_tensor, values, label)
        self._observe(map_leaves(_spec_of, tensors, label), label)
        return map_leaves(_checked_cast, tensors, label, self.spec)

    def rows(self, values, label):
        """Returns values that `convert` takes as `ArrayRows`. Not for use in a graph."""
        arrays = map_leaves(_as_arrays, values, label)
        rows = ArrayRows(arrays)
        if len(rows) == 0:
            return rows
        self._observe(map_leaves(_spec_of, arrays, label), label)
        return ArrayRows(map_leaves(_cast_arrays, arrays, label, self.spec))

    def source_rows(self, inputs, size, label="`inputs`"):
        """Returns the sources of a search as a list of `ArrayRows`."""
        return [self.rows(inputs, label)]

    def cast(self, source):
        """Returns a batch (batch, ...) as tensors of the dtypes that the encoder takes, without checks of values."""
        source = map_leaves(lambda x, label: _check_batched(keras.ops.convert_to_tensor(x), label), source, self.label)
        self._observe(map_leaves(_spec_of, source, self.label), self.label)
        return map_leaves(lambda x, label, spec: keras.ops.cast(x, spec.dtype.name), source, self.label, self.spec)

    def map_tokens(self, function, source):
        """Returns prepared sources as they are: they have no token ids."""
        return source

    def signature(self, sources=None):
        """Returns the spec of sources, for a compiled function."""
        if self.spec is None:
            raise ValueError(
                "The shapes of the sources are not known. Call `fit`, `generate` or the model first, or pass "
                "`source_spec`."
            )
        return self.spec

    def are_call_inputs(self, x):
        """Whether `x` is `(source, decoder inputs)`, the inputs of the model's `call`."""
        is_pair = isinstance(x, (tuple, list)) and len(x) == 2
        if not is_pair or len(getattr(x[1], "shape", ())) != 2:
            return False
        if isinstance(x, tuple) or isinstance(x[0], collections.abc.Mapping):
            return True
        # The items of a list of two sources have one axis less.
        return isinstance(self.spec, tf.TensorSpec) and len(getattr(x[0], "shape", ())) == self.spec.shape.rank

    def observe(self, spec):
        """Takes the spec of more sources, as if such sources were converted."""
        self._observe(named_spec(spec), self.label)

    def _observe(self, spec, label):
        """Checks the spec of values, and takes it into that of the side."""
        if self.spec is None:
            merged = spec
        else:
            _check_keys(spec, self.spec, label)
            merged = map_leaves(_merge_fixed if self.is_fixed else _merge, spec, label, self.spec)
        if merged == self.spec:
            return
        with tf.init_scope():  # variables of the encoder are made outside of any graph
            try:
                for new in (spec, merged) if merged != spec else (spec,):
                    self.accept(new)
            except (ValueError, TypeError, KeyError) as error:  # a KeyError if the encoder misses an entry of a dict
                shapes = tree.map_structure(lambda leaf: tuple(leaf.shape), spec)
                raise ValueError(
                    f"{label} must be sources that the encoder takes. Received: {shapes}. {error}"
                ) from error
        self.spec = merged


def named_spec(spec, name="inputs"):
    """Returns nested dicts of specs as `tf.TensorSpec`s of any batch size, named after their keys."""
    if isinstance(spec, collections.abc.Mapping):
        prefix = "" if name == "inputs" else f"{name}_"
        return {key: named_spec(spec[key], f"{prefix}{key}") for key in sorted(spec)}
    if getattr(spec, "shape", None) is None or getattr(spec, "dtype", None) is None or len(spec.shape) == 0:
        raise ValueError(
            "`source_spec` must be a `tf.TensorSpec`, `keras.KerasTensor` or `keras.InputSpec` with shape and dtype, "
            f"whose first axis is the batch, or a dict of them. Received: {spec!r}"
        )
    return tf.TensorSpec([None, *spec.shape[1:]], tf.as_dtype(spec.dtype), name)


def serialize_spec(spec):
    """Returns specs as nested dicts for JSON."""
    if isinstance(spec, dict):
        return {"keys": {key: serialize_spec(spec[key]) for key in spec}}
    return None if spec is None else {"shape": list(spec.shape), "dtype": spec.dtype.name}


def deserialize_spec(config):
    """Returns specs from what `serialize_spec` returned."""
    if "keys" in config:
        return {key: deserialize_spec(config["keys"][key]) for key in config["keys"]}
    return tf.TensorSpec(config["shape"], config["dtype"])


def _check_keys(spec, expected, label):
    """Checks that nested dicts have the same keys."""
    are_dicts = [isinstance(part, collections.abc.Mapping) for part in (spec, expected)]
    if are_dicts == [False, False]:
        return
    if not all(are_dicts) or spec.keys() != expected.keys():
        forms = [
            f"a dict with the keys {[*p]}" if d else "an array"
            for p, d in zip((spec, expected), are_dicts, strict=True)
        ]
        raise ValueError(f"{label} must be {forms[1]}. Received: {forms[0]}")
    for key in expected:
        _check_keys(spec[key], expected[key], f"{label}[{key!r}]")


def _merge(spec, label, known):
    """Returns the spec of sources of both specs: axes in which they differ are None."""
    _check_leaf(spec, label, known, len(spec.shape) == len(known.shape))
    sizes = [a if a == b else None for a, b in zip(spec.shape, known.shape, strict=True)]
    return tf.TensorSpec(sizes, known.dtype, known.name)


def _merge_fixed(spec, label, known):
    _check_leaf(spec, label, known, spec.shape.is_compatible_with(known.shape))
    return known


def _check_leaf(spec, label, known, has_right_shape):
    a, b = spec.dtype, known.dtype
    has_right_dtype = a == b or (b.is_floating and (a.is_floating or a.is_integer or a.is_bool))
    has_right_dtype |= b.is_integer and (a.is_integer or a.is_bool)
    if not has_right_shape or not has_right_dtype:
        raise ValueError(
            f"{label} must have dtype {b.name} and shape {_shape(known)}. "
            f"Received: dtype {a.name}, shape {_shape(spec)}"
        )


def _shape(spec):
    sizes = ["batch", *spec.shape[1:]]
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


def _spec_of(values, label):
    """Returns the `tf.TensorSpec` of an array, a list of arrays or a tensor (sources, ...)."""
    if isinstance(values, list):
        sizes = [row.shape for row in values]
        shape = [None, *(size[0] if len(set(size)) == 1 else None for size in zip(*sizes, strict=True))]
        dtype = np.result_type(*values)
    else:
        shape, dtype = [None, *values.shape[1:]], values.dtype
    dtype = tf.as_dtype(dtype)
    name = label.rsplit("['", 1)[-1].removesuffix("']") if label.endswith("']") else "inputs"
    return tf.TensorSpec(shape, tf.as_dtype(keras.config.floatx()) if dtype.is_floating else dtype, name)


def _as_tensor(values, label):
    """Returns a tensor of a graph without ragged axes."""
    if isinstance(values, tf.RaggedTensor):
        return values.to_tensor()
    try:
        return _check_batched(tf.convert_to_tensor(values), label)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{label} must be an array or tensor (batch, ...). Received: {shorten(values)}") from error


def _check_batched(values, label):
    """Returns an array or tensor, and raises a ValueError if its rank is not known or it has no axis."""
    rank = tf.TensorShape(values.shape).rank
    if not rank:
        hint = ". Use `dataset.batch(n)` to make batches" if rank == 0 else ""
        raise ValueError(f"{label} must have a batch as first axis{hint}. Received: shape {values.shape}")
    return values


def _checked_cast(values, label, spec):
    """Casts a tensor of a graph to the dtype of a spec, and checks that integers fit."""
    cast = tf.cast(values, spec.dtype) if values.dtype != spec.dtype else values
    checks = []
    if cast is not values and spec.dtype.is_integer and values.dtype.is_integer:
        fits = tf.reduce_all(tf.cast(cast, values.dtype) == values)
        received = tf.stack([tf.reduce_min(values), tf.reduce_max(values)])
        checks = [require(fits, f"{label} must be integers of dtype {spec.dtype.name}.", received, "values between")]
    with tf.control_dependencies(checks):
        return tf.ensure_shape(cast, spec.shape)


def _as_arrays(values, label):
    """Returns values (sources, ...) as an array, or as a list of arrays if their shapes differ."""
    if isinstance(values, tf.RaggedTensor):
        rows = [row.to_tensor() if isinstance(row, tf.RaggedTensor) else row for row in values]
        return [row.numpy() for row in rows]
    expected = f"{label} must be an array or tensor (batch, ...), or a list of arrays of the same rank."
    array = _try(np.asarray, values)
    if array is not None:  # else rows have unequal shapes
        is_text = array.dtype == object and all(isinstance(value, (str, bytes)) for value in array.ravel())
        if is_text or (array.dtype != object and _try(tf.as_dtype, array.dtype) is not None):
            return _check_batched(array, label)
    rows = _try(lambda: [np.asarray(row) for row in values]) or []
    if len({row.ndim for row in rows}) != 1 or rows[0].ndim == 0 or any(row.dtype.kind not in "biuf" for row in rows):
        raise ValueError(f"{expected} Received: {shorten(values)}")
    return rows


def _try(function, *arguments):
    """Returns a result, or None if NumPy or TensorFlow refuse the arguments."""
    try:
        return function(*arguments)
    except (ValueError, TypeError):
        return None


def _cast_arrays(arrays, label, spec):
    """Casts an array or a list of arrays to the dtype of a spec, and checks that integers fit."""
    if isinstance(arrays, list):
        return [_cast_arrays(array, label, spec) for array in arrays]
    dtype = object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
    cast = arrays.astype(dtype, copy=False)
    if spec.dtype.is_integer and arrays.dtype.kind in "iu" and not np.array_equal(cast, arrays):
        raise ValueError(
            f"{label} must be integers of dtype {spec.dtype.name}. "
            f"Received: values between {arrays.min()} and {arrays.max()}"
        )
    return cast

# SPDX-License-Identifier: Apache-2.0
"""What the exports to LiteRT and ONNX have in common: the functions that they hold, and what they cannot hold."""

import contextlib
import importlib
import logging

import keras
from keras import tree

from keras_seq._lazy_tensorflow import tf
from keras_seq._private_api import trace_anew, walk_layers
from keras_seq.exporting.saved_model import endpoints_of

TOKEN_LEVEL = ("encode", "step", "score")  # functions of a model that generates which need no strings
_FLOATS = {"LiteRT": ("float32",), "ONNX": ("float32", "float64")}  # the dtypes of layers that a format holds


def functions_of(model, name, token_ids=False, output_prefix="", **options):
    """Returns the functions of a model that a file without strings and without variables can hold.

    Args:
        model: a Keras model or layer that is built.
        name: of the format, for messages.
        token_ids: whether a model that generates takes token ids in the place of strings.
        output_prefix: see `_flat_function`.
        **options: options of `keras_seq.exporting.saved_model.endpoints_of`.

    Returns:
        A dict from names to `tf.function`s with one input signature, a flat list of named specs. They return a flat
        dict of tensors.

    Raises:
        ValueError: if the format cannot hold the model; the message says why.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"The format {name} needs Keras's TensorFlow backend. Received: a model on {keras.backend.backend()}"
        )
    _check_layers(model, name)
    endpoints = endpoints_of(model, **options)
    generates = all(endpoint in endpoints for endpoint in TOKEN_LEVEL)
    if generates:
        endpoints = {key: endpoints[key] for key in TOKEN_LEVEL}
        if token_ids:
            endpoints = {key: (f, tree.map_structure(_of_ids, s)) for key, (f, s) in endpoints.items()}
    elif token_ids:
        raise ValueError(f"`token_ids` is for models that generate. Received: a {type(model).__name__}")
    elif len(endpoints) == 1:
        endpoints = {"serving_default": next(iter(endpoints.values()))}
    _check_signatures(endpoints, name, generates)
    return {key: _flat_function(*endpoint, output_prefix) for key, endpoint in endpoints.items()}


def trace(functions):
    """Traces functions of `functions_of`, with errors as they come; returns their concrete functions by name."""
    with trace_anew():
        return {name: function.get_concrete_function() for name, function in functions.items()}


@contextlib.contextmanager
def explained(model, name, step):
    """Raises a ValueError in our words in the place of the errors of a converter, which print whole graphs."""
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0][:200] if lines else "no message"
        raise ValueError(
            f"`model` must be one that {name} can hold. Received: {_describe(model)}, for which {step} failed with "
            f"{type(error).__name__}: {reason}. Nothing has been written."
        ) from error


def import_converter(package, name):
    """Returns a module that an export needs, or raises an ImportError that says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"The format {name} needs the package {package}: pip install 'keras_seq[export]'") from error


@contextlib.contextmanager
def quiet(*loggers):
    """Keeps the loggers with these names from printing within a `with` block."""
    before = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in loggers:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def not_held(model, name, operations, advice=""):
    """Returns the ValueError for operations that a format does not have."""
    if any(operation.startswith("TensorList") for operation in operations):
        advice = (
            "These are of a loop of Keras's own recurrent layers or of a foreign cell: use layers of keras_seq, into "
            "which `keras_seq.convert` turns them, or give the batch size in `input_signature`. " + advice
        )
    return ValueError(
        f"`model` must have only operations that {name} has. Received: {_describe(model)}, with the TensorFlow "
        f"operations {', '.join(sorted(operations))}, which it does not have. {advice} Nothing has been written."
    )


def _describe(model):
    return f"{model.name!r} of class {type(model).__name__}"


def _check_layers(model, name):
    for path, layer in walk_layers(model):
        if getattr(layer, "stateful", False):
            raise ValueError(
                f"`model` must have no stateful layers: a file for {name} keeps no state between calls. Received: the "
                f"layer {path or layer.name!r} with stateful=True. Give it `return_state=True` and an initial state "
                "as an input instead."
            )
        if layer.compute_dtype not in _FLOATS[name] and keras.backend.is_float_dtype(layer.compute_dtype):
            raise ValueError(
                f"`model` must compute in float32 for {name}. Received: the layer {path or layer.name!r} with the "
                f"dtype policy {layer.dtype_policy.name!r}. Make a model with the policy 'float32' and copy the "
                "weights: `copy.set_weights(model.get_weights())`."
            )


def _of_ids(spec):
    """Returns the spec of token ids (batch, time) in the place of one of strings (batch,)."""
    is_text = spec.dtype == tf.string and spec.name in ("inputs", "source", "targets")
    return tf.TensorSpec([None, None], tf.int32, spec.name) if is_text else spec


def _check_signatures(endpoints, name, generates):
    for key, (_, signature) in endpoints.items():
        for spec in tree.flatten(signature):
            if tf.as_dtype(spec.dtype) == tf.string:
                advice = "Leave layers that read strings, such as `TextVectorization`, out of the model."
                if generates:
                    advice = (
                        "With `token_ids=True` it takes token ids, int32 (batch, time), in their place, which "
                        "`model.source_vectorizer` makes of strings; tags of features have no such form."
                    )
                raise ValueError(
                    f"`model` must not read strings, which {name} files cannot hold. Received: the input "
                    f"{spec.name!r} of {key!r}. {advice}"
                )


def _flat_function(function, signature, output_prefix):
    """Returns a `tf.function` of a flat list of named tensors, which returns a flat dict.

    Args:
        function: a function with this input signature.
        signature: the signature, a list of nested specs.
        output_prefix: what is put before the name of an output that has that of an input.
    """
    flat = [_named_spec(spec, i) for i, spec in enumerate(tree.flatten(signature))]

    def run(*tensors):
        results = function(*tree.pack_sequence_as(signature, tensors))
        if isinstance(results, dict) and not any(tree.is_nested(value) for value in results.values()):
            names = {spec.name for spec in flat}
            return {output_prefix * (key in names) + key: value for key, value in results.items()}
        return {f"output_{i}": value for i, value in enumerate(tree.flatten(results))}

    return tf.function(run, input_signature=flat, autograph=False)


def _named_spec(spec, index):
    return tf.TensorSpec(spec.shape, spec.dtype, getattr(spec, "name", None) or f"input_{index}")

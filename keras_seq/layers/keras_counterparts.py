# SPDX-License-Identifier: Apache-2.0
"""Which layer or cell of Keras computes the same as one of keras_seq, and what none of Keras's does."""

import inspect

import keras

from keras_seq._private_api import get_mask, symbolic_calls
from keras_seq.layers.dropout import LockedDropout
from keras_seq.layers.recurrent_layer import RecurrentLayer
from keras_seq.layers.replacements import REPLACEMENTS
from keras_seq.layers.rnn import RNN

_COUNTERPARTS = {kind: getattr(keras.layers, name) for name, kind in REPLACEMENTS.items()}
_COUNTERPARTS[LockedDropout] = keras.layers.SpatialDropout1D
_OBJECTS = {"keras_seq>Adam": "Adam"}  # optimizers that compute the same
# Arguments about speed and memory, which have no influence on results.
_IGNORED = ("implementation", "recompute", "use_cudnn")
_LAYER_ARGUMENTS = ("name", "trainable", "dtype", "activity_regularizer", "zero_output_for_mask")


def counterpart_name(layer):
    """Returns the name of the class of Keras that computes the same as a layer, or else of the layer's own class."""
    if isinstance(layer, RecurrentLayer) and layer.num_layers > 1:
        return "RNN"
    return getattr(_COUNTERPARTS.get(type(layer)), "__name__", type(layer).__name__)


def replace_by_keras(config, path=()):
    """Returns a configuration in which everything of keras_seq is replaced by what computes the same in Keras.

    Raises:
        ValueError: if Keras has nothing that does; the message names the layer.
    """
    if isinstance(config, (list, tuple)):
        return type(config)(replace_by_keras(value, path) for value in config)
    if not isinstance(config, dict):
        return config
    inner = config.get("config")
    name = inner.get("name") if isinstance(inner, dict) else None
    inside = (*path, name) if name else path
    if _is_own(config):
        config = _replace_object(config, inside)
    return {key: replace_by_keras(value, inside) for key, value in config.items()}


def check_masks(layers):
    """Raises a ValueError if a mask reaches a layer whose counterpart in Keras would ignore it or fail.

    Args:
        layers: `(path, layer)` of all layers of a model, as from `walk_layers`.
    """
    for path, layer in layers:
        if not isinstance(layer, (RNN, keras.layers.Bidirectional, keras.layers.TimeDistributed)):
            continue
        for arguments, options in symbolic_calls(layer):
            has_own_mask = options.get("mask") is not None
            if isinstance(layer, keras.layers.TimeDistributed):
                if has_own_mask or get_mask(arguments[0]) is not None:
                    raise _error(path or layer.name, "masked steps, which TimeDistributed of Keras does not support")
                continue
            if has_own_mask or get_mask(arguments[0]) is None:
                continue
            if len(arguments) > 1 or options.get("initial_state") is not None:
                raise _error(
                    path or layer.name,
                    "an initial state and sequences that carry a mask, which Keras ignores then. Pass `mask` to the "
                    "call, such as `mask=keras.ops.not_equal(tokens, 0)`",
                )


def _is_own(config):
    return str(config.get("registered_name")).startswith("keras_seq>")


def _replace_object(config, path):
    label, registered = "/".join(path[1:] or path), config["registered_name"]  # without the name of the model
    if registered in _OBJECTS:
        return {"module": "keras.optimizers", "class_name": _OBJECTS[registered], "config": config["config"]}
    kind = keras.saving.get_registered_object(registered)
    replacement = _COUNTERPARTS.get(kind)
    if replacement is None:
        raise _error(label, f"{config['class_name']}, which Keras does not have")
    inner = dict(config["config"])
    if inner.get("num_layers", 1) > 1:
        replacement, inner = keras.layers.RNN, _stack_config(kind, inner)
    accepted = {*inspect.signature(replacement.__init__).parameters, *_LAYER_ARGUMENTS}
    known = inspect.signature(kind.__init__).parameters
    kept = {}
    for name, value in inner.items():
        if name in accepted:
            kept[name] = value
        elif name not in _IGNORED and value != getattr(known.get(name), "default", None):
            raise _error(label, f"{name}={value!r}, which {replacement.__name__} of Keras does not have")
    return config | {
        "module": "keras.layers",
        "class_name": replacement.__name__,
        "config": kept,
        "registered_name": None,
    }


def _stack_config(kind, config):
    """Returns the configuration of an `RNN` for that of a layer with several cells."""
    layer = kind.from_config(config)
    options = layer.get_config()
    names = inspect.signature(RNN.__init__).parameters
    options = {name: value for name, value in options.items() if name in (*names, *_LAYER_ARGUMENTS)}
    extra = {name: config[name] for name in ("output_dropout",) if config.get(name)}
    return {**options, **extra, "cell": [keras.saving.serialize_keras_object(cell) for cell in layer.cell.cells]}


def _error(label, received):
    return ValueError(f"`model` must have only what Keras has, with `to='keras'`. Received: {label!r} with {received}.")

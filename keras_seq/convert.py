# SPDX-License-Identifier: Apache-2.0
"""Converts models with the recurrent layers of Keras to those of keras_seq, and back."""

import collections
import contextlib
import tempfile
import types
import warnings

import keras

from keras_seq._private_api import compile_arguments, sublayers, walk_layers
from keras_seq.layers.keras_counterparts import check_masks, counterpart_name, replace_by_keras
from keras_seq.layers.replacements import REPLACEMENTS, replace_in_config
from keras_seq.ops import explain

_REPLACEABLE = tuple(getattr(keras.layers, name) for name in REPLACEMENTS)


def convert(model, to="keras_seq"):
    """Copies a Keras model and replaces its recurrent layers and cells by those of keras_seq, or by those of Keras.

    `SimpleRNN`, `GRU`, `LSTM`, `RNN`, `Bidirectional`, `TimeDistributed`, `SimpleRNNCell`, `GRUCell` and `LSTMCell` of
    Keras are replaced wherever the configuration of the model contains them: in nested models, wrappers, stacked cells
    and your own layers. All other layers stay as they are, including `ConvLSTM1D` and your own subclasses of the layers
    above.

    The copy has the names, weights, trainable flags, dtype policies, random seeds and states (`stateful=True`) of the
    model, but shares no variable with it. The model does not change. If it is not built, neither is the copy. If it is
    compiled, so is the copy; its optimizer has the same configuration and starts anew. `implementation` is "auto".
    Unlike in Keras, all gates share one recurrent dropout mask.

    To convert a file, load it first: `convert(keras.saving.load_model(path))`.

    With `to="keras"` everything of keras_seq is replaced by what computes the same in Keras, so that the copy can be
    saved for programs without keras_seq. A stack (`num_layers`) becomes a `keras.layers.RNN` with a list of cells,
    `LockedDropout` becomes `SpatialDropout1D`, and our Adam Keras's. `implementation`, `recompute` and `use_cudnn` are
    dropped. With `recurrent_dropout`, GRU and LSTM of Keras draw a mask for each gate.

    Args:
        model: a Keras model or layer that has a configuration, as `model.save` requires. Your own classes and functions
            in it need not be registered.
        to: "keras_seq" or "keras".

    Returns:
        The copy, of the same class; a layer that is replaced becomes the layer of keras_seq, or of Keras.

    Raises:
        ValueError: if `model` is not a Keras model or layer, if Keras cannot recreate it from its configuration, or if
            one of its classes creates layers to replace in its own code, where `convert` cannot replace them; with
            `to="keras"`, if Keras cannot hold a layer or an argument of one, which the message names.

    Example:
        >>> import keras, keras_seq, numpy as np
        >>> model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(8, name="gru"), keras.layers.Dense(1)])
        >>> rows = keras_seq.explain(model)
        layer  kind  implementation  reason
        gru    GRU   keras           not a layer of keras_seq; keras_seq.convert replaces it
        >>> converted = keras_seq.convert(model)
        >>> [row.implementation for row in keras_seq.explain(converted, print_fn=None)] != ["keras"]
        True
        >>> inputs = np.ones((2, 5, 3), "float32")
        >>> np.allclose(converted(inputs), model(inputs), atol=1e-6)
        True
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"`model` must be a Keras model or layer. Received: {model!r} of type {type(model).__name__}")
    if to not in ("keras_seq", "keras"):
        raise ValueError(f"`to` must be 'keras_seq' or 'keras'. Received: {to!r}")
    replace = replace_in_config if to == "keras_seq" else replace_by_keras
    custom_objects = _custom_objects(model)
    with _explain_config_errors(model), warnings.catch_warnings():
        # Keras warns because a lambda in a file is unsafe. Here it never leaves the process.
        warnings.filterwarnings("ignore", message="The object being serialized includes a `lambda`")
        config = keras.saving.serialize_keras_object(model)
    compile_config = config.pop("compile_config", None)
    if to == "keras":
        check_masks(walk_layers(model))
        compile_config = replace_by_keras(compile_config, ("compile",))
    config = _mark_shared_layers(replace(config), _shared_layer_names(model), custom_objects)
    with _explain_config_errors(model):
        copy = keras.saving.deserialize_keras_object(config, custom_objects=custom_objects, safe_mode=False)
    _check_all_replaced(copy, to)
    for original_layer, layer_copy in _layer_pairs(model, copy):
        _copy_settings(original_layer, layer_copy)
    _copy_variables(model, copy)
    if compile_config:  # after the trainable flags, which decide for which variables the optimizer is built
        custom_objects["compile"] = types.SimpleNamespace(from_config=copy.compile_from_config)
        # A serialized object, so that Keras deserializes its lambdas too.
        compilation = {"class_name": "compile", "config": compile_config}
        with _explain_config_errors(model):
            keras.saving.deserialize_keras_object(compilation, custom_objects=custom_objects, safe_mode=False)
        if any(row.implementation == "cudnn" for row in explain(copy, print_fn=None)):
            # On a GPU `jit_compile="auto"` becomes False for layers of Keras, which run on cuDNN, but True for ours.
            copy.jit_compile = model.jit_compile
    return copy


@contextlib.contextmanager
def _explain_config_errors(model):
    try:
        yield
    except (NameError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "`model` must have a configuration from which Keras can recreate it, as `model.save` and `load_model` "
            f"require. The error above says what is missing. Received: {_describe(model)}"
        ) from error


class _SharedLayer:
    """Creates a layer once, for all places in the configuration that describe it. Keras would create one at each."""

    def __init__(self, config):
        self.config = config
        self.layer = None

    def from_config(self, _):
        if self.layer is None:
            self.layer = keras.saving.deserialize_keras_object(self.config, safe_mode=False)
        return self.layer


def _shared_layer_names(model):
    """Returns the names of the layers that are inside more than one other layer."""
    parents, layers_by_name = collections.defaultdict(set), collections.defaultdict(set)
    for _, parent in walk_layers(model):
        for layer in sublayers(parent):
            parents[id(layer)].add(id(parent))
            layers_by_name[layer.name].add(id(layer))
    return {name for name, ids in layers_by_name.items() if len(ids) == 1 and len(parents[min(ids)]) > 1}


def _mark_shared_layers(config, names, custom_objects):
    """Returns a configuration that refers to a `_SharedLayer` for each name, and adds them to `custom_objects`."""
    if isinstance(config, (list, tuple)):
        return type(config)(_mark_shared_layers(value, names, custom_objects) for value in config)
    if not isinstance(config, dict):
        return config
    config = {key: _mark_shared_layers(value, names, custom_objects) for key, value in config.items()}
    inner = config.get("config")
    if "class_name" in config and isinstance(inner, dict) and inner.get("name") in names:
        key = f"shared layer {inner['name']}"
        moved = {name: config.pop(name) for name in ("config", "build_config") if name in config}
        custom_objects.setdefault(key, _SharedLayer(config | moved))
        config |= {"registered_name": key, "config": {}}
    return config


def _custom_objects(model):
    """Returns the classes and functions of the user in a model and its compilation, by their names in the config.

    Keras finds only registered ones by itself.
    """
    custom_objects = {}
    for _, layer in walk_layers(model):
        for value in _leaves([layer, list(vars(layer).values()), compile_arguments(layer)]):
            is_function = isinstance(value, types.FunctionType)
            definition = value if is_function else type(value)
            package = definition.__module__.partition(".")[0]
            if package in ("builtins", "keras", "keras_seq", "tensorflow"):
                continue
            if is_function or hasattr(definition, "get_config"):
                custom_objects[keras.saving.get_registered_name(definition)] = definition
    return custom_objects


def _leaves(nested):
    """Yields the leaves of nested lists and dicts. `keras.tree` cannot sort the keys of some dicts in layers."""
    if not isinstance(nested, (dict, list, tuple)):
        yield nested
        return
    for inner in nested.values() if isinstance(nested, dict) else nested:
        yield from _leaves(inner)


def _check_all_replaced(copy, to):
    not_replaced = [
        f"{layer.name!r} ({type(layer).__name__}) in {_describe(parent)}"
        for parent, layer in _parents_and_layers(copy)
        if (type(layer) in _REPLACEABLE if to == "keras_seq" else _is_own(layer))
    ]
    if not_replaced:
        raise ValueError(
            "`model` must have all its recurrent layers in its configuration. `convert` cannot replace layers that a "
            f"class creates in its own code. Received: {', '.join(not_replaced)}. Use `{to}.layers` in that class."
        )


def _is_own(layer):
    """Whether a class is one of keras_seq or derives from one."""
    return any(base.__module__.partition(".")[0] == "keras_seq" for base in type(layer).__mro__)


def _parents_and_layers(parent):
    """Yields (parent, layer) for each layer inside another one, except inside subclasses of recurrent layers."""
    if isinstance(parent, keras.layers.RNN) and type(parent) not in REPLACEMENTS.values():
        return
    for layer in sublayers(parent):
        yield parent, layer
        yield from _parents_and_layers(layer)


def _layer_pairs(original, copy):
    """Yields each layer of the model with its copy, outer layers first."""
    yield original, copy
    originals, copies = sublayers(original), sublayers(copy)
    _check_same(original, *([counterpart_name(layer) for layer in layers] for layers in (originals, copies)))
    for inner_original, inner_copy in zip(originals, copies, strict=True):
        yield from _layer_pairs(inner_original, inner_copy)


def _copy_settings(original, copy):
    """Copies what is neither in the configuration of a layer nor in the variables that Keras tracks."""
    if copy.dtype_policy != original.dtype_policy:  # a Sequential does not have it in its configuration
        copy.dtype_policy = original.dtype_policy
    copy.trainable = original.trainable  # the flags of layers that a class creates itself are in no configuration
    if isinstance(original, keras.layers.RNN) and original.states is not None:
        for value, variable in zip(*map(keras.tree.flatten, (original.states, copy.states)), strict=True):
            variable.assign(value)
    if hasattr(original, "save_assets"):  # for example an adapted vocabulary
        with tempfile.TemporaryDirectory() as folder:
            original.save_assets(folder)
            copy.load_assets(folder)


def _copy_variables(original, copy):
    _check_same(original, *([(v.name, tuple(v.shape)) for v in layer.variables] for layer in (original, copy)))
    for value, variable in zip(original.variables, copy.variables, strict=True):
        variable.assign(value)
        if variable.trainable != value.trainable:
            variable.trainable = value.trainable


def _check_same(original, expected, received):
    if expected != received:
        raise ValueError(
            "`model` must have a configuration that recreates the same layers and variables. Received: "
            f"{_describe(original)} with {expected}, but the configuration recreates {received}"
        )


def _describe(layer):
    return f"{layer.name!r} of class {type(layer).__name__}"

# SPDX-License-Identifier: Apache-2.0
"""Models written with the recurrent layers of Keras, moved to those of keras_seq."""

import collections
import contextlib
import tempfile
import types
import warnings

import keras

from keras_seq._private_api import compile_arguments, sublayers, walk_layers
from keras_seq.layers.replacements import REPLACEMENTS, replace_in_config
from keras_seq.ops import explain

_REPLACEABLE = tuple(getattr(keras.layers, name) for name in REPLACEMENTS)


def convert(model):
    """A copy of a Keras model in which the recurrent layers and cells are those of keras_seq.

    Replaced are `SimpleRNN`, `GRU`, `LSTM`, `RNN`, `Bidirectional`, `TimeDistributed`, `SimpleRNNCell`, `GRUCell` and
    `LSTMCell` of Keras, wherever the configuration of the model holds them: in nested models, wrappers, stacked cells,
    layers of your own. What is not one of them stays what it is, also `ConvLSTM1D` and classes of your own that derive
    from one.

    The copy has the names, weights, trainable flags, dtype policies, random seeds and states (`stateful=True`) of the
    model and shares no variable with it; the model stays as it is. An unbuilt model gives an unbuilt copy. A compiled
    model gives a compiled copy: its optimizer has the same configuration and starts afresh, without the moments.
    `implementation` is "auto". The dropout of our cells draws one mask for all gates.

    A file of Keras is read with `convert(keras.saving.load_model(path))`.

    Args:
        model: a Keras model or layer. It must be possible to write it as a configuration, as for `model.save`; classes
            and functions of your own that its layers use need not be registered.

    Returns:
        The copy, of the same class.

    Raises:
        ValueError: if `model` is not a Keras model or layer, if it has no configuration from which it could be made
            again, or if it holds recurrent layers that its configuration does not tell of.

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
    custom_objects = _custom_objects(model)
    with _errors_about(model):
        with warnings.catch_warnings():
            # A lambda is unsafe in a file. Here it never leaves the process.
            warnings.filterwarnings("ignore", message="The object being serialized includes a `lambda`")
            config = keras.saving.serialize_keras_object(model)
        compile_config = config.pop("compile_config", None)
        config = _keep_shared(replace_in_config(config), _shared_names(model), custom_objects)
        copy = keras.saving.deserialize_keras_object(config, custom_objects=custom_objects, safe_mode=False)
    _check_that_none_is_left(copy)
    for original, twin in _pairs(model, copy):
        _copy_state(original, twin)
    _copy_variables(model, copy)
    if compile_config:  # after the trainable flags: the optimizer is built for the variables to be trained
        custom_objects["compile"] = types.SimpleNamespace(from_config=copy.compile_from_config)
        step = {"class_name": "compile", "config": compile_config}  # an object, so that lambdas are let in here too
        with _errors_about(model):
            keras.saving.deserialize_keras_object(step, custom_objects=custom_objects, safe_mode=False)
        if any(row.implementation == "cudnn" for row in explain(copy, print_fn=None)):
            # On a GPU `jit_compile="auto"` compiles our layers, but not those of Keras, so that they run on cuDNN.
            copy.jit_compile = model.jit_compile
    return copy


@contextlib.contextmanager
def _errors_about(model):
    try:
        yield
    except (NameError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "`model` must have a configuration from which Keras can make it again, as `model.save` and `load_model` "
            f"need it; the error above says what is missing. Received: {_described(model)}"
        ) from error


class _Shared:
    """What stands for one layer wherever the configuration describes it: Keras would make one at each place."""

    def __init__(self, config):
        self.config = config
        self.layer = None

    def from_config(self, _):
        if self.layer is None:
            self.layer = keras.saving.deserialize_keras_object(self.config, safe_mode=False)
        return self.layer


def _shared_names(model):
    """The names of the layers that stand in more than one layer."""
    parents, owners = collections.defaultdict(set), collections.defaultdict(set)
    for _, parent in walk_layers(model):
        for layer in sublayers(parent):
            parents[id(layer)].add(id(parent))
            owners[layer.name].add(id(layer))
    return {name for name, ids in owners.items() if len(ids) == 1 and len(parents[min(ids)]) > 1}


def _keep_shared(config, names, custom_objects):
    """A configuration in which each of the shared layers is one, which joins the custom objects."""
    if isinstance(config, (list, tuple)):
        return type(config)(_keep_shared(value, names, custom_objects) for value in config)
    if not isinstance(config, dict):
        return config
    config = {key: _keep_shared(value, names, custom_objects) for key, value in config.items()}
    inner = config.get("config")
    if "class_name" in config and isinstance(inner, dict) and inner.get("name") in names:
        key = f"shared layer {inner['name']}"
        described = {name: config.pop(name) for name in ("config", "build_config") if name in config}
        custom_objects.setdefault(key, _Shared(config | described))
        config |= {"registered_name": key, "config": {}}
    return config


def _custom_objects(model):
    """The classes and functions of the user in a model's layers and compilation, by their names in its configuration.

    Without them Keras finds no more than what is registered.
    """
    found = {}
    for _, layer in walk_layers(model):
        for thing in _leaves([layer, list(vars(layer).values()), compile_arguments(layer)]):
            kind = thing if isinstance(thing, types.FunctionType) else type(thing)
            own = kind.__module__.partition(".")[0] not in ("builtins", "keras", "keras_seq", "tensorflow")
            if own and (isinstance(kind, types.FunctionType) or hasattr(kind, "get_config")):
                found[keras.saving.get_registered_name(kind)] = kind
    return found


def _leaves(thing):
    """What nested lists and dictionaries hold. Those of a layer may have keys that `keras.tree` cannot sort."""
    if not isinstance(thing, (dict, list, tuple)):
        yield thing
        return
    for inner in thing.values() if isinstance(thing, dict) else thing:
        yield from _leaves(inner)


def _check_that_none_is_left(copy):
    left = [
        f"{layer.name!r} ({type(layer).__name__}) in {_described(parent)}"
        for parent, layer in _inner_layers(copy)
        if type(layer) in _REPLACEABLE
    ]
    if left:
        raise ValueError(
            "`model` must tell of its recurrent layers in its configuration: `convert` cannot replace those that a "
            f"class makes in its own code. Received: {', '.join(left)}. Use `keras_seq.layers` in that class."
        )


def _inner_layers(parent):
    """Each layer in another one, with it. What a class derived from a recurrent layer is made of is its own matter."""
    if isinstance(parent, keras.layers.RNN) and type(parent) not in REPLACEMENTS.values():
        return
    for layer in sublayers(parent):
        yield parent, layer
        yield from _inner_layers(layer)


def _pairs(original, copy):
    """Each layer of the model and its twin in the copy, those outside before those inside."""
    yield original, copy
    inner, twins = sublayers(original), sublayers(copy)
    _check_alike(original, [type(layer).__name__ for layer in inner], [type(twin).__name__ for twin in twins])
    for layer, twin in zip(inner, twins, strict=True):
        yield from _pairs(layer, twin)


def _copy_state(original, twin):
    """What a layer holds besides variables that Keras tracks."""
    if twin.dtype_policy != original.dtype_policy:  # that of a Sequential, which Keras does not write down
        twin.dtype_policy = original.dtype_policy
    twin.trainable = original.trainable  # its configuration does not know the flags of what the class makes itself
    if isinstance(original, keras.layers.RNN) and original.states is not None:
        for theirs, ours in zip(*map(keras.tree.flatten, (original.states, twin.states)), strict=True):
            ours.assign(theirs)
    if hasattr(original, "save_assets"):  # a vocabulary that was adapted
        with tempfile.TemporaryDirectory() as folder:
            original.save_assets(folder)
            twin.load_assets(folder)


def _copy_variables(original, copy):
    names = [[(v.name, tuple(v.shape)) for v in layer.variables] for layer in (original, copy)]
    _check_alike(original, *names)
    for theirs, ours in zip(original.variables, copy.variables, strict=True):
        ours.assign(theirs)
        if ours.trainable != theirs.trainable:
            ours.trainable = theirs.trainable


def _check_alike(original, expected, received):
    if expected != received:
        raise ValueError(
            "`model` must have a configuration that makes the same layers and variables again. Received: "
            f"{_described(original)} with {expected}, of which the configuration makes {received}"
        )


def _described(layer):
    return f"{layer.name!r} of class {type(layer).__name__}"

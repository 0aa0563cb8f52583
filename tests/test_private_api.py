# SPDX-License-Identifier: Apache-2.0
"""The installed Keras and TensorFlow have the private names that keras_seq uses, all of them in one file."""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_seq
from keras_seq import _private_api, layers

PACKAGE = pathlib.Path(keras_seq.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in MODULES}
FUNCTIONS = [name for name, f in vars(_private_api).items() if inspect.isfunction(f)]

# Of each function the names that it reads, where a module has them. Those that objects have are in the tests below.
NAMES = {
    "get_mask": ["keras.src.backend.get_keras_mask"],
    "set_mask": ["keras.src.backend.set_keras_mask"],
    "sublayers": ["keras.layers.Layer._flatten_layers"],
    "walk_layers": ["keras.layers.Layer._flatten_layers"],
    "compile_arguments": [],
    "split_texts": ["keras.layers.TextVectorization._preprocess"],
    "draw_dropout_masks": [
        f"keras.layers.{cell}.{method}"
        for cell in ("SimpleRNNCell", "GRUCell", "LSTMCell")
        for method in ("get_dropout_mask", "get_recurrent_dropout_mask")
    ],
    "reset_dropout_masks": [
        f"keras.layers.{cell}.{method}"
        for cell in ("SimpleRNNCell", "GRUCell", "LSTMCell")
        for method in ("reset_dropout_mask", "reset_recurrent_dropout_mask")
    ],
    "draws_mask_for_each_gate": [],
    "cudnn_ok": ["keras.src.backend.cudnn_ok"],
    "cudnn_recurrence": ["keras.src.backend.lstm", "keras.src.backend.gru"],
    "inside_xla": ["tensorflow.python.ops.control_flow_util.GraphOrParentsInXlaContext"],
    "inputs_without_gradient": [],
    "input_signature_of": ["keras.src.export.export_utils.get_input_signature"],
    "trace_anew": ["tensorflow.python.saved_model.save_context.save_context"],
    "traces_export": [],
    "set_initial_epoch": [],
    "symbolic_calls": [],
    "custom_litert_operations": ["tensorflow.lite.python.schema_py_generated.Model"],
    "onnx_attributes_of_booleans": [],
    "default_seed_generator": ["keras.src.random.seed_generator.global_seed_generator"],
    "training_state_names": [],
    "adam_moments": ["keras.optimizers.Adam._get_variable_index"],
    "without_strategy": [],
    "take_summed_gradients": ["keras.optimizers.Optimizer._all_reduce_sum_gradients"],
    "forget_custom_gradients": ["tensorflow.python.framework.ops.gradient_registry"],
    "run_one_after_another": ["tensorflow.python.eager.context.function_executor_type"],
}
# Private, though they have no underscore.
WITHOUT_UNDERSCORE = {"cudnn_ok", "dropout_mask_count", "get_keras_mask", "set_keras_mask", "skip_input_indices"}
NAMED_TUPLE = {"_asdict", "_fields", "_replace"}  # public methods of named tuples, which are ours


def users(function):
    """The files of keras_seq that import a function of `_private_api`, for messages."""
    paths = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "keras_seq._private_api":
                paths += [path for alias in node.names if alias.name == function]
    return paths


def failure(function, what):
    versions = f"Keras {keras.__version__} and TensorFlow {tf.__version__}"
    return f"{what} in {versions}: `{function}` of keras_seq/_private_api.py needs it, used by {users(function)}"


def has(dotted_name):
    """Whether the longest prefix of a dotted name that is a module has the rest of it."""
    parts = dotted_name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


@pytest.mark.parametrize(("function", "name"), [(function, name) for function in NAMES for name in NAMES[function]])
def test_a_private_name_is_there(function, name):
    assert has(name), failure(function, f"there is no {name}")


def test_every_function_is_documented_used_and_checked():
    assert set(FUNCTIONS) == set(NAMES)
    for function in FUNCTIONS:
        assert getattr(_private_api, function).__doc__, function
        assert users(function), f"nothing uses `{function}`"


def test_masks_of_tensors():
    embedded = keras.layers.Embedding(5, 2, mask_zero=True)(np.array([[1, 0]]))
    mask = _private_api.get_mask(embedded)
    assert mask is not None, failure("get_mask", "an Embedding attaches no mask that `get_keras_mask` finds")
    np.testing.assert_array_equal(mask, [[True, False]])
    tensor = tf.zeros((1, 2, 3))
    assert _private_api.get_mask(tensor) is None
    _private_api.set_mask(tensor, mask)
    outputs = keras.layers.GRU(2, return_sequences=True, zero_output_for_mask=True, bias_initializer="ones")(tensor)
    assert np.all(outputs[:, 0])
    assert not np.any(outputs[:, 1]), failure("set_mask", "layers do not receive the mask of `set_keras_mask`")


def test_walk_over_the_layers_of_a_model():
    shared = keras.layers.Dense(3, name="shared")
    inner = keras.Sequential([keras.Input((2, 3)), keras.layers.Dense(3, name="first"), shared], name="inner")
    both = layers.Bidirectional(layers.GRU(2, name="gru"), name="both")
    model = keras.Sequential([keras.Input((2, 3)), inner, shared, both])
    walked = list(_private_api.walk_layers(model))
    wanted = (keras.layers.Dense, keras.layers.RNN, keras.layers.Bidirectional)
    paths = [path for path, layer in walked if isinstance(layer, wanted)]
    assert paths == ["inner/first", "inner/shared", "both", "both/forward_gru", "both/backward_gru"], failure(
        "walk_layers", "`_flatten_layers` has another order"
    )
    assert walked[0] == ("", model)
    assert len({id(layer) for _, layer in walked}) == len(walked)
    assert {id(layer) for _, layer in walked} == {id(layer) for layer in model._flatten_layers()}


def test_arguments_of_compile():
    model = keras.Sequential([keras.layers.Dense(1)])
    assert _private_api.compile_arguments(model) == {}
    assert _private_api.compile_arguments(keras.layers.Dense(1)) == {}

    def loss(y, y_pred):
        return y_pred

    model.compile("sgd", loss=loss, metrics=[loss])
    arguments = _private_api.compile_arguments(model)
    assert arguments.get("loss") is loss, failure("compile_arguments", "models have no `_compile_config.config`")
    assert arguments["metrics"] == [loss]


def test_moments_of_adam():
    first, second = keras.Variable(np.zeros(2)), keras.Variable(np.zeros(3))
    optimizer = keras.optimizers.Adam()
    optimizer.build([first, second])
    for variable in (second, first):
        moments = _private_api.adam_moments(optimizer, variable)
        assert all(moment.shape == variable.shape for moment in moments), failure("adam_moments", "other moments")


@pytest.mark.parametrize("cell_type", [keras.layers.SimpleRNNCell, keras.layers.GRUCell, keras.layers.LSTMCell])
def test_cells_of_keras_keep_dropout_masks_until_they_are_reset(cell_type):
    cell = cell_type(8, dropout=0.5, recurrent_dropout=0.5)
    inputs, states = tf.ones((1, 8)), [tf.ones((1, 8))] * (2 if cell_type is keras.layers.LSTMCell else 1)
    outputs = []
    for _ in range(2):
        _private_api.draw_dropout_masks(cell, inputs, states[0])
        outputs += [np.array(cell(inputs, states, training=True)[0]) for _ in range(2)]
        _private_api.reset_dropout_masks(cell)
    for first, second in (outputs[:2], outputs[2:]):
        np.testing.assert_array_equal(first, second, failure("draw_dropout_masks", "a cell does not keep its masks"))
    assert np.any(outputs[1] != outputs[2]), failure("reset_dropout_masks", "a cell does not forget its masks")


def test_rnn_of_keras_has_cells_draw_and_reset_their_masks():
    hooks = ["get_dropout_mask", "get_recurrent_dropout_mask", "reset_dropout_mask", "reset_recurrent_dropout_mask"]
    calls = []

    class Cell(layers.LSTMCell):
        def __getattribute__(self, name):
            if name in hooks:
                calls.append(name)
            return super().__getattribute__(name)

    keras.layers.RNN(Cell(3, dropout=0.5))(np.ones((2, 4, 3), "float32"), training=True)
    assert calls == hooks, failure("draw_dropout_masks", "`keras.layers.RNN` calls other methods of cells")


def test_a_callback_sets_the_first_epoch_of_a_fit():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    epochs = []

    class Callback(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            _private_api.set_initial_epoch(self.model, 2)

        def on_epoch_begin(self, epoch, logs=None):
            epochs.append(epoch)

    model.fit(np.ones((1, 1)), np.ones((1, 1)), epochs=4, callbacks=[Callback()], verbose=0)
    assert epochs == [2, 3], failure("set_initial_epoch", "`fit` does not read `_initial_epoch`")


def test_a_model_forgets_its_strategy_for_a_while():
    strategy = tf.distribute.OneDeviceStrategy("cpu:0")
    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(1)])
    with _private_api.without_strategy(model):
        message = failure("without_strategy", "models keep their strategy elsewhere than in `_distribute_strategy`")
        assert model.distribute_strategy is tf.distribute.get_strategy(), message
    assert model.distribute_strategy is strategy


def test_an_optimizer_asks_its_own_attribute_to_sum_gradients():
    optimizer, variable = keras.optimizers.SGD(1.0), keras.Variable(3.0)
    optimizer.build([variable])
    with _private_api.take_summed_gradients(optimizer):
        optimizer._all_reduce_sum_gradients = lambda pairs: [(2 * gradient, weight) for gradient, weight in pairs]
        optimizer.apply_gradients([(tf.constant(1.0), variable)])
        assert float(variable) == 1, failure("take_summed_gradients", "an optimizer sums gradients in another method")
    optimizer.apply_gradients([(tf.constant(1.0), variable)])
    assert float(variable) == 0


def test_random_functions_without_a_seed_share_a_generator():
    state = _private_api.default_seed_generator().state
    before = state.numpy()
    first = np.array(keras.random.normal((3,)))
    state.assign(before)
    np.testing.assert_array_equal(
        keras.random.normal((3,)), first, failure("default_seed_generator", "its state does not decide")
    )


def test_callbacks_of_keras_keep_their_states_in_these_attributes():
    kinds = {
        keras.callbacks.EarlyStopping: {},
        keras.callbacks.ReduceLROnPlateau: {},
        keras.callbacks.ModelCheckpoint: {"filepath": "x.keras", "save_best_only": True},
        keras.callbacks.SwapEMAWeights: {},
        keras.callbacks.History: {},
    }
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    for kind, arguments in kinds.items():
        callback = kind(**arguments)
        callback.set_model(model)
        callback.on_train_begin()
        names = _private_api.training_state_names(callback)
        assert names
        missing = [name for name in names if not hasattr(callback, name)]
        assert not missing, failure("training_state_names", f"{kind.__name__} has no {missing}")
    assert not _private_api.training_state_names(keras.callbacks.TerminateOnNaN())


def test_masks_for_each_gate():
    draws = _private_api.draws_mask_for_each_gate
    for cell in (keras.layers.GRUCell(2, recurrent_dropout=0.1), keras.layers.LSTMCell(2, recurrent_dropout=0.1)):
        assert draws(cell), failure("draws_mask_for_each_gate", "cells have no `dropout_mask_count`")
    assert not draws(keras.layers.SimpleRNNCell(2))
    assert not draws(keras.layers.Dense(2))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_cudnn_functions_take_our_arguments(cell):
    arguments = {"activation", "recurrent_activation", "unroll", "use_bias"}
    backend = importlib.import_module("keras.src.backend")
    missing = arguments - set(inspect.signature(backend.cudnn_ok).parameters)
    assert not missing, failure("cudnn_ok", f"`cudnn_ok` has no {missing}")
    arguments = {"kernel", "recurrent_kernel", "bias", "activation", "recurrent_activation", "return_sequences"}
    missing = arguments - set(inspect.signature(_private_api.cudnn_recurrence(cell.upper())).parameters)
    assert not missing, failure("cudnn_recurrence", f"`{cell}` has no {missing}")


def test_inside_xla():
    answers = []

    @tf.function
    def inner(x):
        answers.append(_private_api.inside_xla())
        return x

    for jit_compile in (False, True):
        tf.function(lambda x: inner(x), jit_compile=jit_compile)(tf.ones(2 + jit_compile))
    assert answers == [False, True], failure("inside_xla", "`GraphOrParentsInXlaContext` gives another answer")
    assert not _private_api.inside_xla()


def test_inputs_without_gradient():
    received = []

    @tf.RegisterGradient("TruncateMod")  # TensorFlow has none
    def gradient(op, upstream):
        received.append(tuple(_private_api.inputs_without_gradient(op)))
        return upstream, None

    x, y = tf.constant(5.0), tf.constant(3.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = tf.raw_ops.TruncateMod(x=x, y=y)
    tape.gradient(z, x)
    message = failure("inputs_without_gradient", "a tape does not set `skip_input_indices` for gradient functions")
    assert received == [(1,)], message


def defined_names(tree):
    """The names with an underscore that a module defines: functions, classes, variables, and attributes of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


OURS = {name for tree in TREES.values() for name in defined_names(tree) if name.startswith("_")}


def private_names(tree):
    """The private names of Keras and TensorFlow that a module uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            imported = []
        for name in imported:
            package, *rest = name.split(".")
            if package in ("keras", "tensorflow") and any(p in ("src", "python") or p.startswith("_") for p in rest):
                yield name
        if isinstance(node, ast.Attribute):
            receiver, name = ast.unparse(node.value), node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            receiver, name = (ast.unparse(argument) for argument in node.args[:2])
            name = name.strip("'")
        else:
            continue
        is_ours = name in NAMED_TUPLE or (receiver in ("self", "cls", "super()") and name in OURS)
        is_private = name.startswith("_") and not name.endswith("__") and not is_ours
        if is_private or name in WITHOUT_UNDERSCORE or f"{receiver}.{name}" in ("keras.src", "tf.python"):
            yield f"{receiver}.{name}"


@pytest.mark.parametrize("path", TREES)
def test_one_file_alone_uses_private_names(path):
    names = set(private_names(TREES[path]))
    if path == "_private_api.py":
        assert len(names) > 5  # so that the search finds something
    else:
        assert not names, f"keras_seq/{path} uses {names}; such names belong in keras_seq/_private_api.py"


def test_the_search_finds_private_names():
    found = """
from keras.src.backend import get_keras_mask
from keras.src import backend
import tensorflow.python.ops
model._flatten_layers()
self._loss_tracker
getattr(layer, "_compile_config", None)
op.skip_input_indices
keras.src.layers
"""
    for line in filter(None, found.splitlines()):
        assert list(private_names(ast.parse(line))), line
    allowed = """
from keras_seq._private_api import get_mask
call._replace(x=1)
self._zoneout_rates()
super()._normalize(x)
type(cell).__name__
getattr(layer, "stateful", False)
"""
    assert not list(private_names(ast.parse(allowed)))


def classes_of_ours():
    for module in pkgutil.walk_packages(keras_seq.__path__, "keras_seq."):
        if "tfds" not in module.name:  # needs tensorflow-datasets
            for kind in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(kind) and kind.__module__ == module.name:
                    yield kind


def private_attributes(kind):
    """The names with an underscore that a class defines, or gives its instances in its own source."""
    assigned = re.findall(r"\bself\.(_\w+)\b[^=\n]*=[^=]", inspect.getsource(kind))
    return {name for name in [*vars(kind), *assigned] if name.startswith("_") and not name.endswith("__")}


@pytest.mark.slow
def test_no_private_name_of_ours_hides_one_of_keras():
    count = 0
    for kind in classes_of_ours():
        ours = private_attributes(kind)
        for base in kind.__mro__:
            if base.__module__.partition(".")[0] in ("keras", "tensorflow"):
                count += 1
                both = ours & private_attributes(base)
                assert not both, f"{kind.__name__} defines {both}, as its base {base} does"
    assert count > 50

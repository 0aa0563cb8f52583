# SPDX-License-Identifier: Apache-2.0
"""All that keras_seq uses of Keras and TensorFlow beyond their public API.

Each function says why no public name serves, and what breaks without it. When a new version of Keras or TensorFlow
moves or drops a name, `tests/test_private_api.py` names it and the files that need it, and this file is the one to
change.
"""

import contextlib
import functools
import sys

from keras.src import backend


def get_mask(tensor):
    """The mask that a tensor carries, as from an `Embedding` with `mask_zero=True`, or None.

    Public API passes a mask to a layer only where the tensor is the only one in the call, or where the layer has an
    argument `<name>_mask`. The attribute `_keras_mask` alone does not serve: a tracer of JAX takes no attributes, and
    Keras keeps its mask elsewhere. Without this, masks of an Embedding are lost where an initial state is given, in
    `Bidirectional`, `TimeDistributed` and `AttentionDecoder`, and with ragged inputs.
    """
    return backend.get_keras_mask(tensor)


def set_mask(tensor, mask):
    """Attach a mask to a tensor, for the next layer.

    Public API attaches what `compute_mask` returns, which sees only the inputs of a layer. Without this, ragged inputs
    lose their row lengths, and `TimeDistributed` the masks that its layer gives its outputs.
    """
    backend.set_keras_mask(tensor, mask)


def sublayers(layer):
    """The layers directly inside a layer, in the order in which they were added.

    Public API has `Model.layers`, which other layers lack and which leaves out some layers of a `Sequential` or
    functional model. Without this, `explain`, `convert` and `gradient_flow` find no layers, and wrappers cannot check
    the layer that they wrap.
    """
    return layer._flatten_layers(include_self=False, recursive=False)


def walk_layers(layer):
    """Yield `(path, layer)` for a layer and all layers inside it, at any depth, in the order of the model.

    A layer comes before those inside it. Its path holds their names below the outermost layer, as in
    "bidirectional/backward_gru"; that of the outermost layer is "". A shared layer comes once, at its first place.
    """
    seen, waiting = set(), [("", layer)]
    while waiting:
        path, layer = waiting.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield path, layer
        prefix = f"{path}/" if path else ""
        waiting += [(prefix + inner.name, inner) for inner in reversed(sublayers(layer))]


def symbolic_calls(layer):
    """Yield `(arguments, keywords)` of each call of a layer in a functional model, with symbolic tensors.

    Public API has no way back from a model to the calls of its layers. Without this, `convert` to Keras would lose
    masks silently.
    """
    for node in layer._inbound_nodes:
        yield node.arguments.args, node.arguments.kwargs


def compile_arguments(layer):
    """What a model was compiled with, a dict of the objects as they were given; empty if it was not.

    Public API is `Model.get_compile_config`, in which classes and functions are only names. Without this, `convert`
    cannot find the losses and metrics of a user that are not registered with Keras.
    """
    serializable = getattr(layer, "_compile_config", None)
    return {} if serializable is None else serializable.config


def split_texts(vectorizer, texts):
    """The tokens of texts, strings (batch, None), as a `keras.layers.TextVectorization` looks them up.

    Public API returns their ids only, in which tokens outside the vocabulary are one. Without this, `split_tokens`
    would repeat how that layer standardizes and splits.
    """
    return vectorizer._preprocess(texts)


def draw_dropout_masks(cell, inputs, state):
    """Have a cell draw the dropout masks that it keeps until `reset_dropout_masks`, if it is one that draws masks.

    `keras.layers.RNN` does this before its loop, but the class that declares these methods has no public name. Without
    this, cells of Keras in an `AttentionCell` draw their masks inside the loop, in the graph of a step, which no other
    step can read.

    Args:
        cell: a cell, not a stack of cells.
        inputs: (batch, features), of one step.
        state: (batch, units), the first state.
    """
    if hasattr(cell, "get_dropout_mask"):
        cell.get_dropout_mask(inputs)
        cell.get_recurrent_dropout_mask(state)


def reset_dropout_masks(cell):
    """Have a cell forget the masks of `draw_dropout_masks`.

    Without this, a call that fails leaves masks to the next one, which may belong to another graph.
    """
    for name in ("reset_dropout_mask", "reset_recurrent_dropout_mask"):
        getattr(cell, name, lambda: None)()


def draws_mask_for_each_gate(cell):
    """Whether a cell has a dropout mask for each gate, as Keras's `GRUCell` and `LSTMCell` with `recurrent_dropout`.

    Public API does not tell. Without this, `VariationalDropout` accepts cells that derive from these, whose gates do
    not share a mask.
    """
    return bool(getattr(cell, "dropout_mask_count", None))


def cudnn_ok(**arguments):
    """Whether Keras runs a recurrence with such arguments on cuDNN in this process: there is a GPU, and it covers them.

    Public API is the argument `use_cudnn="auto"` of Keras's layers, which does not tell what was chosen. Without this,
    implementation "cudnn" cannot be chosen or refused.
    """
    return backend.cudnn_ok(**arguments)


def cudnn_recurrence(cell):
    """Keras's function that runs "LSTM" or "GRU" on cuDNN.

    Public API is Keras's own layers, which cannot run the weights and states of another layer. Without this there is no
    implementation "cudnn".
    """
    return getattr(backend, cell.lower())


def inside_xla():
    """Whether TensorFlow traces a function that XLA compiles.

    `tf.function` asks the same, but public API does not tell. Without this, layers on a GPU try to call cuDNN from
    inside XLA, which fails.
    """
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def traces_export():
    """Whether TensorFlow traces a function because Keras exports a model, by `model.export` or an `ExportArchive`.

    Public API does not tell. Without this, Keras writes the native ops of our layers, which load in no other process.
    """
    if backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    if tf.executing_eagerly():
        return False
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("keras.src.export."):
            return True
        frame = frame.f_back
    return False


def trace_anew():
    """Returns a context in which functions inside a function that is traced are traced again, for an export.

    A `tf.function` of a user inside a model has traces with native ops from earlier calls. TensorFlow itself saves in
    this context, and takes no trace from outside of it. Public API has no way to forget a trace. Without this, models
    with such functions cannot be exported without native ops.
    """
    import tensorflow as tf
    from tensorflow.python.saved_model import save_context

    return save_context.save_context(tf.saved_model.SaveOptions())


def input_signature_of(model):
    """The specs of the inputs of a built model, as `model.export` finds them.

    Public API has them inside `keras.Model.export` only. Without this, `export` needs an `input_signature` of every
    model.
    """
    from keras.src.export.export_utils import get_input_signature

    return get_input_signature(model)


def inputs_without_gradient(op):
    """Indices of the inputs of a TensorFlow operation for which a `tf.GradientTape` wants no gradient.

    TensorFlow's own gradient functions read the attribute, which is not documented. `tf.gradients` does not set it.
    Without this, native kernels compute the gradients of all arguments, also those that nobody uses: slower, not wrong.
    """
    return getattr(op, "skip_input_indices", None) or ()


def run_one_after_another():
    """Returns a context in which TensorFlow runs the operations of a function one after another, on this thread.

    Kernels still share their work with other threads. TensorFlow's public setting for this is one for the process,
    `tf.config.threading.set_inter_op_parallelism_threads`.
    """
    from tensorflow.python.eager import context

    return context.function_executor_type("SINGLE_THREADED_EXECUTOR")


def set_initial_epoch(model, epoch):
    """Have a `fit` that begins start at this epoch, from within `on_train_begin`; None forgets it.

    Keras's own `BackupAndRestore` does so. Public API is the argument `initial_epoch`, which comes too late for a
    callback. Without this, a restored training runs its first epochs again.
    """
    model._initial_epoch = epoch


def default_seed_generator():
    """The `keras.random.SeedGenerator` of all random functions of Keras that are called without a seed.

    It has no public name. Without this, a restored training draws other numbers in layers that have no seed generator
    of their own.
    """
    from keras.src.random.seed_generator import global_seed_generator

    return global_seed_generator()


def training_state_names(callback):
    """The attributes in which a callback of Keras keeps what it has seen of a training; empty for others.

    Public API has no state of callbacks; most of these attributes are public, though not documented. Without this, a
    restored training stops at another epoch, changes its learning rate later, or takes other weights for the best.
    """
    from keras import callbacks

    names = {
        callbacks.EarlyStopping: ("best", "best_epoch", "best_weights", "stopped_epoch", "wait"),
        callbacks.ReduceLROnPlateau: ("best", "cooldown_counter", "wait"),
        callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
        callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
        callbacks.History: ("epoch", "history"),
    }
    return next((value for kind, value in names.items() if isinstance(callback, kind)), ())


def adam_moments(optimizer, variable):
    """The variables in which a `keras.optimizers.Adam` keeps the two moments of a weight's gradient.

    Public API is `optimizer.variables`, which does not tell which moment belongs to which weight. Without this, Adam of
    keras_seq would have to make variables of its own, and would not continue from files of Keras's.
    """
    index = optimizer._get_variable_index(variable)
    return optimizer._momentums[index], optimizer._velocities[index]


@contextlib.contextmanager
def without_strategy(model):
    """Returns a context in which a model looks as if it had been made outside of the scope of its strategy.

    `fit` and `evaluate` of Keras 3.15 then leave out `_maybe_symbolic_build`, which takes the mean of a batch over all
    workers to build the model, and fails under `tf.distribute.MultiWorkerMirroredStrategy`. The public
    `distribute_strategy` is then the strategy in whose scope `fit` is called. There is no public name to do so for a
    model that exists. Without this, nothing trains on several workers.
    """
    strategy, model._distribute_strategy = model._distribute_strategy, None
    try:
        yield
    finally:
        model._distribute_strategy = strategy


@contextlib.contextmanager
def take_summed_gradients(optimizer):
    """Returns a context in which an optimizer takes gradients that are summed over all replicas already.

    Keras clips the gradients of each replica by themselves and then sums them, and no argument changes that. Without
    this, a clipped training on several workers differs from one on one worker.
    """
    optimizer._all_reduce_sum_gradients = list
    try:
        yield
    finally:
        vars(optimizer).pop("_all_reduce_sum_gradients", None)  # replicas in threads share the optimizer


@contextlib.contextmanager
def forget_custom_gradients(functions=None):
    """Forgets, at the end of the block, the custom gradients of the functions that TensorFlow traced in it.

    With a list of concrete functions, which the block may fill, it forgets those in their graphs only: another thread
    may trace functions that it trains at the same time.

    TensorFlow registers each gradient of a `tf.custom_gradient` in a graph under a name of its own, for ever. It holds
    the graph and all that the graph captured, the weights of the model included. The optimizers of Keras make one, so
    every model that was trained stays in memory. A name is needed only until the gradient of its function is traced,
    which a training step does in one go. Public API registers names and cannot take them back. Without this, a search
    grows by the size of a model in each trial.
    """
    if backend.backend() != "tensorflow":
        yield
        return
    from tensorflow.python.framework.ops import gradient_registry

    registered = gradient_registry._registry
    before = set(registered)
    try:
        yield
    finally:
        names = {name for name in set(registered) - before if name.startswith("CustomGradient-")}
        if functions is not None:
            graphs = [function.graph.as_graph_def() for function in functions]
            nodes = [node for graph in graphs for node in graph.node]
            nodes += [node for graph in graphs for inner in graph.library.function for node in inner.node_def]
            names &= {node.attr["_gradient_op_type"].s.decode() for node in nodes if "_gradient_op_type" in node.attr}
        for name in names:
            registered.pop(name, None)


def custom_litert_operations(content):
    """The names of the operations of a LiteRT file, given its bytes, that are none of LiteRT's own, sorted.

    Public API only prints them (`tf.lite.experimental.Analyzer`). Without this, a file that runs nowhere without
    TensorFlow would be written silently, or the converter would print the whole graph in the place of an error.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(content)
    codes = [model.OperatorCodes(i).CustomCode() for i in range(model.OperatorCodesLength())]
    return sorted({code.decode() for code in codes if code})


@contextlib.contextmanager
def onnx_attributes_of_booleans():
    """Lets tf2onnx 1.17 write booleans as attributes, which ONNX keeps as integers, within a `with` block.

    Since version 7 protobuf refuses them: "Expected an int, got a boolean". Without this, models with masks cannot be
    written as ONNX.
    """
    from onnx import helper

    make_attribute = helper.make_attribute

    @functools.wraps(make_attribute)  # tf2onnx reads its signature
    def make(key, value, *args, **kwargs):
        return make_attribute(key, int(value) if isinstance(value, bool) else value, *args, **kwargs)

    helper.make_attribute = make
    try:
        yield
    finally:
        helper.make_attribute = make_attribute

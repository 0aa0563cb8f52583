# SPDX-License-Identifier: Apache-2.0
"""The contenders of the layer benchmark: recurrent layers of several frameworks.

A maker is a function `(case) -> run`, where `run()` runs the case once and returns when its results are computed. No
maker copies results to NumPy. A TensorFlow function on a CPU returns when all results are computed (checked in a graph
and under jit: after the call no processor time is spent and nothing changes), PyTorch runs eagerly, for JAX `run`
waits, and ONNX Runtime returns arrays without a copy.
"""

import functools
import importlib
import os

import numpy as np
from contest import Contender
from layer_cases import GATES, PASSES


def build_layer(library, case, **arguments):
    """Builds a layer of `keras` or `keras_seq`.

    Raises:
        ImportError: if the library is not installed.
        NotImplementedError: if the layer does not have the requested implementation.
    """
    layer_class = getattr(importlib.import_module(library).layers, case.layer)
    arguments = {"recurrent_dropout": case.recurrent_dropout, **arguments}
    layer = layer_class(case.shape[3], return_sequences=True, **arguments)
    if "implementation" in arguments:
        layer.choose_implementation()  # raises here rather than during tracing
    layer.build((None, None, case.shape[2]))
    return layer


def tensorflow_layer(library, jit_compile, case, masked=False, **arguments):
    import tensorflow as tf

    layer = build_layer(library, case, **arguments)
    variables = [variable.value for variable in layer.trainable_variables]
    batch, time, features, _ = case.shape
    random = np.random.default_rng(0)
    inputs = tf.constant(random.normal(size=(batch, time, features)), layer.compute_dtype)
    lengths = tf.sequence_mask(random.integers(1, time + 1, size=batch), time) if masked else None

    def forward(sequences, mask):
        return layer(sequences, mask=mask, training=False)

    def backward(sequences, mask):
        with tf.GradientTape() as tape:
            tape.watch(sequences)
            loss = tf.reduce_sum(tf.square(layer(sequences, mask=mask, training=True)))
        return tape.gradient(loss, [sequences, *variables])

    function = tf.function(backward if case.backward else forward, jit_compile=jit_compile)
    return functools.partial(function, inputs, lengths)


def jax_layer(library, case, **arguments):
    os.environ["KERAS_BACKEND"] = "jax"
    import jax

    layer = build_layer(library, case, **arguments)
    weights = [variable.value for variable in layer.trainable_variables]
    others = [variable.value for variable in layer.non_trainable_variables]  # an argument: XLA folds constants
    inputs = jax.numpy.asarray(np.random.default_rng(0).normal(size=case.shape[:3]), "float32")

    def call(weights, sequences, others):
        return layer.stateless_call(weights, others, sequences, training=case.backward)[0]

    def loss(*arguments):
        return (call(*arguments) ** 2).sum()

    function = jax.jit(jax.grad(loss, argnums=(0, 1)) if case.backward else call)
    return lambda: jax.block_until_ready(function(weights, inputs, others))


def torch_layer(case):
    import torch

    torch.set_num_threads(os.cpu_count())
    features, units = case.shape[2:]
    layer = getattr(torch.nn, case.layer.replace("SimpleRNN", "RNN"))(features, units, batch_first=True)
    sequences = torch.randn(case.shape[:3], requires_grad=case.backward)

    def forward():
        with torch.no_grad():
            return layer(sequences)[0]

    def backward():
        layer.zero_grad()
        sequences.grad = None
        layer(sequences)[0].square().sum().backward()

    return backward if case.backward else forward


def onnxruntime_layer(case):
    """Forward pass only; sequences are (time, batch, features), the layout of ONNX Runtime's kernels."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    batch, time, features, units = case.shape
    rows, random = GATES[case.layer] * units, np.random.default_rng(0)
    shapes = {"W": (1, rows, features), "R": (1, rows, units), "B": (1, 2 * rows)}
    weights = {name: random.normal(scale=0.05, size=shape).astype("float32") for name, shape in shapes.items()}
    options = {"linear_before_reset": 1} if case.layer == "GRU" else {}
    operator = case.layer.replace("SimpleRNN", "RNN")
    node = helper.make_node(operator, ["X", *weights], ["Y"], hidden_size=units, **options)
    graph = helper.make_graph(
        [node],
        operator,
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["time", "batch", features])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["time", 1, "batch", units])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = os.cpu_count()
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    inputs = {"X": random.normal(size=(time, batch, features)).astype("float32")}
    return lambda: session.run(None, inputs)


def _contender(name, make, *kinds, process=""):
    kinds = kinds or tuple(PASSES)
    return Contender(name, make, lambda case: case.kind in kinds, process)


def _keras_seq(jit_compile, implementation, **options):
    return functools.partial(tensorflow_layer, "keras_seq", jit_compile, implementation=implementation, **options)


def _variant(name, *kinds, **options):
    """Returns keras_seq native with another option, to measure its cost."""
    return _contender(f"native+{name}", _keras_seq(False, "native", **options), *kinds, process="native")


_KERAS = functools.partial(tensorflow_layer, "keras", False)
_KERAS_JIT = functools.partial(tensorflow_layer, "keras", True)

VARIANTS = [
    _variant("mask", "training", masked=True),
    _variant("recurrent_dropout", "training", recurrent_dropout=0.3),
    _variant("zoneout", "training", zoneout=0.1),
    _variant("naive", "training", recurrent_dropout=0.3, dropout_mode="naive"),
    _variant("weight_dropout", "training", recurrent_weight_dropout=0.3),
    _variant("bfloat16", "forward", "training", dtype="mixed_bfloat16"),
]
CONTENDERS = [
    _contender("native", _keras_seq(False, "native")),
    _contender("native-jit", _keras_seq(True, "native")),
    _contender("xla", _keras_seq(False, "xla")),
    _contender("xla-jit", _keras_seq(True, "xla")),
    _contender("keras", _KERAS),
    _contender("keras-jit", _KERAS_JIT),
    _contender("torch", torch_layer, "forward", "training"),
    _contender("onnxruntime", onnxruntime_layer, "forward"),
    _contender("keras-jax", functools.partial(jax_layer, "keras")),
    _contender("native-jax", functools.partial(jax_layer, "keras_seq", implementation="native")),
    _contender("xla-jax", functools.partial(jax_layer, "keras_seq", implementation="xla")),
    *VARIANTS,
]
PEERS = ["keras", "keras-jit", "keras-jax", "torch", "onnxruntime"]
LEGEND = (
    "native, xla: keras_seq with that implementation; native+…: with an option (mask: lengths drawn evenly up to the "
    "longest, recompute: the backward pass computes the residuals again); keras: `keras.layers`. In a TensorFlow "
    "graph; -jit: under `jit_compile=True`; -jax: on JAX. ONNX Runtime runs the forward pass only. PyTorch has no "
    "recurrent dropout."
)

# Contenders of the memory benchmark: name, maker, pass. Random initializers would leave memory that the step reuses.
_ZEROS = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}
MEMORY = [
    ("native", _keras_seq(False, "native", **_ZEROS), "training"),
    ("native", _keras_seq(False, "native", **_ZEROS), "dropout"),
    ("native+recompute", _keras_seq(False, "native", recompute=True, **_ZEROS), "training"),
    ("native+recompute", _keras_seq(False, "native", recompute=True, **_ZEROS), "dropout"),
    ("native-jit", _keras_seq(True, "native", **_ZEROS), "training"),
    ("xla", _keras_seq(False, "xla", **_ZEROS), "training"),
    ("keras", functools.partial(_KERAS, **_ZEROS), "training"),
    ("keras", functools.partial(_KERAS, **_ZEROS), "dropout"),
    ("keras-jit", functools.partial(_KERAS_JIT, **_ZEROS), "training"),
    ("torch", torch_layer, "training"),
]

# SPDX-License-Identifier: Apache-2.0
"""Export to ONNX, by tf2onnx."""

from keras_seq._private_api import onnx_attributes_of_booleans
from keras_seq.exporting.atomic import replacing
from keras_seq.exporting.graphs import TOKEN_LEVEL, explained, functions_of, import_converter, not_held, quiet, trace
from keras_seq.ops.export_mode import exporting

OPSET = 18
_OF_FORECASTERS = ("serving_default", "predict", "forecast_samples")


def write(model, path, token_ids=False, opset=OPSET, **options):
    """Writes a model as an ONNX file; a model of several functions as a folder with a file for each.

    Args:
        model: a Keras model or layer that is built.
        path: the file to write, whose name ends with ".onnx", or the folder.
        token_ids: see docs/guides/formats.md.
        opset: version of ONNX's set of operations.
        **options: options of the model's functions.

    Raises:
        ValueError: if ONNX cannot hold the model. Nothing has been written then.
    """
    onnx = import_converter("onnx", "'onnx'")
    tf2onnx = import_converter("tf2onnx", "'onnx'")
    with exporting(portable=True):
        functions = functions_of(model, "ONNX", token_ids, output_prefix="next_", **options)
        is_file = list(functions) == ["serving_default"]
        if str(path).endswith(".onnx") != is_file:
            expected = "end with '.onnx'" if is_file else "be a folder, whose name does not end with '.onnx',"
            raise ValueError(f"`path` must {expected} for the functions {list(functions)}. Received: {str(path)!r}")
        trace(functions)
        contents = {name: _convert(model, function, opset, onnx, tf2onnx) for name, function in functions.items()}
    names = {f"{name}.onnx" for name in (*TOKEN_LEVEL, *_OF_FORECASTERS, *functions)}
    if is_file:
        with replacing(path) as file:
            file.write_bytes(contents["serving_default"])
        return
    with replacing(path, is_earlier=lambda folder: {f.name for f in folder.iterdir()} <= names) as folder:
        folder.mkdir()
        for name, content in contents.items():
            (folder / f"{name}.onnx").write_bytes(content)


def _convert(model, function, opset, onnx, tf2onnx):
    """Returns the bytes of an ONNX model with one function."""
    signature = function.input_signature
    with explained(model, "ONNX", "tf2onnx"), onnx_attributes_of_booleans(), quiet("tf2onnx", "tensorflow"):
        proto, _ = tf2onnx.convert.from_function(function, signature, opset=opset)
    _keep_zeros(proto.graph, onnx)
    missing = {node.op_type for node in _nodes(proto.graph) if not onnx.defs.has(node.op_type, node.domain)}
    if missing:
        raise not_held(model, "ONNX", missing)
    with explained(model, "ONNX", "the check of its graph"):  # tf2onnx leaves operations that it cannot convert
        onnx.checker.check_model(proto)
    return proto.SerializeToString()


def _keep_zeros(graph, onnx):
    """Has each Reshape read 0 as the size 0, as TensorFlow does, so that empty batches and sequences have their shapes.

    A constant shape with a 0 is one that tf2onnx made, in which 0 stands for the size of the input.
    """
    constants = {tensor.name: tensor for inner in _graphs(graph) for tensor in inner.initializer}
    for node in _nodes(graph):
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    for node in _nodes(graph):
        if node.op_type != "Reshape" or any(attribute.name == "allowzero" for attribute in node.attribute):
            continue
        shape = constants.get(node.input[1])
        if shape is None or 0 not in onnx.numpy_helper.to_array(shape):
            node.attribute.append(onnx.helper.make_attribute("allowzero", 1))


def _graphs(graph):
    """Yields a graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _graphs(inner)


def _nodes(graph):
    """Yields the nodes of a graph and those of the graphs inside them."""
    for inner in _graphs(graph):
        yield from inner.node

# SPDX-License-Identifier: Apache-2.0
"""Export to LiteRT, formerly TensorFlow Lite."""

import tempfile

import keras

from keras_seq._lazy_tensorflow import tf
from keras_seq._private_api import custom_litert_operations
from keras_seq.exporting.atomic import replacing
from keras_seq.exporting.graphs import explained, functions_of, not_held, trace
from keras_seq.ops.export_mode import exporting
from keras_seq.ops.time_loop import loops_without_tensor_arrays

_FLEX = "Flex"  # how the names of TensorFlow's operations begin in a LiteRT file


def write(model, path, token_ids=False, select_tf_ops=False, optimizations=(), **options):
    """Writes a model as a LiteRT file, whose signatures are the functions of the model.

    Args:
        model: a Keras model or layer that is built.
        path: the file to write, whose name ends with ".tflite".
        token_ids: see docs/guides/formats.md.
        select_tf_ops: whether the file may hold operations of TensorFlow, which run only where its Flex delegate is.
        optimizations: list of `tf.lite.Optimize`; `[tf.lite.Optimize.DEFAULT]` makes the weights 8-bit integers.
        **options: options of the model's functions.

    Raises:
        ValueError: if LiteRT cannot hold the model. Nothing has been written then.
    """
    if not str(path).endswith(".tflite"):
        raise ValueError(f"`path` must end with '.tflite' for the format 'litert'. Received: {str(path)!r}")
    with exporting(portable=True), loops_without_tensor_arrays():
        functions = functions_of(model, "LiteRT", token_ids, **options)
        trace(functions)
        with tempfile.TemporaryDirectory() as folder:
            _write_saved_model(model, functions, folder)
            content = _convert(model, folder, list(functions), optimizations)
    needed = [name.removeprefix(_FLEX) for name in custom_litert_operations(content)]
    if needed and not select_tf_ops:
        advice = "With `select_tf_ops=True` the file runs where TensorFlow's Flex delegate is."
        raise not_held(model, "LiteRT", needed, advice)
    with replacing(path) as file:
        file.write_bytes(content)


def _write_saved_model(model, functions, folder):
    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, function in functions.items():
        archive.add_endpoint(name, function)
    archive.write_out(folder, verbose=False)


def _convert(model, folder, names, optimizations):
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=names)
    # With these the converter does not print the graph, and we say what is missing.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    converter.optimizations = list(optimizations)
    with explained(model, "LiteRT", "TensorFlow's converter"):
        return converter.convert()

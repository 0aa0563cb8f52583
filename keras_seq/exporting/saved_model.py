# SPDX-License-Identifier: Apache-2.0
"""Export to a SavedModel, of stock TensorFlow operations or with those of keras_seq."""

import json

import keras

from keras_seq._lazy_tensorflow import tf
from keras_seq._private_api import forget_custom_gradients, input_signature_of, trace_anew
from keras_seq._version import __version__
from keras_seq.exporting.atomic import replacing
from keras_seq.ops import native as native_ops
from keras_seq.ops.export_mode import exporting

_NOTE = "assets.extra/keras_seq.json"  # TensorFlow leaves this folder to others


def write_saved_model(model, path, native=False, **options):
    """Writes a model as a SavedModel. See `keras_seq.export`, also for the arguments."""
    if native and native_ops.unavailable() is not None:
        raise ValueError(f"`native` must be False, because {native_ops.unavailable()}. Received: {native!r}")
    functions = []  # nobody asks for their gradients
    with forget_custom_gradients(functions), exporting(portable=not native):
        archive = _trace(model, options, functions)
        names = native_operations(functions)
        if names and not native:
            raise ValueError(
                f"`model` must not call functions that were traced with native operations: {', '.join(names)}. "
                "Trace them after `keras_seq.ops.use_implementation('xla')`, or export with `native=True`."
            )
        with replacing(path, is_earlier=lambda folder: (folder / "saved_model.pb").exists()) as folder:
            archive.write_out(str(folder), verbose=False)
            if native:
                _write_note(folder / _NOTE, names)


def endpoints_of(model, input_signature=None, **options):
    """Returns the functions that an export of a model has, a dict from names to `(function, input signature)`.

    They are those of the model's method `endpoints` if it has one, else its call at inference.
    """
    if hasattr(model, "endpoints"):
        return model.endpoints(**options)
    if options:
        raise TypeError(f"`export` of a {type(model).__name__} has no option {next(iter(options))!r}.")
    if input_signature is None:
        if not isinstance(model, keras.Model):
            raise ValueError(
                "`input_signature` must be given for a layer that is no model, such as "
                f"`[keras.InputSpec(shape=(None, None, 8), dtype='float32')]`. Received: None for {model!r}"
            )
        input_signature = input_signature_of(model)
    return {"serve": (model.__call__, input_signature)}


def native_operations(functions):
    """Returns the names of the operations of keras_seq in concrete functions, sorted."""
    names = set()
    for function in functions:
        graph = function.graph.as_graph_def()
        for nodes in (graph.node, *(inner.node_def for inner in graph.library.function)):
            names |= {node.op for node in nodes if node.op.startswith("KerasSeq>")}
    return sorted(names)


def _trace(model, options, functions):
    """Returns an archive with the functions of a model, and adds these, traced, to the list `functions`."""
    archive = keras.export.ExportArchive()
    for layer in (model, *getattr(model, "text_layers", ())):
        archive.track(layer)
    for name, (function, signature) in endpoints_of(model, **options).items():
        function = archive.add_endpoint(name, function, input_signature=signature)
        with trace_anew():
            functions.append(function.get_concrete_function())
    return archive


def _write_note(path, names):
    """Writes which operations of which library the SavedModel needs."""
    library = {"package": "keras_seq", "version": __version__, "file": "libkeras_seq_tf.so"}
    note = {"operations": names, "library": library, "tensorflow": tf.__version__, "keras": keras.__version__}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")

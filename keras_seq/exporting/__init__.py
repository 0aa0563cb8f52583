# SPDX-License-Identifier: Apache-2.0
"""Export of models: SavedModel, LiteRT and ONNX."""

import keras

from keras_seq.exporting import litert, onnx
from keras_seq.exporting.saved_model import write_saved_model

_WRITERS = {"tf_saved_model": write_saved_model, "litert": litert.write, "onnx": onnx.write}

__all__ = ["export"]


def export(model, path, format="tf_saved_model", native=False, **options):
    """Writes a model for programs in which neither Keras nor keras_seq is installed.

    The export is portable: its recurrent layers become stock operations of the format, whatever their `implementation`
    is. It is written beside `path` and then moved there, so a process that is killed leaves an earlier export whole.

    - A `Seq2Seq`, `Ensemble`, `LanguageModel` or `Forecaster` gives the signatures that its method `export` describes.
    - Any other Keras model or layer gives its call at inference, as `keras.Model.export` does: the signatures `serve`
      and `serving_default`.

    `keras.Model.export` and `keras.export.ExportArchive` also write stock operations for our layers.

    Args:
        model: a Keras model or layer that is built.
        path: the folder or, for "litert" and "onnx", the file to write. A folder is new or empty, or an earlier
            SavedModel, which is replaced. A file is replaced.
        format: "tf_saved_model", "litert" or "onnx". See docs/guides/export.md and docs/guides/formats.md.
        native: whether to keep the native operations of keras_seq, which are faster. Only for SavedModels. Such a one
            loads only after `import keras_seq`, where keras_seq is built for the same TensorFlow; its file
            `assets.extra/keras_seq.json` says which operations it needs.
        **options: options of the format, and those of the model's method `export`. Other models and layers take
            `input_signature`; see `keras.Model.export`. A layer that is no model needs it.

    Raises:
        ValueError: if an argument is invalid. Nothing has been written then.
        FileExistsError: if there is something else at `path`.

    Example:
        >>> import keras, keras_seq, pathlib, tempfile
        >>> model = keras.Sequential([keras.Input((None, 8)), keras_seq.layers.LSTM(4)])
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "lstm"
        >>> keras_seq.export(model, folder)
        >>> sorted(path.name for path in folder.iterdir())
        ['assets', 'fingerprint.pb', 'saved_model.pb', 'variables']
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"`model` must be a Keras model or layer. Received: {model!r}")
    if not isinstance(format, str) or format not in _WRITERS:
        raise ValueError(f"`format` must be one of {', '.join(map(repr, _WRITERS))}. Received: {format!r}")
    if not model.built:
        raise ValueError(f"`model` must be built: fit it, or call it on data. Received: {model!r}, which is not")
    if native and format != "tf_saved_model":
        raise ValueError(
            f"`native` must be False for the format {format!r}, which has no such operations. Received: True"
        )
    options |= {"native": True} if native else {}
    _WRITERS[format](model, path, **options)

# SPDX-License-Identifier: Apache-2.0
"""Export to a SavedModel of stock TensorFlow operations."""

import pathlib

import keras

from keras_seq.ops import use_implementation


def export_saved_model(model, path):
    """Write a `Seq2Seq` as a SavedModel that needs nothing but TensorFlow: no Keras, no keras_seq.

    Its signature `serving_default` takes

    - `inputs`: strings (batch,), or int32 token ids (batch, source) for a model without a source vectorizer,

    and returns

    - `text`: strings (batch,), where the model has a target vectorizer;
    - `token_ids`: int32 (batch, time), closed by 3 (`[END]`), then 0;
    - `log_probabilities`: float32 (batch,), the natural logarithm of each output's probability;
    - `attention_weights`: float32 (batch, time, source), source and target tokens with their `[END]`; (batch, time,
      0) for a model without attention.

    Args:
        model: a `Seq2Seq`.
        path: the folder to write. It must not hold anything but an earlier SavedModel, which is replaced.

    Raises:
        FileExistsError: if the folder holds something else.
    """
    path = pathlib.Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / "saved_model.pb").exists()):
        raise FileExistsError(f"`path` must be a new folder or an earlier SavedModel. Received: {str(path)!r}")
    archive = keras.export.ExportArchive()
    for layer in (model, *model.text_layers):
        archive.track(layer)
    archive.add_endpoint("serving_default", lambda inputs: model.decode(inputs), input_signature=[model.source_spec])
    with use_implementation("xla"):  # traced here: stock operations, as ours load only where our library is
        archive.write_out(str(path), verbose=False)

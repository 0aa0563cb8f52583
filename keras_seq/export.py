# SPDX-License-Identifier: Apache-2.0
"""Export to a SavedModel of stock TensorFlow operations."""

import pathlib

import keras

from keras_seq.ops import use_implementation


def export_saved_model(model, path, **options):
    """Writes a model as a SavedModel that needs neither Keras nor keras_seq. The model's method `export` calls it.

    This describes the SavedModel of a `Seq2Seq`; for others see their `export`.

    The signature `serving_default` takes:

    - `inputs`: strings (batch,), or int32 token ids (batch, source) if the model has no source vectorizer.

    If the model has features, it takes, instead of `inputs`:

    - `source`: the same. The names of arrays in a dict begin with `source_`.
    - each feature by its name: strings or int64 tags (batch,), or float32 vectors (batch, n).

    It returns a dict:

    - `text`: strings (batch,), if the model has a target vectorizer.
    - `token_ids`: int32 (batch, time). Each sequence ends with 3 (`[END]`) unless it reached its limit; then zeros.
    - `log_probabilities`: float32 (batch,), the natural logarithm of the probability of each output.
    - `attention_weights`: float32 (batch, time, source), where both time and source include `[END]`; (batch, time, 0)
      if the model has no attention.

    The signature `generate_beam` takes the same inputs. It returns the 5 best outputs of a beam search with 5 beams,
    the best first; fewer of both if there are fewer tokens to choose from. They are a dict with one more axis:

    - `text`: strings (batch, 5), if the model has a target vectorizer.
    - `token_ids`: int32 (batch, 5, time).
    - `log_probabilities`: float32 (batch, 5).
    - `scores`: float32 (batch, 5), by which the outputs are ranked.

    An empty batch gives an empty batch.

    Args:
        model: a `Seq2Seq`, or another model that generates.
        path: the folder to write. It is created, or it is empty, or it holds an earlier SavedModel, which is replaced.
        **options: other arguments of the model's `export`, such as `copy_unknown`.

    Raises:
        FileExistsError: if `path` is a file, or a folder with anything else in it.
    """
    write_saved_model(path, (model, *model.text_layers), model.endpoints(**options))


def write_saved_model(path, layers, endpoints):
    """Writes functions as the signatures of a SavedModel of stock TensorFlow operations.

    Args:
        path: see `export_saved_model`.
        layers: the layers whose variables the functions read.
        endpoints: dict from names to `(function, input signature)`.
    """
    path = pathlib.Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / "saved_model.pb").exists()):
        raise FileExistsError(
            f"`path` must be a new or empty folder, or an earlier SavedModel. Received: {str(path)!r}"
        )
    archive = keras.export.ExportArchive()
    for layer in layers:
        archive.track(layer)
    for name, (function, signature) in endpoints.items():
        archive.add_endpoint(name, function, input_signature=signature)
    with use_implementation("xla"):  # native ops would need our library where the model is loaded
        archive.write_out(str(path), verbose=False)

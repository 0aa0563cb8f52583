# SPDX-License-Identifier: Apache-2.0
"""Loads CMUdict through tensorflow-datasets, which is imported when it is used."""


def load_tfds_cmudict(data_dir=None):
    """Loads the data of `load_cmudict` through tensorflow-datasets.

    The first call prepares the data set `cmudict` in `data_dir`; later calls read it from there.
    For a `tf.data.Dataset`, import `keras_seq.data.tfds_cmudict` and call `tfds.load("cmudict")`.

    Args:
        data_dir: folder of tensorflow-datasets. Defaults to `~/tensorflow_datasets`.

    Returns:
        The same dictionary as `load_cmudict`.

    Raises:
        ImportError: if tensorflow-datasets is not installed, or if the data set is not prepared
            yet and `cmudict` is not installed.

    Example:

    >>> words, pronunciations = load_tfds_cmudict()["dev"]  # doctest: +SKIP
    """
    from keras_seq.data.tfds_cmudict import tfds  # registers the data set

    splits = tfds.load("cmudict", data_dir=data_dir, batch_size=-1)
    return {split: _columns(examples) for split, examples in splits.items()}


def _columns(examples):
    """Returns words and pronunciations, two lists of strings in the order of the dictionary."""
    order = examples["index"].numpy().argsort()
    return tuple([text.decode() for text in examples[name].numpy()[order]] for name in ("word", "pronunciation"))

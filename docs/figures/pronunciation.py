# SPDX-License-Identifier: Apache-2.0
"""Draws nothing: the small models from spelling to sound of the other scripts here. Needs keras_seq[examples]."""

import keras

import keras_seq
from keras_seq import data


def load_words(split, count):
    """Returns words of 4 to 10 letters of a split of CMUdict, evenly spaced, and the first pronunciation of each.

    Args:
        split: "train", "dev" or "test".
        count: number of words.

    Returns:
        Two lists of strings of the same length.
    """
    groups = data.group_by_source(*data.load_cmudict()[split])
    pairs = [(word, sounds[0]) for word, sounds in groups.items() if word.isalpha() and 4 <= len(word) <= 10]
    words, sounds = zip(*pairs[:: len(pairs) // count][:count], strict=True)
    return list(words), list(sounds)


def train(words, sounds, epochs=8, units=96, scheduled_sampling=None, **options):
    """Trains a model that spells out the sounds of words.

    Args:
        words: list of strings.
        sounds: list of strings, phonemes separated by spaces.
        epochs: see `keras_seq.Seq2Seq.fit`.
        units: size of the recurrent layers.
        scheduled_sampling: see `keras_seq.Seq2Seq.compile`.
        **options: arguments of `keras_seq.Decoder`.

    Returns:
        The trained `keras_seq.Seq2Seq`.
    """
    keras.utils.set_random_seed(1)
    source, target = data.text_vectorizer(words), data.text_vectorizer(sounds, split="whitespace")
    encoder = keras_seq.Encoder(source.vocabulary_size(), 48, units)
    decoder = keras_seq.Decoder(target.vocabulary_size(), 48, units, **options)
    model = keras_seq.Seq2Seq(encoder, decoder, source, target)
    model.compile(keras.optimizers.Adam(4e-3, global_clipnorm=1.0), scheduled_sampling=scheduled_sampling)
    batches = data.bucket_by_length(words, sounds, batch_size=64, seed=1)
    model.fit(batches, epochs=epochs, verbose=0)
    return model

# SPDX-License-Identifier: Apache-2.0
"""Trains a tagger: a bidirectional LSTM over words and their letters, with a conditional random field.

By default it hyphenates words: each letter is tagged by whether a line may break after it. With --train and
--dev it learns from any files of words and tags. See README.md in this folder.
"""

import argparse
import collections
import json
import pathlib
import time

import keras
from sentences import BREAK, LANGUAGES, NONE, Encoder, draw_marginals, hyphenated_words, read_sentences

from keras_seq import layers, training


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(name, text, default, **settings):
        parser.add_argument(
            name, help=f"{text} (default: %(default)s)", default=default, type=type(default), **settings
        )

    for name in ("train", "dev", "test"):
        parser.add_argument(f"--{name}", help="file of lines `word, tab, tag`, blank between sentences", metavar="FILE")
    parser.add_argument("--no-crf", help="choose each tag by itself, by a softmax", action="store_true")
    parser.add_argument("--no-letters", help="do not read the letters of words", action="store_true")
    parser.add_argument("--one-direction", help="read from left to right only, with 2 * UNITS", action="store_true")
    parser.add_argument("--table", help="train again without each of these parts, and compare", action="store_true")
    add("--units", "size of the state of each direction", 256)
    add("--num-layers", "number of recurrent layers", 2)
    add("--embedding-dim", "size of the embeddings of words", 150)
    add("--letter-units", "size of the state that reads letters, in each direction", 128)
    add("--dropout", "fraction of the features to drop between layers", 0.5)
    add("--recurrent-dropout", "fraction of the units to drop in recurrent products", 0.2)
    add("--word-dropout", "fraction of the words to drop", 0.2)
    add("--epochs", "passes over the sentences", 16)
    add("--batch-size", "sentences in a training step", 32)
    add("--learning-rate", "peak learning rate; it decays to 0", 3e-3)
    add("--language", "language of the words to hyphenate", "en", choices=LANGUAGES)
    add("--words", "number of words to learn hyphenation from", 40_000)
    add("--seed", "seed of weights, dropout and the order of sentences", 0)
    add("--output", "folder for the results", pathlib.Path("runs/tagging"))
    if not parser.parse_known_args(arguments)[0].train:  # hyphenation: each "word" is a letter
        parser.set_defaults(no_letters=True, word_dropout=0.0, dropout=0.2, recurrent_dropout=0.0)
        parser.set_defaults(units=192, embedding_dim=100, batch_size=128, epochs=10, learning_rate=4e-3)
    options = parser.parse_args(arguments)
    if bool(options.train) != bool(options.dev) or (options.test and not options.dev):
        parser.error("--train and --dev go together: give both files, or none for hyphenation")
    return options


def build_models(options, encoder):
    """Returns the model to train, and the model with the same weights that predicts tags."""
    words, letters = keras.Input((None,), dtype="int64"), keras.Input((None, None), dtype="int64")
    embedding = keras.layers.Embedding(encoder.words.vocabulary_size(), options.embedding_dim, mask_zero=True)
    features = layers.EmbeddingDropout(embedding, options.word_dropout)(words)
    if not options.no_letters:
        spelling = keras.layers.Embedding(encoder.letters.vocabulary_size(), 32, mask_zero=True)(letters)
        spelling = layers.TimeDistributed(layers.Bidirectional(layers.LSTM(options.letter_units)))(spelling)
        features = keras.layers.Concatenate()([features, spelling])
    features = layers.LockedDropout(options.dropout)(features)
    recurrent = {"return_sequences": True, "recurrent_dropout": options.recurrent_dropout}
    for _ in range(options.num_layers):
        if options.one_direction:
            features = layers.LSTM(2 * options.units, **recurrent)(features)
        else:
            features = layers.Bidirectional(layers.LSTM(options.units, **recurrent))(features)
        features = layers.LockedDropout(options.dropout)(features)
    if options.no_crf:
        logits = keras.layers.Dense(len(encoder.tags))(features)
        return keras.Model([words, letters], logits), keras.Model([words, letters], keras.ops.argmax(logits, axis=-1))
    crf = layers.CRF(len(encoder.tags))
    return (keras.Model([words, letters], output) for output in (crf(features), crf(features, decode=True)))


def train(options, encoder, splits, verbose=2):
    """Returns the two models of `build_models`, trained, and the seconds of training."""
    keras.utils.set_random_seed(options.seed)
    model, tagger = build_models(options, encoder)
    batches = encoder.batches(splits["train"], options.batch_size, seed=options.seed)
    dev = encoder.batches(splits["dev"], 2 * options.batch_size, shuffle=False)
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.epochs * len(batches))
    optimizer = keras.optimizers.Adam(schedule, beta_2=0.98, global_clipnorm=5.0)
    if options.no_crf:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["sparse_categorical_accuracy"])
    else:
        model.compile(optimizer, training.CRFLoss(), metrics=[training.CRFAccuracy()])
    start = time.perf_counter()
    model.fit(batches, epochs=options.epochs, validation_data=dev, shuffle=False, verbose=verbose)
    return model, tagger, time.perf_counter() - start


def score(encoder, tagger, sentences):
    """Returns the shares of tags and of sentences that are right, in percent, and how well breaks are found."""
    right, total, sentences_right, counts = 0, 0, 0, collections.Counter()
    for inputs, expected in encoder.batches(sentences, 64, shuffle=False):
        tags, mask, expected = tagger.predict_on_batch(list(inputs)), inputs[0].numpy() > 0, expected.numpy()
        matches = tags == expected
        right, total = right + matches[mask].sum(), total + mask.sum()
        sentences_right += (matches | ~mask).all(axis=1).sum()
        if set(encoder.tags) == {BREAK, NONE}:
            found, there = (x == encoder.tags.index(BREAK) for x in (tags[mask], expected[mask]))
            counts.update(both=(found & there).sum(), either=found.sum() + there.sum())
    metrics = {"accuracy": 100 * right / total, "sentence_accuracy": 100 * sentences_right / len(sentences)}
    return metrics | ({"f1_of_breaks": 200 * counts["both"] / counts["either"]} if counts else {})


def main(arguments=None):
    options = parse_arguments(arguments)
    files = {name: getattr(options, name) for name in ("train", "dev", "test") if getattr(options, name)}
    splits = {name: read_sentences(path) for name, path in files.items()}
    splits = splits or hyphenated_words(options.words, options.language)
    tags = {tag for sentences in splits.values() for _, tags in sentences for tag in tags}
    encoder = Encoder(splits["train"], tags)
    model, tagger, seconds = train(options, encoder, splits)
    metrics = {split: score(encoder, tagger, splits[split]) for split in splits if split != "train"}
    last = list(metrics.values())[-1]
    result = f"{last['accuracy']:.1f} % of the tags, {last['sentence_accuracy']:.1f} % of the sequences right"
    results = {"result": result, **metrics, "train_seconds": seconds}
    parts = ["no_crf", "one_direction", *([] if options.no_letters else ["no_letters"])] if options.table else []
    for part in parts:
        variant = argparse.Namespace(**{**vars(options), part: True})
        _, other, seconds = train(variant, encoder, splits)
        results[part] = {**score(encoder, other, splits["dev"]), "train_seconds": seconds}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "metrics.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.output / "vocabularies.json").write_text(json.dumps(encoder.vocabularies(), indent=0) + "\n")
    tagger.save(options.output / "tagger.keras")
    if not options.no_crf:
        samples = [sentence for sentence in splits["dev"] if 6 <= len(sentence[0]) <= 16] or splits["dev"]
        draw_marginals(encoder, model, samples[:: max(1, len(samples) // 4)][:4], options.output / "marginals.png")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

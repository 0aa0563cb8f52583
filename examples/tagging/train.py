# SPDX-License-Identifier: Apache-2.0
"""Trains a tagger: a bidirectional LSTM over words and their letters, with a conditional random field.

By default it hyphenates English words: each letter is tagged by whether a line may break after it. With --train and
--dev it learns from any files of words and tags. See README.md in this folder.
"""

import argparse
import collections
import json
import pathlib
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from keras_seq import data, layers, ops, training

BREAK, NONE = "-", "."  # the tags of hyphenation
MAX_LETTERS = 20  # of a word; the letters of longer ones are cut


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
    add("--units", "size of the state of each direction", 192)
    add("--num-layers", "number of recurrent layers", 2)
    add("--embedding-dim", "size of the embeddings of words", 100)
    add("--letter-units", "size of the state that reads letters, in each direction", 80)
    add("--dropout", "fraction of the features to drop between layers", 0.5)
    add("--recurrent-dropout", "fraction of the units to drop in recurrent products", 0.2)
    add("--word-dropout", "fraction of the words to drop", 0.25)
    add("--epochs", "passes over the sentences", 16)
    add("--batch-size", "sentences in a training step", 32)
    add("--learning-rate", "peak learning rate; it decays to 0", 4e-3)
    add("--words", "number of words to learn hyphenation from", 40_000)
    add("--seed", "seed of weights, dropout and the order of sentences", 0)
    add("--output", "folder for the results", pathlib.Path("runs/tagging"))
    options = parser.parse_args(arguments)
    if bool(options.train) != bool(options.dev) or (options.test and not options.dev):
        parser.error("--train and --dev go together: give both files, or none for hyphenation")
    return options


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


def hyphenated_words(count):
    """Returns a dict from split to a list of (letters, tags), with the breaks that pyphen knows."""
    import pyphen

    dictionary, splits = pyphen.Pyphen(lang="en_US"), {}
    for split, (words, _) in data.load_cmudict().items():
        words = [word for word in dict.fromkeys(words) if word.isalpha() and len(word) > 4]
        words = words[:: max(1, len(words) // (count if split == "train" else 4000))]
        breaks = [dictionary.positions(word) for word in words]
        tags = [
            [BREAK if i + 1 in b else NONE for i in range(len(word))] for word, b in zip(words, breaks, strict=True)
        ]
        splits[split] = list(zip(words, tags, strict=True))
    return splits


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

    def encode(self, sentences, tags):
        words = tf.strings.split(sentences)  # (batch, None)
        letters = tf.strings.unicode_split(words, "UTF-8")[:, :, :MAX_LETTERS]  # (batch, None, None)
        words, letters = self.words(tf.strings.lower(words, "utf-8")), self.letters(letters)
        return (words.to_tensor(), letters.to_tensor()), self.tag_ids(tf.strings.split(tags)).to_tensor()

    def batches(self, sentences, batch_size, **options):
        texts = ([" ".join(column) for column in columns] for columns in zip(*sentences, strict=True))
        split = ("whitespace", "whitespace")
        return data.bucket_by_length(*texts, batch_size, split=split, **options).map(self.encode).prefetch(2)


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


def draw_marginals(encoder, model, sentences, path):
    """Draws the probability of each tag for some sentences, with a ring around the true tags."""
    from matplotlib.figure import Figure

    texts = [tf.constant([" ".join(column) for column in columns]) for columns in zip(*sentences, strict=True)]
    marginals = np.asarray(ops.crf_marginals(model(encoder.encode(*texts)[0])))
    height = 0.22 * len(encoder.tags) + 1.2
    width = 0.5 + 0.36 * max(len(words) for words, _ in sentences)
    figure = Figure(figsize=(width + 1, height * len(sentences)), layout="constrained")
    for axes, (words, tags), panel in zip(
        np.ravel(figure.subplots(len(sentences), 1)), sentences, marginals, strict=True
    ):
        panel = panel[: len(words)].T  # (tags, time)
        image = axes.imshow(panel, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        rows = [encoder.tags.index(tag) for tag in tags]
        axes.scatter(range(len(words)), rows, s=45, facecolors="none", edgecolors="tab:orange", linewidths=1.5)
        axes.set_xticks(range(len(words)), words, rotation=0 if max(map(len, words)) == 1 else 90, parse_math=False)
        axes.set_yticks(range(len(encoder.tags)), encoder.tags)
        axes.set_xlim(-0.5, max(len(words) for words, _ in sentences) - 0.5)
    figure.colorbar(image, ax=figure.axes, label="probability (ring: the true tag)", fraction=0.05)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    options = parse_arguments(arguments)
    files = {name: getattr(options, name) for name in ("train", "dev", "test") if getattr(options, name)}
    splits = {name: read_sentences(path) for name, path in files.items()} or hyphenated_words(options.words)
    options.no_letters |= not files  # each "word" of hyphenation is a letter
    tags = {tag for sentences in splits.values() for _, tags in sentences for tag in tags}
    encoder = Encoder(splits["train"], tags)
    model, tagger, seconds = train(options, encoder, splits)
    metrics = {split: score(encoder, tagger, splits[split]) for split in splits if split != "train"}
    results = {**metrics, "train_seconds": seconds}
    parts = ["no_crf", "one_direction", *([] if options.no_letters else ["no_letters"])] if options.table else []
    for part in parts:
        variant = argparse.Namespace(**{**vars(options), part: True})
        _, other, seconds = train(variant, encoder, splits)
        results[part] = {**score(encoder, other, splits["dev"]), "train_seconds": seconds}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "metrics.json").write_text(json.dumps(results, indent=2) + "\n")
    model.save(options.output / "model.keras")
    if not options.no_crf:
        samples = [sentence for sentence in splits["dev"] if 6 <= len(sentence[0]) <= 16]
        draw_marginals(encoder, model, samples[:: max(1, len(samples) // 4)][:4], options.output / "marginals.png")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

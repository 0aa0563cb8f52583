# SPDX-License-Identifier: Apache-2.0
"""Trains models that translate verses from Spanish to English, with attention and without, and compares them by length.

The texts are two translations of the Bible, from packages of Debian. See README.md in this folder.
"""

import argparse
import time

from command_line import filled_at_once, output_folder, seed

import keras
from results import attention_matrix, chrf, draw, evaluate, length_groups, other_verses, print_tables, write_results
from verses import read_verses, split_verses, texts

import keras_seq

MODELS = {"attention": "bahdanau", "a single vector": None}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(name, text, default, kind=None):
        parser.add_argument(name, help=f"{text} (default: %(default)s)", default=default, type=kind or type(default))

    add("--epochs", "passes over the verses of training", 5)
    add("--units", "size of the decoder's state, and of the encoder's in each direction", 160)
    add("--subwords", "size of the vocabulary of each language", 3000)
    add("--batch-size", "verses in a training step", 16)
    add("--learning-rate", "initial learning rate; it decays to 0", 3e-3)
    add("--dropout", "fraction of the features to drop", 0.2)
    add("--max-words", "words of the longest Spanish verse", 20)
    parser.add_argument("--verses", type=int, help="number of verses to train on, by default all of them")
    add("--seed", "seed of weights, dropout and the order of verses", 0, seed)
    add("--output", "folder for the results", "runs/translation", output_folder)
    options = parser.parse_args(arguments)
    for name, least in {"epochs": 1, "units": 1, "batch_size": 1, "max_words": 6, "verses": 1}.items():
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    return options


def build_model(options, attention, vectorizers):
    """Returns a model whose decoder attends, or starts from the last states of the encoder and sees nothing else."""
    source, target = vectorizers
    shared = {"embedding_dim": 128, "units": options.units, "cell": "gru", "dropout": options.dropout}
    # Wider than by default: on 5,000 verses the loss after two epochs is 4.12 on held-out ones, rather than 4.31.
    wide = [keras.initializers.RandomNormal(stddev=0.3) for _ in vectorizers]
    encoder = keras_seq.Encoder(source.vocabulary_size(), **shared, embeddings_initializer=wide[0])
    decoder = keras_seq.Decoder(
        target.vocabulary_size(),
        **shared,
        embeddings_initializer=wide[1],
        attention=attention,
        readout="maxout",
        readout_units=128,
    )
    return keras_seq.Seq2Seq(encoder, decoder, source, target)


def train(options, attention, vectorizers, splits):
    """Returns a trained model and the seconds that it took."""
    keras.utils.set_random_seed(options.seed)
    model = build_model(options, attention, vectorizers)
    batches = keras_seq.data.bucket_by_length(
        *texts(splits["train"]), options.batch_size, split=("whitespace", "whitespace"), seed=options.seed
    )
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.epochs * len(batches))
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0))
    start = time.perf_counter()
    model.fit(batches, epochs=options.epochs, validation_data=texts(splits["dev"]), verbose=2)
    return model, time.perf_counter() - start


def main(arguments=None):
    options = parse_arguments(arguments)
    splits = split_verses(read_verses(), options.max_words, options.verses)
    try:
        vectorizers = [keras_seq.data.subword_vectorizer(side, options.subwords) for side in texts(splits["train"])]
    except (ImportError, ValueError) as error:  # SentencePiece is missing, or --subwords does not fit the letters
        raise SystemExit(str(error)) from None
    sources, references = texts(splits["test"])
    groups = length_groups(sources)
    models, outputs, scores, metrics = {}, {}, {}, {}
    for name, attention in MODELS.items():
        models[name], seconds = train(options, attention, vectorizers, splits)
        outputs[name], scores[name], metrics[name] = evaluate(models[name], sources, references, groups)
        metrics[name]["train_seconds"] = seconds
    shown = [i for i, source in enumerate(sources) if 9 <= len(source.split()) <= 12] or range(len(sources))
    best = max(shown, key=lambda i: scores["attention"]["chrF"][i])
    matrix = attention_matrix(models["attention"], sources[best])
    scores["another verse of this length"] = {"chrF": chrf(other_verses(references, groups), references)}
    columns = {"source": sources, "reference": references, **outputs}
    print_tables(f"{len(sources):,} test verses, {len(splits['train']):,} of training", metrics, columns, groups)
    metrics["result"] = "BLEU: " + ", ".join(f"{name} {metrics[name]['bleu']['beam']:.1f}" for name in MODELS)
    with filled_at_once(options.output) as folder:
        draw(groups, scores, matrix, folder / "by_length.png")
        models["attention"].save(folder / "model.keras")
        write_results(folder, metrics, columns)
    return metrics


if __name__ == "__main__":
    main()

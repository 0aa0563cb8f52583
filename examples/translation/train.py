# SPDX-License-Identifier: Apache-2.0
"""Trains models that translate verses from Spanish to English, with attention and without, and compares them by length.

The texts are two translations of the Bible, from packages of Debian. See README.md in this folder.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np
from pictures import chrf, draw, length_groups
from rich.console import Console
from rich.table import Table
from sacrebleu import corpus_bleu, corpus_chrf
from verses import read_verses, split_verses

import keras_seq

MODELS = {"attention": "bahdanau", "a single vector": None}
SAMPLERS = ("greedy", "beam")


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(name, text, default):
        parser.add_argument(name, help=f"{text} (default: %(default)s)", default=default, type=type(default))

    add("--epochs", "passes over the verses of training", 8)
    add("--units", "size of the decoder's state, and of the encoder's in each direction", 160)
    add("--subwords", "size of the vocabulary of each language", 3000)
    add("--batch-size", "verses in a training step", 32)
    add("--learning-rate", "peak learning rate; it decays to 0", 3e-3)
    add("--dropout", "fraction of the features to drop", 0.2)
    add("--max-words", "words of the longest Spanish verse", 20)
    parser.add_argument("--verses", type=int, help="number of verses to train on, by default all of them")
    add("--seed", "seed of weights, dropout and the order of verses", 0)
    add("--output", "folder for the results", pathlib.Path("runs/translation"))
    options = parser.parse_args(arguments)
    for name in ("epochs", "units", "batch_size", "max_words", "verses"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be positive, got {getattr(options, name)}")
    return options


def build_model(options, attention, vectorizers):
    """Returns a model whose decoder attends, or starts from the last states of the encoder and sees nothing else."""
    source, target = vectorizers
    shared = {"embedding_dim": 128, "units": options.units, "cell": "gru", "dropout": options.dropout}
    return keras_seq.Seq2Seq(
        keras_seq.Encoder(source.vocabulary_size(), **shared),
        keras_seq.Decoder(
            target.vocabulary_size(),
            **shared,
            attention=attention,
            readout="tanh",
            readout_units=shared["embedding_dim"],
            tie_embeddings=True,
        ),
        source,
        target,
    )


def train(options, attention, vectorizers, splits):
    """Returns a trained model and the seconds that it took."""
    keras.utils.set_random_seed(options.seed)
    model = build_model(options, attention, vectorizers)
    batches = keras_seq.data.bucket_by_length(
        *texts(splits["train"]), options.batch_size, split=("whitespace", "whitespace"), seed=options.seed
    )
    schedule = keras.optimizers.schedules.CosineDecay(
        options.learning_rate / 10,
        options.epochs * len(batches),
        0,
        warmup_target=options.learning_rate,
        warmup_steps=200,
    )
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0))
    start = time.perf_counter()
    model.fit(batches, epochs=options.epochs, validation_data=texts(splits["dev"]), verbose=2)
    return model, time.perf_counter() - start


def evaluate(model, verses, groups):
    """Returns the outputs of each sampler, chrF and bits per word of each verse, and metrics."""
    sources, references = texts(verses)
    outputs = {sampler: model.generate(sources, sampler=sampler, verbose=0) for sampler in SAMPLERS}
    words = np.array([len(reference.split()) for reference in references])
    bits = -np.asarray(model.score(sources, references)) / np.log(2)
    scores = {"chrF": chrf(outputs["beam"], references), "bits per word": bits / words}
    metrics = {
        "bleu": {sampler: corpus_bleu(outputs[sampler], [references]).score for sampler in SAMPLERS},
        "chrf": {sampler: corpus_chrf(outputs[sampler], [references]).score for sampler in SAMPLERS},
        "bits_per_word": float(bits.sum() / words.sum()),
        "by_length": {
            label: {"verses": len(group), **{name: float(values[group].mean()) for name, values in scores.items()}}
            for label, group in groups
        },
        "parameters": model.count_params(),
    }
    return outputs, scores, metrics


def texts(verses):
    return [verse.spanish for verse in verses], [verse.english for verse in verses]


def attention_matrix(model, source):
    """Returns the attention weights of a greedy translation, and the tokens of both sides."""
    results = model.generate([source], return_dict=True, verbose=0)
    ids = [*model.source_vectorizer([source]).numpy()[0], 3], [i for i in results["token_ids"][0] if i]
    vocabularies = model.source_vectorizer.get_vocabulary(), model.target_vectorizer.get_vocabulary()
    columns, rows = ([str(names[i]) for i in side] for names, side in zip(vocabularies, ids, strict=True))
    return results["attention_weights"][0][: len(rows), : len(columns)], columns, rows


def main(arguments=None):
    options = parse_arguments(arguments)
    splits = split_verses(read_verses(), options.max_words, options.verses)
    vectorizers = [keras_seq.data.subword_vectorizer(side, options.subwords) for side in texts(splits["train"])]
    sources, references = texts(splits["test"])
    groups = length_groups(sources)
    models, outputs, scores, metrics = {}, {}, {}, {}
    for name, attention in MODELS.items():
        models[name], seconds = train(options, attention, vectorizers, splits)
        outputs[name], scores[name], metrics[name] = evaluate(models[name], splits["test"], groups)
        metrics[name]["train_seconds"] = seconds
    others = list(references)
    for _, group in groups:
        for i, j in zip(group, np.roll(group, 1), strict=True):
            others[i] = references[j]
    curves = {title: {name: values[title] for name, values in scores.items()} for title in ("chrF", "bits per word")}
    curves["chrF"]["another verse of this length"] = chrf(others, references)
    shown = [i for i, source in enumerate(sources) if 9 <= len(source.split()) <= 12]
    best = max(shown, key=lambda i: scores["attention"]["chrF"][i])
    options.output.mkdir(parents=True, exist_ok=True)
    matrix = attention_matrix(models["attention"], sources[best])
    draw(groups, curves, matrix, options.output / "by_length.png")
    columns = [sources, references, *(outputs[name]["beam"] for name in MODELS)]
    rows = ["\t".join(row) for row in zip(*columns, strict=True)]
    (options.output / "translations.tsv").write_text(
        "\n".join(["source\treference\t" + "\t".join(MODELS), *rows]) + "\n"
    )
    models["attention"].save(options.output / "model.keras")
    report(splits, metrics, [[column[group[len(group) // 2]] for column in columns] for _, group in groups])
    bleu, best = ([f"{name} {metrics[name][key]['beam']:.1f}" for name in MODELS] for key in ("bleu", "chrf"))
    metrics["result"] = f"BLEU with {' and '.join(bleu)}; chrF {' and '.join(best)}"
    (options.output / "metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    return metrics


def report(splits, metrics, samples):
    table = Table(
        "model", *(f"{score}, {sampler}" for score in ("BLEU", "chrF") for sampler in SAMPLERS), "bits per word"
    )
    for name in MODELS:
        figures = [metrics[name][key][sampler] for key in ("bleu", "chrf") for sampler in SAMPLERS]
        table.add_row(name, *(f"{figure:.1f}" for figure in [*figures, metrics[name]["bits_per_word"]]))
    table.title = f"{len(splits['test']):,} test verses, {len(splits['train']):,} of training"
    Console().print(table)
    table = Table("source", "reference", *MODELS, show_lines=True)
    for sample in samples:
        table.add_row(*sample)
    Console().print(table)


if __name__ == "__main__":
    main()

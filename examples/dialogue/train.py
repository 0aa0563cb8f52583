# SPDX-License-Identifier: Apache-2.0
"""Trains models that answer questions over a small table in words, with and without copying from the source.

The questions and answers follow from rules. Some compositions of question and attribute are held out, as are some
names and values. See README.md in this folder.
"""

import argparse
import collections
import json
import time

from command_line import filled_at_once, output_folder, seed

import keras
import numpy as np
from questions import KINDS, MAX_QUESTIONS, VALUES, load_data
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import keras_seq

MAX_LENGTH = 24  # words of an answer


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=20_000, help="number of questions to learn from")
    parser.add_argument("--epochs", type=int, default=6, help="passes over the questions")
    parser.add_argument("--units", type=int, default=128, help="size of the states of encoder and decoder")
    parser.add_argument("--embedding-dim", type=int, default=64, help="size of the embeddings")
    parser.add_argument("--fold", type=int, default=0, choices=range(len(VALUES)), help="compositions to hold out")
    parser.add_argument("--seed", type=seed, default=0, help="seed of weights, dropout and batches")
    parser.add_argument("--output", type=output_folder, default="runs/dialogue", help="folder for the results")
    options = parser.parse_args(arguments)
    for name in ("questions", "epochs", "units", "embedding_dim"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if options.questions > MAX_QUESTIONS:
        parser.error(f"--questions must be at most {MAX_QUESTIONS}, got {options.questions}")
    return options


def make_vectorizer(questions):
    """Returns the vocabulary that sources and targets share. Words of a single question are unknown, as new ones."""
    counts = collections.Counter(word for question in questions for word in set(question.source.split()))
    words = {word for word, count in counts.items() if count > 1}
    words.update(word for question in questions for word in question.target.split() if word not in counts)
    return keras_seq.data.text_vectorizer(sorted(words), split="whitespace")


def build_model(options, vectorizer, copy):
    size = vectorizer.vocabulary_size()
    # Large initial values: the embeddings of two names differ from the start, as those that are near 0 do not.
    initializers = [keras.initializers.RandomNormal(stddev=1.0, seed=options.seed + i) for i in range(2)]
    shared = {"embedding_dim": options.embedding_dim, "units": options.units, "cell": "gru", "dropout": 0.2}
    encoder = keras_seq.Encoder(size, embeddings_initializer=initializers[0], **shared)
    decoder = keras_seq.Decoder(
        size, attention="bahdanau", copy=copy, readout="tanh", embeddings_initializer=initializers[1], **shared
    )
    return keras_seq.Seq2Seq(encoder, decoder, vectorizer, vectorizer)


def train(options, questions, copy):
    keras.utils.set_random_seed(options.seed)
    model = build_model(options, make_vectorizer(questions), copy)
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, options.epochs * -(-len(questions) // 64))
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0))
    sources, targets, _ = zip(*questions, strict=True)
    start = time.perf_counter()
    model.fit(list(sources), list(targets), batch_size=64, epochs=options.epochs, verbose=0)
    return model, time.perf_counter() - start


def answer(model, questions, copy_unknown):
    sources = [question.source for question in questions]
    return model.generate(sources, max_length=MAX_LENGTH, copy_unknown=copy_unknown, verbose=0)


def percent_exact(model, splits, copy_unknown):
    """Returns a dict from test split to the percentage of answers that are right word for word."""
    return {
        split: 100 * float(np.mean([a == q.target for a, q in zip(answer(model, qs, copy_unknown), qs, strict=True)]))
        for split, qs in splits.items()
    }


def draw_attention(model, questions, path):
    """Draws the weights of the words of the source, from which the model copies, for each word of its answers."""
    results = model.generate([q.source for q in questions], max_length=MAX_LENGTH, copy_unknown=True, return_dict=True)
    sources, targets = [q.source.split() for q in questions], [text.split() for text in results["text"]]
    figure = keras_seq.plots.plot_attention(results["attention_weights"], sources, targets)
    for axes, question in zip(figure.axes, questions, strict=False):
        axes.set_title(question.source.partition("?")[2].strip() + "?", x=0, ha="left", fontsize=11, fontweight="bold")
    figure.savefig(path, dpi=120)


def print_dialogue(console, questions, answers):
    for i, question in enumerate(questions):
        table, _, text = question.source.partition(" ? ")
        console.print(f"\n[dim]{table}[/]\n[bold]{text}?[/]")
        for name, replies in answers.items():
            mark = "[green]right[/]" if replies[i] == question.target else "[red]wrong[/]"
            console.print(f"  {name}: {escape(replies[i])} ({mark})")


def main(arguments=None):
    options = parse_arguments(arguments)
    splits = load_data(options.questions, options.fold)
    questions = splits.pop("train")
    models, metrics = {}, {}
    for name, copy in (("with copying", True), ("without copying", False)):
        models[name], seconds = train(options, questions, copy)
        metrics[name] = percent_exact(models[name], splits, copy) | {"train_seconds": seconds}
    metrics["without copying, [UNK] replaced"] = percent_exact(models["without copying"], splits, True)
    table = Table("model", *splits, title="answers right word for word, %, by what is new in the questions")
    for name, results in metrics.items():
        table.add_row(escape(name), *(f"{results[split]:.1f}" for split in splits))
    new = "compositions and words"
    samples = [next(q for q in splits[new] if q.composition[0] == kind) for kind in KINDS]
    on, off = (metrics[name]["compositions"] for name in models)
    result = f"unseen compositions: {on:.1f} % right with copying, {off:.1f} % without"
    with filled_at_once(options.output) as folder:
        (folder / "metrics.json").write_text(json.dumps({"result": result, **metrics}, indent=2) + "\n")
        draw_attention(models["with copying"], samples, folder / "attention.png")
        models["with copying"].save(folder / "model.keras")
    console = Console()
    print_dialogue(console, samples, {name: answer(m, samples, m.decoder.copy) for name, m in models.items()})
    console.print(table)
    return {"result": result, **metrics}


if __name__ == "__main__":
    main()

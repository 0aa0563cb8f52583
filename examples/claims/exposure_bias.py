# SPDX-License-Identifier: Apache-2.0
"""Measures the exposure bias of teacher forcing, and whether scheduled sampling or token noise reduces it.

A model pronounces three English words in one go. See README.md in this folder.
"""

import argparse
import json
import time

from command_line import filled_at_once, output_folder

import keras
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import keras_seq
from keras_seq import data, training

METHODS = ("teacher forcing", "scheduled sampling", "token noise")
RATE = 0.25  # mean share of the tokens that are not the true ones in training, of both remedies
LENGTH = 8  # letters and phonemes; longer words are left out
WORDS = 3  # in a sequence
BATCH = 128
NEAR, FAR = "same word", "later words"
DISTANCES = range(1, 16)  # positions after the first mistake


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(name, text, default, kind=int):
        parser.add_argument(name, help=f"{text} (default: %(default)s)", default=default, type=kind)

    add("--sequences", "number of sequences of three words to learn from", 12_000)
    add("--test-sequences", "number of held-out sequences, at most", 1500)
    add("--units", "size of the state of the GRUs", 64)
    add("--epochs", "passes over the sequences", 12)
    add("--seeds", "number of trainings with each method", 3)
    add("--output", "folder for the results", "runs/claims/exposure_bias", output_folder)
    options = parser.parse_args(arguments)
    for name, least in {"sequences": BATCH, "test_sequences": 10, "units": 1, "epochs": 1, "seeds": 1}.items():
        if getattr(options, name) < least:
            option = name.replace("_", "-")
            parser.error(f"--{option} must be an integer of at least {least}, got {getattr(options, name)}")
    return options


def load_sequences(options):
    """Returns a dict from split to (sources, targets): different words, in random order, three in each."""
    splits, dictionary, generator = {}, data.load_cmudict(), np.random.default_rng(0)
    for split, count in (("train", options.sequences), ("test", options.test_sequences)):
        groups = data.group_by_source(*dictionary[split])
        pairs = [(word, sounds[0]) for word, sounds in groups.items()]  # of several pronunciations the first
        pairs = [pair for pair in pairs if max(len(pair[0]), len(pair[1].split())) <= LENGTH]
        order = generator.permutation(len(pairs))[: min(count, len(pairs) // WORDS) * WORDS]
        rows = [[pairs[i] for i in row] for row in order.reshape(-1, WORDS)]
        splits[split] = tuple(
            [mark.join(texts) for texts in side]
            for mark, side in zip(
                (" ", " | "), zip(*([*zip(*row, strict=True)] for row in rows), strict=True), strict=True
            )
        )
    return splits


def build_model(method, vectorizers, units, steps):
    """Returns an encoder in both directions and a decoder with Bahdanau attention, compiled for the method."""
    source, target = (vectorizer.vocabulary_size() for vectorizer in vectorizers)
    noise = RATE if method == "token noise" else 0.0
    decoder = keras_seq.Decoder(target, 32, units, "gru", dropout=0.1, token_dropout=noise)
    model = keras_seq.Seq2Seq(keras_seq.Encoder(source, 32, units, "gru", dropout=0.1), decoder, *vectorizers)
    sampling = None
    if method == "scheduled sampling":  # from none to twice the mean, each prediction from the inputs before it
        growth = keras.optimizers.schedules.PolynomialDecay(0.0, steps, 2 * RATE)
        sampling = training.ScheduledSampling(growth, mode="sequential")
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps, alpha=0.01)
    optimizer = training.Adam(rate, global_clipnorm=1.0)
    model.compile(optimizer, metrics=None, scheduled_sampling=sampling, steps_per_execution=16)
    return model


def mark_mistakes(output, reference):
    """Returns booleans, one for each token of the reference: whether it is missing, replaced or comes after others.

    Up to the first difference the tokens are compared one by one, after it by an alignment with the fewest mistakes, so
    that one token too many or too few is one mistake. Both end with `[END]`.
    """
    same = next((i for i, pair in enumerate(zip(output, reference, strict=False)) if pair[0] != pair[1]), None)
    wrong = np.zeros(len(reference), bool)
    if same is None:  # one may go on after the other
        wrong[len(output) :] = True
        return wrong
    rest, true = output[same:], reference[same:]
    costs = np.add.outer(np.arange(len(rest) + 1), np.arange(len(true) + 1))
    for i, token in enumerate(rest, 1):
        for j, expected in enumerate(true, 1):
            costs[i, j] = min(costs[i - 1, j - 1] + (token != expected), costs[i - 1, j] + 1, costs[i, j - 1] + 1)
    i, j = len(rest), len(true)
    while i or j:
        if i and j and costs[i, j] == costs[i - 1, j - 1] + (rest[i - 1] != true[j - 1]):
            i, j = i - 1, j - 1
            wrong[same + j] |= rest[i] != true[j]
        elif j and costs[i, j] == costs[i, j - 1] + 1:
            j -= 1
            wrong[same + j] = True
        else:
            i -= 1
            wrong[same + min(j, len(true) - 1)] = True
    return wrong


def compare(outputs, predictions, references, boundary):
    """Counts mistakes with the model's own prefix and with the true one, after the first mistake of each sequence.

    Args:
        outputs: lists of token ids, of greedy search.
        predictions: lists of token ids, the most likely ones after the true prefixes.
        references: lists of token ids.
        boundary: the token id between words.

    Returns:
        A dict: `first`, the positions of the first mistakes; `own` and `true`, percent of mistakes in all positions;
        and percent of mistakes after the first one in the same and in later words and by distance, as
        `{place: (own, true)}`.
    """
    marks = [mark_mistakes(*pair) for pair in zip(outputs, references, strict=True)]
    forced = [np.not_equal(*pair) for pair in zip(predictions, references, strict=True)]
    rows, first = [], []
    for own, true, reference in zip(marks, forced, references, strict=True):
        if own.any():
            is_boundary = np.equal(reference, boundary)
            start, word = own.argmax(), np.cumsum(is_boundary) - is_boundary  # it belongs to the word before it
            first.append(int(start))
            places = np.arange(start + 1, len(reference))
            rows.append(np.stack([places - start, word[places] > word[start], own[places], true[places]]))
    distance, is_far, own, true = np.concatenate(rows, axis=1)
    chosen = {NEAR: is_far == 0, FAR: is_far == 1, **{str(d): distance == d for d in DISTANCES}}
    after = {
        name: [100 * side[mask].mean() if mask.any() else 0.0 for side in (own, true)] for name, mask in chosen.items()
    }
    totals = {name: 100 * np.concatenate(side).mean() for name, side in (("own", marks), ("true", forced))}
    return {"first": first, **totals, "after": after}


def run(method, seed, splits, vectorizers, options):
    """Trains a model. Returns what `compare` does for the test split, and more figures."""
    keras.utils.set_random_seed(seed)
    steps = options.epochs * -(-len(splits["train"][0]) // BATCH)
    model = build_model(method, vectorizers, options.units, steps)
    inputs, targets = model.prepare(*splits["train"])[:2]
    start = time.process_time()
    model.fit(tuple(map(np.asarray, inputs)), np.asarray(targets), BATCH, options.epochs, seed=seed, verbose=0)
    seconds = time.process_time() - start
    sources, texts = splits["test"]
    inputs, targets = model.prepare(sources, texts)[:2]
    targets = np.asarray(targets)
    ends = (targets != data.PAD_ID).sum(axis=1)
    predicted = model.predict(tuple(map(np.asarray, inputs)), batch_size=500, verbose=0).argmax(axis=-1)
    ids = model.generate(sources, max_length=2 * targets.shape[1], batch_size=500, return_dict=True, verbose=0)
    outputs = [row[row != data.PAD_ID].tolist() for row in np.asarray(ids["token_ids"])]
    cut = [[row[:end].tolist() for row, end in zip(array, ends, strict=True)] for array in (predicted, targets)]
    boundary = vectorizers[1].get_vocabulary().index("|")
    right = 100 * np.mean([output == reference for output, reference in zip(outputs, cut[1], strict=True)])
    return {"seconds": seconds, "right": right, **compare(outputs, *cut, boundary)}


def draw(results, path):
    """Draws the mistakes by distance from the first one, with the own and the true prefix, and the gap between them."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = zip(["#D55E00", "#0072B2", "#009E73"], "osv", ["-", "--", ":"], strict=True)  # Okabe and Ito
    for (method, runs), (color, marker, line) in zip(results.items(), styles, strict=True):
        rates = np.array([[row["after"][str(d)] for d in DISTANCES] for row in runs])  # (seed, distance, 2)
        own, true = rates.mean(axis=0).T
        left.plot(DISTANCES, own, "-", color=color, marker=marker, label=f"{method}, own prefix")
        left.plot(DISTANCES, true, ":", color=color, marker=marker, fillstyle="none", label=f"{method}, true prefix")
        right.plot(DISTANCES, own - true, line, color=color, marker=marker, label=method)
        for row in rates:
            right.plot(DISTANCES, row[:, 0] - row[:, 1], ".", color=color, alpha=0.4)
    left.set(xlabel="tokens after the first mistake", ylabel="tokens wrong, %", ylim=(0, None))
    right.set(xlabel="tokens after the first mistake", ylabel="own prefix minus true prefix, points")
    right.set_title("lines: means; dots: seeds", fontsize=10)
    right.axhline(0, color="0.6", linewidth=1)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=9)
    figure.savefig(path, dpi=100)


def main(arguments=None):
    options = parse_arguments(arguments)
    splits = load_sequences(options)
    sources, targets = splits["train"]
    vectorizers = data.text_vectorizer(sources), data.text_vectorizer(targets, split="whitespace")
    results = {method: [] for method in METHODS}
    for seed in range(options.seeds):
        for method in METHODS:
            results[method].append(run(method, seed, splits, vectorizers, options))
            print(f"seed {seed}, {method}: {results[method][-1]['own']:.1f} % of the tokens wrong", flush=True)
    title = "held-out tokens wrong, %; after the first mistake of a sequence: own prefix / true prefix (gap)"
    table = Table(
        "method",
        "sequences right, %",
        "first mistake at",
        "all, own prefix",
        "all, true prefix",
        NEAR,
        FAR,
        "CPU s",
        title=title,
    )
    for method, runs in results.items():
        first = f"{np.mean([np.mean(row['first']) for row in runs]):.1f}"  # the position, from 0
        cells = [
            show([row["right"] for row in runs]),
            first,
            *(show([row[key] for row in runs]) for key in ("own", "true")),
        ]
        for place in (NEAR, FAR):
            pairs = np.array([row["after"][place] for row in runs])
            cells.append(f"{pairs[:, 0].mean():.1f} / {pairs[:, 1].mean():.1f} ({show(pairs[:, 0] - pairs[:, 1])})")
        table.add_row(method, *cells, f"{np.mean([row['seconds'] for row in runs]):.0f}")
    gaps = {m: np.mean([np.subtract(*row["after"][NEAR]) for row in runs]) for m, runs in results.items()}
    sentence = "gap in the word of the first mistake: " + ", ".join(f"{m} {gap:.1f} points" for m, gap in gaps.items())
    metrics = {**results, "result": sentence}
    with filled_at_once(options.output) as folder:
        draw(results, folder / "exposure_bias.png")
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    Console().print(table)
    return metrics


def show(values):
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}"


if __name__ == "__main__":
    main()

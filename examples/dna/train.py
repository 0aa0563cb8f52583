# SPDX-License-Identifier: Apache-2.0
"""Tells for short windows of DNA whether they code for a protein, on whichever strand, and compares with k-mer counts.

The data are the chloroplast genome of Arabidopsis thaliana with its genes, from Biopython. See README.md.
"""

import argparse
import json

from command_line import filled_at_once, output_folder, seed

import genome
import keras
import numpy as np
from baselines import count_kmers, score_kmers, score_open_frames
from keras import layers
from plots import draw_genome
from rich.console import Console
from rich.table import Table
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from keras_seq.layers import GRU, Bidirectional, TimeDistributed

REGIONS = 20
SHOWN = range(8, 11)  # the regions of the picture
NAMES = ("k-mer regression", "longest open frame", "GRU over bases", "GRU over codons")


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(name, text, default, kind=int):
        parser.add_argument(name, help=f"{text} (default: %(default)s)", default=default, type=kind)

    add("--length", "bases of a window, a multiple of 3", 150)
    add("--stride", "bases between the starts of windows", 10)
    add("--folds", "parts of the genome that are held out in turn, 3 to 10", 4)
    add("--epochs", "passes over the training windows", 6)
    add("--units", "size of the state of each direction", 24)
    add("--seed", "seed of weights, dropout and the order of windows", 0, seed)
    add("--output", "folder for the results", "runs/dna", output_folder)
    options = parser.parse_args(arguments)
    if options.length % 3 or not 30 <= options.length <= 300:
        parser.error(f"argument --length: expected a multiple of 3 from 30 to 300, got {options.length}")
    if not 3 <= options.folds <= 10:
        parser.error(f"argument --folds: expected 3 to 10, got {options.folds}")
    if min(options.stride, options.epochs, options.units) < 1:
        parser.error("arguments --stride, --epochs and --units: expected 1 or more")
    return options


def build_codon_model(units, shape):
    """Returns a model of codons (batch, 6, codons). One GRU reads all six reading frames; one that codes is enough."""
    inputs = keras.Input(shape, dtype="int32")
    features = layers.Dropout(0.2)(layers.Embedding(4**3, 16)(inputs))
    features = TimeDistributed(Bidirectional(GRU(units)))(features)  # (batch, 6, 2 * units)
    logits = layers.Dense(1, name="frames")(layers.Dropout(0.2)(features))  # (batch, 6, 1)
    return keras.Model(inputs, keras.ops.logsumexp(logits, axis=1))


def build_base_model(units, shape):
    """Returns a model of bases (batch, 2, bases), which has to find out about codons itself."""
    inputs = keras.Input(shape, dtype="int32")
    features = TimeDistributed(layers.Conv1D(48, 6, strides=3, activation="relu"))(layers.Embedding(4, 8)(inputs))
    features = TimeDistributed(Bidirectional(GRU(units)))(layers.Dropout(0.2)(features))  # (batch, 2, 2 * units)
    logits = layers.Dense(1)(layers.Dropout(0.2)(features))  # (batch, 2, 1)
    return keras.Model(inputs, keras.ops.logsumexp(logits, axis=1))


def fit_network(build, options, x, y):
    keras.utils.set_random_seed(options.seed)
    model = build(options.units, x.shape[1:])
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, options.epochs * -(-len(x) // 32))
    optimizer = keras.optimizers.Adam(schedule, global_clipnorm=1.0)
    model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True))
    weights = {label: 0.5 / np.mean(y == label) for label in (0, 1)}
    model.fit(x, y, batch_size=32, epochs=options.epochs, class_weight=weights, verbose=0)
    return model


def predict_frames(model, x):
    """Returns the logits of the six reading frames (windows, 6) by a model of codons."""
    frames = keras.Model(model.input, model.get_layer("frames").output)
    return np.asarray(frames(x, training=False))[:, :, 0]


def cross_validate(options, windows):
    """Returns the scores of all windows by each model, always trained on other regions; frame logits; codon models."""
    y, folds = (windows.frames >= 0).astype(int), windows.regions % options.folds
    codons, bases = genome.read_codons(windows.texts), genome.read_strands(windows.texts)
    counts, scores = count_kmers(windows.texts), {name: np.zeros(len(y)) for name in NAMES}
    logits, models = np.zeros((len(y), 6)), []
    for fold in range(options.folds):
        test, dev = folds == fold, folds == (fold + 1) % options.folds
        train = ~test  # dev included; only the regression chooses its settings by it
        scores["k-mer regression"][test], k, c = score_kmers(counts, y, train, dev, test)
        scores["longest open frame"][test] = score_open_frames(windows.texts, y, train, test)
        model = fit_network(build_base_model, options, bases[train], y[train])
        scores["GRU over bases"][test] = np.asarray(model(bases[test], training=False))[:, 0]
        models.append(fit_network(build_codon_model, options, codons[train], y[train]))
        logits[test] = predict_frames(models[-1], codons[test])
        scores["GRU over codons"][test] = np.logaddexp.reduce(logits[test], axis=1)
        print(f"fold {fold + 1} of {options.folds} is done; k-mers: k = {k}, C = {c:g}", flush=True)
    return scores, logits, models


def measure(options, windows, scores, logits):
    """Returns the metrics: of each model, and how often the reading frame with the highest logit is the true one."""
    y, metrics = windows.frames >= 0, {}
    parts = [windows.regions % options.folds == fold for fold in range(options.folds)]
    for name, values in scores.items():
        metrics[name] = {
            "balanced_accuracy": balanced_accuracy_score(y, values > 0),
            "balanced_accuracy_by_fold": [balanced_accuracy_score(y[part], values[part] > 0) for part in parts],
            "area_under_roc_by_fold": [roc_auc_score(y[part], values[part]) for part in parts],
        }
    best = genome.genome_frames(windows.starts, options.length)[np.arange(len(y)), logits.argmax(axis=1)]
    found = float(np.mean(best[y] == windows.frames[y]))
    texts = (f"{name} {100 * values['balanced_accuracy']:.1f} %" for name, values in metrics.items())
    result = f"balanced accuracy: {', '.join(reversed(list(texts)))}"
    return {"result": result, "models": metrics, "reading_frame_found": found}


def main(arguments=None):
    options = parse_arguments(arguments)
    chloroplast = genome.load_genome()
    windows = genome.cut_windows(chloroplast, options.length, options.stride, REGIONS)
    windows = genome.keep_clear(windows, options.folds)
    scores, logits, models = cross_validate(options, windows)
    metrics = measure(options, windows, scores, logits)
    dense, tracks = genome.cut_windows(chloroplast, options.length, 9, REGIONS), []
    for region in SHOWN:
        starts, texts = (column[dense.regions == region] for column in (dense.starts, dense.texts))
        tracks.append((starts, predict_frames(models[region % options.folds], genome.read_codons(texts))))
    with filled_at_once(options.output) as folder:
        draw_genome(chloroplast.genes, tracks, options.length, folder / "genome.png")
        models[0].save(folder / "model.keras")
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    title = f"{len(windows.texts):,} windows of {options.length} bases, {np.mean(windows.frames >= 0):.0%} coding"
    table = Table("model", "balanced accuracy", "of each fold", "area under ROC curve", title=title)
    for name, values in metrics["models"].items():
        accuracy, by_fold, area = values.values()
        table.add_row(name, f"{accuracy:.1%}", f"{min(by_fold):.1%} to {max(by_fold):.1%}", f"{np.mean(area):.3f}")
    Console().print(table)
    print(f"The most likely frame is the annotated one in {metrics['reading_frame_found']:.1%} of coding windows.")
    return metrics


if __name__ == "__main__":
    main()

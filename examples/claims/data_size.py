# SPDX-License-Identifier: Apache-2.0
"""Measures whether a GRU needs fewer data and less time than an LSTM, and whether an LSTM wins with enough data.

Both learn to pronounce English words from growing shares of CMUdict. See README.md in this folder.
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

# Seeds of each share in percent: fewer where a training is long. A seed draws the weights and the words of the share.
SHARES = {1: 3, 3: 3, 10: 2, 30: 1, 100: 2}
MODELS = ("GRU", "LSTM", "GRU of equal parameters")
LENGTH = 10  # letters and phonemes; of the words 11 % are longer and left out, so that all batches have one shape
BATCH = 128
PATIENCE = 4  # evaluations without a better one, after which a training stops


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(name, text, default, kind=int, **settings):
        parser.add_argument(name, help=f"{text} (default: %(default)s)", default=default, type=kind, **settings)

    add("--shares", "shares of the training words, in percent", list(SHARES), nargs="+", choices=SHARES, metavar="N")
    add("--units", "size of the state of GRU and LSTM", 64)
    add("--updates", "number of training steps after which a training stops at the latest", 3000)
    add("--seeds", "largest number of trainings with a share", max(SHARES.values()))
    add("--output", "folder for the results", "runs/claims/data_size", output_folder)
    options = parser.parse_args(arguments)
    for name, least in {"units": 1, "updates": 100, "seeds": 1}.items():
        if getattr(options, name) < least:
            parser.error(f"--{name} must be an integer of at least {least}, got {getattr(options, name)}")
    return options


def load_words():
    """Returns a dict from split to (words, pronunciations), without those that are too long."""
    return {
        split: zip(*((w, p) for w, p in zip(*pairs, strict=True) if max(len(w), len(p.split())) <= LENGTH), strict=True)
        for split, pairs in data.load_cmudict().items()
    }


def build_model(cell, units, vectorizers, learning_rate=3e-3):
    """Returns an encoder in both directions and a decoder with Bahdanau attention, compiled."""
    encoder, decoder = (
        part(vectorizer.vocabulary_size(), 32, units, cell, dropout=0.1)
        for part, vectorizer in zip((keras_seq.Encoder, keras_seq.Decoder), vectorizers, strict=True)
    )
    model = keras_seq.Seq2Seq(encoder, decoder, *vectorizers)
    optimizer = training.Adam(learning_rate, global_clipnorm=1.0)
    model.compile(optimizer, metrics=None, steps_per_execution=25)  # fewer returns to Python
    optimizer.build(model.trainable_variables)
    return model


def build_models(units, vectorizers):
    """Returns a dict from names to models; the last has the least units with which it is not below the LSTM."""
    models = {name: build_model(name.lower(), units, vectorizers) for name in ("GRU", "LSTM")}
    larger = models["GRU"]
    while larger.count_params() < models["LSTM"].count_params():
        units += 1
        larger = build_model("gru", units, vectorizers)
    return models | {"GRU of equal parameters": larger}


class Trainer:
    """Trains one model again and again from new weights, without compiling it again."""

    def __init__(self, model, splits, vectorizers):
        self.model, self.vectorizers = model, vectorizers
        (source, tokens), targets = model.prepare(*splits["train"])[:2]
        self.arrays = [np.asarray(array) for array in (source, tokens, targets)]
        self.references = {split: data.group_by_source(*splits[split]) for split in ("dev", "test")}
        self.initial = [variable.numpy() for variable in model.optimizer.variables]
        self.fit(np.arange(len(targets))[: 25 * BATCH])  # compiles
        self.measure("dev", 2)

    def fit(self, rows):
        source, tokens, targets = (array[rows] for array in self.arrays)
        self.model.fit((source, tokens), targets, batch_size=BATCH, shuffle=False, verbose=0)

    def measure(self, split, count=None):
        """Returns the error rates of phonemes and of words, in percent."""
        words = list(self.references[split])[:: 1 if count is None else max(1, len(self.references[split]) // count)]
        outputs = self.model.generate(words, batch_size=512, max_length=2 * LENGTH, verbose=0)
        return training.error_rates(outputs, [self.references[split][word] for word in words])

    def reset(self, seed):
        keras.utils.set_random_seed(seed)
        cell, units = self.model.encoder.cell, self.model.encoder.units
        self.model.set_weights(build_model(cell, units, self.vectorizers).get_weights())
        for variable, value in zip(self.model.optimizer.variables, self.initial, strict=True):
            variable.assign(value)

    def train(self, share, seed, updates):
        """Trains until the phonemes of the dev words get no better. Returns figures and the curve."""
        self.reset(seed)
        generator = np.random.default_rng(seed)  # the same words for all models
        chosen = generator.permutation(len(self.arrays[0]))[: round(share / 100 * len(self.arrays[0]))]
        period = 50 if share < 10 else 200
        seconds, rows, best, curve = 0.0, np.array([], int), None, []
        while len(curve) * period < updates and (best is None or len(curve) - best[1] < PATIENCE):
            while len(rows) < period * BATCH:  # passes in new orders, one after another
                rows = np.concatenate([rows, generator.permutation(chosen)])
            start = time.process_time()
            self.fit(rows[: period * BATCH])
            seconds, rows = seconds + time.process_time() - start, rows[period * BATCH :]
            rates = self.measure("dev", 1500)
            curve.append({"updates": period * (len(curve) + 1), "seconds": seconds, "dev": rates.sequence})
            if best is None or rates.token < best[0]:
                best = rates.token, len(curve), self.model.get_weights()
        self.model.set_weights(best[2])
        rates = self.measure("test")
        figures = {"per": rates.token, "wer": rates.sequence, "words": len(chosen)}
        return figures | {**{key: curve[best[1] - 1][key] for key in ("updates", "seconds")}, "curve": curve}


def measure(options):
    """Returns a dict from models to parameters, units, CPU milliseconds of a step and the runs of each share."""
    splits = {split: tuple(map(list, pairs)) for split, pairs in load_words().items()}
    words, pronunciations = splits["train"]
    vectorizers = data.text_vectorizer(words), data.text_vectorizer(pronunciations, split="whitespace")
    models = build_models(options.units, vectorizers)
    trainers = {name: Trainer(model, splits, vectorizers) for name, model in models.items()}
    results = {
        name: {"parameters": model.count_params(), "units": model.encoder.units, "shares": {}}
        for name, model in models.items()
    }
    for share in sorted(set(options.shares)):
        for seed in range(min(SHARES[share], options.seeds)):
            for name, trainer in trainers.items():  # in turn, so that all see the same load of the machine
                run = trainer.train(share, seed, options.updates)
                results[name]["shares"].setdefault(share, []).append(run)
                print(f"{share} %, seed {seed}, {name}: {run['wer']:.1f} % after {run['updates']}", flush=True)
    for row in results.values():
        points = [run["curve"][-1] for runs in row["shares"].values() for run in runs]
        seconds, updates = (sum(point[key] for point in points) for key in ("seconds", "updates"))
        row["milliseconds"] = 1000 * seconds / updates
        row["seconds_to_half"] = [seconds_to_half(run["curve"]) for run in list(row["shares"].values())[-1]]
    return results


def seconds_to_half(curve):
    """Returns the CPU seconds of training until at least half of the dev words are right, or None."""
    return next((point["seconds"] for point in curve if point["dev"] <= 50), None)


def draw(results, path):
    """Draws the error against the words, each seed a dot, and against CPU time with the largest share."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = zip(["#D55E00", "#0072B2", "#009E73"], "osv", ["-", "--", ":"], strict=True)  # Okabe and Ito
    for (name, row), (color, marker, line) in zip(results.items(), styles, strict=True):
        style = {"color": color, "linestyle": line, "label": f"{name}, {row['units']} units"}
        runs = list(row["shares"].values())
        counts = [of_share[0]["words"] for of_share in runs]
        left.plot(counts, [np.mean([run["wer"] for run in of_share]) for of_share in runs], marker=marker, **style)
        for count, of_share in zip(counts, runs, strict=True):
            left.plot([count] * len(of_share), [run["wer"] for run in of_share], ".", color=color, alpha=0.5)
        curve = runs[-1][0]["curve"]
        right.plot([point["seconds"] for point in curve], [point["dev"] for point in curve], **style)
    left.set(xscale="log", xlabel="pairs of word and pronunciation to learn from", ylabel="test words wrong, %")
    left.set_title("lines: means; dots: seeds", fontsize=10)
    left.set_xticks(counts, [f"{count:,}" for count in counts])
    left.minorticks_off()
    right.set(xlabel="CPU seconds of training", ylabel="dev words wrong, %")
    right.set_title(f"one training with {counts[-1]:,} pairs", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    left.legend()
    figure.savefig(path, dpi=120)


def main(arguments=None):
    options = parse_arguments(arguments)
    results = measure(options)
    shares = list(results["LSTM"]["shares"])
    columns = [f"{share} %" for share in shares]
    title = "test words wrong, % (CPU seconds until then), by the share of the training words"
    half = f"s to 50 %, {shares[-1]} %"
    table = Table("model", "units", "parameters", "CPU ms a step", half, *columns, title=title)

    def mean(name, share, key="wer"):
        return np.mean([run[key] for run in results[name]["shares"][share]])

    for name, row in results.items():
        times = [seconds for seconds in row["seconds_to_half"] if seconds is not None]
        cells = [f"{np.mean(times):.0f}" if times else "never"]
        for share in shares:
            spread = np.std([run["wer"] for run in row["shares"][share]])
            cells.append(f"{mean(name, share):.1f} ± {spread:.1f} ({mean(name, share, 'seconds'):.0f})")
        table.add_row(name, str(row["units"]), f"{row['parameters']:,}", f"{row['milliseconds']:.1f}", *cells)
    sentence = "words wrong, GRU against LSTM: " + "; ".join(
        f"{share} % of the words {mean('GRU', share):.1f} and {mean('LSTM', share):.1f} %" for share in shares
    )
    metrics = {**results, "result": sentence}
    with filled_at_once(options.output) as folder:
        draw(results, folder / "data_size.png")
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    Console().print(table)
    return metrics


if __name__ == "__main__":
    main()

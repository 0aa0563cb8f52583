# SPDX-License-Identifier: Apache-2.0
"""What train.py leaves and prints: scores, files, pictures and a table."""

import json
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
# TensorFlow prints these at startup for any TF_CPP_MIN_LOG_LEVEL: information, and errors that do not matter on a CPU.
STARTUP_LINE = re.compile(
    r"I\d{4} |WARNING: All log messages before absl::InitializeLog|"
    r"E\d{4} .*(failed call to cuInit|oneDNN supports DT_INT64 only)"
)


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


def tokens(vectorizer, ids):
    """Returns the tokens of each row of ids, without padding; an output that reached its limit has no [END]."""
    vocabulary = vectorizer.get_vocabulary()
    return [[str(vocabulary[i]) for i in row if i != 0] for row in ids]


def measure_training(histories, pairs):
    """Returns the seconds and the speed of all trainings together, from their histories and the pairs of an epoch."""
    seconds = 60 * sum(history["minutes"][-1] for history in histories)
    epochs = sum(len(history["minutes"]) for history in histories)
    return {"train_seconds": seconds, "train_words_per_second": pairs * epochs / seconds}


def write_results(options, folder, model, histories, metrics, samples):
    """Writes the model in two forms, the figures, and two pictures, of which the attention is that of one model."""
    from keras_seq import plots
    from keras_seq.data import END_ID

    (folder / "metrics.json").write_text(json.dumps({**metrics, "histories": histories}, indent=2) + "\n")
    model.save(folder / "model.keras")
    model.export(folder / "saved_model")
    curves = {name: values for name, values in histories[0].items() if name != "minutes"}
    plots.plot_history(curves, folder / "history.png")
    if options.attention is not None:
        results = model.generate(samples, return_dict=True)
        plots.plot_attention(
            results["attention_weights"],
            tokens(model.source_vectorizer, [[*row, END_ID] for row in model.source_vectorizer(samples).to_list()]),
            tokens(model.target_vectorizer, results["token_ids"]),
            folder / "attention.png",
        )


def print_table(metrics, outputs, references):
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(
        f"Trained for {metrics['train_seconds']:.0f} s, {metrics['train_words_per_second']:,.0f} words per second."
    )
    summary = Table(title=f"{len(outputs):,} unseen words")
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

# SPDX-License-Identifier: Apache-2.0
"""Trains models that write down spoken digits, with monotonic attention, Bahdanau attention and without attention.

The speech is synthetic, by eSpeak NG. The voices of the test are not among those of the training. See README.md in this
folder.
"""

import argparse
import json
import time

from command_line import filled_at_once, output_folder, seed

import keras
import numpy as np
from plots import plot_attention
from rich.console import Console
from rich.table import Table
from scores import distance_to_words, score, score_by_voice
from speech import BANDS, STACK, VOICES, make_utterances

import keras_seq

MODELS = ("monotonic attention", "Bahdanau attention", "no attention")


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return number


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    add = parser.add_argument
    add("--utterances", type=positive, default=6000, help="digit strings to train on (default: %(default)s)")
    add("--test-utterances", type=positive, default=1000, help="digit strings of the test (default: %(default)s)")
    add("--epochs", type=positive, default=10, help="passes over the training utterances (default: %(default)s)")
    add("--units", type=positive, default=64, help="size of each recurrent layer (default: %(default)s)")
    add("--batch-size", type=positive, default=32, help="utterances in a batch (default: %(default)s)")
    add("--learning-rate", type=float, default=3e-3, help="largest learning rate of Adam (default: %(default)s)")
    add("--dropout", type=float, default=0.2, help="of inputs and outputs of recurrent layers (default: %(default)s)")
    add("--seed", type=seed, default=0, help="seed of weights, dropout and batches (default: %(default)s)")
    add("--output", type=output_folder, default="runs/speech", help="folder for the results (default: %(default)s)")
    return parser.parse_args(arguments)


def build_encoder(units, dropout):
    """Returns a model from frames (batch, time, features) to the memory and states of two bidirectional LSTMs."""
    frames = keras.Input((None, STACK * BANDS))
    memory = keras.layers.Masking()(frames)  # padding is zero; a frame of speech never is, in all its features
    for is_last in (False, True):
        lstm = keras_seq.layers.LSTM(units, dropout=dropout, return_sequences=True, return_state=is_last)
        memory = keras_seq.layers.Bidirectional(lstm)(memory)
    return keras.Model(frames, memory)


def build_model(name, options):
    digits = keras_seq.data.text_vectorizer(["0123456789"])
    decoding = {"cell": "gru", "dropout": options.dropout, "seed": options.seed}
    if name == "monotonic attention":
        # Much noise makes the decisions of the training nearly as hard as those at inference. To attend after the cell
        # lets them depend on the digit before.
        attention = keras_seq.layers.MonotonicAttention(options.units, noise_std=3.0, seed=options.seed)
        decoding |= {"attention": attention, "attend": "after"}
    else:
        decoding["attention"] = "bahdanau" if name == "Bahdanau attention" else None
    decoder = keras_seq.Decoder(digits.vocabulary_size(), embedding_dim=16, units=options.units, **decoding)
    return keras_seq.Seq2Seq(build_encoder(options.units, options.dropout), decoder, target_vectorizer=digits)


def train(model, utterances, options):
    """Trains on batches of utterances of similar length. Returns the seconds."""
    batches = keras_seq.data.bucketed_batches(
        lambda: ((utterance.frames, utterance.digits) for utterance in utterances),
        options.batch_size,
        seed=options.seed,
        num_pairs=len(utterances),
    )
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.epochs * len(batches))
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0))
    start = time.perf_counter()
    model.fit(batches, epochs=options.epochs, verbose=0)
    return time.perf_counter() - start


def transcribe(model, utterances):
    """Returns the outputs, a list of strings, and the attention weights (utterances, digits, frames)."""
    results = model.generate([utterance.frames for utterance in utterances], max_length=10, return_dict=True)
    return results["text"], results["attention_weights"]


def results_table(metrics, options):
    table = Table(title=f"{options.test_utterances:,} strings of digits by {len(VOICES['test'])} voices never heard")
    for column in ("model", "parameters", "seconds", "digit errors, dev", "test", "strings with an error, test"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name in MODELS:
        part = metrics[name]
        rates = (part["dev"]["digit_error_rate"], part["test"]["digit_error_rate"], part["test"]["string_error_rate"])
        numbers = (f"{part['parameters']:,}", f"{part['train_seconds']:.0f}", *(f"{rate:.1f} %" for rate in rates))
        table.add_row(name, *numbers)
    return table


def main(arguments=None):
    options = parse_arguments(arguments)
    counts = {"train": options.utterances, "dev": min(400, options.test_utterances), "test": options.test_utterances}
    splits = {split: make_utterances(split, count) for split, count in counts.items()}
    metrics, trained, outputs = {}, {}, {}
    for name in MODELS:
        keras.utils.set_random_seed(options.seed)
        model = trained[name] = build_model(name, options)
        seconds = train(model, splits["train"], options)
        metrics[name] = {"train_seconds": seconds, "parameters": model.count_params()}
        metrics[name]["dev"] = score(transcribe(model, splits["dev"])[0], splits["dev"])
    for name, model in trained.items():
        texts, weights = outputs[name] = transcribe(model, splits["test"])
        metrics[name]["test"] = score(texts, splits["test"])
        metrics[name]["test_by_voice"] = score_by_voice(texts, splits["test"])
        if name != "no attention":
            metrics[name]["attention_to_word_start_ms"] = distance_to_words(texts, weights, splits["test"])
    percent = ", ".join(f"{name} {metrics[name]['test']['digit_error_rate']:.1f} %" for name in MODELS)
    metrics["result"] = f"digits wrong: {percent}"
    example = int(np.argmax([len(utterance.digits) for utterance in splits["test"]]))  # the first of the longest
    drawn = {name: tuple(part[example] for part in outputs[name]) for name in MODELS[:2]}  # those with attention
    with filled_at_once(options.output) as folder:
        plot_attention(splits["test"][example], drawn, folder / "attention.png")
        trained["monotonic attention"].save(folder / "model.keras")
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    Console().print(results_table(metrics, options))
    return metrics


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/exposure_bias.png: errors after one wrong input of a decoder. Needs keras_seq[examples]."""

import math
import pathlib
import time

import numpy as np
from pronunciation import load_words, train

from keras_seq.training import ScheduledSampling, error_rates

IMAGES = pathlib.Path(__file__).parents[1] / "images"
MISTAKE = 1  # the position of the wrong phoneme in a target
STEPS = 4  # after the mistake
SPECIAL = 4  # the ids of padding, [UNK], [START] and [END] are below


def next_errors(model, words, sounds):
    """Returns the share of wrong tokens at each step after the second phoneme, which the decoder reads.

    Args:
        model: the `Seq2Seq`.
        words: list of strings.
        sounds: list of strings, each with more phonemes than `MISTAKE + STEPS`.

    Returns:
        Two arrays (STEPS,), in percent: if the decoder reads the true phoneme, and if it reads the one that it finds
        most likely of all others. All further inputs are the true ones.
    """
    (source, inputs), targets = model.prepare(words, sounds)
    inputs, targets = np.array(inputs), np.array(targets)
    logits = np.array(model((source, inputs)))[:, MISTAKE]
    logits[:, :SPECIAL] = -np.inf
    logits[np.arange(len(words)), targets[:, MISTAKE]] = -np.inf
    wrong_inputs = inputs.copy()
    wrong_inputs[:, MISTAKE + 1] = logits.argmax(axis=-1)
    later = slice(MISTAKE + 1, MISTAKE + 1 + STEPS)
    predictions = [np.array(model((source, x))).argmax(axis=-1)[:, later] for x in (inputs, wrong_inputs)]
    return [100 * np.mean(predicted != targets[:, later], axis=0) for predicted in predictions]


def cpu_milliseconds(model, words, sounds):
    """Returns the CPU time of a training step of 64 words, the mean over an epoch."""
    model.fit(words, sounds, batch_size=64, verbose=0)  # compiles the step
    start = time.process_time()
    model.fit(words, sounds, batch_size=64, verbose=0)
    return 1000 * (time.process_time() - start) / math.ceil(len(words) / 64)


def draw(path):
    """Draws the errors after a wrong input of models that were trained in three ways, and prints their error rates."""
    from matplotlib.figure import Figure

    words, sounds = load_words("train", 8_000)
    dev_words, dev_sounds = load_words("dev", 2_000)
    long = [pair for pair in zip(dev_words, dev_sounds, strict=True) if len(pair[1].split()) > MISTAKE + STEPS]
    print(f"{len(long)} words with at least {MISTAKE + STEPS + 1} phonemes")
    trainings = {
        "teacher forcing": {},
        "scheduled sampling, 0.25": {"scheduled_sampling": ScheduledSampling(0.25, seed=1)},
        "token dropout, 0.2": {"token_dropout": 0.2},
    }
    figure = Figure(figsize=(7.4, 4.2), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(1, STEPS + 1)
    for (name, options), marker, color in zip(trainings.items(), "os^", ("C0", "C1", "C2"), strict=True):
        model = train(words, sounds, **options)
        right, wrong = next_errors(model, *map(list, zip(*long, strict=True)))
        rates = error_rates(model.generate(dev_words), dev_sounds)
        print(f"{name}: after the true phoneme {right.round(1)} %, after a wrong one {wrong.round(1)} %")
        print(f"  free-running: wrong phonemes {rates.token:.1f} %, wrong words {rates.sequence:.1f} %")
        print(f"  a training step: {cpu_milliseconds(model, words, sounds):.1f} CPU ms", flush=True)
        axes.plot(steps, wrong, "-" + marker, color=color, label=name)
        axes.plot(steps, right, ":" + marker, color=color, markerfacecolor="w")
    sequential = train(words, sounds, epochs=1, scheduled_sampling=ScheduledSampling(0.25, "sequential", seed=1))
    print(f"sequential mode: a training step: {cpu_milliseconds(sequential, words, sounds):.1f} CPU ms")
    axes.set(xlabel="steps after this input", ylabel="wrong next phonemes, %", xticks=steps, ylim=(0, None))
    axes.plot([], [], "-", color="0.3", label="after a wrong phoneme")
    axes.plot([], [], ":", color="0.3", label="after the true phoneme")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(IMAGES / "exposure_bias.png")

# SPDX-License-Identifier: Apache-2.0
"""Measures what later letters tell about earlier ones: hyphenation in several languages, in both directions and in one.

A third model reads from left to right, too, but writes each tag some letters later. See README.md in this folder.
"""

import argparse
import json

from command_line import filled_at_once, output_folder, seed

import numpy as np
import train
from rich.console import Console
from rich.table import Table
from sentences import BREAK, LANGUAGES, NONE, Encoder, hyphenated_words

COLORS = ("#0072B2", "#D55E00", "#009E73")  # of Okabe and Ito, whom all readers can tell apart
POSITIONS = 12  # letters from the start and from the end of a word


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    languages = ["de", "en", "es", "fr"]
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=languages, help="languages to compare")
    parser.add_argument("--delay", type=int, default=3, help="letters that the third model reads ahead")
    parser.add_argument("--words", type=int, default=8000, help="number of words of each language to learn from")
    parser.add_argument("--units", type=int, default=96, help="size of the state of each of two directions")
    parser.add_argument("--epochs", type=int, default=6, help="passes over the words")
    parser.add_argument("--seed", type=seed, default=0, help="seed of weights, dropout and the order of words")
    output = "runs/tagging_languages"
    parser.add_argument("--output", type=output_folder, default=output, help="folder for the results")
    options = parser.parse_args(arguments)
    options.languages = list(dict.fromkeys(options.languages))
    for name, least in {"delay": 1, "words": 100, "units": 1, "epochs": 1}.items():
        if getattr(options, name) < least:
            parser.error(f"--{name} must be an integer of at least {least}, got {getattr(options, name)}")
    return options


def delay_tags(sentences, delay):
    """Returns words with `delay` more letters at the end, and tags that come so many letters later."""
    return [(word + "_" * delay, [NONE] * delay + tags) for word, tags in sentences]


def find_errors(encoder, tagger, sentences, delay):
    """Returns measures of the words as they were before `delay_tags`."""
    words_right, counts = 0, np.zeros(2, int)  # breaks found that are there; those found and those there
    wrong = np.zeros((2, POSITIONS))  # letters with the wrong tag by position from the start, and from the end
    total = np.zeros((2, POSITIONS))
    letters_right = letters = 0
    for inputs, expected in encoder.batches(sentences, 64, shuffle=False):
        lengths = (inputs[0].numpy() > 0).sum(axis=1)
        for found, truth, length in zip(tagger.predict_on_batch(list(inputs)), expected.numpy(), lengths, strict=True):
            found, truth = found[delay:length], truth[delay:length]
            errors, is_break = found != truth, encoder.tags.index(BREAK)
            letters_right, letters = letters_right + (~errors).sum(), letters + len(errors)
            words_right += not errors.any()
            counts += [((found == is_break) & ~errors).sum(), (found == is_break).sum() + (truth == is_break).sum()]
            for row, ordered in enumerate((errors[:POSITIONS], errors[::-1][:POSITIONS])):
                wrong[row, : len(ordered)] += ordered
                total[row, : len(ordered)] += 1
    from_start, from_end = 100 * wrong / np.maximum(total, 1)
    return {
        "letters_right": 100 * letters_right / letters,
        "words_right": 100 * words_right / len(sentences),
        "f1_of_breaks": 200 * counts[0] / max(1, counts[1]),
        "errors_from_start": from_start.tolist(),
        "errors_from_end": from_end.tolist(),
    }


def measure(options, language):
    """Returns a dict from the name of a model to its measures on the test words of a language."""
    splits, results = hyphenated_words(options.words, language), {}
    for name, one_direction, delay in (
        ("left to right", True, 0),
        (f"left to right, {options.delay} letters later", True, options.delay),
        ("both directions", False, 0),
    ):
        delayed = {split: delay_tags(sentences, delay) for split, sentences in splits.items()}
        encoder = Encoder(delayed["train"], {BREAK, NONE})
        # No CRF: its search would let later letters decide about earlier tags.
        given = {"no_crf": True, "one_direction": one_direction, "units": options.units, "batch_size": 64}
        given |= {"epochs": options.epochs, "seed": options.seed}
        settings = argparse.Namespace(**vars(train.parse_arguments([])) | given)
        _, tagger, seconds = train.train(settings, encoder, delayed, verbose=0)
        results[name] = find_errors(encoder, tagger, delayed["test"], delay) | {"train_seconds": seconds}
    return results


def draw_errors(results, path):
    """Draws the share of wrong letters by their position in the word, for each language and model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(results) + 0.6, 5.4), layout="constrained")
    grid = figure.subplots(2, len(results), squeeze=False, sharey=True)
    positions = np.arange(1, POSITIONS + 1)
    for column, (language, models) in enumerate(results.items()):
        for (name, measures), color, marker in zip(models.items(), COLORS, "os^", strict=True):
            style = {"color": color, "marker": marker, "markersize": 4, "label": name}
            grid[0, column].plot(positions, measures["errors_from_start"], **style)
            grid[1, column].plot(-positions, measures["errors_from_end"], **style)
        grid[0, column].set_title(language, fontweight="bold")
        grid[0, column].set(xlabel="letter, from the start", xticks=positions[::2])
        grid[1, column].set(xlabel="letter, from the end", xticks=-positions[::2])
    for axes in grid.flat:
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
    for axes in grid[:, 0]:
        axes.set_ylabel("letters wrong, %")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    options = parse_arguments(arguments)
    results = {language: measure(options, language) for language in options.languages}
    table = Table("language", "model", "letters right", "words right", "F1 of breaks", title="held-out words, %")
    for language, models in results.items():
        for name, measures in models.items():
            values = (f"{measures[key]:.1f}" for key in ("letters_right", "words_right", "f1_of_breaks"))
            table.add_row(language, name, *values)
    one, _, both = (np.mean([list(models.values())[i]["words_right"] for models in results.values()]) for i in range(3))
    result = f"words right, mean of {len(results)} languages: both directions {both:.1f} %, left to right {one:.1f} %"
    with filled_at_once(options.output) as folder:
        metrics = {"result": result, **results}
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        draw_errors(results, folder / "errors.png")
    Console().print(table)
    return metrics


if __name__ == "__main__":
    main()

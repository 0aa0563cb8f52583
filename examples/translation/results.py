# SPDX-License-Identifier: Apache-2.0
"""Scores of translations by the length of the source, and what train.py leaves: a picture, files and tables."""

import json

import numpy as np
import sacrebleu
from rich.console import Console
from rich.table import Table

from keras_seq.data.vocabulary import END_ID, PAD_ID

SAMPLERS = ("greedy", "beam")
CURVES = ("chrF", "bits per word")
STYLES = (("o-", "#0072B2"), ("s--", "#D55E00"), ("^:", "#7F7F7F"))  # colours of Okabe and Ito, and gray


def length_groups(sources, count=5):
    """Returns a dict from a range of lengths in words to the indices of its sources: groups of about equal size."""
    lengths = np.array([len(source.split()) for source in sources])
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, count + 1)[1:-1], method="lower"))
    numbers = np.searchsorted(edges, lengths)
    groups = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
    return {f"{lengths[group].min()}–{lengths[group].max()}": group for group in groups}


def chrf(outputs, references):
    """Returns the chrF of each output, in percent."""
    pairs = zip(outputs, references, strict=True)
    return np.array([sacrebleu.sentence_chrf(output, [reference]).score for output, reference in pairs])


def evaluate(model, sources, references, groups):
    """Returns the outputs of beam search, a dict of scores of each verse, and metrics of all verses."""
    outputs = {sampler: model.generate(sources, sampler=sampler, verbose=0) for sampler in SAMPLERS}
    words = np.array([len(reference.split()) for reference in references])
    bits = -np.asarray(model.score(sources, references)) / np.log(2)
    scores = dict(zip(CURVES, (chrf(outputs["beam"], references), bits / words), strict=True))
    metrics = {"bits_per_word": float(bits.sum() / words.sum()), "parameters": model.count_params()}
    for name, measure in (("bleu", sacrebleu.corpus_bleu), ("chrf", sacrebleu.corpus_chrf)):
        metrics[name] = {sampler: measure(texts, [references]).score for sampler, texts in outputs.items()}
    metrics["by_length"] = {
        label: {"verses": len(group), **{name: float(values[group].mean()) for name, values in scores.items()}}
        for label, group in groups.items()
    }
    return outputs["beam"], scores, metrics


def other_verses(references, groups):
    """Returns for each verse the reference of another one of about the same length, far away: what chance scores."""
    others = list(references)
    for group in groups.values():
        for i, j in zip(group, np.roll(group, len(group) // 2), strict=True):
            others[i] = references[j]
    return others


def attention_matrix(model, source):
    """Returns the attention weights (target, source) of a greedy translation, and the tokens of source and target."""
    results = model.generate([source], return_dict=True, verbose=0)
    ids = ([*model.source_vectorizer([source]).numpy()[0], END_ID], [i for i in results["token_ids"][0] if i != PAD_ID])
    vocabularies = (model.source_vectorizer.get_vocabulary(), model.target_vectorizer.get_vocabulary())
    columns, rows = ([str(names[i]) for i in side] for names, side in zip(vocabularies, ids, strict=True))
    return results["attention_weights"][0, : len(rows), : len(columns)], columns, rows


def draw(groups, scores, attention, path):
    """Draws each score by the length of the source, and a matrix of attention weights.

    Args:
        groups: what `length_groups` returns.
        scores: dict from the name of a model to a dict from the name of a score to its value for each verse.
        attention: what `attention_matrix` returns.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.2), layout="constrained")
    *panels, matrix = figure.subplots(1, len(CURVES) + 1, width_ratios=[*[1] * len(CURVES), 1.3])
    for axes, title in zip(panels, CURVES, strict=True):
        for (name, values), (style, color) in zip(scores.items(), STYLES, strict=True):
            if title in values:
                parts = [values[title][group] for group in groups.values()]
                errors = [part.std() / np.sqrt(len(part)) for part in parts]
                means = [part.mean() for part in parts]
                axes.errorbar(range(len(parts)), means, errors, fmt=style, color=color, capsize=3, label=name)
        axes.set_xticks(range(len(groups)), groups)
        axes.set(title=title, xlabel="words of the source")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    panels[0].set_ylim(bottom=0)
    weights, source, target = attention
    image = matrix.imshow(weights, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    matrix.set_xticks(range(len(source)), source, rotation=90, parse_math=False)
    matrix.set_yticks(range(len(target)), target, parse_math=False)
    matrix.set(title="attention weights of one verse", xlabel="source", ylabel="output")
    figure.colorbar(image, ax=matrix, fraction=0.05, label="weight")
    figure.savefig(path, dpi=120)


def write_results(folder, metrics, columns):
    """Writes the metrics, and the translations: `columns` is a dict from a heading to a text for each verse."""
    lines = ["\t".join(row) for row in (columns, *zip(*columns.values(), strict=True))]
    (folder / "translations.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def print_tables(title, metrics, columns, groups):
    """Prints the scores of the models, and one verse of each group with its translations."""
    titles = [f"{name}, {sampler}" for name in ("BLEU", "chrF") for sampler in SAMPLERS]
    table = Table("model", *titles, "bits per word", title=title)
    for name, figures in metrics.items():
        values = [figures[score][sampler] for score in ("bleu", "chrf") for sampler in SAMPLERS]
        table.add_row(name, *(f"{value:.1f}" for value in [*values, figures["bits_per_word"]]))
    Console().print(table)
    table = Table(*columns, show_lines=True)
    for group in groups.values():
        table.add_row(*(texts[group[len(group) // 2]] for texts in columns.values()))
    Console().print(table)

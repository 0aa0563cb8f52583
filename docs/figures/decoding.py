# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/decoding.png: a beam search as a tree, and what samplers keep. Needs keras_seq[examples]."""

import pathlib

import numpy as np
from pronunciation import load_words, train

from keras_seq.decoding import BeamSampler, RandomSampler, TopKSampler, TopPSampler, search
from keras_seq.training import error_rates

IMAGES = pathlib.Path(__file__).parents[1] / "images"
END_ID, FORBIDDEN_IDS = 3, (0, 2)
BEAMS = 3
SAMPLERS = {
    "greedy": "greedy",
    "beam search, 3 beams": BeamSampler(BEAMS),
    "random": "random",
    "random, temperature 0.5": RandomSampler(temperature=0.5),
    "random, temperature 2": RandomSampler(temperature=2.0),
    "top-k, k = 3": TopKSampler(k=3),
    "top-p, p = 0.9": TopPSampler(p=0.9),
}


def print_error_rates(model, words, sounds):
    """Prints the wrong words of each sampler, and the mean log-probability of its outputs."""
    print("| sampler | wrong words, % | mean log-probability |\n|---|---|---|")
    for name, sampler in SAMPLERS.items():
        results = model.generate(words, sampler=sampler, seed=1, return_dict=True, verbose=0)
        wrong = error_rates(list(results["text"]), sounds).sequence
        print(f"| {name} | {wrong:.1f} | {results['log_probabilities'].mean():.2f} |")


def print_outputs(model, word):
    """Prints what each sampler makes of a word, of random ones three draws; then the best hypotheses."""
    for name, sampler in SAMPLERS.items():
        draws = 1 if name.startswith(("greedy", "beam")) else 3
        results = model.generate([word] * draws, sampler=sampler, seed=1, return_dict=True)
        outputs = zip(results["text"], results["log_probabilities"], strict=True)
        print(f"{name:24}", *(f"{text} ({value:.2f})" for text, value in outputs), sep="   ")
    best = model.generate([word], sampler=BeamSampler(5, num_return_sequences=5), return_dict=True)
    for text, value in zip(best["text"][0], best["log_probabilities"][0], strict=True):
        print(f"  5 best: {text} ({value:.2f})")


def choose_word(model, words, sounds):
    """Returns the first short word that greedy search gets wrong and beam search right, and how many there are."""
    outputs = [model.generate(words, sampler=SAMPLERS[name]) for name in ("greedy", "beam search, 3 beams")]
    found = [w for w, true, greedy, beam in zip(words, sounds, *outputs, strict=True) if greedy != true == beam]
    lost = sum(greedy == true != beam for true, greedy, beam in zip(sounds, *outputs, strict=True))
    print(f"of {len(words)} words, beam search repairs {len(found)} and spoils {lost}: {found[:20]}")
    return next(word for word in found if len(word) <= 6)


def record_search(model, word):
    """Runs a beam search eagerly and records its live hypotheses.

    Returns:
        The next tokens' log-probabilities (vocabulary,) of each live hypothesis, a dict by token ids; and the token ids
        of the best hypotheses, the first one first, with `[END]`.
    """
    following = {}

    def record(log_probabilities, tokens, step):
        for row, history in zip(log_probabilities.numpy(), tokens[:, :step].numpy().tolist(), strict=True):
            following.setdefault(tuple(history), row)  # at the first step only the first row is live
        return log_probabilities

    (source, _), _ = model.prepare([word], [word])  # the target does not matter
    start = model.start_search(source, BEAMS)
    hypotheses = search(
        start.step,
        start.state,
        start.memory,
        start.first_tokens,
        start.limits,
        sampler=BeamSampler(BEAMS, num_return_sequences=BEAMS),
        end_id=END_ID,
        forbidden_ids=FORBIDDEN_IDS,
        processors=[record],
        memory_mask=start.memory_mask,
    )
    return following, [tuple(i for i in row if i) for row in hypotheses.token_ids[0].numpy().tolist()]


def place(nodes):
    """Returns a height for each hypothesis, a dict: leaves one below the other, the others between their branches."""
    heights, leaves = {}, iter(range(len(nodes)))

    def visit(node):
        branches = sorted((x for x in nodes if x[:-1] == node and x), key=nodes.get, reverse=True)
        for branch in branches:
            visit(branch)
        heights[node] = np.mean([heights[x] for x in (branches[0], branches[-1])]) if branches else -next(leaves)

    visit(())
    return heights


def draw_tree(axes, following, finished, vocabulary):
    """Draws live and finished hypotheses with their log-probabilities; the best one is bold, others that ended blue."""
    nodes = {(): 0.0}
    for node in sorted({*following, *finished}, key=len)[1:]:
        nodes[node] = nodes[node[:-1]] + following[node[:-1]][node[-1]]
    heights = place(nodes)
    best = finished[0]
    for node, height in heights.items():
        is_best = best[: len(node)] == node
        x, text = len(node), vocabulary[node[-1]] if node else "[START]"
        if node:
            style = {"color": "C1", "linewidth": 2.5} if is_best else {"color": "0.6", "linewidth": 1}
            axes.plot([x - 1, x], [heights[node[:-1]], height], zorder=1, **style)
        edge = "C1" if is_best else "C0" if node in finished else "0.6"
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": edge}
        weight = "bold" if is_best else "normal"
        axes.text(x, height, text, ha="center", va="center", fontsize=8.5, fontweight=weight, bbox=box, zorder=2)
        if node:
            below = {"xytext": (0, -10), "textcoords": "offset points", "ha": "center", "va": "top"}
            axes.annotate(f"{nodes[node]:.2f}", (x, height), fontsize=8, color="0.25", **below)
    axes.set(xlim=(-0.5, max(map(len, nodes)) + 0.5), ylim=(min(heights.values()) - 0.7, 0.5))
    axes.axis("off")


def kept_probabilities(probabilities):
    """Returns the probabilities with which each sampler draws tokens, a dict. They are given in descending order."""

    def normalize(weights):
        return weights / weights.sum()

    index = np.arange(len(probabilities))
    return {
        "greedy": (index == 0) * 1.0,
        "top-k, k = 3": normalize(probabilities * (index < 3)),
        "top-p, p = 0.9": normalize(probabilities * (np.cumsum(probabilities) - probabilities < 0.9)),
        "temperature 0.5": normalize(probabilities**2),
        "random": probabilities,
        "temperature 2": normalize(probabilities**0.5),
    }


def draw_samplers(panels, log_probabilities, vocabulary):
    """Draws a distribution of the next token, as each sampler changes it."""
    log_probabilities = log_probabilities.copy()
    log_probabilities[list(FORBIDDEN_IDS)] = -np.inf
    order = np.argsort(-log_probabilities, kind="stable")
    shown = 8
    for axes, (name, values) in zip(panels, kept_probabilities(np.exp(log_probabilities[order])).items(), strict=True):
        axes.barh(np.arange(shown), values[:shown], color="C0")
        axes.barh([shown], values[shown:].sum(), color="0.6")
        axes.set(xlim=(0, 1.05), ylim=(shown + 0.6, -0.6), xticks=[0, 0.5, 1])
        axes.set_yticks(range(shown + 1), [*(vocabulary[i] for i in order[:shown]), "others"], fontsize=8)
        axes.set_title(name, fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)


def draw(path):
    """Draws the search for the sounds of one word, and a step of it as samplers see it."""
    from matplotlib.figure import Figure

    model = train(*load_words("train", 8_000))
    words, sounds = load_words("test", 2_000)
    print_error_rates(model, words, sounds)
    word = choose_word(model, words, sounds)
    print_outputs(model, word)
    following, finished = record_search(model, word)
    vocabulary = model.target_vectorizer.get_vocabulary()
    live = [finished[0][:i] for i in range(len(finished[0]))]  # of the best hypothesis
    node = max(live, key=lambda node: -np.sum(np.exp(following[node]) * following[node]))  # the least certain step
    names = " ".join(vocabulary[i] for i in node) or "[START]"
    figure = Figure(figsize=(7.6, 6.8), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(2, 1))
    caption = "numbers: log-probabilities; bold: the best output; blue frames: others that ended"
    upper.suptitle(f"{word}: beam search with {BEAMS} beams\n{caption}", fontsize=11)
    lower.suptitle(f"probability of the next token after {names}, as each sampler draws it", fontsize=11)
    draw_tree(upper.subplots(), following, finished, vocabulary)
    draw_samplers(lower.subplots(1, 6, sharey=True), following[node], vocabulary)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(IMAGES / "decoding.png")

# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/attention.png: four attentions to the letters of one word. Needs keras_seq[examples]."""

import pathlib

from pronunciation import load_words, train

from keras_seq.layers import BahdanauAttention
from keras_seq.plots import plot_attention
from keras_seq.training import error_rates

IMAGES = pathlib.Path(__file__).parents[1] / "images"
WORD = "mixture"


def draw(path):
    """Draws the attention weights of four models that spell out the sounds of a word."""
    words, sounds = load_words("train", 8_000)
    pairs = [pair for pair in zip(words, sounds, strict=True) if pair[0] != WORD]
    dev_words, dev_sounds = load_words("dev", 2_000)
    attentions = {
        "Bahdanau": "bahdanau",
        "Bahdanau with coverage": BahdanauAttention(96, coverage=True),
        "Luong (general)": "luong",
        "monotonic": "monotonic",
    }
    weights, outputs = [], []
    for name, attention in attentions.items():
        model = train(*zip(*pairs, strict=True), attention=attention)
        rates = error_rates(model.generate(dev_words), dev_sounds)
        results = model.generate([WORD], return_dict=True)
        weights.append(results["attention_weights"][0])
        outputs.append([*results["text"][0].split(), "[END]"])
        print(f"{name}: {results['text'][0]}; wrong phonemes {rates.token:.1f} %, wrong words {rates.sequence:.1f} %")
    figure = plot_attention(weights, [[*WORD, "[END]"]] * len(weights), outputs)
    for axes, name in zip(figure.axes, attentions, strict=False):
        axes.set_title(name, x=0, ha="left", fontsize=11, fontweight="bold")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    draw(IMAGES / "attention.png")

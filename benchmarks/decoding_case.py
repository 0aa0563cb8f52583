# SPDX-License-Identifier: Apache-2.0
"""The cases of the decoding benchmark, the model that all contenders share, and the products that a word costs.

Imports only NumPy, because contenders of other environments read it too.
"""

import functools
import json
import pathlib
from typing import NamedTuple

import numpy as np

EMBEDDING, UNITS, BATCH = 128, 256, 512
UNKNOWN_ID, START_ID, END_ID = 1, 2, 3
MIN_EQUAL = 0.97  # of the outputs: rounding decides between hypotheses of nearly the same probability


class Case(NamedTuple):
    """Words to decode.

    Args:
        folder: what `decoding_model.prepare` has written.
        table: "batch", "word", "beams", "length" or "mixed".
        beams: number of beams; 1 is greedy search.
        count: number of words.
        forced: number of tokens of each output; 0 if they end with [END], as usual.
    """

    folder: str
    table: str
    beams: int
    count: int
    forced: int = 0

    permanent_bytes = 0  # a contender loads its model once, also before memory is measured

    @property
    def tiny(self):
        """The same case with two words."""
        return self._replace(count=2)

    @property
    def words(self):
        """The words: of all lengths in batches, else of nine letters, which are ten positions with [END]."""
        words = shared_model(self.folder)["words"]
        if self.table == "mixed":
            mixed = [*words["short"], "".join(words["any"])[:400]]
            return mixed[: self.count] if self.count > 1 else mixed[-1:]
        words = words["any" if self.table == "batch" else "nine letters"]
        return spread(words, self.count)

    def share(self, name):
        """The case for a contender: Yoyodyne's beam search would take minutes, so it gets fewer words."""
        return self._replace(count=min(self.count, BATCH)) if name == "yoyodyne" and self.beams > 1 else self

    def __str__(self):
        forced = f" of {self.forced} tokens" * bool(self.forced)
        return f"{self.table}: {self.count} words{forced}, {self.beams} beam{'s' * (self.beams > 1)}"


def spread(items, count):
    """Returns `count` of the items, spread evenly; all if there are fewer."""
    return [items[i * len(items) // count] for i in range(count)] if count < len(items) else list(items)


@functools.cache
def shared_model(folder):
    """Returns the dict with "source" and "target" (vocabularies), "units", "embedding", "words" and "outputs"."""
    return json.loads(pathlib.Path(folder, "model.json").read_text())


def load_weights(folder):
    """Returns the dict of arrays of the model, in the layouts of Keras."""
    with np.load(pathlib.Path(folder, "weights.npz")) as file:
        return dict(file)


def check_outputs(case, outputs):
    """Raises a `ValueError` if `outputs`, a dict from words to pronunciations, are not those of keras_seq."""
    expected = shared_model(case.folder)["outputs"][str(case.beams)]
    equal = sum(expected[word] == output for word, output in outputs.items())
    if equal < MIN_EQUAL * len(outputs):
        raise ValueError(f"{equal} of {len(outputs)} outputs equal those of keras_seq; {MIN_EQUAL:.0%} are needed")


def megaflops(case):
    """Returns the floating-point operations of a word, in millions, on average.

    Counts the products of encoder, attention, cell and readout, two operations for each multiply-add, and neither
    embeddings nor activations. With beams, a word takes at least as many steps as its output has tokens, each of them
    for all beams.
    """
    outputs = shared_model(case.folder)["outputs"][str(case.beams)]
    total = 0
    for word in case.words:
        positions, tokens = len(word) + 1, len(outputs[word].split()) + 1  # with [END]
        total += positions * source_token_flops(case.folder)
        total += tokens * case.beams * target_token_flops(case.folder, positions)
    return total / len(case.words) / 1e6


def source_token_flops(folder):
    """Returns the operations of a source token: two LSTMs, and the key of the attention."""
    model = shared_model(folder)
    units, memory = model["units"], 2 * model["units"]
    encoder = 2 * 4 * units * (model["embedding"] + units)
    keys = memory * units
    return 2 * (encoder + keys)


def target_token_flops(folder, positions):
    """Returns the operations of a decoded token of one beam, which attends to `positions` source tokens."""
    model = shared_model(folder)
    units, memory = model["units"], 2 * model["units"]
    attention = units * units + positions * (units + memory)  # query; energy and context of each position
    cell = 4 * units * (model["embedding"] + memory + units)
    readout = units * len(model["target"])
    return 2 * (attention + cell + readout)

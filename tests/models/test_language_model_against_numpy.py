# SPDX-License-Identifier: Apache-2.0
"""The whole language model against NumPy: logits, carried states, losses, scores, generation, dropout masks.

The NumPy model follows the papers and docstrings, not the code: float64, one document and one step at a time.
"""

import itertools

import keras
import numpy as np
import pytest
import scipy.stats
import seq2seq_in_numpy as reference
import tensorflow as tf
from seq2seq_in_numpy import END, START

import keras_seq
from keras_seq.data import stream_batches
from keras_seq.decoding import BeamSampler, RandomSampler, TopKSampler, TopPSampler

VOCABULARY = 9
DOCUMENTS = [[4, 5, 6, 7, 8, 4, 1, 5], [], [8, 8, 4], [5, 4, 6, 6, 7, 5, 8, 4, 4, 4, 6]]
VARIANTS = [
    {"cell": "lstm", "units": [5, 7, 4], "num_layers": 3, "tie_embeddings": True, "zoneout": 0.2},
    {"cell": "gru", "units": [6, 4], "num_layers": 2, "tie_embeddings": True},
    {"cell": "mgu", "units": [5], "num_layers": 1},
    {"cell": "rnn", "units": [6, 3], "num_layers": 2, "zoneout": 0.3, "layer_norm": True},
]


class InNumPy:
    vocabulary_size = VOCABULARY

    def __init__(self, model, cell, zoneout=0.0, **_):
        weights = {weight.path.split("/", 1)[1]: np.asarray(weight, "float64") for weight in model.weights}
        flat = [value for path, value in weights.items() if "_cell/" in path]
        self.cells = [flat[i : i + 3] for i in range(0, len(flat), 3)]
        norms = [value for path, value in weights.items() if path.endswith(("gamma", "beta"))]
        self.norms = [norms[i : i + 2] for i in range(0, len(norms), 2)]
        self.embeddings, *_ = (value for path, value in weights.items() if path.endswith("embeddings"))
        kernels = [v for path, v in weights.items() if path.endswith("/kernel") and "_cell/" not in path]
        (self.bias,) = (v for path, v in weights.items() if path.endswith("bias") and "_cell/" not in path)
        self.kernel = kernels[0] if kernels else np.eye(self.embeddings.shape[1])
        if model.tie_embeddings:
            self.kernel = self.kernel @ self.embeddings.T
        self.cell, self.num_states, self.zoneout = reference.CELLS[cell], 2 if cell == "lstm" else 1, zoneout

    def run(self, tokens, states=None):
        """Returns the logits of each step and the final states of each layer."""
        if states is None:
            states = [[np.zeros(len(weights[1]))] * self.num_states for weights in self.cells]
        logits = []
        for token in tokens:
            x, results = self.embeddings[token], []
            for i, (weights, state) in enumerate(zip(self.cells, states, strict=True)):
                new = self.cell(x, state, *weights)
                results.append([self.zoneout * a + (1 - self.zoneout) * b for a, b in zip(state, new, strict=True)])
                x = results[-1][0]
                x = reference.layer_norm(x, *self.norms[i]) if self.norms else x
            states = results
            logits.append(x @ self.kernel + self.bias)
        return logits, states

    def log_probabilities(self, source, history):
        return reference.log_softmax(self.run([START, *source, *history])[0][-1])

    def of_targets(self, tokens, targets, states=None):
        logits, states = self.run(tokens, states)
        return [reference.log_softmax(row)[target] for row, target in zip(logits, targets, strict=True)], states


def make_pair(variant):
    model = keras_seq.LanguageModel(VOCABULARY, 5, **variant)
    rng = np.random.default_rng(len(variant["cell"]))
    for weight in model.weights:
        weight.assign(1.5 * rng.normal(size=weight.shape) / weight.shape[0] ** (0.5 if len(weight.shape) > 1 else 0))
    return model, InNumPy(model, **variant)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant["cell"])
def test_a_language_model_is_that_of_its_docstring(variant):
    model, in_numpy = make_pair(variant)
    tokens = np.array([[2, 4, 5, 6, 1], [8, 4, 3, 0, 0]])
    logits, state = model(tokens, return_state=True)
    for i, length in enumerate((5, 3)):
        expected, states = in_numpy.run(tokens[i, :length])
        np.testing.assert_allclose(logits[i, :length], expected, atol=1e-4)
        for actual, part in zip(state, itertools.chain(*states), strict=True):
            np.testing.assert_allclose(actual[i], part, atol=1e-5)
    expected = [in_numpy.of_targets([START, *document], [*document, END])[0] for document in DOCUMENTS]
    results = model.score(DOCUMENTS, window=4, return_dict=True)
    np.testing.assert_allclose(results["log_probabilities"], list(map(sum, expected)), rtol=1e-4)
    for row, values in zip(results["token_log_probabilities"], expected, strict=True):
        np.testing.assert_allclose(row, np.pad(values, (0, len(row) - len(values))), atol=1e-4)
    prompt = (4, 6)
    outputs = model.generate([list(prompt)], max_length=5, verbose=0)
    assert tuple(outputs[0][outputs[0] > 0]) == reference.greedy(in_numpy, prompt, 5)
    outputs = model.generate([list(prompt)], max_length=4, sampler=BeamSampler(3), verbose=0, return_dict=True)
    score, best = reference.beam(in_numpy, prompt, 4, num_beams=3)[0]
    assert tuple(outputs["token_ids"][0][outputs["token_ids"][0] > 0]) == best
    assert outputs["scores"][0] == pytest.approx(score, rel=1e-4)


def test_the_loss_of_cut_streams_is_that_of_numpy_with_carried_states():
    """A stream may begin within a document, with a reset state, and goes on with what it carries."""
    model, in_numpy = make_pair({**VARIANTS[0], "zoneout": 0.0})
    model.compile(keras.optimizers.SGD(0.0), metrics=[keras_seq.training.BitsPerToken()])
    window, streams = 3, 3
    windows = []
    for document in DOCUMENTS:
        tokens, targets = [START, *document], [*document, END]
        for i in range(0, len(tokens), window):
            windows.append((tokens[i : i + window], targets[i : i + window], i == 0))
    length, values, states = -(-len(windows) // streams), [], None
    for first in range(0, len(windows), length):
        for i, (tokens, targets, is_start) in enumerate(windows[first : first + length]):
            results, states = in_numpy.of_targets(tokens, targets, None if is_start or i == 0 else states)
            values.extend(results)
    history = model.fit(stream_batches(DOCUMENTS, streams, window), epochs=2, verbose=0).history
    np.testing.assert_allclose(history["loss"], [-np.mean(values)] * 2, rtol=1e-4)
    np.testing.assert_allclose(history["bits_per_token"], [-np.mean(values) / np.log(2)] * 2, rtol=1e-4)


@pytest.mark.parametrize(
    "sampler", [RandomSampler(0.7), TopKSampler(3), TopPSampler(0.6)], ids=lambda s: type(s).__name__
)
def test_samples_have_the_frequencies_of_the_softmax(sampler):
    """Of the first token, and of the second one after the most frequent first one."""
    model, in_numpy = make_pair(VARIANTS[1])
    options = {"RandomSampler": {"temperature": 0.7}, "TopKSampler": {"k": 3}, "TopPSampler": {"p": 0.6}}
    count, histories = 3000, [()]
    outputs = model.generate([[4, 6]] * count, max_length=2, sampler=sampler, seed=0, verbose=0)
    outputs = np.pad(outputs, [(0, 0), (0, 2 - outputs.shape[1])])
    for history in histories:
        logs = reference.token_scores(in_numpy, (4, 6), history)
        expected = reference.draw_distribution(logs, **options[type(sampler).__name__])
        rows = outputs[np.all(outputs[:, : len(history)] == np.array(history, int), axis=1)]
        observed = np.bincount(rows[:, len(history)], minlength=VOCABULARY)
        assert not np.any(observed[expected == 0])
        possible = expected > 0
        assert scipy.stats.chisquare(observed[possible], len(rows) * expected[possible]).pvalue > 1e-3
        if not history and np.argmax(observed) != END:
            histories.append((int(np.argmax(observed)),))


@keras.saving.register_keras_serializable("test_language_model_against_numpy")
class Identity(keras.layers.Layer):
    """A cell that returns its inputs, so that logits show the masks of a language model."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def call(self, inputs, states):
        return inputs, [inputs]

    def get_initial_state(self, batch_size=None):
        return [keras.ops.zeros((batch_size, self.units))]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("embedding_dropout", "locked"),
        ("input_dropout", "variational"),
        ("hidden_dropout", "naive"),
        *[("output_dropout", mode) for mode in ("locked", "variational", "naive")],
        pytest.param("input_dropout", "naive", marks=pytest.mark.slow),
        pytest.param("hidden_dropout", "locked", marks=pytest.mark.slow),
    ],
)
def test_each_dropout_has_the_masks_of_its_docstring(name, mode):
    """Shared by the steps of a window or not; of each row, and new in each training step, beside a carried state."""
    units, batch, time, steps = 64, 6, 8, 3
    model = keras_seq.LanguageModel(
        units, units, None, Identity(units), 2, ar=0.5, tar=0.25, dropout_mode=mode, seed=1, **{name: 0.4}
    )
    for weight in model.weights:
        values = np.ones if weight.path.endswith("embeddings") else np.eye if len(weight.shape) > 1 else np.zeros
        weight.assign(values(*weight.shape) if values is np.eye else values(weight.shape))
    shown = tf.Variable(tf.zeros((batch, time, units)))

    def loss(targets, logits):
        shown.assign(logits)
        return 0.0 * keras.ops.sum(logits)

    model.compile(keras.optimizers.SGD(0.0), loss, metrics=None)
    tokens, masks = np.random.default_rng(0).integers(4, 9, (batch, time)), []
    for step in range(steps):
        total = model.train_on_batch((tokens, np.full(batch, step == 0)), tokens)
        masks.append(shown.numpy())
        activations = 0.5 * np.mean(masks[-1] ** 2)  # of the outputs after dropout; TAR is of those before
        before = np.ones_like(masks[-1]) if name == "output_dropout" else masks[-1]
        assert total == pytest.approx(activations + 0.25 * np.mean(np.diff(before, axis=1) ** 2), rel=1e-5)
    masks = np.stack(masks)  # (steps, batch, time, units)
    np.testing.assert_allclose(np.unique(masks), [0, 1 / 0.6], rtol=1e-6)
    if name == "embedding_dropout":
        vectors = masks[..., 0]  # a token is dropped as a whole, at all its positions
        np.testing.assert_array_equal(masks, np.repeat(vectors[..., None], units, axis=-1))
        for values in vectors:
            for row, ids in zip(values, tokens, strict=True):
                assert all(len(set(row[ids == token])) == 1 for token in ids)
        assert not np.array_equal(vectors[0], vectors[1])
        return
    distinct = masks.reshape(-1, units) if mode == "naive" else masks[:, :, 0].reshape(-1, units)
    assert len(np.unique(distinct, axis=0)) == len(distinct)
    if mode != "naive":
        np.testing.assert_array_equal(masks, np.repeat(masks[:, :, :1], time, axis=2))
    kept = np.mean(distinct > 0)
    assert abs(kept - 0.6) < 4 * np.sqrt(0.24 / distinct.size)

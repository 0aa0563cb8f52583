# SPDX-License-Identifier: Apache-2.0
"""Slow and obvious searches in plain Python, and scripted models whose every probability is known.

The next logits of a scripted model are a function of the whole prefix: the prefix is hashed to a row of a table that is
drawn at random for each source. `scripted_step` in TensorFlow and the functions in Python read the same tables.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_seq.decoding.loop import search

END = 1
NODES = 499  # rows of each table; a prime


class ScriptedModel(NamedTuple):
    """Tables and first states of several sources, as NumPy arrays."""

    logits: np.ndarray  # (sources, NODES, vocabulary) float32
    weights: np.ndarray  # (sources, NODES, source positions) float32
    nodes: np.ndarray  # (sources,) int32, the first states
    first_tokens: np.ndarray  # (sources,) int32
    limits: np.ndarray  # (sources,) int32

    def take(self, sources):
        """The model of a selection of sources, in that order."""
        return ScriptedModel(*(array[sources] for array in self))

    @property
    def search_arguments(self):
        """What `search` takes after the step function: state, memory, first tokens and limits."""
        state = {"node": self.nodes, "trace": (np.zeros((len(self.nodes), 1), "float32"),)}
        return state, (self.logits, self.weights), self.first_tokens, self.limits

    def prefix_node(self, source, tokens):
        """The row of the tables that a prefix is hashed to."""
        node = int(self.nodes[source])
        for token in (int(self.first_tokens[source]), *tokens):
            node = next_node(node, token)
        return node

    def log_probabilities(self, source, tokens):
        """The log-probabilities of all next tokens after a prefix, float64 (vocabulary,)."""
        return log_softmax(self.logits[source, self.prefix_node(source, tokens)])

    def attention_weights(self, source, tokens):
        """The attention weights of the steps that chose `tokens`, (time, source positions)."""
        rows = [self.weights[source, self.prefix_node(source, tokens[:t])] for t in range(len(tokens))]
        return np.reshape(rows, (len(tokens), self.weights.shape[-1]))

    def score(self, source, tokens):
        """The log-probability of a sequence."""
        return sum(self.log_probabilities(source, tokens[:t])[token] for t, token in enumerate(tokens))


def next_node(node, token):
    """Hash one more token, of Python integers or of int32 tensors."""
    return (node * 31 + token * 7 + 5) % NODES


def scripted_step(tokens, state, memory, is_live):
    """The step function of all scripted models. Whatever it returns for rows that are not live is garbage."""
    logits, weights = memory
    sources, rows = tf.shape(logits)[0], tf.shape(tokens)[0]
    source = tf.range(rows) // tf.maximum(rows // tf.maximum(sources, 1), 1)  # (rows,)
    node = next_node(state["node"], tokens)  # (rows,)
    trace = state["trace"][0] + 1.0  # (rows, 1), a count of the steps, NaN once a row was not live
    index = tf.stack([source, tf.clip_by_value(node, 0, NODES - 1)], axis=-1)
    garbage = tf.where(is_live[:, None], 0.0 * trace, math.nan)  # (rows, 1), 0 where results count
    state = {"node": tf.where(is_live, node, -(10**6)), "trace": (trace + garbage,)}
    return tf.gather_nd(logits, index) + garbage, state, tf.gather_nd(weights, index) + garbage


def draw_model(seed, sources, vocabulary, limits, positions=3, scale=2.0):
    """Draw a scripted model. The limit of each source is drawn from `limits`."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(sources, NODES, vocabulary)) * scale
    weights = random.dirichlet(np.full(positions, 0.5), size=(sources, NODES)) if positions else None
    weights = np.zeros((sources, NODES, 0)) if weights is None else np.maximum(weights, 1e-3)
    return ScriptedModel(
        logits.astype("float32"),
        weights.astype("float32"),
        random.integers(NODES, size=sources).astype("int32"),
        random.integers(vocabulary, size=sources).astype("int32"),
        random.choice(np.asarray(limits, "int32"), size=sources),
    )


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def is_forbidden(tokens, token):
    """An arbitrary constraint: whether `token` may not follow `tokens`. `END` and token 2 are always allowed."""
    checksum = sum((i + 3) * previous for i, previous in enumerate(tokens))
    return token > 2 and (checksum + token * token) % 3 == 0


def forbid_by_prefix(log_probabilities, tokens, step):
    """The same constraint as a processor. It also halves the log-probabilities of token 2."""
    vocabulary = tf.shape(log_probabilities)[-1]
    factors = tf.where(tf.range(tf.shape(tokens)[1]) < step, tf.range(tf.shape(tokens)[1]) + 3, 1000003)
    checksum = tf.reduce_sum(tokens * factors, axis=-1)  # (rows,); tokens that are not chosen yet are 0
    token = tf.range(vocabulary)
    forbidden = (token > 2) & ((checksum[:, None] + token * token) % 3 == 0)  # (rows, vocabulary)
    return tf.where(forbidden, -math.inf, log_probabilities * tf.where(token == 2, 0.5, 1.0))


class Rules(NamedTuple):
    """What restricts a search: forbidden tokens, and whether `forbid_by_prefix` applies."""

    forbidden_ids: tuple = (0,)
    by_prefix: bool = False

    @property
    def search_arguments(self):
        """The keyword arguments of `search`."""
        return {"forbidden_ids": self.forbidden_ids, "processors": (forbid_by_prefix,) if self.by_prefix else ()}

    def apply(self, log_probabilities, tokens):
        """Processed log-probabilities (vocabulary,) after a prefix."""
        processed = np.array(log_probabilities, "float64")
        if self.by_prefix:
            processed[2] *= 0.5
        for token in range(len(processed)):
            if token in self.forbidden_ids or (self.by_prefix and is_forbidden(tokens, token)):
                processed[token] = -math.inf
        return processed

    def permit(self, tokens):
        """Whether a sequence violates no rule."""
        return all(self.apply(np.zeros(10**3), tokens[:t])[token] == 0 for t, token in enumerate(tokens))


class Hypothesis(NamedTuple):
    """A sequence of tokens with the sum of its processed log-probabilities."""

    tokens: tuple
    total: float

    @property
    def is_finished(self):
        return self.tokens[-1:] == (END,)


class Penalties(NamedTuple):
    """The length and coverage penalties of Wu et al. 2016, section 7."""

    length: float = 0.0
    coverage: float = 0.0

    def score(self, model, source, hypothesis):
        """The score of a finished hypothesis."""
        score = hypothesis.total / ((5 + len(hypothesis.tokens)) / 6) ** self.length
        if self.coverage:
            attended = model.attention_weights(source, hypothesis.tokens).astype("float64").sum(axis=0)
            score += self.coverage * np.log(np.minimum(attended, 1.0)).sum()
        return score


def extend(model, source, rules, hypothesis):
    """All hypotheses that are one token longer."""
    processed = rules.apply(model.log_probabilities(source, hypothesis.tokens), hypothesis.tokens)
    return [
        Hypothesis((*hypothesis.tokens, token), hypothesis.total + value)
        for token, value in enumerate(processed)
        if value > -math.inf
    ]


def enumerate_hypotheses(model, source, rules):
    """Every sequence that ends with `END` or has as many tokens as the limit allows."""
    live, finished = [Hypothesis((), 0.0)], []
    for _ in range(model.limits[source]):
        longer = [candidate for hypothesis in live for candidate in extend(model, source, rules, hypothesis)]
        finished += [candidate for candidate in longer if candidate.is_finished]
        live = [candidate for candidate in longer if not candidate.is_finished]
    return finished + live


def rank(model, source, hypotheses, penalties):
    """Pairs (score, tokens) of distinct hypotheses, best first."""
    scored = {(penalties.score(model, source, hypothesis), hypothesis.tokens) for hypothesis in hypotheses}
    return sorted(scored, reverse=True)


def beam_search(model, source, rules, num_beams, penalties, num_groups=1, diversity_penalty=0.0):
    """Beam search without early stopping, in diverse groups (Vijayakumar et al. 2018).

    Returns:
        Pairs (score, tokens), best first.
    """
    width = num_beams // num_groups
    groups = [[Hypothesis((), 0.0)] for _ in range(num_groups)]
    finished = []
    for t in range(model.limits[source]):
        chosen = []  # the tokens that earlier groups chose at this step
        for g, group in enumerate(groups):
            candidates = [candidate for hypothesis in group for candidate in extend(model, source, rules, hypothesis)]
            penalty = {token: diversity_penalty * chosen.count(token) for token in set(chosen)}
            candidates.sort(key=lambda c: c.total - penalty.get(c.tokens[-1], 0.0), reverse=True)
            candidates = candidates[: 2 * width]
            ended = [candidate for candidate in candidates[:width] if candidate.is_finished]
            is_last = t + 1 == model.limits[source]
            groups[g] = [] if is_last else [c for c in candidates if not c.is_finished][:width]
            finished += candidates[:width] if is_last else ended
            chosen += [hypothesis.tokens[-1] for hypothesis in groups[g]]
            if num_beams == 1 and ended:
                return rank(model, source, finished, penalties)
    return rank(model, source, finished, penalties)


def sequence_probabilities(model, source, rules, keep, temperature=1.0):
    """The exact probability of every sequence that a sampler can draw: a dictionary by tuples of tokens.

    Args:
        keep: function from the probabilities of the next tokens (vocabulary,) to booleans: which may be drawn.
    """
    live, finished = {(): 1.0}, {}
    for _ in range(model.limits[source]):
        longer = {}
        for tokens, probability in live.items():
            processed = rules.apply(model.log_probabilities(source, tokens), tokens)
            following = np.exp(log_softmax(processed / temperature))
            following = np.where(keep(following), following, 0.0)
            for token in np.flatnonzero(following):
                share = probability * following[token] / following.sum()
                (finished if token == END else longer)[(*tokens, int(token))] = share
        live = longer
    return finished | live


def keep_all(probabilities):
    return np.ones(len(probabilities), bool)


def keep_top_k(k):
    """The `k` most probable tokens (Fan et al. 2018)."""
    return lambda probabilities: np.isin(np.arange(len(probabilities)), np.argsort(-probabilities)[:k])


def keep_top_p(p):
    """The smallest set of most probable tokens whose probability reaches `p` (Holtzman et al. 2020)."""

    def keep(probabilities):
        order = np.argsort(-probabilities)
        size = next(n for n in itertools.count(1) if probabilities[order[:n]].sum() >= p or n == len(order))
        return np.isin(np.arange(len(probabilities)), order[:size])

    return keep


def chi_square_tail(counts, expected):
    """The probability of counts that are at least as far from what is expected, by Pearson's chi-square test."""
    rare = expected < 5  # pooled, as the approximation needs at least 5 of each kind
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(tf.math.igammac((len(counts) - 1) / 2, statistic / 2)) if len(counts) > 1 else 1.0


def cut(row):
    """The tokens of a row of `Hypotheses.token_ids` as a tuple, without what follows `END` or is 0 at the end."""
    row = [int(token) for token in row]
    return tuple(row[: row.index(END) + 1]) if END in row else tuple(np.trim_zeros(row, "b"))


class Results(NamedTuple):
    """`Hypotheses` as NumPy arrays."""

    token_ids: np.ndarray
    log_probabilities: np.ndarray
    scores: np.ndarray
    attention_weights: np.ndarray | None


def compile_search(sampler, rules, *, mode="graph", step=scripted_step, **options):
    """A function that searches a scripted model: `run(model, seed=(0, 0), positions=None) -> Results`.

    One graph serves models of all sizes. `run.traces` counts how often it was traced.
    """
    keywords = {"end_id": END, **rules.search_arguments, **options}

    def search_tensors(state, memory, first_tokens, limits, seed, positions):
        run.traces += 1
        arguments = (step, state, memory, first_tokens, limits)
        return search(*arguments, sampler=sampler, seed=seed, positions=positions, **keywords)

    compiled = search_tensors
    if mode != "eager":
        model = draw_model(0, 1, 2, [0])
        any_size = [tf.nest.map_structure(_of_any_size, value) for value in model.search_arguments]
        signature = [*any_size, tf.TensorSpec((2,), tf.int32), tf.TensorSpec((None,), tf.int32)]
        compiled = tf.function(search_tensors, input_signature=signature, jit_compile=mode == "jit")

    def run(model, seed=(0, 0), positions=None):
        positions = np.arange(len(model.limits)) if positions is None else positions
        arguments = (*model.search_arguments, np.array(seed, "int32"), np.array(positions, "int32"))
        hypotheses = compiled(*tf.nest.map_structure(tf.convert_to_tensor, arguments))
        return Results(*(None if value is None else value.numpy() for value in hypotheses))

    run.traces = 0
    return run


def _of_any_size(array):
    """The spec of arrays that differ in every axis, except for a last axis of 1."""
    last_axis = [None, 1][array.ndim == 2 and array.shape[-1] == 1]
    return tf.TensorSpec([*[None] * (array.ndim - 1), last_axis], array.dtype)

# SPDX-License-Identifier: Apache-2.0
"""No output of a search violates what its processors demand, whatever the sampler."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from processor_references import END, VOCABULARY, every_processor, is_new_n_gram, process_row

from keras_seq.decoding import (
    AllowedTokens,
    BeamSampler,
    ForbiddenTokens,
    ForcedPrefix,
    GreedySampler,
    Lexicon,
    MinLength,
    NoRepeatNGram,
    RandomSampler,
    RepetitionPenalty,
    TopKSampler,
    TopPSampler,
    check_processors,
    search,
)

SAMPLERS = {
    "greedy": GreedySampler(),
    "random": RandomSampler(seed=1),
    "top_k": TopKSampler(3, seed=2),
    "top_p": TopPSampler(0.8, seed=3),
    "beam": BeamSampler(4, length_penalty=0.6, num_return_sequences=3),
    "groups": BeamSampler(4, num_return_sequences=2, num_groups=2, diversity_penalty=0.5),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
SOURCES, LIMIT = 5, 7


def draw_model(seed):
    """Logits (sources, last token, next token), of which no row prefers the end."""
    logits = np.random.default_rng(seed).normal(size=(SOURCES, VOCABULARY, VOCABULARY)).astype("float32")
    logits[:, :, END] -= 1
    return logits


def run_search(logits, sampler, processors, mode="eager"):
    def step(tokens, state, memory, is_live):
        tokens = tf.reshape(tokens, [tf.shape(memory)[0], -1])  # (sources, beams)
        following = tf.reshape(tf.gather(memory, tokens, batch_dims=1), [-1, VOCABULARY])
        return following, state, tf.zeros([tf.size(tokens), 0])

    def run():
        first_tokens, limits = tf.fill([SOURCES], 2), tf.fill([SOURCES], LIMIT)
        options = {"sampler": sampler, "end_id": END, "processors": check_processors(processors, LIMIT, VOCABULARY)}
        if mode == "jit":
            options.update(drop_ended=False, max_steps=LIMIT)
        return search(step, (), tf.constant(logits), first_tokens, limits, forbidden_ids=(2,), **options)

    return run() if mode == "eager" else tf.function(run, jit_compile=mode == "jit")()


def sequences_of(hypotheses):
    """The outputs of a search that are hypotheses, one list of (source, ids, log-probability), ids up to the end."""
    for source, (rows, sums) in enumerate(zip(*(x.numpy() for x in hypotheses[:2]), strict=True)):
        for ids, log_probability in zip(rows.tolist(), sums, strict=True):
            if log_probability > -np.inf:
                yield source, ids[: ids.index(END) + 1] if END in ids else ids[:LIMIT], log_probability


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum())


def obeys(processor, ids):
    """Whether an output, with its end token if it has one, does what a processor demands."""
    text = ids[:-1] if ids[-1] == END else ids
    if isinstance(processor, AllowedTokens):  # nothing follows the last token of the vocabulary but the end
        return all(a < b for a, b in itertools.pairwise(text))
    if isinstance(processor, ForcedPrefix):
        return ids[: len(processor.token_ids)] == processor.token_ids
    return {
        MinLength: lambda p: len(text) >= p.min_length,
        NoRepeatNGram: lambda p: all(is_new_n_gram(ids[:end], p.size) for end in range(1, len(ids) + 1)),
        RepetitionPenalty: lambda p: True,
        ForbiddenTokens: lambda p: not set(p.token_ids) & set(ids),
        Lexicon: lambda p: text in p.sequences,
    }[type(processor)](processor)


def assert_obeyed(processor, sampler, mode="eager"):
    """Runs a search, and checks each output and its log-probability, which is that of the model alone."""
    logits = draw_model(11)
    outputs = list(sequences_of(run_search(logits, sampler, processor, mode)))
    assert {source for source, *_ in outputs} == set(range(SOURCES))
    for source, ids, log_probability in outputs:
        assert obeys(processor, ids), ids
        steps = zip([2, *ids[:-1]], ids, strict=True)
        expected = sum(log_softmax(logits[source, last])[token] for last, token in steps)
        np.testing.assert_allclose(log_probability, expected, rtol=1e-5)


QUICK = ["top_p", "groups"]


@pytest.mark.parametrize("sampler", [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in SAMPLERS])
@every_processor
def test_no_output_violates_a_constraint(processor, sampler):
    assert_obeyed(processor, SAMPLERS[sampler])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graph", "jit"])
@pytest.mark.parametrize("sampler", QUICK)
@every_processor
def test_no_output_violates_a_constraint_in_a_graph(processor, sampler, mode):
    assert_obeyed(processor, SAMPLERS[sampler], mode)


@every_processor
def test_greedy_search_takes_the_best_token_after_processing(processor):
    logits = draw_model(12)
    for source, ids, _ in sequences_of(run_search(logits, GreedySampler(), [processor])):
        expected = []
        while len(expected) < LIMIT and END not in expected:
            values = log_softmax(logits[source, [2, *expected][-1]])
            values = process_row(processor, values, expected)
            values[2] = -np.inf
            expected.append(END if values.max() == -np.inf else int(values.argmax()))
        assert ids == expected


@every_sampler
def test_several_processors_hold_together(sampler):
    processors = [NoRepeatNGram(2), RepetitionPenalty(1.5), MinLength(3), ForbiddenTokens([6]), ForcedPrefix([4, 1])]
    for _, ids, _ in sequences_of(run_search(draw_model(13), sampler, processors)):
        assert all(obeys(processor, ids) for processor in processors), ids


def test_a_beam_as_wide_as_the_lexicon_finds_all_of_it_in_order():
    sequences = [[4, 5, 6], [4, 5], [], [6], [0, 0], [0, 0, 0, 1]]
    logits = draw_model(14)
    hypotheses = run_search(logits, BeamSampler(6, num_return_sequences=6), Lexicon(sequences, VOCABULARY))
    for source in range(SOURCES):
        sums = {}
        for ids in sequences:
            steps = zip([2, *ids], [*ids, END], strict=True)
            sums[(*ids, END)] = sum(log_softmax(logits[source, last])[token] for last, token in steps)
        best = sorted(sums, key=sums.get, reverse=True)
        results = [(tuple(ids), value) for row, ids, value in sequences_of(hypotheses) if row == source]
        assert [ids for ids, _ in results] == best
        np.testing.assert_allclose([value for _, value in results], [sums[ids] for ids in best], rtol=1e-5)

# SPDX-License-Identifier: Apache-2.0
"""`generate`, `score`, `Ensemble` and the SavedModel against a whole model in NumPy and slow searches over it."""

import numpy as np
import pytest
import scipy.stats
import seq2seq_in_numpy as reference
import tensorflow as tf

import keras_seq
from keras_seq import decoding
from keras_seq.decoding import BeamSampler, RandomSampler, TopKSampler, TopPSampler

SOURCE_SIZE, TARGET_SIZE = 8, 6
SPECS = {  # the cells of encoder and decoder, the attention, and options
    "lstm": (("lstm", "lstm"), "bahdanau"),
    "gru": (("gru", "gru"), "bahdanau"),
    "mgu": (("mgu", "mgu"), "bahdanau"),
    "rnn": (("rnn", "rnn"), "bahdanau"),
    "luong lstm": (("gru", "lstm"), "luong"),
    "luong gru": (("lstm", "gru"), "luong"),
    "luong mgu": (("rnn", "mgu"), "luong"),
    "luong rnn": (("mgu", "rnn"), "luong"),
    "no attention": (("gru", "lstm"), None),
    "maxout": (("lstm", "gru"), "bahdanau", {"readout": "maxout", "layer_norm": True}),
    "luong tanh": (("gru", "lstm"), "luong", {"readout": "tanh", "readout_units": 5}),
    "maxout without attention": (("gru", "rnn"), None, {"readout": "maxout", "layer_norm": True}),
}
NO_PROCESSORS = ([], ())
PROCESSORS = {
    "none": NO_PROCESSORS,
    "repetition": ([decoding.RepetitionPenalty(1.7)], [reference.repetition_penalty(1.7)]),
    "bigrams": ([decoding.NoRepeatNGram(2)], [reference.no_repeat_n_gram(2)]),
    "length": (
        [decoding.MinLength(2), decoding.NoRepeatNGram(1)],
        [reference.min_length(2), reference.no_repeat_n_gram(1)],
    ),
    "prefix": (
        [decoding.RepetitionPenalty(0.6), decoding.ForcedPrefix([5, 4])],
        [reference.repetition_penalty(0.6), reference.forced_prefix((5, 4))],
    ),
    "lexicon": (
        [decoding.Lexicon([[4, 5], [4], [5, 5, 4], [1, 4]], TARGET_SIZE)],
        [reference.lexicon([(4, 5), (4,), (5, 5, 4), (1, 4)])],
    ),
}
BEAMS = [
    {"num_beams": 1, "length_penalty": 1.0},
    {"num_beams": 2, "length_penalty": 1.3},
    {"num_beams": 3},
    {"num_beams": 3, "length_penalty": -0.7},
    {"num_beams": 4, "length_penalty": 0.6, "coverage_penalty": 0.3},
    {"num_beams": 4, "num_groups": 2, "diversity_penalty": 0.9},
    {"num_beams": 4, "num_groups": 4, "diversity_penalty": 0.4, "length_penalty": 0.5},
]
FAST_BEAM = {"num_beams": 4, "num_groups": 2, "diversity_penalty": 0.5, "length_penalty": 0.6}


def make_model(name, seed, dtype="float32", units=(3, 4)):
    cells, attention, *options = SPECS[name]
    options = {"dtype": dtype, **(options[0] if options else {})}
    shared = {key: value for key, value in options.items() if "readout" not in key}
    encoder = keras_seq.Encoder(SOURCE_SIZE, 3, units[0], cell=cells[0], **shared)
    decoder = keras_seq.Decoder(TARGET_SIZE, 3, units[1], cell=cells[1], attention=attention, **options)
    model = keras_seq.Seq2Seq(encoder, decoder, dtype=dtype)
    model((np.array([[4, 3]]), np.array([[2]])))
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape) * (1 / weight.shape[0] ** 0.5 if "kernel" in weight.path else 1))
    readout = model.decoder.readout.kernel
    readout.assign(3 * readout)  # distributions are neither flat nor peaked
    return model


def in_numpy(model, name):
    cells, attention, *options = SPECS[name]
    return reference.NumpySeq2Seq(model, cells, attention, **(options[0] if options else {}))


def draw_sources(seed, count, longest=6):
    """Returns a list of tuples of ids that end with [END], and the padded array."""
    rng = np.random.default_rng(seed)
    sources = [(*rng.integers(4, SOURCE_SIZE, rng.integers(0, longest)).tolist(), 3) for _ in range(count)]
    width = max(map(len, sources))
    return sources, np.array([[*source, *[0] * (width - len(source))] for source in sources])


def output_of(row):
    """Returns the tokens of a row of `token_ids`, which must be followed by zeros only."""
    length = np.count_nonzero(row)
    assert not row[length:].any()
    assert reference.END not in row[: length - 1]
    return tuple(row[:length].tolist())


def assert_equal_results(model, expected, results, sources, rankings, limits):
    """Compares a result of `generate` with `[(score, output)]` of each source."""
    results = {key: value if value.ndim > 1 else value[:, None] for key, value in results.items()}
    if results["token_ids"].ndim == 2:
        results["token_ids"] = results["token_ids"][:, None]
        results["attention_weights"] = results["attention_weights"][:, None]
    assert results["attention_weights"].shape[:3] == results["token_ids"].shape
    pairs = []
    for row, (source, ranking) in enumerate(zip(sources, rankings, strict=True)):
        number = results["scores"].shape[1]
        ranking = ranking[:number]
        outputs = [output_of(ids) for ids in results["token_ids"][row]]
        assert outputs == [output for _, output in ranking] + [()] * (number - len(ranking))
        assert all(output[-1] == reference.END or len(output) == limits[row] for _, output in ranking)
        assert (results["scores"][row, len(ranking) :] == -np.inf).all()
        for n, (score, output) in enumerate(ranking):
            np.testing.assert_allclose(results["scores"][row, n], score, rtol=1e-5, atol=5e-5)
            log_probability = results["log_probabilities"][row, n]
            np.testing.assert_allclose(
                log_probability, reference.log_probability(expected, source, output), rtol=1e-5, atol=5e-5
            )
            weights = results["attention_weights"][row, n]
            wanted = expected.attention_weights(source, output)
            assert weights.shape[1] == 0 if wanted.shape[1] == 0 else weights.shape[1] >= len(source)
            padding = [(0, weights.shape[0] - wanted.shape[0]), (0, weights.shape[1] - wanted.shape[1])]
            np.testing.assert_allclose(weights, np.pad(wanted, padding), atol=2e-5)
            if output[-1] == reference.END:
                pairs.append((row, output, log_probability))
    if pairs:
        rows, outputs, log_probabilities = zip(*pairs, strict=True)
        scores = model.score([list(sources[row]) for row in rows], [list(output) for output in outputs])
        np.testing.assert_allclose(scores, log_probabilities, atol=1e-5)


def check_greedy(model, expected, sources, array, processors=NO_PROCESSORS, limit=4):
    ours, theirs = processors
    outputs = [reference.greedy(expected, source, limit, theirs) for source in sources]
    rankings = [
        [(reference.processed_total(expected, source, output, theirs), output)]
        for source, output in zip(sources, outputs, strict=True)
    ]
    results = model.generate(array, max_length=limit, batch_size=3, processors=ours, return_dict=True)
    assert_equal_results(model, expected, results, sources, rankings, [limit] * len(sources))


def check_beam(model, expected, sources, array, options, processors=NO_PROCESSORS, limit=4):
    ours, theirs = processors
    sampler = BeamSampler(**options, num_return_sequences=min(3, options["num_beams"]))
    rankings = [reference.beam(expected, source, limit, processors=theirs, **options) for source in sources]
    results = model.generate(array, max_length=limit, batch_size=4, sampler=sampler, processors=ours, return_dict=True)
    assert_equal_results(model, expected, results, sources, rankings, [limit] * len(sources))


@pytest.mark.parametrize(
    ("name", "processors"), [("maxout", "repetition"), pytest.param("luong gru", "lexicon", marks=pytest.mark.slow)]
)
def test_a_model_generates_what_the_reference_does(name, processors):
    model = make_model(name, seed=5)
    sources, array = draw_sources(6, 9)
    expected = in_numpy(model, name)
    check_greedy(model, expected, sources, array, PROCESSORS[processors])
    check_beam(model, expected, sources, array, FAST_BEAM, PROCESSORS[processors])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "implementation", "first"), [("float32", "auto", 0), ("float32", "xla", 1), ("float64", "auto", 2)]
)
@pytest.mark.parametrize("name", SPECS)
def test_every_model_generates_what_the_reference_does(name, dtype, implementation, first):
    """Each case has a third of the processors."""
    beams = [options for options in BEAMS if SPECS[name][1] is not None or "coverage_penalty" not in options]
    with keras_seq.ops.use_implementation(implementation):
        for seed, processors in list(enumerate([*PROCESSORS.values(), NO_PROCESSORS]))[first::3]:
            model = make_model(name, seed, dtype)
            sources, array = draw_sources(seed, 7)
            expected = in_numpy(model, name)
            check_greedy(model, expected, sources, array, processors)
            check_beam(model, expected, sources, array, beams[seed % len(beams)], processors)


@pytest.mark.slow
@pytest.mark.parametrize("options", BEAMS, ids=lambda options: " ".join(map(str, options.values())))
def test_a_long_beam_search_ends_no_earlier_than_it_may(options):
    for seed in range(5):
        model = make_model("gru", seed)
        check_beam(model, in_numpy(model, "gru"), *draw_sources(seed, 12), options, limit=12)


def test_as_many_beams_as_tokens_find_the_best_output_of_two_tokens():
    model = make_model("luong lstm", seed=2)
    sources, array = draw_sources(3, 12)
    expected = in_numpy(model, "luong lstm")
    best = [reference.exhaustive(expected, source, 2, length_penalty=0.8)[0] for source in sources]
    sampler = BeamSampler(TARGET_SIZE - 2, length_penalty=0.8)
    results = model.generate(array, max_length=2, sampler=sampler, return_dict=True)
    assert [output_of(row) for row in results["token_ids"]] == [output for _, output in best]
    np.testing.assert_allclose(results["scores"], [score for score, _ in best], atol=1e-5)


def probabilities_of_outputs(model, source, limit, processors, options, history=()):
    """Yields each possible output with the probability that a sampler draws it."""
    if len(history) == limit or reference.END in history:
        yield history, 1.0
        return
    scores = reference.token_scores(model, source, history, processors)
    for token, probability in enumerate(reference.draw_distribution(scores, **options)):
        if probability > 0:
            longer = (*history, token)
            for output, rest in probabilities_of_outputs(model, source, limit, processors, options, longer):
                yield output, probability * rest


@pytest.mark.parametrize(
    ("sampler", "options", "processors"),
    [
        (RandomSampler(1.3), {"temperature": 1.3}, "repetition"),
        pytest.param(RandomSampler(), {}, "none", marks=pytest.mark.slow),
        pytest.param(RandomSampler(0.6), {"temperature": 0.6}, "bigrams", marks=pytest.mark.slow),
        pytest.param(TopKSampler(2, 1.5), {"k": 2, "temperature": 1.5}, "length", marks=pytest.mark.slow),
        pytest.param(TopPSampler(0.8), {"p": 0.8}, "none", marks=pytest.mark.slow),
        pytest.param(
            TopPSampler(0.7, k=3, temperature=1.5),
            {"p": 0.7, "k": 3, "temperature": 1.5},
            "none",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["processors", "random", "temperature", "top_k", "top_p", "top_p of top_k"],
)
def test_whole_outputs_are_drawn_with_their_exact_probabilities(sampler, options, processors):
    model, count = make_model("luong gru", seed=3), 3000
    sources = [(4, 6, 5, 3), (7, 4, 3)]
    array = np.tile([[4, 6, 5, 3], [7, 4, 3, 0]], [count, 1])  # their batches differ
    ours, theirs = PROCESSORS[processors]
    ids = model.generate(array, max_length=3, sampler=sampler, seed=8, processors=ours, batch_size=500, verbose=0)
    for i, source in enumerate(sources):
        expected = dict(probabilities_of_outputs(in_numpy(model, "luong gru"), source, 3, theirs, options))
        assert sum(expected.values()) == pytest.approx(1)
        counts = dict.fromkeys(expected, 0)
        for row in ids[i::2]:
            counts[output_of(row)] += 1
        pairs = sorted((expected[output] * count, counts[output]) for output in expected)
        rare = [pair for pair in pairs if pair[0] < 5]
        pairs = [*pairs[len(rare) :], np.sum(rare, axis=0)] if np.sum(rare) >= 5 else pairs[len(rare) :]
        frequent, observed = np.transpose(pairs)
        statistic = np.sum((observed - frequent) ** 2 / frequent)
        assert scipy.stats.chi2.sf(statistic, len(pairs)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("average", ["probabilities", "log_probabilities"])
def test_an_ensemble_generates_what_the_reference_does(average):
    names, units, dtypes = ["luong lstm", "no attention", "rnn"], [(3, 4), (2, 5), (4, 3)], ["float32", "float64"] * 2
    models = [
        make_model(name, seed, dtype, sizes)
        for seed, (name, sizes, dtype) in enumerate(zip(names, units, dtypes, strict=False))
    ]
    ensemble = keras_seq.Ensemble(models, average=average)
    expected = reference.NumpyEnsemble([in_numpy(*pair) for pair in zip(models, names, strict=True)], average)
    sources, array = draw_sources(1, 9)
    check_greedy(ensemble, expected, sources, array)
    options = {"num_beams": 3, "length_penalty": 0.7, "coverage_penalty": 0.2}
    check_beam(ensemble, expected, sources, array, options, PROCESSORS["repetition"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["no attention", "luong tanh"])
def test_a_saved_model_generates_what_the_reference_does(name, tmp_path):
    model = make_model(name, seed=4)
    model.decoder.readout.bias.assign([0, 0, 0, 1, 0, 0])  # so that not all outputs are long
    model.export(tmp_path / "saved")
    signatures = tf.saved_model.load(tmp_path / "saved").signatures
    sources, array = draw_sources(2, 7, longest=4)

    def run(endpoint):
        return {key: value.numpy() for key, value in signatures[endpoint](inputs=tf.constant(array, tf.int32)).items()}

    expected = in_numpy(model, name)
    limits = [2 * len(source) + 10 for source in sources]
    outputs = [reference.greedy(expected, source, limit) for source, limit in zip(sources, limits, strict=True)]
    results = run("generate_attention" if "generate_attention" in signatures else "serving_default")
    results["scores"] = results["log_probabilities"]
    results.setdefault("attention_weights", np.zeros((*results["token_ids"].shape, 0)))
    rankings = [
        [(reference.log_probability(expected, source, output), output)]
        for source, output in zip(sources, outputs, strict=True)
    ]
    assert_equal_results(model, expected, results, sources, rankings, limits)
    num_beams = TARGET_SIZE - 2
    results = run("generate_beam")
    for row, (source, limit) in enumerate(zip(sources, limits, strict=True)):
        ranking = reference.beam(expected, source, limit, num_beams)[:num_beams]
        assert [output_of(ids) for ids in results["token_ids"][row]] == [output for _, output in ranking]
        for key in ("scores", "log_probabilities"):
            np.testing.assert_allclose(results[key][row], [score for score, _ in ranking], rtol=1e-5, atol=5e-5)

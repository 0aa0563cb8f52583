# SPDX-License-Identifier: Apache-2.0
"""The pointer-generator, `Decoder(copy=True)`, against NumPy, and in training, searches and saved models."""

import itertools
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from models.seq2seq_in_numpy import NumpySeq2Seq, exhaustive, log_probability, sigmoid

import keras_seq
from keras_seq.decoding import BeamSampler
from keras_seq.models.copying import PointerGenerator

PAD, UNK, START, END = range(4)
VOCABULARY = 8
SOURCES = np.array([[4, 5, 4, 7, 3], [6, 1, 6, 3, 0]])
INPUTS = np.array([[2, 5, 6, 7], [2, 6, 1, 0]])


def reference(log_vocabulary, gate, weights, tokens, keep):
    """Returns the probabilities of the mixture for one step of one source, position by position."""
    copied = np.zeros(len(log_vocabulary))
    for token, weight, is_kept in zip(tokens, weights, keep, strict=True):
        if is_kept and token not in (PAD, START) and 0 <= token < len(copied):
            copied[token] += weight
    mixed = sigmoid(gate) * np.exp(log_vocabulary) + (1 - sigmoid(gate)) * copied
    return mixed / mixed.sum()


class NumpyPointerGenerator(NumpySeq2Seq):
    def __init__(self, model, cells, attention):
        super().__init__(model, cells, attention)
        self.gate_weights = [np.asarray(w, "float64") for w in model.decoder.pointer_generator.weights]

    def step(self, source, history):
        result, weights, (states, fed) = super().step(source, history)
        of_embedding, of_output, of_context, bias = (w[..., 0] for w in self.gate_weights)
        memory, _, _ = self.start(tuple(map(int, source)))
        output = states[0] if fed is None else fed
        embedding = self.target_embeddings[history[-1] if len(history) else START]
        gate = weights @ memory @ of_context + output @ of_output + embedding @ of_embedding + bias
        mixed = reference(result, gate, weights, source, np.ones(len(source), bool))
        return np.log(mixed), weights, (states, fed)


def make_model(seed=1, **options):
    keras.utils.set_random_seed(seed)
    decoder = keras_seq.Decoder(VOCABULARY, 4, 6, copy=True, seed=3, **options)
    model = keras_seq.Seq2Seq(keras_seq.Encoder(VOCABULARY, 4, 6, seed=2), decoder)
    rng = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


def draw_mixture(seed, dtype="float64", rows=3, extreme=1.0):
    """Returns a layer with drawn weights and drawn arguments for it: a dict of arrays."""
    rng = np.random.default_rng(seed)
    layer = PointerGenerator(VOCABULARY, dtype=dtype)
    layer.build(2, 3, 5)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape) * extreme)
    sources, positions = 4, int(rng.integers(1, 7))
    keep = rng.random((sources, positions)) < 0.7
    weights = rng.random((sources, rows, positions)) * keep[:, None]
    weights[rng.random(weights.shape) < 0.2] = 0  # as a softmax that underflows
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-30)
    arrays = {
        "logits": rng.normal(size=(sources, rows, VOCABULARY)) * extreme,
        "outputs": rng.normal(size=(sources, rows, 3)),
        "embeddings": rng.normal(size=(sources, rows, 2)),
        "attention_weights": weights,
    }
    memory = rng.normal(size=(sources, positions, 5))
    memory[~keep] = np.nan  # where it is masked, nothing may read it
    tokens = rng.integers(-1, VOCABULARY + 2, size=(sources, positions))  # with repetitions and ids outside
    return layer, arrays, (memory, tokens, keep)


def mix(layer, arrays, source, **options):
    memory, tokens, keep = source
    return layer.mix(**arrays, source=layer.read_source(memory, tokens, keep), **options)


@pytest.mark.parametrize("seed", range(10))
def test_the_mixture_is_that_of_a_loop_over_positions(seed):
    layer, arrays, source = draw_mixture(seed)
    memory, tokens, keep = source
    of_embedding, of_output, of_context, bias = (np.array(w)[..., 0] for w in layer.weights)
    contexts = arrays["attention_weights"] @ np.where(keep[..., None], memory, 0)
    gates = contexts @ of_context + arrays["outputs"] @ of_output + arrays["embeddings"] @ of_embedding + bias
    logs = arrays["logits"] - np.log(np.exp(arrays["logits"]).sum(-1, keepdims=True))
    result = mix(layer, arrays, source)
    steps = logs, gates, arrays["attention_weights"]
    expected = [
        [reference(*row, tokens[i], keep[i]) for row in zip(*(x[i] for x in steps), strict=True)]
        for i in range(len(tokens))
    ]
    np.testing.assert_allclose(np.exp(result), expected, rtol=1e-12)
    rows = {name: x.reshape(-1, x.shape[-1]) for name, x in arrays.items()}
    as_beams = mix(layer, rows, source, num_beams=3)
    np.testing.assert_array_equal(as_beams, np.reshape(result, (-1, VOCABULARY)))


def test_probabilities_sum_to_one_for_every_source_of_three_tokens():
    tokens = np.array(list(itertools.product(range(6), repeat=3)))  # (216, 3)
    rng = np.random.default_rng(0)
    layer = PointerGenerator(6, dtype="float64")
    layer.build(2, 3, 5)
    weights = rng.dirichlet(np.ones(3), len(tokens))[:, None]
    shapes = {"logits": 6, "outputs": 3, "embeddings": 2}
    arrays = {name: rng.normal(size=(len(tokens), 1, size)) for name, size in shapes.items()}
    source = layer.read_source(rng.normal(size=(len(tokens), 3, 5)), tokens)
    result = np.exp(layer.mix(**arrays, attention_weights=weights, source=source))
    np.testing.assert_allclose(result.sum(-1), 1, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_values_and_gradients_are_finite_at_extremes(dtype):
    """Gates and logits of hundreds, weights of 0 and subnormal ones, and all positions masked."""
    layer, arrays, (memory, tokens, keep) = draw_mixture(0, dtype, extreme=100.0)
    keep[0] = False
    arrays["attention_weights"][1] = 1e-40
    arrays = {name: tf.constant(x, layer.compute_dtype) for name, x in arrays.items()}
    with tf.GradientTape() as tape:
        tape.watch(arrays)
        result = mix(layer, arrays, (memory, tokens, keep))
        total = tf.reduce_sum(result)
    gradients = tape.gradient(total, [*arrays.values(), *layer.trainable_variables])
    assert result.dtype == tf.float32
    for values in (result, *gradients):
        assert np.isfinite(np.asarray(values, "float32")).all()
    np.testing.assert_allclose(np.exp(result).sum(-1), 1, rtol=1e-4)


def test_gradients_are_finite_differences():
    layer, arrays, source = draw_mixture(5)
    arrays["attention_weights"] = np.maximum(arrays["attention_weights"], 0.05)  # at 0 there is no two-sided difference
    rng = np.random.default_rng(1)
    target = rng.normal(size=arrays["logits"].shape)
    arrays = {name: tf.Variable(x) for name, x in arrays.items()}
    values = [*arrays.values(), *layer.trainable_variables]

    def loss():
        return tf.reduce_sum(target * mix(layer, {name: x + 0 for name, x in arrays.items()}, source))

    with tf.GradientTape() as tape:
        total = loss()
    for value, gradient in zip(values, tape.gradient(total, values), strict=True):
        direction, at = rng.normal(size=value.shape), value.numpy()
        value.assign(at + 1e-6 * direction)
        above = loss()
        value.assign(at - 1e-6 * direction)
        difference = (above - loss()) / 2e-6
        value.assign(at)
        np.testing.assert_allclose(difference, np.sum(gradient * direction), rtol=1e-6)


def test_a_tie_shares_its_gradient():
    """Where copying and generating a token are equally likely, each has half of it."""
    layer = PointerGenerator(5, dtype="float64")
    layer.build(1, 1, 1)
    for weight in layer.weights:
        weight.assign(np.zeros(weight.shape))
    logits = tf.constant([[[-1e30, -1e30, -1e30, -1e30, 0.0]]], tf.float64)
    weights = tf.constant([[[1.0]]], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        source = layer.read_source(np.ones((1, 1, 1)), [[4]])
        result = layer.mix(logits, np.ones((1, 1, 1)), np.ones((1, 1, 1)), weights, source)[0, 0, 4]
        unnormalized = result + tf.math.log(0.5 + 0.5 * weights[0, 0, 0])
    assert float(result) == pytest.approx(0)
    assert float(tape.gradient(unnormalized, weights)[0, 0, 0]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("cell", "attention"),
    [("lstm", "bahdanau"), pytest.param("gru", "luong", marks=pytest.mark.slow)],
)
def test_a_model_scores_and_searches_as_the_reference_does(cell, attention):
    model = make_model(cell=cell, attention=attention)
    plain = NumpyPointerGenerator(model, ("lstm", cell), attention)
    targets = np.array([[4, 4, 3, 0], [5, 1, 6, 3]])
    sources = [(4, 5, 4, 7, 3), (6, 1, 6, 3)]
    expected = [log_probability(plain, s, [t for t in y if t]) for s, y in zip(sources, targets, strict=True)]
    np.testing.assert_allclose(model.score(SOURCES, targets), expected, rtol=1e-4)
    beams = VOCABULARY - 2
    sampler = BeamSampler(beams, num_return_sequences=3)
    results = model.generate(SOURCES, max_length=2, sampler=sampler, return_dict=True)  # finds the best two tokens
    for i, source in enumerate(sources):
        best = exhaustive(plain, source, 2)[:3]
        np.testing.assert_allclose(results["scores"][i], [score for score, _ in best], rtol=1e-4)
        assert results["token_ids"][i, 0, : len(best[0][1])].tolist() == list(best[0][1])


def test_steps_of_training_give_what_a_call_gives():
    model = make_model(dropout=0.5, readout="tanh")
    decoder = model.decoder
    memory, summary = model.encoder(SOURCES)
    mask = SOURCES != PAD
    with decoder.training_step_function(memory, mask, SOURCES) as step:
        state, steps = decoder.get_initial_state(summary, memory), []
        for tokens in INPUTS.T:
            logits, state, _ = step(tokens, state)
            steps.append(logits)
    expected = decoder(INPUTS, memory, summary, memory_mask=mask, source_tokens=SOURCES, training=True)
    np.testing.assert_allclose(np.stack(steps, 1), expected, rtol=1e-4)


def test_padding_of_sources_changes_nothing(model):
    padded = np.pad(SOURCES, [(0, 0), (0, 3)])
    np.testing.assert_allclose(model((padded, INPUTS)), model((SOURCES, INPUTS)), rtol=1e-5)


def test_the_configuration_and_that_of_earlier_versions(model):
    config = model.decoder.get_config()
    assert keras_seq.Decoder.from_config(config).copy is True
    del config["copy"]
    assert keras_seq.Decoder.from_config(config).copy is False


def test_the_output_spec_is_that_of_the_results():
    decoder = make_model(dtype="mixed_bfloat16").decoder
    shapes = ((2, 4), "int32"), ((2, 5, 12), "bfloat16"), ((2, 24), "bfloat16")
    tokens, memory, summary = (keras.KerasTensor(*shape) for shape in shapes)
    symbolic = decoder(tokens, memory, summary, source_tokens=keras.KerasTensor((2, 5), "int32"))
    assert (symbolic.shape, symbolic.dtype) == ((2, 4, VOCABULARY), "float32")


class TestErrors:
    def test_no_attention(self):
        with pytest.raises(ValueError, match="needs an `attention`"):
            keras_seq.Decoder(9, 4, 6, attention=None, copy=True)

    def test_vocabularies_that_differ_in_size(self):
        with pytest.raises(ValueError, match="vocabularies of 9 and 8 tokens"):
            keras_seq.Seq2Seq(keras_seq.Encoder(9, 4, 6), keras_seq.Decoder(8, 4, 6, copy=True))

    def test_vocabularies_that_differ_in_a_token(self):
        source, target = (keras_seq.data.text_vectorizer([text]) for text in ("abc", "abd"))
        with pytest.raises(ValueError, match="tokens of id 4 are 'c' and 'd'"):
            keras_seq.Seq2Seq(keras_seq.Encoder(7, 4, 6), keras_seq.Decoder(7, 4, 6, copy=True), source, target)

    def test_sources_that_are_arrays(self):
        with pytest.raises(ValueError, match="sources that are arrays"):
            keras_seq.Seq2Seq(keras.layers.Conv1D(4, 2), keras_seq.Decoder(9, 4, 6, copy=True))

    def test_source_tokens_are_missing_or_not_read(self, model):
        memory, summary = model.encoder(SOURCES)
        with pytest.raises(ValueError, match="Received: None with copy=True"):
            model.decoder(INPUTS, memory, summary)
        with pytest.raises(ValueError, match="must have one token for each position"):
            model.decoder(INPUTS, memory, summary, source_tokens=SOURCES[:, 1:])
        other = keras_seq.Decoder(VOCABULARY, 4, 6)
        with pytest.raises(ValueError, match="with copy=False"):
            other(INPUTS, memory, summary, source_tokens=SOURCES)

    def test_features_of_the_readout(self, model):
        with pytest.raises(ValueError, match="`return_features` must be False"):
            model((SOURCES, INPUTS), return_features=True)
        assert model.readout is None  # there is nothing to fuse with the loss

    def test_an_encoder_with_other_positions(self):
        text = keras_seq.data.text_vectorizer(["abcdefg"])
        encoder = keras.Sequential([keras.layers.Embedding(11, 4), keras.layers.Conv1D(4, 2, strides=2)])
        model = keras_seq.Seq2Seq(encoder, keras_seq.Decoder(11, 4, 6, copy=True), text, text)
        with pytest.raises(ValueError, match="one position for each source token"):
            model((np.array([[4, 5, 6, 3]]), np.array([[2, 4]])))


def reversed_pairs(count, seed, vocabulary):
    """Returns random sources of three to five tokens and their reversals, each with `[END]`."""
    rng = np.random.default_rng(seed)
    source, target = np.zeros((2, count, 6), "int32")
    for i in range(count):
        tokens = rng.integers(4, vocabulary, rng.integers(3, 6))
        source[i, : len(tokens) + 1] = [*tokens, END]
        target[i, : len(tokens) + 1] = [*tokens[::-1], END]
    return source, target


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "jit_compile", "mode"),
    [
        ("float32", False, "parallel"),
        ("float32", True, "sequential"),
        ("mixed_bfloat16", False, "sequential"),
        ("mixed_bfloat16", True, None),
    ],
)
def test_training_under_jit_policies_and_scheduled_sampling(policy, jit_compile, mode):
    keras.utils.set_random_seed(1)
    decoder = keras_seq.Decoder(VOCABULARY, 8, 16, copy=True, dropout=0.1, seed=3, dtype=policy)
    model = keras_seq.Seq2Seq(keras_seq.Encoder(VOCABULARY, 8, 16, dtype=policy), decoder)
    sampling = mode and keras_seq.training.ScheduledSampling(0.2, mode=mode, seed=1)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=jit_compile, scheduled_sampling=sampling)
    losses = model.fit(*reversed_pairs(256, 0, VOCABULARY), epochs=4, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.slow
def test_copying_is_learned_where_attention_alone_is_not():
    """Reversal of held-out strings over 300 tokens, each seen 20 times in training."""
    vocabulary, accuracies = 300, {}
    held_out, expected = reversed_pairs(200, 1, vocabulary)
    for copy in (True, False):
        keras.utils.set_random_seed(1)
        model = keras_seq.Seq2Seq(
            keras_seq.Encoder(vocabulary, 32, 48, cell="gru"),
            keras_seq.Decoder(vocabulary, 32, 48, cell="gru", copy=copy),
        )
        model.compile(keras.optimizers.Adam(5e-3))
        model.fit(*reversed_pairs(1500, 0, vocabulary), epochs=10, batch_size=50, verbose=0)
        outputs = model.generate(held_out, max_length=6)
        outputs = np.pad(outputs, [(0, 0), (0, 6 - outputs.shape[1])])
        accuracies[copy] = np.mean(np.all(outputs == expected, axis=1))
    assert accuracies[True] > 0.95
    assert accuracies[False] < 0.2


LOAD_KERAS = """
import sys, keras, keras_seq, numpy as np
model = keras.saving.load_model(sys.argv[1])
np.savez(sys.argv[2], **model.generate(np.load(sys.argv[3]), return_dict=True))
"""
LOAD_SAVED_MODEL = """
import sys, tensorflow as tf, numpy as np
results = tf.saved_model.load(sys.argv[1]).signatures["serving_default"](inputs=tf.constant(np.load(sys.argv[3])))
assert "keras_seq" not in sys.modules
np.savez(sys.argv[2], **{name: value.numpy() for name, value in results.items()})
"""


@pytest.mark.slow
def test_saved_models_in_new_processes(model, tmp_path):
    np.save(tmp_path / "sources.npy", SOURCES.astype("int32"))

    def run(script, path):
        arguments = [str(path), str(tmp_path / "results.npz"), str(tmp_path / "sources.npy")]
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return dict(np.load(tmp_path / "results.npz"))

    model.save(tmp_path / "model.keras")
    expected = model.generate(SOURCES, return_dict=True)
    loaded = run(LOAD_KERAS, tmp_path / "model.keras")
    assert loaded.keys() == expected.keys()
    for name, values in loaded.items():
        np.testing.assert_array_equal(values, expected[name])  # to the last bit
    model.export(tmp_path / "saved")
    exported = run(LOAD_SAVED_MODEL, tmp_path / "saved")
    np.testing.assert_array_equal(exported["token_ids"], expected["token_ids"])
    np.testing.assert_allclose(exported["log_probabilities"], expected["log_probabilities"], rtol=1e-4)


def token_scores(model, sources, token_ids):
    """Returns the scores (batch, time) of outputs, which may have been cut at a limit, zeros for padding."""
    ended = [[*ids[ids != PAD], *([] if END in ids else [END])] for ids in token_ids]
    scores = model.score(sources, tf.ragged.constant(ended), return_dict=True)["token_log_probabilities"]
    return np.where(token_ids != PAD, scores[:, : token_ids.shape[1]], 0)


@pytest.mark.slow
def test_ensembles_and_features_copy(model):
    members = model, make_model(2)
    results = keras_seq.Ensemble(members).generate(SOURCES, return_dict=True)
    logs = [token_scores(member, SOURCES, results["token_ids"]) for member in members]
    means = np.where(results["token_ids"] != PAD, np.logaddexp(*logs) - np.log(2), 0)
    np.testing.assert_allclose(results["log_probabilities"], means.sum(1), rtol=1e-4)
    layer = keras.layers.StringLookup(vocabulary=["de", "en"])
    parts = keras_seq.Encoder(VOCABULARY, 4, 6), keras_seq.Decoder(VOCABULARY, 4, 6, copy=True)
    conditioned = keras_seq.Seq2Seq(*parts, features={"language": layer})
    sources = {"source": SOURCES, "language": ["de", "en"]}
    outputs = conditioned.generate(sources, max_length=3, sampler=BeamSampler(3), return_dict=True)
    sums = token_scores(conditioned, sources, outputs["token_ids"]).sum(1)
    np.testing.assert_allclose(outputs["log_probabilities"], sums, rtol=1e-4)

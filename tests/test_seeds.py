# SPDX-License-Identifier: Apache-2.0
"""One seed gives independent, reproducible masks to everything that is built from it."""

import itertools

import keras
import numpy as np
import pytest

import keras_seq
from keras_seq import layers
from keras_seq.layers.recurrent_cell import RecurrentCell
from keras_seq.ops.random import child_seed, dropout_mask
from keras_seq.training import ScheduledSampling

BATCH, UNITS, RATE = 500, 40, 0.5
RATES = {"dropout": RATE, "recurrent_dropout": RATE}
EVERY_RATE = {**RATES, "zoneout": RATE, "recurrent_weight_dropout": RATE}


def encoder(seed, **options):
    return keras_seq.Encoder(9, UNITS, UNITS, seed=seed, **RATES, **options)


def decoder(seed, **options):
    return keras_seq.Decoder(9, UNITS, UNITS, seed=seed, **RATES, **options)


# Functions from a seed to a list of layers and models.
BUILDERS = {
    "stack": lambda seed: [layers.LSTM(UNITS, seed=seed, num_layers=3, **EVERY_RATE)],
    "naive": lambda seed: [layers.GRU(UNITS, seed=seed, num_layers=2, dropout_mode="naive", **EVERY_RATE)],
    "Bidirectional": lambda seed: [layers.Bidirectional(layers.GRU(UNITS, seed=seed, num_layers=2, **EVERY_RATE))],
    "Bidirectional of a cell": lambda seed: [
        layers.Bidirectional(layers.RNN(layers.LSTMCell(UNITS, seed=seed, **EVERY_RATE)))
    ],
    "Bidirectional of Keras": lambda seed: [layers.Bidirectional(keras.layers.LSTM(UNITS, seed=seed, **RATES))],
    "VariationalDropout": lambda seed: [
        layers.VariationalDropout(
            layers.Bidirectional(layers.LSTM(UNITS, num_layers=2)), RATE, RATE, RATE, seed=seed
        )
    ],
    "VariationalDropout of Keras": lambda seed: [
        layers.VariationalDropout(
            keras.layers.RNN([keras.layers.GRUCell(UNITS), keras.layers.SimpleRNNCell(UNITS)]), RATE, RATE, RATE, seed
        ),
    ],
    "VariationalDropout of SimpleRNN": lambda seed: [
        layers.VariationalDropout(keras.layers.SimpleRNN(UNITS), RATE, RATE, RATE, seed)
    ],
    "AttentionDecoder": lambda seed: [layers.AttentionDecoder(UNITS, attention="monotonic", seed=seed, **RATES)],
    "Encoder": lambda seed: [encoder(seed, num_layers=3)],
    "Encoder in one direction": lambda seed: [encoder(seed, num_layers=3, cell="gru", bidirectional=False)],
    "Decoder": lambda seed: [decoder(seed, attention="monotonic")],
    "Decoder without attention": lambda seed: [decoder(seed, attention=None, cell="rnn")],
    "Decoder with token dropout": lambda seed: [decoder(seed, token_dropout=RATE, readout="maxout")],
    "deep Decoder": lambda seed: [decoder(seed, num_layers=3)],
    "Encoder and Decoder of one cell": lambda seed: [
        part(9, UNITS, None, layers.GRUCell(UNITS, **EVERY_RATE), dropout=RATE, num_layers=2, seed=seed)
        for part in (keras_seq.Encoder, keras_seq.Decoder)
    ],
    "a cell with a seed": lambda seed: [
        keras_seq.Encoder(9, UNITS, None, layers.GRUCell(UNITS, seed=seed, **RATES), dropout=RATE, seed=seed),
        keras_seq.Decoder(9, UNITS, None, layers.GRU(UNITS, num_layers=2, seed=seed, **RATES), None, RATE, seed=seed),
    ],
    "a model and a layer": lambda seed: [
        encoder(seed, num_layers=2), decoder(seed), ScheduledSampling(0.5, seed=seed)
    ],
    "seeds in a row": lambda seed: [
        layers.LSTM(UNITS, seed=seed, num_layers=3, **RATES),
        layers.Bidirectional(layers.GRU(UNITS, seed=seed + 1, **RATES)),
        layers.LSTM(UNITS, seed=seed + 2, **RATES),
        encoder(seed + 3),
        encoder(seed + 4),
    ],
}  # fmt: skip
every_builder = pytest.mark.parametrize("name", BUILDERS)


def masks_of(built):
    """Returns the masks that all parts draw in one training step: for each a flat array, True where it drops."""
    parts = [part for item in built for part in (item._flatten_layers() if hasattr(item, "build") else [item])]
    masks = []
    for part in parts:
        if isinstance(part, RecurrentCell):
            drawn = part.draw_dropout_masks(np.ones((BATCH, 1, UNITS), "float32"), training=True)
            masks += [mask for mask in keras.tree.flatten(tuple(drawn)) if mask is not None]
        elif isinstance(part, layers.LockedDropout):
            masks.append(part(np.ones((BATCH, 1, UNITS), "float32"), training=True))
        elif hasattr(part, "seed_generator"):
            masks.append(dropout_mask((BATCH, UNITS), RATE, part.seed_generator))
    return [np.ravel(mask) == 0 for mask in masks]


def assert_independent(masks):
    """Asserts that any two masks agree in half of their entries, within 5 standard deviations."""
    assert len(masks) > 1
    for one, other in itertools.combinations(masks, 2):
        count = min(len(one), len(other))
        assert abs(np.mean(one[:count] == other[:count]) - 0.5) < 5 * 0.5 / count**0.5


@every_builder
def test_all_parts_draw_independent_masks_in_every_call(name):
    built = BUILDERS[name](1)
    assert_independent(masks_of(built) + masks_of(built))


@every_builder
def test_the_same_seed_repeats_all_masks_and_another_does_not(name):
    first, second = masks_of(BUILDERS[name](7)), masks_of(BUILDERS[name](7))
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    other_seed = masks_of(BUILDERS[name](8))
    if name != "seeds in a row":
        assert_independent(first + other_seed)


@every_builder
def test_without_a_seed_no_mask_repeats(name):
    if name != "seeds in a row":
        assert_independent(masks_of(BUILDERS[name](None)) + masks_of(BUILDERS[name](None)))


@every_builder
def test_a_layer_from_its_configuration_has_the_same_seed_and_masks(name):
    built = BUILDERS[name](7)
    rebuilt = [type(item).from_config(item.get_config()) for item in built]
    rebuilt_again = [type(item).from_config(item.get_config()) for item in rebuilt]
    assert [getattr(item, "seed", None) for item in rebuilt] == [getattr(item, "seed", None) for item in built]
    for first, second, third in zip(masks_of(built), masks_of(rebuilt), masks_of(rebuilt_again), strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, third)


def test_a_layer_keeps_the_seed_of_its_argument():
    assert layers.LSTM(4, seed=7, num_layers=3).seed == 7
    both = layers.Bidirectional(layers.GRU(4, seed=7))
    assert both.forward_layer.seed == 7
    assert layers.Bidirectional(layers.GRU(4)).backward_layer.seed is None


def test_the_backward_copy_differs_from_keras_only_in_its_seed():
    for layer in (layers.GRU(4, seed=7), layers.RNN(layers.LSTMCell(4, seed=7)), keras.layers.LSTM(4, seed=7)):
        wrappers = layers.Bidirectional(layer), keras.layers.Bidirectional(layer)
        for name in ("forward_layer", "backward_layer"):
            configs = [getattr(wrapper, name).get_config() for wrapper in wrappers]
            for config in configs:
                config.pop("seed", config.get("cell", {}).get("config", {}).pop("seed", None))
            assert configs[0] == configs[1]


def test_a_loaded_model_draws_the_same_masks_from_the_start(tmp_path):
    """As in Keras, a file does not store how many masks were drawn."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(4, 9, (3, 5)), rng.integers(4, 9, (3, 4))
    model = keras_seq.Seq2Seq(encoder(7, num_layers=2), decoder(7, attention="monotonic"))
    first = np.array(model(inputs, training=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for expected in (first, model(inputs, training=True)):
        np.testing.assert_array_equal(loaded(inputs, training=True), expected)


def test_child_seeds_are_distinct_and_reproducible():
    paths = [("Encoder",), ("Decoder",), ("Encoder", 0), ("Encoder", "0"), ("Encoder", "layer", 0), ()]
    seeds = [child_seed(seed, *path) for seed in range(100) for path in paths]
    assert len(set(seeds)) == len(seeds)
    assert not set(seeds) & set(range(100))
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seeds == [child_seed(seed, *path) for seed in range(100) for path in paths]
    assert child_seed(None, "Encoder") is None
    for wrong in ("7", 1.5):
        with pytest.raises(ValueError, match="`seed` must be an integer or None"):
            keras_seq.Encoder(9, 4, 4, seed=wrong)


def test_directions_of_a_converted_bidirectional_have_different_seeds():
    """In Keras, both directions have the same seed."""
    original = keras.layers.Bidirectional(keras.layers.LSTM(4, dropout=0.5, seed=7))
    assert original.backward_layer.cell.seed == 7
    [converted] = keras_seq.convert(keras.Sequential([keras.Input((3, 4)), original])).layers
    assert converted.forward_layer.seed == 7
    assert converted.backward_layer.seed not in (7, None)

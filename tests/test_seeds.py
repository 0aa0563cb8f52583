# SPDX-License-Identifier: Apache-2.0
"""One seed gives independent and reproducible masks to everything that is built from it."""

import itertools

import keras
import numpy as np
import pytest

import keras_seq
from keras_seq import layers
from keras_seq.layers.recurrent_cell import RecurrentCell
from keras_seq.ops.random import child_seed, dropout_mask
from keras_seq.training import ScheduledSampling

MANY, WIDE, RATE = 500, 40, 0.5
RATES = {"dropout": RATE, "recurrent_dropout": RATE}
EVERY_RATE = {**RATES, "zoneout": RATE, "recurrent_weight_dropout": RATE}


def encoder(seed, **options):
    return keras_seq.Encoder(9, WIDE, WIDE, seed=seed, **RATES, **options)


def decoder(seed, **options):
    return keras_seq.Decoder(9, WIDE, WIDE, seed=seed, **RATES, **options)


# Lists of what is built with one seed.
BUILT = {
    "stack": lambda seed: [layers.LSTM(WIDE, seed=seed, num_layers=3, **EVERY_RATE)],
    "naive": lambda seed: [layers.GRU(WIDE, seed=seed, num_layers=2, dropout_mode="naive", **EVERY_RATE)],
    "Bidirectional": lambda seed: [layers.Bidirectional(layers.GRU(WIDE, seed=seed, num_layers=2, **EVERY_RATE))],
    "Bidirectional of a cell": lambda seed: [
        layers.Bidirectional(layers.RNN(layers.LSTMCell(WIDE, seed=seed, **EVERY_RATE)))
    ],
    "Bidirectional of Keras": lambda seed: [layers.Bidirectional(keras.layers.LSTM(WIDE, seed=seed, **RATES))],
    "VariationalDropout": lambda seed: [
        layers.VariationalDropout(
            layers.Bidirectional(layers.LSTM(WIDE, num_layers=2)), RATE, RATE, RATE, seed=seed
        )
    ],
    "VariationalDropout of Keras": lambda seed: [
        layers.VariationalDropout(
            keras.layers.RNN([keras.layers.GRUCell(WIDE), keras.layers.SimpleRNNCell(WIDE)]), RATE, RATE, RATE, seed
        ),
    ],
    "VariationalDropout of SimpleRNN": lambda seed: [
        layers.VariationalDropout(keras.layers.SimpleRNN(WIDE), RATE, RATE, RATE, seed)
    ],
    "AttentionDecoder": lambda seed: [layers.AttentionDecoder(WIDE, attention="monotonic", seed=seed, **RATES)],
    "Encoder": lambda seed: [encoder(seed, num_layers=3)],
    "Encoder in one direction": lambda seed: [encoder(seed, num_layers=3, cell="gru", bidirectional=False)],
    "Decoder": lambda seed: [decoder(seed, attention="monotonic")],
    "Decoder without attention": lambda seed: [decoder(seed, attention=None, cell="rnn")],
    "a model and a layer": lambda seed: [
        encoder(seed, num_layers=2), decoder(seed), ScheduledSampling(0.5, seed=seed)
    ],
    "seeds in a row": lambda seed: [
        layers.LSTM(WIDE, seed=seed, num_layers=3, **RATES),
        layers.Bidirectional(layers.GRU(WIDE, seed=seed + 1, **RATES)),
        layers.LSTM(WIDE, seed=seed + 2, **RATES),
        encoder(seed + 3),
        encoder(seed + 4),
    ],
}  # fmt: skip
every_build = pytest.mark.parametrize("name", BUILT)


def masks_of(built):
    """What is dropped by each mask that the parts draw in one training step, each as a row of bits."""
    parts = [part for whole in built for part in (whole._flatten_layers() if hasattr(whole, "build") else [whole])]
    masks = []
    for part in parts:
        if isinstance(part, RecurrentCell):
            drawn = part.draw_dropout_masks(np.ones((MANY, 1, WIDE), "float32"), training=True)
            masks += [mask for mask in keras.tree.flatten(tuple(drawn)) if mask is not None]
        elif isinstance(part, layers.LockedDropout):
            masks.append(part(np.ones((MANY, 1, WIDE), "float32"), training=True))
        elif hasattr(part, "seed_generator"):
            masks.append(dropout_mask((MANY, WIDE), RATE, part.seed_generator))
    return [np.ravel(mask) == 0 for mask in masks]


def assert_independent(masks):
    """Any two masks agree in half of their bits, within 5 standard deviations."""
    assert len(masks) > 1
    for one, other in itertools.combinations(masks, 2):
        count = min(len(one), len(other))
        assert abs(np.mean(one[:count] == other[:count]) - 0.5) < 5 * 0.5 / count**0.5


@every_build
def test_all_parts_draw_independent_masks_in_every_call(name):
    built = BUILT[name](1)
    assert_independent(masks_of(built) + masks_of(built))


@every_build
def test_a_seed_repeats_all_masks(name):
    first, second = masks_of(BUILT[name](7)), masks_of(BUILT[name](7))
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    other_seed = masks_of(BUILT[name](8))
    if name != "seeds in a row":
        assert_independent(first + other_seed)


@every_build
def test_without_a_seed_nothing_repeats(name):
    if name != "seeds in a row":
        assert_independent(masks_of(BUILT[name](None)) + masks_of(BUILT[name](None)))


@every_build
def test_a_configuration_keeps_seed_and_masks(name):
    built = BUILT[name](7)
    rebuilt = [type(whole).from_config(whole.get_config()) for whole in built]
    again = [type(whole).from_config(whole.get_config()) for whole in rebuilt]
    assert [getattr(whole, "seed", None) for whole in rebuilt] == [getattr(whole, "seed", None) for whole in built]
    for one, other, third in zip(masks_of(built), masks_of(rebuilt), masks_of(again), strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)


def test_a_layer_has_the_seed_it_was_given():
    assert layers.LSTM(4, seed=7, num_layers=3).seed == 7
    both = layers.Bidirectional(layers.GRU(4, seed=7))
    assert both.forward_layer.seed == 7
    assert layers.Bidirectional(layers.GRU(4)).backward_layer.seed is None


def test_both_directions_are_the_layer_otherwise():
    """The copy is Keras's but for the seeds, whatever the layer is."""
    for layer in (layers.GRU(4, seed=7), layers.RNN(layers.LSTMCell(4, seed=7)), keras.layers.LSTM(4, seed=7)):
        ours, of_keras = layers.Bidirectional(layer), keras.layers.Bidirectional(layer)
        for name in ("forward_layer", "backward_layer"):
            configs = [getattr(both, name).get_config() for both in (ours, of_keras)]
            for config in configs:
                config.pop("seed", config.get("cell", {}).get("config", {}).pop("seed", None))
            assert configs[0] == configs[1]


def test_a_model_from_a_file_draws_the_same_masks(tmp_path):
    """From the first on: as in Keras, a file does not hold how many were drawn."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(4, 9, (3, 5)), rng.integers(4, 9, (3, 4))
    model = keras_seq.Seq2Seq(encoder(7, num_layers=2), decoder(7, attention="monotonic"))
    first = np.array(model(inputs, training=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for expected in (first, model(inputs, training=True)):
        np.testing.assert_array_equal(loaded(inputs, training=True), expected)


def test_child_seeds():
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


def test_directions_of_a_converted_bidirectional_draw_their_own_masks():
    """Keras gives the seed of the forward layer to its copy."""
    theirs = keras.layers.Bidirectional(keras.layers.LSTM(4, dropout=0.5, seed=7))
    assert theirs.backward_layer.cell.seed == 7
    [ours] = keras_seq.convert(keras.Sequential([keras.Input((3, 4)), theirs])).layers
    assert ours.forward_layer.seed == 7
    assert ours.backward_layer.seed not in (7, None)

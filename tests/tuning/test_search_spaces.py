# SPDX-License-Identifier: Apache-2.0
"""The search spaces of the models: their defaults, and how hyperparameters reach the models."""

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from small_hypermodels import PAIRS, RANGES, VECTORIZERS, build_with

from keras_seq import layers
from keras_seq.tuning import (
    ForecasterHyperModel,
    LanguageModelHyperModel,
    Seq2SeqHyperModel,
    SequenceClassifierHyperModel,
)


@pytest.mark.parametrize(("cell", "attention"), [("lstm", "bahdanau"), ("gru", None)])
def test_hyperparameters_reach_the_model(cell, attention):
    values = {
        "cell": cell,
        "units": 16,
        "embedding_dim": 8,
        "dropout": 0.2,
        "attention": str(attention).lower(),  # keras-tuner cannot hold None
        "learning_rate": 0.002,
    }
    hp = keras_tuner.HyperParameters()
    for name, value in values.items():
        hp.Fixed(name, value)
    model = Seq2SeqHyperModel(*VECTORIZERS, **RANGES).build(hp)
    for part in (model.encoder, model.decoder):
        assert (part.cell, part.units, part.embedding_dim, part.dropout) == (cell, 16, 8, 0.2)
    assert model.decoder.attention == attention
    assert float(model.optimizer.learning_rate) == pytest.approx(0.002)
    assert model.encoder.vocabulary_size == VECTORIZERS[0].vocabulary_size()
    assert model.decoder.vocabulary_size == VECTORIZERS[1].vocabulary_size()


def test_the_default_search_space():
    hp = keras_tuner.HyperParameters()
    Seq2SeqHyperModel(*VECTORIZERS).build(hp)
    space = {parameter.name: parameter for parameter in hp.space}
    fixed = {"num_layers": 1, "bidirectional": True, "tie_embeddings": False, "recurrent_dropout": 0.0}
    fixed |= {"readout": "linear", "layer_norm": False, "token_dropout": 0.0, "label_smoothing": 0.0, "zoneout": 0.0}
    fixed |= {"dropout_mode": "variational", "residual": False, "copy": False, "optimizer": "adam"}
    fixed |= {"schedule": "none", "weight_decay": "none", "global_clipnorm": "none"}
    assert set(space) == {*RANGES, *fixed, "cell", "attention"}
    assert {name: space[name].value for name in fixed} == fixed
    assert space["cell"].values == ["lstm", "gru", "simple_rnn"]
    assert space["attention"].values == ["bahdanau", "none"]
    rate = space["learning_rate"]
    assert (rate.min_value, rate.max_value, rate.sampling) == (1e-4, 1e-2, "log")


def test_single_values_are_fixed():
    hp = keras_tuner.HyperParameters()
    single = {"cell": ["gru"], "units": [8], "embedding_dim": [4], "dropout": [0.1], "attention": ["luong"]}
    Seq2SeqHyperModel(*VECTORIZERS, **single, learning_rate=(1e-3, 1e-3)).build(hp)
    samples = {parameter.name: parameter.random_sample() for parameter in hp.space}
    assert {name: samples[name] for name in single} == {name: values[0] for name, values in single.items()}
    assert samples["learning_rate"] == 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cell": "lstm"}, "`cell` must be a list or tuple with at least one value, a range, or a function"),
        ({"units": 64}, "`units` must be a list or tuple"),
        ({"dropout": []}, r"`dropout` must be.*Received: \[\]"),
        ({"learning_rate": 1e-3}, "`learning_rate` must be a list or tuple"),
        ({"learning_rate": [1e-3]}, "`learning_rate` must be two positive numbers"),
        ({"learning_rate": (1e-2, 1e-3)}, "in ascending order. Received"),
        ({"learning_rate": (0, 1e-3)}, "`learning_rate` must be two positive numbers"),
        ({"attention": ["luong", "none"]}, "`attention` must list None for a model without attention"),
        ({"cell": [None, "none"]}, "`cell` must not list both None and 'none'"),
        ({"optimizer": ["adamm"]}, "`optimizer` must list names of Keras.*Received: 'adamm'"),
        ({"optimizer": [3]}, "`optimizer` must list names of Keras.*Received: 3"),
        ({"schedule": ["step"]}, "`schedule` must list None, 'cosine', .*Received: 'step'"),
        ({"batch_size": 32}, "`batch_size` must be a list or tuple"),
    ],
)
def test_bad_ranges_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        Seq2SeqHyperModel(*VECTORIZERS, **arguments)


def test_the_options_of_deep_models_reach_encoder_and_decoder():
    cell = layers.LSTMCell(6, layer_norm=True)
    lists = {
        "cell": ["gru", cell],
        "num_layers": [1, 3],
        "bidirectional": [True, False],
        "tie_embeddings": [True, False],
    }
    hypermodel = Seq2SeqHyperModel(*VECTORIZERS, **RANGES, **lists, recurrent_dropout=[0.0, 0.25])
    model = build_with(hypermodel, num_layers=3, bidirectional=0, tie_embeddings=1, recurrent_dropout=0.25)
    assert (model.encoder.num_layers, model.decoder.num_layers) == (3, 3)
    assert (model.encoder.bidirectional, model.decoder.tie_embeddings) == (False, True)
    assert model.encoder.recurrent_dropout == model.decoder.recurrent_dropout == 0.25
    model = build_with(hypermodel, cell="LSTMCell_1")
    assert model.encoder.cell is model.decoder.cell is cell
    assert model.encoder.units == 6


def test_readout_normalization_token_dropout_and_label_smoothing_reach_the_model():
    lists = {
        "readout": ["linear", "tanh", "maxout"],
        "layer_norm": [False, True],
        "token_dropout": [0.0, 0.1],
        "label_smoothing": [0, 0.2],
    }
    hypermodel = Seq2SeqHyperModel(*VECTORIZERS, **RANGES, **lists)
    model = build_with(hypermodel, readout="maxout", layer_norm=1, token_dropout=0.1, label_smoothing=0.2)
    assert model.encoder.layer_norm is model.decoder.layer_norm is True
    config = model.decoder.get_config()
    assert (config["readout"], config["token_dropout"]) == ("maxout", 0.1)
    assert model.loss.label_smoothing == 0.2
    model = build_with(hypermodel, readout="linear", layer_norm=0, token_dropout=0.0, label_smoothing=0.0)
    assert (model.decoder.deep_readout, model.encoder.layer_norms, model.loss.label_smoothing) == (None, [], 0)


def test_any_encoder():
    cnn = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3)])
    models = [Seq2SeqHyperModel(None, VECTORIZERS[1], **RANGES, encoder=cnn).build(keras_tuner.HyperParameters())]
    models += [build_with(Seq2SeqHyperModel(None, VECTORIZERS[1], **RANGES, encoder=cnn))]
    for model in models:  # each trains a copy
        assert isinstance(model.encoder, keras.Sequential)
        assert model.encoder is not cnn
        for weight, original in zip(model.encoder.get_weights(), cnn.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, original)
        model.fit(np.ones((4, 8, 8, 1)), ["K AE T"] * 4, verbose=0)
    assert np.any(models[0].encoder.get_weights()[0] != cnn.get_weights()[0])

    def make_encoder(hp):
        filters = hp.Choice("filters", [3, 5])
        return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(filters, 3)])

    model = build_with(Seq2SeqHyperModel(None, VECTORIZERS[1], **RANGES, encoder=make_encoder), filters=5)
    assert model.encoder.layers[0].filters == 5


def test_a_source_vectorizer_or_an_encoder_is_needed():
    with pytest.raises(ValueError, match="`source_vectorizer` must be a vectorizer unless `encoder` is given"):
        Seq2SeqHyperModel(None, VECTORIZERS[1])


def test_an_encoder_of_unknown_inputs_needs_a_source_spec():
    encoder = layers.GRU(4, return_sequences=True)  # it has no `keras.Input`
    with pytest.raises(ValueError, match=r"`source_spec` must be given, because the encoder has no `keras\.Input`"):
        Seq2SeqHyperModel(None, VECTORIZERS[1], **RANGES, encoder=encoder).build(keras_tuner.HyperParameters())
    spec = tf.TensorSpec((None, None, 3))
    hypermodel = Seq2SeqHyperModel(None, VECTORIZERS[1], **RANGES, encoder=encoder, source_spec=spec)
    model = hypermodel.build(keras_tuner.HyperParameters())
    history = model.fit(np.ones((2, 5, 3), "float32"), ["K AE T", "T"], verbose=0)
    assert np.isfinite(history.history["loss"][0])


def test_a_decoder_may_copy():
    hypermodel = Seq2SeqHyperModel(VECTORIZERS[0], VECTORIZERS[0], **RANGES, cell=["gru"], copy=[False, True])
    assert build_with(hypermodel, copy=1).decoder.copy is True
    assert build_with(hypermodel, copy=0).decoder.copy is False


def test_the_options_of_a_language_model():
    hypermodel = LanguageModelHyperModel(VECTORIZERS[0], units=[8, 16], embedding_dim=[4], num_layers=[1, 2])
    model = build_with(hypermodel, units=16, num_layers=2, dropout=0.2)
    assert (model.units, model.num_layers, model.embedding_dim) == (16, 2, 4)
    assert model.input_dropout == model.hidden_dropout == model.output_dropout == 0.2
    assert model.optimizer.built


def test_the_options_of_a_forecaster():
    inputs = {"past": np.zeros((1, 12, 2)), "static": np.zeros((1, 3))}
    hypermodel = ForecasterHyperModel(4, inputs, units=[8], attention=[None, "bahdanau"], bidirectional=[False, True])
    model = build_with(hypermodel, attention="bahdanau", bidirectional=1, num_layers=2)
    assert (model.horizon, model.attention, model.bidirectional, model.num_layers) == (4, "bahdanau", True, 2)
    assert build_with(hypermodel, attention="none").attention is None
    assert model.optimizer.built


def test_the_options_of_a_recurrence_reach_models_that_take_them_from_their_cells():
    options = {"zoneout": [0.1], "dropout_mode": ["naive"], "recurrent_dropout": [0.2], "copy": [False]}
    model = build_with(Seq2SeqHyperModel(*VECTORIZERS, **RANGES, **options), cell="gru", units=16)
    for part in (model.encoder, model.decoder):
        assert (part.units, part.cell.zoneout, part.cell.dropout_mode) == (16, 0.1, "naive")
        assert part.cell.recurrent_dropout == 0.2
    del options["copy"]
    model = build_with(ForecasterHyperModel(2, np.zeros((1, 4, 1)), ["gru"], [16], dropout=[0.3], **options))
    assert (model.cell.units, model.cell.dropout, model.cell.recurrent_dropout) == (16, 0.3, 0.2)
    assert (model.cell.zoneout, model.cell.dropout_mode) == (0.1, "naive")
    with pytest.raises(ValueError, match="`zoneout` and `dropout_mode` need a `cell` given by name"):
        build_with(ForecasterHyperModel(2, np.zeros((1, 4, 1)), [keras.layers.GRUCell(3)], zoneout=[0.1]))


def test_classifiers_of_texts_and_of_series():
    small = {"embedding_dim": [4], "num_layers": [2], "dropout": [0.2], "recurrent_dropout": [0.1]}
    hypermodel = SequenceClassifierHyperModel(3, VECTORIZERS[0], units=[5], cell=["gru"], **small)
    values = {"bidirectional": 1, "pooling": "attention"}
    model = build_with(hypermodel, **values)
    layers_of = [type(layer).__name__ for layer in model.layers]
    assert layers_of.count("Bidirectional") == 2
    assert layers_of[-3:] == ["AttentionPooling", "Dropout", "Dense"]
    texts = tf.constant(PAIRS[0][:4])
    longest = model(texts)
    np.testing.assert_allclose(model(texts[:1]), longest[:1], atol=1e-6)  # padding changes nothing
    np.testing.assert_allclose(np.sum(longest, axis=1), 1, atol=1e-6)
    hypermodel = SequenceClassifierHyperModel(3, num_features=2, units=[5], **small, layer_norm=[True])
    series = np.random.default_rng(0).normal(size=(2, 6, 2)).astype("float32")
    series[1, 4:] = 0  # padding
    for pooling in ("last", "mean"):
        model = build_with(hypermodel, pooling=pooling, bidirectional=1)
        np.testing.assert_allclose(model(series)[1:], model(series[1:, :4]), atol=1e-6)


def test_bad_classifiers_raise():
    with pytest.raises(ValueError, match="Exactly one of `vectorizer` and `num_features` must be given"):
        SequenceClassifierHyperModel(3)
    with pytest.raises(ValueError, match=r"`pooling` must be one of .*Received: 'max'"):
        build_with(SequenceClassifierHyperModel(3, num_features=2, pooling=["max"]))
    with pytest.raises(ValueError, match="`zoneout` needs a `cell` given by name"):
        build_with(SequenceClassifierHyperModel(3, num_features=2, cell=[keras.layers.GRUCell(3)], zoneout=[0.1]))

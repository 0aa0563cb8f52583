# SPDX-License-Identifier: Apache-2.0
"""The search space of `Seq2Seq`."""

import keras

from keras_seq.models import Decoder, Encoder, Seq2Seq
from keras_seq.tuning.cells import cell_arguments
from keras_seq.tuning.choices import check_attention
from keras_seq.tuning.hypermodel import ChoiceHyperModel


class Seq2SeqHyperModel(ChoiceHyperModel):
    """The search space of `Seq2Seq` models for keras-tuner.

    Use it with any tuner of keras-tuner. The tuner passes the arguments of `search` on to `Seq2Seq.fit`. Each argument
    below has the values of the hyperparameter of its name: a list, a range or a function; see `ChoiceHyperModel`. List
    a single value to fix it.

    keras-tuner minimizes `objective="val_loss"`. For other metrics, name the direction:
    `keras_tuner.Objective("val_token_accuracy", "max")`, or `keras_tuner.Objective("val_token_error_rate", "min")` with
    a `DecodingReport` in the `callbacks` of `search`.

    Args:
        source_vectorizer: a layer from `keras_seq.data.text_vectorizer`, for the sources; None with an `encoder` that
            does not read tokens.
        target_vectorizer: a layer from `keras_seq.data.text_vectorizer`, for the targets.
        cell: cells of encoder and decoder: "lstm", "gru", "mgu", "simple_rnn", or cells and layers, which have their
            own `units`.
        units: sizes of the states.
        embedding_dim: sizes of the embeddings.
        dropout: fractions of the features to drop, in encoder and decoder. All steps share a mask.
        attention: "bahdanau", "luong", "monotonic", or None for a model without attention.
        learning_rate, name, tunable: see `ChoiceHyperModel`.
        num_layers: numbers of layers, of encoder and decoder.
        bidirectional: booleans, whether the encoder runs in both directions.
        tie_embeddings: booleans, whether the decoder's logits are products with its embeddings.
        recurrent_dropout: fractions of the previous h to drop, in encoder and decoder.
        readout: readouts of the decoder: "linear", "tanh" or "maxout".
        layer_norm: booleans, whether to normalize the outputs of the layers, in encoder and decoder.
        token_dropout: probabilities that an input token of the decoder becomes `[UNK]` in training.
        label_smoothing: values of `label_smoothing` in `Seq2Seq.compile`. It is a part of `val_loss`, so with several
            values choose another objective.
        encoder: a Keras layer or model, or a function from a `keras_tuner.HyperParameters` to one, in the place of an
            `Encoder`. Each trial trains a copy of a layer or model, from the weights that it has.
        source_spec: see `Seq2Seq`. An encoder needs it if it has no `keras.Input` and reads no tokens.
        features: see `Seq2Seq`.
        features_dim: sizes of the embedding of each feature, if there are `features`.
        zoneout: probabilities that a unit keeps its state, in encoder and decoder.
        dropout_mode: whether all steps share the mask of `recurrent_dropout`, "variational", or each draws its own,
            "naive".
        residual: booleans, whether layers add their inputs to their outputs, in encoder and decoder.
        copy: booleans, whether the decoder also copies tokens of the source. Both sides need one vocabulary, and the
            attention must not be None.
        **training: `optimizer`, `schedule`, `weight_decay`, `global_clipnorm` and `batch_size`; see `ChoiceHyperModel`.

    Raises:
        ImportError: if keras-tuner is not installed; raised by `import keras_seq.tuning`.
        ValueError: if values have another form, or if neither `source_vectorizer` nor `encoder` is given.

    Example:
        >>> import keras_tuner
        >>> from keras_seq.data import text_vectorizer
        >>> source, target = text_vectorizer(["cat", "act"]), text_vectorizer(["K AE T", "AE K T"], split="whitespace")
        >>> hypermodel = Seq2SeqHyperModel(source, target, cell=["gru"], units=range(8, 33, 8), batch_size=[16, 32])
        >>> tuner = keras_tuner.RandomSearch(hypermodel, objective="val_loss", max_trials=10)  # doctest: +SKIP
        >>> tuner.search(words, sounds, validation_data=dev, epochs=5)  # doctest: +SKIP
        >>> tuner.get_best_models(1)[0].generate(["tac"])  # doctest: +SKIP
        ['T AE K']
    """

    def __init__(
        self,
        source_vectorizer,
        target_vectorizer,
        cell=("lstm", "gru", "simple_rnn"),
        units=(64, 128, 256, 512),
        embedding_dim=(32, 64, 128, 256),
        dropout=(0.0, 0.1, 0.2, 0.3, 0.5),
        attention=("bahdanau", None),
        learning_rate=(1e-4, 1e-2),
        name=None,
        tunable=True,
        *,
        num_layers=(1,),
        bidirectional=(True,),
        tie_embeddings=(False,),
        recurrent_dropout=(0.0,),
        readout=("linear",),
        layer_norm=(False,),
        token_dropout=(0.0,),
        label_smoothing=(0.0,),
        encoder=None,
        source_spec=None,
        features=None,
        features_dim=(16,),
        zoneout=(0.0,),
        dropout_mode=("variational",),
        residual=(False,),
        copy=(False,),
        **training,
    ):
        if source_vectorizer is None and encoder is None:
            raise ValueError("`source_vectorizer` must be a vectorizer unless `encoder` is given. Received: None")
        check_attention(attention)
        choices = {
            "cell": cell,
            "units": units,
            "embedding_dim": embedding_dim,
            "dropout": dropout,
            "attention": attention,
            "num_layers": num_layers,
            "bidirectional": bidirectional,
            "tie_embeddings": tie_embeddings,
            "recurrent_dropout": recurrent_dropout,
            "readout": readout,
            "layer_norm": layer_norm,
            "token_dropout": token_dropout,
            "zoneout": zoneout,
            "dropout_mode": dropout_mode,
            "residual": residual,
            "copy": copy,
        }
        if encoder is not None:
            del choices["bidirectional"]
        if features:
            choices["features_dim"] = features_dim
        compile_choices = {"label_smoothing": label_smoothing}
        super().__init__(choices, learning_rate, name, tunable, compile_choices=compile_choices, **training)
        self.source_vectorizer = source_vectorizer
        self.target_vectorizer = target_vectorizer
        self.encoder = encoder
        self.source_spec = source_spec
        self.features = features

    def make_model(self, hp, bidirectional=None, features_dim=16, **chosen):
        cell = {name: chosen.pop(name) for name in ("cell", "units", "recurrent_dropout", "zoneout", "dropout_mode")}
        shared = {name: chosen.pop(name) for name in ("embedding_dim", "dropout", "num_layers", "residual")}
        shared |= {"layer_norm": chosen.pop("layer_norm"), **cell_arguments(**cell)}
        if self.encoder is None:
            encoder = Encoder(self.source_vectorizer.vocabulary_size(), bidirectional=bidirectional, **shared)
        else:
            encoder = _copy(self.encoder) if isinstance(self.encoder, keras.layers.Layer) else self.encoder(hp)
        decoder = Decoder(self.target_vectorizer.vocabulary_size(), **chosen, **shared)
        options = {"source_spec": self.source_spec, "features": self.features, "features_dim": features_dim}
        model = Seq2Seq(encoder, decoder, self.source_vectorizer, self.target_vectorizer, **options)
        if not model.built:
            raise ValueError(
                "`source_spec` must be given, because the encoder has no `keras.Input` and reads no tokens. For "
                "example: source_spec=tf.TensorSpec((None, None, 3)) for series of 3 features. Received: None"
            )
        return model


def _copy(layer):
    """Returns a copy of a layer or model with the same weights."""
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    if copy.built:
        copy.set_weights(layer.get_weights())
    return copy

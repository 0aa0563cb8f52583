# SPDX-License-Identifier: Apache-2.0
"""Hyperparameter search with keras-tuner: pip install 'keras_seq[tune]'."""

import keras

from keras_seq.models import Decoder, Encoder, Forecaster, LanguageModel, Seq2Seq

try:
    import keras_tuner
except ImportError as error:
    raise ImportError("keras_seq.tuning needs keras-tuner: pip install 'keras_seq[tune]'") from error


class ChoiceHyperModel(keras_tuner.HyperModel):
    """Base class of search spaces that are lists of values.

    A subclass hands its lists to this constructor and defines `make_model`.

    Args:
        choices: dict from the name of a hyperparameter to the list of its values. List a single value to fix it. Values
            may be numbers, strings, None, or objects such as cells; keras-tuner knows an object by its class and its
            position in the list.
        learning_rate: the smallest and the largest learning rate of Adam, two positive numbers. It is sampled uniformly
            on a logarithmic scale.
        name: name of the `keras_tuner.HyperModel`.
        tunable: whether the hyperparameters are added to the search space, as in `keras_tuner.HyperModel`.

    Raises:
        ValueError: if one of the lists is empty or not a list or tuple, or if `learning_rate` is not two positive
            numbers in ascending order.

    Example:
        >>> class Tagger(ChoiceHyperModel):
        ...     def __init__(self, units=(64, 128), dropout=(0.0, 0.3)):
        ...         super().__init__({"units": units, "dropout": dropout})
        ...
        ...     def make_model(self, hp, units, dropout):
        ...         layer = keras.layers.LSTM(units, dropout=dropout, return_sequences=True)
        ...         return keras.Sequential([keras.Input((None, 8)), layer, keras.layers.Dense(5)])
        ...
        ...     def compile_model(self, model, optimizer):
        ...         model.compile(optimizer, "mse")
        >>> Tagger().build(keras_tuner.HyperParameters()).output_shape
        (None, None, 5)
    """

    def __init__(self, choices, learning_rate=(1e-4, 1e-2), name=None, tunable=True):
        super().__init__(name, tunable)
        for argument, values in {**choices, "learning_rate": learning_rate}.items():
            if not isinstance(values, (list, tuple)) or len(values) == 0:
                raise ValueError(f"`{argument}` must be a list or tuple with at least one value. Received: {values!r}")
            setattr(self, argument, values)
        self.choices = choices
        if len(learning_rate) != 2 or not 0 < learning_rate[0] <= learning_rate[1]:
            raise ValueError(
                f"`learning_rate` must be two positive numbers in ascending order. Received: {learning_rate!r}"
            )

    def build(self, hp):
        """Builds a model with values from the search space. A tuner calls it.

        Args:
            hp: a `keras_tuner.HyperParameters`, which chooses the values.

        Returns:
            A compiled model, whose optimizer is built.
        """
        chosen = {}
        for name, values in self.choices.items():
            labels = _label_values(values)
            chosen[name] = labels[hp.Choice(name, list(labels))]
        learning_rate = hp.Float("learning_rate", *self.learning_rate, sampling="log")
        model = self.make_model(hp, **chosen)
        if not model.built:
            raise ValueError("`make_model` must return a model that is built. Received: a model without weights")
        self.compile_model(model, keras.optimizers.Adam(learning_rate))
        # Hyperband resumes from checkpoints. Keras loads optimizer variables only into an optimizer that is built.
        model.optimizer.build(model.trainable_variables)
        return model

    def make_model(self, hp, **chosen):
        """Returns a model that is built but not compiled. A subclass defines it.

        Args:
            hp: a `keras_tuner.HyperParameters`, for hyperparameters that are not choices.
            **chosen: the value of each hyperparameter.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `make_model`.")

    def compile_model(self, model, optimizer):
        """Compiles a model, by default with the loss of its class."""
        model.compile(optimizer)


def _label_values(values):
    """Returns a dict from what keras-tuner shows of each value, all of one type that it supports, to the value."""
    if len({type(value) for value in values}) == 1 and isinstance(values[0], (str, bool, int, float)):
        return dict(zip(values, values, strict=True))
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return {float(value): value for value in values}

    def label(index, value):
        if value is None or isinstance(value, (str, bool, int, float)):
            return str(value).lower()
        return f"{type(value).__name__}_{index}"

    return {label(i, value): value for i, value in enumerate(values)}


def _units_of(cell, units):
    """Returns the argument `units` for a cell: None for an object, which has its own."""
    return units if isinstance(cell, str) else None


class Seq2SeqHyperModel(ChoiceHyperModel):
    """The search space of `Seq2Seq` models for keras-tuner.

    Use it with any tuner of keras-tuner. The tuner passes the arguments of `search` on to `Seq2Seq.fit`. Each argument
    below lists the values of the hyperparameter of its name. List a single value to fix it.

    keras-tuner minimizes `objective="val_loss"`. For other metrics, name the direction:
    `keras_tuner.Objective("val_token_accuracy", "max")`, or `keras_tuner.Objective("val_token_error_rate", "min")` with
    a `DecodingReport` in the `callbacks` of `search`.

    Args:
        source_vectorizer: a layer from `keras_seq.data.text_vectorizer`, for the sources; None with an `encoder` that
            does not read tokens.
        target_vectorizer: a layer from `keras_seq.data.text_vectorizer`, for the targets.
        cell: list of cells of encoder and decoder: "lstm", "gru", "mgu", "simple_rnn", or cells and layers, which have
            their own `units`.
        units: list of sizes of the states.
        embedding_dim: list of sizes of the embeddings.
        dropout: list of fractions of the features to drop, in encoder and decoder.
        attention: list of attentions: "bahdanau", "luong", "monotonic" or "none".
        learning_rate: the smallest and the largest learning rate of Adam, two positive numbers. It is sampled uniformly
            on a logarithmic scale.
        name: name of the `keras_tuner.HyperModel`.
        tunable: whether the hyperparameters are added to the search space, as in `keras_tuner.HyperModel`.
        num_layers: list of numbers of layers, of encoder and decoder.
        bidirectional: list of booleans, whether the encoder runs in both directions.
        tie_embeddings: list of booleans, whether the decoder's logits are products with its embeddings.
        recurrent_dropout: list of fractions of the previous h to drop, in encoder and decoder.
        encoder: a Keras layer or model, or a function from a `keras_tuner.HyperParameters` to one, in the place of an
            `Encoder`. Each trial trains a copy of a layer or model, from the weights that it has.
        source_spec: see `Seq2Seq`. An encoder needs it if it has no `keras.Input` and reads no tokens.
        features: see `Seq2Seq`.
        features_dim: list of sizes of the embedding of each feature, if there are `features`.

    Raises:
        ImportError: if keras-tuner is not installed; raised by `import keras_seq.tuning`.
        ValueError: if one of the lists is empty or not a list or tuple, if `learning_rate` is not two positive numbers
            in ascending order, or if neither `source_vectorizer` nor `encoder` is given.

    Example:
        >>> from keras_seq.data import text_vectorizer
        >>> source, target = text_vectorizer(["cat", "act"]), text_vectorizer(["K AE T", "AE K T"], split="whitespace")
        >>> hypermodel = Seq2SeqHyperModel(source, target, cell=["gru"], units=[8, 16])
        >>> tuner = keras_tuner.RandomSearch(hypermodel, objective="val_loss", max_trials=10)  # doctest: +SKIP
        >>> tuner.search(train, validation_data=dev, epochs=5)  # doctest: +SKIP
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
        attention=("bahdanau", "none"),
        learning_rate=(1e-4, 1e-2),
        name=None,
        tunable=True,
        *,
        num_layers=(1,),
        bidirectional=(True,),
        tie_embeddings=(False,),
        recurrent_dropout=(0.0,),
        encoder=None,
        source_spec=None,
        features=None,
        features_dim=(16,),
    ):
        if source_vectorizer is None and encoder is None:
            raise ValueError("`source_vectorizer` must be a vectorizer unless `encoder` is given. Received: None")
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
        }
        if encoder is not None:
            del choices["bidirectional"]
        if features:
            choices["features_dim"] = features_dim
        super().__init__(choices, learning_rate, name, tunable)
        self.source_vectorizer = source_vectorizer
        self.target_vectorizer = target_vectorizer
        self.encoder = encoder
        self.source_spec = source_spec
        self.features = features

    def make_model(self, hp, attention, tie_embeddings, bidirectional=None, features_dim=16, **shared):
        shared["units"] = _units_of(shared["cell"], shared["units"])
        if self.encoder is None:
            encoder = Encoder(self.source_vectorizer.vocabulary_size(), bidirectional=bidirectional, **shared)
        else:
            encoder = _copy(self.encoder) if isinstance(self.encoder, keras.layers.Layer) else self.encoder(hp)
        decoder = Decoder(
            self.target_vectorizer.vocabulary_size(),
            attention=None if attention == "none" else attention,
            tie_embeddings=tie_embeddings,
            **shared,
        )
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


class LanguageModelHyperModel(ChoiceHyperModel):
    """The search space of `LanguageModel` for keras-tuner; see `Seq2SeqHyperModel`.

    Args:
        vectorizer: a layer from `keras_seq.data.text_vectorizer`, or None if documents are token ids.
        cell, units, embedding_dim, num_layers, embedding_dropout, recurrent_weight_dropout, tie_embeddings: lists of
            values; see `LanguageModel`.
        dropout: list of fractions of the features to drop: `input_dropout`, `hidden_dropout` and `output_dropout`.
        learning_rate, name, tunable: see `Seq2SeqHyperModel`.
        vocabulary_size: number of tokens, if there is no vectorizer.

    Example:
        >>> hypermodel = LanguageModelHyperModel(vocabulary_size=20, units=[8, 16], embedding_dim=[4])
        >>> tuner = keras_tuner.RandomSearch(hypermodel, objective="val_loss", max_trials=10)  # doctest: +SKIP
        >>> tuner.search(documents, validation_data=held_out, epochs=5)  # doctest: +SKIP
    """

    def __init__(
        self,
        vectorizer=None,
        cell=("lstm", "gru"),
        units=(128, 256, 512),
        embedding_dim=(64, 128, 256),
        dropout=(0.0, 0.1, 0.2, 0.3, 0.5),
        num_layers=(1,),
        embedding_dropout=(0.0,),
        recurrent_weight_dropout=(0.0,),
        tie_embeddings=(False,),
        learning_rate=(1e-4, 1e-2),
        name=None,
        tunable=True,
        *,
        vocabulary_size=None,
    ):
        choices = {
            "cell": cell,
            "units": units,
            "embedding_dim": embedding_dim,
            "dropout": dropout,
            "num_layers": num_layers,
            "embedding_dropout": embedding_dropout,
            "recurrent_weight_dropout": recurrent_weight_dropout,
            "tie_embeddings": tie_embeddings,
        }
        super().__init__(choices, learning_rate, name, tunable)
        self.vectorizer = vectorizer
        self.vocabulary_size = vocabulary_size

    def make_model(self, hp, cell, units, dropout, **options):
        return LanguageModel(
            self.vocabulary_size,
            cell=cell,
            units=_units_of(cell, units),
            vectorizer=self.vectorizer,
            input_dropout=dropout,
            hidden_dropout=dropout,
            output_dropout=dropout,
            **options,
        )


class ForecasterHyperModel(ChoiceHyperModel):
    """The search space of `Forecaster` for keras-tuner; see `Seq2SeqHyperModel`.

    Args:
        horizon: number of steps to forecast.
        inputs: some inputs as for `Forecaster.fit`, an array (batch, time, series) or a dict. Only their shapes count.
        cell, units, num_layers, dropout, recurrent_dropout, attention, bidirectional, output, scaling: lists of values;
            see `Forecaster`. Losses of different outputs do not compare.
        learning_rate, name, tunable: see `Seq2SeqHyperModel`.

    Example:
        >>> import numpy as np
        >>> hypermodel = ForecasterHyperModel(4, np.zeros((1, 24, 2)), units=[8, 16])
        >>> tuner = keras_tuner.RandomSearch(hypermodel, objective="val_loss", max_trials=10)  # doctest: +SKIP
        >>> tuner.search(inputs, targets, validation_split=0.2, epochs=5)  # doctest: +SKIP
    """

    def __init__(
        self,
        horizon,
        inputs,
        cell=("lstm", "gru"),
        units=(32, 64, 128),
        num_layers=(1, 2),
        dropout=(0.0, 0.1, 0.2, 0.3),
        recurrent_dropout=(0.0,),
        attention=(None,),
        bidirectional=(False,),
        output=("gaussian",),
        scaling=("standard",),
        learning_rate=(1e-4, 1e-2),
        name=None,
        tunable=True,
    ):
        choices = {
            "cell": cell,
            "units": units,
            "num_layers": num_layers,
            "dropout": dropout,
            "recurrent_dropout": recurrent_dropout,
            "attention": attention,
            "bidirectional": bidirectional,
            "output": output,
            "scaling": scaling,
        }
        super().__init__(choices, learning_rate, name, tunable)
        self.horizon = horizon
        self.input_shapes = keras.tree.map_structure(lambda x: tuple(x.shape), inputs)

    def make_model(self, hp, cell, units, **options):
        model = Forecaster(self.horizon, _units_of(cell, units), cell, **options)
        model.build(self.input_shapes)
        return model

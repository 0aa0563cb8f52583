# SPDX-License-Identifier: Apache-2.0
"""Hyperparameter search with keras-tuner: pip install 'keras_seq[tune]'."""

import keras

from keras_seq.models import Decoder, Encoder, Seq2Seq

try:
    import keras_tuner
except ImportError as error:
    raise ImportError("keras_seq.tuning needs keras-tuner: pip install 'keras_seq[tune]'") from error

_CHOICES = ("cell", "units", "embedding_dim", "dropout", "attention")


class Seq2SeqHyperModel(keras_tuner.HyperModel):
    """The search space of `Seq2Seq` models for keras-tuner.

    Use it with any tuner of keras-tuner. The tuner passes the arguments of `search` on to `Seq2Seq.fit`. Each argument
    below lists the values of the hyperparameter of its name. List a single value to fix it.

    keras-tuner minimizes `objective="val_loss"`. For other metrics, name the direction:
    `keras_tuner.Objective("val_token_accuracy", "max")`, or `keras_tuner.Objective("val_token_error_rate", "min")` with
    a `DecodingReport` in the `callbacks` of `search`.

    Args:
        source_vectorizer: a layer from `keras_seq.data.text_vectorizer`, for the sources.
        target_vectorizer: a layer from `keras_seq.data.text_vectorizer`, for the targets.
        cell: list of cells of encoder and decoder: "lstm", "gru", "mgu" or "simple_rnn".
        units: list of sizes of the states.
        embedding_dim: list of sizes of the embeddings.
        dropout: list of fractions of the features to drop, in encoder and decoder.
        attention: list of attentions: "bahdanau" or "none".
        learning_rate: the smallest and the largest learning rate of Adam, two positive numbers. It is sampled uniformly
            on a logarithmic scale.
        name: name of the `keras_tuner.HyperModel`.
        tunable: whether the hyperparameters are added to the search space, as in `keras_tuner.HyperModel`.

    Raises:
        ImportError: if keras-tuner is not installed; raised by `import keras_seq.tuning`.
        ValueError: if one of the lists is empty or not a list or tuple, or if `learning_rate` is not two positive
            numbers in ascending order.

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
        cell=("lstm", "gru", "rnn"),
        units=(64, 128, 256, 512),
        embedding_dim=(32, 64, 128, 256),
        dropout=(0.0, 0.1, 0.2, 0.3, 0.5),
        attention=("bahdanau", "none"),
        learning_rate=(1e-4, 1e-2),
        name=None,
        tunable=True,
    ):
        super().__init__(name, tunable)
        self.source_vectorizer = source_vectorizer
        self.target_vectorizer = target_vectorizer
        self.cell = cell
        self.units = units
        self.embedding_dim = embedding_dim
        self.dropout = dropout
        self.attention = attention
        self.learning_rate = learning_rate
        for argument in (*_CHOICES, "learning_rate"):
            values = getattr(self, argument)
            if not isinstance(values, (list, tuple)) or len(values) == 0:
                raise ValueError(f"`{argument}` must be a list or tuple with at least one value. Received: {values!r}")
        if len(learning_rate) != 2 or not 0 < learning_rate[0] <= learning_rate[1]:
            raise ValueError(
                f"`learning_rate` must be two positive numbers in ascending order. Received: {learning_rate!r}"
            )

    def build(self, hp):
        """Builds a model with values from the search space. A tuner calls it.

        Args:
            hp: a `keras_tuner.HyperParameters`, which chooses the values.

        Returns:
            A compiled `Seq2Seq`, whose optimizer is built.
        """
        hyperparameters = {name: hp.Choice(name, list(getattr(self, name))) for name in _CHOICES}
        learning_rate = hp.Float("learning_rate", *self.learning_rate, sampling="log")
        attention = None if hyperparameters["attention"] == "none" else hyperparameters["attention"]
        del hyperparameters["attention"]
        model = Seq2Seq(
            Encoder(self.source_vectorizer.vocabulary_size(), **hyperparameters),
            Decoder(self.target_vectorizer.vocabulary_size(), attention=attention, **hyperparameters),
            self.source_vectorizer,
            self.target_vectorizer,
        )
        model.compile(keras.optimizers.Adam(learning_rate))
        # Hyperband resumes from checkpoints. Keras loads optimizer variables only into an optimizer that is built.
        model.optimizer.build(model.trainable_variables)
        return model

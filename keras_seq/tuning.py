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
    """The `Seq2Seq` models that a keras-tuner search chooses among.

    Any tuner searches them; what its `search` is given goes to `Seq2Seq.fit`. A hyperparameter has the name of the
    argument below that lists its values. Where there is one value there is no choice.

    keras-tuner knows that `objective="val_loss"` is to become small. Of other metrics it wants to be told:
    `keras_tuner.Objective("val_token_accuracy", "max")`, or `keras_tuner.Objective("val_token_error_rate", "min")`
    with a `DecodingReport` among the `callbacks` of `search`.

    Args:
        source_vectorizer: a layer from `keras_seq.data.text_vectorizer`.
        target_vectorizer: likewise.
        cell: kinds of cell, "lstm", "gru" or "rnn", of encoder and decoder.
        units: sizes of their states.
        embedding_dim: sizes of an embedding.
        dropout: fractions of the features to drop, in encoder and decoder.
        attention: kinds of attention, "bahdanau" or "none".
        learning_rate: the least and the greatest of Adam; even odds go to even steps of its logarithm.
        name: as of `keras_tuner.HyperModel`.
        tunable: likewise.

    Raises:
        ValueError: if a range is not a list or tuple of at least one value, or `learning_rate` is not two positive
            numbers, ascending.

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
                raise ValueError(f"`{argument}` must be a list or tuple of at least one value. Received: {values!r}")
        if len(learning_rate) != 2 or not 0 < learning_rate[0] <= learning_rate[1]:
            raise ValueError(f"`learning_rate` must be two positive numbers, ascending. Received: {learning_rate!r}")

    def build(self, hp):
        """A compiled model, its optimizer built.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A `Seq2Seq`.
        """
        chosen = {name: hp.Choice(name, list(getattr(self, name))) for name in _CHOICES}
        learning_rate = hp.Float("learning_rate", *self.learning_rate, sampling="log")
        attention = None if chosen["attention"] == "none" else chosen["attention"]
        del chosen["attention"]
        model = Seq2Seq(
            Encoder(self.source_vectorizer.vocabulary_size(), **chosen),
            Decoder(self.target_vectorizer.vocabulary_size(), attention=attention, **chosen),
            self.source_vectorizer,
            self.target_vectorizer,
        )
        model.compile(keras.optimizers.Adam(learning_rate))
        # Hyperband goes on from checkpoints: their optimizer variables are loaded only where there are such variables.
        model.optimizer.build(model.trainable_variables)
        return model

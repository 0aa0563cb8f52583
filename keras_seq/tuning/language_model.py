# SPDX-License-Identifier: Apache-2.0
"""The search space of `LanguageModel`."""

from keras_seq.models import LanguageModel
from keras_seq.tuning.hypermodel import ChoiceHyperModel


class LanguageModelHyperModel(ChoiceHyperModel):
    """The search space of `LanguageModel` for keras-tuner; see `Seq2SeqHyperModel`.

    Args:
        vectorizer: a layer from `keras_seq.data.text_vectorizer`, or None if documents are token ids.
        cell, units, embedding_dim, num_layers, embedding_dropout, recurrent_weight_dropout, tie_embeddings: values; see
            `LanguageModel`.
        dropout: fractions of the features to drop: `input_dropout`, `hidden_dropout` and `output_dropout`.
        learning_rate, name, tunable: see `ChoiceHyperModel`.
        vocabulary_size: number of tokens, if there is no vectorizer.
        recurrent_dropout, zoneout, dropout_mode, ar, tar, layer_norm: values; see `LanguageModel`.
        label_smoothing: values of `label_smoothing` in `LanguageModel.compile`. It is a part of `val_loss`.
        **training: `optimizer`, `schedule`, `weight_decay`, `global_clipnorm` and `batch_size`; see `ChoiceHyperModel`.

    Example:
        >>> import keras_tuner
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
        recurrent_dropout=(0.0,),
        zoneout=(0.0,),
        dropout_mode=("variational",),
        ar=(0.0,),
        tar=(0.0,),
        layer_norm=(False,),
        label_smoothing=(0.0,),
        **training,
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
            "recurrent_dropout": recurrent_dropout,
            "zoneout": zoneout,
            "dropout_mode": dropout_mode,
            "ar": ar,
            "tar": tar,
            "layer_norm": layer_norm,
        }
        compile_choices = {"label_smoothing": label_smoothing}
        super().__init__(choices, learning_rate, name, tunable, compile_choices=compile_choices, **training)
        self.vectorizer = vectorizer
        self.vocabulary_size = vocabulary_size

    def make_model(self, hp, cell, units, dropout, **options):
        return LanguageModel(
            self.vocabulary_size,
            cell=cell,
            units=units if isinstance(cell, str) else None,
            vectorizer=self.vectorizer,
            input_dropout=dropout,
            hidden_dropout=dropout,
            output_dropout=dropout,
            **options,
        )

# SPDX-License-Identifier: Apache-2.0
"""The search space of classifiers of sequences."""

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.layers import RNN, AttentionPooling, Bidirectional, LockedDropout
from keras_seq.layers.recurrent_layer import make_layer
from keras_seq.training import SmoothedCrossentropy
from keras_seq.tuning.hypermodel import ChoiceHyperModel

_POOLINGS = ("last", "mean", "attention")


class SequenceClassifierHyperModel(ChoiceHyperModel):
    """The search space of models that give a sequence one of several classes; see `Seq2SeqHyperModel`.

    The models are functional Keras models: an embedding, if sequences are texts; recurrent layers; a pooling that makes
    one vector of a sequence; and a softmax. They save, load and export without keras-tuner. Targets are integers
    (batch,), and the metric is "accuracy".

    Args:
        num_classes: number of classes.
        vectorizer: a layer from `keras_seq.data.text_vectorizer` if sequences are texts. The model reads strings
            (batch,). `fit` of this class takes lists of strings; elsewhere pass `tf.constant(strings)`.
        num_features: number of features of each step, if sequences are arrays (batch, time, features). Steps whose
            features are all zero are padding.
        cell: "lstm", "gru", "mgu", "simple_rnn", or cells, which have their own `units`.
        units: sizes of the states, of each direction.
        embedding_dim: sizes of the embeddings, with a vectorizer.
        num_layers: numbers of recurrent layers.
        bidirectional: booleans, whether each layer runs in both directions.
        dropout: fractions of the features to drop, before each layer and of the pooled vector.
        recurrent_dropout: fractions of the previous h to drop.
        zoneout: probabilities that a unit keeps its state.
        dropout_mode: whether all steps share a mask, "variational", or each draws its own, "naive".
        pooling: "last", the last output (of each direction); "mean", the mean of the outputs; "attention",
            `keras_seq.layers.AttentionPooling`.
        layer_norm: booleans, whether to normalize the outputs of each layer.
        label_smoothing: values of `label_smoothing` in `keras.losses.CategoricalCrossentropy`. It is a part of
            `val_loss`, so with several values choose another objective, such as "val_accuracy".
        learning_rate, name, tunable: see `ChoiceHyperModel`.
        **training: `optimizer`, `schedule`, `weight_decay`, `global_clipnorm` and `batch_size`; see `ChoiceHyperModel`.

    Raises:
        ValueError: if values have another form, or unless one of `vectorizer` and `num_features` is given.

    Example:
        >>> import keras_tuner
        >>> hypermodel = SequenceClassifierHyperModel(3, num_features=4, cell=["gru"], units=[8, 16])
        >>> hypermodel.build(keras_tuner.HyperParameters()).output_shape
        (None, 3)
        >>> tuner = keras_tuner.BayesianOptimization(hypermodel, "val_accuracy", max_trials=10)  # doctest: +SKIP
        >>> tuner.search(series, classes, validation_split=0.2, epochs=5)  # doctest: +SKIP
    """

    def __init__(
        self,
        num_classes,
        vectorizer=None,
        num_features=None,
        *,
        cell=("lstm", "gru"),
        units=(32, 64, 128, 256),
        embedding_dim=(32, 64, 128),
        num_layers=(1, 2),
        bidirectional=(True, False),
        dropout=(0.0, 0.1, 0.2, 0.3, 0.5),
        recurrent_dropout=(0.0,),
        zoneout=(0.0,),
        dropout_mode=("variational",),
        pooling=("last", "mean", "attention"),
        layer_norm=(False,),
        label_smoothing=(0.0,),
        learning_rate=(1e-4, 1e-2),
        name=None,
        tunable=True,
        **training,
    ):
        if (vectorizer is None) == (num_features is None):
            raise ValueError(
                "Exactly one of `vectorizer` and `num_features` must be given. Received: "
                f"vectorizer={vectorizer!r}, num_features={num_features!r}"
            )
        choices = {
            "cell": cell,
            "units": units,
            **({} if vectorizer is None else {"embedding_dim": embedding_dim}),
            "num_layers": num_layers,
            "bidirectional": bidirectional,
            "dropout": dropout,
            "recurrent_dropout": recurrent_dropout,
            "zoneout": zoneout,
            "dropout_mode": dropout_mode,
            "pooling": pooling,
            "layer_norm": layer_norm,
        }
        compile_choices = {"label_smoothing": label_smoothing}
        super().__init__(choices, learning_rate, name, tunable, compile_choices=compile_choices, **training)
        self.num_classes = num_classes
        self.vectorizer = vectorizer
        self.num_features = num_features

    def make_model(self, hp, num_layers, bidirectional, dropout, pooling, layer_norm, embedding_dim=None, **cell):
        if pooling not in _POOLINGS:
            raise ValueError(f"`pooling` must be one of {_POOLINGS}. Received: {pooling!r}")
        make_dropout = keras.layers.Dropout if cell["dropout_mode"] == "naive" else LockedDropout
        inputs, outputs = self._make_inputs(embedding_dim)
        for i in range(num_layers):
            outputs = make_dropout(dropout)(outputs) if dropout else outputs
            returns_last = i == num_layers - 1 and pooling == "last"
            layer = _make_layer(bidirectional=bidirectional, return_sequences=not returns_last, **cell)
            outputs = layer(outputs)
            outputs = keras.layers.LayerNormalization()(outputs) if layer_norm else outputs
        outputs = _pool(outputs, pooling)
        outputs = keras.layers.Dropout(dropout)(outputs) if dropout else outputs
        return keras.Model(inputs, keras.layers.Dense(self.num_classes, "softmax", dtype="float32")(outputs))

    def compile_model(self, model, optimizer, label_smoothing):
        model.compile(optimizer, SmoothedCrossentropy(label_smoothing), metrics=["accuracy"])

    def fit(self, hp, model, x=None, *args, validation_data=None, **kwargs):
        if validation_data is not None and isinstance(validation_data, tuple):
            validation_data = (_as_tensor(validation_data[0]), *validation_data[1:])
        return super().fit(hp, model, _as_tensor(x), *args, validation_data=validation_data, **kwargs)

    def _make_inputs(self, embedding_dim):
        """Returns the symbolic inputs of a model, and what its first layer reads."""
        if self.vectorizer is None:
            inputs = keras.Input((None, self.num_features))
            return inputs, keras.layers.Masking()(inputs)
        inputs = keras.Input((), dtype="string")
        vectorizer = type(self.vectorizer).from_config({**self.vectorizer.get_config(), "ragged": False})
        embedding = keras.layers.Embedding(vectorizer.vocabulary_size(), embedding_dim, mask_zero=True)
        return inputs, embedding(vectorizer(inputs))  # padded with 0, which layers of Keras can read


def _make_layer(cell, units, bidirectional, return_sequences, **options):
    """Returns a recurrent layer, of a cell that is an object a copy."""
    if isinstance(cell, str):
        layer = make_layer(cell, units, return_sequences=return_sequences, **options)
    else:
        for name, value in options.items():
            if value not in (0, "variational"):
                raise ValueError(f"`{name}` needs a `cell` given by name; an object has its own. Received: {value!r}")
        layer = RNN(type(cell).from_config(cell.get_config()), return_sequences=return_sequences)
    return Bidirectional(layer) if bidirectional else layer


def _pool(outputs, pooling):
    """Returns one vector for each sequence; with "last" the last layer returned it."""
    if pooling == "mean":
        return keras.layers.GlobalAveragePooling1D()(outputs)
    return AttentionPooling(outputs.shape[-1])(outputs) if pooling == "attention" else outputs


def _as_tensor(data):
    """Returns strings in a list or array as a tensor, because Keras takes no other, and other data as they are."""
    is_text = isinstance(data, (list, tuple)) and len(data) > 0 and isinstance(data[0], str)
    is_text = is_text or (isinstance(data, np.ndarray) and data.dtype.kind in "OSU")
    return tf.constant(data, "string") if is_text else data

# SPDX-License-Identifier: Apache-2.0
"""The search space of `Forecaster`."""

import keras

from keras_seq.models import Forecaster
from keras_seq.tuning.cells import cell_arguments
from keras_seq.tuning.choices import check_attention
from keras_seq.tuning.hypermodel import ChoiceHyperModel


class ForecasterHyperModel(ChoiceHyperModel):
    """The search space of `Forecaster` for keras-tuner; see `Seq2SeqHyperModel`.

    Args:
        horizon: number of steps to forecast.
        inputs: some inputs as for `Forecaster.fit`, an array (batch, time, series) or a dict. Only their shapes count.
        cell, units, num_layers, dropout, recurrent_dropout, attention, bidirectional, output, scaling: values; see
            `Forecaster`. Losses of different outputs do not compare.
        learning_rate, name, tunable: see `ChoiceHyperModel`.
        zoneout: probabilities that a unit keeps its state.
        dropout_mode: whether all steps share a mask, "variational", or each draws its own, "naive".
        **training: `optimizer`, `schedule`, `weight_decay`, `global_clipnorm` and `batch_size`; see `ChoiceHyperModel`.

    Example:
        >>> import keras_tuner
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
        *,
        zoneout=(0.0,),
        dropout_mode=("variational",),
        **training,
    ):
        check_attention(attention)
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
            "zoneout": zoneout,
            "dropout_mode": dropout_mode,
        }
        super().__init__(choices, learning_rate, name, tunable, **training)
        self.horizon = horizon
        self.input_shapes = keras.tree.map_structure(lambda x: tuple(x.shape), inputs)

    def make_model(self, hp, **chosen):
        names = ("cell", "units", "dropout", "recurrent_dropout", "zoneout", "dropout_mode")
        cell = cell_arguments(**{name: chosen.pop(name) for name in names})
        model = Forecaster(self.horizon, **cell, **chosen)
        model.build(self.input_shapes)
        return model

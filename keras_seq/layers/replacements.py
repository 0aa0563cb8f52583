# SPDX-License-Identifier: Apache-2.0
"""The recurrent layers and cells of Keras, and ours for each of them."""

import keras

from keras_seq.layers.bidirectional import Bidirectional
from keras_seq.layers.gru import GRU, GRUCell
from keras_seq.layers.lstm import LSTM, LSTMCell
from keras_seq.layers.rnn import RNN
from keras_seq.layers.simple_rnn import SimpleRNN, SimpleRNNCell
from keras_seq.layers.time_distributed import TimeDistributed
from keras_seq.ops.random import with_child_seeds

REPLACEMENTS = {
    kind.__name__: kind
    for kind in (GRU, LSTM, RNN, Bidirectional, GRUCell, LSTMCell, SimpleRNN, SimpleRNNCell, TimeDistributed)
}


def replace_in_config(config):
    """A configuration in which the recurrent layers of Keras are replaced."""
    if isinstance(config, (list, tuple)):
        return type(config)(map(replace_in_config, config))
    if not isinstance(config, dict):
        return config
    config = {key: replace_in_config(value) for key, value in config.items()}
    if str(config.get("module")).startswith("keras.") and config.get("class_name") in REPLACEMENTS:
        ours = REPLACEMENTS[config["class_name"]]
        config |= {"module": ours.__module__, "registered_name": keras.saving.get_registered_name(ours)}
        if ours is SimpleRNN:  # Keras's does not write its seed down
            config["config"].setdefault("seed", None)
        if ours is Bidirectional:
            _separate_seeds(config["config"])
    return config


def _separate_seeds(config):
    """Let the backward layer of a `Bidirectional` draw its own masks, where it is Keras's copy of the forward one."""
    forward, backward = config["layer"], config.get("backward_layer")
    if backward is None:
        return
    alone = [{**layer["config"], "name": None, "go_backwards": None} for layer in (forward, backward)]
    if alone[0] == alone[1]:
        config["backward_layer"] = with_child_seeds(backward, "backward_layer")

# SPDX-License-Identifier: Apache-2.0
"""Which layer or cell of keras_seq replaces which of Keras."""

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
    """Return a configuration in which the recurrent layers of Keras are replaced."""
    if isinstance(config, (list, tuple)):
        return type(config)(map(replace_in_config, config))
    if not isinstance(config, dict):
        return config
    config = {key: replace_in_config(value) for key, value in config.items()}
    if str(config.get("module")).startswith("keras.") and config.get("class_name") in REPLACEMENTS:
        replacement = REPLACEMENTS[config["class_name"]]
        config |= {"module": replacement.__module__, "registered_name": keras.saving.get_registered_name(replacement)}
        if replacement is SimpleRNN:  # Keras's configuration lacks the seed
            config["config"].setdefault("seed", None)
        if replacement is Bidirectional:
            _separate_seeds(config["config"])
    return config


def _separate_seeds(config):
    """Give the backward layer of a `Bidirectional` its own seeds, if it is Keras's copy of the forward layer."""
    forward, backward = config["layer"], config.get("backward_layer")
    if backward is None:
        return
    comparable = [{**layer["config"], "name": None, "go_backwards": None} for layer in (forward, backward)]
    if comparable[0] == comparable[1]:
        config["backward_layer"] = with_child_seeds(backward, "backward_layer")

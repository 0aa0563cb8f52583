# SPDX-License-Identifier: Apache-2.0
"""A table of which implementation each recurrent layer runs."""

from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import layers

from keras_seq._private_api import walk_layers
from keras_seq.ops.implementation import Choice

_REPLACEABLE = (layers.SimpleRNN, layers.GRU, layers.LSTM, layers.RNN)  # not ConvLSTM, nor subclasses of these


class Explanation(NamedTuple):
    """How one layer runs."""

    layer: str
    kind: str
    implementation: str
    reason: str


def explain(layer_or_model: layers.Layer, print_fn: Callable[[str], None] | None = print) -> list[Explanation]:
    """Prints which implementation each recurrent layer runs in training, and each `Decoder` in a search, and why.

    Under a `keras.distribution` of JAX the reason also says among how many devices a batch is split.

    Args:
        layer_or_model: a Keras layer or model. Layers inside it are found at any depth.
        print_fn: function that prints a line of the table, or None to print nothing.

    Returns:
        A list of `Explanation(layer, kind, implementation, reason)`, one for each recurrent layer and decoder in the
        order of the model. The implementation of a recurrent layer of Keras is "keras".

    Raises:
        ValueError: if `layer_or_model` is not a Keras layer.
        NotImplementedError: if a layer asks for an implementation that cannot run.

    Example:
        >>> import keras, keras_seq
        >>> lstm = keras_seq.layers.LSTM(8, name="lstm", implementation="xla")
        >>> model = keras.Sequential([lstm, keras.layers.Dense(1), keras.layers.GRU(2, name="gru")])
        >>> rows = keras_seq.explain(model)
        layer  kind  implementation  reason
        lstm   LSTM  xla             asked for by `implementation`
        gru    GRU   keras           not a layer of keras_seq; keras_seq.convert replaces it
        >>> rows[0].implementation
        'xla'
    """
    if not isinstance(layer_or_model, layers.Layer):
        raise ValueError(f"`layer_or_model` must be a Keras layer or model. Received: {layer_or_model!r}")
    rows, suffix = [], _describe_distribution()
    for _, layer in walk_layers(layer_or_model):
        if hasattr(layer, "choose_implementation"):
            choice = layer.choose_implementation()
        elif isinstance(layer, layers.RNN):
            reason = "not a layer of keras_seq"
            if type(layer) in _REPLACEABLE:
                reason += "; keras_seq.convert replaces it"
            choice = Choice("keras", reason)
        else:
            continue
        rows.append(Explanation(layer.name, type(layer).__name__, choice.implementation, choice.reason + suffix))
    if print_fn is not None:
        table = [Explanation._fields, *rows] if rows else [("no recurrent layer",)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            print_fn("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return rows


def _describe_distribution() -> str:
    """Say how a layer runs under the current distribution, after a reason."""
    distribution = keras.distribution.distribution()
    if distribution is None or distribution.batch_dim_name is None:
        return ""
    mesh = distribution.device_mesh
    parts = dict(zip(mesh.axis_names, mesh.shape, strict=True))[distribution.batch_dim_name]
    return f"; {type(distribution).__name__} splits a batch into {parts}, and each device runs its part"

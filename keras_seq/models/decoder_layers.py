# SPDX-License-Identifier: Apache-2.0
"""The recurrent layers of a decoder, of which one may attend."""

from keras_seq.layers import RNN, AttentionDecoder, LuongAttention
from keras_seq.layers.attention import get_attention
from keras_seq.layers.recurrent_layer import check_num_layers, output_units, resolve_layer
from keras_seq.layers.rnn import flat_cells
from keras_seq.ops.random import child_seed


def make_decoder_layers(
    cell, units, num_layers, residual, *, attention, attend, input_feeding, seed, recurrent_dropout, **options
):
    """Makes the recurrent layers of a decoder.

    Args:
        attention: see `Decoder`, as the arguments before and after this one.
        **options: `implementation` and `dtype`.

    Returns:
        `(layers, residual)`: a list of the layers from the first to the last, of which an `AttentionDecoder` is the
        first or the last one if there is attention; and whether layers have residual connections.
    """
    check_num_layers(num_layers, residual, cell)
    _check_order(attention, attend, input_feeding)
    if attention == "luong" or isinstance(attention, LuongAttention):
        attend = attend or "after"
    attends_after = attend == "after" or (attend is None and not input_feeding)
    seeds = [child_seed(seed, "Decoder", "layer", i) for i in range(num_layers)]
    attending = num_layers - 1 if attends_after else 0
    own_seed = seeds[attending] = child_seed(seed, "Decoder", "recurrence")
    if attention is not None:
        seeds[attending] = child_seed(own_seed, "AttentionDecoder", "cell")
    layers = [
        resolve_layer(cell, units, seed=s, path=("Decoder", i), recurrent_dropout=recurrent_dropout, **options)
        for i, s in enumerate(seeds)
    ]
    for layer in layers:
        _check_layer(layer, attention)
    if attention is None:
        return layers, residual
    if not isinstance(cell, str) and len(layers) == 1:
        residual = layers[0].residual
        layers = _split_stack(layers[0])
    attending = -1 if attends_after else 0
    cell = layers[attending].cell
    units = output_units(cell)
    attention_seed = child_seed(own_seed, "AttentionDecoder", "attention")
    layers[attending] = AttentionDecoder(
        units,
        cell,
        get_attention(attention, units, attention_seed, dtype=options["dtype"]),
        input_feeding,
        implementation=layers[attending].implementation,
        attend=attend,
        attentional_units=units if attends_after else None,
        dtype=options["dtype"],
    )
    return layers, residual


def _check_order(attention, attend, input_feeding):
    if attention is None and (attend is not None or not input_feeding):
        raise ValueError(
            "`attend` must be None and `input_feeding` True if `attention` is None. Received: "
            f"attend={attend!r}, input_feeding={input_feeding}"
        )


def _check_layer(layer, attention):
    """Checks that a copy of the argument `cell` has no options that a decoder does not use."""
    unused = {"output_dropout": getattr(layer, "output_dropout", 0.0)}
    unused["initial_state_initializer"] = layer.initial_state_initializer
    if attention is not None:
        unused["activity_regularizer"] = layer.activity_regularizer
    for name, value in unused.items():
        if value:
            where = " with attention" if name == "activity_regularizer" else ""
            raise ValueError(f"`cell` must be a layer without `{name}` in a decoder{where}. Received: {value!r}")


def _split_stack(layer):
    """Returns a list of layers, one for each cell of a layer."""
    cells = flat_cells(layer)
    if len(cells) == 1:
        return [layer]
    options = {"implementation": layer.implementation, "recompute": layer.recompute, "dtype": layer.dtype_policy}
    return [RNN(cell, return_sequences=True, return_state=True, **options) for cell in cells]

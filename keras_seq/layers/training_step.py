# SPDX-License-Identifier: Apache-2.0
"""Runs a recurrent layer step by step in training, as scheduled sampling does: all steps share their dropout masks."""

import contextlib

import keras
from keras import ops, tree

from keras_seq.layers.attention_cell import AttentiveLayer
from keras_seq.layers.foreign_cell import call_cell, draw_all_dropout_masks, reset_all_dropout_masks
from keras_seq.layers.rnn import flat_cells
from keras_seq.ops.masks import zero_masked_positions


@contextlib.contextmanager
def training_step(layer, inputs, memory=None, memory_mask=None):
    """Yields a function that runs one step of a layer in training mode, for use in a `with` block.

    The masks that all steps share are those that the next call of the layer draws. Noise, zoneout, and the masks of
    `dropout_mode="naive"` are drawn anew in each step.

    Args:
        layer: a built `AttentionDecoder`, or an `RNN` with one cell or a stack.
        inputs: (batch, features), as those of a step; only shape and dtype count.
        memory: (batch, source, features), if the layer attends.
        memory_mask: (batch, source) booleans, True = keep, or None.

    Returns:
        The function `step(inputs, state) -> (output, state, attention_weights)`, whose state is a flat list, as in
        `start_search`. Without attention, the weights are (batch, 0).
    """
    attends = isinstance(layer, AttentiveLayer)
    cells = [layer.cell] if attends else flat_cells(layer)
    # A cell has one generator for shared masks and for what each step draws. The next call begins where this one does.
    seeds = [variable for cell in cells for variable in cell.non_trainable_variables]
    values = [ops.copy(variable) for variable in seeds]
    fed_units = layer.fed_units(memory.shape[-1]) if attends else 0
    with keras.StatelessScope():
        _draw_masks(cells, inputs, fed_units)
    try:
        yield _attending_step(layer, memory, memory_mask) if attends else _stack_step(layer, cells)
    finally:
        for cell in cells:
            reset_all_dropout_masks(cell)
        for variable, value in zip(seeds, values, strict=True):
            variable.assign(value)


def _draw_masks(cells, inputs, fed_units):
    """Have cells draw the masks that all steps share, and keep them."""
    batch, dtype = ops.shape(inputs)[0], inputs.dtype
    for cell in cells:
        states = [ops.zeros((batch, size), dtype) for size in tree.flatten(cell.state_size)]
        draw_all_dropout_masks(cell, inputs, states, fed_units)
        size = getattr(cell, "output_size", None) or tree.flatten(cell.state_size)[0]
        inputs = ops.zeros((batch, size), dtype)


def _attending_step(layer, memory, memory_mask):
    memory = zero_masked_positions(memory, memory_mask)
    keys = layer.project_memory(memory)
    return lambda inputs, state: layer.step(inputs, state, memory, keys, memory_mask, training=True)


def _stack_step(layer, cells):
    counts = [len(tree.flatten(cell.state_size)) for cell in cells]

    def step(inputs, state):
        output, new_state = ops.cast(inputs, layer.compute_dtype), []
        for depth, (cell, count) in enumerate(zip(cells, counts, strict=True)):
            below = output
            output, cell_state = call_cell(cell, below, state[:count], True)
            output = output + below if depth and layer.residual else output
            state = state[count:]
            new_state += cell_state
        return output, new_state, ops.zeros((ops.shape(output)[0], 0), output.dtype)

    return step

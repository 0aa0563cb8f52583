# SPDX-License-Identifier: Apache-2.0
"""Cells that are called step by step: foreign cells, and those of keras_seq that have no fused call."""

import inspect

import keras
from keras import ops, tree

from keras_seq._private_api import draw_dropout_masks, reset_dropout_masks
from keras_seq.layers.recurrent_cell import RecurrentCell
from keras_seq.ops.equations.protocol import Step


class ForeignCellEquations:
    """The equations of a foreign cell: each step calls the cell. Autodiff finds the derivative.

    The output comes before the states, so that a masked step repeats it. The cell keeps its dropout masks until
    `reset_all_dropout_masks`.

    Args:
        cell: a cell of Keras, or your own.
        inputs: (batch, features) of one step, for the shape of dropout masks.
        states: flat list of (batch, size), likewise.
        training: whether to apply dropout.
        context_units: number of features of the context that each step gets beside the inputs; 0 for none.
    """

    differentiable = False
    applies_zoneout = False

    def __init__(self, cell, inputs, states, training, context_units=0):
        self.cell = cell
        self.training = training
        self.states = 1 + len(states)
        if training:
            draw_all_dropout_masks(cell, inputs, states, context_units)

    def describe(self):
        """Return a short name for messages."""
        if isinstance(self.cell, RecurrentCell):
            return f"{self.cell.equations.describe()}, whose steps run one by one"
        return f"{type(self.cell).__name__}, which is not a cell of keras_seq"

    def prepare(self, weights):
        return weights

    def step(self, weights, masks, inputs, state):
        inputs, context = inputs if isinstance(inputs, tuple) else (inputs, None)
        output, state = call_cell(self.cell, inputs, state[1:], self.training, context)
        return Step((output, *state))


def call_cell(cell, inputs, flat_states, training, context=None):
    """Run one step of any cell; return the output and a flat list of states, in the dtype of the inputs.

    A `context` (batch, any) is part of the inputs. Cells of keras_seq take it as a separate argument and never drop it;
    in a stack the first cell does. A foreign cell gets `[inputs, context]`.
    """
    if context is not None and not _takes_context(cell):
        inputs, context = ops.concatenate([inputs, context], axis=-1), None
    if context is not None and _is_stack(cell):
        return _call_stack(cell, inputs, flat_states, training, context)
    options = {"training": training} if "training" in inspect.signature(cell.call).parameters else {}
    if context is not None:
        options["context"] = context
    output, states = cell(inputs, pack_states(cell, flat_states), **options)
    return ops.cast(output, inputs.dtype), [ops.cast(state, inputs.dtype) for state in tree.flatten(states)]


def _call_stack(stack, output, flat_states, training, context):
    """Run one step of a stack. Its own `call` would pass the context to all of its cells."""
    new_states = []
    for cell, states in zip(stack.cells, pack_states(stack, flat_states), strict=True):
        output, states = call_cell(cell, output, tree.flatten(states), training, context)
        new_states += states
        context = None
    return output, new_states


def _takes_context(cell):
    """Whether a cell, or the first cell of a stack, has an argument `context`."""
    if _is_stack(cell):
        return type(cell).call is keras.layers.StackedRNNCells.call and _takes_context(cell.cells[0])
    return isinstance(cell, RecurrentCell) and "context" in inspect.signature(cell.call).parameters


def _is_stack(cell):
    return isinstance(cell, keras.layers.StackedRNNCells)


def pack_states(cell, flat_states):
    """Put a flat list of states into the structure that the cell expects."""
    if isinstance(cell.state_size, int):
        return [flat_states[0]]
    return tree.pack_sequence_as(cell.state_size, list(flat_states))


def draw_all_dropout_masks(cell, inputs, flat_states, context_units=0):
    """Draw the masks that all steps share; the cell keeps them until `reset_all_dropout_masks`.

    Args:
        cell: any cell, or a stack.
        inputs: (batch, features) of one step, for the shape of the masks.
        flat_states: flat list of (batch, size), likewise.
        context_units: number of features of the context that each step gets beside the inputs; 0 for none.
    """
    if context_units and not _takes_context(cell):
        context = ops.zeros((ops.shape(inputs)[0], context_units), inputs.dtype)
        inputs = ops.concatenate([inputs, context], axis=-1)
    _draw_dropout_masks(cell, inputs, pack_states(cell, flat_states))


def reset_all_dropout_masks(cell):
    """Reset the dropout masks that a cell, or each cell of a stack, keeps for a run."""
    for flat_cell in _flat_cells(cell):
        reset_dropout_masks(flat_cell)


def _flat_cells(cell):
    if not _is_stack(cell):
        return [cell]
    return [inner for outer in cell.cells for inner in _flat_cells(outer)]


def _draw_dropout_masks(cell, inputs, states):
    """Draw masks as `keras.layers.RNN` does before its loop."""
    if _is_stack(cell):
        for inner, inner_states in zip(cell.cells, states, strict=True):
            inner_states = inner_states if isinstance(inner_states, (list, tuple)) else [inner_states]
            _draw_dropout_masks(inner, inputs, inner_states)
            size = getattr(inner, "output_size", None) or inner_states[0].shape[-1]
            inputs = ops.zeros((ops.shape(inputs)[0], size), inputs.dtype)
    else:
        draw_dropout_masks(cell, inputs, states[0])

# SPDX-License-Identifier: Apache-2.0
"""Cells that are not of keras_seq, or not run by its equations: called step by step, whatever they compute."""

import inspect

import keras
from keras import ops, tree

from keras_seq.layers.recurrent_cell import RecurrentCell


class ForeignCellEquations:
    """A cell that is not of keras_seq as a recurrence of `cell_equations`, called in every step.

    Automatic differentiation finds its derivative. Its output leads its states, so that a masked step repeats it as it
    does them. The cell keeps its dropout masks until `reset_masks`.

    Args:
        cell: of Keras, or of a user.
        inputs: (batch, features), states: flat list of (batch, size): as of a step, for the shapes of dropout masks.
        training: whether to drop.
        context_units: features of the context that comes with the inputs of each step; 0 if none does.
    """

    differentiable = False

    def __init__(self, cell, inputs, states, training, context_units=0):
        self.cell = cell
        self.training = training
        self.states = 1 + len(states)
        if training:
            if context_units and not _takes_context(cell):
                context = ops.zeros((ops.shape(inputs)[0], context_units), inputs.dtype)
                inputs = ops.concatenate([inputs, context], axis=-1)
            _draw_masks(cell, inputs, _packed(cell, states))

    def split_bias(self, bias):
        return None, None

    def prepare(self, weights):
        return weights

    def dropout_mask(self, weights):
        return None

    def with_dropout_mask(self, weights, mask):
        return weights

    def step(self, inputs, state, weights):
        inputs, context = inputs if isinstance(inputs, tuple) else (inputs, None)
        output, state = call_cell(self.cell, inputs, state[1:], self.training, context)
        return (output, *state), (), ()


def call_cell(cell, inputs, flat_states, training, context=None):
    """One step of any cell: the output, and a flat list of states, of the inputs' dtype whatever the cell's.

    A `context` (batch, any) belongs to the inputs. Our cells take it as an argument of its own and never drop it; of a
    stack the first cell reads it. Any other cell gets `[inputs, context]`.
    """
    if context is not None and not _takes_context(cell):
        inputs, context = ops.concatenate([inputs, context], axis=-1), None
    if context is not None and _is_stack(cell):
        return _call_stack(cell, inputs, flat_states, training, context)
    options = {"training": training} if "training" in inspect.signature(cell.call).parameters else {}
    if context is not None:
        options["context"] = context
    output, states = cell(inputs, _packed(cell, flat_states), **options)
    return ops.cast(output, inputs.dtype), [ops.cast(state, inputs.dtype) for state in tree.flatten(states)]


def _call_stack(stack, output, flat_states, training, context):
    """One step of a stack, whose own `call` would hand the context to each of its cells."""
    new_states = []
    for cell, states in zip(stack.cells, _packed(stack, flat_states), strict=True):
        output, states = call_cell(cell, output, tree.flatten(states), training, context)
        new_states += states
        context = None
    return output, new_states


def _takes_context(cell):
    """Whether a cell, or the first one of a stack, has an argument for the context."""
    if _is_stack(cell):
        return type(cell).call is keras.layers.StackedRNNCells.call and _takes_context(cell.cells[0])
    return isinstance(cell, RecurrentCell) and "context" in inspect.signature(cell.call).parameters


def _is_stack(cell):
    return isinstance(cell, keras.layers.StackedRNNCells)


def _packed(cell, flat_states):
    """States as a cell wants them."""
    if isinstance(cell.state_size, int):
        return [flat_states[0]]
    return tree.pack_sequence_as(cell.state_size, list(flat_states))


def reset_masks(cell):
    """Have a cell, or each cell of a stack, forget the dropout masks that it keeps for a run."""
    for flat_cell in _flat_cells(cell):
        for name in ("reset_dropout_mask", "reset_recurrent_dropout_mask"):
            getattr(flat_cell, name, lambda: None)()


def _flat_cells(cell):
    if not _is_stack(cell):
        return [cell]
    return [inner for outer in cell.cells for inner in _flat_cells(outer)]


def _draw_masks(cell, inputs, states):
    """Have the masks drawn that last a sequence, before the loop: `keras.layers.RNN` says when, cells keep them."""
    if _is_stack(cell):
        for inner, inner_states in zip(cell.cells, states, strict=True):
            inner_states = inner_states if isinstance(inner_states, (list, tuple)) else [inner_states]
            _draw_masks(inner, inputs, inner_states)
            size = getattr(inner, "output_size", None) or inner_states[0].shape[-1]
            inputs = ops.zeros((ops.shape(inputs)[0], size), inputs.dtype)
    elif hasattr(cell, "get_dropout_mask"):
        cell.get_dropout_mask(inputs)
        cell.get_recurrent_dropout_mask(states[0])

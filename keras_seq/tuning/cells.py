# SPDX-License-Identifier: Apache-2.0
"""The cell of a model from the hyperparameters of its recurrence."""

from keras_seq.layers.recurrent_layer import make_cell


def cell_arguments(cell, units, *, zoneout=0.0, dropout_mode="variational", **dropouts):
    """Returns the arguments of a model that describe its cell.

    Models take the cell by name together with its `units` and dropouts. A cell with options that they do not have is
    made here, and becomes their `cell`.

    Args:
        cell: a name, or a cell or layer, which has its own `units` and options.
        units: size of the state, if `cell` is a name.
        zoneout, dropout_mode: see `keras_seq.layers.LSTM`.
        **dropouts: `dropout` and `recurrent_dropout`, as far as the model hands them to its cell.
    """
    if not isinstance(cell, str):
        if zoneout or dropout_mode != "variational":
            raise ValueError(
                "`zoneout` and `dropout_mode` need a `cell` given by name; an object has its own. Received: "
                f"zoneout={zoneout}, dropout_mode={dropout_mode!r} with cell={cell!r}"
            )
        return {"cell": cell, "units": None, **dropouts}
    if not zoneout and dropout_mode == "variational":
        return {"cell": cell, "units": units, **dropouts}
    cell = make_cell(cell, units, zoneout=zoneout, dropout_mode=dropout_mode, **dropouts)
    return {"cell": cell, "units": None}

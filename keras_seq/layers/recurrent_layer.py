# SPDX-License-Identifier: Apache-2.0
"""`RecurrentLayer` and `GatedLayer`, the base classes of the recurrent layers, and the kinds that have a name."""

from collections.abc import Callable

import keras

from keras_seq.layers.recurrent_cell import INITIALIZER_ARGUMENTS, RecurrentCell
from keras_seq.layers.rnn import RNN
from keras_seq.ops.random import check_rate, child_initializer, child_seed

_KINDS = {}  # name -> layer class


def register_kind(name: str) -> Callable:
    """Make a subclass of `RecurrentLayer` available by name, as `cell="lstm"` in models and decoders."""

    def register(layer_class):
        _KINDS[name] = layer_class
        return layer_class

    return register


def make_layer(name: str, units: int, **kwargs) -> "RecurrentLayer":
    """Make the layer with a registered name; further arguments are those of its class."""
    return _get_kind(name)(units, **kwargs)


def make_cell(name: str, units: int, **kwargs) -> RecurrentCell:
    """Make the cell of the layer with a registered name; further arguments are those of its class."""
    return _get_kind(name).cell_type(units, **kwargs)


def _get_kind(name):
    if name not in _KINDS:
        raise ValueError(f"`cell` must be one of {sorted(_KINDS)}. Received: {name!r}")
    return _KINDS[name]


class CellAttribute:
    """A read-only attribute of a layer: the attribute of the same name of its cell, of the first one in a stack."""

    def __set_name__(self, owner, name):
        self.name = name
        self.__doc__ = f"The `{name}` of the cell."

    def __get__(self, layer, owner=None):
        return self if layer is None else getattr(layer.get_first_cell(), self.name)

    def __set__(self, layer, value):
        raise AttributeError(f"`{self.name}` of {type(layer).__name__} is read-only; set it when you make the layer.")


class RecurrentLayer(RNN):
    """Base class of the layers that make their own cells, one or a stack.

    A subclass lists the arguments of cell and layer in its constructor, and hands them to this one. It sets
    `cell_type`, the class of its cells, and `cell_name`, the name of the first one.

    Args:
        cell_arguments: dict, the arguments of each cell. The seed and the initializers of the cells above the first
            one derive from those given here, so that no two cells draw the same numbers.
        num_layers: number of cells in the stack. With several, states are a list with one entry for each cell.
        output_dropout: fraction of the output features of the last cell to drop, with masks by its `dropout_mode`.
        **layer_arguments: arguments of `RNN`. The cells also get `dtype` and `trainable`.
    """

    cell_type = None
    cell_name = None

    units = CellAttribute()
    activation = CellAttribute()
    use_bias = CellAttribute()
    kernel_initializer = CellAttribute()
    recurrent_initializer = CellAttribute()
    bias_initializer = CellAttribute()
    kernel_regularizer = CellAttribute()
    recurrent_regularizer = CellAttribute()
    bias_regularizer = CellAttribute()
    kernel_constraint = CellAttribute()
    recurrent_constraint = CellAttribute()
    bias_constraint = CellAttribute()
    dropout = CellAttribute()
    recurrent_dropout = CellAttribute()
    seed = CellAttribute()
    dropout_mode = CellAttribute()
    recurrent_weight_dropout = CellAttribute()
    zoneout = CellAttribute()

    def __init__(self, cell_arguments: dict, *, num_layers: int = 1, output_dropout: float = 0.0, **layer_arguments):
        if num_layers < 1:
            raise ValueError(f"`num_layers` must be at least 1. Received: {num_layers}")
        shared = {name: layer_arguments[name] for name in ("dtype", "trainable") if name in layer_arguments}
        cells = [self.cell_type(**cell_arguments, **shared, name=self.cell_name)]
        for i in range(1, num_layers):
            arguments = cell_arguments | _derive_random_arguments(cells[0], i)
            cells.append(self.cell_type(**arguments, **shared, name=f"{self.cell_name}_{i}"))
        super().__init__(cells if num_layers > 1 else cells[0], **layer_arguments)
        self.num_layers = num_layers
        self.output_dropout = check_rate("output_dropout", output_dropout)

    def get_first_cell(self) -> RecurrentCell:
        """Return the cell, or the first one of a stack. A method, because Keras saves what attributes hold."""
        return self.cell.cells[0] if isinstance(self.cell, keras.layers.StackedRNNCells) else self.cell

    def collect_results(self, outputs, states, training, time_order=False):
        if training:
            mask = self.recurrent_cells()[-1].draw_feature_mask(self.output_dropout, *keras.ops.shape(outputs))
            outputs = outputs if mask is None else outputs * mask
        return super().collect_results(outputs, states, training, time_order)

    def get_config(self):
        config = super().get_config()
        del config["cell"]
        arguments = {"num_layers": self.num_layers, "output_dropout": self.output_dropout}
        return {**self.get_first_cell().get_config(), **config, **arguments}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class GatedLayer(RecurrentLayer):
    """Base class of `GRU` and `LSTM`: a `RecurrentLayer` whose cells have gates, and which cuDNN can run.

    Args:
        cell_arguments: dict, the arguments of each cell.
        use_cudnn: "auto", True or False. False keeps `implementation="auto"` from choosing cuDNN.
        **layer_arguments: arguments of `RecurrentLayer`.
    """

    recurrent_activation = CellAttribute()
    layer_norm = CellAttribute()

    def __init__(self, cell_arguments: dict, *, use_cudnn: bool | str = "auto", **layer_arguments):
        if use_cudnn not in ("auto", True, False):
            raise ValueError(f"`use_cudnn` must be 'auto', True or False. Received: {use_cudnn!r}")
        super().__init__(cell_arguments, **layer_arguments)
        self.use_cudnn = use_cudnn

    def call_features(self, cell):
        return cell.call_features(self.unroll, self.use_cudnn)

    def run_options(self, mask, training):
        return {**super().run_options(mask, training), "use_cudnn": self.use_cudnn}

    def get_config(self):
        return {**super().get_config(), "use_cudnn": self.use_cudnn}


def _derive_random_arguments(first_cell, index):
    """The seed and the initializers of a further cell of a stack, which draws other numbers than the first one."""
    initializers = {
        name: child_initializer(getattr(first_cell, name), "cell", index) for name in INITIALIZER_ARGUMENTS.values()
    }
    return {"seed": child_seed(first_cell.seed, "cell", index), **initializers}

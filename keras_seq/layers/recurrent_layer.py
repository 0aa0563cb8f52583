# SPDX-License-Identifier: Apache-2.0
"""`RecurrentLayer` and `GatedLayer`, the base classes of the recurrent layers, and `resolve_layer`."""

import numbers
from collections.abc import Callable

import keras

from keras_seq.layers.attention_cell import AttentionCell
from keras_seq.layers.recurrent_cell import INITIALIZER_ARGUMENTS, RecurrentCell
from keras_seq.layers.rnn import RNN
from keras_seq.ops.random import check_rate, child_initializer, child_seed, with_child_seeds

_KINDS = {}  # name -> layer class
_ALIASES = {"rnn": "simple_rnn"}  # names of earlier versions
_KERAS_LAYERS = (keras.layers.RNN, keras.layers.SimpleRNN, keras.layers.GRU, keras.layers.LSTM)


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
    kind = _KINDS.get(_ALIASES.get(name, name))
    if kind is None:
        raise ValueError(f"`cell` must be one of {sorted(_KINDS)}. Received: {name!r}")
    return kind


def resolve_layer(
    cell: str | keras.layers.Layer,
    units: int | None = None,
    *,
    num_layers: int = 1,
    residual: bool = False,
    seed: int | None = None,
    path: tuple = (),
    implementation: str = "auto",
    dtype=None,
    **options,
) -> RNN:
    """Make the recurrent layer that the options of a model describe.

    An object is not used itself but copied from its configuration, so that several models or layers can be made from
    one. Seeds of the copies, of masks and of initializers, derive from those of the object.

    Args:
        cell: a registered name, as "lstm"; a cell of keras_seq, of Keras or your own; or a recurrent layer of keras_seq
            or Keras, which has its own `num_layers` and `residual`.
        units: size of the output. It may be None for an object, which has its own.
        num_layers: number of cells in the stack.
        residual: whether each cell but the first one adds its input to its output.
        seed: seed of the dropout masks, for a name or an object without its own.
        path: names and numbers that distinguish this layer from others of the same model, for the seeds of copies.
        implementation: see `RNN`. With "auto" a layer of keras_seq keeps its own.
        dtype: dtype policy of the layer and its cells. By default objects keep their own.
        **options: arguments of the layer with this name. They need a name, unless they are false.

    Returns:
        A layer with `return_sequences=True` and `return_state=True`.

    Raises:
        ValueError: if an argument is invalid; the message names it.

    Example:
        >>> resolve_layer("gru", 4, dropout=0.2).units, resolve_layer(keras.layers.LSTMCell(3)).cell.units
        (4, 3)
    """
    check_num_layers(num_layers, residual, cell)
    arguments = {"return_sequences": True, "return_state": True, "dtype": dtype}
    if isinstance(cell, str):
        if units is None:
            raise ValueError(f"`units` must be a positive integer where `cell` is a name. Received: None with {cell!r}")
        arguments |= {"num_layers": num_layers, "residual": residual, "seed": seed, "implementation": implementation}
        return make_layer(cell, units, **arguments, **options)
    for name, value in options.items():
        if value:
            raise ValueError(
                f"`{name}` needs a `cell` given by name; an object has its own. Received: {name}={value!r} with "
                f"cell={cell!r}"
            )
    if isinstance(cell, keras.layers.RNN):
        layer = _copy_layer(cell, seed, path, implementation, dtype)
    else:
        _check_cell(cell)
        cells = [_copy_cell(cell, child_seed(seed, "cell", i), (*path, i), dtype, i) for i in range(num_layers)]
        arguments["dtype"] = dtype or cell.dtype_policy
        layer = RNN(
            cells if num_layers > 1 else cells[0], residual=residual, implementation=implementation, **arguments
        )
    size = output_units(layer.cell)
    if units not in (None, size):
        raise ValueError(f"`units` must be None or {size}, the size of the output of `cell`. Received: {units}")
    return layer


def check_num_layers(num_layers: int, residual: bool, cell: str | keras.layers.Layer):
    """Check the size of a stack, which a layer has of its own."""
    if not isinstance(num_layers, numbers.Integral) or num_layers < 1:
        raise ValueError(f"`num_layers` must be at least 1. Received: {num_layers}")
    if isinstance(cell, keras.layers.RNN) and (num_layers > 1 or residual):
        raise ValueError(
            "`num_layers` must be 1 and `residual` False where `cell` is a layer, which has its own. "
            f"Received: num_layers={num_layers}, residual={residual}"
        )


def output_units(cell) -> int:
    """Return the size of the output of any cell, or of the last one of a stack."""
    return getattr(cell, "output_size", None) or keras.tree.flatten(cell.state_size)[0]


class CellArgument:
    """The argument `cell` of a model: a name, or an object that the model copies.

    A model keeps it in this wrapper, because Keras takes a layer in an attribute for a part of the model.
    """

    def __init__(self, cell: str | keras.layers.Layer):
        self.cell = cell

    def get_config(self) -> str | dict:
        """Return what the configuration of the model holds: the name, or the configuration of the object."""
        return self.cell if isinstance(self.cell, str) else keras.saving.serialize_keras_object(self.cell)

    @staticmethod
    def restore(config: dict) -> dict:
        """Return the configuration of a model with an object in the place of its configuration."""
        if not isinstance(config.get("cell"), dict):
            return config
        return {**config, "cell": keras.saving.deserialize_keras_object(config["cell"])}


def _check_cell(cell):
    is_cell = isinstance(cell, keras.layers.Layer) and hasattr(cell, "state_size")
    if not is_cell or isinstance(cell, (AttentionCell, keras.layers.RNN)):
        raise ValueError(
            f"`cell` must be one of {sorted(_KINDS)}, a recurrent cell (a Keras layer with a `state_size`) or a "
            f"recurrent layer of keras_seq or Keras. Received: {cell!r}"
        )


def _copy_layer(layer, seed, path, implementation, dtype):
    """Return a copy of a recurrent layer; a layer of Keras becomes an `RNN` around its cell."""
    is_own = isinstance(layer, RNN)
    _check_cell(layer.cell if is_own or type(layer) in _KERAS_LAYERS else layer)
    if layer.go_backwards or layer.stateful:
        raise ValueError(
            "`cell` must be a layer with `go_backwards=False` and `stateful=False`. "
            f"Received: go_backwards={layer.go_backwards}, stateful={layer.stateful}"
        )
    config = _child_config(layer, seed, path, dtype)
    if implementation != "auto" or not is_own:
        config["implementation"] = implementation
    config |= {"return_sequences": True, "return_state": True}
    if is_own and type(layer) is not RNN:
        return _from_config(type(layer), config)
    if not is_own:
        kept = ("name", "trainable", "dtype", "unroll", "zero_output_for_mask", "implementation")
        config = {name: config[name] for name in kept} | {"return_sequences": True, "return_state": True}
        config["activity_regularizer"] = layer.activity_regularizer
    return RNN(**{**config, "cell": _copy_cell(layer.cell, seed, path, dtype)})


def _copy_cell(cell, seed, path, dtype, index=0):
    """Return a copy of a cell that draws other numbers, with this dtype unless it is None."""
    if type(cell) is keras.layers.StackedRNNCells:
        cells = [_copy_cell(inner, child_seed(seed, i), (*path, i), dtype) for i, inner in enumerate(cell.cells)]
        return keras.layers.StackedRNNCells(cells, dtype=dtype or cell.dtype_policy)
    config = _child_config(cell, seed, path, dtype)
    if index and "name" in config:
        config["name"] += f"_{index}"
    return _from_config(type(cell), config)


def _child_config(layer, seed, path, dtype):
    """Return the configuration of a copy. A seed that is None becomes `seed`."""
    try:
        config = with_child_seeds(layer.get_config(), *path, "copy")
    except NotImplementedError as error:  # Keras cannot generate the configuration of this class
        raise ValueError(f"`cell` must be an object that can be copied. {str(error).strip()}") from error
    if "seed" in config and config["seed"] is None:
        config["seed"] = seed
    if dtype is not None and "dtype" in config:
        # With an object in the place of the name, Keras does not generate a configuration for the copy.
        config["dtype"] = dtype.name if type(dtype) is keras.DTypePolicy else dtype
    return config


def _from_config(layer_class, config):
    try:
        return layer_class.from_config(config)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`cell` must be an object that can be copied: `{layer_class.__name__}.from_config` failed on the result "
            f"of `get_config`. {error}"
        ) from error


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

# SPDX-License-Identifier: Apache-2.0
"""Makes layers of keras_seq from recurrent layers of PyTorch."""

import re
from typing import NamedTuple

import keras
import numpy as np

from keras_seq.layers import GRU, LSTM, Bidirectional, SimpleRNN

_NAME = re.compile(r"(weight|bias)_(ih|hh|hr)_l(\d+)(_reverse)?")
_LAYERS = {1: SimpleRNN, 3: GRU, 4: LSTM}  # by the number of gates
_MODES = {"RNN_TANH": "tanh", "RNN_RELU": "relu", "GRU": None, "LSTM": None}


def from_torch(
    module,
    *,
    prefix="",
    nonlinearity=None,
    dropout=None,
    return_sequences=True,
    return_state=False,
    dtype=None,
    **kwargs,
):
    """Makes layers with the weights and the outputs of a `torch.nn.LSTM`, `torch.nn.GRU` or `torch.nn.RNN`.

    PyTorch is not imported. A state dict of NumPy arrays serves where it is not installed. From the names and shapes of
    its weights follow the kind of cell (recurrent weights have 4 times as many rows as units for an LSTM, 3 times for a
    GRU, once for an RNN), the numbers of features, units, layers and directions, `proj_size`, and whether there are
    biases. Only `nonlinearity` and `dropout` are not in it.

    Sequences are (batch, time, features), whatever `batch_first` is. PyTorch adds two biases in each gate. Their sum is
    the bias here, except in a GRU, which has both too.

    Args:
        module: the module, or its state dict: a dict from names, as `weight_ih_l0`, to arrays or tensors. It may be
            that of a whole model, with a `prefix`.
        prefix: how the names of these weights begin in the state dict, as "encoder.lstm.". All others are ignored.
        nonlinearity: "tanh" or "relu", for a state dict of a `torch.nn.RNN`. Default: that of the module, or "tanh".
        dropout: rate of the dropout between layers. Default: that of the module, or 0.
        return_sequences: whether to return the output of every step, as PyTorch does, instead of the last one.
        return_state: whether to return the final states after the output.
        dtype: dtype policy. Default: "float64" for weights of that dtype, else "float32".
        **kwargs: other arguments of each layer, such as `implementation` or `zero_output_for_mask`.

    Returns:
        A built layer of keras_seq: `LSTM`, `GRU` or `SimpleRNN`, with `num_layers` for several layers; or
        `Bidirectional`. Several layers with two directions, or with dropout between them, are a `keras.Model` of such
        layers. Its states come layer by layer, forward before backward.

    Raises:
        ValueError: if `module` is something else, or if weights are missing or have other shapes.

    Example:
        >>> import numpy as np, keras_seq
        >>> weights = {"weight_ih_l0": np.ones((12, 3)), "weight_hh_l0": np.ones((12, 4))}
        >>> layer = keras_seq.from_torch(weights)
        >>> type(layer).__name__, layer.units, layer.use_bias
        ('GRU', 4, False)
        >>> layer(np.ones((2, 5, 3))).shape
        TensorShape([2, 5, 4])
    """
    state, mode = _state_of(module, prefix)
    found = _MODES.get(mode)
    if nonlinearity is not None and found not in (None, nonlinearity):
        raise ValueError(f"`nonlinearity` must be that of the module, {found!r}. Received: {nonlinearity!r}")
    nonlinearity = nonlinearity or found or "tanh"
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"`nonlinearity` must be 'tanh' or 'relu'. Received: {nonlinearity!r}")
    dropout = getattr(module, "dropout", 0.0) if dropout is None else dropout
    weights = _read_weights(state, prefix)
    kind = _LAYERS[weights.gates]
    arguments = {"units": weights.units, "use_bias": weights.has_bias, "return_state": return_state, **kwargs}
    arguments["dtype"] = weights.dtype if dtype is None else dtype
    arguments |= {"projection_units": weights.projection_units} if weights.projection_units else {}
    arguments |= {"activation": nonlinearity} if kind is SimpleRNN else {}
    depth = len(weights.layers)
    if depth == 1 or not (weights.is_bidirectional or dropout):
        layer = _make_layer(kind, weights, depth, {**arguments, "return_sequences": return_sequences})
        layer.build((None, None, weights.features))
        return _with_weights(layer, weights.layers)
    return _make_model(kind, weights, arguments, dropout, return_sequences)


class _Weights(NamedTuple):
    """The weights of a module, and what follows from them."""

    layers: list  # a list for each layer of a dict for each direction
    gates: int
    features: int
    units: int
    projection_units: int | None
    has_bias: bool
    dtype: str

    @property
    def is_bidirectional(self):
        return len(self.layers[0]) == 2


def _state_of(module, prefix):
    """Returns the state dict of a module or a state dict itself, and the mode of the module or None."""
    if isinstance(module, dict):
        return module, None
    mode = getattr(module, "mode", None)
    if not hasattr(module, "state_dict") or (mode not in _MODES and not prefix):
        raise ValueError(
            "`module` must be a `torch.nn.LSTM`, `torch.nn.GRU` or `torch.nn.RNN`, or a state dict. For a part of a "
            f"larger module pass that part, or give a `prefix`. Received: a {type(module).__name__}"
        )
    return module.state_dict(), mode


def _read_weights(state, prefix):
    arrays = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    unknown = [name for name in arrays if not _NAME.fullmatch(name)]
    if unknown or not arrays:
        found = sorted({match[1] for name in state if (match := re.fullmatch(r"(.*\.)weight_ih_l0", name))})
        hint = f" Recurrent layers were found under `prefix` {' and '.join(map(repr, found))}." if found else ""
        raise ValueError(
            "`module` must have only the weights of a recurrent layer, such as 'weight_ih_l0', after `prefix` "
            f"{prefix!r}. Received: {unknown[:3] or 'none'}.{hint}"
        )
    arrays = {name: _as_array(value) for name, value in arrays.items()}
    keys = [_NAME.fullmatch(name).groups() for name in arrays]
    depth, directions = max(int(layer) for _, _, layer, _ in keys) + 1, 1 + any(reverse for *_, reverse in keys)
    has_bias, has_projection = any(kind == "bias" for kind, *_ in keys), any(part == "hr" for _, part, *_ in keys)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in arrays:
            raise ValueError(f"`module` must have the weight '{prefix}{name}'. Received: {sorted(state)[:6]}")
    rows, hidden = arrays["weight_hh_l0"].shape
    units = arrays["weight_hr_l0"].shape[1] if "weight_hr_l0" in arrays else hidden
    gates, remainder = divmod(rows, units)
    if remainder or gates not in _LAYERS or (has_projection and gates != 4):
        raise ValueError(
            f"`module` must have a '{prefix}weight_hh_l0' with 1, 3 or 4 times as many rows as units. Received: shape "
            f"{(rows, hidden)}"
        )
    features = arrays["weight_ih_l0"].shape[-1]
    layers = []
    for k in range(depth):
        inputs = hidden * directions if k else features
        shapes = {"weight_ih": (rows, inputs), "weight_hh": (rows, hidden)}
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if has_bias else {}
        shapes |= {"weight_hr": (hidden, units)} if has_projection else {}
        suffixes = [f"_l{k}", f"_l{k}_reverse"][:directions]
        layers.append([_take(arrays, shapes, suffix, prefix) for suffix in suffixes])
    dtype = "float64" if arrays["weight_hh_l0"].dtype == np.float64 else "float32"
    return _Weights(layers, gates, features, units, hidden if has_projection else None, has_bias, dtype)


def _take(arrays, shapes, suffix, prefix):
    """Returns the weights of one layer and direction, after checking their shapes."""
    for part, shape in shapes.items():
        array = arrays.get(part + suffix)
        if array is None or array.shape != shape:
            received = "no such weight" if array is None else f"shape {array.shape}"
            raise ValueError(f"`module` must have '{prefix}{part}{suffix}' of shape {shape}. Received: {received}")
    return {part: arrays[part + suffix] for part in shapes}


def _as_array(value):
    """Returns an array or a tensor of PyTorch as an array. NumPy has no bfloat16."""
    value = value.detach().cpu() if hasattr(value, "detach") else value
    return np.asarray(value.float() if str(getattr(value, "dtype", "")) == "torch.bfloat16" else value)


def _make_layer(kind, weights, depth, arguments):
    layer = kind(**arguments, **({"num_layers": depth} if depth > 1 else {}))
    return Bidirectional(layer, dtype=layer.dtype_policy) if weights.is_bidirectional else layer


def _make_model(kind, weights, arguments, dropout, return_sequences):
    """Returns a model of one layer on another, with dropout between them."""
    policy = keras.dtype_policies.get(arguments["dtype"])
    inputs = outputs = keras.Input((None, weights.features), dtype=policy.compute_dtype)
    states = []
    for k, directions in enumerate(weights.layers):
        is_last = k + 1 == len(weights.layers)
        if k and dropout:
            outputs = keras.layers.Dropout(dropout, dtype=policy)(outputs)
        layer = _make_layer(kind, weights, 1, {**arguments, "return_sequences": return_sequences or not is_last})
        results = layer(outputs)
        outputs, *of_layer = results if arguments["return_state"] else [results]
        states += of_layer
        _with_weights(layer, [directions])
    return keras.Model(inputs, [outputs, *states] if states else outputs)


def _with_weights(layer, layers):
    """Gives a built layer the weights of its cells, and returns it."""
    is_bidirectional = isinstance(layer, Bidirectional)
    directions = [layer.forward_layer, layer.backward_layer] if is_bidirectional else [layer]
    for i, direction in enumerate(directions):
        for cell, weights in zip(direction.recurrent_cells(), (both[i] for both in layers), strict=True):
            _set_weights(cell, weights)
    return layer


def _set_weights(cell, weights):
    gates = cell.equations.gates
    order = [1, 0, 2] if gates == 3 else range(gates)  # a GRU of PyTorch has r before z

    def reorder(array):
        blocks = np.split(array, gates)
        return np.concatenate([blocks[gate] for gate in order])

    cell.kernel.assign(reorder(weights["weight_ih"]).T)
    cell.recurrent_kernel.assign(reorder(weights["weight_hh"]).T)
    if cell.use_bias:
        biases = reorder(weights["bias_ih"]), reorder(weights["bias_hh"])
        cell.bias.assign(np.stack(biases) if gates == 3 else sum(biases))
    if "weight_hr" in weights:
        cell.projection_kernel.assign(weights["weight_hr"].T)

# SPDX-License-Identifier: Apache-2.0
"""Diagnostics of recurrent layers: the gradients of hidden states, and the values of gates and states."""

import inspect

import keras
import numpy as np
from keras import tree

from keras_seq._private_api import get_mask, walk_layers
from keras_seq.layers import RNN
from keras_seq.ops.equations.cell import zone_out
from keras_seq.ops.equations.gru import GRUEquations
from keras_seq.ops.equations.lstm import LSTMEquations
from keras_seq.ops.equations.mgu import MGUEquations
from keras_seq.ops.equations.protocol import RecurrentWeights, StepMasks
from keras_seq.ops.equations.simple_rnn import SimpleRNNEquations
from keras_seq.ops.masks import as_bool_mask

__all__ = ["gates", "gradient_flow"]

# The gates of cell equations, in the order of the residuals of a step, which begin with them.
_GATES = {
    SimpleRNNEquations: (),
    GRUEquations: ("candidate", "update_gate", "reset_gate"),
    LSTMEquations: ("input_gate", "forget_gate", "candidate", "output_gate"),
    MGUEquations: ("forget_gate", "candidate"),
}
_STATES = ("hidden_state", "cell_state")


def gradient_flow(model, batch, training=False):
    """Computes the norm of the gradient of the loss with respect to each hidden state, `||dL/dh_t||`.

    The gradient is the total derivative through all later steps (backpropagation through time), so it shows whether it
    vanishes or explodes on its way to the first steps (Pascanu et al. 2013). The norm is the Frobenius norm over batch
    and units. A masked step computes no state; its norm is 0. The cell state of an LSTM contributes where a later h
    depends on it. With zoneout, h_t is the new state before it is mixed with the old one.

    L is the loss of `model.compute_loss`, as in `train_on_batch`, with sample weights and regularization. The model
    does not change: weights, states of stateful layers, metrics and random seeds are restored. Everything runs eagerly
    and without native kernels, which takes longer than a training step. In a float64 model a loss of Keras computes in
    `keras.config.floatx()`, unless it is made with `dtype="float64"`.

    Args:
        model: a compiled Keras model with recurrent layers of `keras_seq`, at any depth.
        batch: a batch as in `model.train_on_batch`: `(x, y)`, `(x, y, sample_weight)` or x alone.
        training: whether the model runs in training mode, with dropout.

    Returns:
        A dict from the names of layers to float64 NumPy arrays (time,), in the order of the model. Index t is step t
        of the sequence, also for a layer that runs backwards. The name of a nested layer starts with those of the
        layers around it: "bidirectional/backward_gru". In a stack, each cell has its number: "lstm/0", "lstm/1". A
        layer that is called several times has an array for each call: "lstm", "lstm#2". A layer that is not called has
        none.

    Raises:
        ValueError: if `model` is not a compiled Keras model, or calls no recurrent layer of `keras_seq`.
        NotImplementedError: if the backend is not TensorFlow, or if a layer runs inside a `tf.function`, where its
            gradients cannot be recorded.

    Example:
        >>> import numpy as np, keras, keras_seq
        >>> rnn = keras_seq.layers.SimpleRNN(1, "linear", False, "ones", keras.initializers.Constant(0.5), name="rnn")
        >>> model = keras.Sequential([rnn])
        >>> model.compile(loss=lambda y, y_pred: y_pred)
        >>> gradient_flow(model, (np.ones((1, 4, 1)), np.ones((1, 1))))["rnn"].tolist()  # each step halves it
        [0.125, 0.25, 0.5, 1.0]
    """
    if keras.backend.backend() != "tensorflow":
        raise NotImplementedError(
            f"`gradient_flow` needs the TensorFlow backend of Keras. Received: {keras.backend.backend()!r}"
        )
    import tensorflow as tf

    layers = _recurrent_layers(model)
    x, y, sample_weight = tree.map_structure(_to_tensor, keras.utils.unpack_x_y_sample_weight(batch))
    options = {"training": training} if "training" in inspect.signature(model.call).parameters else {}
    if not all(layer.built for _, layer in walk_layers(model)):
        # Tracing builds the layers and computes nothing.
        tf.function(lambda: model(x, **options), autograph=False).get_concrete_function()
    # The states of recurrent layers are not among the variables that Keras lists for a model.
    states = [layer.states for _, layer in walk_layers(model) if isinstance(layer, keras.layers.RNN)]
    variables = [*model.non_trainable_variables, *model.metrics_variables, *_without_none(states)]
    values = [variable.numpy() for variable in variables]
    probes = [[] for _ in layers]  # of each layer: one for each call and cell
    try:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for (path, layer), layer_probes in zip(layers, probes, strict=True):
                layer.probe_hook = _make_probe_hook(path, tape, layer_probes)
            y_pred = model(x, **options)
            loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
    finally:
        for _, layer in layers:
            layer.probe_hook = None
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    if not any(probes):
        paths = [path for path, _ in layers]
        raise ValueError(
            "`model` must call a recurrent layer of keras_seq eagerly. "
            f"Received: {model.name!r}, which calls none of {paths}"
        )
    norms = {}
    gradients = tape.gradient(loss, probes, unconnected_gradients="zero")
    for (path, layer), layer_gradients in zip(layers, gradients, strict=True):
        cells = len(layer.recurrent_cells())
        for i, gradient in enumerate(layer_gradients):  # the cells of the first call, then those of the second
            name = f"{path}/{i % cells}" if cells > 1 else path
            norms[_number_if_taken(name, norms)] = _norms(gradient)
    return norms


def gates(layer, inputs, initial_state=None, mask=None):
    """Computes the gates and states of a recurrent layer at each step, at inference.

    They show what a trained layer does: which units keep their state over many steps, and at which inputs a gate opens.
    `keras_seq.plots.plot_gates` draws them.

    Args:
        layer: a built recurrent layer of keras_seq with cells of keras_seq, also a stack or a `Bidirectional`. All
            extensions are covered (peepholes, projection, layer normalization, zoneout), attention is not.
        inputs: (batch, time, features).
        initial_state: as in a call of the layer. By default zeros, the learned state, or that of a stateful layer.
        mask: (batch, time) booleans, True = keep. By default the mask that `inputs` carry.

    Returns:
        A dict of NumPy arrays (batch, time, units). Every layer has the "hidden_state", and "candidate" is the new
        value that gates mix into a state. An `LSTM` has "input_gate", "forget_gate", "candidate", "output_gate",
        "cell_state" and "hidden_state"; a `GRU` "update_gate", "reset_gate" and "candidate"; an `MGU` "forget_gate" and
        "candidate". Index t is step t of the sequence, also for a layer that runs backwards. States are those after
        each step. A masked step keeps the state; it computes no gates, and they are NaN.

        In a stack, names start with the number of the cell: "0/forget_gate", "1/forget_gate". In a `Bidirectional`,
        they start with "forward/" or "backward/".

    Raises:
        ValueError: if `layer` is not such a layer, or is not built.

    Example:
        >>> import numpy as np, keras_seq
        >>> layer = keras_seq.layers.LSTM(4)
        >>> layer.build((None, None, 3))
        >>> values = gates(layer, np.ones((2, 5, 3)))
        >>> values["forget_gate"].shape, values["cell_state"].shape
        ((2, 5, 4), (2, 5, 4))
    """
    if isinstance(layer, keras.layers.Bidirectional):
        half = None if initial_state is None else len(initial_state) // 2
        halves = (None, None) if half is None else (initial_state[:half], initial_state[half:])
        both = {"forward": layer.forward_layer, "backward": layer.backward_layer}
        results = {
            name: gates(direction, inputs, state, mask)
            for (name, direction), state in zip(both.items(), halves, strict=True)
        }
        return {f"{name}/{key}": value for name, values in results.items() for key, value in values.items()}
    cells = _check_cells(layer)
    mask = get_mask(inputs) if mask is None else mask
    inputs = keras.ops.convert_to_tensor(inputs, dtype=layer.compute_dtype)
    if len(inputs.shape) != 3:
        raise ValueError(f"`inputs` must be (batch, time, features). Received: shape {tuple(inputs.shape)}")
    results = {}
    for i, (cell, state) in enumerate(zip(cells, layer.resolve_initial_states(inputs, initial_state), strict=True)):
        call = cell.recurrent_call(inputs, state, reverse=layer.go_backwards).prepare()
        values = _run_cell(call, _gate_names(cell.equations), as_bool_mask(mask))
        results |= {f"{i}/{name}" if len(cells) > 1 else name: value for name, value in values.items()}
        inputs = values["hidden_state"] + inputs if i and layer.residual else values["hidden_state"]
    return {name: keras.ops.convert_to_numpy(value) for name, value in results.items()}


def _gate_names(equations):
    return next(names for kind, names in _GATES.items() if isinstance(equations, kind))


def _check_cells(layer):
    """Returns the cells of a built recurrent layer of keras_seq."""
    cells = layer.recurrent_cells() if isinstance(layer, RNN) else None
    if cells is None:
        raise ValueError(
            "`layer` must be a recurrent layer of keras_seq with cells of keras_seq, or a `Bidirectional` of them. "
            f"Received: {layer!r}"
        )
    if not layer.built:
        raise ValueError(f"`layer` must be built. Call it, or `build` it, first. Received: {layer!r}")
    return cells


def _run_cell(call, names, mask):
    """Runs a `RecurrentCall` step by step. Returns the dict of gates and states, tensors (batch, time, units)."""
    ops, equations = keras.ops, call.equations
    batch, time, features = call.inputs.shape
    bias, recurrent_bias = call.split_bias()
    weights = RecurrentWeights(call.recurrent_kernel, recurrent_bias, call.extra_weights)
    inputs = call.inputs if mask is None else ops.where(mask[:, :, None], call.inputs, 0)
    products = equations.input_product(weights, ops.reshape(inputs, (-1, features)), call.kernel, bias)
    products = ops.reshape(products, (batch, time, call.kernel.shape[-1]))
    prepared = equations.prepare(weights)
    state = call.zero_state(batch) if call.initial_state is None else tuple(call.initial_state)
    units = call.kernel.shape[-1] // equations.gates
    sizes = dict.fromkeys(names, units) | dict(zip(_STATES, call.state_sizes, strict=False))
    steps = [None] * time
    for t in reversed(range(time)) if call.reverse else range(time):
        step = equations.step(prepared, StepMasks(), products[:, t], state)
        new_state = zone_out(call.zoneout_masks or (None,) * len(state), state, step.state)
        values = step.residuals[: len(names)]
        if mask is not None:
            visible = mask[:, t, None]
            new_state = tuple(ops.where(visible, new, old) for new, old in zip(new_state, state, strict=True))
            values = [ops.where(visible, value, float("nan")) for value in values]
        steps[t], state = [*values, *new_state], new_state
    if not time:
        return {name: ops.zeros((batch, 0, size), inputs.dtype) for name, size in sizes.items()}
    return {name: ops.stack(series, axis=1) for name, series in zip(sizes, zip(*steps, strict=True), strict=True)}


def _recurrent_layers(model):
    """Returns the recurrent layers of keras_seq in a model: a list of (path, layer), with a shared layer once."""
    if not isinstance(model, keras.Model) or not model.compiled:
        problem = "not compiled" if isinstance(model, keras.Model) else "not a model"
        raise ValueError(f"`model` must be a compiled Keras model. Received: {model!r}, which is {problem}")
    recurrent_layers, others = [], []
    for path, layer in walk_layers(model):
        if isinstance(layer, RNN) and layer.recurrent_cells() is not None:
            recurrent_layers.append((path, layer))
        elif isinstance(layer, keras.layers.RNN):
            others.append(path)
    if not recurrent_layers:
        received = f"only those of Keras: {others}. `keras_seq.convert(model)` replaces them" if others else "none"
        raise ValueError(f"`model` must have recurrent layers of keras_seq. Received: {model.name!r} with {received}")
    return recurrent_layers


def _make_probe_hook(path, tape, probes):
    """Returns a `probe_hook` for a layer, which makes the tape watch each probe and appends it to `probes`."""

    def hook(probe):
        if not hasattr(probe, "numpy"):
            raise NotImplementedError(
                "`model` must call its recurrent layers outside a `tf.function`, where `gradient_flow` can record "
                f"their gradients. Received: a model that calls {path!r} inside one"
            )
        tape.watch(probe)
        probes.append(probe)
        return probe

    return hook


def _number_if_taken(name, taken):
    """Returns the name, with a number if it is taken: "lstm", "lstm#2"."""
    count = sum(other.partition("#")[0] == name for other in taken)
    return f"{name}#{count + 1}" if count else name


def _without_none(nested):
    return [x for x in tree.flatten(nested) if x is not None]


def _to_tensor(x):
    return keras.ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x


def _norms(gradient):
    """(batch, time, units) -> (time,), in float64, where the squares of small gradients do not underflow."""
    return np.sqrt(np.square(keras.ops.convert_to_numpy(gradient).astype("float64")).sum(axis=(0, 2)))

# SPDX-License-Identifier: Apache-2.0
"""The recurrences as functions of tensors, and the one place that chooses how they run."""

import os
from typing import NamedTuple

from keras import activations, layers, ops

from keras_seq.ops import cell_math
from keras_seq.ops.cell_math import AttentionWeights, RecurrentWeights
from keras_seq.ops.scan import scan

IMPLEMENTATIONS = ("auto", "native", "xla")


class Choice(NamedTuple):
    """Which implementation runs, and why."""

    implementation: str
    reason: str


def check_implementation(implementation):
    """Return one of "auto", "native", "xla"; Keras's legacy integers 1 and 2 mean "auto"."""
    if implementation in (1, 2):
        return "auto"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"`implementation` must be one of {IMPLEMENTATIONS}. Received: {implementation!r}")
    return implementation


def choose_implementation(implementation="auto"):
    """Decide how a recurrence runs: "auto" is native where there is a kernel, else xla.

    The environment variable `KERAS_SEQ_IMPLEMENTATION` replaces "auto".

    Args:
        implementation: "auto", "native" or "xla".

    Returns:
        A `Choice`.

    Raises:
        NotImplementedError: if "native" is asked for and cannot be had.
        ValueError: if there is no such implementation.
    """
    requested, source = check_implementation(implementation), "`implementation`"
    forced = os.environ.get("KERAS_SEQ_IMPLEMENTATION")
    if requested == "auto" and forced:
        requested, source = check_implementation(forced), "KERAS_SEQ_IMPLEMENTATION"
    unavailable = "this version of keras_seq has no native kernels"
    if requested == "native":
        raise NotImplementedError(f"{source} is 'native', but {unavailable}. Use 'auto' or 'xla'.")
    if requested == "xla":
        return Choice("xla", f"asked for by {source}")
    return Choice("xla", unavailable)


class Explanation(NamedTuple):
    """How one layer runs."""

    layer: str
    kind: str
    implementation: str
    reason: str


def explain(layer_or_model):
    """Say which implementation each recurrent layer runs, and why; nothing is chosen silently.

    Args:
        layer_or_model: a Keras layer or model. Layers inside it are found at any depth.

    Returns:
        A list of `Explanation(layer, kind, implementation, reason)`, one for each of our recurrent layers, in the
        order of the model. A recurrent layer of Keras itself is listed as "keras".

    Example:
        >>> import keras, keras_seq
        >>> model = keras.Sequential([keras_seq.layers.LSTM(8, name="lstm"), keras.layers.Dense(1)])
        >>> [(row.layer, row.implementation) for row in keras_seq.explain(model)]
        [('lstm', 'xla')]
    """
    rows = {}
    for layer in _walk(layer_or_model):
        if hasattr(layer, "choose_implementation"):
            choice = layer.choose_implementation()
        elif isinstance(layer, layers.RNN):
            choice = Choice("keras", "not a layer of keras_seq")
        else:
            continue
        rows[id(layer)] = Explanation(layer.name, type(layer).__name__, *choice)  # a shared layer has one row
    return list(rows.values())


def _walk(layer):
    """A layer and those inside it, in the order in which they were added."""
    yield layer
    for inner in layer._flatten_layers(recursive=False, include_self=False):
        yield from _walk(inner)


def simple_rnn(inputs, kernel, recurrent_kernel, bias=None, *, activation="tanh", **options):
    """The vanilla recurrence (Elman 1990) over whole sequences: `h_t = f(x_t W + h_{t-1} U + b)`.

    Args:
        inputs: (batch, time, features).
        kernel: W, (features, units).
        recurrent_kernel: U, (units, units).
        bias: b, (units,), or None.
        activation: f, a name or a function.
        **options: as of `lstm`; `initial_state` is a tuple of one tensor.

    Returns:
        `(outputs, (h,))`, outputs (batch, time, units) and the final state (batch, units).

    Example:
        >>> import numpy as np
        >>> one = np.ones((1, 1), "float32")
        >>> outputs, (h,) = simple_rnn(np.ones((1, 3, 1), "float32"), one, one, activation="linear")
        >>> np.asarray(outputs).tolist()
        [[[1.0], [2.0], [3.0]]]
    """
    cell = cell_math.SimpleRNN(activations.get(activation))
    return _recur(cell, inputs, kernel, bias, RecurrentWeights(recurrent_kernel), **options)


def gru(
    inputs,
    kernel,
    recurrent_kernel,
    bias=None,
    *,
    activation="tanh",
    recurrent_activation="sigmoid",
    reset_after=True,
    **options,
):
    """The gated recurrent unit (Cho et al. 2014) over whole sequences; equations in `cell_math.GRU`.

    Args:
        inputs: (batch, time, features).
        kernel: (features, 3 * units), gates z, r, g.
        recurrent_kernel: (units, 3 * units).
        bias: (2, 3 * units) with `reset_after` (input bias, recurrent bias), else (3 * units,); or None.
        activation: of the candidate, a name or a function.
        recurrent_activation: of the gates.
        reset_after: whether the reset gate acts after the recurrent product, as in cuDNN.
        **options: as of `lstm`; `initial_state` is a tuple of one tensor.

    Returns:
        `(outputs, (h,))`, outputs (batch, time, units) and the final state (batch, units).
    """
    cell = cell_math.GRU(activations.get(activation), activations.get(recurrent_activation), reset_after)
    recurrent_bias = None
    if bias is not None and reset_after:
        bias, recurrent_bias = ops.unstack(ops.convert_to_tensor(bias), 2, axis=0)
    return _recur(cell, inputs, kernel, bias, RecurrentWeights(recurrent_kernel, recurrent_bias), **options)


def lstm(
    inputs,
    kernel,
    recurrent_kernel,
    bias=None,
    *,
    activation="tanh",
    recurrent_activation="sigmoid",
    **options,
):
    """Long short-term memory (Hochreiter & Schmidhuber 1997) over whole sequences; equations in `cell_math.LSTM`.

    Args:
        inputs: (batch, time, features).
        kernel: (features, 4 * units), gates i, f, g, o.
        recurrent_kernel: (units, 4 * units).
        bias: (4 * units,), or None.
        activation: of candidate and output, a name or a function.
        recurrent_activation: of the gates.
        initial_state: tuple of (batch, units), h and c; zeros when None.
        mask: (batch, time) booleans, True = keep; a masked step carries the state and repeats the output.
        zero_output_for_mask: whether the output of a masked step is zero instead.
        recurrent_dropout_mask: multiplies the previous output in the recurrent product: (batch, units), the same in
            every step, or (batch, time, units), entry [:, t] in step t.
        zoneout_masks: None, or a tuple with one entry a state (h and c), None or of shape (batch, units) or
            (batch, time, units): m, the share of the state before that a step keeps (Krueger et al. 2017),
            `s_t = m s_{t-1} + (1 - m) s~_t` for the new state s~_t of the equations. In training m is drawn from
            {0, 1}, at inference it is the constant rate. The output of a step is h_t; `h~_t = o f(c~_t)` is of the
            new c~_t. A step that `mask` leaves out carries the whole state. Like the dropout mask, m gets no gradient.
        reverse: whether to run from the last step to the first; outputs keep the order of the inputs.
        unroll: whether to lay out the steps instead of looping. Needs a static time.
        recompute: whether to run the forward pass again for the gradient instead of keeping its residuals.
        implementation: "auto", "native" or "xla".

    Returns:
        `(outputs, (h, c))`, outputs (batch, time, units) and the final state, each (batch, units).
    """
    cell = cell_math.LSTM(activations.get(activation), activations.get(recurrent_activation))
    return _recur(cell, inputs, kernel, bias, RecurrentWeights(recurrent_kernel), **options)


def attention_decoder(
    cell,
    inputs,
    memory,
    *,
    kernel,
    recurrent_kernel,
    bias=None,
    recurrent_bias=None,
    query_kernel,
    score_vector,
    keys,
    memory_mask=None,
    **options,
):
    """A recurrence that attends to a memory before each step (Bahdanau, Cho & Bengio 2015).

    Step t: `a_t = softmax_s(v . tanh(k_s + h_{t-1} W_q))`, `context_t = sum_s a_ts m_s`, then the cell on
    `[x_t, context_t]`.

    Args:
        cell: a recurrence of `cell_math`.
        inputs: (batch, time, features).
        memory: (batch, source, memory_units).
        kernel: (features + memory_units, gates * units).
        recurrent_kernel: (units, gates * units).
        bias: (gates * units,), or None.
        recurrent_bias: (3 * units,), of a GRU with `reset_after`, or None.
        query_kernel: W_q, (units, attention_units).
        score_vector: v, (attention_units,).
        keys: (batch, source, attention_units), the memory times the key kernel.
        memory_mask: (batch, source) booleans, True = keep. Where nothing is left, the context is zero.
        **options: `initial_state`, `mask`, `recurrent_dropout_mask`, `zoneout_masks`, `reverse`, `unroll`,
            `recompute`, `implementation` as of `lstm`.

    Returns:
        `(outputs, state, alignments)`: (batch, time, units), the final state, and a (batch, time, source).
    """
    memory = ops.convert_to_tensor(memory)
    features = inputs.shape[-1]
    weights = AttentionWeights(
        cell=RecurrentWeights(recurrent_kernel, recurrent_bias),
        context_kernel=kernel[features:],
        query_kernel=query_kernel,
        score_vector=score_vector,
        keys=keys,
        memory=memory,
        memory_mask=None if memory_mask is None else ops.cast(memory_mask, memory.dtype),
    )
    outputs, state, (alignments,) = _scan_batch_major(
        cell_math.AdditiveAttention(cell), inputs, kernel[:features], bias, weights, **options
    )
    return outputs, state, alignments


def _recur(cell, inputs, kernel, bias, weights, **options):
    outputs, state, _ = _scan_batch_major(cell, inputs, kernel, bias, weights, **options)
    return outputs, state


def _scan_batch_major(
    cell,
    inputs,
    kernel,
    bias,
    weights,
    *,
    initial_state=None,
    mask=None,
    zero_output_for_mask=False,
    recurrent_dropout_mask=None,
    zoneout_masks=None,
    reverse=False,
    unroll=False,
    recompute=False,
    implementation="auto",
):
    """Project the inputs, scan over time, and put the results into batch-major order."""
    choose_implementation(implementation)  # raises where the request cannot be met; there is one answer so far
    inputs = ops.transpose(inputs, (1, 0, 2))  # (time, batch, features)
    time, batch, features = ops.shape(inputs)
    projected = ops.matmul(ops.reshape(inputs, (-1, features)), kernel)  # one product over all steps
    if bias is not None:
        projected = projected + bias
    projected = ops.reshape(projected, (time, batch, kernel.shape[-1]))
    units = kernel.shape[-1] // cell.gates
    state = initial_state
    if state is None:
        state = [ops.zeros((batch, units), projected.dtype) for _ in range(cell.states)]
    else:
        _check_one_a_state("initial_state", state, f"{cell.states} tensor(s) of shape (batch, {units})", cell)
    if zoneout_masks is not None:
        expected = f"{cell.states} entries, None or of shape (batch, {units}) or (batch, time, {units})"
        _check_one_a_state("zoneout_masks", zoneout_masks, expected, cell)
        masks = enumerate(zoneout_masks)
        zoneout_masks = [_time_major_mask(f"zoneout_masks[{i}]", m, projected, units) for i, m in masks]
    dropout_mask = _time_major_mask("recurrent_dropout_mask", recurrent_dropout_mask, projected, units)
    weights = cell.with_dropout_mask(weights, dropout_mask)
    time_mask = None if mask is None else ops.transpose(ops.cast(mask, "bool"))  # (time, batch)
    options = {"reverse": reverse, "unroll": unroll, "recompute": recompute}
    outputs, emitted, final_state = scan(cell, projected, tuple(state), weights, time_mask, zoneout_masks, **options)
    if mask is not None and (zero_output_for_mask or initial_state is not None):
        visible = time_mask if zero_output_for_mask else _seen(time_mask, reverse)
        outputs = ops.where(visible[:, :, None], outputs, ops.zeros_like(outputs))
    emitted = tuple(ops.transpose(sequence, (1, 0, 2)) for sequence in emitted)
    return ops.transpose(outputs, (1, 0, 2)), final_state, emitted


def _check_one_a_state(name, given, expected, cell):
    if not isinstance(given, (list, tuple)) or len(given) != cell.states:
        is_list = isinstance(given, (list, tuple))
        received = f"{len(given)} of them" if is_list else f"a tensor of shape {ops.convert_to_tensor(given).shape}"
        raise ValueError(f"`{name}` must be a list of {expected}. Received: {received}")


def _time_major_mask(name, mask, projected, units):
    """A mask (batch, units) as it is, one of (batch, time, units) as (time, batch, units); constant to a gradient."""
    if mask is None:
        return None
    time, batch, _ = projected.shape
    mask = ops.stop_gradient(ops.cast(mask, projected.dtype))
    expected = [(batch, units), (batch, time, units)]
    if not any(_may_equal(mask.shape, shape) for shape in expected):
        raise ValueError(
            f"`{name}` must have shape (batch, units) = {expected[0]} or (batch, time, units) = {expected[1]}. "
            f"Received: shape {tuple(mask.shape)}"
        )
    return mask if len(mask.shape) == 2 else ops.transpose(mask, (1, 0, 2))


def _may_equal(shape, expected):
    """Whether two static shapes can be one, as far as they are known."""
    return len(shape) == len(expected) and all(None in (a, b) or a == b for a, b in zip(shape, expected, strict=True))


def _seen(time_mask, reverse):
    """Where a step has been processed already: before that Keras's output is zero, whatever the initial state."""
    counts = ops.cast(time_mask, "int32")
    counts = ops.flip(ops.cumsum(ops.flip(counts, 0), axis=0), 0) if reverse else ops.cumsum(counts, axis=0)
    return counts > 0

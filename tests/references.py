# SPDX-License-Identifier: Apache-2.0
"""The recurrences in NumPy, step by step and gate by gate, with the signatures of `keras_seq.ops`.

Written from the papers' equations and from nothing in keras_seq. They take complex numbers as well, so that
`numerical_gradients` is exact: f(x + ih) = f(x) + ih f'(x) has no difference to lose digits in (Squire & Trapp 1998).
"""

import numpy as np

ACTIVATIONS = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.where(x.real > 0, x, 0),
    "linear": lambda x: x,
}


def simple_rnn(inputs, kernel, recurrent_kernel, bias=None, *, initial_state=None, mask=None, reverse=False, **cell):
    step = _simple_rnn_step(kernel, recurrent_kernel, bias, **cell)
    return _run(step, inputs, initial_state or _zeros(inputs, recurrent_kernel, 1), mask, reverse)[:2]


def gru(inputs, kernel, recurrent_kernel, bias=None, *, initial_state=None, mask=None, reverse=False, **cell):
    step = _gru_step(kernel, recurrent_kernel, bias, **cell)
    return _run(step, inputs, initial_state or _zeros(inputs, recurrent_kernel, 1), mask, reverse)[:2]


def lstm(inputs, kernel, recurrent_kernel, bias=None, *, initial_state=None, mask=None, reverse=False, **cell):
    step = _lstm_step(kernel, recurrent_kernel, bias, **cell)
    return _run(step, inputs, initial_state or _zeros(inputs, recurrent_kernel, 2), mask, reverse)[:2]


def attention_decoder(
    kind,
    inputs,
    memory,
    kernel,
    recurrent_kernel,
    bias,
    query_kernel,
    key_kernel,
    score_vector,
    *,
    memory_mask=None,
    initial_state=None,
    mask=None,
    reverse=False,
    **cell,
):
    """`kind` is "rnn", "gru" or "lstm"; returns outputs, state and alignments."""
    cell_step = {"rnn": _simple_rnn_step, "gru": _gru_step, "lstm": _lstm_step}[kind](
        kernel, recurrent_kernel, bias, **cell
    )

    def step(x, state):
        queries = state[0] @ query_kernel
        context, weights = attention(queries[:, None], memory, memory @ key_kernel, score_vector, memory_mask)
        (*state, _) = cell_step(np.concatenate([x, context[:, 0]], axis=-1), state)
        return (*state, weights[:, 0])

    state = initial_state or _zeros(inputs, recurrent_kernel, 2 if kind == "lstm" else 1)
    return _run(step, inputs, state, mask, reverse)


def attention(queries, memory, keys, score_vector, memory_mask=None):
    """Additive attention with projected queries and keys: contexts, and weights (batch, time, source)."""
    (batch, time), source = queries.shape[:2], memory.shape[1]
    contexts = np.zeros((batch, time, memory.shape[2]), np.result_type(queries, memory, keys, score_vector))
    weights = np.zeros((batch, time, source), contexts.dtype)
    for b in range(batch):
        for t in range(time):
            kept = [s for s in range(source) if memory_mask is None or memory_mask[b, s]]
            exponentials = {s: np.exp(np.tanh(queries[b, t] + keys[b, s]) @ score_vector) for s in kept}
            for s in kept:
                weights[b, t, s] = exponentials[s] / sum(exponentials.values())
                contexts[b, t] += weights[b, t, s] * memory[b, s]
    return contexts, weights


def _zeros(inputs, recurrent_kernel, count):
    return [np.zeros((len(inputs), len(recurrent_kernel)))] * count


def _simple_rnn_step(kernel, recurrent_kernel, bias=None, *, activation="tanh", recurrent_dropout_mask=None):
    f, kept = ACTIVATIONS[activation], 1 if recurrent_dropout_mask is None else recurrent_dropout_mask
    bias = np.zeros(kernel.shape[1]) if bias is None else bias

    def step(x, state):
        return f(x @ kernel + (kept * state[0]) @ recurrent_kernel + bias), None

    return step


def _gru_step(
    kernel,
    recurrent_kernel,
    bias=None,
    *,
    activation="tanh",
    recurrent_activation="sigmoid",
    reset_after=True,
    recurrent_dropout_mask=None,
):
    f, s = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
    kept = 1 if recurrent_dropout_mask is None else recurrent_dropout_mask
    w_z, w_r, w_g = np.split(kernel, 3, axis=1)
    u_z, u_r, u_g = np.split(recurrent_kernel, 3, axis=1)
    bias = np.zeros(kernel.shape[1]) if bias is None else bias
    input_bias, recurrent_bias = bias if bias.ndim == 2 else (bias, np.zeros(kernel.shape[1]))
    b_z, b_r, b_g = np.split(input_bias, 3)
    c_z, c_r, c_g = np.split(recurrent_bias, 3)

    def step(x, state):
        h = state[0]
        z = s(x @ w_z + b_z + (kept * h) @ u_z + c_z)
        r = s(x @ w_r + b_r + (kept * h) @ u_r + c_r)
        reset = r * ((kept * h) @ u_g + c_g) if reset_after else (r * kept * h) @ u_g
        g = f(x @ w_g + b_g + reset)
        return z * h + (1 - z) * g, None

    return step


def _lstm_step(
    kernel,
    recurrent_kernel,
    bias=None,
    *,
    activation="tanh",
    recurrent_activation="sigmoid",
    recurrent_dropout_mask=None,
):
    f, s = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
    kept = 1 if recurrent_dropout_mask is None else recurrent_dropout_mask
    w_i, w_f, w_g, w_o = np.split(kernel, 4, axis=1)
    u_i, u_f, u_g, u_o = np.split(recurrent_kernel, 4, axis=1)
    b_i, b_f, b_g, b_o = np.split(np.zeros(kernel.shape[1]) if bias is None else bias, 4)

    def step(x, state):
        h, c = state
        i = s(x @ w_i + (kept * h) @ u_i + b_i)
        forget = s(x @ w_f + (kept * h) @ u_f + b_f)
        g = f(x @ w_g + (kept * h) @ u_g + b_g)
        o = s(x @ w_o + (kept * h) @ u_o + b_o)
        c = forget * c + i * g
        return o * f(c), c, None

    return step


def _run(step, inputs, state, mask, reverse):
    """Outputs (batch, time, units), the final state, and what the steps emit (batch, time, ...)."""
    state, outputs, emitted = tuple(state), {}, {}
    for t in reversed(range(inputs.shape[1])) if reverse else range(inputs.shape[1]):
        *new_state, emitted[t] = step(inputs[:, t], state)
        if mask is not None:
            new_state = [np.where(mask[:, t, None], new, old) for new, old in zip(new_state, state, strict=True)]
        state = tuple(new_state)
        outputs[t] = state[0]
    in_order = [np.stack([steps[t] for t in sorted(steps)], axis=1) for steps in (outputs, emitted)]
    return in_order[0], state, in_order[1]


def numerical_gradients(function, arguments):
    """The gradients of `sum(cos(1 + i) outputs_i)` by every entry of every argument, for flat lists of outputs."""

    def loss(*arguments):
        outputs = function(*arguments)
        return sum(np.cos(np.arange(1, y.size + 1)) @ y.ravel() for y in outputs)

    gradients = []
    for position, argument in enumerate(arguments):
        gradient = np.zeros(argument.shape)
        for index in np.ndindex(argument.shape):
            shifted = argument.astype("complex128")
            shifted[index] += 1e-30j
            gradient[index] = loss(*arguments[:position], shifted, *arguments[position + 1 :]).imag / 1e-30
        gradients.append(gradient)
    return gradients

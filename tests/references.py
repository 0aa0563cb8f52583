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


def simple_rnn(inputs, kernel, recurrent_kernel, bias=None, **options):
    return _recur(_simple_rnn_step, 1, inputs, kernel, recurrent_kernel, bias, **options)


def gru(inputs, kernel, recurrent_kernel, bias=None, **options):
    return _recur(_gru_step, 1, inputs, kernel, recurrent_kernel, bias, **options)


def lstm(inputs, kernel, recurrent_kernel, bias=None, **options):
    return _recur(_lstm_step, 2, inputs, kernel, recurrent_kernel, bias, **options)


def extended_lstm(inputs, kernel, recurrent_kernel, bias=None, **options):
    """As `lstm`, with `peephole` (3, units), `projection` (units, size), `norms` (a dict of gains, and a shift)."""
    sizes = len(recurrent_kernel), kernel.shape[1] // 4
    return _recur(_extended_lstm_step, sizes, inputs, kernel, recurrent_kernel, bias, **options)


def layer_norm_gru(inputs, kernel, recurrent_kernel, bias=None, **options):
    """As `gru`, with `norms`, a dict of gains."""
    return _recur(_layer_norm_gru_step, 1, inputs, kernel, recurrent_kernel, bias, **options)


def attention_decoder(
    recurrence,
    inputs,
    memory,
    kernel,
    recurrent_kernel,
    bias=None,
    *,
    query_kernel,
    score_vector,
    keys,
    memory_mask=None,
    reverse=False,
    **options,
):
    """`recurrence` is one of the three above; returns outputs, state and attention_weights (batch, time, source).

    Alignments are zero where a step is masked.
    """
    attention_weights = []

    def attend(x, state):
        context, weights = attention((state[0] @ query_kernel)[:, None], memory, keys, score_vector, memory_mask)
        attention_weights.append(weights[:, 0])
        return np.concatenate([x, context[:, 0]], axis=-1)

    results = recurrence(inputs, kernel, recurrent_kernel, bias, before_step=attend, reverse=reverse, **options)
    attention_weights = np.stack(attention_weights[::-1] if reverse else attention_weights, axis=1)
    mask = options.get("mask")
    return *results, attention_weights if mask is None else attention_weights * np.asarray(mask)[:, :, None]


def attentive(recurrence, inputs, memory, kernel, recurrent_kernel, bias=None, *, look, input_feeding=True, **options):
    """Any attention: `look` is one of the three below. Returns outputs, state, weights, as `attention_decoder`.

    Without input feeding the outputs are `[h, context]`. The memory is what `look` looks at.
    """
    seen = []

    def attend(x, state):
        seen.append(look(state[0]))
        return np.concatenate([x, seen[-1][0]], axis=-1)

    options = {"before_step": attend, **options} if input_feeding else options
    outputs, state = recurrence(inputs, kernel, recurrent_kernel, bias, **options)
    if not input_feeding:
        seen = [look(outputs[:, t]) for t in range(outputs.shape[1])]
        outputs = np.concatenate([outputs, np.stack([context for context, _ in seen], axis=1)], axis=-1)
    return outputs, state, np.stack([weights for _, weights in seen], axis=1)


def attention_wrapper(
    recurrence, inputs, memory, kernel, recurrent_kernel, bias=None, attention_kernel=None, *, look, initial_state,
    attention=None, activation=np.tanh,
):  # fmt: skip
    """The steps of TensorFlow Addons' `AttentionWrapper`, or of Luong et al. (2015) with input feeding.

    The cell runs on `[x_t, attention_{t-1}]`, its output asks, and `attention_t` is `f([h_t, context_t] W)`, or the
    context without W. Returns h of all steps, the attention of all steps, the state, and the attention_weights.
    """
    size = memory.shape[2] if attention_kernel is None else attention_kernel.shape[1]
    attention = np.zeros((len(inputs), size)) if attention is None else attention
    state, steps = initial_state, []
    for t in range(inputs.shape[1]):
        x = np.concatenate([inputs[:, t], attention], axis=-1)[:, None]
        hidden, state = recurrence(x, kernel, recurrent_kernel, bias, initial_state=state)
        context, weights = look(hidden[:, 0])
        joined = np.concatenate([hidden[:, 0], context], axis=-1)
        attention = context if attention_kernel is None else activation(joined @ attention_kernel)
        steps.append((hidden[:, 0], attention, weights))
    hidden, attentions, attention_weights = (np.stack(parts, axis=1) for parts in zip(*steps, strict=True))
    return hidden, attentions, state, attention_weights


def bahdanau(memory, query_kernel, key_kernel, score_kernel, length=None, bias=0, *, coverage_kernel=None, mask=None):
    """A function of a query (batch, features) that attends and remembers how much it has looked at each position."""
    vector = score_kernel[:, 0]
    if length is not None:
        vector = length * vector / np.sqrt(np.sum(vector**2))
    looked = np.zeros(memory.shape[:2])

    def look(query):
        nonlocal looked
        hidden = (query @ query_kernel)[:, None] + memory @ key_kernel + bias
        if coverage_kernel is not None:
            hidden = hidden + looked[:, :, None] * coverage_kernel[0]
        context, weights = _look(np.tanh(hidden) @ vector, memory, mask)
        looked = looked + weights
        return context, weights

    return look


def luong(memory, *weights, score, scale=1, mask=None):
    def look(query):
        if score == "concat":
            query_kernel, key_kernel, score_kernel = weights
            pairs = np.concatenate([np.broadcast_to(query[:, None], (*memory.shape[:2], query.shape[1])), memory], -1)
            energies = np.tanh(pairs @ np.concatenate([query_kernel, key_kernel])) @ score_kernel[:, 0]
        else:
            keys = memory @ weights[0] if score == "general" else memory
            energies = np.einsum("bf,bsf->bs", query, keys)
        return _look(scale * energies, memory, mask)

    return look


def monotonic(
    memory, query_kernel, key_kernel, score_kernel, length, bias, score_bias, *, training, mask=None, noise=None
):
    """As `bahdanau`; in training by expectation, else the first position from the last one on with energy above 0."""
    batch, source = memory.shape[:2]
    mask = np.ones((batch, source), bool) if mask is None else mask
    vector = length * score_kernel[:, 0] / np.sqrt(np.sum(score_kernel**2))
    previous = np.eye(source)[np.zeros(batch, int)]
    steps = 0

    def look(query):
        nonlocal previous, steps
        energies = np.tanh((query @ query_kernel)[:, None] + memory @ key_kernel + bias) @ vector + score_bias
        energies = energies if noise is None else energies + noise[:, steps]
        steps += 1
        weights = np.zeros((batch, source), energies.dtype)
        for b in range(batch):
            reach = 0  # the probability that the reader comes to look at a position
            for s in range(source):
                stop = (1 / (1 + np.exp(-energies[b, s])) if training else energies[b, s].real > 0) * mask[b, s]
                reach = reach + previous[b, s]
                weights[b, s] = stop * reach
                reach = (1 - stop) * reach
        previous = weights
        return np.einsum("bs,bsf->bf", weights, memory), weights

    return look


def _look(energies, memory, mask=None):
    """The context and the softmax of energies (batch, source), position by position."""
    weights = np.zeros_like(energies)
    for b, row in enumerate(energies):
        kept = [s for s in range(len(row)) if mask is None or mask[b, s]]
        for s in kept:
            weights[b, s] = np.exp(row[s]) / sum(np.exp(row[k]) for k in kept)
    return np.einsum("bs,bsf->bf", weights, memory), weights


def attention(queries, memory, keys, score_vector, memory_mask=None):
    """Additive attention with projected queries and keys: contexts, and weights (batch, time, source)."""
    (batch, time), source = queries.shape[:2], memory.shape[1]
    contexts = np.zeros((batch, time, memory.shape[2]), np.result_type(queries, memory, keys, score_vector))
    weights = np.zeros((batch, time, source), contexts.dtype)
    for b in range(batch):
        kept = [s for s in range(source) if memory_mask is None or memory_mask[b, s]]
        for t in range(time):
            exponentials = {s: np.exp(np.tanh(queries[b, t] + keys[b, s]) @ score_vector) for s in kept}
            for s in kept:
                weights[b, t, s] = exponentials[s] / sum(exponentials.values())
                contexts[b, t] += weights[b, t, s] * memory[b, s]
    return contexts, weights


def _recur(
    make_step,
    states,
    inputs,
    kernel,
    recurrent_kernel,
    bias,
    *,
    initial_state=None,
    mask=None,
    recurrent_dropout_mask=None,
    zoneout_masks=None,
    reverse=False,
    before_step=lambda x, state: x,
    **cell,
):
    """Outputs (batch, time, units), and the final state.

    A masked step repeats the output before it, which is zero before the first one, as in Keras. A mask of dropout or
    zoneout is (batch, units) or, one a step, (batch, time, units).
    """
    batch, time = inputs.shape[:2]
    sizes = states if isinstance(states, tuple) else (len(recurrent_kernel),) * states
    shape = (batch, time, sizes[0])
    step = make_step(kernel, recurrent_kernel, np.zeros(kernel.shape[1]) if bias is None else bias, **cell)
    state = initial_state or [np.zeros((batch, size)) for size in sizes]
    output, outputs = np.zeros_like(state[0]), [None] * time
    mask = np.ones((batch, time), bool) if mask is None else mask
    dropped = _every_step(1 if recurrent_dropout_mask is None else recurrent_dropout_mask, shape)
    zoneout = [
        _every_step(0 if m is None else m, (batch, time, size))
        for m, size in zip(zoneout_masks or [None] * len(sizes), sizes, strict=True)
    ]
    for t in reversed(range(time)) if reverse else range(time):
        visible, new_state = mask[:, t, None], step(before_step(inputs[:, t], state), state, dropped[:, t])
        new_state = [m[:, t] * s + (1 - m[:, t]) * new for m, s, new in zip(zoneout, state, new_state, strict=True)]
        output = np.where(visible, new_state[0], output)
        state = [np.where(visible, new, old) for new, old in zip(new_state, state, strict=True)]
        outputs[t] = output
    return np.stack(outputs, axis=1), state


def _every_step(mask, shape):
    """A number, or a mask (batch, units) or (batch, time, units), as (batch, time, units)."""
    return np.broadcast_to(mask[:, None] if np.ndim(mask) == 2 else mask, shape)


def _simple_rnn_step(kernel, recurrent_kernel, bias, *, activation="tanh"):
    f = ACTIVATIONS[activation]

    def step(x, state, kept):
        return [f(x @ kernel + (kept * state[0]) @ recurrent_kernel + bias)]

    return step


def _gru_step(
    kernel,
    recurrent_kernel,
    bias,
    *,
    activation="tanh",
    recurrent_activation="sigmoid",
    reset_after=True,
):
    f, s = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
    w_z, w_r, w_g = np.split(kernel, 3, axis=1)
    u_z, u_r, u_g = np.split(recurrent_kernel, 3, axis=1)
    input_bias, recurrent_bias = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
    b_z, b_r, b_g = np.split(input_bias, 3)
    c_z, c_r, c_g = np.split(recurrent_bias, 3)

    def step(x, state, kept):
        h = state[0]
        z = s(x @ w_z + b_z + (kept * h) @ u_z + c_z)
        r = s(x @ w_r + b_r + (kept * h) @ u_r + c_r)
        reset = r * ((kept * h) @ u_g + c_g) if reset_after else (r * kept * h) @ u_g
        g = f(x @ w_g + b_g + reset)
        return [z * h + (1 - z) * g]

    return step


def _lstm_step(kernel, recurrent_kernel, bias, *, activation="tanh", recurrent_activation="sigmoid"):
    f, s = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
    w_i, w_f, w_g, w_o = np.split(kernel, 4, axis=1)
    u_i, u_f, u_g, u_o = np.split(recurrent_kernel, 4, axis=1)
    b_i, b_f, b_g, b_o = np.split(bias, 4)

    def step(x, state, kept):
        h, c = state
        i = s(x @ w_i + (kept * h) @ u_i + b_i)
        forget = s(x @ w_f + (kept * h) @ u_f + b_f)
        g = f(x @ w_g + (kept * h) @ u_g + b_g)
        o = s(x @ w_o + (kept * h) @ u_o + b_o)
        c = forget * c + i * g
        return [o * f(c), c]

    return step


def layer_norm(x, gain, shift=0, epsilon=1e-3):
    centred = x - np.mean(x, axis=-1, keepdims=True)
    return gain * centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + epsilon) + shift


def _extended_lstm_step(kernel, recurrent_kernel, bias, *, peephole=None, projection=None, norms=None):
    s = ACTIVATIONS["sigmoid"]
    to_i, to_f, to_o = (0, 0, 0) if peephole is None else peephole
    norms = norms or {}

    def norm(x, name):
        return layer_norm(x, norms[f"{name}_gamma"], norms.get(f"{name}_beta", 0)) if norms else x

    def step(x, state, kept):
        h, c = state
        gates = norm(x @ kernel, "input") + norm((kept * h) @ recurrent_kernel, "recurrent") + bias
        i, forget, g, o = np.split(gates, 4, axis=1)
        c = s(forget + to_f * c) * c + s(i + to_i * c) * np.tanh(g)
        h = s(o + to_o * c) * np.tanh(norm(c, "state"))
        return [h if projection is None else h @ projection, c]

    return step


def _layer_norm_gru_step(kernel, recurrent_kernel, bias, *, norms, reset_after=True):
    s, units = ACTIVATIONS["sigmoid"], len(recurrent_kernel)
    gates, candidate = slice(0, 2 * units), slice(2 * units, None)
    input_bias, recurrent_bias = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))

    def norm(product, name, part):
        return layer_norm(product, norms[f"{name}_gamma"][part])

    def step(x, state, kept):
        h = state[0]
        z, r = np.split(
            s(
                norm(x @ kernel[:, gates], "input", gates)
                + norm((kept * h) @ recurrent_kernel[:, gates], "recurrent", gates)
                + input_bias[gates]
                + recurrent_bias[gates]
            ),
            2,
            axis=1,
        )
        if reset_after:
            product = norm((kept * h) @ recurrent_kernel[:, candidate], "recurrent", candidate)
            reset = r * (product + recurrent_bias[candidate])
        else:
            reset = norm((r * kept * h) @ recurrent_kernel[:, candidate], "recurrent", candidate)
        g = np.tanh(norm(x @ kernel[:, candidate], "input", candidate) + input_bias[candidate] + reset)
        return [z * h + (1 - z) * g]

    return step


def numerical_gradients(function, arguments):
    """The gradients of the sum over all outputs of cos(1 + i) times entry i, by every entry of every argument.

    Those are the gradients that `conftest.run_with_gradients` sends upstream.
    """

    def loss(*arguments):
        return sum(np.cos(np.arange(1, y.size + 1)) @ y.ravel() for y in function(*arguments))

    gradients = []
    for position, argument in enumerate(arguments):
        gradient = np.zeros(argument.shape)
        for index in np.ndindex(argument.shape):
            shifted = np.array(argument, "complex128")
            shifted[index] += 1e-30j
            gradient[index] = loss(*arguments[:position], shifted, *arguments[position + 1 :]).imag / 1e-30
        gradients.append(gradient)
    return gradients

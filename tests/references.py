# SPDX-License-Identifier: Apache-2.0
"""The recurrences in NumPy, step by step and gate by gate, with the signatures of `keras_seq.ops`.

They follow the equations of the papers and share no code with keras_seq. In the equations below W is the kernel, U the
recurrent kernel, b the bias, s the recurrent activation, f the activation, `*` multiplies entry by entry, and
`h' = m * h[t-1]` is the previous h times the recurrent dropout mask. Columns of W, U and b are in the order of Keras.

All functions also take complex numbers, so that `numerical_gradients` is exact: the complex step
f(x + ih) = f(x) + ih f'(x) subtracts nothing, so it loses no digits (Squire & Trapp 1998).
"""

import numpy as np

ACTIVATIONS = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.where(x.real > 0, x, 0),
    "linear": lambda x: x,
}


def simple_rnn(inputs, kernel, recurrent_kernel, bias=None, **options):
    """`h[t] = f(x[t] W + h' U + b)` (Elman 1990)."""
    return _run_recurrence(_simple_rnn_step, 1, inputs, kernel, recurrent_kernel, bias, **options)


def gru(inputs, kernel, recurrent_kernel, bias=None, **options):
    """The GRU (Cho et al. 2014): with `reset_after` the reset gate multiplies the product, without it h'.

    ```
    z = s(x W_z + b_z + h' U_z + c_z)
    r = s(x W_r + b_r + h' U_r + c_r)
    g = f(x W_g + b_g + r * (h' U_g + c_g))    or    g = f(x W_g + b_g + (r * h') U_g)
    h[t] = z * h[t-1] + (1 - z) * g
    ```

    A bias (2, 3 * units) holds b and c; of a bias (3 * units,) c is zero.
    """
    return _run_recurrence(_gru_step, 1, inputs, kernel, recurrent_kernel, bias, **options)


def mgu(inputs, kernel, recurrent_kernel, bias=None, **options):
    """The minimal gated unit (Zhou et al. 2016).

    ```
    forget = s(x W_f + h' U_f + b_f)
    g = f(x W_g + (forget * h') U_g + b_g)
    h[t] = (1 - forget) * h[t-1] + forget * g
    ```
    """
    return _run_recurrence(_mgu_step, 1, inputs, kernel, recurrent_kernel, bias, **options)


def lstm(inputs, kernel, recurrent_kernel, bias=None, **options):
    """The LSTM with a forget gate (Gers et al. 2000).

    ```
    i = s(x W_i + h' U_i + b_i)
    forget = s(x W_f + h' U_f + b_f)
    g = f(x W_g + h' U_g + b_g)
    o = s(x W_o + h' U_o + b_o)
    c[t] = forget * c[t-1] + i * g
    h[t] = o * f(c[t])
    ```
    """
    return _run_recurrence(_lstm_step, 2, inputs, kernel, recurrent_kernel, bias, **options)


def extended_lstm(inputs, kernel, recurrent_kernel, bias=None, **options):
    """The `lstm` with peepholes, a projection and layer normalisation, each of them optional.

    ```
    i, forget, g, o = norm(x W) + norm(h' U) + b
    c[t] = s(forget + p_f * c[t-1]) * c[t-1] + s(i + p_i * c[t-1]) * tanh(g)
    h[t] = (s(o + p_o * c[t]) * tanh(norm(c[t]))) P
    ```

    `peephole` (3, units) holds p_i, p_f and p_o (Gers & Schmidhuber 2000), `projection` (units, size) is P (Sak et al.
    2014), and `norms` is the dictionary of gains and of one shift by name (Ba et al. 2016).
    """
    sizes = len(recurrent_kernel), kernel.shape[1] // 4
    return _run_recurrence(_extended_lstm_step, sizes, inputs, kernel, recurrent_kernel, bias, **options)


def layer_norm_gru(inputs, kernel, recurrent_kernel, bias=None, **options):
    """The `gru` with layer normalisation (Ba et al. 2016): z and r are normalised together, g apart.

    ```
    z, r = s(norm(x W_zr) + b_zr + norm(h' U_zr) + c_zr)
    g = tanh(norm(x W_g) + b_g + r * (norm(h' U_g) + c_g))    or    tanh(norm(x W_g) + b_g + norm((r * h') U_g))
    h[t] = z * h[t-1] + (1 - z) * g
    ```

    `norms` is the dictionary of gains by name.
    """
    return _run_recurrence(_layer_norm_gru_step, 1, inputs, kernel, recurrent_kernel, bias, **options)


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
    """Additive attention before each step of `recurrence`, whose input is `[x[t], context[t]]` (Bahdanau et al. 2015).

    The query is the previous h; see `attention` for the context. Returns outputs, state and attention weights (batch,
    time, source). Attention weights of masked steps are zero.
    """
    attention_weights = []

    def append_context(x, state):
        context, weights = attention((state[0] @ query_kernel)[:, None], memory, keys, score_vector, memory_mask)
        attention_weights.append(weights[:, 0])
        return np.concatenate([x, context[:, 0]], axis=-1)

    options = {"before_step": append_context, "reverse": reverse, **options}
    results = recurrence(inputs, kernel, recurrent_kernel, bias, **options)
    attention_weights = np.stack(attention_weights[::-1] if reverse else attention_weights, axis=1)
    mask = options.get("mask")
    return *results, attention_weights if mask is None else attention_weights * np.asarray(mask)[:, :, None]


def any_attention_decoder(
    recurrence, inputs, kernel, recurrent_kernel, bias=None, *, attend, input_feeding=True, **options
):
    """A recurrence with any attention; `attend` comes from `bahdanau`, `luong` or `monotonic`, which know the memory.

    With input feeding the cell reads `[x[t], context[t]]`, and the query is the previous h. Without it the query is
    h[t], and the outputs are `[h[t], context[t]]`. Returns outputs, state and attention weights (batch, time, source).
    """
    contexts, attention_weights = [], []

    def read_memory(query):
        context, weights = attend(query)
        contexts.append(context)
        attention_weights.append(weights)
        return context

    def append_context(x, state):
        return np.concatenate([x, read_memory(state[0])], axis=-1)

    options = {"before_step": append_context, **options} if input_feeding else options
    outputs, state = recurrence(inputs, kernel, recurrent_kernel, bias, **options)
    if not input_feeding:
        for t in range(outputs.shape[1]):
            read_memory(outputs[:, t])
        outputs = np.concatenate([outputs, np.stack(contexts, axis=1)], axis=-1)
    return outputs, state, np.stack(attention_weights, axis=1)


def attention_wrapper(
    recurrence, inputs, memory, kernel, recurrent_kernel, bias=None, attention_kernel=None, *, attend, initial_state,
    attention=None, activation=np.tanh,
):  # fmt: skip
    """Attention after the cell with input feeding: Luong et al. (2015), or TensorFlow Addons' `AttentionWrapper`.

    The cell reads `[x[t], attention[t-1]]`. The query is h[t]. Without `attention_kernel` W, `attention[t]` is
    `context[t]`; with it, the attentional vector `f([h[t], context[t]] W)`. Returns h and attention of all steps, the
    state, and the attention weights.
    """
    size = memory.shape[2] if attention_kernel is None else attention_kernel.shape[1]
    attention = np.zeros((len(inputs), size)) if attention is None else attention
    state, steps = initial_state, []
    for t in range(inputs.shape[1]):
        x = np.concatenate([inputs[:, t], attention], axis=-1)[:, None]
        hidden, state = recurrence(x, kernel, recurrent_kernel, bias, initial_state=state)
        context, weights = attend(hidden[:, 0])
        joined = np.concatenate([hidden[:, 0], context], axis=-1)
        attention = context if attention_kernel is None else activation(joined @ attention_kernel)
        steps.append((hidden[:, 0], attention, weights))
    hidden, attentions, attention_weights = (np.stack(parts, axis=1) for parts in zip(*steps, strict=True))
    return hidden, attentions, state, attention_weights


def bahdanau(memory, query_kernel, key_kernel, score_kernel, length=None, bias=0, *, coverage_kernel=None, mask=None):
    """Additive attention (Bahdanau et al. 2015): a function from queries (batch, features) to context and weights.

    ```
    energy[s] = v . tanh(query W_q + memory[s] W_k + bias + coverage[s] w_c)
    ```

    v is the score kernel or, if `length` is given, has its direction and that length. The coverage of a position is
    the sum of its attention weights in the calls before (Tu et al. 2016); without `coverage_kernel` it does not count.
    """
    vector = score_kernel[:, 0]
    if length is not None:
        vector = length * vector / np.sqrt(np.sum(vector**2))
    coverage = np.zeros(memory.shape[:2])

    def attend(query):
        nonlocal coverage
        hidden = (query @ query_kernel)[:, None] + memory @ key_kernel + bias
        if coverage_kernel is not None:
            hidden = hidden + coverage[:, :, None] * coverage_kernel[0]
        context, weights = _weigh(np.tanh(hidden) @ vector, memory, mask)
        coverage = coverage + weights
        return context, weights

    return attend


def luong(memory, *weights, score, scale=1, mask=None):
    """Multiplicative attention (Luong et al. 2015): a function from queries (batch, features) to context and weights.

    ```
    dot:     energy[s] = scale * query . memory[s]
    general: energy[s] = scale * query . (memory[s] W)
    concat:  energy[s] = scale * v . tanh([query, memory[s]] W)
    ```
    """

    def attend(query):
        if score == "concat":
            query_kernel, key_kernel, score_kernel = weights
            pairs = np.concatenate([np.broadcast_to(query[:, None], (*memory.shape[:2], query.shape[1])), memory], -1)
            energies = np.tanh(pairs @ np.concatenate([query_kernel, key_kernel])) @ score_kernel[:, 0]
        else:
            keys = memory @ weights[0] if score == "general" else memory
            energies = np.einsum("bf,bsf->bs", query, keys)
        return _weigh(scale * energies, memory, mask)

    return attend


def monotonic(
    memory, query_kernel, key_kernel, score_kernel, length, bias, score_bias, *, training, mask=None, noise=None
):
    """Monotonic attention (Raffel et al. 2017): a function from queries (batch, features) to context and weights.

    Energies are those of `bahdanau` with a `length`, plus `score_bias`. A reader moves from the position where it
    stopped last to the right, and stops at each with probability p = sigmoid(energy). In training the attention weights
    are the probabilities of where it stops. Otherwise it stops at the first position where the energy is positive.
    """
    batch, source = memory.shape[:2]
    mask = np.ones((batch, source), bool) if mask is None else mask
    vector = length * score_kernel[:, 0] / np.sqrt(np.sum(score_kernel**2))
    previous = np.eye(source)[np.zeros(batch, int)]
    steps = 0

    def attend(query):
        nonlocal previous, steps
        energies = np.tanh((query @ query_kernel)[:, None] + memory @ key_kernel + bias) @ vector + score_bias
        energies = energies if noise is None else energies + noise[:, steps]
        steps += 1
        weights = np.zeros((batch, source), energies.dtype)
        for b in range(batch):
            reach = 0  # the probability that the reader arrives at a position
            for s in range(source):
                stop = (1 / (1 + np.exp(-energies[b, s])) if training else energies[b, s].real > 0) * mask[b, s]
                reach = reach + previous[b, s]
                weights[b, s] = stop * reach
                reach = (1 - stop) * reach
        previous = weights
        return np.einsum("bs,bsf->bf", weights, memory), weights

    return attend


def _weigh(energies, memory, mask=None):
    """The context, and the softmax of energies (batch, source) over visible positions."""
    weights = np.zeros_like(energies)
    for b, row in enumerate(energies):
        visible = [s for s in range(len(row)) if mask is None or mask[b, s]]
        for s in visible:
            weights[b, s] = np.exp(row[s]) / sum(np.exp(row[k]) for k in visible)
    return np.einsum("bs,bsf->bf", weights, memory), weights


def attention(queries, memory, keys, score_vector, memory_mask=None):
    """Additive attention of all steps, with projected queries and keys (Bahdanau et al. 2015).

    ```
    energy[t, s] = v . tanh(query[t] + key[s])
    weight[t] = softmax of energy[t] over visible positions
    context[t] = sum over s of weight[t, s] * memory[s]
    ```

    Returns contexts (batch, time, features) and attention weights (batch, time, source).
    """
    (batch, time), source = queries.shape[:2], memory.shape[1]
    contexts = np.zeros((batch, time, memory.shape[2]), np.result_type(queries, memory, keys, score_vector))
    weights = np.zeros((batch, time, source), contexts.dtype)
    for b in range(batch):
        visible = [s for s in range(source) if memory_mask is None or memory_mask[b, s]]
        for t in range(time):
            exponentials = {s: np.exp(np.tanh(queries[b, t] + keys[b, s]) @ score_vector) for s in visible}
            for s in visible:
                weights[b, t, s] = exponentials[s] / sum(exponentials.values())
                contexts[b, t] += weights[b, t, s] * memory[b, s]
    return contexts, weights


def _run_recurrence(
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
    """Outputs (batch, time, units) and the final state.

    `states` is the number of states, or a tuple of their sizes. A masked step keeps the state and repeats the previous
    output, which is zero before the first visible step, as in Keras. The recurrent dropout mask and zoneout masks are
    (batch, units), or (batch, time, units) where they differ from step to step. A zoneout mask z mixes each state with
    the previous one: `z * state[t-1] + (1 - z) * state[t]`.
    """
    batch, time = inputs.shape[:2]
    sizes = states if isinstance(states, tuple) else (len(recurrent_kernel),) * states
    shape = (batch, time, sizes[0])
    step = make_step(kernel, recurrent_kernel, np.zeros(kernel.shape[1]) if bias is None else bias, **cell)
    state = initial_state or [np.zeros((batch, size)) for size in sizes]
    output, outputs = np.zeros_like(state[0]), [None] * time
    mask = np.ones((batch, time), bool) if mask is None else mask
    dropout = _at_every_step(1 if recurrent_dropout_mask is None else recurrent_dropout_mask, shape)
    zoneout = [
        _at_every_step(0 if m is None else m, (batch, time, size))
        for m, size in zip(zoneout_masks or [None] * len(sizes), sizes, strict=True)
    ]
    for t in reversed(range(time)) if reverse else range(time):
        visible, new_state = mask[:, t, None], step(before_step(inputs[:, t], state), state, dropout[:, t])
        new_state = [m[:, t] * s + (1 - m[:, t]) * new for m, s, new in zip(zoneout, state, new_state, strict=True)]
        output = np.where(visible, new_state[0], output)
        state = [np.where(visible, new, old) for new, old in zip(new_state, state, strict=True)]
        outputs[t] = output
    return np.stack(outputs, axis=1), state


def _at_every_step(mask, shape):
    """Broadcast a number or a mask (batch, units) to (batch, time, units)."""
    return np.broadcast_to(mask[:, None] if np.ndim(mask) == 2 else mask, shape)


def _simple_rnn_step(kernel, recurrent_kernel, bias, *, activation="tanh"):
    f = ACTIVATIONS[activation]

    def step(x, state, m):
        return [f(x @ kernel + (m * state[0]) @ recurrent_kernel + bias)]

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

    def step(x, state, m):
        h = state[0]
        z = s(x @ w_z + b_z + (m * h) @ u_z + c_z)
        r = s(x @ w_r + b_r + (m * h) @ u_r + c_r)
        reset = r * ((m * h) @ u_g + c_g) if reset_after else (r * m * h) @ u_g
        g = f(x @ w_g + b_g + reset)
        return [z * h + (1 - z) * g]

    return step


def _mgu_step(kernel, recurrent_kernel, bias, *, activation="tanh", recurrent_activation="sigmoid"):
    f, s = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
    w_f, w_g = np.split(kernel, 2, axis=1)
    u_f, u_g = np.split(recurrent_kernel, 2, axis=1)
    b_f, b_g = np.split(bias, 2)

    def step(x, state, m):
        h = state[0]
        forget = s(x @ w_f + b_f + (m * h) @ u_f)
        g = f(x @ w_g + b_g + (forget * m * h) @ u_g)
        return [(1 - forget) * h + forget * g]

    return step


def _lstm_step(kernel, recurrent_kernel, bias, *, activation="tanh", recurrent_activation="sigmoid"):
    f, s = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
    w_i, w_f, w_g, w_o = np.split(kernel, 4, axis=1)
    u_i, u_f, u_g, u_o = np.split(recurrent_kernel, 4, axis=1)
    b_i, b_f, b_g, b_o = np.split(bias, 4)

    def step(x, state, m):
        h, c = state
        i = s(x @ w_i + (m * h) @ u_i + b_i)
        forget = s(x @ w_f + (m * h) @ u_f + b_f)
        g = f(x @ w_g + (m * h) @ u_g + b_g)
        o = s(x @ w_o + (m * h) @ u_o + b_o)
        c = forget * c + i * g
        return [o * f(c), c]

    return step


def layer_norm(x, gain, shift=0, epsilon=1e-3):
    """`gain * (x - mean) / sqrt(variance + epsilon) + shift`, over the last axis."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    return gain * centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + epsilon) + shift


def _extended_lstm_step(kernel, recurrent_kernel, bias, *, peephole=None, projection=None, norms=None):
    s = ACTIVATIONS["sigmoid"]
    to_i, to_f, to_o = (0, 0, 0) if peephole is None else peephole
    norms = norms or {}

    def norm(x, name):
        return layer_norm(x, norms[f"{name}_gamma"], norms.get(f"{name}_beta", 0)) if norms else x

    def step(x, state, m):
        h, c = state
        gates = norm(x @ kernel, "input") + norm((m * h) @ recurrent_kernel, "recurrent") + bias
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

    def step(x, state, m):
        h = state[0]
        z, r = np.split(
            s(
                norm(x @ kernel[:, gates], "input", gates)
                + norm((m * h) @ recurrent_kernel[:, gates], "recurrent", gates)
                + input_bias[gates]
                + recurrent_bias[gates]
            ),
            2,
            axis=1,
        )
        if reset_after:
            product = norm((m * h) @ recurrent_kernel[:, candidate], "recurrent", candidate)
            reset = r * (product + recurrent_bias[candidate])
        else:
            reset = norm((r * m * h) @ recurrent_kernel[:, candidate], "recurrent", candidate)
        g = np.tanh(norm(x @ kernel[:, candidate], "input", candidate) + input_bias[candidate] + reset)
        return [z * h + (1 - z) * g]

    return step


def numerical_gradients(function, arguments):
    """The gradient of each argument, entry by entry, for the upstream gradients of `conftest.run_with_gradients`.

    That is the gradient of the sum over all outputs y and their entries i of `cos(1 + i) * y[i]`.
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

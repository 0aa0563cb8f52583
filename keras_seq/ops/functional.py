# SPDX-License-Identifier: Apache-2.0
"""The recurrences and the attention decoder as functions of tensors."""

from collections.abc import Callable

from keras import activations

from keras_seq.ops.attention_recurrence import run_attention_recurrence
from keras_seq.ops.equations.attention import AdditiveAttentionEquations
from keras_seq.ops.equations.cell import CellEquations
from keras_seq.ops.equations.gru import GRUEquations
from keras_seq.ops.equations.lstm import LSTMEquations
from keras_seq.ops.equations.mgu import MGUEquations
from keras_seq.ops.equations.protocol import State, Tensor
from keras_seq.ops.equations.simple_rnn import SimpleRNNEquations
from keras_seq.ops.masks import zero_masked_positions
from keras_seq.ops.recurrence import run_recurrences
from keras_seq.ops.recurrent_call import RecurrentCall


def simple_rnn(
    inputs: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | Callable = "tanh",
    initial_state: State | None = None,
    mask: Tensor | None = None,
    zero_output_for_mask: bool = False,
    recurrent_dropout_mask: Tensor | None = None,
    zoneout_masks: tuple[Tensor | None] | None = None,
    reverse: bool = False,
    unroll: bool = False,
    recompute: bool = False,
    implementation: str = "auto",
) -> tuple[Tensor, State]:
    """Runs a vanilla RNN (Elman 1990) over whole sequences: `h_t = f(x_t W + h_{t-1} U + b)`.

    Args:
        inputs: (batch, time, features).
        kernel: W, (features, units).
        recurrent_kernel: U, (units, units).
        bias: b, (units,), or None.
        activation: f, a name or a function.
        initial_state: tuple of h, (batch, units); zeros if None.
        mask, zero_output_for_mask, recurrent_dropout_mask, zoneout_masks, reverse, unroll, recompute, implementation:
            see `keras_seq.ops.lstm`.

    Returns:
        `(outputs, (h,))`: the outputs (batch, time, units) and the final state (batch, units).

    Example:
        >>> import numpy as np
        >>> one = np.ones((1, 1), "float32")
        >>> outputs, (h,) = simple_rnn(np.ones((1, 3, 1), "float32"), one, one, activation="linear")
        >>> np.asarray(outputs).tolist()
        [[[1.0], [2.0], [3.0]]]
    """
    equations = SimpleRNNEquations(activations.get(activation))
    masks = {"recurrent_dropout_mask": recurrent_dropout_mask, "zoneout_masks": zoneout_masks}
    call = RecurrentCall(equations, inputs, kernel, recurrent_kernel, bias, initial_state, **masks, reverse=reverse)
    options = {"mask": mask, "zero_output_for_mask": zero_output_for_mask, "unroll": unroll, "recompute": recompute}
    return run_recurrences([call], implementation=implementation, **options)[0]


def gru(
    inputs: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | Callable = "tanh",
    recurrent_activation: str | Callable = "sigmoid",
    reset_after: bool = True,
    initial_state: State | None = None,
    mask: Tensor | None = None,
    zero_output_for_mask: bool = False,
    recurrent_dropout_mask: Tensor | None = None,
    zoneout_masks: tuple[Tensor | None] | None = None,
    reverse: bool = False,
    unroll: bool = False,
    recompute: bool = False,
    implementation: str = "auto",
) -> tuple[Tensor, State]:
    """Runs a gated recurrent unit (Cho et al. 2014) over whole sequences.

    `z_t = s(x_t W_z + h_{t-1} U_z + b_z)`, `r_t = s(x_t W_r + h_{t-1} U_r + b_r)`,
    `g_t = f(x_t W_g + b_g + r_t (h_{t-1} U_g + c_g))` with `reset_after`, else
    `g_t = f(x_t W_g + (r_t h_{t-1}) U_g + b_g)`, and `h_t = z_t h_{t-1} + (1 - z_t) g_t`.

    Args:
        inputs: (batch, time, features).
        kernel: W, (features, 3 * units), gates z, r, g.
        recurrent_kernel: U, (units, 3 * units).
        bias: (2, 3 * units) with `reset_after`, the input bias and the recurrent bias; else (3 * units,); or None.
        activation: f, the activation of the candidate, a name or a function.
        recurrent_activation: s, the activation of the gates.
        reset_after: whether the reset gate acts after the recurrent product, as in cuDNN.
        initial_state: tuple of h, (batch, units); zeros if None.
        mask, zero_output_for_mask, recurrent_dropout_mask, zoneout_masks, reverse, unroll, recompute, implementation:
            see `keras_seq.ops.lstm`.

    Returns:
        `(outputs, (h,))`: the outputs (batch, time, units) and the final state (batch, units).

    Example:
        >>> import numpy as np
        >>> outputs, (h,) = gru(np.ones((2, 5, 3)), np.ones((3, 12)), np.ones((4, 12)))
        >>> tuple(outputs.shape), tuple(h.shape)
        ((2, 5, 4), (2, 4))
    """
    equations = GRUEquations(activations.get(activation), activations.get(recurrent_activation), reset_after)
    masks = {"recurrent_dropout_mask": recurrent_dropout_mask, "zoneout_masks": zoneout_masks}
    call = RecurrentCall(equations, inputs, kernel, recurrent_kernel, bias, initial_state, **masks, reverse=reverse)
    options = {"mask": mask, "zero_output_for_mask": zero_output_for_mask, "unroll": unroll, "recompute": recompute}
    return run_recurrences([call], implementation=implementation, **options)[0]


def lstm(
    inputs: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | Callable = "tanh",
    recurrent_activation: str | Callable = "sigmoid",
    initial_state: State | None = None,
    mask: Tensor | None = None,
    zero_output_for_mask: bool = False,
    recurrent_dropout_mask: Tensor | None = None,
    zoneout_masks: tuple[Tensor | None, Tensor | None] | None = None,
    reverse: bool = False,
    unroll: bool = False,
    recompute: bool = False,
    implementation: str = "auto",
) -> tuple[Tensor, State]:
    """Runs long short-term memory (Hochreiter & Schmidhuber 1997) over whole sequences.

    `i, f, g, o = split(x_t W + h_{t-1} U + b)`, `c_t = s(f) c_{t-1} + s(i) f(g)`, `h_t = s(o) f(c_t)`.

    Args:
        inputs: (batch, time, features).
        kernel: W, (features, 4 * units), gates i, f, g, o.
        recurrent_kernel: U, (units, 4 * units).
        bias: b, (4 * units,), or None.
        activation: f, the activation of candidate and output, a name or a function.
        recurrent_activation: s, the activation of the gates.
        initial_state: tuple of h and c, each (batch, units); zeros if None.
        mask: (batch, time) booleans, True = keep. A masked step leaves the state as it was and repeats the output.
        zero_output_for_mask: whether the output of a masked step is zero instead.
        recurrent_dropout_mask: multiplies the previous h in the recurrent product. (batch, units) for one mask that
            all steps share, or (batch, time, units) with one for each step. No gradient reaches it.
        zoneout_masks: None, or a tuple (for h, for c) of None or the share m of the previous state that a step keeps
            (Krueger et al. 2017): `s_t = m s_{t-1} + (1 - m) s~_t`, where s~_t is the state that the equations give.
            c~_t enters h~_t before zoneout. Shape (batch, units) or (batch, time, units). In training m is drawn from
            {0, 1}; at inference it is the constant rate. A masked step keeps the whole state. No gradient reaches m.
        reverse: whether to run from the last step to the first. Outputs keep the order of the inputs.
        unroll: whether to write out the steps instead of looping. The number of steps must be static.
        recompute: whether the backward pass runs the forward pass again instead of keeping its residuals.
        implementation: "auto", "native", "cudnn" or "xla".

    Returns:
        `(outputs, (h, c))`: the outputs (batch, time, units) and the final state, each (batch, units).

    Raises:
        ValueError: if shapes do not match; the message names the argument.
        NotImplementedError: if `implementation` is "native" or "cudnn" and cannot run.

    Example:
        >>> import numpy as np
        >>> outputs, (h, c) = lstm(np.ones((2, 5, 3)), np.ones((3, 16)), np.ones((4, 16)))
        >>> tuple(outputs.shape), tuple(c.shape)
        ((2, 5, 4), (2, 4))
    """
    equations = LSTMEquations(activations.get(activation), activations.get(recurrent_activation))
    masks = {"recurrent_dropout_mask": recurrent_dropout_mask, "zoneout_masks": zoneout_masks}
    call = RecurrentCall(equations, inputs, kernel, recurrent_kernel, bias, initial_state, **masks, reverse=reverse)
    options = {"mask": mask, "zero_output_for_mask": zero_output_for_mask, "unroll": unroll, "recompute": recompute}
    return run_recurrences([call], implementation=implementation, **options)[0]


def mgu(
    inputs: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | Callable = "tanh",
    recurrent_activation: str | Callable = "sigmoid",
    initial_state: State | None = None,
    mask: Tensor | None = None,
    zero_output_for_mask: bool = False,
    recurrent_dropout_mask: Tensor | None = None,
    zoneout_masks: tuple[Tensor | None] | None = None,
    reverse: bool = False,
    unroll: bool = False,
    recompute: bool = False,
    implementation: str = "auto",
) -> tuple[Tensor, State]:
    """Runs a minimal gated unit (Zhou et al. 2016) over whole sequences.

    `f_t = s(x_t W_f + h_{t-1} U_f + b_f)`, `g_t = a(x_t W_g + (f_t h_{t-1}) U_g + b_g)`, with the activation a, and
    `h_t = (1 - f_t) h_{t-1} + f_t g_t`.

    Args:
        inputs: (batch, time, features).
        kernel: W, (features, 2 * units), gates f, g.
        recurrent_kernel: U, (units, 2 * units).
        bias: b, (2 * units,), or None.
        activation: a, the activation of the candidate, a name or a function.
        recurrent_activation: s, the activation of the gate f.
        initial_state: tuple of h, (batch, units); zeros if None.
        mask, zero_output_for_mask, recurrent_dropout_mask, zoneout_masks, reverse, unroll, recompute, implementation:
            see `keras_seq.ops.lstm`.

    Returns:
        `(outputs, (h,))`: the outputs (batch, time, units) and the final state (batch, units).

    Example:
        >>> import numpy as np
        >>> outputs, (h,) = mgu(np.ones((2, 5, 3)), np.ones((3, 8)), np.ones((4, 8)))
        >>> tuple(outputs.shape), tuple(h.shape)
        ((2, 5, 4), (2, 4))
    """
    equations = MGUEquations(activations.get(activation), activations.get(recurrent_activation))
    masks = {"recurrent_dropout_mask": recurrent_dropout_mask, "zoneout_masks": zoneout_masks}
    call = RecurrentCall(equations, inputs, kernel, recurrent_kernel, bias, initial_state, **masks, reverse=reverse)
    options = {"mask": mask, "zero_output_for_mask": zero_output_for_mask, "unroll": unroll, "recompute": recompute}
    return run_recurrences([call], implementation=implementation, **options)[0]


def attention_decoder(
    equations: CellEquations,
    inputs: Tensor,
    memory: Tensor,
    *,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    bias: Tensor | None = None,
    query_kernel: Tensor,
    score_vector: Tensor,
    keys: Tensor,
    memory_mask: Tensor | None = None,
    initial_state: State | None = None,
    mask: Tensor | None = None,
    zero_output_for_mask: bool = False,
    recurrent_dropout_mask: Tensor | None = None,
    zoneout_masks: tuple[Tensor | None, ...] | None = None,
    reverse: bool = False,
    unroll: bool = False,
    recompute: bool = False,
    implementation: str = "auto",
) -> tuple[Tensor, State, Tensor]:
    """Runs a recurrence that attends to a memory before each step (Bahdanau, Cho & Bengio 2015).

    In step t, `a_t = softmax_s(v . tanh(k_s + h_{t-1} W_q))`, `context_t = sum_s a_ts m_s`, then the cell on
    `[x_t, context_t]`.

    Args:
        equations: cell equations, such as `keras_seq.layers.LSTMCell(...).equations`.
        inputs: (batch, time, features).
        memory: (batch, source, memory_units).
        kernel: (features + memory_units, gates * units).
        recurrent_kernel: (units, gates * units).
        bias: the bias of the cell, or None.
        query_kernel: W_q, (units, attention_units).
        score_vector: v, (attention_units,).
        keys: (batch, source, attention_units), the memory times the key kernel.
        memory_mask: (batch, source) booleans, True = keep. Where no position is kept, the context is zero.
        initial_state: a tuple with one tensor for each state; zeros if None.
        mask, zero_output_for_mask, recurrent_dropout_mask, zoneout_masks, reverse, unroll, recompute, implementation:
            see `keras_seq.ops.lstm`.

    Returns:
        `(outputs, state, attention_weights)`: (batch, time, units), the final state, and a (batch, time, source), which
        is zero in masked steps.
    """
    masks = {"recurrent_dropout_mask": recurrent_dropout_mask, "zoneout_masks": zoneout_masks}
    call = RecurrentCall(equations, inputs, kernel, recurrent_kernel, bias, initial_state, **masks, reverse=reverse)
    return run_attention_recurrence(
        call,
        AdditiveAttentionEquations(equations),
        zero_masked_positions(memory, memory_mask),
        zero_masked_positions(keys, memory_mask),
        memory_mask,
        query_kernel=query_kernel,
        score_vector=score_vector,
        mask=mask,
        zero_output_for_mask=zero_output_for_mask,
        unroll=unroll,
        recompute=recompute,
        implementation=implementation,
    )

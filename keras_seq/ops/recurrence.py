# SPDX-License-Identifier: Apache-2.0
"""The recurrences as functions of tensors, and the one place where they are handed to an implementation."""

import dataclasses
from typing import NamedTuple

from keras import activations, backend, ops

from keras_seq.ops import cell_equations, cudnn, native
from keras_seq.ops.attention_equations import AdditiveAttentionEquations, AttentionWeights, InputFeedingEquations
from keras_seq.ops.cell_equations import RecurrentWeights
from keras_seq.ops.implementation import choose_implementation, native_kernel
from keras_seq.ops.scan import Probed, scan


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
    cell = cell_equations.SimpleRNNEquations(activations.get(activation))
    return _run_one(cell, inputs, kernel, recurrent_kernel, bias, **options)


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
    """The gated recurrent unit (Cho et al. 2014) over whole sequences; equations in `cell_equations.GRUEquations`.

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
    cell = cell_equations.GRUEquations(activations.get(activation), activations.get(recurrent_activation), reset_after)
    return _run_one(cell, inputs, kernel, recurrent_kernel, bias, **options)


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
    """Long short-term memory (Hochreiter & Schmidhuber 1997) over whole sequences.

    The equations are those of `cell_equations.LSTMEquations`.

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
        implementation: "auto", "native", "cudnn" or "xla".

    Returns:
        `(outputs, (h, c))`, outputs (batch, time, units) and the final state, each (batch, units).
    """
    cell = cell_equations.LSTMEquations(activations.get(activation), activations.get(recurrent_activation))
    return _run_one(cell, inputs, kernel, recurrent_kernel, bias, **options)


def attention_decoder(
    cell,
    inputs,
    memory,
    *,
    kernel,
    recurrent_kernel,
    bias=None,
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
        cell: a recurrence of `cell_equations`.
        inputs: (batch, time, features).
        memory: (batch, source, memory_units).
        kernel: (features + memory_units, gates * units).
        recurrent_kernel: (units, gates * units).
        bias: as the cell's own function has it, or None.
        query_kernel: W_q, (units, attention_units).
        score_vector: v, (attention_units,).
        keys: (batch, source, attention_units), the memory times the key kernel.
        memory_mask: (batch, source) booleans, True = keep. Where nothing is left, the context is zero.
        **options: `initial_state`, `mask`, `zero_output_for_mask`, `recurrent_dropout_mask`, `zoneout_masks`,
            `reverse`, `unroll`, `recompute`, `implementation` as of `lstm`.

    Returns:
        `(outputs, state, attention_weights)`: (batch, time, units), the final state, and a (batch, time, source), zero
        where a step is masked.
    """
    recurrence, options = _split_options(RecurrentCall(cell, inputs, kernel, recurrent_kernel, bias), options)
    read = {"query_kernel": query_kernel, "score_vector": score_vector}
    memory, keys = (zero_masked_positions(x, memory_mask) for x in (memory, keys))
    return run_attending(recurrence, AdditiveAttentionEquations(cell), memory, keys, memory_mask, **read, **options)


def run_attending(
    recurrence,
    attention,
    memory,
    keys,
    memory_mask=None,
    *,
    query_kernel=None,
    score_vector=None,
    attention_state=(),
    drawn=None,
    mask=None,
    zero_output_for_mask=False,
    unroll=False,
    recompute=False,
    implementation="auto",
):
    """Run a recurrence that attends to a memory in each step.

    Args:
        recurrence: a `RecurrentCall`, whose kernel is for `[x, context]`, or what else the attention feeds.
        attention: `AdditiveAttentionEquations`, `AnyAttentionEquations` or `InputFeedingEquations` around its cell.
        memory, keys: as of `attention_decoder`; where they are masked, `zero_masked_positions` has made them zero.
        memory_mask, query_kernel, score_vector: as of `attention_decoder`.
        attention_state: tuple of tensors, from which the attention's own states start; of `InputFeedingEquations` the
            output is the first.
        drawn: (batch, time, any), what the attention reads in each step, or None.
        mask, zero_output_for_mask, unroll, recompute, implementation: as of `lstm`.

    Returns:
        `(outputs, state, attention_weights)`, the state in the order of the attention's recurrence; the weights are
        zero where a step is masked.
    """
    recurrence = _checked(recurrence)
    cell, features, dtype = recurrence.cell, recurrence.inputs.shape[-1], recurrence.inputs.dtype

    def cast(x):
        return None if x is None else ops.cast(x, dtype)

    mask = as_bool_mask(mask)
    memory, keys, memory_mask = cast(memory), cast(keys), cast(as_bool_mask(memory_mask))
    _check_memory(recurrence, memory, keys, memory_mask, attention.fed)
    if choose_implementation(implementation, attention, dtype).implementation == "native":
        read = {"query_kernel": cast(query_kernel), "score_vector": cast(score_vector)}
        read |= {"memory": memory, "keys": keys, "memory_mask": None if memory_mask is None else memory_mask > 0}
        options = {"mask": mask, "recompute": recompute, "attention": read}
        ((outputs, state, attention_weights),) = native.run([recurrence], **options)
        return _show(outputs, recurrence, mask, zero_output_for_mask), state, attention_weights
    bias, recurrent_bias = cell.split_bias(recurrence.bias)
    weights = AttentionWeights(
        cell=RecurrentWeights(recurrence.recurrent_kernel, recurrent_bias, extra=recurrence.extra_weights),
        context_kernel=None if recurrence.kernel is None else recurrence.kernel[features:],
        query_kernel=cast(query_kernel),
        score_vector=cast(score_vector),
        keys=keys,
        memory=memory,
        memory_mask=memory_mask,
    )
    state, zoneout = recurrence.initial_state, recurrence.zoneout_masks
    if isinstance(attention, InputFeedingEquations) and zoneout:
        attention, drawn, zoneout = *_zone_out_within(attention, recurrence, drawn), None
    if attention_state:
        state = _zero_state(recurrence, ops.shape(memory)[0]) if state is None else state
        state = (*attention_state[: attention.leading], *state, *attention_state[attention.leading :])
        zoneout = zoneout and (*zoneout, *(None for _ in attention_state))
    attending = recurrence._replace(
        cell=attention,
        kernel=None if recurrence.kernel is None else recurrence.kernel[:features],
        initial_state=state,
        zoneout_masks=zoneout,
    )
    options = {"drawn": drawn, "mask": mask, "unroll": unroll, "recompute": recompute}
    outputs, state, (attention_weights,) = _run_xla(attending, weights, bias, **options)
    if mask is not None:
        attention_weights = ops.where(mask[:, :, None], attention_weights, 0)
    return _show(outputs, recurrence, mask, zero_output_for_mask), state, attention_weights


def _zone_out_within(attention, recurrence, drawn):
    """`InputFeedingEquations` that zones out within its step, and the masks for it before what was drawn."""
    masks = recurrence.zoneout_masks
    steps = ops.shape(recurrence.inputs)[:2]
    wide = [m if m is None or len(m.shape) == 3 else ops.expand_dims(m, axis=1) for m in masks]
    wide = [ops.broadcast_to(m, (*steps, m.shape[-1])) for m in wide if m is not None]
    attention = dataclasses.replace(attention, zoneout=tuple(0 if m is None else m.shape[-1] for m in masks))
    return attention, ops.concatenate(wide if drawn is None else [*wide, drawn], axis=-1)


def _check_memory(recurrence, memory, keys, memory_mask, fed=None):
    _check_memory_and_mask(memory, memory_mask)
    batch, source, features = memory.shape
    if not _may_equal((batch,), recurrence.inputs.shape[:1]):
        raise ValueError(
            f"`memory` and `inputs` must be of one batch. Received: memory of shape {tuple(memory.shape)}, inputs of "
            f"shape {tuple(recurrence.inputs.shape)}"
        )
    if len(keys.shape) != 3 or not _may_equal(keys.shape[:2], (batch, source)):
        raise ValueError(
            f"`keys` must be (batch, source, attention_units), of the memory's shape {tuple(memory.shape)}. Received: "
            f"shape {tuple(keys.shape)}"
        )
    rows = recurrence.inputs.shape[-1] + (features if fed is None else fed)
    if recurrence.kernel is not None and recurrence.kernel.shape[0] != rows:
        raise ValueError(
            f"`kernel` must have a row for each feature of inputs and memory, {rows}. Received: shape "
            f"{tuple(recurrence.kernel.shape)}"
        )


def _check_memory_and_mask(memory, memory_mask):
    if len(memory.shape) != 3:
        raise ValueError(f"`memory` must be (batch, source, features). Received: shape {tuple(memory.shape)}")
    if memory_mask is not None and not _may_equal(memory_mask.shape, memory.shape[:2]):
        raise ValueError(
            f"`memory_mask` must have shape (batch, source) = {tuple(memory.shape[:2])}. Received: shape "
            f"{tuple(memory_mask.shape)}"
        )


def zero_masked_positions(memory, memory_mask):
    """A memory with zeros where it is masked, so that whatever stands there, as NaN, reaches no result and no gradient.

    To be called once for many steps, before keys are made of the memory.

    Args:
        memory: (batch, source, features).
        memory_mask: (batch, source) booleans, True = keep, or None.
    """
    if memory_mask is None:
        return memory
    memory_mask = as_bool_mask(memory_mask)
    _check_memory_and_mask(memory, memory_mask)
    return ops.where(ops.expand_dims(memory_mask, axis=-1), memory, 0)


class RecurrentCall(NamedTuple):
    """A recurrence over whole sequences: what may differ between two that run side by side."""

    cell: object  # of `cell_equations`
    inputs: object  # (batch, time, features)
    kernel: object = None  # (features, gates * units); None where nothing projects the inputs before the loop
    recurrent_kernel: object = None  # (units, gates * units)
    bias: object = None  # (gates * units,), or (2, 3 * units) of a GRU with `reset_after`
    initial_state: object = None  # tuple of (batch, units), one a state
    recurrent_dropout_mask: object = None  # (batch, units) or (batch, time, units)
    zoneout_masks: object = None  # tuple, one a state, of None or shapes as the dropout mask
    extra_weights: object = None  # a dict, of the cells that have more
    reverse: bool = False
    probe: object = None  # (batch, time, size of h), zeros: its gradient is that of each h_t

    @property
    def equations(self):
        return self.cell

    def parts(self):
        """The tensors that kernels read, each with its place; what is absent is not there."""
        states = [(f"{name}[{i}]", x) for name in _OF_STATES for i, x in enumerate(getattr(self, name) or ())]
        names = ("inputs", "kernel", "recurrent_kernel", "bias", "recurrent_dropout_mask")
        return {name: x for name, x in [*((n, getattr(self, n)) for n in names), *states] if x is not None}


_OF_STATES = ("initial_state", "zoneout_masks")


def run(
    recurrences,
    *,
    mask=None,
    zero_output_for_mask=False,
    unroll=False,
    recompute=False,
    implementation="auto",
    use_cudnn=True,
):
    """Run recurrences that share a mask: native kernels run them side by side where they are alike.

    Args:
        recurrences: list of `RecurrentCall`, all of one cell and dtype.
        mask, zero_output_for_mask, unroll, recompute, implementation: as of `lstm`.
        use_cudnn: whether "auto" may take "cudnn".

    Returns:
        A list of `(outputs, state)`.
    """
    recurrences = [_checked(recurrence) for recurrence in recurrences]
    mask = None if mask is None else ops.cast(mask, "bool")
    steps = tuple(recurrences[0].inputs.shape[:2])
    if mask is not None and not _may_equal(mask.shape, steps):
        raise ValueError(f"`mask` must have shape (batch, time) = {steps}. Received: shape {tuple(mask.shape)}")
    cell, dtype = recurrences[0].cell, backend.standardize_dtype(recurrences[0].inputs.dtype)
    if any(recurrence.probe is not None for recurrence in recurrences):
        implementation = "xla"
    extras = _extras(recurrences, mask, unroll, use_cudnn)
    chosen = choose_implementation(implementation, cell, dtype, extras).implementation
    if chosen == "native":
        alike = all(_look(recurrence) == _look(recurrences[0]) for recurrence in recurrences)
        results = []
        for group in [recurrences] if alike else [[recurrence] for recurrence in recurrences]:
            results += native.run(group, mask=mask, recompute=recompute)
    elif chosen == "cudnn":
        results = [_run_cudnn(recurrence, as_bool_mask(mask), recompute) for recurrence in recurrences]
    else:
        options = {"mask": as_bool_mask(mask), "unroll": unroll, "recompute": recompute}
        results = [_run_xla_alone(recurrence, **options) for recurrence in recurrences]
    return [
        (_show(outputs, recurrence, mask, zero_output_for_mask), state)
        for recurrence, (outputs, state) in zip(recurrences, results, strict=True)
    ]


def _run_one(cell, inputs, kernel, recurrent_kernel, bias, **options):
    recurrence, options = _split_options(RecurrentCall(cell, inputs, kernel, recurrent_kernel, bias), options)
    return run([recurrence], **options)[0]


def _split_options(recurrence, options):
    """Options of one call, into those of the recurrence and those of `run`."""
    own = {name: options[name] for name in options if name in RecurrentCall._fields}
    return recurrence._replace(**own), {name: options[name] for name in options if name not in own}


def _look(recurrence):
    """What native kernels need to find equal in all directions of a call."""
    return recurrence.cell, {name: tuple(x.shape) for name, x in recurrence.parts().items()}


def _extras(recurrences, mask, unroll, use_cudnn):
    return cudnn.CallFeatures(
        no_bias=any(r.bias is None for r in recurrences),
        recurrent_dropout=any(r.recurrent_dropout_mask is not None for r in recurrences),
        zoneout=any(r.zoneout_masks is not None for r in recurrences),
        unroll=unroll,
        mask=mask is not None,
        refused=not use_cudnn,
    )


def _run_cudnn(recurrence, mask, recompute):
    kernel, _ = native_kernel(recurrence.cell)  # the name is cuDNN's too
    state = recurrence.initial_state
    return cudnn.run(
        kernel,
        recurrence.inputs,
        recurrence.kernel,
        recurrence.recurrent_kernel,
        recurrence.bias,
        _zero_state(recurrence, ops.shape(recurrence.inputs)[0]) if state is None else state,
        mask=mask,
        reverse=recurrence.reverse,
        otherwise=lambda: _run_xla_alone(recurrence, mask=mask, recompute=recompute),
    )


def _run_xla_alone(recurrence, **options):
    """`(outputs, state)` of a recurrence that does not attend."""
    bias, recurrent_bias = recurrence.cell.split_bias(recurrence.bias)
    weights = RecurrentWeights(recurrence.recurrent_kernel, recurrent_bias, extra=recurrence.extra_weights)
    outputs, state, _ = _run_xla(recurrence, weights, bias, **options)
    return outputs, tuple(state)


def _run_xla(recurrence, weights, bias, *, drawn=None, mask=None, unroll=False, recompute=False):
    """Project the inputs, scan over time, and put the results into batch-major order."""
    cell, kernel = recurrence.cell, recurrence.kernel

    def time_major(x):
        """Sequences as the scan wants them, which knows one direction: ONNX reads its loops in no other."""
        if x is None or len(x.shape) == 2:  # a mask that all steps share
            return x
        x = ops.transpose(x, (1, 0, 2))
        return ops.flip(x, axis=0) if recurrence.reverse else x

    inputs = recurrence.inputs
    if mask is not None:  # what stands at a masked step, as NaN, reaches no gradient of a weight
        mask = mask[:, :, None]
        inputs = ops.where(mask, inputs, 0)
    projected = time_major(inputs)  # (time, batch, features)
    time, batch, features = ops.shape(projected)
    if kernel is not None:  # one product over all steps
        projected = cell.project(ops.reshape(projected, (-1, features)), kernel, bias, weights)
        projected = ops.reshape(projected, (time, batch, kernel.shape[-1]))
    state = recurrence.initial_state
    if state is None:
        state = _zero_state(recurrence, batch)
    if recurrence.probe is not None:
        cell, drawn = Probed(cell), recurrence.probe
    if drawn is not None:
        projected = ops.concatenate([projected, time_major(drawn)], axis=-1)
    weights = cell.with_dropout_mask(weights, time_major(recurrence.recurrent_dropout_mask))
    zoneout_masks = recurrence.zoneout_masks and [time_major(m) for m in recurrence.zoneout_masks]
    time_mask = None if mask is None else time_major(mask)[:, :, 0]  # (time, batch)
    options = {"unroll": unroll, "recompute": recompute}
    outputs, emitted, state = scan(cell, projected, tuple(state), weights, time_mask, zoneout_masks, **options)
    sequences = [ops.flip(x, axis=0) if recurrence.reverse else x for x in (outputs, *emitted)]
    outputs, *emitted = (ops.transpose(x, (1, 0, 2)) for x in sequences)
    return outputs, state, tuple(emitted)


def as_bool_mask(mask):
    """A mask as booleans of the bytes 0 and 1.

    Other bytes arrive from NumPy views, such as the 0 and 255 of images. Eager TensorFlow takes 255 for True, but XLA
    casts it to -1.0, which is not above 0.
    """
    return None if mask is None else ops.not_equal(ops.cast(ops.cast(mask, "bool"), "uint8"), 0)


def _zero_state(recurrence, batch):
    sizes = recurrence.cell.state_sizes(recurrence.kernel.shape[-1] // recurrence.cell.gates)
    return [ops.zeros((batch, size), recurrence.inputs.dtype) for size in sizes]


def _show(outputs, recurrence, mask, zero_output_for_mask=False):
    """What Keras shows of the states of masked steps: the last output, zero before the first one; or always zero."""
    if mask is None or not (zero_output_for_mask or recurrence.initial_state is not None):
        return outputs
    mask = as_bool_mask(mask)
    visible = mask if zero_output_for_mask else _seen(mask, recurrence.reverse)
    return ops.where(visible[:, :, None], outputs, ops.zeros_like(outputs))


def _seen(mask, reverse):
    """Where a step has been processed already: before that Keras's output is zero, whatever the initial state."""
    counts = ops.cast(mask, "int32")
    counts = ops.flip(ops.cumsum(ops.flip(counts, 1), axis=1), 1) if reverse else ops.cumsum(counts, axis=1)
    return counts > 0


def _checked(recurrence):
    """The recurrence with tensors of one dtype, once they are what they must be."""
    if recurrence.kernel is None:  # of a cell that is not ours, as is all it reads
        return recurrence
    inputs, kernel = ops.convert_to_tensor(recurrence.inputs), ops.convert_to_tensor(recurrence.kernel)
    dtype = backend.result_type(inputs.dtype, kernel.dtype)
    cell = recurrence.cell
    sizes = cell.state_sizes(kernel.shape[-1] // cell.gates)

    def cast(x):
        return None if x is None else ops.cast(x, dtype)

    def mask(name, x, size):
        return None if x is None else _unit_mask(name, x, inputs, size, dtype)

    state, zoneout = recurrence.initial_state, recurrence.zoneout_masks
    if state is not None:
        shapes = " and ".join(f"(batch, {size})" for size in dict.fromkeys(sizes))
        _check_one_a_state("initial_state", state, f"{cell.states} tensor(s) of shape {shapes}", cell)
        state = tuple(cast(s) for s in state)
    if zoneout is not None:
        expected = f"{cell.states} entries, None or of shape (batch, units) or (batch, time, units)"
        _check_one_a_state("zoneout_masks", zoneout, expected, cell)
        zoneout = tuple(mask(f"zoneout_masks[{i}]", m, sizes[i]) for i, m in enumerate(zoneout))
        zoneout = None if all(m is None for m in zoneout) else zoneout
    return recurrence._replace(
        inputs=cast(inputs),
        kernel=cast(kernel),
        recurrent_kernel=cast(recurrence.recurrent_kernel),
        bias=cast(recurrence.bias),
        initial_state=state,
        recurrent_dropout_mask=mask("recurrent_dropout_mask", recurrence.recurrent_dropout_mask, sizes[0]),
        zoneout_masks=zoneout,
        extra_weights={name: cast(w) for name, w in (recurrence.extra_weights or {}).items()} or None,
    )


def _check_one_a_state(name, given, expected, cell):
    if not isinstance(given, (list, tuple)) or len(given) != cell.states:
        is_list = isinstance(given, (list, tuple))
        received = f"{len(given)} of them" if is_list else f"a tensor of shape {ops.convert_to_tensor(given).shape}"
        raise ValueError(f"`{name}` must be a list of {expected}. Received: {received}")


def _unit_mask(name, mask, inputs, units, dtype):
    """A mask (batch, units) or (batch, time, units), constant to a gradient."""
    batch, time, _ = inputs.shape
    mask = ops.stop_gradient(ops.cast(mask, dtype))
    expected = [(batch, units), (batch, time, units)]
    if not any(_may_equal(mask.shape, shape) for shape in expected):
        raise ValueError(
            f"`{name}` must have shape (batch, units) = {expected[0]} or (batch, time, units) = {expected[1]}. "
            f"Received: shape {tuple(mask.shape)}"
        )
    return mask


def _may_equal(shape, expected):
    """Whether two static shapes can be one, as far as they are known."""
    return len(shape) == len(expected) and all(None in (a, b) or a == b for a, b in zip(shape, expected, strict=True))

# SPDX-License-Identifier: Apache-2.0
"""Implementation "cudnn": what Keras's own LSTM and GRU run on a GPU, through the functions of Keras's backend."""

from typing import NamedTuple

from keras import activations, backend, ops

from keras_seq._private_api import cudnn_ok, cudnn_recurrence, inside_xla


class CallFeatures(NamedTuple):
    """What a call asks for beyond sequences, kernels and initial states. Our own implementations have all of it."""

    no_bias: bool = False
    recurrent_dropout: bool = False
    zoneout: bool = False
    unroll: bool = False
    mask: bool = False
    refused: bool = False  # by `use_cudnn=False`


NO_FEATURES = CallFeatures()
_NAMES = {
    "no_bias": "recurrence without a bias",
    "recurrent_dropout": "recurrent dropout",
    "zoneout": "zoneout",
    "unroll": "unrolled steps",
}


def sees_gpu():
    """Whether Keras would run cuDNN in this process."""
    return cudnn_ok(activation=activations.tanh, recurrent_activation=activations.sigmoid, unroll=False, use_bias=True)


def unavailable(cell, dtype, extras):
    """Say why cuDNN cannot run a recurrence here.

    Args:
        cell: "LSTM" or "GRU".
        dtype: that of the computation, a name.
        extras: `CallFeatures`.

    Returns:
        A reason in one line, or None where it can.
    """
    kind = backend.backend()
    if not sees_gpu():
        return f"Keras finds no GPU with cuDNN on its {kind} backend"
    missing = [name for field, name in _NAMES.items() if getattr(extras, field)]
    if kind == "jax":
        missing += ["GRU on JAX"] if cell == "GRU" else []
        missing += [f"{dtype} on JAX"] if dtype != "float32" else []
        missing += ["masks on JAX"] if extras.mask else []
    if missing:
        return f"cuDNN has no {' and no '.join(missing)}"
    if extras.refused:
        return "`use_cudnn=False` rules cuDNN out"
    if kind == "tensorflow" and inside_xla():
        return "XLA compiles this call (`jit_compile`), and XLA cannot call cuDNN's recurrences"
    return None


def run(cell, inputs, kernel, recurrent_kernel, bias, initial_state, *, mask=None, reverse=False, otherwise):
    """Run a recurrence on cuDNN.

    Args:
        cell: "LSTM" or "GRU", of which `unavailable` gives no reason.
        inputs: (batch, time, features).
        kernel, recurrent_kernel, bias: as of `keras.layers`.
        initial_state: tuple of (batch, units), one a state.
        mask: (batch, time) booleans, or None. Only known when it runs: whether cuDNN can take it.
        reverse: whether to run from the last step to the first; outputs keep the order of the inputs.
        otherwise: function without arguments to the same results, for a mask that cuDNN cannot take (a sequence is
            padded elsewhere than on the right, or nothing of it is left), and for operations placed on a CPU.

    Returns:
        `(outputs, state)`: the first state after each step, (batch, time, units), and the tuple of final states.
    """
    lengths = None
    if mask is not None:
        mask = ops.cast(mask, "bool")
        lengths = ops.sum(ops.cast(mask, "int32"), axis=1)

    def on_cudnn():
        _, outputs, state = cudnn_recurrence(cell)(
            _turn(inputs, lengths) if reverse else inputs,
            *initial_state,
            mask,
            kernel=kernel,
            recurrent_kernel=recurrent_kernel,
            bias=bias,
            activation=activations.tanh,
            recurrent_activation=activations.sigmoid,
            return_sequences=True,
        )
        # Keras's `go_backwards` gives the outputs in another order on JAX than on TensorFlow, so it is not used.
        outputs = _turn(outputs, lengths) if reverse else outputs
        if mask is not None:  # masked outputs of cuDNN are zero; they come last in time, so first in reverse
            kept = initial_state[0] if reverse else state[0]
            outputs = ops.where(mask[:, :, None], outputs, kept[:, None, :])
        return outputs, tuple(state)

    try:
        if mask is None:
            return on_cudnn()
        import tensorflow as tf

        return tf.cond(_fits(mask), on_cudnn, otherwise)
    except NotImplementedError:  # of Keras, run eagerly, where the device has no cuDNN
        return otherwise()


def _turn(sequences, lengths):
    """Sequences from their last step to their first; padding stays on the right."""
    if lengths is None:
        return ops.flip(sequences, axis=1)
    import tensorflow as tf

    return tf.reverse_sequence(sequences, lengths, seq_axis=1, batch_axis=0)


def _fits(mask):
    """Whether cuDNN takes a mask: every sequence has a step, and all its steps come before its padding."""
    right_padded = ops.all(ops.logical_or(mask[:, :-1], ops.logical_not(mask[:, 1:])))
    return ops.logical_and(right_padded, ops.all(ops.any(mask, axis=1)))

# SPDX-License-Identifier: Apache-2.0
"""Implementation "cudnn": what Keras's own LSTM and GRU run on a GPU, through the functions of Keras's backend."""

from collections.abc import Sequence
from typing import NamedTuple

from keras import activations, backend, ops

from keras_seq._private_api import cudnn_ok, cudnn_recurrence, inside_xla
from keras_seq.ops import xla
from keras_seq.ops.equations.protocol import State, Tensor
from keras_seq.ops.recurrent_call import RecurrentCall


class CallFeatures(NamedTuple):
    """What a call uses beyond sequences, kernels and initial states. Only cuDNN lacks some of it."""

    no_bias: bool = False
    recurrent_dropout: bool = False
    zoneout: bool = False
    unroll: bool = False
    mask: bool = False
    use_cudnn: bool = True  # the argument of Keras's layers

    @classmethod
    def of_calls(
        cls, calls: Sequence[RecurrentCall], mask: Tensor | None, unroll: bool, use_cudnn: bool | str
    ) -> "CallFeatures":
        """Return what any of the calls uses."""
        return cls(
            no_bias=any(call.bias is None for call in calls),
            recurrent_dropout=any(call.recurrent_dropout_mask is not None for call in calls),
            zoneout=any(call.zoneout_masks is not None for call in calls),
            unroll=unroll,
            mask=mask is not None,
            use_cudnn=bool(use_cudnn),
        )


NO_FEATURES = CallFeatures()
_NAMES = {
    "no_bias": "recurrence without a bias",
    "recurrent_dropout": "recurrent dropout",
    "zoneout": "zoneout",
    "unroll": "unrolled steps",
}


def sees_gpu() -> bool:
    """Whether Keras would run cuDNN in this process."""
    return cudnn_ok(activation=activations.tanh, recurrent_activation=activations.sigmoid, unroll=False, use_bias=True)


def unavailable(
    kind: str,  # "LSTM" or "GRU"
    dtype: str,  # of the computation
    features: CallFeatures,
) -> str | None:
    """Say in one line why cuDNN cannot run a recurrence here, or return None if it can."""
    framework = backend.backend()
    if not sees_gpu():
        return f"Keras finds no GPU with cuDNN on its {framework} backend"
    missing = [name for field, name in _NAMES.items() if getattr(features, field)]
    if framework == "jax":
        missing += ["GRU on JAX"] if kind == "GRU" else []
        missing += [f"{dtype} on JAX"] if dtype != "float32" else []
        missing += ["masks on JAX"] if features.mask else []
    if missing:
        return f"cuDNN has no {' and no '.join(missing)}"
    if not features.use_cudnn:
        return "`use_cudnn=False` rules cuDNN out"
    if framework == "tensorflow" and inside_xla():
        return "XLA compiles this call (`jit_compile`), and XLA cannot call cuDNN's recurrences"
    return None


def run(
    call: RecurrentCall,
    *,
    mask: Tensor | None = None,  # (batch, time) booleans
    recompute: bool = False,
) -> tuple[Tensor, State]:  # (batch, time, units), each (batch, units)
    """Run a recurrence on cuDNN; return the first state after each step and the final state.

    Masks that cuDNN does not take (padding elsewhere than on the right, or a sequence without any step), and operations
    placed on a CPU, are only known when the call runs. For these, xla runs it.
    """
    state = call.initial_state or call.zero_state(ops.shape(call.inputs)[0])
    lengths = None if mask is None else ops.sum(ops.cast(mask, "int32"), axis=1)
    kind, _ = call.equations.native_kernel()  # Keras's functions have the same names

    def run_cudnn():
        _, outputs, final_state = cudnn_recurrence(kind)(
            _reverse_time(call.inputs, lengths) if call.reverse else call.inputs,
            *state,
            mask,
            kernel=call.kernel,
            recurrent_kernel=call.recurrent_kernel,
            bias=call.bias,
            activation=activations.tanh,
            recurrent_activation=activations.sigmoid,
            return_sequences=True,
        )
        # Keras's `go_backwards` returns outputs in different orders on JAX and TensorFlow, so it is not used.
        outputs = _reverse_time(outputs, lengths) if call.reverse else outputs
        if mask is not None:  # cuDNN's masked outputs are zero; they run last, or in reverse first
            repeated = state[0] if call.reverse else final_state[0]
            outputs = ops.where(mask[:, :, None], outputs, repeated[:, None, :])
        return outputs, tuple(final_state)

    def run_xla():
        return xla.run(call, mask=mask, recompute=recompute)

    try:
        if mask is None:
            return run_cudnn()
        import tensorflow as tf

        return tf.cond(_accepts(mask), run_cudnn, run_xla)
    except NotImplementedError:  # Keras raises it eagerly on a device without cuDNN
        return run_xla()


def _reverse_time(
    sequences: Tensor,  # (batch, time, features)
    lengths: Tensor | None,  # (batch,)
) -> Tensor:
    """Reverse the steps of each sequence. Padding stays on the right."""
    if lengths is None:
        return ops.flip(sequences, axis=1)
    import tensorflow as tf

    return tf.reverse_sequence(sequences, lengths, seq_axis=1, batch_axis=0)


def _accepts(
    mask: Tensor,  # (batch, time) booleans
) -> Tensor:
    """Whether cuDNN takes a mask: every sequence has a step, and all its steps come before its padding."""
    right_padded = ops.all(ops.logical_or(mask[:, :-1], ops.logical_not(mask[:, 1:])))
    return ops.logical_and(right_padded, ops.all(ops.any(mask, axis=1)))

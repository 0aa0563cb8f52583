# SPDX-License-Identifier: Apache-2.0
"""Why the native kernels may not run: the library is missing, or it does not fit TensorFlow or the CPU. This file also
runs itself as a program, for what needs another process."""

import ctypes
import functools
import json
import re
import sys

import numpy as np
import pytest
import tensorflow as tf
from native_calls import needs_native, run_alone

from keras_seq import layers
from keras_seq.ops import native
from keras_seq.ops.native_installation import how_to_rebuild


def reason_with(monkeypatch, folder, **build):
    if build:
        (folder / "build.json").write_text(json.dumps(build))
    monkeypatch.setattr(native, "FOLDER", folder)
    monkeypatch.setattr(native, "_loaded", None)
    with pytest.raises(RuntimeError, match="Native recurrences cannot run: the native kernels "):
        native.run([])
    return native.unavailable()


def test_another_tensorflow_is_refused_before_the_library_is_opened(monkeypatch, tmp_path):
    (tmp_path / "libkeras_seq_tf.so").write_text("whatever")
    reason = reason_with(monkeypatch, tmp_path, tensorflow="2.0.0")
    expected = f"the native kernels were built for TensorFlow 2.0.0, and this is {tf.__version__}; {how_to_rebuild()}"
    assert reason == expected


def test_the_versions_of_a_wheel_for_several_are_named(monkeypatch, tmp_path):
    (tmp_path / "tensorflow-2.0.1").mkdir()
    reason = reason_with(monkeypatch, tmp_path, tensorflow="2.0.0")
    assert "were built for TensorFlow 2.0.0 and 2.0.1, and this is" in reason


def test_the_library_for_this_tensorflow_is_chosen_from_several(monkeypatch, tmp_path):
    further = tmp_path / f"tensorflow-{tf.__version__}"
    further.mkdir()
    (further / "libkeras_seq_tf.so").write_text("whatever")
    reason = reason_with(monkeypatch, tmp_path, tensorflow="2.0.0")
    assert reason.startswith("the native kernels do not load (") and str(further) in reason


def test_a_library_for_jax_only(monkeypatch, tmp_path):
    reason = reason_with(monkeypatch, tmp_path, tensorflow=None, why_no_tensorflow="TensorFlow was not there")
    assert reason == f"the native kernels were built for JAX only: TensorFlow was not there; {how_to_rebuild()}"


def test_no_build_is_advised_where_none_can_run(monkeypatch, tmp_path):
    monkeypatch.setattr(tf, "__version__", "2.19.1")
    expected = "the native kernels need TensorFlow 2.20 or later, and this is 2.19.1"
    assert reason_with(monkeypatch, tmp_path) == expected
    assert reason_with(monkeypatch, tmp_path, tensorflow="2.19.1") == expected


def test_a_library_that_does_not_load(monkeypatch, tmp_path):
    (tmp_path / "libkeras_seq_tf.so").write_text("whatever")
    reason = reason_with(monkeypatch, tmp_path, tensorflow=tf.__version__)
    assert reason.startswith("the native kernels do not load (") and "\n" not in reason


def test_not_built(monkeypatch, tmp_path):
    assert reason_with(monkeypatch, tmp_path) == f"the native kernels were not built; {how_to_rebuild()}"
    (tmp_path / "not_built.txt").write_text("Why: there is no compiler")
    assert str(tmp_path / "not_built.txt") in reason_with(monkeypatch, tmp_path)


def test_other_backends(monkeypatch, tmp_path):
    monkeypatch.setattr(native.backend, "backend", lambda: "torch")
    reason = reason_with(monkeypatch, tmp_path)
    assert reason == "the native kernels need Keras's TensorFlow or JAX backend, and this is torch"


@needs_native
def test_the_library_is_what_the_build_says():
    library = ctypes.CDLL(str(native.FOLDER / "libkeras_seq_tf.so"))
    library.KerasSeqTensorFlowVersion.restype = ctypes.c_char_p
    built = json.loads((native.FOLDER / "build.json").read_text())
    assert library.KerasSeqTensorFlowVersion().decode() == built["tensorflow"] == tf.__version__


@pytest.mark.slow
@needs_native
def test_an_unknown_instruction_set():
    run_alone(ask_for_an_unknown_instruction_set, KERAS_SEQ_ISA="mmx")


def ask_for_an_unknown_instruction_set():
    expected = r"KERAS_SEQ_ISA must be one of .*portable on this CPU\. Received: mmx"
    assert re.match(expected, native.unavailable())
    ones = [tf.ones((1, 1))]
    options = {
        "bias": [],
        "initial_h": [],
        "mask": [],
        "recurrent_dropout_mask": [],
        "zoneout_mask_h": [],
        "activation": "tanh",
    }
    options |= {"inputs": [tf.ones((1, 2, 1))], "kernel": ones, "recurrent_kernel": ones, "reverse": [False]}
    library = tf.load_op_library(str(native.FOLDER / "libkeras_seq_tf.so"))
    forward = functools.partial(library.keras_seq_simple_rnn, **options, keep_residuals=False, R=tf.float32)
    backward = functools.partial(
        library.keras_seq_simple_rnn_grad,
        **options,
        **{"outputs": options["inputs"], "residuals": [tf.zeros(0)], "d_outputs": [], "d_final_h": ones},
        **dict.fromkeys(("wanted_inputs", "wanted_biases", "wanted_initial_states", "wanted_recurrent_kernels"), 0),
        wanted_kernels=1,
        keep_residuals=False,
    )
    for call_op in (forward, backward):
        with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
            call_op()
        for jit_compile in (False, True):
            with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=expected):
                tf.function(lambda f=call_op: f(), jit_compile=jit_compile)()


@pytest.mark.slow
@needs_native
def test_an_unknown_instruction_set_on_jax():
    pytest.importorskip("jax")
    run_alone(call_the_handler_with_an_unknown_instruction_set, KERAS_BACKEND="jax", KERAS_SEQ_ISA="mmx")


def call_the_handler_with_an_unknown_instruction_set():
    import jax
    import jax.numpy as jnp

    assert "KERAS_SEQ_ISA" in native.unavailable()
    handler = ctypes.CDLL(str(native.FOLDER / "libkeras_seq_xla.so")).KerasSeqSimpleRNN
    jax.ffi.register_ffi_target("KerasSeqSimpleRNN", jax.ffi.pycapsule(handler), platform="cpu")
    results = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((1, 2, 1), (1, 1), (0,))]
    counts = ("biases", "initial_states", "masks", "recurrent_dropout_masks", "zoneout_masks_h", "reverse", "kernels")
    attributes = {**dict.fromkeys(counts, np.int64(0)), "directions": np.int64(1), "activation": "tanh"}
    invoke = jax.ffi.ffi_call("KerasSeqSimpleRNN", results)
    with pytest.raises(RuntimeError, match="INVALID_ARGUMENT: KerasSeq>SimpleRNN: KERAS_SEQ_ISA must be one of"):
        invoke(jnp.ones((1, 2, 1)), jnp.ones((1, 1)), jnp.ones((1, 1)), keep_residuals=False, **attributes)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])


@needs_native
def test_an_op_that_the_library_lacks_is_unavailable(monkeypatch):
    library, _ = native._load()
    monkeypatch.setattr(library, "ops", {name: op for name, op in library.ops.items() if name != "GRU"})
    choice = layers.GRU(4).choose_implementation()
    assert choice == ("xla", f"the native kernels were built without GRU; {how_to_rebuild()}")
    assert layers.LSTM(4).choose_implementation().implementation == "native"

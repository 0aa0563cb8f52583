# SPDX-License-Identifier: Apache-2.0
"""Times forward and backward passes of layers on one and on several virtual JAX devices of this CPU.

    python benchmarks/jax_devices.py --devices 1
    python benchmarks/jax_devices.py --devices 2

One run is one process, because JAX makes its devices when it starts.
"""

import argparse
import os
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--devices", type=int, default=2, help="number of devices")
parser.add_argument("--shape", default="64,50,256,256", help="batch, time, features, units")
parser.add_argument("--repetitions", type=int, default=8)
options = parser.parse_args()
os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={options.devices}"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from keras_seq import layers  # noqa: E402

SOURCE = 30
KINDS = {
    "LSTM": lambda units, **arguments: layers.LSTM(units, return_sequences=True, **arguments),
    "GRU": lambda units, **arguments: layers.GRU(units, return_sequences=True, **arguments),
    "attention decoder with LSTM": lambda units, **arguments: layers.AttentionDecoder(
        units, "lstm", layers.BahdanauAttention(units), **arguments
    ),
}


def milliseconds(make, implementation):
    """The best time of a gradient, and the kinds of exchanges between devices."""
    batch, steps, features, units = map(int, options.shape.split(","))
    layer = make(units, implementation=implementation)
    x = np.random.default_rng(0).normal(size=(batch, steps, features)).astype("float32")
    calls = [x, x[:, :SOURCE]] if isinstance(layer, layers.AttentionDecoder) else [x]
    layer(*calls)  # builds it
    constant = [variable.value for variable in layer.non_trainable_variables]

    def loss(weights, calls):
        return jax.numpy.sin(layer.stateless_call(weights, constant, *calls)[0]).sum()

    mesh = Mesh(np.array(jax.devices()), ("batch",))
    weights = jax.device_put([v.value for v in layer.trainable_variables], NamedSharding(mesh, PartitionSpec()))
    calls = jax.device_put(calls, NamedSharding(mesh, PartitionSpec("batch")))
    gradient = jax.jit(jax.grad(loss, (0, 1))).lower(weights, calls).compile()
    times = []
    for _ in range(options.repetitions + 1):  # the first one warms up
        start = time.perf_counter()
        jax.block_until_ready(gradient(weights, calls))
        times.append(time.perf_counter() - start)
    text = gradient.as_text()
    return min(times[1:]) * 1e3, [kind for kind in ("all-reduce", "all-gather") if f" {kind}(" in text]


for implementation in ("native", "xla"):
    for name, make in KINDS.items():
        best, exchanges = milliseconds(make, implementation)
        print(f"{name}, {implementation}: {best:.1f} ms on {options.devices} device(s), {exchanges}", flush=True)

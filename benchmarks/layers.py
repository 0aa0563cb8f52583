# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers of keras_seq and its peers, interleaved: forward, and forward with backward.

Writes a Markdown table and a JSON file. Peers that are not installed are left out: pip install '.[bench]'.
"""

import argparse
import functools
import itertools
import json
import os
import pathlib
import platform
from typing import NamedTuple

import numpy as np
from contest import Contender, median, run_contest, spread
from rich.progress import Progress


class Case(NamedTuple):
    layer: str  # LSTM, GRU, SimpleRNN
    shape: tuple  # batch, time, features, units
    backward: bool  # with the gradients of inputs and weights
    recurrent_dropout: float


SHAPES = [
    (64, 50, 256, 256),
    (64, 50, 512, 512),
    (32, 100, 1024, 1024),
    (32, 25, 128, 128),
    (1, 100, 512, 512),
    (128, 30, 650, 650),
]


def build_tensorflow(library, jit_compile, case):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import importlib

    import tensorflow as tf

    layer_class = getattr(importlib.import_module(library).layers, case.layer)
    layer = layer_class(case.shape[3], return_sequences=True, recurrent_dropout=case.recurrent_dropout)
    sequences = tf.random.normal(case.shape[:3])
    layer.build(sequences.shape)
    variables = [variable.value for variable in layer.trainable_variables]

    @tf.function(jit_compile=jit_compile)
    def forward(sequences):
        return layer(sequences, training=False)

    @tf.function(jit_compile=jit_compile)
    def backward(sequences):
        with tf.GradientTape() as tape:
            tape.watch(sequences)
            loss = tf.reduce_sum(tf.square(layer(sequences, training=True)))
        return tape.gradient(loss, [sequences, *variables])

    if case.backward:
        return lambda: [gradient.numpy() for gradient in backward(sequences)]
    return lambda: forward(sequences).numpy()


def build_jax(library, case):
    os.environ["KERAS_BACKEND"] = "jax"
    import importlib

    import jax

    layer_class = getattr(importlib.import_module(library).layers, case.layer)
    layer = layer_class(case.shape[3], return_sequences=True, recurrent_dropout=case.recurrent_dropout)
    sequences = np.random.default_rng(0).normal(size=case.shape[:3]).astype("float32")
    layer.build(sequences.shape)
    weights = [variable.value for variable in layer.trainable_variables]
    others = [variable.value for variable in layer.non_trainable_variables]

    def call(weights, sequences, training):
        return layer.stateless_call(weights, others, sequences, training=training)[0]

    forward = jax.jit(functools.partial(call, training=False))
    backward = jax.jit(jax.grad(lambda *a: (call(*a, training=True) ** 2).sum(), (0, 1)))
    run = backward if case.backward else forward
    return lambda: jax.block_until_ready(run(weights, sequences))


def build_torch(case):
    import torch

    if case.recurrent_dropout:
        return None  # it has none
    torch.set_num_threads(os.cpu_count())
    batch, time, features, units = case.shape
    layer = getattr(torch.nn, case.layer.replace("SimpleRNN", "RNN"))(features, units, batch_first=True)
    sequences = torch.randn(batch, time, features, requires_grad=case.backward)

    def forward():
        with torch.no_grad():
            return layer(sequences)[0]

    def backward():
        layer.zero_grad()
        sequences.grad = None
        layer(sequences)[0].square().sum().backward()

    return backward if case.backward else forward


CONTENDERS = [
    Contender("keras_seq graph", functools.partial(build_tensorflow, "keras_seq", False)),
    Contender("keras_seq jit", functools.partial(build_tensorflow, "keras_seq", True)),
    Contender("keras graph", functools.partial(build_tensorflow, "keras", False)),
    Contender("keras jit", functools.partial(build_tensorflow, "keras", True)),
    Contender("keras_seq jax", functools.partial(build_jax, "keras_seq")),
    Contender("keras jax", functools.partial(build_jax, "keras")),
    Contender("torch", build_torch),
]


def table(results, names):
    """Milliseconds (median ± half the interquartile range), a row a case."""
    head = ["layer", "batch, time, features, units", "pass", "recurrent dropout", *names]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for case, times in results:
        cells = [f"{median(times[n]):.1f} ± {100 * spread(times[n]):.0f} %" if n in times else "–" for n in names]
        kind = "forward + backward" if case.backward else "forward"
        shape = ", ".join(map(str, case.shape))
        lines.append("| " + " | ".join([case.layer, shape, kind, str(case.recurrent_dropout), *cells]) + " |")
    return "\n".join(lines)


def ratios(results, ours, theirs):
    """Geometric means over the shapes of (best of theirs) / (best of ours), a line a layer and kind of pass."""
    groups = {}
    for case, times in results:
        mine, peers = ([median(times[n]) for n in names if n in times] for names in (ours, theirs))
        if mine and peers:
            groups.setdefault((case.layer, case.backward, case.recurrent_dropout), []).append(min(peers) / min(mine))
    return {key: float(np.exp(np.mean(np.log(values)))) for key, values in groups.items()}


def processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=8, help="for a case, all contenders together")
    parser.add_argument("--layers", nargs="+", default=["LSTM", "GRU", "SimpleRNN"], help="which layers")
    parser.add_argument("--shapes", type=int, nargs="+", default=range(len(SHAPES)), help="which of the shapes, 0 to 5")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/bench"), help="folder of the results")
    options = parser.parse_args()
    passes = [(False, 0.0), (True, 0.0), (True, 0.3)]
    shapes = [SHAPES[index] for index in options.shapes]
    cases = [Case(layer, shape, *kind) for layer, shape, kind in itertools.product(options.layers, shapes, passes)]
    results = []
    with Progress() as progress:
        for result in progress.track(run_contest(CONTENDERS, cases, options.seconds), total=len(cases)):
            results.append(result)
    names = [c.name for c in CONTENDERS if any(c.name in times for _, times in results)]
    lines = [f"Milliseconds on {processor()}, median ± half the interquartile range.", "", table(results, names), ""]
    ours = ["keras_seq graph", "keras_seq jit"]
    for title, theirs in (
        ("keras.layers (the better of graph and jit)", ["keras graph", "keras jit"]),
        ("torch", ["torch"]),
    ):
        means = ratios(results, ours, theirs)
        if means:
            lines.append(f"\nTimes as fast as {title}, geometric mean over the shapes:\n")
        for (layer, backward, dropout), ratio in means.items():
            kind = "forward + backward" if backward else "forward"
            lines.append(f"- {layer}, {kind}{', recurrent_dropout' if dropout else ''}: {ratio:.2f}")
    text = "\n".join(lines)
    print(text)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "layers.md").write_text(text + "\n")
    rows = [{**case._asdict(), "seconds": times} for case, times in results]
    (options.output / "layers.json").write_text(json.dumps({"machine": processor(), "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

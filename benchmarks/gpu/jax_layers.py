# SPDX-License-Identifier: Apache-2.0
"""Benchmarks recurrent layers on a GPU with JAX: keras_seq, Keras (its LSTM runs on cuDNN) and a plain `jax.lax.scan`.

Needs JAX and Keras, but not TensorFlow; keras_seq is imported from this checkout. Where PyTorch sees the GPU too, its
layers, which run on cuDNN, take part. Prints Markdown.

    python benchmarks/gpu/jax_layers.py
    python benchmarks/gpu/jax_layers.py --layers LSTM --shapes 64,50,512,512 --output lstm.md
    python benchmarks/gpu/jax_layers.py --small
"""

import argparse
import contextlib
import gc
import itertools
import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # the other benchmarks
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))  # keras_seq
os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves memory to PyTorch

import jax
import keras
import numpy as np
from jax import numpy as jnp
from layer_cases import GATES, PASSES, SHAPES, Case

import keras_seq

try:
    import torch
except ImportError:
    torch = None

LAYERS = ("LSTM", "GRU")
REFERENCE = "lax.scan"
WARM_UP = 3  # uncounted runs; the first one compiles
LEGEND = """\
Cells: median of the runs in milliseconds ± half the interquartile range. Contenders took turns, run by run, in one
process; a run ends when its results are computed. xla: the scan of keras_seq; auto: what keras_seq chooses, in
brackets; keras: `keras.layers`, whose LSTM runs on cuDNN on a GPU without recurrent dropout; lax.scan: a hand-written
cell under `jax.lax.scan`, with its input product before the loop, differentiated by JAX; torch: `torch.nn`, on cuDNN,
which has no recurrent dropout. The backward pass computes the gradients of inputs and weights. Difference: the largest
difference of an output from lax.scan, without dropout."""


def draw(case):
    """Returns weights in Keras's layout for all contenders, and sequences."""
    random, (batch, steps, features, units) = np.random.default_rng(0), case.shape
    columns = GATES[case.layer] * units
    shapes = [(features, columns), (units, columns), (2, columns) if case.layer == "GRU" else (columns,)]
    weights = [random.normal(scale=units**-0.5, size=shape).astype("float32") for shape in shapes]
    return [jnp.asarray(weight) for weight in weights], jnp.asarray(random.normal(size=(batch, steps, features)), "f")


def layer_call(library, case, **arguments):
    """Returns a function `(weights, sequences, seeds) -> outputs`, its first seeds, and the layer."""
    make, options = getattr(library.layers, case.layer), {"recurrent_dropout": case.recurrent_dropout, **arguments}
    layer = make(case.shape[3], return_sequences=True, **options)
    layer.build((None, *case.shape[1:3]))

    def call(weights, sequences, seeds):
        return layer.stateless_call(weights, seeds, sequences, training=case.backward)[0]

    return call, [variable.value for variable in layer.non_trainable_variables], layer


def make_auto(case):
    call, seeds, layer = layer_call(keras_seq, case)
    return call, seeds, f" ({layer.choose_implementation().implementation})"


def make_xla(case):
    return *layer_call(keras_seq, case, implementation="xla")[:2], ""


def make_keras(case):
    return *layer_call(keras, case)[:2], ""


def make_scan(case):
    step = {"LSTM": lstm_step, "GRU": gru_step}[case.layer]

    def call(weights, sequences, key):
        kernel, recurrent_kernel, bias = weights
        biases = bias if case.layer == "GRU" else (bias, 0.0)
        initial = jnp.zeros((sequences.shape[0], case.shape[3]))
        keep = 1 - case.recurrent_dropout * case.backward
        mask = jax.random.bernoulli(key, keep, initial.shape) / keep

        def scan_step(state, x):
            state = step(state, x, (state[0] * mask) @ recurrent_kernel + biases[1])
            return state, state[0]

        input_product = jnp.swapaxes(sequences @ kernel + biases[0], 0, 1)
        return jnp.swapaxes(jax.lax.scan(scan_step, (initial,) * 2, input_product)[1], 0, 1)

    return call, jax.random.key(0), ""


def make_torch(case):
    """Returns a function without arguments that runs the layer of PyTorch with these weights, and waits for it."""
    weights, sequences = (
        [torch.from_numpy(np.array(x)).cuda() for x in part] for part in (draw(case)[0], [draw(case)[1]])
    )
    units, kernel, recurrent_kernel, bias = case.shape[3], *weights
    layer = getattr(torch.nn, case.layer)(case.shape[2], units, batch_first=True).cuda()
    biases = bias if case.layer == "GRU" else (bias, torch.zeros_like(bias))
    # Keras orders the gates of a GRU z, r, g; PyTorch r, z, g.
    order = [1, 0, 2] if case.layer == "GRU" else [0, 1, 2, 3]
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), (kernel.T, recurrent_kernel.T, *biases), strict=True):
            gates = value.reshape(len(order), units, -1)[order]
            parameter.copy_(gates.reshape(parameter.shape))
    inputs = sequences[0].requires_grad_(case.backward)

    def run():
        with contextlib.nullcontext() if case.backward else torch.no_grad():
            outputs = layer(inputs)[0]
            if case.backward:
                results = torch.autograd.grad((outputs**2).sum(), [inputs, *layer.parameters()])
            else:
                results = outputs
        torch.cuda.synchronize()
        return results

    return run


def lstm_step(state, x, from_h):
    i, f, g, o = jnp.split(x + from_h, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru_step(state, x, from_h):
    (x_z, x_r, x_g), (h_z, h_r, h_g) = (jnp.split(product, 3, axis=-1) for product in (x, from_h))
    z, r = jax.nn.sigmoid(x_z + h_z), jax.nn.sigmoid(x_r + h_r)
    return z * state[0] + (1 - z) * jnp.tanh(x_g + r * h_g), state[1]


MAKERS = {"xla": make_xla, "auto": make_auto, "keras": make_keras, REFERENCE: make_scan}


def compete(case, runs):
    """Returns `{name: seconds of each run}` and `{name: difference}`; names include what "auto" chose."""
    weights, sequences = draw(case)
    functions = {}
    for name, make in MAKERS.items():
        call, seeds, choice = make(case)
        functions[name + choice] = compiled(call, weights, sequences, seeds, case.backward)
    if torch is not None and torch.cuda.is_available() and not case.recurrent_dropout:
        functions["torch"] = make_torch(case)
    seconds = {name: [] for name in functions}
    for turn in range(WARM_UP + runs):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    if case.backward:
        return seconds, {}
    expected = functions[REFERENCE]()

    def difference(outputs):
        return float(
            np.abs(np.asarray(outputs.cpu() if torch and torch.is_tensor(outputs) else outputs) - expected).max()
        )

    return seconds, {name: difference(function()) for name, function in functions.items()}


def compiled(call, weights, sequences, seeds, backward):
    def loss(*arguments):
        return (call(*arguments) ** 2).sum()

    function = jax.jit(jax.grad(loss, argnums=(0, 1)) if backward else call)
    return lambda: function(weights, sequences, seeds)


def cell(seconds):
    first, middle, third = (1e3 * x for x in statistics.quantiles(seconds, n=4))
    return f"{middle:.3g} ± {(third - first) / 2:.2g}"


def rows(case, seconds, differences):
    """Yields a row for each contender, with the ratio of Keras's median to its own."""
    keras_median = statistics.median(seconds["keras"])
    for name, times in seconds.items():
        ratio = f"{keras_median / statistics.median(times):.2f}"
        difference = f"{differences[name]:.1e}" if name in differences else "–"
        yield [case.layer, str(case.shape), PASSES[case.kind].title, name, cell(times), ratio, difference]


def report(cases, runs):
    """Yields the lines of the report as they are measured."""
    device = jax.devices()[0]
    precision = jax.config.jax_default_matmul_precision or "default"
    yield f"{device.device_kind} ({device.platform}); JAX {jax.__version__}, Keras {keras.__version__}."
    yield f"float32, matrix products with {precision} precision; {runs} runs each.\n"
    yield LEGEND + "\n"
    head = ["layer", "batch, time, features, units", "pass", "contender", "ms", "times as fast as keras", "difference"]
    for row in (head, ["---"] * len(head)):
        yield "| " + " | ".join(row) + " |"
    for case in cases:
        for row in rows(case, *compete(case, runs)):
            yield "| " + " | ".join(row) + " |"
        gc.collect()  # frees the memory of the case on the device


def parse_shape(text):
    shape = tuple(map(int, text.split(",")))
    if len(shape) != 4:
        raise ValueError
    return shape


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--layers", nargs="+", choices=LAYERS, default=LAYERS, help="layers to run")
    add("--shapes", nargs="+", type=parse_shape, default=SHAPES, metavar="B,T,I,H", help="batch,time,features,units")
    add("--passes", nargs="+", choices=PASSES, default=list(PASSES), help="training: forward + backward")
    add("--runs", type=int, default=30, help="counted runs of each contender (default: %(default)s)")
    add("--precision", choices=["highest", "high", "default"], help="of matrix products (default: that of JAX)")
    add("--small", action="store_true", help="tiny shapes and two runs, for a test")
    add("--output", type=pathlib.Path, help="file for the report, which is also printed")
    return parser.parse_args()


def main():
    options = parse_options()
    if options.precision:
        jax.config.update("jax_default_matmul_precision", options.precision)
        if torch is not None:
            torch.backends.cudnn.allow_tf32 = options.precision != "highest"
    cases = [Case(*each) for each in itertools.product(options.layers, options.shapes, options.passes)]
    if options.small:
        cases = list(dict.fromkeys(case.tiny for case in cases))
    lines = []
    for line in report(cases, 2 if options.small else options.runs):
        print(line, flush=True)
        lines.append(line)
        if options.output:
            options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Benchmarks recurrent layers on a GPU with JAX: keras_seq, Keras (its LSTM runs on cuDNN) and a plain `jax.lax.scan`.

Needs JAX and Keras, but not TensorFlow; keras_seq is imported from this checkout. Where PyTorch sees the GPU too, its
layers, which run on cuDNN, take part. Writes its pages as the other benchmarks do.

    python benchmarks/gpu/jax_layers.py --quick
    python benchmarks/gpu/jax_layers.py --publish
    python benchmarks/gpu/jax_layers.py --publish --precision highest
    python benchmarks/gpu/jax_layers.py --layers LSTM --shapes 64,50,512,512 --output FOLDER
"""

import argparse
import contextlib
import functools
import gc
import itertools
import os
import pathlib
import random
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
import pages
import processor
import report
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
QUICK = {"layers": ["LSTM"], "shapes": SHAPES[:2], "runs": 10}
LEGEND = (
    "Cells: median of the runs ± half the interquartile range. Contenders took turns, run by run and in a random order "
    "each time, in one process; a run ends when its results are computed. keras_seq: what it chooses, in brackets, and "
    "its scan (xla); keras: `keras.layers`, whose LSTM runs on cuDNN on a GPU without recurrent dropout; lax.scan: a "
    "hand-written cell under `jax.lax.scan`, with its input product before the loop, differentiated by JAX; torch: "
    "`torch.nn`, on cuDNN, which has no recurrent dropout. The backward pass computes the gradients of inputs and "
    "weights."
)


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


def make_keras_seq(implementation, case):
    call, seeds, layer = layer_call(keras_seq, case, implementation=implementation)
    return call, seeds, f" ({layer.choose_implementation().implementation})"


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


MAKERS = [  # in the order of the tables; "auto" may choose xla, which then runs once
    ("keras_seq", functools.partial(make_keras_seq, "auto")),
    ("keras_seq", functools.partial(make_keras_seq, "xla")),
    ("keras", make_keras),
    (REFERENCE, make_scan),
]


def compete(case, runs):
    """Returns `{name: seconds of each run}` and `{name: difference}`; the names of keras_seq say what it chose."""
    weights, sequences = draw(case)
    functions = {}
    for name, make in MAKERS:
        call, seeds, choice = make(case)
        functions.setdefault(name + choice, compiled(call, weights, sequences, seeds, case.backward))
    if torch is not None and torch.cuda.is_available() and not case.recurrent_dropout:
        functions["torch"] = make_torch(case)
    seconds = {name: [] for name in functions}
    order, shuffle = list(functions), random.Random(0).shuffle
    for turn in range(WARM_UP + runs):
        shuffle(order)  # in a fixed order, the same code was 8 % slower right after PyTorch
        for name in order:
            start = time.perf_counter()
            jax.block_until_ready(functions[name]())
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    if case.backward:
        return seconds, {}
    expected = np.asarray(functions[REFERENCE]())

    def difference(outputs):
        outputs = outputs.cpu() if torch and torch.is_tensor(outputs) else outputs
        return float(np.abs(np.asarray(outputs) - expected).max())

    return seconds, {name: difference(function()) for name, function in functions.items() if name != REFERENCE}


def compiled(call, weights, sequences, seeds, backward):
    def loss(*arguments):
        return (call(*arguments) ** 2).sum()

    function = jax.jit(jax.grad(loss, argnums=(0, 1)) if backward else call)
    return lambda: function(weights, sequences, seeds)


def cell(seconds):
    first, middle, third = (1e3 * x for x in statistics.quantiles(seconds, n=4))
    return f"{middle:.3g} ±{(third - first) / 2 / middle:.0%}"


def make_report(results, runs):
    """Returns the report of `results`, a list of `(case, seconds of each contender, differences)`."""
    device = jax.devices()[0]
    machine = processor.machine_name() if device.platform == "cpu" else device.device_kind
    precision = jax.config.jax_default_matmul_precision or "default"
    versions = [f"JAX {jax.__version__}", f"Keras {keras.__version__}"]
    versions += [f"PyTorch {torch.__version__}"] if torch else []
    how = f"float32, matrix products with {precision} precision; {runs} runs of each contender."
    heading = [f"{', '.join(versions)}; {how}", LEGEND]
    tables = [ratio_table(results), *difference_tables(results), *times_tables(results)]
    rows = [{**case._asdict(), "seconds": seconds, "differences": by} for case, seconds, by in results]
    title = f"Layers with JAX, products with {precision} precision"
    return report.Report(title, machine, heading, tables, [], {"heading": heading, "results": rows})


def ratio_table(results):
    """Returns how many times as fast as each peer keras_seq is: the geometric mean over shapes, and the worst."""
    kinds = list(dict.fromkeys(case.kind for case, *_ in results))
    ratios = {}
    for case, seconds, _ in results:
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        ours = next(iter(medians))
        for peer in (name for name in medians if not name.startswith("keras_seq")):
            of_kind = ratios.setdefault((case.layer, peer), {}).setdefault(case.kind, [])
            of_kind.append(medians[peer] / medians[ours])
    rows = [
        [f"{layer}, against {peer}", *(ratio_cell(of_peer.get(kind, [])) for kind in kinds)]
        for (layer, peer), of_peer in ratios.items()
    ]
    note = "How many times as fast keras_seq is: the geometric mean over the shapes, and the worst shape in brackets."
    return report.Table("keras_seq against its peers", ["", *(PASSES[kind].title for kind in kinds)], rows, note)


def ratio_cell(ratios):
    return f"{statistics.geometric_mean(ratios):.2f} ({min(ratios):.2f})" if ratios else "–"


def difference_tables(results):
    largest = {}
    for case, _, differences in results:
        for name, difference in differences.items():
            by_layer = largest.setdefault(name, {})
            by_layer[case.layer] = max(difference, by_layer.get(case.layer, 0.0))
    if not largest:
        return []
    layers = list(dict.fromkeys(case.layer for case, *_ in results))
    rows = [[name, *(f"{by[layer]:.1e}" if layer in by else "–" for layer in layers)] for name, by in largest.items()]
    note = f"The largest difference of an output from {REFERENCE}, over all shapes."
    return [report.Table("Differences", ["", *layers], rows, note)]


def times_tables(results):
    groups = {}
    for case, seconds, _ in results:
        groups.setdefault((case.layer, case.kind), []).append((case, seconds))
    tables = []
    for (layer, kind), group in groups.items():
        names = list(dict.fromkeys(name for _, seconds in group for name in seconds))
        rows = [
            [", ".join(map(str, case.shape)), *(cell(seconds[name]) if name in seconds else "–" for name in names)]
            for case, seconds in group
        ]
        head = ["batch, time, features, units", *names]
        tables.append(report.Table(f"{layer}, {PASSES[kind].title}", head, rows, "Milliseconds."))
    return tables


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
    add("--small", action="store_true", help="tiny shapes, for a test")
    pages.add_options(parser)
    return pages.parse(parser, QUICK)


def main():
    options, output = parse_options()
    if options.precision:
        jax.config.update("jax_default_matmul_precision", options.precision)
        if torch is not None:
            torch.backends.cudnn.allow_tf32 = options.precision != "highest"
    cases = [Case(*each) for each in itertools.product(options.layers, options.shapes, options.passes)]
    if options.small:
        cases = list(dict.fromkeys(case.tiny for case in cases))
    name = "jax_layers_highest" if options.precision == "highest" else "jax_layers"
    results, start = [], time.monotonic()
    for case in cases:
        results.append((case, *compete(case, options.runs)))
        seconds = results[-1][1]
        print(f"{case}, ms: {', '.join(f'{name} {cell(times)}' for name, times in seconds.items())}", flush=True)
        output.write(make_report(results, options.runs), name, time.monotonic() - start)
        gc.collect()  # frees the memory of the case on the device
    output.finish(make_report(results, options.runs), name, time.monotonic() - start)
    print(f"Written to {output.folder}/{name}.md")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Benchmarks recurrent layers of keras_seq and its peers: time, share of the FMA peak, memory of a training step.

Prints tables, and writes them as Markdown and JSON. Leaves out what is not installed: pip install '.[bench]'.

    python benchmarks/layers.py --quick
    python benchmarks/layers.py --publish
    python benchmarks/layers.py --times --layers LSTM --shapes 1 32,25,128,128 --contenders native torch
    python benchmarks/layers.py --times --dtype bfloat16
    python benchmarks/layers.py --times --isa avx2 --contenders native torch
    python benchmarks/layers.py --memory
"""

import argparse
import functools
import itertools

import driver
import instruction_sets
import layer_report
import pages
import report
from layer_cases import GATES, PASSES, SHAPES, Case
from layer_contenders import CONTENDERS, LEGEND, MEMORY, VARIANTS

BFLOAT16 = ("native", "native+bfloat16")
DEFAULT = ["native", "native-jit", "keras", "keras-jit", "torch", "onnxruntime", *(v.name for v in VARIANTS)]
QUICK = {
    "layers": ["LSTM"],
    "shapes": [SHAPES[0], SHAPES[3]],
    "passes": ["forward", "training"],
    "contenders": ["native", "keras", "keras-jit", "torch", "onnxruntime"],
    "seconds": 1,
    "times": True,
}
NAMES = [contender.name for contender in CONTENDERS]


def parse_shape(text):
    """Parses an index of SHAPES, or batch,time,features,units."""
    numbers = tuple(map(int, text.split(",")))
    if len(numbers) not in (1, 4):
        raise ValueError
    return numbers if len(numbers) == 4 else SHAPES[numbers[0]]


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    listed = " ".join(f"{index}={shape}".replace(" ", "") for index, shape in enumerate(SHAPES))
    add("--layers", nargs="+", choices=GATES, default=list(GATES), help="layers to run")
    shape = {"type": parse_shape, "metavar": "B,T,I,H"}
    add("--shapes", nargs="+", default=SHAPES, help=f"batch,time,features,units, or indices: {listed}", **shape)
    add("--passes", nargs="+", choices=PASSES, default=list(PASSES), help="training: forward + backward")
    add("--contenders", nargs="+", choices=NAMES, default=DEFAULT, metavar="NAME", help=", ".join(NAMES))
    add("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32"], help="bfloat16: native, forward")
    add("--seconds", type=float, default=4, help="time for a case, all contenders together (default: %(default)s)")
    add("--ours", choices=NAMES, default="native", metavar="NAME", help="contender to compare with the peers")
    add("--times", action="store_true", help="measure only times")
    add("--memory", action="store_true", help="measure only memory")
    add("--memory-shape", default=SHAPES[2], help="shape for the memory (default: %(default)s)", **shape)
    add("--memory-layers", nargs="+", choices=GATES, default=["LSTM"], help="layers for the memory")
    help = "limit all contenders to a lesser instruction set, and time them only; a page of its own"
    add("--isa", choices=instruction_sets.LIMITS, help=help)
    pages.add_options(parser)
    options, output = pages.parse(parser, QUICK)
    if options.isa and options.memory:
        parser.error("--isa: memory does not depend on the instruction set")
    if options.isa and not instruction_sets.can_limit():
        parser.error("--isa needs an x86-64 processor")
    return options, output


def choose_times(options):
    """Returns the contenders and the cases that the options select."""
    names = set(options.contenders) if "float32" in options.dtype else set()
    names.update(BFLOAT16 if "bfloat16" in options.dtype else ())
    names.difference_update(instruction_sets.LIMITS[options.isa].unlimited if options.isa else ())
    contenders = [contender for contender in CONTENDERS if contender.name in names]
    passes = options.passes if "float32" in options.dtype else ["forward"]
    cases = (Case(*each) for each in itertools.product(options.layers, options.shapes, passes))
    return contenders, [case for case in cases if any(contender.suits(case) for contender in contenders)]


def report_times(options, results):
    ratios = layer_report.ratio_tables(results, options.ours)
    tables = [*ratios, *layer_report.worst_table(results, options.ours)]
    tables += layer_report.times_tables(results, options.ours)
    data = layer_report.as_data(results, options.ours)
    if not options.isa:
        return report.of_contest("Layers", [LEGEND], tables, results, len(ratios), data)
    limit = instruction_sets.LIMITS[options.isa]
    explanation = [instruction_sets.describe(options.isa), LEGEND]
    measured = report.of_contest(f"Layers, {limit.title}", explanation, tables, results, len(ratios), data)
    return measured._replace(notes=[*measured.notes, *report.notes(limit.unlimited.items())])


def choose_memory(options):
    """Returns a list of `(name, maker, case)`."""
    makers = [row for row in MEMORY if row[0].removesuffix("+recompute") in options.contenders]
    return [
        (name, make, Case(layer, options.memory_shape, kind))
        for layer, (name, make, kind) in itertools.product(options.memory_layers, makers)
    ]


def report_memory(options, rows, left_out):
    tables = [layer_report.memory_table(rows, options.memory_shape)] if rows else []
    explanation = ["Memory above that of the process before the step, with all gradients.", LEGEND]
    return report.of_measurements("Memory of layers", explanation, tables, report.memory_data(rows), left_out)


def main():
    options, output = parse_options()
    console = driver.open_console(output.folder / "layers.log")
    if options.isa:
        instruction_sets.limit(options.isa)  # before the contenders start
        options.times = True
    everything = options.times == options.memory
    if everything or options.times:
        make_report = functools.partial(report_times, options)
        name = f"layers_{options.isa}" if options.isa else "layers"
        driver.report_times(console, *choose_times(options), options.seconds, make_report, output, name)
    if everything or options.memory:
        make_report = functools.partial(report_memory, options)
        driver.report_memory(console, choose_memory(options), make_report, output, "layers_memory")
    console.print(f"Written to {output.folder}/")


if __name__ == "__main__":
    main()

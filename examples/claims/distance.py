# SPDX-License-Identifier: Apache-2.0
"""Measures how far back recurrent cells learn to look, how gradients shrink or grow on the way, and what clipping does.

The tasks are made up, in tasks.py: the copy task and the adding task. See README.md in this folder.
"""

import argparse
import functools
import json

from command_line import filled_at_once, output_folder

import numpy as np
from gradients import TRAININGS, draw_gradients, long_lstm, measure_explosions, measure_flows, orthogonal, vanilla
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from tasks import STEPS, TASKS, largest_distance

from keras_seq import layers

DISTANCES = [10, 20, 40, 80, 160]
RATES = [2e-3, 1e-2]  # of Adam; each cell and task has the one with which seed 0 gets farthest
CLIPNORM = 1.0
LEAST = 5  # where a picture has "none"


CELLS = {  # with the norm to which the gradient is clipped
    "SimpleRNN": (vanilla, None),
    "SimpleRNN, clipped": (vanilla, CLIPNORM),
    "SimpleRNN, orthogonal, clipped": (orthogonal, CLIPNORM),
    "GRU": (functools.partial(layers.GRU, return_sequences=True), None),
    "LSTM": (functools.partial(layers.LSTM, return_sequences=True), None),
    "LSTM, forget bias 4": (long_lstm, None),
}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])

    def add(name, text, default, kind=int):
        parser.add_argument(name, help=f"{text} (default: %(default)s)", default=default, type=kind)

    add("--units", "size of the state", 32)
    add("--passes", f"most passes of {STEPS} steps for a cell to learn a distance", 10)
    add("--longest", f"largest distance to learn, of {', '.join(map(str, DISTANCES))}", DISTANCES[-1])
    add("--seeds", "number of trainings of each cell", 3)
    add("--steps", "steps of stochastic gradient descent with and without clipping", 200)
    add("--output", "folder for the results", "runs/claims/distance", output_folder)
    options = parser.parse_args(arguments)
    for name, least in {"units": 1, "passes": 1, "longest": DISTANCES[0], "seeds": 1, "steps": 1}.items():
        if getattr(options, name) < least:
            parser.error(f"--{name} must be an integer of at least {least}, got {getattr(options, name)}")
    return options


def measure_distances(options):
    """Returns the learning rate and the largest distance learned of each seed, by task and cell."""
    distances, results = [distance for distance in DISTANCES if distance <= options.longest], {}
    for task_name, task in TASKS.items():
        for name, (make_layer, clipnorm) in CELLS.items():
            make = functools.partial(make_layer, options.units)
            learn = functools.partial(largest_distance, task, distances, make, clipnorm=clipnorm, passes=options.passes)
            trials = {rate: learn(rate) for rate in RATES}
            rate = max(trials, key=trials.get)
            learned = [trials[rate], *(learn(rate, seed=seed) for seed in range(1, options.seeds))]
            results.setdefault(task_name, {})[name] = {"learning_rate": rate, "trials": trials, "learned": learned}
    return results


def draw_distances(results, path):
    """Draws the largest distance that each cell learned: the median as a diamond, each seed as a dot."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, (task, row) in zip(panels, results.items(), strict=True):
        for place, result in enumerate(row.values()):
            learned = np.maximum(result["learned"], LEAST)
            axes.plot(learned, place + np.linspace(-0.2, 0.2, len(learned)), "o", color="#D55E00", markersize=5)
            axes.plot(np.median(learned), place, "D", color="#0072B2", markersize=8, alpha=0.8)
        axes.set(xscale="log", xlim=(0.9 * LEAST, 1.2 * DISTANCES[-1]))
        axes.set_xlabel("largest distance learned, steps\n(diamond: median; dots: seeds)")
        axes.grid(axis="y", color="0.9")
        axes.set_xticks([LEAST, *DISTANCES], ["none", *map(str, DISTANCES)])
        axes.minorticks_off()
        axes.set_yticks(range(len(row)), row)
        axes.set_title(f"{task} task", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    figure.savefig(path, dpi=120)


def print_tables(results):
    console, names = Console(), list(results["distances"])
    table = Table("cell", *(f"{name}, steps" for name in names), *(f"rate, {name}" for name in names))
    table.title = "largest distance learned, of each seed"
    for cell in CELLS:
        rows = [results["distances"][name][cell] for name in names]
        learned = [", ".join(map(str, row["learned"])) for row in rows]
        table.add_row(cell, *learned, *(str(row["learning_rate"]) for row in rows))
    console.print(table)
    table = Table(
        "cell", "gradient norm 100 steps back", "a step", title="at initialization, relative to the last step"
    )
    for cell, norms in results["flows"].items():
        table.add_row(cell, f"{norms[0]:.1e}", f"× {norms[0] ** (1 / (len(norms) - 1)):.3f}")
    console.print(table)
    table = Table(
        "gain", title=f"trainings of {TRAININGS} that exploded; median growth of the recurrent kernel; median loss"
    )
    for label in results["explosions"]:
        table.add_column(label)
    for gain in results["explosions"]["clipped"]:
        rows = [row[gain] for row in results["explosions"].values()]
        table.add_row(str(gain), *(f"{row['exploded']}; × {row['growth']:.2g}; {row['loss']:.2f}" for row in rows))
    console.print(table)


def main(arguments=None):
    options = parse_arguments(arguments)
    results = {
        "flows": measure_flows(options.units),
        "explosions": measure_explosions(options.units, options.steps),
        "distances": measure_distances(options),
    }
    adding = results["distances"]["adding"]
    medians = {cell: int(np.median(row["learned"])) for cell, row in adding.items()}
    results["result"] = "largest distance learned in the adding task: " + ", ".join(
        f"{cell} {medians[cell]}" for cell in ("SimpleRNN", "SimpleRNN, clipped", "GRU", "LSTM")
    )
    with filled_at_once(options.output) as folder:
        draw_distances(results["distances"], folder / "distance.png")
        draw_gradients(results["flows"], results["explosions"], folder / "gradients.png")
        (folder / "metrics.json").write_text(json.dumps(results, indent=2) + "\n")
    print_tables(results)
    return results


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Gradients of untrained recurrent layers by distance, and trainings that explode with and without clipping."""

import functools

import keras
import numpy as np
from matplotlib.figure import Figure
from tasks import BATCH, TASKS

from keras_seq import layers
from keras_seq.diagnostics import gradient_flow

GAINS = [1.0, 1.5, 2.0, 3.0]  # of orthogonal recurrent kernels
TRAININGS = 5  # for each gain


def vanilla(units, recurrent_initializer="glorot_uniform", **options):
    return layers.SimpleRNN(units, recurrent_initializer=recurrent_initializer, return_sequences=True, **options)


def orthogonal(units, gain=1.0, **options):
    return vanilla(units, keras.initializers.Orthogonal(gain), **options)


def forget_bias(shape, dtype=None):
    """Returns biases of an LSTM whose forget gate starts at sigmoid(4) = 0.98, where Keras's starts at 0.73."""
    return keras.ops.cast(np.repeat([0, 4, 0, 0], shape[0] // 4), dtype)


def long_lstm(units, **options):
    biases = {"unit_forget_bias": False, "bias_initializer": forget_bias}
    return layers.LSTM(units, return_sequences=True, **biases, **options)


FLOWS = {
    **{f"SimpleRNN, gain {gain}": functools.partial(orthogonal, gain=gain) for gain in (0.7, 1.0, 1.5, 3.0)},
    "SimpleRNN, Glorot": vanilla,
    "GRU": functools.partial(layers.GRU, return_sequences=True),
    "LSTM": functools.partial(layers.LSTM, return_sequences=True),
    "LSTM, forget bias 4": long_lstm,
}


def measure_flows(units, distance=100, seeds=5):
    """Returns the gradient norm of h by step, relative to the last step: the geometric mean of seeds."""
    results = {}
    for name, make_layer in FLOWS.items():
        logs = []
        for seed in range(seeds):
            keras.utils.set_random_seed(seed)
            model = TASKS["adding"].build_model(make_layer(units), "sgd")
            (norms,) = gradient_flow(model, TASKS["adding"].draw(distance + 1, 128, seed)).values()
            logs.append(np.log(norms / norms[-1]))
        results[name] = np.exp(np.mean(logs, axis=0)).tolist()
    return results


def train_by_descent(task, distance, units, gain, clipnorm, steps, seed):
    """Returns the loss after training by stochastic gradient descent, and the growth of the recurrent kernel's norm."""
    keras.utils.set_random_seed(seed)
    layer = orthogonal(units, gain)
    model = task.build_model(layer, keras.optimizers.SGD(0.1, global_clipnorm=clipnorm))
    before = np.linalg.norm(layer.cell.recurrent_kernel)
    losses = model.fit(*task.draw(distance, BATCH * steps, seed), batch_size=BATCH, verbose=0).history["loss"]
    return losses[-1], float(np.linalg.norm(layer.cell.recurrent_kernel) / before)


def measure_explosions(units, steps, distance=50):
    """Returns how many trainings explode, by whether gradients are clipped and by gain.

    One explodes where the recurrent kernel is not finite at the end, or its norm ten times that at the start. The loss
    does not show it: tanh is bounded, so that a huge kernel only saturates it.
    """
    results = {}
    for label, clipnorm in (("not clipped", None), ("clipped", 1.0)):
        for gain in GAINS:
            arguments = TASKS["copy"], distance, units, gain, clipnorm, steps
            losses, growths = zip(*(train_by_descent(*arguments, seed) for seed in range(TRAININGS)), strict=True)
            results.setdefault(label, {})[gain] = {
                "exploded": sum(not growth < 10 for growth in growths),  # also NaN
                "growth": float(np.median(growths)),
                "loss": float(np.median(losses)),
            }
    return results


def draw_gradients(flows, explosions, path):
    """Draws the gradient norms against the distance, and the growth of the recurrent kernel in training by its gain."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colors = ["#E69F00", "#D55E00", "#CC79A7", "#999999", "#56B4E9", "#009E73", "#0072B2", "#000000"]  # Okabe and Ito
    for i, (name, norms) in enumerate(flows.items()):
        left.plot(norms[::-1], color=colors[i], linestyle=("-", "--", ":", "-.")[i % 4], linewidth=2, label=name)
    left.set(yscale="log", xlabel="steps back from the loss", ylabel="gradient norm, relative to the last step")
    left.set_title("at initialization", fontsize=11)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=9)
    for (label, row), style in zip(explosions.items(), ("o-", "s--"), strict=True):
        growths = [cell["growth"] for cell in row.values()]
        right.plot(range(len(row)), growths, style, color="#D55E00" if style == "o-" else "#0072B2", label=label)
    right.set_xticks(range(len(row)), row)
    right.set(yscale="log", ylim=(0.1, None), xlabel="gain of the recurrent kernel")
    right.set_ylabel("median growth of the recurrent kernel's norm")
    right.set_title(f"gradient descent, {TRAININGS} seeds", fontsize=11)
    right.legend(loc="upper left", fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)

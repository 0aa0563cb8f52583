# SPDX-License-Identifier: Apache-2.0
"""Pictures of attention, training and gradients. They need matplotlib: pip install 'keras_seq[plots]'."""

import math
import os
import pathlib
import textwrap

import numpy as np

from keras_seq.data.vocabulary import END, START

_CELL = 0.27  # inches a token, in both directions
_MARGIN = 0.8  # inches a panel for title and labels
_WIDEST = 16.0  # inches that a row of attention panels may fill before there are fewer in a row
_LINE_STYLES = ("-", "--", ":", "-.")  # after each ten colours the next
_PERCENTAGES = ("per", "wer", "error_rate")


def plot_attention(weights, sources, targets, path=None):
    """Draws where the decoder looked: a heat map of source against target tokens for each sequence.

    Args:
        weights: attention weights from 0 to 1: an array (batch, time, source), as in the dict of `Seq2Seq.generate`,
            or a list of arrays (time, source), one a sequence.
        sources: for each sequence the list of its source tokens. Weights beyond its length are not drawn.
        targets: for each sequence the list of its target tokens, likewise. The panel of an empty one is blank.
        path: where to save the picture, in the format of its suffix; PNG where it has none.

    Returns:
        A `matplotlib.figure.Figure`. Its axes are the panels, in the order of the sequences, then the colour bar.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the three differ in number or are empty, or a sequence has more tokens than weights.

    Example:
        >>> figure = plot_attention([np.eye(3)], [list("cat")], [["K", "AE", "T"]])
        >>> figure.axes[0].get_title()
        'cat'
    """
    figure = _new_figure()
    panels = _attention_panels(weights, sources, targets)
    longest = max(panel.shape[1] for panel in panels)
    columns = max(1, min(math.ceil(math.sqrt(len(panels))), int(_WIDEST / (_CELL * longest + _MARGIN))))
    rows = math.ceil(len(panels) / columns)
    # Every panel of a column spans as many tokens as the longest, and likewise in a row, so that all cells are alike.
    widths = [max(panel.shape[1] for panel in panels[column::columns]) for column in range(columns)]
    heights = [max(panel.shape[0] for panel in panels[row * columns : (row + 1) * columns]) for row in range(rows)]
    figure.set_size_inches(_CELL * sum(widths) + _MARGIN * (columns + 1), _CELL * sum(heights) + _MARGIN * rows)
    figure.get_layout_engine().set(h_pad=0.1, w_pad=0.1)
    grid = figure.add_gridspec(rows, columns, width_ratios=widths, height_ratios=heights)
    for i, (panel, source, target) in enumerate(zip(panels, sources, targets, strict=True)):
        row, column = divmod(i, columns)
        axes = figure.add_subplot(grid[row, column], anchor="NW")
        image = axes.imshow(panel, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xlim=(-0.5, widths[column] - 0.5), ylim=(heights[row] - 0.5, -0.5))
        _label_with_tokens(axes, list(source), list(target))
    bar = figure.colorbar(image, ax=figure.axes, label="attention weight", panchor=False, fraction=0.05, aspect=30)
    bar.outline.set_visible(False)
    return _saved(figure, path)


def _attention_panels(weights, sources, targets):
    """The weights of each sequence, cropped to its tokens: a list of (target, source) arrays."""
    if not len(weights) == len(sources) == len(targets) > 0:
        raise ValueError(
            "`weights`, `sources` and `targets` must be equally many, at least one. "
            f"Received: {len(weights)}, {len(sources)} and {len(targets)}"
        )
    panels = []
    for i, (panel, source, target) in enumerate(zip(weights, sources, targets, strict=True)):
        panel, shape = np.asarray(panel, "float32"), (len(target), len(source))
        if panel.ndim != 2 or panel.shape[0] < shape[0] or panel.shape[1] < shape[1]:
            raise ValueError(
                f"`weights[{i}]` must be of shape (time, source) and have a weight for each of the {shape[0]} tokens "
                f"of `targets[{i}]` and the {shape[1]} of `sources[{i}]`. Received: shape {panel.shape}"
            )
        panel = panel[: shape[0], : shape[1]]
        panels.append(panel if panel.size else np.full(np.maximum(shape, 1), np.nan))
    return panels


def _label_with_tokens(axes, source, target):
    from matplotlib.patches import Rectangle

    plain = {"parse_math": False, "fontsize": 9}  # a dollar sign is a token like any other
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(range(len(source)), source, **plain)
    axes.set_yticks(range(len(target)), target, **plain)
    for label, token in zip(axes.get_xticklabels(), source, strict=True):
        label.set_rotation(90 if len(token) > 2 else 0)
    axes.spines[:].set_visible(False)
    axes.add_patch(Rectangle((-0.5, -0.5), len(source), len(target), fill=False, edgecolor="0.7", clip_on=False))
    words = [token for token in source if token not in (START, END)]
    title = ("" if all(len(word) == 1 for word in words) else " ").join(words)
    title = textwrap.fill(title, int(2.5 * len(source)) + 5)  # about as wide as the panel
    axes.set_title(title, x=0, ha="left", parse_math=False, fontsize=11, fontweight="bold")


def plot_history(history, path=None):
    """Draws the curves of a training: a panel a metric, loss first, with the lines of training and validation.

    A metric with fewer values than there were epochs is taken to be of every second, third, ... epoch, as
    `validation_freq` makes it, or, where no such number fits, of the first epochs. NaN or None for an epoch without
    a value says it exactly. Metrics named `per`, `wer` or `..._error_rate` are taken to be in percent.

    Args:
        history: what `fit` returns, or its dict: from the names of metrics to their values, one an epoch, those of
            validation with `val_` before the name.
        path: where to save the picture, in the format of its suffix; PNG where it has none.

    Returns:
        A `matplotlib.figure.Figure` with an axes for each panel.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if `history` is neither, or holds no value.

    Example:
        >>> figure = plot_history({"wer": [80.0, 60.0], "loss": [3.0, 1.5], "val_loss": [3.2, 1.8]})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'WER (%)']
    """
    figure = _new_figure()
    curves, epochs = _curves(history)
    names = sorted(dict.fromkeys(name.removeprefix("val_") for name in curves), key=lambda name: name != "loss")
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure.set_size_inches(4.2 * columns, 3.2 * rows)
    for i, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, i + 1)
        for key, label, color in ((name, "training", "tab:blue"), (f"val_{name}", "validation", "tab:orange")):
            if key in curves:
                axes.plot(*curves[key], label=label, color=color, marker="." if len(epochs) <= 60 else "")
        _label_with_steps(axes, "epoch", epochs)
        axes.set_ylabel(_metric_label(name))
        axes.legend(frameon=False)
    return _saved(figure, path)


def _curves(history):
    """From the name of each metric to its epochs and values; and all epochs, counted from 1."""
    values = getattr(history, "history", history)
    series = {name: np.ravel(np.asarray(v, float)) for name, v in values.items()} if isinstance(values, dict) else {}
    length = max(map(len, series.values()), default=0)
    if length == 0:
        raise ValueError(
            "`history` must be a Keras `History` or its dict, with at least one value of one metric. "
            f"Received: {values!r}"
        )
    epochs = np.arange(1, length + 1)
    if len(getattr(history, "epoch", ())) == length:  # not from 1 in a training that was resumed
        epochs = np.asarray(history.epoch) + 1
    curves = {}
    for name, own_values in series.items():
        if len(own_values) > 0:
            regular = epochs[epochs % (length // len(own_values)) == 0]
            own_epochs = regular if len(regular) == len(own_values) else epochs[: len(own_values)]
            curves[name] = own_epochs, own_values
    return curves, epochs


def _label_with_steps(axes, label, steps):
    from matplotlib.ticker import MaxNLocator

    margin = max(0.4, 0.03 * len(steps))
    axes.set_xlim(max(steps[0] - margin, 0.5), steps[-1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.set_xlabel(label)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _metric_label(name):
    words = name.lower().split("_")
    if not f"_{name.lower()}".endswith(tuple(f"_{ending}" for ending in _PERCENTAGES)):
        return name.replace("_", " ")
    return " ".join(word.upper() if word in _PERCENTAGES else word for word in words) + " (%)"


def plot_gradient_flow(flows, path=None):
    """Draws how gradients flow back through time: a line a layer over the time steps, on a logarithmic scale.

    A straight line that falls to the left is a gradient that vanishes exponentially, one that rises to the left a
    gradient that explodes. A value of 0, as of padding, leaves a gap, and likewise one that is not finite.

    Args:
        flows: what `keras_seq.diagnostics.gradient_flow` returns: a dict from names to norms, an array (time,). Those
            of several models can be in one dict. Or a dict from titles to such dicts: a panel each, on one scale.
        path: where to save the picture, in the format of its suffix; PNG where it has none.

    Returns:
        A `matplotlib.figure.Figure` with an axes for each panel.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if `flows` is neither, or holds no value.

    Example:
        >>> figure = plot_gradient_flow({"vanishing": 0.5 ** np.arange(10.0)[::-1], "exploding": 2 ** np.arange(10.0)})
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['vanishing', 'exploding']
    """
    figure = _new_figure()
    panels = _checked_flows(flows)
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))  # alike in all panels
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure.set_size_inches(4.6 * columns, 3.4 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.remove()
    for i, (axes, (title, panel)) in enumerate(zip(grid, panels.items(), strict=False)):
        for name, norms in panel.items():
            number = names.index(name)
            norms = np.where((norms > 0) & np.isfinite(norms), norms, np.nan)
            style = {"color": f"C{number % 10}", "linestyle": _LINE_STYLES[number // 10 % len(_LINE_STYLES)]}
            alone = "." if len(norms) == 1 else ""  # a single point is no line
            axes.plot(np.arange(1, len(norms) + 1), norms, label=name, marker=alone, **style)
        axes.set_yscale("log")
        _label_with_steps(axes, "time step", np.arange(1, max(map(len, panel.values())) + 1))
        axes.set_title(title, parse_math=False)
        if i % columns == 0:
            axes.set_ylabel(r"$\|\partial L\,/\,\partial h_t\|$")
        axes.legend(frameon=False)
    return _saved(figure, path)


def _checked_flows(flows):
    """From titles to flows, from names to arrays."""
    if isinstance(flows, dict) and flows:
        panels = flows if all(isinstance(flow, dict) for flow in flows.values()) else {"": flows}
        panels = {
            title: {name: np.asarray(norms, float) for name, norms in panel.items()} for title, panel in panels.items()
        }
        if all(panel and all(n.ndim == 1 and n.size for n in panel.values()) for panel in panels.values()):
            return panels
    raise ValueError(
        "`flows` must be a dict from names to arrays (time,), as `gradient_flow` returns it, or a dict from titles to "
        f"such dicts. Received: {flows!r}"
    )


def _new_figure():
    """An empty figure that lays itself out, outside pyplot's global state: it needs no display and no closing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("keras_seq.plots needs matplotlib: pip install 'keras_seq[plots]'") from error
    return Figure(layout="constrained")


def _saved(figure, path):
    """The figure, after it was written, where there is a `path`, to a file that appears whole or not at all."""
    if path is not None:
        path = pathlib.Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            figure.savefig(temporary, format=path.suffix[1:] or "png", dpi=150)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return figure

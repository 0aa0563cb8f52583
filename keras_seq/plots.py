# SPDX-License-Identifier: Apache-2.0
"""Plots of attention weights, training curves, gradients and forecasts. They need matplotlib.

Install it with `pip install 'keras_seq[plots]'`.
"""

import math
import os
import pathlib
import textwrap
import types

import numpy as np

from keras_seq.data.vocabulary import END, START

__all__ = ["plot_attention", "plot_forecast", "plot_gates", "plot_gradient_flow", "plot_history"]

_TOKEN_SIZE = 0.27  # inches, in both directions
_MARGIN = 0.8  # inches for the title and the labels of a panel
_MAX_WIDTH = 16.0  # inches of a row of attention panels
_PAGE_WIDTH = 11.0  # inches of three panels side by side: the text is readable where the page is 700 pixels wide
_LINE_STYLES = ("-", "--", "-.", ":")  # neighbours differ in them too: not all eyes tell all colours apart
_PERCENTAGES = ("per", "wer", "error_rate")


def plot_attention(weights, sources, targets, path=None):
    """Plots attention weights: for each sequence a heat map of source against target tokens.

    Args:
        weights: attention weights in [0, 1]: an array (batch, time, source), as `Seq2Seq.generate` returns with
            `return_dict=True` (with several outputs for each source, `attention_weights[:, 0]` are those of the best
            ones), or a list with an array (time, source) for each sequence.
        sources: list with the source tokens of each sequence, a list of strings. Weights beyond them are not drawn.
        targets: list with the target tokens of each sequence, a list of strings. Weights beyond them are not drawn. The
            panel of a sequence without tokens is blank.
        path: file to save the figure to, or None. The suffix selects the format; without a suffix it is PNG.

    Returns:
        A `matplotlib.figure.Figure`. Its axes are a panel for each sequence, in order, then the colour bar.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if `weights`, `sources` and `targets` are empty or differ in length, or if a sequence has more
            tokens than weights.

    Example:
        >>> figure = plot_attention([np.eye(3)], [list("cat")], [["K", "AE", "T"]])
        >>> figure.axes[0].get_title()
        'cat'
    """
    figure = _new_figure()
    panels = _attention_panels(weights, sources, targets)
    longest = max(panel.shape[1] for panel in panels)
    columns = max(1, min(math.ceil(math.sqrt(len(panels))), int(_MAX_WIDTH / (_TOKEN_SIZE * longest + _MARGIN))))
    rows = math.ceil(len(panels) / columns)
    # All panels of a column have the width of the longest, those of a row its height: all tokens have the same size.
    widths = [max(panel.shape[1] for panel in panels[column::columns]) for column in range(columns)]
    heights = [max(panel.shape[0] for panel in panels[row * columns : (row + 1) * columns]) for row in range(rows)]
    figure.set_size_inches(
        _TOKEN_SIZE * sum(widths) + _MARGIN * (columns + 1), _TOKEN_SIZE * sum(heights) + _MARGIN * rows
    )
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
    return _save(figure, path)


def _attention_panels(weights, sources, targets):
    """Returns the weights of each sequence, cropped to its tokens: a list of arrays (time, source)."""
    if not len(weights) == len(sources) == len(targets) > 0:
        raise ValueError(
            "`weights`, `sources` and `targets` must have the same length, at least 1. "
            f"Received: lengths {len(weights)}, {len(sources)} and {len(targets)}"
        )
    panels = []
    for i, (panel, source, target) in enumerate(zip(weights, sources, targets, strict=True)):
        panel, shape = np.asarray(panel, "float32"), (len(target), len(source))
        if panel.ndim != 2 or panel.shape[0] < shape[0] or panel.shape[1] < shape[1]:
            raise ValueError(
                f"`weights[{i}]` must have the shape (time, source), with time >= {shape[0]}, the number of tokens in "
                f"`targets[{i}]`, and source >= {shape[1]}, that in `sources[{i}]`. Received: shape {panel.shape}"
            )
        panel = panel[: shape[0], : shape[1]]
        panels.append(panel if panel.size else np.full(np.maximum(shape, 1), np.nan))
    return panels


def _label_with_tokens(axes, source, target):
    from matplotlib.patches import Rectangle

    text_style = {"parse_math": False, "fontsize": 9}  # a dollar sign does not start a formula
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(range(len(source)), source, **text_style)
    axes.set_yticks(range(len(target)), target, **text_style)
    for label, token in zip(axes.get_xticklabels(), source, strict=True):
        label.set_rotation(90 if len(token) > 2 else 0)
    axes.spines[:].set_visible(False)
    axes.add_patch(Rectangle((-0.5, -0.5), len(source), len(target), fill=False, edgecolor="0.7", clip_on=False))
    words = [token for token in source if token not in (START, END)]
    title = ("" if all(len(word) == 1 for word in words) else " ").join(words)
    title = textwrap.fill(title, int(2.5 * len(source)) + 5)  # about the width of the panel
    axes.set_title(title, x=0, ha="left", parse_math=False, fontsize=11, fontweight="bold")


def plot_history(history, path=None):
    """Plots training curves: for each metric a panel with a line for training and one for validation, the loss first.

    If a metric has fewer values than there are epochs, they are placed at every second, third, ... epoch, as
    `validation_freq` produces them, or at the first epochs if no such interval fits. To place them exactly, use NaN or
    None for epochs without a value. Metrics named `per`, `wer` or `..._error_rate` are labelled as percentages.

    Args:
        history: the `keras.callbacks.History` that `fit` returns, or its dict: it maps the name of each metric to a
            list of values, one for each epoch. Names of validation metrics start with `val_`.
        path: file to save the figure to, or None. The suffix selects the format; without a suffix it is PNG.

    Returns:
        A `matplotlib.figure.Figure` with an axes for each panel.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if `history` is neither a `History` nor a dict, or holds no value.

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
    return _save(figure, path)


def _curves(history):
    """Returns a dict from metric names to `(epochs, values)`, and all epochs, counted from 1."""
    values = getattr(history, "history", history)
    series = {name: np.ravel(np.asarray(v, float)) for name, v in values.items()} if isinstance(values, dict) else {}
    length = max(map(len, series.values()), default=0)
    if length == 0:
        raise ValueError(
            "`history` must be a Keras `History` or its dict, with at least one value of a metric. "
            f"Received: {values!r}"
        )
    epochs = np.arange(1, length + 1)
    if len(getattr(history, "epoch", ())) == length:  # a resumed training does not start at epoch 1
        epochs = np.asarray(history.epoch) + 1
    curves = {}
    for name, metric_values in series.items():
        count = len(metric_values)
        if count > 0:
            every_nth = epochs[epochs % (length // count) == 0]
            curves[name] = every_nth if len(every_nth) == count else epochs[:count], metric_values
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
    """Plots the norms of gradients over the time steps: a line for each layer, on a logarithmic scale.

    A straight line that falls to the left shows a gradient that vanishes exponentially, one that rises to the left a
    gradient that explodes. Values that are 0, as in padding, or not finite leave a gap.

    Args:
        flows: the dict that `keras_seq.diagnostics.gradient_flow` returns: it maps names to norms, arrays (time,). It
            may combine several models. Or a dict from titles to such dicts, with a panel for each; all panels share a
            scale.
        path: file to save the figure to, or None. The suffix selects the format; without a suffix it is PNG.

    Returns:
        A `matplotlib.figure.Figure` with an axes for each panel.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if `flows` is not such a dict, or holds no value.

    Example:
        >>> figure = plot_gradient_flow({"vanishing": 0.5 ** np.arange(10.0)[::-1], "exploding": 2 ** np.arange(10.0)})
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['vanishing', 'exploding']
    """
    figure = _new_figure()
    panels = _flow_panels(flows)
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))  # a name keeps its colour
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure.set_size_inches(min(4.6 * columns, _PAGE_WIDTH), 3.4 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.remove()
    for i, (axes, (title, panel)) in enumerate(zip(grid, panels.items(), strict=False)):
        for name, norms in panel.items():
            number = names.index(name)
            norms = np.where((norms > 0) & np.isfinite(norms), norms, np.nan)
            linestyle = _LINE_STYLES[(number + number // 20) % len(_LINE_STYLES)]  # 40 lines differ
            style = {"color": f"C{number % 10}", "linestyle": linestyle}
            marker = "." if len(norms) == 1 else ""  # a line of one point is invisible
            axes.plot(np.arange(1, len(norms) + 1), norms, label=name, marker=marker, **style)
        axes.set_yscale("log")
        _label_with_steps(axes, "time step", np.arange(1, max(map(len, panel.values())) + 1))
        axes.set_title(title, parse_math=False)
        if i % columns == 0:
            axes.set_ylabel(r"$\|\partial L\,/\,\partial h_t\|$")
        axes.legend(frameon=False, handlelength=3)
    return _save(figure, path)


def _flow_panels(flows):
    """Returns a dict from titles to dicts from names to arrays."""
    if isinstance(flows, dict) and flows:
        panels = flows if all(isinstance(flow, dict) for flow in flows.values()) else {"": flows}
        panels = {
            title: {name: np.asarray(norms, float) for name, norms in panel.items()} for title, panel in panels.items()
        }
        if all(panel and all(n.ndim == 1 and n.size for n in panel.values()) for panel in panels.values()):
            return panels
    raise ValueError(
        "`flows` must be a dict from names to arrays (time,), as `gradient_flow` returns, or a dict from titles to "
        f"such dicts. Received: {flows!r}"
    )


def plot_forecast(past, forecast, actual=None, *, titles=None, names=None, path=None):
    """Plots forecasts: for each series of each sample the past, the forecast with its intervals, and what happened.

    Time is counted in steps from the end of the past. Values that are NaN leave a gap.

    Args:
        past: (batch, time, series), the values before the forecast. Pass the last steps if there are many.
        forecast: the `Forecast` that `Forecaster.forecast` returns, or an array (batch, horizon, series). The line is
            the quantile of the level 0.5 if there is one, else the point forecast. Each pair of levels that are as far
            from the ends, such as 0.05 and 0.95, gives a band.
        actual: (batch, horizon, series), the values that happened, or None.
        titles: list of strings, one for each sample, or None.
        names: list of strings, one for each series, or None.
        path: file to save the figure to, or None. The suffix selects the format; without a suffix it is PNG.

    Returns:
        A `matplotlib.figure.Figure` with an axes for each series of each sample, sample by sample.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if shapes do not fit.

    Example:
        >>> figure = plot_forecast(np.zeros((2, 5, 1)), np.ones((2, 3, 1)), titles=["today", "tomorrow"])
        >>> [axes.get_title() for axes in figure.axes]
        ['today', 'tomorrow']
    """
    figure = _new_figure()
    past, forecast, actual = _forecast_arrays(past, forecast, actual)
    samples, steps, series = past.shape
    titles = _labels("titles", titles, samples)
    names = _labels("names", names, series)
    panels = samples * series
    columns = series if series > 1 and samples > 1 else 2 if panels == 4 else min(3, panels)
    rows = math.ceil(panels / columns)
    width = min(4.6 * columns, max(_PAGE_WIDTH, 3.0 * columns))
    figure.set_size_inches(width, 2.9 * rows + 0.4)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for axes in grid[panels:]:
        axes.remove()
    for number, axes in enumerate(grid[:panels]):
        sample, one = divmod(number, series)
        axes.plot(np.arange(1 - steps, 1), past[sample, :, one], color="0.35", label="past")
        _draw_forecast(axes, forecast, sample, one)
        if actual is not None:
            after = np.arange(1, actual.shape[1] + 1)
            axes.plot(after, actual[sample, :, one], color="tab:orange", linestyle="--", label="actual")
        axes.axvline(0.5, color="0.7", linewidth=0.8)
        axes.set_title(titles[sample], parse_math=False)
        axes.set_ylabel(names[one], parse_math=False)
        axes.set_xlabel("time step" if number + columns >= panels else "")
        axes.xaxis.set_tick_params(labelbottom=number + columns >= panels)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), int(width / 1.5)), frameon=False)
    return _save(figure, path)


def _draw_forecast(axes, forecast, sample, series):
    """Draws the bands and the line of one forecast."""
    after = np.arange(1, forecast.mean.shape[1] + 1)
    order = np.argsort(forecast.levels)
    bands = [(low, high) for low, high in zip(order, order[::-1], strict=True) if low != high][: len(order) // 2]
    for number, (low, high) in enumerate(bands):
        levels = forecast.levels[low], forecast.levels[high]
        shade = 0.2 + 0.25 * number / len(bands)
        edges = forecast.quantiles[sample, :, series][:, [low, high]].T
        label = f"{100 * (levels[1] - levels[0]):.3g} % interval"
        # A single step has no width.
        axes.fill_between(
            after, *edges, color="tab:blue", alpha=shade, linewidth=3 if len(after) == 1 else 0, label=label
        )
    median = [i for i, level in enumerate(forecast.levels) if abs(level - 0.5) < 1e-9]
    line = forecast.quantiles[sample, :, series, median[0]] if median else forecast.mean[sample, :, series]
    marker = "." if len(after) == 1 else ""  # a line of one point is invisible
    axes.plot(after, line, color="tab:blue", marker=marker, label="median forecast" if median else "forecast")


def _forecast_arrays(past, forecast, actual):
    """Returns the arguments of `plot_forecast` as arrays, after checking their shapes."""
    past = np.asarray(past, float)
    if not hasattr(forecast, "mean") or not hasattr(forecast, "levels"):
        mean = np.asarray(forecast, float)
        forecast = types.SimpleNamespace(mean=mean, levels=(), quantiles=np.zeros((*mean.shape, 0)))
    shapes = [past.shape, forecast.mean.shape, *([] if actual is None else [np.shape(actual)])]
    is_valid = all(len(shape) == 3 and shape[::2] == past.shape[::2] for shape in shapes) and past.size
    if not is_valid or (actual is not None and shapes[1] != shapes[2]):
        raise ValueError(
            "`past` must be (batch, time, series), `forecast` and `actual` (batch, horizon, series). "
            f"Received: shapes {', '.join(map(str, shapes))}"
        )
    return past, forecast, None if actual is None else np.asarray(actual, float)


def _labels(name, labels, count):
    labels = [""] * count if labels is None else list(labels)
    if len(labels) != count:
        raise ValueError(f"`{name}` must have {count} entries. Received: {len(labels)}")
    return labels


def plot_gates(values, tokens=None, sequence=0, path=None):
    """Plots the gates and states of one sequence over time: for each a heat map of units against steps.

    Gates between 0 and 1 have a scale from white to blue, candidates and states a scale from red (negative) to blue.
    What is masked is left blank.

    Args:
        values: the dict that `keras_seq.diagnostics.gates` returns: arrays (batch, time, units).
        tokens: list of strings that label the steps, or None for numbers. Steps beyond them are not drawn.
        sequence: which sequence of the batch to draw.
        path: file to save the figure to, or None. The suffix selects the format; without a suffix it is PNG.

    Returns:
        A `matplotlib.figure.Figure` with an axes for each gate and state, then one for each colour bar.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if `values` is not such a dict, or if there are more tokens than steps.

    Example:
        >>> figure = plot_gates({"forget_gate": np.full((1, 3, 4), 0.9), "hidden_state": np.zeros((1, 3, 4))})
        >>> [axes.get_title() for axes in figure.axes[:2]]
        ['forget gate', 'hidden state']
    """
    figure = _new_figure()
    from matplotlib.ticker import MaxNLocator

    panels = _gate_panels(values, sequence)
    steps = min(panel.shape[1] for panel in panels.values()) if tokens is None else len(tokens)
    if any(panel.shape[1] < steps for panel in panels.values()):
        raise ValueError(f"`tokens` must be at most as many as there are steps. Received: {steps} tokens")
    columns = 1 if len(panels) == 1 else 2
    rows = math.ceil(len(panels) / columns)
    height = min(2.4, 1.2 + 0.15 * max(panel.shape[0] for panel in panels.values()))
    figure.set_size_inches(columns * min(max(3.5, _TOKEN_SIZE * steps + 1.5), _MAX_WIDTH / 2), height * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes, (name, panel) in zip(grid, panels.items(), strict=False):
        is_gate = name.endswith("_gate")
        limit = 1 if is_gate else max(1e-6, float(np.nanmax(np.abs(panel), initial=0)))
        scale = {"cmap": "Blues" if is_gate else "RdBu", "vmin": 0 if is_gate else -limit, "vmax": limit}
        image = axes.imshow(panel[:, :steps], aspect="auto", interpolation="nearest", **scale)
        figure.colorbar(image, ax=axes, fraction=0.05).outline.set_visible(False)
        axes.set_title(name.replace("_", " "), parse_math=False)
        axes.set_ylabel("unit")
        axes.yaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))
        if tokens is not None:
            axes.set_xticks(range(steps), tokens, rotation=90 if max(map(len, tokens)) > 2 else 0, parse_math=False)
    return _save(figure, path)


def _gate_panels(values, sequence):
    """Returns a dict from names to arrays (units, time)."""
    arrays = {name: np.asarray(value, float) for name, value in values.items()} if isinstance(values, dict) else {}
    if not arrays or any(array.ndim != 3 or 0 in array.shape for array in arrays.values()):
        raise ValueError(
            "`values` must be a dict from names to arrays (batch, time, units), as `gates` returns. "
            f"Received: {values!r}"
        )
    return {name: array[sequence].T for name, array in arrays.items()}


def _new_figure():
    """Returns an empty figure outside pyplot's global state, which needs no display and need not be closed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("keras_seq.plots needs matplotlib: pip install 'keras_seq[plots]'") from error
    return Figure(layout="constrained")


def _save(figure, path):
    """Writes the figure to `path`, completely or not at all, unless it is None. Returns the figure."""
    if path is not None:
        path = pathlib.Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            figure.savefig(temporary, format=path.suffix[1:] or "png", dpi=150)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return figure

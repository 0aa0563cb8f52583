# SPDX-License-Identifier: Apache-2.0
"""Plots show the right numbers and labels, nothing overlaps, and files are written completely or not at all."""

import subprocess
import sys

import keras
import matplotlib
import numpy as np
import pytest
import scipy.stats
from matplotlib import image, pyplot
from matplotlib.figure import Figure

import keras_seq
from keras_seq.diagnostics import gradient_flow
from keras_seq.models import Forecast
from keras_seq.plots import plot_attention, plot_forecast, plot_gradient_flow, plot_history

PNG = b"\x89PNG\r\n\x1a\n"
WORDS = ["cat", "thought", "knight", "pronounce", "mississippi", "a"]
PHONES = ["K AE T", "TH AO T", "N AY T", "P R AH N AW N S", "M IH S IH S IH P IY", "EY"]
SOURCES = [list(word) for word in WORDS]
TARGETS = [phones.split() for phones in PHONES]


def random_weights(sources, targets, padding=0):
    """Attention weights (batch, time, source) whose rows sum to 1."""
    rng = np.random.default_rng(1)
    shape = (len(sources), max(map(len, targets)) + padding, max(map(len, sources)) + padding)
    return rng.dirichlet(np.full(shape[2], 0.3), shape[:2])


def texts(labels):
    return [label.get_text() for label in labels]


def test_attention_panels_show_weights_and_tokens():
    weights = random_weights(SOURCES, TARGETS, padding=2)
    *panels, bar = plot_attention(weights, SOURCES, TARGETS).axes
    assert [axes.get_title() for axes in panels] == WORDS
    for axes, expected, source, target in zip(panels, weights, SOURCES, TARGETS, strict=True):
        (heat_map,) = axes.images
        np.testing.assert_allclose(heat_map.get_array(), expected[: len(target), : len(source)], atol=1e-6)
        assert heat_map.get_clim() == (0, 1)
        assert texts(axes.get_xticklabels()) == source
        assert texts(axes.get_yticklabels()) == target
        assert axes.xaxis.get_ticks_position() == "top"
        bottom, top = axes.get_ylim()
        assert bottom > top  # the first target token is in the first row
    assert bar.get_ylabel() == "attention weight"
    assert bar.get_ylim() == (0, 1)


def test_attention_takes_arrays_of_different_shapes():
    weights = [np.full((len(target), len(source)), 0.5) for source, target in zip(SOURCES, TARGETS, strict=True)]
    *panels, _ = plot_attention(weights, SOURCES, TARGETS).axes
    assert [axes.images[0].get_array().shape for axes in panels] == [array.shape for array in weights]


def test_attention_colours_get_steadily_lighter_or_darker():
    figure = plot_attention([np.eye(3)], [list("cat")], [["K", "AE", "T"]])
    red, green, blue, _ = figure.axes[0].images[0].get_cmap()(np.linspace(0, 1, 64)).T
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    assert np.all(np.diff(luminance) < 0) or np.all(np.diff(luminance) > 0)


def test_attention_titles_omit_special_tokens_and_separate_words_by_spaces():
    sources = [["c", "a", "t", "[END]"], ["[START]", "costs", "$5", "or", "$"]]
    figure = plot_attention([np.ones((1, 4)), np.ones((2, 5))], sources, [["x"], ["$y$", "z"]])
    assert [axes.get_title() for axes in figure.axes[:2]] == ["cat", "costs $5 or $"]
    figure.draw_without_rendering()  # dollar signs do not start formulas


def test_the_attention_panel_of_a_sequence_without_tokens_is_blank():
    figure = plot_attention(np.ones((2, 1, 3)), [list("cat")] * 2, [[], ["K"]])
    blank = figure.axes[0]
    assert np.all(np.ma.getmaskarray(blank.images[0].get_array()))
    assert texts(blank.get_yticklabels()) == []
    assert blank.get_title() == "cat"


LAYOUTS = {
    "one": (SOURCES[:1], TARGETS[:1]),
    "six": (SOURCES, TARGETS),
    "ends": ([[*source, "[END]"] for source in SOURCES], [[*target, "[END]"] for target in TARGETS]),
    "single tokens": ([["a"]] * 7, [["EY"]] * 7),
    "sentences": ([["extraordinarily"] * 12, ["no"] * 40, ["so"]], [["selbstverständlich"] * 9, ["nein"] * 40, ["ja"]]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_attention_panels_neither_overlap_nor_leave_the_figure(name):
    sources, targets = LAYOUTS[name]
    figure = plot_attention(random_weights(sources, targets), sources, targets)
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    width, height = figure.get_size_inches() * figure.dpi
    for i, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[:i])
    cells = [np.abs(np.diff(axes.transData.transform([(0, 0), (1, 1)]), axis=0)) for axes in figure.axes[:-1]]
    np.testing.assert_allclose(cells, cells[0][0, 0], rtol=0.1)  # squares of the same size in all panels
    assert 0.18 < cells[0][0, 0] / figure.dpi < 0.5  # inches; text of 9 points fits


@pytest.mark.slow
def test_attention_weights_of_a_model_are_plotted():
    source = keras_seq.data.text_vectorizer(WORDS)
    target = keras_seq.data.text_vectorizer(PHONES, split="whitespace")
    model = keras_seq.Seq2Seq(
        keras_seq.Encoder(source.vocabulary_size(), embedding_dim=4, units=8),
        keras_seq.Decoder(target.vocabulary_size(), embedding_dim=4, units=8),
        source,
        target,
    )
    results = model.generate(WORDS, return_dict=True)
    outputs = [text.split() for text in results["text"]]
    *panels, _ = plot_attention(results["attention_weights"], SOURCES, outputs).axes
    for axes, expected, source, output in zip(panels, results["attention_weights"], SOURCES, outputs, strict=True):
        if output:
            np.testing.assert_array_equal(axes.images[0].get_array(), expected[: len(output), : len(source)])


@pytest.mark.parametrize(
    ("weights", "sources", "targets", "message"),
    [
        ([], [], [], "the same length, at least 1. Received: lengths 0, 0 and 0"),
        (np.ones((2, 1, 1)), [["a"]], [["b"]], "the same length.*Received: lengths 2, 1 and 1"),
        (np.ones((1, 1, 1)), [["a"]], [["b"], ["c"]], "the same length.*Received: lengths 1, 1 and 2"),
        (
            np.ones((1, 3, 2)),
            [list("cat")],
            [["K"]],
            r"`weights\[0\]` must.*source >= 3, that in `sources\[0\]`.*\(3, 2\)",
        ),
        (
            [np.eye(3), np.eye(1)],
            [["c"]] * 2,
            [["K", "AE"]] * 2,
            r"`weights\[1\]` must.*time >= 2, the number of.*\(1, 1\)",
        ),
        (np.ones((1, 3, 0)), [list("cat")], [["K"]], r"\(3, 0\)"),  # from a model without attention
        (np.ones((1, 3)), [list("cat")], [["K"]], r"\(3,\)"),
    ],
)
def test_bad_attention_arguments_raise(weights, sources, targets, message):
    with pytest.raises(ValueError, match=message):
        plot_attention(weights, sources, targets)


def test_history_has_a_panel_for_each_metric():
    history = {
        "token_accuracy": [0.1, 0.5, 0.6],
        "loss": [3.0, 2.0, 1.5],
        "val_token_accuracy": [0.2, 0.4, 0.5],
        "val_loss": [3.5, 2.5, 2.0],
        "val_wer": [90.0, 80.0, 70.0],
    }
    figure = plot_history(history)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "token accuracy", "WER (%)"]
    for axes, name in zip(figure.axes, ["loss", "token_accuracy", "wer"], strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        expected = {"training": history.get(name), "validation": history[f"val_{name}"]}
        assert {label: list(line.get_ydata()) for label, line in lines.items()} == {
            label: values for label, values in expected.items() if values
        }
        assert all(list(line.get_xdata()) == [1, 2, 3] for line in lines.values())
        assert texts(axes.get_legend().get_texts()) == list(lines)
        assert axes.get_xlabel() == "epoch"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("loss", "loss"),
        ("per", "PER (%)"),
        ("val_wer", "WER (%)"),
        ("dev_wer", "dev WER (%)"),
        ("val_token_error_rate", "token error rate (%)"),
        ("paper", "paper"),  # "per" must be a word of its own
        ("learning_rate", "learning rate"),
    ],
)
def test_history_labels_name_the_metric(name, label):
    (axes,) = plot_history({name: [1.0, 2.0]}).axes
    assert axes.get_ylabel() == label


@pytest.mark.parametrize("epochs", [1, 2, 7, 20, 333])
def test_history_ticks_are_whole_epochs(epochs):
    (axes,) = plot_history({"loss": np.linspace(3, 1, epochs)}).axes
    low, high = axes.get_xlim()
    assert 0 < low < 1 and epochs < high < 1.1 * epochs + 1
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 1 <= len(ticks) <= 11
    assert all(tick == round(tick) >= 1 for tick in ticks)
    if epochs < 10:
        assert ticks == list(range(1, epochs + 1))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0], [6]),  # validation_freq=6: only the last epoch
        ([5.0, 4.0], [3, 6]),
        ([5.0, 4.0, 3.0], [2, 4, 6]),
        ([5.0, 4.0, 3.0, 2.0], [1, 2, 3, 4]),  # no interval fits: the first epochs
        ([None, float("nan"), 3.0, 2.0, None, 1.0], [3, 4, 6]),
    ],
)
def test_a_metric_with_fewer_values_is_placed_at_its_epochs(values, expected):
    loss, other = plot_history({"val_other": values, "loss": [6, 5, 4, 3, 2, 1]}).axes
    x, y = other.lines[0].get_data()
    assert list(x[~np.isnan(y)]) == expected
    assert loss.get_xlim() == other.get_xlim()


def test_history_of_a_resumed_fit_with_validation_freq():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    data = np.ones((4, 1)), np.zeros((4, 1))
    history = model.fit(*data, validation_data=data, validation_freq=2, epochs=7, initial_epoch=2, verbose=0)
    loss, mae = plot_history(history).axes
    assert (loss.get_ylabel(), mae.get_ylabel()) == ("loss", "mae")
    for axes, name in ((loss, "loss"), (mae, "mae")):
        training, validation = axes.lines
        assert list(training.get_xdata()) == [3, 4, 5, 6, 7]
        assert list(validation.get_xdata()) == [4, 6]
        assert list(validation.get_ydata()) == history.history[f"val_{name}"]


@pytest.mark.parametrize("history", [{}, {"loss": []}, keras.callbacks.History(), [1.0, 2.0], None])
def test_a_bad_history_raises(history):
    with pytest.raises(ValueError, match=r"`history` must be a Keras `History` or its dict.*Received"):
        plot_history(history)


FLOWS = {"vanishing": 0.5 ** np.arange(20.0)[::-1], "exploding": 1.5 ** np.arange(30.0)[::-1]}


def test_gradient_flow_has_a_line_for_each_name():
    (axes,) = plot_gradient_flow(FLOWS).axes
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "time step"
    assert "partial h_t" in axes.get_ylabel()
    assert axes.get_title() == ""
    assert texts(axes.get_legend().get_texts()) == [line.get_label() for line in axes.lines] == list(FLOWS)
    for line, norms in zip(axes.lines, FLOWS.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, len(norms) + 1))
        np.testing.assert_array_equal(line.get_ydata(), norms)
        bottom, top = axes.get_ylim()
        assert bottom <= norms.min() and norms.max() <= top


def test_gradient_flow_panels_share_scale_and_colours():
    panels = {"at $ first": FLOWS, "later": {"exploding": FLOWS["exploding"] * 1e6}, **{c: FLOWS for c in "abc"}}
    figure = plot_gradient_flow(panels)
    assert [axes.get_title() for axes in figure.axes] == list(panels)
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    first, later, *_ = figure.axes
    assert later.lines[0].get_color() == first.lines[1].get_color() != first.lines[0].get_color()
    assert [bool(axes.get_ylabel()) for axes in figure.axes] == [True, False, False, True, False]
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[:i])


def test_gradient_flow_lines_all_differ_in_colour_or_style():
    (axes,) = plot_gradient_flow({f"gru/{i}": np.ones(3) for i in range(25)}).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 25


@pytest.mark.parametrize(
    ("norms", "expected"),
    [([0, 1, 2, 0], [2, 3]), ([np.inf, 1e30, 1.0], [2, 3]), ([np.nan, 1e-300, 1.0], [2, 3]), ([0, 0], []), ([5], [1])],
)
def test_gradient_flow_leaves_gaps_at_values_without_a_logarithm(norms, expected):
    figure = plot_gradient_flow({"lstm": norms})
    figure.draw_without_rendering()
    x, y = figure.axes[0].lines[0].get_data()
    assert list(x[~np.isnan(y)]) == expected


def test_gradient_flow_of_a_model_is_plotted():
    stack = keras_seq.layers.GRU(3, num_layers=2, name="gru")
    model = keras.Sequential([keras.Input((7, 2)), keras_seq.layers.Bidirectional(stack, name="both")])
    model.compile(loss="mse")
    flows = gradient_flow(model, (np.ones((2, 7, 2)), np.zeros((2, 6))))
    (axes,) = plot_gradient_flow(flows).axes
    assert texts(axes.get_legend().get_texts()) == [
        f"both/{d}_gru/{i}" for d in ("forward", "backward") for i in (0, 1)
    ]


@pytest.mark.parametrize("flows", [{}, None, [1.0], {"a": []}, {"a": 1.0}, {"a": [[1.0]]}, {"a": {}}])
def test_bad_flows_raise(flows):
    with pytest.raises(ValueError, match=r"`flows` must be a dict.*Received"):
        plot_gradient_flow(flows)


def draw_attention(path=None):
    return plot_attention(random_weights(SOURCES, TARGETS), SOURCES, TARGETS, path)


def draw_history(path=None):
    return plot_history({"loss": [2.0, 1.0], "val_loss": [2.1, 1.2]}, path)


def draw_gradient_flow(path=None):
    return plot_gradient_flow(FLOWS, path)


each_plot = pytest.mark.parametrize("draw", [draw_attention, draw_history, draw_gradient_flow])


@each_plot
def test_a_png_file_replaces_an_older_one(draw, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"an older file")
    assert isinstance(draw(path), Figure)
    pixels = image.imread(path)
    height, width, _ = pixels.shape
    assert 300 < width < 3000 and 300 < height < 3000
    assert pixels[..., :3].min() < 0.3 and pixels[..., :3].max() == 1  # dark on white
    assert list(tmp_path.iterdir()) == [path]


@each_plot
def test_a_failed_save_keeps_the_older_file(draw, tmp_path, monkeypatch):
    def fail(self, path, **kwargs):
        path.write_bytes(PNG)
        raise OSError("disk full")

    path = tmp_path / "picture.png"
    path.write_bytes(b"an older file")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        draw(path)
    assert path.read_bytes() == b"an older file"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("name", "first_bytes"), [("a.svg", b"<?xml"), ("a.pdf", b"%PDF"), ("a", PNG), (".png", PNG)])
def test_the_suffix_selects_the_format(name, first_bytes, tmp_path):
    draw_history(str(tmp_path / name))
    assert (tmp_path / name).read_bytes().startswith(first_bytes)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@each_plot
def test_the_state_of_pyplot_does_not_change(draw):
    before = dict(matplotlib.rcParams)
    draw()
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


@each_plot
def test_without_matplotlib_the_error_names_the_extra(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_seq\[plots\]'"):
        draw()


@pytest.mark.slow
def test_the_module_can_be_imported_without_matplotlib():
    code = "import sys; sys.modules['matplotlib'] = None; import keras_seq.plots"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_forecast_panels_show_past_line_bands_and_what_happened():
    rng = np.random.default_rng(0)
    past, mean, actual = rng.normal(size=(3, 9, 2)), rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 4, 2))
    levels = (0.95, 0.25, 0.5, 0.05, 0.75)
    quantiles = mean[..., None] + scipy.stats.norm.ppf(levels)
    actual[0, 1] = np.nan
    figure = plot_forecast(past, Forecast(mean, quantiles, levels), actual, titles=list("abc"), names=["x", "$y$"])
    assert [axes.get_title() for axes in figure.axes] == list("aabbcc")
    assert [axes.get_ylabel() for axes in figure.axes[:2]] == ["x", "$y$"]
    for number, axes in enumerate(figure.axes):
        sample, series = divmod(number, 2)
        before, line, after = axes.lines[:3]
        np.testing.assert_array_equal(before.get_xydata(), np.c_[np.arange(-8, 1), past[sample, :, series]])
        np.testing.assert_array_equal(line.get_xydata(), np.c_[1:5, quantiles[sample, :, series, 2]])
        np.testing.assert_array_equal(after.get_ydata(), actual[sample, :, series])
        for band, edges in zip(axes.collections, ((3, 0), (1, 4)), strict=True):
            heights = band.get_paths()[0].vertices[:, 1]
            for edge in edges:
                assert set(quantiles[sample, :, series, edge]) <= set(heights)
    (legend,) = figure.legends
    assert texts(legend.get_texts()) == ["past", "90 % interval", "50 % interval", "median forecast", "actual"]


def test_a_forecast_without_quantiles_is_a_line():
    for horizon in (1, 3):
        (axes,) = plot_forecast(np.zeros((1, 5, 1)), np.ones((1, horizon, 1))).axes
        assert [line.get_label() for line in axes.lines[:2]] == ["past", "forecast"]
        assert not axes.collections


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"forecast": np.ones((2, 3))}, "`forecast` and `actual` (batch, horizon, series). Received: shapes (2, 5, 1)"),
        ({"forecast": np.ones((3, 3, 1))}, "Received: shapes (2, 5, 1), (3, 3, 1)"),
        ({"actual": np.ones((2, 2, 1))}, "Received: shapes (2, 5, 1), (2, 3, 1), (2, 2, 1)"),
        ({"titles": ["a"]}, "`titles` must have 2 entries. Received: 1"),
    ],
)
def test_a_forecast_that_does_not_fit_gives_one_clear_error(arguments, message):
    with pytest.raises(ValueError) as error:
        plot_forecast(**{"past": np.zeros((2, 5, 1)), "forecast": np.ones((2, 3, 1)), **arguments})
    assert message in str(error.value)

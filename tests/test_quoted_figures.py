# SPDX-License-Identifier: Apache-2.0
"""Pages that quote figures of docs/benchmarks have those that were measured last."""

import pathlib
import re
import shutil
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import quotes  # noqa: E402

PAGES = list(dict.fromkeys(quote.page for quote in quotes.QUOTES))


def read(page, root=ROOT):
    return (root / page).read_text(encoding="utf-8")


@pytest.fixture
def checkout(tmp_path):
    """A copy of the pages that quote and of those that are quoted."""
    shutil.copytree(ROOT / "docs" / "benchmarks", tmp_path / "docs" / "benchmarks")
    for page in PAGES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / page, tmp_path / page)
    return tmp_path


@pytest.mark.parametrize("quote", quotes.QUOTES, ids=lambda quote: f"{quote.page}: {quote.pattern[:40]}")
def test_quoted_figures_were_measured(quote):
    text = read(quote.page)
    assert text == quote.rewrite(text, ROOT / "docs"), "run: python benchmarks/quotes.py"


@pytest.mark.parametrize("page", PAGES)
def test_all_rows_of_a_quoting_table_are_quotes(page):
    text, own = read(page), [quote for quote in quotes.QUOTES if quote.page == page and quote.pattern.startswith("^")]
    starts = {match.start() for quote in own for match in quote.find(text)}
    for table in re.finditer(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [match.start() + table.start() for match in re.finditer(r"^", table[0].rstrip(), re.MULTILINE)][2:]
        assert not starts & set(rows) or starts >= set(rows), table[0]


def test_new_figures_are_copied_and_nothing_else_changes(checkout):
    assert quotes.update(checkout) == []
    measured = checkout / "docs" / "benchmarks" / quotes.CPU / "layers.md"
    before = {page: read(page, checkout) for page in PAGES}
    text = re.sub(r"(better of .* forward \+ backward \|) [^|]* \|", r"\1 9.87 (6.54) |", measured.read_text("utf-8"))
    text = re.sub(r"(with a mask.*\|) [\d.]+ (\([\d.]+\) \|)$", r"\1 7.77 \2", text, flags=re.MULTILINE)
    measured.write_text(re.sub(r"cores: \d+ GFLOP", "cores: 12 GFLOP", text), "utf-8")
    assert quotes.update(checkout) == ["README.md", "docs/migration/keras_layers.md", "docs/kernels.md"]
    lines = [line for page in PAGES for line in set(read(page, checkout).splitlines()) - set(before[page].splitlines())]
    assert len(lines) == 4
    assert sum("forward + backward | 9.87 (6.54) |" in line for line in lines) == 2
    assert any("to 7.8 times as fast as without" in line for line in lines)
    assert any("whose peak of 12 GFLOP/s" in line for line in lines)


def test_a_figure_that_is_gone_is_named(checkout):
    page = checkout / "docs" / "kernels.md"
    page.write_text(page.read_text("utf-8").replace("whose peak of", "with a peak of"), "utf-8")
    with pytest.raises(ValueError, match=r"docs/kernels.md must have 1 figures, once, in 'whose peak of"):
        quotes.update(checkout)
    measured = checkout / "docs" / "benchmarks" / quotes.CPU / "layers.md"
    measured.write_text(measured.read_text("utf-8").replace("| PyTorch, ", "| Torch, "), "utf-8")
    with pytest.raises(ValueError, match=r"layers.md must have a row 'PyTorch, forward \+ backward' in the table"):
        quotes.update(checkout)

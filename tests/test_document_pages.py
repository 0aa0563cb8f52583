# SPDX-License-Identifier: Apache-2.0
"""The Python code of the pages in docs/ runs, as a reader would paste it."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MADE = {"examples", "generated"}  # folders of what `make docs` makes
WRITTEN = [page for page in (ROOT / "docs").rglob("*.md") if not MADE & set(page.relative_to(ROOT).parts)]
PAGES = [ROOT / "README.md", *sorted(WRITTEN)]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def program(page):
    """All code of a page as one program, in which each line has the number that it has in the page."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * len(text.splitlines())
    for match in FENCE.finditer(text):
        first = text.count("\n", 0, match.start(1))
        for i, line in enumerate(match[1].splitlines()):
            lines[first + i] = line
    return "\n".join(lines)


def test_fences_are_found_and_keep_their_lines(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("One.\n\n```python\na = 1\n```\n\n```sh\nrm -r /\n```\n```python\nassert a == 1\n```\n")
    assert program(page).splitlines() == ["", "", "", "a = 1", "", "", "", "", "", "", "assert a == 1"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_fence_is_of_a_kind_that_runs_or_does_not(page):
    """A fence "python notest" would be code that nobody runs."""
    for info in re.findall(r"^```(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        assert info in ("python", "sh", "c", "text", "json", "toml", "make", "{eval-rst}"), f"{page.name}: ```{info}"


def test_the_readme_is_a_front_page():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 120
    assert len([line for line in program(PAGES[0]).splitlines() if line and not line.startswith("#")]) <= 20


def test_the_ratios_of_the_readme_were_measured():
    section = PAGES[0].read_text(encoding="utf-8").split("## How fast")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    measured = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) >= 5
    assert not set(rows) - set(measured)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "```python" in page.read_text()],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_the_code_of_a_page_runs(page, tmp_path):
    """In one process, from the first line to the last, in an empty folder."""
    script = tmp_path / page.with_suffix(".py").name
    script.write_text(program(page), encoding="utf-8")
    folder = tmp_path / "folder"
    folder.mkdir()
    run = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, f"{page.name}: {run.stderr[-4000:]}"

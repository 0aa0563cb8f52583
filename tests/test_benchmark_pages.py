# SPDX-License-Identifier: Apache-2.0
"""Benchmarks publish a page for each benchmark and machine, and docs/benchmarks.md shows their first tables."""

import argparse
import importlib
import pathlib
import re
import shutil
import sys

import pytest

pytest.importorskip("rich")
ROOT = pathlib.Path(__file__).parents[1]
MAX_COLUMNS = 6  # a telephone shows no more


@pytest.fixture
def benchmarks(monkeypatch):
    """A function that imports a module of benchmarks/."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def layer_report(benchmarks):
    """A function `(machine, milliseconds of native) -> Report` of recorded times."""
    contest, cases = benchmarks("contest"), benchmarks("layer_cases")
    report, layers = benchmarks("report"), benchmarks("layer_report")

    def make(machine, milliseconds):
        results = []
        for layer, kind in (("LSTM", "forward"), ("LSTM", "training"), ("GRU", "training")):
            factors = {"native": 1.0, "native-jit": 1.1, "keras": 2.0, "keras-jit": 3.0, "torch": 1.5, "fma-peak": 4.0}
            times = {name: [milliseconds * f * t / 1e3 for t in (0.9, 1, 1.2)] for name, f in factors.items()}
            times |= {f"native+{name}": times["native"] for name in ("mask", "zoneout", "naive", "weight_dropout")}
            case = cases.Case(layer, (32, 25, 128, 128), kind)
            results.append(contest.Result(case, times, {"onnxruntime": "not installed"}))
        tables = [*layers.ratio_tables(results, "native"), *layers.times_tables(results, "native")]
        return report.of_contest("Layers", ["In words."], tables, results, 2)._replace(machine=machine)

    return make


@pytest.fixture
def docs(tmp_path):
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    begin, end = (re.search(f"<!-- {word}: .* -->\n", text) for word in ("begin", "end"))
    (tmp_path / "benchmarks.md").write_text(text[: begin.end()] + text[end.start() :], encoding="utf-8")
    return tmp_path


def tables(markdown):
    """The tables as lists of rows, which are lists of cells."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", markdown, re.MULTILINE)
    return [[line[2:-2].split(" | ") for line in block.splitlines()] for block in blocks]


def test_a_run_writes_the_pages_of_its_machine_only(benchmarks, docs, layer_report):
    pages = benchmarks("pages")
    output = pages.Output(docs / "runs", docs, "python benchmarks/layers.py --publish", quick=False)
    output.finish(layer_report("Old Processor, 4 cores", 8.0), "layers", 500)
    old = docs / "benchmarks" / "old-processor-4-cores" / "layers.md"
    untouched = old.read_bytes(), old.stat().st_mtime_ns
    for milliseconds in (4.0, 2.0):
        output.finish(layer_report("New Processor (AVX-512), 2 cores", milliseconds), "layers", 700)
    assert (old.read_bytes(), old.stat().st_mtime_ns) == untouched
    page = (docs / "benchmarks" / "new-processor-avx-512-2-cores" / "layers.md").read_text()
    assert "| 2.00 ±" in page
    assert "| 4.00 ±2" not in page.partition("keras-jit")[0]
    assert "in 12 minutes by\n\n```sh\npython benchmarks/layers.py --publish\n```" in page
    assert "Left out: onnxruntime: not installed" in page
    text = (docs / "benchmarks.md").read_text(encoding="utf-8")
    assert re.findall("^## (.*cores)$", text, re.MULTILINE) == [
        "New Processor (AVX-512), 2 cores",
        "Old Processor, 4 cores",
    ]
    assert text.count("| PyTorch, forward | 1.50 (1.50) | – |") == 2
    for link in re.findall(r"\]\((benchmarks/[^)]*)\)", text):
        assert (docs / link).is_file()
    assert text.startswith((ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").partition("<!-- begin")[0])
    assert sorted(path.name for path in docs.rglob(".*")) == []  # nothing unfinished stays


def test_tables_are_complete_and_narrow(layer_report):
    markdown = layer_report("A Processor", 4.0).markdown([])
    found = tables(markdown)
    assert len(found) == markdown.count("\n## ") - 1  # and notes
    for head, line, *rows in found:
        assert set(line) == {"---"}
        assert {len(row) for row in rows} == {len(head)}
        assert len(head) <= MAX_COLUMNS


def test_what_is_not_finished_is_not_published(benchmarks, docs, layer_report):
    before = (docs / "benchmarks.md").read_bytes()
    output = benchmarks("pages").Output(docs / "runs", docs, "command", quick=False)
    output.write(layer_report("A Processor", 4.0), "layers", 1)
    assert (docs / "runs" / "layers.md").exists()
    assert not (docs / "benchmarks").exists()
    assert (docs / "benchmarks.md").read_bytes() == before


def test_a_write_that_fails_leaves_the_old_file(benchmarks, tmp_path, monkeypatch):
    path = tmp_path / "page.md"
    benchmarks("pages").write_file(path, "old")

    def fail(self, text, **_):
        with self.open("w") as file:
            file.write(text[:1])
        raise OSError("the disk is full")

    monkeypatch.setattr(pathlib.Path, "write_text", fail)
    with pytest.raises(OSError):
        benchmarks("pages").write_file(path, "new")
    assert path.read_text() == "old"


def parse(benchmarks, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "layers.py"), *map(str, arguments)])
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--shapes", nargs="+", default=["1"])
    pages = benchmarks("pages")
    pages.add_options(parser)
    return pages.parse(parser, {"seconds": 1, "shapes": ["0"]})


def test_quick_runs_choose_little_and_are_not_published(benchmarks, monkeypatch):
    options, output = parse(benchmarks, monkeypatch, "--quick", "--seconds", 3)
    assert (options.seconds, options.shapes) == (3, ["0"])
    assert output.docs is None
    with pytest.raises(SystemExit):
        parse(benchmarks, monkeypatch, "--quick", "--publish")


def test_a_quick_report_says_so(benchmarks, tmp_path, layer_report):
    output = benchmarks("pages").Output(tmp_path, None, "command", quick=True)
    output.finish(layer_report("A Processor", 4.0), "layers", 20)
    assert "\n\n**A quick run**" in (tmp_path / "layers.md").read_text()


def test_the_command_names_no_folder_of_the_machine(benchmarks, monkeypatch, tmp_path):
    _, output = parse(benchmarks, monkeypatch, "--publish", tmp_path, "--output", tmp_path / "runs", "--shapes", "a b")
    assert output.command == "python benchmarks/layers.py --publish --shapes 'a b'"
    assert (output.docs, output.folder) == (tmp_path, tmp_path / "runs")
    _, output = parse(benchmarks, monkeypatch, f"--output={tmp_path}/", "--seconds", 3, f"--publish={tmp_path}/")
    assert output.command == "python benchmarks/layers.py --publish --seconds 3"
    _, output = parse(benchmarks, monkeypatch, "--publish")
    assert output.docs == ROOT / "docs"
    assert parse(benchmarks, monkeypatch)[1].docs is None


def test_a_folder_that_cannot_be_written_to_is_named_before_measuring(benchmarks, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    for option in ("--output", "--publish"):
        with pytest.raises(SystemExit):
            parse(benchmarks, monkeypatch, option, tmp_path / "file" / "docs")
        assert f"{option} must be a folder that can be written to" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (
            {"vendor_id": "AuthenticAMD", "model name": "AMD EPYC", "cpu family": "26", "flags": "avx2 avx512f"},
            "AMD EPYC (Zen 5, AVX-512), 8 cores",
        ),
        (
            {"vendor_id": "GenuineIntel", "model name": "Intel(R) Xeon(R) CPU @ 2.20GHz", "flags": "fma avx2"},
            "Intel Xeon (AVX2), 8 cores",
        ),
        ({"model name": "ARM"}, "ARM, 8 cores"),
    ],
)
def test_machines_have_names(benchmarks, monkeypatch, cpuinfo, name):
    processor = benchmarks("processor")
    monkeypatch.setattr(processor, "_cpuinfo", lambda: cpuinfo)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert processor.machine_name() == name


def test_the_published_tables_are_those_of_the_pages(benchmarks, tmp_path):
    """Nothing is written by hand."""
    shutil.copytree(ROOT / "docs" / "benchmarks", tmp_path / "benchmarks")
    shutil.copy(ROOT / "docs" / "benchmarks.md", tmp_path)
    benchmarks("pages").update(tmp_path)
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert (tmp_path / "benchmarks.md").read_text(encoding="utf-8") == text

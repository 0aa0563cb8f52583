# SPDX-License-Identifier: Apache-2.0
"""`make demos` writes results into the table of the examples, which has a row for each of them."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("demos", ROOT / "scripts" / "demos.py")
demos = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demos)
TABLE = """text

| example | kind | result | CPU minutes | measured |
|---|---|---|---|---|
| [`one`](one/README.md) | a kind | old | 1.0 | before |
| [`two`](two/README.md) | another |  |  |  |

more
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two examples, of which the second fails."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "README.md").write_text(TABLE)
    write = 'import pathlib, sys; p = pathlib.Path("runs/NAME"); p.mkdir(parents=True, exist_ok=True)\n'
    write += '(p / "metrics.json").write_text(\'{"result": "5 % of words"}\')\n'
    for name, end in (("one", ""), ("two", "sys.exit(2)")):
        (tmp_path / "examples" / name).mkdir()
        (tmp_path / "examples" / name / "train.py").write_text(write.replace("NAME", name) + end)
    monkeypatch.setattr(demos, "PICTURES", {"one": "one.png", "two": "two.png"})
    monkeypatch.setattr(demos, "ROOT", tmp_path)
    monkeypatch.setattr(demos, "TABLE", tmp_path / "examples" / "README.md")
    return tmp_path


def test_every_example_has_a_row_and_a_readme():
    folders = {path.parent.name for path in (ROOT / "examples").glob("*/train.py")}
    assert folders == set(demos.read_names(demos.TABLE.read_text()))
    assert all((ROOT / "examples" / name / "README.md").exists() for name in folders)
    assert folders == set(demos.PICTURES)


def test_a_run_replaces_the_measurements_of_its_row_and_nothing_else(project):
    demos.main(["one"])
    lines, before = (project / "examples" / "README.md").read_text().splitlines(), TABLE.splitlines()
    assert lines[:4] + lines[5:] == before[:4] + before[5:]
    cells = [cell.strip() for cell in lines[4].strip("|").split("|")]
    assert cells[:3] == ["[`one`](one/README.md)", "a kind", "5 % of words"]
    assert float(cells[3]) >= 0
    assert cells[4].startswith("20")


@pytest.mark.parametrize(("name", "file"), [("one", "gallery/one.png"), ("claims/some", "claims/some.png")])
def test_the_picture_of_an_example_or_a_claim_is_copied_and_made_narrow(project, name, file):
    folder = project / "runs" / name
    folder.mkdir(parents=True)
    demos.PIL.Image.new("RGB", (2800, 100)).save(folder / pathlib.Path(file).name)
    demos.copy_picture(name)
    with demos.PIL.Image.open(project / "docs" / "images" / file) as picture:
        assert picture.size == (1400, 50)


def test_an_example_that_fails_keeps_its_row_and_is_named(project):
    with pytest.raises(SystemExit, match="two") as error:
        demos.main([])
    assert "one" not in str(error.value).split(".")[0]
    assert TABLE.splitlines()[5] in (project / "examples" / "README.md").read_text()


def test_an_unknown_example_is_named(project, capsys):
    with pytest.raises(SystemExit):
        demos.main(["three"])
    assert "Received: three" in capsys.readouterr().err
    assert (project / "examples" / "README.md").read_text() == TABLE


def test_a_missing_picture_is_named(project, capsys):
    demos.main(["one"])
    assert f"There is no picture {project / 'runs' / 'one' / 'one.png'}\n" in capsys.readouterr().out


def test_a_write_that_is_interrupted_leaves_the_old_file(tmp_path):
    (tmp_path / "table").write_text("old")
    with pytest.raises(KeyboardInterrupt), demos.replaced_at_once(tmp_path / "table") as path:
        path.write_text("ne")
        raise KeyboardInterrupt
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("table", "old")]

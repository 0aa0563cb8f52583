# SPDX-License-Identifier: Apache-2.0
"""The example as a person at a shell meets it: its own process, its own files."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import keras
import pytest

import keras_seq  # noqa: F401  (its classes are in the saved model)

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "g2p" / "train.py"
PAIRS = [("cat", "K AE T"), ("act", "AE K T"), ("tack", "T AE K"), ("at", "AE T"), ("cat", "K AA T")]


spec = importlib.util.spec_from_file_location("train", EXAMPLE)
train = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train)


def run(*arguments, cwd):
    return subprocess.run([sys.executable, EXAMPLE, *arguments], capture_output=True, text=True, cwd=cwd)


def write_tsv(path, pairs):
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    """Arguments that name three good files of the tmp_path."""
    return {f"--{split}": write_tsv(tmp_path / f"{split}.tsv", PAIRS) for split in ("train", "dev", "test")}


def flat(files):
    return [text for item in files.items() for text in item]


def test_help_documents_every_option(tmp_path):
    text = run("--help", cwd=tmp_path).stdout
    for option in ("source", "train", "dev", "test", "cell", "units", "epochs", "seed", "output"):
        assert f"--{option} " in text
    assert "lstm,gru,rnn" in text
    assert "None" not in text  # a default worth printing, or no default


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat\tK AE T\nno tab\n", "bad.tsv:2: expected two columns separated by a tab, got 1"),
        ("cat\tK AE T\na\tb\tc\n", "bad.tsv:2: expected two columns separated by a tab, got 3"),
        ("cat\t \n", "bad.tsv:1: expected a target, got a blank column"),
        ("", "bad.tsv:1: expected two columns separated by a tab, the file is empty"),
        (None, "bad.tsv: No such file or directory"),
    ],
)
@pytest.mark.parametrize("option", ["--train", "--test"])
def test_a_bad_file_is_named_with_its_line(option, content, message, files, tmp_path, capsys):
    files[option] = tmp_path / "bad.tsv"
    if content is not None:
        files[option].write_text(content)
    with pytest.raises(SystemExit) as stop:
        train.main([*map(str, flat(files)), "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_bad_file_at_the_shell(files, tmp_path):
    files["--dev"].write_text("cat\tK AE T\nno tab\n")
    result = run(*flat(files), "--output", "out", cwd=tmp_path)
    assert result.returncode == 2
    assert "dev.tsv:2: expected two columns" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "train.tsv"], "--train, --dev and --test go together"),
        (["--epochs", "0"], "--epochs: must be greater than 0, got 0"),
        (["--units", "many"], "--units: invalid int value: 'many'"),
        (["--dropout", "1.5"], "--dropout: must be at least 0 and less than 1, got 1.5"),
        (["--cell", "qrnn"], "--cell: invalid choice: 'qrnn'"),
        (["--output", str(EXAMPLE)], "train.py is a file"),
    ],
)
def test_a_bad_option_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        train.parse_arguments(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_trains_on_any_tsv_and_leaves_everything_it_promises(files, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("keep")
    sizes = ("--units", "8", "--embedding-dim", "4", "--epochs", "2", "--batch-size", "2", "--cell", "gru")
    for _ in range(2):  # a second run replaces the results of the first, and nothing else
        result = run(*flat(files), *sizes, "--output", output, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    names = {"metrics.json", "model.keras", "history.png", "attention.png", "saved_model", "mine.txt"}
    assert {path.name for path in output.iterdir()} == names
    metrics = json.loads((output / "metrics.json").read_text())
    assert set(metrics) == {"per", "wer", "train_words_per_second", "train_seconds", "words_tested"}
    assert metrics["words_tested"] == 4
    assert metrics["train_words_per_second"] == pytest.approx(10 / metrics["train_seconds"])
    model = keras.saving.load_model(output / "model.keras")
    wrong = sum(
        said not in [target for source, target in PAIRS if source == word]
        for word, said in zip(["cat", "act", "tack", "at"], model.generate(["cat", "act", "tack", "at"]), strict=True)
    )
    assert metrics["wer"] == pytest.approx(100 * wrong / 4)
    assert "keras_seq was not imported" in result.stdout
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"out"}  # no staging folder is left

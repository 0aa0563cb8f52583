# SPDX-License-Identifier: Apache-2.0
"""The g2p example trains on any TSV files, reports bad input in one line, and writes all its results."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_seq.data import text_vectorizer
from keras_seq.decoding import BeamSampler  # registers the classes of the saved model
from keras_seq.training import backup_file

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "g2p" / "train.py"
PAIRS = [("cat", "K AE T"), ("act", "AE K T"), ("tack", "T AE K"), ("at", "AE T"), ("cat", "K AA T")]


@pytest.fixture
def train(monkeypatch):
    """The module train.py, as its own folder sees it."""
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    specification = importlib.util.spec_from_file_location("g2p_train", EXAMPLE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    for name in ("options", "results", "checkpoint", "clock"):
        sys.modules.pop(name, None)


def run(*arguments, cwd, stderr=subprocess.PIPE):
    program = [sys.executable, EXAMPLE, *arguments]
    return subprocess.run(program, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=cwd)


def write_tsv(path, pairs):
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    """Arguments with three valid files in `tmp_path`."""
    return {f"--{split}": write_tsv(tmp_path / f"{split}.tsv", PAIRS) for split in ("train", "dev", "test")}


def as_arguments(files):
    return [argument for option_and_path in files.items() for argument in option_and_path]


def test_help_documents_every_option(tmp_path):
    text = run("--help", cwd=tmp_path).stdout
    for option in ("source", "train", "dev", "test", "cell", "units", "num-layers", "epochs", "seed", "output"):
        assert f"--{option} " in text
    assert "lstm,gru,mgu,simple_rnn,rnn" in text
    assert "None" not in text  # options without a default print none


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat\tK AE T\nno tab\n", "bad.tsv:2: expected two columns separated by a tab, got 1"),
        ("cat\tK AE T\na\tb\tc\n", "bad.tsv:2: expected two columns separated by a tab, got 3"),
        ("cat\t \n", "bad.tsv:1: expected a target, got a blank column"),
        ("", "bad.tsv:1: expected two columns separated by a tab, but the file is empty"),
        (None, "bad.tsv: No such file or directory"),
    ],
)
@pytest.mark.parametrize("option", ["--train", "--test"])
def test_a_bad_file_is_reported_with_its_line(train, option, content, message, files, tmp_path, capsys):
    files[option] = tmp_path / "bad.tsv"
    if content is not None:
        files[option].write_text(content)
    with pytest.raises(SystemExit) as stop:
        train.main([*map(str, as_arguments(files)), "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_bad_file_in_a_shell_gives_no_traceback(files, tmp_path):
    files["--dev"].write_text("cat\tK AE T\nno tab\n")
    result = run(*as_arguments(files), "--output", "out", cwd=tmp_path)
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
def test_a_bad_option_is_reported(train, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        train.parse_arguments(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_options_of_the_model_reach_it(train):
    options = "--cell rnn --num-layers 2 --decoder-layers 3 --units 6 --recurrent-dropout 0.2 --tie-embeddings"
    options = train.parse_arguments([*options.split(), "--attention", "none", "--readout", "tanh", "--layer-norm"])
    sources, targets = zip(*PAIRS, strict=True)
    model = train.build_model(options, {"train": (sources, targets)}, 3)
    for part, num_layers in ((model.encoder, 2), (model.decoder, 3)):
        assert (part.cell, part.num_layers, part.units, part.recurrent_dropout) == ("rnn", num_layers, 6, 0.2)
    assert model.encoder.layer_norm
    assert model.decoder.tie_embeddings
    assert model.decoder.get_config()["readout"] == "tanh"
    assert not model.has_attention


def test_a_preset_sets_what_is_not_given(train):
    options = train.parse_arguments(["--preset", "standard", "--units", "8", "--no-layer-norm", "--dropout", "0"])
    assert (options.cell, options.readout, options.label_smoothing) == ("lstm", "maxout", 0.1)
    assert (options.units, options.layer_norm, options.dropout) == (8, False, 0.0)


def test_a_small_file_is_read_more_often(train):
    options = train.parse_arguments(["--preset", "standard"])
    assert [train.choose_epochs(options, pairs) for pairs in (8_000, 25_000, 110_000, 900_000)] == [60, 40, 20, 20]
    assert train.choose_epochs(train.parse_arguments(["--epochs", "7"]), 8_000) == 7


def test_an_output_without_an_end_fits_its_attention_weights(train):
    vectorizer = text_vectorizer(["K AE T"], split="whitespace")  # ids 4 ... 6 are T, K, AE
    ids = np.array([[5, 6, 1], [5, 3, 0]])  # (batch, time); the first one reached its limit
    assert sys.modules["results"].tokens(vectorizer, ids) == [["K", "AE", "[UNK]"], ["K", "[END]"]]


@pytest.mark.parametrize("folder", ["a_file/out", "a_file/runs/out"])
def test_an_unwritable_output_folder_is_reported_before_training(train, folder, files, tmp_path, capsys):
    (tmp_path / "a_file").write_text("keep")
    with pytest.raises(SystemExit) as stop:
        train.main([*map(str, as_arguments(files)), "--output", str(tmp_path / folder)])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.err == f"--output: cannot write to {tmp_path / folder}: Not a directory\n"
    assert printed.out == ""  # no epoch ran


class TestCheckpoint:
    @pytest.fixture
    def checkpoint(self, train, tmp_path):
        """Function that opens the checkpoint of a program with these arguments."""

        def open_checkpoint(*arguments, dev=PAIRS):
            options = train.parse_arguments([*arguments, "--output", str(tmp_path / "runs" / "out")])
            splits = {"train": PAIRS, "dev": dev, "test": PAIRS}
            return train.Checkpoint(
                options, {split: tuple(zip(*pairs, strict=True)) for split, pairs in splits.items()}
            )

        return open_checkpoint

    def test_a_run_that_fails_before_the_first_epoch_leaves_no_files(self, checkpoint, tmp_path):
        with pytest.raises(KeyboardInterrupt), checkpoint() as unfinished, unfinished.results() as folder:
            (folder / "metrics.json").write_text("half")
            raise KeyboardInterrupt
        assert not (tmp_path / "runs" / "out").exists()

    def test_a_run_that_fails_later_leaves_what_it_needs_to_go_on(self, checkpoint, tmp_path):
        with pytest.raises(KeyboardInterrupt), checkpoint("--units", "8") as unfinished:
            (unfinished.folder / "backup-0").mkdir()
            raise KeyboardInterrupt
        assert (tmp_path / "runs" / "out" / "unfinished" / "backup-0").exists()
        with checkpoint("--units", "8", "--resume", "--ensemble", "2"):
            pass
        assert not (tmp_path / "runs" / "out" / "unfinished").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "has an unfinished training. Go on with it by --resume"),
            (["--resume", "--units", "9"], "--resume: the training was started with --units 8, got 9"),
            (["--resume", "--preset", "standard"], "was started with --preset demo, got standard"),
        ],
    )
    def test_an_unfinished_training_goes_on_only_as_it_began(self, checkpoint, arguments, message, capsys):
        with pytest.raises(KeyboardInterrupt), checkpoint("--units", "8") as unfinished:
            (unfinished.folder / "backup-0").mkdir()
            raise KeyboardInterrupt
        with pytest.raises(SystemExit) as stop:
            checkpoint(*arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
        assert (unfinished.folder / "backup-0").exists()

    @pytest.mark.slow
    def test_a_kill_before_the_model_is_saved_loses_no_training(self, train, checkpoint, files, tmp_path):
        arguments = [*map(str, as_arguments(files)), "--units", "4", "--embedding-dim", "2", "--epochs", "2", "--ema"]
        unfinished = checkpoint(*arguments)
        splits = train.load_data(unfinished.options)
        with pytest.raises(IsADirectoryError), unfinished:
            (unfinished.folder / "0.keras").mkdir()  # the model cannot be saved
            unfinished.train(train.train, splits, seed=0)
        backup = unfinished.folder / "backup-0"
        saved = backup_file.read_state(backup / "training.backup")
        (unfinished.folder / "0.keras").rmdir()
        with checkpoint(*arguments, "--resume") as resumed:
            model, history = resumed.train(train.train, splits, seed=0)
            assert not backup.exists()
        assert [len(history["loss"]), len(history["minutes"])] == [2, 2]
        minutes = dict(saved["callbacks"])["Clock"]
        assert history["minutes"][-1] == minutes  # no epoch ran again
        for weight, value in zip(model.variables, saved["variables"]["model"], strict=True):
            np.testing.assert_array_equal(weight, value)

    def test_a_kill_while_the_folder_is_deleted_leaves_no_models_to_go_on_with(self, checkpoint, tmp_path):
        deleted = tmp_path / "runs" / "out" / "unfinished.deleted"
        deleted.mkdir(parents=True)
        (deleted / "0.json").write_text("{}")
        with checkpoint("--units", "9") as unfinished:
            assert not (unfinished.folder / "0.json").exists()
        assert [*(tmp_path / "runs" / "out").iterdir()] == []

    def test_a_training_goes_on_only_with_the_pairs_that_it_began_with(self, checkpoint, capsys):
        with pytest.raises(KeyboardInterrupt), checkpoint() as unfinished:
            (unfinished.folder / "backup-0").mkdir()
            raise KeyboardInterrupt
        with pytest.raises(SystemExit) as stop:
            checkpoint("--resume", dev=[*PAIRS[:-1], ("cat", "K AE T")])
        assert stop.value.code == 2
        message = "--resume: the dev pairs are not those with which the training was started\n"
        assert capsys.readouterr().err == message
        checkpoint("--resume")

    def test_resume_needs_an_unfinished_training(self, checkpoint, capsys):
        with pytest.raises(SystemExit):
            checkpoint("--resume")
        assert "--resume: there is no unfinished training in" in capsys.readouterr().err


class TestUseSavedModel:
    """`use_saved_model.py`, which `train.py` runs at the end."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "the following arguments are required: saved_model, text"),
            (["folder"], "the following arguments are required: text"),
            (["folder", "cat"], "folder is not a SavedModel"),
        ],
    )
    def test_wrong_arguments_are_reported(self, arguments, message, tmp_path):
        program = [sys.executable, EXAMPLE.with_name("use_saved_model.py"), *arguments]
        result = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 2
        assert result.stderr.startswith("usage: use_saved_model.py")
        assert message in result.stderr

    def test_train_shows_its_errors_and_fails_with_it(self, train, tmp_path, capsys):
        with pytest.raises(SystemExit, match=r"use_saved_model\.py ended with status 2"):
            train.use_saved_model(tmp_path, ["cat"])
        assert f"{tmp_path} is not a SavedModel" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("line", "is_shown"),
        [
            ("WARNING: All log messages before absl::InitializeLog() is called are written to STDERR", False),
            ("I0000 00:00:1.244961   16269 port.cc:153] oneDNN custom operations are on.", False),
            ("E0000 00:00:1.662456   16269 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error", False),
            ("E0000 00:00:1.658883   28713 util.cc:131] oneDNN supports DT_INT64 only on platforms with", False),
            ("E0000 00:00:1.662456   16269 cuda_dnn.cc:52] Loaded runtime CuDNN library: 8.9 but source was", True),
            ("W0000 00:00:1.244961   16269 loader.cc:1] a warning", True),
            ("Traceback (most recent call last):", True),
        ],
    )
    def test_only_startup_lines_of_tensorflow_are_hidden(self, train, line, is_shown):
        assert bool(sys.modules["results"].STARTUP_LINE.match(line)) != is_shown


@pytest.mark.slow
def test_trains_on_tsv_files_and_writes_all_results(files, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("keep")
    (output / "saved_model").mkdir()  # results of an earlier run are replaced, other files kept
    for earlier in ("saved_model/old.txt", "metrics.json"):
        (output / earlier).write_text("old")
    sizes = ("--units", "8", "--embedding-dim", "4", "--epochs", "2", "--batch-size", "2", "--cell", "gru")
    sizes += ("--num-layers", "2", "--tie-embeddings", "--recurrent-dropout", "0.1")
    result = run(*as_arguments(files), *sizes, "--output", output, cwd=tmp_path, stderr=subprocess.STDOUT)
    assert result.returncode == 0, result.stdout
    # The output is a pipe: one line for each epoch, and no control characters of a progress bar.
    assert sum("val_token_error_rate: " in line for line in result.stdout.splitlines()) == 2
    assert not set("\r\b\x1b") & set(result.stdout)
    names = {"metrics.json", "model.keras", "history.png", "attention.png", "saved_model", "mine.txt"}
    assert {path.name for path in output.iterdir()} == names
    assert not (output / "saved_model" / "old.txt").exists()
    metrics = json.loads((output / "metrics.json").read_text())
    names = {"result", "greedy", "beam", "histories", "train_words_per_second", "train_seconds", "words_tested"}
    assert set(metrics) == names
    assert [len(history["minutes"]) for history in metrics["histories"]] == [2]
    assert metrics["words_tested"] == 4
    assert metrics["result"].endswith("of 4 held-out words")
    assert metrics["train_words_per_second"] == pytest.approx(10 / metrics["train_seconds"])
    model = keras.saving.load_model(output / "model.keras")
    words = ["cat", "act", "tack", "at"]
    for name, sampler in (("greedy", "greedy"), ("beam", BeamSampler(5))):
        errors = sum(
            output not in [target for source, target in PAIRS if source == word]
            for word, output in zip(words, model.generate(words, sampler=sampler), strict=True)
        )
        assert set(metrics[name]) == {"per", "wer", "words_per_second"}
        assert metrics[name]["wer"] == pytest.approx(100 * errors / 4)
    _, *outputs, last = result.stdout[result.stdout.index("Results are in ") :].splitlines()
    assert outputs
    assert all(" → " in line for line in outputs)  # no lines of TensorFlow among them
    assert last == "keras_seq was not imported"
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"out"}  # no staging folder is left

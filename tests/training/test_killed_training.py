# SPDX-License-Identifier: Apache-2.0
"""A process that trains is killed at random moments, and the last one ends as one that was never killed."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from keras_seq.training.backup_file import read_state

SCRIPT = pathlib.Path(__file__).with_name("interrupted_training.py")


def start(kind, folder):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(SCRIPT), kind, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def run(kind, folder):
    folder.mkdir(exist_ok=True)
    with start(kind, folder) as process:
        process.communicate()
    assert process.returncode == 0


def kill(kind, folder, moment, count, delay, signal_number=signal.SIGKILL):
    """Starts the training and kills it some time after it reached a moment so many times."""
    folder.mkdir(exist_ok=True)
    with start(kind, folder) as process:
        seen = 0
        for line in process.stdout:
            seen += line.strip() == moment
            if seen == count:
                break
        assert seen == count, "the training ended before it could be killed"
        time.sleep(delay)
        process.send_signal(signal_number)
        process.stdout.read()
    assert process.returncode != 0


def results(folder):
    with np.load(folder / "weights.npz") as weights:
        return [weights[name] for name in weights], (folder / "history.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["seq2seq", "language_model"])
def test_a_killed_training_ends_as_an_undisturbed_one(kind, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run(kind, undisturbed)
    draw = random.Random(kind)
    # Within the first epoch, in which there is no backup; while a backup is written; in validation; in an epoch.
    for moment, count, longest in [("batch", 2, 0), ("backup", 2, 0.1), ("validation", 3, 0), ("batch", 6, 0.05)]:
        kill(kind, killed, moment, count, draw.uniform(0, longest))
        backup = killed / "backup" / "training.backup"
        if backup.exists():
            read_state(backup)  # whole
    assert backup.exists()
    run(kind, killed)
    expected, expected_history = results(undisturbed)
    weights, history = results(killed)
    assert history == expected_history
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not (killed / "backup").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_a_whole_backup(tmp_path):
    kill("language_model", tmp_path, "backup", 2, 0.03, signal.SIGINT)
    assert read_state(tmp_path / "backup" / "training.backup")["epoch"] in (1, 2)
    assert not list(tmp_path.glob("backup/*.temporary"))

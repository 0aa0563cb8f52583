# SPDX-License-Identifier: Apache-2.0
"""Searches in real processes: a chief and workers, of which one is killed, and the memory of many trials."""

import copy
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import keras_tuner
import pytest

from keras_seq.tuning.workers import _Chief as Chief

SEARCH = """
import os, sys, time
import keras, keras_tuner, numpy as np
from keras_seq import tuning

class Pause(keras.callbacks.Callback):  # long enough to be killed in
    def on_epoch_end(self, epoch, logs=None):
        time.sleep(2)

class Model(tuning.ChoiceHyperModel):
    def make_model(self, hp, units):
        assert units != 3, "three units are too few"
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dense(1)])

    def compile_model(self, model, optimizer):
        model.compile(optimizer, "mse")

x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
hypermodel = Model({"units": [2, 3, 4, 5, 6, 7]}, lambda hp: 1e-3)
tuner = keras_tuner.GridSearch(hypermodel, "val_loss", directory=sys.argv[1], project_name="shared")
tuning.search(tuner, x, x[:, :1], validation_split=0.5, epochs=2, callbacks=[Pause()], lost_after=12)
if "chief" in os.environ["KERASTUNER_TUNER_ID"]:
    for trial in tuning.list_trials(tuner):
        print("RESULT", trial["status"], trial["values"]["units"], trial["error"])
"""


def start(folder, tuner_id, port):
    environment = {**os.environ, "KERASTUNER_TUNER_ID": tuner_id, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}
    command = [sys.executable, "-c", SEARCH, str(folder)]
    with (folder / f"{tuner_id}.log").open("w") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def ongoing_trials(folder):
    try:
        return json.loads((folder / "shared" / "oracle.json").read_text())["ongoing_trials"]
    except (FileNotFoundError, json.JSONDecodeError):  # not there yet, or being written
        return {}


@pytest.mark.slow
def test_a_search_survives_a_killed_worker_and_tells_why_a_trial_failed(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = {name: start(tmp_path, name, port) for name in ("chief", "worker0", "worker1")}
    try:
        deadline = time.monotonic() + 240
        while set(ongoing_trials(tmp_path)) != {"worker0", "worker1"}:
            assert time.monotonic() < deadline, (tmp_path / "chief.log").read_text()
            time.sleep(0.2)
        lost = ongoing_trials(tmp_path)["worker1"]
        processes["worker1"].send_signal(signal.SIGKILL)
        assert processes["worker0"].wait(240) == 0, (tmp_path / "worker0.log").read_text()
        assert processes["chief"].wait(60) == 0, (tmp_path / "chief.log").read_text()
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    output = (tmp_path / "chief.log").read_text()
    assert f"worker1 was not heard of for 12 seconds. worker0 starts trial {lost} again." in output
    results = [line.split(maxsplit=3)[1:] for line in output.splitlines() if line.startswith("RESULT")]
    assert sorted(int(units) for status, units, _ in results if status == "COMPLETED") == [2, 4, 5, 6, 7]
    assert results[-1] == ["FAILED", "3", "AssertionError: three units are too few"]


@pytest.fixture
def chief(tmp_path):
    """The oracle of a chief; the tests ask it as workers do."""
    hyperparameters = keras_tuner.HyperParameters()
    hyperparameters.Int("x", 0, 1000)
    options = {"hyperparameters": hyperparameters, "max_trials": 4, "directory": tmp_path}
    tuner = keras_tuner.RandomSearch(lambda hp: None, "loss", **options)
    tuner.oracle.verbose = 0
    return Chief(tuner.oracle, tuner, lost_after=1.5)


def finish(chief, trial, loss):
    chief.update_trial(trial.trial_id, {"loss": loss})
    trial.status = "COMPLETED"
    chief.end_trial(trial)


def test_a_lost_trial_goes_to_another_worker_and_the_first_result_counts(chief):
    slow = copy.deepcopy(chief.create_trial("slow"))
    time.sleep(1.6)
    again = copy.deepcopy(chief.create_trial("fast"))
    assert (again.trial_id, again.hyperparameters.values) == (slow.trial_id, slow.hyperparameters.values)
    assert chief.tuner_ids == {"fast"}
    finish(chief, slow, 2.0)  # it was not lost after all
    finish(chief, again, 1.0)
    assert chief.get_best_trials(1)[0].score == 2.0
    assert (chief.ongoing_trials, chief.end_order) == ({}, [slow.trial_id])


def test_a_worker_that_shows_life_keeps_its_trial(chief):
    trial = chief.create_trial("slow")
    for _ in range(4):
        time.sleep(0.5)
        chief.get_trial(trial.trial_id)
    assert chief.create_trial("other").trial_id != trial.trial_id


def test_workers_wait_for_the_trials_of_others(chief):
    first = chief.create_trial("a")
    for _ in range(3):
        finish(chief, chief.create_trial("b"), 1.0)
    assert chief.create_trial("b").status == "IDLE"
    finish(chief, first, 1.0)
    assert [chief.create_trial(worker).status for worker in "ab"] == ["STOPPED", "STOPPED"]
    assert (chief.ongoing_trials, chief.tuner_ids) == ({}, set())


def test_too_many_failures_end_all_workers_and_raise_on_the_chief(chief):
    chief.create_trial("other")
    for _ in range(3):
        trial = chief.create_trial("worker")
        trial.status, trial.message = "FAILED", "ValueError: no"
        chief.end_trial(trial)
    assert [chief.create_trial(worker).status for worker in ("worker", "new")] == ["STOPPED", "STOPPED"]
    with pytest.raises(RuntimeError, match="Number of consecutive failures exceeded the limit of 3"):
        chief.close()


MEMORY = """
import sys, resource
import keras_tuner, numpy as np
from keras_seq import data, tuning

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

class Tuner(keras_tuner.RandomSearch):
    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        print("RESIDENT", resident())

words = ["".join(np.random.default_rng(i).choice(list("abcd"), 6)) for i in range(60)]
vectorizer = data.text_vectorizer(words)
fixed = {"cell": ["gru"], "units": [256], "embedding_dim": [16], "attention": [None]}
hypermodel = tuning.Seq2SeqHyperModel(vectorizer, vectorizer, dropout=[0.1], **fixed)
tuner = Tuner(hypermodel, "val_loss", max_trials=15, directory=sys.argv[1])
tuner.search(words, words, validation_data=(words[:20], words[:20]), epochs=1, verbose=0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_trials_release_their_memory(tmp_path):
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    resident = [int(line.split()[1]) for line in run.stdout.splitlines() if line.startswith("RESIDENT")]
    assert len(resident) == 15
    assert resident[-1] < 1.1 * resident[0]

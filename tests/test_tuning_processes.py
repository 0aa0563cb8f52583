# SPDX-License-Identifier: Apache-2.0
"""Searches in real processes: a chief and workers, of which one is killed, and the memory of many trials."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

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

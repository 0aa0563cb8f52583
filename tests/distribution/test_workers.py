# SPDX-License-Identifier: Apache-2.0
"""Two processes train as one does, and go on after one of them was killed."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.xdist_group("workers")  # one process of pytest starts the workers, for all tests
SCRIPT = pathlib.Path(__file__).with_name("worker.py")
SECONDS = 240  # more than all of this takes on a busy machine


def free_ports(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start(kind, folder, workers):
    """Starts a process without a strategy, or several workers."""
    folder.mkdir(exist_ok=True)
    addresses = [f"localhost:{port}" for port in free_ports(workers)]
    processes = []
    for index in range(workers):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if workers > 1:
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        command = [sys.executable, str(SCRIPT), kind, str(folder)]
        with (folder / f"{kind}{index}of{workers}.log").open("w") as log:
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment))
    return processes


def finish(processes):
    try:
        for process in processes:
            process.communicate(timeout=SECONDS)
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What two workers have seen, and one process without a strategy."""
    folder = tmp_path_factory.mktemp("undisturbed")
    processes = start("losses", folder, 2) + start("losses", folder, 1)
    assert finish(processes) == [0, 0, 0], (folder / "losses0of2.log").read_text()[-3000:]
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("0", "1", "alone")}


def assert_close(result, expected):
    assert result.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "training", ["clipped", "unseeded", "weighted", "shards", "language_model", "forecaster", "plain"]
)
def test_two_workers_report_the_losses_and_metrics_of_one_process(training, undisturbed):
    for worker in ("0", "1"):
        assert_close(undisturbed[worker][training], undisturbed["alone"][training])


def kill(victim, folder):
    """Starts two workers and kills one of them in its third epoch. The other one must end by itself, with an error."""
    processes = start("backup", folder, 2)
    lines = [processes[victim].stdout.readline() for _ in range(8)]  # an epoch has 3 batches
    assert lines == ["batch\n"] * 8
    processes[victim].send_signal(signal.SIGKILL)
    assert finish(processes)[1 - victim] > 0
    assert (folder / "backup" / "training.backup").exists()


@pytest.mark.slow
def test_after_a_worker_was_killed_all_restart_and_end_as_undisturbed_ones(undisturbed, tmp_path):
    kill(0, tmp_path)
    kill(1, tmp_path)
    assert finish(start("backup", tmp_path, 2)) == [0, 0]
    for worker in ("0", "1"):
        result = json.loads((tmp_path / f"{worker}.json").read_text())["backup"]
        assert result == undisturbed["0"]["backup"]
    assert not (tmp_path / "backup").exists()

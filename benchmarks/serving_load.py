# SPDX-License-Identifier: Apache-2.0
"""Starts examples/serving/server.py and sends it requests from many clients at once. Needs Python alone."""

import contextlib
import http.client
import json
import pathlib
import re
import subprocess
import sys
import threading
import time

SERVER = pathlib.Path(__file__).parents[1] / "examples" / "serving" / "server.py"


@contextlib.contextmanager
def running_server(saved_model, *options):
    """Starts the server on a free port. Gives `(process, port)`; at the end stops it if it still runs."""
    command = [sys.executable, str(SERVER), str(saved_model), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()  # comes when the server is ready, or empty if it has ended
            match = re.search(r":(\d+)$", line.rstrip())
            if match is None:
                raise RuntimeError(f"{SERVER.name} did not start; it ended with status {process.wait()}")
            yield process, int(match[1])
        finally:
            process.terminate()
            process.communicate()  # reads what it says at the end


def ask(connection, method, path, body=None):
    """Sends a request on a connection of `http.client`. Returns `(status, what the answer's JSON holds)`."""
    connection.request(method, path, body if isinstance(body, (bytes, type(None))) else json.dumps(body))
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def run_clients(port, requests):
    """Runs one client for each list of requests, all at the same time, each on a connection of its own.

    Args:
        port: port of a server on this machine.
        requests: for each client a list of requests, each a list of texts.

    Returns:
        `(answers, seconds)`: for each client a list of `(status, answer)`, and the seconds of all requests.
    """
    answers, seconds = [[] for _ in requests], [[] for _ in requests]
    start = threading.Barrier(len(requests))

    def run(client):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
            connection.connect()
            start.wait()
            for texts in requests[client]:
                begin = time.perf_counter()
                answers[client].append(ask(connection, "POST", "/generate", {"inputs": texts}))
                seconds[client].append(time.perf_counter() - begin)

    threads = [threading.Thread(target=run, args=(client,)) for client in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, [second for client in seconds for second in client]

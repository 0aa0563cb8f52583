# SPDX-License-Identifier: Apache-2.0
"""Compares the speed of contenders on a noisy machine.

Contenders run in processes of their own, because frameworks compete for threads. In every round each contender takes a
turn, so that other load on the machine affects all of them. What counts is the ratio of medians. A turn starts with a
pause, in which the threads of the previous contender stop spinning. Short runs are then repeated, after one that does
not count, which brings code and data back into the caches.
"""

import gc
import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from memory import release

MIN_ROUNDS = 5
PAUSE = 0.05  # seconds before a turn; ONNX Runtime spins for 30 ms, PyTorch and JAX for 10
TURN = 0.05  # seconds that the counted runs of a turn take; there is at least one
LONG_RUN = 0.2  # seconds; in longer runs cold caches do not matter


@dataclass
class Contender:
    """A framework, and a function that builds what it runs.

    Args:
        name: name of the contender.
        build: function `(case) -> run`, where `run()` runs the case once and waits for its results. It is called in the
            process of the contender and may import its framework. If it raises, the contender is left out.
        suits: function `(case) -> bool`, which tells whether the contender runs the case.
        process: name of the process. Contenders with the same name share a process; without one, each has its own.
    """

    name: str
    build: Callable
    suits: Callable = lambda case: True
    process: str = ""


@dataclass
class Result:
    """The times of all contenders on a case."""

    case: object
    seconds: dict = field(default_factory=dict)  # from names of contenders to lists of seconds, one for each run
    left_out: dict = field(default_factory=dict)  # from names of contenders that failed to error messages

    def median(self, name):
        return statistics.median(self.seconds[name])

    def spread(self, name):
        """Returns half the interquartile range, as a share of the median."""
        first, middle, third = statistics.quantiles(self.seconds[name], n=4)
        return (third - first) / 2 / middle


def run_contest(contenders, cases, seconds):
    """Times every contender on every case.

    Args:
        contenders: list of `Contender`.
        cases: list of cases, any objects that can be pickled.
        seconds: time for each case, all contenders together. Each contender has at least `MIN_ROUNDS` turns.

    Yields:
        A `Result` for each case.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for process in dict.fromkeys(c.process or c.name for c in contenders):
        builders = {c.name: c.build for c in contenders if (c.process or c.name) == process}
        pipe, child_pipe = context.Pipe()
        processes.append(context.Process(target=_serve, args=(builders, child_pipe)))  # no daemon: may have children
        processes[-1].start()
        child_pipe.close()  # so that reading fails when the process ends
        pipes.update(dict.fromkeys(builders, pipe))
    try:
        for case in cases:
            for pipe in dict.fromkeys(pipes.values()):
                _request(pipe, "forget", None)
            yield _compete(case, {c.name: pipes[c.name] for c in contenders if c.suits(case)}, seconds)
    finally:
        for process in processes:
            process.terminate()


def _compete(case, pipes, seconds):
    result = Result(case)

    def request(name, command, argument):
        answer, error = _request(pipes[name], command, argument)
        if error:
            result.left_out[name] = error
            result.seconds.pop(name, None)
        return answer

    for name in pipes:
        if request(name, "build", (name, case)):
            result.seconds[name] = []
    start, rounds = time.monotonic(), 0
    while result.seconds and (rounds < MIN_ROUNDS or time.monotonic() - start < seconds):
        for name in list(result.seconds):
            time.sleep(PAUSE)
            times = request(name, "turn", name)
            if times:
                result.seconds[name] += times
        rounds += 1
    return result


def _request(pipe, command, argument):
    """Returns `(answer, None)`, or `(None, error message)`."""
    try:
        pipe.send((command, argument))
        return pipe.recv()
    except (EOFError, OSError):
        return None, "its process has ended"


def _serve(builders, pipe):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
    functions = {}

    def build(name, case):
        functions[name] = builders[name](case)
        for _ in range(2):  # compile, allocate
            functions[name]()
        return True

    while True:
        command, argument = pipe.recv()
        try:
            if command == "forget":
                functions.clear()
                gc.collect()
                answer = release()
            else:
                answer = build(*argument) if command == "build" else _turn(functions[argument])
            pipe.send((answer, None))
        except Exception as error:  # whatever a framework raises: the others continue without it
            pipe.send((None, f"{type(error).__name__}: {error}"))


def _turn(function):
    """Returns the seconds of each counted run."""
    first = _time(function)
    if first > LONG_RUN:
        return [first]
    times = []
    while sum(times) < TURN:
        times.append(_time(function))
    return times


def _time(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start

# SPDX-License-Identifier: Apache-2.0
"""Timing contenders against each other on a noisy machine.

Frameworks fight over threads, so contenders live in processes of their own. In every round each of them takes a turn,
so that whatever else the machine does falls on all of them; what counts is the ratio of medians. A turn starts with a
pause, in which the threads of the contender before stop spinning. A short run is then repeated, after one that does
not count because it brings code and data back into the caches.
"""

import gc
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from memory import release

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # processors are compared

ROUNDS = 5  # at least
PAUSE = 0.05  # seconds before a turn; ONNX Runtime spins for 30 ms, PyTorch and JAX for 10
TURN = 0.05  # seconds of runs that count in a turn; at least one run
LONG = 0.2  # seconds of a run from which on cold caches do not matter


@dataclass
class Contender:
    """A framework, and how to build what it is to run.

    Args:
        name: of the contender.
        build: function `(case) -> function without arguments` that runs the case once and waits for its end. Called
            in the contender's process, where it may import its framework. What it raises leaves the contender out.
        suits: function `(case) -> bool`: whether the contender is meant to run the case.
        process: contenders that name the same one share it.
    """

    name: str
    build: Callable
    suits: Callable = lambda case: True
    process: str = ""


@dataclass
class Result:
    """How the contenders did on a case."""

    case: object
    seconds: dict = field(default_factory=dict)  # of each run, by the names of those that ran it
    left_out: dict = field(default_factory=dict)  # why, by the names of those that could not

    def median(self, name):
        return statistics.median(self.seconds[name])

    def spread(self, name):
        """Half the distance between the quartiles, as a share of the median."""
        first, middle, third = statistics.quantiles(self.seconds[name], n=4)
        return (third - first) / 2 / middle


def run_contest(contenders, cases, seconds):
    """Time every contender on every case.

    Args:
        contenders: list of `Contender`.
        cases: list of anything that can be pickled.
        seconds: how long all contenders together may run a case; each has at least `ROUNDS` turns.

    Yields:
        A `Result` a case.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for process in dict.fromkeys(c.process or c.name for c in contenders):
        builders = {c.name: c.build for c in contenders if (c.process or c.name) == process}
        pipe, theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(builders, theirs)))  # no daemon: may have children
        processes[-1].start()
        theirs.close()  # ours of it, so that we are told when the process ends
        pipes.update(dict.fromkeys(builders, pipe))
    try:
        for case in cases:
            for pipe in dict.fromkeys(pipes.values()):
                _ask(pipe, "forget", None)
            yield _compete(case, {c.name: pipes[c.name] for c in contenders if c.suits(case)}, seconds)
    finally:
        for process in processes:
            process.terminate()


def _compete(case, pipes, seconds):
    result = Result(case)

    def ask(name, verb, argument):
        answer, error = _ask(pipes[name], verb, argument)
        if error:
            result.left_out[name] = error
            result.seconds.pop(name, None)
        return answer

    for name in pipes:
        if ask(name, "build", (name, case)):
            result.seconds[name] = []
    start, rounds = time.monotonic(), 0
    while result.seconds and (rounds < ROUNDS or time.monotonic() - start < seconds):
        for name in list(result.seconds):
            time.sleep(PAUSE)
            times = ask(name, "turn", name)
            if times:
                result.seconds[name] += times
        rounds += 1
    return result


def _ask(pipe, verb, argument):
    """`(answer, None)`, or `(None, what went wrong)`."""
    try:
        pipe.send((verb, argument))
        return pipe.recv()
    except (EOFError, OSError):
        return None, "its process has ended"


def _serve(builders, pipe):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    functions = {}

    def build(name, case):
        functions[name] = builders[name](case)
        for _ in range(2):  # compile, allocate
            functions[name]()
        return True

    while True:
        verb, argument = pipe.recv()
        try:
            if verb == "forget":
                functions.clear()
                gc.collect()
                answer = release()
            else:
                answer = build(*argument) if verb == "build" else _turn(functions[argument])
            pipe.send((answer, None))
        except Exception as error:  # whatever a framework raises: the others go on without it
            pipe.send((None, f"{type(error).__name__}: {error}"))


def _turn(function):
    """Seconds of each run that counts."""
    first = _time(function)
    if first > LONG:
        return [first]
    times = []
    while sum(times) < TURN:
        times.append(_time(function))
    return times


def _time(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start

# SPDX-License-Identifier: Apache-2.0
"""Timing contenders against each other on a noisy machine.

Each contender lives in a process of its own, because frameworks fight over threads. In every round each of them runs
once, in turn, so that whatever else the machine does falls on all of them; what counts is the ratio of medians.
"""

import dataclasses
import multiprocessing
import statistics
import time


@dataclasses.dataclass
class Contender:
    """A framework, and how to build what it is to run.

    Args:
        name: of the contender.
        build: function `(case) -> function without arguments` that runs the case once and waits for its end; or
            None where it cannot run the case. Called in the contender's process, where it may import its framework.
    """

    name: str
    build: object


def run_contest(contenders, cases, seconds):
    """Time every contender on every case.

    Args:
        contenders: list of `Contender`; those whose package is missing are left out.
        cases: list of anything that can be pickled and hashed.
        seconds: how long all contenders together may run a case; each runs at least 5 times.

    Yields:
        `(case, times)`, times a dict from the names of those that ran it to lists of seconds.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for contender in contenders:
        pipes[contender.name], theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(contender.build, theirs), daemon=True))
        processes[-1].start()
    try:
        for case in cases:
            ready = [name for name, pipe in pipes.items() if _ask(pipe, ("build", case))]
            times = {name: [] for name in ready}
            deadline = time.monotonic() + seconds
            while ready and (time.monotonic() < deadline or len(times[ready[-1]]) < 5):
                for name in ready:
                    times[name].append(_ask(pipes[name], ("run", None)))
            yield case, times
    finally:
        for process in processes:
            process.terminate()


def _ask(pipe, request):
    pipe.send(request)
    return pipe.recv()


def _serve(build, pipe):
    function = None
    while True:
        verb, case = pipe.recv()
        if verb == "build":
            try:
                function = build(case)
            except ImportError:
                function = None
            if function is not None:
                for _ in range(3):  # compile, allocate, warm the caches
                    function()
            pipe.send(function is not None)
        else:
            start = time.perf_counter()
            function()
            pipe.send(time.perf_counter() - start)


def median(seconds):
    """In milliseconds."""
    return 1e3 * statistics.median(seconds)


def spread(seconds):
    """Half the distance between the quartiles, as a share of the median."""
    first, middle, third = statistics.quantiles(seconds, n=4)
    return (third - first) / 2 / middle

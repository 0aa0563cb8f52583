# SPDX-License-Identifier: Apache-2.0
"""No search waits for a thread of TensorFlow's pool that it holds itself."""

import concurrent.futures
import faulthandler
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf
from test_generation import make_model, random_words


@tf.function
def _add_nothing(log_probabilities, tokens, step):
    if step > 0:
        return log_probabilities * 1.0
    return log_probabilities + 0.0


def _control_flow_in_control_flow(log_probabilities, tokens, step):
    def loop():
        def body(i, x):
            return i + 1, tf.cond(i > 1, lambda: x + 0.0, lambda: x)

        return tf.while_loop(lambda i, _: i < 3, body, (0, log_probabilities))[1]

    return tf.cond(step > 0, loop, lambda: log_probabilities)


def run_searches_on(cpus):
    """Exits with an error if a search does not return. On so many CPUs TensorFlow has as many threads."""
    faulthandler.dump_traceback_later(100, exit=True)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cpus)])
    model, words = make_model(), random_words(3)
    expected = model.generate(words, max_length=5)
    for processor in (_add_nothing, _control_flow_in_control_flow):
        assert model.generate(words, max_length=5, processors=[processor]) == expected
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: model.generate(words, max_length=5), range(8))) == [expected] * 8
    if int(cpus) > 1:  # on one, TensorFlow itself waits

        def generate(word):
            return tf.py_function(lambda x: model.generate(x, max_length=5), [word], tf.string)

        assert [x.decode() for x in tf.function(lambda: tf.map_fn(generate, tf.constant(words)))().numpy()] == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot choose the CPUs of a process")
@pytest.mark.slow
@pytest.mark.parametrize("cpus", ["1", "2"])
def test_no_search_waits_for_a_thread_that_it_holds_itself(cpus):
    program = f"import test_search_threads; test_search_threads.run_searches_on({cpus})"
    folders = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr

# SPDX-License-Identifier: Apache-2.0
"""The last few compiled functions of a model, asked for by several threads."""

import sys
import threading

import pytest

from keras_seq.models.function_cache import FunctionCache


@pytest.fixture
def frequent_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_the_functions_used_last_are_kept():
    cache = FunctionCache()
    for key in [*range(16), 0, 16]:
        cache.get(key, lambda key=key: key)
    assert len(cache) == 16
    assert cache.get(0, lambda: "new") == 0
    assert cache.get(1, lambda: "new") == "new"


def test_threads_evict_functions_that_others_use(frequent_switches):
    cache, wrong = FunctionCache(), []

    def run(first):
        try:
            for i in range(20_000):
                key = (first + i) % 18
                if cache.get(key, lambda key=key: key) != key:
                    wrong.append(key)
        except KeyError as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(first,)) for first in (0, 5, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(cache) == 16

# SPDX-License-Identifier: Apache-2.0
"""Compiled functions, kept by the configuration that they were traced for."""

import collections
import functools
import math
import os
import threading

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq._private_api import run_one_after_another

_SIZE = 16


class FunctionCache:
    """Keeps the last few compiled functions of a model.

    It also hides them from TensorFlow, which would save them with the model, although they may call native ops.
    """

    def __init__(self):
        self._functions = collections.OrderedDict()
        self._lock = threading.RLock()  # a function that is being made may ask for others

    def __len__(self):
        return len(self._functions)

    def get(self, key, make):
        """Returns the function of a hashable key, from `make()` if there is none."""
        with self._lock:
            function = self._functions.pop(key, None)
            function = make() if function is None else function
            self._functions[key] = function  # the last one used is the last one here
            while len(self._functions) > _SIZE:
                self._functions.popitem(last=False)
        return function


def compile_once(function, specs):
    """Returns a function of tensors, traced for any batch size and lengths that the specs leave open.

    A call costs less than that of a `tf.function`, which searches its traces: 0.1 instead of 0.2 ms. Conditions on
    tensors are `tf.cond` or `tf.where`, as in Keras's own functions: AutoGraph takes seconds to find that there is
    nothing to convert.

    Args:
        function: Python function of tensors.
        specs: list of `tf.TensorSpec`, one for each argument.
    """
    return tf.function(function, input_signature=specs, autograph=False).get_concrete_function()


class SequentialFunction:
    """A function of `compile_once` whose operations run one after another, where TensorFlow can do that.

    The steps of a search hand little work to other threads, and each handing over takes longer than most of their
    operations. Beam search of batches of 512 words went from 2,010 to 3,570 words a second, greedy search of one word
    from 2.4 to 1.2 ms.

    TensorFlow runs such a function, and most functions inside it, such as the branches of a `tf.cond`, each on a thread
    of its pool, while those around it wait on theirs. If no thread is left, they wait forever. So a function that needs
    more threads than there are runs as usual, and so do those that come while another one runs, or from a
    `tf.py_function`, which holds a thread of the pool itself.
    """

    _running = threading.Lock()  # of all of them

    def __init__(self, function, specs):
        with run_one_after_another():  # loops are then not made into switches
            self._compiled = compile_once(function, specs)
        self._is_sequential = _threads_needed(self._compiled) <= _threads()
        if not self._is_sequential:
            self._compiled = compile_once(function, specs)

    def __call__(self, *arguments):
        if self._is_sequential and not _on_foreign_thread() and self._running.acquire(blocking=False):
            try:
                with run_one_after_another():
                    return self._compiled(*arguments)
            finally:
                self._running.release()
        return self._compiled(*arguments)


def _on_foreign_thread():
    """Whether Python did not start this thread, as those of TensorFlow, on which a `tf.py_function` runs."""
    return threading.current_thread().name.startswith("Dummy-")  # Python's name for them


def _threads():
    """Returns the number of threads in the pool on which TensorFlow runs operations."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return tf.config.threading.get_inter_op_parallelism_threads() or usable


def _threads_needed(function):
    """Returns how many threads a concrete function holds at most if its operations run one after another.

    Loops inside loops share a thread. The number is infinite if there are, or will be, switches, which cannot run in
    this way: those of a `tf.function` with control flow that was traced elsewhere.
    """
    graph = function.graph.as_graph_def()
    bodies = {body.signature.name: body.node_def for body in graph.library.function}

    @functools.cache
    def needed(name, is_in_loops_only):
        return most(bodies[name], is_in_loops_only)

    def most(nodes, is_in_loops_only):
        numbers = [0]
        for node in nodes:
            if node.op in ("Switch", "Merge") or node.attr["_lower_using_switch_merge"].b:
                return math.inf
            functions = (f.name for value in node.attr.values() for f in (value.func, *value.list.func))
            names = [name for name in functions if name in bodies]
            shares = is_in_loops_only and node.op in ("While", "StatelessWhile")
            numbers += [needed(name, shares) + (not shares) for name in names]
        return max(numbers)

    return 1 + most(graph.node, True)


def configuration_key(value, ignored=()):
    """Returns a hashable key that is equal for objects of one class with equal configurations.

    A function is a key of its own, because another one may have its name, and so are a layer, which has weights, and
    an object without a configuration. Where a class has arguments but no `get_config` that returns them, the attributes
    of the object take the place of the configuration.

    Args:
        value: an object with `get_config`, or any value in a configuration.
        ignored: names of entries of the configuration of `value` that do not count.
    """
    if isinstance(value, dict):
        return tuple((name, configuration_key(value[name])) for name in sorted(value) if name not in ignored)
    if isinstance(value, (list, tuple)):
        return (type(value), *map(configuration_key, value))
    if isinstance(value, np.ndarray):
        return (value.shape, value.dtype.str, value.tobytes())
    if hasattr(value, "get_config") and not isinstance(value, (type, keras.layers.Layer)):
        config = value.get_config()
        if not config or not _covers_arguments(type(value)):
            return (type(value), configuration_key(vars(value), ignored))
        functions = [_Identity(entry) for entry in vars(value).values() if callable(entry)]
        return (type(value), configuration_key(config, ignored), *functions)
    is_plain = isinstance(value, (str, bytes, int, float, np.generic, type(None)))
    return (type(value), value) if is_plain else _Identity(value)


def _covers_arguments(cls):
    """Whether no class redefines `__init__` without redefining `get_config`."""
    init, config = (next(c for c in cls.__mro__ if name in vars(c)) for name in ("__init__", "get_config"))
    return issubclass(config, init)


class _Identity:
    """Equal only to itself with the same value, which it keeps alive."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self):
        return id(self.value)

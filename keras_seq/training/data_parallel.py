# SPDX-License-Identifier: Apache-2.0
"""Data-parallel training by `tf.distribute`: replicas of a model, each of which reads its share of every batch."""

import contextlib
import functools
import random
import weakref

import keras
import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq._private_api import compile_arguments, take_summed_gradients, without_strategy
from keras_seq.data import epoch_order

_inside = weakref.WeakSet()  # models that are in the context


@contextlib.contextmanager
def data_parallel(model):
    """A context in which `fit` and `evaluate` run under `tf.distribute.MultiWorkerMirroredStrategy`.

    In Keras 3.15 both fail there. The models of keras_seq enter the context themselves; use it for other models, with
    or without layers of keras_seq. Without a strategy it does nothing.

    All workers run the same program, and each trains on its share of every batch: Keras shards the data, unless they
    are a `tf.distribute.DistributedDataset`. Datasets of keras_seq that have no seed take that of the chief, so that
    all workers shuffle alike. A step runs without XLA, even with `jit_compile=True`. The logs of a step are means over
    the replicas; those of an epoch are exact.

    Args:
        model: a compiled `keras.Model`, made in the scope of its strategy.

    Raises:
        ValueError: if the model is not compiled.

    Example:
        >>> import numpy as np
        >>> strategy = tf.distribute.MultiWorkerMirroredStrategy()  # reads TF_CONFIG; here there is one worker
        >>> with strategy.scope():
        ...     model = keras.Sequential([keras.Input((4, 2)), keras.layers.LSTM(3), keras.layers.Dense(1)])
        ...     model.compile("adam", "mse")
        >>> with data_parallel(model):
        ...     history = model.fit(np.ones((8, 4, 2)), np.ones((8, 1)), epochs=2, verbose=0)
        >>> len(history.history["loss"])
        2
    """
    strategy = model.distribute_strategy
    is_multi_worker = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    # Under other strategies Keras builds the model. Where nothing is to be built, that would only use up an epoch.
    is_needed = is_multi_worker or (strategy.num_replicas_in_sync > 1 and model.built and not _makes_metrics(model))
    if model in _inside or not is_needed:
        yield
        return
    if not model.compiled:
        raise ValueError(
            "`model` must be compiled in the scope of its strategy. Received: a model that is not compiled"
        )
    with without_strategy(model), strategy.scope():
        if is_multi_worker:
            _prepare(model)
        # A step that makes variables runs in a conditional at first, where TensorFlow's all-reduce lacks its key.
        if model.built and model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        _inside.add(model)
        try:
            yield
        finally:
            _inside.discard(model)


def _makes_metrics(model):
    """Whether a model was compiled with names or functions as metrics, whose variables are made when it is built."""
    arguments = compile_arguments(model)
    metrics = keras.tree.flatten([arguments.get("metrics"), arguments.get("weighted_metrics")])
    return not all(metric is None or isinstance(metric, keras.metrics.Metric) for metric in metrics)


def _prepare(model):
    """Gives a model its steps, and the datasets of keras_seq the seed of the chief."""
    # `compile` forgets the steps. Until then they are kept for the next `fit`, because tracing takes seconds.
    if not isinstance(model.train_function, _Step):
        model.train_function = _Step(model, model.train_step)
    if not isinstance(model.test_function, _Step):
        model.test_function = _Step(model, model.test_step)
    random_state = random.getstate()
    epoch_order.share_seed(int(from_chief(epoch_order.draw_seed())))
    random.setstate(random_state)  # initial weights may be drawn yet, and are those of a single process


def is_chief():
    """Whether this process writes files and prints: it is the first worker, or there is one process."""
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    resolver = strategy.cluster_resolver
    return not resolver.task_id if resolver.task_type == "worker" else resolver.task_type in (None, "chief")


def from_chief(values):
    """Returns an array of numbers as the chief has it, on all workers. All must call this at the same time."""
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return np.asarray(values)
    results = run_on_replicas(_take_that_of_the_first, tf.convert_to_tensor(np.asarray(values)))
    return np.asarray(strategy.experimental_local_results(results)[0])


def _take_that_of_the_first(values):
    context = tf.distribute.get_replica_context()
    is_first = tf.equal(context.replica_id_in_sync_group, 0)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(is_first, values, tf.zeros_like(values)))


def run_on_replicas(function, *args):
    """Returns what a function returns on each replica of the strategy in scope. It is traced once."""
    if not tf.distribute.has_strategy():
        return function(*args)
    return _traced(tf.distribute.get_strategy(), function)(*args)


@functools.lru_cache(maxsize=32)
def _traced(strategy, function):
    return tf.function(lambda *args: strategy.run(function, args), autograph=False, reduce_retracing=True)


def replica_share(weight):
    """Returns which share of the batch of all replicas this replica has, by a weight; 1 if there is one replica.

    The mean over all tokens is the sum of the means over the tokens of each replica, by these shares.

    Args:
        weight: how much this replica counts, such as its number of tokens: a scalar, float32.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return 1.0
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, weight)
    return tf.math.divide_no_nan(weight, total)


def apply_gradients(optimizer, gradients, weights):
    """Applies the gradients of a replica, whose sum over all replicas is the gradient.

    Keras clips gradients before it sums them. Here they are summed first, so that the step is that of one replica.

    No update runs before all gradients are there: beside a native kernel, it would take a core from the kernel's team.
    """
    if any(gradient is not None for gradient in gradients):
        gradients = tf.tuple(gradients)
    context = tf.distribute.get_replica_context()
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a `LossScaleOptimizer`
    clips = any(getattr(inner, name) is not None for name in ("clipnorm", "clipvalue", "global_clipnorm"))
    pairs = [pair for pair in zip(gradients, weights, strict=True) if pair[0] is not None]
    if not clips or not pairs or context is None or context.num_replicas_in_sync == 1:
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return
    gradients, weights = zip(*pairs, strict=True)
    gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))
    with take_summed_gradients(inner):
        optimizer.apply_gradients(zip(gradients, weights, strict=True))


class _Step:
    """A training or test step of all replicas, the `train_function` or `test_function` of a model.

    That of Keras takes the mean of the logs over an axis, which scalars lack.
    """

    def __init__(self, model, step):
        strategy = model.distribute_strategy

        def step_of_replica(data):
            return _mean_over_replicas(step(data))

        def run(data):
            results = strategy.run(step_of_replica, args=(data,))
            return keras.tree.map_structure(lambda value: strategy.experimental_local_results(value)[0], results)

        def run_next(iterator):
            return run(iterator.get_next())

        self._model = model
        self._run, self._run_next = run, run_next
        if not model.run_eagerly:
            self._run, self._run_next = (
                tf.function(function, reduce_retracing=True, autograph=False) for function in (run, run_next)
            )

    def __call__(self, iterator):
        if isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
            logs = self._run_next(iterator)
            with contextlib.suppress(tf.errors.OutOfRangeError):
                for _ in range(self._model.steps_per_execution - 1):
                    logs = self._run_next(iterator)
            return logs
        for _, data in zip(range(self._model.steps_per_execution), iterator, strict=False):
            logs = self._run(data)
        return logs


def _mean_over_replicas(logs):
    values = keras.tree.flatten(logs)
    context = tf.distribute.get_replica_context()
    if values and context.num_replicas_in_sync > 1:
        values = [tf.cast(value, "float32") for value in values]
        values = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
    return keras.tree.pack_sequence_as(logs, values)

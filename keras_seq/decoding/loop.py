# SPDX-License-Identifier: Apache-2.0
"""The loop of a search over the steps of a model, for every sampler."""

import dataclasses
import functools
import math
import operator
from typing import NamedTuple

import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq._private_api import inside_xla
from keras_seq.decoding.processors import check_processors
from keras_seq.decoding.registry import get_sampler
from keras_seq.decoding.sampler import LAST_RESORT, Candidates, Hypotheses


class _Carry(NamedTuple):
    """What a step passes to the next one. A row is a beam of a source."""

    t: object  # () int32, the number of steps done
    ends: object  # (sources,) int32, the number of steps of each source: its limit as long as it has not ended
    sampler_state: object  # nested tensors (sources, ...)
    tokens: object  # (rows,) int32, chosen in the last step
    state: list  # of the model, tensors (rows, ...)
    history: object  # (rows, max_steps) int32, the tokens so far; or () if no processor reads them
    records: dict  # a `tf.TensorArray` for each tensor of `Sampler.record_spec`


class _Sources(NamedTuple):
    """What all steps read of the sources that have not left the batch."""

    index: object  # (sources,) int32, which of the sources of the search these are
    memory: object  # nested tensors (sources, ...)
    memory_mask: object  # (sources, positions) bool; or ()


def search(
    step,
    state,
    memory,
    first_tokens,
    limits,
    *,
    sampler,
    end_id,
    forbidden_ids=(),
    processors=(),
    seed=None,
    positions=None,
    memory_mask=None,
    max_steps=None,
    return_attention_weights=False,
    drop_ended=True,
):
    """Chooses output tokens step by step, in one loop of the graph, until every source has ended or is at its limit.

    The hypotheses of a source do not depend on the others in the batch. The cost is linear in the number of steps.
    Sources that have ended leave the batch, each time at least half of it has ended. The search runs eagerly, in a
    `tf.function` and, with `drop_ended=False` and an integer `max_steps`, compiled by XLA.

    Args:
        step: the step function, `(tokens, state, memory, is_live) -> (logits, state, attention_weights)`. Its rows are
            `sampler.num_beams` for each source, those of one source adjacent. It maps `tokens` int32 (rows,) and the
            state to `logits` (rows, vocabulary) and `attention_weights` (rows, source positions), both of any float
            dtype, or None in place of attention weights that nothing reads. The source may have 0 positions. Rows for
            which `is_live` bool (rows,) is False may have any results.
        state: nested tensors (sources, ...), the first state of `step`, which sees (rows, ...). Shapes stay the same.
        memory: nested tensors (sources, ...), all that `step` reads of each source beside its state.
        first_tokens: int32 (sources,), the first input of `step`.
        limits: int32 (sources,), maximum number of tokens of each output, including the end token.
        sampler: a `Sampler` or its name, see `get_sampler`.
        end_id: id of the token that ends an output.
        forbidden_ids: ids of tokens that are never chosen.
        processors: functions `(log_probabilities, tokens, step) -> log_probabilities`, applied one after the other.
            They get float32 (rows, vocabulary), the tokens so far int32 (rows, max_steps), of which the first `step`
            are chosen and the others 0, and an int32 scalar. A result of -inf means that a token is not allowed. Where
            none is allowed, the end token is chosen.
        seed: int32 (2,), the seed of a sampler that draws. By default it is `sampler.next_seed()`.
        positions: int32 (sources,), the position of each source in the inputs, by default 0, 1, 2, ... What is drawn
            for a source depends only on the seed, its position and the step.
        memory_mask: bool (sources, source positions), those that count in the coverage of `BeamSampler`, by default
            all.
        max_steps: an upper bound of the limits, an integer or int32 scalar. By default it is the greatest limit. No
            output is longer.
        return_attention_weights: whether to return the attention weights.
        drop_ended: whether sources that have ended leave the batch. This changes the speed only.

    Raises:
        ValueError: if an argument has another form, or if `step`, the sampler or a processor returns something else.

    Returns:
        `Hypotheses`. Its time axis ends with the longest hypothesis; but if `drop_ended` is False and `max_steps` is an
        integer, it has length `max_steps`.

    Raises:
        ValueError: if XLA compiles the search, and `drop_ended` is True or `max_steps` no integer.

    Example:
        >>> import tensorflow as tf
        >>> from keras_seq.decoding import GreedySampler
        >>> logits = tf.math.log([[0.1, 0.6, 0.3], [0.1, 0.2, 0.7]])  # of the next token, after the tokens 0 and 1
        >>> def step(tokens, state, memory, is_live):
        ...     return tf.gather(logits, tokens), state, None
        >>> hypotheses = search(step, (), (), [0], [9], sampler=GreedySampler(), end_id=2)
        >>> hypotheses.token_ids.numpy()
        array([[[1, 2]]], dtype=int32)
    """
    sampler = get_sampler(sampler)
    processors = _check_processors(processors, end_id, forbidden_ids)
    loop = _Loop(step, state, sampler, end_id, tuple(forbidden_ids), processors)
    first_tokens, limits = tf.cast(first_tokens, tf.int32), tf.cast(limits, tf.int32)
    state, memory = tf.nest.map_structure(tf.convert_to_tensor, (state, memory))
    _check_sources(first_tokens, limits=limits, state=state, memory=memory)
    if seed is not None:
        seed = tf.cast(seed, tf.int32)
        if not seed.shape.is_compatible_with([2]):
            raise ValueError(f"`seed` must be two integers, shape (2,). Received: shape {seed.shape}")
    count = tf.shape(first_tokens)[0]
    is_static = not drop_ended and isinstance(max_steps, int)
    if inside_xla() and not is_static:
        raise ValueError(
            "`drop_ended` must be False and `max_steps` an integer where XLA compiles the search (`jit_compile`). "
            f"Received: drop_ended={drop_ended!r}, max_steps={max_steps!r}"
        )
    if max_steps is None:
        max_steps = tf.maximum(tf.reduce_max(limits), 0)
    limits = tf.clip_by_value(limits, 0, max_steps)
    positions = tf.range(count) if positions is None else tf.cast(positions, tf.int32)
    tokens, rows_state = loop.repeat(first_tokens), [loop.repeat(x) for x in tf.nest.flatten(state)]
    if not sampler.uses_attention:
        memory_mask = ()
    elif memory_mask is None:
        *_, weights = step(tokens, tf.nest.pack_sequence_as(state, rows_state), memory, tf.ones_like(tokens, tf.bool))
        memory_mask = tf.ones([count, tf.shape(weights)[1]], tf.bool)  # in a graph, the step is not run for its shape
    carry = _Carry(
        t=tf.constant(0),
        ends=limits,
        sampler_state=sampler.initial_state(positions, sampler.next_seed() if seed is None else seed, memory_mask),
        tokens=tokens,
        state=rows_state,
        history=tf.zeros([tf.shape(tokens)[0], max_steps], tf.int32) if processors else (),
        records=loop.start_records(max_steps if is_static else None, return_attention_weights),
    )
    sources = _Sources(tf.range(count), memory, memory_mask)
    if drop_ended:
        steps, records = loop.run_and_drop(carry, sources)
    else:
        carry = loop.run(carry, sources, 0)
        steps, records = carry.ends, {name: array.stack() for name, array in carry.records.items()}
    weights = records.pop("attention_weights", None)
    hypotheses, lengths = sampler.hypotheses(records, weights, steps)
    if not is_static:
        time = tf.maximum(tf.reduce_max(lengths), 0)
        token_ids, weights = hypotheses.token_ids[:, :, :time], hypotheses.attention_weights
        weights = None if weights is None else weights[:, :, :time]
        hypotheses = hypotheses._replace(token_ids=token_ids, attention_weights=weights)
    return Hypotheses(*(None if x is None else tf.stop_gradient(x) for x in hypotheses))


@dataclasses.dataclass(frozen=True)
class _Loop:
    """What stays the same in all steps of a search."""

    step_function: object
    state_structure: object  # that of the model's state
    sampler: object
    end_id: int
    forbidden_ids: tuple
    processors: tuple

    def repeat(self, x):
        """Returns a tensor with a row for each beam of its sources."""
        return x if self.sampler.num_beams == 1 else tf.repeat(x, self.sampler.num_beams, axis=0)

    def start_records(self, size, return_attention_weights):
        """Returns an empty `tf.TensorArray` for each tensor of a record. They grow if the size is None."""
        specs = self.sampler.record_spec(bool(self.processors))
        if return_attention_weights:
            specs["attention_weights"] = tf.TensorSpec([None, self.sampler.num_beams, None], tf.float32)
        return {
            name: tf.TensorArray(
                spec.dtype,
                size=0 if size is None else size,
                dynamic_size=size is None,
                infer_shape=size is not None,
                element_shape=spec.shape,
            )
            for name, spec in specs.items()
        }

    def run(self, carry, sources, keep):
        """Returns the carry after the next steps, until at most `keep` sources have not ended, but at least one."""

        def is_unfinished(carry):
            live = tf.reduce_sum(tf.cast(carry.t < carry.ends, tf.int32))
            return (live > keep) | tf.equal(carry.t, 0)  # a record of no step has no shape

        body = functools.partial(self.step, sources=sources)
        return tf.while_loop(is_unfinished, lambda carry: [body(carry)], [carry], shape_invariants=[_any_rows(carry)])[
            0
        ]

    def step(self, carry, sources):
        """Returns the carry after one step."""
        sampler, t, ends = self.sampler, carry.t, carry.ends
        is_live = sampler.live_rows(t < ends, carry.sampler_state)
        state = tf.nest.pack_sequence_as(self.state_structure, carry.state)
        results = self.step_function(carry.tokens, state, sources.memory, is_live)
        needs_weights = sampler.uses_attention or "attention_weights" in carry.records
        logits, state, weights = _check_results(results, carry.tokens, needs_weights)
        log_probabilities = tf.nn.log_softmax(tf.cast(logits, tf.float32))
        processed = self.process(log_probabilities, carry.history, t)
        mask = sources.memory_mask
        candidates = Candidates(t, log_probabilities, processed, weights, mask, ends, self.end_id)
        choice = sampler.step(candidates, carry.sampler_state)
        record = choice.record
        if "attention_weights" in carry.records:
            weights = tf.cast(weights, tf.float32)
            record["attention_weights"] = tf.reshape(weights, [-1, sampler.num_beams, tf.shape(weights)[1]])
        rows = [*tf.nest.flatten(state), carry.history] if self.processors else tf.nest.flatten(state)
        if choice.parents is not None:
            rows = [tf.gather(x, choice.parents) for x in rows]
        history = ()
        if self.processors:
            *rows, history = rows
            history = tf.where(tf.equal(tf.range(tf.shape(history)[1]), t), choice.tokens[:, None], history)
        t += 1
        return _Carry(
            t,
            # A source that ended earlier keeps its number of steps.
            tf.where(choice.is_done, tf.minimum(ends, t), ends),
            tf.nest.map_structure(_with_shape, choice.state, carry.sampler_state),
            choice.tokens,
            [_with_shape(new, old) for new, old in zip(rows, carry.state, strict=True)],
            history,
            {name: array.write(t - 1, record[name]) for name, array in carry.records.items()},
        )

    def process(self, log_probabilities, history, t):
        """Returns the log-probabilities after the processors, -inf for what is not allowed."""
        vocabulary = log_probabilities.shape[-1]
        for processor in self.processors:
            log_probabilities = _check_processed(processor(log_probabilities, history, t), log_probabilities, processor)
        if vocabulary is None:
            ids, where = tf.range(tf.shape(log_probabilities)[-1]), tf.where
        else:
            ids, where = np.arange(vocabulary), np.where  # constants
        is_forbidden = functools.reduce(operator.or_, (ids == i for i in self.forbidden_ids), ids < 0)
        threshold = tf.cast(where(is_forbidden, math.inf, -math.inf), tf.float32)
        fallback = tf.cast(where(ids == self.end_id, LAST_RESORT, -math.inf), tf.float32)
        # A NaN is not allowed either, because it is not greater than anything.
        return tf.where(log_probabilities > threshold, log_probabilities, fallback)

    def run_and_drop(self, carry, sources):
        """Runs the search. When at least half of the sources have ended, it drops all that have.

        Returns:
            `(steps, records)`: the number of steps of each source, int32 (sources,), and the dict of records (time,
            sources, ...), with any values after the steps of a source.
        """
        all_ends, count = carry.ends, tf.shape(carry.ends)[0]
        # Which rows of the records (time * sources) the results of each run are.
        places = tf.TensorArray(tf.int32, size=0, dynamic_size=True, infer_shape=False, element_shape=[None])

        def run_once(run, carry, sources, all_ends, places):
            start = carry.t
            carry = self.run(carry, sources, tf.shape(carry.ends)[0] // 2)
            all_ends = tf.tensor_scatter_nd_update(all_ends, sources.index[:, None], carry.ends)
            steps = tf.range(start, carry.t)[:, None]
            places = places.write(run, tf.reshape(steps * count + sources.index, [-1]))
            carry, sources = self.drop(carry, sources)
            return run + 1, carry, sources, all_ends, places

        def is_unfinished(run, carry, *_):
            return tf.equal(run, 0) | tf.reduce_any(carry.t < carry.ends)

        loop = (tf.constant(0), carry, sources, all_ends, places)
        invariants = (None, _any_rows(carry), _any_rows(sources), None, None)
        _, carry, _, all_ends, places = tf.while_loop(is_unfinished, run_once, loop, shape_invariants=invariants)
        places, steps = places.concat(), carry.t
        results = tf.range(tf.shape(places)[0])
        # What was not recorded, after the end of a source, reads any result.
        results = tf.reshape(tf.scatter_nd(places[:, None], results, [steps * count]), [steps, count])
        return all_ends, {name: tf.gather(array.concat(), results) for name, array in carry.records.items()}

    def drop(self, carry, sources):
        """Returns the carry and sources without those sources that have ended."""
        live = tf.cast(tf.where(carry.t < carry.ends)[:, 0], tf.int32)
        beams = self.sampler.num_beams
        rows = live if beams == 1 else tf.reshape(live[:, None] * beams + tf.range(beams), [-1])
        by_source = (carry.ends, carry.sampler_state, sources)
        by_row = (carry.tokens, carry.state, carry.history)

        def gather():
            return (
                tf.nest.map_structure(lambda x: tf.gather(x, live), by_source),
                tf.nest.map_structure(lambda x: tf.gather(x, rows), by_row),
            )

        # Nothing is copied at the end of the search.
        is_any_live = tf.shape(live)[0] > 0
        (ends, sampler_state, sources), (tokens, state, history) = tf.cond(
            is_any_live, gather, lambda: (by_source, by_row)
        )
        carry = carry._replace(ends=ends, sampler_state=sampler_state, tokens=tokens, state=state, history=history)
        return carry, sources


def _check_processors(processors, end_id, forbidden_ids):
    """Returns the processors as a tuple, and raises a ValueError if the search cannot run them."""
    processors = check_processors(processors, forbidden_ids=forbidden_ids)
    for processor in processors:
        own = getattr(processor, "end_id", end_id)
        if own != end_id:
            raise ValueError(f"`end_id` of {processor!r} must be that of the search, {end_id}. Received: {own}")
    return processors


def _check_sources(first_tokens, **arguments):
    """Raises a ValueError unless the first axis of all tensors is that of the sources."""
    if first_tokens.shape.rank not in (None, 1):
        raise ValueError(f"`first_tokens` must have the shape (sources,). Received: shape {first_tokens.shape}")
    for name, tensors in arguments.items():
        shape = "(sources,)" if name == "limits" else "(sources, ...)"
        for x in tf.nest.flatten(tensors):
            is_excess = name == "limits" and x.shape.rank not in (None, 1)
            if is_excess or not x.shape[:1].is_compatible_with(first_tokens.shape):
                raise ValueError(
                    f"`{name}` must have the shape {shape}, here with {first_tokens.shape[0]} sources as in "
                    f"`first_tokens`. Received: shape {x.shape}"
                )


def _check_results(results, tokens, needs_weights):
    """Returns the results of a step function, and raises a ValueError if they are not those of `search`."""
    expected = "`step` must return `(logits, state, attention_weights)`"
    if not isinstance(results, (tuple, list)) or len(results) != 3:
        count = f" of length {len(results)}" if isinstance(results, (tuple, list)) else ""
        raise ValueError(f"{expected}. Received: {type(results).__name__}{count}")
    logits, state, weights = results
    for name, x, shape in (
        ("logits", logits, "(rows, vocabulary)"),
        ("attention_weights", weights, "(rows, source positions)"),
    ):
        if x is None and name == "attention_weights" and not needs_weights:
            continue
        x = None if x is None else tf.convert_to_tensor(x)
        if x is None or x.shape.rank not in (None, 2) or not x.shape[:1].is_compatible_with(tokens.shape):
            received = None if x is None else f"shape {x.shape}"
            raise ValueError(f"{expected}, with `{name}` of the shape {shape}. Received: {received}")
    return logits, state, weights


def _check_processed(result, log_probabilities, processor):
    """Returns the result of a processor as float32, and raises a ValueError if it is of another form."""
    received = repr(result)
    if result is not None:
        result = tf.convert_to_tensor(result)
        received = f"dtype {result.dtype.name}, shape {result.shape}"
    if result is None or not result.dtype.is_floating or not result.shape.is_compatible_with(log_probabilities.shape):
        raise ValueError(
            "`processors` must return log-probabilities of the shape that they get, (rows, vocabulary), here "
            f"{log_probabilities.shape}. Received from {processor!r}: {received}"
        )
    return tf.cast(result, log_probabilities.dtype)


def _any_rows(structure):
    """Returns the shapes of nested tensors, with any size of the first axis, and None for what is no tensor."""

    def shape(x):
        return tf.TensorShape([None, *x.shape[1:]]) if tf.is_tensor(x) and x.shape.rank else None

    return tf.nest.map_structure(shape, structure)


def _with_shape(x, like):
    """Returns the tensor with the static shape of another, except for the rows."""
    x.set_shape([None, *like.shape[1:]])
    return x

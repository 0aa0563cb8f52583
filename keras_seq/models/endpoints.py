# SPDX-License-Identifier: Apache-2.0
"""The functions of an exported model that generates: its endpoints."""

import collections
import re

import numpy as np
from keras import tree

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.vocabulary import END_ID, FORBIDDEN_IDS, PAD_ID
from keras_seq.decoding import BeamSampler, Sampler
from keras_seq.exporting import export
from keras_seq.models.unknown_tokens import check_copy_unknown

_BEAMS = 5  # of the endpoint `generate_beam`
_MAX_LENGTH = ("max_length", [], "int32")
_SEED = ("seed", [2], "int32")


class Endpoints:
    """The part of a `GenerativeModel` that is exported, a mixin.

    The model has `_sides`, `decode`, `start_search`, `search_step` and `_score_tokens`.
    """

    def export(self, path, format="tf_saved_model", *, samplers=None, copy_unknown=False, native=False, **options):
        """Writes the model for programs in which neither Keras nor keras_seq is installed. See `keras_seq.export`.

        A SavedModel maps strings to strings. All its signatures take

        - `inputs`: strings (batch,), or int32 token ids (batch, source) if the model has no source vectorizer; or what
          the encoder takes.

        If the model has features, they take, instead of `inputs`, `source`, the same (the names of arrays in a dict
        begin with `source_`), and each feature by its name: strings or int64 tags (batch,), or float32 vectors
        (batch, n). An empty batch gives an empty batch. These signatures generate:

        - `serving_default`: the greedy outputs, a dict of `text`, strings (batch,), and `log_probabilities`, float32
          (batch,), the natural logarithm of the probability of each output. Without a target vectorizer `token_ids`
          take the place of `text`: int32 (batch, time). Each sequence ends with 3 (`[END]`) unless it reached its
          limit; then zeros.
        - `generate_max_length` also takes `max_length`, int32 (), the maximum number of tokens of an output; 0 for the
          default of `generate`. It returns the greedy `text`, `token_ids` and `log_probabilities`.
        - `generate_attention` returns these and `attention_weights`, float32 (batch, time, source), in which both time
          and source include `[END]`. Only if the model has attention. It takes about a fifth longer.
        - `generate_beam`: the 5 best outputs of a beam search with 5 beams, the best first; fewer of both if there are
          fewer tokens to choose from. A dict of `text`, strings (batch, 5); `token_ids`, int32 (batch, 5, time);
          `log_probabilities` and `scores`, float32 (batch, 5), the latter what ranks them.
        - With `samplers`, instead of `generate_beam` a signature `generate_<name>` for each, which returns the same
          without the axis of several outputs if there is one. If the sampler draws, it also takes `seed`, int32 (2,).

        And these serve programs that score outputs, or search themselves:

        - `score` also takes `targets`: strings (batch,), or int32 token ids (batch, time) without a target vectorizer.
          It returns `log_probabilities`, float32 (batch,), `token_log_probabilities`, float32 (batch, time), and
          `token_ids`, int32 (batch, time), the targets with `[END]`, then zeros.
        - `encode` returns what a search starts with: `tokens`, int32 (batch,), the first tokens; `limits`, int32
          (batch,), the default maximum numbers of tokens; tensors `state_...`, the first state; and tensors
          `memory_...`, what the steps read of the sources. All have the batch first.
        - `step` takes `tokens`, and all tensors `state_...` and `memory_...` by their names. It returns
          `log_probabilities` of the next tokens, float32 (batch, vocabulary), -inf for those that are never chosen;
          the next `state_...`; and with attention `attention_weights` (batch, source). To follow several hypotheses
          of a source, repeat its rows; to reorder them, reorder the rows of `tokens` and state.

        Args:
            path: see `keras_seq.export`.
            format: see `keras_seq.export`.
            samplers: dict from names to samplers, see `generate`. Defaults to beam search under the name "beam".
            copy_unknown: see `generate`. It holds for all signatures that generate.
            native: see `keras_seq.export`.
            **options: other options of the format.

        Raises:
            ValueError: if an argument is invalid.
            FileExistsError: if there is something else at `path`.
        """
        given = {"samplers": samplers, "copy_unknown": copy_unknown or None}
        options |= {name: value for name, value in given.items() if value is not None}
        export(self, path, format, native, **options)

    def endpoints(self, samplers=None, copy_unknown=False):
        """Returns the functions that `export` writes, a dict from names to `(function, input signature)`."""
        if copy_unknown:
            check_copy_unknown(self)
        samplers = self._default_samplers() if samplers is None else samplers
        endpoints = {
            "serving_default": self._generating("greedy", copy_unknown, names=_lean(self._sides)),
            "generate_max_length": self._generating("greedy", copy_unknown, [_MAX_LENGTH]),
        }
        if self.has_attention:
            endpoints["generate_attention"] = self._generating("greedy", copy_unknown, attends=True)
        for name, sampler in _check_samplers(samplers, endpoints).items():
            endpoints[f"generate_{name}"] = self._generating(sampler, copy_unknown)
        endpoints["score"] = self._scoring()
        return endpoints | self._stepping()

    def _default_samplers(self):
        beams = min(_BEAMS, self._sides.target.vocabulary_size - len(FORBIDDEN_IDS))
        return {"beam": BeamSampler(beams, num_return_sequences=beams)}

    def _generating(self, sampler, copy_unknown=False, extra=(), *, names=None, attends=False):
        """Returns an endpoint that generates, `(function, input signature)`.

        Args:
            sampler: a sampler or its name.
            copy_unknown: see `generate`.
            extra: `(name, shape, dtype)` of inputs beside the sources, arguments of `decode`.
            names: the results to return; by default all.
            attends: whether to return attention weights.
        """
        sampler = self.check_sampler(sampler)
        extra = [*extra, _SEED] if type(sampler).next_seed is not Sampler.next_seed else [*extra]
        ranks = sampler.num_beams > 1 or sampler.num_return_sequences > 1

        def generate(sources, *values):
            given = dict(zip((name for name, *_ in extra), values, strict=True))
            results = self.decode(
                sources,
                sampler=sampler,
                copy_unknown=copy_unknown,
                return_attention_weights=attends,
                **given,
            )
            if not ranks:
                del results["scores"]  # without processors these are the log-probabilities
            return results if names is None else {name: results[name] for name in names}

        return generate, self._signature(*extra)

    def _signature(self, *extra):
        """Returns the specs of the sources and of further inputs `(name, shape, dtype)`, and checks their names."""
        specs = [self.source_spec, *(tf.TensorSpec(shape, dtype, name) for name, shape, dtype in extra)]
        counts = collections.Counter(spec.name for spec in tf.nest.flatten(specs))
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise ValueError(
                f"`features` of a model that is exported must not have the name of an input of its signatures. "
                f"Received: {twice[0]!r}"
            )
        return specs

    def _scoring(self):
        """Returns the endpoint `score`."""
        target = self._sides.target

        def score(sources, targets):
            ids = target.texts_to_ids(targets) if targets.dtype == tf.string else with_end(targets)
            return score_results(self._score_tokens(self._sides.source.cast(sources), ids), ids)

        shape, dtype = ([None], "string") if target.vectorizer is not None else ([None, None], "int32")
        return score, self._signature(("targets", shape, dtype))

    def _stepping(self):
        """Returns the endpoints `encode` and `step`."""

        def start(sources):
            return self.start_search(self._sides.source.cast(sources))

        def encode(sources):
            started = start(sources)
            tensors = _named({"state": started.state, "memory": started.memory})
            return {"tokens": started.first_tokens, "limits": started.limits, **tensors}

        def structure(sources):
            started = start(sources)
            return {"state": started.state, "memory": started.memory}

        signature = self._signature()
        traced = tf.function(structure, input_signature=signature, autograph=False).get_concrete_function()
        specs = traced.structured_outputs

        def step(tokens, *tensors):
            given = tree.pack_sequence_as(specs, tensors)
            logits, state, weights = self.search_step(specs["memory"])(tokens, given["state"], given["memory"])
            results = {"log_probabilities": _allowed(logits), **_named({"state": state})}
            return {**results, "attention_weights": tf.cast(weights, tf.float32)} if self.has_attention else results

        inputs = [tf.TensorSpec([None, *spec.shape[1:]], spec.dtype, name) for name, spec in _named(specs).items()]
        return {
            "encode": (encode, signature),
            "step": (step, [tf.TensorSpec([None], tf.int32, "tokens"), *inputs]),
        }


def score_results(token_log_probabilities, ids):
    """Returns the results of the endpoint `score` for log-probabilities (batch, time) and the ids of the targets."""
    return {
        "log_probabilities": tf.reduce_sum(token_log_probabilities, axis=1),
        "token_log_probabilities": token_log_probabilities,
        "token_ids": ids,
    }


def with_end(ids):
    """Returns token ids (batch, time) with or without `[END]` at the end of each sequence as (batch, 1 + time) with."""
    ids = tf.pad(tf.where(ids == END_ID, PAD_ID, ids), [[0, 0], [0, 1]])
    lengths = tf.reduce_sum(tf.cast(ids != PAD_ID, tf.int32), axis=1)
    return tf.where(tf.range(tf.shape(ids)[1]) == tf.expand_dims(lengths, axis=1), END_ID, ids)


def _lean(sides):
    """Returns the names of the results of `serving_default`."""
    return ("token_ids" if sides.detokenizer is None else "text", "log_probabilities")


def _check_samplers(samplers, endpoints):
    """Returns the argument `samplers`, and raises a ValueError unless it is a dict of samplers by name."""
    if not isinstance(samplers, dict):
        raise ValueError(f"`samplers` must be a dict from names to samplers. Received: {samplers!r}")
    for name in samplers:
        if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9_]+", name) or f"generate_{name}" in endpoints:
            taken = ", ".join(repr(key.removeprefix("generate_")) for key in endpoints if key.startswith("generate_"))
            raise ValueError(
                f"The names in `samplers` must consist of letters, digits and underscores, and not be {taken}. "
                f"Received: {name!r}"
            )
    return samplers


def _allowed(logits):
    """Returns log-probabilities (rows, vocabulary) in which those of tokens that are never chosen are -inf."""
    log_probabilities = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    tokens = tf.range(tf.shape(logits)[1])
    is_forbidden = tf.reduce_any(tokens[:, None] == tf.constant(FORBIDDEN_IDS), axis=1)
    return tf.where(is_forbidden, -np.inf, log_probabilities)


def _named(structure):
    """Returns nested tensors as a flat dict, whose names are the paths: `memory_keys`, `state_0`."""
    return {"_".join(map(str, path)): tensor for path, tensor in tree.flatten_with_path(structure)}

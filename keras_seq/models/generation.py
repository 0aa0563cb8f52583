# SPDX-License-Identifier: Apache-2.0
"""What all models that generate sequences have in common: `generate`, `score`, `predict` and `decode`."""

import random

import keras
import numpy as np

from keras_seq._lazy_tensorflow import check_backend, tf
from keras_seq._private_api import inside_xla
from keras_seq.data.vocabulary import END_ID, FORBIDDEN_IDS
from keras_seq.decoding import Sampler, check_processors, get_sampler, search
from keras_seq.decoding.checks import check_count
from keras_seq.models.endpoints import Endpoints
from keras_seq.models.function_cache import FunctionCache, SequentialFunction, configuration_key
from keras_seq.models.progress import Progress
from keras_seq.models.scoring import Scoring
from keras_seq.models.sides import Sides, as_batch, constants, count_sources, is_batched, source_windows
from keras_seq.models.token_rows import in_order, length_batches
from keras_seq.models.training_pairs import holds_call_inputs
from keras_seq.models.unknown_tokens import check_copy_unknown, most_attended_tokens, text_sources
from keras_seq.ops.implementation import implementation_in_use
from keras_seq.training import Adam

MAX_LENGTH = 100_000  # of an output


class GenerativeModel(Endpoints, Scoring, keras.Model):
    """A model that maps sources to target sequences, token by token.

    A subclass defines `call`, `start_search` and `search_step`.

    Args:
        source_side: `TokenSide`, `ArraySide` or `FeatureSide` of the sources.
        target_side: `TokenSide` of the targets.
        **kwargs: arguments of `keras.Model`.
    """

    sampler = None  # set by `compile`

    def __init__(self, source_side, target_side, **kwargs):
        check_backend(self)
        super().__init__(**kwargs)
        self._sides = Sides(source_side, target_side)
        self._functions = FunctionCache()

    def start_search(self, source, num_beams=1):
        """Encodes sources for a search.

        Args:
            source: what `call` takes as its source: int32 token ids (batch, source), 0 = padding; or nested tensors
                (batch, ...).
            num_beams: number of rows of each source in a step.

        Returns:
            A `SearchStart`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `start_search`.")

    def search_step(self, memory):
        """Returns the step function of a search without its sources.

        Args:
            memory: nested tensors or specs like the memory that `start_search` returns.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `search_step`.")

    @property
    def has_attention(self):
        """Whether the steps of a search return attention weights."""
        return True

    def compile(self, optimizer=None, *args, sampler="greedy", **kwargs):
        """Configures the model for training.

        Args:
            optimizer: see `keras.Model.compile`. "adam" stands for `keras_seq.training.Adam()`.
            *args: other arguments of `keras.Model.compile`.
            sampler: default of `generate`, see there.
            **kwargs: arguments of `keras.Model.compile`.
        """
        self.sampler = get_sampler(sampler)
        optimizer = Adam() if optimizer == "adam" else optimizer
        super().compile(optimizer, *args, **kwargs)

    def get_compile_config(self):
        config = super().get_compile_config()  # empty if the model is not compiled
        return {**config, "sampler": keras.saving.serialize_keras_object(self.sampler)} if config else config

    def compile_from_config(self, config):
        # Required by Keras of every model that overrides `compile`.
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    @property
    def sides(self):
        """How sources and targets become tensors: a `Sides`."""
        return self._sides

    @property
    def source_vectorizer(self):
        """The layer that maps source strings to token ids, or None."""
        return self._sides.source.vectorizer

    @property
    def target_vectorizer(self):
        """The layer that maps target strings to token ids, or None."""
        return self._sides.target.vectorizer

    @property
    def text_layers(self):
        """The layers that process strings, before a training step and after a search."""
        return self._sides.layers

    @property
    def source_spec(self):
        """The `tf.TensorSpec` of sources: strings (batch,), token ids (batch, source) or arrays; or a dict of specs."""
        return self._sides.source.signature()

    def generate(
        self,
        inputs,
        max_length=None,
        batch_size=256,
        return_dict=False,
        *,
        sampler=None,
        processors=(),
        seed=None,
        verbose="auto",
        copy_unknown=False,
    ):
        """Decodes sources.

        The output of a source does not depend on the other sources. Sources of similar length are decoded together,
        whatever their order, and the outputs are in the order of the sources.

        Args:
            inputs: the sources. Strings, or token ids (batch, source) if the model has no source vectorizer, as a list,
                array or tensor, or the arrays (batch, ...) that the encoder takes, or a dict of them; a single string,
                or a scalar array or tensor of one; if the model has features, a dict of the sources and the features,
                or of a single string and its features; or a `tf.data.Dataset`, `keras.utils.PyDataset` or generator of
                batches of sources or of tuples `(sources, targets, ...)`, of which only the sources are used.
            max_length: maximum number of tokens of an output, including `[END]`, at most 100,000. Defaults to twice
                the length of the source, including `[END]`, plus 10. The length of a source that is an array is the
                number of positions in its memory.
            batch_size: maximum number of sources to decode at once.
            return_dict: whether to return a dict with scores and attention weights.
            sampler: how to choose tokens: "greedy", "random", "top_k", "top_p", "beam", or a sampler of
                `keras_seq.decoding`. Defaults to that of `compile`; if the model is not compiled, to "greedy", the most
                likely token at each step. Padding and `[START]` are never chosen.
            processors: list of processors of `keras_seq.decoding`, or other functions `(log_probabilities, tokens,
                step) -> log_probabilities`, which change the log-probabilities of each step before tokens are chosen.
            seed: integer that makes random samplers reproducible, independent of earlier calls. Defaults to the next
                seed of the sampler.
            verbose: 0 = silent, 1 = progress bar, 2 = one line at the end. "auto" shows a progress bar if decoding goes
                on 2 seconds after the first batch.
            copy_unknown: whether each `[UNK]` of an output text becomes the source token with the largest attention
                weight at that step, as it is written in the source, known to the vocabulary or not (Luong et al. 2015b;
                Jean et al. 2015). It remains `[UNK]` where that is the `[END]` of the source. The model must have
                attention and both vectorizers. A vectorizer with `standardize` copies what that leaves of the token.

        Returns:
            A list of strings, or a NumPy array of token ids (batch, time) if the model has no target vectorizer. For a
            single string, one output instead of a batch.

            With `return_dict`, a dict of NumPy arrays, also for a single string:

            - `text` (batch,), if the model has a target vectorizer.
            - `token_ids` (batch, time), int32. Each sequence ends with 3 (`[END]`) unless it reached its limit; then
              zeros.
            - `log_probabilities` (batch,), the natural logarithm of the probability of each output.
            - `scores` (batch,), by which the sampler ranks outputs.
            - `attention_weights` (batch, time, source), where source and target include `[END]`.

            With a sampler that has `num_return_sequences > 1`, each output is a list of strings, or an array of token
            ids (sequences, time), the best first, and each array of the dict has this axis after the batch. If there
            are not so many different outputs, the last ones are empty and have log-probability and score `-inf`.

        Raises:
            ValueError: if `inputs` have another form or are empty, if token ids are outside the vocabulary, or if
                another argument is invalid.

        Example:
            >>> import keras_seq
            >>> vectorizer = keras_seq.data.text_vectorizer(["abc"])
            >>> model = keras_seq.Seq2Seq(
            ...     keras_seq.Encoder(7, 4, 8), keras_seq.Decoder(7, 4, 8), vectorizer, vectorizer
            ... )
            >>> len(model.generate(["abc", "cab"], max_length=5))
            2
            >>> beam = keras_seq.decoding.BeamSampler(num_beams=3, num_return_sequences=3)
            >>> results = model.generate(["abc", "cab"], sampler=beam, return_dict=True)
            >>> results["text"].shape, results["log_probabilities"].shape
            ((2, 3), (2, 3))
        """
        if tf.is_symbolic_tensor(inputs):
            raise ValueError(f"`inputs` must not be symbolic: in a graph, call `decode`. Received: {inputs}")
        inputs, is_single = as_batch(self._sides.source, inputs)
        if max_length is not None:
            check_count("max_length", max_length, MAX_LENGTH)
        batch_size = check_count("batch_size", batch_size)
        is_named = isinstance(sampler, str)
        sampler = self.check_sampler(
            next((choice for choice in (sampler, self.sampler) if choice is not None), "greedy")
        )
        processors = check_processors(processors, max_length, self._sides.target.vocabulary_size, FORBIDDEN_IDS)
        if copy_unknown:
            check_copy_unknown(self)
        limit = tf.constant(max_length or 0, tf.int32)
        seed = _seed_tensor(seed, sampler, is_named)
        key = (
            configuration_key(sampler, ignored=("seed", "seed_generator")),
            configuration_key(processors),
            return_dict,
            bool(copy_unknown),
        )
        progress = Progress(count_sources(inputs), verbose)
        batches = []
        for positions, sources in self._source_batches(inputs, batch_size, copy_unknown):
            spec = self._sides.source.signature(sources)
            decode = self._functions.get(
                (*key, str(spec), implementation_in_use()),
                lambda spec=spec: self._compile_decode(sampler, processors, return_dict, copy_unknown, spec),
            )
            decoded = decode(sources, limit, tf.constant(positions), seed)
            names = decoded if return_dict else ["text" if "text" in decoded else "token_ids"]
            batches.append((positions, {name: decoded[name].numpy() for name in names}))
            progress.add(len(positions))
        progress.close()
        results = in_order(batches)
        if return_dict:
            if "text" in results:
                results["text"] = np.array(_decoded(results["text"]))
            return results
        outputs = _decoded(results["text"]) if "text" in results else results["token_ids"]
        return outputs[0] if is_single else outputs

    def check_sampler(self, sampler):
        """Returns a sampler, given itself or its name, and raises a ValueError if the model cannot use it."""
        sampler = get_sampler(sampler)
        sampler.check(self._sides.target.vocabulary_size - len(FORBIDDEN_IDS))
        if sampler.uses_attention and not self.has_attention:
            raise ValueError(
                "`sampler` must not read attention weights, as `BeamSampler` does with a `coverage_penalty`, because "
                f"the model has no attention. Received: {type(sampler).__name__} with {sampler.get_config()}"
            )
        return sampler

    def _source_batches(self, inputs, batch_size, as_texts=False):
        """Yields `(positions, sources)`: an array (batch,), and tensors (batch, ...)."""
        side = self._sides.source
        if side.vectorizer is not None and not is_batched(inputs):
            inputs = side.check_sources(inputs)
            if count_sources(inputs) == 1:  # one call from string to string
                yield np.zeros(1, "int32"), inputs
                return
        side = text_sources(side) if as_texts else side
        first = 0
        for rows in source_windows(side, inputs, batch_size):
            for indices in length_batches(rows.lengths, batch_size):
                yield (first + indices).astype("int32"), constants(rows.padded(indices))
            first += len(rows)

    def _compile_decode(self, sampler, processors, return_attention_weights, copy_unknown, source_spec):
        spec = source_spec.get("source") if isinstance(source_spec, dict) else source_spec

        def decode(sources, max_length, positions, seed):
            return self.decode(
                sources,
                max_length,
                sampler=sampler,
                processors=processors,
                positions=positions,
                seed=seed,
                return_attention_weights=return_attention_weights,
                # Texts come one by one, unless tokens are copied from them.
                drop_ended=copy_unknown or getattr(spec, "dtype", None) != tf.string,
                copy_unknown=copy_unknown,
            )

        specs = [source_spec, *(tf.TensorSpec(shape, tf.int32) for shape in ([], [None], [2]))]
        return SequentialFunction(decode, specs)

    def decode(
        self,
        inputs,
        max_length=0,
        *,
        sampler="greedy",
        processors=(),
        seed=None,
        positions=None,
        return_attention_weights=True,
        drop_ended=True,
        copy_unknown=False,
    ):
        """Decodes a batch within a graph, for `generate` and for export.

        Args:
            inputs: strings (batch,) or int32 token ids (batch, source), a list, array or tensor; if the model has
                features, a dict of the sources and the features.
            max_length: int32 scalar, the maximum number of tokens; 0 for the default of `generate`. Where XLA compiles
                the function around this call (`jit_compile`), a positive Python integer.
            sampler: see `generate`.
            processors: see `generate`.
            seed: int32 tensor (2,), or None for samplers that are not random.
            positions: int32 tensor (batch,), the positions of the sources in a larger input, which decide about random
                numbers.
            return_attention_weights: whether to return attention weights.
            drop_ended: whether sources that have ended leave the batch. This changes the speed only. It must be False
                where XLA compiles the function around this call. The outputs are then `max_length` long.
            copy_unknown: see `generate`. The inputs must then be strings.

        Returns:
            A dict of tensors; see `generate`.

        Raises:
            ValueError: if XLA compiles the function around this call, and `max_length` or `drop_ended` do not allow it;
                or if `copy_unknown` is not possible.
        """
        sampler = get_sampler(sampler)
        max_steps = None
        if inside_xla():  # it needs to know all shapes
            if drop_ended or not isinstance(max_length, int) or max_length < 1:
                raise ValueError(
                    "`drop_ended` must be False and `max_length` a positive Python integer where XLA compiles the "
                    f"decoding (`jit_compile`). Received: drop_ended={drop_ended!r}, max_length={max_length!r}"
                )
            max_steps = max_length
        if copy_unknown:
            check_copy_unknown(self)
        start = self.start_search(self._sides.source.cast(inputs), sampler.num_beams)
        hypotheses = search(
            start.step,
            start.state,
            start.memory,
            start.first_tokens,
            tf.where(max_length > 0, max_length, start.limits),
            sampler=sampler,
            end_id=END_ID,
            forbidden_ids=FORBIDDEN_IDS,
            processors=processors,
            seed=seed,
            positions=positions,
            memory_mask=start.memory_mask,
            max_steps=max_steps,
            return_attention_weights=return_attention_weights or copy_unknown,
            drop_ended=drop_ended,
        )
        results = {name: value for name, value in hypotheses._asdict().items() if value is not None}
        if sampler.num_return_sequences == 1:
            results = {name: value[:, 0] for name, value in results.items()}
        if self._sides.detokenizer is not None:
            unknown_tokens = None
            if copy_unknown:
                vectorizer, weights = self.source_vectorizer, results["attention_weights"]
                unknown_tokens = most_attended_tokens(vectorizer, inputs, weights)
            results["text"] = self._sides.detokenizer(results["token_ids"], unknown_tokens)
        if not return_attention_weights:
            results.pop("attention_weights", None)
        return results

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Decodes sources like `generate`, or computes logits from prepared inputs.

        As in Keras, targets in the data are ignored.

        Args:
            x: sources in a form that `generate` takes; or the inputs of `call`, `(source ids, decoder inputs)` from
                `prepare`, or a `tf.data.Dataset` of batches that begin with them.
            batch_size: see `keras.Model.predict`. Defaults to 256 for sources.
            verbose: see `generate` for sources, else `keras.Model.predict`.
            steps: see `keras.Model.predict`. Only for the inputs of `call`.
            callbacks: see `keras.Model.predict`. Only for the inputs of `call`.

        Returns:
            For sources, the outputs of `generate` as a NumPy array. For `(source ids, decoder inputs)`, the teacher-
            forced logits (batch, time, target vocabulary), a NumPy array.
        """
        if holds_call_inputs(x, self._sides.source):
            return super().predict(x, batch_size, verbose=verbose, steps=steps, callbacks=callbacks)
        if steps is not None or callbacks is not None:
            raise ValueError(
                "`steps` and `callbacks` must be None unless `x` contains `(source ids, decoder inputs)`. "
                f"Received: steps={steps!r}, callbacks={callbacks!r}"
            )
        batch_size = 256 if batch_size is None else batch_size
        return np.asarray(self.generate(x, batch_size=batch_size, verbose=verbose))

    def predict_on_batch(self, x):
        """Decodes one batch of sources, or computes its logits. See `predict`."""
        return super().predict_on_batch(x) if holds_call_inputs(x, self._sides.source) else np.asarray(self.generate(x))


def _seed_tensor(seed, sampler, is_named):
    """Returns the seed of a search, int32 (2,). `is_named` tells that the sampler was made for this search only."""
    if seed is None and is_named and type(sampler).next_seed is not Sampler.next_seed:
        seed = random.getrandbits(63)  # as in Keras; the generator of the sampler would be one more variable
    if seed is None:
        seed = sampler.next_seed()
        return tf.constant([0, 0]) if seed is None else seed  # None: the sampler draws nothing
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool):
        raise ValueError(f"`seed` must be an integer or None. Received: {seed!r}")
    return tf.constant(np.array([int(seed) % 2**64], "uint64").view("int32"))


def _decoded(texts):
    """Returns an array of UTF-8 bytes (batch,) or (batch, sequences) as a list of strings, nested likewise."""
    # A copied token may be invalid UTF-8, as in the source.
    return [text.decode(errors="replace") if isinstance(text, bytes) else _decoded(text) for text in texts]

# SPDX-License-Identifier: Apache-2.0
"""Generation and scores of documents."""

import numpy as np

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.streams import add_special_ids, document_ids, is_document, list_documents
from keras_seq.data.vocabulary import PAD_ID, START_ID
from keras_seq.decoding import RandomSampler
from keras_seq.decoding.checks import check_count
from keras_seq.models.endpoints import score_results, with_end
from keras_seq.models.function_cache import compile_once
from keras_seq.models.generation import GenerativeModel
from keras_seq.models.scoring import tokens_log_probabilities
from keras_seq.models.token_rows import TokenRows, in_order, length_batches
from keras_seq.models.token_side import TokenSide
from keras_seq.ops.implementation import implementation_in_use

DEFAULT_LENGTH = 200  # of a continuation


class Continuation(GenerativeModel):
    """The part of a `LanguageModel` that continues prompts and scores documents.

    Args:
        vectorizer: layer from `keras_seq.data.text_vectorizer`, or None if documents are token ids.
        vocabulary_size: number of tokens.
        **kwargs: arguments of `keras.Model`.
    """

    def __init__(self, vectorizer, vocabulary_size, **kwargs):
        super().__init__(
            TokenSide("prompt", "`prompt`", vectorizer, vocabulary_size, adds_end=False),
            TokenSide("document", "`documents`", vectorizer, vocabulary_size),
            **kwargs,
        )
        self.vocabulary_size = vocabulary_size

    @property
    def vectorizer(self):
        """The layer that maps strings to token ids, or None."""
        return self.target_vectorizer

    @property
    def has_attention(self):
        return False

    def generate(
        self,
        prompt=None,
        max_length=DEFAULT_LENGTH,
        batch_size=256,
        return_dict=False,
        *,
        sampler=None,
        processors=(),
        seed=None,
        verbose="auto",
    ):
        """Continues prompts.

        The prompts run through the layers in one call, then tokens are chosen one by one, in one compiled loop. The
        continuation of a prompt does not depend on the other prompts.

        Args:
            prompt: a string, or a sequence of token ids; or a list of them, or a `tf.data.Dataset` or generator. By
                default None: the model begins a document. So does each None in a list.
            max_length: maximum number of tokens of a continuation, including `[END]`, at most 100,000.
            batch_size: maximum number of prompts to continue at once.
            return_dict: whether to return a dict with scores.
            sampler: how to choose tokens: "greedy", "random", "top_k", "top_p", "beam", or a sampler of
                `keras_seq.decoding`. Defaults to that of `compile`. Padding and `[START]` are never chosen.
            processors: see `Seq2Seq.generate`. They see the tokens of the continuation, not the prompt.
            seed: integer that makes random samplers reproducible; see `Seq2Seq.generate`.
            verbose: see `Seq2Seq.generate`.

        Returns:
            A list of strings, the continuations without their prompts; or a NumPy array of token ids (batch, time) if
            the model has no vectorizer. For a single prompt or None, one output instead of a batch.

            With `return_dict`, a dict of NumPy arrays, also for a single prompt: `text` (batch,), if the model has a
            vectorizer, `token_ids` (batch, time), `log_probabilities` and `scores` (batch,). See `Seq2Seq.generate`,
            also for samplers that return several sequences.

        Raises:
            ValueError: if a prompt is empty or has another form, if token ids are outside the vocabulary, or if another
                argument is invalid.
        """
        is_single = prompt is None or is_document(prompt)
        prompts = [prompt] if is_single else prompt
        options = {"sampler": sampler, "processors": processors, "seed": seed, "verbose": verbose}
        outputs = super().generate(prompts, max_length, batch_size, return_dict, **options)
        return outputs[0] if is_single and not return_dict else outputs

    def _source_batches(self, inputs, batch_size, as_texts=False):
        prompts = list_documents(inputs, "`prompt`")
        is_given = np.array([prompt is not None for prompt in prompts])
        lengths = np.zeros(len(prompts), "int64")
        values = np.zeros(0, "int32")
        if is_given.any():
            values, lengths[is_given] = self._document_ids([p for p in prompts if p is not None], "`prompt`")
        if np.any(is_given & (lengths == 0)):
            raise ValueError(
                "`prompt` must not be empty. Leave it out, or pass None, to begin a document. Received: ''"
            )
        rows = TokenRows(values, lengths)
        for indices in length_batches(lengths, batch_size):
            yield indices.astype("int32"), tf.constant(rows.padded(indices))

    def decode(self, inputs, max_length=0, **options):
        return super().decode(inputs, max_length, **{**options, "return_attention_weights": False})

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Continues prompts like `generate`.

        Args:
            x: prompts in a form that `generate` takes.
            batch_size: maximum number of prompts to continue at once. Defaults to 256.
            verbose: see `generate`.
            steps: None, as in `Seq2Seq.predict`.
            callbacks: None, as in `Seq2Seq.predict`.

        Returns:
            The continuations of `generate` as a NumPy array: strings (batch,) or int32 token ids (batch, time).

        Raises:
            ValueError: if an argument is invalid.
        """
        return super().predict(x, batch_size, verbose, steps, callbacks)

    def score(self, documents, batch_size=32, return_dict=False, *, window=64):
        """Computes the natural logarithm of the probability of each document, including that of `[END]`.

        Long documents are read window by window, so memory is of order `batch_size * window * vocabulary_size`.

        Args:
            documents: documents in a form that `fit` takes, but no streams.
            batch_size: maximum number of documents to score at once.
            return_dict: whether to return a dict with the log-probability of each token.
            window: number of steps to compute at once.

        Returns:
            A NumPy array (batch,), float32. With `return_dict`, a dict of NumPy arrays:

            - `log_probabilities` (batch,).
            - `token_log_probabilities` (batch, time), zeros after `[END]`.
            - `token_ids` (batch, time), int32, the documents with `[END]`, then zeros.

        Raises:
            ValueError: if the documents have another form, or if token ids are outside the vocabulary.
        """
        check_count("batch_size", batch_size)
        check_count("window", window)
        values, lengths = self._document_ids(documents, "`documents`")
        rows = TokenRows(add_special_ids(values, lengths), lengths + 2)
        specs = [tf.TensorSpec([None, None], tf.int32)]
        specs += [tf.TensorSpec([None, state.shape[1]], state.dtype) for state in self.get_initial_state(1)]
        compute = self._functions.get(
            ("score", implementation_in_use()), lambda: compile_once(self._score_window, specs)
        )
        batches = []
        for indices in length_batches(rows.lengths, batch_size):
            ids, state, scores = rows.padded(indices), self.get_initial_state(len(indices)), []
            for first in range(0, ids.shape[1] - 1, window):
                part, *state = compute(tf.constant(ids[:, first : first + window + 1]), *state)
                scores.append(part.numpy())
            batches.append((indices, {"token_log_probabilities": np.concatenate(scores, 1), "token_ids": ids[:, 1:]}))
        results = in_order(batches)
        results["log_probabilities"] = results["token_log_probabilities"].sum(axis=1)
        return results if return_dict else results["log_probabilities"]

    def export(self, path, format="tf_saved_model", *, samplers=None, native=False, **options):
        """Writes the model for programs in which neither Keras nor keras_seq is installed. See `keras_seq.export`.

        All signatures of a SavedModel take `inputs`, prompts: strings (batch,), or int32 token ids (batch, time) if the
        model has no vectorizer. An empty prompt begins a document. An empty batch gives an empty batch.

        - `serving_default` returns the greedy continuations, of at most 200 tokens, and their `log_probabilities`: see
          `Seq2Seq.export`, also for `generate_max_length`, `encode` and `step`.
        - `generate_random` also takes `seed` int32 (2,), `temperature` float32 () and `max_length` int32 (). It returns
          continuations that are drawn: `text` if the model has a vectorizer, `token_ids` and `log_probabilities`.
        - With `samplers`, instead of `generate_random` a signature `generate_<name>` for each, see `Seq2Seq.export`.
        - `score` takes documents as `inputs`. It returns `log_probabilities`, `token_log_probabilities` and
          `token_ids`; see `score`.

        Args:
            path, format, samplers, native, **options: see `Seq2Seq.export`.

        Raises:
            ValueError: if an argument is invalid.
            FileExistsError: if there is something else at `path`.
        """
        super().export(path, format, samplers=samplers, native=native, **options)

    def endpoints(self, samplers=None):
        endpoints = super().endpoints(samplers)
        if samplers is None:
            endpoints["generate_random"] = self._drawing()
        return endpoints

    def _default_samplers(self):
        return {}

    def _drawing(self):
        """Returns the endpoint `generate_random`."""
        sampler = RandomSampler(seed=0)

        def draw(inputs, seed, temperature, max_length):
            sampler.temperature = temperature
            results = self.decode(inputs, max_length, sampler=sampler, seed=seed)
            del results["scores"]
            return results

        return draw, self._signature(
            ("seed", [2], "int32"), ("temperature", [], "float32"), ("max_length", [], "int32")
        )

    def _scoring(self):
        def score(inputs):
            are_texts = inputs.dtype == tf.string
            ids = self._sides.target.texts_to_ids(inputs) if are_texts else with_end(inputs)
            starting = tf.pad(ids, [[0, 0], [1, 0]], constant_values=START_ID)
            return score_results(self._score_window(starting, *self.get_initial_state(tf.shape(ids)[0]))[0], ids)

        return score, self._signature()

    def _score_window(self, ids, *state):
        """Computes the log-probabilities (batch, time) of ids (batch, 1 + time), zeros for padding, and the state."""
        tokens, targets = tf.where(ids[:, 1:] == PAD_ID, PAD_ID, ids[:, :-1]), ids[:, 1:]
        logits, state = self(tokens, initial_state=list(state), return_state=True, training=False)
        return tokens_log_probabilities(logits, targets), *state

    def _document_ids(self, documents, label):
        """Returns the token ids of all documents, one after the other, and their lengths."""
        values, lengths = document_ids(documents, self.vectorizer, label)
        if values.size and values.max() >= self.vocabulary_size:
            raise ValueError(
                f"{label} must be token ids less than the vocabulary size, {self.vocabulary_size}. "
                f"Received: {values.max()}"
            )
        return values, lengths

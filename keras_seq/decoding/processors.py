# SPDX-License-Identifier: Apache-2.0
"""Processors: they change the log-probabilities of the next token before a sampler chooses it."""

import math

import keras

from keras_seq._lazy_tensorflow import tf
from keras_seq.decoding.checks import check_count, check_index, check_number, check_token_ids, check_vocabulary


class Processor:
    """Base class of processors, stateless functions of the log-probabilities of the next token and of the history.

    A search calls its processors one after the other at every step, on all rows at once. A row is one hypothesis: with
    beams, several rows belong to one source. What a processor sees of a row is its history only, neither its source nor
    its first token `[START]`. So no processor treats two sources differently.

    A processor returns -inf for a token that is not allowed. If none is allowed, the search ends the sequence. The
    later of two processors that contradict each other prevails only if it raises a value: `ForcedPrefix` does.

    Any function with these arguments is a processor. It runs in a compiled graph, so it uses TensorFlow operations, as
    `tf.where(step > 2, ...)` instead of `if step > 2`. The variables of Python that it reads keep the values of its
    first call: values that change are attributes of a class derived from this one, or a `tf.Variable`. Such a class can
    also be saved, if it implements `get_config` and is registered with `keras.saving.register_keras_serializable`, and
    can `check` its arguments before a search.

    Call arguments:
        log_probabilities: float tensor (rows, vocabulary).
        tokens: int32 tensor (rows, capacity), the tokens chosen so far, followed by zeros. The capacity may change
            from one call to the next.
        step: int32 scalar, the number of tokens chosen so far.

    Returns:
        The new log-probabilities, of the same shape and dtype. They need not sum to one.
    """

    def __call__(self, log_probabilities, tokens, step):
        raise NotImplementedError(f"{type(self).__name__} must implement `__call__`.")

    def check(self, max_length=None, vocabulary_size=None, forbidden_ids=()):
        """Raises a ValueError if a search cannot do what this processor demands.

        Args:
            max_length: the maximum number of tokens of an output, `[END]` included, or None if it differs between
                sources.
            vocabulary_size: the number of tokens to choose from, or None if it is not known.
            forbidden_ids: ids of tokens that the search never chooses.
        """

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def check_processors(processors, max_length=None, vocabulary_size=None, forbidden_ids=()):
    """Checks the processors of a search.

    Args:
        processors: a processor, or a list or tuple of them.
        max_length: see `Processor.check`.
        vocabulary_size: see `Processor.check`.
        forbidden_ids: see `Processor.check`.

    Returns:
        A tuple of the processors.

    Raises:
        ValueError: if one is not callable, or if its `check` fails.

    Example:
        >>> check_processors(ForcedPrefix([4, 5, 6]), max_length=2)
        Traceback (most recent call last):
        ...
        ValueError: `max_length` must be at least 3, the length of the forced prefix [4, 5, 6]. Received: 2
    """
    processors = tuple(processors) if isinstance(processors, (list, tuple)) else (processors,)
    for processor in processors:
        if not callable(processor) or isinstance(processor, type):
            raise ValueError(
                "`processors` must be functions of (log_probabilities, tokens, step), as the objects in "
                f"`keras_seq.decoding`. Received: {processor!r}"
            )
        if isinstance(processor, Processor):
            processor.check(max_length, vocabulary_size, forbidden_ids)
    return processors


@keras.saving.register_keras_serializable("keras_seq")
class MinLength(Processor):
    """Does not allow `[END]` before an output has a minimum number of tokens.

    `[END]` does not count, as with `min_new_tokens` of Hugging Face Transformers.

    Args:
        min_length: the minimum number of tokens before `[END]`.
        end_id: id of the token that ends a sequence.

    Raises:
        ValueError: if an argument is not an integer of at least 0. `check`: if `min_length` is greater than
            `max_length`.

    Example:
        >>> import numpy as np
        >>> processor = MinLength(2)
        >>> log_probabilities = np.log([[0.1, 0.1, 0.1, 0.7]])
        >>> np.exp(processor(log_probabilities, [[1, 0, 0]], step=1))
        array([[0.1, 0.1, 0.1, 0. ]])
        >>> np.exp(processor(log_probabilities, [[1, 2, 0]], step=2))
        array([[0.1, 0.1, 0.1, 0.7]])
    """

    def __init__(self, min_length, end_id=3):
        self.min_length = check_index("min_length", min_length)
        self.end_id = check_index("end_id", end_id)

    def __call__(self, log_probabilities, tokens, step):
        is_end = tf.range(tf.shape(log_probabilities)[1]) == self.end_id  # (vocabulary,)
        return forbid(log_probabilities, is_end & (step < self.min_length))

    def check(self, max_length=None, vocabulary_size=None, forbidden_ids=()):
        if max_length is not None and self.min_length > max_length:
            raise ValueError(f"`min_length` must be at most `max_length`={max_length}. Received: {self.min_length}")
        check_vocabulary("end_id", [self.end_id], vocabulary_size)

    def get_config(self):
        return {"min_length": self.min_length, "end_id": self.end_id}


@keras.saving.register_keras_serializable("keras_seq")
class NoRepeatNGram(Processor):
    """Allows no sequence of `size` tokens twice in an output (Paulus et al. 2018).

    With `size=1` no token occurs twice. `[END]`, which a sequence has once, is always allowed.

    Args:
        size: the number of tokens of an n-gram. Where the first `size - 1` tokens of an n-gram are repeated, its last
            one is not allowed.

    Raises:
        ValueError: if `size` is not a positive integer.

    Example:
        >>> import numpy as np
        >>> processor = NoRepeatNGram(2)
        >>> log_probabilities = np.log([[0.1, 0.2, 0.3, 0.4]])
        >>> np.exp(processor(log_probabilities, [[1, 2, 0, 1, 0]], step=4))  # after 1, not again 2
        array([[0.1, 0.2, 0. , 0.4]])
    """

    def __init__(self, size):
        self.size = check_count("size", size)

    def __call__(self, log_probabilities, tokens, step):
        tokens = tf.convert_to_tensor(tokens)
        rows, capacity = tf.shape(tokens)[0], tf.shape(tokens)[1]
        width = tf.minimum(self.size - 1, capacity)  # if the capacity is less, nothing matches
        # Compares the `width` tokens before each position with the last ones, in a history preceded by tokens that
        # occur nowhere. Near its beginning, a position sees more of these than a later one, so it does not match.
        padded = tf.concat([tf.fill([rows, width], -1), tokens], axis=1)  # (rows, width + capacity)

        def compare(offset, is_repeated):
            before = tf.slice(padded, [0, offset], [rows, capacity])  # (rows, capacity)
            last = tf.gather(padded, step + offset, axis=1)  # (rows,)
            return offset + 1, is_repeated & tf.equal(before, last[:, None])  # `==` loses the shape

        _, is_repeated = tf.while_loop(
            lambda offset, _: offset < width,
            compare,
            (tf.constant(0), tf.broadcast_to(tf.range(capacity) < step, [rows, capacity])),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None])),
        )
        return forbid(log_probabilities, token_sets(tokens, is_repeated, tf.shape(log_probabilities)[1]))

    def get_config(self):
        return {"size": self.size}


@keras.saving.register_keras_serializable("keras_seq")
class RepetitionPenalty(Processor):
    """Makes tokens that an output already has less likely (Keskar et al. 2019).

    As in beam search of Hugging Face Transformers, it works on log-probabilities: a negative one is multiplied by the
    penalty, a positive one, which another processor may return, is divided. A token with a probability near one is
    hardly changed.

    Args:
        penalty: positive number. 1 changes nothing, less than 1 makes repetitions more likely.

    Raises:
        ValueError: if `penalty` is not a finite number greater than 0.

    Example:
        >>> import numpy as np
        >>> processor = RepetitionPenalty(2.0)
        >>> log_probabilities = np.log([[0.1, 0.2, 0.3, 0.4]])
        >>> np.exp(processor(log_probabilities, [[1, 2, 0]], step=2)).round(2)
        array([[0.1 , 0.04, 0.09, 0.4 ]])
    """

    def __init__(self, penalty):
        self.penalty = check_number(
            "penalty", penalty, lambda value: 0 < value < math.inf, "a finite number greater than 0"
        )

    def __call__(self, log_probabilities, tokens, step):
        log_probabilities, tokens = tf.convert_to_tensor(log_probabilities), tf.convert_to_tensor(tokens)
        is_chosen = tf.range(tf.shape(tokens)[1]) < step  # (capacity,)
        has_occurred = token_sets(tokens, is_chosen, tf.shape(log_probabilities)[1])  # (rows, vocabulary)
        penalized = tf.where(log_probabilities < 0, log_probabilities * self.penalty, log_probabilities / self.penalty)
        return tf.where(has_occurred, penalized, log_probabilities)

    def get_config(self):
        return {"penalty": self.penalty}


@keras.saving.register_keras_serializable("keras_seq")
class ForcedPrefix(Processor):
    """Makes every output begin with the same tokens.

    The log-probability of a forced token becomes 0, as in Hugging Face Transformers, so the prefix does not count in
    the ranking of beams and is chosen even if an earlier processor forbids it. List a `ForcedPrefix` last. The
    `log_probabilities` that a search returns do count the prefix.

    The prefix is the same for all sources, because a processor does not know the source of a row. A search cuts outputs
    at their limit, even within the prefix.

    Args:
        token_ids: the prefix, integers (length,).

    Raises:
        ValueError: if `token_ids` are not integers of at least 0, or none. `check`: if they are more than `max_length`,
            outside the vocabulary, or tokens that the search never chooses.

    Example:
        >>> import numpy as np
        >>> from keras_seq.data import text_to_ids, text_vectorizer
        >>> vectorizer = text_vectorizer(["K AE T", "T UW"], split="whitespace")
        >>> processor = ForcedPrefix(text_to_ids(vectorizer, ["T UW"])[0])
        >>> processor.token_ids
        [4, 5]
        >>> log_probabilities = np.log(np.full((1, 8), 1 / 8))
        >>> np.exp(processor(log_probabilities, [[4, 0, 0]], step=1))
        array([[0., 0., 0., 0., 0., 1., 0., 0.]])
    """

    def __init__(self, token_ids):
        self.token_ids = check_token_ids("token_ids", token_ids)

    def __call__(self, log_probabilities, tokens, step):
        log_probabilities = tf.convert_to_tensor(log_probabilities)
        token = tf.gather(self.token_ids, tf.minimum(step, len(self.token_ids) - 1))
        is_forced = tf.range(tf.shape(log_probabilities)[1]) == token  # (vocabulary,)
        forced = forbid(tf.zeros_like(log_probabilities), ~is_forced)
        return tf.where(step < len(self.token_ids), forced, log_probabilities)

    def check(self, max_length=None, vocabulary_size=None, forbidden_ids=()):
        if max_length is not None and len(self.token_ids) > max_length:
            raise ValueError(
                f"`max_length` must be at least {len(self.token_ids)}, the length of the forced prefix "
                f"{self.token_ids}. Received: {max_length}"
            )
        check_vocabulary("token_ids", self.token_ids, vocabulary_size, forbidden_ids)

    def get_config(self):
        return {"token_ids": self.token_ids}


@keras.saving.register_keras_serializable("keras_seq")
class ForbiddenTokens(Processor):
    """Does not allow some tokens.

    Args:
        token_ids: ids of the tokens, integers (number,).

    Raises:
        ValueError: if `token_ids` are not integers of at least 0, or none. `check`: if they are outside the vocabulary.

    Example:
        >>> import numpy as np
        >>> from keras_seq.data import text_to_ids, text_vectorizer
        >>> vectorizer = text_vectorizer(["K AE T", "T UW"], split="whitespace")
        >>> processor = ForbiddenTokens(text_to_ids(vectorizer, ["T K"])[0])
        >>> processor.token_ids
        [4, 6]
        >>> log_probabilities = np.log(np.full((1, 8), 1 / 8))
        >>> np.exp(processor(log_probabilities, [[0, 0, 0]], step=0))
        array([[0.125, 0.125, 0.125, 0.125, 0.   , 0.125, 0.   , 0.125]])
    """

    def __init__(self, token_ids):
        self.token_ids = check_token_ids("token_ids", token_ids)

    def __call__(self, log_probabilities, tokens, step):
        ids = tf.constant([self.token_ids])
        return forbid(log_probabilities, token_sets(ids, True, tf.shape(log_probabilities)[1]))

    def check(self, max_length=None, vocabulary_size=None, forbidden_ids=()):
        check_vocabulary("token_ids", self.token_ids, vocabulary_size)

    def get_config(self):
        return {"token_ids": self.token_ids}


@keras.saving.register_keras_serializable("keras_seq")
class AllowedTokens(Processor):
    """Allows the tokens that a function of the history allows.

    Args:
        function: function of `(tokens, step)` that returns booleans (rows, vocabulary), True for the tokens that may
            follow. See `Processor` for `tokens` and `step`. To save it with a model, decorate it with
            `keras.saving.register_keras_serializable`.

    Raises:
        ValueError: if `function` is not callable, or returns something else.

    Example:
        >>> import numpy as np
        >>> import tensorflow as tf
        >>> from keras_seq.data import text_to_ids, text_vectorizer
        >>> vectorizer = text_vectorizer(["K AE T", "T UW"], split="whitespace")
        >>> vocabulary = vectorizer.get_vocabulary()
        >>> is_vowel = tf.constant([token in ("AE", "UW") for token in vocabulary])
        >>> def no_hiatus(tokens, step):  # no vowel after a vowel
        ...     last = tokens[:, tf.maximum(step, 1) - 1]  # (rows,)
        ...     is_after_vowel = tf.gather(is_vowel, last) & (step > 0)
        ...     return ~(is_after_vowel[:, None] & is_vowel)
        >>> log_probabilities = np.log(np.full((2, 8), 1 / 8))
        >>> history = text_to_ids(vectorizer, ["T AE", "UW T"]).to_tensor()
        >>> is_allowed = AllowedTokens(no_hiatus)(log_probabilities, history, step=2) > -np.inf
        >>> [" ".join(token for token, is_next in zip(vocabulary[4:], row[4:]) if is_next) for row in is_allowed]
        ['T K', 'T UW K AE']
    """

    def __init__(self, function):
        if not callable(function):
            raise ValueError(f"`function` must be a function of (tokens, step). Received: {function!r}")
        self.function = function

    def __call__(self, log_probabilities, tokens, step):
        log_probabilities = tf.convert_to_tensor(log_probabilities)
        is_allowed = tf.convert_to_tensor(self.function(tokens, step))
        if is_allowed.dtype != tf.bool or not is_allowed.shape.is_compatible_with(log_probabilities.shape):
            raise ValueError(
                f"`function` must return booleans (rows, vocabulary), here {log_probabilities.shape}. "
                f"Received: dtype {is_allowed.dtype.name}, shape {is_allowed.shape}"
            )
        return forbid(log_probabilities, ~is_allowed)

    def get_config(self):
        return {"function": self.function}  # Keras serializes it, which it cannot do with every function

    @classmethod
    def from_config(cls, config):
        function = config["function"]
        return cls(function if callable(function) else keras.saving.deserialize_keras_object(function))


def forbid(log_probabilities, is_forbidden):
    """Returns log-probabilities that are -inf where `is_forbidden`."""
    log_probabilities = tf.convert_to_tensor(log_probabilities)
    return tf.where(is_forbidden, tf.constant(-math.inf, log_probabilities.dtype), log_probabilities)


def token_sets(tokens, is_member, vocabulary_size):
    """Returns the sets of the tokens of each row as booleans (rows, vocabulary).

    Args:
        tokens: int32 tensor (rows, number).
        is_member: booleans that broadcast to `tokens`. Where False, the token does not count.
        vocabulary_size: number of tokens in the vocabulary.
    """
    counted = tf.where(is_member, tokens, vocabulary_size)  # what is outside the vocabulary is not counted
    # The raw op, because `tf.math.bincount` computes the size from the tokens, which XLA cannot.
    no_weights = tf.constant([], tf.float32)
    return tf.raw_ops.DenseBincount(input=counted, size=vocabulary_size, weights=no_weights, binary_output=True) > 0

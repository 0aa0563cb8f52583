# SPDX-License-Identifier: Apache-2.0
"""The pointer-generator: a decoder that copies tokens of the source, or generates others."""

import itertools

import keras
from keras import ops

from keras_seq._lazy_tensorflow import tf
from keras_seq._private_api import inside_xla
from keras_seq.data.vocabulary import PAD_ID, START_ID
from keras_seq.models.token_side import TokenSide, require
from keras_seq.ops.masks import as_bool_mask, shapes_match, zero_masked_positions

_SMALLEST = 1e-37  # weight of a token to copy: below, the derivative of the logarithm overflows in float32
_NEVER = -1e30  # in the place of the logarithm of 0, which has no derivative


class PointerGenerator(keras.layers.Layer):
    """The mixture of generating and copying of See, Liu & Manning (2017).

        p_gen = sigmoid(w_c . context + w_s . output + w_x . embedding + b)
        P(w) = (p_gen P_vocabulary(w) + (1 - p_gen) A(w)) / Z
        A(w) = sum of the attention weights over the source positions that hold w
        Z = p_gen + (1 - p_gen) sum over all w of A(w)

    Masked positions, padding, `[START]` and ids outside the vocabulary are not copied. Z is 1 where the attention
    weights of the others sum to 1. Where they sum to 0, P is P_vocabulary. The `[END]` of a source is a token like any
    other: to attend to it says that the output ends, as the source does. So is `[UNK]`.

    A step costs little beyond its readout. The product of w_c and the context is computed as the sum of the products of
    w_c and the memory by attention weights. Beside the factor p_gen / Z, the probabilities change for the tokens of the
    source only, so no tensor has axes of both positions and vocabulary.

    Args:
        vocabulary_size: number of tokens of sources and targets.
        **kwargs: arguments of `keras.layers.Layer`.
    """

    def __init__(self, vocabulary_size, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size

    @property
    def logits_dtype(self):
        """The dtype of the mixture: at least float32, because bfloat16 is too coarse for logarithms."""
        return keras.backend.result_type(self.compute_dtype, "float32")

    def build(self, embedding_dim, output_units, memory_units):
        def add_kernel(name, units):
            return self.add_weight((units, 1), "glorot_uniform", name=name)

        self.embedding_kernel = add_kernel("embedding_kernel", embedding_dim)
        self.output_kernel = add_kernel("output_kernel", output_units)
        self.context_kernel = add_kernel("context_kernel", memory_units)
        self.bias = self.add_weight((1,), "zeros", name="bias")

    def read_source(self, memory, source_tokens, memory_mask=None):
        """Computes what all steps read of the sources.

        Args:
            memory: tensor (sources, positions, features).
            source_tokens: integers (sources, positions), the token at each position.
            memory_mask: booleans (sources, positions), True = keep, or None.

        Returns:
            A dict of tensors (sources, ...).
        """
        tokens = ops.cast(source_tokens, "int32")
        if not shapes_match(tuple(tokens.shape), tuple(memory.shape[:2])):
            raise ValueError(
                "`source_tokens` must have one token for each position of the memory, shape (batch, source) = "
                f"{tuple(memory.shape[:2])}. Received: shape {tuple(tokens.shape)}"
            )
        memory = zero_masked_positions(ops.cast(memory, self.compute_dtype), memory_mask)
        can_copy = (tokens != PAD_ID) & (tokens != START_ID) & (tokens >= 0) & (tokens < self.vocabulary_size)
        if memory_mask is not None:
            can_copy = can_copy & as_bool_mask(memory_mask)
        tokens = ops.where(can_copy, tokens, PAD_ID)
        is_same = (ops.expand_dims(tokens, axis=2) == ops.expand_dims(tokens, axis=1)) & can_copy[
            :, None, :
        ]  # (sources, positions, positions)
        numbers = ops.arange(ops.shape(tokens)[1])
        is_repeated = ops.any(is_same & (ops.expand_dims(numbers, axis=1) > numbers), axis=2)
        is_first = can_copy & ~is_repeated  # (sources, positions)
        return {
            "tokens": tokens,
            "is_same": is_same,
            "is_first": is_first,
            "in_source": self._scatter(ops.cast(is_first, "int32")[:, None], tokens)[:, 0] > 0,  # (sources, vocabulary)
            "gate": ops.squeeze(ops.matmul(memory, ops.cast(self.context_kernel, self.compute_dtype)), axis=-1),
        }

    def mix(self, logits, outputs, embeddings, attention_weights, source, num_beams=1):
        """Returns the logarithm of P in the `logits_dtype`, for all steps or one step in which beams share a source.

        Args:
            logits: (sources, time, vocabulary), or (sources * beams, vocabulary): those of P_vocabulary.
            outputs: (sources, time, units), or (sources * beams, units): what the readout reads.
            embeddings: (sources, time, embedding_dim), or (sources * beams, embedding_dim): of the previous tokens.
            attention_weights: (sources, time, positions), or (sources * beams, positions).
            source: the result of `read_source`.
            num_beams: number of beams in one step.
        """
        parts = logits, outputs, embeddings, attention_weights
        if len(logits.shape) == 3:
            return self._mix_rows(*parts, source)
        sources = ops.shape(source["tokens"])[0]
        rows = (ops.reshape(x, (sources, num_beams, ops.shape(x)[1])) for x in parts)
        mixed = self._mix_rows(*rows, source)
        return ops.reshape(mixed, (sources * num_beams, self.vocabulary_size))

    def _mix_rows(self, logits, outputs, embeddings, attention_weights, source):
        """Returns the logarithm of P, (sources, rows, vocabulary). A row is a step of a target, or a beam."""
        dtype = self.logits_dtype
        logits, weights = ops.cast(logits, dtype), ops.cast(attention_weights, dtype)
        gate = ops.sum(weights * ops.cast(source["gate"], dtype)[:, None], axis=-1, keepdims=True)
        for x, kernel in ((outputs, self.output_kernel), (embeddings, self.embedding_kernel)):
            gate += ops.cast(ops.matmul(ops.cast(x, self.compute_dtype), ops.cast(kernel, self.compute_dtype)), dtype)
        gate += ops.cast(self.bias, dtype)  # (sources, rows, 1)
        log_generate, log_copy = ops.log_sigmoid(gate), ops.log_sigmoid(-gate)
        generated = ops.log_softmax(logits) + log_generate  # (sources, rows, vocabulary)
        # For each position the weight of its token, wherever the source holds it.
        copied = ops.matmul(weights, ops.transpose(ops.cast(source["is_same"], dtype), (0, 2, 1)))
        is_first = source["is_first"][:, None]
        total = ops.sum(ops.where(is_first, copied, 0), axis=-1, keepdims=True)
        tokens = source["tokens"]
        mixed = _log_add(ops.take_along_axis(generated, tokens[:, None], axis=2), log_copy + _log(copied))
        mixed = self._scatter(ops.where(is_first, mixed, 0), tokens)
        return ops.where(source["in_source"][:, None], mixed, generated) - _log_add(
            log_generate, log_copy + _log(total)
        )

    def _scatter(self, values, tokens):
        """Adds values (sources, rows, positions) at the tokens (sources, positions): (sources, rows, vocabulary)."""
        sources, rows = ops.shape(values)[:2]
        first_index = ops.reshape(ops.arange(sources * rows), (sources, rows, 1)) * self.vocabulary_size  # of each row
        index = ops.reshape(first_index + tokens[:, None], (-1,))
        size = sources * rows * self.vocabulary_size
        sums = ops.segment_sum(ops.reshape(values, (-1,)), index, num_segments=size)
        return ops.reshape(sums, (sources, rows, self.vocabulary_size))


def check_copying(source, target):
    """Raises a ValueError unless the sides of a model, whose decoder copies, share one vocabulary."""
    expected = "A decoder with `copy=True` needs sources that are tokens of the same vocabulary as the targets."
    if not isinstance(source, TokenSide):
        raise ValueError(f"{expected} Received: sources that are arrays")
    vectorizers = source.vectorizer, target.vectorizer
    if None not in vectorizers and vectorizers[0] is not vectorizers[1]:
        for token_id, tokens in enumerate(itertools.zip_longest(*(v.get_vocabulary() for v in vectorizers))):
            if tokens[0] != tokens[1]:
                received = " and ".join("none" if token is None else repr(str(token)) for token in tokens)
                raise ValueError(
                    f"{expected} Received: a `source_vectorizer` and a `target_vectorizer` whose tokens of id "
                    f"{token_id} are {received}"
                )
    sizes = source.vocabulary_size, target.vocabulary_size
    if sizes[0] != sizes[1]:
        raise ValueError(f"{expected} Received: vocabularies of {sizes[0]} and {sizes[1]} tokens")


def check_positions(tokens, memory):
    """Returns source tokens (batch, source), and raises an error if a memory has other positions."""
    if isinstance(tokens, keras.KerasTensor) or inside_xla():  # where all sizes are known, they are compared later
        return tokens
    message = "An encoder must return one position for each source token if the decoder has `copy=True`."
    sizes = tf.stack([tf.shape(memory)[1], tf.shape(tokens)[1]])
    with tf.control_dependencies([require(sizes[0] == sizes[1], message, sizes)]):
        return tf.identity(tokens)


def _log(weights):
    """Returns the logarithm of weights of at least 0, finite and with a finite derivative."""
    is_large = weights > _SMALLEST
    return ops.where(is_large, ops.log(ops.where(is_large, weights, 1)), _NEVER)


def _log_add(x, y):
    """Returns log(exp(x) + exp(y)). Unlike that of `ops.logaddexp`, the derivative is right where x equals y."""
    return ops.logsumexp(ops.stack([x, y]), axis=0)

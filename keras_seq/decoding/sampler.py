# SPDX-License-Identifier: Apache-2.0
"""What a search and its sampler tell each other."""

from typing import NamedTuple

from keras_seq._lazy_tensorflow import tf

# The processed log-probability of the end token where it is not allowed. It is chosen if nothing else is allowed. The
# lowest float32 would not do, because `tf.argmax` never finds it.
LAST_RESORT = -3.4028233e38


class Hypotheses(NamedTuple):
    """The results of a search, `n = sampler.num_return_sequences` hypotheses of each source, the best first.

    If a source has fewer distinct hypotheses, the others have token ids 0, and log-probability and score -inf.
    """

    token_ids: object  # (sources, n, time) int32, with the end token if it was reached, then 0
    log_probabilities: object  # (sources, n) float32, sums of the model's log-probabilities of the tokens
    scores: object  # (sources, n) float32, what ranks the hypotheses of a source
    attention_weights: object  # (sources, n, time, positions) float32, 0 after the end; or None


class Candidates(NamedTuple):
    """What a sampler chooses from in one step. A row is a beam of a source; those of one source are adjacent."""

    step: object  # () int32, the number of tokens that were chosen before
    log_probabilities: object  # (rows, vocabulary) float32, of the model
    processed: object  # (rows, vocabulary) float32, after the processors; what is not allowed is -inf or LAST_RESORT
    attention_weights: object  # (rows, positions)
    memory_mask: object  # (sources, positions) bool, or None unless `sampler.uses_attention`
    limits: object  # (sources,) int32, valid for the sources that have not ended
    end_id: int


class Choice(NamedTuple):
    """What a sampler chooses in one step."""

    tokens: object  # (rows,) int32
    parents: object  # (rows,) int32, the row that each token continues, or None for the same row
    is_done: object  # (sources,) bool, whether the search of a source ends with this step
    record: dict  # what `Sampler.hypotheses` needs of this step, as in `Sampler.record_spec`
    state: object  # the next state of the sampler


class Sampler:
    """Base class of samplers, which choose the tokens of a search.

    To write one that keeps a single hypothesis of each source, implement `choose`. To write one that draws tokens at
    random, reproducibly from a seed, derive it from `RandomSampler` and implement its `draw`. If it has arguments,
    implement `get_config`; to save it with a model, also decorate it with
    `keras.saving.register_keras_serializable`.

    A sampler that keeps several sets `num_beams` and `num_return_sequences`, and implements `initial_state`, `step`,
    `record_spec` and `hypotheses`, as `BeamSampler` does.

    Example:
        >>> import keras
        >>> import tensorflow as tf
        >>> @keras.saving.register_keras_serializable("mine")
        ... class NthBest(Sampler):
        ...     def __init__(self, n):
        ...         self.n = n
        ...
        ...     def choose(self, log_probabilities, state, step):
        ...         return tf.math.top_k(log_probabilities, self.n).indices[:, -1]
        ...
        ...     def get_config(self):
        ...         return {"n": self.n}
        >>> int(NthBest(2).choose([[-0.7, -1.6, -1.2]], (), 0)[0])
        2
    """

    num_beams = 1  # rows of each source
    num_return_sequences = 1
    uses_attention = False  # whether it needs `Candidates.memory_mask`

    def check(self, num_tokens):
        """Raises a ValueError if the sampler cannot choose from so many tokens, without those that are forbidden."""

    def next_seed(self):
        """Returns the seed of the next search, int32 (2,), or None if the sampler draws nothing."""
        return None

    def initial_state(self, positions, seed, memory_mask):
        """Returns the first state of the sampler, nested tensors (sources, ...).

        Args:
            positions: int32 (sources,), the position of each source in the user's inputs.
            seed: int32 (2,), or None if `next_seed` returns None.
            memory_mask: see `Candidates`.
        """
        return ()

    def live_rows(self, is_live, state):
        """Returns for each row whether its results will be used, given this for each source."""
        return is_live

    def choose(self, log_probabilities, state, step):
        """Returns the next token of each source, integers (sources,).

        Args:
            log_probabilities: float32 (sources, vocabulary), after the processors, -inf for tokens that are not
                allowed. But the end token has at least a number close to the lowest float32, so that it is chosen where
                nothing is allowed.
            state: the state of the sampler, `()` unless `initial_state` returns another.
            step: int32 scalar, the number of tokens chosen before.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `choose`.")

    def step(self, candidates, state):
        """Returns the `Choice` of one step."""
        tokens = tf.convert_to_tensor(self.choose(candidates.processed, state, candidates.step))
        if not tokens.dtype.is_integer or tokens.shape.rank not in (None, 1):
            raise ValueError(
                f"`choose` of {type(self).__name__} must return integers (sources,). "
                f"Received: dtype {tokens.dtype.name}, shape {tokens.shape}"
            )
        tokens = tf.cast(tokens, tf.int32)
        record = {
            "token_ids": tokens,
            "log_probabilities": tf.gather(candidates.log_probabilities, tokens, batch_dims=1),
            "scores": tf.gather(candidates.processed, tokens, batch_dims=1),
        }
        return Choice(tokens, None, tf.equal(tokens, candidates.end_id), record, state)

    def record_spec(self, has_processors):
        """Returns the `tf.TensorSpec` of each tensor of a record that is kept. The first axis is that of the sources.

        Args:
            has_processors: whether `Candidates.processed` may differ from the log-probabilities of the model.
        """
        names = ("log_probabilities", "scores") if has_processors else ("log_probabilities",)
        return {"token_ids": tf.TensorSpec([None], tf.int32), **{name: tf.TensorSpec([None]) for name in names}}

    def hypotheses(self, records, attention_weights, steps):
        """Returns the results of a search, `(Hypotheses, lengths)`, where the lengths (sources, n) count tokens.

        Args:
            records: the records of all steps, dict of tensors (time, sources, ...).
            attention_weights: float32 (time, sources, num_beams, positions), or None.
            steps: int32 (sources,), the number of steps of each source. Ignore later records.
        """
        is_chosen = tf.range(tf.shape(records["token_ids"])[0])[:, None] < steps  # (time, sources)
        token_ids = tf.transpose(tf.where(is_chosen, records["token_ids"], 0))[:, None]  # (sources, 1, time)
        sums = sum_steps(records["log_probabilities"], is_chosen)[:, None]
        scores = sum_steps(records["scores"], is_chosen)[:, None] if "scores" in records else sums
        if attention_weights is not None:
            weights = tf.where(is_chosen[:, :, None, None], attention_weights, 0.0)
            attention_weights = tf.transpose(weights, [1, 2, 0, 3])
        return Hypotheses(token_ids, sums, scores, attention_weights), steps[:, None]

    def get_config(self):
        """Returns the arguments of the sampler."""
        return {}

    @classmethod
    def from_config(cls, config):
        """Creates a sampler from the result of `get_config`."""
        return cls(**config)


def sum_steps(values, is_chosen):
    """Returns the sum of the chosen values (time, ...) over the time.

    The order of the additions does not depend on the size of the batch, as it does in `tf.reduce_sum`.
    """
    return tf.cumsum(tf.where(is_chosen, values, 0.0), axis=0)[-1]

# SPDX-License-Identifier: Apache-2.0
"""Dropout for sequences: of features, of recurrent connections and of words, with masks that last a sequence."""

import keras
from keras import ops

from keras_seq._private_api import draws_mask_for_each_gate, walk_layers
from keras_seq.layers.cells import RecurrentCell
from keras_seq.layers.replacements import replace_in_config
from keras_seq.ops.random import check_rate, child_seed, dropout_mask


@keras.saving.register_keras_serializable("keras_seq")
class LockedDropout(keras.layers.SpatialDropout1D):
    """Dropout with one mask a sequence: a feature is dropped at every step or at none (Gal & Ghahramani 2016).

    `y_t = m * x_t`, each entry of m 0 with probability `rate`, else `1 / (1 - rate)`; m is drawn anew for every
    sequence in the batch and every call.

    Args:
        rate: fraction of the features to drop, in [0, 1].
        seed: of the masks.

    Call arguments:
        inputs: (batch, time, features).
        training: whether to drop; at inference the inputs are returned as they are.

    Returns:
        (batch, time, features).

    Example:
        >>> import numpy as np
        >>> y = LockedDropout(0.5, seed=1)(np.ones((1, 3, 8)), training=True)
        >>> bool(np.all(y[:, 0] == y[:, 2]))
        True
    """

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        if self.rate == 1:
            return ops.zeros_like(inputs)
        batch, _, features = ops.shape(inputs)
        return inputs * dropout_mask((batch, 1, features), self.rate, self.seed_generator, inputs.dtype)


@keras.saving.register_keras_serializable("keras_seq")
class VariationalDropout(keras.layers.Wrapper):
    """Make of a recurrent layer the variational RNN of Gal & Ghahramani (2016).

    Three masks are drawn a sequence and call, and hold at every step: of the inputs, of the previous output in the
    recurrent product, and of the outputs, whether of all steps or of the last alone. States that are returned are not
    dropped.

    The wrapper holds a copy of the layer, with fresh weights, in which every `recurrent_dropout` is `recurrent_rate`;
    the layer runs on whatever implementation it would run on alone. In the copy, layers and cells of Keras are replaced
    by those of keras_seq, as by `keras_seq.convert`: Keras's GRU and LSTM draw one mask for each gate.

    Args:
        layer: a recurrent layer, of keras_seq or of Keras: an RNN with any cell or stack of cells, or a
            `Bidirectional`.
        input_rate: fraction of the input features to drop, in [0, 1).
        recurrent_rate: fraction of the previous output's units to drop in the recurrent product, in [0, 1). In a
            stack of cells, of each cell.
        output_rate: fraction of the output features to drop, in [0, 1).
        seed: of all masks, each of which is drawn independently; both directions of a `Bidirectional` read the same
            inputs, and so share the input mask. The layer's own seeds, where it has any, stay.

    Call arguments:
        sequences: (batch, time, features).
        initial_state: as of the layer.
        mask: (batch, time) booleans, True = keep.
        training: whether to drop; at inference the layer does what it does without the wrapper.

    Returns:
        As the layer's.

    Raises:
        ValueError: for a rate outside [0, 1), for a layer that is not recurrent, that has no `recurrent_dropout` to
            be set, that has a dropout of its own which a rate given here would double or replace, or whose cell derives
            from Keras's and draws one mask for each gate.

    Example:
        >>> import numpy as np, keras_seq
        >>> lstm = keras_seq.layers.LSTM(4, return_sequences=True)
        >>> layer = VariationalDropout(lstm, input_rate=0.2, recurrent_rate=0.3, output_rate=0.2)
        >>> layer(np.ones((2, 5, 3))).shape
        TensorShape([2, 5, 4])
        >>> layer.layer.recurrent_dropout
        0.3
    """

    def __init__(self, layer, input_rate=0.0, recurrent_rate=0.0, output_rate=0.0, seed=None, **kwargs):
        if not isinstance(layer, keras.layers.Layer) or not hasattr(layer, "return_sequences"):
            raise ValueError(f"`layer` must be a recurrent layer. Received: {layer!r}")
        if seed is not None and not isinstance(seed, int):
            raise ValueError(f"`seed` must be an integer or None. Received: {seed!r}")
        input_rate = check_rate("input_rate", input_rate)
        recurrent_rate = check_rate("recurrent_rate", recurrent_rate)
        output_rate = check_rate("output_rate", output_rate)
        layer, input_seed, output_seed = _recurrently_dropped(layer, input_rate, recurrent_rate, seed)
        super().__init__(layer, **_with_dtype_of(layer, kwargs))
        self.input_rate = input_rate
        self.recurrent_rate = recurrent_rate
        self.output_rate = output_rate
        self.seed = seed
        self.input_spec = keras.layers.InputSpec(ndim=3)
        policy = self.dtype_policy
        self.input_dropout = LockedDropout(input_rate, input_seed, name="input_dropout", dtype=policy)
        self.output_dropout = LockedDropout(output_rate, output_seed, name="output_dropout", dtype=policy)

    @property
    def return_sequences(self):
        """Whether the layer returns the output of every step."""
        return self.layer.return_sequences

    @property
    def return_state(self):
        """Whether the layer returns its final state too."""
        return self.layer.return_state

    @property
    def stateful(self):
        """Whether the final state of a batch starts the next one."""
        return self.layer.stateful

    @property
    def go_backwards(self):
        """Whether the layer runs from the last step to the first."""
        return self.layer.go_backwards

    @property
    def states(self):
        """The states that a stateful layer keeps between calls."""
        return self.layer.states

    def reset_state(self, **kwargs):
        """Let a stateful layer start from zeros again, or from what its own `reset_state` takes."""
        self.layer.reset_state(**kwargs)

    def build(self, sequences_shape, initial_state_shape=None):
        super().build(sequences_shape)

    def call(self, sequences, initial_state=None, mask=None, training=None):
        sequences = self.input_dropout(sequences, training=training)
        results = self.layer(sequences, initial_state=initial_state, mask=mask, training=training)
        if not isinstance(results, (list, tuple)):
            return self._drop_output(results, training)
        outputs = 2 if getattr(self.layer, "merge_mode", "concat") is None else 1  # of a Bidirectional; then states
        return (*(self._drop_output(output, training) for output in results[:outputs]), *results[outputs:])

    def _drop_output(self, output, training):
        if self.return_sequences:
            return self.output_dropout(output, training=training)
        return ops.squeeze(self.output_dropout(ops.expand_dims(output, axis=1), training=training), axis=1)

    def compute_mask(self, sequences, mask=None):
        return self.layer.compute_mask(sequences, mask)

    def compute_output_shape(self, sequences_shape, initial_state_shape=None):
        return self.layer.compute_output_shape(sequences_shape)

    def get_config(self):
        own = {
            "input_rate": self.input_rate,
            "recurrent_rate": self.recurrent_rate,
            "output_rate": self.output_rate,
            "seed": self.seed,
        }
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("keras_seq")
class EmbeddingDropout(keras.layers.Wrapper):
    """Drop whole words: in a sequence, a token is dropped wherever it occurs or nowhere (Gal & Ghahramani 2016).

    A dropped token's vector is zero, another's is scaled by `1 / (1 - rate)`. Every sequence of the batch draws for
    itself; AWD-LSTM (Merity et al. 2018) draws for the whole batch at once. Numbers are drawn for the positions of a
    sequence rather than for the vocabulary, so that memory and time are of order batch × time², whatever the size of
    the vocabulary.

    Args:
        layer: a `keras.layers.Embedding`, which is used as it is and may be shared.
        rate: fraction of the token types to drop, in [0, 1).
        seed: of the masks.

    Call arguments:
        inputs: (batch, time) token ids.
        training: whether to drop; at inference the layer's vectors are returned as they are.

    Returns:
        (batch, time, output_dim).

    Raises:
        ValueError: for a rate outside [0, 1), a layer that is no embedding, or inputs that are not (batch, time).

    Example:
        >>> import keras, numpy as np
        >>> layer = EmbeddingDropout(keras.layers.Embedding(10, 4), rate=0.5, seed=1)
        >>> y = layer(np.array([[7, 2, 7]]), training=True)
        >>> y.shape, bool(np.all(y[:, 0] == y[:, 2]))
        (TensorShape([1, 3, 4]), True)
    """

    def __init__(self, layer, rate, seed=None, **kwargs):
        if not isinstance(layer, keras.layers.Embedding):
            raise ValueError(f"`layer` must be a `keras.layers.Embedding`. Received: {layer!r}")
        super().__init__(layer, **_with_dtype_of(layer, kwargs))
        self.rate = check_rate("rate", rate)
        self.seed = seed
        if self.rate:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = layer.supports_masking
        self.input_spec = keras.layers.InputSpec(ndim=2)
        self.autocast = False  # ids that came as floats would be rounded to half precision

    def call(self, inputs, training=False):
        vectors = ops.cast(self.layer(inputs), self.compute_dtype)  # (batch, time, output_dim)
        if not training or not self.rate:
            return vectors
        scales = dropout_mask(ops.shape(inputs), self.rate, self.seed_generator, self.compute_dtype)  # (batch, time)
        scales = ops.take_along_axis(scales, _first_occurrences(inputs), axis=1)
        return vectors * ops.expand_dims(scales, axis=-1)

    def compute_mask(self, inputs, mask=None):
        return self.layer.compute_mask(inputs)

    def compute_output_shape(self, inputs_shape):
        return self.layer.compute_output_shape(inputs_shape)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


def _first_occurrences(ids):
    """For every position of ids (batch, time), the first position of the sequence with the same id."""
    if keras.backend.standardize_dtype(ids.dtype) not in ("int32", "int64"):
        ids = ops.cast(ids, "int32")  # as the embedding does, so that ids alike are those of one vector
    same = ops.equal(ops.expand_dims(ids, axis=2), ops.expand_dims(ids, axis=1))  # (batch, time, time)
    time = ops.shape(ids)[1]
    # Not argmax: which one of several maxima it takes, TensorFlow does not promise. `initial` is for no steps at all.
    return ops.min(ops.where(same, ops.arange(time, dtype="int32"), time), axis=2, initial=time)


def _with_dtype_of(layer, kwargs):
    """The keyword arguments of a wrapper, whose dtype is that of the layer unless it is given."""
    return {**kwargs, "dtype": layer.dtype_policy if kwargs.get("dtype") is None else kwargs["dtype"]}


def _recurrently_dropped(layer, input_rate, recurrent_rate, seed):
    """A copy of the layer with a recurrent dropout, and seeds for the masks of inputs and outputs."""
    config = replace_in_config(keras.saving.serialize_keras_object(layer))
    config.pop("build_config", None)  # the copy is built in the wrapper
    found = [*_find_dropout(config)]
    if recurrent_rate and not any("recurrent_dropout" in inner for inner, _ in found):
        raise ValueError(
            "`recurrent_rate` must be 0 for a layer without `recurrent_dropout`. Received: "
            f"recurrent_rate={recurrent_rate} for the {type(layer).__name__} {layer.name!r}"
        )
    for i, (inner, reads_inputs) in enumerate(found):
        if reads_inputs and input_rate and inner.get("dropout"):
            raise ValueError(
                "`layer` must not drop its inputs where `input_rate` does. Received: "
                f"dropout={inner['dropout']} and input_rate={input_rate}"
            )
        if inner.get("recurrent_dropout", 0) not in (0, recurrent_rate):
            raise ValueError(
                "`layer` must have no other `recurrent_dropout` than `recurrent_rate`. Received: "
                f"recurrent_dropout={inner['recurrent_dropout']} and recurrent_rate={recurrent_rate}"
            )
        if inner.get("dropout_mode", "variational") != "variational":
            raise ValueError(
                "`layer` must have `dropout_mode='variational'`, or none. Received: "
                f"dropout_mode={inner['dropout_mode']!r}"
            )
        if "recurrent_dropout" in inner:
            inner["recurrent_dropout"] = recurrent_rate
        if inner.get("seed", 0) is None:
            inner["seed"] = child_seed(seed, "VariationalDropout", "layer", i)
    copy = keras.saving.deserialize_keras_object(config)
    if hasattr(layer, "use_cudnn"):
        copy.use_cudnn = layer.use_cudnn  # which Keras does not serialize
    if recurrent_rate:
        _check_that_gates_share_a_mask(copy)
    return copy, *(child_seed(seed, "VariationalDropout", part) for part in ("inputs", "outputs"))


def _check_that_gates_share_a_mask(layer):
    """Refuse cells of a user's class that derives from Keras's GRU or LSTM cell."""
    for _, cell in walk_layers(layer):
        if draws_mask_for_each_gate(cell) and not isinstance(cell, RecurrentCell):
            raise ValueError(
                "`recurrent_rate` must be 0 for a cell that draws one mask for each gate, as those of Keras do; let "
                f"it derive from a cell of keras_seq. Received: recurrent_rate={cell.recurrent_dropout} for the "
                f"{type(cell).__name__} {cell.name!r}"
            )


def _find_dropout(config, reads_inputs=True):
    """Every configuration inside one that has a dropout, and whether its cell reads the inputs of the layer.

    In a stack of cells the first one does.
    """
    if isinstance(config, dict):
        if not config.keys().isdisjoint({"dropout", "recurrent_dropout"}):
            yield config, reads_inputs
        for value in config.values():
            yield from _find_dropout(value, reads_inputs)
    elif isinstance(config, list):
        for index, value in enumerate(config):
            yield from _find_dropout(value, reads_inputs and index == 0)

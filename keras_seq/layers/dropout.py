# SPDX-License-Identifier: Apache-2.0
"""Dropout for sequences: of features, recurrent connections and words, with masks shared by all time steps."""

import keras
from keras import ops

from keras_seq._private_api import draws_mask_for_each_gate, walk_layers
from keras_seq.layers.recurrent_cell import RecurrentCell
from keras_seq.layers.replacements import replace_in_config
from keras_seq.ops.random import check_rate, child_seed, dropout_mask


@keras.saving.register_keras_serializable("keras_seq")
class LockedDropout(keras.layers.SpatialDropout1D):
    """Dropout with one mask per sequence, shared by all time steps (Gal & Ghahramani 2016).

    `y_t = m * x_t`, where each entry of m is 0 with probability `rate`, else `1 / (1 - rate)`. A new m is drawn for
    every sequence in the batch and every call.

    Args:
        rate: fraction of the features to drop, in [0, 1].
        seed: random seed of the masks.

    Call arguments:
        inputs: tensor (batch, time, features).
        training: whether to apply dropout. At inference the inputs are returned unchanged.

    Returns:
        Tensor (batch, time, features).

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
    """Turns a recurrent layer into the variational RNN of Gal & Ghahramani (2016).

    Each call draws three masks for each sequence, shared by all time steps: one for the inputs, one for the previous
    output in the recurrent product, and one for the outputs (of all steps or of the last one). Returned states are not
    dropped.

    The wrapper holds a copy of the layer, with new weights, in which every `recurrent_dropout` is `recurrent_rate`. The
    layer runs on the same implementation as without the wrapper, except that cuDNN has no recurrent dropout. In the
    copy, Keras's recurrent layers and cells are replaced by those of keras_seq, as in `keras_seq.convert`, because
    Keras's GRU and LSTM draw one mask per gate.

    Args:
        layer: recurrent layer of keras_seq or Keras: an RNN with any cell or stack of cells, or a `Bidirectional`.
        input_rate: fraction of the input features to drop, in [0, 1).
        recurrent_rate: fraction of the units of the previous output to drop in the recurrent product, in [0, 1). In a
            stack it applies to each cell.
        output_rate: fraction of the output features to drop, in [0, 1).
        seed: random seed of all masks, which are drawn independently. Both directions of a `Bidirectional` read the
            same inputs, so they share the input mask. Seeds that the layer already has are kept.

    Call arguments:
        sequences: tensor (batch, time, features).
        initial_state: see the wrapped layer.
        mask: booleans (batch, time), True = keep.
        training: whether to apply dropout. At inference the layer runs as without the wrapper.

    Returns:
        The results of the wrapped layer.

    Raises:
        ValueError: if a rate is outside [0, 1), if `layer` is not recurrent, if it has no `recurrent_dropout` to set,
            if it has a dropout that conflicts with a rate given here, or if its cell is a subclass of Keras's that
            draws one mask per gate.

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
        layer, input_seed, output_seed = _copy_with_dropout(layer, input_rate, recurrent_rate, seed)
        super().__init__(layer, **_with_default_dtype(kwargs, layer))
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
        """Whether the layer also returns its final state."""
        return self.layer.return_state

    @property
    def stateful(self):
        """Whether the final state of a batch is the initial state of the next one."""
        return self.layer.stateful

    @property
    def go_backwards(self):
        """Whether the layer processes the sequence from the last step to the first."""
        return self.layer.go_backwards

    @property
    def states(self):
        """The states that a stateful layer keeps between calls."""
        return self.layer.states

    def reset_state(self, **kwargs):
        """Resets the states of a stateful layer. Arguments are those of the layer's `reset_state`."""
        self.layer.reset_state(**kwargs)

    def build(self, sequences_shape, initial_state_shape=None):
        super().build(sequences_shape)

    def call(self, sequences, initial_state=None, mask=None, training=None):
        sequences = self.input_dropout(sequences, training=training)
        results = self.layer(sequences, initial_state=initial_state, mask=mask, training=training)
        if not isinstance(results, (list, tuple)):
            return self._drop_output(results, training)
        # A `Bidirectional` without merging returns two outputs. States follow the outputs.
        num_outputs = 2 if getattr(self.layer, "merge_mode", "concat") is None else 1
        outputs, states = results[:num_outputs], results[num_outputs:]
        return (*(self._drop_output(output, training) for output in outputs), *states)

    def _drop_output(self, output, training):
        if self.return_sequences:
            return self.output_dropout(output, training=training)
        return ops.squeeze(self.output_dropout(ops.expand_dims(output, axis=1), training=training), axis=1)

    def compute_mask(self, sequences, mask=None):
        return self.layer.compute_mask(sequences, mask)

    def compute_output_shape(self, sequences_shape, initial_state_shape=None):
        return self.layer.compute_output_shape(sequences_shape)

    def get_config(self):
        config = {
            "input_rate": self.input_rate,
            "recurrent_rate": self.recurrent_rate,
            "output_rate": self.output_rate,
            "seed": self.seed,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("keras_seq")
class EmbeddingDropout(keras.layers.Wrapper):
    """Drops whole words: a dropped token is dropped at all its positions in a sequence (Gal & Ghahramani 2016).

    The vector of a dropped token is zero; all others are scaled by `1 / (1 - rate)`. Each sequence of the batch draws
    its own mask, whereas AWD-LSTM (Merity et al. 2018) draws one for the whole batch. Random numbers are drawn for the
    positions of a sequence instead of the vocabulary, so memory and time are of order batch × time², whatever the size
    of the vocabulary.

    Args:
        layer: a `keras.layers.Embedding`. It is not copied and may be shared.
        rate: fraction of the distinct tokens to drop, in [0, 1).
        seed: random seed of the masks.

    Call arguments:
        inputs: token ids (batch, time).
        training: whether to apply dropout. At inference the embeddings are returned unchanged.

    Returns:
        Tensor (batch, time, output_dim).

    Raises:
        ValueError: if `rate` is outside [0, 1), `layer` is not an `Embedding`, or `inputs` do not have rank 2.

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
        super().__init__(layer, **_with_default_dtype(kwargs, layer))
        self.rate = check_rate("rate", rate)
        self.seed = seed
        if self.rate:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = layer.supports_masking
        self.input_spec = keras.layers.InputSpec(ndim=2)
        self.autocast = False  # token ids given as floats must not be rounded to half precision

    def call(self, inputs, training=False):
        vectors = ops.cast(self.layer(inputs), self.compute_dtype)  # (batch, time, output_dim)
        if not training or not self.rate:
            return vectors
        scales = dropout_mask(ops.shape(inputs), self.rate, self.seed_generator, self.compute_dtype)  # (batch, time)
        scales = ops.take_along_axis(scales, _first_occurrences(inputs), axis=1)
        return vectors * ops.expand_dims(scales, axis=-1)

    def compute_mask(self, inputs, mask=None):
        return self.layer.compute_mask(inputs)

    def compute_output_shape(self, input_shape):  # `summary` needs the name of `build`
        return self.layer.compute_output_shape(input_shape)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


def _first_occurrences(ids):
    """Returns, for every position of ids (batch, time), the first position of the sequence with the same id."""
    if keras.backend.standardize_dtype(ids.dtype) not in ("int32", "int64"):
        ids = ops.cast(ids, "int32")  # as `Embedding` does, so that equal ids have the same vector
    is_same = ops.equal(ops.expand_dims(ids, axis=2), ops.expand_dims(ids, axis=1))  # (batch, time, time)
    time = ops.shape(ids)[1]
    # Not argmax: TensorFlow does not promise which of several maxima it returns. `initial` is for empty sequences.
    return ops.min(ops.where(is_same, ops.arange(time, dtype="int32"), time), axis=2, initial=time)


def _with_default_dtype(kwargs, layer):
    """Returns the keyword arguments of a wrapper, with the dtype of its layer if none is given."""
    return {**kwargs, "dtype": layer.dtype_policy if kwargs.get("dtype") is None else kwargs["dtype"]}


def _copy_with_dropout(layer, input_rate, recurrent_rate, seed):
    """Returns a copy of the layer with recurrent dropout, and seeds for the input and output masks."""
    config = replace_in_config(keras.saving.serialize_keras_object(layer))
    config.pop("build_config", None)  # the copy is built in the wrapper
    dropout_configs = [*_find_dropout(config)]
    if recurrent_rate and not any("recurrent_dropout" in inner for inner, _ in dropout_configs):
        raise ValueError(
            "`recurrent_rate` must be 0 if the layer has no `recurrent_dropout`. Received: "
            f"recurrent_rate={recurrent_rate} and the {type(layer).__name__} {layer.name!r}"
        )
    for i, (inner, reads_inputs) in enumerate(dropout_configs):
        if reads_inputs and input_rate and inner.get("dropout"):
            raise ValueError(
                "`dropout` of the layer must be 0 if `input_rate` is not. Received: "
                f"dropout={inner['dropout']} and input_rate={input_rate}"
            )
        if inner.get("recurrent_dropout", 0) not in (0, recurrent_rate):
            raise ValueError(
                "`recurrent_dropout` of the layer must be 0 or equal to `recurrent_rate`. Received: "
                f"recurrent_dropout={inner['recurrent_dropout']} and recurrent_rate={recurrent_rate}"
            )
        if inner.get("dropout_mode", "variational") != "variational":
            raise ValueError(
                f"`dropout_mode` of the layer must be 'variational'. Received: dropout_mode={inner['dropout_mode']!r}"
            )
        if "recurrent_dropout" in inner:
            inner["recurrent_dropout"] = recurrent_rate
        if inner.get("seed", 0) is None:
            inner["seed"] = child_seed(seed, "VariationalDropout", "layer", i)
    copy = keras.saving.deserialize_keras_object(config)
    if hasattr(layer, "use_cudnn"):
        copy.use_cudnn = layer.use_cudnn  # Keras does not serialize it
    if recurrent_rate:
        _check_gates_share_a_mask(copy)
    return copy, *(child_seed(seed, "VariationalDropout", part) for part in ("inputs", "outputs"))


def _check_gates_share_a_mask(layer):
    """Raises a ValueError for a user's subclass of Keras's GRU or LSTM cell."""
    for _, cell in walk_layers(layer):
        if draws_mask_for_each_gate(cell) and not isinstance(cell, RecurrentCell):
            raise ValueError(
                "`recurrent_rate` must be 0 if a cell draws one mask per gate, as Keras's cells do. Subclass a cell of "
                f"keras_seq instead. Received: recurrent_rate={cell.recurrent_dropout} and the "
                f"{type(cell).__name__} {cell.name!r}"
            )


def _find_dropout(config, reads_inputs=True):
    """Yields every nested configuration with a dropout, and whether its cell reads the inputs of the layer.

    In a stack, only the first cell does.
    """
    if isinstance(config, dict):
        if not config.keys().isdisjoint({"dropout", "recurrent_dropout"}):
            yield config, reads_inputs
        for value in config.values():
            yield from _find_dropout(value, reads_inputs)
    elif isinstance(config, list):
        for index, value in enumerate(config):
            yield from _find_dropout(value, reads_inputs and index == 0)

# SPDX-License-Identifier: Apache-2.0
"""A linear-chain conditional random field as the last layer of a tagger."""

import keras
from keras import backend, ops

from keras_seq.layers.attention.mechanism import check_units
from keras_seq.ops.crf import crf_decode, crf_log_probabilities
from keras_seq.ops.masks import as_bool_mask, check_step_mask
from keras_seq.ops.random import child_initializer


@keras.saving.register_keras_serializable("keras_seq")
class CRF(keras.layers.Layer):
    """A linear-chain conditional random field: tags that depend on their neighbours (Lafferty et al. 2001).

    It gives a sequence of tags y the probability
    `p(y) = exp(start[y_1] + sum_t (h_t W + b)[y_t] + sum_t transitions[y_{t-1}, y_t] + end[y_T]) / Z`, where h are the
    inputs and Z makes all sequences sum to 1. A masked step is left out: the tags around it are neighbours.

    Given the inputs, the tags form a Markov chain. The layer returns its log-probabilities, those of each tag given the
    tag before. Everything else is computed from them:

    - `keras_seq.training.CRFLoss` is the negative log-likelihood, `keras_seq.training.CRFAccuracy` the fraction of
      tags that decoding gets right. Pass both to `compile`.
    - `keras_seq.ops.crf_decode` finds the most likely tags of each sequence. `keras_seq.ops.crf_marginals` computes the
      probability of each tag at each step, `keras_seq.ops.crf_log_likelihood` that of given tags.

    With `decode=True`, a call returns the most likely tags. A model with that output predicts tags, and shares its
    weights with the model that is trained.

    Args:
        num_tags: number of tags.
        use_kernel: whether to score the tags by `h W + b`. Without it the inputs are the scores, (batch, time, tags).
        use_bias: whether to add the bias b, if there is a kernel.
        use_boundary: whether there are scores for the first and the last tag.
        kernel_initializer: initializer of W.
        bias_initializer: initializer of b.
        transition_initializer: initializer of the transitions. With zeros the tags are independent of each other
            before training.
        boundary_initializer: initializer of start and end.
        kernel_regularizer: regularizer of W.
        transition_regularizer: regularizer of the transitions.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: (batch, time, features).
        mask: (batch, time) booleans, True = keep, in any pattern. By default the mask that `inputs` carry.
        decode: whether to return the most likely tags instead of log-probabilities.

    Returns:
        `log p(y_t = j | y_{t-1} = i)` at [t, i, j], (batch, time, tags, tags). Masked steps are zero. The sums over
        time and the results are in float32 at least, whatever the dtype policy. With `decode=True`, the tags of the
        most likely sequence (Viterbi 1967), int32 (batch, time), and 0 at masked steps.

    Raises:
        ValueError: if an argument is invalid. The message names it.

    Example:
        >>> import keras, keras_seq, numpy as np
        >>> words = keras.Input((None,), dtype="int32")
        >>> features = keras.layers.Embedding(100, 8, mask_zero=True)(words)
        >>> features = keras_seq.layers.Bidirectional(keras_seq.layers.LSTM(8, return_sequences=True))(features)
        >>> crf = CRF(5)
        >>> model = keras.Model(words, crf(features))
        >>> model.compile("adam", keras_seq.training.CRFLoss(), metrics=[keras_seq.training.CRFAccuracy()])
        >>> sentences, tags = np.array([[7, 3, 9, 4], [2, 5, 0, 0]]), np.array([[1, 4, 2, 3], [3, 1, 0, 0]])
        >>> _ = model.fit(sentences, tags, verbose=0)
        >>> tagger = keras.Model(words, crf(features, decode=True))
        >>> tagger.predict(sentences, verbose=0).shape
        (2, 4)
    """

    def __init__(
        self,
        num_tags,
        use_kernel=True,
        use_bias=True,
        use_boundary=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        transition_initializer="zeros",
        boundary_initializer="zeros",
        kernel_regularizer=None,
        transition_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_tags = check_units(num_tags, "num_tags")
        self.use_kernel, self.use_bias, self.use_boundary = use_kernel, use_bias, use_boundary
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.transition_initializer = keras.initializers.get(transition_initializer)
        self.boundary_initializer = keras.initializers.get(boundary_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.transition_regularizer = keras.regularizers.get(transition_regularizer)
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape):
        features, tags = input_shape[-1], self.num_tags
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: features})

        def add(name, shape, initializer, regularizer=None):
            return self.add_weight(shape, child_initializer(initializer, name), regularizer=regularizer, name=name)

        self.kernel = self.bias = self.start = self.end = None
        if self.use_kernel:
            self.kernel = add("kernel", (features, tags), self.kernel_initializer, self.kernel_regularizer)
            self.bias = add("bias", (tags,), self.bias_initializer) if self.use_bias else None
        elif features != tags:
            raise ValueError(
                f"`inputs` must have `num_tags` = {tags} features with `use_kernel=False`, one score for each tag. "
                f"Received: shape {tuple(input_shape)}"
            )
        self.transitions = add("transitions", (tags, tags), self.transition_initializer, self.transition_regularizer)
        if self.use_boundary:
            self.start = add("start", (tags,), self.boundary_initializer)
            self.end = add("end", (tags,), self.boundary_initializer)

    def call(self, inputs, mask=None, decode=False):
        mask = as_bool_mask(mask)
        check_step_mask(inputs, mask)
        if mask is not None:  # NaN in a masked step must not reach the gradient of the kernel
            inputs = ops.where(ops.expand_dims(mask, axis=-1), inputs, 0)
        scores = ops.matmul(inputs, self.kernel) if self.use_kernel else inputs
        if self.bias is not None:
            scores = scores + self.bias
        weights = (None if weight is None else ops.convert_to_tensor(weight) for weight in self._chain_weights())
        log_probabilities = crf_log_probabilities(scores, *weights, mask)
        return crf_decode(log_probabilities)[0] if decode else log_probabilities

    def _chain_weights(self):
        return self.transitions, self.start, self.end

    def compute_mask(self, inputs, mask=None):
        return mask

    def compute_output_spec(self, inputs, mask=None, decode=False):
        if decode:
            return keras.KerasTensor(inputs.shape[:2], dtype="int32")
        dtype = backend.result_type(self.compute_dtype, "float32")
        return keras.KerasTensor((*inputs.shape[:2], self.num_tags, self.num_tags), dtype=dtype)

    def get_config(self):
        names = ("num_tags", "use_kernel", "use_bias", "use_boundary")
        objects = {
            name: keras.initializers.serialize(getattr(self, name))
            for name in ("kernel_initializer", "bias_initializer", "transition_initializer", "boundary_initializer")
        }
        for name in ("kernel_regularizer", "transition_regularizer"):
            objects[name] = keras.regularizers.serialize(getattr(self, name))
        return {**super().get_config(), **{name: getattr(self, name) for name in names}, **objects}

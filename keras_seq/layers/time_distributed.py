# SPDX-License-Identifier: Apache-2.0
"""One layer applied to every step of a sequence, in one call."""

import inspect

import keras
from keras import ops, tree

from keras_seq._private_api import get_mask, set_mask, walk_layers


@keras.saving.register_keras_serializable("keras_seq")
class TimeDistributed(keras.layers.TimeDistributed):
    """Apply a layer to every step of a sequence.

    Arguments and results are those of `keras.layers.TimeDistributed`. The steps become part of the batch, so the layer
    is called once for all of them, and batch size and number of steps may change from call to call. So a recurrent
    layer can spell the words of a sentence: letters (batch, words, letters) go through an `Embedding` and
    `TimeDistributed(Bidirectional(LSTM(...)))` to vectors (batch, words, units), which another recurrent layer reads.

    Args:
        layer: a Keras layer or model. It must not be stateful.
        **kwargs: those of `keras.layers.Layer`.

    Call arguments:
        inputs: (batch, time, ...), or a nested structure of such tensors.
        training: whether the layer runs in training mode.
        mask: (batch, time, ...) booleans, True = keep. Without it, the mask that `inputs` carry counts. The layer gets
            it if it takes a `mask`: of shape (batch * time, ...); a mask (batch, time) holds for all steps within a
            step, as for all letters of a word.

    Returns:
        What the layer returns, with (batch, time) in the place of its batch axis. It carries the mask that the layer
        gave its output, else a mask (batch, time), where a step is kept if anything in it is.

    Raises:
        ValueError: if `layer` is not a layer or is stateful, or if shapes of `inputs` and `mask` do not fit.

    Example:
        >>> import keras, keras_seq, numpy as np
        >>> letters = np.array([[[3, 1, 0], [2, 0, 0]], [[4, 4, 1], [0, 0, 0]]])  # (batch, words, letters)
        >>> embedded = keras.layers.Embedding(5, 8, mask_zero=True)(letters)
        >>> words = TimeDistributed(keras_seq.layers.Bidirectional(keras_seq.layers.LSTM(4)))(embedded)
        >>> words.shape
        TensorShape([2, 2, 8])
    """

    def __init__(self, layer, **kwargs):
        super().__init__(layer, **kwargs)
        stateful = [inner.name for _, inner in walk_layers(layer) if getattr(inner, "stateful", False)]
        if stateful:
            raise ValueError(
                "`layer` must not be stateful: its steps run at the same time, none after another. Received: "
                f"stateful=True in {', '.join(map(repr, stateful))}"
            )

    def build(self, input_shape):
        super(keras.layers.TimeDistributed, self).build(tree.map_shape_structure(_without_time, input_shape))

    def compute_output_shape(self, input_shape):
        leading = []
        tree.map_shape_structure(lambda shape: leading.append(tuple(shape[:2])), input_shape)
        shapes = self.layer.compute_output_shape(tree.map_shape_structure(_without_time, input_shape))
        return tree.map_shape_structure(lambda shape: (*leading[0], *shape[1:]), shapes)

    def compute_output_spec(self, inputs, training=None, mask=None):
        leading = tree.flatten(inputs)[0].shape[:2]
        steps = tree.map_structure(lambda x: keras.KerasTensor(_without_time(x.shape), x.dtype), inputs)
        outputs = self.layer.compute_output_spec(steps)
        return tree.map_structure(
            lambda y: keras.KerasTensor((*leading, *y.shape[1:]), self._output_dtype(y.dtype)), outputs
        )

    def _output_dtype(self, dtype):
        """The dtype of an output of which the layer makes one of `dtype`."""
        return self.compute_dtype if keras.backend.is_float_dtype(dtype) else dtype

    def call(self, inputs, training=None, mask=None):
        leading = ops.shape(tree.flatten(inputs)[0])[:2]
        options = {}
        if "mask" in inspect.signature(self.layer.call).parameters and _any_mask(mask):
            options["mask"] = tree.map_structure(_mask_of_steps, inputs, mask)
        elif _any_mask(mask):
            tree.map_structure(_check_mask, inputs, mask)
        # Called as a layer, a model that gets a mask warns that it loses it, which it does not.
        run = self.layer.call if isinstance(self.layer, keras.Model) else self.layer
        outputs = run(tree.map_structure(_fold, inputs), **options)

        def unfold(output):
            unfolded = ops.reshape(output, (*leading, *ops.shape(output)[1:]))
            unfolded = ops.cast(unfolded, self._output_dtype(output.dtype))
            own = get_mask(output)
            if own is not None and len(own.shape) < max(len(output.shape), 2):
                set_mask(unfolded, ops.reshape(own, (*leading, *ops.shape(own)[1:])))
            return unfolded

        return tree.map_structure(unfold, outputs)

    def compute_mask(self, inputs, mask=None):
        first = next((m for m in tree.flatten(mask) if m is not None), None)
        if first is None or len(first.shape) <= 2:
            return first
        return ops.any(first, axis=tuple(range(2, len(first.shape))))


def _without_time(shape):
    """The shape of the inputs of the layer. Their batch is of any size."""
    if len(shape) < 3:
        raise ValueError(
            f"`inputs` of `TimeDistributed` must have at least 3 dimensions (batch, time, ...). Received: shape {shape}"
        )
    return (None, *shape[2:])


def _fold(x):
    """(batch, time, ...) -> (batch * time, ...)."""
    batch, time, *rest = ops.shape(x)
    return ops.reshape(x, (batch * time, *rest))


def _mask_of_steps(inputs, mask):
    """The mask of the inputs of the layer: with an axis for the steps within a step, where there are such."""
    if mask is None:
        return None
    _check_mask(inputs, mask)
    if len(mask.shape) == 2 and len(inputs.shape) > 3:
        mask = ops.broadcast_to(ops.expand_dims(mask, axis=-1), ops.shape(inputs)[:3])
    return _fold(mask)


def _check_mask(inputs, mask):
    if mask is None:
        return
    fits = len(mask.shape) >= 2 and all(
        None in (size, expected) or size == expected
        for size, expected in zip(mask.shape[:2], inputs.shape[:2], strict=True)
    )
    if not fits:
        raise ValueError(
            f"The `mask` passed to the `TimeDistributed` layer has a shape {tuple(mask.shape)}, where (batch, time) of "
            f"`inputs` was expected to come first. Received: inputs of shape {tuple(inputs.shape)}"
        )


def _any_mask(mask):
    return any(m is not None for m in tree.flatten(mask))

# SPDX-License-Identifier: Apache-2.0
"""A layer applied to every step of a sequence, in one call."""

import inspect

import keras
from keras import ops, tree

from keras_seq._private_api import get_mask, set_mask, walk_layers


@keras.saving.register_keras_serializable("keras_seq")
class TimeDistributed(keras.layers.TimeDistributed):
    """Applies a layer to every step of a sequence.

    Arguments and results are those of `keras.layers.TimeDistributed`. The layer is called once, with the steps folded
    into the batch axis. Batch size and number of steps may change from call to call.

    For example, a recurrent layer can read the words of a sentence letter by letter: an `Embedding` and
    `TimeDistributed(Bidirectional(LSTM(...)))` map letters (batch, words, letters) to vectors (batch, words, units),
    the inputs of another recurrent layer.

    Args:
        layer: a Keras layer or model. It must not be stateful.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor (batch, time, ...), or a nested structure of such tensors.
        training: whether to run in training mode.
        mask: booleans (batch, time, ...), True = keep. By default the mask attached to `inputs`. If the layer takes a
            `mask`, it receives this one as (batch * time, ...). A mask (batch, time) applies to everything within a
            step, such as all letters of a word.

    Returns:
        The results of the layer, with (batch, time) in place of the batch axis. The mask attached to them is the one
        that the layer attached to its output, or else a mask (batch, time) that keeps a step if any part of it is kept.

    Raises:
        ValueError: if `layer` is not a layer or is stateful, or if the shapes of `inputs` and `mask` do not match.

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
                "`layer` must not be stateful, because all time steps run at once. Received: stateful=True in "
                f"{', '.join(map(repr, stateful))}"
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
        """Returns the dtype of a result, given the dtype of the layer's output."""
        return self.compute_dtype if keras.backend.is_float_dtype(dtype) else dtype

    def call(self, inputs, training=None, mask=None):
        leading = ops.shape(tree.flatten(inputs)[0])[:2]
        options = {}
        if "mask" in inspect.signature(self.layer.call).parameters and _any_mask(mask):
            options["mask"] = tree.map_structure(_mask_of_steps, inputs, mask)
        elif _any_mask(mask):
            tree.map_structure(_check_mask, inputs, mask)
        # `Model.__call__` warns that a mask is lost, although it is not.
        call_layer = self.layer.call if isinstance(self.layer, keras.Model) else self.layer
        outputs = call_layer(tree.map_structure(_fold, inputs), **options)

        def unfold(output):
            unfolded = ops.reshape(output, (*leading, *ops.shape(output)[1:]))
            unfolded = ops.cast(unfolded, self._output_dtype(output.dtype))
            output_mask = get_mask(output)
            if output_mask is not None and len(output_mask.shape) < max(len(output.shape), 2):
                set_mask(unfolded, ops.reshape(output_mask, (*leading, *ops.shape(output_mask)[1:])))
            return unfolded

        return tree.map_structure(unfold, outputs)

    def compute_mask(self, inputs, mask=None):
        first = next((m for m in tree.flatten(mask) if m is not None), None)
        if first is None or len(first.shape) <= 2:
            return first
        return ops.any(first, axis=tuple(range(2, len(first.shape))))


def _without_time(shape):
    """Returns the shape of the inputs of the wrapped layer, with a batch of any size."""
    if len(shape) < 3:
        raise ValueError(
            "`inputs` of `TimeDistributed` must have shape (batch, time, ...) and at least 3 axes. "
            f"Received: shape {shape}"
        )
    return (None, *shape[2:])


def _fold(x):
    """Reshapes (batch, time, ...) to (batch * time, ...)."""
    batch, time, *rest = ops.shape(x)
    return ops.reshape(x, (batch * time, *rest))


def _mask_of_steps(inputs, mask):
    """Returns the mask for the wrapped layer, with an axis for the steps within a step if the inputs have one."""
    if mask is None:
        return None
    _check_mask(inputs, mask)
    if len(mask.shape) == 2 and len(inputs.shape) > 3:
        mask = ops.broadcast_to(ops.expand_dims(mask, axis=-1), ops.shape(inputs)[:3])
    return _fold(mask)


def _check_mask(inputs, mask):
    if mask is None:
        return
    is_compatible = len(mask.shape) >= 2 and all(
        None in (size, expected) or size == expected
        for size, expected in zip(mask.shape[:2], inputs.shape[:2], strict=True)
    )
    if not is_compatible:
        raise ValueError(  # Keras's tests expect the first words
            f"The `mask` passed to the `TimeDistributed` layer has a shape {tuple(mask.shape)}, but must begin with "
            f"the (batch, time) axes of `inputs`. Received: inputs of shape {tuple(inputs.shape)}"
        )


def _any_mask(mask):
    return any(m is not None for m in tree.flatten(mask))

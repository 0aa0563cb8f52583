# SPDX-License-Identifier: Apache-2.0
"""What the last product of a readout multiplies, for a loss that computes its logits chunk by chunk."""

import keras
from keras import ops


def readout_parts(readout, outputs):
    """Returns the last product of a readout, which is not computed yet.

    Args:
        readout: the layer that maps outputs to logits: a `keras.layers.Dense`, or a layer with a method
            `parts(outputs)` that returns what this function does.
        outputs: tensor (..., units), what the readout reads.

    Returns:
        `(features, kernel, bias)` of shapes (..., depth), (depth, vocabulary) and (vocabulary,), in the dtype in which
        the readout computes, or the bias None: the logits are `features kernel + bias`. None if the readout is a layer
        whose logits cannot be written so.
    """
    if readout.activity_regularizer is not None:  # it reads the logits
        return None
    if hasattr(readout, "parts"):
        return readout.parts(outputs)
    if type(readout) is not keras.layers.Dense or readout.quantization_mode is not None:
        return None
    if readout.activation is not keras.activations.linear:
        return None
    features, kernel = (ops.cast(x, readout.compute_dtype) for x in (outputs, readout.kernel))
    return features, kernel, None if readout.bias is None else ops.cast(readout.bias, readout.compute_dtype)

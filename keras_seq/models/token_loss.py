# SPDX-License-Identifier: Apache-2.0
"""Training and test steps that report the mean loss over tokens."""

import warnings

import keras
from keras import ops

from keras_seq._lazy_tensorflow import tf
from keras_seq.data.vocabulary import PAD_ID


class TokenLoss:
    """The part of a model of token sequences that runs a batch in training and evaluation, a mixin.

    A step minimizes the loss of its batch, a mean over its tokens. The loss of an epoch is the mean over all tokens.
    """

    @property
    def losses(self):
        """The losses of regularization, in the dtype of Keras's losses, which does not depend on that of the model."""
        return [ops.cast(loss, keras.config.floatx()) for loss in super().losses]

    def run_batch(self, x, training):
        """Returns what the loss compares with the targets of a batch."""
        return self(x, training=training)

    def train_step(self, data):
        # As in Keras, except that batches are weighted by their tokens in the reported loss.
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self.run_batch(x, training=True)
            loss = self.compute_loss(x, y, y_pred, sample_weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        self._track_loss(loss, y)
        if self.trainable_weights:
            gradients = tape.gradient(scaled_loss, self.trainable_weights)
            gradients = [_as_dense(gradient) for gradient in gradients]
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def test_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self.run_batch(x, training=False)
        self._track_loss(self.compute_loss(x, y, y_pred, sample_weight, training=False), y)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def _track_loss(self, loss, target):
        """Adds the loss of a batch to the mean of the epoch, weighted by its number of tokens."""
        tokens = ops.sum(ops.cast(ops.not_equal(target, PAD_ID), "float32"))
        # Under a distribution strategy, Keras divides the loss of each replica by the number of replicas.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        reported = next(metric for metric in self.metrics if metric.name == "loss")  # Keras's own, which `fit` shows
        reported.update_state(loss * ops.cast(replicas, loss.dtype), sample_weight=tokens)


def _as_dense(gradient):
    """Returns a gradient as a dense tensor, in which rows of embeddings are summed over the tokens that share them.

    Keras squares the rows of `tf.IndexedSlices` one by one, before they are summed. So the second moment of Adam and
    the norm of clipping would be those of other gradients wherever a token occurs twice in a batch.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, gradient.dense_shape[0])

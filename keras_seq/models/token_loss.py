# SPDX-License-Identifier: Apache-2.0
"""Training and test steps that report the mean loss over tokens."""

import functools
import inspect
import warnings

import keras
from keras import ops, tree

from keras_seq._lazy_tensorflow import tf
from keras_seq._private_api import compile_arguments, get_mask
from keras_seq.data.vocabulary import PAD_ID
from keras_seq.models.data_parallel_training import DataParallelTraining
from keras_seq.models.readout import readout_parts
from keras_seq.ops import readout_crossentropy
from keras_seq.training import MaskedCrossentropy
from keras_seq.training.data_parallel import apply_gradients, replica_share
from keras_seq.training.metrics import reads_scores
from keras_seq.training.token_scores import TokenScores


class TokenLoss(DataParallelTraining):
    """The part of a model of token sequences that runs a batch in training and evaluation, a mixin.

    A step minimizes the loss of its batch, a mean over its tokens. The loss of an epoch is the mean over all tokens.
    Under a distribution strategy, the batch is that of all replicas: each counts by what its loss is divided by, the
    number of its tokens, or of its sequences for a loss that does not exclude padding.

    With `masked_crossentropy` and metrics of keras_seq, a step never holds the logits of all tokens: the model is asked
    for what its readout reads, and `readout_crossentropy` does the rest.
    """

    readout = None  # the layer that maps what `call` returns with `return_features` to logits, if that gives the logits

    @property
    def losses(self):
        """The losses of regularization, in the dtype of Keras's losses, which does not depend on that of the model."""
        return [ops.cast(loss, keras.config.floatx()) for loss in super().losses]

    def run_batch(self, x, training, **options):
        """Returns what the loss compares with the targets of a batch.

        Args:
            x: the inputs of the batch.
            training: see `call`.
            **options: `return_features`, see `call`.
        """
        return self(x, training=training, **options)

    def train_step(self, data):
        # As in Keras, except that batches are weighted by their tokens in the reported loss.
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred, loss = self._predict(x, y, sample_weight, training=True)
            share = self._share(y, y_pred, sample_weight)
            scaled_loss = self.optimizer.scale_loss(loss * share)
        self._track_loss(loss, y, y_pred, share)
        if self.trainable_weights:
            gradients = tape.gradient(scaled_loss, self.trainable_weights)
            gradients = [_as_dense(gradient) for gradient in gradients]
            apply_gradients(self.optimizer, gradients, self.trainable_weights)
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def test_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred, loss = self._predict(x, y, sample_weight, training=False)
        share = None if self._divides_by_tokens(y_pred) else self._share(y, y_pred, sample_weight)
        self._track_loss(loss, y, y_pred, share)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def _predict(self, x, y, sample_weight, training):
        """Returns logits, or `TokenScores` if these suffice, and the loss of a batch, that of this replica."""
        if self._needs_only_scores():
            features = self.run_batch(x, training, return_features=True)
            parts = readout_parts(self.readout, features)
            if parts is not None:
                scores, loss = _score_tokens(self.loss, *parts, y, sample_weight, compute_gradient=training)
                return scores, sum(map(ops.sum, self.losses), loss)
            y_pred = self.readout(features)
        else:
            y_pred = self.run_batch(x, training)
        loss = self.compute_loss(x, y, y_pred, sample_weight, training=training)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas == 1:
            return y_pred, loss
        # Keras divides the loss of each replica by their number, except a single number that a function returns.
        loss = loss * ops.cast(replicas, loss.dtype)
        losses = self._losses_of_tokens(y, y_pred)
        if losses is not None and len(losses.shape) == 0:
            regularization = sum(ops.cast(ops.sum(extra), loss.dtype) for extra in self.losses)
            loss = (loss - regularization) / replicas + regularization
        return y_pred, loss

    def _needs_only_scores(self):
        """Whether loss and metrics are known to need no logits."""
        arguments = compile_arguments(self)
        loss, metrics = arguments["loss"], [arguments["metrics"], arguments["weighted_metrics"]]
        metrics = [metric for metric in tree.flatten(metrics) if metric is not None]
        return (
            self.readout is not None
            and "return_features" in inspect.signature(self.call).parameters
            and type(loss) is MaskedCrossentropy
            and loss.reduction == "sum_over_batch_size"
            and arguments["loss_weights"] is None
            and all(reads_scores(metric) for metric in metrics)
            # A subclass may read logits there.
            and type(self).compute_loss is keras.Model.compute_loss
            and type(self).compute_metrics is keras.Model.compute_metrics
        )

    def _share(self, target, y_pred, sample_weight):
        """Returns the factor of the loss of this replica in that of all."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas == 1:
            return 1.0
        if getattr(compile_arguments(self)["loss"], "reduction", "") in ("sum", "none", None):
            return 1 / replicas  # `_predict` multiplied by that
        return replica_share(self._divisor(target, y_pred, sample_weight))

    def _divisor(self, target, y_pred, sample_weight):
        """Returns what the loss of the batch of this replica is divided by, a scalar, up to a constant factor."""
        losses = self._losses_of_tokens(target, y_pred)
        if losses is None or len(losses.shape) == 0:
            return _count_tokens(target)
        masks = [ops.cast(mask, "float32") for mask in map(get_mask, (y_pred, losses)) if mask is not None]
        if sample_weight is not None and compile_arguments(self)["loss"].reduction == "mean_with_sample_weight":
            sample_weight = ops.cast(sample_weight, "float32")
            masks.append(sample_weight if len(sample_weight.shape) > 1 else sample_weight[:, None])
        if masks:
            return ops.sum(functools.reduce(ops.multiply, masks))
        return ops.cast(ops.shape(target)[0], "float32")  # sequences of all replicas have the same length

    def _losses_of_tokens(self, target, y_pred):
        """Returns the losses (batch, time) before they are averaged, or None if these are means over tokens.

        Only their shape and mask are read, so a graph does not compute them a second time.
        """
        loss = compile_arguments(self)["loss"]
        if self._divides_by_tokens(y_pred):
            return None
        if isinstance(loss, str):
            loss = keras.losses.get(loss)
        dtype = getattr(loss, "dtype", None) or keras.config.floatx()
        return getattr(loss, "call", loss)(ops.cast(target, dtype), y_pred)

    def _divides_by_tokens(self, y_pred):
        """Whether the loss is a mean over tokens, or taken for one because nothing else is known of it."""
        loss = compile_arguments(self)["loss"]
        if isinstance(y_pred, TokenScores) or type(self).compute_loss is not keras.Model.compute_loss:
            return True
        if isinstance(loss, MaskedCrossentropy):
            return loss.reduction in ("sum_over_batch_size", "mean")
        if isinstance(loss, keras.losses.Loss):
            return type(loss).call is keras.losses.Loss.call
        return not callable(loss) and (not isinstance(loss, str) or loss in ("crossentropy", "ce"))

    def _track_loss(self, loss, target, y_pred, share):
        """Adds the loss of a batch to the mean of the epoch, weighted by its number of tokens."""
        tokens = _count_tokens(target)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas > 1 and not self._divides_by_tokens(y_pred):
            # The loss of all replicas is the sum by their shares, which are not those of their tokens.
            tokens = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, tokens)
            loss = loss * share * replicas
        reported = next(metric for metric in self.metrics if metric.name == "loss")  # Keras's own, which `fit` shows
        reported.update_state(loss, sample_weight=tokens)


def _count_tokens(target):
    return ops.sum(ops.cast(ops.not_equal(target, PAD_ID), "float32"))


def _score_tokens(loss, features, kernel, bias, target, sample_weight, compute_gradient):
    """Returns the `TokenScores` of a batch, and what its loss, a `MaskedCrossentropy`, gives for the logits."""
    is_token = ops.not_equal(target, PAD_ID)
    weights = ops.cast(is_token, loss.dtype)
    tokens = ops.sum(weights)
    if sample_weight is not None:
        sample_weight = ops.cast(sample_weight, loss.dtype)
        weights = weights * (sample_weight if len(sample_weight.shape) > 1 else sample_weight[:, None])
    value, losses, predictions = readout_crossentropy(
        features,
        kernel,
        bias,
        ops.where(is_token, target, -1),
        weights / ops.maximum(tokens, 1),
        loss.label_smoothing,
        compute_gradient,
    )
    return TokenScores(losses, predictions), ops.cast(value, loss.dtype)


def _as_dense(gradient):
    """Returns a gradient as a dense tensor, in which rows of embeddings are summed over the tokens that share them.

    Keras squares the rows of `tf.IndexedSlices` one by one, before they are summed. So the second moment of Adam and
    the norm of clipping would be those of other gradients wherever a token occurs twice in a batch.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, gradient.dense_shape[0])

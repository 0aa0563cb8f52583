# SPDX-License-Identifier: Apache-2.0
"""Evaluation of pairs of source and target."""

from keras_seq.models.token_loss import TokenLoss
from keras_seq.training import TokenAccuracy
from keras_seq.training.losses import resolve_loss


class Evaluation(TokenLoss):
    """The part of a `GenerativeModel` that evaluates pairs of source and target with teacher forcing, a mixin.

    The model has `_pairs`, its `TrainingPairs`, and a `call` that maps `(source ids, decoder inputs)` to logits.
    """

    def compile(self, optimizer=None, loss="auto", metrics="auto", *, label_smoothing=0.0, **kwargs):
        """Configures the model for evaluation.

        Args:
            optimizer: None, or see `keras.Model.compile`.
            loss: see `keras.Model.compile`. "auto" stands for
                `keras_seq.training.masked_crossentropy(label_smoothing)`, a mean over tokens.
            metrics: see `keras.Model.compile`. "auto" stands for `keras_seq.training.TokenAccuracy()`. You can also use
                `keras_seq.training.SequenceAccuracy()` and `Perplexity()`.
            label_smoothing: see `keras_seq.training.masked_crossentropy`. Only with `loss="auto"`.
            **kwargs: `sampler`, how `generate` chooses tokens by default, and other arguments of
                `keras.Model.compile`.
        """
        loss = resolve_loss(loss, label_smoothing)
        metrics = [TokenAccuracy()] if metrics == "auto" else metrics
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def prepare(self, source, target, sample_weight=None):
        """Converts a batch of sources and targets to the inputs and targets of a training step.

        Prepared data are returned unchanged: pass `(source ids, decoder inputs)` as `source`, and the target ids.

        Args:
            source: strings (batch,) or token ids (batch, source).
            target: strings (batch,) or token ids (batch, time). Token ids of each sequence must end with 3, `[END]`.
                This is not checked: a model that never sees `[END]` does not learn to stop.
            sample_weight: weights (batch,), one per sequence; or weights (batch, time), one per token, if the targets
                are token ids; or None.

        Returns:
            `((source ids, decoder inputs), target ids)`, int32 tensors. With `sample_weight` there is a third item, the
            weights (batch, time).

        Raises:
            ValueError: if the data have another form, or if token ids are outside the vocabulary.
        """
        return self._pairs.prepare(source, target, sample_weight)

    def evaluate(self, x=None, y=None, batch_size=None, verbose="auto", sample_weight=None, **kwargs):
        """Computes the loss and metrics for pairs of source and target, with teacher forcing.

        The loss is a mean over all tokens except padding, so it does not depend on the batch size. Its exponential is
        the perplexity (`keras_seq.training.Perplexity`) if there are no regularization losses, sample
        weights and label smoothing. Sample weights multiply the losses of the tokens; the sum is divided by the number
        of tokens.

        Args:
            x: see `Seq2Seq.fit`.
            y: see `Seq2Seq.fit`.
            batch_size: see `Seq2Seq.fit`.
            verbose: see `keras.Model.evaluate`.
            sample_weight: see `Seq2Seq.fit`.
            **kwargs: other arguments of `keras.Model.evaluate`: `steps`, `callbacks`, `return_dict`.

        Returns:
            See `keras.Model.evaluate`.
        """
        x, y, sample_weight = self._pairs.data(x, y, sample_weight)
        return super().evaluate(x, y, batch_size, verbose=verbose, sample_weight=sample_weight, **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """Evaluates one batch of sources `x` and targets `y` as in `fit`. See `keras.Model.test_on_batch`."""
        return super().test_on_batch(*self._pairs.arrays(x, y, sample_weight), return_dict=return_dict)
